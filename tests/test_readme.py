"""Every example in the README and in docs/ is run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from taut import baselines, cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of every fenced block."""
    for found in re.finditer(r"^```(\w+)[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield found[1], found[2]


def commands(block: str) -> list[list[str]]:
    """The commands of a shell block as lists of words, without comments."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_shell(block: str) -> None:
    for words in commands(block):
        if words[0] == "make":
            continue  # .ci/run runs it
        assert words[0] == "taut", f"{shlex.join(words)}: only `make` and `taut` can be tried here"
        cli.main(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, in their order; the Python blocks of a page share their names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(baselines, "OBJECTIVES", {**baselines.OBJECTIVES})  # to which a page adds one
    names: dict[str, object] = {"__name__": "__main__"}
    for language, block in blocks(page.read_text(encoding="utf-8")):
        if language in ("sh", "bash", "console"):
            run_shell(block)
        elif language == "python":
            exec(compile(block, str(page), "exec"), names)


def test_the_readme_has_examples_and_names_the_two_commands() -> None:
    found = list(blocks((ROOT / "README.md").read_text(encoding="utf-8")))
    words = [words for language, block in found if language == "sh" for words in commands(block)]
    assert ["make", "demo"] in words
    assert ["make", "test"] in words
    assert any(words[:2] == ["taut", "train"] for words in words)


def test_examples_are_found_and_failures_are_not_swallowed() -> None:
    text = "text\n```sh\nmake demo  # two\ntaut plan \\\n  digits\n```\n```python\n1 / 0\n```\n```\nplain\n```\n"
    found = list(blocks(text))
    assert [language for language, _ in found] == ["sh", "python"]
    assert commands(found[0][1]) == [["make", "demo"], ["taut", "plan", "digits"]]
    with pytest.raises(AssertionError, match="only `make` and `taut`"):
        run_shell("pip install taut\n")

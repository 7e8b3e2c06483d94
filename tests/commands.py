"""Running the commands in this process."""

from __future__ import annotations

from typing import Any

import pytest

from taut import cli

Capture = pytest.CaptureFixture[str]


def taut(*arguments: Any) -> None:
    cli.main([str(argument) for argument in arguments])


def refused(capsys: Capture, *arguments: Any) -> str:
    """The one line on standard error of a command that fails, without "taut: "."""
    with pytest.raises(SystemExit) as caught:
        taut(*arguments)
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("taut: ")
    assert line.count("\n") == 1
    return line.removeprefix("taut: ").strip()

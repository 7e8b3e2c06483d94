"""Writes docs/explain/results.md from benchmarks/results/*.json, so that no figure is typed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "explain" / "results.md"
SHOWN = ("error", "ap_macro", "auroc_macro", "nll", "ece", "elbo", "ratio", "loop_ms", "bare_ms", "steps", "seconds")
PERCENT = ("error",)


def page(folder: Path = RESULTS) -> str:
    """The page as Markdown: a section for each results file, a row for each method."""
    parts = [
        "# Results",
        "Written by `python -m benchmarks.report` from `benchmarks/results/*.json`, where every draw is recorded. "
        "Figures are mean ± standard deviation over the draws; errors are in percent, NLL and ELBO in nats.",
    ]
    for path in sorted(folder.glob("*.json")):
        parts += section(json.loads(path.read_text()))
    return "\n\n".join(parts) + "\n"


def section(data: dict[str, Any]) -> list[str]:
    """The heading, what was measured and where, and the table of one results file."""
    columns = [name for name in SHOWN if any(name in row for row in data["summary"].values())]
    lines = ["| method | draws | " + " | ".join(f"{c}, %" if c in PERCENT else c for c in columns) + " |"]
    lines.append("|" + "---|" * (len(columns) + 2))
    for method, row in data["summary"].items():
        draws = max(cell["n"] for cell in row.values())
        lines.append(f"| {method} | {draws} | " + " | ".join(_cell(row.get(c)) for c in columns) + " |")
    machine = data["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    where = f"{machine['cpu']}, {machine['threads']} threads; Python {machine['python']}; {versions}"
    return [f"## {data['benchmark']}", f"{data['about']}. `{data['command']}`; {where}.", "\n".join(lines)]


def _cell(value: dict[str, float] | None) -> str:
    if value is None:
        return ""
    digits = 1 if abs(value["mean"]) >= 10 else 3
    return f"{value['mean']:.{digits}f} ± {value['std']:.{digits}f}"


if __name__ == "__main__":
    PAGE.write_text(page())

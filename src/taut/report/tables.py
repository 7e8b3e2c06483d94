"""The figures of an evaluation as text for people and as a table for programs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from taut.data.table import listed, plural

MEANS = ("error", "auroc_macro", "ap_macro", "f1_macro", "sensitivity_macro", "specificity_macro", "ece", "nll", "elbo")
SHOWN = (
    "annotated", "class", "positives", "classes", "auroc", "ap", "error", "f1", "sensitivity", "specificity",
    "threshold", "ece", "nll",
)  # fmt: skip
COMPARED = ("images", "macro_labels", "auroc_macro", "ap_macro", "error", "ece")


def evaluation_table(figures: dict[str, Any]) -> pd.DataFrame:
    """A row for each label, a column for each figure and bound of an interval; empty where undefined."""
    return pd.DataFrame.from_dict(figures["per_label"], orient="index").rename_axis("label")


def evaluation_text(figures: dict[str, Any]) -> str:
    """The means, a table of the labels, and one of the values of a column where there are any.

    95 % intervals are behind their figures, and "-" is where a figure is undefined.
    """
    lines = [f"{figures['data']}, part: {figures['split']}, {figures['images']} images"]
    if "resampled" in figures:
        lines[0] += f"; in brackets 95 % intervals over {figures['resampled']}"
    over = f"  over {figures.get('macro_labels')} label(s) with both classes"
    lines += [
        f"{name:<18} {_cell(figures, name)}{over if name.endswith('_macro') else ''}"
        for name in MEANS
        if name in figures
    ]
    if thin := figures.get("thin_labels"):
        lines.append(
            f"the intervals of macro means are too narrow: of {listed(thin)} one class is in fewer than 5 "
            f"{figures['resampled'].split()[-1]}"
        )
    lines += ["", _table(figures["per_label"], SHOWN)]
    return "\n".join([*lines, "", *_by(figures["by"])] if "by" in figures else lines)


def _by(by: dict[str, Any]) -> list[str]:
    """The lines of `taut.subgroups.figures_by`."""
    lines = [f"by {by['column']}:", _table(by["values"], COMPARED)]
    if small := [f"{value} ({count})" for value, count in by["too_small"].items()]:
        lines.append(f"too few annotated images for figures: {listed(small)}")
    ranked = {
        tuple(name for name, row in figures["per_label"].items() if row.get("auroc") is not None)
        for figures in by["values"].values()
    }
    if len(ranked) > 1:
        lines.append("these means are not over the same labels: evaluation.json has those of each (per_label)")
    if by["unknown"]:
        lines.append(f"{plural(by['unknown'], 'image has', 'images have')} no {by['column']}")
    return lines


def _table(rows: dict[str, dict[str, Any]], names: tuple[str, ...]) -> str:
    """A line for each row and a column for each figure that any of them has."""
    columns = [name for name in names if any(name in row for row in rows.values())]
    return pd.DataFrame({name: [_cell(row, name) for row in rows.values()] for name in columns}, list(rows)).to_string()


def _cell(row: dict[str, Any], name: str) -> str:
    value, low, high = row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high")
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    digits = 0 if isinstance(value, int) else 2 if name in ("error", "elbo") else 3
    interval = "" if low is None else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:.{digits}f}{interval}"

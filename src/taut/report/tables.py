"""The figures of an evaluation as text for people and as a table for programs."""

from __future__ import annotations

from typing import Any

import pandas as pd

MEANS = ("error", "auroc_macro", "ap_macro", "f1_macro", "sensitivity_macro", "specificity_macro", "ece", "nll", "elbo")
SHOWN = (
    "annotated", "positives", "classes", "auroc", "ap", "error", "f1", "sensitivity", "specificity", "threshold", "ece",
    "nll",
)  # fmt: skip


def evaluation_table(figures: dict[str, Any]) -> pd.DataFrame:
    """A row for each label, a column for each figure and bound of an interval; empty where undefined."""
    return pd.DataFrame.from_dict(figures["per_label"], orient="index").rename_axis("label")


def evaluation_text(figures: dict[str, Any]) -> str:
    """The means and a table of the labels; 95 % intervals behind their figures, "-" where a figure is undefined."""
    lines = [f"{figures['data']}, part: {figures['split']}, {figures['images']} images"]
    if "resampled" in figures:
        lines[0] += f"; in brackets 95 % intervals over {figures['resampled']}"
    over = f"  over {figures.get('macro_labels')} label(s) with both classes"
    lines += [
        f"{name:<18} {_cell(figures, name)}{over if name.endswith('_macro') else ''}"
        for name in MEANS
        if name in figures
    ]
    rows = figures["per_label"]
    columns = [name for name in SHOWN if any(name in row for row in rows.values())]
    table = pd.DataFrame({name: [_cell(row, name) for row in rows.values()] for name in columns}, index=list(rows))
    return "\n".join([*lines, "", table.to_string()])


def _cell(row: dict[str, Any], name: str) -> str:
    value, low, high = row.get(name), row.get(f"{name}_low"), row.get(f"{name}_high")
    if value is None:
        return "-"
    digits = 0 if isinstance(value, int) else 2 if name in ("error", "elbo") else 3
    interval = "" if low is None else f" ({low:.{digits}f} to {high:.{digits}f})"
    return f"{value:.{digits}f}{interval}"

"""What the columns of a table hold, and what the reader of its format takes for granted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from taut.data.dataset import DataError

PROJECTIONS = {"frontal": ("ap", "pa"), "lateral": ("ll", "rl", "lat")}
"""What tables without these words call them."""


@dataclass(frozen=True)
class Layout:
    """A table as its format's reader sees it; what is None is left to `read_labels` and its flags.

    table: with columns added (named in `added`) that the format hides in others, such as CheXpert's patients.
    path: the column of the images.  labels: the columns of labels.  yes_no: columns that are yes/no labels.
    joined: the column of joined names, which are `names`.  group: the column of patients.
    views: the columns that --view looks in.
    blank: what blank cells are taken as.  shared: how many last parts of a cell's path, folders and name, an image
    must share with it; with 1 a bare name is enough.
    patient: whose an image is that no row names, by its path, as `group` has it; None for nobody known.
    note: the sentence that tells of all this.
    """

    table: pd.DataFrame
    path: str | None = None
    labels: tuple[str, ...] | None = None
    yes_no: tuple[str, ...] = ()
    joined: str | None = None
    names: tuple[str, ...] | None = None
    group: str | None = None
    added: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    blank: str = "latent"
    shared: int = 1
    patient: Callable[[str], str | None] | None = None
    note: str | None = None


def shows(layout: Layout, view: str) -> bool:
    """Whether any row shows a view, whatever its case."""
    columns = [layout.table[name] for name in layout.views if name in layout.table.columns]
    return any(bool(_showing(column, view).any()) for column in columns)


def _showing(column: pd.Series[Any], view: str) -> pd.Series[bool]:
    """Which cells of a column of views are a view, or a projection of it."""
    name = view.casefold()
    return column.str.casefold().isin([name, *PROJECTIONS.get(name, ())])


def choose_view(layout: Layout, view: str) -> pd.Series[bool]:
    """Which rows show a view such as "frontal" (AP and PA are that, too) or "PA", whatever its case.

    Raises DataError where the format has no views, or the table not this one.
    """
    columns = [name for name in layout.views if name in layout.table.columns]
    if not columns:
        raise DataError(
            f"--view {view} is for tables of CheXpert, MIMIC-CXR and NIH with a column of views, which this one has not"
        )
    for name in columns:
        shown = _showing(layout.table[name], view)
        if shown.any():
            return shown
    there = sorted({str(value) for name in columns for value in layout.table[name].dropna().unique()})
    raise DataError(
        f"--view {view!r} is in no row of {' or '.join(map(repr, columns))}: there are {', '.join(there[:10])}"
    )

"""Names in one cell of a table: joined, as in "A|B", or a list of quoted ones, as in "['A', 'B']"."""

from __future__ import annotations

import ast
import re
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from taut.labels import LabelError

SEPARATOR, SEPARATORS = "|", (";", ",", " ")

Column: TypeAlias = "pd.Series[Any]"


def split_names(cells: Column, separator: str | None, rows: pd.Index) -> Column:
    """The names of every cell, one a row under the cell's place 0, 1, …; what says nothing is left out.

    Without a separator, cells that are all lists are read as such, and others are split at `SEPARATOR`.
    rows: of the cells, as a table counts them; LabelError names that of a list that cannot be read.
    """
    known = cells.dropna()
    if separator is None and are_lists(known):
        positions, texts = pd.factorize(known)
        first = known.index[np.unique(positions, return_index=True)[1]]
        read = [_list(text, rows[i], cells.name) for text, i in zip(texts, first, strict=True)]
        names = pd.Series([read[i] for i in positions], index=known.index, dtype=object).explode()
    else:
        names = known.str.split(separator or SEPARATOR, regex=False).explode()
    names = names.dropna().str.strip()
    return names[names != ""]


def are_lists(cells: Column) -> bool:
    """Whether all cells that are not blank are in square brackets."""
    known = cells.dropna()
    return len(known) > 0 and bool((known.str.startswith("[") & known.str.endswith("]")).all())


def _list(text: str, row: object, column: object) -> list[str]:
    try:
        values = ast.literal_eval(text)
        # Python would take strings without a comma between them, as numpy prints them, for a single one.
        if not re.search(r"(['\"])\s+\1", text) and all(isinstance(value, str) for value in values):
            return [str(value) for value in values]
    except (SyntaxError, ValueError):
        pass
    raise LabelError(f"row {row}: {text!r} in {column!r} is not a list of quoted names such as ['A', 'B']")


def other_separator(cells: Column, share: float = 1.0) -> str | None:
    """What joins the names of a column without `SEPARATOR`, or None.

    Split at it, there are fewer names than different cells, at most a share of them, and some are whole cells.
    """
    texts = cells.dropna().drop_duplicates()
    if are_lists(texts) or texts.str.contains(SEPARATOR, regex=False).any():
        return None
    for mark in SEPARATORS:
        names = texts.str.split(mark, regex=False).explode().str.strip()
        names = names[names != ""]
        fewer = names.nunique() < len(texts) and names.nunique() <= share * len(texts)
        if fewer and names.isin(texts).any():
            return mark
    return None

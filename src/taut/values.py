"""What the values of annotation arrays and tables say beside classes: nothing, or one label's classes in columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

TEXT_HOLES = ("nan", "None")  # what numpy makes of holes among text


def is_missing(column: NDArray[Any], unlabeled: object) -> NDArray[np.bool_]:
    """Which values of an array [N] are no annotation: NaN, None or `unlabeled`."""
    missing = np.zeros(len(column), dtype=bool)
    if column.dtype.kind == "f":
        missing |= np.isnan(column)
    elif column.dtype.kind == "O":
        missing |= np.array([v is None or (isinstance(v, float) and np.isnan(v)) for v in column], dtype=bool)
    if unlabeled is not None and (column.dtype.kind in "biufO" or isinstance(unlabeled, str)):
        missing |= np.asarray(column == unlabeled, dtype=bool)
    return missing


def without_text_holes(y: NDArray[Any], *holes: object) -> NDArray[Any]:
    """An array of text as one of objects with None for some texts, such as the "nan" that numpy makes of a hole.

    Anything else stays as it is.
    """
    if y.dtype.kind not in "US":
        return y
    y = y.astype(str).astype(object)
    y[np.isin(y, [str(hole) for hole in holes])] = None
    return y


def whole_numbers(texts: pd.Series[Any]) -> pd.Series[Any]:
    """Texts with "3.0" as "3": so a whole number is often written that shares its column with blanks."""
    return texts.str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)


def is_one_hot(values: NDArray[np.float64], least: int) -> bool:
    """Whether columns [N, k], NaN where nothing is known, look like one label's classes: a single 1 in each known row.

    least: so many rows must be known, since fewer may be so by chance. There are at least three columns, as two are as
    well two labels, and each row is known as a whole or not at all.
    """
    known = ~np.isnan(values)
    whole = known.all(axis=1)
    rows = values[whole]
    looks = values.shape[1] > 2 and len(rows) >= least and not known[~whole].any()
    return looks and bool(np.isin(rows, (0, 1)).all() and (rows.sum(axis=1) == 1).all())

"""Yes/no cells of 1 and −1 without 0: −1 is uncertain elsewhere, and no to those who write tables so."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taut.data.dataset import DataError
from taut.labels import Scalar

SIGNED_NO = "The yes/no labels have 1 and -1 but no 0: -1 is read as no."


def is_signed(values: NDArray[Any]) -> bool:
    """Whether cells, NaN where blank, are 1, −1 or blank alone, and both 1 and −1 are there."""
    return bool(np.isin([1, -1], values).all() and (np.isin(values, (1, -1)) | np.isnan(values)).all())


def signed(complete: bool, where: str = "") -> str:
    """What to tell of such cells; DataError where they are complete, none being blank, as all are then known.

    where: what the error begins with.
    """
    words = "the yes/no labels have 1 and -1 but no 0, and -1 is read as uncertain: write 0 where it means no"
    if complete:
        raise DataError(f"{where}{words}, or pass --uncertain negative")
    return words[0].upper() + words[1:] + "."


def read_cells(
    y: NDArray[Any], unlabeled: Scalar | None, negative: bool, known: bool, where: str
) -> tuple[NDArray[Any], list[str]]:
    """A table [N, k] of numbers with NaN where nothing is said, and what is worth telling of it.

    unlabeled: a number that means unannotated, but for −1.  negative: whether uncertain cells are to be negative, so
    that −1 is no where there is no 0.  known: whether the labels are a model's.  where, DataError: as in `signed`.
    """
    if isinstance(unlabeled, int | float) and unlabeled != -1:
        y = np.where(y == unlabeled, np.nan, y)
    if not is_signed(y):
        return y, []
    if negative:
        return np.where(y == -1, 0, y), [SIGNED_NO]
    return y, [] if known else [signed(not np.isnan(y).any(), where)]

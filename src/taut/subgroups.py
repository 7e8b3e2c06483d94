"""Figures of each value of a column of the label table, such as the view, the sex or the site of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.data.auxiliary import MOST_NUMBERS, read_auxiliary
from taut.data.dataset import DataError, Dataset
from taut.data.joined import Column
from taut.data.table import check_column
from taut.flags import DataFlags
from taut.sources import label_table, layout_of
from taut.values import whole_numbers

LEAST = 20  # annotated images, below which figures of a value say little


@dataclass(frozen=True)
class Values:
    """The images of each value of a column that has enough of them, as positions [n]; and how many all others have.

    too_small: how many images each value with fewer than `LEAST` annotated ones has.  unknown: those without a value.
    """

    column: str
    images: dict[str, NDArray[np.intp]]
    too_small: dict[str, int]
    unknown: int


def table_column(source: DataFlags, name: str) -> Column:
    """A column of the label table that flags name, by its rows; DataError where there is no table or no such column."""
    path = label_table(source)
    if path is None:
        raise DataError(f"--by {name} is for a column of a label table, which {source.data} has not")
    table = layout_of(source, path)[0].table
    try:
        check_column(table, name, "--by")
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return whole_numbers(table[name])


def images_by(column: Column, dataset: Dataset) -> Values:
    """The images of a dataset by what a column of its table says of them; more than ten numbers are put into quarters.

    Where the row of an image says nothing, another row of it counts. Raises DataError where no value has enough images.
    """
    assert dataset.lines is not None
    others = pd.Series(dataset.repeats, dtype=np.int64)
    said = column.fillna(column.reindex(others.index).groupby(others.to_numpy()).first())
    cells = said.reindex(dataset.lines).reset_index(drop=True)
    numbers = pd.to_numeric(cells, errors="coerce")
    numeric = bool(numbers.notna().eq(cells.notna()).all())
    if numeric and numbers.nunique() > MOST_NUMBERS:
        quarters = read_auxiliary({str(column.name): cells.to_numpy()}, "--by")
        shares = quarters.annotation.targets.T == 1
        found = {
            str(value): np.flatnonzero(share)
            for value, share in zip(quarters.space.labels[0].classes, shares, strict=True)
        }
    else:
        found = {str(value): np.asarray(rows) for value, rows in cells.groupby(cells).indices.items()}
        found = {value: found[value] for value in sorted(found, key=float if numeric else str)}
    annotated = np.asarray(dataset.annotation.observed.any(axis=1))
    images = {value: rows for value, rows in found.items() if annotated[rows].sum() >= LEAST}
    if not images:
        raise DataError(f"--by {column.name}: no value has the {LEAST} annotated images that figures of it need")
    small = {value: int(annotated[rows].sum()) for value, rows in found.items() if value not in images}
    return Values(str(column.name), images, small, len(dataset) - sum(map(len, found.values())))


def figures_by(values: Values, figures: Callable[[NDArray[np.intp]], dict[str, Any]]) -> dict[str, Any]:
    """The figures of the images of each value, and the numbers of images that have none; figures: those of rows [n]."""
    return {
        "column": values.column,
        "values": {value: figures(rows) for value, rows in values.images.items()},
        "too_small": values.too_small,
        "unknown": values.unknown,
    }

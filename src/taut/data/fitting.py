"""What is asked of inputs: their shape, features in the order of a model, and rows that a test does not share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taut.data.dataset import DataError, Dataset
from taut.data.table import listed


def check_shape(dataset: Dataset, shape: Sequence[int]) -> None:
    """Refuse inputs of another shape than the model takes (DataError)."""
    if tuple(dataset.x.shape[1:]) != tuple(shape):
        raise DataError(
            f"{dataset.name} has inputs of shape {list(dataset.x.shape[1:])}, but the model takes {list(shape)}"
        )


def in_order(dataset: Dataset, columns: Sequence[str]) -> Dataset:
    """The features that a model takes in its order, by their names, where both have names; others are left out.

    Raises DataError where some are not there.
    """
    if not columns or not dataset.feature_names or dataset.feature_names == list(columns):
        return dataset
    place = {name: j for j, name in enumerate(dataset.feature_names)}
    missing = [name for name in columns if name not in place]
    if missing:
        raise DataError(f"{dataset.name} lacks features that the model takes: {listed(missing, 5)}")
    x = np.ascontiguousarray(dataset.x[:, [place[name] for name in columns]])
    return dataclasses.replace(dataset, x=x, feature_names=list(columns))


def check_rows(dataset: Dataset, other: Dataset, test: str, labels: Path) -> None:
    """Refuse inputs to test on that a row of the same table annotates as well as one to train on (DataError)."""
    both = np.intersect1d(_annotated_rows(dataset), _annotated_rows(other))
    if len(both):
        first, second = (data.ids[int(np.argmax(np.asarray(data.lines) == both[0]))] for data in (dataset, other))
        raise DataError(
            f"row {both[0]} of {labels} would annotate {first!r} of {dataset.name} and {second!r} of --test {test}: "
            "give the latter a table or names of its own, or leave out --test, and then taut evaluate RUN --data … "
            "--labels …"
        )


def _annotated_rows(dataset: Dataset) -> NDArray[np.int64]:
    """The rows of its table that annotate images of a dataset."""
    if dataset.lines is None:
        return np.zeros(0, dtype=np.int64)
    return dataset.lines[(dataset.lines > 0) & dataset.annotation.observed.any(axis=1)]

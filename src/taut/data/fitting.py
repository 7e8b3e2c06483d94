"""What is asked of inputs: their shape, features in the order of a model, and ids that a test does not share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

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


def check_ids(dataset: Dataset, other: Dataset, test: str, labels: Path) -> None:
    """Refuse inputs to test on that a row of the same table annotates as well as one to train on (DataError)."""
    both = sorted(set(dataset.ids) & set(other.ids))
    if both:
        raise DataError(
            f"--test {test} and {dataset.name} both have an input {both[0]!r}, so that the same row of {labels} would "
            "annotate both: give them ids of their own, or leave out --test, and afterwards taut evaluate RUN --data … "
            "--labels …"
        )

"""What a model asks of inputs: their shape, and its features in its order."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

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

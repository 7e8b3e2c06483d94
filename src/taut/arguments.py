"""What people pass to `TautClassifier`, as what it takes: frames, masked arrays, lists, random states."""

from __future__ import annotations

from numbers import Integral
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from taut.labels import LabelSpace
from taut.values import without_text_holes


def label_names(y: Any) -> list[str] | None:
    """The label names in the columns of a data frame, or none."""
    return [str(name) for name in y.columns] if hasattr(y, "columns") else None


def by_name(y: Any, space: LabelSpace | None) -> Any:
    """A data frame with a column for each label in the order of the labels; anything else as it is."""
    columns = list(y.columns) if hasattr(y, "columns") else []
    same = space is not None and len(columns) == len(space) and set(columns) == set(space.names)
    return y[list(space.names)] if space is not None and same else y


def unmasked(values: Any) -> Any:
    """A masked array as one of objects with None where it is masked; anything else as it is."""
    hidden = values.mask if isinstance(values, np.ma.MaskedArray) else False  # pandas' arrays have another
    return np.where(hidden, None, values.data.astype(object)) if np.any(hidden) else values


def as_array(X: ArrayLike) -> NDArray[Any]:
    """X as an array; ValueError for paths in the place of images, and for images of several sizes."""
    if isinstance(X, list | tuple) and X:
        if isinstance(X[0], str | PathLike):
            raise ValueError(f"X is a list of names such as {str(X[0])!r}: read the files first, or use `taut train`")
        sizes = {np.shape(image) for image in X} if hasattr(X[0], "__array_interface__") else set()
        if len(sizes) > 1:
            shown = " and ".join(str(size) for size in sorted(sizes, key=str)[:2])
            raise ValueError(f"X has images of several shapes, such as {shown}: resize them to one")
    return np.asarray(X)


def group_names(groups: Any) -> NDArray[Any]:
    """Groups as an array [N], in which each that is missing is a group of its own."""
    groups = unmasked(groups)
    if isinstance(groups, np.ndarray):
        groups = without_text_holes(groups, "nan")
    values = np.array([*groups, None], dtype=object)[:-1]  # numpy would make text of None among names
    missing = pd.isna(values)
    if not missing.any():
        return np.asarray(groups)
    return np.where(missing, [f"X:{row}" for row in range(len(values))], values.astype(str))


def seed_of(random_state: Any) -> int:
    """A seed from an integer, or from a RandomState (numpy's global one for None)."""
    state = check_random_state(random_state)
    return int(random_state) if isinstance(random_state, Integral) else int(state.randint(2**31 - 1))

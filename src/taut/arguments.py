"""What people pass to `TautClassifier`, as what it takes: frames, masked arrays, lists, random states."""

from __future__ import annotations

from numbers import Integral
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import column_or_1d

from taut.data.array_labels import uncertain_cells
from taut.data.dataset import DataError
from taut.labels import LabelError, LabelSpace, Scalar
from taut.values import TEXT_HOLES, without_text_holes


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


def as_annotations(y: Any, unlabeled: Scalar | None, space: LabelSpace | None) -> NDArray[Any]:
    """Annotations as an array [N] or [N, k], NaN or None where masked arrays and pandas have holes of their own.

    space: where it is given, text is what it says, and a column stays one.  Raises LabelError.
    """
    if hasattr(y, "toarray"):
        raise LabelError("y is a sparse matrix: pass y.toarray(), with NaN where a cell is not annotated")
    if isinstance(y, list | tuple) and y and all(isinstance(value, set | frozenset) for value in y):
        raise LabelError("y is a list of sets: scikit-learn's MultiLabelBinarizer makes a table [N, k] of them")
    y = unmasked(y)
    if isinstance(y, list | tuple) and len({isinstance(value, str) for value in y}) > 1:
        y = np.array([*y, None], dtype=object)[:-1]  # numpy would make text of a −1 or NaN among names
    array = np.asarray(y)
    text, listed = array.dtype.kind in "US" or _holds_text(y), isinstance(y, list | tuple)
    if array.dtype == object:
        array = array.copy()
        array[pd.isna(array)] = None
        if space is None:
            array[array == ""] = None
    if space is None:
        array = without_text_holes(array, "", *(() if listed else TEXT_HOLES))  # "" is no class
    if text and array.dtype == object and not listed:
        array[np.isin(array.astype(str), TEXT_HOLES)] = None
    if text and not isinstance(unlabeled, str) and str(unlabeled) in array:
        raise LabelError(f"y is text with {str(unlabeled)!r} in it: make it a list or of dtype object")
    if array.ndim == 2 and array.dtype == object and not any(isinstance(value, str) for value in array.flat):
        array = array.astype(np.float64)
    if array.ndim == 2 and array.shape[1] == 1 and space is None:
        array = column_or_1d(array, warn=True)
    return array


def _holds_text(y: Any) -> bool:
    """Whether a column of pandas has nothing but texts and holes, whatever its dtype."""
    column = isinstance(y, pd.Series | pd.api.extensions.ExtensionArray)
    return column and pd.api.types.infer_dtype(y, skipna=True) == "string"


def certain_of(known: NDArray[Any], space: LabelSpace | None) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Annotations with NaN for the uncertain cells, −1 of yes/no labels; and these, [N, k], or None without any.

    Raises DataError for one label, of which −1 is no annotation.
    """
    if known.ndim == 1 or known.shape[1] == 1:
        raise DataError("uncertain is for a table of several labels: of one label -1 is no annotation")
    doubtful = uncertain_cells(known)
    if space is not None and doubtful.shape[1] == len(space):
        doubtful &= np.array([label.classes == (0, 1) for label in space])
    return (np.where(doubtful, np.nan, known), doubtful) if doubtful.any() else (known, None)


def hole_notes(y: Any, unlabeled: Scalar | None) -> list[str]:
    """The sentence on texts of an array, other than `unlabeled`, that are taken as holes, but are classes in a list."""
    if not (_holds_text(y) or (isinstance(y, np.ndarray) and y.dtype.kind in "US")):
        return []
    texts = np.asarray(y).astype(str)[~pd.isna(np.asarray(y))]
    found = [hole for hole in TEXT_HOLES if hole != unlabeled and (texts == hole).any()]
    if not found:
        return []
    count, what = int(np.isin(texts, found).sum()), " or ".join(repr(hole) for hole in found)
    return [f"{count:,} texts of y say {what}, which numpy makes of a hole: not annotated (a list has it as a class)."]


def group_names(groups: Any) -> NDArray[Any]:
    """Groups as an array [N], in which each that is missing is a group of its own."""
    groups = unmasked(groups)
    if isinstance(groups, np.ndarray):
        groups = without_text_holes(groups, "nan")
    values = np.array([*groups, None], dtype=object)[:-1]  # numpy would make text of None among names
    missing = pd.isna(values)
    if not missing.any():
        # Numbers among text, as spreadsheets have them, could not be sorted.
        return values.astype(str) if np.asarray(groups).dtype == object else np.asarray(groups)
    return np.where(missing, [f"X:{row}" for row in range(len(values))], values.astype(str))


def seed_of(random_state: Any) -> int:
    """A seed from an integer, or from a RandomState (numpy's global one for None)."""
    state = check_random_state(random_state)
    return int(random_state) if isinstance(random_state, Integral) else int(state.randint(2**31 - 1))

"""Annotations of an .npz file by the names beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from taut.data.naming import classes_in_order
from taut.labels import LabelError, LabelSpace, Scalar
from taut.values import TEXT_HOLES, without_text_holes


def named_annotations(
    y: NDArray[Any],
    space: LabelSpace | None,
    unlabeled: Scalar | None,
    labels: list[str] | None,
    classes: list[str] | None,
) -> tuple[NDArray[Any], Scalar | None, LabelSpace]:
    """Annotations by the names in their file: one label's classes by name, columns in the space's order.

    labels, classes: its `label_names` and `class_names`.  Returns the annotations, what among them means unannotated,
    and their label space.  Raises LabelError.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    named_by = "class_names"
    if classes is None and y.ndim == 1 and y.dtype.kind in "iuf" and labels is not None and len(labels) > 1:
        named_by, classes = "label_names", labels
    if y.ndim == 2:
        if space is not None and labels is not None and len(labels) == y.shape[1]:
            absent = [name for name in space.names if name not in labels]
            if absent:
                raise LabelError(f"no label {', '.join(map(repr, absent))} among its label_names {labels}")
            return y[:, [labels.index(name) for name in space.names]], None, space
        return y, None, space or LabelSpace.infer(np.where(uncertain_cells(y), np.nan, y), None, labels or classes)
    y = without_text_holes(y, "", *TEXT_HOLES, unlabeled)
    holes = np.isnan(y) if y.dtype.kind == "f" else np.zeros(len(y), dtype=bool)
    if y.dtype.kind == "f" and (holes | (np.isfinite(y) & (y == np.round(y)))).all():
        y = np.where(holes, 0, y).astype(np.int64)  # NaN has made floats of the numbers of classes
    if classes is not None and unlabeled in classes:
        unlabeled = classes.index(str(unlabeled))
    named = space is None or isinstance(space.labels[0].classes[0], str)
    if y.dtype.kind in "iu" and classes is not None and named:
        missing = holes if unlabeled is None else holes | (y == unlabeled)
        wrong = ~missing & ((y < 0) | (y >= len(classes)))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise LabelError(f"row {row}: 'y' is {y[row]}, but there are {len(classes)} {named_by}")
        values = np.array([*classes, None], dtype=object)[np.where(missing, len(classes), y)]
        return values, None, space or LabelSpace.multiclass([c for i, c in enumerate(classes) if i != unlabeled])
    if y.dtype.kind == "i" and holes.any():
        y = y.astype(object)
        y[holes] = None
    names = labels if labels is not None and len(labels) == 1 else None
    return y, unlabeled, space or _in_order(LabelSpace.infer(y, unlabeled, names))


def _in_order(space: LabelSpace) -> LabelSpace:
    """An only label's classes that are text, as those of folders and tables are ordered."""
    label = space.labels[0]
    if not all(isinstance(value, str) for value in label.classes):
        return space
    return LabelSpace.multiclass(classes_in_order([str(value) for value in label.classes]), label.name)


def uncertain_cells(y: NDArray[Any]) -> NDArray[np.bool_]:
    """The cells −1 of a table [N, k] of numbers; none of another array."""
    return np.asarray(y == -1) if y.ndim == 2 and y.dtype.kind in "if" else np.zeros(y.shape, dtype=bool)

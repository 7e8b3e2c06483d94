"""Which images are annotated, which cells, and which side of a split: seeded, stratified, safe for groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedShuffleSplit

from taut.data.dataset import DataError, Dataset
from taut.labels import Annotation


def draw_per_class(dataset: Dataset, count: int, seed: int) -> Annotation:
    """The annotations of `count` images of every class of one c-way label; all others are hidden.

    Raises DataError where a class has fewer annotated images, or there is more than one label.
    """
    if len(dataset.space) != 1:
        raise DataError("--labels-per-class is for one label; with several labels use --labelled-fraction")
    if count < 1:
        raise DataError(f"--labels-per-class {count} is not a positive number")
    rng = np.random.default_rng(seed)
    kept = np.zeros(len(dataset), dtype=bool)
    known = dataset.annotation.observed[:, 0]
    classes = np.where(known, np.nan_to_num(dataset.annotation.targets).argmax(axis=1), -1)
    for c, value in enumerate(dataset.space.labels[0].classes):
        members = np.flatnonzero(classes == c)
        if len(members) < count:
            raise DataError(f"--labels-per-class {count}: class {value!r} has {len(members)} annotated images")
        kept[rng.permutation(members)[:count]] = True
    return hide(dataset.annotation, kept[:, None], dataset.space.sizes)


def draw_fraction(dataset: Dataset, fraction: float, seed: int, cells: bool = False) -> Annotation:
    """The annotations of a fraction of the images (stratified for one label; whole groups where there are groups).

    cells: hide single cells at random instead of whole images. Every label keeps at least one observed cell.
    """
    if not 0 <= fraction <= 1:
        raise DataError(f"--labelled-fraction {fraction:g} is not between 0 and 1")
    rng = np.random.default_rng(seed)
    annotation = dataset.annotation
    if cells:
        kept = rng.random(annotation.observed.shape) < fraction
    else:
        kept = np.zeros((len(dataset), 1), dtype=bool)
        kept[_choose(dataset, fraction, rng)] = True
    hidden = hide(annotation, kept, dataset.space.sizes)
    if fraction > 0:
        lost = annotation.observed.any(axis=0) & ~hidden.observed.any(axis=0)
        for j in np.flatnonzero(lost):
            row = rng.choice(np.flatnonzero(annotation.observed[:, j]))
            kept = np.broadcast_to(kept, annotation.observed.shape).copy()
            kept[row, j] = True
        hidden = hide(annotation, kept, dataset.space.sizes)
    return hidden


def hide(annotation: Annotation, kept: NDArray[np.bool_], sizes: Sequence[int]) -> Annotation:
    """The annotation with only the cells of a mask [N, k] or [N, 1] left: targets of all others are NaN.

    Cells that are ignored stay so: that they take no part is not an annotation.
    """
    observed = annotation.observed & kept
    seen = np.repeat(observed, sizes, axis=1)
    return replace(
        annotation, targets=np.where(seen, annotation.targets, np.nan).astype(np.float32), observed=observed
    )


def _choose(dataset: Dataset, fraction: float, rng: np.random.Generator) -> NDArray[np.intp]:
    """Rows of a fraction of the images, stratified by the class of one label, or of the groups."""
    state = int(rng.integers(2**31))
    index = np.arange(len(dataset))
    if fraction in (0, 1):
        return index if fraction else index[:0]
    if dataset.groups is not None:
        return _first(GroupShuffleSplit(1, train_size=fraction, random_state=state), dataset, None)
    known = dataset.annotation.observed[:, 0]
    if len(dataset.space) == 1 and known.all():
        classes = dataset.annotation.targets.argmax(axis=1)
        counts = np.bincount(classes)
        enough = counts[counts > 0].min() >= 2 and (counts > 0).sum() <= fraction * len(index)
        if enough and (counts > 0).sum() <= (1 - fraction) * len(index):
            return _first(StratifiedShuffleSplit(1, train_size=fraction, random_state=state), dataset, classes)
    return _first(ShuffleSplit(1, train_size=fraction, random_state=state), dataset, None)


def _first(splitter: Any, dataset: Dataset, classes: NDArray[Any] | None) -> NDArray[np.intp]:
    try:
        chosen, _ = next(splitter.split(np.arange(len(dataset)), classes, dataset.groups))
    except ValueError as error:
        many = f"{len(np.unique(dataset.groups))} groups" if dataset.groups is not None else f"{len(dataset)} images"
        raise DataError(
            f"{dataset.name}: a fraction of {splitter.train_size:g} of {many} leaves one side empty"
        ) from error
    return np.asarray(chosen)


def split_off(dataset: Dataset, fraction: float, seed: int) -> NDArray[np.bool_]:
    """A mask [N] of a fraction of the images for the other side of a split: no group is on both sides."""
    away = np.zeros(len(dataset), dtype=bool)
    away[_choose(dataset, fraction, np.random.default_rng(seed))] = True
    return away


def check_groups(train: Dataset, test: Dataset) -> None:
    """Refuse groups (patients) that are in both datasets: DataError naming some of them."""
    if train.groups is None or test.groups is None:
        return
    both = sorted({str(g) for g in train.groups} & {str(g) for g in test.groups})
    if both:
        raise DataError(f"{len(both)} groups are in both the training and the test part, such as {', '.join(both[:5])}")

"""Which images are annotated, which cells, and which side of a split: seeded, stratified, safe for groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit, ShuffleSplit, StratifiedShuffleSplit

from taut.data.dataset import SPLITS, DataError, Dataset
from taut.data.leakage import units
from taut.labels import Annotation


def draw_per_class(dataset: Dataset, count: int, seed: int) -> Annotation:
    """The annotations of `count` images of every class of one c-way label; all others are hidden.

    A class that no annotated image has stays without any. Raises DataError where one has fewer annotated images, or
    there is more than one label.
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
        if 0 < len(members) < count:
            raise DataError(f"--labels-per-class {count}: class {value!r} has {len(members)} annotated images")
        kept[rng.permutation(members)[:count]] = True
    return hide(dataset.annotation, kept[:, None], dataset.space.sizes)


def draw_fraction(dataset: Dataset, fraction: float, seed: int, cells: bool = False) -> Annotation:
    """The annotations of a fraction of the images (stratified for one label; whole groups where there are groups).

    cells: hide single cells at random instead of whole images. Every label keeps at least one observed cell.
    """
    if not 0 <= fraction <= 1:
        raise DataError(f"--labelled-{'cells' if cells else 'fraction'} {fraction:g} is not between 0 and 1")
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
    return replace(annotation, targets=np.where(seen, annotation.targets, np.nan).astype(np.float32), observed=observed)


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
        classes = np.where(counts[classes] < 2, counts.argmax(), classes)  # an only image cannot be on both sides
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
    """A mask [N] of a fraction of the images for the other side of a split.

    Stratified by the classes of all labels. Images of one group, and images of the same pixels, stay together, and the
    only images of a class stay here. Raises DataError where a side would be empty.
    """
    unit = units(dataset)
    away = _stratified(dataset, unit, (fraction, 1 - fraction), np.random.default_rng(seed)) == 0
    has = np.repeat(dataset.annotation.observed, dataset.space.sizes, axis=1) & (dataset.annotation.targets > 0)
    lost = has.any(axis=0) & ~has[~away].any(axis=0)
    away &= ~np.isin(unit, unit[has[:, lost].any(axis=1)])
    if away.all() or not away.any():
        raise DataError(
            f"{dataset.name}: a fraction of {fraction:g} of {len(dataset)} images in {int(unit.max()) + 1} groups "
            "leaves one side empty"
        )
    return np.asarray(away)


def fold_count(dataset: Dataset, wanted: int) -> int:
    """How many folds the annotated images can be dealt into: at most those that are wanted, and 0 for fewer than 2."""
    annotated = np.flatnonzero(dataset.annotation.observed.any(axis=1))
    if wanted == 0 or len(annotated) == 0:
        return 0
    possible = min(wanted, int(units(dataset.rows(annotated)).max()) + 1)
    return possible if possible > 1 else 0


def deal_folds(dataset: Dataset, folds: int, seed: int) -> NDArray[np.intp]:
    """The fold of every annotated image, and −1 of all others: [N]; none is empty where `fold_count` allows them.

    Stratified by the classes of all labels (Sechidis 2011); images of one group, and images of the same pixels, stay
    together.
    """
    parts = np.full(len(dataset), -1)
    annotated = np.flatnonzero(dataset.annotation.observed.any(axis=1))
    known = dataset.rows(annotated)
    dealt = _stratified(known, units(known), [1 / folds] * folds, np.random.default_rng(seed))
    parts[annotated] = dealt
    return parts


def parse_fractions(text: str) -> tuple[float, float, float]:
    """The shares of train, valid and test from "0.7,0.1,0.2"; DataError where they are not three of sum 1."""
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6 or shares[0] == 0:
        raise DataError(f"{text!r} is not three shares of train, valid and test with the sum 1, such as 0.7,0.1,0.2")
    return shares


def split_by(dataset: Dataset, shares: Sequence[float], seed: int = 0) -> Dataset:
    """The dataset with a split of its own into train, valid and test by their shares of the annotated images.

    Stratified by the classes of all labels (Sechidis 2011); images of one group, and images of the same pixels, stay
    together. Images that nothing is said of are for training unless they must stay with others.
    Raises DataError where there is a split already, or where a part that has a share would be empty.
    """
    if dataset.split is not None:
        raise DataError(f"{dataset.name} has a split already: leave out --split-fractions")
    unit = units(dataset)
    parts = _stratified(dataset, unit, shares, np.random.default_rng(seed))
    said = dataset.annotation.observed.any(axis=1)
    if said.any():
        spoken = np.zeros(unit.max() + 1, dtype=bool)
        spoken[unit[said]] = True
        parts = np.where(spoken[unit], parts, 0)
    split = np.array(SPLITS)[parts]
    empty = [name for name, share in zip(SPLITS, shares, strict=True) if share > 0 and not (split == name).any()]
    if empty:
        count = f"{unit.max() + 1} patients or images that must stay together"
        raise DataError(f"{dataset.name}: with shares {listed_shares(shares)} of {count} the {empty[0]} part is empty")
    return replace(dataset, split=split)


def listed_shares(shares: Sequence[float]) -> str:
    """Shares as a flag has them."""
    return ",".join(f"{share:g}" for share in shares)


def _stratified(
    dataset: Dataset, unit: NDArray[np.intp], shares: Sequence[float], rng: np.random.Generator
) -> NDArray[np.intp]:
    """The part of every image [N]: units are dealt out so that each class of each label has its share in every part."""
    seen = np.repeat(dataset.annotation.observed, dataset.space.sizes, axis=1)
    counts = np.zeros((int(unit.max()) + 1, dataset.space.width))
    np.add.at(counts, unit, np.where(seen, dataset.annotation.targets, 0))
    return stratify(counts, np.bincount(unit), shares, rng)[unit]


def stratify(
    counts: NDArray[np.float64], sizes: NDArray[np.int64], shares: Sequence[float], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011, algorithm 1) of units that stay whole: [U] parts.

    counts: [U, L] how much evidence of each class a unit has.  sizes: [U] its images.  shares: of each part, sum 1.
    The class with the least evidence left is dealt out first, its largest units first, each to the part that lacks
    most of it, then of images. A unit that no part lacks as a whole goes to the part with the greatest share of its
    images still to come: else the remainders of many small classes would all be those of the largest part.
    """
    wanted = np.outer(shares, counts.sum(axis=0))
    room = np.asarray(shares, dtype=np.float64) * sizes.sum()
    parts = np.full(len(counts), -1)
    order = rng.permutation(len(counts))
    order = order[np.argsort(-sizes[order], kind="stable")]
    possible = np.flatnonzero(np.asarray(shares) > 0)

    def deal(u: int, lacking: NDArray[np.float64], evidence: float) -> None:
        most = lacking[possible].max()
        if most >= evidence - 1e-9:
            best, need = possible[lacking[possible] >= most - 1e-9], room
        else:
            best, need = possible[lacking[possible] >= min(most, 1e-9)], room / np.maximum(shares, 1e-9)
        best = best[need[best] >= need[best].max() - 1e-9]
        best = best[room[best] >= room[best].max() - 1e-9]
        part = int(best[0] if len(best) == 1 else rng.choice(best))
        parts[u] = part
        wanted[part] -= counts[u]
        left[:] -= counts[u]
        room[part] -= sizes[u]

    left = counts.sum(axis=0)
    while (left > 1e-9).any():
        rarest = int(np.where(left > 1e-9, left, np.inf).argmin())
        for u in order[(parts[order] < 0) & (counts[order, rarest] > 0)]:
            deal(int(u), wanted[:, rarest], float(counts[u, rarest]))
        left[rarest] = 0.0  # whatever rounding leaves of soft annotations
    for u in order[parts[order] < 0]:
        deal(int(u), room, 0.0)
    return parts

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from conftest import Array
from taut.data.dataset import DataError, Dataset
from taut.data.embedded import digits
from taut.data.split import draw_fraction, draw_per_class, hide, parse_fractions, split_by, split_off, stratify
from taut.labels import Annotation, LabelSpace
from tiny import made, vectors

NAN = float("nan")


def make(y: Any, space: LabelSpace, groups: Any = None) -> Dataset:
    n = len(y)
    return Dataset(
        "made",
        np.zeros((n, 2), dtype=np.float32),
        space,
        space.encode(y),
        [str(i) for i in range(n)],
        None if groups is None else np.asarray(groups),
    )


def classes(n: int = 120, groups: Any = None) -> Dataset:
    """Three classes in the proportions 3 : 2 : 1."""
    return make(np.resize([0, 0, 0, 1, 1, 2], n), LabelSpace.multiclass(3), groups)


def findings(n: int = 60, groups: Any = None) -> Dataset:
    """Two yes/no labels with some cells missing from the start."""
    rng = np.random.default_rng(3)
    y = (rng.random((n, 2)) < 0.3).astype(float)
    y[::7, 1] = NAN
    return make(y, LabelSpace.multilabel(2), groups)


def only_hides(annotation: Annotation, dataset: Dataset) -> None:
    """What is kept is as it was, and what is hidden is NaN."""
    before = dataset.annotation
    assert not (annotation.observed & ~before.observed).any()
    seen = np.repeat(annotation.observed, dataset.space.sizes, axis=1)
    np.testing.assert_array_equal(annotation.targets, np.where(seen, before.targets, NAN))


# --- per class ----------------------------------------------------------------------------------------------


def test_a_class_that_no_image_has_is_left_out_of_a_draw() -> None:
    data = vectors(np.arange(20) % 2, LabelSpace.multiclass([0, 1, 2]))
    assert draw_per_class(data, 3, 0).observed.sum() == 6


@pytest.mark.parametrize("count", [1, 4, 20])
def test_the_same_number_of_every_class(count: int) -> None:
    dataset = classes()
    annotation = draw_per_class(dataset, count, seed=0)
    only_hides(annotation, dataset)
    assert np.nansum(annotation.targets, axis=0).tolist() == [count] * 3


def test_unannotated_images_are_not_drawn() -> None:
    dataset = make([0, -1, 1, -1, 0, 1], LabelSpace.multiclass(2))
    annotation = draw_per_class(dataset, 2, seed=0)
    assert annotation.observed[:, 0].tolist() == [True, False, True, False, True, True]


def test_draws_follow_the_seed_and_differ_between_seeds() -> None:
    dataset, many = classes(), findings()
    draws: list[Any] = [
        lambda seed: draw_per_class(dataset, 5, seed).observed,
        lambda seed: draw_fraction(dataset, 0.2, seed).observed,
        lambda seed: draw_fraction(many, 0.3, seed, cells=True).observed,
        lambda seed: draw_fraction(classes(groups=np.arange(120) // 4), 0.2, seed).observed,
        lambda seed: split_off(dataset, 0.2, seed),
    ]
    for draw in draws:
        np.testing.assert_array_equal(draw(1), draw(1))
        assert any((draw(1) != draw(seed)).any() for seed in (2, 3))


def test_per_class_errors() -> None:
    with pytest.raises(DataError, match="--labels-per-class 21: class 2 has 20 annotated images"):
        draw_per_class(classes(), 21, seed=0)
    with pytest.raises(DataError, match="use --labelled-fraction"):
        draw_per_class(findings(), 1, seed=0)


# --- a fraction ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5])
def test_a_fraction_of_one_label_is_stratified(fraction: float) -> None:
    dataset = classes()
    annotation = draw_fraction(dataset, fraction, seed=0)
    only_hides(annotation, dataset)
    assert np.nansum(annotation.targets, axis=0).tolist() == [60 * fraction, 40 * fraction, 20 * fraction]


def test_a_class_of_one_image_leaves_the_others_stratified() -> None:
    dataset = classes()
    y = dataset.annotation.targets.argmax(axis=1)
    only = made(dataset.x, np.where(np.arange(len(y)) == 0, 3, y), LabelSpace.multiclass(4))
    counts = np.nansum(only.annotation.targets, axis=0)
    for seed in range(5):
        kept = np.nansum(draw_fraction(only, 0.25, seed=seed).targets, axis=0)
        np.testing.assert_allclose(kept[:3], 0.25 * counts[:3], atol=1.01)


def test_a_fraction_of_images_keeps_or_hides_whole_rows() -> None:
    dataset = findings()
    annotation = draw_fraction(dataset, 0.4, seed=0)
    only_hides(annotation, dataset)
    kept = annotation.observed.any(axis=1)
    assert kept.sum() == 24
    np.testing.assert_array_equal(annotation.observed[kept], dataset.annotation.observed[kept])


def test_all_and_nothing() -> None:
    for dataset in (classes(), findings(), classes(groups=np.arange(120) // 4)):
        everything = draw_fraction(dataset, 1.0, seed=0)
        np.testing.assert_array_equal(everything.observed, dataset.annotation.observed)
        assert not draw_fraction(dataset, 0.0, seed=0).observed.any()
        assert not draw_fraction(dataset, 0.0, seed=0, cells=True).observed.any()


def test_a_fraction_of_cells() -> None:
    dataset = findings(4000)
    annotation = draw_fraction(dataset, 0.3, seed=0, cells=True)
    only_hides(annotation, dataset)
    share = annotation.observed.sum(axis=0) / dataset.annotation.observed.sum(axis=0)
    np.testing.assert_allclose(share, 0.3, atol=0.03)
    both = annotation.observed.all(axis=1).sum() / dataset.annotation.observed.all(axis=1).sum()
    assert both == pytest.approx(0.09, abs=0.02)


@pytest.mark.parametrize("cells", [True, False])
def test_every_label_keeps_an_observed_cell(cells: bool) -> None:
    y = np.full((50, 3), NAN)
    y[:, 0] = np.arange(50) % 2
    y[7, 1] = 1
    dataset = make(y, LabelSpace.multilabel(3))
    for seed in range(5):
        annotation = draw_fraction(dataset, 0.04, seed, cells=cells)
        only_hides(annotation, dataset)
        assert annotation.observed.any(axis=0).tolist() == [True, True, False]


def test_rare_classes_do_not_stop_a_draw() -> None:
    y = np.zeros(40, dtype=int)
    y[5] = 1
    annotation = draw_fraction(make(y, LabelSpace.multiclass(2)), 0.25, seed=0)
    assert annotation.observed.sum() == 10


@pytest.mark.parametrize("fraction", [-0.1, 1.5, NAN])
def test_a_fraction_is_between_zero_and_one(fraction: float) -> None:
    with pytest.raises(DataError, match=r"--labelled-cells 5 is not between 0 and 1"):
        draw_fraction(classes(), 5, seed=0, cells=True)
    with pytest.raises(DataError, match=r"--labelled-fraction .* is not between 0 and 1"):
        draw_fraction(classes(), fraction, seed=0)


def test_hiding_leaves_the_original_alone() -> None:
    dataset = findings()
    before = dataset.annotation.targets.copy()
    hidden = hide(dataset.annotation, np.zeros((60, 1), dtype=bool), dataset.space.sizes)
    assert np.isnan(hidden.targets).all()
    np.testing.assert_array_equal(dataset.annotation.targets, before)


# --- groups -------------------------------------------------------------------------------------------------


def sides(groups: Array, mask: Array) -> tuple[set[Any], set[Any]]:
    return set(groups[mask].tolist()), set(groups[~mask].tolist())


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.9])
def test_groups_are_never_on_both_sides(fraction: float) -> None:
    groups = np.array([f"patient {i}" for i in np.random.default_rng(0).integers(0, 25, 120)])
    for dataset in (classes(groups=groups), findings(120, groups)):
        for seed in range(5):
            inside, outside = sides(groups, split_off(dataset, fraction, seed))
            assert inside
            assert outside
            assert not inside & outside
            annotated: Array = np.asarray(draw_fraction(dataset, fraction, seed).observed.any(axis=1))
            inside = set(groups[annotated].tolist())
            # A cell given back to a label that lost all of its own would be an exception; none is here.
            unannotated: Array = ~np.asarray(dataset.annotation.observed.any(axis=1))
            assert not inside & set(groups[~annotated & ~unannotated].tolist())


def test_split_off_is_stratified() -> None:
    dataset = classes()
    away = split_off(dataset, 0.2, seed=0)
    counts = np.nansum(dataset.annotation.targets[away], axis=0)
    assert counts.tolist() == [12, 8, 4]
    assert (split_off(digits().part("train"), 0.1, 0).mean()) == pytest.approx(0.1, abs=0.005)


def test_what_is_split_off_leaves_no_class_behind() -> None:
    """Classes of 3 images among 100, and a single image of one: all are still there to learn from."""
    y = np.concatenate([np.repeat(np.arange(100), 3), [100]])
    dataset = make(y, LabelSpace.multiclass(101))
    for seed in range(10):
        away = split_off(dataset, 0.1, seed)
        assert 20 <= away.sum() <= 32
        assert set(y[~away]) == set(range(101))
    alone = make(np.eye(4), LabelSpace.multilabel(4))
    with pytest.raises(DataError, match=r"a fraction of 0\.1 of 4 images in 4 groups leaves one side empty"):
        split_off(alone, 0.1, 0)


def test_copies_are_split_off_together() -> None:
    x = np.random.default_rng(0).integers(0, 256, (60, 1, 4, 4), dtype=np.uint8)
    dataset = dataclasses.replace(classes(), x=np.concatenate([x, x]))
    away = split_off(dataset, 0.2, 0)
    np.testing.assert_array_equal(away[:60], away[60:])
    assert away.mean() == pytest.approx(0.2, abs=0.05)


def test_the_remainders_of_small_classes_are_shared() -> None:
    """No part lacks a whole image of a class: each class loses one to some part, and no part goes without."""
    counts = np.kron(np.eye(100), np.ones((3, 1)))
    for shares in ((0.7, 0.1, 0.2), (0.9, 0.1, 0.0)):
        parts = stratify(counts, np.ones(300, dtype=np.int64), shares, np.random.default_rng(0))
        np.testing.assert_allclose(np.bincount(parts, minlength=3) / 300, shares, atol=0.02)
        table = np.stack([counts[parts == part].sum(axis=0) for part in range(3)])
        assert np.abs(table - np.array(shares)[:, None] * 3).max() < 1
    patients = stratify(np.full((4, 1), 75.0), np.full(4, 75), (0.1, 0.9), np.random.default_rng(0))
    assert sorted(patients) == [0, 1, 1, 1]


# --- train, valid and test ----------------------------------------------------------------------------------


def shares_of(dataset: Dataset) -> Array:
    """The share of each class's observed cells in each part: [3, W]."""
    assert dataset.split is not None
    seen = np.nan_to_num(dataset.annotation.targets)
    counts = np.stack([seen[dataset.split == part].sum(axis=0) for part in ("train", "valid", "test")])
    return np.asarray(counts / counts.sum(axis=0))


def many(n: int = 6000, patients: int = 1500, seed: int = 0) -> Dataset:
    """Patients with one to many images and findings of their own, the rarest in 2 % of the images; cells missing."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, patients, n) % rng.integers(1, patients, n)
    ill = rng.random((patients, 4)) < [0.5, 0.2, 0.08, 0.02]
    y = np.where(rng.random((n, 4)) < 0.8, ill[groups], rng.random((n, 4)) < [0.5, 0.2, 0.08, 0.02]).astype(float)
    y[rng.random((n, 4)) < 0.3] = NAN
    return make(y, LabelSpace.multilabel(4), groups)


def test_parts_are_stratified_over_all_labels_with_patients_kept_whole() -> None:
    dataset = many()
    shares = (0.7, 0.1, 0.2)
    ours = split_by(dataset, shares)
    assert ours.split is not None
    assert ours.groups is not None
    for group in np.unique(ours.groups):
        assert len(set(ours.split[ours.groups == group])) == 1
    off = np.abs(shares_of(ours) - np.array(shares)[:, None]).max()
    rng = np.random.default_rng(1)
    at_random = []
    for _ in range(5):
        parts = rng.choice(["train", "valid", "test"], 1500, p=shares)[ours.groups]
        at_random.append(np.abs(shares_of(dataclasses.replace(dataset, split=parts)) - np.array(shares)[:, None]).max())
    assert off < 0.03
    assert off < 0.5 * np.median(at_random)
    np.testing.assert_array_equal(ours.split, split_by(dataset, shares).split)
    assert (split_by(dataset, shares, seed=1).split != ours.split).any()


def test_stratification_is_exact_where_it_can_be() -> None:
    """Units of one image: every class in its share (Sechidis 2011, algorithm 1)."""
    counts = np.kron(np.eye(4), np.ones((20, 1)))
    parts = stratify(counts, np.ones(80, dtype=np.int64), (0.5, 0.25, 0.25), np.random.default_rng(0))
    table = np.stack([counts[parts == part].sum(axis=0) for part in range(3)])
    np.testing.assert_array_equal(table, [[10] * 4, [5] * 4, [5] * 4])
    # Without any evidence there are sizes alone.
    parts = stratify(np.zeros((10, 2)), np.array([5, 1, 1, 1, 1, 1, 1, 1, 1, 1]), (0.5, 0.5), np.random.default_rng(0))
    assert sorted(np.bincount(parts, weights=[5, 1, 1, 1, 1, 1, 1, 1, 1, 1])) == [7, 7]
    assert set(stratify(np.ones((6, 1)), np.ones(6, dtype=np.int64), (1, 0), np.random.default_rng(0))) == {0}


def test_the_same_pixels_are_on_one_side() -> None:
    x = np.random.default_rng(0).integers(0, 256, (40, 1, 4, 4), dtype=np.uint8)
    x[20:] = x[:20]
    y = (np.arange(40)[:, None] % [2, 3] == 0).astype(float)
    dataset = dataclasses.replace(make(y, LabelSpace.multilabel(2)), x=x)
    split = split_by(dataset, (0.6, 0.2, 0.2)).split
    assert split is not None
    np.testing.assert_array_equal(split[20:], split[:20])


def test_images_that_nothing_is_said_of_are_for_training() -> None:
    dataset = many(1500, patients=60)
    y = np.where(np.arange(1500)[:, None] % 5, NAN, 1.0) * np.array([1, 1, 0, 0])
    loose = dataclasses.replace(make(y, LabelSpace.multilabel(4)), split=None)
    split = split_by(loose, (0.5, 0, 0.5)).split
    assert split is not None
    assert set(split[np.arange(1500) % 5 > 0]) == {"train"}
    assert (split[::5] == "test").sum() == 150
    assert not (split == "valid").any()
    kept = split_by(dataclasses.replace(loose, groups=dataset.groups), (0.5, 0, 0.5))
    assert kept.split is not None
    assert kept.groups is not None
    assert all(len(set(kept.split[kept.groups == group])) == 1 for group in np.unique(kept.groups))
    # Clusters: there is nothing but images.
    bare = split_by(make(np.full((20, 2), NAN), LabelSpace.multilabel(2)), (0.5, 0.25, 0.25)).split
    assert bare is not None
    assert [int((bare == part).sum()) for part in ("train", "valid", "test")] == [10, 5, 5]


def test_splits_that_cannot_be() -> None:
    with pytest.raises(
        DataError, match=r"with shares 0\.7,0\.1,0\.2 of 2 patients or images .* the valid part is empty"
    ):
        split_by(classes(6, groups=[1, 1, 1, 2, 2, 2]), (0.7, 0.1, 0.2))
    with pytest.raises(DataError, match="made has a split already: leave out --split-fractions"):
        split_by(dataclasses.replace(classes(6), split=np.repeat("train", 6)), (0.5, 0.25, 0.25))
    for wrong in ("0.7,0.3", "0.7,0.2,0.2", "a,b,c", "0,0.5,0.5", "1.5,-0.5,0"):
        with pytest.raises(DataError, match=r"is not three shares .* such as 0\.7,0\.1,0\.2"):
            parse_fractions(wrong)
    assert parse_fractions("0.7, 0.1, 0.2") == (0.7, 0.1, 0.2)


def test_what_is_held_out_of_several_labels_is_stratified() -> None:
    dataset = many()
    away = split_off(dataset, 0.1, seed=0)
    seen = np.nan_to_num(dataset.annotation.targets)
    np.testing.assert_allclose(seen[away].sum(axis=0) / seen.sum(axis=0), 0.1, atol=0.03)


def test_rows_one_after_the_other_are_not_copied() -> None:
    """Large inputs are memory maps, which a copy would bring into memory."""
    dataset = classes()
    for index in (np.ones(120, dtype=bool), np.arange(20, 90)):
        part = dataset.rows(index)
        np.testing.assert_array_equal(part.ids, np.array(dataset.ids)[index])
        assert np.shares_memory(part.x, dataset.x)
    picked = dataset.rows(np.array([3, 5, 4]))
    assert picked.ids == ["3", "5", "4"]
    assert not np.shares_memory(picked.x, dataset.x)

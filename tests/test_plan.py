from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from taut.data.cells import UNCERTAIN, CellPolicy
from taut.data.dataset import DataError, Dataset
from taut.data.embedded import digit_grid, digits
from taut.data.split import hide
from taut.facts import fingerprint
from taut.fit import plan_for, plan_of
from taut.labels import Label, LabelSpace
from taut.plan import ObjectivePlan, Plan, override
from taut.rules import FOLDS, IMAGE_FOLDS, advice, describe, fast_bf16, make_plan
from tiny import NAN, ONE, SEVERAL, cells, images, made, some_known, strokes, vectors


def planned(data: Dataset) -> Plan:
    return make_plan(fingerprint(data))


def of_side(side: int, channels: int = 1) -> Dataset:
    x = np.random.default_rng(0).integers(0, 256, (30, channels, side, side), dtype=np.uint8)
    return made(x, some_known(30, 9), ONE)


# --- facts --------------------------------------------------------------------------------------------------


def test_the_facts_of_images_with_one_label() -> None:
    y = np.array([0, 2, 2, 1, -1, -1])
    facts = fingerprint(images(y, channels=3))
    assert (facts.images, facts.shape, facts.labels, facts.classes) == (6, (3, 8, 8), 1, (3,))
    assert (facts.annotated_images, facts.fully_annotated_images, facts.annotated_cells) == (4, 4, (4,))
    assert facts.positives == (2,)
    assert facts.is_image
    assert not facts.grey
    x = images(y, channels=3).x / 255
    np.testing.assert_allclose(facts.mean, x.mean((0, 2, 3)))
    np.testing.assert_allclose(facts.std, x.std((0, 2, 3)))


def test_images_are_grey_by_their_pixels() -> None:
    data = images(np.array([0, 1] * 50), channels=3)
    grey = np.repeat(data.x[:, :1], 3, axis=1)
    assert fingerprint(dataclasses.replace(data, x=grey)).grey
    grey[7] = data.x[7]  # a mark in colour on one of a hundred
    assert fingerprint(dataclasses.replace(data, x=grey)).grey
    grey[:5] = data.x[:5]
    assert not fingerprint(dataclasses.replace(data, x=grey)).grey


def test_the_facts_of_a_partly_annotated_table() -> None:
    y = np.array([[1, 0, NAN], [1, NAN, NAN], [NAN, NAN, NAN], [0, 1, 1]])
    facts = fingerprint(vectors(y, LabelSpace.multilabel(3)))
    assert (facts.annotated_images, facts.fully_annotated_images) == (3, 1)
    assert facts.annotated_cells == (3, 2, 1)
    assert facts.positives == (2, 1, 1)
    assert not facts.is_image


@pytest.mark.parametrize(("hidden", "source"), [(0.4, "none"), (0.6, "teacher")])
def test_nothing_is_estimated_where_most_cells_of_images_are_known(hidden: float, source: str) -> None:
    rng = np.random.default_rng(0)
    y = np.where(rng.random((200, 2)) < hidden, np.nan, rng.integers(0, 2, (200, 2)))
    objective = planned(strokes(y)).objective
    assert objective.source == source
    assert (objective.mutual_information > 0) == (source == "teacher")
    assert planned(vectors(y, SEVERAL)).objective.source == "teacher"


def test_nothing_is_estimated_of_several_labels_of_scans() -> None:
    few = cells(200, 0.2)
    for data, source in (
        (images(few, SEVERAL), "none"),
        (strokes(few), "teacher"),
        (images(few, SEVERAL, channels=3), "none"),
        (images(some_known(200, 20)), "teacher"),
        (vectors(few, SEVERAL), "teacher"),
    ):
        objective = planned(data).objective
        assert objective.source == source
        assert (objective.mutual_information > 0) == (source == "teacher")


def test_where_nothing_is_estimated_the_decoder_takes_little_time() -> None:
    def share_and_rows(data: Dataset) -> tuple[float, int]:
        plan = plan_for(fingerprint(data))
        return plan.objective.share, plan.train.batch_unlabelled

    whole = cells(200, 1.0)
    whole[40:] = NAN
    assert share_and_rows(images(whole, SEVERAL)) == (0.1, 8)
    whole[40:195] = 1.0
    assert share_and_rows(images(whole[:195], SEVERAL)) == (0.1, 0)  # nothing is missing
    assert share_and_rows(images(cells(200, 0.2), SEVERAL))[0] == 0.1
    for data in (strokes(cells(200, 0.2)), images(some_known(200, 20)), vectors(cells(200, 0.2), SEVERAL)):
        assert share_and_rows(data)[0] == 0.25


def test_hidden_targets_are_no_facts() -> None:
    data = vectors(cells(), SEVERAL)
    filled = dataclasses.replace(
        data, annotation=dataclasses.replace(data.annotation, targets=np.nan_to_num(data.annotation.targets, nan=9.0))
    )
    assert fingerprint(filled) == fingerprint(data)


def test_the_statistics_of_the_same_inputs_need_not_be_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (vectors(cells(), SEVERAL), images(cells(), SEVERAL)):
        said = np.nan_to_num(data.annotation.targets[:, 1::2], nan=UNCERTAIN).astype(int)
        data = dataclasses.replace(data, cells=said, policy=CellPolicy())
        rest = np.ones((len(data), 2), dtype=bool)
        rest[:20] = False
        hidden = dataclasses.replace(data, annotation=hide(data.annotation, rest, data.space.sizes))
        whole, want = fingerprint(data), fingerprint(hidden)
        assert want != whole
        with monkeypatch.context() as patched:
            patched.setattr("taut.facts._of_inputs", lambda _: pytest.fail("computed again"))
            assert fingerprint(hidden, whole) == want


def test_a_constant_input_has_a_scale_of_one_and_a_constant_feature_none() -> None:
    assert fingerprint(made(np.full((4, 1, 8, 8), 7, np.uint8), [0, 1, 2, -1], ONE)).std == (1.0,)
    x = np.zeros((4, 3), np.float32)
    x[:, 1] = [1, -1, 1, -1]
    facts = fingerprint(made(x, [0, 1, 2, -1], ONE))
    assert facts.std == (0.0, 1.0, 0.0)
    assert facts.typical_length == pytest.approx(1)


def test_a_constant_channel_is_no_contrast() -> None:
    dim = np.random.default_rng(0).integers(0, 20, (50, 2, 8, 8), dtype=np.uint8)
    three = np.concatenate([dim, np.zeros_like(dim[:, :1])], axis=1)
    plain, flat = (fingerprint(made(x, np.arange(50) % 3, ONE)) for x in (dim, three))
    assert flat.std[2] == 1.0
    assert flat.varying == list(plain.std)
    assert flat.typical_length == pytest.approx(plain.typical_length)  # a constant channel adds nothing to a distance
    assert make_plan(flat).augment.brightness == make_plan(plain).augment.brightness < 0.03


def test_the_mean_of_q_is_drawn_to_rare_classes_with_more_weight_where_inputs_are_vectors() -> None:
    two = LabelSpace.multiclass(2)

    def weight(counts: tuple[int, int], space: LabelSpace = two, **parts: Any) -> float:
        y = np.repeat([0, 1, -1], [*counts, 200])
        return planned(dataclasses.replace(vectors(y, space), **parts)).objective.marginal

    assert weight((50, 50)) == 2
    assert weight((50, 40)) == pytest.approx(2, abs=0.1)
    assert weight((95, 5)) == weight((5, 95)) == pytest.approx(8 - 6 * 0.3228, abs=0.01)  # 6/102 has 0.3228 bits
    assert weight((95, 5)) < weight((98, 2)) < weight((998, 2)) < 8
    assert weight((50, 50), prevalence={"1": 0.05}) == pytest.approx(8 - 6 * 0.2864, abs=0.01)
    three = -sum(n / 103 * math.log(n / 103) for n in (96, 6, 1)) / math.log(3)
    assert weight((95, 5), ONE) == pytest.approx(8 - 6 * three, abs=0.01)
    assert planned(vectors(np.repeat([0, 1, 2, -1], [7, 7, 7, 40]))).objective.marginal == 2
    assert weight((50, 50), ONE, prevalence={"2": 0.5}) == pytest.approx(
        8 - 6 * 1.0397 / 1.0986, abs=0.01
    )  # 1/4, 1/4, 1/2
    assert planned(vectors(np.repeat([-1], 300), two)).objective.marginal == 2
    assert planned(images(np.repeat([0, 1, -1], [95, 5, 200]), two)).objective.marginal == 2


def test_a_large_dataset_is_sampled_over_its_length() -> None:
    x = np.repeat(np.float32([0, 1]), 10_000)[:, None]
    facts = fingerprint(made(x, np.full(20_000, -1), ONE))
    assert facts.images == 20_000
    assert facts.mean == pytest.approx((0.5,), abs=0.01)


def test_how_far_neighbours_are_sets_the_noise_of_vectors() -> None:
    rng = np.random.default_rng(0)
    plane, wide = rng.random((2000, 2)), rng.normal(size=(300, 400))
    near, far = (fingerprint(made(x.astype(np.float32), some_known(len(x)), ONE)) for x in (plane, wide))
    distance, _ = NearestNeighbors(n_neighbors=2).fit(plane / plane.std(axis=0)).kneighbors()
    assert near.spacing == pytest.approx(np.median(distance[:, 0]) / math.sqrt(2), rel=0.15)
    assert far.spacing > 1
    assert make_plan(near).augment.noise == pytest.approx(near.spacing, abs=1e-4)
    assert make_plan(far).augment.noise == 0.5
    assert (make_plan(near).objective.adversary > 0, make_plan(far).objective.adversary) == (True, 0)
    # Repeated rows and constant columns are no neighbours and no features.
    twice = np.concatenate([np.repeat(plane, 2, axis=0), np.ones((4000, 1))], axis=1).astype(np.float32)
    assert fingerprint(made(twice, some_known(4000), ONE)).spacing == pytest.approx(near.spacing, rel=0.15)
    alike = fingerprint(made(np.ones((30, 3), np.float32), some_known(30), ONE))
    assert (alike.spacing, make_plan(alike).augment.noise) == (0, 0.5)
    assert fingerprint(images(some_known())).spacing == 0


def test_a_rare_column_of_many_vectors_is_seen() -> None:
    x = np.zeros((20_000, 2), dtype=np.float32)
    x[7, 0] = 1e4
    x[:, 1] = np.arange(20_000)
    facts = fingerprint(made(x, np.arange(20_000) % 3, ONE))
    assert facts.mean == pytest.approx(x.mean(axis=0, dtype=np.float64))
    assert facts.std == pytest.approx(x.std(axis=0, dtype=np.float64))


# --- decisions ----------------------------------------------------------------------------------------------


def test_everything_annotated_leaves_nothing_to_estimate() -> None:
    plan = planned(images(some_known(60, 60)))
    assert (plan.objective.source, plan.objective.mutual_information) == ("none", 0)
    assert (plan.train.batch_labelled, plan.train.batch_unlabelled) == (60, 0)


def test_a_handful_without_annotation_gets_no_part_of_the_batches() -> None:
    plan = planned(images(some_known(60, 59)))
    assert plan == planned(images(some_known(60, 60)))
    assert planned(images(some_known(60, 57))).train.batch_unlabelled == 3


@pytest.mark.parametrize(
    ("annotated", "rows"),
    [(3000, (96, 224)), (6000, (192, 128)), (8000, (256, 64)), (9700, (310, 10))],
)
def test_a_batch_has_its_share_of_annotated_images_and_none_of_them_five_times(
    annotated: int, rows: tuple[int, int]
) -> None:
    facts = dataclasses.replace(
        fingerprint(images(some_known())), images=10_000, annotated_images=annotated, fully_annotated_images=annotated
    )
    train = make_plan(facts).train
    assert (train.batch_labelled, train.batch_unlabelled) == rows
    few = dataclasses.replace(facts, images=60, annotated_images=57, fully_annotated_images=57)
    assert (make_plan(few).train.batch_labelled, make_plan(few).train.batch_unlabelled) == (64, 3)


def test_what_is_annotated_is_passed_over_several_times() -> None:
    facts = fingerprint(images(some_known(60, 60)))
    for annotated, labelled in ((60_000, 128), (200, 64)):
        many = dataclasses.replace(facts, images=60_000, annotated_images=annotated, fully_annotated_images=annotated)
        train = make_plan(many).train
        assert (train.batch_labelled, train.steps) == (labelled, 4688 if annotated == 60_000 else 1500)
    # Of one label thirty times, while that is not more than 600,000 images.
    for annotated, labelled, steps in ((4000, 64, 1875), (20_000, 107, 5608), (40_000, 213, 2817)):
        some = dataclasses.replace(facts, images=60_000, annotated_images=annotated, fully_annotated_images=annotated)
        train = make_plan(some).train
        assert (train.batch_labelled, train.batch_unlabelled, train.steps) == (labelled, 320 - labelled, steps)
    few = dataclasses.replace(facts, images=4999, annotated_images=4999, fully_annotated_images=4999)
    assert make_plan(few).train.steps == 1172
    vector = fingerprint(vectors(some_known(60, 60)))
    every = dataclasses.replace(vector, images=50_000, annotated_images=50_000, fully_annotated_images=50_000)
    assert make_plan(every).train.steps == 3907
    cell = dataclasses.replace(fingerprint(images(cells(400, 0.5), SEVERAL)), images=200_000, annotated_images=200_000)
    assert make_plan(cell).train.steps == 15_625


def test_dim_images_vary_less() -> None:
    noise = np.random.default_rng(1).normal(size=(50, 1, 16, 16))
    bright, dim = (np.clip(m + s * noise, 0, 255).astype(np.uint8) for m, s in ((128, 50), (12, 4)))
    assert planned(made(bright, np.arange(50) % 3, ONE)).augment.brightness == 0.15
    assert 0 < planned(made(dim, np.arange(50) % 3, ONE)).augment.brightness < 0.03
    assert planned(made(dim, np.arange(50) % 3, ONE)).augment.contrast == 0.3


def test_few_annotated_images_are_drawn_more_often_than_they_are() -> None:
    plan = planned(images(some_known(600, 12)))
    assert plan.objective.source == "teacher"
    assert plan.train.batch_labelled / plan.train.batch_unlabelled > 12 / 588
    assert plan.train.batch_labelled > 0
    assert plan.train.valid_fraction == 0


def test_nothing_annotated_leaves_the_labelled_part_empty() -> None:
    plan = planned(images(np.full(60, -1)))
    assert plan.train.batch_labelled == 0
    assert 0 < plan.train.batch_unlabelled <= 60


def test_a_partly_annotated_table_is_drawn_as_it_is() -> None:
    plan = planned(images(cells(400, 0.5), SEVERAL))
    drawn = plan.train.batch_labelled / (plan.train.batch_labelled + plan.train.batch_unlabelled)
    assert drawn == pytest.approx(0.25, abs=0.15)


def test_tables_with_holes_get_large_batches_where_they_are_seen_often() -> None:
    facts = dataclasses.replace(fingerprint(images(cells(400, 0.5), SEVERAL)), fully_annotated_images=0)
    for count, rows, steps in ((400, 128, 1500), (1600, 320, 600), (200_000, 128, 15_625)):
        # A few images without any annotation change nothing.
        for known in (count, count * 95 // 100):
            train = make_plan(dataclasses.replace(facts, images=count, annotated_images=known)).train
            assert (train.batch_labelled, train.batch_unlabelled) == (0, rows)
            assert train.steps == (steps if known == count else max(1500 * 128 // rows, math.ceil(10 * known / rows)))
    full = make_plan(dataclasses.replace(facts, images=1600, annotated_images=1600, annotated_cells=(1440, 1440))).train
    assert (full.batch_labelled, full.batch_unlabelled) == (0, 142)  # nine tenths of the cells of so many as 128 have
    most = make_plan(dataclasses.replace(facts, images=1600, annotated_images=1400)).train
    assert (most.batch_labelled, most.batch_unlabelled, most.unannotated, most.steps) == (0, 144, 0.111, 3000)


def test_partly_annotated_images_are_drawn_more_often_than_those_without_any_annotation() -> None:
    facts = dataclasses.replace(
        fingerprint(images(cells(400, 0.5), SEVERAL)), images=4000, annotated_images=400, fully_annotated_images=100
    )
    train = make_plan(facts).train
    assert (train.batch_labelled, train.batch_unlabelled) == (32, 96 + 16)
    assert train.unannotated == pytest.approx(16 / 112, abs=1e-3)
    few = make_plan(dataclasses.replace(facts, images=20, annotated_images=12, fully_annotated_images=0)).train
    assert (few.batch_labelled, few.batch_unlabelled) == (0, 16 + 8)
    # What is annotated is seen ten times, whether it is complete or not.
    for complete in (0, 500):
        large = dataclasses.replace(facts, images=100_000, annotated_images=50_000, fully_annotated_images=complete)
        assert make_plan(large).train.steps == math.ceil(10 * 50_000 / 128)
    # One partly annotated image among complete ones is no table with holes.
    one = make_plan(dataclasses.replace(facts, fully_annotated_images=399)).train
    assert (one.batch_labelled, one.batch_unlabelled, one.unannotated) == (64, 16, None)
    alone = plan_for(facts, objective="supervised").train
    assert (alone.batch_unlabelled, alone.unannotated) == (112, 0.0)
    assert plan_for(dataclasses.replace(facts, auxiliary=1), objective="supervised").train.unannotated > 0.2


def test_many_annotated_images_can_spare_some_for_calibration() -> None:
    assert planned(vectors(some_known(1200, 1000))).train.valid_fraction > 0
    assert planned(vectors(some_known(1200, 999))).train.valid_fraction == 0
    # Of images folds would take minutes: a tenth is held out as soon as it is enough for a temperature.
    assert planned(images(some_known(600, 300))).train.valid_fraction > 0
    assert planned(images(some_known(600, 299))).train.valid_fraction == 0


def test_of_many_classes_none_loses_half_of_its_annotations() -> None:
    space, y = LabelSpace.multiclass(100), np.arange(2000) % 100
    for each, share in ((9, 0), (10, 0.1)):
        known = np.where(np.arange(2000) < 100 * each, y, -1)
        assert planned(images(known, space)).train.valid_fraction == share
        assert planned(vectors(known, space)).train.valid_fraction == share
        assert planned(vectors(known, space)).train.folds == (0 if each == 10 else FOLDS)


def test_sparse_tables_keep_what_could_not_calibrate() -> None:
    y = np.full((1200, 12), NAN)
    y[np.arange(1200), np.arange(1200) % 12] = np.arange(1200) // 12 % 2  # 100 cells of each label
    space = LabelSpace.multilabel([f"label {j}" for j in range(12)])
    for data, folds in ((vectors(y, space), FOLDS), (images(y, space), IMAGE_FOLDS)):
        plan = planned(data)
        assert (plan.train.folds, plan.train.valid_fraction) == (folds, 0)
    # A network that is read for hours has no folds; enough cells of all labels are there to look at.
    deep = make_plan(fingerprint(images(y, space)), encoder="resnet-18").train
    assert (deep.folds, deep.valid_fraction) == (0, 0.1)


def test_long_images_are_turned_less() -> None:
    square, long = (
        planned(of_side(32, 1)).augment,
        make_plan(dataclasses.replace(fingerprint(of_side(32, 1)), shape=(1, 8, 64))).augment,
    )
    assert square.rotation > 0 < square.shear
    assert long.rotation == pytest.approx(10 / 8)
    assert long.shear == pytest.approx(0.1 / 8, abs=1e-4)


def test_vectors_of_which_few_are_annotated_are_calibrated_on_folds() -> None:
    def folds(data: Dataset) -> tuple[int, float]:
        plan = planned(data)
        return plan.train.folds, plan.train.valid_fraction

    assert folds(vectors(some_known(1200, 29))) == (0, 0)  # no label would get a temperature
    assert folds(vectors(some_known(1200, 30))) == (FOLDS, 0)
    assert folds(vectors(some_known(1200, 999))) == (FOLDS, 0)
    assert folds(vectors(some_known(1200, 1000))) == (0, 0.1)
    assert folds(images(some_known(1200, 29))) == (0, 0)
    assert folds(images(some_known(1200, 299))) == (IMAGE_FOLDS, 0)
    known = some_known(1200, 299)
    kinds = (strokes(known, ONE), 0), (images(known), IMAGE_FOLDS), (images(known, channels=3), IMAGE_FOLDS)
    for data, expected in kinds:  # of many photographs and scans a network is too sure, of many strokes it is not
        many = dataclasses.replace(fingerprint(data), images=5000)
        assert make_plan(many).train.folds == expected
    once = images(np.where(np.arange(1200) < 40, np.arange(1200) % 40, -1), LabelSpace.multiclass(40))
    assert folds(once) == (0, 0)  # no class is left where its only annotation is hidden
    split = np.full((60, 2), NAN)
    split[:29, 0] = split[29:58, 1] = 1
    assert folds(vectors(split, SEVERAL)) == (0, 0)
    assert folds(images(split, SEVERAL)) == (0, 0)
    split[29, 0] = 1
    assert folds(images(split, SEVERAL)) == (IMAGE_FOLDS, 0)  # rare findings need thresholds


def test_folds_and_a_share_to_hold_out_replace_each_other() -> None:
    few, many = planned(vectors(some_known(100, 50))), planned(vectors(some_known(1200, 1000)))
    held = override(few, {"train.valid_fraction": 0.2}, "test").train
    assert (held.folds, held.valid_fraction) == (0, 0.2)
    folded = override(many, {"train": {"folds": 3}}, "test").train
    assert (folded.folds, folded.valid_fraction) == (3, 0)
    again = override(override(few, {"train.folds": 3}, "a file"), {"train.valid_fraction": 0.2}, "flags").train
    assert (again.folds, again.valid_fraction) == (0, 0.2)
    neither = override(few, {"train.folds": 0, "train.valid_fraction": 0}, "test").train
    assert (neither.folds, neither.valid_fraction) == (0, 0)


@pytest.mark.parametrize("features", [1, 3, 200])
def test_feature_vectors_get_their_own_networks(features: int) -> None:
    data = vectors(some_known(), features=features)
    plan, spacing = planned(data), fingerprint(data).spacing
    assert (plan.model.encoder, plan.model.likelihood) == ("mlp", "gaussian")
    assert plan.model.z_dim >= 2
    assert plan.train.precision == "fp32"
    assert plan.augment.noise == (0.5 if features == 200 else pytest.approx(spacing, abs=1e-4))


def test_several_labels_are_believed_where_they_are_nearly_certain_or_hardened_less() -> None:
    vector, table, one = (
        planned(data).objective for data in (vectors(cells(), SEVERAL), strokes(cells()), images(some_known()))
    )
    assert 0 < table.mutual_information == vector.mutual_information < one.mutual_information
    assert (table.threshold, table.sharpen) == (0.99, 0)
    assert table.momentum > vector.momentum == one.momentum == 0
    assert vector.threshold == one.threshold == 0 < one.sharpen < vector.sharpen


def test_several_labels_take_longer() -> None:
    several, one = planned(images(cells(), SEVERAL)).train, planned(images(some_known())).train
    assert several.steps > one.steps
    # But several labels of vectors are learnt by heart the sooner.
    assert planned(vectors(cells(), SEVERAL)).train.steps < planned(vectors(some_known())).train.steps


def test_what_follows_from_the_encoder_and_its_weights_follows_the_choice() -> None:
    facts = fingerprint(of_side(28))
    own, other, known = (
        make_plan(facts), make_plan(facts, encoder="resnet-18"), make_plan(facts, 0, "resnet-18", "w.pt")
    )  # fmt: skip
    assert (own.model.encoder, own.model.pool, own.model.weights) == ("conv", "meanmax", None)
    assert (other.model.encoder, other.model.pool) == ("resnet-18", "mean")
    assert known.model.weights == "w.pt"
    assert own.train.learning_rate > other.train.learning_rate > known.train.learning_rate
    assert "weights" not in known.architecture(facts.shape).to_json()


def test_the_frozen_encoder_is_recommended_where_it_helps() -> None:
    few, many = fingerprint(images(some_known(60, 12))), fingerprint(images(some_known(1200, 1100)))
    plan = make_plan(few, encoder="resnet-18", weights="w.pt")
    assert "With 12 annotated images" in str(advice(few, plan))
    assert "--frozen resnet-18 --weights w.pt" in str(advice(few, plan))
    assert advice(few, make_plan(few)) is None
    assert advice(many, plan) is None
    assert advice(fingerprint(vectors(some_known())), plan) is None


@pytest.mark.parametrize("side", [8, 28, 64, 96])
def test_small_images_get_the_small_network(side: int) -> None:
    plan = planned(of_side(side))
    assert plan.model.encoder == "conv"
    assert side / plan.model.reduce <= 48


@pytest.mark.parametrize("gpu", [False, True])
def test_large_images_get_a_large_network_on_a_gpu_and_fewer_rows(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("taut.rules.fast_bf16", lambda: False)
    plan = planned(of_side(224))
    assert (plan.model.encoder, plan.model.reduce) == ("densenet-121" if gpu else "conv", 7)
    facts = [dataclasses.replace(fingerprint(of_side(side)), images=3000) for side in (64, 96, 128, 224)]
    rows = [make_plan(found).train for found in facts]
    assert [t.batch_labelled + t.batch_unlabelled for t in rows] == [320, 320, 80, 80]


def test_emulated_bfloat16_is_not_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for native in (True, False):
        monkeypatch.setattr(
            "torch.cuda.is_bf16_supported", lambda including_emulation=True, n=native: n or including_emulation
        )
        assert fast_bf16() is native


def test_colour_gets_a_gaussian_likelihood_and_colour_views() -> None:
    grey, colour = planned(of_side(32)), planned(of_side(32, 3))
    assert (grey.model.likelihood, colour.model.likelihood) == ("bernoulli", "gaussian")
    assert colour.augment.brightness > 0 < colour.augment.contrast
    # Noise between 0 and 255 has a variance of 1/12 of the square of white.
    assert colour.objective.reconstruction == pytest.approx(grey.objective.reconstruction / 3 / 12, rel=0.02)
    assert colour.objective.beta_z == colour.objective.reconstruction


def test_dim_channels_of_a_microscope_are_no_grey_picture_and_keep_their_decoder() -> None:
    x = (0.004 * np.random.default_rng(0).random((50, 5, 32, 32))).astype(np.float32)
    plan = planned(made(x, np.arange(50) % 3, ONE))
    assert plan.model.likelihood == "gaussian"
    assert 0 < plan.objective.beta_z < 1e-8
    assert planned(made(x[:, :1], np.arange(50) % 3, ONE)).model.likelihood == "bernoulli"


@pytest.mark.parametrize("ground", [0, 255])
def test_the_exposure_of_scans_varies_but_not_that_of_strokes_on_a_ground(ground: int) -> None:
    drawn = np.random.default_rng(0).random((50, 1, 16, 16)) < 0.2
    strokes = np.where(drawn, 255 - ground, ground).astype(np.uint8)
    scan = np.clip(128 + 50 * np.random.default_rng(1).normal(size=strokes.shape), 0, 255).astype(np.uint8)
    for x, varies in ((strokes, False), (scan, True)):
        augment = planned(made(x, np.arange(50) % 3, ONE)).augment
        assert (augment.brightness > 0, augment.contrast > 0) == (varies, varies)
    for data in (digits(), digit_grid()):
        assert planned(data).augment.contrast == 0


def test_images_of_several_labels_are_learnt_by_heart_less_easily() -> None:
    y = cells(600, 1.0)
    y[20:] = NAN
    rows, table, one = (
        planned(images(y, SEVERAL)), planned(images(cells(600, 0.2), SEVERAL)), planned(images(some_known(600, 12)))
    )  # fmt: skip
    assert rows.train.weight_decay == table.train.weight_decay > 100 * one.train.weight_decay
    assert (rows.model.dropout, table.model.dropout, one.model.dropout) == (0.5, 0, 0)
    assert rows.train.batch_unlabelled < one.train.batch_unlabelled
    assert (
        planned(vectors(y, SEVERAL)).train.batch_unlabelled
        == planned(vectors(some_known(600, 20))).train.batch_unlabelled
    )
    many, holes = planned(images(cells(1200, 1.0), SEVERAL)), planned(images(cells(1200, 0.5), SEVERAL))
    assert many.model.dropout == holes.model.dropout == 0
    assert holes.train.weight_decay == rows.train.weight_decay > many.train.weight_decay > 100 * one.train.weight_decay
    assert make_plan(fingerprint(images(y, SEVERAL)), encoder="resnet-18").train.weight_decay == one.train.weight_decay


@pytest.mark.parametrize("data", [digits(), digit_grid(), of_side(32, 3)], ids=lambda d: d.name)
def test_nothing_is_mirrored_by_default(data: Dataset) -> None:
    assert not planned(data).augment.flip


def test_small_images_move_less() -> None:
    small, large = planned(of_side(8)).augment, planned(of_side(28)).augment
    assert small.rotation < large.rotation
    assert small.shift <= large.shift


def test_what_is_estimated_waits_for_what_is_annotated_where_there_is_something() -> None:
    some = planned(of_side(28)).objective
    none = planned(images(some_known(30, 0))).objective
    assert 0 < some.onset < some.full < 1
    assert none.onset == none.full == 0


MOVES = ("rotation", "scale", "shift", "shear", "brightness", "contrast")
STILL = {f"augment.{name}": 0.0 for name in MOVES} | {"augment.erase": 0}


def test_images_that_nothing_augments_have_an_adversary_in_place_of_mixtures() -> None:
    def changed(data: Dataset, **changes: Any) -> ObjectivePlan:
        return plan_of(data, lambda plan: override(plan, {**STILL, **changes}, "test")).objective

    few, some = images(some_known(60, 29)), images(some_known(60, 30))
    usual, still = plan_of(some).objective, changed(some)
    assert (still.mix, still.adversary) == (0, 0.2)
    assert (still.onset, still.full) == (usual.onset, usual.full)
    assert dataclasses.replace(still, mix=usual.mix, adversary=usual.adversary) == usual
    # Four images of a class are too few to wait for.
    assert plan_of(few).objective == usual
    assert dataclasses.replace(changed(few), onset=still.onset, full=still.full) == still
    assert changed(few).onset == 0
    # What is chosen stays, and one kind of change is enough to keep the usual plan.
    assert changed(some, **{"objective.mix": 0.5, "objective.adversary": 0.0}).mix == 0.5
    for kept in ({"augment.erase": 1}, {"augment.brightness": 0.1}, {"augment.flip": True}):
        assert changed(some, **kept) == usual
    several = images(cells(), SEVERAL)
    assert changed(several) == plan_of(several).objective
    assert plan_of(some, lambda plan: override(plan, STILL, "test"), objective="mixmatch").objective.mix == 0.75


def test_the_seed_and_the_precision_of_the_machine_are_in_the_plan() -> None:
    assert make_plan(fingerprint(of_side(28)), seed=7).seed == 7
    assert planned(of_side(28)).train.precision == ("bf16" if fast_bf16() else "fp32")


def test_the_plan_is_a_function_of_the_facts() -> None:
    facts = fingerprint(images(some_known()))
    assert make_plan(facts, 3) == make_plan(facts, 3)


# --- changes ------------------------------------------------------------------------------------------------


def test_changes_are_nested_or_dotted_and_leave_the_rest() -> None:
    plan = planned(images(some_known()))
    before = dataclasses.asdict(plan)
    changed = override(plan, {"train.steps": 9, "model": {"z_dim": 3}, "objective.alpha": 2}, "here")
    assert (changed.train.steps, changed.model.z_dim, changed.objective.alpha) == (9, 3, 2.0)
    assert dataclasses.asdict(plan) == before
    after = dataclasses.asdict(changed)
    after["train"]["steps"], after["model"]["z_dim"] = before["train"]["steps"], before["model"]["z_dim"]
    after["objective"]["alpha"] = before["objective"]["alpha"]
    assert after == before


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"train.stepps": 1}, ("'train.stepps' is not a field", "train.steps")),
        (
            {"optimiser.rate": 1},
            ("'optimiser.rate' is not a field", "there are model, objective, train, augment, seed"),
        ),
        ({"train": {"learning_rate": "fast"}}, ("train.learning_rate", "fast")),
        ({"train.steps": True}, ("train.steps", "True")),
        ({"augment.flip": "x"}, ("augment.flip",)),
        ({"objective.per": "image"}, ("objective.per", "image")),
        ({"train.learning_rate": None}, ("train.learning_rate needs a value",)),
        ({"train.ema": 1.1}, ("train.ema 1.1 is not between 0 and 1",)),
    ],
)
def test_changes_that_do_not_fit_are_named(changes: dict[str, Any], parts: tuple[str, ...]) -> None:
    with pytest.raises(DataError) as caught:
        override(Plan(), changes, "the flag")
    for part in ("the flag", *parts):
        assert part in str(caught.value)


def test_fields_that_may_be_empty_may_be_emptied() -> None:
    plan = override(Plan(), {"model.width": 8, "objective.alpha": 1.5}, "here")
    emptied = override(plan, {"model.width": None, "objective.alpha": None}, "here")
    assert emptied == Plan()


# --- for people ---------------------------------------------------------------------------------------------


def test_the_description_has_the_counts_and_the_decisions() -> None:
    space = LabelSpace((Label("digit", (0, 1, 2)), Label("sick", ("no", "yes"))))
    y = np.array([[0, "yes"], [1, "yes"], [None, "no"], [None, None]], dtype=object)
    data = images(y, space)
    plan = planned(data)
    text = describe(fingerprint(data), space, plan)
    assert "4 inputs of 1x8x8 image; 2 label(s) of 3, 2 classes" in text
    assert "3 images (75.0 %) carry an annotation, 2 of them a complete one; 5 of 8 cells are known" in text
    assert "digit: 2 known\n" in text
    assert "sick: 3 known, 2 of them yes" in text
    assert f"  steps: {plan.train.steps}\n" in text
    assert f"  encoder: {plan.model.encoder}\n" in text

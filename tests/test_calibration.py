"""Isotonic maps, thresholds, and what calibrating a model sets; temperatures are in test_metrics."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import balanced_accuracy_score, f1_score

from conftest import Array
from taut import latent
from taut.build import build_model
from taut.data.dataset import DataError
from taut.evaluate.calibration import (
    calibrate,
    calibrate_on,
    class_weights,
    events,
    fit_isotonic,
    fit_thresholds,
)
from taut.evaluate.predict import predict_logits, predict_probabilities
from taut.facts import fingerprint
from taut.fit import fit
from taut.labels import Label, LabelSpace
from taut.nn.vae import LabelVAE
from taut.plan import Plan, override
from taut.rules import make_plan
from taut.run import load_model, save_model
from tiny import NAN, equal, made, tiny

MIX = LabelSpace((Label("grade", ("a", "b", "c")), Label("sick", (0, 1)), Label("rare", ("no", "yes"))))
YES_NO = LabelSpace.multilabel(1)


def yes(column: Any) -> Array:
    return np.stack([1 - np.asarray(column), np.asarray(column)], axis=1)


def mixed(n: int = 400) -> tuple[Array, Any]:
    """Probabilities [N, 7] and annotations of a 3-way, a yes/no and a rarely annotated label."""
    rng = np.random.default_rng(0)
    q = np.concatenate([rng.dirichlet(np.ones(3), n), yes(rng.random(n)), yes(rng.random(n))], axis=1)
    values = np.full((n, 3), None, dtype=object)
    values[:, 0] = np.array(["a", "b", "c"])[[rng.choice(3, p=row) for row in q[:, :3]]]
    values[:, 1] = (rng.random(n) < q[:, 4] ** 2).astype(int)
    values[:99, 2] = "yes"
    values[::3, 1] = None
    return q, MIX.encode(values)


# --- isotonic maps ------------------------------------------------------------------------------------------


def test_isotonic_maps_are_scikit_learns() -> None:
    q, annotation = mixed()
    knots = fit_isotonic(q, annotation, MIX)
    assert knots is not None
    assert knots.shape[:2] == (7, 2)
    new = np.random.default_rng(1).random((500, 7))
    mapped = latent.piecewise_linear(torch.from_numpy(new), knots).numpy()
    for j, block in enumerate(MIX.blocks[:2]):
        seen = annotation.observed[:, j]
        for c in range(block.start, block.stop):
            least = 1 / (seen.sum() + 2)
            others = block.stop - block.start - 1
            want = IsotonicRegression(y_min=least / others, y_max=1 - least, out_of_bounds="clip")
            want.fit(q[seen, c], annotation.targets[seen, c])
            np.testing.assert_allclose(mapped[:, c], want.predict(new[:, c]), atol=1e-5)
    np.testing.assert_allclose(mapped[:, 5:], new[:, 5:], atol=1e-6)  # 99 annotated ones of one class: as they are
    # "no" is the mirror image of "yes": nothing is left to normalise.
    mirrored = latent.piecewise_linear(torch.from_numpy(1 - new[:, [3] * 7]), knots).numpy()
    np.testing.assert_allclose(mapped[:, 3] + mirrored[:, 4], 1, atol=1e-5)


def test_too_few_or_one_sided_annotations_have_no_map() -> None:
    rng = np.random.default_rng(0)
    q, y = yes(rng.random(150)), (rng.random(150) < 0.5).astype(float)[:, None]
    assert fit_isotonic(q, YES_NO.encode(y), YES_NO) is not None
    assert fit_isotonic(q, YES_NO.encode(np.where(np.arange(150)[:, None] < 99, y, NAN)), YES_NO) is None
    assert fit_isotonic(q, YES_NO.encode(np.ones((150, 1))), YES_NO) is None
    for count, mapped in ((4, False), (5, True)):
        rare = (np.arange(150)[:, None] < count).astype(float)
        assert (fit_isotonic(q, YES_NO.encode(rare), YES_NO) is not None) == mapped


def test_maps_leave_the_most_probable_of_many_classes_as_sure_as_the_images_allow() -> None:
    """A classifier without an error on 100 images of ten classes may be sure to 1 − 1/102, and not to 10/11 alone."""
    classes = np.repeat(np.arange(10), 10)
    q = np.full((100, 10), 0.02)
    q[np.arange(100), classes] = 0.82
    space = LabelSpace.multiclass(10)
    knots = fit_isotonic(q, space.encode(classes), space)
    assert knots is not None
    mapped = latent.piecewise_linear(torch.from_numpy(q), knots).numpy()
    mapped /= mapped.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(mapped[np.arange(100), classes], 1 - 1 / 102, atol=1e-5)


def test_a_class_that_is_not_held_out_can_still_be_predicted() -> None:
    space = LabelSpace.multiclass(3)
    q = np.random.default_rng(0).dirichlet(np.ones(3), 300)
    assert fit_isotonic(q, space.encode(q[:, :2].argmax(axis=1)), space) is None


def test_the_linear_pieces_by_hand() -> None:
    knots = torch.tensor([[[0.2, 0.4, 0.8, 0.8], [0.1, 0.5, 0.6, 0.6]]])
    x = torch.tensor([[0.0], [0.2], [0.3], [0.4], [0.6], [0.8], [1.0]], dtype=torch.float64)
    want = [0.1, 0.1, 0.3, 0.5, 0.55, 0.6, 0.6]
    np.testing.assert_allclose(latent.piecewise_linear(x, knots)[:, 0], want, atol=1e-6)


# --- thresholds ---------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([5, 20, 1000]), st.sampled_from(["f1", "youden"]))
def test_no_threshold_is_better(seed: int, values: int, rule: str) -> None:
    rng = np.random.default_rng(seed)
    q = (1 + np.round(rng.random(60) * values)) / (values + 2)
    truth = rng.random(60) < 0.2 + 0.5 * q
    truth[:5], truth[5:10] = True, False
    found = float(fit_thresholds(yes(q), YES_NO.encode(truth.astype(float)[:, None]), YES_NO, rule)[0])
    if rule == "f1" and 20 <= truth.sum() <= 40:
        assert found == 0.5
        return
    rare = truth.sum() < 30

    def score(cut: float) -> float:
        if rule == "youden":
            return float(balanced_accuracy_score(truth, q > cut))
        return float(f1_score(truth, q > cut, zero_division=0, pos_label=rare))

    assert score(found) == pytest.approx(max(score(cut) for cut in (-1.0, *np.unique(q))))
    assert np.abs(q - found).min() > 1e-5 or found in (0, 1)  # between probabilities, not on one


def test_a_threshold_by_hand() -> None:
    q = np.concatenate([np.full(40, 0.1), np.full(10, 0.3), np.full(10, 0.7)])
    truth = np.concatenate([np.zeros(40), np.ones(6), np.zeros(4), np.ones(10)])
    annotation = YES_NO.encode(truth[:, None])
    # All above 0.3: 16 of 20 are right and none is missed, F1 = 32/36; above 0.7: 10 of 10, 6 missed, 20/26.
    assert fit_thresholds(yes(q), annotation, YES_NO).tolist() == pytest.approx([0.2])
    # Sensitivity + specificity: 1 + 40/44 against 10/16 + 1.
    assert fit_thresholds(yes(q), annotation, YES_NO, "youden").tolist() == pytest.approx([0.2])
    assert fit_thresholds(yes(q), annotation, YES_NO, "half").tolist() == [0.5]
    # The same of "no" where that is what is rare: yes and no change places, and so do 0 and 1.
    swapped = YES_NO.encode(1 - truth[:, None])
    assert fit_thresholds(yes(1 - q), swapped, YES_NO).tolist() == pytest.approx([0.8])


def test_a_threshold_for_a_sensitivity_or_a_specificity() -> None:
    q = np.arange(40) / 40
    truth = np.isin(np.arange(40), [5, 12, *range(22, 40, 2)])  # eleven positives, 29 negatives
    annotation = YES_NO.encode(truth.astype(float)[:, None])

    def found(rule: str) -> tuple[float, float, float]:
        limit = float(fit_thresholds(yes(q), annotation, YES_NO, rule)[0])
        return limit, float((q > limit)[truth].mean()), float((q <= limit)[~truth].mean())

    limit, sensitivity, _ = found("sensitivity=0.9")
    assert sensitivity == pytest.approx(10 / 11)
    assert limit == pytest.approx(11.5 / 40)  # a greater one loses a second positive
    assert found("sensitivity=1.0")[0] == pytest.approx(4.5 / 40)
    limit, _, specificity = found("specificity=0.9")
    assert specificity >= 0.9
    assert (q <= limit - 1 / 40)[~truth].mean() < 0.9 or truth[int(limit * 40)]
    assert found("specificity=1.0")[2] == 1
    # Of thresholds that find as many positives that which finds the fewest others, and no rounding of 93 in 100.
    q = np.arange(120) / 120
    truth = np.isin(np.arange(120), [*range(100, 110), *range(115, 120)])
    annotation = YES_NO.encode(truth.astype(float)[:, None])
    assert found("specificity=0.9")[1:] == (1.0, 100 / 105)
    negatives = np.sort(q[~truth])
    assert found(f"specificity={98 / 105}")[2] >= 98 / 105
    assert found("specificity=0.96")[0] == pytest.approx((negatives[-1] + q[115]) / 2)


@pytest.mark.parametrize("rule", ["f2", "sensitivity", "sensitivity=95", "specificity=-0.1", "youden=1"])
def test_a_threshold_rule_that_is_none_is_refused(rule: str) -> None:
    with pytest.raises(DataError, match="is none of f1, youden, half, sensitivity=P"):
        override(Plan(), {"train.threshold": rule}, "here")


def test_what_is_about_as_often_yes_as_no_is_decided_for_at_one_half() -> None:
    q = np.random.default_rng(0).random(60)  # which tell nothing: F1 is greatest where all are called yes
    for positives, half in ((19, False), (20, True), (30, True), (40, True), (41, False)):
        truth = (np.arange(60) < positives).astype(float)
        assert (fit_thresholds(yes(q), YES_NO.encode(truth[:, None]), YES_NO)[0] == 0.5) == half


@pytest.mark.parametrize(("known", "positives"), [(29, 10), (60, 4), (60, 56), (60, 0)])
def test_few_annotations_leave_a_threshold_at_one_half(known: int, positives: int) -> None:
    truth = np.full(60, NAN)
    truth[:known] = np.arange(known) < positives
    q = np.linspace(0, 0.2, 60)[::-1]
    assert fit_thresholds(yes(q), YES_NO.encode(truth[:, None]), YES_NO).tolist() == [0.5]


def test_labels_of_more_classes_have_no_threshold_and_two_named_classes_have_one() -> None:
    q, annotation = mixed()
    q[:, 4] /= 4
    q[:, 3] = 1 - q[:, 4]
    found = fit_thresholds(q, annotation, MIX, "youden")
    assert found[[0, 2]].tolist() == [0.5, 0.5]
    assert 0 < found[1] < 0.25


def test_decisions_follow_the_thresholds() -> None:
    q = np.array([[0.2, 0.5, 0.3, 0.8, 0.2, 0.4, 0.6], [0.6, 0.1, 0.3, 0.6, 0.4, 0.1, 0.9]])
    assert MIX.decide(q).tolist() == [[1, 0, 1], [0, 0, 1]]
    assert MIX.decide(q, [0.9, 0.3, 0.7]).tolist() == [[1, 0, 0], [0, 1, 1]]
    assert MIX.predict(q, [0.9, 0.3, 0.7]).tolist() == [["b", 0, "no"], ["a", 1, "yes"]]
    assert MIX.decide(np.array([[1, 0, 0, 0.5, 0.5, 0.5, 0.5]]), [0.5] * 3).tolist() == [[0, 0, 0]]  # as argmax


def test_the_events_of_calibration() -> None:
    said, happened = events(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    assert (said.tolist(), happened.tolist()) == ([0.9, 0.2], [True, True])
    said, happened = events(np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]]), np.array([1, 2]))
    assert (said.tolist(), happened.tolist()) == ([0.5, 0.7], [False, True])


# --- a model ------------------------------------------------------------------------------------------------


def overconfident(n: int = 600) -> tuple[LabelVAE, Any]:
    """A model of two yes/no labels whose logits are ten times too large, and annotations drawn from the right ones."""
    rng = np.random.default_rng(0)
    space = LabelSpace.multilabel(["a", "b"])
    x = rng.normal(size=(n, 4)).astype(np.float32)
    data = made(x, np.arange(2 * n).reshape(n, 2) // 2 % 2, space)  # as many of either class: a uniform prior
    facts = fingerprint(data)
    model = build_model(data, tiny()(make_plan(facts)), facts).eval()
    logits = predict_logits(model, x)
    gain = 10 / float(logits.std())
    with torch.no_grad():
        model.to_logits.weight.mul_(gain)
        model.to_logits.bias.mul_(gain)
    p = (gain * logits / 10).reshape(n, 2, 2).softmax(2)[..., 1].numpy()
    return model, made(x, (rng.random((n, 2)) < p).astype(float), space)


@pytest.mark.parametrize("method", ["temperature", "isotonic", "none"])
def test_calibration_sets_what_its_method_says(method: str, tmp_path: Path) -> None:
    model, held = overconfident()
    before = predict_probabilities(model, held.x, calibrated=False)
    note = calibrate(model, held, method, "youden")
    after = predict_probabilities(model, held.x)
    truth = held.annotation.targets[:, 1::2]
    errors = [float(((q[:, 1::2] - truth) ** 2).mean()) for q in (before, after)]
    np.testing.assert_array_equal(predict_probabilities(model, held.x, calibrated=False), before)
    np.testing.assert_allclose(after.reshape(-1, 2, 2).sum(axis=2), 1)
    if method == "none":
        assert note == "not calibrated, as the plan says"
        np.testing.assert_array_equal(after, before)
    else:
        assert note == "calibrated 2 of 2 label(s) on 600 images that were held out"
        assert errors[1] < 0.85 * errors[0]
        assert (model.temperature > 3).all()
    assert (model.isotonic is not None) == (method == "isotonic")
    np.testing.assert_allclose(model.threshold, fit_thresholds(after, held.annotation, held.space, "youden"), atol=1e-6)
    if method == "isotonic":
        for j in range(2):
            want = IsotonicRegression(y_min=1 / 602, y_max=1 - 1 / 602).fit_transform(before[:, 2 * j + 1], truth[:, j])
            np.testing.assert_allclose(after[:, 2 * j + 1], want, atol=1e-4)
    save_model(model, tmp_path, {})
    again = load_model(tmp_path)
    assert equal(model, again)
    np.testing.assert_array_equal(predict_probabilities(again, held.x), after)


def test_isotonic_maps_that_are_not_possible_are_said_not_to_be_there() -> None:
    model, held = overconfident()
    note = calibrate(model, held.rows(np.arange(60)), "isotonic")
    assert "isotonic maps need 100 annotated ones of a label and 5 of each of its classes, so these are" in note
    assert model.isotonic is None


def filled_in_where_positive(n: int = 6000) -> tuple[LabelVAE, Any, torch.Tensor, Array]:
    """A model, held-out images of which half are "a" where a tenth is in truth, their logits, and evidence for "a"."""
    rng = np.random.default_rng(1)
    y = (np.arange(2 * n).reshape(n, 2) // 2 % 2).astype(float)
    evidence = rng.normal(2 * y - 1)  # of which the posterior of equal frequencies has the logit 2·evidence
    data = made(evidence.astype(np.float32), y, LabelSpace.multilabel(["a", "b"]))
    data.prevalence = {"a": 0.1}
    facts = fingerprint(data)
    model = build_model(data, tiny()(make_plan(facts)), facts).eval()
    sharp = torch.from_numpy(3 * 2 * evidence)  # three times too sure
    logits = torch.stack([torch.zeros(n, 2), sharp], dim=2).reshape(n, 4).float()
    return model, data, logits, evidence


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_probabilities_are_those_of_a_stated_prevalence(method: str, tmp_path: Path) -> None:
    model, held, logits, evidence = filled_in_where_positive()
    said = calibrate_on(model, logits, held, method, "f1", "6000 images")
    assert said == "calibrated 2 of 2 label(s) on 6000 images; probabilities of a are for the stated frequencies"
    q = model.log_probabilities(logits.double()).exp().numpy()
    want = 1 / (1 + np.exp(-2 * evidence - np.log([0.1 / 0.9, 1.0])))
    assert np.abs(q[:, 1::2] - want).mean(axis=0).max() < (0.01 if method == "temperature" else 0.02)
    assert model.offset[2:].tolist() == [0, 0]
    # The threshold is that of F1 where a tenth is positive, on a fresh population.
    rng = np.random.default_rng(2)
    y = rng.random(200_000) < 0.1
    p = 1 / (1 + np.exp(-2 * rng.normal(2.0 * y - 1) - np.log(0.1 / 0.9)))
    best = max(f1_score(y, p > limit) for limit in np.linspace(0.1, 0.6, 26))
    assert f1_score(y, p > float(model.threshold[0])) > best - 0.01
    save_model(model, tmp_path, {})
    assert equal(model, load_model(tmp_path))
    # An earlier shift is forgotten.
    held.prevalence = {}
    calibrate_on(model, logits, held, "none", "f1", "6000 images")
    assert model.offset.tolist() == [0] * 4


def test_too_few_annotations_to_shift_by_are_named() -> None:
    model, held, logits, _ = filled_in_where_positive(60)
    rare = np.zeros((60, 1))
    rare[:4] = 1
    held.annotation = held.space.encode(np.concatenate([rare, held.annotation.targets[:, 3:]], axis=1))
    held.prevalence = {"a": 0.02, "b": 0.3}
    said = calibrate_on(model, logits, held, "temperature", "f1", "60 images")
    assert said.endswith(
        "60 images; probabilities of b are for the stated frequencies; probabilities of a are for the frequencies of "
        "the annotated images, not the stated ones: that takes 30 held-out annotations, 5 of each class"
    )
    assert model.offset[:2].tolist() == [0, 0]
    assert model.offset[3] - model.offset[2] < -0.5


def test_stated_frequencies_that_are_those_of_the_annotations_change_nothing() -> None:
    model, held, logits, _ = filled_in_where_positive(200)
    calibrate_on(model, logits, dataclasses.replace(held, prevalence={}), "temperature", "f1", "200 images")
    before = model.log_probabilities(logits)
    held.prevalence = {"a": 0.5}
    said = calibrate_on(model, logits, held, "temperature", "f1", "200 images")
    assert said.endswith("200 images; probabilities of a are for the stated frequencies")
    torch.testing.assert_close(model.log_probabilities(logits), before)


def test_maps_of_a_rare_class_reach_its_stated_frequency() -> None:
    model, held, logits, _ = filled_in_where_positive(200)
    held.prevalence = {"a": 0.002}
    calibrate_on(model, logits, held, "isotonic", "f1", "200 images")
    q = model.log_probabilities(logits.double()).exp().numpy()[:, 1]
    odds = 0.002 / 0.998 / 201  # of the least that 200 annotations can show
    assert q.min() == pytest.approx(odds / (1 + odds), rel=1e-3)


def test_classes_of_a_stated_prevalence_count_as_often_as_they_are() -> None:
    space = LabelSpace.multiclass(["x", "y", "z"])
    held = made(np.zeros((100, 2), np.float32), ["x"] * 50 + ["y"] * 30 + ["z"] * 20, space)
    assert class_weights(held)[0].tolist() == [1, 1, 1]
    held.prevalence = {"x": 0.8}
    weights, known = class_weights(held)
    np.testing.assert_allclose(weights, [0.8 / 0.5, 0.1 / 0.3, 0.1 / 0.2])
    assert known == [0]
    for rows in (np.arange(84), np.arange(29) * 3):  # four of a class, and too few
        weights, known = class_weights(held.rows(rows))
        assert (weights.tolist(), known) == ([1, 1, 1], [])


def test_an_earlier_calibration_is_forgotten() -> None:
    model, held = overconfident()
    calibrate(model, held.rows(np.arange(300)), "isotonic")
    for method in ("isotonic", "temperature", "none"):
        calibrate(model, held, method)
        fresh, _ = overconfident()
        calibrate(fresh, held, method)
        assert (model.isotonic is None) == (method != "isotonic")
        np.testing.assert_array_equal(predict_probabilities(model, held.x), predict_probabilities(fresh, held.x))


def test_the_plan_chooses_the_calibration() -> None:
    _, data = overconfident(400)
    changes = {"valid_fraction": 0.5, "calibration": "isotonic", "threshold": "half"}
    fitted = fit(data, tiny(train=changes), quiet=True)
    assert fitted.model.isotonic is not None
    assert fitted.model.threshold.tolist() == [0.5, 0.5]

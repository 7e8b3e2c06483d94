from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    f1_score,
    log_loss,
    recall_score,
    roc_auc_score,
)

from conftest import Array
from taut import latent
from taut.build import build_model
from taut.data.dataset import DataError, Dataset
from taut.evaluate import bounds
from taut.evaluate.calibration import expected_calibration_error, fit_temperatures, label_nll, reliability
from taut.evaluate.metrics import evaluate, label_figures, mean_elbo
from taut.evaluate.predict import batches, predict_logits, predict_posterior, predict_probabilities
from taut.facts import fingerprint
from taut.labels import Label, LabelSpace
from taut.nn.vae import LabelVAE
from taut.rules import make_plan
from tiny import NAN, ONE, SEVERAL, cells, images, some_known, tiny, vectors

MIX = LabelSpace((Label("grade", ("a", "b", "c")), Label("sick", ("no", "yes"))))


def model_of(data: Dataset) -> LabelVAE:
    facts = fingerprint(data)
    return build_model(data, tiny()(make_plan(facts)), facts).eval()


def yes(column: Any) -> Array:
    """Probabilities [N, 2] of a yes/no label."""
    return np.stack([1 - np.asarray(column), np.asarray(column)], axis=1)


# --- figures by hand ----------------------------------------------------------------------------------------


def test_one_label_by_hand() -> None:
    q = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.2, 0.6, 0.2], [1.0, 0.0, 0.0]])
    data = vectors(np.array([0, 1, 2, 0, -1]))
    figures = label_figures(q, data)
    # Three of four annotated ones are right; the wrong one was said with 0.6, in a bin of its own, as are all.
    assert figures["error"] == 25
    assert figures["ece"] == pytest.approx((0.3 + 0.5 + 0.6 + 0.6) / 4)
    row = figures["per_label"]["label"]
    assert (row["annotated"], row["error"], row["classes"]) == (4, 25.0, 3)
    assert row["ece"] == pytest.approx(0.5)
    # Found: 1 of 2, 1 of 1, 1 of 1. Called 0: 1 rightly; 1: 2, one of them rightly; 2: 1 rightly.
    assert row["sensitivity"] == pytest.approx((1 / 2 + 1 + 1) / 3, abs=1e-6)
    assert row["specificity"] == pytest.approx((1 + 2 / 3 + 1) / 3, abs=1e-6)
    assert row["f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3, abs=1e-6)
    assert row["auroc"] == pytest.approx((3 / 4 + 2 / 3 + 2.5 / 3) / 3, abs=1e-6)
    assert "auroc_macro" not in figures


def test_yes_and_no_by_hand() -> None:
    y = np.array([[1, 0], [0, 1], [1, 1], [0, NAN], [NAN, 0]])
    q = np.concatenate([yes([0.9, 0.6, 0.4, 0.1, 0.5]), yes([0.2, 0.4, 0.3, 0.9, 0.1])], axis=1)
    figures = label_figures(q, vectors(y, SEVERAL))
    a, b = figures["per_label"]["a"], figures["per_label"]["b"]
    # a: of the pairs (yes, no) three of four are in order. b: all four.
    assert (a["auroc"], b["auroc"]) == (0.75, 1.0)
    assert a["ap"] == pytest.approx((1 / 1 + 2 / 3) / 2, abs=1e-6)
    assert b["ap"] == 1
    assert (a["error"], b["error"]) == (50.0, 50.0)
    assert (a["annotated"], a["positives"], b["annotated"], b["positives"]) == (4, 2, 4, 2)
    assert figures["auroc_macro"] == 0.875
    assert figures["ap_macro"] == pytest.approx((a["ap"] + 1) / 2, abs=1e-6)
    assert figures["error"] == 50


def test_figures_equal_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    y, p = (rng.random((200, 2)) < [0.5, 0.1]).astype(float), rng.random((200, 2))
    data = vectors(y, SEVERAL)
    figures = label_figures(np.concatenate([yes(p[:, 0]), yes(p[:, 1])], axis=1), data)
    for j, name in enumerate("ab"):
        row = figures["per_label"][name]
        assert row["auroc"] == pytest.approx(roc_auc_score(y[:, j], p[:, j]), abs=1e-6)
        assert row["ap"] == pytest.approx(average_precision_score(y[:, j], p[:, j]), abs=1e-6)
    log_q = torch.from_numpy(np.log(np.concatenate([yes(p[:, 0]), yes(p[:, 1])], axis=1)))
    want = [log_loss(y[:, j], p[:, j]) for j in range(2)]
    np.testing.assert_allclose(label_nll(log_q, data.annotation, (2, 2)), want, rtol=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_label_with_one_class_only_has_no_ranking(value: float) -> None:
    y = np.array([[1, value], [0, value], [1, NAN]])
    q = np.concatenate([yes([0.9, 0.6, 0.4]), yes([0.2, 0.4, 0.3])], axis=1)
    figures = label_figures(q, vectors(y, SEVERAL))
    assert figures["per_label"]["b"]["auroc"] is None
    assert figures["per_label"]["b"]["ap"] is None
    assert figures["auroc_macro"] == figures["per_label"]["a"]["auroc"] == 0.5
    assert figures["ap_macro"] == figures["per_label"]["a"]["ap"]


def test_a_label_without_annotation_has_no_figures_and_counts_nowhere() -> None:
    y = np.array([[1, NAN], [0, NAN]])
    figures = label_figures(np.full((2, 4), 0.5), vectors(y, SEVERAL))
    assert figures["per_label"]["b"] == {"annotated": 0, "error": None, "ece": None}
    assert figures["error"] == figures["per_label"]["a"]["error"]


def test_no_ranking_at_all_is_none_and_not_one_half() -> None:
    figures = label_figures(np.full((2, 4), 0.5), vectors(np.ones((2, 2)), SEVERAL))
    assert figures["auroc_macro"] is None
    assert figures["ap_macro"] is None


def test_cells_that_are_not_annotated_are_left_out() -> None:
    y = cells(80, 0.6)
    data, rng = vectors(y, SEVERAL), np.random.default_rng(1)
    q = np.concatenate([yes(rng.random(80)), yes(rng.random(80))], axis=1)
    want = label_figures(q, data)
    hidden = np.repeat(np.isnan(y), 2, axis=1)
    assert hidden.any()
    assert label_figures(np.where(hidden, 1 - q, q), data) == want
    assert label_figures(np.where(hidden, q, 1 - q), data) != want


def test_decisions_are_counted_as_scikit_learn_counts_them() -> None:
    rng = np.random.default_rng(0)
    y, p = (rng.random((300, 2)) < [0.4, 0.1]).astype(float), rng.random((300, 2))
    y[rng.random((300, 2)) < 0.3] = NAN
    q = np.concatenate([yes(p[:, 0]), yes(p[:, 1])], axis=1)
    data = vectors(y, SEVERAL)
    figures = label_figures(q, data, data.space.decide(q, [0.3, 0.8]))
    for j, (name, limit) in enumerate((("a", 0.3), ("b", 0.8))):
        seen = ~np.isnan(y[:, j])
        truth, called, row = y[seen, j], p[seen, j] > limit, figures["per_label"][name]
        tn, fp, fn, tp = confusion_matrix(truth, called).ravel()
        assert row["f1"] == pytest.approx(2 * tp / (2 * tp + fp + fn), abs=1e-6)
        assert row["sensitivity"] == pytest.approx(tp / (tp + fn), abs=1e-6)
        assert row["specificity"] == pytest.approx(tn / (tn + fp), abs=1e-6)
    for name in ("f1", "sensitivity", "specificity", "auroc", "ap"):
        want = np.mean([figures["per_label"][label][name] for label in "ab"])
        assert figures[f"{name}_macro"] == pytest.approx(want, abs=1e-6)
    assert figures["macro_labels"] == 2


@pytest.mark.parametrize("missing", [False, True])
def test_classes_against_the_rest_are_scikit_learns(missing: bool) -> None:
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.ones(3), 200)
    y = np.array([rng.choice(3, p=row) for row in q])
    if missing:
        y[y == 2] = 0
    row = label_figures(q, vectors(y))["per_label"]["label"]
    there = np.unique(y)
    assert row["classes"] == len(there)
    if not missing:
        assert row["auroc"] == pytest.approx(roc_auc_score(y, q, multi_class="ovr"), abs=1e-6)
    aps = [average_precision_score(y == c, q[:, c]) for c in there]
    assert row["ap"] == pytest.approx(np.mean(aps), abs=1e-6)
    decided = q.argmax(axis=1)
    assert row["f1"] == pytest.approx(f1_score(y, decided, labels=there, average="macro"), abs=1e-6)
    want = recall_score(y, decided, labels=there, average="macro")
    assert row["sensitivity"] == pytest.approx(want, abs=1e-6)


def test_a_part_with_one_class_of_a_label_is_undefined_and_the_means_say_over_how_many() -> None:
    y = np.array([[1, 1], [0, 1], [1, NAN], [0, 1]])
    q = np.concatenate([yes([0.9, 0.6, 0.4, 0.2]), yes([0.2, 0.4, 0.3, 0.8])], axis=1)
    figures = label_figures(q, vectors(y, SEVERAL))
    row = figures["per_label"]["b"]
    assert (row["auroc"], row["ap"], row["f1"], row["specificity"]) == (None, None, None, None)
    assert row["sensitivity"] == pytest.approx(1 / 3, abs=1e-6)  # of its three positives one is called
    assert figures["macro_labels"] == 1
    assert figures["sensitivity_macro"] == figures["per_label"]["a"]["sensitivity"] == 0.5


# --- a model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        images(some_known(40, 30)),
        images(cells(40), SEVERAL),
        images(np.array([["a", "no"], [None, "yes"], ["c", None], ["b", "yes"]] * 5, dtype=object), MIX),
    ],
    ids=["one label", "several", "a mix"],
)
def test_the_figures_of_a_model_are_those_of_its_probabilities(data: Dataset) -> None:
    model = model_of(data)
    model.temperature.fill_(0.1)
    figures = evaluate(model, data)
    q = predict_probabilities(model, data.x)
    plain = label_figures(q, data)
    assert {key: figures[key] for key in plain if key != "per_label"} == {
        key: value for key, value in plain.items() if key != "per_label"
    }
    nll = []
    for j, (label, block) in enumerate(zip(data.space, data.space.blocks, strict=True)):
        seen = data.annotation.observed[:, j]
        nll.append(-np.log((q[seen, block] * data.annotation.targets[seen, block]).sum(axis=1)).mean())
        assert figures["per_label"][label.name]["nll"] == pytest.approx(nll[-1], abs=1e-6)
        assert figures["per_label"][label.name]["annotated"] == seen.sum()
    assert figures["nll"] == pytest.approx(np.mean(nll), abs=1e-6)
    assert figures["images"] == len(data)
    # Without the temperatures the probabilities are others, and so is what depends on them.
    loose = evaluate(model, data, calibrated=False)
    assert loose["nll"] != figures["nll"]
    assert loose["error"] == figures["error"]
    assert loose["elbo"] == figures["elbo"]
    assert json.loads(json.dumps(figures)) == figures


def test_decisions_are_those_of_calibrated_probabilities_at_the_stored_thresholds() -> None:
    y = cells(200)
    data = images(y, SEVERAL)
    model = model_of(data)
    model.temperature.fill_(0.2)
    q = predict_probabilities(model, data.x)
    model.threshold.copy_(torch.tensor([float(np.median(q[:, 1])), 0.0]))
    for calibrated in (True, False):
        rows = evaluate(model, data, calibrated)["per_label"]
        seen = ~np.isnan(y[:, 0])
        want = recall_score(y[seen, 0], q[seen, 1] > np.median(q[:, 1]))
        assert rows["a"]["sensitivity"] == pytest.approx(want, abs=0.02)
        assert rows["a"]["threshold"] == pytest.approx(float(np.median(q[:, 1])), abs=1e-6)
        assert (rows["b"]["sensitivity"], rows["b"]["specificity"], rows["b"]["threshold"]) == (1, 0, 0)


def test_intervals_stand_beside_their_figures() -> None:
    data = images(cells(120), SEVERAL, groups=np.arange(120) // 3)
    figures = evaluate(model_of(data), data, resamples=50)
    assert figures["resampled"] == "40 groups"
    for row, names in ((figures, ("error", "auroc_macro")), (figures["per_label"]["a"], ("error", "auroc", "ap"))):
        for name in names:
            assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    assert not any(name.endswith("_low") for name in evaluate(model_of(data), data))


def test_the_elbo_is_the_mean_of_the_bound() -> None:
    data = images(some_known(1200))
    model = model_of(data)
    generator = torch.Generator().manual_seed(0)
    parts = [bounds.elbo(model, x, generator=generator) for x in batches(model, data.x)]
    assert [len(part) for part in parts] == [500, 500, 200]
    assert mean_elbo(model, data) == pytest.approx(float(torch.cat(parts).mean()), rel=1e-6)
    assert evaluate(model, data)["elbo"] == mean_elbo(model, data)
    # One sample a row is enough for the mean: another seed and many samples agree.
    x = model.prepare(torch.from_numpy(data.x))
    assert mean_elbo(model, data, seed=1) == pytest.approx(float(bounds.elbo(model, x, samples=8).mean()), rel=0.01)


def test_predictions_do_not_depend_on_the_size_of_the_batch() -> None:
    data = images(some_known(700))
    model = model_of(data)
    whole = predict_posterior(model, data.x)
    alone = predict_posterior(model, data.x[510:512])
    torch.testing.assert_close(alone.logits, whole.logits[510:512])
    assert torch.equal(predict_logits(model, data.x), whole.logits)
    assert predict_probabilities(model, data.x).dtype == np.float64


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((1200, 5), [500, 500, 200]),
        ((1100, 3, 8, 8), [500, 500, 100]),
        ((40, 1, 512, 512), [16, 16, 8]),
        ((2, 1, 4096, 2048), [1, 1]),
    ],
)
def test_batches_of_large_images_have_fewer_of_them(shape: tuple[int, ...], sizes: list[int]) -> None:
    model = model_of(vectors(some_known()) if len(shape) == 2 else images(some_known(), channels=shape[1]))
    assert [len(batch) for batch in batches(model, np.zeros(shape, dtype=np.uint8))] == sizes


def test_evaluation_refuses_what_it_cannot_judge() -> None:
    data = images(some_known())
    model = model_of(data)
    with pytest.raises(DataError, match="nothing is annotated"):
        evaluate(model, images(np.full(5, -1)))
    with pytest.raises(DataError, match=r"its labels a \(2\), b \(2\) are not the model's label \(3\)"):
        evaluate(model, images(cells(), SEVERAL))


# --- calibration --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uniform", [torch.zeros(7), None])
@pytest.mark.parametrize("temperature", [2.5, 0.4])
def test_a_known_temperature_is_found(temperature: float, uniform: torch.Tensor | None) -> None:
    torch.manual_seed(0)
    logits = 2 * torch.randn(4000, 7)
    space = LabelSpace((Label("one", (0, 1, 2)), Label("two", (0, 1)), Label("three", (0, 1))))
    drawn = [torch.multinomial(logits[:, block].softmax(1), 1)[:, 0].numpy() for block in space.blocks]
    y = np.stack(drawn, axis=1).astype(float)
    y[::3, 0] = NAN
    annotation = space.encode(y)
    scale = torch.tensor([temperature] * 3 + [1.0] * 2 + [temperature] * 2)
    prior = uniform if uniform is not None else (2 * torch.randn(7)).log_softmax(0)
    found = fit_temperatures(prior + scale * (logits - prior), annotation, prior, space.sizes)[0]
    torch.testing.assert_close(found, torch.tensor([temperature, 1.0, temperature]), rtol=0.1, atol=0)


def test_a_label_that_nothing_is_known_of_goes_to_its_frequency() -> None:
    """A great temperature leaves the prior, and none at all the logits; by hand in between."""
    prior = torch.tensor([0.9, 0.1, 0.2, 0.3, 0.5]).log()
    logits = torch.tensor([[1.0, 3.0, 0.0, 2.0, -1.0]])
    flat = latent.tempered(logits, torch.tensor([1e6, 1e6]), prior, (2, 3))
    torch.testing.assert_close(flat[0], prior, atol=1e-4, rtol=0)
    same = latent.tempered(logits, torch.ones(2), prior, (2, 3))
    torch.testing.assert_close(same, latent.log_softmax(logits, (2, 3)))
    between = latent.tempered(logits, torch.tensor([4.0, 1.0]), prior, (2, 3)).exp()[0, 1]
    odds = 0.1 / 0.9 * (math.exp(3 - 1) / (0.1 / 0.9)) ** 0.25
    assert float(between) == pytest.approx(odds / (1 + odds), rel=1e-5)


def test_few_or_one_sided_annotations_leave_a_temperature_at_one() -> None:
    logits = 5 * torch.randn(60, 6)
    y = np.full((60, 3), NAN)
    y[:29, 0] = np.arange(29) % 2  # too few
    y[:, 1] = 1  # one class only
    y[:30, 2] = np.arange(30) % 2  # just enough
    found = fit_temperatures(logits, LabelSpace.multilabel(3).encode(y), torch.zeros(6), (2, 2, 2))[0]
    assert found[:2].tolist() == [1, 1]
    assert float(found[2]) != 1
    assert fit_temperatures(logits[:, :3], ONE.encode(np.full(60, -1)), torch.zeros(3), (3,))[0].tolist() == [1]


@pytest.mark.parametrize(("scale", "low", "high"), [(3.0, 0.3, 0.99), (-1.0, 1.5, 20.0), (-1e4, 19.99, 20.01)])
def test_a_few_separable_annotations_do_not_sharpen_without_end(scale: float, low: float, high: float) -> None:
    """Separable annotations alone want T → 0, and annotations that contradict the model T → ∞."""
    y = np.arange(60) % 2
    known = LabelSpace.multilabel(1).encode(y)
    found, offsets = fit_temperatures(torch.from_numpy(yes(y)) * scale, known, torch.zeros(2), (2,))
    assert low < float(found) < high
    assert offsets.tolist() == [0, 0]


def test_a_label_with_few_annotations_follows_the_others() -> None:
    torch.manual_seed(0)
    logits = 4 * torch.randn(3000, 4)
    drawn = torch.stack([torch.multinomial(block.softmax(1), 1)[:, 0] for block in logits.split(2, dim=1)], dim=1)
    y = drawn.numpy().astype(float)
    y[30:, 1] = NAN
    alone = fit_temperatures(3 * logits[:, 2:], LabelSpace.multilabel(1).encode(y[:, 1:]), torch.zeros(2), (2,))[0]
    both = fit_temperatures(3 * logits, LabelSpace.multilabel(2).encode(y), torch.zeros(4), (2, 2))[0]
    assert float(both[0]) == pytest.approx(3, rel=0.1)
    assert abs(float(both[1]) - 3) < abs(float(alone) - 3)


def test_wrong_annotations_flatten_and_soft_ones_count_as_they_are() -> None:
    logits = torch.tensor([[3.0, 0.0]]).expand(100_000, 2)
    soft = np.full((100_000, 2), [0.75, 0.25])
    found = fit_temperatures(logits, LabelSpace.multilabel(1).encode(soft), torch.zeros(2), (2,))[0]
    assert float(found) == pytest.approx(3 / math.log(3), rel=1e-3)


def test_a_calibrated_sample_has_no_calibration_error() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(200_000)
    assert expected_calibration_error(confidence, rng.random(200_000) < confidence) < 0.01


def test_an_overconfident_sample_has_its_overconfidence_as_error() -> None:
    correct = np.arange(1000) % 10 < 6
    assert expected_calibration_error(np.full(1000, 0.9), correct) == pytest.approx(0.3)
    assert expected_calibration_error(np.full(1000, 1.0), correct) == pytest.approx(0.4)
    assert expected_calibration_error(np.full(1000, 0.0), correct) == pytest.approx(0.6)


def test_the_calibration_error_by_hand() -> None:
    # Two bins of five: (0.1, 0.2 → one of two happened) and (0.9 → did not happen).
    got = expected_calibration_error(np.array([0.1, 0.2, 0.9]), np.array([True, False, False]), bins=5)
    assert got == pytest.approx(((0.5 - 0.0) * 0 + abs(1 - 0.1) + abs(0 - 0.2) + abs(0 - 0.9)) / 3)
    got = expected_calibration_error(np.array([0.1, 0.15, 0.9]), np.array([True, False, False]), bins=5)
    assert got == pytest.approx((abs(1 - 0.25) + 0.9) / 3)


def test_the_points_of_a_reliability_diagram() -> None:
    confidence = np.array([0.1, 0.15, 0.9, 1.0])
    mean, share, count = reliability(confidence, np.array([True, False, False, True]), bins=5)
    np.testing.assert_allclose(mean, [0.125, 0.95])
    np.testing.assert_allclose(share, [0.5, 0.5])
    assert count.tolist() == [2, 2]

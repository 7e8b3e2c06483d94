from __future__ import annotations

import dataclasses
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taut.budget import fit_to_budget, look_seconds, step_seconds
from taut.build import build_model
from taut.data.dataset import DataError, Dataset
from taut.data.split import draw_fraction
from taut.data.stream import Stream
from taut.evaluate.predict import predict_logits, predict_probabilities
from taut.facts import fingerprint
from taut.fit import fit, hold_out, own_valid, plan_of
from taut.labels import Label, LabelError, LabelSpace
from taut.looks import Looks
from taut.objective import Batch
from taut.plan import Plan, TrainPlan, override
from taut.rules import FOLDS, make_plan
from taut.run import Run
from taut.tighter import dilution
from tiny import NAN, ONE, SEVERAL, cells, equal, images, made, some_known, tiny, vectors

MIX = LabelSpace((Label("grade", ("a", "b", "c", "d", "e")), Label("sick", (0, 1)), Label("old", (0, 1))))


def sensible(data: Dataset, **sections: Any) -> Any:
    """Trains on a dataset; what comes out are probabilities, and not the ones before training."""
    fitted = fit(data, tiny(**sections), quiet=True)
    q = predict_probabilities(fitted.model, data.x)
    assert q.shape == (len(data), data.space.width)
    for block in data.space.blocks:
        np.testing.assert_allclose(q[:, block].sum(axis=1), 1, atol=1e-9)
    assert not equal(fitted.model, build_model(data, fitted.plan, fitted.facts))
    return fitted


def mixed(n: int = 60) -> Any:
    rng = np.random.default_rng(0)
    y = np.empty((n, 3), dtype=object)
    y[:, 0] = rng.choice(list("abcde"), n)
    y[:, 1:] = rng.integers(0, 2, (n, 2))
    y[rng.random((n, 3)) < 0.5] = None
    return y


# --- what may be annotated ----------------------------------------------------------------------------------


def test_everything_annotated() -> None:
    fitted = sensible(images(some_known(known=60)))
    assert fitted.plan.objective.source == "none"
    assert fitted.plan.objective.mutual_information == 0


def test_nothing_annotated_gives_clusters_without_labels_in_the_loss(tmp_path: Any) -> None:
    data, run = vectors(np.full(60, -1), LabelSpace.multiclass(4, "cluster")), Run.create(tmp_path / "run")
    fitted = fit(data, tiny(), run=run, quiet=True)
    assert run.metrics()[-1]["label_kl"] == 0
    assert fitted.facts.annotated_images == 0
    assert set(fitted.model.log_prior.exp().tolist()) == {0.25}
    assert predict_probabilities(fitted.model, data.x).shape == (60, 4)
    assert "no image is annotated: the classes are clusters, in any order" in fitted.notes


@pytest.mark.parametrize("which", [0, 1])
def test_a_label_that_is_never_annotated_is_named(which: int) -> None:
    y = cells(share=0.7)
    y[:, which] = NAN
    with pytest.raises(LabelError, match=f"no image is annotated with '{SEVERAL.names[which]}', while other labels"):
        fit(vectors(y, SEVERAL), tiny(), quiet=True)


def test_a_partly_annotated_table() -> None:
    data = images(cells(share=0.5), SEVERAL)
    fitted = sensible(data)
    assert fitted.facts.annotated_cells == tuple(data.annotation.observed.sum(axis=0))


def test_a_label_of_five_classes_beside_yes_and_no() -> None:
    data = images(mixed(), MIX)
    fitted = sensible(data)
    assert fitted.model.sizes == (5, 2, 2)
    decided = MIX.predict(predict_probabilities(fitted.model, data.x))
    assert set(decided[:, 0]) <= set("abcde")
    assert set(decided[:, 1]) | set(decided[:, 2]) <= {0, 1}


def test_feature_vectors_are_standardised_by_the_training_set() -> None:
    data = vectors(some_known())
    data.x[:] = 100 * data.x + 7
    fitted = sensible(data)
    assert fitted.plan.model.encoder == "mlp"
    prepared = fitted.model.prepare(torch.from_numpy(data.x))
    torch.testing.assert_close(prepared.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(prepared.std(0, correction=0), torch.ones(5), atol=1e-4, rtol=0)


def test_a_constant_feature_is_no_trouble() -> None:
    data = vectors(some_known())
    data.x[:, 2] = 4.0
    model = sensible(data).model
    assert float(model.scale[2]) == 0
    # Nothing was learnt of it, so that it changes nothing later.
    other = data.x.copy()
    other[:, 2] = 5000
    torch.testing.assert_close(predict_logits(model, other), predict_logits(model, data.x), rtol=0, atol=0)
    assert model.mean_image(torch.ones(1, 5))[0, 2] == 4


def test_a_constant_feature_counts_neither_in_the_likelihood_nor_in_its_weight() -> None:
    data = vectors(some_known())
    beside = vectors(some_known())
    beside.x = np.insert(beside.x, 2, 4.0, axis=1)
    plain, wider = (build_model(d, plan_of(d), fingerprint(d)) for d in (data, beside))
    x, means = torch.from_numpy(data.x[:3]), torch.randn(3, 5)
    other = torch.cat([means[:, :2], torch.full((3, 1), 7.0), means[:, 2:]], dim=1)
    want = plain.log_likelihood(plain.prepare(x), means)
    torch.testing.assert_close(wider.log_likelihood(wider.prepare(torch.from_numpy(beside.x[:3])), other), want)
    assert plan_of(beside).objective.reconstruction == plan_of(data).objective.reconstruction == 1 / 5


def test_features_in_small_units_are_standardised_and_constant_ones_are_not() -> None:
    data = vectors(some_known())
    want = data.x.std(axis=0)
    data.x[:] *= 1e-8
    data.x[:, 3], data.x[:, 4] = 0.1, 0.0
    np.testing.assert_allclose(fingerprint(data).std, [*1e-8 * want[:3], 0, 0], rtol=1e-5)


def test_soft_labels_are_targets() -> None:
    rng = np.random.default_rng(0)
    soft = rng.dirichlet([1, 1, 1], 40).astype(np.float32)
    soft[20:] = NAN
    sensible(vectors(soft))


@pytest.mark.parametrize("count", [1, 2, 7])
def test_fewer_images_than_a_batch(count: int) -> None:
    y = np.full(count, -1)
    y[0] = 1
    sensible(images(y), train={"batch_labelled": 64, "batch_unlabelled": 256})


def test_one_image_annotated_among_many() -> None:
    sensible(images(some_known(known=1)))
    sensible(images(np.where(np.arange(60)[:, None] < 1, 1.0, np.full((60, 2), NAN)), SEVERAL))


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batches are empty"):
        fit(vectors(some_known(known=60)), tiny(train={"batch_labelled": 0}), quiet=True)


label_tables = st.integers(1, 3).flatmap(
    lambda k: st.lists(st.lists(st.sampled_from([0.0, 1.0, NAN, NAN]), min_size=k, max_size=k), min_size=1, max_size=14)
)


@settings(max_examples=20)
@given(label_tables, st.booleans())
def test_any_table_of_yes_and_no_trains_or_fails_with_a_sentence(rows: list[list[float]], image: bool) -> None:
    y = np.array(rows)
    space = LabelSpace.multilabel(y.shape[1])
    trains_or_says_why((images if image else vectors)(y, space))


@settings(max_examples=15)
@given(st.lists(st.integers(-1, 2), min_size=1, max_size=14), st.sampled_from([0.0, 0.3, 0.9]))
def test_any_column_of_classes_trains_or_fails_with_a_sentence(y: list[int], held: float) -> None:
    trains_or_says_why(vectors(np.array(y)), {"valid_fraction": held})


@pytest.mark.parametrize(
    "column",
    [[-1] * 9, [0] * 9, [2] * 9, [0, 1] * 5, [0, 1, 2] * 3, [0] + [-1] * 8],
    ids=["none", "constant", "the last class", "one class absent", "all", "one image"],
)
def test_the_corner_cases_train(column: list[int]) -> None:
    assert trains_or_says_why(vectors(np.array(column))) is None


def sentence(error: ValueError) -> str:
    assert type(error) in (LabelError, DataError, ValueError)
    assert len(str(error)) > 20
    return str(error)


def trains_or_says_why(data: Dataset, train: dict[str, Any] | None = None) -> str | None:
    try:
        fitted = fit(data, tiny(train={"steps": 2, **(train or {})}), quiet=True)
    except ValueError as error:
        # LabelError and DataError are ValueErrors; one of the libraries' own kind would not be a sentence for users.
        return sentence(error)
    assert all(bool(value.isfinite().all()) for value in fitted.model.state_dict().values())
    return None


# --- holding out --------------------------------------------------------------------------------------------


def recorded(monkeypatch: pytest.MonkeyPatch) -> set[float]:
    """The first feature of every input that gets into a batch."""
    seen: set[float] = set()
    usual = Stream.batch

    def batch(self: Stream, step: int, *rest: Any) -> Batch:
        seen.update(self.x[self.rows(step), 0].tolist())
        return usual(self, step, *rest)

    monkeypatch.setattr(Stream, "batch", batch)
    return seen


def separable(n: int = 300) -> tuple[Any, Any]:
    """Three classes that overlap, so that a trained net is not exactly calibrated."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    return (2 * np.eye(3)[y] + rng.normal(size=(n, 3))).astype(np.float32), y


def test_the_valid_part_calibrates_and_is_never_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = separable()
    split = np.where(np.arange(300) < 100, "valid", "train")
    y[:3] = -1
    data = made(x, y, ONE, split=split)
    seen = recorded(monkeypatch)
    fitted = fit(data, tiny(train={"steps": 60}, model={"width": 32}), quiet=True)
    assert seen == set(x[split == "train", 0].tolist())
    assert float(fitted.model.temperature) != 1
    assert any("calibrated 1 of 1 label(s) on 100 images" in note for note in fitted.notes)
    assert fitted.facts.images == 200


def test_calibration_lowers_the_error_of_the_probabilities_it_was_fitted_on() -> None:
    x, y = separable(600)
    data = made(x, y, ONE)
    fitted = fit(data, tiny(train={"steps": 60, "valid_fraction": 0.4}, model={"width": 32}), quiet=True)
    _, held = hold_out(data, fitted.plan)
    assert len(held) == 240

    def nll(calibrated: bool) -> float:
        logits = predict_logits(fitted.model, x[held]).double()
        log_q = fitted.model.log_probabilities(logits, calibrated)
        return float(-log_q[torch.arange(len(held)), torch.from_numpy(y[held])].mean())

    assert nll(True) < nll(False)


def test_the_note_does_not_claim_a_calibration_that_was_not_possible() -> None:
    y = some_known(known=60)
    split = np.where(np.arange(60) < 40, "train", "valid")
    fitted = fit(vectors(y, split=split), tiny(), quiet=True)
    assert float(fitted.model.temperature) == 1
    assert fitted.notes[0].startswith("not calibrated: 40 annotated images are too few")
    assert fitted.notes[1:] == [fitted.model.ood.describe()]


@pytest.mark.parametrize("quiet", [False, True])
def test_what_is_not_calibrated_is_among_the_notes(quiet: bool) -> None:
    notes = fit(vectors(some_known()), tiny(train={"steps": 2}), quiet=quiet).notes
    assert "not calibrated: no label has 30 annotated images, the least for a temperature" in notes


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, []),
        ({"folds": 3}, ["--train.folds 3 has no effect"]),
        ({"valid_fraction": 0.2}, ["--train.valid_fraction 0.2 has no effect"]),
    ],
)
def test_what_a_valid_part_leaves_without_effect_is_said(asked: dict[str, Any], said: list[str]) -> None:
    split = np.where(np.arange(60) < 30, "train", "valid")
    for data, notes in ((vectors(some_known(60, 60), split=split), said), (vectors(some_known(60, 60)), [])):
        fitted = fit(data, tiny(train={"steps": 2, **asked}), quiet=True)
        want = [f'{sentence}: the "valid" part of made is held out instead' for sentence in notes]
        assert [note for note in fitted.notes if "no effect" in note] == want


def test_what_is_held_out_is_annotated_and_the_rest_is_trained_on() -> None:
    data = vectors(some_known(100, 40))
    plan = Plan(train=TrainPlan(valid_fraction=0.25))
    kept, held = hold_out(data, plan)
    assert len(held) == 10
    assert data.annotation.observed[held].all()
    assert sorted([*kept, *held]) == list(range(100))
    assert np.bincount(some_known(100, 40)[held]).min() >= 3  # stratified
    again = hold_out(data, plan)
    assert np.array_equal(again[1], held)
    assert len(hold_out(data, Plan())[1]) == 0
    assert len(hold_out(vectors(some_known(100, 0)), plan)[1]) == 0  # nothing to calibrate on


def test_groups_that_cannot_be_spared_are_not_held_out() -> None:
    plan = Plan(train=TrainPlan(valid_fraction=0.1))
    for groups, held in ((1, 0), (3, 0), (8, 50), (40, 40)):
        data = vectors(some_known(400, 400), groups=np.arange(400) % groups)
        assert len(hold_out(data, plan)[1]) == pytest.approx(held, abs=1)


def test_groups_that_fall_short_of_a_calibration_are_not_held_out() -> None:
    plan = Plan(train=TrainPlan(valid_fraction=0.1))
    for size, held in ((28, 0), (31, 31)):  # 30 annotations are the least to judge by
        groups = np.repeat(np.arange(11), size)
        data = vectors(some_known(len(groups), len(groups)), groups=groups)
        kept, found = hold_out(data, plan)
        assert (len(kept), len(found)) == (11 * size - held, held)


@pytest.mark.parametrize("seed", range(3))
def test_no_group_is_on_both_sides(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 20, 100)
    data = vectors(np.where(rng.random(100) < 0.5, rng.integers(0, 3, 100), -1), groups=groups)
    kept, held = hold_out(data, Plan(train=TrainPlan(valid_fraction=0.3), seed=seed))
    assert len(held) > 10
    assert not set(groups[kept]) & set(groups[held])


def test_a_valid_part_without_annotations_is_learnt_from() -> None:
    y = some_known(60, 40)
    data = vectors(y, split=np.where(y >= 0, "train", "valid"))
    assert not own_valid(data).any()
    plan = plan_of(data)
    assert plan.train.folds == FOLDS
    kept, held = hold_out(data, plan)
    assert (len(kept), len(held)) == (60, 0)


@pytest.mark.parametrize(("judges", "folds"), [(29, FOLDS), (30, 0)])
def test_a_valid_part_too_small_to_calibrate_on_leaves_it_to_folds(judges: int, folds: int) -> None:
    data = vectors(np.arange(90) % 3, split=np.where(np.arange(90) < judges, "valid", "train"))
    assert plan_of(data).train.folds == folds
    if folds:
        fitted = fit(data, tiny(train={"folds": 2}), quiet=True)
        assert any(f"on {90 - judges} images, each by one of 2 more trainings" in note for note in fitted.notes)
        assert not any("has no effect" in note for note in fitted.notes)


def test_a_share_is_held_out_beside_a_valid_part_that_is_too_small() -> None:
    data = images(some_known(420, 420), split=np.where(np.arange(420) < 20, "valid", "train"))
    plan = plan_of(data)
    kept, held = hold_out(data, plan)
    assert (plan.train.valid_fraction, len(held)) == (0.1, 20 + 40)
    assert set(range(20)) < set(held.tolist())
    assert not set(kept) & set(held)


def test_a_valid_part_is_held_out_as_it_is() -> None:
    split = ["train", "valid", "train", "train", "valid", "valid"]
    kept, held = hold_out(vectors(some_known(6, 6), groups=list("aabbcc"), split=split), Plan())
    assert (kept.tolist(), held.tolist()) == ([0, 2, 3], [1, 4, 5])


def test_holding_out_the_only_annotations_of_a_label_is_refused() -> None:
    y = np.array([[0.0, NAN]] * 10 + [[NAN, 1.0]])
    data = vectors(y, SEVERAL, split=["train"] * 10 + ["valid"])
    with pytest.raises(
        DataError, match="all annotations of 'b' are in the \"valid\" part of made, so that there is nothing"
    ):
        fit(data, tiny(), quiet=True)


# --- the budget ---------------------------------------------------------------------------------------------


def test_a_budget_sets_the_steps_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taut.budget.step_seconds", lambda *_: 0.02)
    data = vectors(some_known())
    fitted = fit(data, tiny(), minutes=0.05, quiet=True)
    assert fitted.plan.train.steps == fitted.result.steps == 135  # 0.9 · 3 s / 0.02 s
    want = "a step takes 20.0 ms here, so that 135 steps fit into 90% of 0.05 minutes; the schedules are fitted to them"
    assert want in fitted.notes


def test_a_budget_that_is_too_small_is_not_called_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taut.budget.step_seconds", lambda *_: 1.0)
    data, plan = vectors(some_known()), Plan()
    sentence = fit_to_budget(data, plan, fingerprint(data), 0.1)
    assert plan.train.steps == 20
    assert "only 5 steps fit" in sentence
    assert "20 are taken all the same" in sentence


@pytest.mark.parametrize(
    ("minutes", "rows"),
    # 576 rows are encoded in half a second. 4,000 annotated images fifty times are 3,125 steps.
    [(60.0, 256), (10.0, (576 * 0.9 * 600 / 3125 / 0.5 - 64) // 2), (0.5, 4)],
)
def test_images_without_annotation_take_the_time_that_the_annotated_ones_leave(
    minutes: float, rows: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []

    def step(dataset: Dataset, plan: Plan, *_: Any) -> float:
        measured.append(plan.train.batch_unlabelled)
        return 0.5 if plan.train.batch_unlabelled == 256 else 0.1

    monkeypatch.setattr("taut.budget.step_seconds", step)
    data = images(some_known())
    few = fingerprint(data)
    facts = dataclasses.replace(few, images=50_000, annotated_images=4000, fully_annotated_images=4000)
    plan = make_plan(facts)
    plan.train.folds = 0
    said = fit_to_budget(data, plan, facts, minutes)
    assert plan.train.batch_unlabelled == rows
    assert measured == ([256] if rows == 256 else [256, rows])
    assert ("for more of which time is short" in said) == (rows < 256)
    assert plan.train.steps == pytest.approx(54 * minutes / (0.5 if rows == 256 else 0.1), abs=5)
    # What somebody chose stays; and with few annotations there is time for all.
    plan = make_plan(facts)
    fit_to_budget(data, plan, facts, minutes, chosen=True)
    assert plan.train.batch_unlabelled == 256
    plan = make_plan(dataclasses.replace(facts, annotated_images=40, fully_annotated_images=40))
    fit_to_budget(data, plan, dataclasses.replace(facts, annotated_images=40, fully_annotated_images=40), minutes)
    assert plan.train.batch_unlabelled == 256


def test_a_long_budget_takes_no_more_than_twenty_times_the_steps_where_nothing_judges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("taut.budget.step_seconds", lambda *_: 0.01)
    monkeypatch.setattr("taut.budget.look_seconds", lambda *_: 0.0)
    data = vectors(some_known(60, 40))
    for planned, folds, steps in ((400, 0, 10_000), (400, 3, 10_000), (600, 0, 12_000)):
        plan = Plan()
        plan.train.steps, plan.train.folds = planned, folds
        said = fit_to_budget(data, plan, fingerprint(data), 60.0)
        assert (plan.train.steps, plan.train.folds) == (steps, folds)
        each = " in each of 4 trainings" if folds else ""
        assert f"324000 steps fit into 90% of 60 minutes; {steps} are taken{each}, the most where no" in said
        fit_to_budget(data, plan, fingerprint(data), 0.5)
        assert plan.train.steps == 2700 // (1 + folds)
    fit_to_budget(data, plan, fingerprint(data), 60.0, data)  # looks say when to stop
    assert plan.train.steps == 324_000


@pytest.mark.parametrize(("look", "looks", "steps"), [(0.05, 16, 95), (0.5, 1, 110), (2.0, 0, 135)])
def test_looks_are_paid_for_from_the_budget(
    look: float, looks: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taut.budget.step_seconds", lambda *_: 0.02)
    monkeypatch.setattr("taut.budget.look_seconds", lambda *_: look)
    data, plan = vectors(some_known()), Plan()
    sentence = fit_to_budget(data, plan, fingerprint(data), 0.05, data)
    assert (plan.train.looks, plan.train.steps) == (looks, steps)  # 2.7 s, of which looks take at most 0.9 s
    fewer = f" and a look {1000 * look:.0f} ms, of which {looks} in place of 16 are taken" if looks < 16 else ""
    assert f"a step takes 20.0 ms here{fewer}, so that {steps} steps fit into 90% of 0.05 minutes" in sentence


def test_the_time_of_a_look_is_measured_where_there_are_looks() -> None:
    data = vectors(some_known(known=30))
    facts = fingerprint(data)
    plan = tiny()(make_plan(facts))
    assert 1e-5 < look_seconds(data, data, plan, facts) < 5
    assert look_seconds(data, vectors(some_known(known=29)), plan, facts) == 0
    plan.train.looks = 0
    assert look_seconds(data, data, plan, facts) == 0


def test_what_is_known_before_the_training_is_told_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    usual = Looks.due

    def due(self: Looks, step: int, steps: int) -> bool:
        events.append(f"step {step}")
        return usual(self, step, steps)

    monkeypatch.setattr(Looks, "due", due)
    monkeypatch.setattr("taut.budget.step_seconds", lambda *_: 0.01)
    monkeypatch.setattr("taut.budget.look_seconds", lambda *_: 0.0)
    y = np.full((80, 2), NAN)
    y[:20] = y[50:] = 1
    data = vectors(y, SEVERAL, split=np.repeat(["train", "valid"], [50, 30]))
    data.notes = ["1 image is left out."]
    fitted = fit(data, tiny(train={"folds": 2}), minutes=0.01, quiet=True, tell=events.append)
    told = [event for event in events if not event.startswith("step ")]
    assert fitted.notes == data.notes + told
    beginnings = (
        "Nearly all observed cells are positive: a (20 of 20)",
        "--train.folds 2 has no",
        "a step takes 10.0 ms",
    )
    for event, beginning in zip(events, (*beginnings, "step 1"), strict=False):
        assert event.startswith(beginning)
    assert [event for event in events[events.index("step 1") :] if event in told] == told[3:]
    assert any("calibrated" in note for note in told[3:])


@pytest.mark.parametrize("minutes", [0.0, -1.0, NAN, float("inf")])
def test_a_budget_is_positive(minutes: float) -> None:
    with pytest.raises(ValueError, match=r"--minutes .* is not a positive number"):
        fit(vectors(some_known()), tiny(), minutes=minutes, quiet=True)


def test_the_time_of_a_step_is_measured_on_a_copy() -> None:
    data = vectors(some_known())
    facts = fingerprint(data)
    plan = tiny()(make_plan(facts))
    assert 1e-5 < step_seconds(data, plan, facts) < 5
    assert plan.train.steps == 6


@pytest.mark.parametrize(
    ("total", "early"), [(None, 0.15), (400.0, 0.15), (40.0, round(20 * 100 / 64) / 200), (4.0, 0.5), (0.0, 0.5)]
)
def test_steps_before_estimates_count_are_timed_by_themselves(
    total: float | None, early: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An onset that few steps put off, as the measured ones would, made steps seem cheaper than they are."""
    data = images(some_known())
    facts = dataclasses.replace(fingerprint(data), images=60_000, annotated_images=100, fully_annotated_images=100)
    plan = make_plan(facts)
    plan.train.steps = 2000
    seen = []

    def timed(model: Any, objective: Any, stream: Any, short: Plan, **_: Any) -> Any:
        begin, full = objective.onset
        assert begin in (0, short.train.steps)
        assert full == begin
        seen.append(short.train.steps)
        return SimpleNamespace(step_seconds=0.1 if begin else 0.2)

    monkeypatch.setattr("taut.budget.train", timed)
    found = step_seconds(data, plan, facts, math.inf, total)
    assert found == pytest.approx(0.2 - 0.1 * early, abs=1e-6)
    assert seen == [6, 20]
    step_seconds(data, plan, facts, 1.0, total)
    assert seen == [6, 20, 6, 6]
    assert (plan.train.steps, plan.objective.onset) == (2000, 0.15)


@pytest.mark.parametrize("others", [None, 30])
def test_only_who_names_the_images_without_annotation_chooses_them(
    others: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a tenth is held out, the plan of the rest would have others, and nobody has chosen those."""
    data = images(some_known(900, 400))
    said: list[bool] = []

    def stop(*arguments: Any) -> str:
        said.append(arguments[5])
        raise DataError("enough")

    monkeypatch.setattr("taut.fit.fit_to_budget", stop)

    def change(plan: Plan) -> Plan:
        return plan if others is None else override(plan, {"train.batch_unlabelled": others}, "test")

    assert plan_of(data).train.valid_fraction > 0
    with pytest.raises(DataError, match="enough"):
        fit(data, change, minutes=1.0, quiet=True)
    assert said == [others is not None]


# --- the weight of annotated images -------------------------------------------------------------------------


def weight(y: Any, space: LabelSpace, labelled: int, unlabelled: int) -> float:
    settings = TrainPlan(batch_labelled=labelled, batch_unlabelled=unlabelled)
    return dilution(settings, fingerprint(vectors(y, space)))


def test_the_default_weight_undoes_the_dilution_of_annotated_rows() -> None:
    assert weight(some_known(60, 12), ONE, 64, 256) == 5  # 64 of 320 rows
    assert weight(some_known(60, 60), ONE, 64, 256) == 1  # there are no unlabelled rows
    assert weight(some_known(60, 0), ONE, 64, 256) == 1
    partly = np.tile([[1.0, NAN], [NAN, 0.0]], (30, 1))
    assert weight(partly, SEVERAL, 0, 128) == 1
    partly[0] = 1.0  # one complete image must not give the others a weight of 128
    assert weight(partly, SEVERAL, 1, 127) == 1
    partly[30:] = NAN  # 29 partly annotated ones among the 59 incomplete ones
    assert weight(partly, SEVERAL, 8, 118) == pytest.approx(126 / (8 + 118 * 29 / 59))


@pytest.mark.parametrize("share", [None, 0.2])
def test_every_annotated_row_is_counted_in_real_batches(share: float | None) -> None:
    data = vectors(cells(80, 0.4), SEVERAL)
    data = dataclasses.replace(data, annotation=draw_fraction(data, 0.6, 0))
    settings = TrainPlan(batch_labelled=10, batch_unlabelled=30, unannotated=share)
    stream = Stream(data, Plan().augment, 10, 30, 0, unannotated=share)
    rows = np.concatenate([stream.rows(step) for step in range(200)])
    annotated = data.annotation.observed.any(axis=1)[rows].mean()
    assert dilution(settings, fingerprint(data)) == pytest.approx(1 / annotated, rel=0.02)


def test_a_budget_without_time_for_folds_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taut.budget.step_seconds", lambda *_: 0.01)
    notes = fit(vectors(some_known(120, 90)), tiny(train={"folds": 3}), minutes=0.01, quiet=True).notes
    assert "not calibrated: the budget leaves no time for folds, and more --minutes do" in notes

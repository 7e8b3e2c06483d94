"""Cross-fitting: calibration on logits of trainings that the annotations were hidden from."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from conftest import Array
from taut import cli
from taut.build import build_model
from taut.data.cells import UNCERTAIN, CellPolicy
from taut.data.dataset import DataError, Dataset
from taut.data.split import deal_folds, fold_count
from taut.data.stream import Stream
from taut.estimator import TautClassifier
from taut.evaluate.metrics import evaluate
from taut.evaluate.predict import predict_logits
from taut.facts import fingerprint
from taut.fit import Fitted, fit, plan_of, resume
from taut.folds import cross_fit, hide_fold
from taut.labels import Annotation
from taut.nn.vae import LabelVAE
from taut.objective import Batch
from taut.plan import Plan, override
from taut.run import Run
from taut.train import TrainingError
from tiny import NAN, ONE, SEVERAL, cells, equal, images, made, some_known, tiny, vectors

pytestmark = pytest.mark.usefixtures("one_thread")


def noisy(n: int, seed: int, known: int | None = None, features: int = 20) -> Dataset:
    """Three classes of which a third of the annotations are wrong: a net that learns them by heart is too sure."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = np.concatenate([1.5 * np.eye(3)[y], np.zeros((n, features - 3))], axis=1) + rng.normal(size=(n, features))
    y = np.where(rng.random(n) < 1 / 3, rng.integers(0, 3, n), y)
    y[n if known is None else known :] = -1
    return made(x.astype(np.float32), y, ONE)


def counted(monkeypatch: pytest.MonkeyPatch, stop: int | None = None) -> list[int]:
    """The steps of all batches that are made; Ctrl-C before batch number `stop`, counted over all trainings."""
    made_batches: list[int] = []
    usual = Stream.batch

    def batch(self: Stream, step: int, *rest: Any) -> Batch:
        if len(made_batches) == stop:
            raise KeyboardInterrupt
        made_batches.append(step)
        return usual(self, step, *rest)

    monkeypatch.setattr(Stream, "batch", batch)
    return made_batches


# --- dealing ------------------------------------------------------------------------------------------------


def test_folds_hold_every_annotated_image_once_and_are_stratified() -> None:
    data = vectors(some_known(200, 90))
    parts = deal_folds(data, 5, 0)
    assert (parts[90:] == -1).all()
    counts = np.zeros((5, 3))
    np.add.at(counts, (parts[:90], np.arange(90) % 3), 1)
    assert (counts == 6).all()
    assert np.array_equal(deal_folds(data, 5, 0), parts)
    assert not np.array_equal(deal_folds(data, 5, 1), parts)


def test_a_rare_class_of_one_label_among_several_is_spread() -> None:
    y = cells(100, 0.8, labels=2)
    y[:, 1] = np.where(np.arange(100) % 10 == 0, 1.0, 0.0)
    parts = deal_folds(vectors(y, SEVERAL), 5, 0)
    assert np.bincount(parts[y[:, 1] == 1], minlength=5).tolist() == [2] * 5


def test_groups_and_images_of_the_same_pixels_are_in_one_fold() -> None:
    data = images(np.arange(60) % 3, groups=np.arange(60) // 6)
    data.x[59] = data.x[0]
    parts = deal_folds(data, 3, 0)
    assert all(len(set(parts[data.groups == group])) == 1 for group in range(10))
    assert parts[59] == parts[0]
    assert set(parts) == {0, 1, 2}


def test_no_more_folds_than_images_that_may_be_apart() -> None:
    data = vectors(some_known(60, 12))
    assert [fold_count(data, n) for n in (0, 5, 12, 20)] == [0, 5, 12, 12]
    assert fold_count(vectors(some_known(60, 12), groups=np.arange(60) // 4), 5) == 3
    assert fold_count(vectors(some_known(60, 12), groups=np.arange(60) // 12), 5) == 0
    assert fold_count(vectors(some_known(60, 0)), 5) == 0


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 6), *[st.sampled_from([0.0, 1.0, NAN])] * 2), min_size=2),
    st.integers(2, 6),
    st.integers(0, 3),
)
def test_no_fold_is_empty(rows: list[tuple[int, float, float]], wanted: int, seed: int) -> None:
    data = vectors(np.array([row[1:] for row in rows]), SEVERAL, groups=[row[0] for row in rows])
    folds = fold_count(data, wanted)
    annotated = data.annotation.observed.any(axis=1)
    assert data.groups is not None
    apart = len(np.unique(data.groups[annotated]))
    assert folds == (min(wanted, apart) if apart > 1 else 0)
    if folds:
        parts = deal_folds(data, folds, seed)
        assert set(parts[annotated]) == set(range(folds))
        assert (parts[~annotated] == -1).all()


# --- what a fold may know -----------------------------------------------------------------------------------


def test_a_fold_s_annotations_are_hidden_and_its_images_stay() -> None:
    data = vectors(some_known())
    ignored = np.zeros((60, 1), dtype=bool)
    ignored[20] = True
    data = dataclasses.replace(data, annotation=dataclasses.replace(data.annotation, ignored=ignored))
    parts = deal_folds(data, 3, 0)
    hidden = hide_fold(data, parts, 1)
    assert hidden.x is data.x
    assert np.isnan(hidden.annotation.targets[parts == 1]).all()
    assert np.array_equal(hidden.annotation.observed[:, 0], (parts == 0) | (parts == 2))
    assert hidden.annotation.ignored is ignored


def out_of_fold(data: Dataset, parts: Array, path: Path, monkeypatch: pytest.MonkeyPatch) -> Array:
    run = Run.create(path)
    monkeypatch.setattr("taut.fit.deal_folds", lambda *_: parts)
    fit(data, tiny(train={"folds": 3, "steps": 12}, model={"width": 8}), run=run, quiet=True)
    kept = run.load_folds()
    assert kept is not None
    assert np.array_equal(kept[0], parts)
    return kept[1]


@pytest.mark.parametrize("several", [False, True])
def test_the_annotations_of_a_fold_change_no_bit_of_its_logits(
    several: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = vectors(cells(), SEVERAL) if several else vectors(some_known(60, 30))
    parts = deal_folds(data, 3, 0)
    first = out_of_fold(data, parts, tmp_path / "first", monkeypatch)
    targets = data.annotation.targets.copy()
    for block in data.space.blocks:  # another class of each label, but for the middle one of three
        targets[parts == 0, block] = targets[parts == 0, block][:, ::-1]
    changed = dataclasses.replace(data, annotation=Annotation(targets, data.annotation.observed))
    second = out_of_fold(changed, parts, tmp_path / "second", monkeypatch)
    assert np.isfinite(first[parts >= 0]).all()
    assert np.array_equal(first[parts == 0], second[parts == 0])
    # The test can fail: they are known to the trainings of the other folds.
    assert not np.isclose(first[parts == 1], second[parts == 1]).all()


def test_a_label_that_only_one_fold_annotates_is_not_judged() -> None:
    y = np.tile([[0.0, NAN], [1.0, NAN]], (10, 1))
    y[4, 1] = y[5, 1] = 1.0
    data = vectors(y, SEVERAL)
    parts = np.arange(20) // 10
    model = build_model(data, plan_of(data, tiny()), fingerprint(data))
    held, logits = cross_fit(data, parts, lambda *_: model)
    assert held.annotation.observed.tolist() == [[True, False]] * 20
    assert np.isnan(held.annotation.targets[:, 2:]).all()
    torch.testing.assert_close(logits, predict_logits(model, data.x))
    y[15, 1] = 0.0
    held, _ = cross_fit(vectors(y, SEVERAL), parts, lambda *_: model)
    assert not held.annotation.observed[:, 1].any()  # each fold has a class of its own


def test_a_class_that_only_one_fold_has_is_not_judged() -> None:
    y = some_known(40, 30)
    y[30] = 2
    y[y == 2] = 0
    y[4] = 2  # the only one of its class
    data, parts = vectors(y), np.where(y >= 0, np.arange(40) // 10, -1)
    model = build_model(data, plan_of(data, tiny()), fingerprint(data))
    held, _ = cross_fit(data, parts, lambda *_: model)
    kept = held.annotation.observed[:, 0]
    assert np.flatnonzero(~kept).tolist() == [4]
    assert (held.annotation.targets[kept].argmax(axis=1) < 2).all()


# --- what is calibrated -------------------------------------------------------------------------------------


def test_the_temperature_is_that_of_pooled_logits_of_plain_trainings() -> None:
    data = noisy(150, 0, known=90)
    fitted = fit(data, tiny(train={"folds": 3, "steps": 40}, model={"width": 16}), quiet=True)
    parts = deal_folds(data, 3, fitted.plan.seed)
    plain = copy.deepcopy(fitted.plan)
    plain.train.folds = 0
    classes = np.nan_to_num(data.annotation.targets).argmax(axis=1)
    pooled, truth = [], []
    for fold in range(3):
        y = np.where((parts == fold) | (parts < 0), -1, classes)
        other = fit(made(data.x, y, ONE), lambda _: copy.deepcopy(plain), quiet=True)
        assert float(other.model.temperature) == 1
        mine = np.flatnonzero(parts == fold)
        pooled.append(predict_logits(other.model, data.x[mine]).double().numpy())
        truth.append(classes[mine])
    logits, true = np.concatenate(pooled), np.concatenate(truth)
    prior = fitted.model.log_prior.double().numpy()

    def loss(log_t: float) -> float:
        log_q = log_softmax(prior + (logits - prior) * np.exp(-log_t), axis=1)
        return float(-log_q[np.arange(90), true].sum() + 0.5 * (log_t / 0.5) ** 2)

    want = np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-8}).x)
    assert abs(want - 1) > 0.02
    assert float(fitted.model.temperature) == pytest.approx(want, rel=1e-3)
    said = "on 90 images, each by one of 3 more trainings that its annotations were hidden from"
    assert f"calibrated 1 of 1 label(s) {said}" in fitted.notes
    # All else is the model that is trained without folds.
    alone = fit(data, lambda _: copy.deepcopy(plain), quiet=True).model
    alone.temperature.copy_(fitted.model.temperature)
    assert equal(alone, fitted.model)


def test_the_time_of_folds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([1000.0, 8000.0])
    monkeypatch.setattr("taut.fit.time", SimpleNamespace(perf_counter=lambda: next(moments)))
    fitted = fit(noisy(60, 0, known=40), tiny(train={"folds": 2}), quiet=True)
    assert 7000 < fitted.result.seconds < 8000


def test_folds_mend_what_an_overconfident_net_says_of_new_rows() -> None:
    new = noisy(1500, 1)
    change: dict[str, Any] = {
        "train": {"steps": 150, "ema": 0.9, "batch_unlabelled": 32},
        "model": {"width": 64},
        "objective": {"adversary": 0.0},  # which leaves less overconfidence to mend
    }

    def judged(folds: int) -> dict[str, Any]:
        sections = {**change, "train": {**change["train"], "folds": folds}}
        return evaluate(fit(noisy(120, 0, known=60), tiny(**sections), quiet=True).model, new)

    plain, folded = judged(0), judged(3)
    assert folded["error"] == pytest.approx(plain["error"], abs=0.5)  # but for ties with the prior
    assert plain["ece"] > 0.15
    assert folded["nll"] < plain["nll"] - 0.1
    assert folded["ece"] < 0.6 * plain["ece"]


def test_thresholds_and_isotonic_maps_come_from_the_folds_too() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 4)).astype(np.float32)
    y = (x[:, :2] + rng.normal(size=(200, 2)) > 1).astype(float)
    train = {"folds": 2, "steps": 30, "calibration": "isotonic"}
    model = fit(made(x, y, SEVERAL), tiny(train=train, model={"width": 16}), quiet=True).model
    assert model.isotonic is not None
    assert (model.threshold != 0.5).all()
    none = {"folds": 2, "calibration": "none", "threshold": "half"}
    assert fit(made(x, y, SEVERAL), tiny(train=none), quiet=True).plan.train.folds == 0  # nothing is to be fitted


def test_uncertain_cells_judge_no_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[Dataset] = []

    def keep(model: LabelVAE, logits: Any, held: Dataset, *_: Any) -> str:
        judged.append(held)
        return "kept"

    monkeypatch.setattr("taut.fit.calibrate_on", keep)
    data = vectors(cells(60, 1.0), SEVERAL)
    codes = np.where(np.arange(120).reshape(60, 2) % 7 == 0, UNCERTAIN, 1).astype(np.int16)
    data = dataclasses.replace(data, cells=codes, policy=CellPolicy(uncertain="positive"))
    fitted = fit(data, tiny(train={"folds": 2, "steps": 2}), quiet=True)
    assert "kept" in fitted.notes
    assert np.array_equal(judged[0].annotation.observed, codes != UNCERTAIN)


def test_images_that_are_held_out_come_before_folds() -> None:
    split = np.where(np.arange(120) < 60, "train", "valid")
    fitted = fit(vectors(some_known(120, 120), split=split), tiny(train={"steps": 2, "folds": 3}), quiet=True)
    assert fitted.plan.train.folds == 0
    assert any("60 images that were held out" in note for note in fitted.notes)
    planned = plan_of(vectors(some_known(120, 120)), lambda plan: override(plan, {"train.valid_fraction": 0.5}, "test"))
    assert (planned.train.folds, planned.train.valid_fraction) == (0, 0.5)


def test_one_group_is_no_reason_to_fail() -> None:
    fitted = fit(vectors(some_known(60, 40), groups=["a"] * 60), tiny(train={"steps": 2, "folds": 3}))
    assert fitted.plan.train.folds == 0
    assert "not calibrated: all annotated images are of one group, of which none can be held out" in fitted.notes


def test_the_note_names_the_flag_that_would_calibrate() -> None:
    notes = fit(images(some_known(60, 40)), tiny(train={"steps": 2})).notes
    assert any(
        "40 annotated images are too few, or in too few groups, to hold some out; --train.folds 3 calibrates" in note
        for note in notes
    )
    notes = fit(images(some_known(60, 29)), tiny(train={"steps": 2})).notes
    assert "not calibrated: no label has 30 annotated images, the least for a temperature" in notes


# --- time, and interruptions --------------------------------------------------------------------------------


def budgeted(monkeypatch: pytest.MonkeyPatch, step: float) -> tuple[Fitted, list[int]]:
    monkeypatch.setattr("taut.budget.step_seconds", lambda *_: step)
    batches = counted(monkeypatch)
    return fit(vectors(some_known(60, 40)), tiny(train={"folds": 3}), minutes=0.01, quiet=True), batches


def test_all_trainings_share_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, batches = budgeted(monkeypatch, 0.0012)  # 450 of them are 0.54 s
    assert fitted.plan.train.steps == 112
    assert batches == [*range(112)] * 4
    assert fitted.notes[0] == (
        "a step takes 1.2 ms here, so that 4 trainings of 112 steps fit into 90% of 0.01 minutes, one to keep and 3 to "
        "calibrate on; the schedules are fitted to them"
    )


def test_a_budget_too_small_to_share_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, batches = budgeted(monkeypatch, 0.00151)
    assert (fitted.plan.train.folds, fitted.plan.train.steps) == (0, 357)
    assert batches == [*range(357)]
    assert "357 steps fit into 90% of 0.01 minutes, too few to share with 3 folds; the" in fitted.notes[0]


@pytest.mark.parametrize(("stop", "left"), [(3, 24), (15, 6 + 6), (24, 0)], ids=["kept model", "second fold", "end"])
def test_a_resumed_run_trains_the_folds_that_it_lacks(
    stop: int, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, change = vectors(some_known(60, 40)), tiny(train={"folds": 3})
    want = fit(data, change, quiet=True)
    run = Run.create(tmp_path / "run")
    with monkeypatch.context() as patch:
        counted(patch, stop)
        if stop < 24:
            with pytest.raises(KeyboardInterrupt):
                fit(data, change, run=run, quiet=True)
            assert not (run.path / "model.safetensors").exists()
        else:
            fit(data, change, run=run, quiet=True)
    batches = counted(monkeypatch)
    got = resume(data, run, quiet=True)
    assert len(batches) == left
    assert equal(got.model, want.model)
    assert got.plan == want.plan
    assert [row["step"] for row in run.metrics()] == [6]  # folds do not log
    assert equal(run.load_model(), want.model)


def test_damaged_folds_are_named(tmp_path: Path) -> None:
    data, run = vectors(some_known(60, 40)), Run.create(tmp_path / "run")
    fit(data, tiny(train={"folds": 2, "steps": 2}), run=run, quiet=True)
    (run.path / "folds.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(DataError, match=r"folds\.npz is damaged"):
        resume(data, run, quiet=True)
    # Of another number of folds they are trained again.
    run.save_folds(np.zeros(60, dtype=np.intp), np.zeros((60, 3), dtype=np.float32))
    resume(data, run, quiet=True)
    kept = run.load_folds()
    assert kept is not None
    assert set(kept[0]) == {-1, 0, 1}


def test_a_fold_that_fails_loses_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise TrainingError("step 3: the loss term 'kl_z' is nan")

    monkeypatch.setattr("taut.fit.cross_fit", fails)
    fitted = fit(vectors(some_known(60, 40)), tiny(train={"folds": 2, "steps": 2}), quiet=True)
    assert float(fitted.model.temperature) == 1
    assert "not calibrated: a training with some annotations hidden failed, step 3: the loss term" in fitted.notes[0]


def test_the_plan_says_how_many_folds_there_will_be() -> None:
    grouped = vectors(some_known(60, 40), groups=np.arange(60) // 20)
    assert plan_of(grouped).train.folds == 2
    assert plan_of(vectors(some_known(60, 40))).train.folds == 3
    assert Plan().train.folds == 0  # as in plans of before


def test_the_plan_command_says_what_calibrates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = noisy(60, 0, known=40)
    y = np.where(data.annotation.observed[:, 0], np.nan_to_num(data.annotation.targets).argmax(axis=1), -1)
    np.savez(tmp_path / "pack.npz", x=data.x, y=y)
    pack = str(tmp_path / "pack.npz")
    cli.main(["plan", pack])
    assert "calibration: 3 more trainings, each with a fold of the annotations hidden" in capsys.readouterr().out
    cli.main(["plan", pack, "--train.folds", "0"])
    assert "--train.folds 3 calibrates on 3 more trainings" in capsys.readouterr().out
    cli.main(["plan", pack, "--train.valid_fraction", "0.3"])
    shown = capsys.readouterr().out
    assert "not calibrated: 40 annotated images are too few" in shown  # twelve are held out
    assert "folds: 0" in shown
    cli.main(["plan", pack, "--train.valid_fraction", "0.8"])
    assert "calibrat" not in capsys.readouterr().out.split("model:")[0]
    with pytest.raises(SystemExit):
        cli.main(["plan", pack, "--train.folds", "1"])
    assert "train.folds 1 hides all annotations at once" in capsys.readouterr().err


def test_the_estimator_calibrates_on_folds() -> None:
    data = noisy(60, 0)
    y = data.annotation.targets.argmax(axis=1)
    small = {"train.steps": 5, "model.width": 8, "model.decoder_width": 8}
    fitted = TautClassifier(plan={**small, "train.folds": 2}, random_state=0).fit(data.x, y)
    assert float(fitted.model_.temperature) != 1
    assert any("2 more trainings" in note for note in fitted.notes_)
    again = TautClassifier(plan={**small, "train.folds": 2}, random_state=0).fit(data.x, y)
    assert np.array_equal(again.predict_proba(data.x), fitted.predict_proba(data.x))

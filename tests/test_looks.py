"""Held-out annotations choose which weights of a training are kept."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

import taut.looks
from taut.build import build_model
from taut.data.split import hide
from taut.evaluate.calibration import SPREAD, cell_nll
from taut.evaluate.predict import predict_logits
from taut.fit import fit
from taut.looks import Looks, held_out_nll, recalibrated
from taut.nn.vae import LabelVAE
from taut.run import Run, load_about
from tiny import ONE, SEVERAL, equal, made, tiny, vectors


def small_model(data: Any) -> LabelVAE:
    """A fresh model for a dataset."""
    fitted = fit(data, tiny(train={"steps": 1}), quiet=True)
    return build_model(data, fitted.plan, fitted.facts)


# --- the rule -----------------------------------------------------------------------------------------------

SAME, WORSE = [0.0, 0.0, 0.0, 0.0], [0.4, 0.1, 0.3, 0.2]  # mean 0.25, two standard errors 0.11
UNCLEAR = [0.9, -0.6, 0.5, -0.4]  # mean 0.1, two standard errors 0.62
BAD = [float("nan"), 0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("differences", "kept"),
    [
        ([SAME], 1),
        ([SAME, SAME, SAME], 3),
        ([SAME, WORSE, WORSE], 1),
        ([SAME, UNCLEAR, WORSE], 2),
        ([WORSE, SAME, WORSE, UNCLEAR], 4),
        ([SAME, BAD], 1),
        ([BAD, SAME, BAD], 2),
        ([BAD, BAD], 0),
    ],
)
def test_the_latest_look_that_is_not_clearly_worse_than_the_best_is_kept(
    differences: list[list[float]], kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = vectors([0, 1, 2, 0])
    model = small_model(data)
    looks = Looks(model, data, 4)
    told = iter(torch.tensor(differences) + 1.0)
    monkeypatch.setattr(taut.looks, "held_out_nll", lambda *_: next(told))
    for step in range(1, len(differences) + 1):
        with torch.no_grad():
            next(model.parameters()).fill_(float(step))
        looks.look(model, step)
    assert int(looks.step) == kept
    if kept:
        assert float(next(looks.kept.parameters()).flatten()[0]) == kept


def test_images_of_one_patient_vary_together() -> None:
    """Two images of each of four patients that are alike tell no more than one of each."""
    values = torch.tensor([0.4, 0.1, 0.3, 0.2])
    model = small_model(vectors([0, 1, 2, 0]))
    alone = Looks(model, vectors([0, 1, 2, 0]), 4)
    pairs = Looks(model, vectors([0, 0, 1, 1, 2, 2, 0, 0], groups=list("aabbccdd")), 4)
    own = Looks(model, vectors([0, 0, 1, 1, 2, 2, 0, 0]), 4)
    error = float(alone._standard_error(values))
    assert error == pytest.approx(float(values.std(correction=0)) / 2)
    assert float(pairs._standard_error(values.repeat_interleave(2))) == pytest.approx(error * (4 / 3) ** 0.5)
    one = Looks(model, vectors([0, 1, 2, 0], groups=["a"] * 4), 4)
    assert float(one._standard_error(values)) == float("inf")
    assert float(own._standard_error(values.repeat_interleave(2))) == pytest.approx(error / 2**0.5)
    assert "group" not in pairs.state_dict()


def test_a_slow_decline_does_not_creep(monkeypatch: pytest.MonkeyPatch) -> None:
    data = vectors([0, 1, 2] * 10)
    model = small_model(data)
    looks = Looks(model, data, 20)
    noise = np.random.default_rng(0).normal(size=(20, 30))
    told = iter(torch.from_numpy(1 + 0.02 * np.arange(20)[:, None] + 0.2 * noise))
    monkeypatch.setattr(taut.looks, "held_out_nll", lambda *_: next(told))
    for step in range(1, 21):
        looks.look(model, step)
    # No look is clearly worse than the one before it, but the eighth is than the first.
    assert int(looks.step) < 8


@pytest.mark.parametrize(("count", "steps"), [(1, 7), (4, 8), (16, 5), (3, 100), (16, 1500)])
def test_looks_are_spread_over_the_steps_and_the_last_step_is_one(count: int, steps: int) -> None:
    data = vectors([0, 1, 2])
    looks = Looks(small_model(data), data, count)
    due = [step for step in range(1, steps + 1) if looks.due(step, steps)]
    assert len(due) == min(count, steps)
    assert due[-1] == steps
    assert np.ptp(np.diff([0, *due])) <= 1


def test_at_most_two_thousand_images_judge_and_only_annotated_ones() -> None:
    y = np.arange(5000) % 3
    y[::2] = -1
    data = vectors(y)
    looks = Looks(small_model(data), data, 1)
    assert len(looks.held) == len(looks.least) == 2000
    assert looks.held.annotation.observed.all()


def test_the_figure_is_the_nll_after_the_best_slope_and_shifts() -> None:
    rng = np.random.default_rng(3)
    y = np.arange(90) % 3
    x = (np.eye(3)[y] + rng.normal(size=(90, 3))).astype(np.float32)
    data = made(x, np.where(y < 2, y, rng.integers(0, 2, 90)), ONE)  # one class never comes
    model = fit(made(x, y, ONE), tiny(train={"steps": 40}, model={"width": 16}), quiet=True).model
    logits = predict_logits(model, x).double().numpy()
    truth = data.annotation.targets.argmax(axis=1)

    def nll(parameters: Any) -> Any:
        z = logits / np.exp(parameters[0]) + parameters[1:]
        return np.log(np.exp(z).sum(axis=1)) - z[np.arange(90), truth]

    def penalised(parameters: Any) -> float:
        return float(nll(parameters).sum() + 0.5 * (parameters[0] / SPREAD) ** 2 + 0.5 * (parameters[1:] ** 2).sum())

    best = nll(minimize(penalised, np.zeros(4)).x)
    np.testing.assert_allclose(held_out_nll(model, data).numpy(), best, rtol=1e-3)
    with torch.no_grad():  # as in a training
        assert Looks(model, data, 1).look(model, 1) == pytest.approx(best.mean(), rel=1e-3)


def test_a_shift_of_all_probabilities_is_not_held_against_a_method() -> None:
    y = np.where(np.random.default_rng(0).random((200, 2)) < 0.1, 1.0, 0.0)
    annotation = SEVERAL.encode(y)
    logits = torch.from_numpy(np.repeat(y, 2, axis=1)) * torch.tensor([-1.0, 1.0, -1.0, 1.0])
    logits = logits + torch.randn(logits.shape, generator=torch.Generator().manual_seed(0))
    shifted = logits + torch.tensor([0.0, 1.0, 0.0, -1.0])
    totals = [
        float(cell_nll(recalibrated(z.double(), annotation, SEVERAL.sizes), annotation, SEVERAL.sizes).sum())
        for z in (logits, shifted, 2 * logits)
    ]
    assert totals[1] == pytest.approx(totals[0], rel=0.02)
    assert totals[2] == pytest.approx(totals[0], rel=0.02)


@pytest.mark.parametrize("known", [1, 2])
def test_few_annotations_of_one_class_give_finite_figures(known: int) -> None:
    y = np.full((20, 2), np.nan)
    y[:known, 0] = 1
    logits = 30 * torch.randn((20, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert recalibrated(logits, SEVERAL.encode(y), SEVERAL.sizes).isfinite().all()


# --- in a training ------------------------------------------------------------------------------------------


def overfitted() -> Any:
    """Sixty annotated rows, a fifth of them wrongly, to be learnt by heart; and two hundred that are held out."""
    rng = np.random.default_rng(0)
    y = np.arange(260) % 3
    x = rng.normal(size=(260, 10)).astype(np.float32)
    x[:, :3] += 3 * np.eye(3, dtype=np.float32)[y]
    training = np.arange(260) < 60
    y = np.where(training & (rng.random(260) < 0.3), rng.integers(0, 3, 260), y)
    return made(x, y, ONE, split=np.where(training, "train", "valid"))


def plan_of(**train: Any) -> Any:
    """A plan that goes on for far too long."""
    settings = {"steps": 200, "batch_labelled": 32, "weight_decay": 0.0, "ema": 0.9, "log_every": 25, **train}
    return tiny(train=settings, model={"width": 64}, augment={"noise": 0.0, "drop": 0.0})


def test_a_training_that_learns_by_heart_keeps_earlier_weights_and_says_so(tmp_path: Any) -> None:
    data, run = overfitted(), Run.create(tmp_path / "run")
    chosen = fit(data, plan_of(), run=run, quiet=True)
    last = fit(data, plan_of(looks=0), quiet=True)
    valid = data.part("valid")
    assert 0 < chosen.result.kept < chosen.result.steps == 200
    assert last.result.kept == 200
    assert held_out_nll(chosen.model, valid).mean() < held_out_nll(last.model, valid).mean() - 0.05
    assert f"the weights of step {chosen.result.kept} of 200 are kept" in chosen.notes[0]
    assert not any("are kept" in note for note in last.notes)
    assert load_about(run.path)["checkpoint"] == chosen.result.kept
    told = [row["held_nll"] for row in run.metrics()]
    assert len(told) == 8
    assert min(told) < told[-1] - 0.05
    assert not chosen.model.training
    assert not any(p.requires_grad for p in chosen.model.parameters())


def test_looks_change_no_bit_of_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taut.looks, "CLEARLY", np.inf)  # nothing is clearly worse: the last weights are kept
    data = overfitted()
    with_looks = fit(data, plan_of(steps=30, looks=30), quiet=True)
    without = fit(data, plan_of(steps=30, looks=0), quiet=True)
    assert with_looks.result.kept == without.result.kept == 30
    assert equal(with_looks.model, without.model)


def test_nothing_is_held_out_so_the_last_weights_are_kept() -> None:
    fitted = fit(vectors([0, 1, 2] * 10), tiny(), quiet=True)
    assert fitted.result.kept == fitted.result.steps == 6


@pytest.mark.parametrize(("known", "looks"), [(29, 0), (30, 16)])
def test_a_handful_of_held_out_annotations_chooses_no_weights(tmp_path: Any, known: int, looks: int) -> None:
    data, run = overfitted(), Run.create(tmp_path / "run")
    observed = data.annotation.observed.copy()
    observed[np.flatnonzero(data.split == "valid")[known:]] = False
    few = dataclasses.replace(data, annotation=hide(data.annotation, observed, data.space.sizes))
    fitted = fit(few, plan_of(steps=16, log_every=1), run=run, quiet=True)
    assert sum("held_nll" in row for row in run.metrics()) == looks
    if not looks:
        assert fitted.result.kept == 16


def test_kept_weights_are_calibrated_like_any_other() -> None:
    data = overfitted()
    fitted = fit(data, plan_of(), quiet=True)
    valid = data.part("valid")
    logits: Tensor = predict_logits(fitted.model, valid.x).double()
    truth = torch.from_numpy(valid.annotation.targets).double()
    calibrated, raw = ((truth * -fitted.model.log_probabilities(logits, c)).sum(1).mean() for c in (True, False))
    assert calibrated < raw

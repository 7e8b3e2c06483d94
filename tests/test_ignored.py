"""Cells that are ignored take no part: no term of the labels has a gradient for them, nor counts them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import LinearGaussian, random_logits, random_prior
from taut import latent
from taut.baselines import find_objective
from taut.build import build_model
from taut.data.augment import Augment
from taut.data.split import draw_fraction, hide
from taut.data.stream import Stream
from taut.facts import fingerprint
from taut.fit import fit
from taut.labels import LabelSpace
from taut.nn import Posterior
from taut.objective import Batch, Weights, capacity_penalty, information_penalty
from taut.plan import Plan, override
from taut.targets import Interpolation, Source, Teacher
from taut.tighter import Sampling, TighterELBO
from tiny import NAN, SEVERAL, TINY, images, strokes, tiny

SIZES = (2, 3)
IGNORED = torch.tensor([[False, False], [True, False], [False, True], [True, True], [False, False], [True, False]])
OBSERVED = torch.tensor([[True, False], [False, True], [True, False], [False, False], [False, False], [False, False]])


# --- the terms ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["example", "batch"])
def test_the_capacity_term_counts_the_other_cells(per: Literal["example", "batch"]) -> None:
    log_q = latent.log_softmax(random_logits(6, SIZES), SIZES)
    prior, weights = random_prior(SIZES), Weights(beta_c=0.7, capacity_c=0.4, capacity_z=1.0, per=per)
    kl_z = torch.rand(6).double()
    want = weights.beta_z * ((kl_z - 1).abs().mean() if per == "example" else (kl_z.mean() - 1).abs())
    for j, block in enumerate((slice(0, 2), slice(2, 5))):
        kept = ~IGNORED[:, j]
        q, p = log_q[kept, block].exp(), prior[block]
        kl = (q * (log_q[kept, block] - p)).sum(1)
        if per == "example":
            want += weights.beta_c * (kl + 0.4 * (q * p).sum(1)).abs().sum() / 6
        else:
            want += weights.beta_c * (kl.mean() + 0.4 * (p.exp() * p).sum()).abs()
    torch.testing.assert_close(capacity_penalty(kl_z, log_q, prior, SIZES, weights, IGNORED), want)


def test_the_information_term_is_that_of_each_label_s_own_cells() -> None:
    log_q, prior = latent.log_softmax(random_logits(6, SIZES), SIZES), random_prior(SIZES)
    want = sum(
        information_penalty(log_q[~IGNORED[:, j], block], prior[block], (size,), 1.3)
        for j, (block, size) in enumerate(((slice(0, 2), 2), (slice(2, 5), 3)))
    )
    torch.testing.assert_close(information_penalty(log_q, prior, SIZES, 1.3, IGNORED), want)
    nobody = torch.zeros_like(IGNORED)
    plain = information_penalty(log_q, prior, SIZES, 1.3)
    torch.testing.assert_close(information_penalty(log_q, prior, SIZES, 1.3, nobody), plain)


def test_a_label_that_is_ignored_in_the_whole_batch_has_no_term() -> None:
    logits = random_logits(6, SIZES).requires_grad_()
    prior, everyone = random_prior(SIZES), torch.ones(6, 2, dtype=torch.bool)
    log_q = latent.log_softmax(logits, SIZES)
    for per in ("example", "batch"):
        weights = Weights(per=per)  # type: ignore[arg-type]
        total = capacity_penalty(torch.zeros(6).double(), log_q, prior, SIZES, weights, everyone)
        total = total + information_penalty(log_q, prior, SIZES, 1.0, everyone)
        assert total == 0
        (gradient,) = torch.autograd.grad(total, logits, retain_graph=True)
        assert bool((gradient == 0).all())


# --- the objective ------------------------------------------------------------------------------------------


class Known(LinearGaussian):
    """LinearGaussian that keeps its logits, for their gradients."""

    def encode(self, x: Tensor) -> Posterior:
        posterior = super().encode(x)
        if posterior.logits.requires_grad:
            posterior.logits.retain_grad()
            self.kept: Tensor = posterior.logits
        return posterior


@pytest.mark.parametrize("how", ["relaxed", "straight-through", "enumerate"])
@pytest.mark.parametrize("source", ["none", "teacher", "mixed", "interpolation"])
def test_nothing_teaches_the_posterior_of_an_ignored_cell(how: Any, source: str) -> None:
    model = Known(SIZES)
    sources: dict[str, Source] = {
        "none": Source(),
        "teacher": Teacher(model, SIZES),
        "mixed": Teacher(model, SIZES, mix=0.75),
        "interpolation": Interpolation(SIZES),
    }
    x = model.sample(6)
    spread = latent.spread_labels(OBSERVED, SIZES)
    targets = torch.where(spread, latent.hard_sample(random_logits(6, SIZES), SIZES), math.nan)
    strong = x[2:] + 0.1 if source in ("teacher", "mixed") else None
    weights = Weights(mutual_information=0.5, capacity_c=0.5)
    method = TighterELBO(weights, sources[source], Sampling(how))
    terms = method.loss(model, Batch(x, targets, OBSERVED, strong, IGNORED), 0)
    terms.total.backward()
    gradient = model.kept.grad
    assert gradient is not None
    left_out = latent.spread_labels(IGNORED, SIZES)
    assert bool((gradient[:6][left_out] == 0).all())
    assert bool((gradient[:6][~left_out] != 0).any())
    if source == "teacher":
        views = gradient[6:]
        assert bool((views[left_out[2:]] == 0).all())
        assert bool((views[~left_out[2:]] != 0).any())
    for name, value in terms.present().items():
        assert bool(value.isfinite()), name


def test_rivals_that_guess_do_not_guess_ignored_cells() -> None:
    model = Known(SIZES)
    x = model.sample(6)
    targets = torch.full((6, 5), math.nan)
    nothing = torch.zeros(6, 2, dtype=torch.bool)
    everyone = torch.ones(6, 2, dtype=torch.bool)
    plan = override(Plan(), {"objective.threshold": 0.0}, "test")
    facts = fingerprint(images(np.zeros((4, 2)), SEVERAL))
    for name in ("pseudo-label", "fixmatch"):
        method = find_objective(name).from_plan(model, plan, facts)
        total = method.loss(model, Batch(x, targets, nothing, x + 0.1, everyone), plan.train.steps).total
        assert total.item() == 0, name


@pytest.mark.parametrize(
    "name", ["pi-model", "mean-teacher", "vat", "mixmatch", "fixmatch", "freematch", "m2", "siddharth", "shot-vae"]
)
def test_no_rival_learns_of_ignored_cells(name: str) -> None:
    model = LinearGaussian(SIZES)
    x = model.sample(6)
    ignored = torch.tensor([[False, True]]).expand(6, 2)
    observed = torch.tensor([[True, False]] * 3 + [[False, False]] * 3)
    targets = torch.where(
        latent.spread_labels(observed, SIZES), latent.hard_sample(random_logits(6, SIZES), SIZES), math.nan
    )
    plan = override(Plan(), {"objective.threshold": 0.0, "objective.source": "none"}, "test")
    facts = fingerprint(images(np.zeros((4, 2)), SEVERAL))
    method = find_objective(name).from_plan(model, plan, facts)
    strong = None if name in ("vat", "m2", "siddharth", "shot-vae") else x + 0.1
    # Without an annotated row, so that nothing but what is estimated teaches.
    for rows in (slice(0, 6), slice(3, 6)):
        model.zero_grad()
        batch = Batch(x[rows], targets[rows], observed[rows], None if strong is None else strong[rows], ignored[rows])
        method.loss(model, batch, plan.train.steps).total.backward()
        gradient = model.to_logits.grad
        assert gradient is not None
        assert bool((gradient[:, 2:] == 0).all())
        if rows.start == 0:
            assert bool((gradient[:, :2] != 0).any())


def test_ignored_cells_of_some_rows_do_not_count_in_means_nor_in_mixtures() -> None:
    plan = override(Plan(), {"objective.threshold": 0.0, "objective.source": "none"}, "test")
    facts = fingerprint(images(np.zeros((4, 2)), SEVERAL))
    model = LinearGaussian(SIZES)
    free = find_objective("freematch").from_plan(model, plan, facts)
    x = model.sample(6)
    ignored = torch.tensor([[False, True]] * 3 + [[False, False]] * 3)
    observed = torch.zeros(6, 2, dtype=torch.bool)
    batch = Batch(x, torch.full((6, 5), math.nan), observed, x + 0.1, ignored)
    before = free.threshold.clone()
    free.loss(model, batch, 0)
    q = latent.log_softmax(model.classify(x), SIZES).exp()
    greatest = latent.max_labels(q, SIZES)
    want = torch.stack([greatest[:, 0].mean(), greatest[3:, 1].mean()]).to(before.dtype)
    torch.testing.assert_close(free.threshold, before.lerp(want, 1 - free.decay))
    mix = find_objective("mixmatch").from_plan(model, plan, facts)
    torch.manual_seed(0)
    known = torch.tensor([[False, False]] * 3 + [[True, True]] * 3)
    targets = latent.hard_sample(random_logits(6, SIZES), SIZES)
    batch = Batch(x, targets, known, x, ignored)
    losses = []
    for scale in (1.0, -3.0):  # of the second label's logits of rows that ignore it: no target may tell
        torch.manual_seed(1)
        other = Shifted(model, x[:3], scale)
        losses.append(float(mix.loss(other, batch, 0).label_kl))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


class Shifted(torch.nn.Module):
    """A model whose guesses of the second label are moved for some rows, where it sees them as they are."""

    def __init__(self, model: Any, rows: Tensor, shift: float) -> None:
        super().__init__()
        self.model, self.rows, self.shift = model, rows, shift

    def classify(self, x: Tensor) -> Tensor:
        logits = self.model.classify(x)
        mine = (x[:, None] == self.rows).all(2).any(1)
        moved = logits.clone()
        moved[mine, 2:] += self.shift * torch.arange(logits.shape[1] - 2, dtype=logits.dtype)
        return moved


# --- through the data ---------------------------------------------------------------------------------------


def left_out(n: int = 40) -> Any:
    """Images of two labels: every other cell of the second ignored, a quarter of the first unannotated."""
    y = (np.arange(n)[:, None] % [2, 3] == 0).astype(float)
    y[::4, 0] = NAN
    y[::2, 1] = NAN
    data = strokes(y)
    ignored = np.zeros((n, 2), dtype=bool)
    ignored[::2, 1] = True
    data.annotation = dataclasses.replace(data.annotation, ignored=ignored)
    return data


def test_batches_tell_what_is_ignored() -> None:
    data = left_out()
    stream = Stream(data, Augment(), 8, 8, 0)
    # An image with nothing to estimate is not among those that are shown for it.
    assert stream.rest.rows.tolist() == list(range(0, 40, 4))
    plan = override(Plan(), TINY, "test")
    model = build_model(data, plan, fingerprint(data))
    batch = stream.batch(0, model, torch.device("cpu"))
    assert batch.ignored is not None
    np.testing.assert_array_equal(batch.ignored.numpy(), data.annotation.ignored[stream.rows(0)])
    assert bool((batch.settled == (batch.observed | batch.ignored)).all())
    whole = images(np.zeros((40, 2)), SEVERAL)
    assert Stream(whole, Augment(), 8, 8, 0).batch(0, model, torch.device("cpu")).ignored is None


def test_draws_and_masks_keep_what_is_ignored() -> None:
    data = left_out()
    for annotation in (
        draw_fraction(data, 0.3, 0),
        draw_fraction(data, 0.3, 0, cells=True),
        hide(data.annotation, np.zeros((40, 1), dtype=bool), (2, 2)),
    ):
        np.testing.assert_array_equal(annotation.ignored, data.annotation.ignored)
    assert data.rows(np.arange(4)).annotation.ignored.tolist() == [[False, True], [False, False]] * 2


def test_everything_annotated_or_ignored_is_trained_as_complete() -> None:
    data = left_out()
    y = (np.arange(40)[:, None] % [2, 3] == 0).astype(float)
    y[::2, 1] = NAN
    ignored = np.isnan(y)
    complete = dataclasses.replace(images(y, SEVERAL))
    complete.annotation = dataclasses.replace(complete.annotation, ignored=ignored)
    fitted = fit(complete, tiny(), quiet=True)
    assert fitted.plan.objective.source == "none"
    assert fitted.plan.train.batch_unlabelled == TINY["train.batch_unlabelled"]
    partly = dataclasses.replace(data, annotation=draw_fraction(data, 0.3, 0))
    assert fit(partly, tiny(), quiet=True).plan.objective.source == "teacher"


def test_ignored_cells_are_labels_of_one_space() -> None:
    space = LabelSpace.multilabel(2)
    assert space.encode([[1, NAN]]).ignored is None
    assert not space.encode([[1, NAN]]).complete.any()

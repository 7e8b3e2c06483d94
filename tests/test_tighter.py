from __future__ import annotations

import copy
import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from conftest import LinearGaussian, random_targets, standard_errors
from taut import latent, objective
from taut.labels import Label, LabelSpace
from taut.latent import Sizes
from taut.nn import Architecture, LabelVAE, Posterior
from taut.objective import Batch, Weights
from taut.targets import Estimate, Interpolation, Proposal, Source, Teacher
from taut.tighter import Sampling, TighterELBO

SIZES = (2, 3)
How = Literal["relaxed", "straight-through", "enumerate"]
HOWS: list[How] = ["relaxed", "straight-through", "enumerate"]


class Fixed(Source):
    """A source with views and estimates that the test chose."""

    def __init__(self, x: Tensor, estimate: Estimate) -> None:
        super().__init__()
        self.x, self.given = x, estimate

    def propose(self, model: Any, batch: Any, belief: float = 1.0) -> Proposal:
        return Proposal(self.x, lambda posterior: self.given)


def make_batch(model: LinearGaussian, n: int = 6, strong: int = 0) -> Batch:
    """Rows with every pattern of annotation; NaN where hidden."""
    x = model.sample(n)
    observed = torch.arange(n)[:, None] % 4 >= torch.tensor([[2, 3]])
    targets = torch.where(latent.spread_labels(observed, SIZES), random_targets(n, SIZES, one_hot=True), math.nan)
    return Batch(x, targets, observed, x[n - strong :] + 0.1 if strong else None)


def rows(batch: Batch, i: int, count: int) -> Batch:
    """One row many times."""
    return Batch(*(v[i : i + 1].expand(count, -1) for v in (batch.x, batch.targets, batch.observed)))


def bound_of_rows(method: TighterELBO, model: LinearGaussian, batch: Batch, sizes: Sizes) -> Tensor:
    """B of every row with the method's own reconstruction, [N] nats."""
    with torch.no_grad():
        posterior = model.encode(batch.x)
        value = method.log_likelihood(model, batch, posterior)
        log_q = latent.log_softmax(posterior.logits, sizes)
        return objective.exact_bound(
            value,
            latent.gaussian_kl(posterior.mean, posterior.log_var),
            log_q,
            batch.targets.nan_to_num(),
            batch.observed.double(),
            model.log_prior,
            sizes,
        )


# --- reconstruction -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("i", range(4))
@pytest.mark.parametrize(("how", "temperature"), [("enumerate", 0.67), ("straight-through", 0.67), ("relaxed", 1e-4)])
def test_reconstruction_averages_to_its_closed_form(i: int, how: How, temperature: float) -> None:
    model = LinearGaussian(SIZES)
    batch = rows(make_batch(model), i, 10_000)
    method = TighterELBO(Weights(), sampling=Sampling(how, temperature))
    want = model.closed_bound(batch.x[:1], batch.targets[:1].nan_to_num(), batch.observed[:1])
    assert standard_errors(bound_of_rows(method, model, batch, SIZES), want) < 4


def test_mixed_precision_does_not_round_the_weights_of_enumerated_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LinearGaussian(SIZES, dtype=torch.float32)
    monkeypatch.setattr(model, "log_likelihood", lambda x, parameters: torch.ones(len(x)))
    batch = Batch(model.sample(50), torch.full((50, 5), math.nan), torch.zeros(50, 2, dtype=torch.bool))
    posterior = model.encode(batch.x)
    with torch.autocast("cpu", torch.bfloat16):
        got = TighterELBO(Weights(), sampling=Sampling("enumerate")).log_likelihood(model, batch, posterior)
    torch.testing.assert_close(got, torch.ones(50))


def test_soft_annotations_are_sampled_not_blended() -> None:
    model = LinearGaussian(SIZES)
    observed = torch.ones(1, 2, dtype=torch.bool)
    batch = rows(Batch(model.sample(1), random_targets(1, SIZES), observed), 0, 10_000)
    model.decoded.clear()
    want = model.closed_bound(batch.x[:1], batch.targets[:1], observed)
    for how in HOWS:
        method = TighterELBO(Weights(), sampling=Sampling(how))
        assert standard_errors(bound_of_rows(method, model, batch, SIZES), want) < 4
    for c in model.decoded:
        assert bool(((c == 0) | (c == 1)).all())


def test_annotated_labels_reach_the_decoder_and_have_no_reconstruction_gradient() -> None:
    model = LinearGaussian(SIZES)
    batch = make_batch(model)
    seen = latent.spread_labels(batch.observed, SIZES)
    for how in HOWS[:2]:
        model.decoded.clear()
        posterior = model.encode(batch.x)
        logits = posterior.logits.detach().requires_grad_()
        posterior = Posterior(posterior.mean, posterior.log_var, logits)
        value = TighterELBO(Weights(), sampling=Sampling(how)).log_likelihood(model, batch, posterior)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert torch.equal(model.decoded[0][seen], batch.targets[seen])
        assert bool((gradient[seen] == 0).all())
        assert bool((gradient[~seen] != 0).all())


def test_whole_loss_averages_to_eq_11_and_13() -> None:
    """ρ = β = α = 1 and C = 0, from images to the scalar: minus the batch mean of U, or B + Δ."""
    model = LinearGaussian(SIZES)
    batch = make_batch(model)
    with torch.no_grad():
        log_q = latent.log_softmax(model.encode(batch.x).logits, SIZES)
        bound = model.closed_bound(batch.x, batch.targets.nan_to_num(), batch.observed)
        gap = objective.surrogate_gap(log_q, batch.targets.nan_to_num(), batch.observed, model.log_prior, SIZES)
        for how in ("enumerate", "straight-through"):
            method = TighterELBO(
                Weights(), sampling=Sampling("enumerate" if how == "enumerate" else "straight-through")
            )
            totals = torch.stack([method.loss(model, batch, 0).total for _ in range(500)])
            assert standard_errors(totals, -(bound + gap).mean()) < 4


def test_a_share_of_the_rows_is_decoded_without_bias() -> None:
    model = LinearGaussian(SIZES)
    batch = make_batch(model, n=10)
    parts = {share: TighterELBO(Weights(), sampling=Sampling("enumerate", share=share)) for share in (0.3, 1.0)}
    with torch.no_grad():
        drawn = {
            share: torch.stack([method.loss(model, batch, 0).present()["bound"] for _ in range(1500)])
            for share, method in parts.items()
        }
        gap = drawn[0.3].mean() - drawn[1.0].mean()
        error = torch.stack([d.var() / len(d) for d in drawn.values()]).sum().sqrt()
        assert float(gap.abs() / error) < 4
        model.decoded.clear()
        parts[0.3].loss(model, batch, 0)
        assert {len(c) for c in model.decoded} == {3}
        model.decoded.clear()
        parts[0.3].eval().loss(model, batch, 0)
        assert {len(c) for c in model.decoded} == {10}
        tiny = TighterELBO(Weights(), sampling=Sampling("relaxed", share=0.01))
        assert bool(torch.isfinite(tiny.loss(model, batch, 0).total))


def test_without_reconstruction_nothing_is_decoded() -> None:
    model = LinearGaussian(SIZES)
    batch = make_batch(model)
    model.decoded.clear()
    method = TighterELBO(Weights(reconstruction=0.0, beta_z=0.0))
    terms = method.loss(model, batch, 0)
    assert model.decoded == []
    assert not method.generative
    assert {"bound", "surrogate", "reconstruction"}.isdisjoint(terms.present())
    assert terms.kl_c is not None
    assert terms.label_kl is not None
    torch.testing.assert_close(terms.total, terms.kl_c + terms.label_kl)


# --- budgets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "rise"), [(0, 0.0), (1, 0.1), (5, 0.5), (10, 1.0), (1000, 1.0)])
def test_budgets_rise_linearly(step: int, rise: float) -> None:
    weights = Weights(alpha=3.0, capacity_z=20.0, capacity_c=0.8)
    now = TighterELBO(weights, ramp=10).weights_at(step)
    assert now.capacity_z == pytest.approx(20 * rise)
    assert now.capacity_c == pytest.approx(0.8 * rise)
    assert now.alpha == 3.0
    assert TighterELBO(weights).weights_at(step) == weights


def test_the_loss_uses_the_budgets_of_its_step() -> None:
    model = LinearGaussian(SIZES)
    batch = make_batch(model)
    method = TighterELBO(Weights(capacity_z=5.0, capacity_c=1.0), ramp=100)
    for step in (0, 40, 100):
        torch.manual_seed(1)
        got = method.loss(model, batch, step)
        torch.manual_seed(1)
        want = TighterELBO(Weights(capacity_z=0.05 * step, capacity_c=0.01 * step)).loss(model, batch, 7)
        torch.testing.assert_close(got.total, want.total)


@pytest.mark.parametrize(("step", "belief"), [(0, 0.0), (4, 0.0), (6, 0.5), (8, 1.0), (99, 1.0)])
def test_what_is_only_estimated_counts_from_its_onset(step: int, belief: float) -> None:
    model = LinearGaussian(SIZES)
    batch = make_batch(model, n=8, strong=8)
    weights = Weights(mutual_information=2.0)
    method = TighterELBO(weights, Teacher(model, SIZES), onset=(4, 8))
    assert method.weights_at(step).mutual_information == 2 * belief
    torch.manual_seed(1)
    terms = method.loss(model, batch, step)
    assert terms.confidence is not None
    want = torch.where(batch.observed, 1, belief).mean()
    torch.testing.assert_close(terms.confidence.float(), want)
    assert TighterELBO(weights).weights_at(step) == weights
    assert TighterELBO(weights, onset=(100, 100)).belief_at(step) == 0


class Counting(LinearGaussian):
    """A model that notes how many rows each of its passes has."""

    def __init__(self) -> None:
        super().__init__(SIZES)
        self.passes: list[int] = []

    def encode(self, x: Tensor) -> Any:
        self.passes.append(len(x))
        return super().encode(x)


def test_no_pass_is_made_over_rows_whose_answers_do_not_count() -> None:
    model = Counting()
    batch = make_batch(model, n=8, strong=5)
    batch.observed[3:] = False  # of the rows with a second view
    method = TighterELBO(Weights(), Teacher(model, SIZES, momentum=0.9), onset=(4, 8))
    assert isinstance(method.source, Teacher)
    assert method.source.average is not None
    method.source.average.set_extra_state(torch.tensor(100))  # those after the start
    teacher = method.source.average.model
    for value in model.parameters():
        value.data += 1.0
    before = method.loss(model, batch, 4)
    assert before.consistency is None
    assert (model.passes, teacher.passes) == ([8], [])
    for mine, theirs in zip(teacher.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs - 0.9)  # the average follows all the same
    method.loss(model, batch, 6)
    assert (model.passes, teacher.passes) == ([8, 13], [5])
    batch.observed[3] = True
    annotated = method.loss(model, batch, 4)
    assert annotated.consistency is not None  # an annotated cell of a strong view teaches from the first step on


def test_interpolated_posteriors_count_as_far_as_they_are_believed() -> None:
    model = LinearGaussian(SIZES)
    proposal = Interpolation(SIZES).propose(model, make_batch(model), 0.25)
    assert proposal is not None
    assert proposal.estimate(None).confidence.unique().tolist() == [0.25]


# --- views --------------------------------------------------------------------------------------------------


def test_views_are_drawn_to_their_estimates_as_far_as_these_count() -> None:
    model = LinearGaussian(SIZES)
    batch = make_batch(model, n=8, strong=5)
    assert batch.second is not None
    guess, confidence = (
        random_targets(5, SIZES),
        torch.tensor([[0.0, 1], [1, 0], [0, 0], [1, 1], [0.5, 0.25]]),
    )
    source = Fixed(batch.second, Estimate(guess, confidence.double()))
    torch.manual_seed(1)
    terms = TighterELBO(Weights(), source, consistency=0.7).loss(model, batch, 0)
    torch.manual_seed(1)
    plain = TighterELBO(Weights()).loss(model, batch, 0)
    log_q = latent.log_softmax(model.encode(batch.second).logits, SIZES)
    blocks = (slice(0, 2), slice(2, 5))
    total = torch.zeros((), dtype=torch.float64)
    weights = []
    for i in range(5):
        for j, block in enumerate(blocks):
            p, m = guess[i, block], float(confidence[i, j])
            total = total + m * (torch.special.xlogy(p, p) - p * log_q[i, block]).sum()
            weights.append(m)
    assert terms.consistency is not None
    assert terms.confidence is not None
    torch.testing.assert_close(terms.consistency, total / 5)
    torch.testing.assert_close(terms.total, plain.total + 0.7 * total / 5)
    assert terms.confidence.item() == pytest.approx(sum(weights) / len(weights))


def test_a_view_has_its_distance_to_the_source_in_z() -> None:
    model = LinearGaussian(SIZES)
    batch = make_batch(model)
    x, z = model.sample(4), (torch.randn(4, 2).double(), torch.randn(4, 2).double())
    given = Estimate(random_targets(4, SIZES), torch.zeros(4, 2).double(), z)
    totals = []
    for weight in (0.0, 0.3):
        torch.manual_seed(1)
        totals.append(TighterELBO(Weights(), Fixed(x, given), z_consistency=weight).loss(model, batch, 0).total)
    posterior = model.encode(x)
    distance = (posterior.mean - z[0]) ** 2 + (posterior.log_var.exp().sqrt() - z[1].exp().sqrt()) ** 2
    torch.testing.assert_close(totals[1] - totals[0], 0.3 * distance.sum(1).mean())


def test_no_gradient_reaches_the_estimate() -> None:
    """The consistency term moves the strong view's posterior and leaves the weak view, its target, alone."""
    model = LinearGaussian(SIZES)
    batch = make_batch(model, n=8, strong=8)
    batch.observed[:] = False
    assert batch.second is not None
    weak, strong = batch.x.requires_grad_(), batch.second.detach().requires_grad_()
    batch = Batch(weak, batch.targets, batch.observed, strong)
    terms = TighterELBO(Weights(), Teacher(model, SIZES)).loss(model, batch, 0)
    assert terms.consistency is not None
    to_weak, to_strong = torch.autograd.grad(terms.consistency, [weak, strong], allow_unused=True)
    assert to_weak is None or not to_weak.any()
    assert bool((to_strong.abs().sum(1) > 0).all())


def test_all_views_are_encoded_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LinearGaussian(SIZES)
    batch, calls, encode = make_batch(model, n=8, strong=5), [], model.encode

    def counted(x: Tensor) -> Posterior:
        calls.append(len(x))
        return encode(x)

    monkeypatch.setattr(model, "encode", counted)
    model.decoded.clear()
    TighterELBO(Weights(), Teacher(model, SIZES)).loss(model, batch, 0)
    assert calls == [13]
    assert [len(c) for c in model.decoded] == [8]


# --- what is hidden stays hidden ----------------------------------------------------------------------------


def sources(name: str, model: LabelVAE) -> Source | None:
    if name == "teacher":
        return Teacher(model, model.sizes, threshold=0.3, alignment=0.5)
    if name == "averaged teacher":
        return Teacher(model, model.sizes, momentum=0.9)
    return Interpolation(model.sizes) if name == "interpolation" else None


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("name", ["none", "teacher", "averaged teacher", "interpolation"])
def test_hidden_targets_reach_neither_loss_nor_gradient(how: How, name: str) -> None:
    space = LabelSpace((Label("a", (0, 1)), Label("b", (0, 1, 2)), Label("c", (0, 1))))
    untrained = LabelVAE(space, Architecture((1, 8, 8), width=4, z_dim=3))
    x, strong = torch.rand(10, 1, 8, 8), torch.rand(6, 1, 8, 8)
    observed = torch.rand(10, 3) < 0.5
    seen = latent.spread_labels(observed, space.sizes)
    known = random_targets(10, space.sizes, one_hot=True, dtype=torch.float32)
    weights = Weights(capacity_z=3.0, capacity_c=0.9, mutual_information=0.1)
    results: list[list[Tensor]] = []
    for filling in (math.nan, 0.0, 1.0, math.inf):
        model = copy.deepcopy(untrained).train()
        source = sources(name, model)
        method = TighterELBO(weights, source, Sampling(how, share=0.5), z_consistency=0.1, ramp=5)
        batch = Batch(x, torch.where(seen, known, filling), observed, strong if "teacher" in name else None)
        torch.manual_seed(7)
        terms = method.loss(model, batch, 3)
        torch.autograd.backward(terms.total)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        results.append([*terms.present().values(), *gradients])
        assert ("consistency" in terms.present()) == (name != "none")
    for value in results[0]:
        assert bool(torch.isfinite(value).all())
    for other in results[1:]:
        assert len(other) == len(results[0])
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_observed_targets_do_reach_the_loss() -> None:
    model = LinearGaussian(SIZES)
    batch = make_batch(model)
    totals = []
    for shift in (0, 1):
        torch.manual_seed(1)
        targets = torch.cat([batch.targets[:, :2].roll(shift, 1), batch.targets[:, 2:]], 1)
        totals.append(TighterELBO(Weights()).loss(model, Batch(batch.x, targets, batch.observed), 0).total.item())
    assert totals[0] != totals[1]


@pytest.mark.parametrize("how", HOWS)
def test_extreme_logits_give_no_nan(how: How) -> None:
    model = LinearGaussian(SIZES)
    with torch.no_grad():
        model.to_logits.mul_(1e4)
    batch = make_batch(model, n=8, strong=5)
    method = TighterELBO(Weights(capacity_c=1.0, mutual_information=0.5), Teacher(model, SIZES), Sampling(how))
    terms = method.loss(model, batch, 0)
    torch.autograd.backward(terms.total)
    for name, value in terms.present().items():
        assert bool(torch.isfinite(value)), name
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())


@pytest.mark.parametrize("how", HOWS)
def test_every_network_learns_from_a_batch_without_annotation(how: How) -> None:
    """One step on unlabelled images changes every trained weight, the classifier's too."""
    space = LabelSpace.multilabel(2)
    model = LabelVAE(space, Architecture((1, 8, 8), width=4, z_dim=3))
    hidden = torch.zeros(6, 2, dtype=torch.bool)
    batch = Batch(torch.rand(6, 1, 8, 8), torch.full((6, 4), math.nan), hidden)
    terms = TighterELBO(Weights(), sampling=Sampling(how)).loss(model, batch, 0)
    torch.autograd.backward(terms.total)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(parameter.grad.any()), name

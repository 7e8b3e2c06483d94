from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Distribution, Normal, kl_divergence
from torch.nn import functional as F

from conftest import ConditionalGaussian, log_prob, random_prior, random_targets, standard_errors, uniform_prior
from taut import latent
from taut.baselines import find_objective
from taut.baselines.m1m2 import Second
from taut.build import build_model
from taut.data.dataset import Dataset
from taut.evaluate.bounds import elbo, importance_weighted
from taut.evaluate.metrics import evaluate
from taut.evaluate.predict import predict_probabilities
from taut.facts import fingerprint
from taut.fit import fit, plan_for
from taut.labels import Label, LabelSpace
from taut.latent import Sizes
from taut.nn import Architecture, LabelVAE, Posterior
from taut.nn.encoders import Features
from taut.objective import Batch, LossTerms
from taut.plan import TrainPlan
from taut.run import load_model, save_model
from taut.targets import mixed
from taut.tighter import TighterELBO
from taut.train import make_optimizer
from tiny import SEVERAL, cells, equal, images, some_known, tiny, vectors

pytestmark = pytest.mark.usefixtures("one_thread")

NAMES = ["m2", "m1m2", "siddharth", "shot-vae", "joint-vae"]
SIZES: list[Sizes] = [(4,), (2, 2), (2, 2, 2), (2, 3)]
SHAPES = [(1, 8, 8), (5,)]
FACTS = fingerprint(images(some_known()))
NOISE = 0.7
REPEATS = 10_000
FIRST_STAGE = ("encoder.first.", "encoder.to_z1.", "decoder.first.", "log_noise")


def build(name: str, model: Any, **changes: Any) -> Any:
    """A method as a run builds it, some of its constants changed."""
    plan = plan_for(FACTS, objective=name)
    for field, value in changes.items():
        setattr(plan.objective, field, value)
    return find_objective(name).from_plan(model, plan, FACTS)


def vae(sizes: Sizes, shape: tuple[int, ...] = (1, 8, 8), **parts: Any) -> LabelVAE:
    """A LabelVAE in evaluation mode whose q(z|x,c) follows the label, with nothing uniform or zero in it."""
    kind = {"width": 4} if len(shape) == 3 else {"encoder": "mlp", "width": 8, "likelihood": "gaussian"}
    space = LabelSpace(tuple(Label(f"label {j}", tuple(range(size))) for j, size in enumerate(sizes)))
    architecture = Architecture(shape, **{"z_dim": 3, "decoder_width": 4, "z_given_c": True, **kind, **parts})
    model = LabelVAE(space, architecture).eval()
    with torch.no_grad():
        model.log_prior.copy_(random_prior(sizes, torch.float32))
        model.to_logits.weight.mul_(4)
        model.shift.fill_(0.3)
        model.scale.fill_(0.5)
        model.log_noise.fill_(-0.5)
    return model


def make_batch(sizes: Sizes, shape: tuple[int, ...] = (1, 8, 8), x: Tensor | None = None) -> Batch:
    """Every pattern of annotated labels, one-hot in the first half and soft in the second; NaN where hidden."""
    patterns = 2 ** len(sizes)
    n = 2 * patterns
    observed = (torch.arange(n)[:, None] >> torch.arange(len(sizes))) % 2 == 1
    hot, soft = (random_targets(n, sizes, one_hot, torch.float32) for one_hot in (True, False))
    known = torch.where(torch.arange(n)[:, None] < patterns, hot, soft)
    targets = torch.where(latent.spread_labels(observed, sizes), known, math.nan)
    return Batch(torch.rand(n, *shape) if x is None else x[:n], targets, observed)


def some_rows(batch: Batch, rows: Tensor) -> Batch:
    return Batch(batch.x[rows], batch.targets[rows], batch.observed[rows])


def hidden(batch: Batch) -> Batch:
    """The batch without its annotations."""
    return Batch(batch.x, torch.full_like(batch.targets, math.nan), torch.zeros_like(batch.observed), batch.second)


def gradients(total: Tensor, model: LabelVAE) -> dict[str, Tensor]:
    """The gradient of every trained weight, zeros where there is none."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    values = torch.autograd.grad(total, list(named.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(named, values, strict=True))


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every z a fixed number of deviations from its mean, so that a loss can be computed twice."""

    def sample(mean: Tensor, log_var: Tensor, noise: Tensor | None = None) -> Tensor:
        return mean + NOISE * (0.5 * log_var).exp()

    monkeypatch.setattr(latent, "gaussian_sample", sample)


# --- M2 by loops --------------------------------------------------------------------------------------------


def features_of(model: LabelVAE, x: Tensor) -> Features:
    """What the heads read, without `LabelVAE.encode`."""
    features: Features = model.encoder((x - 0.3) / 0.5 if x.dim() == 4 else x)
    return features


def pixels(model: LabelVAE) -> Callable[[Tensor], Distribution]:
    """p(x|z,c) from the decoder's output."""
    if model.architecture.likelihood == "bernoulli":
        return lambda raw: Bernoulli(logits=raw, validate_args=False)  # of grey values
    return lambda raw: Normal(raw, (0.5 * model.log_noise).exp())


def gaussian(raw: Tensor) -> Normal:
    """q(z|·) from a head's output."""
    mean, log_var = raw.chunk(2, dim=-1)
    return Normal(mean, (5 * torch.tanh(log_var / 10)).exp())


def to_prior(q: Normal) -> Tensor:
    """KL(q ‖ N(0, I)) of the last dimension."""
    value: Tensor = kl_divergence(q, Normal(0.0, 1.0)).sum(-1)
    return value


def brute_force(
    model: LabelVAE, batch: Batch, features: Features, decode: Any, data: Callable[[Tensor], Distribution]
) -> Tensor:
    """M2's bound by loops over rows and label combinations: [N] nats, with gradients."""
    values = []
    for i, x in enumerate(batch.x):
        logits = model.to_logits(features.label[i])
        r, value = [], torch.zeros(())
        for j, block in enumerate(model.space.blocks):
            if batch.observed[i, j]:
                r.append(batch.targets[i, block])
            else:
                r.append(logits[block].softmax(0))
                value = value + Categorical(logits=logits[block]).entropy()
        for choice in product(*(range(size) for size in model.sizes)):
            c = torch.cat([F.one_hot(torch.tensor(v), s) for v, s in zip(choice, model.sizes, strict=True)]).float()
            weight, prior = torch.ones(()), torch.zeros(())
            for p, block, v in zip(r, model.space.blocks, choice, strict=True):
                weight, prior = weight * p[v], prior + model.log_prior[block][v]
            q = gaussian(model.to_z(torch.cat([features.place[i], c])))
            z = q.mean + NOISE * q.stddev
            likelihood = log_prob(data(decode(z[None], c[None])[0]), x).sum()
            value = value + weight * (likelihood + prior - to_prior(q))
        values.append(value)
    return torch.stack(values)


def annotation_term(model: LabelVAE, batch: Batch, features: Features) -> Tensor:
    """Σ_j KL(p̃(c_j|x) ‖ q(c_j|x)) of annotated labels, a mean over the rows that have one."""
    total = torch.zeros(())
    for i in range(len(batch.x)):
        logits = model.to_logits(features.label[i])
        for j, block in enumerate(model.space.blocks):
            if batch.observed[i, j]:
                p = Categorical(probs=batch.targets[i, block])
                total = total + kl_divergence(p, Categorical(logits=logits[block]))
    return total / int(batch.observed.any(1).sum())


def check_loss(terms: LossTerms, want: Tensor, model: LabelVAE) -> None:
    """Equal totals with equal gradients."""
    torch.testing.assert_close(terms.total, want, rtol=1e-5, atol=1e-4)
    got, expected = gradients(terms.total, model), gradients(want, model)
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=1e-4, msg=lambda text, name=name: name + text)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sizes", SIZES)
def test_m2_is_a_sum_over_all_labels(sizes: Sizes, shape: tuple[int, ...]) -> None:
    model, batch = vae(sizes, shape), make_batch(sizes, shape)
    method = build("m2", model, alpha=0.7)
    features = features_of(model, batch.x)
    want = brute_force(model, batch, features, model.decoder, pixels(model))
    torch.testing.assert_close(method.bound(model, batch, model.encode(batch.x)), want, rtol=1e-5, atol=1e-4)
    terms, kl = method.loss(model, batch, 0), annotation_term(model, batch, features)
    assert terms.bound is not None
    assert terms.label_kl is not None
    torch.testing.assert_close(terms.bound, want.mean(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(terms.label_kl, kl)
    check_loss(terms, -want.mean() + 0.7 * kl, model)


@pytest.mark.parametrize(("name", "alpha"), [("m2", 0.1), ("m1m2", 0.1), ("siddharth", 50.0)])
def test_the_alpha_of_the_docstring_is_planned_and_a_flag_changes_it(name: str, alpha: float) -> None:
    model, batch = vae((2, 3), stack=4 if name == "m1m2" else 0), make_batch((2, 3))
    totals = {}
    for chosen in (alpha, 0.0, 1.0, 2.0):
        method = build(name, model) if chosen == alpha else build(name, model, alpha=chosen)
        assert method.plan.alpha == chosen
        torch.manual_seed(1)
        terms = method.loss(model, batch, method.steps)
        totals[chosen] = terms.total.item() - chosen * terms.label_kl.item()
    for value in totals.values():
        assert value == pytest.approx(totals[0.0], abs=1e-3)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize(("name", "stage"), [("m2", 0), ("m1m2", 0), ("m1m2", 1), ("siddharth", 0)])
def test_reconstruction_and_beta_z_weigh_their_terms(name: str, stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is linear in both weights; what each multiplies is −E log p(x|z,c) and KL(q(z|x,c) ‖ p(z))."""
    sizes = (2, 3)
    model, batch = vae(sizes, stack=4 if name == "m1m2" else 0), make_batch(sizes)
    assert (build(name, model).plan.reconstruction, build(name, model).plan.beta_z) == (1, 1)

    def loss(**weights: float) -> Tensor:
        torch.manual_seed(1)
        method = build(name, model, alpha=0.0, **weights)
        terms = method.loss(model, batch, stage * method.steps // 2)
        assert (terms.bound is None) == bool(weights)
        total: Tensor = terms.total.detach()
        return total

    nothing = loss(reconstruction=0.0, beta_z=0.0)
    fitted, kl = (loss(reconstruction=r, beta_z=b) - nothing for r, b in ((1.0, 0.0), (0.0, 1.0)))
    assert float(kl) > 0
    torch.testing.assert_close(loss(), nothing + fitted + kl, rtol=1e-4, atol=1e-3)
    got = loss(reconstruction=0.3, beta_z=2.0)
    torch.testing.assert_close(got, nothing + 0.3 * fitted + 2 * kl, rtol=1e-4, atol=1e-3)
    # With a likelihood of one nothing is left of what ρ multiplies, and with q = p nothing of what β_z does.
    monkeypatch.setattr(LabelVAE, "log_likelihood", lambda self, x, parameters: torch.zeros(x.shape[0]))
    monkeypatch.setattr(Second, "log_likelihood", lambda self, x, parameters: torch.zeros(x.shape[0]))
    assert torch.equal(loss(reconstruction=5.0), loss(reconstruction=0.0))
    torch.testing.assert_close(loss(beta_z=0.0), nothing)
    monkeypatch.setattr(latent, "gaussian_kl", lambda mean, log_var: torch.zeros(mean.shape[:-1]))
    assert torch.equal(loss(beta_z=5.0), loss(beta_z=0.0))


@pytest.mark.parametrize("name", ["m2", "siddharth"])
def test_without_alpha_annotations_do_not_reach_the_label_head(name: str) -> None:
    sizes = (2, 3)
    model, batch = vae(sizes), make_batch(sizes)
    method = build(name, model, alpha=0.0)
    whole = batch.observed.all(1)
    assert int(whole.sum()) == 2  # one-hot and soft
    of_whole = gradients(method.loss(model, some_rows(batch, whole), 0).total, model)
    assert not of_whole["to_logits.weight"].any()
    assert not of_whole["to_logits.bias"].any()
    assert bool(of_whole["to_z.0.weight"].any())
    with_alpha = gradients(build(name, model).loss(model, some_rows(batch, whole), 0).total, model)
    assert bool(with_alpha["to_logits.weight"].any())
    first = batch.observed[:, 0] & ~batch.observed[:, 1]
    of_part = gradients(method.loss(model, some_rows(batch, first), 0).total, model)["to_logits.bias"]
    assert not of_part[:2].any()
    assert bool(of_part[2:].all())


def test_only_m2_has_a_limit_on_combinations() -> None:
    sizes = (2,) * 13
    model = ConditionalGaussian(sizes)
    x = model.sample(4)
    targets = random_targets(4, sizes, one_hot=True, dtype=torch.float32)
    some = torch.ones(4, 13, dtype=torch.bool)
    some[1, 5] = False
    said = "8192 label combinations: enumeration is for at most 4096"
    with pytest.raises(ValueError, match=said):
        build("m2", model)
    complete = dataclasses.replace(FACTS, fully_annotated_images=FACTS.images)
    m2 = find_objective("m2").from_plan(model, plan_for(FACTS, objective="m2"), complete)
    with pytest.raises(ValueError, match=said):
        m2.loss(model, Batch(x, targets, some), 0)
    model.decoded.clear()
    assert bool(torch.isfinite(m2.loss(model, Batch(x, targets, torch.ones_like(some)), 0).total))
    assert [len(c) for c in model.decoded] == [4]
    model.decoded.clear()
    assert bool(torch.isfinite(build("siddharth", model).loss(model, Batch(x, targets, some), 0).total))
    assert [len(c) for c in model.decoded] == [3, 1]


def test_ignored_cells_and_soft_annotations_of_many_labels_are_drawn() -> None:
    sizes = (2,) * 13
    model = ConditionalGaussian(sizes)
    x, targets = model.sample(4), random_targets(4, sizes, one_hot=True, dtype=torch.float32)
    targets[0, :2] = 0.5
    some = torch.ones(4, 13, dtype=torch.bool)
    some[1, 5] = False
    complete = dataclasses.replace(FACTS, fully_annotated_images=FACTS.images)
    m2 = find_objective("m2").from_plan(model, plan_for(FACTS, objective="m2"), complete)
    model.decoded.clear()
    total = m2.loss(model, Batch(x, targets, some, ignored=~some), 0).total
    assert bool(torch.isfinite(total))
    assert [len(c) for c in model.decoded] == [4]
    # Few labels are summed over where their annotation is soft, and drawn where they are ignored.
    few = ConditionalGaussian((2, 3))
    soft = random_targets(4, (2, 3), dtype=torch.float32)
    batch = Batch(few.sample(4), soft, torch.ones(4, 2, dtype=torch.bool))
    few.decoded.clear()
    build("m2", few).loss(few, batch, 0)
    assert [len(c) for c in few.decoded] == [24]


def test_folds_of_a_complete_table_enumerate_nothing() -> None:
    space = LabelSpace.multilabel([f"label {j}" for j in range(13)])
    data = vectors(cells(40, share=1.0, labels=13), space)
    fitted = fit(data, tiny(train={"folds": 2, "batch_unlabelled": 0}), quiet=True, objective="m2")
    assert fitted.plan.train.folds == 2
    assert bool((fitted.model.temperature != 1).any())


def test_all_combinations_are_decoded_at_once() -> None:
    model = ConditionalGaussian((2, 3))
    model.decoded.clear()
    x = model.sample(5)
    model.decoded.clear()
    build("m2", model).loss(model, hidden(Batch(x, torch.zeros(5, 5), torch.zeros(5, 2, dtype=torch.bool))), 0)
    assert [len(c) for c in model.decoded] == [30]


# --- bounds on a known log p(x) -----------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(4,), (2, 3)])
@pytest.mark.parametrize("name", ["m2", "siddharth"])
def test_bounds_average_to_their_closed_form(name: str, sizes: Sizes) -> None:
    """Siddharth's relaxed labels, near temperature 0, average to M2's sum."""
    model = ConditionalGaussian(sizes)
    method = build(name, model, temperature=1e-4)
    x, targets = model.sample(1), random_targets(1, sizes, one_hot=True, dtype=torch.float32)
    for pattern in product((False, True), repeat=len(sizes)):
        observed = torch.tensor([pattern])
        want = model.closed_bound(x, targets, observed)
        shown = torch.where(latent.spread_labels(observed, sizes), targets, math.nan)
        batch = Batch(*(v.expand(REPEATS, -1) for v in (x, shown, observed)))
        with torch.no_grad():
            values = method.bound(model, batch, model.encode(batch.x))
        assert standard_errors(values, want) < 4, pattern
        assert float(want) < float(model.log_evidence(x))


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("sizes", SIZES)
def test_m2s_bound_is_the_elbo_with_labels_enumerated(sizes: Sizes) -> None:
    """The same number for every z, since no label is drawn; but for the entropy of soft annotations, a constant."""
    model = vae(sizes)
    batch = make_batch(sizes)
    batch = some_rows(batch, torch.arange(len(batch.x)) < len(batch.x) // 2)
    want = elbo(model, batch.x, batch.targets, batch.observed, samples=2, enumerate=True)
    torch.testing.assert_close(build("m2", model).bound(model, batch, model.encode(batch.x)), want)


@pytest.mark.parametrize("sizes", [(4,), (2, 3)])
def test_importance_weighting_tightens_m2s_bound(sizes: Sizes) -> None:
    """M2's marginal = ELBO with c enumerated or sampled ≤ importance-weighted ≤ log p(x), on averages."""
    model = ConditionalGaussian(sizes)
    x = model.sample(3)
    many = x.repeat_interleave(REPEATS, 0)
    nothing = torch.zeros(len(many), len(sizes), dtype=torch.bool)
    batch = Batch(many, torch.full((len(many), sum(sizes)), math.nan), nothing)
    with torch.no_grad():
        marginal = build("m2", model).bound(model, batch, model.encode(many))
    steps = [
        marginal,
        elbo(model, many, enumerate=True),
        elbo(model, many),
        importance_weighted(model, many, samples=8),
    ]
    values = torch.stack([step.view(3, REPEATS) for step in steps])
    mean, error = values.mean(-1), values.std(-1) / math.sqrt(REPEATS)
    for other in (1, 2):
        assert bool(((mean[0] - mean[other]).abs() <= 4 * (error[0] ** 2 + error[other] ** 2).sqrt()).all())
    assert bool((mean[0] + 4 * error[0] < mean[3]).all())
    assert bool((mean[3] <= model.log_evidence(x) + 4 * error[3]).all())


# --- label terms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixed_precision", [False, True])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", ["m2", "siddharth"])
def test_entropy_and_expected_log_prior_are_exact(
    name: str, sizes: Sizes, mixed_precision: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With nothing to reconstruct and z at its prior these two are left, whatever label was drawn."""
    model = ConditionalGaussian(sizes)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
        model.to_logits.mul_(4)
    monkeypatch.setattr(model, "log_likelihood", lambda x, parameters: torch.zeros(len(x)))
    batch = make_batch(sizes, x=model.sample(32))
    posterior = model.encode(batch.x)
    method = build(name, model)
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed_precision):
        got = method.bound(model, batch, posterior)
    blocks = torch.arange(sum(sizes)).split(sizes)
    for i, value in enumerate(got):
        want = torch.zeros(())
        for j, block in enumerate(blocks):
            q = posterior.logits[i, block].softmax(0)
            r = batch.targets[i, block] if batch.observed[i, j] else q
            want = want + (r * model.log_prior[block]).sum()
            if not batch.observed[i, j]:
                want = want + Categorical(q).entropy()
        torch.testing.assert_close(value, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["m2", "siddharth"])
def test_extreme_logits_give_no_nan(name: str) -> None:
    sizes = (2, 3)
    model = ConditionalGaussian(sizes)
    with torch.no_grad():
        model.to_logits.mul_(1e4)
    terms = build(name, model).loss(model, make_batch(sizes, x=model.sample(8)), 0)
    torch.autograd.backward(terms.total)
    for term, value in terms.present().items():
        assert bool(torch.isfinite(value)), term
    for parameter in (*model.head.parameters(), model.to_logits, model.loading, model.offset):
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())


# --- Siddharth ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.1, 50.0])
def test_siddharths_annotated_rows_are_m2s(alpha: float) -> None:
    sizes = (2, 3)
    model = vae(sizes)
    whole = Batch(torch.rand(6, 1, 8, 8), random_targets(6, sizes, True, torch.float32), torch.ones(6, 2).bool())
    totals = []
    for name in ("m2", "siddharth"):
        torch.manual_seed(1)
        totals.append(build(name, model, alpha=alpha).loss(model, whole, 0).total)
    assert torch.equal(totals[0], totals[1])


def test_siddharth_decodes_each_row_once_with_relaxed_labels() -> None:
    sizes = (2, 3)
    model = ConditionalGaussian(sizes)
    batch = make_batch(sizes, x=model.sample(8))
    model.decoded.clear()
    build("siddharth", model).loss(model, batch, 0)
    whole = batch.observed.all(1) & (torch.arange(8) < 4)
    one_hot, relaxed = model.decoded
    assert torch.equal(one_hot, batch.targets[whole])
    torch.testing.assert_close(latent.sum_labels(relaxed, sizes), torch.ones(7, 2))
    free = latent.spread_labels(~batch.observed[~whole], sizes)
    assert bool(((relaxed[free] > 0) & (relaxed[free] < 1)).any())
    # What is annotated one-hot is not relaxed.
    fixed = ~free & (torch.arange(8) < 4)[~whole, None]
    torch.testing.assert_close(relaxed[fixed], batch.targets[~whole][fixed])


def test_siddharths_classifier_learns_through_the_relaxation() -> None:
    model = vae((3,))
    batch = hidden(Batch(torch.rand(6, 1, 8, 8), torch.zeros(6, 3), torch.zeros(6, 1, dtype=torch.bool)))
    for name, value in gradients(build("siddharth", model).loss(model, batch, 0).total, model).items():
        assert bool(value.any()), name


# --- M1+M2 --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_stage_is_a_vae_without_labels(shape: tuple[int, ...]) -> None:
    sizes = (2, 3)
    model, batch = vae(sizes, shape, stack=4), make_batch(sizes, shape)
    q = gaussian(model.encoder.to_z1(model.encoder.first((batch.x - 0.3) / 0.5 if len(shape) == 3 else batch.x).place))
    parameters = model.decoder.first(q.mean + NOISE * q.stddev, torch.zeros(len(batch.x), 0))
    likelihood = log_prob(pixels(model)(parameters), batch.x).flatten(1).sum(1).mean()
    kl = to_prior(q).mean()
    method = build("m1m2", model)
    terms = method.loss(model, batch, method.steps // 2 - 1)
    assert set(terms.present()) == {"reconstruction", "kl_z", "bound", "total"}
    torch.testing.assert_close(terms.reconstruction, likelihood, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(terms.kl_z, kl)
    torch.testing.assert_close(terms.bound, -terms.total)
    check_loss(terms, kl - likelihood, model)


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("shape", SHAPES)
def test_the_second_stage_is_m2_on_samples_of_z1(shape: tuple[int, ...]) -> None:
    sizes = (2, 3)
    model, batch = vae(sizes, shape, stack=4), make_batch(sizes, shape)
    q = gaussian(model.encoder.to_z1(model.encoder.first((batch.x - 0.3) / 0.5 if len(shape) == 3 else batch.x).place))
    z1 = (q.mean + NOISE * q.stddev).detach()
    h = model.encoder.second(z1)
    features, data = Features(h, h), Batch(z1, batch.targets, batch.observed)
    want = brute_force(model, data, features, model.decoder.second, gaussian)
    method = build("m1m2", model, alpha=0.3)
    terms = method.loss(model, batch, method.steps // 2)
    check_loss(terms, -want.mean() + 0.3 * annotation_term(model, data, features), model)


def test_the_second_stages_likelihood_has_a_variance_of_its_own_for_every_place() -> None:
    model, z1 = vae((3,), stack=4), torch.randn(5, 4)
    z, c = torch.randn(5, 3), F.one_hot(torch.tensor([0, 1, 2, 0, 1]), 3).float()
    second = Second(model)
    parameters = second.decode(z, c)
    assert parameters.shape == (5, 8)
    assert gaussian(parameters).stddev.std() > 0
    torch.testing.assert_close(second.log_likelihood(z1, parameters), log_prob(gaussian(parameters), z1).sum(1))


@pytest.mark.parametrize("shape", SHAPES)
def test_each_stage_trains_its_own_part_alone(shape: tuple[int, ...]) -> None:
    """Bit for bit, with an optimiser that remembers gradients and decays weights."""
    model, batch = vae((3,), shape, stack=4).train(), make_batch((3,), shape)
    method, optimizer = build("m1m2", model), make_optimizer(model, TrainPlan())
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    first = {name for name in trained if name.startswith(FIRST_STAGE)}
    assert len(trained - first) >= 8
    half = method.steps // 2
    for step, part in ((0, first), (half - 1, first), (half, trained - first), (2 * half - 1, trained - first)):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        torch.autograd.backward(method.loss(model, batch, step).total)
        optimizer.step()
        optimizer.zero_grad()
        assert {name for name, p in model.named_parameters() if not torch.equal(p, before[name])} == part


def test_the_decoders_of_both_stages_are_joined() -> None:
    model = vae((3,), stack=4)
    z, c = torch.randn(5, 3), F.one_hot(torch.tensor([0, 1, 2, 0, 1]), 3).float()
    z1 = gaussian(model.decoder.second(z, c))
    assert z1.mean.shape == (5, 4)
    torch.testing.assert_close(model.decode(z, c), model.decoder.first(z1.mean, torch.zeros(5, 0)))
    assert not torch.allclose(model.decode(z, c), model.decode(z, c.roll(1, 1)))


def test_labels_are_read_off_the_mean_of_z1() -> None:
    model, x = vae((3,), stack=4), torch.rand(6, 1, 8, 8)
    mean = gaussian(model.encoder.to_z1(model.encoder.first((x - 0.3) / 0.5).place)).mean
    logits = model.classify(x)
    torch.testing.assert_close(logits, model.to_logits(model.encoder.second(mean)))
    assert torch.equal(logits, model.classify(x))
    # The same images in training differ by their samples of z1 alone.
    model.train()
    assert not torch.equal(model.classify(x), model.classify(x))


# --- SHOT-VAE -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (2, 3)])
def test_shot_vae_is_eq_13_with_smoothed_annotations(sizes: Sizes, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = vae(sizes, z_given_c=False), make_batch(sizes)
    smoothed = batch.targets.clone()
    for i in range(len(smoothed)):
        for j, block in enumerate(model.space.blocks):
            if not batch.observed[i, j]:
                continue
            # A class that is certainly not the annotated one gets its part of 0.001, the annotated one loses 0.001.
            for c in range(block.start, block.stop):
                p = batch.targets[i, c]
                smoothed[i, c] = p * (1 - 0.001) + (1 - p) * 0.001 / (sizes[j] - 1)
    sums = latent.sum_labels(smoothed, sizes)[batch.observed]
    torch.testing.assert_close(sums, torch.ones_like(sums))
    method = build("shot-vae", model)
    plain = TighterELBO.from_plan(model, plan_for(FACTS, objective="shot-vae"), FACTS)
    monkeypatch.setattr(plain, "belief_at", method.belief_at)
    monkeypatch.setattr(plain, "weights", dataclasses.replace(plain.weights, alpha=0.0))
    seen, original = [], TighterELBO.loss

    def spy(self: TighterELBO, model: Any, batch: Batch, step: int) -> LossTerms:
        seen.append(batch)
        return original(self, model, batch, step)

    monkeypatch.setattr(TighterELBO, "loss", spy)
    batch.second = torch.rand(2, 1, 8, 8)
    for step in (0, 50, 400):
        torch.manual_seed(1)
        got = method.loss(model, batch, step)
        torch.manual_seed(1)
        want = original(plain, model, Batch(batch.x, smoothed, batch.observed), step)
        assert want.consistency is not None
        want.total = want.total + method.weights.alpha * mixed_by_hand(model, batch, smoothed) / len(batch.x)
        for name, value in want.present().items():
            torch.testing.assert_close(got.present()[name], value, msg=lambda text, name=name: name + text)
        torch.testing.assert_close(seen[-1].targets, smoothed, equal_nan=True)
        assert torch.equal(seen[-1].observed, batch.observed)
        assert seen[-1].second is batch.second


@pytest.mark.usefixtures("still")
@pytest.mark.parametrize("sizes", [(4,), (2, 2), (2, 3)])
def test_shot_vae_by_hand(sizes: Sizes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its whole loss from the formula and the constants of its docstring."""
    model, batch = vae(sizes, z_given_c=False), make_batch(sizes)
    # What c is drawn from goes to the decoder, in the place of a sample.
    monkeypatch.setattr(latent, "relaxed_sample", lambda logits, sizes, *_, **__: log_softmax(logits, sizes).exp())
    monkeypatch.setattr(latent, "hard_sample", lambda log_p, sizes: log_p.exp())
    log_softmax = latent.log_softmax
    plan = plan_for(FACTS, objective="shot-vae").train
    method, step = build("shot-vae", model), plan.steps
    torch.manual_seed(1)
    got = method.loss(model, batch, step).total

    seen = latent.spread_labels(batch.observed, sizes)
    rest = 0.001 / (torch.tensor(sizes) - 1).repeat_interleave(torch.tensor(sizes))
    smooth = torch.where(batch.targets == 1, 0.999, rest)
    soft = batch.targets * 0.999 + (1 - batch.targets) * rest  # of soft annotations the mean of it
    annotated = torch.where((batch.targets == 0) | (batch.targets == 1), smooth, soft)
    features = features_of(model, batch.x)
    logits, q_z = model.to_logits(features.label), gaussian(model.to_z(features.place))
    q = torch.cat([logits[:, block].softmax(1) for block in model.space.blocks], dim=1)
    c = torch.where(seen, annotated, q)
    raw = model.decoder(q_z.mean + NOISE * q_z.stddev, c)
    want = -1e-3 * log_prob(pixels(model)(raw), batch.x).flatten(1).sum(1).mean() + 1e-6 * to_prior(q_z).mean()
    for block in model.space.blocks:
        prior = Categorical(logits=model.log_prior[block])
        distance = kl_divergence(Categorical(logits=logits[:, block]), prior).mean() - prior.entropy()
        want = want + 1e-6 * distance.abs()
    # The mixtures of what is not annotated: λ ~ Beta(2, 2) is the first that is drawn.
    torch.manual_seed(1)
    share = float(torch.distributions.Beta(2.0, 2.0).sample())
    rows = [i for i in range(len(batch.x)) if not batch.observed[i].all()]
    with torch.no_grad():
        nearest = {}
        for i in rows:
            others = [j for j in rows if j != i]
            each = [
                kl_divergence(Normal(q_z.mean[i], q_z.stddev[i]), Normal(q_z.mean[j], q_z.stddev[j])) for j in others
            ]
            nearest[i] = others[int(torch.stack(each).sum(1).argmin())]
        x = torch.stack([share * batch.x[i] + (1 - share) * batch.x[nearest[i]] for i in rows])
        target = torch.stack([share * c[i] + (1 - share) * c[nearest[i]] for i in rows])
    mixed_logits = model.to_logits(features_of(model, x).label)
    for block in model.space.blocks:
        p, own = Categorical(probs=target[:, block]), Categorical(logits=mixed_logits[:, block])
        want = want + kl_divergence(p, own).mean()
    alpha = (plan.batch_labelled + plan.batch_unlabelled) / plan.batch_labelled
    want = want + alpha * mixed_by_hand(model, batch, annotated) / len(batch.x)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def mixed_by_hand(model: LabelVAE, batch: Batch, targets: Tensor) -> Tensor:
    """Σ KL(p̃ ‖ q) of mixtures of the annotated images, cell by cell, drawn from where the random numbers stand."""
    rows = [i for i in range(len(batch.x)) if batch.observed[i].any()]
    x, partner, share = mixed(batch.x[rows], 0.1)
    log_q = latent.log_softmax(model.classify(x), model.sizes)
    total = torch.zeros(())
    for i in range(len(rows)):
        first, second = rows[i], rows[int(partner[i])]
        parts = [(first, float(share[i])), (second, 1 - float(share[i]))]
        for j, block in enumerate(model.space.blocks):
            known = [(weight, targets[row, block]) for row, weight in parts if batch.observed[row, j]]
            counts = sum(weight for weight, _ in known)
            if counts:
                p = sum(weight / counts * values for weight, values in known)
                total = total + counts * (p * (p.log() - log_q[i, block])).sum()
    return total


def test_interpolations_count_more_and_more() -> None:
    method = build("shot-vae", vae((3,)))
    ramp = 0.4 * plan_for(FACTS, objective="shot-vae").train.steps
    beliefs = [method.belief_at(round(share * ramp)) for share in (0, 0.5, 1, 2)]
    assert beliefs == pytest.approx([math.exp(-5), math.exp(-1.25), 1, 1])
    everything = fingerprint(images(some_known(known=60)))
    assert plan_for(everything, objective="shot-vae").objective.source == "none"


# --- JointVAE -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["joint-vae", "vae"])
@pytest.mark.parametrize("sizes", [(4,), (2, 3)])
def test_references_without_labels_do_not_see_annotations(sizes: Sizes, name: str) -> None:
    model, batch = vae(sizes, z_given_c=False), make_batch(sizes)
    method = build(name, model)
    assert method.weights.alpha == 0
    results = []
    for shown in (batch, hidden(batch)):
        torch.manual_seed(1)
        terms = method.loss(model, shown, 100)
        results.append([*terms.present().values(), *gradients(terms.total, model).values()])
        assert terms.label_kl == 0
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("rise", [0.0, 0.5, 1.0, 2.0])
def test_joint_vae_holds_batch_means_at_their_capacities(rise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = (2, 3)
    model, batch = vae(sizes, z_given_c=False), make_batch(sizes)
    model.log_prior.copy_(uniform_prior(sizes, torch.float32))
    # Examples on both sides of the capacities, whose distances cancel in a batch mean.
    spread = torch.linspace(0.1, 9.0, 8)[:, None]
    posterior = Posterior(spread * torch.randn(8, 3), torch.randn(8, 3), spread * torch.randn(8, 5))
    monkeypatch.setattr(model, "encode", lambda x: posterior)
    plan = plan_for(FACTS, objective="joint-vae")
    assert plan.objective.prior == "uniform"
    terms = build("joint-vae", model).loss(model, batch, round(rise * 0.5 * plan.train.steps))
    assert terms.reconstruction is not None
    reached = min(rise, 1.0)
    kl_z = to_prior(Normal(posterior.mean, (0.5 * posterior.log_var).exp()))
    assert float(kl_z.min()) < 5 < float(kl_z.max())
    penalty = 30 * (kl_z.mean() - 5 * reached).abs()
    for size, logits in zip(sizes, posterior.logits.split(sizes, 1), strict=True):
        kl_c = kl_divergence(Categorical(logits=logits), Categorical(probs=torch.ones(size) / size)).mean()
        penalty = penalty + 30 * (kl_c - math.log(size) * reached).abs()
    torch.testing.assert_close(terms.total + terms.reconstruction, penalty, rtol=1e-5, atol=1e-3)


# --- all of them --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "step"), [*((name, 1000) for name in NAMES), ("m1m2", 0)])
def test_hidden_targets_reach_neither_loss_nor_gradient(name: str, step: int) -> None:
    sizes = (2, 3, 2)
    untrained = vae(sizes, stack=4 if name == "m1m2" else 0).train()
    batch = make_batch(sizes)
    seen = latent.spread_labels(batch.observed, sizes)
    results: list[list[Tensor]] = []
    for filling in (math.nan, 0.0, 1.0, math.inf):
        model = copy.deepcopy(untrained)
        torch.manual_seed(7)
        targets = torch.where(seen, batch.targets, filling)
        terms = build(name, model).loss(model, Batch(batch.x, targets, batch.observed), step)
        results.append([*terms.present().values(), *gradients(terms.total, model).values()])
    for value in results[0]:
        assert bool(torch.isfinite(value).all())
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("data", [images(some_known()), vectors(cells(), SEVERAL)], ids=["images", "vectors"])
@pytest.mark.parametrize("name", NAMES)
def test_a_trained_model_is_evaluated_kept_and_read_again(name: str, data: Dataset, tmp_path: Path) -> None:
    fitted = fit(data, tiny(), objective=name, quiet=True)
    model, x = fitted.model, fitted.model.prepare(torch.from_numpy(data.x))
    assert not equal(model, build_model(data, fitted.plan, fitted.facts))
    assert model.architecture.z_given_c == (name in ("m2", "m1m2", "siddharth"))
    assert model.architecture.stack == (50 if name == "m1m2" else 0)
    figures = evaluate(model, data)
    assert "elbo" not in figures if name == "m1m2" else math.isfinite(figures["elbo"])
    low = elbo(model, x, samples=20, enumerate=True)
    high = importance_weighted(model, x, samples=100)
    assert bool(torch.isfinite(low).all())
    assert float(high.mean()) > float(low.mean())
    save_model(model, tmp_path, {})
    again = load_model(tmp_path)
    assert equal(model, again)
    probabilities = predict_probabilities(model, data.x)
    np.testing.assert_allclose(predict_probabilities(again, data.x), probabilities, atol=1e-6)
    for block in data.space.blocks:
        np.testing.assert_allclose(probabilities[:, block].sum(1), 1, atol=1e-9)

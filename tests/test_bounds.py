from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from conftest import ConditionalGaussian, LinearGaussian, random_targets, standard_errors, uniform_prior
from taut import latent
from taut.evaluate.bounds import elbo, importance_weighted
from taut.labels import LabelSpace
from taut.latent import Sizes
from taut.nn import Architecture, LabelVAE, Posterior
from taut.nn.vae import Likelihood

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES: list[Sizes] = [(4,), (2, 3)]
MODELS = [LinearGaussian, ConditionalGaussian]
REPEATS = 4000


def annotated(sizes: Sizes, kind: str, n: int = 1) -> tuple[Tensor, Tensor]:
    """Targets with NaN where hidden, and the mask, of one kind of annotation; all rows alike."""
    targets = random_targets(1, sizes, one_hot=kind != "soft").expand(n, -1)
    observed = torch.ones(n, len(sizes), dtype=torch.bool)
    if kind == "none":
        observed[:] = False
    if kind == "some":
        observed[:, -1] = False
    return torch.where(latent.spread_labels(observed, sizes), targets, math.nan), observed


def allowed(targets: Tensor) -> Tensor:
    """The classes that an annotation does not rule out, [N, W] bool."""
    return targets.isnan() | (targets > 0)


@pytest.mark.parametrize("kind_of_model", MODELS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", ["none", "some", "soft", "one-hot"])
@pytest.mark.parametrize("enumerated", [True, False])
def test_elbo_averages_to_its_closed_form(
    kind_of_model: type[LinearGaussian], sizes: Sizes, kind: str, enumerated: bool
) -> None:
    model = kind_of_model(sizes)
    x, (targets, observed) = model.sample(1), annotated(sizes, kind)
    want = model.closed_bound(x, targets.nan_to_num(), observed)
    rows = [v.expand(REPEATS, -1) for v in (x, targets, observed)]
    values = elbo(model, rows[0], rows[1], rows[2], samples=3, enumerate=enumerated)
    assert standard_errors(values, want) < 4
    assert float(want) < float(model.log_evidence(x))


@pytest.mark.parametrize("kind_of_model", MODELS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", ["none", "some", "soft", "one-hot"])
def test_bounds_are_ordered(kind_of_model: type[LinearGaussian], sizes: Sizes, kind: str) -> None:
    """ELBO ≤ importance-weighted ≤ log p(x), on averages over repeats, for eq. 11 and for B of eq. 12."""
    model = kind_of_model(sizes)
    x, (targets, observed) = model.sample(3), annotated(sizes, kind, 3)
    evidence = model.log_evidence(x)
    tightest = model.log_evidence(x, allowed(targets))
    assert bool((tightest <= evidence + 1e-5).all())
    many, p, m = (v.repeat_interleave(REPEATS, 0) for v in (x, targets, observed))
    steps = [elbo(model, many, p, m)] + [importance_weighted(model, many, p, m, samples=s) for s in (1, 4, 32)]
    values = torch.stack([step.view(3, REPEATS) for step in steps])
    mean, error = values.mean(-1), values.std(-1) / math.sqrt(REPEATS)
    # One sample is the ELBO, with label and Gaussian terms sampled; more are tighter, and by much.
    assert bool(((mean[0] - mean[1]).abs() <= 4 * (error[0] + error[1])).all())
    assert bool((mean[1] < mean[2]).all())
    assert bool((mean[2] < mean[3]).all())
    assert bool((mean[3] <= tightest + 4 * error[3]).all())
    assert bool((mean[3] - mean[0] > 0.5 * (tightest - mean[0])).all())


@pytest.mark.parametrize("kind_of_model", MODELS)
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("kind", ["none", "some", "soft", "one-hot"])
def test_many_samples_reach_the_evidence(kind_of_model: type[LinearGaussian], sizes: Sizes, kind: str) -> None:
    """log p(x), or log p(x, c) of the annotated cells c where the annotation is one-hot."""
    model = kind_of_model(sizes)
    x, (targets, observed) = model.sample(4), annotated(sizes, kind, 4)
    values = importance_weighted(model, x, targets, observed, samples=100_000, chunk=5000)
    tightest = model.log_evidence(x, allowed(targets))
    torch.testing.assert_close(values, tightest, atol=0.1, rtol=0)
    if kind == "soft":
        torch.testing.assert_close(tightest, model.log_evidence(x))


def test_every_sample_is_exact_where_q_is_the_posterior() -> None:
    """With labels that x does not depend on and the true q(z|x) no weight varies: each is p(x)."""
    sizes = (2, 3)
    model = LinearGaussian(sizes, z_dim=1)
    x = model.sample(6)
    with torch.no_grad():
        model.offset.zero_()
        precision = 1 + model.loading.square().sum() / model.sigma**2
        model.to_mean.copy_(model.loading / model.sigma**2 / precision)
        model.to_log_var.zero_()
        model.start.copy_(-precision.log())
        model.to_logits.zero_()
        model.log_prior.copy_(uniform_prior(sizes))
    evidence = model.log_evidence(x)
    for samples in (1, 5):
        torch.testing.assert_close(importance_weighted(model, x, samples=samples), evidence)
    many = torch.stack([elbo(model, x) for _ in range(400)])
    assert standard_errors(many, evidence) < 4


def test_every_sample_is_exact_where_q_follows_the_label() -> None:
    """With the true q(c|x) and the true q(z|x,c), which differs between labels, no weight varies: each is p(x)."""
    model = ConditionalGaussian((4,), z_dim=1)
    x = model.sample(6)
    with torch.no_grad():
        precision = 1 + model.loading.square().sum() / model.sigma**2
        gain = model.loading / model.sigma**2 / precision
        by_input = torch.cat([gain, torch.zeros_like(gain)], 1)
        model.head.weight.copy_(torch.cat([by_input, -model.offset @ by_input]).T)
        model.head.bias.copy_(torch.stack([torch.zeros(()), 10 * torch.atanh(-precision.log() / 10)]))
        covariance = model.loading @ model.loading.T + model.sigma**2 * torch.eye(3)
        direction = covariance.inverse() @ model.offset.T
        logits = model.log_prior + x @ direction - 0.5 * (model.offset * direction.T).sum(1)

        def encode(x: Tensor) -> Posterior:
            return Posterior(x[:, :1], x[:, :1], logits, x, model.head)

        model.encode = encode  # type: ignore[method-assign]
    evidence = model.log_evidence(x)
    for samples in (1, 5):
        weighted = importance_weighted(model, x, samples=samples)
        torch.testing.assert_close(weighted, evidence, atol=1e-4, rtol=0)
    # Here the posterior does not factorise into q(z|x) and q(c|x), and still the bound is met.
    many = torch.stack([elbo(model, x, enumerate=enumerated) for enumerated in (True, False) for _ in range(200)])
    assert standard_errors(many, evidence) < 4


def test_labels_reach_the_decoder_hard_and_as_annotated() -> None:
    sizes = (2, 3)
    model = LinearGaussian(sizes)
    x, (targets, observed) = model.sample(5), annotated(sizes, "some", 5)
    elbo(model, x, targets, observed, samples=20)
    importance_weighted(model, x, targets, observed, samples=20)
    c = torch.cat(model.decoded[1:]).view(-1, 5, 5)
    assert len(c) == 40
    assert bool(((c == 0) | (c == 1)).all())
    assert bool((latent.sum_labels(c, sizes) == 1).all())
    assert torch.equal(c[..., :2], targets[:, :2].expand(40, -1, -1))
    assert bool((c[..., 2:].flatten(0, 1).mean(0) > 0).all())


@pytest.mark.parametrize("enumerated", [True, False])
def test_hidden_targets_do_not_matter(enumerated: bool) -> None:
    sizes = (2, 3)
    model = LinearGaussian(sizes)
    x, (targets, observed) = model.sample(5), annotated(sizes, "some", 5)
    results = []
    for shown, mask in ((targets, observed), (targets.nan_to_num(9.0), observed), (targets, None)):
        seed = torch.Generator().manual_seed(3)
        bound = elbo(model, x, shown, mask, samples=2, generator=seed, enumerate=enumerated)
        results.append([bound, importance_weighted(model, x, shown, mask, samples=4, generator=seed)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)
            assert bool(torch.isfinite(a).all())
    assert float(elbo(model, x).sum()) != float(results[0][0].sum())


def test_without_observed_cells_it_is_the_unlabelled_bound() -> None:
    sizes = (2, 3)
    model = LinearGaussian(sizes)
    x, (targets, observed) = model.sample(5), annotated(sizes, "none", 5)
    for bound in (elbo, importance_weighted):
        plain = bound(model, x, samples=3, generator=torch.Generator().manual_seed(1))
        masked = bound(model, x, targets, observed, samples=3, generator=torch.Generator().manual_seed(1))
        assert torch.equal(plain, masked)


def test_memory_is_bounded_by_the_chunk() -> None:
    model = LinearGaussian((3,))
    x = model.sample(10)
    model.decoded.clear()
    importance_weighted(model, x, samples=11, chunk=4)
    assert [len(c) for c in model.decoded] == [40, 40, 30]
    model.decoded.clear()
    elbo(model, x, samples=5, chunk=2)
    assert [len(c) for c in model.decoded] == [20, 20, 10]
    model.decoded.clear()
    elbo(model, x, samples=1, enumerate=True)
    assert [len(c) for c in model.decoded] == [10, 10, 10]


def test_arguments_that_make_no_sense_are_refused() -> None:
    model = LinearGaussian((2,) * 13)
    x = model.sample(2)
    with pytest.raises(ValueError, match="without targets"):
        elbo(model, x, observed=torch.ones(2, 13, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least 1"):
        importance_weighted(model, x, samples=0)
    with pytest.raises(ValueError, match="8192 label combinations"):
        elbo(model, x, enumerate=True)
    assert bool(torch.isfinite(elbo(model, x)).all())


@pytest.mark.parametrize("z_given_c", [False, True])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_bounds_of_a_label_vae(likelihood: Likelihood, z_given_c: bool) -> None:
    space = LabelSpace.multilabel(3)
    architecture = Architecture((1, 8, 8), width=4, z_dim=4, likelihood=likelihood, z_given_c=z_given_c)
    model = LabelVAE(space, architecture).eval()
    x = torch.rand(6, 1, 8, 8)
    annotation = space.encode([[0, 1, float("nan")]] * 6)
    targets, observed = torch.from_numpy(annotation.targets), torch.from_numpy(annotation.observed)
    low = elbo(model, x, targets, observed, samples=200)
    exact = elbo(model, x, targets, observed, samples=200, enumerate=True)
    torch.testing.assert_close(low, exact, atol=0.5, rtol=0)
    with torch.no_grad():
        # An untrained decoder hardly reacts to z, which leaves no room between the bounds.
        model.decoder.linear.weight.mul_(8)
    low = elbo(model, x, targets, observed, samples=200)
    high = importance_weighted(model, x, targets, observed, samples=200)
    assert low.shape == high.shape == (6,)
    assert not high.requires_grad
    assert bool((high > low).all())


def test_extreme_logits_and_one_hot_annotations_stay_finite() -> None:
    sizes = (2, 3)
    model = LinearGaussian(sizes)
    with torch.no_grad():
        model.to_logits.mul_(1e4)
    x, (targets, observed) = model.sample(8), annotated(sizes, "one-hot", 8)
    for p, m in ((None, None), (targets, observed)):
        for enumerated in (False, True):
            assert bool(torch.isfinite(elbo(model, x, p, m, samples=3, enumerate=enumerated)).all())
        assert bool(torch.isfinite(importance_weighted(model, x, p, m, samples=3)).all())

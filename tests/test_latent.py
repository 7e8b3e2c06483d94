from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

from conftest import (
    SIZES,
    joint,
    kl,
    log_prob,
    random_logits,
    random_prior,
    random_targets,
    softmax,
    standard_errors,
    uniform_prior,
)
from taut import latent
from taut.latent import Sizes


def permuted(x: Tensor, sizes: Sizes, order: list[int]) -> Tensor:
    blocks = torch.split(x, list(sizes), dim=-1)
    return torch.cat([blocks[j] for j in order], dim=-1)


# --- the factorised terms against c^k -----------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES)
def test_factorised_divergences_equal_enumeration(sizes: Sizes) -> None:
    n = 4
    logits, prior, targets = random_logits(n, sizes), random_prior(sizes), random_targets(n, sizes)
    one_hot = random_targets(n, sizes, one_hot=True)
    log_q = latent.log_softmax(logits, sizes)
    got = {
        "q‖p": latent.label_kl(log_q, prior, sizes).sum(-1),
        "p̃‖q": latent.annotation_kl(targets, log_q, sizes).sum(-1),
        "one-hot‖q": latent.annotation_kl(one_hot, log_q, sizes).sum(-1),
        "H": latent.label_entropy(log_q, sizes).sum(-1),
    }
    for i in range(n):
        q = joint(softmax(logits[i].numpy(), sizes), sizes)
        p = joint(np.exp(prior.numpy()), sizes)
        want = {
            "q‖p": kl(q, p),
            "p̃‖q": kl(joint(targets[i].numpy(), sizes), q),
            "one-hot‖q": kl(joint(one_hot[i].numpy(), sizes), q),
            "H": -float((q * np.log(q)).sum()),
        }
        for name, value in want.items():
            assert float(got[name][i]) == pytest.approx(value, abs=1e-6), name


@pytest.mark.parametrize("sizes", SIZES)
def test_enumeration_is_the_product_of_the_labels(sizes: Sizes) -> None:
    logits = random_logits(3, sizes)
    combinations = latent.enumerate_labels(sizes, logits)
    assert combinations.shape == (math.prod(sizes), sum(sizes))
    assert combinations.dtype == logits.dtype
    assert len({tuple(row) for row in combinations.tolist()}) == len(combinations)
    assert torch.equal(latent.sum_labels(combinations, sizes), torch.ones(len(combinations), len(sizes)).double())
    probability = (latent.log_softmax(logits, sizes) @ combinations.T).exp()
    for row, own in zip(logits.numpy(), probability.numpy(), strict=True):
        np.testing.assert_allclose(own, joint(softmax(row, sizes), sizes), atol=1e-12)


def test_enumeration_has_a_limit() -> None:
    with pytest.raises(ValueError, match="8192 label combinations"):
        latent.enumerate_labels((2,) * 13, torch.zeros(1))
    assert len(latent.enumerate_labels((2,) * 12, torch.zeros(1))) == latent.ENUMERATION_LIMIT


@pytest.mark.parametrize("sizes", SIZES)
def test_sums_maxima_and_spreads_keep_to_their_label(sizes: Sizes) -> None:
    x = torch.randn(2, 3, sum(sizes))
    blocks = torch.split(x, list(sizes), dim=-1)
    torch.testing.assert_close(latent.sum_labels(x, sizes), torch.stack([b.sum(-1) for b in blocks], -1))
    assert torch.equal(latent.max_labels(x, sizes), torch.stack([b.amax(-1) for b in blocks], -1))
    torch.testing.assert_close(latent.log_softmax(x, sizes), torch.cat([b.log_softmax(-1) for b in blocks], -1))
    y = torch.randn(2, 3, len(sizes))
    expanded = [y[..., j : j + 1].expand(-1, -1, size) for j, size in enumerate(sizes)]
    assert torch.equal(latent.spread_labels(y, sizes), torch.cat(expanded, -1))


def test_a_row_of_the_wrong_width_is_refused() -> None:
    with pytest.raises(ValueError, match="5 columns for labels of sizes"):
        latent.log_softmax(torch.zeros(2, 5), (2, 2))


@pytest.mark.parametrize("sizes", SIZES)
def test_label_terms_follow_a_permutation_of_the_labels(sizes: Sizes) -> None:
    order = list(reversed(range(len(sizes))))
    turned = tuple(sizes[j] for j in order)
    logits, prior, noise = (
        random_logits(5, sizes),
        random_prior(sizes),
        latent.gumbel_noise(random_logits(5, sizes)),
    )
    targets = random_targets(5, sizes)

    def terms(sizes: Sizes, logits: Tensor, prior: Tensor, targets: Tensor, noise: Tensor) -> list[Tensor]:
        log_q = latent.log_softmax(logits, sizes)
        per_label = [
            latent.label_kl(log_q, prior, sizes),
            latent.annotation_kl(targets, log_q, sizes),
            latent.label_entropy(log_q, sizes),
            latent.mutual_information(log_q, sizes),
        ]
        samples = [
            latent.relaxed_sample(logits, sizes, 0.67, noise),
            latent.relaxed_sample(logits, sizes, 0.67, noise, straight_through=True),
            latent.hard_sample(log_q, sizes, noise),
            log_q,
        ]
        return per_label + samples

    plain = terms(sizes, logits, prior, targets, noise)
    other = terms(turned, *(permuted(x, sizes, order) for x in (logits, prior, targets, noise)))
    for a, b in zip(plain[:4], other[:4], strict=True):
        torch.testing.assert_close(a[..., order], b)
    for a, b in zip(plain[4:], other[4:], strict=True):
        torch.testing.assert_close(permuted(a, sizes, order), b)


# --- Gaussians and likelihoods against torch.distributions --------------------------------------------------


def test_gaussian_kl_and_sample() -> None:
    mean, log_var = torch.randn(6, 4).double(), torch.randn(6, 4).double()
    want = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(latent.gaussian_kl(mean, log_var), want)
    noise = torch.randn(6, 4).double()
    want = mean + log_var.exp().sqrt() * noise
    torch.testing.assert_close(latent.gaussian_sample(mean, log_var, noise), want)
    drawn = latent.gaussian_sample(mean[:1].expand(20_000, -1), log_var[:1].expand(20_000, -1))
    assert standard_errors(drawn, mean[0]) < 4
    assert standard_errors((drawn - mean[0]).square(), log_var[0].exp()) < 4


def test_likelihoods() -> None:
    x, parameters = torch.rand(3, 2, 4, 4).double().round(), torch.randn(3, 2, 4, 4).double()
    want = log_prob(Bernoulli(logits=parameters), x).flatten(1).sum(1)
    torch.testing.assert_close(latent.bernoulli_log_likelihood(x, parameters), want)
    log_var = torch.tensor(-0.7).double()
    want = log_prob(Normal(parameters, (0.5 * log_var).exp()), x).flatten(1).sum(1)
    torch.testing.assert_close(latent.gaussian_log_likelihood(x, parameters, log_var), want)


def test_grey_values_have_the_expected_likelihood_of_their_binarisation() -> None:
    x, parameters = torch.rand(1, 1, 2, 2).double(), torch.randn(1, 1, 2, 2).double()
    expected = 0.0
    for pixels in product((0.0, 1.0), repeat=4):
        binary = torch.tensor(pixels).double().view(1, 1, 2, 2)
        weight = torch.where(binary == 1, x, 1 - x).prod()
        expected += float(weight * log_prob(Bernoulli(logits=parameters), binary).sum())
    assert float(latent.bernoulli_log_likelihood(x, parameters)) == pytest.approx(expected, abs=1e-9)


# --- samples ------------------------------------------------------------------------------------------------


def nonlinear(c: Tensor) -> Tensor:
    """A function of c that is not additive over labels or classes."""
    weight = torch.linspace(-1, 1, c.shape[-1], dtype=c.dtype)
    return torch.stack([(c @ weight).square(), torch.sin(3 * c @ weight.square())], dim=-1)


@pytest.mark.parametrize("sizes", [(3,), (2, 5, 2)])
@pytest.mark.parametrize(
    ("how", "temperature"),
    [
        ("hard", 1.0),
        ("straight-through", 0.1),
        ("straight-through", 0.67),
        ("straight-through", 5.0),
        ("relaxed", 1e-4),
    ],
)
def test_samples_average_to_the_enumerated_value(sizes: Sizes, how: str, temperature: float) -> None:
    logits = random_logits(1, sizes)
    combinations = latent.enumerate_labels(sizes, logits)
    exact = (latent.log_softmax(logits, sizes) @ combinations.T).exp() @ nonlinear(combinations)
    many = logits.expand(40_000, -1)
    if how == "hard":
        c = latent.hard_sample(latent.log_softmax(many, sizes), sizes)
    else:
        c = latent.relaxed_sample(many, sizes, temperature, straight_through=how == "straight-through")
    assert standard_errors(nonlinear(c), exact[0]) < 4


def test_a_warm_relaxation_is_biased_and_this_test_would_see_it() -> None:
    logits = random_logits(1, (2, 5, 2))
    combinations = latent.enumerate_labels((2, 5, 2), logits)
    exact = (latent.log_softmax(logits, (2, 5, 2)) @ combinations.T).exp() @ nonlinear(combinations)
    c = latent.relaxed_sample(logits.expand(40_000, -1), (2, 5, 2), 5.0)
    assert standard_errors(nonlinear(c), exact[0]) > 10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_are_on_their_simplices(dtype: torch.dtype) -> None:
    sizes = (2, 4, 4, 3)
    logits = random_logits(200, sizes, dtype=dtype).requires_grad_()
    relaxed = latent.relaxed_sample(logits, sizes, 0.67)
    assert relaxed.dtype == dtype
    assert bool((relaxed >= 0).all())
    torch.testing.assert_close(latent.sum_labels(relaxed, sizes), torch.ones(200, 4, dtype=dtype))
    exact = latent.relaxed_sample(logits, sizes, 0.67, straight_through=True)
    hard = latent.hard_sample(logits, sizes)
    for c in (exact, hard):
        assert bool(((c == 0) | (c == 1)).all())
        assert torch.equal(latent.sum_labels(c, sizes), torch.ones(200, 4, dtype=dtype))
    assert not hard.requires_grad


def test_straight_through_has_the_gradient_of_the_relaxation() -> None:
    sizes = (2, 3)
    logits, noise, weight = (
        random_logits(4, sizes),
        latent.gumbel_noise(random_logits(4, sizes)),
        torch.randn(5),
    )
    gradients = []
    for straight in (False, True):
        leaf = logits.clone().requires_grad_()
        c = latent.relaxed_sample(leaf, sizes, 0.5, noise, straight_through=straight)
        gradients.append(torch.autograd.grad((c @ weight.double()).sum(), leaf)[0])
    assert float(gradients[0].abs().sum()) > 0
    torch.testing.assert_close(gradients[0], gradients[1])


def test_a_yes_no_label_is_the_binary_concrete() -> None:
    """The difference of two Gumbels is logistic: c_yes = sigmoid((logit difference + logistic) / T)."""
    logits, noise = random_logits(50, (2,)), latent.gumbel_noise(random_logits(50, (2,)))
    c = latent.relaxed_sample(logits, (2,), 0.3, noise)
    difference = (logits + noise).diff(dim=1)[:, 0]
    torch.testing.assert_close(c[:, 1], torch.sigmoid(difference / 0.3))


# --- mutual information -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("scale", [0.0, 0.5, 3.0, 30.0])
def test_mutual_information_lies_between_zero_and_log_k(sizes: Sizes, scale: float) -> None:
    log_q = latent.log_softmax(random_logits(64, sizes, scale), sizes)
    information = latent.mutual_information(log_q, sizes)
    assert bool((information >= -1e-12).all())
    assert bool((information <= torch.tensor(sizes).double().log() + 1e-12).all())
    if scale == 0:
        torch.testing.assert_close(information, torch.zeros(len(sizes)).double())
    # The same by its other definition, the mean divergence from the marginal.
    again = latent.label_kl(log_q, latent.log_marginal(log_q), sizes).mean(0)
    torch.testing.assert_close(information, again, atol=1e-10, rtol=0)


def test_balanced_and_confident_predictions_carry_log_k() -> None:
    sizes = (2, 5)
    rows = torch.arange(20)
    logits = 100 * torch.cat([torch.eye(2)[rows % 2], torch.eye(5)[rows % 5]], dim=1).double()
    information = latent.mutual_information(latent.log_softmax(logits, sizes), sizes)
    torch.testing.assert_close(information, torch.tensor(sizes).double().log())
    collapsed = latent.mutual_information(latent.log_softmax(logits[:1].expand(20, -1), sizes), sizes)
    torch.testing.assert_close(collapsed, torch.zeros(2).double())


def test_log_marginal_stays_finite_where_probabilities_underflow() -> None:
    log_q = latent.log_softmax(torch.tensor([[1e4, 0.0], [1e4, 0.0]]), (2,))
    assert latent.log_marginal(log_q).tolist() == [0.0, -1e4]


# --- constants of METHOD.md ---------------------------------------------------------------------------------


def test_budget_constants_at_a_prevalence_of_five_percent() -> None:
    prior = torch.tensor([0.95, 0.05]).double().log()
    assert float(latent.label_entropy(prior, (2,))) == pytest.approx(0.199, abs=5e-4)
    sure = latent.log_softmax(torch.tensor([[100.0, 0.0], [0.0, 100.0]]).double(), (2,))
    negative, positive = latent.label_kl(sure, prior, (2,))[:, 0].tolist()
    assert negative == pytest.approx(0.051, abs=5e-4)
    assert positive == pytest.approx(2.996, abs=5e-4)
    # A constant budget H for each example has its zero at an unsure positive.
    zero = torch.tensor([[1 - 0.235, 0.235]]).double().log()
    entropy = float(latent.label_entropy(prior, (2,)))
    assert float(latent.label_kl(zero, prior, (2,))) == pytest.approx(entropy, abs=1e-3)


def test_a_sure_prediction_under_a_uniform_prior_costs_log_k() -> None:
    sure = latent.log_softmax(100 * torch.eye(10).double(), (10,))
    value = latent.label_kl(sure, uniform_prior((10,)), (10,))
    torch.testing.assert_close(value, torch.full((10, 1), math.log(10)).double())

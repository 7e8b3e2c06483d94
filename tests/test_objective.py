from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import (
    SIZES,
    Array,
    joint,
    kl,
    random_logits,
    random_prior,
    random_targets,
    softmax,
    split_blocks,
    uniform_prior,
)
from taut import latent, objective
from taut.latent import Sizes
from taut.objective import LossTerms, Weights, tighter_elbo

PLAIN = Weights()


def random_inputs(n: int, sizes: Sizes, one_hot: bool = False) -> dict[str, Tensor]:
    """Everything that `tighter_elbo` takes but the mask, in float64."""
    return {
        "log_likelihood": -10 * torch.rand(n).double(),
        "mean": torch.randn(n, 3).double(),
        "log_var": torch.randn(n, 3).double(),
        "logits": random_logits(n, sizes),
        "targets": random_targets(n, sizes, one_hot),
        "log_prior": random_prior(sizes),
    }


def random_mask(n: int, sizes: Sizes) -> Tensor:
    return (torch.rand(n, len(sizes)) < 0.5).double()


def mixed(p: Array, q: Array, observed: Sequence[float], sizes: Sizes) -> Array:
    """r_j = m·p̃ + (1 − m)·q of one row."""
    pairs = zip(split_blocks(p, sizes), split_blocks(q, sizes), observed, strict=True)
    return np.concatenate([m * a + (1 - m) * b for a, b, m in pairs])


def gaussian_kl(mean: Array, log_var: Array) -> float:
    return float(0.5 * (mean**2 + np.exp(log_var) - log_var - 1).sum())


def brute_force(inputs: dict[str, Tensor], confidence: Tensor, sizes: Sizes) -> dict[str, Array]:
    """U, B and L of every row by sums over c^k, in plain numpy."""
    a = {name: value.numpy() for name, value in inputs.items()}
    prior = joint(np.exp(a["log_prior"]), sizes)
    rows: dict[str, list[float]] = {"U": [], "B": [], "L": []}
    for i in range(len(a["logits"])):
        q, m = softmax(a["logits"][i], sizes), confidence[i].tolist()
        start = a["log_likelihood"][i] - gaussian_kl(a["mean"][i], a["log_var"][i])
        r = joint(mixed(a["targets"][i], q, m, sizes), sizes)
        # Labels that are not annotated drop out of KL(p̃‖q) where p̃ is q itself.
        annotation = joint(mixed(a["targets"][i], q, [float(v > 0) for v in m], sizes), sizes)
        rows["U"].append(start - kl(joint(q, sizes), prior))
        rows["B"].append(start - kl(r, prior))
        rows["L"].append(start - kl(joint(q, sizes), prior) - kl(annotation, joint(q, sizes)))
    return {name: np.array(values) for name, values in rows.items()}


# --- bounds and their gap -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("mask", ["none", "all", "some"])
def test_bounds_equal_brute_force_over_all_combinations(sizes: Sizes, one_hot: bool, mask: str) -> None:
    n = 5
    inputs = random_inputs(n, sizes, one_hot)
    m = {"none": torch.zeros, "all": torch.ones}.get(mask, torch.zeros)(n, len(sizes)).double()
    if mask == "some":
        m = random_mask(n, sizes)
    want = brute_force(inputs, m, sizes)
    log_q, prior = latent.log_softmax(inputs["logits"], sizes), inputs["log_prior"]
    kl_z = latent.gaussian_kl(inputs["mean"], inputs["log_var"])
    unlabelled = objective.unlabelled_bound(inputs["log_likelihood"], kl_z, log_q, prior, sizes)
    common = (inputs["log_likelihood"], kl_z, log_q, inputs["targets"], m, prior, sizes)
    bound, value = objective.exact_bound(*common), objective.surrogate(*common)
    np.testing.assert_allclose(unlabelled, want["U"], atol=1e-6)
    np.testing.assert_allclose(bound, want["B"], atol=1e-6)
    np.testing.assert_allclose(value, want["L"], atol=1e-6)
    if mask == "none":
        torch.testing.assert_close(bound, unlabelled)
        torch.testing.assert_close(value, unlabelled)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("annotated", [True, False])
def test_surrogate_is_bound_plus_gap(sizes: Sizes, one_hot: bool, annotated: bool) -> None:
    inputs = random_inputs(20, sizes, one_hot)
    m = torch.ones(20, len(sizes)).double() if annotated else random_mask(20, sizes)
    log_q, prior = latent.log_softmax(inputs["logits"], sizes), inputs["log_prior"]
    common = (inputs["log_likelihood"], torch.rand(20).double(), log_q, inputs["targets"], m, prior, sizes)
    gap = objective.surrogate_gap(log_q, inputs["targets"], m, prior, sizes)
    difference = objective.surrogate(*common) - objective.exact_bound(*common)
    torch.testing.assert_close(difference, gap, atol=1e-9, rtol=0)
    assert float(gap.abs().max()) > 0.1
    if annotated:
        # And by its definition over all combinations, Δ = Σ_c (q(c) − p̃(c))·log(p(c)/q(c)).
        for i in range(20):
            q, p = (
                joint(softmax(inputs["logits"][i].numpy(), sizes), sizes),
                joint(inputs["targets"][i].numpy(), sizes),
            )
            want = ((q - p) * np.log(joint(prior.exp().numpy(), sizes) / q)).sum()
            assert float(gap[i]) == pytest.approx(want, abs=1e-9)


def test_gap_of_one_hot_annotations_under_a_uniform_prior() -> None:
    """Δ = H(q) − CE(p̃, q): positive for a right but unsure q, negative for a confidently wrong one."""
    sizes, prior = (4,), uniform_prior((4,))
    targets = torch.tensor([[1.0, 0, 0, 0]] * 2).double()
    log_q = latent.log_softmax(torch.tensor([[1.0, 0, 0, 0], [0, 9.0, 0, 0]]).double(), sizes)
    gap = objective.surrogate_gap(log_q, targets, torch.ones(2, 1), prior, sizes)
    want = latent.label_entropy(log_q, sizes)[:, 0] + log_q[:, 0]
    torch.testing.assert_close(gap, want)
    assert float(gap[0]) > 0 > float(gap[1])
    # It vanishes as q approaches p̃, and is exactly 0 where q is p̃.
    soft = random_targets(3, sizes)
    none = objective.surrogate_gap(soft.log(), soft, torch.ones(3, 1), random_prior(sizes), sizes)
    torch.testing.assert_close(none, torch.zeros(3).double())


@pytest.mark.parametrize(("classes", "alpha", "best"), [(2, 1, 0.782), (10, 1, 0.476), (2, 5, 0.994), (10, 5, 0.954)])
def test_plain_objective_is_maximised_at_an_unsure_classifier(classes: int, alpha: float, best: float) -> None:
    sizes, logits = (classes,), torch.zeros(1, classes, dtype=torch.float64, requires_grad=True)
    targets, zero = torch.eye(classes).double()[:1], torch.zeros(1).double()
    optimiser = torch.optim.LBFGS([logits], max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss(weights: Weights) -> Tensor:
        nothing = torch.zeros(1, 1).double()
        one = torch.ones(1, 1)
        return tighter_elbo(zero, nothing, nothing, logits, targets, one, uniform_prior(sizes), sizes, weights).total

    def closure() -> float:
        optimiser.zero_grad()
        value = loss(Weights(alpha=alpha))
        torch.autograd.backward(value)
        return value.item()

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    assert float(logits.detach().softmax(-1)[0, 0]) == pytest.approx(best, abs=5e-4)
    # The budget restores confidence: with C_c at its greatest the optimum above is not even stationary.
    gradient = torch.autograd.grad(loss(Weights(alpha=alpha, capacity_c=1.0)), logits)[0]
    assert float(gradient[0, 0]) < -1e-3


# --- the whole objective ------------------------------------------------------------------------------------


def whole(inputs: dict[str, Tensor], m: Tensor, sizes: Sizes, weights: Weights = PLAIN) -> LossTerms:
    return tighter_elbo(**inputs, confidence=m, sizes=sizes, weights=weights)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("per", ["example", "batch"])
@pytest.mark.parametrize("mask", ["none", "all", "some"])
def test_unit_weights_give_minus_the_mean_of_eq_11_and_13(sizes: Sizes, per: str, mask: str) -> None:
    n = 6
    inputs = random_inputs(n, sizes, one_hot=True)
    m = {"none": torch.zeros(n, len(sizes)), "all": torch.ones(n, len(sizes))}.get(mask, random_mask(n, sizes))
    want = brute_force(inputs, m, sizes)
    terms = whole(inputs, m, sizes, Weights(per="batch" if per == "batch" else "example"))
    reference = want["U"] if mask == "none" else want["L"]
    assert float(terms.total) == pytest.approx(-reference.mean(), abs=1e-6)
    parts = terms.present()
    assert float(parts["surrogate"]) == pytest.approx(want["L"].mean(), abs=1e-6)
    assert float(parts["bound"]) == pytest.approx(want["B"].mean(), abs=1e-6)
    assert float(parts["gap"]) == pytest.approx((want["L"] - want["B"]).mean(), abs=1e-6)
    assert float(parts["reconstruction"]) == pytest.approx(float(inputs["log_likelihood"].mean()))
    assert list(parts)[-1] == "total"


def test_every_weight_scales_its_term() -> None:
    sizes = (3, 2)
    inputs, m = random_inputs(7, sizes), random_mask(7, sizes)
    weights = Weights(reconstruction=0.3, beta_z=0.7, beta_c=1.7, alpha=5.0, mutual_information=0.4, marginal=2.0)
    terms = whole(inputs, m, sizes, weights)
    parts = terms.present()
    log_q = latent.log_softmax(inputs["logits"], sizes)
    information = objective.information_penalty(log_q, inputs["log_prior"], sizes, 2.0)
    want = (
        -0.3 * parts["reconstruction"]
        + 0.7 * parts["kl_z"]
        + 1.7 * parts["kl_c"]
        + 5.0 * parts["label_kl"]
        + 0.4 * information
    )
    torch.testing.assert_close(terms.total, want)


@pytest.mark.parametrize("confidence", [0.25, 0.8])
def test_graded_confidence_mixes_the_annotation_and_the_posterior(confidence: float) -> None:
    sizes = (2, 3)
    inputs = random_inputs(4, sizes)
    m = torch.full((4, 2), confidence).double()
    terms = whole(inputs, m, sizes).present()
    assert float(terms["bound"]) == pytest.approx(brute_force(inputs, m, sizes)["B"].mean(), abs=1e-9)
    full = whole(inputs, torch.ones(4, 2), sizes).present()
    torch.testing.assert_close(terms["label_kl"], confidence * full["label_kl"])


# --- unequal frequencies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("one_hot", [False, True])
def test_the_balanced_term_by_hand(sizes: Sizes, one_hot: bool) -> None:
    inputs = random_inputs(5, sizes, one_hot)
    log_q, log_prior = latent.log_softmax(inputs["logits"], sizes), inputs["log_prior"]
    found = objective.balanced_kl(inputs["targets"], log_q, log_prior, sizes).numpy()
    prior, q, p = log_prior.exp().numpy(), log_q.exp().numpy(), inputs["targets"].numpy()
    for i in range(5):
        blocks = zip(*(split_blocks(a, sizes) for a in (prior, q[i], p[i])), strict=True)
        for j, (pi, qi, truth) in enumerate(blocks):
            weight = 1 / (len(pi) * pi)
            assert float((pi * weight).sum()) == pytest.approx(1)
            shifted = weight * qi / (weight * qi).sum()
            aim = weight * truth / (weight * truth).sum()
            cross = -(weight * truth * np.log(shifted)).sum()
            entropy = -(weight * truth).sum() * np.where(aim > 0, aim * np.log(np.where(aim > 0, aim, 1)), 0).sum()
            assert found[i, j] == pytest.approx(cross - entropy, abs=1e-9)


@pytest.mark.parametrize("prevalence", [0.03, 0.5])
def test_the_balanced_term_is_least_at_the_posterior(prevalence: float) -> None:
    sizes = (2,)
    log_prior = torch.tensor([1 - prevalence, prevalence]).double().log()
    posterior, grid = 0.2, torch.linspace(0.005, 0.995, 199).double()
    log_q = torch.stack([1 - grid, grid], dim=1).log()
    expected = sum(
        share * objective.balanced_kl(torch.tensor(one).double().expand(199, 2), log_q, log_prior, sizes)[:, 0]
        for share, one in ((1 - posterior, [1.0, 0.0]), (posterior, [0.0, 1.0]))
    )
    assert isinstance(expected, Tensor)
    assert float(grid[expected.argmin()]) == pytest.approx(posterior, abs=1e-6)


def test_rare_classes_weigh_as_much_as_common_ones_and_the_reported_term_is_plain() -> None:
    sizes = (2, 2)
    inputs = random_inputs(6, sizes, one_hot=True)
    m = random_mask(6, sizes)
    plain, balanced = (whole(inputs, m, sizes, Weights(alpha=3.0, balanced=b)).present() for b in (False, True))
    kl = objective.balanced_kl(
        inputs["targets"], latent.log_softmax(inputs["logits"], sizes), inputs["log_prior"], sizes
    )
    want = plain["total"] + 3 * ((m * kl).sum(1).mean() - plain["label_kl"])
    torch.testing.assert_close(balanced["total"], want)
    assert float(balanced["label_kl"]) == float(plain["label_kl"])
    uniform = {**inputs, "log_prior": uniform_prior(sizes).double()}
    plain, balanced = (whole(uniform, m, sizes, Weights(balanced=b)) for b in (False, True))
    torch.testing.assert_close(balanced.total, plain.total)


# --- budgets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", SIZES)
def test_per_example_penalty_at_full_capacity_is_the_entropy(sizes: Sizes) -> None:
    log_q, prior = latent.log_softmax(random_logits(9, sizes, 3.0), sizes), random_prior(sizes)
    zero = torch.zeros(9).double()
    value = objective.capacity_penalty(zero, log_q, prior, sizes, Weights(capacity_c=1.0))
    torch.testing.assert_close(value, latent.label_entropy(log_q, sizes).sum(-1).mean(), atol=1e-12, rtol=0)


def test_budgets_by_example_and_by_batch() -> None:
    sizes = (2, 4)
    log_q, prior = latent.log_softmax(random_logits(9, sizes, 2.0), sizes), random_prior(sizes)
    kl_z, kl_c = 5 * torch.rand(9).double(), latent.label_kl(log_q, prior, sizes)
    weights = Weights(beta_z=2.0, beta_c=3.0, capacity_z=2.5, capacity_c=0.5)
    cross = torch.stack([-(log_q[:, b].exp() * prior[b]).sum(-1) for b in (slice(0, 2), slice(2, 6))], 1)
    want = 2 * (kl_z - 2.5).abs().mean() + 3 * (kl_c - 0.5 * cross).abs().sum(1).mean()
    torch.testing.assert_close(objective.capacity_penalty(kl_z, log_q, prior, sizes, weights), want)
    weights = dataclasses.replace(weights, per="batch")
    entropy = torch.stack([-(prior[b].exp() * prior[b]).sum() for b in (slice(0, 2), slice(2, 6))])
    want = 2 * (kl_z.mean() - 2.5).abs() + 3 * (kl_c.mean(0) - 0.5 * entropy).abs().sum()
    torch.testing.assert_close(objective.capacity_penalty(kl_z, log_q, prior, sizes, weights), want)


def test_labels_cannot_trade_their_budgets() -> None:
    """One label above its budget and one below it by as much: the penalties add up instead of cancelling."""
    sizes, prior = (2, 2), uniform_prior((2, 2))
    log_q = latent.log_softmax(torch.tensor([[50.0, 0, 0, 0]]).double(), sizes)
    weights = Weights(capacity_c=0.5, per="batch")
    value = objective.capacity_penalty(torch.zeros(1).double(), log_q, prior, sizes, weights)
    assert float(value) == pytest.approx(math.log(2), abs=1e-9)


def test_a_constant_budget_would_punish_sure_negatives_and_ours_does_not() -> None:
    prior = torch.tensor([0.95, 0.05]).double().log()
    log_q = latent.log_softmax(torch.tensor([[20.0, 0.0]]).double(), (2,))
    zero = torch.zeros(1).double()
    value = objective.capacity_penalty(zero, log_q, prior, (2,), Weights(capacity_c=1.0))
    constant = objective.capacity_penalty(zero, log_q, prior, (2,), Weights(capacity_c=1.0, per="batch"))
    assert float(value) == pytest.approx(0, abs=1e-6)
    assert float(constant) == pytest.approx(0.199 - 0.051, abs=1e-3)


@pytest.mark.parametrize("sizes", SIZES)
def test_information_penalty(sizes: Sizes) -> None:
    log_q = latent.log_softmax(random_logits(30, sizes), sizes)
    value = objective.information_penalty(log_q, uniform_prior(sizes), sizes, 1.0)
    want = sum(math.log(size) for size in sizes) - latent.mutual_information(log_q, sizes).sum()
    torch.testing.assert_close(value, want)
    # With any prior the marginal is pulled towards it: 0 where the marginal is the prior and every q is sure.
    sure = latent.log_softmax(torch.tensor([[40.0, 0], [0, 40], [0, 40], [0, 40]]).double(), (2,))
    prior = torch.tensor([0.25, 0.75]).double().log()
    matched = objective.information_penalty(sure, prior, (2,), 3.0)
    balanced = objective.information_penalty(sure[:2], prior, (2,), 3.0)
    assert float(matched) == pytest.approx(0, abs=1e-9)
    assert float(balanced) == pytest.approx(3 * kl(np.array([0.5, 0.5]), np.array([0.25, 0.75])), abs=1e-9)


# --- gradients ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "weights",
    [
        PLAIN,
        Weights(reconstruction=0.3, beta_z=0.5, beta_c=2.0, alpha=5.0, capacity_z=9.0, capacity_c=0.9),
        Weights(capacity_z=9.0, capacity_c=1.0, per="batch"),
        Weights(mutual_information=0.3, marginal=2.0),
        Weights(balanced=True),
    ],
)
def test_gradcheck_with_fixed_noise(weights: Weights) -> None:
    """The whole objective through both samples and a decoder; budgets far from the kinks of |·|."""
    sizes = (2, 3)
    x, prior, targets = torch.randn(3, 4).double(), random_prior(sizes), random_targets(3, sizes)
    m = torch.tensor([[1.0, 0], [0, 0], [1, 1]]).double()
    noise, gumbel = torch.randn(3, 2).double(), latent.gumbel_noise(targets)
    loading, offset = torch.randn(2, 4).double(), torch.randn(5, 4).double()

    def loss(mean: Tensor, log_var: Tensor, logits: Tensor) -> Tensor:
        z = latent.gaussian_sample(mean, log_var, noise)
        c = latent.relaxed_sample(logits, sizes, 0.67, gumbel)
        log_likelihood = latent.bernoulli_log_likelihood(x.sigmoid(), z @ loading + c @ offset)
        terms = tighter_elbo(log_likelihood, mean, log_var, logits, targets, m, prior, sizes, weights)
        return terms.total

    leaves = (torch.randn(3, 2).double(), 0.3 * torch.randn(3, 2).double(), 0.5 * random_logits(3, sizes))
    assert torch.autograd.gradcheck(loss, tuple(leaf.requires_grad_() for leaf in leaves), eps=1e-6, atol=1e-6)


def test_an_unobserved_label_has_no_cross_entropy_gradient() -> None:
    sizes = (2, 3, 2)
    inputs = random_inputs(4, sizes, one_hot=True)
    logits = inputs["logits"].requires_grad_()
    m = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]).double()
    label_kl = whole(inputs, m, sizes).label_kl
    assert label_kl is not None
    (gradient,) = torch.autograd.grad(label_kl, logits)
    per_label = latent.sum_labels(gradient.abs(), sizes)
    assert bool((per_label[m == 0] == 0).all())
    assert bool((per_label[m == 1] > 0).all())


@pytest.mark.parametrize("per", ["example", "batch"])
def test_hidden_targets_reach_no_term_and_no_gradient(per: str) -> None:
    sizes = (2, 3, 2)
    inputs = random_inputs(6, sizes)
    m = random_mask(6, sizes)
    hidden = latent.spread_labels(m, sizes) == 0
    assert bool(hidden.any())
    assert not bool(hidden.all())
    weights = Weights(
        capacity_c=0.5, capacity_z=1.0, per="batch" if per == "batch" else "example", mutual_information=0.1
    )
    weights = dataclasses.replace(weights, balanced=per == "batch")
    results = []
    for filling in (math.nan, 0.0, 7.0, -math.inf):
        leaves = {name: inputs[name].clone().requires_grad_() for name in ("mean", "log_var", "logits")}
        targets = torch.where(hidden, filling, inputs["targets"])
        terms = whole({**inputs, **leaves, "targets": targets}, m, sizes, weights)
        gradients = torch.autograd.grad(terms.total, list(leaves.values()))
        results.append([*terms.present().values(), *gradients])
    for value in results[0]:
        assert bool(torch.isfinite(value).all())
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_targets_that_are_observed_do_matter() -> None:
    sizes = (2, 3)
    inputs, m = random_inputs(3, sizes), torch.ones(3, 2)
    other = {**inputs, "targets": random_targets(3, sizes)}
    assert float(whole(inputs, m, sizes).total) != float(whole(other, m, sizes).total)
    missing = {**inputs, "targets": torch.full_like(inputs["targets"], math.nan)}
    assert math.isnan(float(whole(missing, m, sizes).total))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("per", ["example", "batch"])
@pytest.mark.parametrize("capacity", [0.0, 0.5, 1.0])
def test_extreme_logits_give_no_nan(dtype: torch.dtype, per: str, capacity: float) -> None:
    sizes = (2, 3)
    corners = torch.tensor([[1e4, -1e4, -1e4, 1e4, -1e4], [-1e4, 1e4, 1e4, -1e4, -1e4], [1e4, 1e4, 0, 0, -1e4]])
    logits = corners.to(dtype).requires_grad_()
    targets = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0.5, 0.5, 1, 0, 0]], dtype=dtype)
    weights = Weights(capacity_c=capacity, mutual_information=0.3, per="batch" if per == "batch" else "example")
    c = latent.relaxed_sample(logits, sizes, 0.67)
    zero = torch.zeros(3, 1, dtype=dtype)
    for m in (torch.zeros(3, 2), torch.ones(3, 2), torch.tensor([[1.0, 0], [0, 1], [1, 0]])):
        prior = random_prior(sizes, dtype)
        terms = tighter_elbo(c.sum(-1), zero, zero, logits, targets, m, prior, sizes, weights)
        for name, value in terms.present().items():
            assert bool(torch.isfinite(value)), name
        (gradient,) = torch.autograd.grad(terms.total, logits, retain_graph=True)
        assert bool(torch.isfinite(gradient).all())


def test_the_objective_follows_a_permutation_of_the_labels() -> None:
    sizes, order = (2, 5, 3), [2, 0, 1]
    turned = tuple(sizes[j] for j in order)
    inputs, m = random_inputs(6, sizes), random_mask(6, sizes)

    def turn(x: Tensor) -> Tensor:
        blocks = torch.split(x, list(sizes), dim=-1)
        return torch.cat([blocks[j] for j in order], dim=-1)

    other = {**inputs, **{name: turn(inputs[name]) for name in ("logits", "targets", "log_prior")}}
    for per in ("example", "batch"):
        weights = Weights(
            capacity_c=0.4, alpha=2.0, mutual_information=0.2, per="batch" if per == "batch" else "example"
        )
        a = whole(inputs, m, sizes, weights).present()
        b = whole(other, m[:, order], turned, weights).present()
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name])


def test_terms_that_are_absent_are_not_reported() -> None:
    terms = LossTerms(total=torch.tensor(1.0, requires_grad=True), kl_z=torch.tensor(2.0))
    assert {name: float(value) for name, value in terms.present().items()} == {"kl_z": 2.0, "total": 1.0}
    assert not terms.present()["total"].requires_grad

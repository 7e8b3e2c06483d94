"""The tighter ELBO (Feng 2019, eq. 11-16): one objective for unlabelled, annotated and partly annotated images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from torch import Tensor, nn

from taut import latent
from taut.latent import Sizes
from taut.nn.vae import LabelVAE

if TYPE_CHECKING:
    from taut.facts import Facts
    from taut.plan import Plan

SecondView = Literal["none", "weak", "strong"]


@dataclass
class Batch:
    """Images and what is known of their labels.

    x: [N, ...] prepared images in [0, 1] or standardised features, weakly augmented; annotated images first.
    targets: [N, W] annotations p̃(c|x), anything (NaN) where not observed.
    observed: [N, k] bool.
    second: [M, ...] a second view of the last M rows of x, as strongly augmented as the objective asks for, or None.
    ignored: [N, k] bool, cells that take no part in any term of the labels, or None where there are none.
    auxiliary: [N, A] what is known of the model's auxiliary variables, NaN where nothing is; or None.
    index: [N] which images of the training set they are, or None where nobody says.
    """

    x: Tensor
    targets: Tensor
    observed: Tensor
    second: Tensor | None = None
    ignored: Tensor | None = None
    auxiliary: Tensor | None = None
    index: Tensor | None = None

    @property
    def settled(self) -> Tensor:
        """The cells that nothing is estimated for: annotated or ignored, [N, k] bool."""
        return self.observed if self.ignored is None else self.observed | self.ignored


@dataclass
class LossTerms:
    """What a loss is made of: scalars, batch means in nats but where it is said; `total` is what is minimised.

    reconstruction: E log p(x|z,c).  kl_z: KL(q(z|x) ‖ p(z)).  kl_c: Σ_j KL(q(c_j|x) ‖ p(c_j)).
    label_kl: Σ_j m_j·KL(p̃(c_j|x) ‖ q(c_j|x)), of rivals a mean over annotated rows.  bound: eq. 11 / B of eq. 12.
    surrogate: L of eq. 13.  Where cells are not annotated and their labels are relaxed for the decoder, these two are
    estimates: `bound` is then no bound.
    gap: Δ = L − B, exact.  mutual_information: Σ_j I(x; c_j) over the batch.
    consistency: Σ_j m_j·KL(p̂(c_j|x) ‖ q(c_j|x)) towards estimated label posteriors; of rivals the distance of their own
    formula, which may be a squared one.
    confidence: the mean weight m of the views' labels, estimated or annotated.
    auxiliary: Σ_j KL(p̃(a_j|x) ‖ q(a_j|x)) of the auxiliary variables, over rows of which one is known.

    A term that an objective does not have stays None.
    """

    total: Tensor
    reconstruction: Tensor | None = None
    kl_z: Tensor | None = None
    kl_c: Tensor | None = None
    label_kl: Tensor | None = None
    bound: Tensor | None = None
    surrogate: Tensor | None = None
    gap: Tensor | None = None
    mutual_information: Tensor | None = None
    consistency: Tensor | None = None
    confidence: Tensor | None = None
    auxiliary: Tensor | None = None

    def present(self) -> dict[str, Tensor]:
        """The terms that are there, by name; `total` last, so that a bad term is named before it."""
        names = [f.name for f in fields(self) if f.name != "total"] + ["total"]
        return {name: getattr(self, name).detach() for name in names if getattr(self, name) is not None}


class Objective(nn.Module, ABC):
    """What the training loop knows of a method: a loss for a model, a batch and a step.

    second_view: which second view of the unlabelled rows the method asks for.
    stages: equal parts of the training, in each of which the learning rate rises and falls.
    takes_auxiliary: whether auxiliary variables have a term in the loss.
    """

    second_view: SecondView = "none"
    stages: int = 1
    takes_auxiliary: bool = False

    @classmethod
    def plan_for(cls, facts: Facts) -> dict[str, Any]:
        """The decisions in which the method's plan differs from `make_plan`'s, by dotted name."""
        return {}

    @classmethod
    def decodes(cls, plan: Plan) -> bool:
        """Whether the decoder learns under a plan."""
        return False

    @classmethod
    def from_plan(cls, model: LabelVAE, plan: Plan, facts: Facts) -> Self:
        """The objective of a plan for a training set with these facts; as it is where it has no settings."""
        return cls()

    @abstractmethod
    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss of one batch at a step (0, 1, …)."""

    def notes(self) -> list[str]:
        """Sentences on what a training has found, once it has ended."""
        return []


def auxiliary_term(logits: Tensor, targets: Tensor, sizes: Sizes) -> Tensor:
    """Σ_j KL(p̃(a_j|x) ‖ q(a_j|x)) of auxiliary variables, averaged over the rows of which one is known: a scalar, nats.

    logits: [N, A].  targets: [N, A], NaN where nothing is known.
    """
    known = latent.sum_labels(targets.isnan().to(logits.dtype), sizes) == 0
    log_q = latent.log_softmax(logits, sizes)
    return latent.counted_kl(targets, log_q, known, sizes).sum() / known.any(1).sum().clamp_min(1)


@dataclass(frozen=True)
class Weights:
    """The constants of eq. 16, all dimensionless but the budgets.

    reconstruction: ρ.  beta_z, beta_c: β of the two KL terms.  alpha: α of KL(p̃‖q).
    capacity_z: the budget C_z in nats.  capacity_c: the share (0 to 1) of the greatest label budget, log K for a
    uniform prior.  per: whether |KL − C| is taken for each example or of the batch mean; the batch form depends
    on gradient accumulation and on the number of processes.
    mutual_information: the weight λ of −I(x; c_j), its marginal part counted `marginal` times.
    balanced: whether KL(p̃‖q) is `balanced_kl`.
    """

    reconstruction: float = 1.0
    beta_z: float = 1.0
    beta_c: float = 1.0
    alpha: float = 1.0
    capacity_z: float = 0.0
    capacity_c: float = 0.0
    per: Literal["example", "batch"] = "example"
    mutual_information: float = 0.0
    marginal: float = 1.0
    balanced: bool = False


def unlabelled_bound(log_likelihood: Tensor, kl_z: Tensor, log_q: Tensor, log_prior: Tensor, sizes: Sizes) -> Tensor:
    """U(x) of eq. 11, a bound on log p(x): [N] nats, from E log p(x|z,c) with c ~ q(c|x)."""
    return log_likelihood - kl_z - latent.label_kl(log_q, log_prior, sizes).sum(-1)


def exact_bound(
    log_likelihood: Tensor,
    kl_z: Tensor,
    log_q: Tensor,
    targets: Tensor,
    confidence: Tensor,
    log_prior: Tensor,
    sizes: Sizes,
) -> Tensor:
    """B(x) of eq. 12 for any pattern of annotated labels, a bound on log p(x): [N] nats.

    c_j ~ r_j = m·p̃ + (1 − m)·q: eq. 12 where m = 1, eq. 11 where m = 0. log_likelihood is E log p(x|z,c) under it.
    targets [N, W] must be finite everywhere; confidence is m, [N, k].
    """
    m = latent.spread_labels(confidence, sizes)
    r = m * targets + (1 - m) * log_q.exp()
    annotated = latent.sum_labels(torch.special.xlogy(r, r) - r * log_prior, sizes)
    plain = latent.label_kl(log_q, log_prior, sizes)
    return log_likelihood - kl_z - torch.where(confidence > 0, annotated, plain).sum(-1)


def surrogate(
    log_likelihood: Tensor,
    kl_z: Tensor,
    log_q: Tensor,
    targets: Tensor,
    confidence: Tensor,
    log_prior: Tensor,
    sizes: Sizes,
) -> Tensor:
    """L(x) of eq. 13 for any pattern of annotated labels: [N] nats. A surrogate, not a bound: L = B + Δ."""
    kl = latent.counted_kl(targets, log_q, confidence, sizes).sum(-1)
    return unlabelled_bound(log_likelihood, kl_z, log_q, log_prior, sizes) - kl


def surrogate_gap(log_q: Tensor, targets: Tensor, observed: Tensor, log_prior: Tensor, sizes: Sizes) -> Tensor:
    """Δ = L − B = Σ_j m_j Σ_c (q − p̃)·log(p(c)/q): [N] nats, for observed [N, k] of zeros and ones."""
    delta = latent.sum_labels((log_q.exp() - targets) * (log_prior - log_q), sizes)
    return torch.where(observed > 0, delta, 0).sum(-1)


def capacity_penalty(
    kl_z: Tensor, log_q: Tensor, log_prior: Tensor, sizes: Sizes, weights: Weights, ignored: Tensor | None = None
) -> Tensor:
    """β_z·|KL_z − C_z| + β_c·Σ_j |KL_cj − C_cj| of eq. 16 as a batch mean, in nats.

    ignored: [N, k] bool, cells left out of the sum (per="example") or of their label's mean (per="batch").

    |·| is taken per label, so that labels cannot trade off. The label budget is a share of
    −Σ_c q(c|x)·log p(c) per example (the penalty at share 1 is then the entropy of q) and of H(p(c)) per batch:
    a constant budget per example is wrong for a non-uniform prior.
    """
    kl_c = latent.label_kl(log_q, log_prior, sizes)
    if weights.per == "example":
        budget = weights.capacity_c * -latent.sum_labels(log_q.exp() * log_prior, sizes)
        z = (kl_z - weights.capacity_z).abs().mean()
        distance = (kl_c - budget).abs()
        distance = distance if ignored is None else torch.where(ignored, 0, distance)
        return weights.beta_z * z + weights.beta_c * distance.sum(-1).mean()
    budget = weights.capacity_c * latent.label_entropy(log_prior, sizes)
    z = (kl_z.mean() - weights.capacity_z).abs()
    distance = (_mean(kl_c, ignored) - budget).abs()
    distance = distance if ignored is None else torch.where(ignored.all(0), 0, distance)
    return weights.beta_z * z + weights.beta_c * distance.sum()


def _mean(values: Tensor, ignored: Tensor | None) -> Tensor:
    """The mean of each label's cells [N, k] that count: [k], 0 where none does."""
    if ignored is None:
        return values.mean(0)
    return torch.where(ignored, 0, values).sum(0) / (~ignored).sum(0).clamp_min(1)


def information_penalty(
    log_q: Tensor, log_prior: Tensor, sizes: Sizes, marginal: float, ignored: Tensor | None = None
) -> Tensor:
    """marginal·KL(mean_i q ‖ p) + mean_i H(q), summed over labels, in nats (eq. 14 for c).

    For a uniform prior and marginal = 1 it is Σ_j (log K − I(x; c_j)); for any other prior the marginal is
    pulled towards the prior instead of towards balance.
    ignored: [N, k] bool, cells left out of their label's means.
    """
    entropy = _mean(latent.label_entropy(log_q, sizes), ignored).sum()
    if ignored is None:
        return marginal * latent.label_kl(latent.log_marginal(log_q), log_prior, sizes).sum() + entropy
    left_out = latent.spread_labels(ignored, sizes)
    # −1e9 and not −inf, for which a label that nobody counts for would have the gradient NaN.
    total = torch.logsumexp(torch.where(left_out, -1e9, log_q), dim=0) - (~left_out).sum(0).clamp_min(1).log()
    spread = latent.label_kl(total, log_prior, sizes)
    return marginal * torch.where(ignored.all(0), 0, spread).sum() + entropy


def balanced_kl(targets: Tensor, log_q: Tensor, log_prior: Tensor, sizes: Sizes) -> Tensor:
    """KL(p̃(c_j|x) ‖ q(c_j|x)) with classes that weigh alike, whatever their frequency: [..., W] to [..., k] nats.

    Each class counts w_c = 1/(K·p(c)), 1 on average over the prior, and q' ∝ w·q takes the place of q, so that the
    minimum stays at the posterior and not at that of balanced classes (King & Zeng 2001, weighting and prior
    correction). Of soft annotations it is Σ_c w_c·p̃_c times KL(p̃' ‖ q'), p̃' ∝ w·p̃.
    """
    size = latent.spread_labels(torch.tensor(sizes, device=log_q.device, dtype=log_q.dtype), sizes)
    log_weight = -log_prior - size.log()
    weighted = targets * log_weight.exp()
    mass = latent.sum_labels(weighted, sizes)
    balanced = weighted / latent.spread_labels(mass, sizes)
    return mass * latent.annotation_kl(balanced, latent.log_softmax(log_q + log_weight, sizes), sizes)


def tighter_elbo(
    log_likelihood: Tensor,
    mean: Tensor,
    log_var: Tensor,
    logits: Tensor,
    targets: Tensor,
    confidence: Tensor,
    log_prior: Tensor,
    sizes: Sizes,
    weights: Weights = Weights(),
    ignored: Tensor | None = None,
    expected: Tensor | None = None,
) -> LossTerms:
    """The loss of eq. 16 for any pattern of annotated labels in one batch.

    log_likelihood: [N] nats, E log p(x|z,c) with c_j ~ m·p̃ + (1 − m)·q.  mean, log_var: [N, D].
    logits, targets: [N, W]; targets may be anything where confidence (m, [N, k]) is 0.  log_prior: [W].
    ignored: [N, k] bool, cells of which no term of the loss knows; the reported terms are those of all cells.
    expected: [W], log frequencies that the batch's mean q(c|x) is drawn to in the place of the prior.
    With ρ = β = α = 1 and C = 0 the total is minus the batch mean of eq. 11 (m = 0) and eq. 13 (m = 1).
    """
    m = confidence.to(logits.dtype)
    # A where, not a product: 0·NaN is NaN, and what is hidden must not reach the loss.
    targets = torch.where(latent.spread_labels(m, sizes) > 0, targets, log_prior.exp()).to(logits.dtype)
    log_q = latent.log_softmax(logits, sizes)
    kl_z = latent.gaussian_kl(mean, log_var)
    label_kl = latent.counted_kl(targets, log_q, m, sizes).sum(-1).mean()
    pull = label_kl
    if weights.balanced:
        pull = torch.where(m > 0, m * balanced_kl(targets, log_q, log_prior, sizes), 0).sum(-1).mean()
    total = (
        -weights.reconstruction * log_likelihood.mean()
        + capacity_penalty(kl_z, log_q, log_prior, sizes, weights, ignored)
        + weights.alpha * pull
    )
    if weights.mutual_information:
        drawn_to = log_prior if expected is None else expected
        penalty = information_penalty(log_q, drawn_to, sizes, weights.marginal, ignored)
        total = total + weights.mutual_information * penalty
    with torch.no_grad():
        bound = exact_bound(log_likelihood, kl_z, log_q, targets, m, log_prior, sizes).mean()
        value = surrogate(log_likelihood, kl_z, log_q, targets, m, log_prior, sizes).mean()
        information = latent.mutual_information(log_q, sizes).sum()
    return LossTerms(
        total=total,
        reconstruction=log_likelihood.mean(),
        kl_z=kl_z.mean(),
        kl_c=latent.label_kl(log_q, log_prior, sizes).sum(-1).mean(),
        label_kl=label_kl,
        bound=bound,
        surrogate=value,
        gap=value - bound,
        mutual_information=information,
    )

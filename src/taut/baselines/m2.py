"""M2 (Kingma, Rezende, Mohamed & Welling 2014, Semi-supervised Learning with Deep Generative Models)."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from taut import latent
from taut.baselines.base import Baseline, annotated_term, shielded
from taut.facts import Facts
from taut.nn.vae import LabelVAE, Posterior
from taut.objective import Batch, LossTerms
from taut.plan import Plan


class Generative(Protocol):
    """The parts of a LabelVAE that the bound needs; M1+M2 has another model of z1 in its place."""

    @property
    def log_prior(self) -> Tensor:
        """[W]."""

    def encode(self, x: Tensor) -> Posterior:
        """See `LabelVAE.encode`."""

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """See `LabelVAE.decode`."""

    def log_likelihood(self, x: Tensor, parameters: Tensor) -> Tensor:
        """See `LabelVAE.log_likelihood`."""


class M2(Baseline):
    """Labels as data, marginalised exactly where unknown (Feng 2019, eq. 1-6; Kingma 2014, eq. 6-9).

    Annotated: −L_l(x, c) = ρ·log p(x|z,c) + log p(c) − β_z·KL(q(z|x,c) ‖ p(z)), z ~ q(z|x,c), where the paper's
    ρ and β_z are 1; with others it is no bound, and is not logged as one.
    Not: Σ_c q(c|x)·(−L_l(x, c)) + H(q(c|x)). Both are one formula: Σ_c r(c)·(−L_l(x, c)) + the entropy of r over what
    is not annotated, with r = p̃ where annotated and q where not, which extends to images annotated in part.
    The loss is minus its mean over the batch, in nats, plus α times the cross-entropy of annotated images; α is 0.1,
    the paper's 0.1·N divided by the N images of its sums; 0 leaves the classifier to the bound alone. In the paper's
    sums each image counts once; in a mean over a batch annotated ones count by their share of its rows.
    With k labels the sum runs over all combinations: c^k decoder passes. The class of an ignored cell is drawn instead,
    and so is that of a soft annotation of more labels than can be enumerated.
    Limits: ValueError above 4,096 combinations; q(c|x) learns from annotations through α alone.
    """

    rises_early: ClassVar[bool] = False
    settings: ClassVar[dict[str, Any]] = {
        "model.z_given_c": True,
        "objective.alpha": 0.1,
        "objective.reconstruction": 1.0,
        "objective.beta_z": 1.0,
        "objective.source": "none",
        "objective.mutual_information": 0.0,
    }

    enumerates: ClassVar[bool] = True

    def __init__(self, model: LabelVAE, plan: Plan, facts: Facts) -> None:
        """ValueError for more combinations of labels than can be enumerated, where any that are drawn lack some."""
        super().__init__(model, plan, facts)
        # Where a fold hides annotations of whole rows, what is hidden is not drawn.
        others = facts.images if plan.train.batch_unlabelled else facts.annotated_images
        if self.enumerates and facts.fully_annotated_images < others:
            latent.check_enumerable(self.sizes)

    @classmethod
    def decodes(cls, plan: Plan) -> bool:
        """Whether the decoder learns under a plan."""
        return plan.objective.reconstruction > 0

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss of one batch."""
        return self.loss_of(model, batch)

    def loss_of(self, model: Generative, batch: Batch) -> LossTerms:
        """The loss of one batch under a model of it."""
        posterior = model.encode(batch.x)
        kl = annotated_term(posterior.logits, batch, self.sizes)
        bound = self.bound(model, batch, posterior)
        alpha = self.plan.alpha if self.plan.alpha is not None else 1.0
        total = -bound.mean() + alpha * kl
        return LossTerms(total=total, label_kl=kl.detach(), bound=bound.detach().mean() if self.unweighted else None)

    @property
    def unweighted(self) -> bool:
        """Whether ρ = β_z = 1, so that the formula is a bound."""
        return self.plan.reconstruction == self.plan.beta_z == 1

    def bound(self, model: Generative, batch: Batch, posterior: Posterior) -> Tensor:
        """Σ_c r(c)·(−L_l(x, c)) + H(q) of the labels that are not annotated: [N] nats."""
        mask = latent.spread_labels(batch.observed, self.sizes)
        log_q = latent.log_softmax(shielded(posterior.logits, batch, self.sizes), self.sizes)
        log_known = torch.where(mask, batch.targets.to(log_q.dtype), 1.0).log()
        log_r = torch.where(mask, log_known.clamp_min(-1e4), log_q)
        single = batch.observed & (latent.max_labels(torch.where(mask, batch.targets, 0), self.sizes) == 1)
        drawn = self.drawn(batch, single)
        if bool(drawn.any()):
            one = latent.hard_sample(log_r, self.sizes).log().clamp_min(-1e4)
            log_r = torch.where(latent.spread_labels(drawn, self.sizes), one, log_r)
        whole = (single | drawn).all(1)
        free = torch.where(batch.observed, 0, latent.label_entropy(log_q, self.sizes)).sum(1)
        value = torch.zeros(len(log_q), dtype=log_q.dtype, device=log_q.device)
        if bool(whole.any()):
            one = latent.most_probable(log_r[whole], self.sizes)
            value = value.index_put(
                (whole.nonzero().flatten(),), self.joint(model, batch.x[whole], posterior[whole], one)
            )
        if not bool(whole.all()):
            rows = (~whole).nonzero().flatten()
            value = value.index_put((rows,), self._marginal(model, batch.x[rows], posterior[rows], log_r[rows]))
        return value + free

    def drawn(self, batch: Batch, single: Tensor) -> Tensor:
        """The cells [N, k] whose class is drawn, and not summed over; single: those that are annotated as one class."""
        nothing = torch.zeros_like(batch.observed)
        if not self.enumerates:
            return nothing
        ignored = nothing if batch.ignored is None else batch.ignored
        soft = batch.observed & ~single
        return ignored if latent.is_enumerable(self.sizes) else ignored | soft

    def _marginal(self, model: Generative, x: Tensor, posterior: Posterior, log_r: Tensor) -> Tensor:
        """Σ_c r(c)·(−L_l(x, c)) over all combinations, [N] nats, in one decoder pass over all of them."""
        combinations = latent.enumerate_labels(self.sizes, log_r)
        c = combinations[:, None].expand(-1, len(x), -1)
        # Sums, not matrix products: autocast would round these to bfloat16.
        weight = (c * log_r).sum(-1).exp()
        return (weight * self.joint(model, x, posterior, c)).sum(0)

    def joint(self, model: Generative, x: Tensor, posterior: Posterior, c: Tensor) -> Tensor:
        """−L_l(x, c), with ρ = β_z = 1 a bound on log p(x, c): [N] nats for c [N, W], [R, N] for [R, N, W]."""
        mean, log_var = posterior.given(c)
        z = latent.gaussian_sample(mean, log_var)
        shape = c.shape[:-1]
        parameters = model.decode(z.reshape(-1, z.shape[-1]), c.reshape(-1, c.shape[-1]))
        repeated = x.expand(*shape[:-1], *x.shape).reshape(-1, *x.shape[1:])
        likelihood: Tensor = model.log_likelihood(repeated, parameters).reshape(shape)
        log_prior: Tensor = (c * model.log_prior).sum(-1)
        return self.weighted(likelihood, latent.gaussian_kl(mean, log_var)) + log_prior

    def weighted(self, likelihood: Tensor, kl_z: Tensor) -> Tensor:
        """ρ·log p(x|z,c) − β_z·KL(q(z|x,c) ‖ p(z)), in nats."""
        return self.plan.reconstruction * likelihood - self.plan.beta_z * kl_z

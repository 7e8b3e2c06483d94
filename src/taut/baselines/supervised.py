"""Masked cross-entropy of what is annotated, and nothing else: the floor of every comparison."""

from __future__ import annotations

from typing import Any

import torch

from taut import latent
from taut.baselines.base import Baseline, annotated_term, last_rows, terms_of
from taut.facts import Facts
from taut.nn.vae import LabelVAE
from taut.objective import Batch, LossTerms, auxiliary_term
from taut.plan import Plan
from taut.rules import whole_rows


class Supervised(Baseline):
    """L = mean over annotated images of Σ_j m_j·KL(p̃_j ‖ q_j), in nats.

    Where images are annotated in part, their strong views are shown too where the plan has taut do so: of scans, whose
    unknown cells it does not estimate, they would only take time.
    Auxiliary variables are one more term, of the same weight as in taut's own objective.
    Limits: images without annotation are seen for their auxiliary variables alone, and never without such.
    """

    takes_auxiliary = True

    def __init__(self, model: LabelVAE, plan: Plan, facts: Facts) -> None:
        super().__init__(model, plan, facts)
        # Images without any annotation may be there for their auxiliary variables alone.
        self.second_view = "strong" if plan.objective.source == "teacher" and not whole_rows(facts) else "none"

    @classmethod
    def plan_for(cls, facts: Facts) -> dict[str, Any]:
        """Images without any annotation have nothing to do in a batch, but for auxiliary variables."""
        alone: dict[str, Any] = {}
        if facts.annotated_images and not facts.auxiliary:
            alone = {"train.batch_unlabelled": 0} if whole_rows(facts) else {"train.unannotated": 0.0}
        return {**super().plan_for(facts), **alone}

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss of one batch; step does not matter."""
        n, views = len(batch.x), batch.second
        posterior = model.encode(batch.x if views is None else torch.cat([batch.x, views]))
        logits, others = posterior.logits, {}
        kl = total = annotated_term(logits[:n], batch, self.sizes)
        if batch.auxiliary is not None and posterior.auxiliary is not None:
            auxiliary = auxiliary_term(posterior.auxiliary[:n], batch.auxiliary, model.auxiliary_sizes)
            total, others = kl + self.plan.auxiliary * auxiliary, {"auxiliary": auxiliary.detach()}
        if views is None:
            return terms_of(total, kl, **others)
        targets, observed = last_rows(batch.targets, len(views)), last_rows(batch.observed, len(views))
        rows = observed.any(1).sum().clamp_min(1)
        log_q = latent.log_softmax(logits[n:], self.sizes)
        strong = latent.counted_kl(targets, log_q, observed, self.sizes).sum() / rows
        return terms_of(total + strong, kl, consistency=strong.detach(), **others)

"""FixMatch (Sohn et al. 2020)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from taut import latent
from taut.baselines.base import Baseline, annotated_term, last_rows, terms_of
from taut.facts import Facts
from taut.nn.vae import LabelVAE
from taut.objective import Batch, LossTerms, SecondView


class FixMatch(Baseline):
    """L = CE + λ·1[max q(c|x) ≥ τ]·CE(argmax q(c|x), q(c|x_strong)), τ = 0.95 and λ = 1 (Sohn 2020, eq. 3-4).

    With several labels each unannotated cell has a threshold test of its own; strong views show annotated cells too.
    Of images they have twice the ranges of weak ones, and two rectangles erased.
    Limits: which images count is all or nothing, and a confident error is never taken back; without a strong
    augmentation it is Pseudo-Label.
    """

    settings: ClassVar[dict[str, Any]] = {"objective.consistency": 1.0, "objective.threshold": 0.95}
    second_view: SecondView = "strong"

    @classmethod
    def plan_for(cls, facts: Facts) -> dict[str, Any]:
        """Strong views of images that are far stronger than the weak ones: taut's own are mixed instead."""
        return {**super().plan_for(facts), **({"augment.strong": 2.0, "augment.erase": 2} if facts.is_image else {})}

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss of one batch."""
        if batch.second is None:
            kl = annotated_term(model.classify(batch.x), batch, self.sizes)
            return terms_of(kl, kl)
        n, count = len(batch.x), len(batch.second)
        logits = model.classify(torch.cat([batch.x, batch.second]))
        kl = annotated_term(logits[:n], batch, self.sizes)
        with torch.no_grad():
            log_q = latent.log_softmax(last_rows(logits[:n], count), self.sizes)
            guess = latent.most_probable(log_q, self.sizes)
            sure = self.sure(log_q, ~last_rows(batch.settled, count))
            if batch.ignored is not None:
                sure &= ~last_rows(batch.ignored, count)
            seen = last_rows(batch.observed, count)
            targets = torch.where(latent.spread_labels(seen, self.sizes), last_rows(batch.targets, count), guess)
        log_strong = latent.log_softmax(logits[n:], self.sizes)
        pseudo = latent.counted_kl(targets, log_strong, sure | seen, self.sizes).sum() / count
        total = kl + self.consistency * pseudo + self.fairness(log_q, log_strong, sure)
        return terms_of(total, kl, consistency=pseudo.detach(), confidence=sure.float().mean())

    def sure(self, log_q: Tensor, free: Tensor | None = None) -> Tensor:
        """Which estimates count, [M, k] bool, of weak views' log q [M, W]; free: the cells [M, k] that may, or all."""
        return latent.max_labels(log_q, self.sizes).exp() >= self.plan.threshold

    def fairness(self, log_q: Tensor, log_strong: Tensor, sure: Tensor) -> Tensor | float:
        """A further term in nats; FixMatch has none."""
        return 0.0

"""Pseudo-Label (Lee 2013, ICML workshop on representation learning)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from taut import latent
from taut.baselines.base import Baseline, annotated_term, terms_of
from taut.nn.vae import LabelVAE
from taut.objective import Batch, LossTerms

BEGIN, FULL = 0.1, 0.6  # Lee's T1 = 100 and T2 = 600 of about 1,000 epochs


class PseudoLabel(Baseline):
    """L = CE + α(t)·CE(argmax q, q) on what is not annotated, α rising to 3 between T1 and T2 (Lee 2013, eq. 15-16).

    With several labels each unannotated cell gets the more probable of its own classes. objective.threshold, 0 in the
    paper, leaves out cells whose greatest probability is below it.
    Limits: its own errors are taught as truth, and nothing asks for agreement between views.
    """

    settings: ClassVar[dict[str, Any]] = {"objective.consistency": 3.0, "objective.threshold": 0.0}

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss of one batch."""
        logits = model.classify(batch.x)
        kl = annotated_term(logits, batch, self.sizes)
        log_q = latent.log_softmax(logits, self.sizes)
        with torch.no_grad():
            guess = latent.most_probable(log_q, self.sizes)
            sure = latent.max_labels(log_q, self.sizes).exp() >= self.plan.threshold
            counts = sure & ~batch.settled
        rows = (~batch.settled).any(1).sum().clamp_min(1)
        pseudo = latent.counted_kl(guess, log_q, counts, self.sizes).sum() / rows
        weight = self.consistency * min(1.0, max(0.0, (step / self.steps - BEGIN) / (FULL - BEGIN)))
        return terms_of(kl + weight * pseudo, kl, consistency=pseudo.detach(), confidence=counts.float().mean())

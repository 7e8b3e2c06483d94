"""Π-model (Laine & Aila 2017, Temporal Ensembling for Semi-Supervised Learning)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from taut import latent
from taut.baselines.base import (
    Baseline,
    annotated_term,
    last_rows,
    shielded,
    sigmoid_ramp,
    squared_distance,
    terms_of,
)
from taut.nn.vae import LabelVAE
from taut.objective import Batch, LossTerms, SecondView

RAMP = 0.27  # 80 of 300 epochs


class PiModel(Baseline):
    """L = CE + w(t)·mean (q(c|x') − q(c|x''))² over two weak views, w rising as exp(−5(1 − t)²) (Laine 2017, alg. 1).

    The squared distance is the mean over the classes, and with several labels the sum of it over the labels, each
    yes/no label with its two classes. w_max = 100·M/N of M annotated among N images, beside a cross-entropy that the
    paper sums over the annotated images of a batch and divides by all, would be 100 beside this mean; it is 10. The
    paper's distance is of all images; here of those that have a second view, which annotated ones have not.
    Limits: the two views are all that it knows; without augmentation or dropout they are equal and teach nothing.
    """

    settings: ClassVar[dict[str, Any]] = {"objective.consistency": 10.0}
    second_view: SecondView = "weak"

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss of one batch."""
        n, second = len(batch.x), batch.second
        if second is None:
            kl = annotated_term(model.classify(batch.x), batch, self.sizes)
            return terms_of(kl, kl)
        logits = shielded(model.classify(torch.cat([batch.x, second])), batch, self.sizes)
        kl = annotated_term(logits[:n], batch, self.sizes)
        q = latent.log_softmax(logits, self.sizes).exp()
        distance = squared_distance(last_rows(q[:n], len(second)), q[n:], self.sizes).sum(1).mean()
        weight = self.consistency * sigmoid_ramp(step / (RAMP * self.steps))
        return terms_of(kl + weight * distance, kl, consistency=distance.detach())

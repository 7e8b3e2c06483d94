"""MixMatch (Berthelot et al. 2019)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from taut import latent
from taut.adversary import uncached_no_grad
from taut.baselines.base import (
    Baseline,
    annotated_term,
    last_rows,
    squared_distance,
    terms_of,
    with_second,
)
from taut.nn.vae import LabelVAE
from taut.objective import Batch, LossTerms, SecondView
from taut.targets import Estimate, mixed, mixed_estimate, sharpened


class MixMatch(Baseline):
    """L = CE of mixed annotated images + λ(t)·squared distance of mixed unannotated ones (Berthelot 2019, eq. 2-5).

    The guess is the mean of q over two weak views, sharpened with T = 0.5; all rows, annotated and not, are mixed with
    partners among all of them, λ' = max(λ, 1 − λ), λ ~ Beta(0.75, 0.75), one an image. λ(t) rises linearly to 75,
    here over all steps, in the paper over 16,000, which short trainings do not have.
    With several labels guesses are sharpened label by label, and a cell counts in the term of its own row's kind.
    Limits: squared distances hardly move sure predictions; without augmentation the two views are equal.
    """

    settings: ClassVar[dict[str, Any]] = {
        "objective.consistency": 75.0,
        "objective.sharpen": 0.5,
        "objective.mix": 0.75,
    }
    second_view: SecondView = "weak"

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss of one batch."""
        if batch.second is None:
            kl = annotated_term(model.classify(batch.x), batch, self.sizes)
            return terms_of(kl, kl)
        second = batch.second
        count = len(second)
        observed, targets, settled = (with_second(v, count) for v in (batch.observed, batch.targets, batch.settled))
        x = torch.cat([batch.x, second])
        with uncached_no_grad():
            q = latent.log_softmax(model.classify(x), self.sizes).exp()
            first, again = q[: len(batch.x)], q[len(batch.x) :]
            mean = 0.5 * (last_rows(first, count) + again)
            # Rows without a second view may still be annotated in part only; their guess is that of one view.
            mean = torch.cat([first[: len(first) - count], mean, mean])
            guess = sharpened(mean.clamp_min(1e-12).log(), self.plan.sharpen, self.sizes)
            known = latent.spread_labels(observed, self.sizes)
            labels = torch.where(known, targets.to(guess.dtype), guess)
        if self.plan.mix:
            x, partner, share = mixed(x, self.plan.mix)
            # A partner's ignored cell says nothing.
            said = torch.ones_like(settled) if batch.ignored is None else ~with_second(batch.ignored, count)
            estimate = Estimate(labels, said.to(labels.dtype))
            labels = mixed_estimate(estimate, partner, share.to(labels.dtype), self.sizes).targets
        logits = model.classify(x)
        rows, others = observed.any(1).sum().clamp_min(1), (~settled).any(1).sum().clamp_min(1)
        log_q = latent.log_softmax(logits, self.sizes)
        kl = latent.counted_kl(labels, log_q, observed, self.sizes).sum() / rows
        distance = torch.where(settled, 0, squared_distance(log_q.exp(), labels, self.sizes)).sum() / others
        weight = self.consistency * min(1.0, step / self.steps)
        return terms_of(kl + weight * distance, kl, consistency=distance.detach())

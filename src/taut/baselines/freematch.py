"""FreeMatch (Wang et al. 2023)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from taut import latent
from taut.baselines.fixmatch import FixMatch
from taut.facts import Facts
from taut.nn.vae import LabelVAE
from taut.plan import Plan

MEMORY = 1000  # steps
SHORTEST = 0.05  # of a training
FAIRNESS = 0.01


class FreeMatch(FixMatch):
    """FixMatch with self-adaptive thresholds and a fairness term (Wang 2023, eq. 4-8 and 10-12).

    τ_t(c) = p̃_t(c) / max p̃_t · τ_t, where τ_t is the running mean of the greatest probability and p̃_t that of q over
    unannotated images. The fairness term, weight 0.01, is −H(p̃_t/h̃_t, p̄/h̄): the negative cross-entropy between the
    running mean of q over its histogram and the same of the strong views that count. With several labels all of these
    are kept label by label. Running figures remember 1,000 steps, as in the paper, or a twentieth of a training that is
    shorter than 20,000: from uniform on they would have no time to follow.
    Limits: those of FixMatch; the running figures start from uniform, so that trainings begin with low thresholds.
    """

    settings: ClassVar[dict[str, Any]] = {"objective.consistency": 1.0}

    threshold: Tensor
    marginal: Tensor
    histogram: Tensor

    def __init__(self, model: LabelVAE, plan: Plan, facts: Facts) -> None:
        super().__init__(model, plan, facts)
        memory = max(1.0, min(MEMORY, SHORTEST * self.steps))
        self.decay = (1 - 1 / memory) ** (1 / plan.train.accumulate)  # figures follow every part of a step
        uniform = latent.log_softmax(torch.zeros(sum(self.sizes)), self.sizes).exp()
        self.register_buffer("threshold", latent.max_labels(uniform, self.sizes))
        self.register_buffer("marginal", uniform.clone())
        self.register_buffer("histogram", uniform.clone())

    def sure(self, log_q: Tensor, free: Tensor | None = None) -> Tensor:
        """Which estimates count, after the running figures have followed the cells of this batch that are free."""
        q = log_q.exp()
        guess = latent.most_probable(log_q, self.sizes)
        greatest = latent.max_labels(q, self.sizes)
        if self.training:
            step, single = 1 - self.decay, (1,) * len(self.sizes)
            latent.follow_mean(self.threshold, greatest, free, single, step)
            latent.follow_mean(self.marginal, q, free, self.sizes, step)
            latent.follow_mean(self.histogram, guess, free, self.sizes, step)
        local = self.marginal / latent.spread_labels(latent.max_labels(self.marginal, self.sizes), self.sizes)
        wanted = local * latent.spread_labels(self.threshold, self.sizes)
        return greatest >= latent.sum_labels(guess * wanted, self.sizes)

    def fairness(self, log_q: Tensor, log_strong: Tensor, sure: Tensor) -> Tensor | float:
        """The fairness term in nats, times its weight (Wang 2023, eq. 10-11)."""
        counts = latent.spread_labels(sure.to(log_q.dtype), self.sizes)
        guess = latent.most_probable(log_strong, self.sizes)
        rows = counts.sum(0).clamp_min(1)
        mean, shown = (counts * log_strong.exp()).sum(0) / rows, (counts * guess).sum(0) / rows
        wanted = self.shares(self.marginal / self.histogram.clamp_min(1e-6))
        # A class that no strong view shows has no place in p̄/h̄ (as in the authors' code); 1/0 would take all of it.
        have = self.shares(torch.where(shown > 0, mean / shown.clamp_min(1e-6), 0)).clamp_min(1e-12).log()
        return FAIRNESS * latent.sum_labels(wanted.to(have.dtype) * have, self.sizes).sum()

    def shares(self, x: Tensor) -> Tensor:
        """x divided by its sum within each label: [W] to [W]."""
        return x / latent.spread_labels(latent.sum_labels(x, self.sizes), self.sizes).clamp_min(1e-12)

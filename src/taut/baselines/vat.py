"""Virtual adversarial training (Miyato, Maeda, Koyama & Ishii 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from taut import latent
from taut.baselines.base import Baseline, annotated_term, shielded, terms_of
from taut.facts import Facts
from taut.objective import Batch, LossTerms
from taut.plan import Plan

PROBE = 1e-2
SHARE = 0.25


class VAT(Baseline):
    """L = CE + α·[KL(q(c|x) ‖ q(c|x + r)) + H(q(c|x))], r the direction of length ε in which q changes most.

    r is one step of power iteration from a random direction (Miyato 2018, eq. 5-8, alg. 1), with the entropy term of
    their best results (sec. 4). With several labels KL and entropy are sums over the labels, which is q's own
    divergence since it is factorised. ε, an L2 length, is a quarter of the typical distance of an image from one of
    the mean colour, where the paper chooses it for each dataset (2.1 on MNIST, whose typical distance is 8.6).
    Limits: three passes a step, and a small isotropic ball is all that it knows of images.
    """

    settings: ClassVar[dict[str, Any]] = {"objective.consistency": 1.0, "train.precision": "fp32"}

    def __init__(self, model: Any, plan: Plan, facts: Facts) -> None:
        super().__init__(model, plan, facts)
        # Features are standardised before they come here.
        variance = float(np.square(facts.std).mean()) if facts.is_image else 1.0
        self.epsilon = SHARE * math.sqrt(variance * math.prod(facts.shape))

    def loss(self, model: Any, batch: Batch, step: int) -> LossTerms:
        """The loss of one batch."""
        logits = shielded(model.classify(batch.x), batch, self.sizes)
        kl = annotated_term(logits, batch, self.sizes)
        log_q = latent.log_softmax(logits, self.sizes)
        with frozen_statistics(model):
            change = self.divergence(model, batch, log_q.detach(), self.direction(model, batch, log_q.detach()))
        entropy = latent.label_entropy(log_q, self.sizes).sum(1).mean()
        return terms_of(kl + self.plan.consistency * (change + entropy), kl, consistency=change.detach())

    def direction(self, model: Any, batch: Batch, log_q: Tensor) -> Tensor:
        """The virtual adversarial perturbation r, [N, ...], of length ε."""
        probe = (PROBE * unit(torch.randn_like(batch.x))).requires_grad_()
        (gradient,) = torch.autograd.grad(self.divergence(model, batch, log_q, probe), probe)
        return unit(gradient) * self.epsilon

    def divergence(self, model: Any, batch: Batch, log_q: Tensor, r: Tensor) -> Tensor:
        """Mean KL(q(c|x) ‖ q(c|x + r)) in nats."""
        moved = latent.log_softmax(shielded(model.classify(batch.x + r), batch, self.sizes), self.sizes)
        return latent.label_kl(log_q, moved, self.sizes).sum(1).mean()


def unit(x: Tensor) -> Tensor:
    """Each row of [N, ...] divided by its length."""
    length: Tensor = x.flatten(1).norm(dim=1).clamp_min(1e-12)
    return x / length.reshape(-1, *[1] * (x.dim() - 1))


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Let passes of perturbed images leave the running statistics of batch normalisation alone."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True

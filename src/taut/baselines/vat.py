"""Virtual adversarial training (Miyato, Maeda, Koyama & Ishii 2018)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from taut import latent
from taut.adversary import adversarial, frozen_statistics, uncached_no_grad
from taut.baselines.base import Baseline, annotated_term, shielded, terms_of
from taut.facts import Facts
from taut.nn.vae import LabelVAE
from taut.objective import Batch, LossTerms
from taut.plan import Plan

SHARE = 0.25


class VAT(Baseline):
    """L = CE + α·[KL(q(c|x) ‖ q(c|x + r)) + H(q(c|x))], r the direction of length ε in which q changes most.

    r is one step of power iteration from a random direction (Miyato 2018, sec. 3.3, alg. 1), with the entropy term of
    their best results (sec. 4); α is objective.consistency. With several labels KL and entropy are sums over the
    labels, which is q's own divergence since it is factorised. ε, an L2 length, is a quarter of the typical distance of
    an image from one of the mean colour, where the paper chooses it for each dataset (2.1 on MNIST, whose typical
    distance is 8.6).
    Limits: three passes a step, and a small isotropic ball is all that it knows of images.
    """

    settings: ClassVar[dict[str, Any]] = {"objective.consistency": 1.0, "train.precision": "fp32"}

    def __init__(self, model: LabelVAE, plan: Plan, facts: Facts) -> None:
        super().__init__(model, plan, facts)
        self.epsilon = SHARE * facts.typical_length

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss of one batch."""
        logits = shielded(model.classify(batch.x), batch, self.sizes)
        kl = annotated_term(logits, batch, self.sizes)
        log_q = latent.log_softmax(logits, self.sizes)
        drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
        with frozen_statistics(model):
            usual = self.undropped(model, batch) if drops else log_q.detach()
            change = self.divergence(model, batch, usual, self.direction(model, batch, usual))
        entropy = latent.label_entropy(log_q, self.sizes).sum(1).mean()
        # Both are means over all rows, so that few of these without annotation count no more than others.
        return terms_of(kl + self.plan.consistency * (change + entropy), kl, consistency=change.detach())

    def undropped(self, model: LabelVAE, batch: Batch) -> Tensor:
        """log q(c|x) by all units, [N, W], which other passes by all units can be compared with."""
        with uncached_no_grad():
            return latent.log_softmax(model.classify(batch.x), self.sizes)

    def direction(self, model: LabelVAE, batch: Batch, log_q: Tensor) -> Tensor:
        """The virtual adversarial perturbation r, [N, ...], of length ε."""
        return adversarial(lambda r: self.divergence(model, batch, log_q, r), batch.x, self.epsilon)

    def divergence(self, model: LabelVAE, batch: Batch, log_q: Tensor, r: Tensor) -> Tensor:
        """Mean KL(q(c|x) ‖ q(c|x + r)) in nats."""
        moved = latent.log_softmax(shielded(model.classify(batch.x + r), batch, self.sizes), self.sizes)
        return latent.label_kl(log_q, moved, self.sizes).sum(1).mean()

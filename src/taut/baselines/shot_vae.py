"""SHOT-VAE (Feng et al. 2021, AAAI; earlier OSPOT-VAE 2019): smooth-ELBO and optimal interpolation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from taut import latent
from taut.baselines.base import early_rise, sigmoid_ramp
from taut.facts import Facts
from taut.nn.vae import LabelVAE
from taut.objective import Batch, LossTerms, Weights
from taut.rules import is_finished
from taut.targets import Estimate, mixed, mixed_estimate
from taut.tighter import TighterELBO

SMOOTHING = 1e-3
MIX = 0.1  # of annotated images


class ShotVAE(TighterELBO):
    """Eq. 13 with smoothed annotations, and mixed images whose posteriors are mixed alike (Feng 2021, eq. 7-12).

    10⁻³·(−E log p(x|z,c) + 10⁻³·KL(q(z|x)‖p(z)) + 10⁻³·|KL(q(c|x)‖p(c)) − log K|) + α·KL(p̃‖q(c|x))
    + t·KL(mix(q) ‖ q(c|mix(x))), with mix(a) = λ·a + (1 − λ)·a′ of two images, and t the rise of the last term.
    p̃ keeps 1 − 0.001 on the annotated class and spreads the rest evenly. Each unannotated image is mixed with the one
    whose q(z|x) is nearest, λ ~ Beta(2, 2) one a batch, and counts as exp(−5(1 − t)²) rises over the first 40 % of the
    steps. Annotated images are learnt from as mixtures with one another too, λ ~ Beta(0.1, 0.1).
    With several labels both are done label by label; a cell of a mixture counts by the shares of the images in which it
    is annotated.
    Constants, mixtures and the rise of what is estimated are those of the authors' code, in which the two KL terms
    weigh 10⁻³ of the reconstruction, C_z is 0 and |KL − C| is of the batch. Its optimiser, the rise of its bound and KL
    weights, the term that mixes q(z|x) too and its squared error of pixels are not.
    Limits: it trusts its own posteriors from the start of the ramp on; nothing keeps the classes in balance.
    """

    takes_auxiliary = False

    @classmethod
    def plan_for(cls, facts: Facts) -> dict[str, Any]:
        """The interpolation in the place of a teacher, and the constants of the authors' code."""
        return {
            **early_rise(facts),
            "objective.source": "none" if is_finished(facts) else "interpolation",
            "objective.mutual_information": 0.0,
            "objective.reconstruction": 1e-3,
            "objective.beta_z": 1e-6,
            "objective.beta_c": 1e-6,
            "objective.capacity_z": 0.0,
            "objective.capacity_c": 1.0,
            "objective.per": "batch",
            "objective.onset": 0.0,
            "objective.full": 0.4,
            "objective.share": 1.0,
        }

    def belief_at(self, step: int) -> float:
        """How much of the weight of what is only estimated counts at a step, 0 to 1."""
        return sigmoid_ramp(step / self.onset[1]) if self.onset[1] else 1.0

    def weights_at(self, step: int) -> Weights:
        """The constants at a step; annotated images have a term of their own."""
        return replace(super().weights_at(step), alpha=0.0)

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss of one batch with smoothed annotations."""
        size = latent.spread_labels(torch.tensor(model.sizes, device=batch.x.device), model.sizes)
        rest = SMOOTHING / (size - 1)
        batch = replace(batch, targets=batch.targets * (1 - SMOOTHING - rest) + rest)
        terms = super().loss(model, batch, step)
        rows = torch.nonzero(batch.observed.any(1)).flatten()
        if len(rows):
            pull = mixed_annotations(model, batch, rows).sum() / len(batch.x)
            terms.total = terms.total + self.weights.alpha * pull
        return terms


def mixed_annotations(model: LabelVAE, batch: Batch, rows: Tensor) -> Tensor:
    """KL(p̃(c_j|x) ‖ q(c_j|x)) of mixtures of some rows with partners among them, p̃ mixed alike: [M, k] nats."""
    x, partner, share = mixed(batch.x[rows], MIX)
    observed = batch.observed[rows]
    known = torch.where(latent.spread_labels(observed, model.sizes), batch.targets[rows], 0)
    estimate = Estimate(known, observed.to(known.dtype))
    both = mixed_estimate(estimate, partner, share.to(known.dtype), model.sizes)
    log_q = latent.log_softmax(model.classify(x), model.sizes)
    return latent.counted_kl(both.targets, log_q, both.confidence, model.sizes)

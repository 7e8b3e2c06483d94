"""SHOT-VAE (Feng et al. 2021, AAAI; earlier OSPOT-VAE 2019): smooth-ELBO and optimal interpolation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from taut import latent
from taut.baselines.base import early_rise
from taut.facts import Facts
from taut.objective import Batch, LossTerms
from taut.tighter import TighterELBO

SMOOTHING = 1e-3


class ShotVAE(TighterELBO):
    """Eq. 13 with smoothed annotations, and mixed images whose posteriors are mixed alike (Feng 2021, eq. 7-12).

    p̃ keeps 1 − 0.001 on the annotated class and spreads the rest evenly. Each unannotated image is mixed with the one
    whose q(z|x) is nearest, λ ~ Beta(2, 2) one a batch, and counts more and more over the first 30 % of the steps.
    With several labels both are done label by label.
    Limits: it trusts its own posteriors from the start of the ramp on; nothing keeps the classes in balance.
    """

    @classmethod
    def plan_for(cls, facts: Facts) -> dict[str, Any]:
        """The interpolation in the place of a teacher, and the reconstruction at the scale of the authors' code."""
        return {
            **early_rise(facts),
            "objective.source": "interpolation" if facts.images > facts.fully_annotated_images else "none",
            "objective.mutual_information": 0.0,
            "objective.reconstruction": 1e-3,
            "objective.beta_z": 1e-3,
            "objective.beta_c": 1e-3,
            "objective.capacity_c": 1.0,
            "objective.onset": 0.0,
            "objective.full": 0.3,
            "objective.share": 1.0,
        }

    def loss(self, model: Any, batch: Batch, step: int) -> LossTerms:
        """The loss of one batch with smoothed annotations."""
        size = latent.spread_labels(torch.tensor(model.sizes, device=batch.x.device), model.sizes)
        rest = SMOOTHING / (size - 1)
        smoothed = batch.targets * (1 - SMOOTHING - rest) + rest
        return super().loss(model, replace(batch, targets=smoothed), step)

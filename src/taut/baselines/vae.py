"""A VAE without labels (Kingma & Welling 2014), in the same networks: the reference for bounds."""

from __future__ import annotations

from typing import Any, Self

import torch

from taut.baselines.base import Unlabelled
from taut.facts import Facts
from taut.nn.vae import LabelVAE
from taut.plan import Plan


class VAE(Unlabelled):
    """E log p(x|z,c) − KL(q(z|x) ‖ p(z)) with q(c|x) fixed at p(c), so that c tells the decoder nothing.

    Limits: it predicts the prior; it is there for its bound on log p(x).
    """

    @classmethod
    def plan_for(cls, facts: Facts) -> dict[str, Any]:
        """The bound of eq. 11 and nothing else."""
        return {
            **super().plan_for(facts),
            "objective.beta_z": 1.0,
            "objective.beta_c": 0.0,
            "objective.capacity_z": 0.0,
            "objective.capacity_c": 0.0,
        }

    @classmethod
    def from_plan(cls, model: LabelVAE, plan: Plan, facts: Facts) -> Self:
        """The objective, with the model's label head fixed at the prior."""
        with torch.no_grad():
            model.to_logits.weight.zero_()
            model.to_logits.bias.copy_(model.log_prior)
        model.to_logits.requires_grad_(False)
        return super().from_plan(model, plan, facts)

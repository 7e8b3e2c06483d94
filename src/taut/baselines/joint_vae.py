"""JointVAE (Dupont 2018): continuous and discrete capacities, without labels."""

from __future__ import annotations

from typing import Any

from taut.baselines.base import Unlabelled
from taut.facts import Facts


class JointVAE(Unlabelled):
    """E log p(x|z,c) − γ·|KL(q(z|x)‖p(z)) − C_z| − γ·|KL(q(c|x)‖p(c)) − C_c|, γ = 30, on batch means (Dupont 2018,
    eq. 7).

    It is eq. 16 with α = 0 on images without annotations: a reference for what the bound finds by itself. Its classes
    are clusters whose numbers mean nothing, so that its error says something only after they are matched with classes.
    Several labels are several discrete latents, as in the paper, each with its own budget.
    Limits: C_z = 5 and C_c = log K nats are its authors' for digits; clusters follow style as readily as class.
    """

    @classmethod
    def plan_for(cls, facts: Facts) -> dict[str, Any]:
        """The paper's constants."""
        return {
            **super().plan_for(facts),
            "objective.beta_z": 30.0,
            "objective.beta_c": 30.0,
            "objective.capacity_z": 5.0,
            "objective.capacity_c": 1.0,
            "objective.ramp": 0.5,
            "objective.per": "batch",
            "objective.prior": "uniform",
        }

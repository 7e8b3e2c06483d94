"""Mean Teacher (Tarvainen & Valpola 2017)."""

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
from taut.facts import Facts
from taut.nn.vae import LabelVAE
from taut.objective import Batch, LossTerms, SecondView
from taut.plan import Plan
from taut.targets import AveragedModel

RAMP = 0.27  # 40,000 of 150,000 steps


class MeanTeacher(Baseline):
    """L = CE + w(t)·mean (q_teacher(c|x') − q(c|x''))², the teacher an exponential average of the student's weights.

    Two weak views, w rising as exp(−5(1 − t)²) (Tarvainen 2017, sec. 2) to 10, as the Π-model's, and with several
    labels as there. objective.momentum is the decay after the first steps, 0.99, as the paper has it in the ramp; short
    trainings never leave that. Unlike the paper's, the teacher drops no units, and annotated images have no second
    view.
    Limits: those of the Π-model; the teacher lags behind in short trainings.
    """

    settings: ClassVar[dict[str, Any]] = {"objective.consistency": 10.0, "objective.momentum": 0.99}
    second_view: SecondView = "weak"

    def __init__(self, model: LabelVAE, plan: Plan, facts: Facts) -> None:
        super().__init__(model, plan, facts)
        self.teacher = AveragedModel(model, plan.objective.momentum, plan.train.accumulate)

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss of one batch."""
        logits = shielded(model.classify(batch.x), batch, self.sizes)
        kl = annotated_term(logits, batch, self.sizes)
        if batch.second is None:
            return terms_of(kl, kl)
        with torch.no_grad():
            guess = self.teacher.follow(model).classify(batch.second)
            target = latent.log_softmax(guess, self.sizes).exp()
        q = latent.log_softmax(last_rows(logits, len(batch.second)), self.sizes).exp()
        distance = squared_distance(q, target, self.sizes).sum(1).mean()
        weight = self.consistency * sigmoid_ramp(step / (RAMP * self.steps))
        return terms_of(kl + weight * distance, kl, consistency=distance.detach())

"""What the rival objectives share: the supervised term, ramps, and distances between label posteriors."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from taut import latent
from taut.facts import Facts
from taut.latent import Sizes
from taut.nn.vae import LabelVAE
from taut.objective import Batch, LossTerms, Objective
from taut.plan import Plan
from taut.tighter import TighterELBO, others_share


class Baseline(Objective):
    """A rival objective, built from a plan and the facts of the training set.

    settings: the decisions in which its plan differs from taut's own, by dotted name; the paper's where it names them.
    rises_early: whether `early_rise` is one of them.
    consistency: the plan's, less where few images without annotation are in a batch, as in taut's own objective.
    A plan file and flags change them as they change any other.
    """

    settings: ClassVar[dict[str, Any]] = {}
    rises_early: ClassVar[bool] = True

    def __init__(self, model: LabelVAE, plan: Plan, facts: Facts) -> None:
        super().__init__()
        self.sizes: Sizes = model.sizes
        self.plan, self.steps = plan.objective, plan.train.steps
        self.consistency = plan.objective.consistency * others_share(plan.train, facts)

    @classmethod
    def from_plan(cls, model: LabelVAE, plan: Plan, facts: Facts) -> Self:
        """The objective of a plan for a training set with these facts."""
        return cls(model, plan, facts)

    @classmethod
    def plan_for(cls, facts: Facts) -> dict[str, Any]:
        """The decisions in which the method's plan differs from taut's own on data with these facts."""
        return {**(early_rise(facts) if cls.rises_early else {}), **cls.settings}


class Unlabelled(TighterELBO):
    """What the references without labels share: their constants, and batches without annotations."""

    takes_auxiliary = False

    @classmethod
    def plan_for(cls, facts: Facts) -> dict[str, Any]:
        """A reconstruction of weight 1, and nothing that knows of annotations, or estimates or judges by them."""
        return {
            "objective.source": "none",
            "objective.mutual_information": 0.0,
            "objective.reconstruction": 1.0,
            "objective.alpha": 0.0,
            "objective.share": 1.0,
            "train.looks": 0,
            "train.folds": 0,
            "train.valid_fraction": 0.0,
            "train.calibration": "none",
            "train.threshold": "half",
        }

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss of one batch without its annotations."""
        # α = 0 alone is not enough: an annotated class would reach the decoder.
        hidden = torch.zeros_like(batch.observed)
        return super().loss(model, Batch(batch.x, batch.targets, hidden, batch.second), step)


def early_rise(facts: Facts) -> dict[str, Any]:
    """A learning rate that rises in few steps, for methods that trust their own guesses from the first step on.

    With taut's long rise they learn from guesses before they have learnt an annotation, and most of them break down.
    Several labels of an image are learnt more slowly, and there the long one is better.
    """
    return {"train.warmup": 0.02} if facts.is_image and facts.labels == 1 else {}


def annotated_term(logits: Tensor, batch: Batch, sizes: Sizes) -> Tensor:
    """Σ_j m_j·KL(p̃(c_j|x) ‖ q(c_j|x)) averaged over the rows with an annotation: a scalar in nats, 0 without any.

    logits: [N, W] of all rows of the batch.
    """
    rows = batch.observed.any(1).sum().clamp_min(1)
    log_q = latent.log_softmax(logits, sizes)
    return latent.counted_kl(batch.targets, log_q, batch.observed, sizes).sum() / rows


def shielded(logits: Tensor, batch: Batch, sizes: Sizes) -> Tensor:
    """Logits [N, W] of a batch, or [N + M, W] with its second views, of which those of ignored cells teach nothing."""
    if batch.ignored is None:
        return logits
    ignored = with_second(batch.ignored, len(logits) - len(batch.ignored))
    return torch.where(latent.spread_labels(ignored, sizes), logits.detach(), logits)


def squared_distance(p: Tensor, q: Tensor, sizes: Sizes) -> Tensor:
    """The mean over its classes of each label's (p − q)²: [N, W] to [N, k] (Laine 2017)."""
    size = torch.tensor(sizes, device=p.device, dtype=p.dtype)
    return latent.sum_labels((p - q).square(), sizes) / size


def sigmoid_ramp(position: float) -> float:
    """exp(−5·(1 − t)²) for t from 0 to 1, and 1 beyond (Laine 2017)."""
    return math.exp(-5 * (1 - min(1.0, position)) ** 2)


def last_rows(x: Tensor, count: int) -> Tensor:
    """The last rows of a batch, those with a second view."""
    return x[len(x) - count :]


def with_second(values: Tensor, count: int) -> Tensor:
    """Values of the rows of a batch [N, ...], and again of the last ones, which have a second view: [N + M, ...]."""
    return torch.cat([values, last_rows(values, count)])


def terms_of(total: Tensor, label_kl: Tensor, **others: Tensor) -> LossTerms:
    """The loss terms of a method without a decoder."""
    return LossTerms(total=total, label_kl=label_kl.detach(), **others)

"""Ideas for a decoder that teaches the classifier something, each beside taut's plan and the plan without a decoder.

MNIST with 20, 50 or 100 labels, the same draws, networks and time; figures as in `benchmarks.generative`, of training
images whose annotations are hidden. None of these is a part of taut: what earns nothing is not shipped.
Give the number of draws, the minutes, and names of settings and labels: `python -m benchmarks.ideas 3 0.75 plain
20-labels`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.common import RESULTS, chosen, record
from benchmarks.generative import one, weight
from benchmarks.mnist import LABELS, SETTINGS
from taut import latent
from taut.adversary import frozen_statistics
from taut.baselines import DEFAULT, OBJECTIVES
from taut.facts import Facts
from taut.nn.vae import LabelVAE, Posterior
from taut.objective import Batch, LossTerms, Weights
from taut.plan import Plan
from taut.targets import Estimate, Source
from taut.tighter import TighterELBO

FIRST = 0.3  # the share of the steps that the bound has alone
ROWS = 32  # that the decoder is asked about, or draws, in a step
TEMPER = 0.05  # of log p(x|z,c), whose differences between classes are tens of nats


class BoundFirst(TighterELBO):
    """Eq. 11 and 13 alone for the first steps, without budgets, weights, views or mutual information."""

    first = 0

    @classmethod
    def from_plan(cls, model: LabelVAE, plan: Plan, facts: Facts) -> Self:
        """With the number of those steps."""
        built = super().from_plan(model, plan, facts)
        built.first = round(FIRST * plan.train.steps)
        return built

    def weights_at(self, step: int) -> Weights:
        """Those of eq. 13, all ρ times what they are there, as the reconstruction's is later."""
        rho = self.weights.reconstruction
        return super().weights_at(step) if step >= self.first else Weights(rho, rho, rho, rho)

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss without the source at first."""
        if step >= self.first:
            return super().loss(model, batch, step)
        source, self.source = self.source, Source()
        try:
            return super().loss(model, batch, step)
        finally:
            self.source = source


class CleanFromMoved(TighterELBO):
    """The decoder also reconstructs each weak view from q(z|x) and q(c|x) of the strong, mixed or adversarial one."""

    seen: tuple[LabelVAE, Batch]

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """Keeps the batch for `_add_views`."""
        self.seen = model, batch
        return super().loss(model, batch, step)

    def _add_views(
        self, terms: LossTerms, estimate: Estimate, posterior: Posterior, sizes: latent.Sizes, belief: float
    ) -> None:
        super()._add_views(terms, estimate, posterior, sizes, belief)
        model, batch = self.seen
        rows = slice(len(batch.x) - len(posterior.mean), len(batch.x))
        weak = Batch(batch.x[rows], batch.targets[rows], batch.observed[rows])
        terms.total = terms.total - self.weights.reconstruction * self.log_likelihood(model, weak, posterior).mean()


class DecoderAsked(TighterELBO):
    """The decoder's p(c|x,z) ∝ p(c)·p(x|z,c)^T learns annotations, and it and q(c|x) learn to agree elsewhere."""

    term: Tensor
    belief = 0.0

    def log_likelihood(self, model: LabelVAE, batch: Batch, posterior: Posterior) -> Tensor:
        """Keeps Σ_c r·(log r − log p(c|x,z)) of some rows, r the annotation or q(c|x)."""
        rows = torch.randperm(len(batch.x), device=batch.x.device)[:ROWS]
        x, own, classes = batch.x[rows], posterior[rows], model.sizes[0]
        z = latent.gaussian_sample(own.mean, own.log_var).repeat_interleave(classes, dim=0)
        decoded = model.decode(z, torch.eye(classes, device=x.device).repeat(len(x), 1))
        likelihood = model.log_likelihood(x.repeat_interleave(classes, dim=0), decoded).reshape(len(x), classes)
        log_p = latent.log_softmax(model.log_prior + TEMPER * likelihood, model.sizes)
        seen = batch.observed[rows]
        q = latent.log_softmax(own.logits, model.sizes).exp()
        r = torch.where(latent.spread_labels(seen, model.sizes), batch.targets[rows], q)
        counted = torch.where(seen, 1.0, self.belief)
        self.term = latent.counted_kl(r, log_p, counted, model.sizes).mean()
        return super().log_likelihood(model, batch, posterior)

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss with that term."""
        self.belief = self.belief_at(step)
        terms = super().loss(model, batch, step)
        terms.total = terms.total + self.term
        return terms


class LearnsFromDrawn(TighterELBO):
    """q(c|x) also learns the class of images that the decoder draws, c ~ p(c) and z of the batch's own images."""

    place: Posterior

    def log_likelihood(self, model: LabelVAE, batch: Batch, posterior: Posterior) -> Tensor:
        """Keeps q(z|x) of the batch."""
        self.place = posterior
        return super().log_likelihood(model, batch, posterior)

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss with the cross-entropy of drawn images."""
        terms = super().loss(model, batch, step)
        if not (belief := self.belief_at(step)):
            return terms
        with torch.no_grad():
            rows = torch.randperm(len(batch.x), device=batch.x.device)[:ROWS]
            z = latent.gaussian_sample(self.place.mean[rows], self.place.log_var[rows])
            c = latent.hard_sample(model.log_prior.expand(len(z), -1), model.sizes)
            x = model.mean_image(model.decode(z, c))
        with frozen_statistics(model):  # drawn images are smoother than photographed ones
            log_q = latent.log_softmax(model.classify(x), model.sizes)
        terms.total = terms.total - belief * (c * log_q).sum(1).mean()
        return terms


class DecoderBeside(TighterELBO):
    """The decoder and z learn of the encoder's features as they are: no gradient of theirs reaches these or q(c|x)."""

    @classmethod
    def from_plan(cls, model: LabelVAE, plan: Plan, facts: Facts) -> Self:
        """With features that q(z|x) sends no gradient to."""
        model.to_z.register_forward_pre_hook(lambda _, given: tuple(features.detach() for features in given))
        return super().from_plan(model, plan, facts)

    def log_likelihood(self, model: LabelVAE, batch: Batch, posterior: Posterior) -> Tensor:
        """That of labels which are drawn from q(c|x) without a gradient."""
        return super().log_likelihood(model, batch, replace(posterior, logits=posterior.logits.detach()))


LATER = {"objective.onset": FIRST, "objective.full": 2 * FIRST}
IDEAS: dict[str, tuple[type[TighterELBO], dict[str, Any]]] = {
    "taut's plan": (TighterELBO, {}),
    "no decoder": (TighterELBO, weight(0.0)),
    "z of 4 numbers": (TighterELBO, {"model.z_dim": 4}),
    "the bound alone first": (BoundFirst, LATER),
    "clean views from moved ones": (CleanFromMoved, {}),
    "decoder asked for c": (DecoderAsked, {}),
    "learns from drawn images": (LearnsFromDrawn, {}),
    "decoder beside the classifier": (DecoderBeside, {}),
}


def idea(kind: type[TighterELBO], changes: dict[str, Any], minutes: float, per_class: int, seed: int) -> dict[str, Any]:
    """Figures of one training, planned as taut's own."""
    with patch.dict(OBJECTIVES, {DEFAULT: kind}):
        return one(changes, minutes, per_class, seed)


def main(seeds: int = 3, minutes: float = 0.75, names: Collection[str] = (), folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1 of some settings, by default all, draw by draw."""
    for seed in range(seeds):
        for setting in [name for name in SETTINGS if name in names] or SETTINGS:
            for per_class in [LABELS[name] for name in names if name in LABELS] or LABELS.values():
                about = (
                    f"MNIST, {10 * per_class} labels, {setting}, {minutes:g} min each; error on hidden training images"
                )
                methods: dict[str, Callable[[int], dict[str, Any]]] = {
                    name: partial(idea, kind, {**SETTINGS[setting], **changes}, minutes, per_class)
                    for name, (kind, changes) in IDEAS.items()
                }
                record(f"ideas-{setting}-{10 * per_class}", about, methods, [seed], folder)


if __name__ == "__main__":
    counts, words = chosen([*SETTINGS, *LABELS])
    main(*counts, names=words)

"""taut's own method: the tighter ELBO of eq. 16 with a source of label posteriors, as an Objective."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import Tensor

from taut import latent
from taut.facts import Facts
from taut.frequency import ClassFrequencies
from taut.nn.vae import LabelVAE, Posterior
from taut.objective import Batch, LossTerms, Objective, Weights, auxiliary_term, tighter_elbo
from taut.plan import Plan, TrainPlan
from taut.rules import estimates, is_finished, whole_rows
from taut.targets import Estimate, Interpolation, Source, Teacher

EACH = 20  # images of a class in a batch
ONSET_PASSES, LATEST = 20, 0.5  # over what is annotated, before anything is estimated; and a share of the steps


@dataclass(frozen=True)
class Sampling:
    """How c ~ q(c|x) is drawn for the decoder.

    how: "relaxed" (Concrete), "straight-through", or "enumerate" (exact, for few combinations).
    temperature: of the relaxation (0.67 in the authors' code).
    share: the share of the rows that is decoded; a random subset, so that the mean stays unbiased.
    """

    how: Literal["relaxed", "straight-through", "enumerate"] = "relaxed"
    temperature: float = 0.67
    share: float = 1.0


class TighterELBO(Objective):
    """Eq. 16 on a batch with any pattern of annotated labels, plus KL(p̂‖q) on the views of a source.

    weights: the constants of eq. 16; the budgets C_z and C_c rise linearly from 0 over `ramp` steps.
    onset: the steps at which the mutual information and what is only estimated begin to count, and count fully; in
    between they rise linearly. What is hardened before annotations have been learnt hardens into wrong classes.
    auxiliary: the weight of auxiliary variables.
    consistency: the weight of the estimated posteriors' term; z_consistency: of the distance between q(z|x) of a
    view and the source's, where it has one.
    frequencies: estimates those of the classes of rows without annotation, which take the place of p(c) in the mutual
    information where they contradict it.
    """

    takes_auxiliary = True

    def __init__(
        self,
        weights: Weights,
        source: Source | None = None,
        sampling: Sampling | None = None,
        consistency: float = 1.0,
        z_consistency: float = 0.0,
        ramp: int = 0,
        onset: tuple[int, int] = (0, 0),
        frequencies: ClassFrequencies | None = None,
        auxiliary: float = 1.0,
    ) -> None:
        super().__init__()
        self.weights, self.source, self.sampling = weights, source or Source(), sampling or Sampling()
        self.consistency, self.z_consistency, self.ramp = consistency, z_consistency, ramp
        self.onset, self.frequencies, self.auxiliary = onset, frequencies, auxiliary
        self.second_view = "strong" if self.source.needs_strong else "none"

    @classmethod
    def plan_for(cls, facts: Facts) -> dict[str, Any]:
        """The decisions in which the plan differs from `make_plan`'s.

        From images of several labels of which nothing is estimated, what is not annotated teaches the decoder alone.
        In a profile on chest X-rays a step with 16 such rows and a quarter of all decoded took 1.5 times as long as
        the annotated rows alone, with these 1.15 times; and findings are learnt by the number of steps.
        """
        if not facts.is_image or facts.labels == 1 or estimates(facts):
            return {}
        alone = whole_rows(facts) and facts.annotated_images > 0 and not facts.auxiliary
        few = (
            {}
            if not alone or is_finished(facts)
            else {"train.batch_unlabelled": min(8, facts.images - facts.annotated_images)}
        )
        return {"objective.share": 0.1, **few}

    @classmethod
    def decodes(cls, plan: Plan) -> bool:
        """Whether the decoder learns under a plan."""
        return plan.objective.reconstruction > 0

    @classmethod
    def from_plan(cls, model: LabelVAE, plan: Plan, facts: Facts) -> Self:
        """The objective of a plan for a training set with these facts."""
        o, t = plan.objective, plan.train
        source: Source
        if o.source == "teacher":
            source = Teacher(
                model,
                model.sizes,
                momentum=o.momentum,
                sharpen=o.sharpen,
                threshold=o.threshold,
                alignment=o.alignment,
                mix=o.mix,
                parts=t.accumulate,
                adversary=o.adversary * facts.typical_length,
            )
        elif o.source == "interpolation":
            source = Interpolation(model.sizes, o.match)
        else:
            source = Source()
        weights = Weights(
            reconstruction=o.reconstruction,
            beta_z=o.beta_z,
            beta_c=o.beta_c,
            alpha=o.alpha if o.alpha is not None else dilution(t, facts),
            capacity_z=o.capacity_z,
            capacity_c=o.capacity_c,
            per=o.per,
            mutual_information=o.mutual_information * others_share(t, facts),
            marginal=counted_marginal(plan, facts),
            balanced=o.balance == "loss",
        )
        onset = onset_steps(plan, facts)
        sampling = Sampling(o.sampling, o.temperature, o.share)
        if o.sampling == "enumerate" and o.reconstruction:
            latent.check_enumerable(model.sizes)
        ramp, frequencies = round(o.ramp * t.steps), None
        drawn = len(model.sizes) == 1 and facts.annotated_images and o.mutual_information
        if drawn and (onset[0] or not o.check_prior):
            frequencies = ClassFrequencies(
                model.sizes[0], facts.annotated_images, onset[0], o.check_prior, t.accumulate
            )
        return cls(
            weights,
            source,
            sampling,
            consistency=o.consistency * others_share(t, facts),
            z_consistency=o.z_consistency,
            ramp=ramp,
            onset=onset,
            frequencies=frequencies,
            auxiliary=o.auxiliary,
        )

    @property
    def generative(self) -> bool:
        """Whether the decoder takes part."""
        return self.weights.reconstruction > 0

    def weights_at(self, step: int) -> Weights:
        """The constants at a step, with the budgets and the mutual information where their ramps are."""
        rise = min(1.0, step / self.ramp) if self.ramp else 1.0
        return replace(
            self.weights,
            capacity_z=self.weights.capacity_z * rise,
            capacity_c=self.weights.capacity_c * rise,
            mutual_information=self.weights.mutual_information * self.belief_at(step),
        )

    def notes(self) -> list[str]:
        """What the training has found."""
        if self.frequencies is None or not self.frequencies.contradict:
            return []
        return [
            "images without annotation do not seem to have the classes as often as p(c) has them, so that the mean of "
            "q(c|x) was drawn to what the network found, and not to p(c)"
        ]

    def belief_at(self, step: int) -> float:
        """How much of the weight of what is only estimated counts at a step, 0 to 1."""
        begin, full = self.onset
        if step >= full:
            return 1.0
        return 0.0 if step <= begin else (step - begin) / (full - begin)

    def loss(self, model: LabelVAE, batch: Batch, step: int) -> LossTerms:
        """The loss of one batch: one encoder pass over all views, one decoder pass over the batch."""
        n = len(batch.x)
        proposal = self.source.propose(model, batch, self.belief_at(step))
        x = batch.x if proposal is None else torch.cat([batch.x, proposal.x])
        posterior = model.encode(x)
        own = posterior[:n]
        confidence = batch.observed.to(own.logits.dtype)
        nothing = torch.zeros(n, device=x.device)
        log_likelihood = self.log_likelihood(model, batch, own) if self.generative else nothing
        terms = tighter_elbo(
            log_likelihood,
            own.mean,
            own.log_var,
            own.logits,
            batch.targets,
            confidence,
            model.log_prior,
            model.sizes,
            self.weights_at(step),
            batch.ignored,
            self.expected(batch, own.logits, model.log_prior, step),
        )
        if not self.generative:
            terms.reconstruction = terms.bound = terms.surrogate = None
        if batch.auxiliary is not None and own.auxiliary is not None:
            terms.auxiliary = auxiliary_term(own.auxiliary, batch.auxiliary, model.auxiliary_sizes)
            terms.total = terms.total + self.auxiliary * terms.auxiliary
        if proposal is not None:
            self._add_views(terms, proposal.estimate(own), posterior[n:], model.sizes, self.belief_at(step))
        return terms

    def expected(self, batch: Batch, logits: Tensor, log_prior: Tensor, step: int) -> Tensor | None:
        """The log frequencies that the mean of q over a batch is drawn to, [W]; None for p(c)."""
        if self.frequencies is None:
            return None
        seen, settled = batch.observed[:, 0], batch.settled[:, 0]
        if self.frequencies.watches(step):
            log_q = latent.log_softmax(logits.detach().float()[~settled], (logits.shape[1],))
            self.frequencies.watch(log_q, log_prior, step)
        return self.frequencies.expected(batch.targets, seen, settled, log_prior, step)

    def log_likelihood(self, model: LabelVAE, batch: Batch, posterior: Posterior) -> Tensor:
        """E log p(x|z,c) with z ~ q(z|x), and c ~ p̃ where annotated or q(c|x) where not: [N] nats."""
        n = len(batch.x)
        rows: slice | Tensor = slice(None)
        if self.sampling.share < 1 and self.training:
            rows = torch.randperm(n, device=batch.x.device)[: max(1, round(n * self.sampling.share))]
        x, posterior = batch.x[rows], posterior[rows]
        targets, observed = batch.targets[rows], batch.observed[rows]
        z = latent.gaussian_sample(posterior.mean, posterior.log_var)
        mask = latent.spread_labels(observed, model.sizes)
        logits = posterior.logits
        if batch.ignored is not None:
            # The decoder needs a class of every label: an ignored cell's is drawn, but teaches the classifier nothing.
            logits = torch.where(latent.spread_labels(batch.ignored[rows], model.sizes), logits.detach(), logits)
        log_annotation = torch.where(mask, targets, 1.0).clamp_min(1e-30).log()
        value = (
            self._enumerated(model, x, z, logits, log_annotation, mask)
            if self.sampling.how == "enumerate"
            else self._sampled(model, x, z, logits, log_annotation, mask)
        )
        if len(value) == n:
            return value
        # Every entry carries the subset's mean, so that batch means stay what they are.
        return value.mean().expand(n)

    def _sampled(
        self, model: LabelVAE, x: Tensor, z: Tensor, logits: Tensor, log_annotation: Tensor, mask: Tensor
    ) -> Tensor:
        drawn = latent.relaxed_sample(
            logits, model.sizes, self.sampling.temperature, straight_through=self.sampling.how == "straight-through"
        )
        c = torch.where(mask, latent.hard_sample(log_annotation, model.sizes), drawn)
        return model.log_likelihood(x, model.decode(z, c))

    def _enumerated(
        self, model: LabelVAE, x: Tensor, z: Tensor, logits: Tensor, log_annotation: Tensor, mask: Tensor
    ) -> Tensor:
        """Σ_c r(c)·log p(x|z,c) over every combination of labels: the exact reference, c^k decoder passes."""
        log_r = torch.where(mask, log_annotation, latent.log_softmax(logits, model.sizes))
        combinations = latent.enumerate_labels(model.sizes, logits)
        # Sums, not matrix products: autocast would round these to bfloat16.
        values = [
            (row * log_r).sum(-1).exp() * model.log_likelihood(x, model.decode(z, row.expand(len(z), -1)))
            for row in combinations
        ]
        return torch.stack(values).sum(0)

    def _add_views(
        self, terms: LossTerms, estimate: Estimate, posterior: Posterior, sizes: latent.Sizes, belief: float
    ) -> None:
        """Add the term of the views' estimated posteriors."""
        terms.confidence = estimate.confidence.mean()
        log_q = latent.log_softmax(posterior.logits, sizes)
        kl = latent.counted_kl(estimate.targets, log_q, estimate.confidence, sizes)
        terms.consistency = kl.sum(-1).mean()
        terms.total = terms.total + self.consistency * terms.consistency
        if self.z_consistency and estimate.z is not None:
            mean, log_var = estimate.z
            std, wanted = (0.5 * posterior.log_var).exp(), (0.5 * log_var).exp()
            distance = (posterior.mean - mean).square() + (std - wanted).square()
            terms.total = terms.total + belief * self.z_consistency * distance.sum(-1).mean()


def onset_steps(plan: Plan, facts: Facts) -> tuple[int, int]:
    """The steps at which mutual information and estimates begin to count, and count fully.

    The plan's shares of all steps; of images with one label not before the annotated ones have been passed over 20
    times, or half of the steps are over, unless the plan waits for nothing. Of 4,000 annotated images of CIFAR-10, of
    which a minute allowed 4 passes, the error was 53 % where they began at 15 % of the steps, and 51 % from half of
    them on.
    """
    o, steps = plan.objective, plan.train.steps
    begin, full = o.onset, max(o.onset, o.full)
    rows = plan.train.batch_labelled * plan.train.accumulate
    if facts.is_image and facts.labels == 1 and begin and rows:
        first = min(LATEST, ONSET_PASSES * facts.annotated_images / (rows * steps))
        begin, full = max(begin, first), max(full, min(1.0, first + full - begin))
    return round(begin * steps), round(full * steps)


def seen_share(settings: TrainPlan, facts: Facts) -> float:
    """How much the frequencies of an only label's classes in a batch say, 0 to 1: all from 20 images a class on.

    Those of fewer differ from p(c) by chance. With two or three images of each of 100 classes (pairs of MNIST's digits,
    four annotations of each) the full weight left an error of 25 %, this share 18 to 19 %; cross-entropy had 22 %.
    """
    rows = settings.batch_labelled + settings.batch_unlabelled
    return min(1.0, rows / (EACH * facts.classes[0])) if facts.labels == 1 else 1.0


def counted_marginal(plan: Plan, facts: Facts) -> float:
    """The plan's weight of the mean of q(c|x), less where a batch says little of it, but of vectors 1 at least.

    Below 1 entropies gain by giving all that cannot be told to one class. Of vectors of two digits 1 was better than
    0.26 (`benchmarks.rare`, many); of their images it left 13.4 % wrong, and 0.64 left 12.3 (one draw, a trial).
    """
    whole = plan.objective.marginal
    counted = whole * seen_share(plan.train, facts)
    return counted if facts.is_image else min(whole, max(1.0, counted))


def others_share(settings: TrainPlan, facts: Facts) -> float:
    """How much of the weight of an only label's estimates counts, 0 to 1: one of them no more than an annotation.

    Its terms are means, however few images without annotation a batch has. Where these are fewer than the annotated
    ones, each would count for more than one of those. Of 6,000 images of MNIST with 90 % annotated, in 0.4 minutes, the
    full weight left an error of 3.4 %, this share 1.1, as cross-entropy has; with half of them 2.3 and 1.2; of 4,000
    annotated images of CIFAR-10's 45,000, in 1.2 minutes, 42.4 and 38.5, cross-entropy 40.2 (hidden images, one draw
    each; `benchmarks.shares` has three on test images). Of digits as vectors with 90 % annotated 4.0 and 3.0 (three
    draws). Of yeast's 14 labels with 80 % annotated the full weight was better: the NLL was 0.57 with it, and 0.62 with
    this share.
    """
    labelled, others = min(settings.batch_labelled, facts.annotated_images), settings.batch_unlabelled
    if facts.labels > 1 or not (labelled and others):
        return 1.0
    return min(1.0, others / labelled)


def dilution(settings: TrainPlan, facts: Facts) -> float:
    """Rows of a batch over those with an annotation: it undoes that the annotated term is a mean over all rows.

    Partly annotated images are among the unlabelled rows too.
    """
    unfinished = facts.images - facts.fully_annotated_images
    partly = facts.annotated_images - facts.fully_annotated_images
    labelled = settings.batch_labelled if facts.annotated_images else 0
    unlabelled = settings.batch_unlabelled if unfinished else 0
    share = partly / max(1, unfinished)
    if settings.unannotated is not None and 0 < partly < unfinished:
        share = 1 - settings.unannotated
    carrying = labelled + unlabelled * share
    return (labelled + unlabelled) / carrying if carrying else 1.0

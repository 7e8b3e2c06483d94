"""Where p(c|x) of an image without annotation comes from: nowhere, interpolation, or a teacher.

A source proposes further views of a batch and says, once the batch is encoded, which label posterior p̂(c|x) each
view should have and how much that estimate counts (m, per label). The objective stays the same formula.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from taut import latent
from taut.adversary import adversarial, frozen_statistics, uncached_no_grad
from taut.latent import Sizes
from taut.nn.vae import LabelVAE, Posterior
from taut.objective import Batch

BEYOND = 0.1  # of a class more probable than 1 − BEYOND a priori, the threshold rises with its frequency


@dataclass
class Estimate:
    """What a view should look like: targets [M, W] probabilities, confidence m [M, k], and q(z|x) where it is known."""

    targets: Tensor
    confidence: Tensor
    z: tuple[Tensor, Tensor] | None = None


@dataclass
class Proposal:
    """Views to encode together with the batch.

    x: [M, ...].  estimate: from the batch's posterior (N rows).
    """

    x: Tensor
    estimate: Callable[[Posterior], Estimate]


class Source(nn.Module):
    """A source of label posteriors; this one has none (eq. 11)."""

    needs_strong = False

    def propose(self, model: LabelVAE, batch: Batch, belief: float = 1.0) -> Proposal | None:
        """Views of the batch and their estimated posteriors, or None.

        belief: 0 to 1, a factor of the confidence in what is only estimated.
        """
        return None


class AveragedModel(nn.Module):
    """The exponential moving average of a model's weights (Mean Teacher, Tarvainen 2017).

    momentum: of a step, 1 − 1/(t + 1) at most, so that the weights before the first step do not linger in it.
    parts: the batches of a step, at each of which it follows.
    """

    def __init__(self, model: LabelVAE, momentum: float, parts: int = 1) -> None:
        super().__init__()
        self.momentum, self.parts, self.followed = momentum, parts, 0
        self.model = copy.deepcopy(model).requires_grad_(False)

    def get_extra_state(self) -> Tensor:
        """How often it has followed, which a resumed training goes on from."""
        return torch.tensor(self.followed)

    def set_extra_state(self, state: Tensor) -> None:
        """Go on from there."""
        self.followed = int(state)

    @torch.no_grad()
    def follow(self, model: LabelVAE) -> LabelVAE:
        """The averaged model for the batch that comes next."""
        momentum = min(self.momentum, 1 - self.parts / (self.followed + self.parts)) ** (1 / self.parts)
        self.followed += 1
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        mine, theirs = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(mine, theirs, 1 - momentum)  # on a GPU one kernel, and not one for each tensor
        for counted, now in (pair for pair in pairs if not pair[0].is_floating_point()):
            counted.copy_(now)
        # In the student's mode: averaged running statistics lag behind in the first hundreds of steps. But dropout
        # would make a target less certain than the teacher is.
        self.model.train(model.training)
        for module in self.model.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        return self.model


class Teacher(Source):
    """The posterior of a weak view as the target of a strong view, sharpened, aligned and weighted per label.

    momentum: of the averaged teacher (Mean Teacher, Tarvainen 2017), or 0 for the network itself, which needs no
        second pass (FixMatch, Sohn 2020).
    sharpen: the temperature T of p̂ ∝ q^(1/T); 1 leaves it, 0 takes the most probable class.
    threshold: estimates whose greatest probability is below it do not count, label by label; 0 for soft targets. Of a
        class that more than nine in ten images have, the doubt that may be left shrinks with what p(c) leaves of it: of
        a rare finding a network that knows its frequency alone is sure of every "no".
    alignment: the power of distribution alignment, p̂ ∝ q·(p(c)/mean q)^a (ReMixMatch, Berthelot 2020), per label.
    mix: mixes each strong view with another one, and their targets alike, with a share λ ~ Beta(mix, mix) of its own
        (mixup, Zhang 2018; for unannotated images MixMatch, Berthelot 2019); 0 does not mix. Between the images it
        asks for a straight line, which keeps unannotated groups of images from hardening into a wrong class.
    parts: the batches of a step, see `AveragedModel`.
    adversary: the length ε of the step by which each strong view is moved to where q(c|x) changes most (virtual
        adversarial training, Miyato 2018), which asks for smoothness where no augmentation is known; 0 moves none.
    """

    marginal: Tensor
    needs_strong = True

    def __init__(
        self,
        model: LabelVAE,
        sizes: Sizes,
        momentum: float = 0.0,
        sharpen: float = 0.5,
        threshold: float = 0.0,
        alignment: float = 0.0,
        mix: float = 0.0,
        parts: int = 1,
        adversary: float = 0.0,
    ) -> None:
        super().__init__()
        self.sizes, self.momentum, self.parts, self.adversary = sizes, momentum, parts, adversary
        self.sharpen, self.threshold, self.alignment, self.mix = sharpen, threshold, alignment, mix
        self.average = AveragedModel(model, momentum, parts) if momentum else None
        self.register_buffer("marginal", latent.log_softmax(torch.zeros(sum(sizes)), sizes).exp())

    def propose(self, model: LabelVAE, batch: Batch, belief: float = 1.0) -> Proposal | None:
        """The strong views, with the teacher's posterior of the weak ones; none where nothing would count of them."""
        if batch.second is None:
            return None
        rows = slice(len(batch.x) - len(batch.second), len(batch.x))
        teacher = None if self.average is None else self.average.follow(model)
        if belief == 0 and not batch.observed[rows].any():
            return None  # a view that teaches nothing need not be encoded

        @torch.no_grad()
        def estimate(posterior: Posterior) -> Estimate:
            # Only the rows whose answers are asked for: the averaged model takes a pass of its own.
            logits = posterior.logits[rows] if teacher is None else teacher.classify(batch.x[rows])
            own = self.targets(logits, model.log_prior, None if batch.ignored is None else ~batch.ignored[rows])
            own.confidence = believed(own.confidence, batch.ignored, rows) * belief
            return with_annotations(own, batch.targets[rows], batch.observed[rows], self.sizes)

        strong = batch.second
        if self.adversary and belief:
            strong = strong + self._adversarial(model, strong, batch.ignored, rows)
        if not self.mix:
            return Proposal(strong, estimate)
        x, partner, share = mixed(strong, self.mix)
        return Proposal(x, lambda posterior: mixed_estimate(estimate(posterior), partner, share, self.sizes))

    def _adversarial(self, model: LabelVAE, x: Tensor, ignored: Tensor | None, rows: slice) -> Tensor:
        """The perturbation of views x [M, ...] that changes q(c|x) most, ignored cells left out."""
        counts = believed(torch.ones(len(x), len(self.sizes), device=x.device), ignored, rows)
        # bfloat16 would round the probe off, which is a hundredth over all of an image.
        with frozen_statistics(model), torch.autocast(x.device.type, enabled=False):
            with torch.no_grad():
                log_q = latent.log_softmax(model.classify(x), self.sizes)

            def divergence(r: Tensor) -> Tensor:
                moved = latent.log_softmax(model.classify(x + r), self.sizes)
                return (counts * latent.label_kl(log_q, moved, self.sizes)).sum(1).mean()

            return adversarial(divergence, x, self.adversary)

    @torch.no_grad()
    def targets(self, logits: Tensor, log_prior: Tensor, counts: Tensor | None = None) -> Estimate:
        """p̂ and m from a teacher's logits [M, W]; also moves the running marginal, by the cells [M, k] that count."""
        log_q = latent.log_softmax(logits.detach().float(), self.sizes)
        if self.training:
            latent.follow_mean(self.marginal, log_q.exp(), counts, self.sizes, 1 - 0.99 ** (1 / self.parts))
        if self.alignment:
            log_q = latent.log_softmax(
                log_q + self.alignment * (log_prior - self.marginal.clamp_min(1e-8).log()), self.sizes
            )
        counts = self.sure(log_q, log_prior).to(log_q.dtype)
        return Estimate(sharpened(log_q, self.sharpen, self.sizes), counts)

    def sure(self, log_q: Tensor, log_prior: Tensor) -> Tensor:
        """Which estimates count, [M, k] bool, from log q [M, W] and log p(c) [W]."""
        if self.threshold == 0:
            return torch.ones(len(log_q), len(self.sizes), dtype=torch.bool, device=log_q.device)
        best = latent.most_probable(log_q, self.sizes)
        # Sums of the other classes: beside a probability near 1 they are what single precision still tells apart.
        doubt = latent.sum_labels((1 - best) * log_q.exp(), self.sizes)
        usual = latent.sum_labels(best * (1 - log_prior.exp()), self.sizes)
        return doubt <= (1 - self.threshold) * (usual / BEYOND).clamp(max=1)


def believed(confidence: Tensor, ignored: Tensor | None, rows: slice | Tensor) -> Tensor:
    """The confidence [M, k] in the estimates for some rows of a batch: none where a cell is ignored."""
    return confidence if ignored is None else torch.where(ignored[rows], 0, confidence)


def sharpened(log_q: Tensor, temperature: float, sizes: Sizes) -> Tensor:
    """q^(1/T), normalised within each label: [..., W] probabilities; T = 0 takes the most probable class."""
    if temperature == 0:
        return latent.most_probable(log_q, sizes)
    return latent.log_softmax(log_q / temperature, sizes).exp()


def with_annotations(estimate: Estimate, targets: Tensor, observed: Tensor, sizes: Sizes) -> Estimate:
    """The estimate with what is annotated as it is annotated, and counting fully."""
    return Estimate(
        torch.where(latent.spread_labels(observed, sizes), targets.to(estimate.targets.dtype), estimate.targets),
        torch.where(observed, 1, estimate.confidence),
        estimate.z,
    )


def mixed(x: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mixtures of the rows of x [M, ...] with partners, the partners [M], and the rows' own shares λ ≥ 1/2, [M]."""
    concentration = torch.full((len(x),), beta)
    share = torch.distributions.Beta(concentration, concentration).sample()
    share = torch.maximum(share, 1 - share).to(x.device)
    partner = torch.randperm(len(x)).to(x.device)
    weight = share.to(x.dtype).reshape(-1, *[1] * (x.dim() - 1))
    return torch.lerp(x[partner], x, weight), partner, share


def mixed_estimate(estimate: Estimate, partner: Tensor, share: Tensor, sizes: Sizes) -> Estimate:
    """Targets and confidence mixed as the images are; a target counts for as much as it is believed."""
    own = share[:, None] * estimate.confidence
    both = own + (1 - share[:, None]) * estimate.confidence[partner]
    weight = latent.spread_labels(torch.where(both > 0, own / both.clamp_min(1e-12), 1), sizes)
    return Estimate(torch.lerp(estimate.targets[partner], estimate.targets, weight), both)


class Interpolation(Source):
    """Mixed images with mixed posteriors (SHOT-VAE's optimal interpolation, Feng 2021).

    match: "optimal" mixes each image with the one whose q(z|x) is nearest in KL divergence (never itself),
        "random" with any. beta: λ ~ Beta(beta, beta), one draw a batch as in the paper.
    """

    def __init__(self, sizes: Sizes, match: Literal["optimal", "random"] = "optimal", beta: float = 2.0) -> None:
        super().__init__()
        self.sizes, self.match, self.beta = sizes, match, beta

    def propose(self, model: LabelVAE, batch: Batch, belief: float = 1.0) -> Proposal | None:
        """Mixtures of the rows that have an unannotated label."""
        rows = torch.nonzero(~batch.settled.all(1)).flatten()
        if len(rows) < 2 or belief == 0:
            return None
        x = batch.x[rows]
        with uncached_no_grad():
            posterior = model.encode(x)
            if self.match == "optimal":
                index = None if batch.index is None else batch.index[rows]
                partner = optimal_match(posterior.mean, posterior.log_var, index)
            else:
                partner = torch.randperm(len(x), device=x.device)
            share = torch.distributions.Beta(self.beta, self.beta).sample().to(x.device)
            known = latent.spread_labels(batch.observed[rows], self.sizes)
            # What is annotated is mixed as it is annotated.
            q = torch.where(known, batch.targets[rows], latent.log_softmax(posterior.logits, self.sizes).exp())
            mixed_q = torch.lerp(q[partner], q, share)
            mean = torch.lerp(posterior.mean[partner], posterior.mean, share)
            std = torch.lerp((0.5 * posterior.log_var[partner]).exp(), (0.5 * posterior.log_var).exp(), share)
            confidence = believed(torch.full((len(x), len(self.sizes)), belief, device=x.device), batch.ignored, rows)
            confidence = believed(confidence, batch.ignored, rows[partner])
        estimate = Estimate(mixed_q, confidence, (mean, 2 * std.log()))
        return Proposal(torch.lerp(x[partner], x, share), lambda _: estimate)


def optimal_match(mean: Tensor, log_var: Tensor, index: Tensor | None = None) -> Tensor:
    """For each row i the other row j with the least KL(q(z|x_i) ‖ q(z|x_j)): [N, D] twice to [N] indices.

    All N² divergences in three matrix products instead of a double loop.
    index: [N] of which images the rows are views: another view of the same one is no other image.
    """
    precision = (-log_var).exp()
    second_moment = log_var.exp() + mean.square()
    with torch.autocast(mean.device.type, enabled=False):  # which would round the products to bfloat16
        kl = 0.5 * (
            log_var.sum(1)[None, :]
            - log_var.sum(1)[:, None]
            + second_moment @ precision.T
            - 2 * mean @ (mean * precision).T
            + (mean.square() * precision).sum(1)[None, :]
            - mean.shape[1]
        )
    if index is not None and bool((index != index[0]).any()):
        kl = kl.masked_fill(index[:, None] == index[None, :], float("inf"))
    return kl.fill_diagonal_(float("inf")).argmin(1)

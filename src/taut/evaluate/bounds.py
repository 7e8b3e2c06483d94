"""Bounds on log p(x) of a trained model: the ELBO of eq. 11 and 12 and its importance-weighted form, in nats.

Labels are always drawn hard or enumerated, never relaxed, since a relaxed label makes the figure no bound.
Neither eq. 13 nor eq. 16 with budgets is a bound, so neither is here.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from taut import latent
from taut.latent import Sizes


class LabelModel(Protocol):
    """What a bound reads of a model, in eval mode: the interface of `taut.nn.LabelVAE`."""

    @property
    def sizes(self) -> Sizes:
        """The number of classes of each label, [k]."""

    @property
    def log_prior(self) -> Tensor:
        """The prior log p(c), [W] nats."""

    def encode(self, x: Tensor, /) -> Any:
        """The posterior of prepared inputs [N, ...], with logits [N, W] and `given(c)`: see `taut.nn.Posterior`."""

    def decode(self, z: Tensor, c: Tensor, /) -> Tensor:
        """Likelihood parameters of p(x|z,c), [N, ...]."""

    def log_likelihood(self, x: Tensor, parameters: Tensor, /) -> Tensor:
        """The likelihood log p(x|z,c), [N] nats."""


@torch.no_grad()
def elbo(
    model: LabelModel,
    x: Tensor,
    targets: Tensor | None = None,
    observed: Tensor | None = None,
    samples: int = 1,
    generator: torch.Generator | None = None,
    enumerate: bool = False,
    chunk: int = 8,
) -> Tensor:
    """An unbiased estimate of U(x), or of B(x) where annotated: [N] nats (Feng 2019, eq. 11 and 12).

    x: [N, ...] prepared inputs.  targets: [N, W] p̃(c|x), anything where not observed.  observed: [N, k] bool;
    None takes the labels whose targets are not NaN.  samples: of z, and of c unless `enumerate` sums over c^k
    exactly.  chunk: samples decoded at once, which bounds the memory.
    With one-hot p̃ it bounds log p(x, c) of the annotated cells c, which is less than log p(x).

    Raises ValueError for less than one sample, `observed` without `targets`, or too many combinations.
    """
    posterior, log_r, kl_c = _proposal(model, x, targets, observed)
    total = torch.zeros_like(kl_c)
    for count in _chunks(samples, chunk):
        c = _draw_labels(log_r, model.sizes, count, generator)
        noise = _noise(posterior, count, generator)
        if not enumerate:
            total += _given_labels(model, x, posterior, c, noise).sum(0)
            continue
        for row in latent.enumerate_labels(model.sizes, log_r):
            probability = torch.where(row > 0, log_r, 0).sum(-1).exp()
            total += probability * _given_labels(model, x, posterior, row.expand_as(c), noise).sum(0)
    return total / samples - kl_c


@torch.no_grad()
def importance_weighted(
    model: LabelModel,
    x: Tensor,
    targets: Tensor | None = None,
    observed: Tensor | None = None,
    samples: int = 64,
    generator: torch.Generator | None = None,
    chunk: int = 8,
) -> Tensor:
    """The bound log mean_s p(x|z_s,c_s)·p(z_s)·p(c_s) / (q(z_s|x)·r(c_s)): [N] nats (Burda 2016).

    r is q(c_j|x), or p̃(c_j|x) where annotated; arguments and errors are those of `elbo`. Its mean rises with
    `samples`, to log p(x) without annotations. Where p̃ gives a class probability 0 it rises to
    log Σ_c p(x, c) over the classes that p̃ allows: log p(x, c) of the annotated cells c for one-hot p̃.
    """
    posterior, log_r, _ = _proposal(model, x, targets, observed)
    parts = []
    for count in _chunks(samples, chunk):
        c = _draw_labels(log_r, model.sizes, count, generator)
        noise = _noise(posterior, count, generator)
        mean, log_var = posterior.given(c)
        z = latent.gaussian_sample(mean, log_var, noise)
        log_ratio_z = 0.5 * (noise.square() - z.square() + log_var).sum(-1)
        log_ratio_c = torch.where(c > 0, model.log_prior - log_r, 0).sum(-1)
        parts.append(torch.logsumexp(_log_likelihood(model, x, z, c) + log_ratio_z + log_ratio_c, dim=0))
    return torch.logsumexp(torch.stack(parts), dim=0) - math.log(samples)


def _proposal(
    model: LabelModel, x: Tensor, targets: Tensor | None, observed: Tensor | None
) -> tuple[Any, Tensor, Tensor]:
    """The posterior, log r(c) [N, W] and Σ_j KL(r(c_j) ‖ p(c_j)) [N]: r is p̃ where annotated, q where not."""
    posterior = model.encode(x)
    log_q = latent.log_softmax(posterior.logits, model.sizes)
    kl = latent.label_kl(log_q, model.log_prior, model.sizes)
    if targets is None:
        if observed is not None:
            raise ValueError("observed labels without targets: pass both, or targets alone with NaN where unknown")
        return posterior, log_q, kl.sum(-1)
    if observed is None:
        observed = latent.sum_labels(targets.isnan().to(log_q.dtype), model.sizes) == 0
    mask = latent.spread_labels(observed.bool(), model.sizes)
    # A where, not a product: what is hidden may be NaN.
    known = torch.where(mask, targets.to(log_q.dtype), log_q.exp())
    annotated = latent.annotation_kl(known, model.log_prior, model.sizes)
    return (
        posterior,
        torch.where(mask, known.log(), log_q),
        torch.where(observed.bool(), annotated, kl).sum(-1),
    )


def _chunks(samples: int, chunk: int) -> list[int]:
    """The numbers of samples to decode at once, which add up to `samples`."""
    if samples < 1 or chunk < 1:
        raise ValueError(f"{samples} samples in chunks of {chunk}: both must be at least 1")
    return [min(chunk, samples - start) for start in range(0, samples, chunk)]


def _draw_labels(log_r: Tensor, sizes: Sizes, count: int, generator: torch.Generator | None) -> Tensor:
    """Hard c ~ r(c), [S, N, W], for S = count."""
    exponential = torch.empty((count, *log_r.shape), dtype=log_r.dtype, device=log_r.device)
    gumbel = -exponential.exponential_(generator=generator).log()
    return latent.hard_sample(log_r, sizes, gumbel)


def _noise(posterior: Any, count: int, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of z, [S, N, D], for S = count."""
    mean = posterior.mean
    return torch.randn((count, *mean.shape), generator=generator, dtype=mean.dtype, device=mean.device)


def _given_labels(model: LabelModel, x: Tensor, posterior: Any, c: Tensor, noise: Tensor) -> Tensor:
    """log p(x|z,c) − KL(q(z|x,c) ‖ p(z)) of S samples for every row, [S, N] nats."""
    mean, log_var = posterior.given(c)
    z = latent.gaussian_sample(mean, log_var, noise)
    return _log_likelihood(model, x, z, c) - latent.gaussian_kl(mean, log_var)


def _log_likelihood(model: LabelModel, x: Tensor, z: Tensor, c: Tensor) -> Tensor:
    """The likelihood log p(x|z,c) of S samples for every row, [S, N] nats, in one decoder pass."""
    parameters = model.decode(z.flatten(0, 1), c.flatten(0, 1))
    repeated = x.expand(len(z), *x.shape).flatten(0, 1)
    return model.log_likelihood(repeated, parameters).reshape(z.shape[:2])

"""The mathematics of q(z|x), q(c|x) and p(x|z,c) on tensors: pure functions, in log space, in nats.

Shapes: N images, D continuous latents, k labels, W = Σ_j c_j classes of all labels side by side. `sizes` is the
tuple (c_1 … c_k). Label quantities are computed for runs of labels of equal size at once, so that k labels of c
classes cost O(k·c) operations in a handful of kernels, never c^k.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import groupby, product

import torch
from torch import Tensor
from torch.nn import functional as F

Sizes = tuple[int, ...]
ENUMERATION_LIMIT = 4096


# --- blocks of labels -------------------------------------------------------------------------------------


def _runs(x: Tensor, sizes: Sizes) -> Iterator[Tensor]:
    """Views [..., count, size] of x [..., W], one for each run of labels of equal size."""
    if x.shape[-1] != sum(sizes):
        raise ValueError(f"{x.shape[-1]} columns for labels of sizes {sizes}: expected {sum(sizes)}")
    start = 0
    for size, group in groupby(sizes):
        count = len(list(group))
        yield x[..., start : start + count * size].reshape(*x.shape[:-1], count, size)
        start += count * size


def _by_label(x: Tensor, sizes: Sizes, function: Callable[[Tensor], Tensor]) -> Tensor:
    """[..., W] of a function from blocks [..., count, size] to blocks of the same shape."""
    parts = [function(run).flatten(-2) for run in _runs(x, sizes)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def log_softmax(logits: Tensor, sizes: Sizes) -> Tensor:
    """log q(c_j|x) of every label from its logits: [..., W] nats, each block normalised by itself."""
    return _by_label(logits, sizes, lambda block: block.log_softmax(-1))


def sum_labels(x: Tensor, sizes: Sizes) -> Tensor:
    """Sums over the classes of each label: [..., W] to [..., k]."""
    parts = [run.sum(-1) for run in _runs(x, sizes)]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def max_labels(x: Tensor, sizes: Sizes) -> Tensor:
    """The greatest value within each label: [..., W] to [..., k]."""
    return torch.cat([run.amax(-1) for run in _runs(x, sizes)], dim=-1)


def spread_labels(x: Tensor, sizes: Sizes) -> Tensor:
    """A value for each label repeated for each of its classes: [..., k] to [..., W]."""
    parts, first = [], 0
    # Runs of labels of one size: a tensor of sizes would have to be copied to a GPU, which waits for it.
    for size, run in groupby(sizes):
        last = first + len(list(run))
        parts.append(x[..., first:last].repeat_interleave(size, dim=-1))
        first = last
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def follow_mean(running: Tensor, q: Tensor, counts: Tensor | None, sizes: Sizes, step: float) -> None:
    """Move a running mean [W] towards that of q [M, W] over the cells [M, k] that count, all of them for None.

    step: the share of the way.  A label of which no cell counts stays.
    """
    if counts is None:
        running.lerp_(q.mean(0).to(running.dtype), step)
        return
    weight = spread_labels(counts.to(q.dtype), sizes)
    total = weight.sum(0)
    mean = torch.where(total > 0, (weight * q).sum(0) / total.clamp_min(1), running.to(q.dtype))
    running.lerp_(mean.to(running.dtype), step)


def piecewise_linear(x: Tensor, knots: Tensor) -> Tensor:
    """A piecewise linear function of each column: [N, W] by knots [W, 2, K] (places in rising order, values) to [N, W].

    Constant outside its knots; equal last knots are padding.
    """
    places, values = knots.to(x.dtype).unbind(1)
    columns = x.T.contiguous()
    right = torch.searchsorted(places.contiguous(), columns, right=True).clamp(1, places.shape[1] - 1)
    (x0, x1), (y0, y1) = [(t.gather(1, right - 1), t.gather(1, right)) for t in (places, values)]
    share = ((columns - x0) / (x1 - x0).clamp_min(torch.finfo(x.dtype).tiny)).clamp(0, 1)
    return (y0 + share * (y1 - y0)).T


# --- divergences ------------------------------------------------------------------------------------------


def gaussian_kl(mean: Tensor, log_var: Tensor) -> Tensor:
    """KL(N(mean, exp(log_var)) ‖ N(0, I)): [N, D] to [N] nats."""
    return 0.5 * (mean.square() + log_var.exp() - log_var - 1).sum(-1)


def label_kl(log_p: Tensor, log_q: Tensor, sizes: Sizes) -> Tensor:
    """KL(p(c_j) ‖ q(c_j)) of each label from log-probabilities: [..., W] to [..., k] nats."""
    return sum_labels(log_p.exp() * (log_p - log_q), sizes)


def label_entropy(log_p: Tensor, sizes: Sizes) -> Tensor:
    """H(p(c_j)) of each label: [..., W] to [..., k] nats."""
    return -sum_labels(log_p.exp() * log_p, sizes)


def annotation_kl(targets: Tensor, log_q: Tensor, sizes: Sizes) -> Tensor:
    """KL(p̃(c_j|x) ‖ q(c_j|x)), the classification loss of eq. 13: [..., W] to [..., k] nats.

    targets are probabilities and may contain zeros; it is the cross-entropy less the entropy of p̃.
    """
    return sum_labels(torch.special.xlogy(targets, targets) - targets * log_q, sizes)


def counted_kl(targets: Tensor, log_q: Tensor, counts: Tensor, sizes: Sizes) -> Tensor:
    """`annotation_kl` times how much each cell counts, m of eq. 16: [N, W] and counts [N, k] to [N, k] nats.

    targets may be anything, NaN too, where a cell does not count.
    """
    weight = counts.to(log_q.dtype)
    # A where, not a product: 0·NaN is NaN, and what is hidden must not reach the loss.
    targets = torch.where(spread_labels(weight, sizes) > 0, targets.to(log_q.dtype), log_q.detach().exp())
    return torch.where(weight > 0, weight * annotation_kl(targets, log_q, sizes), 0)


def mutual_information(log_q: Tensor, sizes: Sizes) -> Tensor:
    """I(x; c_j) = H(mean_i q(c_j|x_i)) − mean_i H(q(c_j|x_i)) over a batch: [N, W] to [k] nats (eq. 14 for c)."""
    return label_entropy(log_marginal(log_q), sizes) - label_entropy(log_q, sizes).mean(0)


def log_marginal(log_q: Tensor) -> Tensor:
    """log mean_i q(c|x_i): [N, W] to [W], without leaving log space."""
    return torch.logsumexp(log_q, dim=0) - math.log(len(log_q))


def tempered(logits: Tensor, temperature: Tensor, log_prior: Tensor, sizes: Sizes) -> Tensor:
    """log of p(c_j)·(q(c_j|x)/p(c_j))^(1/T_j), normalised within each label: [N, W] nats.

    Temperature scaling (Guo 2017) of what an image adds to the prior: for a uniform prior it is his, and for any other
    one a label of which an image says nothing keeps its frequency instead of going to one half.
    logits: [N, W].  temperature: [k].  log_prior: [W].
    """
    return log_softmax(log_prior + (logits - log_prior) / spread_labels(temperature, sizes), sizes)


# --- samples ----------------------------------------------------------------------------------------------


def gaussian_sample(mean: Tensor, log_var: Tensor, noise: Tensor | None = None) -> Tensor:
    """A reparameterised z ~ q(z|x): [N, D]; noise is standard normal, drawn if not given."""
    noise = torch.randn_like(mean) if noise is None else noise
    return mean + (0.5 * log_var).exp() * noise


def gumbel_noise(like: Tensor) -> Tensor:
    """Standard Gumbel noise of the shape and dtype of `like`."""
    return -torch.empty_like(like).exponential_().log()


def relaxed_sample(
    logits: Tensor, sizes: Sizes, temperature: float, noise: Tensor | None = None, straight_through: bool = False
) -> Tensor:
    """A differentiable c ~ q(c|x): [N, W], each block near a corner of its simplex.

    The Concrete / Gumbel-softmax relaxation (Maddison 2017, Jang 2017). For a yes/no label it is the binary
    Concrete, since the difference of two Gumbels is logistic. Biased at any temperature above 0;
    with straight_through the value is an exact one-hot sample and only the gradient is the relaxation's.
    """
    noise = gumbel_noise(logits) if noise is None else noise
    # Normalised first, so that logits of any size meet the noise at the same scale.
    perturbed = log_softmax(logits, sizes) + noise
    soft = _by_label(perturbed, sizes, lambda block: (block / temperature).softmax(-1))
    if not straight_through:
        return soft
    return most_probable(perturbed, sizes) + (soft - soft.detach())


def hard_sample(log_p: Tensor, sizes: Sizes, noise: Tensor | None = None) -> Tensor:
    """An exact one-hot c ~ p(c), without gradient: [N, W] (Gumbel-max)."""
    noise = gumbel_noise(log_p) if noise is None else noise
    return most_probable(log_p.detach() + noise, sizes)


def most_probable(scores: Tensor, sizes: Sizes) -> Tensor:
    """The class of the greatest score of each label, one-hot and without gradient: [..., W] to [..., W]."""
    return _by_label(scores, sizes, lambda block: F.one_hot(block.argmax(-1), block.shape[-1]).to(block.dtype))


def is_enumerable(sizes: Sizes) -> bool:
    """Whether the labels have at most 4,096 combinations."""
    return math.prod(sizes) <= ENUMERATION_LIMIT


def check_enumerable(sizes: Sizes) -> None:
    """ValueError where the labels have more than 4,096 combinations."""
    if not is_enumerable(sizes):
        raise ValueError(f"{math.prod(sizes)} label combinations: enumeration is for at most {ENUMERATION_LIMIT}")


def enumerate_labels(sizes: Sizes, like: Tensor) -> Tensor:
    """Every combination of the labels as one-hot rows: [Π_j c_j, W].

    Raises ValueError above 4,096 combinations: that is what the factorised terms are for.
    """
    check_enumerable(sizes)
    columns = torch.tensor(list(product(*(range(size) for size in sizes))), device=like.device)
    blocks = [F.one_hot(columns[:, j], size) for j, size in enumerate(sizes)]
    return torch.cat(blocks, dim=-1).to(like.dtype)


# --- likelihoods ------------------------------------------------------------------------------------------


def bernoulli_log_likelihood(x: Tensor, logits: Tensor) -> Tensor:
    """log p(x|z,c) of values in [0, 1] under Bernoulli pixels: [N, ...] to [N] nats.

    For grey values it is the expected log-likelihood of a random binarisation, not a density.
    """
    return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").flatten(1).sum(1)


def gaussian_log_likelihood(x: Tensor, mean: Tensor, log_var: Tensor) -> Tensor:
    """log N(x; mean, exp(log_var)): [N, ...] to [N] nats; log_var is broadcast."""
    squared = (x - mean).square() * (-log_var).exp()
    return -0.5 * (squared + log_var + math.log(2 * math.pi)).flatten(1).sum(1)

"""The direction in which a classifier changes most: virtual adversarial perturbations (Miyato 2018)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

PROBE = 1e-2


def adversarial(divergence: Callable[[Tensor], Tensor], x: Tensor, epsilon: float) -> Tensor:
    """The perturbation r of x [N, ...], of length ε each, for which a divergence is greatest nearby.

    One step of power iteration from a random direction (Miyato 2018, sec. 3.3, alg. 1).
    divergence: of a perturbation, a scalar that is 0 for none; no parameter gets a gradient by it.
    """
    probe = (PROBE * unit(torch.randn_like(x))).requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(divergence(probe), probe)
    return unit(gradient) * epsilon


def unit(x: Tensor) -> Tensor:
    """Each row of [N, ...] divided by its length."""
    length: Tensor = x.flatten(1).norm(dim=1).clamp_min(1e-12)
    return x / length.reshape(-1, *[1] * (x.dim() - 1))


@contextmanager
def uncached_no_grad() -> Iterator[None]:
    """Passes without gradients before others of the same network with them.

    Under autocast torch may keep the low-precision copies that such a pass makes of the weights, which have no
    gradients, for the passes that follow: the weights would then learn nothing (pytorch issue 112583).
    """
    with torch.no_grad():
        yield
    torch.clear_autocast_cache()


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Passes of perturbed images that leave batch normalisation's running statistics alone, and drop nothing.

    Two passes that drop other units differ more than by a small perturbation.
    """
    drops = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.training]
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    for drop in drops:
        drop.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        for drop in drops:
            drop.train()

"""Calibration: a temperature for each label, and the error that is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taut import latent
from taut.labels import Annotation
from taut.latent import Sizes

LEAST_OBSERVED = 30
SPREAD = 0.5  # standard deviation of log T around what is expected of it before a label's annotations are seen


def fit_temperatures(logits: Tensor, annotation: Annotation, sizes: Sizes) -> Tensor:
    """The temperature of each label that suits its held-out annotations best: [k] (Guo 2017).

    It minimises the summed NLL and −log of a prior on log T, normal with standard deviation 0.5 around the temperature
    that suits all labels together, which in turn has such a prior around 1: a few annotations that happen to be
    separated without an error would ask for T = 0. With many annotations the prior does not matter.
    logits: [N, W].  A label with fewer than 30 annotated images, or with one class only among them, keeps 1.
    """
    temperatures = torch.ones(len(sizes))
    targets = torch.from_numpy(annotation.targets).double()
    blocks: dict[int, tuple[Tensor, Tensor]] = {}
    start = 0
    for j, size in enumerate(sizes):
        seen = torch.from_numpy(annotation.observed[:, j])
        block, truth = logits[seen, start : start + size].double(), targets[seen, start : start + size]
        start += size
        if len(block) >= LEAST_OBSERVED and int((truth.sum(0) > 0).sum()) >= 2:
            blocks[j] = block, truth
    together = _log_temperature(list(blocks.values()), 0.0) if len(blocks) > 1 else 0.0
    for j, pair in blocks.items():
        temperatures[j] = float(np.exp(_log_temperature([pair], together)))
    return temperatures


def _log_temperature(blocks: list[tuple[Tensor, Tensor]], expected: float) -> float:
    """The log T that minimises the summed NLL of blocks of logits and targets, and the prior's term."""
    log_t = torch.full((), expected, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")
    scale = 1 / sum(len(block) for block, _ in blocks)  # means, since the solver's tolerances are absolute

    def loss() -> Tensor:
        log_t.grad = None
        nll = [-(truth * (block * (-log_t).exp()).log_softmax(1)).sum() for block, truth in blocks]
        total = scale * (torch.stack(nll).sum() + 0.5 * ((log_t - expected) / SPREAD).square())
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return float(log_t.detach().clamp(np.log(0.05), np.log(20)))


def expected_calibration_error(confidence: NDArray[Any], correct: NDArray[Any], bins: int = 15) -> float:
    """Σ_b share_b·|accuracy_b − confidence_b| over equal bins of confidence, a fraction (Naeini 2015).

    confidence: [N] in [0, 1].  correct: [N], the event whose probability it is.
    """
    index = np.clip((confidence * bins).astype(int), 0, bins - 1)
    total = np.bincount(index, minlength=bins)
    gap = np.bincount(index, correct, bins) - np.bincount(index, confidence, bins)
    return float(np.abs(gap[total > 0]).sum() / len(confidence))


def reliability(confidence: NDArray[Any], correct: NDArray[Any], bins: int = 15) -> tuple[NDArray[Any], ...]:
    """Mean confidence, accuracy and count of each bin that is not empty: the points of a reliability diagram."""
    index = np.clip((confidence * bins).astype(int), 0, bins - 1)
    total = np.bincount(index, minlength=bins)
    full = total > 0
    return (
        np.bincount(index, confidence, bins)[full] / total[full],
        np.bincount(index, correct, bins)[full] / total[full],
        total[full],
    )


def label_nll(log_q: Tensor, annotation: Annotation, sizes: Sizes) -> NDArray[np.float64]:
    """Mean −log q(c_j|x) of each label over its observed cells: [k] nats, NaN where there are none."""
    observed = torch.from_numpy(annotation.observed)
    targets = torch.where(latent.spread_labels(observed, sizes), torch.from_numpy(annotation.targets), 0.0)
    nll = -latent.sum_labels(targets * log_q, sizes)
    count = observed.sum(0)
    mean = torch.where(count > 0, torch.where(observed, nll, 0).sum(0) / count.clamp_min(1), torch.nan)
    return np.asarray(mean.numpy(), dtype=np.float64)

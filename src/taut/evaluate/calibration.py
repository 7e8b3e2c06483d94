"""Calibration: a temperature for each label, and the error that is left."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taut import latent
from taut.labels import Annotation
from taut.latent import Sizes

LEAST_OBSERVED = 30


def fit_temperatures(logits: Tensor, annotation: Annotation, sizes: Sizes) -> Tensor:
    """The temperature of each label that minimises the NLL of held-out annotations: [k] (Guo 2017).

    logits: [N, W].  A label with fewer than 30 annotated images, or with one class only among them, keeps 1.
    """
    temperatures = torch.ones(len(sizes))
    targets = torch.from_numpy(annotation.targets).double()
    start = 0
    for j, size in enumerate(sizes):
        seen = torch.from_numpy(annotation.observed[:, j])
        block, truth = logits[seen, start : start + size].double(), targets[seen, start : start + size]
        start += size
        if len(block) < LEAST_OBSERVED or int((truth.sum(0) > 0).sum()) < 2:
            continue
        log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

        closure = partial(_calibration_nll, block, truth, log_t)
        optimizer.step(closure)  # type: ignore[no-untyped-call]
        # Separable held-out labels would have T → 0; the bounds keep probabilities off 0 and 1.
        temperatures[j] = float(log_t.detach().clamp(np.log(0.05), np.log(20)).exp())
    return temperatures


def _calibration_nll(logits: Tensor, truth: Tensor, log_t: Tensor) -> Tensor:
    log_t.grad = None
    nll = -(truth * (logits * (-log_t).exp()).log_softmax(1)).sum(1).mean()
    nll.backward()  # type: ignore[no-untyped-call]
    return nll


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

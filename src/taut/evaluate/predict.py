"""Running a trained model over many images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taut.nn.vae import LabelVAE, Posterior

MOST_ROWS, MOST_PIXELS = 500, 2**22  # of a batch; the pixels bound the memory that maps of large images take


def on_device(model: LabelVAE) -> LabelVAE:
    """The model on the GPU, where there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def batches(model: LabelVAE, x: NDArray[Any], size: int | None = None) -> Iterator[Tensor]:
    """Prepared inputs on the model's device, a few hundred rows at a time, or fewer of large images."""
    device = model.log_prior.device
    size = size or max(1, min(MOST_ROWS, MOST_PIXELS // math.prod(x.shape[2:])))
    for start in range(0, len(x), size):
        yield model.prepare(torch.from_numpy(np.require(x[start : start + size], requirements=("C", "W"))).to(device))


@torch.no_grad()
def predict_posterior(model: LabelVAE, x: NDArray[Any]) -> Posterior:
    """q(z|x) and q(c|x) of raw inputs [N, ...] as `LabelVAE.predict` has them, on the CPU."""
    model.eval()
    found = (model.predict(batch) for batch in batches(model, x))
    parts = [(p.mean.cpu(), p.log_var.cpu(), p.logits.cpu()) for p in found]
    mean, log_var, logits = (torch.cat(part) for part in zip(*parts, strict=True))
    return Posterior(mean, log_var, logits)


def predict_logits(model: LabelVAE, x: NDArray[Any]) -> Tensor:
    """The logits of q(c|x) of raw inputs: [N, W] on the CPU."""
    return predict_posterior(model, x).logits


def predict_probabilities(model: LabelVAE, x: NDArray[Any], calibrated: bool = True) -> NDArray[np.float64]:
    """q(c_j|x) of raw inputs: [N, W], each label's block adds up to 1."""
    return model.log_probabilities(predict_logits(model, x).double(), calibrated).exp().numpy()

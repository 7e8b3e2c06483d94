"""Which weights of a training are kept: held-out annotations look at the averaged weights on the way.

With few annotations, or labels that images say little of, a network goes on past its best: it learns its annotated
images by heart. How soon is not known beforehand, and differs between methods, so that held-out images decide it.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor, nn

from taut import latent
from taut.data.dataset import Dataset
from taut.evaluate.calibration import cell_nll, fit_temperatures
from taut.evaluate.predict import predict_logits
from taut.nn.vae import LabelVAE

MOST_JUDGES = 2000  # images; more would cost time and tell nothing


class Looks(nn.Module):
    """The weights of the latest look that is not clearly worse than the best one.

    Looks are judged by the NLL of held-out annotations after temperatures fitted on them, as the shipped model will be
    calibrated. Clearly worse is by more than the standard error of the mean difference between images (Breiman 1984,
    his rule of one standard error): where held-out images do not tell looks apart, the last weights stay, at which the
    learning rate has come to rest. Everything that a resumed training must know is a buffer or a weight.

    held: images with annotations, of which 2,000 judge.  count: how many looks a training has.
    """

    step: Tensor
    least: Tensor

    def __init__(self, model: LabelVAE, held: Dataset, count: int) -> None:
        super().__init__()
        rows = np.flatnonzero(held.annotation.observed.any(axis=1))
        if len(rows) > MOST_JUDGES:
            rows = np.sort(np.random.default_rng(0).choice(rows, MOST_JUDGES, replace=False))
        self.held, self.count = held.rows(rows), count
        self.kept = copy.deepcopy(model).requires_grad_(False).eval()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("least", torch.full((len(rows),), torch.inf))

    def train(self, mode: bool = True) -> Looks:
        """Set the mode; the kept weights are always in evaluation mode."""
        super().train(mode)
        self.kept.eval()
        return self

    def due(self, step: int, steps: int) -> bool:
        """Whether a look falls on a step: `count` of them, evenly spread over the steps 1 … steps."""
        return step * self.count // steps > (step - 1) * self.count // steps

    @torch.no_grad()
    def look(self, model: LabelVAE, step: int) -> float:
        """Judge a model, keep its weights where they may be the best, and return its NLL in nats an image."""
        nll = held_out_nll(model, self.held).to(self.least)
        if not bool(nll.isfinite().all()):
            return math.inf
        worse = nll - self.least
        better = bool(worse.mean() < 0)  # by an infinity at the first look
        if better:
            self.least.copy_(nll)
        if better or bool(worse.mean() <= worse.std(correction=0) / math.sqrt(len(worse))):
            self.kept.load_state_dict(model.state_dict())
            self.step.fill_(step)
        return float(nll.mean())


def held_out_nll(model: LabelVAE, held: Dataset) -> Tensor:
    """−Σ_j log q(c_j|x) over the annotated cells of each image, after temperatures fitted on them: [N] nats."""
    logits, annotation = predict_logits(model, held.x), held.annotation
    log_prior = model.log_prior.cpu()
    with torch.enable_grad():
        temperatures = fit_temperatures(logits, annotation, log_prior, model.sizes)
    log_q = latent.tempered(logits.double(), temperatures.double(), log_prior.double(), model.sizes)
    return cell_nll(log_q, annotation, model.sizes).sum(1)

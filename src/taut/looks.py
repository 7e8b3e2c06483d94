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
from taut.evaluate.calibration import LEAST_OBSERVED, SPREAD, cell_nll
from taut.evaluate.predict import predict_logits
from taut.labels import Annotation
from taut.latent import Sizes
from taut.nn.vae import LabelVAE

MOST_JUDGES = 2000  # images; more would cost time and tell nothing
CLEARLY = 2.0  # standard errors


def can_judge(held: Dataset | None) -> bool:
    """Whether held-out images are enough to choose weights by: 30 with annotations, as for a temperature."""
    return held is not None and int(held.annotation.observed.any(axis=1).sum()) >= LEAST_OBSERVED


class Looks(nn.Module):
    """The weights of the latest look that is not clearly worse than the best one.

    Looks are judged by the NLL of held-out annotations after a slope and shifts of each label's logits were fitted on
    them. Without the shifts a method that moves the frequency of its predictions seems to get worse while the order
    of the images gets better.
    Clearly worse is by more than two standard errors of the mean difference between images, those of one patient (or
    other group) counting as one that varies: where held-out images do not tell looks apart, the last weights stay, at
    which the learning rate has come to rest.
    Everything that a resumed training must know is a buffer or a weight.

    held: images with annotations, of which 2,000 judge.  count: how many looks a training has.
    """

    step: Tensor
    least: Tensor
    group: Tensor

    def __init__(self, model: LabelVAE, held: Dataset, count: int) -> None:
        super().__init__()
        rows = np.flatnonzero(held.annotation.observed.any(axis=1))
        if len(rows) > MOST_JUDGES:
            rows = np.sort(np.random.default_rng(0).choice(rows, MOST_JUDGES, replace=False))
        self.held, self.count = held.rows(rows), count
        self.kept = copy.deepcopy(model).requires_grad_(False).eval()
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("least", torch.full((len(rows),), torch.inf))
        self.register_buffer("group", torch.from_numpy(self.held.group_numbers), persistent=False)

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
        if better or bool(worse.mean() <= CLEARLY * self._standard_error(worse)):
            self.kept.load_state_dict(model.state_dict())
            self.step.fill_(step)
        return float(nll.mean())

    def _standard_error(self, values: Tensor) -> Tensor:
        """The standard error of the mean of values [N] of which those of one group vary together (Liang 1986)."""
        groups = int(self.group.max()) + 1
        if groups == 1:
            return values.new_tensor(math.inf)  # nothing says how groups vary
        sums = values.new_zeros(groups).index_add(0, self.group, values - values.mean())
        few = 1.0 if groups == len(values) else math.sqrt(groups / (groups - 1))
        return few * sums.square().sum().sqrt() / len(values)


def held_out_nll(model: LabelVAE, held: Dataset) -> Tensor:
    """−Σ_j log q(c_j|x) over the annotated cells of each image, after `recalibrated`: [N] nats."""
    log_q = recalibrated(predict_logits(model, held.x).double(), held.annotation, model.sizes)
    return cell_nll(log_q, held.annotation, model.sizes).sum(1)


@torch.enable_grad()
def recalibrated(logits: Tensor, annotation: Annotation, sizes: Sizes) -> Tensor:
    """log softmax(logits/T_j + b_j) of each label with the T_j and b_j [c_j] that suit its annotations best: [N, W].

    Vector scaling with one slope (Guo 2017; Platt 1999 for two classes). Normal priors, of standard deviation 0.5 on
    log T_j and 1 on b_j, keep labels of few annotations finite.
    logits: [N, W], float64.
    """
    log_t = logits.new_zeros(len(sizes)).requires_grad_()
    shift = logits.new_zeros(logits.shape[1]).requires_grad_()
    optimizer = torch.optim.LBFGS([log_t, shift], max_iter=100, line_search_fn="strong_wolfe")

    def log_q() -> Tensor:
        return latent.log_softmax(logits * latent.spread_labels((-log_t).exp(), sizes) + shift, sizes)

    def loss() -> Tensor:
        optimizer.zero_grad()
        prior = (log_t / SPREAD).square().sum() + shift.square().sum()
        total = (cell_nll(log_q(), annotation, sizes).sum() + 0.5 * prior) / len(logits)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    return log_q().detach()

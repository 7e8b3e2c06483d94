"""How often images without annotation have each class, where what a network has learnt contradicts the prior p(c).

Annotations that were picked, so many of each class, say nothing of p(c), and few drawn at random say little. But mutual
information (eq. 14) draws the mean of q(c|x) over a batch to p(c), and drawn to a wrong one it makes wrong labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Nats from p(c) to the frequencies found, beyond which p(c) is not believed: at least, and in addition for one
# annotated image a class, the more the less. With 2 to 40 of each, balanced classes of MNIST and CIFAR-10 stayed below,
# and classes of which one has 60 % were above.
GATE, GATE_OF_ONE = 0.03, 0.14
MOMENTUM = 0.98  # of the frequencies once they are followed: a network that is sure of nothing must not chase itself


class ClassFrequencies(nn.Module):
    """The mean of q², normalised, over rows without annotation: of an only label, and kept in checkpoints.

    (The mean of q shrinks while a network is unsure, and counts of the most probable classes exaggerate.)
    classes: of the label.  annotated: images that p(c) is estimated from.  end: the step at which they are compared
    with p(c); rows of the second half of the steps before it count. Where they contradict it, they follow the network.
    """

    found: Tensor
    rows: Tensor
    contradict: Tensor

    def __init__(self, classes: int, annotated: int, end: int) -> None:
        super().__init__()
        self.gate, self.end = GATE + GATE_OF_ONE * classes / max(1, annotated), end
        self.register_buffer("found", torch.zeros(classes))
        self.register_buffer("rows", torch.tensor(0.0))
        self.register_buffer("contradict", torch.tensor(0.0))

    @torch.no_grad()
    def watch(self, log_q: Tensor, log_prior: Tensor, step: int) -> None:
        """Take in the posteriors [N, K] of the rows without annotation of a step."""
        if step < self.end // 2 or len(log_q) == 0 or (step >= self.end and not self.contradict):
            return
        mean = (2 * log_q).softmax(1).mean(0)
        if step < self.end:
            self.rows += len(log_q)
            self.found.lerp_(mean, len(log_q) / self.rows)
            distance = torch.special.xlogy(self.found, self.found).sum() - (self.found * log_prior).sum()
            self.contradict.fill_((distance > self.gate).float())
        else:
            self.found.lerp_(mean, 1 - MOMENTUM)

    def expected(self, targets: Tensor, observed: Tensor) -> Tensor | None:
        """The log frequencies [K] of a batch, annotated rows as they are annotated; None where p(c) is believed.

        targets: [N, K].  observed: [N] bool.
        """
        if not self.contradict:
            return None
        known = torch.where(observed[:, None], targets, 0).sum(0)
        return ((known + (~observed).sum() * self.found) / len(observed)).clamp_min(1e-8).log()

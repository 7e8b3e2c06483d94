"""How often images without annotation have each class, where what a network has learnt contradicts the prior p(c).

Annotations that were picked, so many of each class, say nothing of p(c), and few drawn at random say little. But mutual
information (eq. 14) draws the mean of q(c|x) over a batch to p(c), and drawn to a wrong one it makes wrong labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# p(c) is rejected where the least KL(found ‖ p(c)^a), a from 1 to 2, exceeds GATE + GATE_OF_ONE / (annotated images a
# class) + GATE_OF_DOUBT · (1 − mean greatest probability at that step), in nats: an estimate from few annotations may
# be off by chance, and one of a network that knows little by its errors. With 2 to 40 of each, balanced classes of
# MNIST and CIFAR-10 stayed below, and classes of which one has 60 % were above, in 130 to 800 steps: of 2 of each
# balanced ones of MNIST were up to 0.05 away, unbalanced ones from 0.156 on, where probabilities were 0.43 to 0.6.
# Without augmentation a network knows least: of 2, 4 and 5 of each balanced ones were 0.08 to 0.25 away, probabilities
# 0.33 to 0.43, nearly as unbalanced ones were: the plan waits for nothing there, and asks nothing (hidden images, no
# command).
GATE, GATE_OF_ONE, GATE_OF_DOUBT = 0.03, 0.14, 0.085
UNSURE = 11  # powers of p(c) from 1 to 2 that frequencies are compared with
MOMENTUM = 0.98  # of the frequencies once they are followed: a network that is sure of nothing must not chase itself


class ClassFrequencies(nn.Module):
    """Estimates the class frequencies of images without annotation of an only label: the mean of q², normalised.

    (The mean of q shrinks while a network is unsure, and counts of the most probable classes exaggerate.) It is p(c)²,
    normalised, of a network that knows the frequencies and nothing else, and p(c) of one that knows every class: none
    of the powers from 1 to 2 contradicts p(c).
    classes: of the label.  annotated: images that p(c) is estimated from.  end: the step at which they are compared
    with p(c); rows of the second half of the steps before it count. Where they contradict it, they follow the network.
    parts: the batches of a step.
    checked: whether that is so; if not, p(c) is believed to be the frequencies of the rows without annotation.
    """

    found: Tensor
    sure: Tensor
    rows: Tensor
    contradict: Tensor

    def __init__(self, classes: int, annotated: int, end: int, checked: bool = True, parts: int = 1) -> None:
        super().__init__()
        self.momentum = MOMENTUM ** (1 / parts)
        self.gate, self.end, self.checked = GATE + GATE_OF_ONE * classes / max(1, annotated), end, checked
        self._verdict: bool | None = None
        self.register_buffer("found", torch.zeros(classes))
        self.register_buffer("sure", torch.tensor(0.0))
        self.register_buffer("rows", torch.tensor(0.0))
        self.register_buffer("contradict", torch.tensor(0.0))

    def is_followed(self, step: int) -> bool:
        """Whether p(c) was contradicted, from the end on."""
        if step < self.end:
            return False
        if self._verdict is None:  # reading a number waits for a GPU
            self._verdict = bool(self.contradict)
        return self._verdict

    def watches(self, step: int) -> bool:
        """Whether the posteriors of a step are of use."""
        return self.checked and (self.end // 2 <= step < self.end or self.is_followed(step))

    @torch.no_grad()
    def watch(self, log_q: Tensor, log_prior: Tensor, step: int) -> None:
        """Take in the posteriors [N, K] of the rows without annotation of a step."""
        if len(log_q) == 0 or not self.watches(step):
            return
        mean = (2 * log_q).softmax(1).mean(0)
        if step < self.end:
            self.rows += len(log_q)
            self.found.lerp_(mean, len(log_q) / self.rows)
            self.sure = log_q.amax(1).exp().mean()  # of the last step, since it rises fast
            powers = torch.linspace(1, 2, UNSURE, device=log_prior.device, dtype=log_prior.dtype)
            expected = (powers[:, None] * log_prior).log_softmax(1)
            # A sum, not a matrix product: autocast would round this to bfloat16.
            distances = torch.special.xlogy(self.found, self.found).sum() - (expected * self.found).sum(1)
            self.contradict.fill_((distances.min() > self.gate + GATE_OF_DOUBT * (1 - self.sure)).float())
        else:
            self.found.lerp_(mean, 1 - self.momentum)

    def expected(
        self, targets: Tensor, observed: Tensor, settled: Tensor, log_prior: Tensor, step: int
    ) -> Tensor | None:
        """The log frequencies [K] of a batch, annotated rows as they are annotated; None for p(c) of all rows.

        targets: [N, K].  observed, settled: [N] bool, what is annotated, and that or ignored.
        """
        followed = self.is_followed(step)
        if self.checked and not followed:
            return None
        known, others = torch.where(observed[:, None], targets, 0).sum(0), (~settled).sum()
        frequencies = self.found if followed else log_prior.exp()
        return ((known + others * frequencies) / (observed.sum() + others).clamp_min(1)).clamp_min(1e-8).log()

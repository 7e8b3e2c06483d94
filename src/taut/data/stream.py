"""The stream of training batches: annotated and unannotated images side by side, a function of seed and step.

Batch t of process r is computed from (seed, t, r), whatever came before. The exact position that a checkpoint must keep
is therefore the step alone, and a resumed run sees the very same batches.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from taut.data.augment import Augment
from taut.data.dataset import Dataset
from taut.data.mapped import is_mapped
from taut.facts import SHARED
from taut.nn.vae import LabelVAE
from taut.objective import Batch, SecondView


class Cycle:
    """Endless passes over some rows, each in an order of its own: position p is row order(p // n)[p % n]."""

    def __init__(self, rows: NDArray[np.intp], seed: int) -> None:
        self.rows, self.seed = rows, seed
        self._pass = -1
        self._order = rows

    def _ordered(self, number: int) -> NDArray[np.intp]:
        if number != self._pass:
            self._order = np.random.default_rng([self.seed, number]).permutation(self.rows)
            self._pass = number
        return self._order

    def take(self, start: int, count: int) -> NDArray[np.intp]:
        """`count` rows from position `start` on."""
        n, taken = len(self.rows), []
        while count > 0:
            number, offset = divmod(start, n)
            part = self._ordered(number)[offset : offset + count]
            taken.append(part)
            start, count = start + len(part), count - len(part)
        return np.concatenate(taken) if taken else self.rows[:0]


class Stream:
    """Batches of annotated rows first, then rows with something unannotated.

    labelled, unlabelled: rows of each kind in a batch of one process; the last `unlabelled` rows get the second view
    that is asked for. Images whose labels are partly annotated belong to both kinds, but to the second alone where
    nearly all images are annotated and some completely, or where `unannotated` is given and some are complete.
    unannotated: the share of the second kind that is of images without any annotation, where there are partly annotated
    ones too; None takes them as often as they come. Raises ValueError where that leaves a batch empty.
    """

    def __init__(
        self,
        dataset: Dataset,
        augment: Augment,
        labelled: int,
        unlabelled: int,
        seed: int,
        second: SecondView = "strong",
        process: int = 0,
        processes: int = 1,
        unannotated: float | None = None,
    ) -> None:
        observed = dataset.annotation.observed
        complete, known = dataset.annotation.complete, observed.any(axis=1)
        partly, nothing = known & ~complete, ~known & ~complete
        divided = unannotated is not None and partly.any() and nothing.any()
        self.other = round(unlabelled * (unannotated or 0)) if divided else 0
        # Complete images have a cycle of their own where that does not draw them more often than partly annotated ones.
        rows = labelled + unlabelled - self.other
        few = bool(labelled * known.sum() <= rows * complete.sum() + known.sum())
        apart = unlabelled and complete.any() and (known.mean() >= SHARED or (divided and few))
        self.annotated = Cycle(np.flatnonzero(complete if apart else known), seed)
        self.rest = Cycle(np.flatnonzero(partly if divided else ~complete), seed + 1)
        self.others = Cycle(np.flatnonzero(nothing), seed + 2)
        self.labelled = labelled if len(self.annotated.rows) else 0
        self.unlabelled = unlabelled if len(self.rest.rows) else 0
        if self.labelled + self.unlabelled == 0:
            flags = "--train.batch_labelled and --train.batch_unlabelled"
            raise ValueError(f"the batches are empty: {flags} fit no image of these data")
        self.augment, self.seed, self.second = augment, seed, second
        self.process, self.processes = process, processes
        self.x = dataset.x
        # What is read from a disk is read while the batch before is learnt from.
        self._reader = ThreadPoolExecutor(1) if is_mapped(dataset.x) else None
        self._ahead: tuple[int, Future[NDArray[Any]]] | None = None
        self.targets = torch.from_numpy(dataset.annotation.targets)
        self.observed = torch.from_numpy(observed)
        ignored = dataset.annotation.ignored
        self.ignored = None if ignored is None else torch.from_numpy(ignored)
        others = dataset.auxiliary
        self.auxiliary = None if others is None else torch.from_numpy(others.annotation.targets)

    def rows(self, step: int) -> NDArray[np.intp]:
        """The rows of batch `step`, annotated ones first."""
        place, partly = step * self.processes + self.process, self.unlabelled - self.other
        return np.concatenate(
            [
                self.annotated.take(place * self.labelled, self.labelled),
                self.rest.take(place * partly, partly),
                self.others.take(place * self.other, self.other),
            ]
        )

    def _inputs(self, step: int, index: NDArray[np.intp]) -> NDArray[Any]:
        """The inputs of batch `step`, whose rows are given."""
        if self._reader is None:
            return np.asarray(self.x[index])
        found = self._ahead[1].result() if self._ahead is not None and self._ahead[0] == step else self.x[index]
        self._ahead = step + 1, self._reader.submit(self.x.__getitem__, self.rows(step + 1))
        return np.asarray(found)

    def batch(self, step: int, model: LabelVAE, device: torch.device) -> Batch:
        """Batch `step` on a device, prepared and augmented."""
        index = self.rows(step)
        rows = torch.from_numpy(index)
        generator = Generator().manual_seed(_mix(self.seed, step, self.process))
        x = model.prepare(torch.from_numpy(self._inputs(step, index)).to(device))
        second: Tensor | None = None
        if self.second != "none" and self.unlabelled:
            view = self.augment.weak if self.second == "weak" else self.augment.strongly
            second = view(x[self.labelled :], generator)
        return Batch(
            x=self.augment.weak(x, generator),
            targets=self.targets[rows].to(device),
            observed=self.observed[rows].to(device),
            second=second,
            ignored=None if self.ignored is None else self.ignored[rows].to(device),
            auxiliary=None if self.auxiliary is None else self.auxiliary[rows].to(device),
            index=rows.to(device),
        )


def _mix(*numbers: int) -> int:
    """One well-mixed 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)

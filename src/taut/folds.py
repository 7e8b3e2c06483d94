"""Cross-fitting: logits of every annotated image from a training that knew none of its fold's annotations.

Where annotations are too few to hold some out, each serves twice: all of them train the model that is kept, and each is
judged by a model that it was hidden from. The judging models know a few annotations less than the one that is kept, and
are a little worse; what is calibrated on them makes the kept model a little less sure than it may be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch import Tensor

from taut.data.dataset import Dataset
from taut.data.split import hide
from taut.evaluate.predict import predict_logits
from taut.nn.vae import LabelVAE
from taut.run import Run
from taut.train import processes


def hide_fold(dataset: Dataset, parts: NDArray[np.intp], fold: int) -> Dataset:
    """The dataset without the annotations of a fold; its images stay, as images that nothing is said of."""
    return replace(dataset, annotation=hide(dataset.annotation, (parts != fold)[:, None], dataset.space.sizes))


def could_be_learnt(dataset: Dataset, hidden: Dataset, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Which cells [M, k] of some rows are of classes that some annotation left in `hidden` shows."""
    learnt = (hidden.annotation.targets > 0).any(axis=0)
    strange = (dataset.annotation.targets[rows] > 0) & ~learnt
    return np.stack([~strange[:, block].any(axis=1) for block in dataset.space.blocks], axis=1)


def cross_fit(
    dataset: Dataset,
    parts: NDArray[np.intp],
    trained: Callable[[Dataset, int], LabelVAE],
    run: Run | None = None,
    again: bool = False,
) -> tuple[Dataset, Tensor]:
    """The images of all folds, M of them, and their out-of-fold logits [M, W], float32 on the CPU.

    parts: the fold of each image [N], −1 for none, as `deal_folds` gives it.  trained: takes a dataset from which a
    fold is hidden, and the fold's number, to a model.  run: keeps the logits of every finished fold.
    again: whether they are read first.
    A cell whose class no other fold has is not annotated in what is returned: nobody could have learnt it.
    """
    logits = np.full((len(dataset), dataset.space.width), np.nan, dtype=np.float32)
    if run is not None and again:
        # Of several processes the first one reads, since it also writes, and all must train the same folds.
        kept = broadcast_object_list([run.load_folds() if processes().is_main_process else None])[0]
        if kept is not None and np.array_equal(kept[0], parts) and kept[1].shape == logits.shape:
            logits = kept[1]
    observed = dataset.annotation.observed & (parts >= 0)[:, None]
    for fold in range(int(parts.max()) + 1):
        mine = np.flatnonzero(parts == fold)
        hidden = hide_fold(dataset, parts, fold)
        observed[mine] &= could_be_learnt(dataset, hidden, mine)
        if np.isnan(logits[mine]).any():
            logits[mine] = predict_logits(trained(hidden, fold), dataset.x[mine]).float().numpy()
            if run is not None and processes().is_main_process:
                run.save_folds(parts, logits)
    judged = replace(dataset, annotation=hide(dataset.annotation, observed, dataset.space.sizes))
    rows = np.flatnonzero(parts >= 0)
    return judged.rows(rows), torch.from_numpy(logits[rows])

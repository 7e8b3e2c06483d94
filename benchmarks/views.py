"""What fixed views of an image do for predictions: one training a draw, predicted with none to sixteen of them.

MNIST with 100 labels, and chest X-rays of which a fifth of the patients is annotated; judged on hidden training images,
since the number of views is a decision of the plan.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import mnist, xrays
from benchmarks.common import RESULTS, numbers, record
from taut.data.dataset import Dataset
from taut.data.split import split_off
from taut.evaluate.calibration import calibrate
from taut.evaluate.metrics import evaluate
from taut.evaluate.predict import predict_logits
from taut.fit import Fitted, fit
from taut.flags import DataFlags
from taut.sources import draw_annotations

COUNTS = (0, 4, 8, 16)
HIDDEN = 0.25  # of the patients of the training part

Parts = Callable[[int], tuple[Dataset, Dataset]]


def hidden_patients(seed: int) -> tuple[Dataset, Dataset]:
    """X-rays with a fifth of the patients annotated, and those of a quarter of the patients, all annotated."""
    everything = xrays.everything(0)
    rows = np.flatnonzero(everything.split == "train")
    apart = np.isin(np.arange(len(everything)), rows[split_off(everything.rows(rows), HIDDEN, seed)])
    kept = draw_annotations(everything.rows(~apart), DataFlags(xrays.PACK, labelled_fraction=0.2), seed)
    return kept, dataclasses.replace(everything.rows(apart), split=None)


@cache
def trained(parts: Parts, objective: str, minutes: float, seed: int) -> Fitted:
    """The training of a draw, which all numbers of views share."""
    return fit(parts(seed)[0], minutes=minutes, seed=seed, quiet=True, objective=objective)


def one(parts: Parts, objective: str, minutes: float, count: int, seed: int) -> dict[str, Any]:
    """Figures on hidden images with so many views, calibrated with them, and the time that an image takes."""
    fitted, (training, testing) = trained(parts, objective, minutes, seed), parts(seed)
    model = fitted.model
    model.views = dataclasses.replace(fitted.plan.augment, views=count).fixed_maps(fitted.facts.shape)
    if training.split is not None:
        calibrate(model, training.part("valid"))
    began = time.perf_counter()
    logits = predict_logits(model, testing.x)
    took = time.perf_counter() - began
    figures = evaluate(model, testing, logits=logits)
    kept = {name: figures[name] for name in ("error", "auroc_macro", "nll", "ece") if name in figures}
    return {**kept, "ms an image": round(1000 * took / len(testing), 3), "steps": fitted.result.steps}


def main(seeds: int = 3, minutes: float = 1.0, folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1 of both."""
    about = f"hidden training images, predicted with fixed views of each beside the image; {minutes:g} min a training"
    for name, parts, methods in (
        ("mnist", mnist.hidden_part, ("taut",)),
        ("xrays", hidden_patients, ("taut", "masked_cross_entropy")),
    ):
        rows = {
            f"{method}, {count} views": partial(one, parts, xrays.NAMES[method], minutes, count)
            for method in methods
            for count in COUNTS
        }
        for seed in range(seeds):
            record(f"views-{name}", about, rows, [seed], folder)
            trained.cache_clear()


if __name__ == "__main__":
    main(*numbers())

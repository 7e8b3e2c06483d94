"""Few annotated images among thousands: what two folds do for their probabilities, and what they cost.

Photographs of CIFAR-10's classes, and MNIST's upper halves, which are strokes but hard to tell; as many of each class
are annotated as a setting says. taut with two folds, taut without (uncalibrated, with the time of the folds to learn
in) and cross-entropy with two. Judged on hidden training images, by which the plan's rule was chosen, on cats and dogs
and on halves in draw 0.
Give the number of draws and settings: `python -m benchmarks.folds 2 cats-and-dogs`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import mnist, shares
from benchmarks.common import RESULTS, chosen, record
from taut.baselines import DEFAULT
from taut.data.dataset import Dataset
from taut.data.split import draw_per_class
from taut.fit import fit
from taut.labels import LabelSpace

SETTINGS = {
    "cats-and-dogs": ("cifar10", (3, 5), 50, 2.0),
    "ten-classes": ("cifar10", tuple(range(10)), 20, 0.8),
    "half-digits": ("mnist", tuple(range(10)), 5, 1.5),
}
"""A public set, its classes, how many of each are annotated, and minutes; in 0.8 two classes have no time for folds."""
IMAGES, HIDDEN = 8_000, 2_000
METHODS = {
    "taut, two folds": (DEFAULT, 2),
    "taut, no folds": (DEFAULT, 0),
    "supervised, two folds": ("supervised", 2),
}


def parts(setting: str, seed: int) -> tuple[Dataset, Dataset]:
    """Training images of which a few are annotated, and hidden ones: some of the public training images."""
    name, classes, per_class, _ = SETTINGS[setting]
    everything = shares.parts(name)[0]
    index = everything.annotation.targets.argmax(axis=1)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(np.isin(index, classes)))[: IMAGES + HIDDEN]
    space = LabelSpace.multiclass(list(classes), name="class")
    data = dataclasses.replace(everything.rows(order), space=space, annotation=space.encode(index[order]))
    if setting == "half-digits":
        x = data.x.copy()
        x[:, :, x.shape[2] // 2 :] = 0
        data = dataclasses.replace(data, x=x)
    first = np.arange(len(data)) < len(data) * IMAGES // (IMAGES + HIDDEN)
    training = data.rows(first)
    return dataclasses.replace(training, annotation=draw_per_class(training, per_class, seed)), data.rows(~first)


def one(method: str, setting: str, seed: int) -> dict[str, Any]:
    """Figures of one training on the hidden images, and how many folds there were."""
    objective, folds = METHODS[method]
    training, hidden = parts(setting, seed)
    change = partial(mnist.changed, {"train.folds": folds})
    fitted = fit(training, change, SETTINGS[setting][-1], seed, quiet=True, objective=objective)
    return {**mnist.figures(fitted, hidden), "folds": fitted.plan.train.folds}


def main(seeds: int = 2, names: Collection[str] = (), folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1 of some settings, by default all, draw by draw."""
    for seed in range(seeds):
        for setting in names or SETTINGS:
            name, classes, per_class, minutes = SETTINGS[setting]
            about = (
                f"{name}, {len(classes)} classes, {per_class} of each annotated among {IMAGES:,} images, {minutes:g} "
                "min each; error on hidden training images in percent"
            )
            methods: dict[str, Callable[[int], dict[str, Any]]] = {
                method: partial(one, method, setting) for method in METHODS
            }
            record(f"folds-{setting}", about, methods, [seed], folder)


if __name__ == "__main__":
    counts, words = chosen(SETTINGS)
    main(*counts, names=words)

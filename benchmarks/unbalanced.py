"""As many labels of each class of unequally frequent ones: MNIST's training images, of which most show one digit.

What annotations tell of p(c) is then wrong. taut with and without its check of the prior, with the frequencies stated,
and rivals; judged on hidden training images of the same frequencies, since the check was decided on such.
Give the number of draws, the minutes and settings: `python -m benchmarks.unbalanced 3 0.5 10-labels`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import mnist
from benchmarks.common import RESULTS, chosen, record
from taut.baselines import DEFAULT
from taut.data.dataset import Dataset
from taut.data.split import draw_per_class
from taut.fit import fit

IMAGES, OFTEN = 8000, 0.6  # of the training set, and the share of the first class in it
SETTINGS = {"10-labels": 10, "2-labels": 2}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "taut": (DEFAULT, {}),
    "taut without the check": (DEFAULT, {"objective.check_prior": False}),
    "taut, frequencies stated": (DEFAULT, {}),
    "supervised": ("supervised", {}),
    "fixmatch": ("fixmatch", {}),
}


def frequencies(classes: int) -> list[float]:
    """One frequent class, and the others alike."""
    return [OFTEN] + [(1 - OFTEN) / (classes - 1)] * (classes - 1)


def unequal(data: Dataset, most: int, rng: np.random.Generator) -> Dataset:
    """At most so many images of a dataset, by chance, of which each class has its share."""
    index = data.annotation.targets.argmax(axis=1)
    shares = np.array(frequencies(data.space.width))
    counts = np.round(shares * min(most, (np.bincount(index) / shares).min())).astype(int)
    rows = [rng.permutation(np.flatnonzero(index == c))[:count] for c, count in enumerate(counts)]
    return data.rows(np.sort(np.concatenate(rows)))


def parts(per_class: int, seed: int) -> tuple[Dataset, Dataset]:
    """Training images with a few annotations of each class, and hidden ones, of the same frequencies."""
    rng, everything = np.random.default_rng(seed), mnist.parts()[0]
    last = np.arange(len(everything)) >= len(everything) - mnist.HIDDEN
    training, hidden = unequal(everything.rows(~last), IMAGES, rng), unequal(everything.rows(last), IMAGES, rng)
    return dataclasses.replace(training, annotation=draw_per_class(training, per_class, seed)), hidden


def one(name: str, per_class: int, minutes: float, seed: int) -> dict[str, Any]:
    """Figures of one training on the hidden images."""
    objective, changes = METHODS[name]
    training, hidden = parts(per_class, seed)
    if name.endswith("stated"):
        shares = zip(training.space.labels[0].classes, frequencies(training.space.width), strict=True)
        training = dataclasses.replace(training, prevalence={str(value): share for value, share in shares})
    change = partial(mnist.changed, changes)
    return mnist.figures(fit(training, change, minutes, seed, quiet=True, objective=objective), hidden)


def main(seeds: int = 3, minutes: float = 0.5, names: Collection[str] = (), folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1 of some settings, by default both, draw by draw."""
    for seed in range(seeds):
        for name in names or SETTINGS:
            about = (
                f"MNIST of which {OFTEN:.0%} show one digit, {SETTINGS[name]} labels of each class, {minutes:g} min "
                "each; error on hidden training images in percent"
            )
            methods: dict[str, Callable[[int], dict[str, Any]]] = {
                method: partial(one, method, SETTINGS[name], minutes) for method in METHODS
            }
            record(f"unbalanced-{name}", about, methods, [seed], folder)


if __name__ == "__main__":
    counts, words = chosen(SETTINGS)
    main(*counts, names=words)

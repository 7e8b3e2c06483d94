"""From few annotations to nearly all: taut's default beside cross-entropy and MixMatch, as more is annotated.

Where much is annotated, what is only estimated can do harm. The same images, annotations, networks and minutes for all;
judged on the test images. The plan's rules were chosen on hidden training images.
Give the number of draws and settings: `python -m benchmarks.shares 3 mnist-90`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, chosen, record
from benchmarks.mnist import figures
from taut.baselines import DEFAULT
from taut.data import load_dataset
from taut.data.dataset import Dataset
from taut.data.split import draw_fraction
from taut.fit import fit

SETTINGS: dict[str, tuple[str, int, float, float]] = {
    "mnist-10": ("mnist", 6000, 0.1, 0.4),
    "mnist-50": ("mnist", 6000, 0.5, 0.4),
    "mnist-90": ("mnist", 6000, 0.9, 0.4),
    "cifar10-8": ("cifar10", 50_000, 0.08, 1.2),
}
"""A public set, how many of its training images, the annotated share of them, and minutes."""
METHODS = {"taut": DEFAULT, "supervised": "supervised", "mixmatch": "mixmatch"}


@cache
def parts(name: str) -> tuple[Dataset, Dataset]:
    """The training and the test images of a public set, all annotated."""
    data = load_dataset(name)
    return dataclasses.replace(data.part("train"), split=None), data.part("test")


def draw(name: str, images: int, share: float, seed: int) -> Dataset:
    """Training images by chance, of which a share is annotated."""
    training = parts(name)[0]
    rows = np.random.default_rng(seed).permutation(len(training))[:images]
    some = training.rows(np.sort(rows))
    return dataclasses.replace(some, annotation=draw_fraction(some, share, seed))


def one(setting: str, objective: str, seed: int) -> dict[str, Any]:
    """The figures of one training on the test images."""
    name, images, share, minutes = SETTINGS[setting]
    training = draw(name, images, share, seed)
    return figures(fit(training, minutes=minutes, seed=seed, quiet=True, objective=objective), parts(name)[1])


def main(seeds: int = 3, names: Collection[str] = (), folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1 of some settings, by default all, draw by draw."""
    for seed in range(seeds):
        for setting in names or SETTINGS:
            name, images, share, minutes = SETTINGS[setting]
            about = (
                f"{name}, {images:,} training images, {share:.0%} of them annotated, {minutes:g} min each; test images"
            )
            methods: dict[str, Callable[[int], dict[str, Any]]] = {
                method: partial(one, setting, objective) for method, objective in METHODS.items()
            }
            record(f"shares-{setting}", about, methods, [seed], folder)


if __name__ == "__main__":
    counts, words = chosen(SETTINGS)
    main(*counts, names=words)

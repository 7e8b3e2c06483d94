"""digit-grid with 5 % of its cells, and with 5 % of its rows: how much of the way from few annotations to all of them.

The way is from masked cross-entropy to the same network with every annotation. All trainings have the same draws,
networks and minutes. Nothing is held out for calibration, since what is compared is the order of the images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, chosen, record
from benchmarks.xrays import NAMES, figures
from taut.data.dataset import Dataset
from taut.data.embedded import digit_grid
from taut.data.split import draw_fraction
from taut.fit import fit
from taut.plan import override

SHARE = 0.05
METHODS = ("taut", "masked_cross_entropy", "mean-teacher", "fixmatch", "pseudo-label")
SETTINGS = {"cells-5": "a random 5 % of the cells annotated", "rows-5": "5 % of the images annotated"}


@cache
def parts() -> tuple[Dataset, Dataset]:
    """The training and the test images, all annotated."""
    data = digit_grid()
    return dataclasses.replace(data.part("train"), split=None), data.part("test")


def draw(seed: int, setting: str) -> Dataset:
    """The training images with the annotations that a setting leaves."""
    training = parts()[0]
    annotation = draw_fraction(training, SHARE, seed, cells=setting == "cells-5")
    return dataclasses.replace(training, annotation=annotation)


def one(training: Dataset, objective: str, minutes: float, seed: int) -> dict[str, Any]:
    """Figures of one training on the test images."""
    change = partial(override, changes={"train.valid_fraction": 0.0, "train.folds": 0}, where="benchmark")
    return figures(fit(training, change, minutes, seed, quiet=True, objective=objective), parts()[1])


def drawn(setting: str, objective: str, minutes: float, seed: int) -> dict[str, Any]:
    """The figures of a draw."""
    return one(draw(seed, setting), objective, minutes, seed)


@cache
def annotated(minutes: float, seed: int) -> dict[str, Any]:
    """Masked cross-entropy with every annotation."""
    return one(parts()[0], "supervised", minutes, seed)


def main(seeds: int = 5, minutes: float = 1.0, names: list[str] | None = None, folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1 of some settings, by default both, draw by draw."""
    for seed in range(seeds):
        for setting in names or SETTINGS:
            about = f"digit-grid, {SETTINGS[setting]}, {minutes:g} min a training; macro average precision"
            methods: dict[str, Callable[[int], dict[str, Any]]] = {
                name: partial(drawn, setting, NAMES[name], minutes) for name in METHODS
            }
            methods["all annotated"] = partial(annotated, minutes)
            record(f"grid-{setting}", about, methods, [seed], folder)


if __name__ == "__main__":
    counts, words = chosen(SETTINGS)
    main(*counts, names=words)

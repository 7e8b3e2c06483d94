"""One class of two is rare: MNIST's eights are 5 % of the images, of which 100, drawn by chance, are annotated.

The images, and their first 40 principal components as vectors (the plan's steps). taut, taut with the weight of the
mean of q(c|x) that its plan has for the other of the two, and rivals. Judged on hidden training images, by which that
weight was chosen, in draws 0 to 2 among others; `auroc_macro` and `ap_macro` are of the eights.
Give the number of draws, the minutes and settings: `python -m benchmarks.rare 3 0.5 images`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import mnist
from benchmarks.common import RESULTS, chosen, record
from taut.baselines import DEFAULT
from taut.data.dataset import Dataset
from taut.data.split import hide
from taut.facts import fingerprint
from taut.fit import fit
from taut.labels import LabelSpace
from taut.rules import marginal_of

RARE, SHARE = 8, 0.05  # the class, and how often it is shown
IMAGES, HIDDEN, ANNOTATED = 20_000, 4_000, 100
COMPONENTS = 40
SETTINGS = {"images": "taut, marginal 8 - 6 H", "vectors": "taut, marginal 2"}  # and the other weight's name
METHODS = {"taut": DEFAULT, "other": DEFAULT, "supervised": "supervised", "fixmatch": "fixmatch"}


def components(x: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The first principal components [N, F] of images, each with a variance of 1."""
    flat = x.reshape(len(x), -1).astype(np.float32)
    flat -= flat.mean(axis=0)
    basis = np.linalg.svd(flat[:HIDDEN], full_matrices=False)[2][:COMPONENTS]
    found = flat @ basis.T
    return np.asarray(found / found.std(axis=0), dtype=np.float32)


def parts(setting: str, seed: int) -> tuple[Dataset, Dataset]:
    """Training images of which some are annotated, and hidden ones; the classes are no and yes."""
    rng, everything = np.random.default_rng(seed), mnist.parts()[0]
    rare = everything.annotation.targets.argmax(axis=1) == RARE
    total = min(IMAGES + HIDDEN, int((~rare).sum() / (1 - SHARE)), int(rare.sum() / SHARE))
    rows = [
        rng.permutation(np.flatnonzero(rare == yes))[: round(total * (SHARE if yes else 1 - SHARE))] for yes in (0, 1)
    ]
    order = rng.permutation(np.concatenate(rows))
    x, space = everything.x[order], LabelSpace.multiclass(["another", "eight"])
    annotation = space.encode(np.where(rare[order], "eight", "another"))
    ids = [everything.ids[i] for i in order]
    x = components(x) if setting == "vectors" else x
    data = Dataset(f"MNIST's eights as {setting}", x, space, annotation, ids)
    first = np.arange(len(data)) < len(data) * IMAGES // (IMAGES + HIDDEN)
    training = data.rows(first)
    known = np.arange(len(training)) < ANNOTATED
    shown = hide(training.annotation, known[:, None], space.sizes)
    return dataclasses.replace(training, annotation=shown), data.rows(~first)


def one(method: str, setting: str, minutes: float, seed: int) -> dict[str, Any]:
    """Figures of one training on the hidden images."""
    training, hidden = parts(setting, seed)
    other = 2.0 if setting == "vectors" else marginal_of(fingerprint(training))
    changes = {"objective.marginal": other} if method == "other" else {}
    budget = minutes if setting == "images" else None
    fitted = fit(training, partial(mnist.changed, changes), budget, seed, quiet=True, objective=METHODS[method])
    return mnist.figures(fitted, hidden)


def main(seeds: int = 3, minutes: float = 0.5, names: Collection[str] = (), folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1 of some settings, by default both, draw by draw."""
    for seed in range(seeds):
        for setting in names or SETTINGS:
            time = f"{minutes:g} min each" if setting == "images" else "the plan's steps"
            about = (
                f"MNIST as {setting}, {SHARE:.0%} of them eights, {ANNOTATED} annotated by chance, {time}; error on "
                "hidden training images in percent"
            )
            methods: dict[str, Callable[[int], dict[str, Any]]] = {
                SETTINGS[setting] if method == "other" else method: partial(one, method, setting, minutes)
                for method in METHODS
            }
            record(f"rare-{setting}", about, methods, [seed], folder)


if __name__ == "__main__":
    counts, words = chosen(SETTINGS)
    main(*counts, names=words)

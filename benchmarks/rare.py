"""Rare classes, and many: how much the mean of q(c|x) over a batch is drawn to p(c).

Of MNIST's training images, and of their first 40 principal components as vectors (the plan's steps): eights are 5 %,
of which 100, drawn by chance, are annotated; ten digits, each 0.6 times as often as the one before, 200 annotated by
chance; and the 100 classes of two digits side by side, 8 of each annotated. taut, taut with another weight, and rivals.
Judged on hidden training images, by which the weights were chosen, in draws 0 to 2 among others; `auroc_macro` and
`ap_macro` are of the eights.
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
from sklearn.metrics import recall_score

from benchmarks import mnist
from benchmarks.common import RESULTS, chosen, record
from taut.baselines import DEFAULT
from taut.data.dataset import Dataset
from taut.data.split import draw_per_class, hide
from taut.evaluate.predict import predict_probabilities
from taut.facts import fingerprint
from taut.fit import Fitted, fit
from taut.labels import LabelSpace
from taut.rules import make_plan, marginal_of
from taut.tighter import seen_share

RARE, SHARE = 8, 0.05  # the class, and how often it is shown
IMAGES, HIDDEN, ANNOTATED = 20_000, 4_000, 100
COMPONENTS = 40
FALL, CHANCE = 0.6, 200
PAIRS, EACH = 10_000, 8
SETTINGS = {  # and the other weight's name
    "images": "taut, marginal 8 - 6 H",
    "vectors": "taut, marginal 2",
    "unequal": "taut, marginal 2",
    "many": "taut, marginal 0.26",
}
ABOUT = {
    "images": f"MNIST as images, {SHARE:.0%} of them eights, {ANNOTATED} annotated by chance",
    "vectors": f"MNIST as vectors, {SHARE:.0%} of them eights, {ANNOTATED} annotated by chance",
    "unequal": f"MNIST as vectors, each digit {FALL:g} times as often as one before, {CHANCE} annotated by chance",
    "many": f"pairs of MNIST's digits as vectors, 100 classes, {EACH} of each annotated",
}
METHODS = {"taut": DEFAULT, "other": DEFAULT, "supervised": "supervised", "fixmatch": "fixmatch"}


def components(x: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The first principal components [N, F] of images, each with a variance of 1."""
    flat = x.reshape(len(x), -1).astype(np.float32)
    flat -= flat.mean(axis=0)
    basis = np.linalg.svd(flat[:HIDDEN], full_matrices=False)[2][:COMPONENTS]
    found = flat @ basis.T
    return np.asarray(found / found.std(axis=0), dtype=np.float32)


def digits() -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """The components of all training images, and their classes."""
    everything = mnist.parts()[0]
    return components(everything.x), everything.annotation.targets.argmax(axis=1)


def unequal(seed: int) -> tuple[Dataset, Dataset]:
    """Vectors of ten classes, each rarer than one before, of which some are annotated by chance, and hidden ones."""
    rng, (x, classes) = np.random.default_rng(seed), digits()
    most = min(np.bincount(classes))
    of_class = [rng.permutation(np.flatnonzero(classes == c)) for c in rng.permutation(10)]
    rows = [found[: round(most * FALL**i)] for i, found in enumerate(of_class)]
    order = rng.permutation(np.concatenate(rows))
    space = LabelSpace.multiclass(10)
    data = Dataset("digits", x[order], space, space.encode(classes[order]), [str(i) for i in order])
    first = np.arange(len(data)) * 3 < len(data) * 2
    training = data.rows(first)
    known = np.arange(len(training)) < CHANCE
    shown = hide(training.annotation, known[:, None], space.sizes)
    return dataclasses.replace(training, annotation=shown), data.rows(~first)


def many(seed: int) -> tuple[Dataset, Dataset]:
    """Vectors of two digits each, of which some of each of 100 classes are annotated, and hidden ones."""
    rng, (x, classes) = np.random.default_rng(seed), digits()
    pairs = rng.permutation(len(x))[: len(x) // 2 * 2].reshape(2, -1)[:, : PAIRS + PAIRS // 3]
    space, of = LabelSpace.multiclass(100), classes[pairs[0]] * 10 + classes[pairs[1]]
    names = [f"{i} {j}" for i, j in pairs.T]
    data = Dataset("pairs", np.concatenate(x[pairs], axis=1), space, space.encode(of), names)
    first = np.arange(len(data)) * 4 < len(data) * 3
    training = data.rows(first)
    return dataclasses.replace(training, annotation=draw_per_class(training, EACH, seed)), data.rows(~first)


def parts(setting: str, seed: int) -> tuple[Dataset, Dataset]:
    """Training images of which some are annotated, and hidden ones; of eights the classes are no and yes."""
    if setting in ("unequal", "many"):
        return unequal(seed) if setting == "unequal" else many(seed)
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
    facts = fingerprint(training)
    other = {"images": marginal_of(facts), "many": 2 * seen_share(make_plan(facts).train, facts)}.get(setting, 2.0)
    changes = {"objective.marginal": other} if method == "other" else {}
    budget = minutes if setting == "images" else None
    fitted = fit(training, partial(mnist.changed, changes), budget, seed, quiet=True, objective=METHODS[method])
    return {**mnist.figures(fitted, hidden), "balanced_error": balanced(fitted, hidden)}


def balanced(fitted: Fitted, hidden: Dataset) -> float:
    """The mean over classes of the share of their images that are taken for others, in percent."""
    said = predict_probabilities(fitted.model, hidden.x).argmax(axis=1)
    classes = hidden.annotation.targets.argmax(axis=1)
    return round(100 * (1 - float(recall_score(classes, said, labels=np.unique(classes), average="macro"))), 3)


def main(seeds: int = 3, minutes: float = 0.5, names: Collection[str] = (), folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1 of some settings, by default both, draw by draw."""
    for seed in range(seeds):
        for setting in names or SETTINGS:
            time = f"{minutes:g} min each" if setting == "images" else "the plan's steps"
            about = f"{ABOUT[setting]}, {time}; error on hidden training images in percent"
            methods: dict[str, Callable[[int], dict[str, Any]]] = {
                SETTINGS[setting] if method == "other" else method: partial(one, method, setting, minutes)
                for method in METHODS
            }
            record(f"rare-{setting}", about, methods, [seed], folder)


if __name__ == "__main__":
    counts, words = chosen(SETTINGS)
    main(*counts, names=words)

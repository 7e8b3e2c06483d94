"""Vectors with heavy tails: taut with the arcsinh of their columns and without, rivals, and linear classifiers.

Of MNIST's training images, as their pixels; as counts of 200 photons an image on average, times a log-normal
efficiency of each image, as in sequencing; and as exponentials of principal components. And scikit-learn's breast
cancer, whose areas and their errors have tails. 100 rows are annotated (20 of breast cancer); judged on hidden rows.
Give the number of draws and settings: `python -m benchmarks.tails 3 counts`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from benchmarks import mnist
from benchmarks.common import RESULTS, chosen, record
from benchmarks.rare import components
from taut import facts
from taut.baselines import DEFAULT
from taut.data.dataset import Dataset
from taut.data.split import draw_per_class
from taut.evaluate.metrics import label_figures
from taut.fit import fit
from taut.labels import LabelSpace

ROWS, HIDDEN = 10_000, 5000
PHOTONS, EFFICIENCY, SPREAD = 200, 0.5, 1.5
SETTINGS = {"pixels": 10, "counts": 10, "exponentials": 10, "breast-cancer": 10}  # annotated rows of each class
METHODS = {"taut": DEFAULT, "supervised": "supervised", "fixmatch": "fixmatch"}
PLAIN = ", standardised alone"


def counts(x: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.float32]:
    """How many photons [N, F] each pixel of some images counts."""
    rates = x.reshape(len(x), -1) / x.reshape(len(x), -1).sum(axis=1, keepdims=True)
    seen = PHOTONS * rng.lognormal(0, EFFICIENCY, (len(x), 1))
    return rng.poisson(rates * seen).astype(np.float32)


def vectors(setting: str, seed: int) -> Dataset:
    """Rows in a random order, all annotated."""
    rng = np.random.default_rng(seed)
    if setting == "breast-cancer":
        x, y = load_breast_cancer(return_X_y=True)
        order = rng.permutation(len(x))
        space = LabelSpace.multiclass(["malignant", "benign"])
        names = np.array(["malignant", "benign"])[y[order]]
        return Dataset(setting, x[order].astype(np.float32), space, space.encode(names), [str(i) for i in order])
    everything = mnist.parts()[0]
    data = everything.rows(rng.permutation(len(everything))[: ROWS + HIDDEN])
    made = {
        "pixels": lambda: data.x.reshape(len(data), -1).astype(np.float32),
        "counts": lambda: counts(data.x, rng),
        "exponentials": lambda: np.exp(SPREAD * components(data.x)),
    }
    return dataclasses.replace(data, x=made[setting]())


def parts(setting: str, seed: int) -> tuple[Dataset, Dataset]:
    """Rows of which some are annotated, and hidden ones."""
    data = vectors(setting, seed)
    first = np.arange(len(data)) * 3 < len(data) * 2
    training = data.rows(first)
    annotation = draw_per_class(training, SETTINGS[setting], seed)
    return dataclasses.replace(training, annotation=annotation), data.rows(~first)


def one(method: str, setting: str, plain: bool, seed: int) -> dict[str, Any]:
    """Figures of one training on the hidden rows."""
    training, hidden = parts(setting, seed)
    with patch.object(facts, "TAILS", 0.0 if plain else facts.TAILS):
        return mnist.figures(fit(training, seed=seed, quiet=True, objective=METHODS[method]), hidden)


def linear(setting: str, seed: int) -> dict[str, Any]:
    """A logistic regression on the annotated rows, standardised by all."""
    training, hidden = parts(setting, seed)
    known = training.annotation.observed[:, 0]
    scaler = StandardScaler().fit(training.x)
    model = LogisticRegression(max_iter=5000).fit(
        scaler.transform(training.x[known]), training.annotation.targets[known].argmax(axis=1)
    )
    probabilities = model.predict_proba(scaler.transform(hidden.x))
    figures = label_figures(probabilities, hidden)
    del figures["per_label"]
    nll = -np.log(np.clip(probabilities[hidden.annotation.targets > 0.5], 1e-12, 1)).mean()
    return {**figures, "nll": round(float(nll), 6)}


def main(seeds: int = 3, names: Collection[str] = (), folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1 of some settings, by default all, draw by draw."""
    for seed in range(seeds):
        for setting in names or SETTINGS:
            about = f"{setting}, {SETTINGS[setting]} rows of each class annotated; error on hidden rows in percent"
            methods: dict[str, Callable[[int], dict[str, Any]]] = {
                name + (PLAIN if plain else ""): partial(one, name, setting, plain)
                for name in METHODS
                for plain in ((False, True) if name != "fixmatch" else (False,))
            }
            record(
                f"tails-{setting}", about, {**methods, "logistic regression": partial(linear, setting)}, [seed], folder
            )


if __name__ == "__main__":
    numbers, words = chosen(SETTINGS)
    main(*numbers, names=words)

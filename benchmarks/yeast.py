"""Mulan yeast, 14 yes/no labels of 103 features: a tenth of the rows annotated, taut against linear classifiers.

The 1,500 training and 917 test rows are Mulan's own. A draw annotates 150 training rows completely; taut also sees
the features of the others. Its plan for feature vectors was settled on other data sets and on parts of the training
rows; no choice was made on the test rows.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, make_scorer
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import ClassifierChain
from sklearn.preprocessing import StandardScaler

from benchmarks.common import RESULTS, find_pack, numbers, record
from taut.baselines import DEFAULT
from taut.data import load_dataset
from taut.data.dataset import Dataset
from taut.data.split import draw_fraction
from taut.evaluate.metrics import evaluate, label_figures
from taut.fit import fit

PACK = "mulan_yeast.npz"
FRACTION = 0.1
CHAINS = 10
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ITERATIONS = 5000


@cache
def parts() -> tuple[Dataset, Dataset]:
    """The training and the test rows, all annotated; DataError where $TAUT_DATA has no such pack."""
    path = find_pack(PACK, "x_train, y_train, x_test, y_test")
    data = load_dataset(str(path))
    return dataclasses.replace(data.part("train"), split=None), data.part("test")


def draw(seed: int) -> Dataset:
    """The training rows with the annotations of a tenth of them."""
    train, _ = parts()
    return dataclasses.replace(train, annotation=draw_fraction(train, FRACTION, seed))


def network(objective: str, seed: int) -> dict[str, Any]:
    """Figures on the test rows of one training."""
    fitted = fit(draw(seed), seed=seed, quiet=True, objective=objective)
    figures = evaluate(fitted.model, parts()[1])
    for name in ("per_label", "elbo", "images"):
        figures.pop(name, None)
    return {**figures, "seconds": round(fitted.result.seconds, 1)}


def one_vs_rest(seed: int) -> Any:
    """A logistic regression for each label."""
    return OneVsRestClassifier(LogisticRegression(max_iter=ITERATIONS))


def tuned(seed: int) -> Any:
    """The same, with the one C of `STRENGTHS` that five folds of the annotated rows speak for."""
    return GridSearchCV(
        OneVsRestClassifier(LogisticRegression(max_iter=ITERATIONS)),
        {"estimator__C": STRENGTHS},
        scoring=make_scorer(macro_ap, response_method="predict_proba"),
        cv=KFold(5, shuffle=True, random_state=seed),
    )


def macro_ap(y: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Mean average precision of the labels that have both classes in a fold."""
    both = [j for j in range(y.shape[1]) if 0 < y[:, j].sum() < len(y)]
    return float(np.mean([average_precision_score(y[:, j], probabilities[:, j]) for j in both]))


def chains(seed: int) -> list[Any]:
    """Classifier chains of logistic regressions in random orders, whose probabilities are averaged (Read 2011)."""
    return [
        ClassifierChain(LogisticRegression(max_iter=ITERATIONS), order="random", random_state=seed * CHAINS + i)
        for i in range(CHAINS)
    ]


def linear(models: Callable[[int], Any], seed: int) -> dict[str, Any]:
    """Figures on the test rows of scikit-learn's models, fitted to the annotated rows, standardised."""
    train, test = draw(seed), parts()[1]
    known = train.annotation.observed.all(axis=1)
    # What is standardised by is known of all rows, as it is to taut.
    scaler = StandardScaler().fit(train.x)
    y = train.annotation.targets[known][:, 1::2].astype(int)
    began = time.perf_counter()
    made = models(seed)
    x, x_test = scaler.transform(train.x[known]), scaler.transform(test.x)
    with warnings.catch_warnings():
        # A rare label may be absent from four of five folds.
        warnings.filterwarnings("ignore", "Label .* is present in all training examples", UserWarning)
        each = [positive(model, x, y, x_test) for model in (made if isinstance(made, list) else [made])]
    probabilities = np.mean(each, axis=0)
    seconds = time.perf_counter() - began
    both = np.stack([1 - probabilities, probabilities], axis=2).reshape(len(test), -1)
    figures = label_figures(both, test)
    del figures["per_label"]
    clipped = np.clip(both, 1e-12, 1)
    nll = -np.log(clipped)[test.annotation.targets > 0.5].mean()
    return {**figures, "nll": round(float(nll), 6), "seconds": round(seconds, 1)}


def positive(model: Any, x: NDArray[Any], y: NDArray[np.int64], x_test: NDArray[Any]) -> NDArray[np.float64]:
    """Probabilities of "yes" [N, k]; a label of one class among the annotated rows keeps that class's frequency."""
    result = np.broadcast_to((y.sum(axis=0) + 1) / (len(y) + 2), (len(x_test), y.shape[1])).copy()
    usable = (y.min(axis=0) == 0) & (y.max(axis=0) == 1)
    result[:, usable] = model.fit(x, y[:, usable]).predict_proba(x_test)
    return result


METHODS: dict[str, Callable[[int], dict[str, Any]]] = {
    "taut": partial(network, DEFAULT),
    "masked_cross_entropy": partial(network, "supervised"),
    "one-vs-rest logistic regression": partial(linear, one_vs_rest),
    "one-vs-rest logistic regression, tuned": partial(linear, tuned),
    f"{CHAINS} classifier chains": partial(linear, chains),
}


def main(seeds: int = 10, folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1."""
    about = f"{FRACTION:.0%} of the training rows annotated; macro average precision on the test rows"
    record("yeast", about, METHODS, range(seeds), folder)


if __name__ == "__main__":
    main(*numbers())

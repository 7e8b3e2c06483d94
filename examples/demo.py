"""The demo: few labels on `digits`, few label cells on `digit-grid`, each against rivals on the same split."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.metrics import accuracy_score
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier
from sklearn.svm import SVC

from taut.baselines import DEFAULT
from taut.data.dataset import Dataset
from taut.data.embedded import digit_grid, digits
from taut.data.split import draw_fraction, draw_per_class
from taut.evaluate.metrics import evaluate
from taut.fit import Fitted, fit
from taut.plan import override
from taut.report.pictures import every_label, reconstructions, reliability_diagram
from taut.run import Run

METHODS = {"taut": DEFAULT, "masked_cross_entropy": "supervised"}
# In place of what is planned, minutes less: no two more trainings to calibrate on, and a third of the steps, with which
# the figure differs in the third digit.
DIGITS, GRID = {"train.folds": 0}, {"train.steps": 1000}


def neighbours(train: Dataset, test: Dataset) -> dict[str, dict[str, float]]:
    """scikit-learn's semi-supervised classifiers and an SVC on the same split: test error in percent."""
    x = train.x.reshape(len(train), -1) / 255.0
    y = train.space.decode(train.annotation)
    known = y >= 0
    truth = test.space.decode(test.annotation)
    # An image out of reach of every annotated one in the graph of neighbours has no label to spread: 0 / 0.
    warnings.filterwarnings("ignore", "invalid value encountered in divide", RuntimeWarning)
    probable = CalibratedClassifierCV(SVC(gamma="scale"), ensemble=False, cv=5)
    models = {
        "label_spreading": LabelSpreading(kernel="knn", n_neighbors=7, max_iter=200).fit(x, y),
        "self_training_svc": SelfTrainingClassifier(probable).fit(x, y),
        "svc": SVC(gamma="scale").fit(x[known], y[known]),
    }
    x_test = test.x.reshape(len(test), -1) / 255.0
    return {name: {"error": 100 * (1 - accuracy_score(truth, m.predict(x_test)))} for name, m in models.items()}


def run_pair(
    name: str, train: Dataset, test: Dataset, seed: int, out: Path | None, changes: dict[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """taut and masked cross-entropy on one draw: figures on the test part, with the seconds of training.

    Both have the same networks, steps and views.  changes: of planned decisions.
    """
    change = partial(override, changes=changes or {}, where="demo")
    results: dict[str, dict[str, Any]] = {}
    for method, objective in METHODS.items():
        run = Run.create(out / f"{name}-{method}") if out else None
        fitted = fit(train, change, seed=seed, run=run, source={"data": name}, quiet=out is None, objective=objective)
        figures = evaluate(fitted.model, test)
        figures.pop("per_label")
        results[method] = {**figures, "seconds": round(fitted.result.seconds, 1)}
        if out and method == "taut":
            draw_pictures(fitted, test, out / name)
    return results


def draw_pictures(fitted: Fitted, test: Dataset, stem: Path) -> None:
    """Reconstructions, the same z under every label, and a reliability diagram."""
    reconstructions(fitted.model, test, Path(f"{stem}-reconstructions.png"))
    every_label(fitted.model, test, Path(f"{stem}-every-label.png"))
    reliability_diagram(fitted.model, test, Path(f"{stem}-reliability.png"))


def draw_digits(seed: int) -> tuple[Dataset, Dataset]:
    """`digits` with 5 labels per class, and its test part."""
    data = digits()
    train = dataclasses.replace(data.part("train"), split=None)
    return dataclasses.replace(train, annotation=draw_per_class(train, 5, seed)), data.part("test")


def draw_grid(seed: int) -> tuple[Dataset, Dataset]:
    """`digit-grid` with 20 % of the label cells annotated, and its test part."""
    data = digit_grid()
    train = dataclasses.replace(data.part("train"), split=None)
    return dataclasses.replace(train, annotation=draw_fraction(train, 0.2, seed, cells=True)), data.part("test")


def table(results: dict[str, Any]) -> str:
    """The summary as text."""
    lines = [f"{'':<24}{'digits: 5 labels a class':>26}{'digit-grid: 20 % of cells':>28}"]
    lines.append(f"{'':<24}{'test error, %':>26}{'macro AP':>28}")
    methods = list(dict.fromkeys([*results["digits"], *results["digit-grid"]]))
    for method in methods:
        error = results["digits"].get(method, {}).get("error")
        ap = results["digit-grid"].get(method, {}).get("ap_macro")
        lines.append(f"{method:<24}{_shown(error, '.2f'):>26}{_shown(ap, '.3f'):>28}")
    return "\n".join(lines)


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main(out: Path = Path("runs/demo"), seed: int = 0) -> None:
    """Train both, print the table, write pictures and summary.json."""
    began = time.perf_counter()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    np.random.seed(seed)  # noqa: NPY002 - scikit-learn's estimators draw from it
    train, test = draw_digits(seed)
    results: dict[str, Any] = {
        "digits": {**run_pair("digits", train, test, seed, out, DIGITS), **neighbours(train, test)}
    }
    train, test = draw_grid(seed)
    results["digit-grid"] = run_pair("digit-grid", train, test, seed, out, GRID)
    results["seconds"] = round(time.perf_counter() - began, 1)
    (out / "summary.json").write_text(json.dumps(results, indent=1))
    print(table(results))
    print(f"\n{results['seconds']:.0f} s; pictures and summary.json are in {out}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:2]))

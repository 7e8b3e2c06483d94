"""MNIST with 100 labels: taut's default plan, and the plain objective of eq. 16, on the same draws and networks.

Protocol: 10 labelled images of each class drawn from the 60,000 training images, all others without labels; the
last checkpoint; no choice was made on test labels. Give the number of draws and of minutes a draw to change them.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, record
from taut.baselines import DEFAULT
from taut.data import load_dataset
from taut.data.dataset import Dataset
from taut.data.split import draw_per_class
from taut.evaluate.metrics import evaluate
from taut.fit import fit
from taut.plan import Plan, override

EQ_16: dict[str, Any] = {
    "objective.source": "none",
    "objective.mutual_information": 0.0,
    "objective.reconstruction": 1e-2,
    "objective.beta_z": 1e-2,
    "objective.beta_c": 1e-1,
    "objective.share": 1.0,
}


@cache
def parts() -> tuple[Dataset, Dataset]:
    """The training and the test images, all annotated."""
    data = load_dataset("mnist")
    return dataclasses.replace(data.part("train"), split=None), data.part("test")


def draw(seed: int, per_class: int = 10) -> Dataset:
    """The training images with annotations of a few of each class."""
    train, _ = parts()
    return dataclasses.replace(train, annotation=draw_per_class(train, per_class, seed))


def changed(changes: dict[str, Any], plan: Plan) -> Plan:
    """The plan with a method's changes."""
    return override(plan, changes, "benchmark")


def one(
    changes: dict[str, Any], minutes: float, seed: int, objective: str = DEFAULT, labels: int | None = None
) -> dict[str, Any]:
    """Figures on the test images of one training; the labels are those of the draw `labels`, or of the seed."""
    training = draw(seed if labels is None else labels)
    fitted = fit(training, partial(changed, changes), minutes, seed, quiet=True, objective=objective)
    figures = evaluate(fitted.model, parts()[1])
    del figures["per_label"]
    parameters = sum(p.numel() for p in fitted.model.parameters())
    took = {"steps": fitted.result.steps, "seconds": round(fitted.result.seconds, 1)}
    return {**figures, "parameters": parameters, **took}


def main(seeds: int = 5, minutes: float = 4.0, plain_minutes: float = 1.5, folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1."""
    about = f"100 labels, last checkpoint, test error in percent; {minutes:g} and {plain_minutes:g} minutes a draw"
    record("mnist-100", about, {"taut": partial(one, {}, minutes)}, range(seeds), folder)
    record("mnist-100", about, {"eq_16": partial(one, EQ_16, plain_minutes)}, range(seeds), folder)


if __name__ == "__main__":
    main(*(int(a) if i == 0 else float(a) for i, a in enumerate(sys.argv[1:4])))  # type: ignore[arg-type]

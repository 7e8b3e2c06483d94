"""MNIST with 100, 50 and 20 labels: taut's default plan, and the plain objective of eq. 16.

Protocol: as many labelled images of each class drawn from the 60,000 training images, all others without labels; the
last checkpoint. No choice was made on test labels: the plan's rules were tuned on labels of training images that the
training did not see. Give the number of draws, of minutes a draw, and names of what to measure to change them:
`python -m benchmarks.mnist 10 9.0 100-augmented`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, chosen, record
from taut.baselines import DEFAULT
from taut.data import load_dataset
from taut.data.dataset import Dataset
from taut.data.split import draw_per_class
from taut.evaluate.metrics import evaluate, label_figures
from taut.evaluate.predict import predict_probabilities
from taut.fit import Fitted, fit
from taut.plan import Plan, override

EQ_16: dict[str, Any] = {
    "objective.source": "none",
    "objective.mutual_information": 0.0,
    "objective.reconstruction": 1e-2,
    "objective.beta_z": 1e-2,
    "objective.beta_c": 1e-1,
    "objective.share": 1.0,
}

STILL: dict[str, Any] = {f"augment.{name}": 0.0 for name in ("rotation", "scale", "shift", "shear")}
SETTINGS: dict[str, dict[str, Any]] = {"augmented": {}, "plain": {**STILL, "augment.erase": 0}}
"""With every method's augmentation, and with images as they are, as in the papers on generative models; what a method
itself does to images, as mixing two of them, is a part of it."""
MIXED: dict[str, Any] = {**SETTINGS["plain"], "objective.mix": 0.75, "objective.adversary": 0.0}
"""What the plan was before it had an adversary where nothing augments images: mixtures of two of them."""
LABELS = {f"{10 * per_class}-labels": per_class for per_class in (2, 5, 10)}

HIDDEN = 10_000
MINUTES = 4.0
MEASURED = ("100-augmented", "100-plain", "100-mixed", "50-plain", "20-augmented", "20-plain", "100-eq-16")


@cache
def parts() -> tuple[Dataset, Dataset]:
    """The training and the test images, all annotated."""
    data = load_dataset("mnist")
    return dataclasses.replace(data.part("train"), split=None), data.part("test")


def draw(seed: int, per_class: int = 10) -> Dataset:
    """The training images with annotations of a few of each class."""
    return _annotated(parts()[0], seed, per_class)


def hidden_part(seed: int, per_class: int = 10) -> tuple[Dataset, Dataset]:
    """A draw from all but the last 10,000 training images, and those, all annotated: what choices are made on."""
    everything = parts()[0]
    kept = np.arange(len(everything)) < len(everything) - HIDDEN
    return _annotated(everything.rows(kept), seed, per_class), everything.rows(~kept)


def _annotated(images: Dataset, seed: int, per_class: int) -> Dataset:
    return dataclasses.replace(images, annotation=draw_per_class(images, per_class, seed))


def changed(changes: dict[str, Any], plan: Plan) -> Plan:
    """The plan with a method's changes."""
    return override(plan, changes, "benchmark")


def fitted(
    changes: dict[str, Any],
    minutes: float,
    seed: int,
    per_class: int = 10,
    objective: str = DEFAULT,
    labels: int | None = None,
) -> Fitted:
    """One training; the labels are those of the draw `labels`, or of the seed."""
    training = draw(seed if labels is None else labels, per_class)
    return fit(training, partial(changed, changes), minutes, seed, quiet=True, objective=objective)


def figures(result: Fitted, testing: Dataset | None = None) -> dict[str, Any]:
    """Figures on the test images, or on others, with parameters, steps, seconds and precision.

    error_one_pass: of the same model without views, as predictions of other code are.
    """
    testing = parts()[1] if testing is None else testing
    found = evaluate(result.model, testing)
    del found["per_label"]
    views, result.model.views = result.model.views, None
    if views is not None:
        found["error_one_pass"] = label_figures(predict_probabilities(result.model, testing.x), testing)["error"]
        result.model.views = views
    parameters = sum(p.numel() for p in result.model.parameters())
    took: dict[str, Any] = {"steps": result.result.steps, "seconds": round(result.result.seconds, 1)}
    # Which of them is fast depends on the machine, and with it the number of steps.
    took["precision"] = result.plan.train.precision
    return {**found, "parameters": parameters, **took}


def one(changes: dict[str, Any], minutes: float, seed: int, **options: Any) -> dict[str, Any]:
    """The figures of one training; the options are those of `fitted`."""
    return figures(fitted(changes, minutes, seed, **options))


def main(
    seeds: int = 10,
    minutes: float = MINUTES,
    plain_seeds: int = 5,
    plain_minutes: float = 1.5,
    names: Collection[str] = (),
    folder: Path = RESULTS,
) -> None:
    """Measure draws 0 … seeds − 1 of the default, and 0 … plain_seeds − 1 of eq. 16 alone, or some of these."""
    for name in names or MEASURED:
        if name == "100-eq-16":
            about = f"100 labels, eq. 16 alone, last checkpoint, test error in percent; {plain_minutes:g} min a draw"
            record(f"mnist-{name}", about, {"eq_16": partial(one, EQ_16, plain_minutes)}, range(plain_seeds), folder)
            continue
        labels, setting = name.split("-")
        about = f"{labels} labels, {setting}, last checkpoint, test error in percent; {minutes:g} min a draw"
        changes = MIXED if setting == "mixed" else SETTINGS[setting]
        method = partial(one, changes, minutes, per_class=int(labels) // 10)
        # Every budget has a file of its own, the default's under the short name.
        file = f"mnist-{name}" + ("" if minutes == MINUTES else f"-{minutes:g}-minutes")
        record(file, about, {"taut": method}, range(seeds), folder)


if __name__ == "__main__":
    counts, words = chosen(MEASURED)
    main(*counts, names=words)

"""Claim 1, the cross-entropy arises naturally: eq. 13 against M2 without and with its hand-added cross-entropy.

MNIST with 100 labels, images as they are (no augmentation, as in the papers), the same networks and time for all. α of
the tuned rows is the one of `ALPHAS` with the least error on the last 10,000 training images, in draw 0 alone.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, record
from benchmarks.mnist import STILL, changed, draw, hidden_part, parts
from taut.data.dataset import Dataset
from taut.evaluate.metrics import evaluate
from taut.evaluate.predict import predict_probabilities
from taut.fit import fit
from taut.run import Run

EQ_13: dict[str, Any] = {
    **STILL,
    "objective.source": "none",
    "objective.mutual_information": 0.0,
    "objective.reconstruction": 1.0,
    "objective.beta_z": 1.0,
    "objective.beta_c": 1.0,
    "objective.alpha": 1.0,
    "objective.capacity_z": 0.0,
    "objective.capacity_c": 0.0,
    "objective.share": 1.0,
}
ALPHAS = (1.0, 10.0, 100.0, 1000.0)
CURVE = 25  # points that are kept of a training's curve


def trained(
    training: Dataset, testing: Dataset, objective: str, changes: dict[str, Any], minutes: float, seed: int
) -> dict[str, Any]:
    """Figures on the test images, how sure the classifier is of the annotated ones, and B, L and Δ over training."""
    with tempfile.TemporaryDirectory() as place:
        run = Run.create(Path(place) / "run")
        change = partial(changed, changes)
        fitted = fit(training, change, minutes, seed, run, quiet=True, objective=objective)
        rows = run.metrics()
    figures = evaluate(fitted.model, testing)
    del figures["per_label"]
    known = training.annotation.observed[:, 0]
    q = predict_probabilities(fitted.model, training.x[known])
    own = q[np.arange(len(q)), training.annotation.targets[known].argmax(1)]
    every = max(1, len(rows) // CURVE)
    terms = ("bound", "surrogate", "gap", "label_kl")
    curve = [{k: round(row[k], 4) for k in ("seconds", *terms) if k in row} for row in rows[::-every][::-1]]
    last = {key: curve[-1].get(key) for key in terms}
    return {
        **figures, **last, "annotated_q": float(own.mean()), "alpha": fitted.plan.objective.alpha,
        "steps": fitted.result.steps, "seconds": round(fitted.result.seconds, 1), "curve": curve,
    }  # fmt: skip


def on_validation(objective: str, changes: dict[str, Any], minutes: float, seed: int) -> dict[str, Any]:
    """The same with the last training images held out and taken as test images."""
    return trained(*hidden_part(seed), objective, changes, minutes, seed)


def on_test(objective: str, changes: dict[str, Any], minutes: float, seed: int) -> dict[str, Any]:
    """The figures of a draw on the test images."""
    return trained(draw(seed), parts()[1], objective, changes, minutes, seed)


def main(seeds: int = 3, minutes: float = 0.5, folder: Path = RESULTS, alphas: tuple[float, ...] = ALPHAS) -> None:
    """Tune α on draw 0's validation part, then measure all on draws 0 … seeds − 1."""
    about = f"MNIST, 100 labels, no augmentation, {minutes:g} min each"
    bases: dict[str, tuple[str, dict[str, Any]]] = {"eq_13": ("tighter-elbo", EQ_13), "m2": ("m2", STILL)}
    tuning: dict[str, Callable[[int], dict[str, Any]]] = {
        f"{name}, alpha {alpha:g}": partial(on_validation, objective, {**base, "objective.alpha": alpha}, minutes)
        for name, (objective, base) in bases.items()
        for alpha in alphas
    }
    tuned = record("cross-entropy-tuning", f"{about}; error on held-out training images", tuning, [0], folder)
    best = {
        name: min(
            alphas,
            key=lambda a: next(d["error"] for d in tuned["draws"] if d["method"] == f"{name}, alpha {a:g}"),
        )
        for name in bases
    }
    methods: dict[str, Callable[[int], dict[str, Any]]] = {
        "eq. 13": partial(on_test, "tighter-elbo", EQ_13, minutes),
        "eq. 13, C_c = log K": partial(on_test, "tighter-elbo", {**EQ_13, "objective.capacity_c": 1.0}, minutes),
        "eq. 13, tuned alpha": partial(on_test, "tighter-elbo", {**EQ_13, "objective.alpha": best["eq_13"]}, minutes),
        "M2, alpha = 0": partial(on_test, "m2", {**STILL, "objective.alpha": 0.0}, minutes),
        "M2, tuned alpha": partial(on_test, "m2", {**STILL, "objective.alpha": best["m2"]}, minutes),
    }
    record("cross-entropy", f"{about}; test error in percent", methods, range(seeds), folder)


if __name__ == "__main__":
    main()

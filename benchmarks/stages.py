"""Claim 3, one stage is more stable than two: eq. 16 against M1+M2 over seeds of the weights and over draws of labels.

MNIST with 100 labels, images as they are, the same networks and time for both.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, record
from benchmarks.cross_entropy import STILL, changed
from benchmarks.mnist import EQ_16, draw, parts
from taut.evaluate.metrics import evaluate
from taut.fit import fit

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "eq. 16, one stage": ("tighter-elbo", {**STILL, **EQ_16}),
    "M1+M2, two stages": ("m1m2", {**STILL, "objective.alpha": 100.0}),
}


def one(name: str, minutes: float, same_labels: bool, seed: int) -> dict[str, Any]:
    """Figures on the test images; the labels are those of draw 0 or of the seed."""
    objective, changes = METHODS[name]
    fitted = fit(
        draw(0 if same_labels else seed), partial(changed, changes), minutes, seed, quiet=True, objective=objective
    )
    figures = evaluate(fitted.model, parts()[1])
    del figures["per_label"]
    return {**figures, "steps": fitted.result.steps, "seconds": round(fitted.result.seconds, 1)}


def main(seeds: int = 5, minutes: float = 0.75, folder: Path = RESULTS) -> None:
    """Measure both over seeds 0 … seeds − 1."""
    for same, which in ((True, "the same labels, other seeds"), (False, "other labels, other seeds")):
        about = f"MNIST, 100 labels, no augmentation, {minutes:g} minutes each; {which}; test error in percent"
        methods: dict[str, Callable[[int], dict[str, Any]]] = {
            name: partial(one, name, minutes, same) for name in METHODS
        }
        record(f"stages-{'seeds' if same else 'draws'}", about, methods, range(seeds), folder)


if __name__ == "__main__":
    main()

"""Claim 3, one stage is more stable than two: eq. 16 against M1+M2 over seeds of the weights and over draws of labels.

MNIST with 100 labels, images as they are, the same networks and time for all. Two more rows tell where the spread comes
from: eq. 16 without the term that draws q(c|x) to its budget, and taut's default with its teacher.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, record
from benchmarks.mnist import EQ_16, SETTINGS, one

PLAIN = SETTINGS["plain"]
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "eq. 16, one stage": ("tighter-elbo", {**PLAIN, **EQ_16}),
    "eq. 16 without label term": ("tighter-elbo", {**PLAIN, **EQ_16, "objective.beta_c": 0.0}),
    "taut's default": ("tighter-elbo", PLAIN),
    "M1+M2, two stages": ("m1m2", {**PLAIN, "objective.alpha": 100.0}),
}


def main(seeds: int = 5, minutes: float = 0.75, folder: Path = RESULTS) -> None:
    """Measure all over seeds 0 … seeds − 1."""
    for same, which in ((True, "the same labels, other seeds"), (False, "other labels, other seeds")):
        about = f"MNIST, 100 labels, no augmentation, {minutes:g} min each; {which}; test error in percent"
        methods: dict[str, Callable[[int], dict[str, Any]]] = {
            name: partial(one, changes, minutes, objective=objective, labels=0 if same else None)
            for name, (objective, changes) in METHODS.items()
        }
        record(f"stages-{'seeds' if same else 'draws'}", about, methods, range(seeds), folder)


if __name__ == "__main__":
    main()

"""digits with 5 labels per class, and digit-grid with 20 % of its cells: five draws, all rivals on the same draws."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from examples.demo import draw_digits, draw_grid, neighbours, run_pair

from benchmarks.common import RESULTS, record


@cache
def _both(name: str, seed: int) -> dict[str, dict[str, Any]]:
    train, test = draw_digits(seed) if name == "digits" else draw_grid(seed)
    results = run_pair(name, train, test, seed, None)
    return {**results, **neighbours(train, test)} if name == "digits" else results


def _one(name: str, method: str, seed: int) -> dict[str, Any]:
    return _both(name, seed)[method]


def main(seeds: int = 5, folder: Path = RESULTS) -> None:
    """Measure both tasks on draws 0 … seeds − 1."""
    for name, rivals, about in (
        ("digits", ["label_spreading", "self_training_svc", "svc"], "5 labels per class; test error in percent"),
        ("digit-grid", [], "20 % of the label cells annotated; macro average precision"),
    ):
        methods: dict[str, Callable[[int], dict[str, Any]]] = {
            method: partial(_one, name, method) for method in ["taut", "masked_cross_entropy", *rivals]
        }
        record(name, about, methods, range(seeds), folder)


if __name__ == "__main__":
    main()

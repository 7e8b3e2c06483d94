"""All measurements, one after the other, and the page of results; draws that are recorded already are not repeated."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

from benchmarks import (
    cross_entropy,
    embedded,
    folds,
    generative,
    grid,
    ideas,
    label_cost,
    mnist,
    overhead,
    rare,
    report,
    rivals,
    shares,
    speed,
    stages,
    tails,
    tightness,
    unbalanced,
    views,
    xrays,
    xrays128,
    yeast,
)
from taut.data.dataset import DataError

MEASURED = (
    *(embedded, mnist, speed, generative, ideas, overhead, cross_entropy, label_cost, stages, tightness, rivals),
    *(yeast, grid, xrays, xrays128, views, unbalanced, rare, shares, folds, tails),
)


def main(modules: Sequence[ModuleType] = MEASURED) -> None:
    """Measure one after the other; those whose data are not there are left out, with a sentence."""
    for module in modules:
        try:
            module.main()
        except DataError as error:
            print(f"{module.__name__} is left out: {error}", file=sys.stderr)
    report.main()


if __name__ == "__main__":
    main()

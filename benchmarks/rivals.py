"""taut's default against every rival objective: MNIST with 100 labels, the same draws, networks, loop and time.

Twice: with every method's augmentation, and with images as they are (the setting of the papers on generative models).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, numbers, record
from benchmarks.mnist import SETTINGS, one
from taut.baselines import OBJECTIVES


def main(seeds: int = 3, minutes: float = 2.0, folder: Path = RESULTS) -> None:
    """Measure every objective on draws 0 … seeds − 1."""
    for setting, changes in SETTINGS.items():
        about = f"MNIST, 100 labels, {setting}, {minutes:g} minutes each; test error in percent"
        methods: dict[str, Callable[[int], dict[str, Any]]] = {
            name: partial(one, changes, minutes, objective=name) for name in OBJECTIVES
        }
        record(f"rivals-{setting}", about, methods, range(seeds), folder)


if __name__ == "__main__":
    main(*numbers())

"""taut's default against every rival objective: MNIST with 100 labels, the same draws, networks, loop and time.

Twice: with every method's augmentation, and with images as they are (the setting of the papers on generative models).
Give the number of draws, the minutes, and names of settings to change them: `python -m benchmarks.rivals 3 2.0 plain`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, chosen, record
from benchmarks.mnist import SETTINGS, one
from taut.baselines import OBJECTIVES


def main(seeds: int = 3, minutes: float = 2.0, names: Collection[str] = (), folder: Path = RESULTS) -> None:
    """Measure every objective on draws 0 … seeds − 1 of some settings, by default both, draw by draw."""
    for seed in range(seeds):
        for setting in names or SETTINGS:
            about = f"MNIST, 100 labels, {setting}, {minutes:g} minutes each; test error in percent"
            methods: dict[str, Callable[[int], dict[str, Any]]] = {
                name: partial(one, SETTINGS[setting], minutes, objective=name) for name in OBJECTIVES
            }
            record(f"rivals-{setting}", about, methods, [seed], folder)


if __name__ == "__main__":
    counts, words = chosen(SETTINGS)
    main(*counts, names=words)

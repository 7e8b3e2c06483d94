"""taut's default against every rival that learns from labels: MNIST with 100, the same draws, networks, loop and time.

Twice: with every method's augmentation, and with images as they are (the setting of the papers on generative models).
Each rival has those of `TRIES`, its learning rate and the share of the steps in which it rises, that had the least
error on training images whose annotations are hidden, in draw 0 alone and a fifth of the time; taut has its plan's.
Give the number of draws, the minutes, and names of settings to change them: `python -m benchmarks.rivals 3 2.0 plain`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, chosen, record
from benchmarks.mnist import SETTINGS, changed, figures, fitted, hidden_part
from taut.baselines import DEFAULT, OBJECTIVES
from taut.fit import fit

# Self-training from the first step on needs a network that has learnt something by then.
TRIES = ((1.6e-2, 0.3), (1.6e-2, 0.02), (4e-3, 0.02))
WITHOUT_LABELS = ("joint-vae", "vae")
SHORTER = 0.2


def methods_with_labels() -> list[str]:
    """The objectives that learn from labels, and so have an error that says something."""
    return [name for name in OBJECTIVES if name not in WITHOUT_LABELS]


def tried(objective: str, changes: dict[str, Any], minutes: float, seed: int) -> dict[str, Any]:
    """Figures on the hidden part of the training images."""
    training, hidden = hidden_part(seed)
    return figures(fit(training, partial(changed, changes), minutes, seed, quiet=True, objective=objective), hidden)


def tuned(setting: str, minutes: float, folder: Path) -> dict[str, dict[str, Any]]:
    """The changes of every rival's plan in a setting, with the learning rate and the warm-up that were best."""
    about = f"MNIST, 100 labels, {setting}, {minutes:g} minutes each; error on hidden training images in percent"
    tries = {
        f"{name}, learning rate {rate:g}, warm-up {warmup:g}": (
            name,
            {**SETTINGS[setting], "train.learning_rate": rate, "train.warmup": warmup},
        )
        for name in methods_with_labels()
        if name != DEFAULT
        for rate, warmup in TRIES
    }
    methods: dict[str, Callable[[int], dict[str, Any]]] = {
        key: partial(tried, name, changes, minutes) for key, (name, changes) in tries.items()
    }
    draws = record(f"rivals-tuning-{setting}", about, methods, [0], folder)["draws"]
    best: dict[str, dict[str, Any]] = {}
    for row in sorted(draws, key=lambda row: row["error"]):
        name, changes = tries[row["method"]]
        best.setdefault(name, changes)
    return best


def one(changes: dict[str, Any], minutes: float, objective: str, seed: int) -> dict[str, Any]:
    """Figures of one training on the test images, with its learning rate and warm-up."""
    result = fitted(changes, minutes, seed, objective=objective)
    settings = result.plan.train
    return {**figures(result), "learning_rate": settings.learning_rate, "warmup": settings.warmup}


def main(seeds: int = 3, minutes: float = 2.0, names: Collection[str] = (), folder: Path = RESULTS) -> None:
    """Measure every objective on draws 0 … seeds − 1 of some settings, by default both, draw by draw."""
    changes = {name: tuned(name, SHORTER * minutes, folder) for name in names or SETTINGS}
    for seed in range(seeds):
        for setting, best in changes.items():
            about = (
                f"MNIST, 100 labels, {setting}, {minutes:g} minutes each, rivals with their best learning rate "
                "and warm-up; test error in percent"
            )
            methods: dict[str, Callable[[int], dict[str, Any]]] = {
                name: partial(one, best.get(name, SETTINGS[setting]), minutes, name) for name in methods_with_labels()
            }
            record(f"rivals-{setting}", about, methods, [seed], folder)


if __name__ == "__main__":
    counts, words = chosen(SETTINGS)
    main(*counts, names=words)

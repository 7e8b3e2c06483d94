"""taut's default against every rival that learns from labels: MNIST with 100, the same draws, networks, loop and time.

Twice: with every method's augmentation, and with images as they are (the setting of the papers on generative models).
Each rival has those of its `tries` that had the least error on training images whose annotations are hidden, in draw 0
alone and in one minute; taut has its plan's.
Give the number of draws, the minutes, and names of settings and of objectives to change them:
`python -m benchmarks.rivals 3 1.0 plain`, `python -m benchmarks.rivals 3 10.0 plain tighter-elbo m2 vat`; and of a
number of labels other than 100, `20-labels`, with what was best of 100.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, chosen, record
from benchmarks.mnist import LABELS, SETTINGS, changed, figures, fitted, hidden_part
from taut.baselines import DEFAULT, OBJECTIVES
from taut.fit import fit

MINUTES = 1.0
Try = tuple[str, dict[str, Any], float]

# Self-training from the first step on needs a network that has learnt something by then; and without augmentation many
# a method is past its best when the time is over, so that it may use a part of it.
TRIES = (
    ("warm-up 0.3", {"train.warmup": 0.3}, 1.0),
    ("warm-up 0.02", {"train.warmup": 0.02}, 1.0),
    ("warm-up 0.02, a fifth of the time", {"train.warmup": 0.02}, 0.2),
    ("warm-up 0.02, a quarter of the rate", {"train.warmup": 0.02, "train.learning_rate": 4e-3}, 1.0),
)
# The papers' weight of the cross-entropy, and one at the scale of a bound of pixels.
ALPHAS = {"m2": (0.1, 100.0), "m1m2": (0.1, 100.0), "siddharth": (0.1, 50.0)}
# The paper's weight beside our mean over annotated images (`taut.baselines.pi_model`), and noise inside the network,
# which the papers have too, and without which two views of an image as it is are one.
STRONGER: dict[str, Any] = {"objective.consistency": 100.0}
VIEWED = (
    ("weight 100, warm-up 0.3", {**STRONGER, "train.warmup": 0.3}, 1.0),
    ("weight 100, warm-up 0.02", {**STRONGER, "train.warmup": 0.02}, 1.0),
    ("weight 100, warm-up 0.02, dropout", {**STRONGER, "train.warmup": 0.02, "model.dropout": 0.5}, 1.0),
)
# Reconstruction, |KL - C| and cross-entropy as the authors' script for MNIST weighs them, whose annotated term is a
# mean over annotated images, a fifth of a batch here.
AUTHORS: dict[str, Any] = {
    "objective.reconstruction": 1.0,
    "objective.beta_z": 30.0,
    "objective.beta_c": 30.0,
    "objective.capacity_z": 17.5,
    "objective.alpha": 250.0,
}
OWN: dict[str, tuple[Try, ...]] = {
    "pi-model": VIEWED,
    "mean-teacher": VIEWED,
    "shot-vae": (("the authors' constants for MNIST", AUTHORS, 1.0),),
}
WITHOUT_LABELS = ("joint-vae", "vae")


def methods_with_labels() -> list[str]:
    """The objectives that learn from labels, and so have an error that says something."""
    return [name for name in OBJECTIVES if name not in WITHOUT_LABELS]


def tries(objective: str) -> list[Try]:
    """What a rival is tried with: a name, the changes of its plan, and the share of the time."""
    if objective in ALPHAS:
        weights = [(f"alpha {alpha:g}", {"objective.alpha": alpha}, 1.0) for alpha in ALPHAS[objective]]
        name, changes, share = weights[-1]
        return [*weights, (f"{name}, a quarter of the rate", {**changes, "train.learning_rate": 4e-3}, share)]
    return [*TRIES, *OWN.get(objective, ())]


def tried(objective: str, changes: dict[str, Any], minutes: float, seed: int) -> dict[str, Any]:
    """Figures on the hidden part of the training images."""
    training, hidden = hidden_part(seed)
    return figures(fit(training, partial(changed, changes), minutes, seed, quiet=True, objective=objective), hidden)


def tuned(setting: str, minutes: float, folder: Path) -> dict[str, Try]:
    """What was best for every rival in a setting."""
    about = f"MNIST, 100 labels, {setting}, {minutes:g} min at most; error on hidden training images in percent"
    choices = {
        f"{name}, {choice[0]}": (name, choice)
        for name in methods_with_labels()
        if name != DEFAULT
        for choice in tries(name)
    }
    methods: dict[str, Callable[[int], dict[str, Any]]] = {
        key: partial(tried, name, {**SETTINGS[setting], **changes}, share * minutes)
        for key, (name, (_, changes, share)) in choices.items()
    }
    draws = record(f"rivals-tuning-{setting}", about, methods, [0], folder)["draws"]
    best: dict[str, Try] = {}
    for row in sorted(draws, key=lambda row: row["error"]):
        name, choice = choices[row["method"]]
        best.setdefault(name, choice)
    return best


def one(objective: str, setting: str, choice: Try, minutes: float, per_class: int, seed: int) -> dict[str, Any]:
    """Figures of one training on the test images, with what it was tuned to."""
    name, changes, share = choice
    result = fitted({**SETTINGS[setting], **changes}, share * minutes, seed, per_class, objective)
    return {**figures(result), "tuned": name}


def main(
    seeds: int = 3,
    minutes: float = MINUTES,
    names: Collection[str] = (),
    folder: Path = RESULTS,
    tuning_minutes: float = MINUTES,
) -> None:
    """Measure some objectives on draws 0 … seeds − 1 of some settings, by default all, draw by draw."""
    settings = [name for name in SETTINGS if name in names] or [*SETTINGS]
    objectives = [name for name in methods_with_labels() if name in names] or methods_with_labels()
    best = {setting: tuned(setting, tuning_minutes, folder) for setting in settings}
    # Every budget has a file of its own, the default's under the short name.
    budget = "" if minutes == MINUTES else f"-{minutes:g}-minutes"
    labels = next((name for name in LABELS if name in names), "100-labels")
    number = "" if labels == "100-labels" else f"-{labels}"
    for seed in range(seeds):
        for setting, choices in best.items():
            about = (
                f"MNIST, {10 * LABELS[labels]} labels, {setting}, {minutes:g} min at most, rivals as they were tuned; "
                "test error in percent"
            )
            methods: dict[str, Callable[[int], dict[str, Any]]] = {
                name: partial(one, name, setting, choices.get(name, ("plan", {}, 1.0)), minutes, LABELS[labels])
                for name in objectives
            }
            record(f"rivals-{setting}{number}{budget}", about, methods, [seed], folder)


if __name__ == "__main__":
    counts, words = chosen([*SETTINGS, *LABELS, *methods_with_labels()])
    main(*counts, names=words)

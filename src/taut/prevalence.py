"""Prevalences that a person states: probabilities of labels or classes, which go before what annotations tell.

Where a cell is filled in because it is positive, or so many of each class were picked, annotations say nothing of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from taut.labels import LabelError, LabelSpace

YES_NO = (0, 1)


def find_class(space: LabelSpace, text: str) -> tuple[int, int] | None:
    """The label and the class, as indices, of a yes/no label's name ("yes"), LABEL=CLASS, or CLASS of an only label.

    None for anything else.
    """
    for j, label in enumerate(space):
        if text == label.name and label.classes == YES_NO:
            return j, 1
        for c, value in enumerate(label.classes):
            if text == f"{label.name}={value}" or (len(space) == 1 and text == str(value)):
                return j, c
    return None


def stated_shares(space: LabelSpace, prevalence: Mapping[str, float]) -> dict[int, NDArray[np.float64]]:
    """p(c) of each label of which a prevalence is stated, by its index: [c]. Classes that are not named share the rest.

    prevalence: of what `find_class` knows.  Raises LabelError for what it does not know, for values not between 0 and
    1, for a class that is stated twice, and for classes that do not add up.
    """
    stated: dict[int, dict[int, float]] = {}
    for name, p in prevalence.items():
        found = find_class(space, name)
        if found is None:
            names = ", ".join(label.name for label in space if label.classes == YES_NO) or "(none)"
            others = ", ".join(f"{label.name}={label.classes[0]}" for label in space if label.classes != YES_NO)
            classes = f", nor a class, such as {others}" if others else ""
            raise LabelError(f"prevalence: {name!r} is not one of the yes/no labels {names}{classes}")
        if not 0 < p < 1:
            raise LabelError(f"prevalence {name}={p:g} is not between 0 and 1")
        if found[1] in stated.setdefault(found[0], {}):
            raise LabelError(f"prevalence {name}={p:g}: this class has one already")
        stated[found[0]][found[1]] = p
    result: dict[int, NDArray[np.float64]] = {}
    for j, known in stated.items():
        total, others_count = sum(known.values()), space.sizes[j] - len(known)
        if total >= 1 if others_count else abs(total - 1) > 0.01:
            raise LabelError(f"prevalence: those of the classes of {space.names[j]!r} add up to {total:g}")
        shares = np.array([known.get(c, (1 - total) / max(1, others_count)) for c in range(space.sizes[j])])
        result[j] = shares / shares.sum()
    return result


def stated_prior(
    space: LabelSpace, log_prior: NDArray[np.float32], prevalence: Mapping[str, float]
) -> NDArray[np.float32]:
    """log p(c), [W] nats, with the stated prevalences in the place of what annotations tell; see `stated_shares`."""
    log_prior = log_prior.copy()
    for j, shares in stated_shares(space, prevalence).items():
        log_prior[space.blocks[j]] = np.log(shares)
    return log_prior

"""Intervals of figures by resampling patients (or images) with replacement."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taut.data.dataset import Dataset

LEVEL = 0.95
CELLS = 500_000  # resamples times images that are in memory at once
LEAST_GROUPS = 5  # of a class: of fewer, draws hardly differ, and an interval would claim to know what nobody can
WHOLE = {"error": 100.0, "sensitivity": 1.0, "specificity": 1.0}  # what a share of groups is at most
NEEDS = {"error": ("all",), "sensitivity": ("yes",), "specificity": ("no",)}  # the others need both classes


def bootstrap_intervals(
    probabilities: NDArray[Any],
    dataset: Dataset,
    resamples: int = 1000,
    seed: int = 0,
    decided: NDArray[np.intp] | None = None,
) -> dict[str, Any]:
    """95 % percentile intervals of error (percent), and of AUROC and AP of two-class labels, from probabilities [N, W].

    decided: [N, k] indices of the classes that are decided for; of two-class labels F1, sensitivity and specificity of
    these have intervals too.

    Whole groups are drawn where the dataset has them, else images; every label sees the same draws, so that the
    intervals of the means over labels (error, auroc_macro, …) account for labels that vary together.
    Returns {name_low, name_high} of the means, `per_label` with those of each label, `resampled`, over what, and
    `thin_labels`, those of which a class is in fewer than 5 groups, so that the means' intervals are too narrow.
    A figure of a label has None where a class that it needs is in fewer than 5 groups (the error: all images are); a
    mean has the label's figure of the whole set in draws that lack one of its classes. Where none or all are right in
    every draw, as of 6 patients found of 6, error, sensitivity and specificity have the exact bound of Clopper and
    Pearson (1934); other figures that are the same in every draw have None.
    """
    groups = dataset.group_numbers
    count = int(groups.max()) + 1
    figures: dict[str, dict[str, list[NDArray[Any]]]] = {name: {} for name in dataset.space.names}
    once = np.ones((1, count))  # each group as often as it is: the figures of the whole set
    for counts in chain([once], _draws(count, resamples, max(1, CELLS // len(dataset)), seed)):
        for j, (label, block) in enumerate(zip(dataset.space, dataset.space.blocks, strict=True)):
            seen = np.flatnonzero(dataset.annotation.observed[:, j])
            if len(seen) == 0:
                continue
            q, truth = probabilities[seen, block], dataset.annotation.targets[seen, block].argmax(axis=1)
            found = _resampled(q, truth, counts, groups[seen])
            if decided is not None and "auroc" in found:
                found |= _decisions(decided[seen, j] == 1, truth == 1, counts[:, groups[seen]])
            for name, values in found.items():
                figures[label.name].setdefault(name, []).append(values)
    whole = {name: {figure: np.concatenate(parts) for figure, parts in row.items()} for name, row in figures.items()}
    result: dict[str, Any] = {"resampled": f"{count} {'images' if dataset.groups is None else 'groups'}"}
    thin: list[str] = []
    per_label: dict[str, dict[str, float | None]] = {name: {} for name in whole}
    annotated = [count]  # groups, of the label that fewest are of
    for j, (label, block) in enumerate(zip(dataset.space, dataset.space.blocks, strict=True)):
        known = dataset.annotation.observed[:, j]
        truth, of = dataset.annotation.targets[known, block].argmax(axis=1), groups[known]
        there = {"all": len(np.unique(of)), "yes": len(np.unique(of[truth == 1])), "no": len(np.unique(of[truth == 0]))}
        if len(of):
            annotated.append(there["all"])
        if "auroc" in whole[label.name] and min(there["yes"], there["no"]) < LEAST_GROUPS:
            thin.append(label.name)
        for figure, values in whole[label.name].items():
            fewest = min(there[part] for part in NEEDS.get(figure, ("yes", "no")))
            per_label[label.name] |= _interval(figure, values[1:], fewest)
    for figure in ("error", "auroc", "ap", "f1", "sensitivity", "specificity"):
        total = figure if figure == "error" else f"{figure}_macro"
        rows = [np.where(np.isnan(v := row[figure]), v[0], v) for row in whole.values() if figure in row]
        if rows:
            result |= _interval(total, np.mean(rows, axis=0)[1:], count, min(annotated))
    return {**result, "thin_labels": thin, "per_label": per_label}


def _draws(groups: int, resamples: int, chunk: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each group is drawn: [R, G], a few resamples at a time."""
    rng = np.random.default_rng(seed)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        yield rng.multinomial(groups, np.full(groups, 1 / groups), size).astype(np.float64)


def _resampled(
    q: NDArray[Any], truth: NDArray[Any], counts: NDArray[np.float64], groups: NDArray[Any]
) -> dict[str, NDArray[np.float64]]:
    """Figures of one label in every draw, [R] each: of its annotated images' q [n, c], classes [n] and groups [n]."""
    if q.shape[1] != 2 or not 0 < truth.sum() < len(truth):
        weight = counts[:, groups]
        with np.errstate(invalid="ignore"):
            return {"error": 100 * (weight @ (q.argmax(axis=1) != truth)) / weight.sum(axis=1)}
    score = q[:, 1]
    order = np.argsort(-score, kind="stable")
    score, truth = score[order], truth[order]
    weight = counts[:, groups[order]]
    wrong = (score > 0.5) != truth
    error = weight @ wrong
    positive, negative = weight * truth, weight * (1 - truth)
    last = np.flatnonzero(np.append(np.diff(score) != 0, True))  # where a run of equal scores ends
    # Counted up to each cut: all positives and all negatives at or above it.
    above, false = positive.cumsum(axis=1)[:, last], negative.cumsum(axis=1)[:, last]
    gained, passed = (np.diff(total, axis=1, prepend=0) for total in (above, false))
    positives, negatives = above[:, -1], false[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        # A pair in order counts once, a tie one half (Mann-Whitney).
        auroc = (passed * (above - gained / 2)).sum(axis=1) / (positives * negatives)
        precision = np.where(gained > 0, above / (above + false), 0)
        ap = (gained * precision).sum(axis=1) / positives
        return {
            "error": 100 * error / (positives + negatives),
            "auroc": auroc,
            "ap": np.where(negatives > 0, ap, np.nan),
        }


def _decisions(
    decided: NDArray[np.bool_], truth: NDArray[np.bool_], weight: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """F1, sensitivity and specificity in every draw, [R] each, of decisions and truth [n] and weights [R, n]."""
    positives, negatives = weight @ truth, weight @ ~truth
    found, called, refused = weight @ (decided & truth), weight @ decided, weight @ ~(decided | truth)
    with np.errstate(invalid="ignore", divide="ignore"):
        both = (positives > 0) & (negatives > 0)
        return {
            "f1": np.where(both, 2 * found / (called + positives), np.nan),
            "sensitivity": found / positives,
            "specificity": refused / negatives,
        }


def _interval(
    name: str, values: NDArray[np.float64], groups: int, annotated: int | None = None
) -> dict[str, float | None]:
    """The percentiles of the draws in which a figure is defined; None where groups are too few.

    annotated: the groups that an exact bound is of, by default all.
    """
    known = values[~np.isnan(values)]
    if groups < LEAST_GROUPS:
        return {f"{name}_low": None, f"{name}_high": None}
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if low == high:
        if name not in WHOLE or low not in (0, WHOLE[name]):
            return {f"{name}_low": None, f"{name}_high": None}
        whole = WHOLE[name]
        slack = whole * (1 - ((1 - LEVEL) / 2) ** (1 / (annotated or groups)))
        low, high = max(0.0, low - slack), min(whole, high + slack)
    return {f"{name}_low": round(float(low), 6), f"{name}_high": round(float(high), 6)}

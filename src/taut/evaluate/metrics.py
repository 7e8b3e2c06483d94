"""What a model is worth on annotated data: the figures that `taut evaluate` prints."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score
from torch import Tensor

from taut.data.dataset import DataError, Dataset
from taut.evaluate.bootstrap import bootstrap_intervals
from taut.evaluate.bounds import elbo
from taut.evaluate.calibration import events, expected_calibration_error, label_nll
from taut.evaluate.ood import WITHOUT_DECODER, OODReference
from taut.evaluate.predict import batches, predict_logits
from taut.nn.vae import LabelVAE

RANKED, DECIDED = ("auroc", "ap"), ("f1", "sensitivity", "specificity")
Row = dict[str, Any]


def evaluate(
    model: LabelVAE, dataset: Dataset, calibrated: bool = True, resamples: int = 0, logits: Tensor | None = None
) -> dict[str, Any]:
    """Figures of a model on annotated data.

    error: percent.  nll: nats.  ece: a fraction.  Each is the mean over the labels of their means over the annotated
    images.  elbo: eq. 11, mean nats an image at the decoder's resolution, of models that have it (`has_bound`).
    images: their number.  The others, and per_label: see `label_figures`; decisions are always those of calibrated
    probabilities at the model's thresholds.
    resamples: draws of the 95 % intervals, see `bootstrap_intervals`; 0 for none.
    logits: [N, W], what `predict_logits` found for the images, which need not be found again.
    Raises DataError where nothing is annotated, or the labels differ from the model's.
    """
    if dataset.space != model.space:
        raise DataError(f"{dataset.name}: its labels {_short(dataset.space)} are not the model's {_short(model.space)}")
    if not dataset.annotation.observed.any():
        raise DataError(f"{dataset.name}: nothing is annotated, so nothing can be evaluated")
    logits = (predict_logits(model, dataset.x) if logits is None else logits).double()
    log_q = model.log_probabilities(logits, calibrated)
    decided = model.space.decide(
        model.log_probabilities(logits).exp().numpy(), model.threshold.cpu().numpy().astype(float)
    )
    q = log_q.exp().numpy()
    figures = label_figures(q, dataset, decided)
    nll = label_nll(log_q, dataset.annotation, model.sizes)
    for name, value in zip(model.space.names, nll, strict=True):
        figures["per_label"][name]["nll"] = _number(value)
    for label, value in zip(model.space, model.threshold.tolist(), strict=True):
        if len(label.classes) == 2:
            figures["per_label"][label.name]["threshold"] = _number(value)
    figures["nll"] = _number(np.nanmean(nll))
    if has_bound(model):
        figures["elbo"] = mean_elbo(model, dataset)
    figures["images"] = len(dataset)
    if resamples:
        intervals = bootstrap_intervals(q, dataset, resamples, decided=decided)
        for name, row in intervals.pop("per_label").items():
            figures["per_label"][name] |= row
        figures |= intervals
    return figures


def label_figures(
    probabilities: NDArray[Any], dataset: Dataset, decided: NDArray[np.intp] | None = None
) -> dict[str, Any]:
    """Figures of each label and their means, from probabilities [N, W]; for any classifier.

    decided: [N, k] indices of the classes that are decided for; by default the most probable ones.
    per_label has annotated and, of two-class labels, positives (of the last class, which `class` names where the two
    are not 0 and 1), numbers of images; error, percent,
    of the most probable class; ece; auroc, ap, of the last class; f1, sensitivity, specificity, of the decisions. Of a
    label of more classes the last five are means over its classes against the rest, and `classes` says over how many.
    What is undefined is None: auroc, ap and f1 without both classes, sensitivity and specificity without theirs.
    error and ece are means over the labels that are annotated; auroc_macro, …, specificity_macro over the two-class
    labels of which both classes are there, and macro_labels is their number.
    """
    decided = dataset.space.decide(probabilities) if decided is None else decided
    per_label: dict[str, Row] = {}
    for j, (label, block) in enumerate(zip(dataset.space, dataset.space.blocks, strict=True)):
        seen = dataset.annotation.observed[:, j]
        q, truth = probabilities[seen, block], dataset.annotation.targets[seen, block].argmax(axis=1)
        row: Row = {"annotated": int(seen.sum())}
        per_label[label.name] = row
        if len(q) == 0:
            row |= {"error": None, "ece": None}
            continue
        row["error"] = _number(100 * np.mean(q.argmax(axis=1) != truth))
        row["ece"] = _number(expected_calibration_error(*events(q, truth)))
        if len(label.classes) == 2:
            if label.classes != (0, 1):
                row["class"] = str(label.classes[1])
            row["positives"] = int(truth.sum())
            row |= _one_class(q[:, 1], truth == 1, decided[seen, j] == 1)
        else:
            classes = [_one_class(q[:, c], truth == c, decided[seen, j] == c) for c in np.unique(truth)]
            row |= {name: _mean(classes, name) for name in RANKED + DECIDED}
            row["classes"] = sum(found["auroc"] is not None for found in classes)
    figures: dict[str, Any] = {name: _mean(per_label.values(), name) for name in ("error", "ece")}
    yes_no = [per_label[label.name] for label in dataset.space if len(label.classes) == 2]
    if yes_no:
        both = [row for row in yes_no if row.get("auroc") is not None]
        figures |= {f"{name}_macro": _mean(both, name) for name in RANKED + DECIDED}
        figures["macro_labels"] = len(both)
    return {**figures, "per_label": per_label}


def _one_class(score: NDArray[Any], truth: NDArray[np.bool_], decided: NDArray[np.bool_]) -> Row:
    """The figures of one class against the rest, from its probabilities, truth and decisions [n]."""
    # One class alone has no ranking: undefined, not one half.
    both = 0 < truth.sum() < len(truth)
    return {
        "auroc": _number(roc_auc_score(truth, score)) if both else None,
        "ap": _number(average_precision_score(truth, score)) if both else None,
        "f1": _number(f1_score(truth, decided, zero_division=0.0)) if both else None,
        "sensitivity": _number(recall_score(truth, decided)) if truth.any() else None,
        "specificity": _number(recall_score(~truth, ~decided)) if not truth.all() else None,
    }


def has_bound(model: LabelVAE) -> bool:
    """Whether eq. 11 says something of a model: its decoder was trained, and is all that x depends on z and c by.

    Of two levels (M1+M2) it would be that of p(z1|z2,c) at its mean, which is not the model that was trained.
    """
    decodes = not isinstance(model.ood, OODReference) or len(model.ood.names) > WITHOUT_DECODER
    return decodes and not model.architecture.stack


def mean_elbo(model: LabelVAE, dataset: Dataset, seed: int = 0) -> float:
    """The mean of eq. 11 over a dataset with exact samples of z and c, in nats an image, from a fixed seed."""
    generator = torch.Generator(device=model.log_prior.device).manual_seed(seed)
    values = [elbo(model, x, generator=generator) for x in batches(model, dataset.x)]
    return float(torch.cat(values).mean())


def _mean(rows: Iterable[Row], name: str) -> float | None:
    values = [row[name] for row in rows if row.get(name) is not None]
    return _number(np.mean(np.asarray(values, dtype=float))) if values else None


def _number(value: Any) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _short(space: Any) -> str:
    names = ", ".join(f"{label.name} ({len(label.classes)})" for label in list(space)[:4])
    return names + (" …" if len(space) > 4 else "")

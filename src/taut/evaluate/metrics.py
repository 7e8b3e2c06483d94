"""What a model is worth on annotated data: the figures that `taut evaluate` prints."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from taut.data.dataset import DataError, Dataset
from taut.evaluate.bounds import elbo
from taut.evaluate.calibration import expected_calibration_error, label_nll
from taut.evaluate.predict import batches, predict_logits
from taut.nn.vae import LabelVAE


def evaluate(model: LabelVAE, dataset: Dataset, calibrated: bool = True) -> dict[str, Any]:
    """Figures of a model on annotated data.

    error: percent.  nll: nats.  ece: a fraction.  Each is the mean over the labels of their means over the annotated
    images.  auroc_macro, ap_macro: means over the two-way labels that have both classes.  elbo: eq. 11, mean nats an
    image.  per_label: the same for each label; None where a figure is undefined.
    Raises DataError where nothing is annotated, or the labels differ from the model's.
    """
    if dataset.space != model.space:
        raise DataError(f"{dataset.name}: its labels {_short(dataset.space)} are not the model's {_short(model.space)}")
    if not dataset.annotation.observed.any():
        raise DataError(f"{dataset.name}: nothing is annotated, so nothing can be evaluated")
    log_q = model.log_probabilities(predict_logits(model, dataset.x).to(model.log_prior.device).double(), calibrated)
    figures = label_figures(log_q.cpu().exp().numpy(), dataset)
    nll = label_nll(log_q.cpu(), dataset.annotation, model.sizes)
    for name, value in zip(model.space.names, nll, strict=True):
        figures["per_label"][name]["nll"] = _number(value)
    figures["nll"] = _number(np.nanmean(nll))
    figures["elbo"] = mean_elbo(model, dataset)
    figures["images"] = len(dataset)
    return figures


def label_figures(probabilities: NDArray[Any], dataset: Dataset) -> dict[str, Any]:
    """error, ece, auroc, ap of each label and their means, from probabilities [N, W]; for any classifier."""
    per_label: dict[str, dict[str, float | int | None]] = {}
    for j, (label, block) in enumerate(zip(dataset.space, dataset.space.blocks, strict=True)):
        seen = dataset.annotation.observed[:, j]
        q, truth = probabilities[seen, block], dataset.annotation.targets[seen, block].argmax(axis=1)
        row: dict[str, float | int | None] = {"annotated": int(seen.sum())}
        if len(q) == 0:
            per_label[label.name] = {**row, "error": None, "ece": None}
            continue
        right = q.argmax(axis=1) == truth
        row["error"] = _number(100 * (1 - right.mean()))
        if len(label.classes) == 2:
            row["ece"] = _number(expected_calibration_error(q[:, 1], truth))
            both = 0 < truth.sum() < len(truth)
            row["positives"] = int(truth.sum())
            # One class alone has no ranking: undefined, not one half.
            row["auroc"] = _number(roc_auc_score(truth, q[:, 1])) if both else None
            row["ap"] = _number(average_precision_score(truth, q[:, 1])) if both else None
        else:
            row["ece"] = _number(expected_calibration_error(q.max(axis=1), right))
        per_label[label.name] = row
    figures: dict[str, Any] = {name: _mean(per_label, name) for name in ("error", "ece")}
    if any("auroc" in row for row in per_label.values()):
        figures |= {f"{name}_macro": _mean(per_label, name) for name in ("auroc", "ap")}
    return {**figures, "per_label": per_label}


def mean_elbo(model: LabelVAE, dataset: Dataset, seed: int = 0) -> float:
    """The mean of eq. 11 over a dataset with exact samples of z and c, in nats an image, from a fixed seed."""
    generator = torch.Generator(device=model.log_prior.device).manual_seed(seed)
    values = [elbo(model, x, generator=generator) for x in batches(model, dataset.x)]
    return float(torch.cat(values).mean())


def _mean(per_label: dict[str, dict[str, float | int | None]], name: str) -> float | None:
    values = [row[name] for row in per_label.values() if row.get(name) is not None]
    return _number(np.mean(np.asarray(values, dtype=float))) if values else None


def _number(value: Any) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


def _short(space: Any) -> str:
    names = ", ".join(f"{label.name} ({len(label.classes)})" for label in list(space)[:4])
    return names + (" …" if len(space) > 4 else "")

"""Pictures of a trained model: reconstructions, one z under every label, reliability diagrams."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from taut import latent
from taut.data.dataset import Dataset
from taut.evaluate.calibration import expected_calibration_error, reliability
from taut.evaluate.predict import batches, predict_probabilities
from taut.nn.decoders import reduce_image
from taut.nn.vae import LabelVAE


def _grid(rows: list[Tensor], titles: list[str], columns: list[str], path: Path) -> None:
    """One picture of rows of images [n, C, H, W] with a title for each row."""
    figure = Figure(figsize=(0.7 * max(len(row) for row in rows) + 1.6, 0.75 * len(rows) + 0.6), dpi=120)
    axes = figure.subplots(len(rows), max(len(row) for row in rows), squeeze=False)
    for r, row in enumerate(rows):
        for c in range(axes.shape[1]):
            axis = axes[r, c]
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if c < len(row):
                image = row[c].clamp(0, 1).permute(1, 2, 0).squeeze(-1).cpu().numpy()
                axis.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            if r == 0 and c < len(columns):
                axis.set_title(columns[c], fontsize=8)
        axes[r, 0].set_ylabel(titles[r], fontsize=8, rotation=0, ha="right", va="center")
    figure.tight_layout(pad=0.4)
    figure.savefig(path)


@torch.no_grad()
def reconstructions(model: LabelVAE, dataset: Dataset, path: Path, count: int = 12) -> None:
    """Images above their reconstructions at the mean of q(z|x) and the most probable labels."""
    x = next(batches(model, dataset.x[:count]))
    posterior = model.encode(x)
    c = _most_probable(model, posterior.logits)
    rows = [reduce_image(x, model.out_shape), model.mean_image(model.decode(posterior.mean, c))]
    _grid(rows, ["image", "decoded"], [], path)


@torch.no_grad()
def every_label(model: LabelVAE, dataset: Dataset, path: Path, count: int = 6) -> None:
    """Each row one image and its z decoded under every label: what c stands for in the decoder.

    One c-way label: c_j takes each of its classes. Several labels: each in turn is set to its last class ("yes"),
    all others to their first.
    """
    x = next(batches(model, dataset.x[:count]))
    z = model.encode(x).mean
    single = len(model.sizes) == 1
    choices = []
    for j, size in enumerate(model.sizes):
        for value in range(size) if single else [size - 1]:
            index = [0] * len(model.sizes)
            index[j] = value
            one_hot = [F.one_hot(torch.tensor(i), s).float() for i, s in zip(index, model.sizes, strict=True)]
            choices.append(torch.cat(one_hot).to(x.device))
    decoded = torch.stack([model.mean_image(model.decode(z, c.expand(len(z), -1))) for c in choices], dim=1)
    small = reduce_image(x, model.out_shape)
    names = [str(v) for v in model.space.labels[0].classes] if single else list(model.space.names)
    _grid([torch.cat([small[i : i + 1], decoded[i]]) for i in range(len(x))], [""] * len(x), ["image", *names], path)


def reliability_diagram(model: LabelVAE, dataset: Dataset, path: Path) -> None:
    """Accuracy against confidence (one c-way label), or frequency against the probability of "yes" (all cells)."""
    confidence, correct = confidences(predict_probabilities(model, dataset.x), dataset)
    mean, share, count = reliability(confidence, correct)
    figure = Figure(figsize=(4, 4), dpi=120)
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axis.scatter(mean, share, s=10 + 150 * count / count.max())
    axis.plot(mean, share, linewidth=1)
    axis.set_xlabel("predicted probability")
    axis.set_ylabel("observed frequency")
    axis.set_title(f"{dataset.name}: ECE {expected_calibration_error(confidence, correct):.3f}", fontsize=10)
    figure.tight_layout()
    figure.savefig(path)


def confidences(probabilities: NDArray[Any], dataset: Dataset) -> tuple[NDArray[Any], NDArray[Any]]:
    """The probabilities whose calibration counts, and whether their events happened, over all observed cells."""
    said, happened = [], []
    for j, block in enumerate(dataset.space.blocks):
        seen = dataset.annotation.observed[:, j]
        q, truth = probabilities[seen, block], dataset.annotation.targets[seen, block].argmax(axis=1)
        binary = q.shape[1] == 2
        said.append(q[:, 1] if binary else q.max(axis=1))
        happened.append((truth == 1) if binary else (q.argmax(axis=1) == truth))
    return np.concatenate(said), np.concatenate(happened)


def _most_probable(model: LabelVAE, logits: Tensor) -> Tensor:
    return latent.hard_sample(latent.log_softmax(logits, model.sizes), model.sizes, torch.zeros_like(logits))

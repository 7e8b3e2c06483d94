"""Pictures of a trained model: reconstructions, one z under every label, reliability diagrams."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from taut import latent
from taut.data.dataset import Dataset
from taut.evaluate.calibration import events, expected_calibration_error, reliability
from taut.evaluate.predict import batches, predict_logits
from taut.nn.decoders import reduce_image
from taut.nn.vae import LabelVAE

MOST_PANELS = 48


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
    x = next(batches(model, dataset.x[:count], count))
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
    x = next(batches(model, dataset.x[:count], count))
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


def reliability_diagram(model: LabelVAE, dataset: Dataset, path: Path, logits: Tensor | None = None) -> None:
    """A panel for each annotated label: observed frequency against the probability that was said, and its ECE.

    Of two classes it is the probability of the last one, of more that of the most probable one. Blue is calibrated, the
    size of a point the number of images; grey is before calibration. At most 48 labels are shown.
    logits: [N, W], what `predict_logits` found for the images, which need not be found again.
    """
    logits = (predict_logits(model, dataset.x) if logits is None else logits).double()
    calibrated, plain = (model.log_probabilities(logits, with_it).exp().numpy() for with_it in (True, False))
    seen = dataset.annotation.observed
    labels = [j for j in range(len(dataset.space)) if seen[:, j].any()]
    shown = labels[:MOST_PANELS]
    across = min(6, math.ceil(math.sqrt(len(shown))))
    down = math.ceil(len(shown) / across)
    figure = Figure(figsize=(max(3.2, 2.2 * across), 2.3 * down + 0.9), dpi=120, layout="constrained")
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for axis in panels[len(shown) :]:
        axis.set_axis_off()
    for axis, j in zip(panels, shown, strict=False):
        rows, block = seen[:, j], dataset.space.blocks[j]
        truth = dataset.annotation.targets[rows, block].argmax(axis=1)
        axis.plot([0, 1], [0, 1], color="grey", linewidth=0.7)
        axis.plot(*reliability(*events(plain[rows, block], truth))[:2], color="silver", linewidth=1)
        said, happened = events(calibrated[rows, block], truth)
        mean, share, count = reliability(said, happened)
        axis.scatter(mean, share, s=6 + 80 * count / count.max())
        axis.plot(mean, share, linewidth=1)
        axis.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        error = expected_calibration_error(said, happened)
        axis.set_title(f"{dataset.space.names[j]}: ECE {error:.3f}", fontsize=8)
    figure.supxlabel("probability that was said (grey: before calibration)", fontsize=9)
    figure.supylabel("observed frequency", fontsize=9)
    some = f", the first {MOST_PANELS} of {len(labels)} labels" if len(labels) > len(shown) else ""
    figure.suptitle(f"{dataset.name}, {len(dataset)} images{some}", fontsize=10)
    figure.savefig(path)


def _most_probable(model: LabelVAE, logits: Tensor) -> Tensor:
    return latent.most_probable(logits, model.sizes)

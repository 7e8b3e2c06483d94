"""Why a label: one z decoded under both values of it, and where in the image the classifier looks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from taut import latent
from taut.data.dataset import DataError
from taut.features import FrozenEncoder
from taut.labels import LabelSpace, Scalar
from taut.nn.vae import LabelVAE

Attribution = Literal["none", "occlusion", "gradients"]
WINDOWS = 8  # occluding windows across the shorter side of an image


@dataclass
class Explanation:
    """One label of one image.

    label: its name.  classes: the one it is compared with, and the one that is explained.  probability, calibrated:
    q(c_j|x) of these two.  image: [C, H, W] in [0, 1].  decoded: E[x|z,c] under the two, [2, C, h, w], for the same z
    and all other labels at their most probable classes; None where the decoder was not trained.
    attribution: [H, W], how far a place speaks for the explained class and against the other, in nats; or None.
    """

    label: str
    classes: tuple[Scalar, Scalar]
    probability: tuple[float, float]
    calibrated: tuple[float, float]
    image: NDArray[np.float32]
    decoded: NDArray[np.float32] | None = None
    attribution: NDArray[np.float32] | None = None

    @property
    def difference(self) -> NDArray[np.float32] | None:
        """What the explained class adds to the decoded image: [h, w], the mean over channels."""
        return None if self.decoded is None else np.asarray((self.decoded[1] - self.decoded[0]).mean(axis=0))

    def describe(self) -> str:
        """One sentence."""
        values = " and ".join(
            f"q({self.label}={value}|x) = {calibrated:.3f} ({plain:.3f} before calibration)"
            for value, calibrated, plain in zip(
                self.classes[::-1], self.calibrated[::-1], self.probability[::-1], strict=True
            )
        )
        if self.difference is None:
            return values
        return f"{values}; the decoded images differ by at most {np.abs(self.difference).max():.3f}"


def find_label(space: LabelSpace, text: str) -> tuple[int, int | None]:
    """The label and class that NAME or NAME=CLASS names, as indices; no class for a name alone.

    A class alone is one of an only label.

    Raises DataError naming what there is.
    """
    for j, label in enumerate(space):
        if text == label.name:
            return j, None
        for c, value in enumerate(label.classes):
            if text == f"{label.name}={value}" or (len(space) == 1 and text == str(value)):
                return j, c
    name = text.rpartition("=")[0]
    known = next((label for label in space if label.name == name), None)
    if known is not None:
        raise DataError(f"--label {text}: the classes of {name} are {', '.join(map(str, known.classes))}")
    one = space.labels[0]
    there = [f"{one.name}={value}" for value in one.classes] if len(space) == 1 else space.names
    raise DataError(f"--label {text!r} is not one of {', '.join(there)}")


@torch.no_grad()
def explain(
    model: LabelVAE,
    x: NDArray[Any],
    text: str,
    decodes: bool = True,
    attribution: Attribution = "none",
    frozen: FrozenEncoder | None = None,
) -> Explanation:
    """The explanation of a label, NAME or NAME=CLASS, of one raw image [1, C, H, W].

    Of two classes, the last one (or CLASS) is compared with the other; of more, CLASS, or without one the second most
    probable, with the most probable of the others.
    decodes: whether the decoder was trained.  frozen: the encoder whose features the model takes in place of the image;
    nothing is decoded then, since the decoder draws features.
    Raises DataError for an unknown label or class, and for feature vectors.
    """
    if len(model.architecture.shape if frozen is None else frozen.about.shape) != 3:
        raise DataError("the model takes feature vectors: there is no image to explain")
    j, c = find_label(model.space, text)
    label, block = model.space.labels[j], model.space.blocks[j]
    raw = torch.from_numpy(np.ascontiguousarray(x)).to(model.log_prior.device)
    image = model.prepare(raw) if frozen is None else raw.float() / (255 if raw.dtype == torch.uint8 else 1)
    posterior = model.eval().predict(image if frozen is None else model.prepare(frozen(image)))
    logits = posterior.logits.cpu().double()  # an Apple GPU has no float64
    plain, calibrated = (model.log_probabilities(logits, with_it)[0, block].exp() for with_it in (False, True))
    ranking = plain.argsort(descending=True).tolist()
    if c is None:
        c = 1 if len(label.classes) == 2 else ranking[1]
    other = next(value for value in ranking if value != c)
    decoded = None
    if decodes and frozen is None:
        whole = latent.most_probable(logits, model.sizes)
        both = whole.to(posterior.logits).repeat(2, 1)
        both[:, block] = F.one_hot(torch.tensor([other, c]), len(label.classes)).to(both)
        decoded = model.mean_image(model.decode(posterior.mean.expand(2, -1), both)).cpu().numpy()
    shown = (
        None
        if attribution == "none"
        else attribute(model, image, block.start + c, block.start + other, attribution, frozen)
    )
    return Explanation(
        label.name,
        (label.classes[other], label.classes[c]),
        (float(plain[other]), float(plain[c])),
        (float(calibrated[other]), float(calibrated[c])),
        image[0].cpu().numpy(),
        decoded,
        shown,
    )


def attribute(
    model: LabelVAE,
    x: Tensor,
    target: int,
    other: int,
    how: Literal["occlusion", "gradients"],
    frozen: FrozenEncoder | None = None,
) -> NDArray[np.float32]:
    """How far each place of a prepared image [1, C, H, W] raises log q(target|x) − log q(other|x): [H, W] nats.

    target, other: columns of the logits of one label.  frozen: as `explain` takes it.
    "occlusion": what is lost where a window of an eighth of the image is replaced by the mean of the images that the
    encoder learnt from (Zeiler 2014), averaged over windows.  "gradients": integrated gradients from that mean
    (Sundararajan 2017), whose sum is the whole difference to it. Both are of one pass, not of the mean over views that
    `LabelVAE.predict` takes.
    Raises DataError where captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients, Occlusion
    except ImportError as error:
        raise DataError("--attribution needs captum: pip install captum") from error

    def odds(inputs: Tensor) -> Tensor:
        logits = model.classify(inputs if frozen is None else model.prepare(frozen(inputs)))
        return logits[:, target] - logits[:, other]

    baseline = (model.shift if frozen is None else frozen.shift).expand(x.shape[1:])[None]
    if how == "gradients":
        with torch.enable_grad():
            found = IntegratedGradients(odds).attribute(x, baseline, n_steps=64, internal_batch_size=16)
        return np.asarray(found[0].sum(0).detach().float().cpu().numpy())
    side = max(1, round(min(x.shape[2:]) / WINDOWS))
    found = Occlusion(odds).attribute(
        x,
        sliding_window_shapes=(x.shape[1], side, side),
        strides=(x.shape[1], max(1, side // 2), max(1, side // 2)),
        baselines=baseline,
        perturbations_per_eval=32,
    )
    return np.asarray(found[0].mean(0).float().cpu().numpy())


def draw_explanation(explanation: Explanation, path: Path) -> None:
    """The picture of an explanation: the image, both decoded images, their difference, and the attribution."""
    panels: list[tuple[str, NDArray[Any], bool]] = [("image", explanation.image, False)]
    if explanation.decoded is not None and explanation.difference is not None:
        panels += [
            (f"decoded, {explanation.label} = {value}", decoded, False)
            for value, decoded in zip(explanation.classes, explanation.decoded, strict=True)
        ]
        panels.append(("second − first", explanation.difference, True))
    if explanation.attribution is not None:
        panels.append((f"speaks for {explanation.classes[1]}, nats", explanation.attribution, True))
    figure = Figure(figsize=(2.5 * len(panels), 3.1), dpi=120, layout="constrained")
    for axis, (title, values, signed) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=9)
        if signed:
            most = float(np.abs(values).max()) or 1.0
            drawn = axis.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
            figure.colorbar(drawn, ax=axis, shrink=0.6).ax.tick_params(labelsize=7)
        else:
            # Of channels that are no colours the mean is shown.
            image = values.clip(0, 1).transpose(1, 2, 0) if len(values) == 3 else values.mean(axis=0)
            axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    first, second = explanation.classes
    figure.suptitle(
        f"q({explanation.label} = {second} | x) = {explanation.calibrated[1]:.3f},  "
        f"q({explanation.label} = {first} | x) = {explanation.calibrated[0]:.3f}",
        fontsize=10,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png")

"""A trained model to ship: a folder that taut reads, and a program of torch that needs no taut."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taut.data import DataError
from taut.features import FILES, FrozenEncoder
from taut.nn.vae import LabelVAE
from taut.run import Run, load_about, save_model, writing

FILES_BECOME = (
    "turned as their EXIF says; what is transparent on white; grey as 0.299 R + 0.587 G + 0.114 B; resized to this "
    "height and width, bilinear with antialiasing (PIL's BILINEAR); DICOM by its LUTs, window and MONOCHROME1"
)
READING = ("image_size", "view", "path_column", "uncertain", "blank")  # flags that say how other data are read
PROGRAM, ABOUT = "program.pt2", "program.json"


class Shipped(nn.Module):
    """From pixels, or features, to calibrated probabilities in one module.

    forward: uint8 [N, C, H, W], of which 255 is white, floats in [0, 1] of that shape, or float features [N, F], to
    q(c|x), [N, W] of float64.
    """

    def __init__(self, model: LabelVAE, frozen: FrozenEncoder | None = None) -> None:
        super().__init__()
        self.model, self.frozen = model, frozen

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities [N, W]; each label's block adds up to 1."""
        if self.frozen is not None:
            x = self.frozen(x.float() / 255 if x.dtype == torch.uint8 else x)
        return self.model.log_probabilities(self.model.predict(self.model.prepare(x)).logits.double()).exp()


def export(run: Run, folder: Path) -> dict[str, Any]:
    """Write a run's model into a folder of its own, without anything of the images that it was trained on.

    model.safetensors and model.json are what `taut predict`, `taut explain` and `TautClassifier.load` read (with
    frozen.json and frozen.safetensors where features are a frozen encoder's); program.pt2 is for
    `torch.export.load(path).module()`, and program.json says what goes in and comes out, and is returned.
    Raises DataError where the run has no trained model, and where the folder is a run.
    """
    model, frozen = run.load_model(), FrozenEncoder.load(run.path)
    about, plan = load_about(run.path), run.load_plan()
    plan.model.weights = None  # a file of the machine that it was trained on
    read = {} if "plan" in about else {name: run.source().get(name) for name in READING}
    save_apart(model, folder, {**read, **about, "unlabeled": run.unlabeled(), "plan": dataclasses.asdict(plan)})
    if frozen is not None:
        frozen.about = dataclasses.replace(frozen.about, given=frozen.about.name)  # not where it once was
        frozen.save(folder)
    shipped = Shipped(model, frozen).eval().requires_grad_(False)
    for tensor in (*shipped.parameters(), *shipped.buffers()):
        tensor.data = tensor.clone(memory_format=torch.contiguous_format)  # each in memory of its own, and all of it
    shape = model.architecture.shape if frozen is None else frozen.about.shape
    said = described(model, shape, about.get("pixel_max"), about.get("feature_names") if frozen is None else None)
    example = torch.zeros((2, *shape), dtype=getattr(torch, said["input"]["dtype"]))
    with torch.no_grad():
        program = torch.export.export(shipped, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
    with writing(folder):
        torch.export.save(program, folder / PROGRAM)
    (folder / ABOUT).write_text(json.dumps(said, indent=1) + "\n")
    return said


def save_apart(model: LabelVAE, folder: Path, about: dict[str, Any]) -> None:
    """`save_model` into a folder of its own, with nothing left of another model there; DataError where it is a run."""
    if (folder / "plan.yaml").exists():
        raise DataError(f"{folder} is a run, whose model would be replaced: name another folder")
    save_model(model, folder, about)
    for name in (*FILES, PROGRAM, ABOUT):
        (folder / name).unlink(missing_ok=True)


def described(
    model: LabelVAE, shape: tuple[int, ...], white: float | None, features: list[str] | None
) -> dict[str, Any]:
    """What the program takes and gives: shapes, what is white, how image files become that, and each column's class.

    Pixels are bytes where 255 is white, else numbers from 0 to 1, which are those of the source divided by its white:
    bytes would round them.
    features: the names of the columns of vectors, in the order that it takes them, where they have names.
    thresholds: of labels with two classes, above which probability of the last one it is decided for.
    """
    kind: dict[str, Any] = {"dtype": "float32"}
    if len(shape) == 3:
        kind = {"dtype": "uint8", "white": 255} if white in (None, 255.0) else {"dtype": "float32", "white": 1}
        if kind["dtype"] == "float32":
            kind["divide_by"] = white
        kind["files"] = FILES_BECOME
    if features:
        kind["features"] = list(features)
    columns = [{"label": label.name, "class": value} for label in model.space for value in label.classes]
    limits = zip(model.space, model.threshold.tolist(), strict=True)
    return {
        "input": {"shape": ["N", *shape], **kind},
        "output": {"shape": ["N", model.space.width], "dtype": "float64", "columns": columns},
        "thresholds": {label.name: float(f"{limit:.9g}") for label, limit in limits if len(label.classes) == 2},
    }

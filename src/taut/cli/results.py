"""The commands that begin with a finished run: evaluate and predict."""

from __future__ import annotations

import dataclasses
import sys
from json import dumps
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from taut.cli.command import command
from taut.data import DataError
from taut.data.dataset import SPLITS
from taut.evaluate.metrics import evaluate as figures_of
from taut.evaluate.predict import predict_probabilities
from taut.nn.vae import LabelVAE
from taut.run import Run
from taut.sources import DataFlags, load_source, read_inputs, replaced_source


@command()
def evaluate(
    run: Path,
    data: str | None = None,
    split: str | None = None,
    labels: Path | None = None,
    json: bool = False,
    calibrated: bool = True,
) -> None:
    """Evaluate the model of a run on annotated data.

    Args:
        run: a run folder.
        data: what to evaluate on, as in `taut train`; by default the test data of the run.
        split: train, valid or test; by default the test part where there is one, else everything.
        labels: a CSV table of annotations for a folder.
        json: print one JSON object on the last line.
        calibrated: use the temperatures fitted on held-out images.
    """
    folder = Run(run)
    model = folder.load_model()
    source = DataFlags.from_json(folder.source())
    tested = source.test if data is None and split in (None, "test") else None
    source = replaced_source(dataclasses.replace(source, data=tested or source.data), data, labels)
    dataset = load_source(source, model.space, None, model.architecture.shape, folder.pixel_max())
    if split is not None and split not in SPLITS:
        raise DataError(f"--split {split!r} is not one of {', '.join(SPLITS)}")
    has_test = dataset.split is not None and bool((dataset.split == "test").any())
    chosen = split or ("test" if has_test else None)
    dataset = dataset.part(chosen) if chosen else dataset
    if data is None and tested is None and chosen is None:
        print("taut: there is no test part; these are the images that the run was trained on", file=sys.stderr)
    figures = {"data": dataset.name, "split": chosen or "all", **figures_of(_on_device(model), dataset, calibrated)}
    print(dumps(figures) if json else _table(figures))


@command()
def predict(run: Path, images: Path, out: Path = Path("predictions.csv")) -> None:
    """Write calibrated probabilities of every image as CSV.

    Args:
        run: a run folder.
        images: an image file, a folder of them, or an .npz file with an array x.
        out: the CSV file to write.
    """
    folder = Run(run)
    model = _on_device(folder.load_model())
    names, x, unread = read_inputs(images, model, folder.pixel_max())
    probabilities = predict_probabilities(model, x)
    table = pd.DataFrame({"image": names})
    decided = model.space.predict(probabilities).reshape(len(names), -1)
    for j, (label, block) in enumerate(zip(model.space, model.space.blocks, strict=True)):
        if label.classes == (0, 1):
            # A label may be called like the column of the images.
            name = label.name if label.name not in table else f"{label.name}=1"
            table[name] = probabilities[:, block][:, 1]
        else:
            for c, value in enumerate(label.classes):
                table[f"{label.name}={value}"] = probabilities[:, block][:, c]
        table[f"{label.name}:decision"] = decided[:, j]
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out, index=False, float_format="%.6f")
    print(f"wrote the probabilities of {len(names)} images to {out}")
    if unread:
        raise DataError(
            f"{len(unread)} images could not be read and are not in {out}: "
            + "; ".join(f"{path} ({reason})" for path, reason in unread[:5])
        )


def _on_device(model: LabelVAE) -> LabelVAE:
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _table(figures: dict[str, Any]) -> str:
    rows = [f"{name:<12} {value}" for name, value in figures.items() if name != "per_label"]
    per_label = pd.DataFrame.from_dict(figures["per_label"], orient="index")
    return "\n".join([*rows, "", per_label.to_string(float_format=lambda v: f"{v:.4f}")])

"""What the commands read: the data that flags or a run name, its parts, its draw, and images to predict."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from taut.data import EMBEDDED, PUBLIC, DataError, Dataset, load_dataset
from taut.data.cache import read_images
from taut.data.files import find_images
from taut.data.split import check_groups, draw_fraction, draw_per_class
from taut.labels import LabelSpace
from taut.nn.vae import LabelVAE

LOADED = ("data", "labels", "group", "image_size", "path_column", "label_columns", "joined_column", "split_column")


def replaced_source(data: str | None, labels: Path | None) -> dict[str, Any]:
    """What replaces the source of a run; other data has no groups to keep apart, and columns only with a table."""
    if data is None:
        return {} if labels is None else {"labels": labels}
    changed: dict[str, Any] = {"data": data, "labels": labels, "group": None}
    if labels is None:
        changed |= dict.fromkeys(("path_column", "label_columns", "joined_column", "split_column"))
    return changed if Path(data).is_dir() else {**changed, "image_size": None}


def cluster_space(data: str, classes: int | None) -> LabelSpace | None:
    """The label space of data without any annotation: clusters without names."""
    if classes is None:
        return None
    if data in EMBEDDED or data in PUBLIC:
        raise DataError(
            f"--classes is for data without annotations; {data} has them (--labelled-fraction 0 hides them)"
        )
    return LabelSpace.multiclass(classes, "cluster")


def load_source(source: dict[str, Any], space: LabelSpace | None, skipped: Path | None) -> Dataset:
    """The dataset of a source: the arguments of `load_dataset` by name, as a run folder keeps them."""
    flags = {key: source.get(key) for key in LOADED if key != "data"}
    flags["labels"] = Path(flags["labels"]) if flags["labels"] else None
    return load_dataset(str(source["data"]), space=space, skipped=skipped, **flags)


def train_and_test(
    dataset: Dataset, test: str | None, source: dict[str, Any], space: LabelSpace | None
) -> tuple[Dataset, Dataset | None]:
    """The training rows (with a "valid" part kept for calibration) and the test set, if any."""
    testing: Dataset | None = None
    training = dataset
    if dataset.split is not None and (dataset.split == "test").any():
        testing, training = dataset.part("test"), dataset.rows(dataset.split != "test")
    if test is not None:
        testing = load_source({**source, "data": test}, space or dataset.space, None)
        if testing.split is not None and (testing.split == "test").any():
            testing = testing.part("test")
    if testing is not None:
        check_groups(training, testing)
    return training, testing


def draw_annotations(
    training: Dataset, per_class: int | None, fraction: float | None, cells: float | None, seed: int
) -> Dataset:
    """Hide annotations of the training rows; those of a "valid" part stay, since they are for calibration."""
    draws = {"--labels-per-class": per_class, "--labelled-fraction": fraction, "--labelled-cells": cells}
    given = [flag for flag, value in draws.items() if value is not None]
    if not given:
        return training
    if len(given) > 1:
        raise DataError(f"{' and '.join(given)} exclude each other")
    if training.split is not None and (training.split == "valid").any():
        valid = training.split == "valid"
        hidden = draw_annotations(
            dataclasses.replace(training.rows(~valid), split=None), per_class, fraction, cells, seed
        )
        annotation = training.annotation
        targets, observed = annotation.targets.copy(), annotation.observed.copy()
        targets[~valid], observed[~valid] = hidden.annotation.targets, hidden.annotation.observed
        return dataclasses.replace(training, annotation=dataclasses.replace(annotation, targets=targets, observed=observed))
    if per_class is not None:
        annotation = draw_per_class(training, per_class, seed)
    elif cells is not None:
        annotation = draw_fraction(training, cells, seed, cells=True)
    else:
        annotation = draw_fraction(training, float(fraction or 0), seed)
    return dataclasses.replace(training, annotation=annotation)


def check_shape(model: LabelVAE, dataset: Dataset) -> None:
    """Refuse inputs of another shape than the model takes (DataError)."""
    if tuple(dataset.x.shape[1:]) != tuple(model.architecture.shape):
        raise DataError(
            f"{dataset.name} has inputs of shape {list(dataset.x.shape[1:])}, "
            f"but the model takes {list(model.architecture.shape)}"
        )


def read_inputs(path: Path, model: LabelVAE) -> tuple[list[str], Any, list[tuple[Path, str]]]:
    """Names, inputs and what could not be read, from an image, a folder or an .npz pack."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.suffix.lower() == ".npz":
        dataset = load_dataset(str(path), space=model.space)
        check_shape(model, dataset)
        return list(dataset.ids), dataset.x, []
    shape = model.architecture.shape
    if len(shape) != 3:
        raise DataError(f"{path}: the model takes feature vectors, not images")
    files = [path / name for name in find_images(path)] if path.is_dir() else [path]
    x, unread = read_images(files, (shape[0], shape[1], shape[2]))
    bad = {file for file, _ in unread}
    names = [str(file) for file in files if file not in bad]
    if not names:
        raise DataError(f"{path}: no image can be read" + (f" ({unread[0][0]}: {unread[0][1]})" if unread else ""))
    return names, x, unread

"""What the commands read: the data that flags or a run name, its parts, its draw, and images to predict."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from taut.data import EMBEDDED, PUBLIC, DataError, Dataset, load_dataset
from taut.data.cache import read_images
from taut.data.files import find_images
from taut.data.split import check_groups, draw_fraction, draw_per_class
from taut.labels import Annotation, LabelSpace
from taut.nn.vae import LabelVAE


@dataclass(frozen=True)
class ReadFlags:
    """How data is read: each field is a flag, and the argument of `load_dataset` of that name."""

    data: str
    """digits, digit-grid, mnist, svhn, cifar10, an .npz file, or a folder of images."""
    labels: Path | None = None
    """a CSV table of annotations for a folder."""
    group: str | None = None
    """the column or array whose values (patients) stay on one side of every split."""
    image_size: int | None = None
    """side in pixels to which the images of a folder are resized."""
    path_column: str | None = None
    """the column of the table that names the images."""
    label_columns: list[str] | None = None
    """the columns of the table that are labels."""
    joined_column: str | None = None
    """a column of joined names, such as 'A|B', that are the labels."""
    split_column: str | None = None
    """a column of train, valid and test."""

    def options(self) -> dict[str, Any]:
        """The arguments of `load_dataset` beside the data."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(ReadFlags) if f.name != "data"}


@dataclass(frozen=True)
class DataFlags(ReadFlags):
    """All flags of data, for every command that trains or plans; a run folder keeps them for those that follow."""

    test: str | None = None
    """data to evaluate on after training; by default the data's own test part, where it has one."""
    labels_per_class: int | None = None
    """hide all annotations but this many images of every class."""
    labelled_fraction: float | None = None
    """hide all annotations but those of this fraction of the images (or groups)."""
    labelled_cells: float | None = None
    """hide all annotations but this fraction of the table's cells."""
    classes: int | None = None
    """the number of clusters where nothing is annotated."""

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values, as a run folder keeps it."""
        values = dataclasses.asdict(self)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The flags that `to_json` wrote; fields that it did not have yet are at their defaults."""
        known = {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
        labels = known.get("labels")
        return cls(**{**known, "labels": None if labels is None else Path(labels)})


def replaced_source(source: DataFlags, data: str | None, labels: Path | None) -> DataFlags:
    """The flags of a run for other data, which has no groups to keep apart, and columns only with a table."""
    if data is None:
        return source if labels is None else dataclasses.replace(source, labels=labels)
    if labels is None:
        other = DataFlags(data, image_size=source.image_size)
    else:
        other = dataclasses.replace(source, data=data, labels=labels, group=None)
    return other if is_folder(data) else dataclasses.replace(other, image_size=None)


def is_folder(data: str) -> bool:
    """Whether --data names a folder of images, and neither an .npz file nor a set that has a name."""
    return data not in EMBEDDED and data not in PUBLIC and Path(data).expanduser().is_dir()


def cluster_space(data: str, classes: int | None) -> LabelSpace | None:
    """The label space of data without any annotation: clusters without names."""
    if classes is None:
        return None
    if data in EMBEDDED or data in PUBLIC:
        raise DataError(
            f"--classes is for data without annotations; {data} has them (--labelled-fraction 0 hides them)"
        )
    return LabelSpace.multiclass(classes, "cluster")


def load_source(
    source: ReadFlags,
    space: LabelSpace | None,
    skipped: Path | None = None,
    shape: Sequence[int] | None = None,
    white: float | None = None,
) -> Dataset:
    """The dataset that flags name.

    skipped: a CSV file that lists what was left out of a folder.
    shape: of the inputs that a model takes; the images of a folder are brought to it, and others must have it.
    white: the training images' `pixel_max`, on whose scale those of an .npz file are.
    """
    options = source.options()
    folder = is_folder(source.data)
    if shape is not None and len(shape) == 3 and folder:
        options |= {"channels": shape[0], "image_size": (shape[1], shape[2])}
    dataset = load_dataset(source.data, space=space, skipped=skipped if folder else None, white=white, **options)
    if shape is not None:
        check_shape(dataset, shape)
    return dataset


def load_parts(source: DataFlags, skipped: Path | None = None) -> tuple[Dataset, Dataset | None]:
    """The training rows (with a "valid" part kept for calibration) and the test set, if any.

    skipped: a CSV file that lists what was left out of a folder.
    """
    space = cluster_space(source.data, source.classes)
    dataset = load_source(source, space, skipped)
    testing: Dataset | None = None
    training = dataset
    if dataset.split is not None and (dataset.split == "test").any():
        testing, training = dataset.part("test"), dataset.rows(dataset.split != "test")
    if source.test is not None:
        other = dataclasses.replace(source, data=source.test)
        testing = load_source(other, space or dataset.space, None, dataset.x.shape[1:], dataset.pixel_max)
        if testing.split is not None and (testing.split == "test").any():
            testing = testing.part("test")
    if testing is not None:
        check_groups(training, testing)
    return training, testing


def draw_annotations(training: Dataset, source: DataFlags, seed: int) -> Dataset:
    """Hide annotations of the training rows; those of a "valid" part stay, since they are for calibration."""
    draws = {
        "--labels-per-class": source.labels_per_class,
        "--labelled-fraction": source.labelled_fraction,
        "--labelled-cells": source.labelled_cells,
    }
    given = [flag for flag, value in draws.items() if value is not None]
    if not given:
        return training
    if len(given) > 1:
        raise DataError(f"{' and '.join(given)} exclude each other")
    if training.split is not None and (training.split == "valid").any():
        valid = training.split == "valid"
        hidden = draw_annotations(dataclasses.replace(training.rows(~valid), split=None), source, seed)
        annotation = training.annotation
        targets, observed = annotation.targets.copy(), annotation.observed.copy()
        targets[~valid], observed[~valid] = hidden.annotation.targets, hidden.annotation.observed
        return dataclasses.replace(training, annotation=Annotation(targets, observed))
    if source.labels_per_class is not None:
        annotation = draw_per_class(training, source.labels_per_class, seed)
    elif source.labelled_cells is not None:
        annotation = draw_fraction(training, source.labelled_cells, seed, cells=True)
    else:
        annotation = draw_fraction(training, float(source.labelled_fraction or 0), seed)
    return dataclasses.replace(training, annotation=annotation)


def check_shape(dataset: Dataset, shape: Sequence[int]) -> None:
    """Refuse inputs of another shape than the model takes (DataError)."""
    if tuple(dataset.x.shape[1:]) != tuple(shape):
        raise DataError(
            f"{dataset.name} has inputs of shape {list(dataset.x.shape[1:])}, but the model takes {list(shape)}"
        )


def read_inputs(path: Path, model: LabelVAE, white: float | None) -> tuple[list[str], Any, list[tuple[Path, str]]]:
    """Names, inputs and what could not be read, from an image, a folder or an .npz pack; white as in `load_source`."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if path.suffix.lower() == ".npz":
        dataset = load_dataset(str(path), space=model.space, white=white)
        check_shape(dataset, model.architecture.shape)
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

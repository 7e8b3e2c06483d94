"""The flags of data: how they are read, split and hidden, as commands take them and run folders keep them."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from taut.data import EMBEDDED, PUBLIC, DataError
from taut.labels import Scalar

PATHS = ("labels", "images", "unannotated", "train_list", "test_list", "weights")


@dataclass(frozen=True)
class ReadFlags:
    """How data is read: each field is a flag, and the argument of `load_dataset` of that name."""

    data: str
    """digits, digit-grid, mnist, svhn, cifar10, an .npz file, a folder of images, a CSV table of images, or embeddings
    (.npy, .npz, .parquet)."""
    labels: Path | None = None
    """a CSV table of annotations for a folder or for embeddings."""
    images: Path | None = None
    """where the images of a table that is DATA are; by default in the table's folder."""
    unannotated: Path | None = None
    """a folder of further images, without annotations, to train on beside those of a folder or a table."""
    format: str | None = None
    """the table's format: chexpert, chexpert-5 (the five findings of its leader board), mimic, nih, or table for any
    other; by default what its header speaks for."""
    view: str | None = None
    """the images of CheXpert (frontal, lateral, AP, PA), MIMIC-CXR or NIH (AP, PA) to take."""
    uncertain: str | None = None
    """what -1 cells become: latent (the default), positive, negative, ignore or soft=P, for all labels or by label, as
    in 'latent,Edema=positive'."""
    blank: str | None = None
    """what blank cells become, likewise: latent by default, but negative in CheXpert's and MIMIC-CXR's tables."""
    prevalence: str | None = None
    """prior probabilities of labels, as in 'Edema=0.1,Fracture=0.02', or of classes, as in 'cat=0.9' or
    'grade=high=0.1', or a YAML file of them."""
    group: str | None = None
    """the column or array whose values (patients) stay on one side of every split: by default one called patient_id or
    the like, where it names 20 or more of whom none is in several parts; 'none' lets each image stand for itself."""
    image_size: int | str | None = None
    """side in pixels to which images are resized, or height and width, as in 32x512; by default those of a folder or a
    table to 64, or less where all are smaller, and with --frozen to what its encoder takes; those of an .npz file stay
    as they are."""
    channels: int | None = None
    """1 reads the images of a folder or a table as grey, 3 as RGB; by default RGB where more than two in a hundred
    are in colour. Of arrays with a fourth channel 3 drops it and 4 keeps it; by default it goes where it is the same
    everywhere."""
    path_column: str | None = None
    """the column of the table that names the images, or the rows of embeddings."""
    label_columns: list[str] | str | None = None
    """the columns of the table that are labels, as in A,B; where a name has a comma, as in '["A, mild",B]'."""
    joined_column: str | None = None
    """a column of joined names, such as 'A|B', or of lists, such as "['A', 'B']", that are the labels."""
    separator: str | None = None
    """what joins the names of --joined-column; by default '|'."""
    unlabeled: str | None = None
    """the cell, class or subfolder that means unannotated; by default -1 in a column of classes."""
    auxiliary: list[str] | str | None = None
    """columns, or arrays, of what else is known of images, as in Sex,Age: learnt from, and not predicted."""
    split_column: str | None = None
    """a column of train, valid and test."""
    train_list: Path | None = None
    """a text file of the images to train on, one a line; without it all that --test-list leaves."""
    test_list: Path | None = None
    """a text file of the test images, one a line."""
    split_fractions: str | None = None
    """shares of train, valid and test, as in 0.7,0.1,0.2, for data without a split: stratified, patients kept whole."""

    def options(self) -> dict[str, Any]:
        """The arguments of `load_dataset` beside the data."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(ReadFlags) if f.name != "data"}
        for name in ("label_columns", "auxiliary"):
            if isinstance(values[name], str):
                values[name] = [part.strip() for part in values[name].split(",")]
        values["image_size"] = self.size
        values["unlabeled"] = -1 if self.unlabeled is None else scalar(self.unlabeled)
        return values

    @property
    def size(self) -> tuple[int, int] | None:
        """The height and width that --image-size says; DataError where it is neither a number nor two."""
        if self.image_size is None:
            return None
        sides = re.fullmatch(r"([1-9]\d*)(?: ?[xX×,] ?([1-9]\d*))?", str(self.image_size).strip())
        if sides is None:
            raise DataError(
                f"--image-size {self.image_size!r} is neither a side in pixels nor HEIGHTxWIDTH, as in 32x512"
            )
        return int(sides[1]), int(sides[2] or sides[1])

    def arguments(self) -> list[str]:
        """DATA and the flags that are given, as a command line has them."""
        found = [self.data]
        for name in (f.name for f in dataclasses.fields(self) if f.name != "data"):
            value = getattr(self, name)
            if isinstance(value, list):
                value = json.dumps(value) if any("," in part for part in value) else ",".join(value)
            if value is not None:
                found.append(f"--{name.replace('_', '-')}={value}")
        return found


def scalar(text: str) -> Scalar:
    """A value as an array or a table has it: a whole number, or text."""
    try:
        return int(text)
    except ValueError:
        return text


@dataclass(frozen=True)
class DataFlags(ReadFlags):
    """All flags of data, for every command that trains or plans; a run folder keeps them for those that follow."""

    leakage: str | None = None
    """refuse (the default) stops where a patient or an image is in two parts of a split; report only tells."""
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
    frozen: str | None = None
    """train on the features of an encoder that stays as it is: a run on images, resnet-18, timm:NAME, …"""
    weights: Path | None = None
    """a local file of weights for the encoder that --frozen names."""

    def absolute(self) -> Self:
        """The flags with absolute paths of what is there, so that they mean the same from any working directory."""
        files: dict[str, Any] = {name: getattr(self, name) for name in PATHS}
        files |= {
            name: value for name in ("data", "test") if (value := getattr(self, name)) not in (*EMBEDDED, *PUBLIC)
        }
        if self.frozen is not None and Path(self.frozen).is_dir():
            files["frozen"] = self.frozen
        if self.prevalence is not None and self.prevalence.endswith((".yaml", ".yml")):
            files["prevalence"] = self.prevalence
        found = {name: Path(value).expanduser() for name, value in files.items() if value is not None}
        there = {name: path.absolute() for name, path in found.items() if path.exists()}
        return dataclasses.replace(self, **{name: type(files[name])(path) for name, path in there.items()})

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values, as a run folder keeps it."""
        values = dataclasses.asdict(self)
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The flags that `to_json` wrote; fields that it did not have yet are at their defaults."""
        known = {f.name: data[f.name] for f in dataclasses.fields(cls) if f.name in data}
        paths = {name: Path(known[name]) for name in PATHS if known.get(name) is not None}
        return cls(**known | paths)

"""What the commands read: the data that flags or a run name, its parts, and its draw."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taut.data import EMBEDDED, PUBLIC, TABLES, DataError, Dataset, load_dataset
from taut.data.arrays import has_array
from taut.data.csv_table import read_table
from taut.data.files import find_images, find_path_column, match_files
from taut.data.fitting import check_rows, check_shape, in_order
from taut.data.formats import find_layout
from taut.data.layout import Layout, shows
from taut.data.leakage import check_leakage, seen_before
from taut.data.named import images_of_table
from taut.data.resized import resized
from taut.data.split import draw_fraction, draw_per_class
from taut.data.table import check_column
from taut.data.vector_files import SUFFIXES as EMBEDDINGS
from taut.features import FrozenEncoder, usual_side
from taut.flags import PATHS, DataFlags, ReadFlags
from taut.labels import LabelSpace
from taut.run import Run
from taut.train import processes


def resumed_source(source: DataFlags, begun: DataFlags) -> DataFlags:
    """The flags that a run was begun with, its files being where `source` has them; DataError for other flags."""
    source, begun = source.absolute(), begun.absolute()
    given = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
    given = {name: value for name, value in given.items() if value not in (None, getattr(begun, name))}
    changed = [name for name in given if name not in ("data", "test", *PATHS) or getattr(begun, name) is None]
    if changed:
        flags = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise DataError(f"--resume goes on with the flags that the run was begun with: leave out {flags}")
    return dataclasses.replace(begun, **given)


def replaced_source(source: DataFlags, data: str | None, labels: Path | None, images: Path | None = None) -> DataFlags:
    """The flags of a run for other data, or another table, which need not have the groups and the split."""
    if data is not None:
        cells: dict[str, Any] = {"uncertain": source.uncertain if _is_pack(source) else None, "blank": source.blank}
        source = _other_data(source, data, labels, images)
        if labels is None and not is_table(data):  # there are no columns
            kept = {name: getattr(source, name) for name in ("image_size", "group", "unlabeled")}
            # What cells become is of no use to subfolders.
            source = DataFlags(data, **kept, **(cells if _is_pack(source) else {}))
        if not is_folder(data) and not _is_pack(source):
            source = dataclasses.replace(source, image_size=None)
    elif labels is not None:
        source = dataclasses.replace(source, labels=labels)
    if data is not None or labels is not None:
        source = kept_flags(source, "group", "split_column", "path_column", "joined_column")
    return source if images is None else dataclasses.replace(source, images=images)


def _is_pack(source: DataFlags) -> bool:
    """Whether the data are arrays with annotations of their own."""
    return Path(source.data).suffix.lower() == ".npz" and source.labels is None


def _other_data(source: DataFlags, data: str, labels: Path | None, images: Path | None = None) -> DataFlags:
    """The flags of a run for other data, without those of how its own are split and of what else it learns from."""
    if is_table(data):
        images = images or image_root(source, Path(data).expanduser())
    other = dataclasses.replace(source, data=data, labels=labels, images=images)
    nothing: dict[str, Any] = dict.fromkeys(("split_fractions", "train_list", "test_list", "auxiliary", "unannotated"))
    return dataclasses.replace(other, **nothing)


def image_root(source: DataFlags, table: Path) -> Path | None:
    """Where the images of another table are: None for its own folder if any are there, else where the run's are."""
    if not source.data:
        return source.images
    folder, place = table.parent, Path(source.data).expanduser()
    theirs = source.images or (place.parent if is_table(source.data) else place if place.is_dir() else None)
    if theirs is None or folder.resolve() in (theirs.resolve(), place.resolve().parent):
        return source.images
    layout, _ = layout_of(source, table)
    column = source.path_column if source.path_column in layout.table.columns else layout.path
    files = images_of_table(folder, table, layout.table, column)
    column = column or find_path_column(layout.table, [*files, *find_images(theirs)])[0]
    check_column(layout.table, column, "--path-column")
    found = match_files(layout.table[column], files, folder, folder, layout.shared)
    return None if (found >= 0).any() else theirs


def layout_of(source: DataFlags, path: Path) -> tuple[Layout, bool]:
    """The layout of another table, and whether it is in the format of the flags; where it is not, in its own."""
    table = read_table(path.expanduser())
    try:
        return find_layout(table, source.format), True
    except DataError:
        return find_layout(table), False


def kept_flags(source: DataFlags, *flags: str) -> DataFlags:
    """The flags without those of some that name a column, or an array of groups, that the data lack.

    And of a table without the format and the view that are not its own: the labels are the model's in any case.
    """
    named = {flag: getattr(source, flag) for flag in flags if getattr(source, flag) is not None}
    path = label_table(source)
    lacking: list[str] = []
    if path is not None and (named or source.format is not None or source.view is not None):
        layout, fits = layout_of(source, path)
        columns = layout.table.columns
        lacking = [flag for flag, name in named.items() if name not in columns]
        if not fits:
            lacking.append("format")
        if source.view is not None and not shows(layout, source.view):
            lacking.append("view")
    elif path is None:
        file = Path(source.data).expanduser()
        is_pack = file.suffix.lower() == ".npz"
        lacking = [flag for flag, name in named.items() if flag != "group" or not (is_pack and has_array(file, name))]
    nothing: dict[str, Any] = dict.fromkeys(lacking)
    return dataclasses.replace(source, **nothing)


def lost_view(usual: str | None, source: ReadFlags) -> list[str]:
    """The sentence that says that other data do not show the view that flags ask for, where their flags lack it."""
    other = usual is not None and source.view is None and label_table(source) is not None
    return [f"no row shows the run's view {usual}: all images are taken"] if other else []


def label_table(source: ReadFlags) -> Path | None:
    """The table of annotations that flags name, if any: DATA itself, or --labels."""
    return Path(source.data) if is_table(source.data) else source.labels


def is_table(data: str) -> bool:
    """Whether DATA names a CSV table of images."""
    return data.lower().endswith(TABLES)


def is_folder(data: str) -> bool:
    """Whether DATA names image files, in a folder or by a table, and neither an .npz file nor a set that has a name."""
    return is_table(data) or (data not in EMBEDDED and data not in PUBLIC and Path(data).expanduser().is_dir())


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
    frozen: FrozenEncoder | None = None,
    columns: Sequence[str] = (),
) -> Dataset:
    """The dataset that flags name.

    skipped: a CSV file that lists what was left out of a folder, or of a table of embeddings.
    shape: of the inputs that a model takes; the images of a folder are brought to it, and others must have it.
    white: the training images' `pixel_max`, on whose scale those of an .npz file are, and image files of 16 bits.
    frozen: whose features stand in for images, which are brought to the shape that it takes.
    columns: the names of the features that a model takes; see `in_order`.
    """
    options = source.options()
    folder = is_folder(source.data)
    images = shape if frozen is None else frozen.about.shape
    if images is not None and len(images) == 3 and folder:
        options |= {"channels": images[0], "image_size": (images[1], images[2])}
    elif images is not None and len(images) == 3 and Path(source.data).suffix.lower() in EMBEDDINGS:
        options["channels"] = images[0]
    # For a model, arrays are brought to its size afterwards: other data may hold its features in the place of images.
    size = None if images is None or folder else options.pop("image_size", None)
    listed = skipped if folder or source.labels is not None else None
    dataset = load_dataset(source.data, space=space, skipped=listed, white=white, **options)
    if size is not None and images is not None and len(images) == 3 and dataset.is_image:
        dataset = resized(dataset, (images[1], images[2]))
    if frozen is not None and dataset.is_image:
        dataset = frozen.dataset(dataset)
    dataset = in_order(dataset, columns)
    if shape is not None:
        check_shape(dataset, shape)
    return dataset


def load_parts(
    source: DataFlags, skipped: Path | None = None, keep: Path | None = None
) -> tuple[Dataset, Dataset | None]:
    """The training rows (with a "valid" part kept for calibration) and the test set, if any.

    skipped: a CSV file that lists what was left out of a folder.
    keep: a run folder, to which a frozen encoder is written, or which has it already.
    """
    if source.leakage not in (None, "refuse", "report"):
        raise DataError(f"--leakage {source.leakage!r} is neither refuse nor report")
    space = cluster_space(source.data, source.classes)
    dataset, frozen = _load_images(source, space, skipped, keep)
    other: Dataset | None = None
    if source.test is not None:
        shape = dataset.x.shape[1:]
        names = dataset.feature_names
        flags = test_flags(with_owner(source, dataset))
        flags = flags if source.group is not None else kept_flags(flags, "group")
        listed = None if skipped is None else skipped.with_name(skipped.name.replace("skipped", "skipped-test"))
        other = load_source(flags, space or dataset.space, listed, shape, dataset.pixel_max, columns=names)
        other.notes += lost_view(source.view, flags)
        if source.labels is not None and test_flags(source).labels == source.labels:
            check_rows(dataset, other, source.test, source.labels)
    training, testing = _divide(dataset, other)
    report = None if skipped is None else skipped.with_name(skipped.name.removesuffix("skipped.csv") + "leakage.csv")
    leaks = check_leakage(
        named_parts(training, testing),
        report,
        # The splits of these are the field's, with the few copies that they have.
        pixels=source.test is not None or not (source.data in EMBEDDED or source.data in PUBLIC),
        refuse=source.leakage != "report",
    )
    if frozen is not None:
        run = Path(str(source.frozen)) / "split.csv"
        known = [seen_before(run, images) for images in (dataset, other) if images is not None and images.is_image]
        leaks += [f"--frozen {source.frozen}: {sentence}" for sentence in known if sentence is not None]
        training, testing = _divide(frozen.dataset(dataset), None if other is None else frozen.dataset(other))
    tested = [] if other is None else [f"{source.test}: {note}" for note in other.notes]
    if other is not None and dataset.groups is not None and other.groups is None:
        tested.append(
            f"{source.test} does not say whose its images are, as the training data do: a patient may be in both, and "
            "its intervals are over images."
        )
    training.notes = [*training.notes, *tested, *leaks]
    return training, testing


def _divide(dataset: Dataset, other: Dataset | None) -> tuple[Dataset, Dataset | None]:
    """The training and the test rows; those of another dataset where it is given."""
    training, testing = dataset, None
    if dataset.split is not None and (dataset.split == "test").any():
        testing, training = dataset.part("test"), dataset.rows(dataset.split != "test")
    if other is None:
        return training, testing
    return training, other.part("test") if other.split is not None and (other.split == "test").any() else other


def _load_images(
    source: DataFlags, space: LabelSpace | None, skipped: Path | None, keep: Path | None
) -> tuple[Dataset, FrozenEncoder | None]:
    """The dataset of the flags, and the frozen encoder that they name for its images."""
    if source.frozen is None:
        if source.weights is not None:
            raise DataError("--weights is for --frozen; training starts from the weights of --model.weights")
        return load_source(source, space, skipped), None
    frozen = None if keep is None else FrozenEncoder.load(keep)
    if frozen is None and Path(source.frozen).is_dir():
        frozen = FrozenEncoder.find(source.frozen, source.weights)
    if frozen is not None and is_folder(source.data):
        channels, *sides = frozen.about.shape
        for flag, given, fits in (
            ("image-size", source.image_size, source.size in (None, tuple(sides))),
            ("channels", source.channels, source.channels in (None, channels)),
        ):
            if not fits:
                shown = "x".join(map(str, frozen.about.shape))
                raise DataError(f"--{flag} {given}: --frozen {source.frozen} takes images of {shown}; leave it out")
        white = Run(source.frozen).pixel_max() if Path(source.frozen).is_dir() else None
        dataset = load_source(source, space, skipped, frozen.about.shape, white)
    else:
        side = usual_side(source.frozen) if is_folder(source.data) else None
        dataset = load_source(dataclasses.replace(source, image_size=source.image_size or side), space, skipped)
        frozen = frozen or FrozenEncoder.find(source.frozen, source.weights, dataset.x.shape[1:])
        size = "x".join(dict.fromkeys(map(str, frozen.about.shape[1:])))
        frozen.check(dataset.x.shape[1:], dataset.name, f": --image-size {size} resizes them")
        if (made := usual_side(source.frozen)) is not None and min(dataset.x.shape[2:]) < made / 2:
            dataset.notes.append(f"{source.frozen} is made for {made} pixels a side: --image-size {made} resizes.")
    if keep is not None and processes().is_main_process:
        frozen.save(keep)
    return dataset, frozen


def test_flags(source: DataFlags) -> DataFlags:
    """How --test is read: as the data is, but for what splits it, and a table of its own where it is one."""
    assert source.test is not None
    labels = None if is_table(source.test) else source.labels
    return kept_flags(_other_data(source, source.test, labels), "split_column", "path_column", "joined_column")


def with_owner(source: DataFlags, dataset: Dataset) -> DataFlags:
    """The flags with the group that the data have unasked, by which other data are grouped however few they are."""
    return source if source.group is not None else dataclasses.replace(source, group=dataset.owner)


def named_parts(training: Dataset, testing: Dataset | None) -> dict[str, Dataset]:
    """The parts of a split by name, those that there are."""
    valid = np.zeros(len(training), dtype=bool) if training.split is None else training.split == "valid"
    parts = (
        {"training": training.rows(~valid), "valid": training.rows(valid)} if valid.any() else {"training": training}
    )
    return parts if testing is None else {**parts, "test": testing}


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
        annotation = dataclasses.replace(annotation, targets=targets, observed=observed)
        known = int(observed[valid].any(1).sum())
        notes = [f'The {known:,} annotated images of the "valid" part keep their annotations.'] if known else []
        return dataclasses.replace(training, annotation=annotation, notes=[*training.notes, *notes])
    if source.labels_per_class is not None:
        annotation = draw_per_class(training, source.labels_per_class, seed)
    elif source.labelled_cells is not None:
        annotation = draw_fraction(training, source.labelled_cells, seed, cells=True)
    else:
        annotation = draw_fraction(training, float(source.labelled_fraction or 0), seed)
    return dataclasses.replace(training, annotation=annotation)

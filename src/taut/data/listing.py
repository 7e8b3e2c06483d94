"""What is said of each image of a folder: by the rows of a table, or by the subfolder that it is in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.data.dataset import SPLITS, DataError
from taut.data.files import match_files
from taut.data.table import (
    Column,
    check_column,
    class_text,
    find_path_column,
    listed,
    plural,
    read_joined,
    read_labels,
    read_table,
)
from taut.labels import LabelError, LabelSpace, Scalar

UNLABELED = ("unlabeled", "unlabelled")
SPLIT_FOLDERS = {**{part: part for part in SPLITS}, "val": "valid", "validation": "valid"}


@dataclass
class Listing:
    """Annotations in the order of the rows of a table, then of the files that no row names.

    entries: columns `row` (as a spreadsheet counts, or missing), `file` (as given), `image` (position among
        the files of the folder, or −1), `group` and `split` (text, or missing).
    codes: class indices [N, k], −1 where not annotated; uncertain: [N, k], where the cell was −1.
    """

    entries: pd.DataFrame
    space: LabelSpace
    codes: NDArray[np.int64]
    uncertain: NDArray[np.bool_]
    notes: list[str] = field(default_factory=list)


def from_table(
    folder: Path,
    files: list[str],
    labels: Path,
    *,
    path_column: str | None,
    label_columns: Sequence[str] | None,
    joined_column: str | None,
    separator: str,
    group: str | None,
    split_column: str | None,
    space: LabelSpace | None,
    unlabeled: Scalar | None,
) -> Listing:
    """The listing of a CSV table, columns as in `load_folder`; DataError or LabelError name the table."""
    if joined_column is not None and label_columns is not None:
        raise DataError("--joined-column and --label-columns are two ways to name the labels: pass one of them")
    table = read_table(labels)
    try:
        for flag, column in (
            ("--path-column", path_column),
            ("--group", group),
            ("--split-column", split_column),
        ):
            if column is not None:
                check_column(table, column, flag)
        path_column = path_column or find_path_column(table)
        if joined_column is not None:
            cells = read_joined(table, joined_column, space, separator)
        else:
            used = [name for name in (path_column, group, split_column) if name is not None]
            cells = read_labels(table, used, label_columns, space, unlabeled, separator)
        image = match_files(table[path_column], files, folder, labels.parent)
        if (image < 0).all():
            said = listed(list(table[path_column].dropna()), 3)
            raise DataError(
                f"no row names an image in {folder}: column {path_column!r} says {said}, "
                f"but the images are {listed(files, 3)}"
            )
        entries = _entries(
            table[path_column],
            image,
            row=table.index,
            group=None if group is None else table[group],
            split=None if split_column is None else _splits(table, split_column),
        )
    except (DataError, LabelError) as error:
        raise type(error)(f"{labels}: {error}") from error
    listing = Listing(entries, cells.space, cells.codes, cells.uncertain, cells.notes)
    return _with_others(listing, files)


def from_subfolders(folder: Path, files: list[str], space: LabelSpace | None) -> Listing:
    """The listing of a folder without a table: a class for each subfolder, or no annotations at all.

    Raises DataError or LabelError where there is no label space, or one that the subfolders do not fit.
    """
    parts = [file.split("/") for file in files]
    tops = {part[0] for part in parts if len(part) > 1}
    has_split = bool(tops) and tops <= set(SPLIT_FOLDERS)
    splits = [SPLIT_FOLDERS[part[0]] if len(part) > 1 else "train" for part in parts] if has_split else None
    if has_split:
        parts = [part[1:] if len(part) > 1 else part for part in parts]
    names = [part[0] if len(part) > 1 and part[0].lower() not in UNLABELED else None for part in parts]
    found = sorted({name for name in names if name is not None})
    if space is None and not found:
        tables = sorted(path.name for path in folder.glob("*.csv"))
        hint = f" (such as {listed(tables, 3)})" if tables else ""
        raise DataError(
            f"{folder}: no image is annotated, as there are no subfolders for classes: pass a table with "
            f"--labels{hint}, or an explicit label space"
        )
    if space is None:
        if len(found) < 2:
            raise DataError(f"{folder} has one subfolder for a class, {found[0]!r}: at least two are needed")
        space = LabelSpace.multiclass(found)
    if found and len(space) > 1:
        raise DataError(
            f"{folder}: subfolders {listed(found)} are classes of one label, but {len(space)} are asked for"
        )
    index: dict[str | None, int] = {class_text(value): c for c, value in enumerate(space.labels[0].classes)}
    strange = [name for name in found if name not in index]
    if strange:
        raise LabelError(
            f"{folder}: subfolders {listed(strange)} are not among the classes of {space.names[0]!r}: "
            f"{listed(list(index))}"
        )
    codes = np.full((len(files), len(space)), -1)
    codes[:, 0] = [index.get(name, -1) for name in names] if found else -1
    entries = _entries(files, np.arange(len(files)), split=splits)
    bare = sum(name is None for name in names)
    notes = [f"{plural(bare, 'image is', 'images are')} in no subfolder of a class: unannotated."] if bare else []
    return Listing(entries, space, codes, np.zeros(codes.shape, dtype=bool), notes)


def _entries(
    file: Iterable[str],
    image: NDArray[np.intp],
    row: Iterable[int] | None = None,
    group: Iterable[str] | None = None,
    split: Iterable[str] | None = None,
) -> pd.DataFrame:
    blank = [None] * len(image)
    texts = {
        "file": file,
        "group": blank if group is None else group,
        "split": blank if split is None else split,
    }
    columns = {name: np.array(list(values), dtype=object) for name, values in texts.items()}
    number = pd.array(blank if row is None else list(row), dtype="Int64")
    return pd.DataFrame({"row": number, "image": image, **columns}).astype(dict.fromkeys(columns, object))


def _splits(table: pd.DataFrame, column: str) -> Column:
    wrong = ~table[column].isin(SPLITS).to_numpy()
    if wrong.any():
        row = int(np.argmax(wrong))
        cell = table[column].iloc[row]
        said = "blank" if pd.isna(cell) else repr(cell)
        raise DataError(f"--split-column {column!r}, row {table.index[row]}: {said} is not one of {', '.join(SPLITS)}")
    return table[column]


def _with_others(listing: Listing, files: list[str]) -> Listing:
    """The listing and, unannotated, the files that no row names."""
    others = np.setdiff1d(np.arange(len(files)), listing.entries["image"].to_numpy())
    if len(others) == 0:
        return listing
    shape = (len(others), len(listing.space))
    note = f"{plural(len(others), 'image file is', 'image files are')} named by no row: unannotated."
    return Listing(
        pd.concat([listing.entries, _entries([files[i] for i in others], others)], ignore_index=True),
        listing.space,
        np.concatenate([listing.codes, np.full(shape, -1)]),
        np.concatenate([listing.uncertain, np.zeros(shape, dtype=bool)]),
        [*listing.notes, note],
    )

"""What is said of each image of a folder: by the rows of a table, then of those that no row names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.data.auxiliary import Auxiliary, read_auxiliary
from taut.data.cells import UNSAID
from taut.data.csv_table import read_table
from taut.data.dataset import SPLITS, DataError
from taut.data.files import SEVERAL, elsewhere, files_called, match_files, read_list
from taut.data.formats import find_layout
from taut.data.joined import Column
from taut.data.joined_labels import read_joined
from taut.data.layout import Layout, choose_view
from taut.data.named import ELSEWHERE, path_column_of
from taut.data.naming import PARTS
from taut.data.owners import NONE, own_group, says_owner
from taut.data.table import (
    Cells,
    check_column,
    listed,
    plural,
    read_labels,
    without,
)
from taut.labels import LabelError, LabelSpace, Scalar
from taut.values import whole_numbers

AUXILIARY = "auxiliary "  # before the names of such columns among a listing's entries


@dataclass(frozen=True)
class TableOptions:
    """How a table is read: what each column holds, and which rows count; None leaves it to the table's format.

    Each field but `others` is a flag; `load_folder` says what they mean.
    others: whether files that no row names are listed too, unannotated.
    """

    path_column: str | None = None
    label_columns: Sequence[str] | None = None
    joined_column: str | None = None
    group: str | None = None
    split_column: str | None = None
    format: str | None = None
    view: str | None = None
    train_list: Path | None = None
    test_list: Path | None = None
    separator: str | None = None
    auxiliary: Sequence[str] | None = None
    others: bool = True

    def given(self) -> list[str]:
        """The flags that say something of a table."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "others"}
        return ["--" + name.replace("_", "-") for name, value in values.items() if value is not None]


@dataclass
class Listing:
    """What is said in the rows of a table, then of the files that no row names.

    entries: columns `row` (as a spreadsheet counts, or missing), `file` (as given), `image` (position among
        the files of the folder, or below 0, as `match_files` says), `group` and `split` (text, or missing), and where a
        row does not count, `kind` and `reason` say why ("" where it does).
    codes: the cells [N, k], class indices or codes of `taut.data.cells`.
    blank: what blank cells are taken as where no flag says it.  grouped: by what `group` goes, or None.
    owner: the same, where neither a flag nor the format says it.
    auxiliary: the columns of `entries` with auxiliary values.
    patient: the group of an image that no row names, by its path, where the format tells it.
    """

    entries: pd.DataFrame
    space: LabelSpace
    codes: NDArray[np.int64]
    blank: str = "latent"
    grouped: str | None = None
    notes: list[str] = field(default_factory=list)
    auxiliary: Sequence[str] = ()
    patient: Callable[[str], str | None] | None = None
    owner: str | None = None

    @property
    def placed(self) -> list[str]:
        """The columns of entries that rows of one image fill in for one another."""
        return ["group", "split", *self.auxiliary]

    def read_auxiliary(self, entries: pd.DataFrame) -> Auxiliary | None:
        """The auxiliary values of those entries that are kept."""
        columns = {name.removeprefix(AUXILIARY): entries[name].to_numpy() for name in self.auxiliary}
        return read_auxiliary(columns, learnt=entries["split"].to_numpy() != "test") if columns else None


def from_table(
    folder: Path,
    files: list[str],
    labels: Path,
    options: TableOptions,
    space: LabelSpace | None,
    unlabeled: Scalar | None,
    uncertain: str | None = None,
    table: pd.DataFrame | None = None,
) -> Listing:
    """The listing of a CSV table; DataError or LabelError name the table.

    uncertain: what its flag says that −1 becomes.  table: what `labels` holds, where it is read already.
    """
    if options.joined_column is not None and options.label_columns is not None:
        raise DataError("--joined-column and --label-columns are two ways to name the labels: pass one of them")
    if options.split_column is not None and (options.train_list is not None or options.test_list is not None):
        raise DataError("--split-column and lists of files are two ways to give a split: pass one of them")
    table = read_table(labels) if table is None else table
    try:
        layout = find_layout(table, options.format)
        alone = options.group == NONE and NONE not in layout.table
        for flag, column in (
            ("--path-column", options.path_column),
            ("--group", options.group),
            ("--split-column", options.split_column),
            *(("--auxiliary", name) for name in options.auxiliary or ()),
        ):
            if column is not None and not (flag == "--group" and alone):
                check_column(layout.table, column, flag)
        notes = [layout.note] if layout.note else []
        path_column = options.path_column or layout.path
        if path_column is None:
            path_column, found = path_column_of(table, files, None if options.others else "--images")
            notes += found
        group = None if alone else options.group or layout.group
        image = match_files(layout.table[path_column], files, folder, labels.parent, layout.shared)
        notes += elsewhere(layout.table[path_column], files, image)
        used = [path_column, group, options.split_column, *(options.auxiliary or ())]
        cells = _read_cells(layout, used, options, space, unlabeled, image, uncertain == "negative")
        if (image < 0).all():
            said = listed(list(table[path_column].dropna()), 3)
            if (image == SEVERAL).any():
                cell = str(table[path_column].iloc[int(np.argmax(image == SEVERAL))])
                raise DataError(
                    f"no row names a single image in {folder}: {cell!r} of column {path_column!r} is the name of "
                    f"{listed(files_called(cell, files), 2)}: keep one of them, or name the folder that is meant"
                )
            raise DataError(
                f"no row names an image in {folder}: column {path_column!r} says {said}, "
                f"but the images are {listed(files, 3)}"
                + ("" if options.others else f": {ELSEWHERE.format('--images')}")
            )
        entries = entries_of(
            table[path_column],
            image,
            row=table.index,
            split=None if options.split_column is None else _splits(table, options.split_column),
        )
        joined = options.joined_column or layout.joined
        placing = {path_column, group, options.split_column, joined}
        for name in options.auxiliary or ():
            if name in cells.space.names or name in placing:
                what = "a label" if name in cells.space.names else "the column of images, groups, parts or labels"
                raise DataError(f"--auxiliary {name!r} is {what} too: leave it out there")
            entries[AUXILIARY + name] = layout.table[name].astype(object).to_numpy()
        if options.train_list is not None or options.test_list is not None:
            notes += _apply_lists(entries, options, layout.shared == 1)
        elif options.split_column is None:
            notes += _unused_splits(table, [*used, *cells.space.names, joined])
        owner = None
        if group is None and not alone:
            taken = {*used, *cells.space.names, joined}
            names = [name for name in table.columns if name not in taken and says_owner(name)]
            there = image >= 0
            owners = {name: pd.Series(whole_numbers(table[name]).to_numpy()[there]) for name in names}
            owner, found = own_group("Column", owners, pd.Series(entries["split"].to_numpy()[there]))
            group = owner
            notes += found
        if group is not None:
            entries["group"] = whole_numbers(layout.table[group]).astype(object).to_numpy()
        if options.view is not None:
            other = ~choose_view(layout, options.view).to_numpy() & (entries["kind"] == "").to_numpy()
            entries.loc[other, ["kind", "reason"]] = ["view", f"it does not show the view {options.view}"]
        if options.joined_column is None and len(cells.space) == 1:
            notes += _several_classes(cells, image)
        blank = layout.blank if options.joined_column is None else Listing.blank
        auxiliary = [AUXILIARY + name for name in options.auxiliary or ()]
        patient = layout.patient if group is not None and group == layout.group else None
        told = notes + cells.notes
        listing = Listing(entries, cells.space, cells.codes, blank, group, told, auxiliary, patient, owner)
        listing.read_auxiliary(entries[(image >= 0) & (entries["kind"] == "")])  # faults are told before decoding
    except (DataError, LabelError) as error:
        raise type(error)(f"{labels}: {error}") from error
    return _with_others(listing, files) if options.others else listing


def _read_cells(
    layout: Layout,
    used: list[str | None],
    options: TableOptions,
    space: LabelSpace | None,
    unlabeled: Scalar | None,
    image: NDArray[np.intp],
    negative: bool,
) -> Cells:
    """The labels where flags say that they are, else where the format has them."""
    if options.joined_column is not None or (layout.joined is not None and options.label_columns is None):
        if options.joined_column is None and layout.names is not None:
            space = space or LabelSpace.multilabel(layout.names)
        joined = str(options.joined_column or layout.joined)
        table = layout.table
        if unlabeled is not None and joined in table:
            table = table.assign(**{joined: without(table[joined], unlabeled)})
        vocabulary = None if options.joined_column is not None else layout.names
        return read_joined(table, joined, space, options.separator, image, vocabulary)
    named = options.label_columns or (layout.labels if space is None else None)
    taken = [name for name in (*used, *layout.added) if name is not None]
    return read_labels(layout.table, taken, named, space, unlabeled, options.separator, layout.yes_no, negative)


def _several_classes(cells: Cells, image: NDArray[np.intp]) -> list[str]:
    """What to do about images of which several rows name different classes, where there are such."""
    known = pd.Series(cells.codes[:, 0])[(image >= 0) & (cells.codes[:, 0] >= 0)]
    several = int((known.groupby(image[known.index]).nunique() > 1).sum())
    if not several or cells.space.binary:
        return []
    return [
        f"{plural(several, 'image has', 'images have')} rows of different classes of {cells.space.names[0]!r}: where "
        "an image can be of several at once, name that column with --joined-column."
    ]


def _apply_lists(entries: pd.DataFrame, options: TableOptions, bare: bool) -> list[str]:
    """Set the split by lists of files, and tell what they name in vain; bare: whether a file's name is enough.

    What the test list names is "test", the rest "train"; with a train list, rows that are in neither do not count.
    """
    files = entries["file"].astype("str").str.replace("\\", "/", regex=False)
    bases = files.str.rpartition("/")[2]
    known, notes = [pd.Series(False, index=entries.index)] * 2, []
    for i, (flag, path) in enumerate((("--train-list", options.train_list), ("--test-list", options.test_list))):
        if path is not None:
            names = read_list(path, flag)
            known[i] = files.isin(names) | (bases.isin(names) if bare else False)
            strange = names - set(files) - (set(bases) if bare else set())
            if strange:
                words = plural(len(strange), "name of {} is in no row", "names of {} are in no row")
                notes.append(f"{words.format(flag)}, such as {min(strange)}.")
    train, test = known
    both = entries.index[train & test]
    if len(both):
        raise DataError(f"{files[both[0]]} is in both {options.train_list} and {options.test_list}")
    if not (train | test).any():
        raise DataError(f"no row is in {' or '.join(str(p) for p in (options.train_list, options.test_list) if p)}")
    entries["split"] = np.where(test, "test", "train")
    if options.train_list is not None:
        entries.loc[~(train | test), ["kind", "reason"]] = ["unlisted", "it is in no list of files"]
    return notes


def entries_of(
    file: Iterable[str],
    image: NDArray[np.intp],
    row: Iterable[int] | None = None,
    group: Iterable[str] | None = None,
    split: Iterable[str] | None = None,
) -> pd.DataFrame:
    """The entries of a listing from their columns, all of which count; those that are not given are missing."""
    blank = [None] * len(image)
    texts = {
        "file": file,
        "group": blank if group is None else group,
        "split": blank if split is None else split,
    }
    # A column's own way to an array, as going through its strings takes seconds for a large table.
    columns = {
        name: values.astype(object).to_numpy()
        if isinstance(values, pd.Series)
        else np.array(list(values), dtype=object)
        for name, values in texts.items()
    }
    number = pd.array(blank if row is None else list(row), dtype="Int64")
    entries = pd.DataFrame({"row": number, "image": image, **columns}).astype(dict.fromkeys(columns, object))
    return entries.assign(kind="", reason="")


def _splits(table: pd.DataFrame, column: str) -> Column:
    parts = table[column].str.lower().map(PARTS)
    wrong = parts.isna().to_numpy()
    if wrong.any():
        row = int(np.argmax(wrong))
        cell = table[column].iloc[row]
        said = "blank" if pd.isna(cell) else repr(cell)
        raise DataError(f"--split-column {column!r}, row {table.index[row]}: {said} is not one of {', '.join(SPLITS)}")
    return parts


def one_of_image(column: pd.Series, images: pd.Series) -> pd.Series:
    """The cells of a column of groups or parts, the missing ones as other rows of their image have them, if alike."""
    if not images.duplicated().any():
        return column
    of_image = column.groupby(images)
    return column.where(column.notna() | (of_image.transform("nunique") != 1), of_image.transform("first"))


def in_parts(images: NDArray[np.intp], split: pd.Series) -> NDArray[np.intp]:
    """Numbers of images [N], below 0 where there is none, as others where one is in another part of a split."""
    part, parts = pd.factorize(split.fillna(""))
    return np.where(images < 0, images, images * len(parts) + part)


def _unused_splits(table: pd.DataFrame, used: list[str | None]) -> list[str]:
    """What to do about columns that say a split and are not used."""
    notes = []
    for name in table.columns:
        cells = table[name].dropna().unique()
        said = {PARTS.get(str(cell).lower()) for cell in cells} if len(cells) <= len(PARTS) else {None}
        if name not in used and None not in said and len(said) > 1:
            notes.append(
                f"Column {name!r} says {', '.join(part for part in SPLITS if part in said)} but is not used: "
                f"--split-column {name} reads it as the split."
            )
    return notes


def _with_others(listing: Listing, files: list[str]) -> Listing:
    """The listing and, unannotated, the files that no row names."""
    others = np.setdiff1d(np.arange(len(files)), listing.entries["image"].to_numpy())
    if len(others) == 0:
        return listing
    note = f"{plural(len(others), 'image file is', 'image files are')} named by no row: unannotated."
    return with_unannotated(listing, [files[i] for i in others], others, note)


def with_unannotated(listing: Listing, names: Sequence[str], images: NDArray[np.intp], note: str) -> Listing:
    """The listing, then images without annotation: what they are called, and their positions among the files.

    Those of a patient who is in one part of a split alone are in that part.
    """
    group = None if listing.patient is None else whole_numbers(pd.Series(map(listing.patient, names), dtype=object))
    entries = pd.concat([listing.entries, entries_of(names, images, group=group)], ignore_index=True)
    if group is not None:
        counts = entries["split"].where(entries["kind"] == "", None)
        entries["split"] = entries["split"].where(entries["split"].notna(), one_of_image(counts, entries["group"]))
    return replace(
        listing,
        entries=entries,
        codes=np.concatenate([listing.codes, np.full((len(images), len(listing.space)), UNSAID)]),
        notes=[*listing.notes, note],
    )


def write_skipped(left_out: pd.DataFrame, path: Path) -> None:
    """The list of what is left out, as CSV: row (as a spreadsheet counts), file, reason.

    Where there is nothing, only in the place of an earlier list.
    """
    if len(left_out) or path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        left_out[["row", "file", "reason"]].to_csv(path, index=False)

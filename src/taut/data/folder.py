"""A folder of image files with a table of annotations, or with a subfolder for every class."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.data.cache import DEEP, Shape, decode_once, find_copies, read_headers, scale_of
from taut.data.cells import (
    LATENT,
    CellPolicy,
    annotate,
    cell_notes,
    check_policy,
    chosen_policy,
    settle,
    settle_together,
)
from taut.data.csv_table import read_table
from taut.data.dataset import GREY, DataError, Dataset
from taut.data.dicom import Header
from taut.data.files import SEVERAL, SUFFIXES, find_images
from taut.data.listing import Listing, TableOptions, from_table, in_parts, one_of_image, with_unannotated, write_skipped
from taut.data.named import ELSEWHERE, images_beside, images_of_table, outside
from taut.data.naming import sides_note
from taut.data.subfolders import from_subfolders
from taut.data.table import listed, plural
from taut.labels import LabelSpace, Scalar

DEFAULT_SIZE, MUCH = 64, 4  # pixels a side, and how much smaller is worth a word
LONG, ALIKE = 2, 1.1  # how much longer one side of all images is, and how alike, for a square to be worth a word
SKIPS = {
    "view": ("row shows another view", "rows show another view"),
    "unlisted": ("row is in no list of files", "rows are in no list of files"),
    "missing": ("row names an image that is not there", "rows name images that are not there"),
    "ambiguous": ("row has the name of several images", "rows have the names of several images"),
    "unnamed": ("row names no image", "rows name no image"),
    "unreadable": ("image cannot be read", "images cannot be read"),
    "repeated": ("row or file repeats an image", "rows or files repeat an image"),
    "contradicting": ("row or file contradicts another", "rows or files contradict each other"),
}


def load_folder(
    folder: Path,
    labels: Path | None = None,
    *,
    path_column: str | None = None,
    label_columns: Sequence[str] | None = None,
    joined_column: str | None = None,
    separator: str | None = None,
    group: str | None = None,
    split_column: str | None = None,
    format: str | None = None,
    view: str | None = None,
    train_list: Path | None = None,
    test_list: Path | None = None,
    auxiliary: Sequence[str] | None = None,
    others: bool = True,
    unannotated: Path | None = None,
    uncertain: str | None = None,
    blank: str | None = None,
    space: LabelSpace | None = None,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    skipped: Path | None = None,
    unlabeled: Scalar | None = -1,
    white: float | None = None,
) -> Dataset:
    """The dataset of a folder of images (`files.SUFFIXES`; subfolders too, hidden files not).

    labels: a CSV table with a row for every image; images without a row are kept as unannotated, or left out where
        `others` is False; images may then be where absolute paths say, unless the folder is not the table's own.
        Without a table each subfolder is a class ("unlabeled" and the like are none), below train, valid and test if
        these are the subfolders; and without subfolders all images are unannotated, which needs `space`.
    unannotated: a folder of further images without annotation, for training; one in `folder` is no class. Copies of
        other images are left out, and their ids are relative to it, after its name where another image has such an id.
    format: "chexpert", "chexpert-5" (the five findings of its leader board), "mimic", "nih" or "table" (none of them);
        by default what the table's header speaks for, which the notes tell.
    path_column, label_columns: the format's; else `find_path_column` and `read_labels` say what is taken.
    joined_column: a column of names joined by `separator`, by default "|", or of lists of them; yes/no labels.
    group, split_column: columns of patients (or the like; by default the format's), and of "train", "valid", "test".
    view: of CheXpert's (frontal, lateral, AP, PA), MIMIC-CXR's and NIH's (AP and PA, which are frontal) images, the
        ones to take.
    train_list, test_list: text files of images, one a line, in the place of a split column; without the first all that
        the second does not name is for training.
    auxiliary: columns that the encoder learns from beside the labels, and that are not predicted (`read_auxiliary`).
    uncertain, blank: what −1 and blank cells of yes/no labels become, as `CellPolicy` says; −1 is latent by default,
        and blank is latent too but for CheXpert's and MIMIC-CXR's tables, where it is negative ("not mentioned").
    image_size: height and width [pixels], one number or two; by default images of one size up to 64 stay as they
        are, and others become squares of their longest side, 64 at most.
    channels: 1 or 3; by default 1 if all images, or all but two in a hundred, are grey.
    white: of images of 16 bits a pixel; by default as `deep_white` finds it.
    skipped: a CSV file to write, listing what was left out: row (as a spreadsheet counts), file, reason.
    unlabeled: a value, or a subfolder, that means unannotated; −1 does in a column of classes alone.

    What cannot be used is left out and told in the notes: images that are not there or cannot be read, images
    that repeat in one part of the split (the first stays), and all annotations of one image that contradict each other.
    Raises DataError or LabelError where nothing remains, or where it is not clear what is meant.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder")
    if image_size is not None and np.min(image_size) < 1:
        raise DataError(f"--image-size {image_size} is not a number of pixels")
    if channels not in (None, 1, 3):
        raise DataError(f"--channels {channels} is neither 1 (grey) nor 3 (RGB)")
    table = None if labels is None else read_table(labels)
    notes: list[str] = []
    if others or labels is None or table is None:
        files = find_images(folder, notes)
    else:
        files = images_of_table(folder, labels, table, path_column, notes)
    if unannotated is not None and labels is None:
        files = outside(unannotated, folder, files)
    if not files:
        hint = "" if others else f": {ELSEWHERE.format('--images')}"
        hint += "" if labels is None else "; a table of features is read from .npz, .npy or Parquet files"
        said = "".join(f"; {note.rstrip('.')}" for note in notes)
        raise DataError(f"{folder} has no images ({', '.join(SUFFIXES)}){hint}{said}")
    options = TableOptions(
        path_column,
        label_columns,
        joined_column,
        group,
        split_column,
        format,
        view,
        train_list,
        test_list,
        separator,
        auxiliary,
        others,
    )
    if labels is None:
        cells = {"--uncertain": uncertain, "--blank": blank}
        given = options.given() + [flag for flag, value in cells.items() if value is not None]
        if given:
            raise DataError(f"{', '.join(given)} is for columns of a table: pass the table with --labels")
        listing = from_subfolders(folder, files, space, unlabeled, unannotated)
    else:
        listing = from_table(folder, files, labels, options, space, unlabeled, uncertain, table)
    ids = list(files)
    if unannotated is not None:
        taken = [files[i] for i in listing.entries["image"].unique() if i >= 0]
        paths, names = images_beside(unannotated, folder, files, taken, notes)
        note = f"{plural(len(paths), 'image', 'images')} of {unannotated} added: unannotated."
        listing = with_unannotated(listing, names, np.arange(len(paths)) + len(files), note)
        files, ids = files + paths, ids + names
    named = [ids[i] for i in listing.entries["image"].unique() if i >= 0]
    sides = sides_note(named) if listing.grouped is None else []
    listing = dataclasses.replace(listing, notes=[*notes, *listing.notes, *sides])
    check_policy(listing.space, uncertain, blank)
    policy = chosen_policy(uncertain, blank, listing.blank)
    return _Reading(folder, files, ids, listing, policy, skipped).dataset(image_size, channels, white)


class _Reading:
    """The images of one listing on their way to a dataset; `entries` also says why one was left out.

    files: relative to the folder, or absolute.  ids: what they are called.
    entries: the listing's, with `kind` (of SKIPS, or "") and `reason`.  values: what its cells become.
    """

    def __init__(
        self,
        folder: Path,
        files: list[str],
        ids: list[str],
        listing: Listing,
        policy: CellPolicy,
        skipped: Path | None,
    ) -> None:
        """Look at the headers, and leave out what is missing, unreadable, repeated or contradicting."""
        self.folder, self.files, self.ids, self.listing, self.skipped = folder, files, ids, listing, skipped
        self.policy, self.values = policy, settle(listing.space, listing.codes, policy)
        self.entries = listing.entries.copy()
        image = self.entries["image"].to_numpy()
        self._leave_out(self._rows(image == SEVERAL), "ambiguous", "several images have this name")
        self._leave_out(self._rows(image < 0), "missing", "no such image")
        self._leave_out(np.flatnonzero(self.entries["file"].isna()), "unnamed", "no file name")
        used = np.unique(image[self._rows(image >= 0)])
        headers = dict(zip(used.tolist(), read_headers([folder / files[i] for i in used]), strict=True))
        self.headers = {i: header for i, header in headers.items() if isinstance(header, Header)}
        failures = {i: header for i, header in headers.items() if isinstance(header, str)}
        unreadable = self._rows(np.isin(image, list(failures)))
        self._leave_out(unreadable, "unreadable", [failures[i] for i in image[unreadable]])
        self._leave_out_repeated()

    def _rows(self, mask: NDArray[np.bool_]) -> NDArray[np.intp]:
        """The positions in a mask of entries that still count."""
        return np.flatnonzero(mask & (self.entries["kind"] == "").to_numpy())

    def dataset(self, image_size: int | tuple[int, int] | None, channels: int | None, white: float | None) -> Dataset:
        """Decode what remains."""
        rows = self._remaining(report=False)
        images = self.entries["image"].to_numpy()
        shape, notes = _choose_shape([self.headers[i] for i in images[rows]], image_size, channels)
        deep, pixel_max = self._white(rows, white, notes)
        x, failures = decode_once(self.folder, [self.files[i] for i in images[rows]], shape, deep)
        self._leave_out(rows[list(failures)], "unreadable", list(failures.values()))
        rows = self._remaining()
        annotation = annotate(self.listing.space, self.values[rows])
        auxiliary = self.listing.read_auxiliary(self.entries.iloc[rows])
        group = self.listing.grouped
        ids = [self.ids[i] for i in images[rows]]
        groups, split = (self.entries[name].iloc[rows] for name in ("group", "split"))
        lines = self.entries["row"].fillna(0).to_numpy(dtype=np.int64)
        repeats = zip(lines[self.keepers.index].tolist(), lines[self.keepers].tolist(), strict=True)
        ungrouped = int(groups.isna().sum())
        if group is not None and ungrouped:
            groups = groups.where(groups.notna(), [f"{self.folder}:{file}" for file in ids])
            notes.append(f"{plural(ungrouped, 'image has', 'images have')} no {group!r}: each is a group of its own.")
        return Dataset(
            name=self.folder.resolve().name,
            x=x,
            space=self.listing.space,
            annotation=annotation,
            ids=ids,
            groups=None if group is None else groups.to_numpy(dtype=str),
            split=None if split.isna().all() else split.fillna("train").to_numpy(dtype=str),
            notes=[
                *self._summary(),
                *self.differing,
                *self.listing.notes,
                *cell_notes(self.listing.space, self.listing.codes[rows], self.policy),
                *([auxiliary.describe()] if auxiliary is not None else []),
                *notes,
            ],
            cells=self.listing.codes[rows].astype(np.int16),
            policy=self.policy,
            lines=lines[rows],
            repeats={line: kept for line, kept in repeats if line > 0},
            pixel_max=pixel_max,
            auxiliary=auxiliary,
            owner=self.listing.owner,
        )

    def _white(self, rows: NDArray[np.intp], given: float | None, notes: list[str]) -> tuple[float, float | None]:
        """What is white in images of 16 bits a pixel, and the dataset's `pixel_max`.

        As given where that is more than a byte, which says nothing of them; else as the bits tell that all but the test
        part use.
        """
        images = self.entries["image"].to_numpy()[rows]
        deep = np.array([self.headers[i].deep for i in images])
        if not deep.any():
            return DEEP, None
        learnt = deep & (self.entries["split"].to_numpy()[rows] != "test")
        chosen = images[learnt if learnt.any() else deep]
        white = scale_of(given, [self.folder / self.files[i] for i in chosen], [self.headers[i] for i in chosen])
        words = plural(int(deep.sum()), "image has 16 bits", "images have 16 bits")
        notes.append(f"{words} a pixel, of which {white:,.0f} is taken as white.")
        return white, white

    def _leave_out(self, rows: NDArray[np.intp], kind: str, reason: str | list[str]) -> None:
        self.entries.loc[rows, "kind"] = kind
        self.entries.loc[rows, "reason"] = reason

    def _remaining(self, report: bool = True) -> NDArray[np.intp]:
        """The positions of what is not left out, after writing the report of what is; DataError if all is.

        report: whether it is written where something remains: of a large table that takes as long as much else.
        """
        kept = (self.entries["kind"] == "").to_numpy()
        if self.skipped is not None and (report or not kept.any()):
            write_skipped(self.entries[~kept], self.skipped)
        if not kept.any():
            raise DataError(f"{self.folder}: no image remains. {' '.join(self._summary())}")
        return np.flatnonzero(kept)

    def _leave_out_repeated(self) -> None:
        """Of the rows and files that are one image keep the first, or none where they contradict each other.

        Rows that annotate different cells of one image are one row. What is annotated goes before what has only a group
        or a split, and that before what says nothing. An image in several parts of a split is kept in each of them, for
        `check_leakage` to see. `keepers` has the position of the entry that stands for each repeated one.
        """
        rows = np.flatnonzero(self.entries["kind"] == "")
        images = self.entries["image"].to_numpy()[rows]
        used = np.unique(images)
        first = used[find_copies([self.folder / self.files[i] for i in used])]
        one = pd.Series(first[np.searchsorted(used, images)], index=rows)
        for name in self.listing.placed:
            self.entries.loc[rows, name] = one_of_image(self.entries.loc[rows, name], one)
        said = pd.DataFrame(self.values[rows], index=rows)
        annotated = (said != LATENT).any(axis=1)
        placed = self.entries.loc[rows, ["group", "split"]]
        rank = np.where(annotated, 2, placed.notna().any(axis=1))
        said = said.join(placed.fillna("")).assign(image=one, rank=rank)
        lower = said["rank"] < said.groupby("image")["rank"].transform("max")
        best = said[~lower].copy()
        at, image = best.index.to_numpy(), best["image"].to_numpy()
        codes = self.listing.codes[at]
        # All rows of an image tell whether it is contradicted, but those of another part nothing to be learnt.
        settled = settle_together(self.listing.space, codes, self.policy, image)
        best[list(range(self.values.shape[1]))] = settled[0]
        if best["split"].nunique() > 1:
            settled = settle_together(self.listing.space, codes, self.policy, in_parts(image, best["split"]))
        self.values[at], self.listing.codes[at], self.differing = settled
        versions = (~best.drop(columns="split").duplicated()).groupby(best["image"]).transform("sum")
        rivals = best.index[versions > 1].to_numpy()
        repeated = np.union1d(said.index[lower], best.index[best.duplicated(["image", "split"])])
        where = ("row " + self.entries["row"].astype("string")).fillna(self.entries["file"]).astype(str)
        several = best["image"][best["image"].isin(best.loc[rivals, "image"])]
        everyone = where[several.index].groupby(several).agg(list)
        first_of = best.index.to_series().groupby(best["image"]).first()
        self.keepers = said.loc[repeated, "image"].map(first_of)
        self._leave_out(repeated, "repeated", [f"the same image as {where[kept]}" for kept in self.keepers])
        contradicted = said.loc[rivals, "image"]
        sentences = {image: f"contradicts: {listed(everyone[image])}" for image in contradicted.unique()}
        self._leave_out(rivals, "contradicting", contradicted.map(sentences).tolist())

    def _summary(self) -> list[str]:
        counts = self.entries["kind"].value_counts()
        parts = [plural(int(counts[kind]), *words) for kind, words in SKIPS.items() if kind in counts]
        where = "" if self.skipped is None else f" (listed in {self.skipped.name})"
        return [f"Left out{where}: {', '.join(parts)}."] if parts else []


def _choose_shape(
    headers: Sequence[Header], image_size: int | tuple[int, int] | None, channels: int | None
) -> tuple[Shape, list[str]]:
    """The shape [C, H, W] of all images, and what is worth telling of it."""
    sizes = sorted({(header.height, header.width) for header in headers})
    longest = max(max(size) for size in sizes)
    if isinstance(image_size, tuple):
        height, width = image_size
    elif image_size is None and len(sizes) == 1 and longest <= DEFAULT_SIZE:
        height, width = sizes[0]
    else:
        height = width = image_size or min(DEFAULT_SIZE, longest)
    notes = []
    if sizes != [(height, width)]:
        low, high = sizes[0], sizes[-1]
        given = f"{low[0]}x{low[1]}" + ("" if low == high else f" to {high[0]}x{high[1]}")
        hint = "; --image-size sets another side" if image_size is None and longest > MUCH * height else ""
        ratios = sorted(tall / wide for tall, wide in sizes)
        if image_size is None and max(ratios[0], 1 / ratios[-1]) >= LONG and ratios[-1] <= ALIKE * ratios[0]:
            tall, wide = sizes[len(sizes) // 2]
            scale = min(1.0, MUCH * DEFAULT_SIZE / max(tall, wide))
            hint = f"; --image-size {max(1, round(scale * tall))}x{max(1, round(scale * wide))} keeps their shape"
        notes.append(f"Images of {given} pixels (height x width) are resized to {height}x{width}{hint}.")
    grey = sum(header.grey for header in headers)
    coloured = len(headers) - grey
    usual = 1 if grey >= GREY * len(headers) else 3
    if channels is None and grey and coloured and usual == 3:
        notes.append(
            f"{grey:,} of {len(headers):,} images are grey, the others in colour: all are read as RGB; --channels 1 "
            "reads them as grey."
        )
    elif channels is None and coloured and usual == 1:
        words = plural(coloured, "image is", "images are")
        notes.append(f"{words} in colour, the others grey: all are read as grey; --channels 3 reads them as RGB.")
    return (channels or usual, height, width), notes

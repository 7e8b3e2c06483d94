"""A user's own embeddings, in a .npy, .npz or Parquet file, with a table of annotations that names their rows."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.data.arrays import ID_NAMES
from taut.data.cells import LATENT, annotate, cell_notes, check_policy, chosen_policy, settle_together
from taut.data.csv_table import FIRST_ROW, read_table
from taut.data.dataset import DataError, Dataset
from taut.data.joined import Column
from taut.data.listing import Listing, TableOptions, from_table, one_of_image, write_skipped
from taut.data.mapped import select
from taut.data.naming import is_unnamed
from taut.data.table import listed, plural
from taut.data.vector_files import ROW_NAMES, Inputs, read_inputs_file, says_ids
from taut.labels import LabelSpace, Scalar

PLACE = "Unnamed: row"  # the column of a table's own rows, where it has none; no header is read as this
SKIPS = {
    "unlisted": ("row is in no list of files", "rows are in no list of files"),
    "missing": ("row names an input that is not there", "rows name inputs that are not there"),
    "unnamed": ("row names no input", "rows name no input"),
    "repeated": ("row repeats another", "rows repeat others"),
    "contradicting": ("row contradicts another", "rows contradict each other"),
}


def load_embeddings(
    path: Path,
    labels: Path | None,
    options: TableOptions = TableOptions(),  # noqa: B008 - it is frozen
    *,
    uncertain: str | None = None,
    blank: str | None = None,
    space: LabelSpace | None = None,
    skipped: Path | None = None,
    unlabeled: Scalar | None = -1,
    white: float | None = None,
    channels: int | None = None,
) -> Dataset:
    """The dataset of a file of embeddings and a CSV table with a row for each of them that is annotated.

    Without a table all of them are unannotated, which needs `space`.
    path: .npy, an array [N, F]; .npz, with `x` (or one such array of any name) and, where there are, `image_id`, `ids`
        or `id` [N], or one other array of texts that differ; Parquet, with a column of lists, or one column a feature,
        and a column of ids: the one that `path_column` names, one of those names, one of texts that differ, or
        `sample_id`, `row` or `index`.
    options: how the table is read; its `path_column` says which input a row is for: its id, or its number from 0 where
        the file has no ids. By default `row`, `index`, `image_id`, `ids` or `id`, the first column of known ids, or an
        index that pandas wrote; where there is none and the table has a row for each input, they are in order.
    The other options are those of `load_folder`. Inputs without a row are kept as unannotated; rows that name no input
    are left out, and so are inputs whose rows contradict each other. Raises DataError or LabelError.
    """
    table = None if labels is None else read_table(labels)
    inputs = read_inputs_file(path, white, options.path_column, channels, table)
    if labels is None or table is None:
        given = [flag for flag in options.given() if flag != "--path-column"]
        if given:
            raise DataError(f"{', '.join(given)} is for columns of a table: pass the table with --labels")
        if space is None:
            raise DataError(
                f"{path} has no annotations: pass a table with --labels, or --classes N for clusters (in Python an "
                "explicit label space)"
            )
        check_policy(space, uncertain, blank)
        nothing = annotate(space, np.full((len(inputs.x), len(space)), LATENT))
        return Dataset(
            path.name,
            inputs.x,
            space,
            nothing,
            inputs.ids,
            notes=inputs.notes,
            pixel_max=inputs.white,
            feature_names=inputs.names,
        )
    column = options.path_column or _key_column(table, inputs)
    if column is None:
        table, column = _in_order(table, inputs, path, labels), PLACE
    if inputs.counted and column in table and _counts_from_one(table[column], len(inputs.x)):
        raise DataError(
            f"{labels}: {column!r} counts from 1, but the rows of {path} are counted from 0: take 1 off each number"
        )
    listing = from_table(
        path, inputs.ids, labels, replace(options, path_column=column), space, unlabeled, uncertain, table
    )
    if column == PLACE:
        listing.notes.append(
            f"No column of {labels.name} says which row of {path.name} is meant: there are as many, taken in order."
        )
    elif inputs.counted:
        listing.notes.append(f"Column {column!r} is the number of the row in {path.name}, from 0.")
    both = [name for name in listing.space.names if name in inputs.names]
    if both:
        raise DataError(f"{path}: {listed(both)} is among the features and among the labels of {labels}: drop it there")
    check_policy(listing.space, uncertain, blank)
    policy = chosen_policy(uncertain, blank, listing.blank)
    for name in listing.placed:
        listing.entries[name] = one_of_image(listing.entries[name], listing.entries["image"])
    of = listing.entries["image"].to_numpy()
    values, codes, differing = settle_together(listing.space, listing.codes, policy, of)
    rows, notes = _choose(listing, values, skipped, path)
    entries, codes = listing.entries.iloc[rows], codes[rows]
    images = entries["image"].to_numpy()
    ids = [inputs.ids[i] for i in images]
    groups, split = entries["group"], entries["split"]
    ungrouped = int(groups.isna().sum())
    if listing.grouped is not None and ungrouped:
        groups = groups.where(groups.notna(), [f"{path}:{name}" for name in ids])
        words = plural(ungrouped, "input has", "inputs have")
        notes.append(f"{words} no {listing.grouped!r}: each is a group of its own.")
    auxiliary = listing.read_auxiliary(entries)
    known = [] if auxiliary is None else [auxiliary.describe()]
    told = map(_of_inputs, listing.notes)
    return Dataset(
        name=path.name,
        x=select(inputs.x, images),
        space=listing.space,
        annotation=annotate(listing.space, values[rows]),
        ids=ids,
        groups=None if listing.grouped is None else groups.to_numpy(dtype=str),
        split=None if split.isna().all() else split.fillna("train").to_numpy(dtype=str),
        notes=[*notes, *differing, *inputs.notes, *told, *cell_notes(listing.space, codes, policy), *known],
        cells=codes.astype(np.int16),
        policy=policy,
        lines=entries["row"].fillna(0).to_numpy(dtype=np.int64),
        pixel_max=inputs.white,
        feature_names=inputs.names,
        auxiliary=auxiliary,
        owner=listing.owner,
    )


def _of_inputs(note: str) -> str:
    """A sentence about images as one about inputs; what is quoted in it, such as a column, stays as it is."""
    return re.sub(r"('.*?')|\bimage( file)?(?=s?\b)", lambda found: found[1] or "input", note)


def _choose(
    listing: Listing, values: NDArray[np.float64], skipped: Path | None, path: Path
) -> tuple[NDArray[np.intp], list[str]]:
    """The rows of a listing to keep, in the order of the inputs, and what is worth telling of the others."""
    entries = listing.entries.reset_index(drop=True)
    kind = entries["kind"].copy()
    counts = kind == ""
    kind[counts & (entries["image"] < 0)] = "missing"
    kind[counts & entries["file"].isna()] = "unnamed"
    said = pd.DataFrame(values).join(entries[["group", "split"]].fillna("")).assign(image=entries["image"])
    said = said[kind == ""]
    versions = (~said.duplicated()).groupby(said["image"]).transform("sum")
    repeated = said.duplicated("image")
    kind[repeated[repeated].index] = "repeated"
    kind[versions[versions > 1].index] = "contradicting"
    kept = (kind == "").to_numpy()
    if skipped is not None:
        words = kind.map({name: one for name, (one, _) in SKIPS.items()})
        write_skipped(entries.assign(reason=words)[~kept], skipped)
    numbers = kind.value_counts()
    parts = [plural(int(numbers[name]), *words) for name, words in SKIPS.items() if name in numbers]
    where = "" if skipped is None else f" (listed in {skipped.name})"
    notes = [f"Left out{where}: {', '.join(parts)}."] if parts else []
    if not kept.any():
        raise DataError(f"{path}: no input remains. {' '.join(notes)}")
    rows = np.flatnonzero(kept)
    return rows[np.argsort(entries["image"].to_numpy()[rows], kind="stable")], notes


def _key_column(table: pd.DataFrame, inputs: Inputs) -> str | None:
    """The column that says which input a row is for, or None."""
    known = set(inputs.ids)
    names = [str(name) for name in table.columns if not is_unnamed(str(name))]
    fitting = [] if inputs.counted else [name for name in names if says_ids(table[name].dropna(), known)]
    usual = (*ROW_NAMES, *ID_NAMES) if inputs.counted else (*ID_NAMES, *ROW_NAMES)
    by_name = sorted((name for name in names if name.lower() in usual), key=lambda name: usual.index(name.lower()))
    same = [name for name in names if name == inputs.key and name in fitting]
    best = [*same, *(name for name in by_name if name in fitting), *fitting, *by_name]
    unnamed = [name for name in map(str, table.columns) if is_unnamed(name) and _is_index(table[name], inputs)]
    return next(iter([*best, *unnamed]), None)


def _is_index(cells: Column, inputs: Inputs) -> bool:
    """Whether a column without a name, as pandas writes its index, has numbers of rows, and does not count its own."""
    numbers = [str(i) for i in range(len(cells))]
    alone = len(cells) < len(inputs.x) and list(cells) == numbers
    return inputs.counted and not alone and cells.is_unique and bool(cells.isin(inputs.ids).all())


def _in_order(table: pd.DataFrame, inputs: Inputs, path: Path, labels: Path) -> pd.DataFrame:
    """The table with the numbers of its rows as a column, where it has as many as there are inputs without ids."""
    places = table.index.to_numpy() - FIRST_ROW
    if inputs.counted and places[-1] + 1 == len(inputs.x):
        return table.assign(**{PLACE: places.astype(str)})
    ids = "numbers of rows, from 0," if inputs.counted else f"ids ({listed(inputs.ids, 3)})"
    raise DataError(
        f"{labels}: no column says which row of {path} is meant, nor are there as many rows: name a column of {ids} "
        f"with --path-column; columns: {listed(list(table.columns))}"
    )


def _counts_from_one(cells: Column, count: int) -> bool:
    """Whether the numbers of rows go from 1 to their count and none is 0."""
    numbers = pd.to_numeric(cells, errors="coerce")
    return bool(numbers.min() == 1 and numbers.max() == count)

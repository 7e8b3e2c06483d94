"""A user's own embeddings, in a .npy, .npz or Parquet file, with a table of annotations that names their rows."""

from __future__ import annotations

import re
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.data.arrays import ID_NAMES
from taut.data.cache import MAP_BYTES
from taut.data.cells import LATENT, annotate, cell_notes, check_policy, chosen_policy, settle_together
from taut.data.csv_table import FIRST_ROW, read_table
from taut.data.dataset import DataError, Dataset, as_images, pixel_max, small_scale, without_sides_of_one
from taut.data.joined import Column
from taut.data.listing import Listing, TableOptions, from_table, one_of_image, write_skipped
from taut.data.mapped import select
from taut.data.naming import is_unnamed
from taut.data.owners import says_owner
from taut.data.table import listed, plural
from taut.labels import LabelSpace, Scalar

SUFFIXES = (".npy", ".npz", ".parquet", ".pq")
ROW_NAMES = ("row", "index")
PLACE = "Unnamed: row"  # the column of a table's own rows, where it has none; no header is read as this
WEAK_NAMES = ("sample_id", *ROW_NAMES)  # of ids, where nothing else is known as such
NO_FEATURES = (*ID_NAMES, *WEAK_NAMES)
SKIPS = {
    "unlisted": ("row is in no list of files", "rows are in no list of files"),
    "missing": ("row names an input that is not there", "rows name inputs that are not there"),
    "unnamed": ("row names no input", "rows name no input"),
    "repeated": ("row repeats another", "rows repeat others"),
    "contradicting": ("row contradicts another", "rows contradict each other"),
}


@dataclass
class Inputs:
    """What a file of embeddings holds: x [N, F] float32 (or images); ids [N]; names: of the columns, if they have any.

    counted: whether the ids are the rows' numbers, from 0, because the file has none.  white: as `Dataset.pixel_max`.
    """

    x: NDArray[Any]
    ids: list[str]
    counted: bool
    names: list[str]
    white: float | None
    notes: list[str] = field(default_factory=list)


def read_inputs_file(
    path: Path, white: float | None = None, key: str | None = None, channels: int | None = None
) -> Inputs:
    """The inputs in a .npy, .npz or Parquet file; DataError where there are none, or two rows have one id.

    white, channels: as `as_images` takes them.  key: the column of ids, if a Parquet file has one of that name.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    kind = path.suffix.lower()
    x, ids, names, left = _parquet(path, key) if kind in (".parquet", ".pq") else (*_numpy(path, kind), [])
    x = without_sides_of_one(x)
    white = None if x.ndim == 2 else pixel_max(x) if white is None else white
    notes = small_scale(x, white)
    notes += [f"Columns of text are no features: {listed(left)}."] if left else []
    notes += _odd_names(names)
    x = as_images(x, str(path), white, channels)
    if ids is not None and len(ids) != len(x):
        raise DataError(f"{path}: {len(x):,} inputs but {len(ids):,} ids")
    ids = ids.astype(str) if ids is not None and ids.dtype.kind == "S" else ids
    found = [str(i) for i in range(len(x))] if ids is None else [str(value) for value in ids]
    if len(set(found)) < len(found):
        repeated = pd.Series(found)
        raise DataError(f"{path}: the id {repeated[repeated.duplicated()].iloc[0]!r} stands in several rows")
    return Inputs(x, found, ids is None, names, white, notes)


def _odd_names(names: list[str]) -> list[str]:
    """What to do about columns of numbers that are not named as most are, f0, f1, …: they may be no features."""
    stems = pd.Series([re.sub(r"\d+$", "", name) for name in names], dtype="str")
    usual = stems == stems.mode().iloc[0] if len(stems) else stems
    odd = [name for name, same in zip(names, usual, strict=True) if not same]
    if not odd or len(odd) >= len(names) / 2:
        return []
    like = names[int(np.argmax(usual))]
    return [f"Not named like {like!r}, but taken as features too: {listed(odd)}. Drop what is none."]


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
    inputs = read_inputs_file(path, white, options.path_column, channels)
    if labels is None:
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
    table = read_table(labels)
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


def _says_rows(name: str) -> bool:
    """Whether a column is called as one of ids, of numbers of rows or of patients, which are no features."""
    return name.lower() in NO_FEATURES or is_unnamed(name) or says_owner(name)


def _says_ids(cells: Column, known: set[str]) -> bool:
    """Whether most of a column's cells are ids, each of them once."""
    return len(cells) > 0 and bool(cells.isin(known).mean() >= 0.5) and cells.is_unique


def _key_column(table: pd.DataFrame, inputs: Inputs) -> str | None:
    """The column that says which input a row is for, or None."""
    known = set(inputs.ids)
    names = [str(name) for name in table.columns if not is_unnamed(str(name))]
    fitting = [] if inputs.counted else [name for name in names if _says_ids(table[name].dropna(), known)]
    usual = (*ROW_NAMES, *ID_NAMES) if inputs.counted else (*ID_NAMES, *ROW_NAMES)
    by_name = sorted((name for name in names if name.lower() in usual), key=lambda name: usual.index(name.lower()))
    best = [*(name for name in by_name if name in fitting), *fitting, *by_name]
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


def _numpy(path: Path, kind: str) -> tuple[NDArray[Any], NDArray[Any] | None, list[str]]:
    try:
        with path.open("rb") as file:
            large = kind == ".npy" and path.stat().st_size > MAP_BYTES
            opened = np.load(path if large else file, mmap_mode="r" if large else None, allow_pickle=False)
            if kind == ".npy":
                if not isinstance(opened, np.ndarray):
                    raise DataError(f"{path} is a .npz file by its content: rename it")
                return _wide(opened, path), None, []
            arrays = {name: array for name in opened.files if (array := _unpickled(opened, name)) is not None}
            objects = [name for name in opened.files if name not in arrays]
    except DataError:
        raise
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a numpy {kind} file of numbers, or it is damaged") from error
    wide = [name for name, array in arrays.items() if array.ndim >= 2 and array.dtype.kind in "biuf"]
    chosen = "x" if "x" in arrays else wide[0] if len(wide) == 1 else None
    asked = [name for name in objects if name in ("x", *ID_NAMES)]
    if asked:
        raise DataError(
            f"{path}: array {asked[0]!r} holds pickled Python objects, which could run code and are not read: save it "
            "as numbers or text"
        )
    if chosen is None:
        raise DataError(f"{path}: expected an array 'x' [N, F], but found {', '.join(arrays) or 'nothing'}")
    own = {"y", "split", "label_names", "class_names"} & set(arrays)
    if own:
        raise DataError(f"{path} has annotations of its own ({listed(sorted(own))}): leave out --labels, or drop them")
    ids = next((arrays[name] for name in ID_NAMES if name in arrays), None)
    x = _wide(arrays[chosen], path)
    return x, _only_texts(arrays, len(x), path) if ids is None else ids, []


def _only_texts(arrays: dict[str, NDArray[Any]], count: int, path: Path) -> NDArray[Any] | None:
    """The array of as many texts as there are inputs, all different, which are ids whatever its name; None without."""
    texts = [name for name, array in arrays.items() if array.dtype.kind in "US" and array.shape == (count,)]
    differ = [name for name in texts if len(np.unique(arrays[name])) == count]
    if len(differ) > 1:
        raise DataError(f"{path}: {listed(differ)} could all be ids of the inputs: call one of them 'ids'")
    return arrays[differ[0]] if differ else None


def _unpickled(file: Any, name: str) -> NDArray[Any] | None:
    """An array of an open file; None for Python objects, which are not read."""
    try:
        return np.asarray(file[name])
    except ValueError as error:
        if "allow_pickle" in str(error):
            return None
        raise


def _wide(x: NDArray[Any], path: Path) -> NDArray[Any]:
    if x.ndim < 2:
        raise DataError(f"{path} has shape {list(x.shape)}: expected embeddings [N, F]")
    return x


def _with_index(table: pd.DataFrame, path: Path) -> tuple[pd.DataFrame, str | None]:
    """The table with its index as a column, and that column; None where the index only counts the rows."""
    if isinstance(table.index, pd.MultiIndex):
        raise DataError(f"{path} has an index of several columns: make one column of ids of it, with reset_index()")
    if table.index.name is None and table.index.equals(pd.RangeIndex(len(table))):
        return table, None
    name = "index" if table.index.name is None else str(table.index.name)
    return table if name in table else table.rename_axis(index=name).reset_index(), name


def _parquet(path: Path, key: str | None) -> tuple[NDArray[Any], NDArray[Any] | None, list[str], list[str]]:
    """The embeddings, their ids, the names of columns of numbers, and those of columns of text that are not the ids."""
    try:
        import pyarrow  # noqa: F401 - pandas says nothing of our extra
    except ModuleNotFoundError as error:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from error
    try:
        table = pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a Parquet file, or it is damaged") from error
    table, index = _with_index(table, path)
    lists = [name for name in table if isinstance(next(iter(table[name].dropna()), None), np.ndarray | list)]
    named = [key] if key in table else [name for name in table if str(name).lower() in ID_NAMES]
    weak = [name for name in table if str(name).lower() in WEAK_NAMES and table[name].is_unique]
    objects = [name for name in table if table[name].dtype == object]
    packed = [name for name in objects if isinstance(next(iter(table[name].dropna()), None), dict | bytes)]
    if packed and not lists:
        raise DataError(
            f"{path}: column {packed[0]!r} holds images as bytes or records, not embeddings: write them as files into "
            "a folder, or as an array into a .npz file"
        )
    texts = [
        name
        for name in table
        if name not in lists and name not in packed and not pd.api.types.is_numeric_dtype(table[name])
    ]
    others = [*(name for name in texts if table[name].is_unique), *([] if index is None else [index]), *weak]
    ids = next(iter([*named, *others]), None)
    if len(lists) > 1:
        raise DataError(f"{path} has several columns of lists ({listed(lists)}): keep the one with the embeddings")
    try:
        if lists:
            x, names = np.stack([np.asarray(value, dtype=np.float32) for value in table[lists[0]]]), []
        else:
            names = [name for name in table if name not in (ids, index, *texts) and not _says_rows(str(name))]
            x = table[names].to_numpy(dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: the embeddings in its rows are not numbers of one length") from error
    if x.shape[1] == 0:
        raise DataError(f"{path} has no columns of numbers, but {listed(list(table.columns))}")
    left = [] if lists else [str(name) for name in texts if name != ids]
    return x, None if ids is None else table[ids].to_numpy(), [str(name) for name in names], left

"""Files of embeddings, .npy, .npz or Parquet: the inputs, their ids, and the names of their columns."""

from __future__ import annotations

import re
import zipfile
import zlib
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.data.arrays import ID_NAMES
from taut.data.cache import MAP_BYTES
from taut.data.dataset import DataError, as_images, pixel_max, small_scale, without_sides_of_one
from taut.data.joined import Column
from taut.data.naming import is_unnamed
from taut.data.owners import says_owner
from taut.data.table import listed

SUFFIXES = (".npy", ".npz", ".parquet", ".pq")
ROW_NAMES = ("row", "index")
WEAK_NAMES = ("sample_id", *ROW_NAMES)  # of ids, where nothing else is known as such
NO_FEATURES = (*ID_NAMES, *WEAK_NAMES)


@dataclass
class Inputs:
    """What a file of embeddings holds: x [N, F] float32 (or images); ids [N]; names: of the columns, if they have any.

    counted: whether the ids are the rows' numbers, from 0, because the file has none.  white: as `Dataset.pixel_max`.
    key: what the file calls them.
    """

    x: NDArray[Any]
    ids: list[str]
    counted: bool
    names: list[str]
    white: float | None
    notes: list[str] = field(default_factory=list)
    key: str | None = None


def read_inputs_file(
    path: Path,
    white: float | None = None,
    key: str | None = None,
    channels: int | None = None,
    table: pd.DataFrame | None = None,
) -> Inputs:
    """The inputs in a .npy, .npz or Parquet file; DataError where there are none, or two rows have one id.

    white, channels: as `as_images` takes them.  key: the column of ids, if a Parquet file has one of that name.
    table: of annotations, whose rows may be named by a column that the file has under the same name.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file")
    kind = path.suffix.lower()
    parquet = kind in (".parquet", ".pq")
    x, called, names, left = _parquet(path, key, table) if parquet else (*_numpy(path, kind, table), [])
    own, ids = (None, None) if called is None else called
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
    return Inputs(x, found, ids is None, names, white, notes, own)


def _odd_names(names: list[str]) -> list[str]:
    """What to do about columns of numbers that are not named as most are, f0, f1, …: they may be no features."""
    stems = pd.Series([re.sub(r"\d+$", "", name) for name in names], dtype="str")
    usual = stems == stems.mode().iloc[0] if len(stems) else stems
    odd = [name for name, same in zip(names, usual, strict=True) if not same]
    if not odd or len(odd) >= len(names) / 2:
        return []
    like = names[int(np.argmax(usual))]
    return [f"Not named like {like!r}, but taken as features too: {listed(odd)}. Drop what is none."]


def _says_rows(name: str) -> bool:
    """Whether a column is called as one of ids, of numbers of rows or of patients, which are no features."""
    return name.lower() in NO_FEATURES or is_unnamed(name) or says_owner(name)


def says_ids(cells: Column, known: set[str]) -> bool:
    """Whether most of a column's cells are ids, each of them once."""
    return len(cells) > 0 and bool(cells.isin(known).mean() >= 0.5) and cells.is_unique


def _is_key(name: str, values: NDArray[Any] | pd.Series[Any], table: pd.DataFrame | None) -> bool:
    """Whether whole numbers or texts that differ are what a table has in its column of the same name."""
    if table is None or name not in table or values.dtype.kind not in "iuUSOT" or is_unnamed(name):
        return False
    texts = pd.Series(values.astype(str) if values.dtype.kind == "S" else values).astype("str")
    return bool(texts.is_unique) and says_ids(table[name].dropna(), set(texts))


def _numpy(
    path: Path, kind: str, table: pd.DataFrame | None = None
) -> tuple[NDArray[Any], tuple[str, NDArray[Any]] | None, list[str]]:
    """The embeddings, what the file calls their ids and these, and no names of columns."""
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
    x = _wide(arrays[chosen], path)
    keys = [name for name, array in arrays.items() if array.shape == (len(x),) and _is_key(name, array, table)]
    ids = next((name for name in (*keys, *ID_NAMES) if name in arrays), None)
    ids = _only_texts(arrays, len(x), path) if ids is None else ids
    return x, None if ids is None else (ids, arrays[ids]), []


def _only_texts(arrays: dict[str, NDArray[Any]], count: int, path: Path) -> str | None:
    """The array of as many texts as there are inputs, all different, which are ids whatever its name; None without."""
    texts = [name for name, array in arrays.items() if array.dtype.kind in "US" and array.shape == (count,)]
    differ = [name for name in texts if len(np.unique(arrays[name])) == count]
    if len(differ) > 1:
        raise DataError(f"{path}: {listed(differ)} could all be ids of the inputs: call one of them 'ids'")
    return differ[0] if differ else None


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


def _parquet(
    path: Path, key: str | None, annotations: pd.DataFrame | None = None
) -> tuple[NDArray[Any], tuple[str, NDArray[Any]] | None, list[str], list[str]]:
    """The embeddings, what the file calls their ids and these, its columns of numbers, and those of text but these."""
    if find_spec("pyarrow") is None:  # pandas says nothing of our extra
        raise DataError(f"{path}: Parquet needs pyarrow: pip install pyarrow")
    try:
        table = pd.read_parquet(path, engine="pyarrow")
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a Parquet file, or it is damaged") from error
    table, index = _with_index(table, path)
    lists = [name for name in table if isinstance(next(iter(table[name].dropna()), None), np.ndarray | list)]
    keys = [name for name in table if _is_key(str(name), table[name], annotations)]
    named = [key] if key in table else [*keys, *(name for name in table if str(name).lower() in ID_NAMES)]
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
    called = None if ids is None else (str(ids), table[ids].to_numpy())
    return x, called, [str(name) for name in names], left

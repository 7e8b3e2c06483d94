"""Image files under a folder, and which of them the paths in a table mean."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taut.data.table import SUFFIXES, Column


def find_images(folder: Path) -> list[str]:
    """The image files under a folder by their ending, hidden ones left out: sorted relative paths with "/".

    Links to folders are followed, each folder being visited once.
    """
    found: list[str] = []
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            seen.add(real)
            images = (name for name in names if name.lower().endswith(SUFFIXES) and not name.startswith("."))
            found += [Path(place, name).relative_to(folder).as_posix() for name in images]
    return sorted(found)


def match_files(values: Column, files: list[str], folder: Path, table_folder: Path) -> NDArray[np.intp]:
    """The position in `files` of the image that each cell means, [N], or −1.

    A cell is looked for relative to the folder, then to the table's folder. Then files that no cell has named
    so far are looked for by the cell's path without its first folders, and by the bare name, with or without
    its ending; where two files, or two different cells, have that name, none is taken.
    """
    texts = values.str.replace("\\", "/", regex=False).str.replace(r"^(\./)+", "", regex=True)
    found = np.full(len(values), -1, dtype=np.intp)
    index = {file: i for i, file in enumerate(files)}

    def look(key: Callable[[str], str], names: dict[str, int], unique: bool) -> None:
        left = np.flatnonzero((found < 0) & texts.notna().to_numpy())
        if len(left) == 0:
            return
        cells = texts.iloc[left]
        keys = cells.map(key)
        hits = keys.map(names).to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
        if unique:
            shared = cells.groupby(keys.to_numpy()).transform("nunique").to_numpy() > 1
            hits[shared | np.isin(hits, found[found >= 0])] = np.nan
        known = ~np.isnan(hits)
        found[left[known]] = hits[known].astype(np.intp)

    look(lambda text: text, index, False)
    whole = {os.path.abspath(folder / file): i for i, file in enumerate(files)}
    base = os.path.abspath(table_folder)
    look(lambda text: os.path.normpath(os.path.join(base, text)), whole, False)
    for depth in range(1, int(texts.str.count("/").max()) if texts.notna().any() else 0):
        look(lambda text, depth=depth: "/".join(text.split("/")[depth:]), index, True)  # type: ignore[misc]
    look(lambda text: text.rpartition("/")[2], _unique(files, lambda file: file.rpartition("/")[2]), True)
    look(lambda text: text.rpartition("/")[2], _unique(files, lambda file: Path(file).stem), True)
    return found


def _unique(files: list[str], key: Callable[[str], str]) -> dict[str, int]:
    """The position of every file whose key no other file has."""
    keys = [key(file) for file in files]
    counts = Counter(keys)
    return {name: i for i, name in enumerate(keys) if counts[name] == 1}

"""Image files under a folder, and which of them the paths in a table mean."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.data.dataset import DataError
from taut.data.dicom import SUFFIXES as DICOM_SUFFIXES
from taut.data.dicom import is_dicom
from taut.data.joined import Column
from taut.data.naming import is_unnamed, says_image
from taut.data.table import listed, plural

RASTERS = ".png .jpg .jpeg .jfif .jp2 .avif .bmp .gif .tif .tiff .webp .ppm .pgm .pbm .pnm"
SUFFIXES = (*RASTERS.split(), *DICOM_SUFFIXES)
RUN_FILES = {"plan.yaml", "facts.json", "metrics.jsonl"}  # by which a folder is a run
OTHERS = ".heic .heif .nii .nii.gz .mha .mhd .nrrd .svs .ndpi .czi .nd2 .psd .dng"  # which are images, but not read
SEVERAL = -2  # files have the name in a cell
SMALL_NUMBER = r"\d{1,4}"  # such as a class or an age, and an image only where nothing else is


def find_images(folder: Path, notes: list[str] | None = None) -> list[str]:
    """The image files under a folder, hidden ones left out: sorted relative paths with "/".

    So are runs that were written there, whose pictures are no data.
    An image has the ending of one, or has none (or a number) and begins as a DICOM file does. Links to folders are
    followed, each folder being visited once. notes: gets a sentence on folders that may not be read, and one on files
    whose names no table can hold, which are left out.
    """
    found: list[str] = []
    strange: list[str] = []
    unread: list[str] = []
    closed: list[OSError] = []
    seen: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=closed.append):
        status = os.stat(place)
        real = status.st_dev, status.st_ino
        inside = real in seen or set(names) >= RUN_FILES
        folders[:] = [] if inside else sorted(name for name in folders if not name.startswith("."))
        if not inside:
            seen.add(real)
            prefix = "" if place == str(folder) else Path(place).relative_to(folder).as_posix() + "/"
            images = [prefix + name for name in names if not name.startswith(".") and _is_image(place, name)]
            strange += [name for name in images if not _is_text(name)]
            unread += [prefix + name for name in sorted(names) if name.lower().endswith(tuple(OTHERS.split()))]
            found += [name for name in images if _is_text(name)]
    if notes is not None and closed:
        first = f"{closed[0].filename} ({closed[0].strerror})"
        notes.append(f"Left out: {plural(len(closed), 'folder', 'folders')} that cannot be read, such as {first}.")
    if notes is not None and strange:
        first, count = repr(os.fsencode(strange[0]))[1:], plural(len(strange), "file", "files")
        notes.append(f"Left out: {count} with a name that is not UTF-8, such as {first}.")
    if notes is not None and unread:
        count = plural(len(unread), "file", "files")
        notes.append(f"Left out: {count} of kinds that are not read, such as {unread[0]!r}: convert them to PNG.")
    return sorted(found)


def _is_text(name: str) -> bool:
    """Whether a name can be written as text: bytes that are not UTF-8 are surrogates in it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_image(place: str, name: str) -> bool:
    suffix = os.path.splitext(name)[1].lower()
    return suffix in SUFFIXES or ((not suffix or suffix[1:].isdigit()) and is_dicom(Path(place, name)))


def find_path_column(table: pd.DataFrame, files: list[str]) -> tuple[str, list[str]]:
    """The column that names images, and what is worth telling of it.

    One most of whose cells end like an image file, and of several the one that names most files; else one most of whose
    cells are names of files without their ending. DataError where there is none, where several of the latter differ,
    or where the table has no header.
    """
    names = [str(name) for name in table.columns if not is_unnamed(str(name))]
    ending = [name for name in names if _end_like_images(table[name].dropna())]
    for name in ending:
        if name.lower().endswith(SUFFIXES):
            raise DataError(f"the table has no header: its first row names an image, {name!r}: name its columns")
    if len(ending) == 1:
        return ending[0], []
    if ending:
        bases = {_composed(file.rpartition("/")[2]) for file in files}
        counts = [_bases(table[name].dropna()).map(_composed).drop_duplicates().isin(bases).sum() for name in ending]
        best = ending[int(np.argmax(counts))]
        return best, [f"Images are named by {best!r}, and not by {listed([n for n in ending if n != best])}."]
    stems = {_composed(_stem(file)) for file in files}
    named = [name for name in names if _bases(table[name].dropna()).map(_composed).isin(stems).mean() >= 0.5]
    small = [name for name in named if table[name].dropna().str.fullmatch(SMALL_NUMBER).all()]
    differ = [name for name in small if 2 * table[name].nunique() > len(table)]
    found = [name for name in named if name not in small]
    if not found and len(differ) == 1:
        found = differ
    if len(found) > 1:
        # A number of the row can be the name of another row's image.
        found = [name for name in found if says_image(name)] or found
    if len(found) > 1 and not all(table[name].equals(table[found[0]]) for name in found):
        raise DataError(f"columns {listed(found)} all name images: say which is meant with --path-column")
    if found:
        return found[0], [f"Images are named by {found[0]!r}, without the ending of their files."]
    raise DataError(
        f"no column of the table looks like image files ({', '.join(SUFFIXES)}): name it with --path-column; "
        f"columns: {listed(list(table.columns))}"
    )


def _end_like_images(cells: Column) -> bool:
    """Whether most of some cells, none of them blank, end like image files."""
    return len(cells) > 0 and bool(cells.str.lower().str.endswith(SUFFIXES).mean() >= 0.5)


def _bases(cells: Column) -> Column:
    if cells.empty:
        return cells  # of which pandas makes no parts
    return cells.str.replace("\\", "/", regex=False).str.rpartition("/")[2]


def read_list(path: Path, flag: str) -> set[str]:
    """The names in a text file of one a line; DataError naming the flag where there are none."""
    try:
        names = {line.strip().replace("\\", "/") for line in path.read_text(encoding="utf-8-sig").splitlines()} - {""}
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{flag} {path} cannot be read: {str(error).splitlines()[0]}") from error
    if not names:
        raise DataError(f"{flag} {path} names no image")
    return names


def match_files(
    values: Column, files: list[str], folder: Path, table_folder: Path, shared: int = 1
) -> NDArray[np.intp]:
    """The position in `files` of the image that each cell means, [N], or −1, or SEVERAL.

    A cell is looked for relative to the folder, then to the table's folder. Then files that no cell has named
    so far are looked for by the cell's path without its first folders, by the last parts of both paths in any letters
    (A for a) and with any ending of an image, and by the bare name, with or without its ending, then in any letters or
    with the ending of another kind of image; where two different cells have that name, none is taken, nor where two
    files have it (SEVERAL).
    shared: how many last parts of its path, folders and name, must be left; above 1 a bare name is never enough, and
    the ending may be that of another kind of image.
    """
    texts = values.str.replace("\\", "/", regex=False).str.replace(r"^(\./)+", "", regex=True).map(_composed)
    files = [_composed(file) for file in files]
    found = np.full(len(values), -1, dtype=np.intp)
    index = {file: i for i, file in enumerate(files)}

    words = texts.to_numpy(dtype=object)  # going through pandas' strings takes several times as long
    possible = texts.notna().to_numpy(copy=True)

    def look(key: Callable[[str], str | None], names: dict[str, int], unique: bool) -> None:
        left = np.flatnonzero((found < 0) & possible)
        if len(left) == 0:
            return
        named = [names.get(place) if (place := key(text)) is not None else None for text in words[left]]
        hits = np.array(named, dtype=np.float64)  # NaN for None
        if unique and not np.isnan(hits).all():
            there = np.flatnonzero(~np.isnan(hits))
            several = texts.iloc[left[there]].groupby(hits[there]).transform("nunique").to_numpy() > 1
            hits[there[several | np.isin(hits[there], found[found >= 0])]] = np.nan
        known = ~np.isnan(hits)
        found[left[known]] = hits[known].astype(np.intp)

    look(lambda text: text, index, False)
    top, base = os.path.abspath(folder), os.path.abspath(table_folder)
    if base != top or texts.str.contains(r"\.\./|^/|^[A-Za-z]:", na=False).any():
        whole = {os.path.normpath(os.path.join(top, file)): i for i, file in enumerate(files)}
        look(lambda text: os.path.normpath(os.path.join(base, text)), whole, False)
    if shared > 1:
        # Any match from here on has these last parts: of a large table few rows are left to be looked at again.
        tails = {_stem_tail(file, shared) for file in files}
        possible &= np.array([isinstance(text, str) and _stem_tail(text, shared) in tails for text in words])
    deepest = int(texts.str.count("/").max()) if texts.notna().any() else 0
    for depth in range(1, deepest if shared == 1 else deepest + 2 - shared):
        look(lambda text, depth=depth: _tail(text, depth, shared), index, True)  # type: ignore[misc]
    if shared > 1:
        whole_tail = partial(_stem_tail, shared=shared)
        look(whole_tail, _unique(files, whole_tail), True)
        return found
    if not ((found < 0) & possible).any():
        return found
    for parts in range(deepest + 1, 1, -1):
        last = partial(_folded_tail, parts=parts)
        look(last, _unique(files, last), True)
    look(lambda text: text.rpartition("/")[2], _unique(files, lambda file: file.rpartition("/")[2]), True)
    look(lambda text: text.rpartition("/")[2], _unique(files, _stem), True)
    look(_folded, _unique(files, _folded), True)
    look(_folded_stem, _unique(files, _folded_stem), True)
    if ((found < 0) & possible).any():
        several = {name for name, count in Counter(_stem(file) for file in files).items() if count > 1}
        left = np.flatnonzero((found < 0) & possible)
        bare = [i for i in left if "/" not in words[i]]  # a path names a single one, which is not there
        found[[i for i in bare if _stem(words[i]) in several or words[i] in several]] = SEVERAL
    return found


def elsewhere(values: Column, files: list[str], found: NDArray[np.intp]) -> list[str]:
    """What to say of cells that name a file in another folder than the one where it was found, by its bare name."""
    cells = values.to_numpy(dtype=object)
    named = [(str(cells[i]).replace("\\", "/"), files[found[i]]) for i in np.flatnonzero(found >= 0)]
    moved = [pair for pair in named if all("/" in path for path in pair) and _folder_of(pair[0]) != _folder_of(pair[1])]
    if not moved:
        return []
    return [
        f"{plural(len(moved), 'row names an image', 'rows name images')} in another folder than the one where it was "
        f"found, such as {moved[0][0]!r}, for which {moved[0][1]!r} was taken."
    ]


def _folder_of(path: str) -> str:
    """The name of the folder that a file is in."""
    return path.rpartition("/")[0].rpartition("/")[2]


def files_called(cell: str, files: list[str]) -> list[str]:
    """The files that have the bare name of a cell, with or without its ending."""
    names = {_stem(cell), cell.rpartition("/")[2]}
    return [file for file in files if _stem(file) in names]


def _composed(text: Any) -> Any:
    """A name with accents in its letters, as tables have it, and not beside them, as macOS has it; NaN as it is."""
    return unicodedata.normalize("NFC", text) if isinstance(text, str) and not text.isascii() else text


def _stem(file: str) -> str:
    """The bare name without its ending; digits after the last point, as in 1.2.840.7, are none, but for a 0 alone."""
    stem, suffix = os.path.splitext(file.rpartition("/")[2])
    return stem + suffix if suffix[1:].isdigit() and suffix != ".0" else stem


def _stem_tail(text: str, shared: int) -> str | None:
    """The last parts of a path without the ending of an image, or None where there are fewer parts."""
    parts = text.rsplit("/", shared)[-shared:]
    stem, _, suffix = parts[-1].rpartition(".")  # os.path.splitext takes twice as long, of each row of a table
    if stem.strip(".") and f".{suffix.lower()}" in SUFFIXES:
        parts[-1] = stem
    return "/".join(parts) if len(parts) == shared else None


def _folded_tail(text: str, parts: int) -> str | None:
    """The last parts of a path in small letters, without the ending of an image; None where there are fewer."""
    return _stem_tail(text.casefold(), parts)


def _folded(text: str) -> str:
    return text.rpartition("/")[2].casefold()


def _folded_stem(text: str) -> str | None:
    """The bare name without its ending, or None where that is not an image's, as in an id with a point."""
    stem, suffix = os.path.splitext(_folded(text))
    return stem if suffix in SUFFIXES else None


def _tail(text: str, depth: int, shared: int) -> str | None:
    """A path without its first folders, or None where fewer than the shared parts are left."""
    parts = text.split("/")[depth:]
    return "/".join(parts) if len(parts) >= shared else None


def _unique(files: list[str], key: Callable[[str], str | None]) -> dict[str, int]:
    """The position of every file whose key no other file has."""
    keys = [key(file) for file in files]
    counts = Counter(keys)
    return {name: i for i, name in enumerate(keys) if name is not None and counts[name] == 1}

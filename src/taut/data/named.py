"""The image files that a table by itself may mean: those below a folder, or those that it names by absolute paths."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from taut.data.dataset import DataError
from taut.data.files import find_images, find_path_column

ELSEWHERE = "name the folder of the table's images with {} FOLDER"


def images_of_table(
    folder: Path, path: Path, table: pd.DataFrame, column: str | None, notes: list[str] | None = None
) -> list[str]:
    """The images below a folder, relative with "/", and elsewhere the files that cells name by their absolute paths.

    The latter only where the folder is the table's own, and not one that was named. It is not walked where all cells
    are absolute paths of files: a table is often in somebody's home.
    column: the one that names images; by default `find_path_column`, where that needs no files.  notes: as in
    `find_images`.
    """
    if folder != path.parent:
        return find_images(folder, notes)
    try:
        cells = table[column or find_path_column(table, [])[0]].dropna().unique()
    except (DataError, KeyError):  # which are told later on
        return find_images(folder, notes)
    places = {os.path.normpath(cell) for cell in cells if os.path.isabs(cell) and os.path.isfile(cell)}
    top = os.path.join(os.path.abspath(folder), "")
    named = {Path(place.removeprefix(top)).as_posix() for place in places}
    if len(cells) and all(os.path.normpath(cell) in places for cell in cells):
        return sorted(named)
    return sorted({*named, *find_images(folder, notes)})


def path_column_of(table: pd.DataFrame, files: list[str], flag: str | None) -> tuple[str, list[str]]:
    """`find_path_column`; flag: the one for the folder of the images, which a DataError names too."""
    try:
        return find_path_column(table, files)
    except DataError as error:
        raise DataError(f"{error}; or {ELSEWHERE.format(flag)}" if flag else str(error)) from error


def outside(place: Path, folder: Path, files: list[str]) -> list[str]:
    """The files of a folder, relative to it, that are not below another place in it; a link may lead there."""
    parents, there = {file.rpartition("/")[0] for file in files}, place.resolve()
    if folder.resolve().is_relative_to(there):
        return files
    inside = {parent for parent in parents if (folder / parent).resolve().is_relative_to(there)}
    return [file for file in files if file.rpartition("/")[0] not in inside]


def images_beside(
    place: Path, folder: Path, files: list[str], taken: list[str], notes: list[str]
) -> tuple[list[str], list[str]]:
    """The images below another place but those that are taken: their absolute paths, and ids that no file has.

    files: of the folder, relative or absolute; `taken` are some of them. The ids are relative to the place, after its
    name where a file is called so. notes: as in `find_images`. Raises DataError where there are no images.
    """
    if not place.is_dir():
        raise DataError(f"--unannotated {place}: there is no such folder")
    known, names = {os.path.abspath(folder / file) for file in taken}, set(files)
    paths, ids = [], []
    for file in (found := find_images(place, notes)):
        path, name = os.path.abspath(place / file), file
        while name in names:
            name = f"{place.resolve().name}/{name}"
        if path not in known:
            names.add(name)
            paths.append(Path(path).as_posix())
            ids.append(name)
    if not found:
        raise DataError(f"--unannotated {place} has no images")
    return paths, ids

"""What is said of each image of a folder without a table: by the subfolder that it is in."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from taut.data.cells import UNSAID
from taut.data.dataset import DataError
from taut.data.listing import Listing, entries_of
from taut.data.naming import BESIDE, NO_CLASS, case_notes, classes_in_order, folder_part, is_unlabeled
from taut.data.table import class_text, listed, plural
from taut.labels import LabelError, LabelSpace, Scalar

ARCHIVE = re.compile(r"(?:images?|imgs?|parts?|batch|archive|chunk|volume|disk)[ _-]*\d+$", re.IGNORECASE)


def from_subfolders(
    folder: Path,
    files: list[str],
    space: LabelSpace | None,
    unlabeled: Scalar | None = -1,
    unannotated: Path | None = None,
) -> Listing:
    """The listing of a folder without a table: a class for each subfolder, or no annotations at all.

    unlabeled: the subfolder of images without annotation, beside "unlabeled" and the like (`is_unlabeled`).
    unannotated: a folder of such images whose files are not among these.

    Raises DataError or LabelError where there is no label space, or one that the subfolders do not fit.
    """
    parts = [file.split("/") for file in files]
    folders = {name for part in parts for name in part[:-1]}
    bare_names = {name for name in folders if is_unlabeled(name) or name.lower() == str(unlabeled).lower()}
    parts = _parts_first(parts, bare_names)
    splits = _split_folders(folder, parts, bare_names)
    if splits is not None:
        # A folder of images without annotations is no class in its part either.
        parts = _below_parts(parts, bare_names)
        bare_names |= _beside(parts, splits)
    names = [part[0] if len(part) > 1 and part[0] not in bare_names else None for part in parts]
    found = classes_in_order(list({name for name in names if name is not None}))
    tables = sorted(path.name for path in folder.glob("*.csv"))
    hint = f" (such as {listed(tables, 3)})" if tables else ""
    if space is None and not found:
        raise DataError(
            f"{folder}: no image is annotated, as there are no subfolders for classes: pass a table with "
            f"--labels{hint}, or --classes N for clusters (in Python an explicit label space)"
        )
    if space is None:
        if len(found) < 2:
            raise DataError(
                f"{folder} has one subfolder for a class, {found[0]!r}: at least two are needed, or a table with "
                f"--labels{hint}"
            )
        if tables and len({re.sub(r"\d+$", "", name) for name in found}) == 1 and re.search(ARCHIVE, found[0]):
            raise DataError(
                f"{folder}: the subfolders {listed(found)} are called as parts of an archive: pass a table with "
                f"--labels{hint}, or give them other names if they are the classes"
            )
        _check_depth(folder, [part for part, name in zip(parts, names, strict=True) if name is not None])
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
    codes = np.full((len(files), len(space)), UNSAID)
    codes[:, 0] = [index.get(name, UNSAID) for name in names] if found else UNSAID
    entries = entries_of(files, np.arange(len(files)), split=splits)
    bare = sum(name is None for name in names)
    unused = f" (and not what --labels {listed(tables, 3)} would say)" if tables else ""
    notes = [f"Classes are the subfolders: {listed(found)}{unused}."] if found else []
    notes += case_notes(found)
    notes += _empty(folder, folders, unannotated) if found else []
    if unlabeled not in (None, -1) and not any(name.lower() == str(unlabeled).lower() for name in folders):
        notes.append(f"No subfolder is called {str(unlabeled)!r}, which --unlabeled names.")
    notes += [f"{plural(bare, 'image is', 'images are')} in no subfolder of a class: unannotated."] if bare else []
    return Listing(entries, space, codes, notes=notes)


def _parts_first(parts: list[list[str]], bare_names: set[str]) -> list[list[str]]:
    """The paths of files with the part of a split before the class, where each class has folders of the parts alone."""
    tops = {part[0] for part in parts if len(part) > 1} - bare_names
    inner = {part[1] if len(part) > 2 else "" for part in parts if len(part) > 1 and part[0] in tops}
    known = {folder_part(name) for name in inner}
    if None in known or len(known) < 2 or any(folder_part(top) or NO_CLASS.fullmatch(top) for top in tops):
        return parts
    return [[part[1], part[0], *part[2:]] if len(part) > 1 and part[0] in tops else part for part in parts]


def _below_parts(parts: list[list[str]], bare_names: set[str]) -> list[list[str]]:
    """The paths of files below the folder of their part; one that an archive has twice, test/test, is one."""
    inner: dict[str, set[str]] = {}
    for part in parts:
        inner.setdefault(part[0], set()).add(part[1] if len(part) > 2 else "")
    twice = {top for top, names in inner.items() if all(folder_part(name) == folder_part(top) for name in names)}
    return [
        part if len(part) < 2 or part[0] in bare_names else part[2:] if part[0] in twice else part[1:] for part in parts
    ]


def _empty(folder: Path, folders: set[str], unannotated: Path | None) -> list[str]:
    """What to say of the subfolders that no image is in, which a user may take for classes."""
    others = None if unannotated is None else unannotated.resolve()
    bare = sorted(
        path.name
        for path in folder.iterdir()
        if path.is_dir() and not path.name.startswith(".") and path.name not in folders
        if others is None or not others.is_relative_to(path.resolve())
    )
    return [f"Subfolders without an image, which are no classes: {listed(bare)}."] if bare else []


def _beside(parts: list[list[str]], splits: list[str]) -> set[str]:
    """The folders called "images" or the like that no training image is in: beside classes they are none."""
    tops: dict[str, set[str]] = {}
    for part, split in zip(parts, splits, strict=True):
        if len(part) > 1:
            tops.setdefault(split, set()).add(part[0])
    known = tops.get("train", set())
    return {name for names in tops.values() for name in names - known if name.lower() in BESIDE} if known else set()


def _check_depth(folder: Path, parts: list[list[str]]) -> None:
    """Refuse subfolders that all have the same subfolders, of which either may be the classes (DataError).

    parts: the path of each file in a subfolder, from there on.
    """
    below: dict[str, set[str]] = {}
    for part in parts:
        below.setdefault(part[0], set()).add(part[1] if len(part) > 2 else "")
    same = next(iter(below.values()))
    if len(same) > 1 and "" not in same and all(names == same for names in below.values()):
        raise DataError(
            f"{folder}: the subfolders {listed(sorted(below))} all have the same subfolders {listed(sorted(same))}, so "
            "that either may be the classes: call the former train, valid and test if they are that, move the images "
            "up, or pass a table with --labels"
        )


def _split_folders(folder: Path, parts: list[list[str]], bare_names: set[str]) -> list[str] | None:
    """The part of each file's first folder, where these are parts of a split and not classes; None where they are.

    bare_names: the folders of images without annotation, which are for training.
    Raises DataError where some are parts and others are not.
    """
    tops = sorted({part[0] for part in parts if len(part) > 1})
    found = {top: "train" if top in bare_names else folder_part(top) for top in tops}
    known = {top: part for top, part in found.items() if part is not None}
    named = [top for top in known if top not in bare_names]
    if not named or (len(known) < len(tops) and len({known[top] for top in named}) < 2):
        return None  # a class may be called "train"
    if len(known) < len(tops):
        others = [top for top in tops if top not in known]
        raise DataError(
            f"{folder}: the subfolders {listed(named)} are parts of a split, but beside them there is "
            f"{listed(others)}: leave in it only the parts, each with a subfolder for each class, and name one of "
            "unannotated images with --unlabeled"
        )
    return [known[part[0]] if len(part) > 1 else "train" for part in parts]

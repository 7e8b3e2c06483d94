"""Decoded images of a folder that are kept on the disk, and what a later list of its files can take over from them."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from taut.data.partial import Partial, Rows, write_json

VERSION = 5  # part of the names: raise it when decoding changes

Stamp = tuple[str, int, int]
"""The name of a file in its folder, its size and its modification time: what tells whether it has changed."""
Known = dict[int, tuple[NDArray[np.uint8], int]]
"""Of some positions in a list of files the array and the row that hold the decoded image."""


class Kept:
    """NAME.npy, the images of some files that can be read, uint8 [N, C, H, W], and NAME.json, which files those are.

    The names of all that is kept of a folder at one shape and white begin alike. What is left of a list that was
    interrupted (`Partial`) is one as well, of the files that were done.
    """

    def __init__(self, array: Path, folder: Path) -> None:
        self.array, self.report, self.folder = array, array.with_suffix(".json"), folder

    @classmethod
    def of(cls, root: Path, folder: Path, stamps: Sequence[Stamp], shape: tuple[int, ...], white: float) -> Kept:
        """What is, or will be, kept of these files of a folder in the cache folder `root`; white: of 16 bits."""
        place = _digest(VERSION, str(folder.resolve()), shape, white)[:16]
        return cls(root / f"images-{place}-{_digest(list(stamps))[:32]}.npy", folder)

    def is_there(self) -> bool:
        """Whether both files are there, which they only are when complete."""
        return self.array.exists() and self.report.exists()

    def failures(self) -> dict[int, str]:
        """The reasons by position of the files that could not be read."""
        return failures_in(self._report())

    def images(self, mapped: bool) -> NDArray[np.uint8]:
        """The array, as a memory map or in memory; the rows of files that could not be read are at its end."""
        images: NDArray[np.uint8] = np.load(self.array, mmap_mode="r" if mapped else None)
        return images

    def known(self, stamps: Sequence[Stamp]) -> Known:
        """Which of some files of the folder are decoded in an array, of this list or another, and where."""
        found: Known = {}
        for other in [*self._others(), *([self] if self.is_there() else [])]:
            # Another process may delete it at any time; what is mapped stays.
            with contextlib.suppress(OSError):
                failures, images = other.failures(), other.images(mapped=True)
                readable = (stamp for i, stamp in enumerate(other._stamps()) if i not in failures)
                rows = {stamp: row for row, stamp in enumerate(readable)}
                found |= {i: (images, rows[stamp]) for i, stamp in enumerate(stamps) if stamp in rows}
        return found

    def write(
        self,
        shape: tuple[int, ...],
        stamps: Sequence[Stamp],
        decode: Callable[[int], Iterable[NDArray[np.uint8] | str]],
        partial: Partial | None = None,
    ) -> None:
        """Make both files; what is done when an exception ends it is kept for `known`, and to go on with.

        decode: the images, or the reasons why they cannot be read, from a position on.  partial: to go on with.
        """
        failures: dict[int, str] = {}

        def about(done: int) -> dict[str, Any]:
            return {"failures": {i: why for i, why in failures.items() if i < done}, "files": list(stamps[:done])}

        with Rows(self.array, (len(stamps), *shape), np.uint8, "decoding", partial, about) as rows:
            if rows.begun:
                failures |= failures_in(rows.begun)
            for done in store(decode(rows.done), rows.out, failures, rows.done):
                rows.tell(done)
            self.report.unlink(missing_ok=True)  # of rows that may now be others
        write_json(self.report, about(len(stamps)))

    def remove_others(self) -> None:
        """Delete what else is kept of the folder where a file of it has changed or is gone, or all are in this too."""
        mine = set(self._stamps())
        for other in self._others():
            with contextlib.suppress(OSError):  # another process was first, or Windows keeps what is mapped
                stamps = other._stamps()
                if mine.issuperset(stamps) or any(stamp_of(self.folder, stamp[0]) != stamp for stamp in stamps):
                    other.report.unlink()
                    other.array.unlink()

    def _others(self) -> list[Kept]:
        place = self.array.name.rsplit("-", 1)[0]
        found = (Kept(path, self.folder) for path in sorted(self.array.parent.glob(f"{place}-*.npy")))
        return [other for other in found if other.array != self.array and other.is_there()]

    def _report(self) -> dict[str, Any]:
        return dict(json.loads(self.report.read_text(encoding="utf-8")))

    def _stamps(self) -> list[Stamp]:
        return [(name, size, changed) for name, size, changed in self._report()["files"]]


def store(
    images: Iterable[NDArray[np.uint8] | str], out: NDArray[np.uint8], failures: dict[int, str], start: int = 0
) -> Iterator[int]:
    """Put images from a position on into the rows of out without gaps, and the reasons why others cannot be read into
    `failures` by position; the number of files done after each.
    """
    for i, image in enumerate(images, start):
        if isinstance(image, str):
            failures[i] = image
        else:
            out[i - len(failures)] = image
        yield i + 1


def failures_in(report: dict[str, Any]) -> dict[int, str]:
    """The reasons by position of the files that could not be read, as a report has them."""
    return {int(i): why for i, why in report["failures"].items()}


def stamp_of(folder: Path, file: str) -> Stamp | None:
    """The stamp of a file in a folder, None where it is gone."""
    try:
        status = (folder / file).stat()
    except OSError:
        return None
    return file, status.st_size, status.st_mtime_ns


def _digest(*values: object) -> str:
    return hashlib.sha256(repr(values).encode()).hexdigest()

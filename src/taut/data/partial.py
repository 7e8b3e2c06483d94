"""Arrays that take hours to fill: row after row under a temporary name, so that what is done outlives an interruption.

NAME.HOST-PROCESS-ID.tmp is being filled, NAME.….json beside it says how much of it is; where its writer was interrupted
it is NAME.….npy, and the next one goes on with it. NAME.npy is whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

CHECKPOINT_SECONDS = 300.0  # the most work that a process loses which is killed
DAY = 86400.0
KINDS = ("images", "features", "files", "note")  # what names begin with: the folder may have others' files too


@dataclass(frozen=True)
class Partial:
    """The rows that an interrupted writer of an array has filled; report: what it noted of them."""

    array: Path
    report: dict[str, Any]

    @property
    def done(self) -> int:
        """How many items are done, which can be more than there are rows."""
        return int(self.report["done"])

    def remove(self) -> None:
        """Delete it, unless another process was first."""
        with contextlib.suppress(OSError):
            self.array.with_suffix(".json").unlink()
            self.array.unlink()


def partials(array: Path) -> list[Partial]:
    """What interrupted writers of an array have left, the one that got furthest first."""
    found = []
    for path in array.parent.glob(f"{array.stem}.*.npy"):
        with contextlib.suppress(OSError, ValueError):  # another process takes it at this moment
            found.append(Partial(path, json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))))
    return sorted(found, key=lambda partial: -partial.done)


def recover(folder: Path) -> None:
    """Of writers that were killed keep what they noted as done, and delete their other temporary files."""
    for path in (path for kind in KINDS for path in folder.glob(f"{kind}-*.tmp")):
        with contextlib.suppress(OSError):  # another process was first
            if _is_abandoned(path):
                if path.with_suffix(".json").exists():
                    os.replace(path, path.with_suffix(".npy"))
                else:
                    path.unlink()


def write_json(path: Path, value: object) -> None:
    """Write a JSON file that is there as a whole or not at all."""
    temporary = path.with_name(f"note-{uuid.uuid4().hex}.tmp")  # short: the name of the file may be long already
    try:
        temporary.write_text(json.dumps(value), encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class Rows:
    """In a `with` block the rows of an array to fill in order, `out`; after it they are the file `array`.

    done: how many items were done before, or are by now.  begun: what was noted of those done before, if any.
    A block that an exception ends, such as Ctrl-C, leaves a `Partial`, and a note at the exception that says so.
    """

    out: np.memmap[Any, np.dtype[Any]]

    def __init__(
        self,
        array: Path,
        shape: tuple[int, ...],
        dtype: DTypeLike,
        work: str,
        partial: Partial | None = None,
        about: Callable[[int], dict[str, Any]] = lambda done: {},
    ) -> None:
        """work: what the note calls it.  partial: to go on with.  about: what to note of the first items, by number."""
        self.array, self.shape, self.dtype, self.work, self.partial = array, shape, dtype, work, partial
        self.about, self.done, self.begun = about, 0, dict[str, Any]()
        self.temporary = _temporary(array)
        self.report = self.temporary.with_suffix(".json")

    def __enter__(self) -> Rows:
        if self.partial is not None:
            self._take_over(self.partial)
        mode: Any = "r+" if self.begun else "w+"
        self.out = np.lib.format.open_memmap(self.temporary, mode=mode, dtype=self.dtype, shape=self.shape)
        self.noted = time.monotonic()
        return self

    def _take_over(self, partial: Partial) -> None:
        try:
            shutil.copyfile(partial.array.with_suffix(".json"), self.report)
            os.replace(partial.array, self.temporary)
        except OSError:  # another process goes on with it
            self.report.unlink(missing_ok=True)
            return
        partial.array.with_suffix(".json").unlink(missing_ok=True)
        self.begun, self.done = partial.report, partial.done

    def tell(self, done: int) -> None:
        """Say how many items are done, of which a note is kept from time to time."""
        self.done = done
        if time.monotonic() - self.noted > CHECKPOINT_SECONDS:
            self._note()

    def _note(self) -> None:
        self.out.flush()
        os.utime(self.temporary)  # writing to a map may leave it as it was
        self.noted = time.monotonic()
        write_json(self.report, {"done": self.done, **self.about(self.done)})

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if error is None:
                self.out.flush()
                del self.out  # Windows does not rename what is mapped
                os.replace(self.temporary, self.array)
                self.report.unlink(missing_ok=True)
                for other in partials(self.array):
                    other.remove()
            elif self.done:
                with contextlib.suppress(OSError):  # the error itself says more
                    self._note()
                    os.replace(self.temporary, self.temporary.with_suffix(".npy"))
                    error.add_note(
                        f"{self.work} goes on after the first {self.done:,} images when the same command is given again"
                    )
        finally:
            if not self.report.exists():
                self.temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    """A name beside a file that no other process uses, and that tells whose it is."""
    return path.with_suffix(f".{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}.tmp")


def _is_abandoned(path: Path) -> bool:
    """Whether a temporary file's process is gone, or, where that runs elsewhere, whether it is a day old."""
    if time.time() - path.stat().st_mtime > DAY:
        return True
    mine = re.search(rf"\.{re.escape(socket.gethostname())}-(\d+)-[0-9a-f]+\.tmp$", path.name)
    if mine is None or os.name != "posix":  # elsewhere the question would end the process
        return False
    try:
        os.kill(int(mine[1]), 0)
    except ProcessLookupError:
        return True
    except OSError:  # of another user
        return False
    return False

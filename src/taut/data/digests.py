"""Digests of files and of their ends, kept in the cache folder where finding them reads much."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from taut.data.partial import write_json


class Digests:
    """The digests of some files, by name, size and modification time.

    They are in a file for the folder that all of them lie in, under the cache folder `root`.
    """

    def __init__(self, root: Path, paths: Sequence[Path]) -> None:
        self.folder = ""
        with contextlib.suppress(ValueError):  # none, or on several drives
            self.folder = os.path.commonpath([path.absolute().parent for path in paths])
        self.kept = root / f"digests-{hashlib.sha256(self.folder.encode()).hexdigest()[:32]}.json"
        self.known: dict[str, str] = {}
        self.read = 0
        with contextlib.suppress(OSError, ValueError):
            self.known = dict(json.loads(self.kept.read_text(encoding="utf-8")))

    def of(self, path: Path, last: int | None = None) -> str:
        """The digest of a file, or of so many bytes at its end."""
        status = path.stat()
        name = f"{str(path.absolute())[len(self.folder) :]} {status.st_size} {status.st_mtime_ns} {last}"
        if name not in self.known:
            count = status.st_size if last is None else min(last, status.st_size)
            with path.open("rb") as file:
                file.seek(status.st_size - count)
                self.known[name] = hashlib.file_digest(file, "sha256").hexdigest()
            self.read += count
        return self.known[name]

    def keep(self, least: int) -> None:
        """Keep them for later where so many bytes were read; a cache folder that cannot be written to keeps none."""
        if self.read >= least:
            with contextlib.suppress(OSError):
                self.kept.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.kept, self.known)

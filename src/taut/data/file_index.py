"""What was found out of files, headers and digests, kept in the cache folder where finding it took long."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from taut.data.partial import write_json

MANY = 5000  # answers that were found anew, from which on they are kept
LARGE = 2**25  # bytes that were read for digests, likewise


class FileIndex:
    """Answers to questions about some files, by name, size and modification time; of use to several threads.

    In a `with` block they are found, and kept at its end, an exception's too, for the next command. They are in a file
    for the folder that all of them lie in, under the cache folder `root`; one that cannot be written to keeps none.
    """

    def __init__(self, root: Path, paths: Sequence[Path]) -> None:
        self.folder = ""
        with contextlib.suppress(ValueError):  # none, or on several drives
            self.folder = os.path.commonpath([path.absolute().parent for path in paths])
        self.kept = root / f"files-{hashlib.sha256(self.folder.encode()).hexdigest()[:32]}.json"
        self.known: dict[str, Any] = {}
        self.found, self.read = 0, 0
        with contextlib.suppress(OSError, ValueError):
            self.known = dict(json.loads(self.kept.read_text(encoding="utf-8")))

    def __enter__(self) -> FileIndex:
        return self

    def __exit__(self, *error: object) -> None:
        if self.found >= MANY or self.read >= LARGE:
            with contextlib.suppress(OSError):
                self.kept.parent.mkdir(parents=True, exist_ok=True)
                write_json(self.kept, self.known)

    def ask(self, path: Path, question: str, answer: Callable[[int], Any]) -> Any:
        """The answer to a question about a file, plain values, from its size where it is not known yet."""
        status, name = path.stat(), f"{question} {str(path.absolute())[len(self.folder) :]}"
        size, changed, found = self.known.get(name, (None, None, None))
        if (size, changed) != (status.st_size, status.st_mtime_ns):
            found = answer(status.st_size)
            self.known[name] = [status.st_size, status.st_mtime_ns, found]
            self.found += 1
        return found

    def digest(self, path: Path, sample: int | None = None) -> str:
        """The digest of a file, or of so many bytes of its middle and of its end."""

        def answer(size: int) -> str:
            with path.open("rb") as file:
                if sample is None or 2 * sample >= size:
                    self.read += size
                    return hashlib.file_digest(file, "sha256").hexdigest()
                self.read += 2 * sample
                parts = []
                # Scans that are not compressed often end in rows that are black in all of them.
                for start in (size // 2, size - sample):
                    file.seek(start)
                    parts.append(file.read(sample))
                return hashlib.sha256(b"".join(parts)).hexdigest()

        return str(self.ask(path, f"digest of {sample}", answer))

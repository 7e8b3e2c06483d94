"""The packs of real data that some tests need, which are not part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

PACKS = Path(os.environ.get("TAUT_DATA") or "nowhere")


def needs(*names: str) -> pytest.MarkDecorator:
    """Skip a test, saying why, where the folder $TAUT_DATA does not hold these files or folders."""
    there = all((PACKS / name).exists() for name in names)
    return pytest.mark.skipif(not there, reason=f"$TAUT_DATA names no folder with {', '.join(names)}")

"""Which format a table is in: by name, or by what its header says."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pandas as pd

from taut.data import chexpert, nih
from taut.data.dataset import DataError
from taut.data.layout import Layout

Reader: TypeAlias = Callable[[pd.DataFrame], Layout]

READERS: dict[str, Reader] = {
    "table": Layout,
    "chexpert": chexpert.layout,
    "chexpert-5": chexpert.official_layout,
    "mimic": chexpert.mimic_layout,
    "nih": nih.layout,
}
RECOGNISED: dict[str, Callable[[pd.DataFrame], bool]] = {
    "chexpert": chexpert.recognises,
    "mimic": chexpert.recognises_mimic,
    "nih": nih.recognises,
}


def find_layout(table: pd.DataFrame, name: str | None = None) -> Layout:
    """The layout of a table in a format by name, or in the one that its header speaks for.

    Raises DataError for an unknown name, and for a table without the columns of the format.
    """
    if name is None:
        name = next((key for key, recognises in RECOGNISED.items() if recognises(table)), "table")
    if name not in READERS:
        raise DataError(f"--format {name!r} is not one of {', '.join(READERS)}")
    return READERS[name](table)

"""Auxiliary variables: what else is known of images, such as a patient's age, which teaches the encoder alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.data.csv_table import EMPTY
from taut.data.dataset import DataError
from taut.data.joined import Column
from taut.data.table import listed
from taut.labels import Annotation, Label, LabelSpace

MOST_CLASSES = 20
MOST_NUMBERS = 10  # different numbers that are classes as they are
QUARTERS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Auxiliary:
    """Label variables a_j of N images that are neither predicted nor scored, [N] like the dataset that has them.

    Their term Σ_j KL(p̃(a_j|x) ‖ q(a_j|x)) reaches the encoder from every image of which they are known, annotated or
    not: several tasks of one representation (Caruana 1997).
    """

    space: LabelSpace
    annotation: Annotation

    def __len__(self) -> int:
        return len(self.annotation)

    def __getitem__(self, rows: Any) -> Auxiliary:
        return Auxiliary(self.space, self.annotation[rows])

    def describe(self) -> str:
        """What was read, in one sentence."""
        known = self.annotation.observed.sum(axis=0)
        parts = [
            f"{label.name} ({len(label.classes)} classes, known of {count:,})"
            for label, count in zip(self.space, known, strict=True)
        ]
        return f"Auxiliary, to learn from and not to predict: {', '.join(parts)}."


def read_auxiliary(columns: Mapping[str, Any], flag: str = "--auxiliary", learnt: Any = None) -> Auxiliary:
    """The auxiliary variables of columns of numbers or text, [N] each; what is blank or NaN is not known.

    Up to ten different numbers, and up to twenty different texts, are classes; more numbers are put into quarters.
    flag: what an error names.  learnt: [N] bool, the rows that say which classes there are, by default all; what others
    say beside them is not known.  Raises DataError for columns of different lengths, and for one that says the same of
    every image or has too many texts.
    """
    if not columns:
        raise DataError(f"{flag} names no column")
    texts = {name: _texts(name, values, flag) for name, values in columns.items()}
    lengths = {len(column) for column in texts.values()}
    if len(lengths) > 1:
        raise DataError(f"{flag} has columns of different lengths: {', '.join(map(str, sorted(lengths)))}")
    rows = np.ones(lengths.pop(), dtype=bool) if learnt is None else np.asarray(learnt)
    read = [_column(name, column, flag, rows) for name, column in texts.items()]
    space = LabelSpace(tuple(label for label, _ in read))
    codes = np.stack([column for _, column in read], axis=1)
    targets = np.full((len(codes), space.width), np.nan, dtype=np.float32)
    for j, block in enumerate(space.blocks):
        known = codes[:, j] >= 0
        targets[known, block] = np.eye(len(space.labels[j].classes), dtype=np.float32)[codes[known, j]]
    return Auxiliary(space, Annotation(targets, codes >= 0))


def _texts(name: str, values: Any, flag: str) -> Column:
    """The values of a column as text, NaN where nothing is known."""
    array = np.array(values, dtype=object)
    if isinstance(values, np.ma.MaskedArray):
        array[np.ma.getmaskarray(values)] = None
    if array.ndim != 1:
        raise DataError(f"{flag} {name!r} has shape {list(array.shape)}: expected a value for each image")
    said = pd.Series(array).map(lambda v: (v.decode() if isinstance(v, bytes) else str(v)).strip(), na_action="ignore")
    return said.where(said.notna() & ~said.isin([*EMPTY, "None", "inf", "-inf"]))


def _column(name: str, texts: Column, flag: str, learnt: NDArray[np.bool_]) -> tuple[Label, NDArray[np.int64]]:
    """A label and the class of every image, −1 where it is not known."""
    numbers = pd.to_numeric(texts, errors="coerce").astype(float)
    numeric = bool(numbers.notna().eq(texts.notna())[learnt].all())
    values = (numbers if numeric else texts).where(learnt).dropna()
    if values.nunique() < 2:
        raise DataError(f"{flag} {name!r} says the same of every image, or nothing: there is nothing to learn from it")
    if numeric and values.nunique() > MOST_NUMBERS:
        highest = values.max()
        edges = np.unique(values.quantile(QUARTERS))
        # Where most have the highest value, all others are apart from it.
        edges = edges[edges < highest] if (edges < highest).any() else np.array([values[values < highest].max()])
        bounds = (*(f"up to {edge:.15g}" for edge in edges), f"above {edges[-1]:.15g}")
        codes = np.where(numbers.isna(), -1, np.searchsorted(edges, numbers.to_numpy()))
        return Label(name, bounds), codes.astype(np.int64)
    classes = sorted(values.unique())
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"{flag} {name!r} has {len(classes):,} different texts, such as {listed(classes, 3)}: an auxiliary column "
            f"has numbers, or at most {MOST_CLASSES} different values"
        )
    codes = pd.Index(classes).get_indexer((numbers if numeric else texts).to_numpy())  # −1 for what is not there
    names = [f"{v:.15g}" if v % 1 == 0 else repr(float(v)) for v in classes] if numeric else classes
    return Label(name, tuple(names)), codes.astype(np.int64)

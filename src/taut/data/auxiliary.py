"""Auxiliary variables: what else is known of images, such as a patient's age, which teaches the encoder alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from taut.data.dataset import DataError
from taut.data.table import EMPTY, listed
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


def read_auxiliary(columns: Mapping[str, Any], flag: str = "--auxiliary") -> Auxiliary:
    """The auxiliary variables of columns of numbers or text, [N] each; what is blank or NaN is not known.

    Up to ten different numbers, and up to twenty different texts, are classes; more numbers are put into quarters.
    flag: what an error names.  Raises DataError for a column of too many texts, or without two different values.
    """
    if not columns:
        raise DataError(f"{flag} names no column")
    read = [_column(name, values, flag) for name, values in columns.items()]
    space = LabelSpace(tuple(label for label, _ in read))
    codes = np.stack([column for _, column in read], axis=1)
    targets = np.full((len(codes), space.width), np.nan, dtype=np.float32)
    for j, block in enumerate(space.blocks):
        known = codes[:, j] >= 0
        targets[known, block] = np.eye(len(space.labels[j].classes), dtype=np.float32)[codes[known, j]]
    return Auxiliary(space, Annotation(targets, codes >= 0))


def _column(name: str, values: Any, flag: str) -> tuple[Label, NDArray[np.int64]]:
    """A label and the class of every image, −1 where it is not known."""
    texts = pd.Series(np.asarray(values, dtype=object))
    texts = texts.where(texts.notna() & ~texts.astype(str).str.strip().isin([*EMPTY, "None"]))
    numbers = pd.to_numeric(texts, errors="coerce").astype(float)
    numeric = bool(numbers.notna().eq(texts.notna()).all())
    if numeric and numbers.nunique() > MOST_NUMBERS:
        edges = np.unique(numbers.quantile(QUARTERS).to_numpy())
        codes = np.where(numbers.isna(), -1, np.searchsorted(edges, numbers.to_numpy()))
        bounds = [f"up to {edge:g}" for edge in edges] + [f"above {edges[-1]:g}"]
        present = np.unique(codes[codes >= 0])
        codes = np.where(codes < 0, -1, np.searchsorted(present, codes))
        return Label(name, tuple(bounds[int(i)] for i in present)), codes.astype(np.int64)
    codes, classes = pd.factorize(numbers if numeric else texts.str.strip(), sort=True)
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"{flag} {name!r} has {len(classes):,} different texts, such as {listed(list(classes), 3)}: an auxiliary "
            f"column has numbers, or at most {MOST_CLASSES} different values"
        )
    if len(classes) < 2:
        raise DataError(f"{flag} {name!r} says the same of every image, or nothing: there is nothing to learn from it")
    return Label(name, tuple(f"{value:g}" if numeric else str(value) for value in classes)), codes.astype(np.int64)

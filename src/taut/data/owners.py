"""Whose images are whose: the columns and arrays that say it, such as patients, and when one is taken unasked."""

from __future__ import annotations

import re
from typing import Any

import pandas as pd

NONE = "none"  # what --group says where every image stands for itself
FEWEST = 20  # owners whom a split can be made of
PEOPLE = ("patient", "patientid", "patients", "patientno", "patientnumber", "subject", "subjectid", "mrn")
OWNERS = (*PEOPLE, "participant", "participantid", "caseid", "lesionid")


def says_owner(name: str) -> bool:
    """Whether a column or an array is called as if it said whose an image is."""
    return _letters(name) in OWNERS


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def own_group(
    kind: str, columns: dict[str, pd.Series[Any]], split: pd.Series[Any] | None
) -> tuple[str | None, list[str]]:
    """The one of some columns, called as owners, that is the group where no flag names one, and what to say of them.

    It is the first, people before what is theirs, of which a split can be made: it has 20 owners or more, somebody has
    several images, and nobody is in two parts of the dataset's own split. A test part counts for that alone, where
    there are other images.  kind: what such a column is called.  split: the parts, missing where there is none.
    """
    names = sorted(columns, key=lambda name: OWNERS.index(_letters(name)))
    learnt = None if split is None or (split == "test").all() else split != "test"
    repeated = {name: columns[name] for name in names if columns[name].dropna().duplicated().any()}
    known = {name: (column if learnt is None else column[learnt]).dropna() for name, column in repeated.items()}
    torn = {name: 0 if split is None else _torn(column, split) for name, column in repeated.items()}
    fitting = [name for name in repeated if known[name].nunique() >= FEWEST and known[name].duplicated().any()]
    chosen = next((name for name in fitting if not torn[name]), None)
    notes = []
    for name in repeated:
        if name == chosen:
            notes.append(f"{kind} {name!r} is the group: what is of one stays on one side of every split.")
        elif torn[name]:
            notes.append(
                f"{kind} {name!r} is not used: {torn[name]:,} of {repeated[name].nunique():,} are in several parts of "
                "the split, so that figures of the test part may be too good."
            )
        else:
            notes.append(
                f"{kind} {name!r} is not used: --group {name} keeps the images of one patient on one side of every "
                "split."
            )
    return chosen, notes


def _torn(owners: pd.Series[Any], split: pd.Series[Any]) -> int:
    """How many owners are in several parts of a split; what has no part trains."""
    if split.isna().all():
        return 0
    parts = split.where(split.notna(), "train").groupby(owners).nunique()
    return int((parts > 1).sum())

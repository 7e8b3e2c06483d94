"""CheXpert's tables (Irvin et al. 2019): 1, 0, −1 and blank cells; patient and study in the paths; and MIMIC-CXR's."""

from __future__ import annotations

import re

import pandas as pd

from taut.data.dataset import DataError
from taut.data.layout import Layout

FINDINGS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
OFFICIAL = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
"""The findings of the leader board."""

PATH = "Path"
PATIENT, STUDY, IMAGE = "subject_id", "study_id", "dicom_id"
SUBJECT = re.compile(r"(?:^|/)p(\d{8})/")  # of a folder of MIMIC-CXR's


def recognises(table: pd.DataFrame) -> bool:
    """Whether a table is CheXpert's, by its header, or, as its authors' tables of labels alone, by all of its paths."""
    if PATH not in table.columns or not set(FINDINGS) & set(table.columns):
        return False
    paths = table[PATH].dropna()
    return "Frontal/Lateral" in table.columns or (len(paths) > 0 and all(_place(path)[0] for path in paths))


def recognises_mimic(table: pd.DataFrame) -> bool:
    """Whether a table's header is that of MIMIC-CXR's labels (Johnson et al. 2019), which CheXpert's labeller made."""
    there = set(table.columns)
    return {PATIENT, STUDY} <= there and len(set(FINDINGS) & there) >= len(FINDINGS) // 2


def mimic_layout(table: pd.DataFrame) -> Layout:
    """The observations of MIMIC-CXR's table, patients as groups; blank ("not mentioned") counts as negative.

    Images are named by `dicom_id` where it is there. Raises DataError for a table without its columns.
    """
    if not recognises_mimic(table):
        raise DataError(f"--format mimic: the table has no columns {PATIENT!r} and {STUDY!r}, or too few observations")
    labels = tuple(name for name in FINDINGS if name in table.columns)
    return Layout(
        table,
        path=IMAGE if IMAGE in table.columns else None,
        labels=labels,
        yes_no=FINDINGS,
        group=PATIENT,
        views=("ViewPosition",),
        blank="negative",
        patient=lambda path: found[1] if (found := SUBJECT.search(path)) else None,
        note=f"Read as MIMIC-CXR's table: {len(labels)} observations, patients from {PATIENT!r}.",
    )


def layout(table: pd.DataFrame) -> Layout:
    """All observations that the table has columns for; blank ("not mentioned") counts as negative.

    A patient (the group of every split) and a study ("patient00001/study1") are taken from each path.
    Raises DataError for a table without a column of paths or of an observation, and for a path without a patient.
    """
    return _layout(table, tuple(name for name in FINDINGS if name in table.columns))


def official_layout(table: pd.DataFrame) -> Layout:
    """The same with the five findings of the leader board alone; DataError also where one has no column."""
    absent = [name for name in OFFICIAL if name not in table.columns]
    if absent:
        raise DataError(f"--format chexpert-5: the table has no column {', '.join(map(repr, absent))}")
    return _layout(table, OFFICIAL)


def _layout(table: pd.DataFrame, labels: tuple[str, ...]) -> Layout:
    if PATH not in table.columns or not labels:
        raise DataError(f"--format chexpert: the table has no column {PATH!r}, or none of an observation")
    places = [_place(path) if isinstance(path, str) else (None, None) for path in table[PATH].to_numpy(dtype=object)]
    found = pd.DataFrame(places, table.index, ["patient", "study"])
    wrong = table[PATH].notna() & found["patient"].isna()
    if wrong.any():
        first = int(wrong.to_numpy().argmax())
        raise DataError(
            f"row {table.index[first]}: the path {table[PATH].iloc[first]!r} does not end as "
            "patient00001/study1/view1_frontal.jpg does; --format table reads any paths"
        )
    study = found["patient"].str.cat(found["study"], sep="/")
    return Layout(
        table.assign(patient=found["patient"], study=study),
        path=PATH,
        labels=labels,
        yes_no=FINDINGS,
        group="patient",
        added=("patient", "study"),
        views=("Frontal/Lateral", "AP/PA"),
        blank="negative",
        shared=3,
        patient=lambda path: _place(path)[0],
        note=f"Read as CheXpert's table: {len(labels)} observations, patients from the paths.",
    )


def _place(path: str) -> tuple[str | None, str | None]:
    """The patient and the study of a path; nothing where it has none. (A pattern takes seconds for 223,414 rows.)"""
    parts = path.replace("\\", "/").rsplit("/", 3)[-3:]
    at = parts[0].find("patient")
    if len(parts) < 3 or at < 0 or not parts[1].startswith("study") or not parts[2]:
        return None, None
    return parts[0][at:], parts[1]

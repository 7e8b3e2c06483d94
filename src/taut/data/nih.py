"""NIH ChestX-ray14's table Data_Entry (Wang et al. 2017): findings as 'A|B', one row an image."""

from __future__ import annotations

import pandas as pd

from taut.data.dataset import DataError
from taut.data.layout import Layout

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
IMAGE, LABELS, PATIENT, VIEW = "Image Index", "Finding Labels", "Patient ID", "View Position"


def recognises(table: pd.DataFrame) -> bool:
    """Whether a table's header is that of Data_Entry."""
    return {IMAGE, LABELS} <= set(table.columns)


def layout(table: pd.DataFrame) -> Layout:
    """The 14 findings as yes/no labels, "No Finding" as no to all, and patients as groups.

    Where the table names findings beside the 14, its labels are those that it names. Raises DataError for a table
    without the columns of images and findings.
    """
    if not recognises(table):
        raise DataError(f"--format nih: the table has no columns {IMAGE!r} and {LABELS!r}")
    known = _patients(table) if PATIENT in table.columns else {}
    texts = table[LABELS].dropna().drop_duplicates().str.split("|", regex=False).explode().str.strip()
    named = set(texts) - {"", "No Finding"}
    return Layout(
        table,
        path=IMAGE,
        joined=LABELS,
        names=FINDINGS if named <= set(FINDINGS) else None,
        group=PATIENT if PATIENT in table.columns else None,
        views=(VIEW,),
        patient=lambda path: known.get(_number(path)),
        note=f"Read as NIH's Data_Entry: findings from {LABELS!r}"
        + (f", patients from {PATIENT!r}." if PATIENT in table.columns else "."),
    )


def _patients(table: pd.DataFrame) -> dict[str, str]:
    """The patient of each number in names of files that one patient alone has."""
    pairs = pd.DataFrame({"number": table[IMAGE].map(_number), "patient": table[PATIENT]}).dropna().drop_duplicates()
    single = pairs[pairs["number"].str.fullmatch(r"\d+") & ~pairs["number"].duplicated(keep=False)]
    return dict(zip(single["number"], single["patient"], strict=True))


def _number(path: object) -> str:
    """What stands before the first _ in a file's name, such as 00000001 of 00000001_002.png: a patient's number."""
    return str(path).replace("\\", "/").rpartition("/")[2].partition("_")[0]

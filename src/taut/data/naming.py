"""What the parts of a split and the arrays of a .npz file are called: by the reader, and by others."""

from __future__ import annotations

import re
from collections.abc import Sequence

from taut.data.dataset import DataError

WORDS = {
    **dict.fromkeys(("x", "image", "images", "data", "features"), "x"),
    **dict.fromkeys(("y", "label", "labels", "target", "targets"), "y"),
}
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validate", "validation", "val", "dev"), "valid"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
UNLABELED = (
    "unlabeled",
    "unlabelled",
    "unannotated",
    "nolabel",
    "nolabels",
    "notlabeled",
    "notlabelled",
    "notannotated",
)
PEOPLE = ("patient", "patientid", "patients", "patientno", "patientnumber", "subject", "subjectid", "mrn")
PATIENTS = (*PEOPLE, "participant", "participantid", "caseid", "lesionid")
KINDS = ("", "id", "name", "path")
IMAGES = ("id", "path", *(f"{what}{kind}" for what in ("image", "img", "file") for kind in KINDS))
BESIDE = ("set", "seg", "data", "images")  # in the name of a folder beside that of a part


def folder_part(name: str) -> str | None:
    """The part of a split that a folder is, such as "val", "Training_Set", "seg_test" or "test1", or None."""
    pieces = re.split(r"[_\- ]", name.lower().rstrip("0123456789"))
    parts = [PARTS[piece] for piece in pieces if piece in PARTS]
    return parts[0] if len(parts) == 1 and all(piece in PARTS or piece in BESIDE for piece in pieces) else None


def is_unlabeled(name: str) -> bool:
    """Whether a folder is called as one of images without annotation, such as "Un-annotated" or "unlabeled_images"."""
    pieces = re.split(r"[_\- ]", name.lower().rstrip("0123456789"))
    return "".join(piece for piece in pieces if piece not in BESIDE) in UNLABELED


def known_names(names: Sequence[str], where: str) -> dict[str, str]:
    """The arrays of a file by the names that the reader knows, x, y, x_train …, and all others by their own.

    `train_images` (MedMNIST), `X_val` and the like stand for x_train and x_valid, `images` and `labels` for x and y
    where there is no other x or y, and `unlabeled_images`, `X_unlabeled` or `unlabeled` for x_unlabeled.
    DataError, naming where, if two arrays stand for the same one.
    """
    found = {name: name for name in names}
    labelled = [name for name in names if not any(piece in UNLABELED for piece in name.lower().split("_"))]
    own = {name[0] for name in labelled if name in ("x", "y") or name[:2] in ("x_", "y_")}
    own |= {"x"} if "jpeg" in names else set()
    for name in names:
        known = _known(name)
        if known is None or known in names or (known in own and known == known[0]):
            continue
        if known in found:
            raise DataError(f"{where}: {found[known]!r} and {name!r} are both {known!r}: keep one of them")
        found[known] = name
        del found[name]
    return found


def _known(name: str) -> str | None:
    """The reader's name for an array that is called otherwise, or None where there is none."""
    pieces = name.lower().split("_")
    known = {**PARTS, **dict.fromkeys(UNLABELED, "unlabeled")}
    words = [WORDS[piece] for piece in pieces if piece in WORDS]
    parts = [known[piece] for piece in pieces if piece in known]
    if len(pieces) == 1 and parts == ["unlabeled"]:
        words = ["x"]
    elif len(words) != 1 or len(parts) > 1 or len(words) + len(parts) != len(pieces):
        return None
    return "_".join(words + parts)


def says_patient(name: str) -> bool:
    """Whether a column or an array is called as if it said whose an image is."""
    return re.sub(r"[^a-z]", "", name.lower()) in PATIENTS


def says_image(name: str) -> bool:
    """Whether a column is called as if it named images."""
    return re.sub(r"[^a-z]", "", name.lower()) in IMAGES


def is_unnamed(name: str) -> bool:
    """Whether a column is what pandas makes of one without a name: an index that was written to the file."""
    return name.startswith("Unnamed:")


def unused_group(kind: str, name: str) -> str:
    """The sentence that tells of such a column or array that is not used."""
    return f"{kind} {name!r} is not used: --group {name} keeps the images of one patient on one side of every split."

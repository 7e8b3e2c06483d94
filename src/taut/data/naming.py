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
KINDS = ("", "id", "name", "path")
IMAGES = ("id", "path", *(f"{what}{kind}" for what in ("image", "img", "file") for kind in KINDS))
BESIDE = ("set", "seg", "data", "images")  # in the name of a folder beside that of a part
NEGATIVE = (  # pieces of the name of a class that is not the one to be found
    *("no", "not", "non", "none", "without", "absent", "negative", "neg"),
    *("normal", "healthy", "benign", "control", "uninfected", "unaffected", "undamaged", "uncracked", "unbroken"),
)
NOT = ("non", "not", "no")  # before the name of the other class, as in "NonDemented" or "notumor"
NO_CLASS = re.compile(r"(image|img|mask|label|annotation)s?|gt|seg|data|(fold|split|cv)[ _-]*\d+", re.IGNORECASE)
SIDES = re.compile(r"(.+[_\- ])(left|right|od|os|l|r)", re.IGNORECASE)


def folder_part(name: str) -> str | None:
    """The part of a split that a folder is, such as "val", "Training_Set", "seg_test" or "test1", or None."""
    pieces = re.split(r"[_\- ]", name.lower().rstrip("0123456789"))
    parts = [PARTS[piece] for piece in pieces if piece in PARTS]
    return parts[0] if len(parts) == 1 and all(piece in PARTS or piece in BESIDE for piece in pieces) else None


def is_unlabeled(name: str) -> bool:
    """Whether a folder is called as one of images without annotation, such as "Un-annotated" or "unlabeled_images"."""
    pieces = re.split(r"[_\- ]", name.lower().rstrip("0123456789"))
    return "".join(piece for piece in pieces if piece not in BESIDE) in UNLABELED


def classes_in_order(names: Sequence[str]) -> list[str]:
    """The sorted names of classes, but of two the one that says no goes first, as the last one is what is to be found.

    Such as Normal of Abnormal and Normal, "no tumor" of "no tumor" and "a tumor", or Uninfected of Infected and that.
    """
    found = sorted(names)
    if len(found) == 2 and _says_no(found[1], found[0]) and not _says_no(*found):
        found.reverse()
    return found


def _says_no(name: str, other: str) -> bool:
    """Whether the name of one of two classes says that what the other names is not there."""
    pieces, others = (re.split(r"[^a-z0-9]+", text.lower()) for text in (name, other))
    if any("".join(pieces) == start + "".join(others) for start in NOT):
        return not any(piece in NEGATIVE for piece in others)  # Non-normal says yes
    return any(piece in NEGATIVE for piece in pieces)


def sides_note(names: Sequence[str]) -> list[str]:
    """What to say of images that are called left and right of one subject, where half or more are."""
    found = [SIDES.fullmatch(name.rpartition("/")[2].rpartition(".")[0]) for name in names]
    sides: dict[str, dict[str, str]] = {}
    for name, match in zip(names, found, strict=True):
        if match is not None:
            sides.setdefault(match[1].lower(), {})[match[2].lower()] = name
    pairs = [list(subject.values()) for subject in sides.values() if len(subject) > 1]
    if not pairs or 4 * len(pairs) < len(names):
        return []
    first, second = pairs[0][:2]
    return [
        f"Images such as {first!r} and {second!r} seem to be of one subject, and a split may part them: a table's "
        "column of subjects and --group keep them together."
    ]


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


def says_image(name: str) -> bool:
    """Whether a column is called as if it named images."""
    return re.sub(r"[^a-z]", "", name.lower()) in IMAGES


def is_unnamed(name: str) -> bool:
    """Whether a column is what pandas makes of one without a name: an index that was written to the file."""
    return name.startswith("Unnamed:")


def case_notes(names: Sequence[str]) -> list[str]:
    """What to say of names of classes that differ in the case of letters alone."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.casefold(), []).append(name)
    return [
        f"Classes {', '.join(same)} differ in the case of letters alone: write them alike if they are one."
        for same in alike.values()
        if len(same) > 1
    ]

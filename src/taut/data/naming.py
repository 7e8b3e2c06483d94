"""What the arrays of a .npz file are called: x, y, x_train …, or the names that others use for the same."""

from __future__ import annotations

from collections.abc import Sequence

from taut.data.dataset import DataError

WORDS = {
    **dict.fromkeys(("x", "image", "images", "data", "features"), "x"),
    **dict.fromkeys(("y", "label", "labels", "target", "targets"), "y"),
}
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "valid"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def known_names(names: Sequence[str], where: str) -> dict[str, str]:
    """The arrays of a file by the names that the reader knows, x, y, x_train …, and all others by their own.

    `train_images` (MedMNIST), `X_val` and the like stand for x_train and x_valid, `images` and `labels` for x and y
    where there is no other x or y. DataError, naming where, if two arrays stand for the same one.
    """
    found = {name: name for name in names}
    own = {name[0] for name in names if name in ("x", "y") or name[:2] in ("x_", "y_")}
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
    words = [WORDS[piece] for piece in pieces if piece in WORDS]
    parts = [PARTS[piece] for piece in pieces if piece in PARTS]
    if len(words) != 1 or len(parts) > 1 or len(words) + len(parts) != len(pieces):
        return None
    return "_".join(words + parts)

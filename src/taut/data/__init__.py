"""The data room: every reader gives a `Dataset`; `load_dataset` finds the reader for a name or a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from taut.data.arrays import load_npz
from taut.data.dataset import DataError, Dataset
from taut.data.embedded import digit_grid, digits
from taut.data.folder import load_folder
from taut.data.public import PUBLIC, load_public
from taut.labels import LabelSpace, Scalar

__all__ = ["EMBEDDED", "PUBLIC", "DataError", "Dataset", "load_dataset"]

EMBEDDED = {"digits": digits, "digit-grid": digit_grid}


def load_dataset(
    source: str,
    *,
    labels: Path | None = None,
    space: LabelSpace | None = None,
    group: str | None = None,
    unlabeled: Scalar | None = -1,
    image_size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    path_column: str | None = None,
    label_columns: Sequence[str] | None = None,
    joined_column: str | None = None,
    split_column: str | None = None,
    skipped: Path | None = None,
    white: float | None = None,
) -> Dataset:
    """The dataset of a name (digits, digit-grid, mnist, svhn, cifar10), a .npz file or a folder of images.

    A name goes before a path: write ./digits for a folder of that name. See `load_npz` and `load_folder` for
    the options. Raises DataError for a source that is none of these, or an option that says nothing of it.
    """
    table = {
        "--labels": labels,
        "--image-size": image_size,
        "--channels": channels,
        "--path-column": path_column,
        "--label-columns": label_columns,
        "--joined-column": joined_column,
        "--split-column": split_column,
    }
    if source in EMBEDDED or source in PUBLIC:
        _refuse(source, {**table, "--group": group})
        return EMBEDDED[source]() if source in EMBEDDED else load_public(source)
    path = Path(source).expanduser()
    if path.suffix.lower() == ".npz":
        _refuse(source, table)
        return load_npz(path, space, group, unlabeled, white)
    if path.is_dir():
        return load_folder(
            path,
            labels,
            path_column=path_column,
            label_columns=label_columns,
            joined_column=joined_column,
            group=group,
            split_column=split_column,
            space=space,
            image_size=image_size,
            channels=channels,
            skipped=skipped,
            unlabeled=unlabeled,
        )
    names = ", ".join([*EMBEDDED, *PUBLIC])
    raise DataError(f"{source!r} is neither one of {names}, nor a .npz file, nor a folder of images")


def _refuse(source: str, options: Mapping[str, object]) -> None:
    given = [flag for flag, value in options.items() if value is not None]
    if given:
        raise DataError(f"{source} does not take {', '.join(given)}")

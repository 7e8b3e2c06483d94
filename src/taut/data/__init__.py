"""The data room: every reader gives a `Dataset`; `load_dataset` finds the reader for a name or a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from taut.data.arrays import load_npz
from taut.data.cells import CellPolicy, check_policy, chosen_policy, parse_prevalence
from taut.data.dataset import DataError, Dataset
from taut.data.embedded import digit_grid, digits
from taut.data.embeddings import load_embeddings
from taut.data.folder import load_folder
from taut.data.listing import TableOptions
from taut.data.public import PUBLIC, load_public
from taut.data.resized import resized
from taut.data.split import parse_fractions, split_by
from taut.data.vector_files import SUFFIXES as EMBEDDINGS
from taut.labels import LabelSpace, Scalar

__all__ = ["EMBEDDED", "PUBLIC", "TABLES", "DataError", "Dataset", "load_dataset"]

TABLES = (".csv", ".tsv")
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
    separator: str | None = None,
    split_column: str | None = None,
    auxiliary: Sequence[str] | None = None,
    skipped: Path | None = None,
    images: Path | None = None,
    unannotated: Path | None = None,
    format: str | None = None,
    view: str | None = None,
    train_list: Path | None = None,
    test_list: Path | None = None,
    uncertain: str | None = None,
    blank: str | None = None,
    prevalence: str | None = None,
    split_fractions: str | None = None,
    white: float | None = None,
) -> Dataset:
    """The dataset of a name (digits, digit-grid, mnist, svhn, cifar10), a folder, a table, arrays or embeddings.

    A name goes before a path: write ./digits for a folder of that name. See `load_npz`, `load_folder` and
    `load_embeddings` for the options. Of a folder all images are taken, and what `labels` says of them; of a CSV table
    those that it names, below the folder `images` or its own. `unannotated` is a folder of more for either.
    prevalence: see `parse_prevalence`.  split_fractions: see `parse_fractions`; always the same split of the same data.
    Raises DataError for a source that is none of these, or an option that says nothing of it.
    """
    # Faults of these are told before images are read.
    shares = None if split_fractions is None else parse_fractions(split_fractions)
    columns: dict[str, Any] = {
        "path_column": path_column,
        "label_columns": label_columns,
        "joined_column": joined_column,
        "separator": separator,
        "split_column": split_column,
        "auxiliary": auxiliary,
        "format": format,
        "train_list": train_list,
        "test_list": test_list,
    }
    table = {
        "--labels": labels,
        "--image-size": image_size,
        "--channels": channels,
        **{"--" + name.replace("_", "-"): value for name, value in columns.items()},
        "--images": images,
        "--unannotated": unannotated,
        "--view": view,
        "--uncertain": uncertain,
    }
    path = Path(source).expanduser()
    kind = path.suffix.lower()
    if source in EMBEDDED or source in PUBLIC:
        given = None if unlabeled in (-1, None, "") else unlabeled
        _refuse(source, {**table, "--group": group, "--blank": blank, "--unlabeled": given})
        dataset = EMBEDDED[source]() if source in EMBEDDED else load_public(source)
    elif kind == ".npz" and labels is None:
        taken = ("--image-size", "--uncertain", "--auxiliary", "--channels")
        _refuse(source, {flag: value for flag, value in table.items() if flag not in taken})
        asked = uncertain is not None or blank is not None
        policy = chosen_policy(uncertain, blank, CellPolicy.blank) if asked else None
        dataset = load_npz(
            path, space, group, unlabeled, white, policy=policy, auxiliary=auxiliary or (), channels=channels
        )
        check_policy(dataset.space, uncertain, blank)
        dataset = dataset if image_size is None else resized(dataset, image_size)
    elif kind in EMBEDDINGS:
        _refuse(
            source,
            {flag: table[flag] for flag in ("--images", "--unannotated", "--image-size", "--view")},
        )
        dataset = load_embeddings(
            path,
            labels,
            TableOptions(**columns, group=group),
            uncertain=uncertain,
            blank=blank,
            space=space,
            skipped=skipped,
            unlabeled=unlabeled,
            white=white,
            channels=channels,
        )
    elif path.is_dir() or kind in TABLES:
        is_table = not path.is_dir()
        _refuse(source, {"--labels": labels} if is_table else {"--images": images})
        dataset = load_folder(
            (images or path.parent) if is_table else path,
            path if is_table else labels,
            **columns,
            group=group,
            view=view,
            others=not is_table,
            unannotated=unannotated,
            uncertain=uncertain,
            blank=blank,
            space=space,
            image_size=image_size,
            channels=channels,
            skipped=skipped,
            unlabeled=unlabeled,
            white=white,
        )
    else:
        names = ", ".join([*EMBEDDED, *PUBLIC])
        raise DataError(
            f"{source!r} is neither one of {names}, nor a .npz, .npy or Parquet file, nor a folder of images, "
            "nor a CSV table"
        )
    dataset = replace(dataset, prevalence=parse_prevalence(prevalence, dataset.space))
    return dataset if shares is None else split_by(dataset, shares)


def _refuse(source: str, options: Mapping[str, object]) -> None:
    given = [flag for flag, value in options.items() if value is not None]
    if given:
        raise DataError(f"{source} does not take {', '.join(given)}")

"""What a model predicts: images and vectors of any source that it can take, so many at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from taut.data import DataError
from taut.data.arrays import is_pack, load_npz
from taut.data.cache import read_images, scale_of
from taut.data.embeddings import load_embeddings
from taut.data.files import match_files
from taut.data.fitting import check_shape, in_order
from taut.data.layout import choose_view
from taut.data.listing import TableOptions
from taut.data.named import ELSEWHERE, images_of_table, path_column_of
from taut.data.resized import resized
from taut.data.table import check_column, listed, plural
from taut.data.vector_files import SUFFIXES as EMBEDDINGS
from taut.features import FrozenEncoder
from taut.flags import DataFlags, ReadFlags
from taut.nn.vae import LabelVAE
from taut.sources import image_root, kept_flags, layout_of, lost_view


def read_inputs(
    path: Path,
    model: LabelVAE,
    white: float | None,
    source: ReadFlags,
    frozen: FrozenEncoder | None = None,
    most: int | None = None,
    encode: bool = True,
    columns: Sequence[str] = (),
    images: tuple[list[str], list[Path]] | None = None,
) -> Iterator[tuple[list[str], Any, list[tuple[Path, str]]]]:
    """Names, inputs and what could not be read, from an image, some images, an .npz pack or a file of embeddings.

    Annotations are not read, so that they need not be those of the model.
    white: as in `load_source`.  source: the flags of the run, for what its files call the ids.
    frozen: the encoder whose features the model takes; vectors are taken for its features.
    encode: whether these features stand in for images, or images stay as the encoder reads them.
    columns: the names of the features that the model takes.
    images: names and files of the images that `path` stands for, where it is a table (`table_images`) or a folder.
    most: so many image files at once, of which any number may be unread; all of them by default.
    Raises DataError, after the last ones, where none could be read.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    shape = model.architecture.shape if frozen is None else frozen.about.shape
    encoder = frozen if encode else None
    if path.suffix.lower() in EMBEDDINGS:
        channels = shape[0] if len(shape) == 3 else None
        key = source.path_column if path.suffix.lower() in (".parquet", ".pq") else None
        if path.suffix.lower() == ".npz" and is_pack(path):
            dataset = load_npz(path, model.space, white=white, annotated=False, channels=channels)
            if source.image_size is not None and dataset.is_image and len(shape) == 3:
                dataset = resized(dataset, (shape[1], shape[2]))
        else:
            table = TableOptions(path_column=key)
            dataset = load_embeddings(path, None, table, space=model.space, white=white, channels=channels)
        dataset = in_order(dataset, columns)
        if encoder is not None and dataset.is_image:
            dataset = dataclasses.replace(dataset, x=encoder.compute(dataset.x, dataset.name))
        check_shape(dataset, model.architecture.shape if encode else shape)
        yield list(dataset.ids), dataset.x, []
        return
    if len(shape) != 3:
        raise DataError(f"{path}: the model takes feature vectors, not images")
    files = [path] if images is None else images[1]
    named = {} if images is None else dict(zip(files, images[0], strict=True))
    reasons: list[tuple[Path, str]] = []
    count = 0
    size, deep = most or max(1, len(files)), scale_of(white, files)
    for start in range(0, len(files), size):
        some = files[start : start + size]
        x, unread = read_images(some, (shape[0], shape[1], shape[2]), deep)
        bad = {file for file, _ in unread}
        names = [named.get(file, str(file)) for file in some if file not in bad]
        count, reasons = count + len(names), reasons + unread
        yield names, x if encoder is None or not names else encoder.compute(x, str(path)), unread
    if not count:
        raise DataError(f"{path}: no image can be read" + (f" ({reasons[0][0]}: {reasons[0][1]})" if reasons else ""))


def table_images(
    source: DataFlags, table: Path, root: Path | None = None, view: str | None = None, path_column: str | None = None
) -> tuple[list[str], list[Path], pd.Series, list[str]]:
    """The images that another table names, in its order and each once: as it names them, and their files.

    With them the names of images that are not there, by row, and notes.

    root: where they are; by default in the table's folder, or where those of the flags are.
    view: those that show it alone; by default that of the flags, where a row of the table shows it.
    path_column: the column that names them.  Raises DataError.
    """
    source = dataclasses.replace(source, path_column=path_column or source.path_column)
    root = root or image_root(source, table) or table.parent
    usual = source.view
    source = kept_flags(dataclasses.replace(source, data=str(table), labels=None), "path_column")
    layout, _ = layout_of(source, table)
    if path_column is not None:
        check_column(layout.table, path_column, "--path-column")
    shown = view or source.view
    rows = layout.table if shown is None else layout.table[choose_view(layout, shown)]
    column = source.path_column or layout.path
    files = images_of_table(root, table, layout.table, column)
    column = column or path_column_of(layout.table, files, "--root")[0]
    found = match_files(rows[column], files, root, table.parent, layout.shared)
    names = rows[column][found >= 0].tolist()
    places = found[found >= 0].tolist()
    if not places:
        raise DataError(
            f"{table}: no row names an image in {root}; column {column!r} says {listed(list(rows[column]), 3)}: "
            + ELSEWHERE.format("--root")
        )
    first = dict(zip(reversed(places), reversed(names), strict=True))  # of rows of one image the first one
    notes = [f"only images of the view {shown}"] if shown is not None else []
    if shown is None:
        notes += lost_view(usual, source)
    missing = rows[column][found < 0]
    if len(missing):
        notes.append(f"{plural(len(missing), 'row names an image that is', 'rows name images that are')} not in {root}")
    order = list(dict.fromkeys(places))
    return [first[i] for i in order], [root / files[i] for i in order], missing, notes

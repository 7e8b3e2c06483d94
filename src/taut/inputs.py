"""What a model predicts: images and vectors of any source that it can take, so many at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from taut.data import DataError
from taut.data.arrays import is_pack, load_npz
from taut.data.cache import read_images, scale_of
from taut.data.embeddings import SUFFIXES as EMBEDDINGS
from taut.data.embeddings import load_embeddings
from taut.data.files import find_images
from taut.data.fitting import check_shape, in_order
from taut.data.listing import TableOptions
from taut.data.resized import resized
from taut.features import FrozenEncoder
from taut.nn.vae import LabelVAE
from taut.sources import ReadFlags


def read_inputs(
    path: Path,
    model: LabelVAE,
    white: float | None,
    source: ReadFlags,
    frozen: FrozenEncoder | None = None,
    most: int | None = None,
    encode: bool = True,
    columns: Sequence[str] = (),
    listed: tuple[list[str], list[Path]] | None = None,
) -> Iterator[tuple[list[str], Any, list[tuple[Path, str]]]]:
    """Names, inputs and what could not be read, from an image, a folder, an .npz pack or a file of embeddings.

    Annotations are not read, so that they need not be those of the model.
    white: as in `load_source`.  source: the flags of the run, for what its files call the ids.
    frozen: the encoder whose features the model takes; vectors are taken for its features.
    encode: whether these features stand in for images, or images stay as the encoder reads them.
    columns: the names of the features that the model takes.
    listed: the names and the files of the images that a table names, where `path` is one.
    most: so many image files at once, of which any number may be unread; all of them by default.
    Raises DataError, after the last ones, where none could be read.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    shape = model.architecture.shape if frozen is None else frozen.about.shape
    encoder = frozen if encode else None
    if path.suffix.lower() in EMBEDDINGS:
        key = source.path_column if path.suffix.lower() in (".parquet", ".pq") else None
        if path.suffix.lower() == ".npz" and is_pack(path):
            dataset = load_npz(path, model.space, white=white, annotated=False)
            if source.image_size is not None and dataset.is_image and len(shape) == 3:
                dataset = resized(dataset, (shape[1], shape[2]))
        else:
            dataset = load_embeddings(path, None, TableOptions(path_column=key), space=model.space, white=white)
        dataset = in_order(dataset, columns)
        if encoder is not None and dataset.is_image:
            dataset = dataclasses.replace(dataset, x=encoder.compute(dataset.x, dataset.name))
        check_shape(dataset, model.architecture.shape if encode else shape)
        yield list(dataset.ids), dataset.x, []
        return
    if len(shape) != 3:
        raise DataError(f"{path}: the model takes feature vectors, not images")
    files = [path / name for name in find_images(path)] if path.is_dir() else [path]
    named = {}
    if listed is not None:
        files = listed[1]
        named = dict(zip(files, listed[0], strict=True))
    reasons: list[tuple[Path, str]] = []
    count = 0
    size = most or max(1, len(files))
    for start in range(0, len(files), size):
        some = files[start : start + size]
        x, unread = read_images(some, (shape[0], shape[1], shape[2]), scale_of(white))
        bad = {file for file, _ in unread}
        names = [named.get(file, str(file)) for file in some if file not in bad]
        count, reasons = count + len(names), reasons + unread
        yield names, x if encoder is None or not names else encoder.compute(x, str(path)), unread
    if not count:
        raise DataError(f"{path}: no image can be read" + (f" ({reasons[0][0]}: {reasons[0][1]})" if reasons else ""))

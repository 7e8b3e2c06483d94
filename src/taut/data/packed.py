"""Encoded images in a row of bytes, with the offset of each."""

from __future__ import annotations

from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from taut.data.cache import GREY_MODES, decode_image
from taut.data.dataset import DataError


def decode_packed(data: NDArray[Any], offsets: NDArray[Any], where: str) -> NDArray[np.uint8]:
    """Images of one size, uint8 [N, C, H, W], from their bytes, end to end, and offsets [N + 1]; C = 1 if all are grey.

    DataError, naming where, for other arrays, for images of several sizes, and for the row of a damaged one.
    """
    if data.dtype != np.uint8 or data.ndim != 1:
        raise DataError(f"{where}: 'jpeg' is {data.dtype} {list(data.shape)}: expected bytes, uint8 in one row")
    if offsets.dtype.kind not in "iu" or offsets.ndim != 1 or len(offsets) < 2:
        raise DataError(f"{where}: 'offsets' is {offsets.dtype} {list(offsets.shape)}: expected integers [N + 1]")
    if offsets[0] < 0 or offsets[-1] > len(data) or np.any(offsets[1:] < offsets[:-1]):
        raise DataError(f"{where}: 'offsets' do not rise from 0 to the {len(data):,} bytes of 'jpeg'")
    files = [data[start:end].tobytes() for start, end in pairwise(offsets)]
    first = _open(files, 0, where)
    grey = first[0] in GREY_MODES and all(_open(files, i, where)[0] in GREY_MODES for i in range(1, len(files)))
    shape = (1 if grey else 3, first[1][1], first[1][0])
    out = np.empty((len(files), *shape), dtype=np.uint8)
    for i, file in enumerate(files):
        size = _open(files, i, where)[1]
        if size != first[1]:
            raise DataError(
                f"{where}: the image of row {i} is {size[0]}x{size[1]} pixels, that of row 0 "
                f"{first[1][0]}x{first[1][1]}: all must be of one size"
            )
        try:
            out[i] = decode_image(BytesIO(file), shape)
        except Exception as error:  # a damaged image can raise anything in a decoder
            raise _damaged(where, i) from error
    return out


def _open(files: list[bytes], row: int, where: str) -> tuple[str, tuple[int, int]]:
    try:
        with Image.open(BytesIO(files[row])) as image:
            return image.mode, image.size
    except Exception as error:  # as above
        raise _damaged(where, row) from error


def _damaged(where: str, row: int) -> DataError:
    return DataError(f"{where}: the JPEG image of row {row} cannot be decoded")

"""Some rows of an array: those of a memory map stay on the disk, and what is known of a row stays known."""

from __future__ import annotations

import math
from mmap import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK_VALUES = 2**22  # looked at together, so that a memory map is not read as a whole
UNKNOWN = ""


class MappedRows:
    """Rows of a memory map in some order, with what an array of inputs is asked for: shape, dtype, and parts of it."""

    def __init__(self, base: NDArray[Any], index: NDArray[np.intp]) -> None:
        self.base, self.index = base, index
        self.shape, self.dtype, self.ndim = (len(index), *base.shape[1:]), base.dtype, base.ndim
        self.size = int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """The rows of an integer, a slice, an index or a mask, or parts of them, in memory."""
        rows, *parts = key if isinstance(key, tuple) else (key,)
        return np.asarray(self.base[(self.index[rows], *parts)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)


def is_mapped(x: Any) -> bool:
    """Whether an array is a memory map, a view of one, or rows of one that stay on the disk.

    The type alone does not tell, as rows of a map that are in memory keep it.
    """
    if isinstance(x, MappedRows):
        return True
    while isinstance(x, np.ndarray):
        x = x.base
    return isinstance(x, mmap)


def select(x: Any, index: NDArray[np.intp]) -> Any:
    """The rows [n] of an array: a view where they follow one another, and nothing is read of a memory map."""
    if isinstance(x, MappedRows):
        return MappedRows(x.base, x.index[index])
    if len(index) and (np.diff(index) == 1).all():
        return x[index[0] : index[-1] + 1]
    return MappedRows(x, index) if is_mapped(x) else x[index]


class Origin:
    """The rows of the first dataset that inputs x are from, and what all datasets of its rows know of them together.

    rows: [N] positions there.  keys: of all M rows there, the hash of their pixels (see `pixel_keys`), None for those
    that have none, and UNKNOWN until it is asked for.
    """

    def __init__(self, x: Any, rows: NDArray[np.intp] | None = None, keys: NDArray[np.object_] | None = None) -> None:
        self.x = x
        self.rows = np.arange(len(x)) if rows is None else rows
        self.keys = np.full(len(x), UNKNOWN, dtype=object) if keys is None else keys

    def select(self, index: NDArray[np.intp]) -> Origin:
        """That of some rows [n], with inputs as `select` gives them."""
        return Origin(select(self.x, index), self.rows[index], self.keys)


def first_not_finite(x: Any) -> int | None:
    """The first row of floats with NaN or infinity, None where there is none; read in blocks."""
    block = max(1, BLOCK_VALUES // max(1, math.prod(x.shape[1:])))
    for start in range(0, len(x), block):
        wrong = ~np.isfinite(x[start : start + block])
        if wrong.any():
            return start + int(np.argwhere(wrong)[0][0])
    return None

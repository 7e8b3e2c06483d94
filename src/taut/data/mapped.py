"""Some rows of an array; those of a memory map stay on the disk until they are asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class MappedRows:
    """Rows of a memory map in some order, with what an array of inputs is asked for: shape, dtype, and parts of it."""

    def __init__(self, base: NDArray[Any], index: NDArray[np.intp]) -> None:
        self.base, self.index = base, index
        self.shape, self.dtype, self.ndim = (len(index), *base.shape[1:]), base.dtype, base.ndim
        self.size = int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """The rows of an integer, a slice, an index or a mask, in memory."""
        return np.asarray(self.base[self.index[key]])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype=dtype)


def select(x: Any, index: NDArray[np.intp]) -> Any:
    """The rows [n] of an array: a view where they follow one another, and nothing is read of a memory map."""
    if isinstance(x, MappedRows):
        return MappedRows(x.base, x.index[index])
    if len(index) and (np.diff(index) == 1).all():
        return x[index[0] : index[-1] + 1]
    return MappedRows(x, index) if isinstance(x, np.memmap) else x[index]

"""Memory maps: what is one, and that choosing rows of it reads nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from taut.data.mapped import MappedRows, select


def test_rows_of_a_memory_map_and_of_its_views_stay_on_the_disk(tmp_path: Path) -> None:
    x = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.uint8, shape=(9, 4, 4))
    x[:] = np.arange(x.size, dtype=np.uint8).reshape(x.shape)
    chosen = np.array([0, 3, 1])
    views = [x, x[2:], np.asarray(x), np.asarray(x)[:, None], np.load(tmp_path / "x.npy", mmap_mode="r")]
    for view in views:
        rows = select(view, chosen)
        assert isinstance(rows, MappedRows)
        assert np.may_share_memory(rows.base, view)
        np.testing.assert_array_equal(rows[:], np.array(view)[chosen])
        np.testing.assert_array_equal(rows[1:, 0], np.array(view)[chosen][1:, 0])
    for array in (
        x.copy(),
        np.array(x),
        x[[4, 2, 0, 1]],
        x.astype(np.float32),
    ):  # some have its type, but are in memory
        assert isinstance(select(array, chosen), np.ndarray)

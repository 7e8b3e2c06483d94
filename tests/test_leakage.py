from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taut.data.dataset import DataError, Dataset
from taut.data.leakage import check_leakage, find_leaks, pixel_keys, units
from taut.labels import LabelSpace
from tiny import SEVERAL, images, made

HINT = ": --leakage report goes on all the same"


def some(n: int, groups: Any = None, seed: int = 0) -> Dataset:
    return images(np.zeros((n, 2)), SEVERAL, seed=seed, groups=groups)


def test_shared_groups_are_named_and_listed(tmp_path: Path) -> None:
    train, test = some(6, [1, 1, 2, 2, 3, 3]), some(6, [3, 4, 4, 5, 5, 2], seed=1)
    report = tmp_path / "lists" / "leakage.csv"
    with pytest.raises(DataError) as caught:
        check_leakage({"training": train, "test": test}, report)
    want = "2 groups are in both the training and the test part, such as 2, 3 (all of them are in "
    assert str(caught.value) == f"{want}{report}){HINT}"
    listed = pd.read_csv(report, dtype=str)
    assert listed.to_dict("list") == {
        "kind": ["group"] * 6,
        "value": ["2", "2", "2", "3", "3", "3"],
        "part": ["test", "training", "training", "test", "training", "training"],
        "image": ["5", "2", "3", "0", "4", "5"],
    }
    assert check_leakage({"training": train, "test": some(6, [7] * 6, seed=1)}, tmp_path / "none.csv") == []
    assert not (tmp_path / "none.csv").exists()
    assert check_leakage({"training": train, "test": some(6, seed=1)}) == []
    assert check_leakage({"training": train}) == []


def test_the_same_pixels_are_refused(tmp_path: Path) -> None:
    train, test = some(6), some(6, seed=1)
    test.x[4] = train.x[1]
    with pytest.raises(
        DataError, match=r"^1 images are, pixel for pixel, in both the training and the test part, .*4 = 1"
    ):
        check_leakage({"training": train, "test": test})
    assert check_leakage({"training": train, "test": test}, pixels=False) == []
    (sentence,) = check_leakage({"training": train, "test": test}, refuse=False)
    assert sentence.endswith(".")
    # Within one part copies do no harm.
    train = some(6)
    train.x[2] = train.x[1]
    assert find_leaks({"training": train, "test": some(6, seed=1)}).empty


def test_groups_and_pixels_and_three_parts() -> None:
    train, valid, test = some(4, [1, 1, 2, 2]), some(4, [3, 3, 4, 1], seed=1), some(4, [5, 5, 5, 6], seed=2)
    test.x[0] = valid.x[2]
    with pytest.raises(DataError) as caught:
        check_leakage({"training": train, "valid": valid, "test": test})
    assert str(caught.value) == (
        "1 groups are in both the training and the valid part, such as 1; "
        "1 images are, pixel for pixel, in both the valid and the test part, such as 0 = 2" + HINT
    )


def test_images_of_one_colour_and_feature_vectors_have_no_key() -> None:
    x = np.zeros((4, 3, 2, 2), dtype=np.uint8)
    x[1, 0] = 255
    x[2, 1, 0, 0] = x[3, 1, 0, 0] = 9
    keys = pixel_keys(made(x, np.zeros((4, 2)), SEVERAL))
    assert keys[:2].tolist() == [None, None]
    assert keys[2] is not None
    assert keys[2] == keys[3]
    assert set(pixel_keys(made(np.zeros((3, 4), dtype=np.float32), np.zeros((3, 2)), SEVERAL))) == {None}


def test_an_image_is_hashed_once_however_its_rows_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Any] = []
    blake2b = hashlib.blake2b
    monkeypatch.setattr("taut.data.leakage.hashlib.blake2b", lambda *a, **b: (hashed.append(a), blake2b(*a, **b))[1])
    data = some(9)
    wanted = pixel_keys(some(9))
    hashed.clear()
    part = data.rows(np.array([7, 1, 4]))
    assert pixel_keys(part).tolist() == wanted[[7, 1, 4]].tolist()
    assert len(hashed) == 3
    assert pixel_keys(data).tolist() == wanted.tolist()
    units(dataclasses.replace(data.rows(np.arange(9) != 4), name="other").rows(np.array([3, 0])))
    assert len(hashed) == 9
    # Other pixels are another matter.
    other = dataclasses.replace(data, x=data.x[::-1].copy())
    assert pixel_keys(other).tolist() == wanted[::-1].tolist()
    data.x = other.x
    assert pixel_keys(data.rows(np.array([0, 2]))).tolist() == wanted[[8, 6]].tolist()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=12))
def test_units_join_what_shares_a_group_or_pixels(pairs: list[tuple[int, int]]) -> None:
    """Against the closure of the relation, one image at a time; picture 0 has one colour and joins nothing."""
    pictures = np.random.default_rng(0).integers(0, 256, (7, 1, 3, 3), dtype=np.uint8)
    pictures[0] = 7
    groups, shown = [g for g, _ in pairs], [p for _, p in pairs]
    space = LabelSpace.multilabel(2)
    unit = units(made(pictures[shown], np.zeros((len(pairs), 2)), space, groups=groups))
    together = np.eye(len(pairs), dtype=bool)
    for i in range(len(pairs)):
        for j in range(len(pairs)):
            together[i, j] |= groups[i] == groups[j] or (shown[i] == shown[j] and shown[i] > 0)
    for _ in pairs:
        together = (together.astype(int) @ together.astype(int)) > 0
    np.testing.assert_array_equal(unit[:, None] == unit[None], together)

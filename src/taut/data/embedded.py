"""The data that is always there: scikit-learn's 8x8 digits, and canvases of several of them."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from taut.data.dataset import Dataset
from taut.labels import LabelSpace

TEST_SHARE = 3  # every third digit image of a class is a test image
CANVAS = 24
GRID_TRAIN, GRID_TEST = 3000, 1000


@cache
def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_]]:
    """Images [1797, 8, 8], classes, and which are test images: a fixed, stratified third."""
    images, classes = load_digits(return_X_y=True)
    pixels = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    test = np.zeros(len(classes), dtype=bool)
    rng = np.random.default_rng(0)
    for c in range(10):
        members = rng.permutation(np.flatnonzero(classes == c))
        test[members[: len(members) // TEST_SHARE]] = True
    return pixels, classes.astype(np.int64), test


def digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits (8x8, grey, one 10-way label); a fixed third is the test part."""
    pixels, classes, test = _digits()
    space = LabelSpace.multiclass(10, name="digit")
    return Dataset(
        name="digits",
        x=pixels[:, None],
        space=space,
        annotation=space.encode(classes),
        ids=[str(i) for i in range(len(classes))],
        split=np.where(test, "test", "train"),
    )


def digit_grid() -> Dataset:
    """Canvases of 24x24 pixels with one to four of those digits; ten yes/no labels say which digits are there.

    3,000 training and 1,000 test canvases from disjoint digit images; the digits may overlap a little.
    """
    pixels, classes, test = _digits()
    rng = np.random.default_rng(1)
    parts = [
        _canvases(pixels[members], classes[members], count, rng)
        for members, count in ((~test, GRID_TRAIN), (test, GRID_TEST))
    ]
    space = LabelSpace.multilabel([f"has_{d}" for d in range(10)])
    n = GRID_TRAIN + GRID_TEST
    return Dataset(
        name="digit-grid",
        x=np.concatenate([canvas for canvas, _ in parts])[:, None],
        space=space,
        annotation=space.encode(np.concatenate([present for _, present in parts])),
        ids=[str(i) for i in range(n)],
        split=np.where(np.arange(n) < GRID_TRAIN, "train", "test"),
    )


def _canvases(
    pixels: NDArray[np.uint8], classes: NDArray[np.int64], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    canvas = np.zeros((count, CANVAS, CANVAS), dtype=np.uint8)
    present = np.zeros((count, 10), dtype=np.int64)
    for i in range(count):
        # One digit a quadrant at most, shifted at random, so that digits touch but do not hide each other.
        for corner in rng.permutation(4)[: rng.integers(1, 5)]:
            j = rng.integers(len(pixels))
            top = (corner // 2) * (CANVAS // 2) + rng.integers(0, CANVAS // 2 - 7)
            left = (corner % 2) * (CANVAS // 2) + rng.integers(0, CANVAS // 2 - 7)
            place = canvas[i, top : top + 8, left : left + 8]
            np.maximum(place, pixels[j], out=place)
            present[i, classes[j]] = 1
    return canvas, present

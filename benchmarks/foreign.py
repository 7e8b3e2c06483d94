"""Images that do not belong to those learnt from: what an out-of-distribution score is to tell apart."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks.common import find_pack
from taut.data.arrays import load_npz

MOST = 1000
NOISE = 60  # standard deviation, of 255


@cache
def photographs(side: int) -> NDArray[np.uint8]:
    """Grey CIFAR-10 images, [1000, 1, side, side]."""
    images = load_npz(find_pack("cifar10_test_jpeg.npz", "jpeg, offsets, y, class_names")).x[:MOST]
    return resized(images.mean(axis=1, keepdims=True), side)


@cache
def scans(side: int) -> NDArray[np.uint8]:
    """Chest X-rays, [1000, 1, side, side]."""
    return resized(np.load(find_pack("nih_cxr14_all_64.npz", "x"))["x"][:MOST, None], side)


@cache
def digits(side: int) -> NDArray[np.uint8]:
    """Handwritten digits, [1000, 1, side, side]."""
    return resized(load_npz(find_pack("mnist_test.npz", "x, y")).x[:MOST], side)


def turned(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same images, a quarter turned: [N, 1, H, H]."""
    return np.ascontiguousarray(np.rot90(images, axes=(2, 3)))


def noisy(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same images with the same Gaussian noise each time: [N, 1, H, W]."""
    noise = np.random.default_rng(0).normal(0, NOISE, images.shape)
    return (images + noise).clip(0, 255).astype(np.uint8)


def resized(images: NDArray[np.number], side: int) -> NDArray[np.uint8]:
    """Grey images [N, 1, H, W] of 0 to 255 at another size."""
    mode = "area" if images.shape[-1] > side else "bilinear"
    return F.interpolate(torch.from_numpy(images).float(), (side, side), mode=mode).round().to(torch.uint8).numpy()

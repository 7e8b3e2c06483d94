"""Arrays of images at another size, as the images of a folder are read at it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional as F

from taut.data.dataset import DataError, Dataset

BLOCK = 256  # images that are floats at once


def resized(dataset: Dataset, size: int | tuple[int, int]) -> Dataset:
    """The dataset with images of this side, or height and width [pixels]: bilinear, antialiased, of their own dtype.

    Raises DataError for feature vectors, and for what is no size.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise DataError(f"--image-size {size} is not a number of pixels")
    if not dataset.is_image:
        raise DataError(f"{dataset.name} holds feature vectors, which have no --image-size")
    n, channels, *sides = dataset.x.shape
    if (height, width) == tuple(sides):
        return dataset
    x = np.empty((n, channels, height, width), dtype=dataset.x.dtype)
    for start in range(0, n, BLOCK):
        block = torch.from_numpy(np.asarray(dataset.x[start : start + BLOCK], dtype=np.float32))
        small = F.interpolate(block, (height, width), mode="bilinear", antialias=True, align_corners=False).numpy()
        x[start : start + BLOCK] = np.rint(small).clip(0, 255) if x.dtype == np.uint8 else small
    note = f"Images of {sides[0]}x{sides[1]} pixels (height x width) are resized to {height}x{width}."
    return replace(dataset, x=x, notes=[*dataset.notes, note])

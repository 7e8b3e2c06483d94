"""Dataset: images or feature vectors, which may be a memory map, with their annotations, groups and split by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from taut.data.mapped import Origin, first_not_finite, is_mapped
from taut.labels import Annotation, LabelSpace

if TYPE_CHECKING:
    from taut.data.auxiliary import Auxiliary
    from taut.data.cells import CellPolicy

USUAL_CHANNELS = (1, 3, 4)
GREY = 0.98  # a set is grey where this share of its images has no colour: a few scans have coloured marks
SPLITS = ("train", "valid", "test")
HOT = 0.001  # share of an image's pixels, or one of them, that say nothing of its scale
SMALL = 16  # bytes of which none is above are masks of 0 and 1 or digits of 0 to 16, and no dark images


class DataError(ValueError):
    """Data that cannot be used; the message names the file, the row or the flag, in one sentence."""


@dataclass
class Dataset:
    """Inputs and annotations of N images.

    x: [N, C, H, W] uint8 or float32 in [0, 1], or [N, F] float32 feature vectors; may be a memory map.
    ids: a name for every row (a file name, or the row's number).
    groups: [N] values that must not be on both sides of a split (a patient), or None.
    owner: the column or array that these are of, where no flag and no format names it.
    split: [N] of "train", "valid", "test", or None where the source has none.
    notes: what was found and left out while reading, one sentence each.
    cells: [N, k] what the source says in each cell: the index of a class, or a code of `taut.data.cells`; or None.
    policy: what became of the cells that state no class; or None where there is no such question.
    prevalence: probabilities by label ("yes") or LABEL=CLASS, where they are known and not to be estimated.
    lines: [N] the row of its table that names an image, as a spreadsheet counts, 0 where none does; or None.
    repeats: for each other row of the table that is of such an image, the row in `lines`.
    pixel_max: what counts as white in the source's own numbers, as a rule 255 for uint8; None for feature vectors.
    feature_names: of the columns of feature vectors, where they have names.
    auxiliary: what else is known of the images, to learn from and not to predict; or None.
    origin: the rows that were read of which these are, so that none is checked or hashed twice; None finds its own.
    """

    name: str
    x: NDArray[Any]
    space: LabelSpace
    annotation: Annotation
    ids: Sequence[str]
    groups: NDArray[Any] | None = None
    split: NDArray[Any] | None = None
    notes: list[str] = field(default_factory=list)
    cells: NDArray[np.int16] | None = None
    policy: CellPolicy | None = None
    prevalence: dict[str, float] = field(default_factory=dict)
    lines: NDArray[np.int64] | None = None
    repeats: dict[int, int] = field(default_factory=dict)
    pixel_max: float | None = None
    feature_names: list[str] = field(default_factory=list)
    auxiliary: Auxiliary | None = None
    owner: str | None = None
    origin: Origin | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse parts of different lengths, and values that are not numbers."""
        parts = {
            "annotations": self.annotation.targets,
            "ids": self.ids,
            "groups": self.groups,
            "split": self.split,
            "cells": self.cells,
            "lines": self.lines,
            "auxiliary values": self.auxiliary,
        }
        for part, values in parts.items():
            if values is not None and len(values) != len(self.x):
                raise DataError(f"{self.name}: {len(self.x)} images but {len(values)} {part}")
        if self.pixel_max is None and self.x.dtype == np.uint8:
            self.pixel_max = 255.0
        if len(self.x) == 0:
            raise DataError(f"{self.name}: no images")
        if self.x.ndim not in (2, 4):
            raise DataError(f"{self.name}: inputs of shape {list(self.x.shape)}: expected [N, C, H, W] or [N, F]")
        known = self.origin
        if self.traced() is not known and self.x.dtype.kind == "f":
            row = first_not_finite(self.x)
            if row is not None:
                raise DataError(f"{self.name}: row {row} ({self.ids[row]}) contains NaN or infinity{self._hole(row)}")

    def _hole(self, row: int) -> str:
        """In which column of feature vectors a row has its first hole, and what to do about it."""
        if self.is_image:
            return ""
        column = int(np.argmax(~np.isfinite(self.x[row])))
        name = self.feature_names[column] if self.feature_names else column
        if not np.isfinite(self.x[:, column]).any():
            return f" in column {name}, as all rows do: leave it out"
        return f" in column {name}: put numbers there, such as the median of the column"

    def __len__(self) -> int:
        return len(self.x)

    @property
    def is_image(self) -> bool:
        """Whether the inputs are images and not feature vectors."""
        return self.x.ndim == 4

    @property
    def group_numbers(self) -> NDArray[np.intp]:
        """The number of each image's group, from 0: [N]; without groups each image is one of its own."""
        names = np.arange(len(self)) if self.groups is None else self.groups
        return np.asarray(np.unique(names, return_inverse=True)[1].ravel())

    def traced(self) -> Origin:
        """The origin of the inputs: their own where x is another array than that which it tells of."""
        if self.origin is None or self.origin.x is not self.x:
            self.origin = Origin(self.x)
        return self.origin

    def rows(self, index: NDArray[Any]) -> Dataset:
        """The dataset of some rows: an index or a mask. Inputs are copied only where `select` must."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        origin = self.traced().select(index)
        return replace(
            self,
            x=origin.x,
            origin=origin,
            annotation=self.annotation[index],
            ids=[self.ids[int(i)] for i in index],
            groups=None if self.groups is None else self.groups[index],
            split=None if self.split is None else self.split[index],
            cells=None if self.cells is None else self.cells[index],
            lines=None if self.lines is None else self.lines[index],
            auxiliary=None if self.auxiliary is None else self.auxiliary[index],
        )

    def part(self, split: str) -> Dataset:
        """The rows of one part of the split; DataError where there are none."""
        if split not in SPLITS:
            raise DataError(f"split {split!r} is not one of {', '.join(SPLITS)}")
        if self.split is None or not (self.split == split).any():
            raise DataError(f"{self.name} has no part {split!r}")
        return self.rows(self.split == split)


def pixel_max(x: NDArray[Any]) -> float:
    """White on the scale of some images: the usual one where it fits, else the brightest pixel (digits of 0 to 16).

    For bytes that is 255, unless none is above `SMALL`; for greater whole numbers the greatest of as many bits: 4095
    where the brightest is 3000.
    """
    high = float(x.max()) if x.size else 1.0
    if x.dtype == np.uint8:
        return high if 0 < high <= SMALL else 255.0
    if x.dtype.kind in "iu" and 255 < high <= 65535:
        return 2.0 ** int(high).bit_length() - 1
    return 1.0 if high <= 1 else next((top for top in (255.0, 65535.0) if top / 2 < high <= top), high)


def small_scale(x: NDArray[Any], white: float | None) -> list[str]:
    """The sentence that tells of images of bytes where white is not 255, if they are such."""
    if white is None or white > SMALL or x.dtype != np.uint8 or x.ndim < 3 or x.max(initial=0) > white:
        return []
    return [f"The pixels are bytes from 0 to {white:g}, which is taken as white."]


def without_sides_of_one(x: NDArray[Any]) -> NDArray[Any]:
    """Spectra and the like, [N, L, 1] or [N, 1, L], as the vectors [N, L] that they are; other arrays as they are."""
    return x.reshape(len(x), math.prod(x.shape[1:])) if x.ndim > 2 and sum(side > 1 for side in x.shape[1:]) < 2 else x


def _ends_with_channels(shape: tuple[int, ...]) -> bool:
    """Whether the last side of [N, H, W, C] or [N, C, H, W] is the channels."""
    first, last = shape[1] in USUAL_CHANNELS, shape[3] in USUAL_CHANNELS
    if first or last:
        return last and (not first or shape[1] == shape[2])
    # A square is two sides of an image, however many bands there are.
    return shape[3] < min(shape[1:3]) or (shape[1] == shape[2] and shape[2] != shape[3])


def as_images(x: NDArray[Any], name: str, white: float | None = None, channels: int | None = None) -> NDArray[Any]:
    """Arrays of images as [N, C, H, W] uint8 or float32 in [0, 1]; feature vectors [N, F] as float32.

    Accepts [N, H, W], [N, H, W, C] and [N, C, H, W] of uint8, bool or numbers from 0 to white, above which they are cut
    off. C is 1, 3 or 4, or any other number that is below both sides or beside two equal ones.
    channels: of the images of a model; a fourth channel is alpha and dropped where it has three, and where nobody says
        how many it has and the fourth is the same everywhere.
    white: `pixel_max` of the training images, so that no image's scale depends on the others of its array; by
        default that of these.  It is that of bytes too where it is less than 255; but after training on [0, 1] bytes
        beyond 1 are of 0 to 255.  Raises DataError for anything else, and for what is plainly on another scale.
    """
    x = np.asarray(x)
    if x.dtype.kind not in "biuf":
        raise DataError(f"{name}: inputs of dtype {x.dtype} are not numbers")
    if x.ndim == 2:
        return x if is_mapped(x) and x.dtype == np.float32 else x.astype(np.float32)
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and _ends_with_channels(x.shape):
        x = x.transpose(0, 3, 1, 2)
    square = x.ndim == 4 and x.shape[1] != x.shape[2] == x.shape[3]
    if x.ndim != 4 or not (x.shape[1] in USUAL_CHANNELS or x.shape[1] < min(x.shape[2:]) or square):
        raise DataError(
            f"{name}: inputs of shape {list(x.shape)} are neither feature vectors [N, F] nor images whose channels, "
            "first or last, are 1, 3, 4 or fewer than the pixels of a side, or another number beside two equal sides"
        )
    if x.shape[1] == 4 and (channels == 3 or (channels is None and x.size and x[:, 3].min() == x[:, 3].max())):
        x = x[:, :3]
    if x.dtype == np.uint8 and (white is None or white >= 255 or (white < 2 and x.max(initial=0) > white)):
        return x if is_mapped(x) else np.ascontiguousarray(x)
    if x.dtype == bool:
        return x.astype(np.float32)
    white = pixel_max(x) if white is None else white
    low, high = (float(x.min()), float(x.max())) if x.size else (0.0, 1.0)
    if not np.isfinite(high - low):
        raise DataError(f"{name}: NaN or infinity among the pixels")
    if high > 2 * white and (x > 2 * white).reshape(len(x), -1).sum(axis=1).max() <= max(1, HOT * x[0].size):
        high = float(x[x <= 2 * white].max(initial=0))  # a pixel that is hot or saturated is no other scale
    dark = 128 * high < white and bool(np.any(x % 1))  # [0, 1] where the training images had [0, 255]
    if low < 0 or high > 2 * white or dark:
        below = " (where they are below 0, add the same number to all)" if low < 0 else ""
        raise DataError(f"{name}: pixel values from {low:g} to {high:g}{below}: expected 0 to {white:g}")
    scaled = np.ascontiguousarray(x, dtype=np.float32) / np.float32(white)
    np.minimum(scaled, 1, out=scaled)
    return scaled

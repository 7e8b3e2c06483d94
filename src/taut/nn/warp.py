"""Affine views of images."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def warp(x: Tensor, maps: Tensor) -> Tensor:
    """Images [N, C, H, W] read at the places that affine maps [N, 2, 3], or [1, 2, 3] for all, take each pixel to.

    Both axes of an image run from -1 to 1; what lies outside is as the nearest pixel inside: a
    ground of any brightness stays one, as black would not on a white page.
    """
    grid = F.affine_grid(maps.to(x.device), [len(maps), 1, *x.shape[2:]], align_corners=False)
    return F.grid_sample(x, grid.expand(x.shape[0], -1, -1, -1), padding_mode="border", align_corners=False)

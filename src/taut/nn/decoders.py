"""Decoders: p(x|z,c) from a continuous latent and the labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MLPDecoder(nn.Module):
    """Fully connected p(x|z,c) of feature vectors: [N, D], [N, W] to [N, F]."""

    def __init__(self, z_dim: int, label_width: int, out_features: int, width: int = 256) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inp in (z_dim + label_width, width):
            layers += [nn.Linear(inp, width), nn.LayerNorm(width), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Linear(width, out_features))

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Likelihood parameters [N, F]."""
        return self.body(torch.cat([z, c], dim=1))  # type: ignore[no-any-return]


class ConvDecoder(nn.Module):
    """Convolutional p(x|z,c) of images of any size: [N, D], [N, W] to [N, C, H, W].

    A coarse map is doubled until it covers the image, then cropped. Doubling is a convolution at the coarse
    resolution followed by a pixel shuffle (Shi 2016), the cheapest form on a CPU.
    """

    def __init__(self, z_dim: int, label_width: int, shape: tuple[int, int, int], width: int = 16) -> None:
        super().__init__()
        channels, self.height, self.wide = shape
        doublings = next(n for n in range(1, 12) if max(self.height, self.wide) <= 8 << n)
        self.start = (-(-self.height // (1 << doublings)), -(-self.wide // (1 << doublings)))
        widths = [width * min(4, 1 << (doublings - 1 - i)) for i in range(doublings)]
        self.linear = nn.Linear(z_dim + label_width, widths[0] * self.start[0] * self.start[1])
        layers: list[nn.Module] = []
        for i in range(doublings):
            last = i == doublings - 1
            out = channels if last else widths[i + 1]
            layers += [nn.ReLU(inplace=True), nn.Conv2d(widths[i], out * 4, 3, 1, 1), nn.PixelShuffle(2)]
        self.body = nn.Sequential(*layers)

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Likelihood parameters [N, C, H, W]."""
        h = self.linear(torch.cat([z, c], dim=1)).unflatten(1, (-1, *self.start))
        h = self.body(h.contiguous(memory_format=torch.channels_last))
        return h[:, :, : self.height, : self.wide]  # type: ignore[no-any-return]


def reduced_shape(shape: tuple[int, ...], reduce: int) -> tuple[int, ...]:
    """The shape of the reconstruction at 1/reduce of the resolution; features keep theirs."""
    return shape if len(shape) == 1 else (shape[0], *(max(1, -(-side // reduce)) for side in shape[1:]))


def reduce_image(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The area average of x [N, C, H, W] at the reconstruction's resolution: [N, *shape]."""
    return x if tuple(x.shape[1:]) == tuple(shape) else F.adaptive_avg_pool2d(x, (shape[1], shape[2]))


def make_decoder(z_dim: int, label_width: int, shape: tuple[int, ...], width: int | None = None) -> nn.Module:
    """A decoder to reconstructions of a shape: [F] or [C, H, W]."""
    if len(shape) == 1:
        return MLPDecoder(z_dim, label_width, shape[0], width or 256)
    return ConvDecoder(z_dim, label_width, (shape[0], shape[1], shape[2]), width or 16)

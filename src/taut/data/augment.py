"""Augmentation of a whole batch at once, with parameters of its own for every image.

torchvision's v2 transforms draw one set of parameters for a batch, and one call an image costs more than the
network here; so the random affine maps are built directly on torch's affine_grid and grid_sample, from an explicit
generator, which makes a resumed run repeat them bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.quasirandom import SobolEngine

from taut.nn.warp import warp

NARROW = 0.5  # of the weak views' ranges: 0.3 to 0.7 did alike on hidden MNIST labels


@dataclass
class Augment:
    """Ranges of the augmentation; the defaults leave labels alone (flips change digits, and sides of a body)."""

    rotation: float = 15.0
    """Degrees, to both sides."""
    scale: float = 0.15
    """Log of the greatest zoom, for each axis."""
    shift: float = 0.1
    """Share of the side."""
    shear: float = 0.15
    """Greatest shear, as the shift of a row over its distance."""
    flip: bool = False
    """Mirror left and right with probability one half."""
    brightness: float = 0.0
    """Greatest change of all pixels, of values in [0, 1]; less for channels that vary less than another one."""
    contrast: float = 0.0
    """Log of the greatest factor of the distances from each channel's mean pixel."""
    erase: int = 0
    """Rectangles of a strong view that become as dark or as bright as its extremes (random erasing, Zhong 2020)."""
    erase_area: float = 0.06
    """Mean share of the image that a rectangle covers; it varies by half of it."""
    erase_aspect: float = 6.0
    """Greatest ratio of a rectangle's sides."""
    strong: float = 1.5
    """Factor of all ranges for strong views."""
    noise: float = 0.1
    """Standard deviation of the noise on standardised features."""
    drop: float = 0.0
    """Share of the features that a strong view loses."""
    views: int = 0
    """How many fixed views of an image, within half of the ranges, predictions are averaged over beside the image."""

    @property
    def changes_images(self) -> bool:
        """Whether views of an image differ from it."""
        ranges = (self.rotation, self.scale, self.shift, self.shear, self.brightness, self.contrast)
        return bool(self.flip or self.erase or any(ranges))

    def weak(self, x: Tensor, generator: Generator) -> Tensor:
        """A weak view of prepared inputs [N, ...]."""
        if x.dim() == 2:
            return x + self.noise * torch.randn(x.shape, generator=generator).to(x.device) if self.noise else x
        return self._colour(self._affine(x, 1.0, generator), 1.0, generator)

    def strongly(self, x: Tensor, generator: Generator) -> Tensor:
        """A strong view of prepared inputs [N, ...]: wider ranges, and parts missing."""
        if x.dim() == 2:
            x = x + self.strong * self.noise * torch.randn(x.shape, generator=generator).to(x.device)
            if self.drop:
                x = x * (torch.rand(x.shape, generator=generator) >= self.drop).to(x.device)
            return x
        x = self._colour(self._affine(x, self.strong, generator), self.strong, generator)
        return self._erase(x, generator) if self.erase else x

    def fixed_maps(self, shape: tuple[int, ...]) -> Tensor | None:
        """The affine maps of the `views` of an input of a shape, [K, 2, 3] for `taut.nn.warp`, or None for none.

        They are the same for every image and evenly spread (a Sobol sequence), so that a prediction depends neither
        on chance nor on other images.
        """
        if len(shape) != 3 or not self.views or self._keeps_places():
            return None
        u = 2 * SobolEngine(7, scramble=True, seed=0).draw(self.views) - 1  # type: ignore[no-untyped-call]
        return self._maps(NARROW * u, *shape[1:])

    def _keeps_places(self) -> bool:
        return not (self.rotation or self.scale or self.shift or self.shear or self.flip)

    def _affine(self, x: Tensor, factor: float, generator: Generator) -> Tensor:
        if self._keeps_places():
            return x
        # Seven numbers an image, drawn on the CPU in one call whatever the device, so that runs are comparable.
        u = (2 * torch.rand(len(x), 7, generator=generator) - 1) * factor
        return warp(x, self._maps(u, *x.shape[2:]))

    def _maps(self, u: Tensor, height: int, width: int) -> Tensor:
        """Affine maps [N, 2, 3] of places in [-1, 1], from places within the ranges, [N, 7] in [-1, 1]."""
        angle = u[:, 0] * math.radians(self.rotation)
        cos, sin = angle.cos(), angle.sin()
        zoom_x, zoom_y = (u[:, 1] * self.scale).exp(), (u[:, 2] * self.scale).exp()
        shear = u[:, 3] * self.shear
        mirror = torch.where(u[:, 6] < 0, -1.0, 1.0) if self.flip else 1.0
        theta = torch.zeros(len(u), 2, 3)
        theta[:, 0, 0] = cos * zoom_x * mirror
        theta[:, 0, 1] = (shear - sin) * zoom_y
        theta[:, 1, 0] = sin * zoom_x * mirror
        theta[:, 1, 1] = cos * zoom_y
        theta[:, 0, 2] = 2 * u[:, 4] * self.shift
        theta[:, 1, 2] = 2 * u[:, 5] * self.shift
        if height != width:
            # The grid's axes both run from −1 to 1, so that turning needs the aspect ratio.
            theta[:, 0, 1] *= height / width
            theta[:, 1, 0] *= width / height
        return theta

    def _colour(self, x: Tensor, factor: float, generator: Generator) -> Tensor:
        if not (self.brightness or self.contrast):
            return x
        u = ((2 * torch.rand(len(x), 2, generator=generator) - 1) * factor).to(x.device)[:, :, None, None, None]
        mean, shift = x.mean((2, 3), keepdim=True), u[:, 1] * self.brightness
        if x.shape[1] > 1:
            # What is little beside one channel may be all that there is of another, such as a faint stain.
            std = (x - mean).square().mean((2, 3), keepdim=True).sqrt()
            shift = shift * std / std.amax(1, keepdim=True).clamp_min(1e-6)
        return ((x - mean) * (u[:, 0] * self.contrast).exp() + mean + shift).clamp(0, 1)

    def _erase(self, x: Tensor, generator: Generator) -> Tensor:
        n, _, height, width = x.shape
        u = torch.rand(n, self.erase, 5, generator=generator).to(x.device)
        aspect = ((2 * u[..., 0] - 1) * math.log(self.erase_aspect)).exp()
        area = self.erase_area * (0.5 + u[..., 1])
        rows = (torch.arange(height, device=x.device) + 0.5) / height
        columns = (torch.arange(width, device=x.device) + 0.5) / width
        tall = (rows - u[..., 2, None]).abs() < (area * aspect).sqrt()[..., None] / 2
        wide = (columns - u[..., 3, None]).abs() < (area / aspect).sqrt()[..., None] / 2
        # Each channel's own extremes: black and white are tens of standard deviations from the pixels of a dim one.
        low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
        for i in range(self.erase):
            inside = tall[:, i, None, :, None] & wide[:, i, None, None, :]
            x = torch.where(inside, torch.where(u[:, i, 4, None, None, None] < 0.5, high, low), x)
        return x

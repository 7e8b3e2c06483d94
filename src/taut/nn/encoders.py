"""Encoders: from a prepared image or feature vector to what the heads of q(z|x) and q(c|x) read."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224  # means, standard deviations, side in pixels
GRID = 4
Z_CHANNELS = 16
POOLS = {"mean": 1, "meanmax": 2, "grid": GRID * GRID}  # label features for each channel


@dataclass
class Features:
    """What an encoder sees. label: [N, F], which q(c|x) reads; place: [N, G], which q(z|x) reads."""

    label: Tensor
    place: Tensor


class Encoder(nn.Module):
    """An encoder with the widths of its two outputs."""

    label_features: int
    place_features: int

    @property
    def backbone(self) -> nn.Module:
        """The part that published weights are for; the rest starts anew."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Features:
        """[N, C, H, W] or [N, F] to Features."""
        raise NotImplementedError


class MLP(Encoder):
    """Fully connected layers for feature vectors."""

    def __init__(self, in_features: int, width: int = 256) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inp in (in_features, width):
            layers += [nn.Linear(inp, width), nn.LayerNorm(width), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.label_features = self.place_features = width

    @property
    def backbone(self) -> nn.Module:
        """All layers."""
        return self.body

    def forward(self, x: Tensor) -> Features:
        """[N, F] to Features."""
        h = self.body(x.flatten(1))
        return Features(h, h)


def pooled_features(channels: int, pool: str) -> int:
    """The number of features that `pooled` gives; ValueError for a pool that there is not."""
    if pool not in POOLS:
        raise ValueError(f"model.pool {pool!r} is not one of {', '.join(POOLS)}")
    return channels * POOLS[pool]


def pooled(h: Tensor, pool: str) -> Tensor:
    """What the label head reads of a map: [N, C, h, w] to [N, F]."""
    if pool == "grid":
        return F.adaptive_avg_pool2d(h, GRID).flatten(1)
    mean = h.mean((2, 3))
    return torch.cat([mean, h.amax((2, 3))], dim=1) if pool == "meanmax" else mean


class MapEncoder(Encoder):
    """A convolution body and what the heads read of its map.

    pool: how the label head reads it. "mean" is the usual one; "meanmax" finds small parts and objects as well; "grid"
    keeps a 4x4 grid of places; ValueError for any other.
    q(z|x) always reads a 4x4 grid of a few channels: a decoder needs places.
    """

    def __init__(self, body: nn.Module, channels: int, pool: str) -> None:
        super().__init__()
        self.body = body
        self.pool = pool
        self.reduce = nn.Conv2d(channels, Z_CHANNELS, 1)
        self.label_features = pooled_features(channels, pool)
        self.place_features = Z_CHANNELS * GRID * GRID

    @property
    def backbone(self) -> nn.Module:
        """The convolution body."""
        return self.body

    def forward(self, x: Tensor) -> Features:
        """[N, C, H, W] to Features."""
        h = self.body(x)
        return Features(pooled(h, self.pool), F.adaptive_avg_pool2d(self.reduce(h), GRID).flatten(1))


def strides(size: int) -> list[int]:
    """Strides of four convolutions that bring 8 to 128 pixels to between 4 and 8, early ones first."""
    if size <= 8:
        # The first layer at full resolution: an 8-pixel image has nothing to spare.
        return [1, 2, 1, 1]
    halvings = next((n for n in range(4) if size >> n <= 8), 4)
    return [2] * halvings + [1] * (4 - halvings)


def small_conv(channels: int, size: int, width: int = 16, pool: str = "mean") -> MapEncoder:
    """Four convolutions (width, 2, 4, 4 times width), strided early: fast on a CPU for 8 to 64 pixels.

    With the pool "grid" a fifth one brings the map to the grid.
    """
    layers: list[nn.Module] = []
    widths, steps = [width, 2 * width, 4 * width, 4 * width], strides(size)
    if pool == "grid":
        steps.append(2 if size / math.prod(steps) > GRID else 1)
        widths.append(4 * width)
    for i, (out, stride) in enumerate(zip(widths, steps, strict=True)):
        kernel = 5 if i == 0 and stride == 2 else 3
        # No normalisation on the first layer: at full resolution it costs more than the convolution.
        layers.append(nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=i == 0))
        if i > 0:
            layers.append(nn.BatchNorm2d(out))
        layers.append(nn.ReLU(inplace=True))
        channels = out
    return MapEncoder(nn.Sequential(*layers), channels, pool)


class PreActBlock(nn.Module):
    """A pre-activation residual block (He 2016b)."""

    def __init__(self, inp: int, out: int, stride: int, slope: float = 0.0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inp), nn.BatchNorm2d(out)
        self.conv1 = nn.Conv2d(inp, out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(inp, out, 1, bias=False) if stride != 1 or inp != out else None
        self.stride, self.slope = stride, slope

    def forward(self, x: Tensor) -> Tensor:
        """[N, inp, H, W] to [N, out, H/stride, W/stride]."""
        h = F.leaky_relu(self.norm1(x), self.slope)
        # Pixels are skipped here and not by the convolution: the gradient of a strided 1x1 convolution of fewer
        # than 16 channels, channels last, corrupts memory on CPUs (github.com/uxlfoundation/oneDNN/issues/6035).
        few = h[:, :, :: self.stride, :: self.stride]
        short = x if self.short is None else self.short(few.contiguous(memory_format=torch.channels_last))
        h = F.leaky_relu(self.norm2(self.conv1(h)), self.slope)
        return short + self.conv2(h)  # type: ignore[no-any-return]


def _preact(channels: int, stem: int, stages: list[tuple[int, int, int]], slope: float, pool: str) -> MapEncoder:
    layers: list[nn.Module] = [nn.Conv2d(channels, stem, 3, 1, 1, bias=False)]
    inp = stem
    for out, count, stride in stages:
        for i in range(count):
            layers.append(PreActBlock(inp, out, stride if i == 0 else 1, slope))
            inp = out
    layers += [nn.BatchNorm2d(inp), nn.LeakyReLU(slope, inplace=True)]
    return MapEncoder(nn.Sequential(*layers), inp, pool)


def wide_resnet_28_2(channels: int, size: int, width: int = 16, pool: str = "mean") -> MapEncoder:
    """WideResNet-28-2 (Zagoruyko 2016), the usual network of semi-supervised image work at 32 pixels."""
    return _preact(channels, width, [(2 * width, 4, 1), (4 * width, 4, 2), (8 * width, 4, 2)], 0.1, pool)


def preact_resnet_18(channels: int, size: int, width: int = 64, pool: str = "mean") -> MapEncoder:
    """PreActResNet-18 (He 2016b) for 32 pixels, one of SHOT-VAE's encoders."""
    stages = [(width, 2, 1), (2 * width, 2, 2), (4 * width, 2, 2), (8 * width, 2, 2)]
    return _preact(channels, width, stages, 0.0, pool)


def densenet_121(channels: int, size: int, width: int = 64, pool: str = "mean") -> MapEncoder:
    """torchvision's DenseNet-121 (Huang 2017) without weights, its first layer for any number of channels."""
    from torchvision.models import DenseNet  # costs a second to import, and few need it

    if size < LEAST_DENSE:
        raise ValueError(
            f"model.encoder 'densenet-121' takes images of {LEAST_DENSE} pixels or more a side, not {size}"
        )
    body = DenseNet(num_init_features=width).features  # its defaults are DenseNet-121's
    if channels != 3:
        body.conv0 = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
    out = body.norm5.num_features
    body.add_module("relu5", nn.ReLU(inplace=True))
    return MapEncoder(body, out, pool)


def _resnet(name: str, channels: int, width: int, pool: str) -> MapEncoder:
    """torchvision's ResNet of that name without its weights and its last two layers."""
    from torchvision import models  # as above

    if width != DEFAULT_WIDTH[name]:
        raise ValueError(f"model.width {width} does not fit {name!r}, whose widths are fixed: leave it out")
    net = getattr(models, name.replace("-", ""))(weights=None)
    body = nn.Sequential(OrderedDict(list(net.named_children())[:-2]))  # less the mean over places and the classifier
    if channels != 3:
        body.conv1 = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
    return MapEncoder(body, net.fc.in_features, pool)


def resnet_18(channels: int, size: int, width: int = 64, pool: str = "mean") -> MapEncoder:
    """torchvision's ResNet-18 (He 2016a) without weights, its first layer for any number of channels."""
    return _resnet("resnet-18", channels, width, pool)


def resnet_50(channels: int, size: int, width: int = 64, pool: str = "mean") -> MapEncoder:
    """torchvision's ResNet-50 (He 2016a) without weights, its first layer for any number of channels."""
    return _resnet("resnet-50", channels, width, pool)


CONVOLUTIONS: dict[str, Callable[..., MapEncoder]] = {
    "conv": small_conv,
    "wrn-28-2": wide_resnet_28_2,
    "preact-resnet-18": preact_resnet_18,
    "densenet-121": densenet_121,
    "resnet-18": resnet_18,
    "resnet-50": resnet_50,
}
DEFAULT_WIDTH = {
    "mlp": 256,
    "conv": 16,
    "wrn-28-2": 16,
    "preact-resnet-18": 64,
    "densenet-121": 64,
    "resnet-18": 64,
    "resnet-50": 64,
}
TIMM = "timm:"
LEAST_DENSE = 29  # pixels a side that DenseNet-121 halves five times


def make_encoder(name: str, shape: tuple[int, ...], width: int | None = None, pool: str = "mean") -> Encoder:
    """The encoder of that name for inputs of a shape ([C, H, W], or [F] with "mlp"); "timm:NAME" is one of timm's.

    Raises ValueError for an unknown name, or one that does not fit the shape, and where timm is not installed.
    """
    timm = name.startswith(TIMM)
    if not timm and name not in DEFAULT_WIDTH:
        raise ValueError(f"model.encoder {name!r} is not one of {', '.join(DEFAULT_WIDTH)} or {TIMM}NAME")
    if name == "mlp":
        return MLP(int(torch.Size(shape).numel()), width or DEFAULT_WIDTH[name])
    if len(shape) != 3:
        raise ValueError(f"model.encoder {name!r} is for images; for feature vectors use 'mlp'")
    if timm:
        from taut.nn.timm_encoder import TimmEncoder  # it is an extra, and slow to import

        if width is not None:
            raise ValueError(f"model.width {width} does not fit {name!r}, whose widths are fixed: leave it out")
        return TimmEncoder(name.removeprefix(TIMM), (shape[0], shape[1], shape[2]), pool)
    return CONVOLUTIONS[name](shape[0], min(shape[1:]), width or DEFAULT_WIDTH[name], pool)

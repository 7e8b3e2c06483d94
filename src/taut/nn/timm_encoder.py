"""Any image network of timm (an extra) as an encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from taut.nn.encoders import GRID, IMAGENET, Z_CHANNELS, Encoder, Features, pooled, pooled_features


class TimmEncoder(Encoder):
    """timm's network of a name, without weights and classifier, for images [C, H, W] of any number of channels.

    pool: "mean" is the network's own way to its classifier's input (the class token of many transformers); "grid" and
    "meanmax" read its last map, as `MapEncoder` does, and so does q(z|x). Raises ValueError where the network does not
    take such images.
    """

    def __init__(self, name: str, shape: tuple[int, int, int], pool: str = "mean") -> None:
        super().__init__()
        self.pool, self.shape = pool, shape
        self.net = create(name, shape)
        channels = int(self.net.num_features)
        features = pooled_features(channels, pool)
        try:
            self.net.eval()
            with torch.no_grad():
                mapped = self.net.forward_features(torch.zeros(1, *shape))
                own = self.net.forward_head(mapped, pre_logits=True)
                as_map(mapped, channels, shape, int(getattr(self.net, "num_prefix_tokens", 0)))
        except Exception as error:  # a network may raise anything at a size that it cannot take
            size = "x".join(map(str, shape))
            raise ValueError(
                f"model.encoder 'timm:{name}' does not take images of {size}: {str(error).splitlines()[0]}"
            ) from error
        self.net.train()
        self.reduce = nn.Conv2d(channels, Z_CHANNELS, 1)
        self.label_features = int(own.shape[1]) if pool == "mean" else features
        self.place_features = Z_CHANNELS * GRID * GRID

    @property
    def backbone(self) -> nn.Module:
        """timm's network."""
        net: nn.Module = self.net
        return net

    def forward(self, x: Tensor) -> Features:
        """[N, C, H, W] to Features."""
        raw = self.net.forward_features(x)
        prefix = int(getattr(self.net, "num_prefix_tokens", 0))
        h = as_map(raw, int(self.net.num_features), self.shape, prefix)
        label = self.net.forward_head(raw, pre_logits=True) if self.pool == "mean" else pooled(h, self.pool)
        return Features(label, F.adaptive_avg_pool2d(self.reduce(h), GRID).flatten(1))


def find_timm() -> Any:
    """The package; ValueError naming the extra where it is not installed."""
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ValueError("encoders named timm:NAME need timm: pip install timm") from error
    return timm


def create(name: str, shape: tuple[int, int, int]) -> Any:
    """timm's network with random weights and no classifier, for a size; ValueError for a name that it does not know."""
    timm = find_timm()
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0].split('_')[0]}*")[:5]
        hint = f"; near it are {', '.join(near)}" if near else ""
        raise ValueError(f"model.encoder 'timm:{name}' is not a network that timm knows{hint}")
    # Transformers stretch their position embedding to the image; the others know neither of these arguments.
    stretch = {"dynamic_img_size": True}
    for size in ({**stretch, "dynamic_img_pad": True}, stretch, {"img_size": shape[1:]}, {}):
        try:
            return timm.create_model(name, pretrained=False, num_classes=0, in_chans=shape[0], **size)
        except TypeError:
            if not size:
                raise
    raise AssertionError("unreachable")


def as_map(h: Tensor, channels: int, shape: tuple[int, int, int], prefix: int) -> Tensor:
    """What a network gives as a map [N, C, h, w]: from a map, one with channels last, or tokens [N, T, C].

    prefix: tokens before those of the image's patches. Raises ValueError for any other shape.
    """
    if h.dim() == 4 and h.shape[1] == channels:
        return h
    if h.dim() == 4 and h.shape[3] == channels:
        return h.permute(0, 3, 1, 2)
    if h.dim() == 3 and h.shape[2] == channels:
        tokens = h[:, prefix:]
        count = tokens.shape[1]
        rows = max(1, round((count * shape[1] / shape[2]) ** 0.5))
        rows = rows if count % rows == 0 else 1
        return tokens.transpose(1, 2).reshape(h.shape[0], channels, rows, count // rows)
    raise ValueError(f"its features have the shape {list(h.shape)}, which is neither a map nor tokens")


def normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """Means and standard deviations of the channels, and the side in pixels, that a network's weights are for."""
    config = find_timm().get_pretrained_cfg(name)
    if config is None:
        return IMAGENET
    return tuple(config.mean), tuple(config.std), int(config.input_size[-1])

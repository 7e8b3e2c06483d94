"""The parts of models with a second level or a label-dependent posterior: M2 and M1+M2 (Kingma 2014)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from taut import latent
from taut.nn.encoders import Encoder, Features

if TYPE_CHECKING:
    from taut.nn.vae import Architecture

HIDDEN = 128


def gaussian_parameters(raw: Tensor) -> tuple[Tensor, Tensor]:
    """A mean and a log-variance from a head's output: [..., 2D] to [..., D] twice."""
    mean, log_var = raw.float().chunk(2, dim=-1)
    # Bounded, so that exp(log_var) cannot overflow before the first gradients arrive.
    return mean, 10 * torch.tanh(log_var / 10)


def z_head(place_features: int, label_width: int, architecture: Architecture) -> nn.Module:
    """What computes q(z|x), or q(z|x,c), from an encoder's features (and labels beside them)."""
    if not architecture.z_given_c:
        return nn.Linear(place_features, 2 * architecture.z_dim)
    return nn.Sequential(
        nn.Linear(place_features + label_width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * architecture.z_dim)
    )


class StackedEncoder(Encoder):
    """An encoder behind the bottleneck of a first latent z1: what labels and z read is a function of z1 alone.

    In training z1 is a sample of q(z1|x), else its mean.
    """

    def __init__(self, first: Encoder, z1_dim: int) -> None:
        super().__init__()
        self.first = first
        self.to_z1 = nn.Linear(first.place_features, 2 * z1_dim)
        self.second = nn.Sequential(nn.Linear(z1_dim, HIDDEN), nn.LayerNorm(HIDDEN), nn.ReLU())
        self.label_features = self.place_features = HIDDEN

    @property
    def backbone(self) -> nn.Module:
        """That of the encoder in front."""
        return self.first.backbone

    def z1(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z1|x): [N, C, H, W] or [N, F] to [N, D1] each."""
        return gaussian_parameters(self.to_z1(self.first(x).place))

    def forward(self, x: Tensor) -> Features:
        """[N, C, H, W] or [N, F] to Features."""
        return self.read(self.sample(*self.z1(x)))

    def sample(self, mean: Tensor, log_var: Tensor) -> Tensor:
        """z1, [N, D1]."""
        return latent.gaussian_sample(mean, log_var) if self.training else mean

    def read(self, z1: Tensor) -> Features:
        """Features of z1 [N, D1]."""
        h = self.second(z1)
        return Features(h, h)


class StackedDecoder(nn.Module):
    """p(x|z1) behind p(z1|z,c): [N, D], [N, W] to likelihood parameters of x, by way of the mean of z1.

    second: from z and c to a mean and a log-variance of z1, [N, 2·D1].
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def image(self, z1: Tensor) -> Tensor:
        """Likelihood parameters of p(x|z1), [N, *out_shape]."""
        return self.first(z1, z1[:, :0])  # type: ignore[no-any-return]

    def forward(self, z: Tensor, c: Tensor) -> Tensor:
        """Likelihood parameters of x, [N, *out_shape]."""
        return self.image(gaussian_parameters(self.second(z, c))[0])

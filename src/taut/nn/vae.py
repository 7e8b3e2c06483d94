"""LabelVAE: q(z|x), q(c|x) and p(x|z,c) in one module."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from taut import latent
from taut.labels import LabelSpace
from taut.nn.decoders import make_decoder, reduce_image, reduced_shape
from taut.nn.encoders import Features, make_encoder
from taut.nn.stacked import HIDDEN, StackedDecoder, StackedEncoder, gaussian_parameters, z_head
from taut.nn.warp import warp

Likelihood = Literal["bernoulli", "gaussian"]
FAR = 1e9  # standard deviations: the square of what is farther, summed over features, may be too large a number


@dataclass
class Posterior:
    """q(z|x) and q(c|x). mean, log_var: [N, D]; logits: [N, W], the only form in which q(c|x) travels.

    place, head: what q(z|x,c) is computed from in models whose z depends on the label; mean and log_var are then
    those under the probabilities q(c|x).
    auxiliary: [N, A] the logits of auxiliary variables, while a model is trained that has some.
    """

    mean: Tensor
    log_var: Tensor
    logits: Tensor
    place: Tensor | None = None
    head: nn.Module | None = None
    auxiliary: Tensor | None = None

    def __getitem__(self, rows: slice | Tensor) -> Posterior:
        place = None if self.place is None else self.place[rows]
        auxiliary = None if self.auxiliary is None else self.auxiliary[rows]
        return Posterior(self.mean[rows], self.log_var[rows], self.logits[rows], place, self.head, auxiliary)

    def given(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z|x,c) for labels c, [N, W] or [S, N, W]: [N, D] or [S, N, D] each."""
        if self.head is None or self.place is None:
            return self.mean.expand(*c.shape[:-1], -1), self.log_var.expand(*c.shape[:-1], -1)
        place = self.place.expand(*c.shape[:-1], -1)
        return gaussian_parameters(self.head(torch.cat([place, c.to(place.dtype)], dim=-1)))


@dataclass(frozen=True)
class Architecture:
    """Everything that is needed to build the networks again.

    shape: of one prepared input, [C, H, W] or [F].  pool: see `MapEncoder`.  reduce: the reconstruction is at
    1/reduce of the resolution.  A width of None is the encoder's usual one.
    z_given_c: whether the posterior of z is q(z|x,c) (M2) instead of q(z|x).
    stack: the dimension of a first latent z1 under the labels and z (M1+M2); 0 for none.
    """

    shape: tuple[int, ...]
    encoder: str = "conv"
    width: int | None = None
    pool: str = "mean"
    z_dim: int = 16
    decoder_width: int | None = None
    reduce: int = 1
    likelihood: Likelihood = "bernoulli"
    dropout: float = 0.0
    z_given_c: bool = False
    stack: int = 0

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain values."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Architecture:
        """The architecture that `to_json` wrote."""
        return cls(**{**data, "shape": tuple(data["shape"])})


class LabelVAE(nn.Module):
    """A variational autoencoder with k discrete label variables beside a continuous latent (Feng 2019, eq. 7-9).

    The prior over labels, the standardisation of the inputs, the views that predictions are averaged over, the
    temperatures, offsets and isotonic maps of calibration and the thresholds of decisions are buffers, so that they
    ship with the weights.
    """

    log_prior: Tensor
    shift: Tensor
    scale: Tensor
    center: Tensor
    knee: Tensor
    views: Tensor | None
    temperature: Tensor
    offset: Tensor
    isotonic: Tensor | None
    threshold: Tensor
    ood: nn.Module | None

    def __init__(self, space: LabelSpace, architecture: Architecture) -> None:
        super().__init__()
        self.space, self.architecture = space, architecture
        self.sizes = space.sizes
        shape = architecture.shape
        self.encoder = make_encoder(architecture.encoder, shape, architecture.width, architecture.pool)
        if architecture.stack:
            self.encoder = StackedEncoder(self.encoder, architecture.stack)
        self.dropout = nn.Dropout(architecture.dropout)
        self.to_logits = nn.Linear(self.encoder.label_features, space.width)
        # Of what a training learns from and the model does not predict; the trained model has none.
        self.to_auxiliary: nn.Linear | None = None
        self.auxiliary_sizes: latent.Sizes = ()
        self.to_z = z_head(self.encoder.place_features, space.width, architecture)
        self.out_shape = reduced_shape(shape, architecture.reduce)
        self.decoder = make_decoder(architecture.z_dim, space.width, self.out_shape, architecture.decoder_width)
        if architecture.stack:
            first = make_decoder(architecture.stack, 0, self.out_shape, architecture.decoder_width)
            self.decoder = StackedDecoder(
                first, make_decoder(architecture.z_dim, space.width, (2 * architecture.stack,), HIDDEN)
            )
        self.log_noise = nn.Parameter(torch.zeros(()), requires_grad=architecture.likelihood == "gaussian")
        per_input = (shape[0],) if len(shape) == 1 else (shape[0], 1, 1)
        self.register_buffer("shift", torch.zeros(per_input))
        self.register_buffer("scale", torch.ones(per_input))
        if len(shape) == 1:
            self.register_buffer("center", torch.zeros(per_input))
            self.register_buffer("knee", torch.zeros(per_input))
        self.register_buffer("log_prior", latent.log_softmax(torch.zeros(space.width), space.sizes))
        self.register_buffer("views", None)  # [K, 2, 3] affine maps, of images once the training has ended
        self.register_buffer("temperature", torch.ones(len(space)))
        self.register_buffer("offset", torch.zeros(space.width))  # not 0 where frequencies are stated
        self.register_buffer("isotonic", None)  # [W, 2, K] knots, where this calibration is chosen
        # Of the probability of a two-class label's last class, above which it is decided for.
        self.register_buffer("threshold", torch.full((len(space),), 0.5))
        # What out-of-distribution scores compare with (`taut.evaluate.ood`); none before the training has ended.
        self.register_module("ood", None)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        for name in ("threshold", "offset", "center", "knee"):  # which a state of an older version has not
            if hasattr(self, name):
                state_dict.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *others)

    def learn_auxiliary(self, sizes: latent.Sizes) -> None:
        """Give the model a head for auxiliary variables of so many classes each, or none for ()."""
        self.auxiliary_sizes = sizes
        self.to_auxiliary = nn.Linear(self.encoder.label_features, sum(sizes)) if sizes else None

    def prepare(self, x: Tensor) -> Tensor:
        """Raw inputs as the networks and the likelihood see them: images in [0, 1], features standardised.

        A feature that was constant in training, whose scale is 0, is 0 whatever it is later. Of features with heavy
        tails, which have a knee, the arcsinh is standardised.
        x: [N, C, H, W] uint8, or floats already in [0, 1]; or [N, F].
        """
        if x.dtype == torch.uint8:
            x = x.float() / 255
        x = x.float()
        if len(self.architecture.shape) > 1:
            return x
        bent = torch.asinh((x - self.center) / torch.where(self.knee > 0, self.knee, 1))
        x = torch.where(self.knee > 0, bent, x)
        # Far outside of anything known, squares are still to be numbers.
        return ((x - self.shift) / torch.where(self.scale > 0, self.scale, torch.inf)).clamp(-FAR, FAR)

    def encode(self, x: Tensor) -> Posterior:
        """q(z|x) and q(c|x) of prepared inputs [N, ...]."""
        return self.posterior(self.encoder(self.standardise(x)))

    def standardise(self, x: Tensor) -> Tensor:
        """Prepared inputs as the encoder reads them: of views of features, nothing where these were constant."""
        if x.dim() != 4:
            return torch.where(self.scale > 0, x, 0)
        return ((x - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)

    def posterior(self, features: Features) -> Posterior:
        """q(z|x) and q(c|x) from an encoder's features."""
        label = self.dropout(features.label)
        logits = self.to_logits(label).float()
        auxiliary = None if self.to_auxiliary is None else self.to_auxiliary(label).float()
        if not self.architecture.z_given_c:
            return Posterior(*gaussian_parameters(self.to_z(features.place)), logits, auxiliary=auxiliary)
        posterior = Posterior(logits, logits, logits, features.place, self.to_z, auxiliary)
        posterior.mean, posterior.log_var = posterior.given(latent.log_softmax(logits, self.sizes).exp())
        return posterior

    def classify(self, x: Tensor) -> Tensor:
        """The logits of q(c|x) alone, [N, W], of prepared inputs."""
        return self.encode(x).logits

    def predict(self, x: Tensor) -> Posterior:
        """q(z|x) of prepared inputs [N, ...], and as logits the log of the mean of q(c|x) over them and their `views`.

        Errors of a network that are due to where exactly an image lies differ between views, and average out.
        """
        posterior = self.encode(x)
        if self.views is not None:
            seen = [posterior.logits, *(self.classify(warp(x, view[None])) for view in self.views)]
            log_q = torch.stack([latent.log_softmax(logits, self.sizes) for logits in seen])
            posterior.logits = log_q.logsumexp(0) - math.log(len(seen))
        return posterior

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        """Likelihood parameters of p(x|z,c): logits (Bernoulli) or means (Gaussian), [N, *out_shape]."""
        return self.decoder(z, c).float()  # type: ignore[no-any-return]

    def log_likelihood(self, x: Tensor, parameters: Tensor) -> Tensor:
        """log p(x|z,c) of prepared inputs at the decoder's resolution, without constant features: [N] nats."""
        target = reduce_image(x if x.dim() == 4 else self.standardise(x), self.out_shape)
        if x.dim() == 2:
            # They are decoded without error, which the noise that all features share would be taken down by.
            varying = self.scale > 0
            target, parameters = target[:, varying], parameters[:, varying]
        if self.architecture.likelihood == "bernoulli":
            return latent.bernoulli_log_likelihood(target, parameters)
        return latent.gaussian_log_likelihood(target, parameters, self.log_noise)

    def mean_image(self, parameters: Tensor) -> Tensor:
        """E[x|z,c], [N, *out_shape], from likelihood parameters; features in their original units."""
        if self.architecture.likelihood == "bernoulli":
            return parameters.sigmoid()
        if parameters.dim() != 2:
            return parameters.clamp(0, 1)
        values = parameters * self.scale + self.shift
        return torch.where(self.knee > 0, torch.sinh(values) * self.knee + self.center, values)

    def log_probabilities(self, logits: Tensor, calibrated: bool = True) -> Tensor:
        """log q(c_j|x), [N, W]: the one place where the logits of predictions become probabilities.

        calibrated: temper each label's logits first, see `taut.latent.tempered`, shift them by the offsets, and map the
        probabilities by the isotonic maps, where there are some, normalised for each label (Zadrozny 2002).
        logits: [N, W] on any device, so that a CPU can have float64 where the model's device has none.
        """
        if not calibrated:
            return latent.log_softmax(logits, self.sizes)
        log_q = latent.tempered(
            logits, self.temperature.to(logits.device), self.log_prior.to(logits.device), self.sizes
        )
        log_q = latent.log_softmax(log_q + self.offset.to(logits.device), self.sizes)
        if self.isotonic is None:
            return log_q
        mapped = latent.piecewise_linear(log_q.exp(), self.isotonic.to(logits.device))
        return latent.log_softmax(mapped.clamp_min(1e-30).log(), self.sizes)

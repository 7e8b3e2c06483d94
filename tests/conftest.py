"""Shared helpers: seeds, brute force over label combinations, and a model whose log p(x) is known."""

from __future__ import annotations

import math
import os

# Before torch is imported: bit-for-bit tests and those of memory are of the CPU, and so is what they take for granted.
os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["HIP_VISIBLE_DEVICES"] = ""

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from numpy.typing import NDArray
from torch import Tensor, nn

from taut import latent
from taut.latent import Sizes
from taut.nn import Posterior

Array = NDArray[Any]

SIZES: list[Sizes] = [(3,), (2, 2), (2, 5, 2), (4, 2, 3, 2)]


# A warning that torch gives once in a process would make the one test that meets it first fail, and no other.
torch.set_warn_always(True)


# The machine may be slow, and what fails is to fail again.
settings.register_profile("taut", deadline=None, derandomize=True)
settings.load_profile("taut")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the cache of who runs the tests, which holds what another version computed, or cannot be written."""
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks this small are no faster with more, and much slower where something else runs beside them."""
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


# --- brute force, in plain numpy ----------------------------------------------------------------------------


def split_blocks(row: Array, sizes: Sequence[int]) -> list[Array]:
    return np.split(row, np.cumsum(sizes)[:-1])


def joint(row: Array, sizes: Sequence[int]) -> Array:
    """∏_j p(c_j) of every combination of the labels, [Π c_j], from one row of W probabilities."""
    return np.asarray(reduce(np.multiply.outer, split_blocks(row, sizes))).ravel()


def softmax(row: Array, sizes: Sequence[int]) -> Array:
    return np.concatenate([np.exp(b) / np.exp(b).sum() for b in split_blocks(row, sizes)])


def kl(p: Array, q: Array) -> float:
    some = p > 0
    return float((p[some] * np.log(p[some] / q[some])).sum())


# --- random labels ------------------------------------------------------------------------------------------


def random_logits(n: int, sizes: Sizes, scale: float = 1.5, dtype: torch.dtype = torch.float64) -> Tensor:
    return scale * torch.randn(n, sum(sizes), dtype=dtype)


def random_targets(n: int, sizes: Sizes, one_hot: bool = False, dtype: torch.dtype = torch.float64) -> Tensor:
    log_p = latent.log_softmax(random_logits(n, sizes, dtype=dtype), sizes)
    return latent.hard_sample(log_p, sizes) if one_hot else log_p.exp()


def random_prior(sizes: Sizes, dtype: torch.dtype = torch.float64) -> Tensor:
    return latent.log_softmax(random_logits(1, sizes, 1.0, dtype)[0], sizes)


def uniform_prior(sizes: Sizes, dtype: torch.dtype = torch.float64) -> Tensor:
    return latent.log_softmax(torch.zeros(sum(sizes), dtype=dtype), sizes)


def log_prob(distribution: torch.distributions.Distribution, x: Tensor) -> Tensor:
    value: Tensor = distribution.log_prob(x)
    return value


# --- statistics ---------------------------------------------------------------------------------------------


def standard_errors(sample: Tensor, expected: Tensor | float) -> float:
    """How many standard errors the mean over rows is from what is expected, at worst."""
    sample = sample.flatten(1) if sample.dim() > 1 else sample[:, None]
    error = sample.std(0) / math.sqrt(len(sample))
    distance = (sample.mean(0) - torch.as_tensor(expected, dtype=sample.dtype).flatten()).abs()
    return float((distance / error.clamp_min(1e-12)).max())


# --- a model with a known answer ----------------------------------------------------------------------------


class LinearGaussian(nn.Module):
    """x | z, c ~ N(Az + b_c, σ²I) with LabelVAE's interface, and a q(z,c|x) that is not the posterior.

    b_c is the sum of the labels' offsets, so log p(x) is a logsumexp over c of Gaussians N(b_c, AAᵀ + σ²I).
    """

    log_prior: Tensor
    start: Tensor
    sigma = 0.8

    def __init__(self, sizes: Sizes, z_dim: int = 2, features: int = 3, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()

        def weight(*shape: int, scale: float = 1.0) -> nn.Parameter:
            return nn.Parameter(scale * torch.randn(*shape, dtype=dtype))

        self.sizes = sizes
        self.loading, self.offset = weight(features, z_dim), weight(sum(sizes), features, scale=0.7)
        # Near the posterior without labels, and off it in mean, variance and logits.
        with torch.no_grad():
            precision = self.loading.T @ self.loading / self.sigma**2 + torch.eye(z_dim, dtype=dtype)
            gain = self.loading @ precision.inverse() / self.sigma**2
            start = precision.inverse().diagonal().log() + 0.4
        self.to_mean, self.to_log_var = nn.Parameter(0.9 * gain), weight(features, z_dim, scale=0.05)
        self.to_logits = weight(features, sum(sizes), scale=0.3)
        self.register_buffer("start", start)
        self.register_buffer("log_prior", random_prior(sizes, dtype))
        self.decoded: list[Tensor] = []

    def encode(self, x: Tensor) -> Posterior:
        return Posterior(x @ self.to_mean, x @ self.to_log_var + self.start, x @ self.to_logits)

    def classify(self, x: Tensor) -> Tensor:
        return self.encode(x).logits

    def decode(self, z: Tensor, c: Tensor) -> Tensor:
        self.decoded.append(c.detach())
        return z @ self.loading.T + c @ self.offset

    def log_likelihood(self, x: Tensor, parameters: Tensor) -> Tensor:
        squared = ((x - parameters) / self.sigma).square().sum(-1)
        return -0.5 * squared - x.shape[-1] * math.log(self.sigma * math.sqrt(2 * math.pi))

    @torch.no_grad()
    def sample(self, n: int) -> Tensor:
        c = latent.hard_sample(self.log_prior.expand(n, -1), self.sizes)
        z = torch.randn(n, self.loading.shape[1], dtype=c.dtype)
        mean = self.decode(z, c)
        return mean + self.sigma * torch.randn_like(mean)

    @torch.no_grad()
    def log_evidence(self, x: Tensor, allowed: Tensor | None = None) -> Tensor:
        """log p(x), or log Σ p(x, c) over the combinations of the classes that are allowed, [N, W] bool."""
        covariance = self.loading @ self.loading.T + self.sigma**2 * torch.eye(len(self.loading), dtype=x.dtype)
        terms = []
        for c in latent.enumerate_labels(self.sizes, x):
            gaussian = torch.distributions.MultivariateNormal(c @ self.offset, covariance)
            term = log_prob(gaussian, x) + c @ self.log_prior
            if allowed is not None:
                term = torch.where((allowed | (c == 0)).all(-1), term, -math.inf)
            terms.append(term)
        return torch.logsumexp(torch.stack(terms), dim=0)

    @torch.no_grad()
    def closed_bound(self, x: Tensor, targets: Tensor, observed: Tensor) -> Tensor:
        """U or B by brute force over c, in closed form over z: [N] nats, in numpy but for the encoder."""
        posterior = self.encode(x)
        mean, variance = posterior.mean.numpy(), posterior.log_var.exp().numpy()
        loading, offset, prior = self.loading.numpy(), self.offset.numpy(), self.log_prior.exp().numpy()
        combinations = latent.enumerate_labels(self.sizes, x).numpy()
        values = []
        for i, row in enumerate(x.numpy()):
            q = softmax(posterior.logits[i].numpy(), self.sizes)
            pairs = zip(
                split_blocks(targets[i].numpy(), self.sizes),
                split_blocks(q, self.sizes),
                observed[i],
                strict=True,
            )
            r = np.concatenate([p if seen else own for p, own, seen in pairs])
            spread = (row - loading @ mean[i] - combinations @ offset) / self.sigma
            trace = (loading**2 @ variance[i]).sum() / self.sigma**2
            likelihood = -0.5 * ((spread**2).sum(1) + trace)
            likelihood -= len(row) * math.log(self.sigma * math.sqrt(2 * math.pi))
            kl_z = 0.5 * (mean[i] ** 2 + variance[i] - np.log(variance[i]) - 1).sum()
            kl_c = kl(joint(r, self.sizes), joint(prior, self.sizes))
            values.append(joint(r, self.sizes) @ likelihood - kl_z - kl_c)
        return torch.tensor(np.array(values))


class ConditionalGaussian(LinearGaussian):
    """LinearGaussian with a q(z|x,c) that follows the label in mean and variance, as M2's does."""

    def __init__(self, sizes: Sizes, z_dim: int = 2, features: int = 3) -> None:
        # Single precision: `Posterior.given` knows no other.
        super().__init__(sizes, z_dim, features, torch.float32)
        self.head = nn.Linear(features + sum(sizes), 2 * z_dim)
        with torch.no_grad():
            by_input = torch.cat([self.to_mean, self.to_log_var], 1)
            by_label = torch.cat([-0.8 * self.offset @ self.to_mean, 0.3 * torch.randn(sum(sizes), z_dim)], 1)
            self.head.weight.copy_(torch.cat([by_input, by_label]).T)
            self.head.bias.copy_(torch.cat([torch.zeros(z_dim), self.start]))

    def encode(self, x: Tensor) -> Posterior:
        logits = x @ self.to_logits
        posterior = Posterior(logits, logits, logits, x, self.head)
        posterior.mean, posterior.log_var = posterior.given(latent.log_softmax(logits, self.sizes).exp())
        return posterior

    @torch.no_grad()
    def closed_bound(self, x: Tensor, targets: Tensor, observed: Tensor) -> Tensor:
        q = latent.log_softmax(self.encode(x).logits, self.sizes).exp()
        r = torch.where(latent.spread_labels(observed, self.sizes), targets.to(q.dtype), q)
        values = torch.zeros(len(x))
        for c in latent.enumerate_labels(self.sizes, x):
            weight = torch.where(c > 0, r, 1).prod(1)
            raw = self.head(torch.cat([x, c.expand(len(x), -1)], 1))
            mean, log_var = raw.chunk(2, 1)
            log_var = 10 * torch.tanh(log_var / 10)
            squared = (x - mean @ self.loading.T - c @ self.offset).square().sum(1)
            trace = log_var.exp() @ self.loading.square().sum(0)
            likelihood = -0.5 * (squared + trace) / self.sigma**2
            likelihood -= x.shape[1] * math.log(self.sigma * math.sqrt(2 * math.pi))
            normal = torch.distributions.Normal(mean, (0.5 * log_var).exp())
            kl_z = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
            ratio = c @ self.log_prior - weight.clamp_min(1e-30).log()
            values += weight * (likelihood - kl_z + ratio)
        return values

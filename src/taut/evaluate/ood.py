"""How foreign an image is to a trained model: an out-of-distribution score from the terms of the bound.

A plain likelihood or ELBO ranks simple foreign images as more likely than the training data (Nalisnick 2019), so no
term of the bound is taken for the score itself. Each term is a statistic T(x), and an image is foreign where its
statistics together are unusual among images that are known to belong, in either direction: a density of states
(Morningstar 2021), here a Gaussian with a shrunk covariance. The covariance is what corrects the reconstruction for the
complexity of the image (Serrà 2020): both are statistics, and what is unusual is one given the other.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from taut import latent
from taut.data.dataset import DataError
from taut.evaluate.predict import batches, predict_posterior
from taut.nn.decoders import reduce_image
from taut.nn.vae import LabelVAE, Posterior

STATISTICS = ("entropy", "logits", "complexity", "reconstruction", "kl_z", "place")
WITHOUT_DECODER = 3  # the statistics that need no decoder, and no q(z|x), which learns from the decoder alone
BUFFERS = (
    "z_mean", "z_precision", "logits_mean", "logits_precision", "centre", "spread", "precision", "scores", "held_out"
)  # fmt: skip
LEAST_HELD, LEAST_IMAGES, MOST_IMAGES = 100, 10, 1000
SIDE = 64  # pixels of the greatest side at which an image is compressed
SMALLEST_SPREAD = 0.01  # of a statistic, a logarithm: differences below one percent mean nothing

Gaussian = tuple[NDArray[Any], NDArray[Any]]  # mean [F] and precision [F, F]


class OODReference(nn.Module):
    """What the score compares with: statistics of images that belong, as buffers that ship with the weights.

    z, logits: means [D], [W] and precisions of them over training images, for the distances `place` and `logits`.
    centre, spread, precision: of the S statistics over the reference images, [S], [S], [S, S] (in units of spread).
    scores: [M], the scores of the reference images in rising order, each by the other ones.
    held_out: whether these images were held out.
    """

    z_mean: Tensor
    z_precision: Tensor
    logits_mean: Tensor
    logits_precision: Tensor
    centre: Tensor
    spread: Tensor
    precision: Tensor
    scores: Tensor
    held_out: Tensor

    def __init__(self, **buffers: Tensor) -> None:
        super().__init__()
        for name in BUFFERS:
            self.register_buffer(name, buffers[name])

    @property
    def names(self) -> tuple[str, ...]:
        """The statistics that the score is made of, [S]."""
        return STATISTICS[: len(self.centre)]

    def describe(self) -> str:
        """What the scores mean, in one sentence."""
        images = "held-out images" if self.held_out else "training images, which a model knows better than new ones"
        without = "" if len(self.names) > WITHOUT_DECODER else "; the decoder was not trained and takes no part"
        return f"out-of-distribution scores are compared with {len(self.scores)} {images}{without}"


def fit_ood(model: LabelVAE, training: NDArray[Any], held: NDArray[Any], decodes: bool) -> OODReference | None:
    """The reference of a trained model's scores, or None where there are fewer than 10 images.

    training, held: raw inputs [N, ...]; at most 1,000 of each are read. The held-out images are the reference where
    there are 100 of them, else the training images.  decodes: whether the decoder was trained.
    """
    if len(training) < LEAST_IMAGES:
        return None
    known = _Terms(model, _some(training), decodes)
    z_mean, z_precision, z_shrinkage = _gaussian(known.z)
    logits_mean, logits_precision, logits_shrinkage = _gaussian(known.logits)
    held_out = len(held) >= LEAST_HELD
    if held_out:
        table = _Terms(model, _some(held), decodes).statistics((z_mean, z_precision), (logits_mean, logits_precision))
    else:
        place = _left_out(known.z - z_mean, z_precision, z_shrinkage)
        table = known.table(place, _left_out(known.logits - logits_mean, logits_precision, logits_shrinkage))
    centre, spread = table.mean(axis=0), np.maximum(table.std(axis=0), SMALLEST_SPREAD)
    reference = (table - centre) / spread
    _, precision, shrinkage = _gaussian(reference)
    buffers = {
        "z_mean": z_mean, "z_precision": z_precision, "logits_mean": logits_mean, "logits_precision": logits_precision,
        "centre": centre, "spread": spread, "precision": precision,
        "scores": np.sort(_left_out(reference, precision, shrinkage)),
    }  # fmt: skip
    tensors = {name: torch.from_numpy(np.asarray(value, dtype=np.float32)) for name, value in buffers.items()}
    return OODReference(**tensors, held_out=torch.tensor(held_out)).to(model.log_prior.device)


def ood_statistics(model: LabelVAE, x: NDArray[Any]) -> dict[str, NDArray[np.float64]]:
    """How unusual each statistic of raw inputs [N, ...] is: [N] each, in standard deviations of the reference.

    entropy: of q(c|x), summed over labels.  logits, place: the distance of the logits, and of the mean of q(z|x), from
    those of training images.  complexity: of the image alone, its compressed length; of features, their mean square.
    reconstruction: what log p(x|z,c) lacks to the best possible, a pixel.  kl_z: KL(q(z|x) ‖ p(z)).  All are
    logarithms, at the mean of q(z|x) and the most probable labels, so that a score depends neither on chance nor on
    other images.
    Raises DataError where the model has no reference.
    """
    reference = _reference(model)
    return dict(zip(reference.names, _standardised(model, reference, x).T, strict=True))


def ood_scores(model: LabelVAE, x: NDArray[Any], posterior: Posterior | None = None) -> NDArray[np.float64]:
    """The score of raw inputs [N, ...]: [N], the Mahalanobis distance of their statistics, in standard deviations.

    The higher, the more foreign.  posterior: what `predict_posterior` found for them, which need not be found again.
    Raises DataError where the model has no reference.
    """
    reference = _reference(model)
    return _distance(_standardised(model, reference, x, posterior), _numpy(reference.precision))


def ood_percentiles(model: LabelVAE, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The percentage of reference images that are less foreign: [N] scores to [N] in 0 to 100.

    Of new images that belong, 5 % are above 95, as far as the reference images are held out and like them.
    """
    known = _numpy(_reference(model).scores)
    return np.asarray(100 * np.searchsorted(known, scores.astype(np.float32), side="left") / len(known))


def ood_auroc(model: LabelVAE, inside: NDArray[Any], outside: NDArray[Any]) -> float:
    """The probability that a foreign input scores higher than one that belongs; raw inputs [N, ...] and [M, ...]."""
    truth = np.repeat([0, 1], [len(inside), len(outside)])
    return float(roc_auc_score(truth, np.concatenate([ood_scores(model, inside), ood_scores(model, outside)])))


class _Terms:
    """What statistics are made of: entropy, complexity, reconstruction, kl_z [N]; logits [N, W]; z [N, D]."""

    @torch.no_grad()
    def __init__(self, model: LabelVAE, x: NDArray[Any], decodes: bool, posterior: Posterior | None = None) -> None:
        whole_posterior = posterior or predict_posterior(model, x)
        parts: dict[str, list[Tensor]] = {}
        start = 0
        for batch in batches(model, x):
            own = whole_posterior[start : start + len(batch)]
            start += len(batch)
            log_q = latent.log_softmax(own.logits.double(), model.sizes)
            found = {
                "entropy": latent.label_entropy(log_q, model.sizes).sum(-1),
                "complexity": _complexity(batch, model.out_shape),
            }
            if decodes:
                c = latent.most_probable(log_q, model.sizes).float().to(batch.device)
                found["reconstruction"] = _lacking(model, batch, model.decode(own.mean.to(batch.device), c))
                found["kl_z"] = latent.gaussian_kl(own.mean, own.log_var)
            for name, value in found.items():
                parts.setdefault(name, []).append(value.cpu().double())
        whole = {name: torch.cat(values).numpy() for name, values in parts.items()}
        self.z, self.logits = whole_posterior.mean.double().numpy(), whole_posterior.logits.double().numpy()
        self.logarithms = {name: np.log(np.maximum(value, 1e-6)) for name, value in whole.items()}
        self.names = STATISTICS if decodes else STATISTICS[:WITHOUT_DECODER]

    def statistics(self, z: Gaussian, logits: Gaussian) -> NDArray[np.float64]:
        """The statistics T(x), side by side [N, S], with distances from means by precisions."""
        return self.table(_distance(self.z - z[0], z[1]), _distance(self.logits - logits[0], logits[1]))

    def table(self, place: NDArray[np.float64], logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """The statistics T(x), side by side [N, S], from distances [N]."""
        found = dict(self.logarithms)
        for name, value in (("place", place), ("logits", logits)):
            found[name] = np.log(np.maximum(value, 1e-6))
        return np.stack([found[name] for name in self.names], axis=1)


def _lacking(model: LabelVAE, x: Tensor, parameters: Tensor) -> Tensor:
    """What log p(x|z,c) lacks to that of a perfect reconstruction: [N] nats a pixel or feature.

    For grey values under Bernoulli pixels that is KL(x ‖ p), without the entropy of the pixels themselves.
    """
    target = reduce_image(x, model.out_shape)
    perfect = target.logit(1e-6) if model.architecture.likelihood == "bernoulli" else target
    gap: Tensor = model.log_likelihood(x, perfect) - model.log_likelihood(x, parameters)
    return gap / target[0].numel()


def _complexity(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Compressed bytes a pixel of prepared images at the decoder's resolution, or features' mean square: [N]."""
    if x.dim() == 2:
        return x.square().mean(1)
    small = reduce_image(x, (shape[0], *(min(side, SIDE) for side in shape[1:])))
    pixels = (255 * small.clamp(0, 1)).round().to(torch.uint8).cpu().numpy()
    # Differences of neighbours, as PNG has them: smooth images are simple ones.
    steps = np.diff(pixels, axis=-1, prepend=np.uint8(0))
    return torch.tensor([len(zlib.compress(image.tobytes())) / image.size for image in steps])


def _reference(model: LabelVAE) -> OODReference:
    if not isinstance(model.ood, OODReference):
        raise DataError(
            "the model has no out-of-distribution reference: it was trained on fewer than "
            f"{LEAST_IMAGES} images, or by an earlier taut"
        )
    return model.ood


def _standardised(
    model: LabelVAE, reference: OODReference, x: NDArray[Any], posterior: Posterior | None = None
) -> NDArray[np.float64]:
    z = _numpy(reference.z_mean), _numpy(reference.z_precision)
    logits = _numpy(reference.logits_mean), _numpy(reference.logits_precision)
    table = _Terms(model, x, len(reference.names) > WITHOUT_DECODER, posterior).statistics(z, logits)
    return np.asarray((table - _numpy(reference.centre)) / _numpy(reference.spread))


def _numpy(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.cpu().double().numpy())


def _some(x: NDArray[Any]) -> NDArray[Any]:
    """At most 1,000 rows, evenly spread."""
    if len(x) <= MOST_IMAGES:
        return x
    rows: NDArray[np.intp] = np.linspace(0, len(x) - 1, MOST_IMAGES).astype(np.intp)
    return np.asarray(x[rows])


def _gaussian(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Mean [F] and precision [F, F] of rows [N, F], and how far its covariance is shrunk, 0 to 1 (Ledoit 2004)."""
    fitted = LedoitWolf().fit(values)
    return fitted.location_, fitted.precision_, float(fitted.shrinkage_)


def _left_out(
    differences: NDArray[np.float64], precision: NDArray[np.float64], shrinkage: float
) -> NDArray[np.float64]:
    """Distances [N] of rows [N, F], less their mean, from the mean and covariance of all other rows.

    Its own part in both brings a row nearer than a new one would be: by the formula of Sherman and Morrison (1950).
    """
    others = len(differences) - 1
    squared = np.square(_distance(differences, precision))
    return np.asarray(np.sqrt((others + 1) / others * squared / (1 - (1 - shrinkage) * squared / others)))


def _distance(differences: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """√(dᵀ·P·d) of each row, [N, F] to [N]."""
    squared = np.einsum("nf,fg,ng->n", differences, precision, differences, optimize=True)
    return np.asarray(np.sqrt(np.maximum(squared, 0)))

"""Claim 4, a tighter bound: log p̂(x) − ELBO of this model, of M2 and of a plain VAE with the same networks.

Siddharth's is M2's model and bound with one sample of c in the place of the sum over all, and so in more steps.

MNIST binarised once by chance in proportion to its grey values, 100 labels, no augmentation, the same time for all.
log p̂(x) is the importance-weighted bound with 500 samples, on the first 1,000 test images; both are bounds of eq. 11,
and of B (eq. 12) with the test images' labels given. Nothing is measured of eq. 13 or 16, which are no bounds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import RESULTS, record
from benchmarks.cross_entropy import EQ_13, STILL
from benchmarks.mnist import changed, draw, parts
from taut.data.dataset import Dataset
from taut.evaluate.bounds import elbo, importance_weighted
from taut.evaluate.metrics import evaluate
from taut.evaluate.predict import batches
from taut.fit import fit
from taut.nn import LabelVAE

IMAGES, SAMPLES = 1000, 500
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "eq. 11/13": ("tighter-elbo", EQ_13),
    "eq. 11/13, alpha 100": ("tighter-elbo", {**EQ_13, "objective.alpha": 100.0}),
    "M2": ("m2", {**STILL, "objective.alpha": 100.0}),
    "Siddharth": ("siddharth", STILL),
    "plain VAE": ("vae", STILL),
}


def binarised(data: Dataset, seed: int) -> Dataset:
    """Each pixel black or white, white with the probability that its grey value is."""
    rng = np.random.default_rng(seed)
    white = np.empty(data.x.shape, dtype=np.uint8)
    for start in range(0, len(white), 5000):
        part = data.x[start : start + 5000]
        white[start : start + 5000] = 255 * (rng.random(part.shape, dtype=np.float32) < part / np.float32(255))
    return dataclasses.replace(data, x=white)


@torch.no_grad()
def bounds(model: LabelVAE, data: Dataset, samples: int, seed: int = 0) -> dict[str, float]:
    """Means over the images, in nats (bits for bits per dimension), of the bounds of eq. 11 and 12 and their gaps."""
    model.eval()
    device = model.log_prior.device
    generator = torch.Generator(device).manual_seed(seed)
    targets = torch.from_numpy(data.annotation.targets).float().to(device)
    sums = dict.fromkeys(("elbo_11", "iw_11", "elbo_12", "iw_12"), 0.0)
    start = 0
    for x in batches(model, data.x, 100):
        known = targets[start : start + len(x)]
        start += len(x)
        sums["elbo_11"] += float(elbo(model, x, samples=50, generator=generator).sum())
        sums["iw_11"] += float(importance_weighted(model, x, samples=samples, generator=generator, chunk=50).sum())
        sums["elbo_12"] += float(elbo(model, x, known, samples=50, generator=generator).sum())
        sums["iw_12"] += float(
            importance_weighted(model, x, known, samples=samples, generator=generator, chunk=50).sum()
        )
    means = {name: round(value / len(data), 3) for name, value in sums.items()}
    return {
        **means,
        "gap_11": round(means["iw_11"] - means["elbo_11"], 3),
        "gap_12": round(means["iw_12"] - means["elbo_12"], 3),
        "bits_per_dim": round(-means["iw_11"] / (math.prod(data.x.shape[1:]) * math.log(2)), 5),
    }


def one(name: str, minutes: float, images: int, samples: int, seed: int) -> dict[str, Any]:
    """The bounds of one method on the test images."""
    objective, changes = METHODS[name]
    training, testing = binarised(draw(seed), 1), binarised(parts()[1], 2)
    fitted = fit(training, partial(changed, changes), minutes, seed, quiet=True, objective=objective)
    figures = {**bounds(fitted.model, testing.rows(np.arange(images)), samples), "steps": fitted.result.steps}
    if objective != "vae":
        figures["error"] = evaluate(fitted.model, testing)["error"]
    return {**figures, "seconds": round(fitted.result.seconds, 1)}


def main(
    seeds: int = 3, minutes: float = 1.0, folder: Path = RESULTS, images: int = IMAGES, samples: int = SAMPLES
) -> None:
    """Measure all on draws 0 … seeds − 1."""
    about = (
        f"binarised MNIST, 100 labels, no augmentation, {minutes:g} min each; {samples} importance samples on "
        f"{images} test images, nats"
    )
    methods: dict[str, Callable[[int], dict[str, Any]]] = {
        name: partial(one, name, minutes, images, samples) for name in METHODS
    }
    record("tightness", about, methods, range(seeds), folder)


if __name__ == "__main__":
    main()

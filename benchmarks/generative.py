"""What the generative part adds: MNIST with 20, 50 and 100 labels, and yeast's features, ρ of the decoder varied.

On images every variant has the same draws, networks and time, so that a decoder has to earn the steps that it costs; on
features the plan's steps. All figures are of training inputs whose annotations are hidden, so that ρ may be chosen by
them. Beside the error: NLL, ECE, and of images how well foreign and shifted ones are told from others of the same kind,
and what the decoder's own posterior p(c|x) ∝ p(x, c) says of their classes.
Give the number of draws, the minutes, and names of settings to change them: `python -m benchmarks.generative 3 0.6
plain`, `1 1.0 plain 100-labels`, or `yeast`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import yeast
from benchmarks.common import RESULTS, chosen, record
from benchmarks.foreign import MOST, noisy, photographs, scans, turned
from benchmarks.mnist import LABELS, SETTINGS, changed, figures, hidden_part
from taut import latent
from taut.data.dataset import Dataset
from taut.data.split import draw_fraction
from taut.evaluate.bounds import importance_weighted
from taut.evaluate.metrics import evaluate
from taut.evaluate.ood import ood_auroc
from taut.fit import fit
from taut.nn.vae import LabelVAE


def weight(rho: float) -> dict[str, Any]:
    """The plan's changes for a reconstruction weight ρ = β_z."""
    return {"objective.reconstruction": rho, "objective.beta_z": rho}


WEIGHTS: dict[str, dict[str, Any]] = {f"rho {rho:g}": weight(rho) for rho in (0.0, 1e-4, 1e-3, 1e-2, 1e-1)}
DETAILS: dict[str, dict[str, Any]] = {
    "rho 0.001, every row decoded": {**weight(1e-3), "objective.share": 1.0},
    "rho 0.001, no budgets": {**weight(1e-3), "objective.capacity_z": 0.0, "objective.capacity_c": 0.0},
    "rho 0.001, budgets per batch": {**weight(1e-3), "objective.per": "batch"},
    "rho 0.001, decoder of twice the width": {**weight(1e-3), "model.decoder_width": 32},
}

FEATURES = (0.0, 1e-3, 1e-2, 1e-1, 1.0)  # ρ; the plan's is 1/103

HIDDEN_ROWS = 500
JUDGED = 4000  # hidden images of which the decoder is asked
DRAWS = 4
SHARES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # w of log q(c|x) + w·log p(x, c)


def halves() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Up to 1,000 hidden training images that are left as they are, and up to 1,000 others to be changed."""
    hidden = hidden_part(0)[1].x
    return hidden[len(hidden) // 2 :][:MOST], hidden[: len(hidden) // 2][:MOST]


@cache
def foreign() -> dict[str, NDArray[np.uint8]]:
    """Images that are no digits, or digits as no one writes them: up to [1000, 1, 28, 28] each."""
    others, side = halves()[1], 28
    return {
        "cifar10": photographs(side),
        "chest": scans(side),
        "turned": turned(others),
        "noisy": noisy(others),
    }


def one(changes: dict[str, Any], minutes: float, per_class: int, seed: int) -> dict[str, Any]:
    """Figures of one training on the hidden part of the training images, and the AUROC of foreign images."""
    training, hidden = hidden_part(seed, per_class)
    result = fit(training, partial(changed, changes), minutes, seed, quiet=True)
    inside = halves()[0]
    auroc = {f"ood_{name}": round(ood_auroc(result.model, inside, outside), 4) for name, outside in foreign().items()}
    opinion = second_opinion(result.model, hidden) if result.plan.objective.reconstruction else {}
    return {**figures(result, hidden), **auroc, **opinion}


@torch.no_grad()
def second_opinion(model: LabelVAE, hidden: Dataset) -> dict[str, float]:
    """Errors, in percent, of the decoder's own posterior and of both together, on the same images.

    log p(x, c) is its importance-weighted bound of eq. 12 for each class, of `DRAWS` samples of z. Both together are
    q(c|x)·p(x, c)^w, since a likelihood of pixels is far too sure; w is chosen on the one half of the images, and the
    errors are those of the other half.
    """
    device, classes = model.log_prior.device, model.sizes[0]
    x = model.prepare(torch.from_numpy(hidden.x[:JUDGED]).to(device))
    known = torch.from_numpy(hidden.annotation.targets[:JUDGED].argmax(axis=1)).to(device)
    blocks = []
    for block in x.split(500):
        each = [torch.eye(classes, device=device)[c].expand(len(block), -1) for c in range(classes)]
        log_q = latent.log_softmax(model.classify(block), model.sizes)
        blocks.append((log_q, torch.stack([joint(model, block, targets) for targets in each], dim=1)))
    log_q, log_p = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    errors = {w: (log_q + w * log_p).argmax(1) != known for w in SHARES}
    first = torch.arange(len(known), device=device) < len(known) // 2
    best = min(SHARES, key=lambda w: float(errors[w][first].float().mean()))
    found = {"own": errors[0.0], "decoder": log_p.argmax(1) != known, "joint": errors[best]}
    return {
        **{f"{name}_error": 100 * float(wrong[~first].float().mean()) for name, wrong in found.items()},
        "joint_weight": best,
    }


def joint(model: LabelVAE, x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """A bound on log p(x, c) of one-hot classes, [N] nats; the same noise for every class."""
    noise = torch.Generator(x.device).manual_seed(0)
    return importance_weighted(model, x, targets, samples=DRAWS, generator=noise)


def hidden_rows(seed: int) -> tuple[Dataset, Dataset]:
    """Yeast's training rows with 150 of them annotated, and 500 others, all annotated."""
    everything = yeast.parts()[0]
    apart = np.arange(len(everything)) >= len(everything) - HIDDEN_ROWS
    kept = everything.rows(~apart)
    share = yeast.FRACTION * len(everything) / len(kept)
    return dataclasses.replace(kept, annotation=draw_fraction(kept, share, seed)), everything.rows(apart)


def features(rho: float, seed: int) -> dict[str, Any]:
    """Figures of one training on the hidden rows."""
    training, hidden = hidden_rows(seed)
    result = fit(training, partial(changed, weight(rho)), seed=seed, quiet=True)
    found = evaluate(result.model, hidden)
    kept = {name: found.get(name) for name in ("error", "ap_macro", "auroc_macro", "nll", "ece", "elbo")}
    return {**kept, "steps": result.result.steps, "seconds": round(result.result.seconds, 1)}


def main(seeds: int = 3, minutes: float = 0.6, names: Collection[str] = (), folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1 of some settings, by default all, draw by draw."""
    for seed in range(seeds):
        if not names or "yeast" in names:
            about = "yeast, 150 of 1,000 training rows annotated; macro average precision on 500 other training rows"
            variants = {f"rho {rho:g}": partial(features, rho) for rho in FEATURES}
            record("generative-yeast", about, variants, [seed], folder)
        for setting in [name for name in SETTINGS if name in names] or (() if "yeast" in names else SETTINGS):
            changes = SETTINGS[setting]
            for per_class in [LABELS[name] for name in names if name in LABELS] or LABELS.values():
                labels = f"MNIST, {10 * per_class} labels, {setting}, {minutes:g} min each"
                about = f"{labels}; error in percent and AUROC against other images, on hidden training images"
                methods: dict[str, Callable[[int], dict[str, Any]]] = {
                    name: partial(one, {**changes, **variant}, minutes, per_class)
                    for name, variant in {**WEIGHTS, **(DETAILS if per_class == 10 else {})}.items()
                }
                record(f"generative-{setting}-{10 * per_class}", about, methods, [seed], folder)


if __name__ == "__main__":
    counts, words = chosen([*SETTINGS, *LABELS, "yeast"])
    main(*counts, names=words)

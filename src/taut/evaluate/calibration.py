"""Calibration: a temperature or isotonic maps for each label, and the error that is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from taut import latent
from taut.data.dataset import Dataset
from taut.evaluate.predict import predict_logits
from taut.labels import Annotation, LabelSpace
from taut.latent import Sizes
from taut.nn.vae import LabelVAE
from taut.prevalence import stated_shares

LEAST_OBSERVED = 30
LEAST_OF_CLASS = 5
LEAST_ISOTONIC = 100  # a map has far more freedom than a temperature
ABOUT_HALF = 1 / 3  # from this frequency on neither of yes and no is the one to be found
SPREAD = 0.5  # standard deviation of log T around what is expected of it before a label's annotations are seen
FREE = 1.0  # that of an offset

Block = tuple[Tensor, Tensor, Tensor, Tensor]  # a label's logits [n, c], targets [n, c], log p(c) [c] and weights [c]


def class_weights(held: Dataset) -> tuple[NDArray[np.float64], list[int]]:
    """How often a class is over how often held-out annotations have it, [W], and the labels of which that is known.

    1 where nothing is stated, and of labels with fewer than 30 annotated images, or 5 of a class, to tell it by.
    """
    weights, known = np.ones(held.space.width), []
    for j, shares in stated_shares(held.space, held.prevalence).items():
        block, seen = held.space.blocks[j], held.annotation.observed[:, j]
        counts = held.annotation.targets[seen, block].sum(axis=0, dtype=np.float64)
        if seen.sum() >= LEAST_OBSERVED and counts.min() >= LEAST_OF_CLASS:
            weights[block] = shares * counts.sum() / counts
            known.append(j)
    return weights, known


def fit_temperatures(
    logits: Tensor, annotation: Annotation, log_prior: Tensor, sizes: Sizes, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The temperatures [k], as `latent.tempered` uses them, and offsets [W] that suit held-out annotations best.

    A temperature minimises the summed NLL and −log of a prior on log T, normal with standard deviation 0.5 around the
    temperature that suits all labels together, which in turn has such a prior around 1: a few annotations that happen
    to be separated without an error would ask for T = 0. With many annotations the prior does not matter.
    logits: [N, W].  log_prior: [W].  A label with fewer than 30 annotated images, or with one class only among them,
    keeps 1.
    weights: of classes [W], see `class_weights`. Where they are not 1, an offset of the logits is fitted beside the
    temperature, to annotations that count so, with a prior around log w: what it would be of a network that knows its
    annotations' frequencies alone (Saerens 2002).
    """
    temperatures, offsets = torch.ones(len(sizes)), torch.zeros(sum(sizes))
    targets = torch.from_numpy(annotation.targets).double()
    weights = torch.ones(sum(sizes)) if weights is None else weights
    blocks: dict[int, Block] = {}
    ends = np.cumsum(sizes).tolist()
    places = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    for j, place in enumerate(places):
        seen = torch.from_numpy(annotation.observed[:, j])
        block, truth = logits[seen, place].double(), targets[seen, place]
        if len(block) >= LEAST_OBSERVED and int((truth.sum(0) > 0).sum()) >= 2:
            blocks[j] = block, truth, log_prior[place].double(), weights[place].double()
    together = _suited(list(blocks.values()), 0.0)[0] if len(blocks) > 1 else 0.0
    for j, own in blocks.items():
        log_t, offset = _suited([own], together)
        temperatures[j], offsets[places[j]] = float(np.exp(log_t)), offset.float()
    return temperatures, offsets


def _suited(blocks: list[Block], expected: float) -> tuple[float, Tensor]:
    """The log T and the first block's offset that minimise the blocks' summed, weighted NLL and the priors' terms."""
    log_t = torch.full((), expected, dtype=torch.float64, requires_grad=True)
    usual = torch.cat([weight.log() for *_, weight in blocks])
    moved = usual.clone().requires_grad_()
    # Offsets of classes that count as they are stay 0.
    free = [log_t, moved] if bool((usual != 0).any()) else [log_t]
    optimizer = torch.optim.LBFGS(free, max_iter=100, line_search_fn="strong_wolfe")
    scale = 1 / sum(len(block[0]) for block in blocks)  # means, since the solver's tolerances are absolute

    def loss() -> Tensor:
        for parameter in free:
            parameter.grad = None
        inverse = (-log_t).exp()
        offsets = torch.split(torch.where(usual == 0, 0, moved), [len(weight) for *_, weight in blocks])
        nll = [
            -(weight * truth * (prior + inverse * (block - prior) + offset).log_softmax(1)).sum()
            for (block, truth, prior, weight), offset in zip(blocks, offsets, strict=True)
        ]
        priors = ((log_t - expected) / SPREAD).square() + ((moved - usual) / FREE).square().sum()
        total = scale * (torch.stack(nll).sum() + 0.5 * priors)
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    offset = torch.where(usual == 0, 0, moved).detach()[: len(blocks[0][3])]
    return float(log_t.detach().clamp(np.log(0.05), np.log(20))), offset


def fit_isotonic(
    probabilities: NDArray[Any], annotation: Annotation, space: LabelSpace, weights: NDArray[np.float64] | None = None
) -> Tensor | None:
    """Isotonic maps of each class against the rest (Zadrozny 2002): knots [W, 2, K] for `latent.piecewise_linear`.

    probabilities: [N, W].  weights: see `class_weights`.  For n annotated images the values stay at most 1 − 1/(n + 2),
    since so many cannot show that the other classes together are less probable, and at least an equal share of the
    rest; both weighted as annotations are. A label with fewer than 100 annotated images, or with fewer than 5 of one of
    its classes, keeps its probabilities; None where all do.
    """
    maps: list[NDArray[np.float64]] = [np.array([[0.0, 1.0], [0.0, 1.0]])] * space.width
    fitted, weights = False, np.ones(space.width) if weights is None else weights
    for j, block in enumerate(space.blocks):
        seen = annotation.observed[:, j]
        truth = annotation.targets[seen, block].astype(np.float64)
        if len(truth) < LEAST_ISOTONIC or truth.sum(axis=0).min() < LEAST_OF_CLASS:
            continue
        fitted, least, count = True, 1 / (len(truth) + 2), block.stop - block.start
        mass = truth * weights[block]
        total = mass.sum(axis=1)
        for c in range(block.start, block.stop):
            # The odds of the bounds count as the annotations do.
            odds = weights[c] * (count - 1) / (weights[block].sum() - weights[c])
            low, high = (p * odds / (p * odds + 1 - p) for p in (least / (count - 1), 1 - least))
            isotonic = IsotonicRegression(y_min=low, y_max=high, out_of_bounds="clip")
            isotonic.fit(probabilities[seen, c], mass[:, c - block.start] / total, total)
            maps[c] = np.stack([isotonic.X_thresholds_, isotonic.y_thresholds_])
    if not fitted:
        return None
    knots = max(2, *(found.shape[1] for found in maps))
    padded = [np.pad(found, ((0, 0), (0, knots - found.shape[1])), mode="edge") for found in maps]
    return torch.from_numpy(np.stack(padded).astype(np.float32))


def fit_thresholds(
    probabilities: NDArray[Any],
    annotation: Annotation,
    space: LabelSpace,
    rule: str = "f1",
    weights: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """The threshold of "yes" that suits its held-out annotations best: [k].

    rule: "f1" maximises F1 of the rarer of yes and no, "youden" sensitivity + specificity (Youden 1950), "half" is 0.5
    for all; "sensitivity=0.95" has the greatest specificity that leaves so much sensitivity there,
    "specificity=0.9" the greatest sensitivity. It lies midway between two of the probabilities [N, W], or beyond them;
    of equally good ones it is that which finds the fewest.  A label that is not yes/no (0 and 1), or has fewer than 30
    annotated images or 5 of a class, keeps 0.5; with "f1" one of which a third to two thirds are yes does, too: the F1
    of what is frequent is greatest where all images are called so, whatever they show.
    weights: how much an annotation counts for F1 and these thirds, see `class_weights`.
    """
    weights = np.ones(space.width) if weights is None else weights
    thresholds = np.full(len(space), 0.5, dtype=np.float32)
    for j, (label, block) in enumerate(zip(space, space.blocks, strict=True)):
        seen = annotation.observed[:, j]
        truth = annotation.targets[seen, block].argmax(axis=1)
        enough = len(truth) >= LEAST_OBSERVED and LEAST_OF_CLASS <= truth.sum() <= len(truth) - LEAST_OF_CLASS
        if rule == "half" or label.classes != (0, 1) or not enough:
            continue
        counts = weights[block][truth]
        frequency, rare = np.average(truth, weights=counts), 1
        if rule == "f1":
            if ABOUT_HALF <= frequency <= 1 - ABOUT_HALF:
                continue
            rare = int(frequency < 0.5)
        truth = truth == rare
        q = probabilities[seen, block][:, rare]
        values, index = np.unique(q, return_inverse=True)
        # Counts of what is called positive where everything from the i-th value on is.
        positive = np.bincount(index, truth)[::-1].cumsum()[::-1]
        called = np.bincount(index)[::-1].cumsum()[::-1]
        sensitivity, false = positive / truth.sum(), (called - positive) / (len(truth) - truth.sum())
        name, _, least = rule.partition("=")
        if name == "sensitivity":
            best = int(np.flatnonzero(sensitivity >= float(least))[-1])
        elif name == "specificity":
            # Counts, of which no quotient is rounded; the last is where nothing is called yes.
            refused = np.append(len(truth) - truth.sum() - (called - positive), len(truth) - truth.sum())
            enough = np.flatnonzero(refused >= float(least) * (len(truth) - truth.sum()) - 1e-9)
            found = np.append(positive, 0)[enough]
            best = int(enough[found == found.max()][-1])
        else:
            found, wrong = (weights[block][c] * n for c, n in ((rare, positive), (1 - rare, called - positive)))
            worth = 2 * found / (found + wrong + weights[block][rare] * truth.sum())
            worth = worth if rule == "f1" else sensitivity - false
            best = len(worth) - 1 - int(worth[::-1].argmax())
        limit = (np.append(values, 1.0)[best] + values[best - 1]) / 2 if best else 0.0
        thresholds[j] = limit if rare else 1 - limit
    return thresholds


def calibrate(model: LabelVAE, held: Dataset, method: str = "temperature", threshold: str = "f1") -> str:
    """Set a model's temperatures, isotonic maps and thresholds from held-out images; returns the sentence that says so.

    method, threshold: see `calibrate_on`.
    """
    where = f"{len(held)} images that were held out"
    return calibrate_on(model, predict_logits(model, held.x), held, method, threshold, where)


def calibrate_on(model: LabelVAE, logits: Tensor, held: Dataset, method: str, threshold: str, where: str) -> str:
    """Set a model's temperatures, isotonic maps and thresholds from logits [N, W]; returns the sentence that says so.

    logits: on the CPU, of images whose annotations the network that gave them did not know: the model, or one that is
    much like it.
    method: "temperature"; "isotonic", maps of the probabilities after the temperatures; or "none".
    threshold: see `fit_thresholds`; they are thresholds of calibrated probabilities.  where: names the images.
    An earlier calibration of the model is forgotten.
    """
    model.temperature.fill_(1.0)
    model.offset.zero_()
    model.isotonic = None
    weights, stated = class_weights(held)
    if method != "none":
        found = fit_temperatures(logits, held.annotation, model.log_prior.cpu(), model.sizes, torch.from_numpy(weights))
        model.temperature.copy_(found[0])
        model.offset.copy_(found[1])
    logits = logits.double()
    if method == "isotonic":
        q = model.log_probabilities(logits).exp().numpy()
        maps = fit_isotonic(q, held.annotation, held.space, weights)
        model.isotonic = None if maps is None else maps.to(model.log_prior.device)
    q = model.log_probabilities(logits).exp().numpy()
    model.threshold.copy_(torch.from_numpy(fit_thresholds(q, held.annotation, held.space, threshold, weights)))
    fitted = model.temperature != 1
    if method == "none":
        return "not calibrated, as the plan says"
    if not fitted.any():
        return f"not calibrated: too few annotations, or of one class alone, among the {where}"
    maps_too = method == "isotonic" and model.isotonic is None
    left = [name for name, done in zip(model.space.names, fitted.tolist(), strict=True) if not done]
    where += f", and not {', '.join(left)}, with too few, or one class alone, there" if left else ""
    where += _stated(held, stated)
    return f"calibrated {int(fitted.sum())} of {len(model.sizes)} label(s) on {where}" + (
        f"; isotonic maps need {LEAST_ISOTONIC} annotated ones of a label and {LEAST_OF_CLASS} of each of its classes, "
        "so these are temperatures"
        if maps_too
        else ""
    )


def shifted(model: LabelVAE) -> list[str]:
    """The labels whose calibrated probabilities are for stated frequencies."""
    return [
        name for name, block in zip(model.space.names, model.space.blocks, strict=True) if model.offset[block].any()
    ]


def _stated(held: Dataset, known: list[int]) -> str:
    """Which labels' probabilities are for stated frequencies, and which could not be: the end of a sentence."""
    names = held.space.names
    done = [names[j] for j in known]
    left = [names[j] for j in stated_shares(held.space, held.prevalence) if j not in known]
    told = f"; probabilities of {', '.join(done)} are for the stated frequencies" if done else ""
    if left:
        told += (
            f"; probabilities of {', '.join(left)} are for the frequencies of the annotated images, not the stated ones"
        )
        told += f": that takes {LEAST_OBSERVED} held-out annotations, {LEAST_OF_CLASS} of each class"
    return told


def events(q: NDArray[Any], truth: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """What a label's calibration is about: probabilities [n] of events, and whether they happened, from q [n, c].

    Of two classes: that it is the last one. Of more: that it is the most probable one.
    """
    if q.shape[1] == 2:
        return q[:, 1], truth == 1
    return q.max(axis=1), q.argmax(axis=1) == truth


def expected_calibration_error(confidence: NDArray[Any], correct: NDArray[Any], bins: int = 15) -> float:
    """Σ_b share_b·|accuracy_b − confidence_b| over equal bins of confidence, a fraction (Naeini 2015).

    confidence: [N] in [0, 1].  correct: [N], the event whose probability it is.
    """
    index = np.clip((confidence * bins).astype(int), 0, bins - 1)
    total = np.bincount(index, minlength=bins)
    gap = np.bincount(index, correct, bins) - np.bincount(index, confidence, bins)
    return float(np.abs(gap[total > 0]).sum() / len(confidence))


def reliability(confidence: NDArray[Any], correct: NDArray[Any], bins: int = 15) -> tuple[NDArray[Any], ...]:
    """Mean confidence, accuracy and count of each bin that is not empty: the points of a reliability diagram."""
    index = np.clip((confidence * bins).astype(int), 0, bins - 1)
    total = np.bincount(index, minlength=bins)
    full = total > 0
    return (
        np.bincount(index, confidence, bins)[full] / total[full],
        np.bincount(index, correct, bins)[full] / total[full],
        total[full],
    )


def cell_nll(log_q: Tensor, annotation: Annotation, sizes: Sizes) -> Tensor:
    """−log q(c_j|x) of each cell, 0 where it is not observed: [N, W] to [N, k] nats."""
    observed = torch.from_numpy(annotation.observed)
    targets = torch.where(latent.spread_labels(observed, sizes), torch.from_numpy(annotation.targets), 0.0)
    return torch.where(observed, -latent.sum_labels(targets * log_q, sizes), 0)


def label_nll(log_q: Tensor, annotation: Annotation, sizes: Sizes) -> NDArray[np.float64]:
    """Mean −log q(c_j|x) of each label over its observed cells: [k] nats, NaN where there are none."""
    count = torch.from_numpy(annotation.observed).sum(0)
    total = cell_nll(log_q, annotation, sizes).sum(0)
    mean = torch.where(count > 0, total / count.clamp_min(1), torch.nan)
    return np.asarray(mean.numpy(), dtype=np.float64)

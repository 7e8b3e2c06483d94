"""The fingerprint of a training set, on which every decision of a plan rests; nothing here ever sees test data."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from taut.data.cells import BLANK, UNCERTAIN
from taut.data.dataset import GREY, Dataset
from taut.prevalence import stated_prior

SHARED = 0.9  # where this share of the images has some annotation, batches keep no rows for the others
MOST_NEIGHBOURS, ASKED = 20_000, 300  # vectors among which the nearest ones of some are looked for
MOST_VALUES = 50_000_000  # of a sample, 400 MB as float64
# Mean absolute deviation over standard deviation, below which a column has heavy tails: 0.80 of a normal distribution,
# 0.69 of an exponential one, 0.52 of a log-normal one. 0.7 did no better (a trial, before `scale`).
TAILS = 0.55


@dataclass(frozen=True)
class Facts:
    """The fingerprint of a training set."""

    images: int
    shape: tuple[int, ...]
    labels: int
    classes: tuple[int, ...]
    annotated_images: int
    fully_annotated_images: int
    annotated_cells: tuple[int, ...]
    positives: tuple[int, ...]
    grey: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    uncertain: tuple[int, ...] = ()
    blank: tuple[int, ...] = ()
    """Cells of each label that the table leaves uncertain (−1) or blank; () where nobody counted."""
    uncertain_as: tuple[str, ...] = ()
    blank_as: tuple[str, ...] = ()
    """What they became; see `taut.data.cells.CellPolicy`."""
    auxiliary: int = 0
    """Auxiliary variables, which are learnt from and not predicted."""
    prevalence: tuple[tuple[str, float], ...] = ()
    """Stated probabilities by label or LABEL=CLASS."""
    frequencies: tuple[float, ...] = ()
    """p(c) of an only label's classes, as annotations and stated probabilities have it; () without annotations."""
    spacing: float = 0.0
    """How far vectors are from their nearest neighbours, in standard deviations a feature; 0 for images."""
    center: tuple[float, ...] = ()
    knee: tuple[float, ...] = ()
    """Of vectors, where the arcsinh of each feature is centered, and where it bends; a knee of 0: taken as it is.

    `mean` and `std` are then those of arcsinh((x − center)/knee), and `scale` is 1 at least.
    """

    @property
    def is_image(self) -> bool:
        """Whether the inputs are images."""
        return len(self.shape) == 3

    @property
    def varying(self) -> list[float]:
        """The standard deviations of an image's channels that are not constant: no numbers from 0 to 1 have a 1."""
        return [std for std in self.std if std <= 0.5]

    @property
    def scale(self) -> tuple[float, ...]:
        """What each feature or channel is divided by: its `std`, but 1 at least where it has a knee.

        A column of which few rows are not 0 would be large in these alone, and they would be nothing but it.
        """
        return _scale(np.array(self.std), np.array(self.knee or 0.0))

    @property
    def typical_length(self) -> float:
        """The L2 distance of a typical prepared input from the mean one: √F for F features that vary and have no knee.

        Of images it is that from one of the mean colour, 8.6 for MNIST.
        """
        # Features are standardised before any network sees them, and those that are constant never reach it.
        pairs = zip(self.std, self.scale, strict=True)
        squares = [std**2 for std in self.varying] if self.is_image else [(std / by) ** 2 for std, by in pairs if std]
        variance = float(sum(squares)) / len(self.std)
        return math.sqrt(variance * math.prod(self.shape))


def _tail(column: NDArray[np.float64]) -> tuple[float, float]:
    """The center and the knee of the arcsinh of a column [N] with heavy tails, whose outliers would be all of its std.

    They are told by the mean absolute deviation over the standard deviation (Geary 1935). (0, 0) for other columns.
    """
    center = float(np.median(column))
    deviations = np.abs(column - center)
    if not deviations.mean() < TAILS * column.std():
        return 0.0, 0.0
    # Of counts most may be 0, and a mean would be that of the outliers.
    knee = np.median(deviations[deviations > 0])
    return (center, float(knee)) if _varies(center, knee) else (0.0, 0.0)


def _compressed(x: NDArray[Any], center: NDArray[np.float64], knee: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vectors [N, F] with the arcsinh of those columns that have a knee, as `LabelVAE.prepare` takes it."""
    values = np.array(x, dtype=np.float64)
    bent = knee > 0
    values[:, bent] = np.arcsinh((values[:, bent] - center[bent]) / knee[bent])
    return values


def _moments(
    x: NDArray[Any], center: NDArray[np.float64], knee: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean and the standard deviation of each column [F] of vectors that may be more than fit into memory."""
    blocks = range(0, len(x), rows := max(1, MOST_VALUES // x.shape[1]))
    mean = sum(_compressed(x[i : i + rows], center, knee).sum(axis=0) for i in blocks) / len(x)
    squares = sum(np.square(_compressed(x[i : i + rows], center, knee) - mean).sum(axis=0) for i in blocks)
    return np.asarray(mean), np.sqrt(squares / len(x))


def _scale(std: NDArray[np.float64], knee: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(np.where(knee > 0, np.maximum(std, std > 0), std).tolist())


def _spacing(points: NDArray[np.float64], mean: NDArray[np.float64], scale: NDArray[np.float64]) -> float:
    """The median distance of some vectors [N, F] to the nearest other one, standardised, over the root of F.

    Equal ones are no neighbours. 0 where all are equal.
    """
    varying = scale > 0
    if not varying.any():
        return 0.0
    points = (points[:, varying] - mean[varying]) / scale[varying]
    asked = points[:: max(1, len(points) // ASKED)]
    distances = cdist(asked, points)
    distances[distances < 1e-6 * math.sqrt(varying.sum())] = np.inf
    nearest = distances.min(axis=1)
    nearest = nearest[np.isfinite(nearest)]
    return float(np.median(nearest) / math.sqrt(varying.sum())) if len(nearest) else 0.0


def _is_grey(images: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which images [N, C, H, W] of 0 to 1 have no colour: channels that are equal, but for what JPEG makes of them."""
    return np.asarray((images.max(axis=1) - images.min(axis=1)).mean(axis=(1, 2)) < 0.01)


def fingerprint(dataset: Dataset, inputs: Facts | None = None) -> Facts:
    """The facts of a training set: sizes, counts of annotations, and the statistics of its inputs.

    inputs: facts of the same inputs with other annotations, whose statistics are taken over.
    """
    found = _of_annotations(dataset)
    return replace(inputs, **found) if inputs is not None else Facts(**found, **_of_inputs(dataset))


def _of_inputs(dataset: Dataset) -> dict[str, Any]:
    x = dataset.x
    # A sample is enough for means, and large arrays may be memory maps.
    step = max(1, len(x) // 5000, x.size // MOST_VALUES)
    sample = np.asarray(x[::step], dtype=np.float64) / (255 if x.dtype == np.uint8 else 1)
    sizes = {"images": len(x), "shape": tuple(x.shape[1:])}
    if not dataset.is_image:
        return {**sizes, "grey": False, **_of_vectors(x, sample)}
    mean, std = sample.mean(axis=(0, 2, 3)), sample.std(axis=(0, 2, 3))
    return {
        **sizes,
        # Two or five channels are of a microscope and no colours, however alike they are.
        "grey": x.shape[1] in (1, 3) and bool(_is_grey(sample).mean() >= GREY),
        "mean": tuple(mean.tolist()),
        "std": tuple(np.where(_varies(mean, std), std, 1.0).tolist()),
    }


def _of_vectors(x: NDArray[Any], sample: NDArray[np.float64]) -> dict[str, Any]:
    center, knee = np.array([_tail(column) for column in sample.T]).T
    # Of vectors all rows count: a column may hold something in few of them alone.
    mean, std = _moments(x, center, knee)
    std *= _varies(mean, std)
    most = max(2, min(MOST_NEIGHBOURS, MOST_VALUES // x.shape[1]))
    rows = np.linspace(0, len(x) - 1, min(most, len(x))).astype(np.intp)
    return {
        "mean": tuple(mean.tolist()),
        "std": tuple(std.tolist()),
        "spacing": round(_spacing(_compressed(x[rows], center, knee), mean, np.array(_scale(std, knee))), 6),
        "center": tuple(center.tolist()) if knee.any() else (),
        "knee": tuple(knee.tolist()) if knee.any() else (),
    }


def _varies(mean: Any, std: Any) -> NDArray[np.bool_]:
    """Where there is more than the rounding of the networks' float32."""
    return np.asarray(std > np.maximum(np.finfo(np.float32).eps * np.abs(mean), np.finfo(np.float32).tiny))


def _frequencies(dataset: Dataset) -> tuple[float, ...]:
    log_prior = stated_prior(dataset.space, dataset.space.prior(dataset.annotation), dataset.prevalence)
    return tuple(np.exp(log_prior.astype(np.float64)).round(6).tolist())


def _of_annotations(dataset: Dataset) -> dict[str, Any]:
    observed, cells = dataset.annotation.observed, dict[str, tuple[Any, ...]]()
    if dataset.cells is not None and dataset.policy is not None:
        fates = dataset.policy.fates(dataset.space)
        for name, code in (("uncertain", UNCERTAIN), ("blank", BLANK)):
            cells[name] = tuple(int(n) for n in (dataset.cells == code).sum(axis=0))
            cells[f"{name}_as"] = tuple(fates[code])
    last = dataset.annotation.targets[:, [block.stop - 1 for block in dataset.space.blocks]]
    return {
        "labels": len(dataset.space),
        "classes": dataset.space.sizes,
        "annotated_images": int(observed.any(axis=1).sum()),
        "fully_annotated_images": int(dataset.annotation.complete.sum()),
        "annotated_cells": tuple(int(n) for n in observed.sum(axis=0)),
        "positives": tuple(int(n) for n in np.round(np.where(observed, last, 0).sum(axis=0))),
        "auxiliary": 0 if dataset.auxiliary is None else len(dataset.auxiliary.space),
        "prevalence": tuple(sorted(dataset.prevalence.items())),
        "frequencies": _frequencies(dataset) if len(dataset.space) == 1 and observed.any() else (),
        **cells,
    }

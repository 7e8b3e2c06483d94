"""Datasets and plans so small that a training takes a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from taut.data.dataset import Dataset
from taut.labels import LabelSpace
from taut.plan import Plan, override

NAN = float("nan")
ONE, SEVERAL = LabelSpace.multiclass(3), LabelSpace.multilabel(["a", "b"])
TINY: dict[str, Any] = {
    "train.steps": 6,
    "train.batch_labelled": 8,
    "train.batch_unlabelled": 16,
    "train.precision": "fp32",
    "train.folds": 0,
    "model.width": 4,
    "model.decoder_width": 4,
    "model.z_dim": 2,
}
FLAGS = [part for name, value in TINY.items() for part in (f"--{name}", str(value))]


def tiny(**sections: dict[str, Any]) -> Callable[[Plan], Plan]:
    """Takes a plan to one of tiny networks and few steps: tiny(train={"steps": 3})."""
    return lambda plan: override(plan, {**TINY, **sections}, "test")


def vectors(y: Any, space: LabelSpace = ONE, features: int = 5, seed: int = 0, **parts: Any) -> Dataset:
    """Feature vectors with annotations as `LabelSpace.encode` takes them."""
    x = np.random.default_rng(seed).normal(size=(len(y), features)).astype(np.float32)
    return made(x, y, space, **parts)


def images(y: Any, space: LabelSpace = ONE, channels: int = 1, seed: int = 0, **parts: Any) -> Dataset:
    """8x8 images of noise with annotations as `LabelSpace.encode` takes them."""
    x = np.random.default_rng(seed).integers(0, 256, (len(y), channels, 8, 8), dtype=np.uint8)
    return made(x, y, space, **parts)


def strokes(y: Any, space: LabelSpace = SEVERAL) -> Dataset:
    """The same in black and white alone, which are no scans to `taut.rules`."""
    data = images(y, space)
    return replace(data, x=np.where(data.x > 127, np.uint8(255), np.uint8(0)))


def made(x: Any, y: Any, space: LabelSpace, **parts: Any) -> Dataset:
    """A dataset of arrays; groups and split are lists or None."""
    extra = {name: np.asarray(value) for name, value in parts.items() if value is not None}
    return Dataset("made", x, space, space.encode(y), [str(i) for i in range(len(x))], **extra)


def some_known(n: int = 60, known: int = 12) -> Any:
    """[n] classes 0, 1, 2 of which the first `known` are annotated."""
    y = np.arange(n) % 3
    y[known:] = -1
    return y


def cells(n: int = 60, share: float = 0.5, labels: int = 2, seed: int = 0) -> Any:
    """[n, k] yes/no cells, some of them NaN."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, labels)) < 0.5).astype(float)
    y[rng.random((n, labels)) >= share] = NAN
    return y


def equal(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models agree in every bit of every weight and buffer."""
    mine, theirs = a.state_dict(), b.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)

"""Public data sets: MNIST, SVHN and CIFAR-10, downloaded by torchvision or read from packs that are there."""

from __future__ import annotations

import os
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taut.data.arrays import load_npz
from taut.data.dataset import DataError, Dataset, as_images
from taut.labels import LabelSpace


@dataclass(frozen=True)
class _Source:
    """A data set in torchvision, the files that it downloads, and the packs that can stand in for it."""

    torchvision: str
    label: str
    files: str
    packs: tuple[str, ...] = ()
    note: str = ""


PUBLIC = {
    "mnist": _Source(
        "MNIST",
        "digit",
        "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
        "t10k-labels-idx1-ubyte.gz into its subfolder MNIST/raw",
        ("mnist_train.npz", "mnist_test.npz"),
    ),
    "svhn": _Source("SVHN", "digit", "train_32x32.mat and test_32x32.mat there"),
    "cifar10": _Source(
        "CIFAR10",
        "class",
        "cifar-10-python.tar.gz there",
        ("cifar10_train_jpeg.npz", "cifar10_test_jpeg.npz"),
        "JPEG re-encoded: the pixels differ slightly from the original CIFAR-10.",
    ),
}


def load_public(name: str, root: Path | None = None) -> Dataset:
    """The training and test part of "mnist", "svhn" or "cifar10" with the classes 0 … 9.

    Without a root, packs (such as mnist_train.npz) in the folder $TAUT_DATA are used if they are there;
    otherwise torchvision downloads into root, by default $TAUT_DATA_CACHE or ~/.cache/taut/public.
    Raises DataError where the name is another, or the files cannot be had.
    """
    if name not in PUBLIC:
        raise DataError(f"{name!r} is not a public data set that is known here: {', '.join(PUBLIC)}")
    source = PUBLIC[name]
    space = LabelSpace.multiclass(10, name=source.label)
    packs = [Path(os.environ.get("TAUT_DATA", "")) / file for file in source.packs]
    if root is None and packs and os.environ.get("TAUT_DATA") and all(pack.is_file() for pack in packs):
        train, test = (load_npz(pack, space) for pack in packs)
        parts = [(part.x, part.annotation.targets.argmax(axis=1)) for part in (train, test)]
        notes = [source.note] if source.note else []
    else:
        default = Path.home() / ".cache" / "taut" / "public"
        parts = _download(source, root or Path(os.environ.get("TAUT_DATA_CACHE") or default))
        notes = []
    count = sum(len(x) for x, _ in parts)
    return Dataset(
        name=name,
        x=as_images(np.concatenate([x for x, _ in parts]), name),
        space=space,
        annotation=space.encode(np.concatenate([y for _, y in parts])),
        ids=[str(i) for i in range(count)],
        split=np.repeat(["train", "test"], [len(x) for x, _ in parts]),
        notes=notes,
    )


def _download(source: _Source, root: Path) -> list[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Images and classes of the training and the test part, from torchvision."""
    # torchvision takes seconds to import, and only this needs it.
    from torchvision import datasets

    kind = getattr(datasets, source.torchvision)
    svhn = source.torchvision == "SVHN"
    wanted: list[dict[str, str | bool]] = [
        {"split": part} if svhn else {"train": part == "train"} for part in ("train", "test")
    ]
    try:
        parts = [kind(root, download=True, **part) for part in wanted]
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        hint = f", or the packs {' and '.join(source.packs)} into the folder $TAUT_DATA" if source.packs else ""
        raise DataError(
            f"{source.torchvision} could not be downloaded to {root} ({reason}): put {source.files} by hand{hint}"
        ) from error
    return [(np.asarray(part.data), np.asarray(part.labels if svhn else part.targets)) for part in parts]

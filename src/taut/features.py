"""Frozen encoders: images become feature vectors once, and a LabelVAE is trained on those in seconds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from taut.data.cache import MAP_BYTES, cache_root, writers
from taut.data.dataset import DataError, Dataset
from taut.data.leakage import pixel_key, pixel_keys
from taut.data.mapped import Origin, is_mapped
from taut.data.partial import Rows, partials, recover
from taut.nn.encoders import IMAGENET, TIMM, Features, make_encoder
from taut.nn.weights import load_weights
from taut.run import load_model, writing

VERSION = 1  # part of the cache key: raise it when what is computed changes
BATCH = 64
CLASSIC = ("densenet-121", "resnet-18", "resnet-50")  # torchvision's weights are for ImageNet's normalisation
PREFIX = "backbone."
FILES = ("frozen.json", "frozen.safetensors")


@dataclass(frozen=True)
class About:
    """What is needed to build a frozen encoder again.

    name: as `make_encoder` takes it; given: what --frozen named, for messages.  shape: of an image, [C, H, W].
    width, pool: of the encoder.
    """

    name: str
    given: str
    shape: tuple[int, int, int]
    width: int | None = None
    pool: str = "mean"


class FrozenEncoder(nn.Module):
    """An encoder whose weights stay as they are: images [N, C, H, W] to features [N, F], the same for every run.

    In evaluation mode and float32, from standardised images: with ImageNet's (or the timm network's own) means and
    deviations where the weights were given in a file, with those of its training set for the encoder of a run.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, about: About, state: dict[str, Tensor] | None = None) -> None:
        """Build it with the weights and standardisation of a state; they are random where there is none."""
        super().__init__()
        self.about = about
        self.encoder = make_encoder(about.name, about.shape, about.width, about.pool).eval().requires_grad_(False)
        per_channel = (about.shape[0], 1, 1)
        self.register_buffer("shift", torch.zeros(per_channel))
        self.register_buffer("scale", torch.ones(per_channel))
        if state is not None:
            self.shift, self.scale = state["shift"], state["scale"]
            own = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
            self.encoder.backbone.load_state_dict(own)

    @classmethod
    def find(cls, given: str, weights: Path | None = None, shape: Sequence[int] = ()) -> FrozenEncoder:
        """The encoder that --frozen and --weights name.

        given: a run folder, or a name that `make_encoder` knows; then `weights` is a file for it, and `shape` that
            of the images, [C, H, W].
        Raises DataError or ValueError where it cannot be had or does not take such images.
        """
        if Path(given).is_dir():
            if weights is not None:
                raise DataError(f"--weights {weights}: the run {given} has its own weights; leave the flag out")
            return cls.of_run(Path(given))
        if weights is None:
            raise DataError(
                f"--frozen {given} needs its weights in a local file, --weights FILE (there is no folder of this name, "
                "and features of random weights say little)"
            )
        if len(shape) != 3:
            raise DataError(f"--frozen {given} is for images, but these are feature vectors already: leave it out")
        found = cls(About(given, given, (shape[0], shape[1], shape[2])))
        load_weights(found.encoder.backbone, weights, given)
        found.shift, found.scale = standardisation(given, shape[0])
        return found

    @classmethod
    def of_run(cls, run: Path) -> FrozenEncoder:
        """The encoder of a model that taut trained on images; DataError where there is none."""
        model = load_model(run)
        a = model.architecture
        if len(a.shape) != 3 or a.stack:
            kind = "the bottleneck of a first latent" if a.stack else "feature vectors, not images"
            raise DataError(f"--frozen {run}: its encoder is for {kind}; name a run trained on images")
        state = {f"{PREFIX}{name}": value for name, value in model.encoder.backbone.state_dict().items()}
        about = About(a.encoder, str(run), (a.shape[0], a.shape[1], a.shape[2]), a.width, a.pool)
        return cls(about, {**state, "shift": model.shift, "scale": model.scale})

    @property
    def width(self) -> int:
        """F, the number of features."""
        return self.encoder.label_features

    def state(self) -> dict[str, Tensor]:
        """Everything that its features depend on, by name: what q(z|x) reads beside them is not among it."""
        own = {f"{PREFIX}{name}": v.cpu().contiguous() for name, v in self.encoder.backbone.state_dict().items()}
        return {**own, "shift": self.shift.cpu().contiguous(), "scale": self.scale.cpu().contiguous()}

    def check(self, shape: tuple[int, ...], name: str, hint: str = "") -> None:
        """DataError where inputs are no images of the shape that the encoder takes; hint: what to do about that."""
        if len(shape) == 1:
            raise DataError(
                f"--frozen {self.about.given} is for images, but {name} holds feature vectors already: leave it out"
            )
        if tuple(shape) != self.about.shape:
            raise DataError(
                f"{name}: the frozen encoder {self.about.given} takes images of {_size(self.about.shape)}, "
                f"but these are {_size(shape)}{hint}"
            )

    def _check_pixels(self, x: NDArray[Any], name: str) -> None:
        """DataError where an array is not one of images as the encoder takes them."""
        self.check(x.shape[1:], name)
        if x.dtype != np.uint8 and x.size and not (x.min() >= 0 and x.max() <= 1):
            raise DataError(
                f"{name}: pixel values from {x.min():g} to {x.max():g}: the frozen encoder takes bytes of 0 to 255, or "
                "numbers from 0 to 1"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, F] of images [N, C, H, W] in [0, 1], which gradients pass through."""
        standard = ((images - self.shift) / self.scale).contiguous(memory_format=torch.channels_last)
        found: Features = self.encoder(standard)
        return found.label.float()

    def compute(self, x: NDArray[Any], name: str = "the images") -> NDArray[np.float32]:
        """Features [N, F] of images [N, C, H, W], uint8 or floats in [0, 1], without the cache.

        Raises DataError where the images do not fit, or where a feature is not finite.
        """
        self._check_pixels(x, name)
        out = np.empty((len(x), self.width), dtype=np.float32)
        for start, found in self._batches(x, name):
            out[start : start + len(found)] = found
        return out

    def _batches(self, x: NDArray[Any], name: str, start: int = 0) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """The features [n, F] of each batch of images from a row on, and the batch's first row."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.to(device)
        for first in tqdm(range(start, len(x), BATCH), "features", unit="batch", delay=2, disable=None):
            images = torch.from_numpy(np.require(x[first : first + BATCH], requirements=("C", "W"))).to(device)
            images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
            with torch.no_grad():
                found = self(images).cpu().numpy()
            if not np.isfinite(found).all():
                row = first + int(np.argwhere(~np.isfinite(found))[0][0])
                raise DataError(f"{name}: the features of image {row} are NaN or infinite: are the weights right?")
            yield first, found

    def features(
        self, x: NDArray[Any], name: str = "the images", keys: NDArray[np.object_] | None = None
    ) -> NDArray[np.float32]:
        """Features [N, F] of images [N, C, H, W]: from the cache folder where these very images are there already.

        What was interrupted goes on where it stopped.  keys: the images' `pixel_keys`, where they are known.
        Raises DataError where the images do not fit, where a feature is not finite, or where the disk has no room.
        """
        self._check_pixels(x, name)
        root = cache_root()
        path = root / f"features-{self._key(x, keys)}.npy"
        if not path.exists():
            try:
                root.mkdir(parents=True, exist_ok=True)
                recover(root)
            except OSError as error:
                raise DataError(
                    f"{name}: the features cannot be kept in {root} ({error.strerror}): set TAUT_CACHE to a folder "
                    "that can be written"
                ) from error
            partial = next(iter(partials(path)), None)
            size = 4 * (len(x) - (0 if partial is None else partial.done)) * self.width
            if shutil.disk_usage(root).free < size * writers():
                raise DataError(
                    f"{name}: the features take {size / 2**20:.0f} MiB, more than is free in {root}: "
                    "set TAUT_CACHE to a folder with more room"
                )
            with Rows(path, (len(x), self.width), np.float32, "computing features", partial) as rows:
                for start, found in self._batches(x, name, rows.done):
                    rows.out[start : start + len(found)] = found
                    rows.tell(start + len(found))
        large = path.stat().st_size > MAP_BYTES
        features: NDArray[np.float32] = np.load(path, mmap_mode="r" if large else None)
        return features

    def _key(self, x: NDArray[Any], keys: NDArray[np.object_] | None) -> str:
        """A digest of the encoder, its weights and the images."""
        digest = hashlib.sha256(repr((VERSION, asdict(self.about) | {"given": ""}, x.shape, x.dtype.str)).encode())
        for name, value in sorted(self.state().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value.numpy()).tobytes())
        for i in range(len(x)):
            key = pixel_key(x[i]) if keys is None else keys[i]
            # Images of one colour have no hash.
            digest.update(np.ascontiguousarray(x[i][:, 0, 0]).tobytes() if key is None else key.encode())
        return digest.hexdigest()

    def dataset(self, dataset: Dataset) -> Dataset:
        """The dataset with the features of its images in their place."""
        keys = pixel_keys(dataset)
        # Others may have been changed in place since they were hashed.
        x = self.features(dataset.x, dataset.name, keys if is_mapped(dataset.x) else None)
        note = f"The {self.width} features of {self.about.given} stand in for the images; its weights stay as they are."
        origin = Origin(x, keys=keys)
        return dataclasses.replace(dataset, x=x, origin=origin, notes=[*dataset.notes, note])

    def save(self, folder: Path) -> None:
        """Write frozen.safetensors and frozen.json into a run folder, so that the run needs nothing else."""
        temporary = folder / "frozen.new"
        with writing(folder):
            save_file(self.state(), temporary)
            os.replace(temporary, folder / FILES[1])
        (folder / FILES[0]).write_text(json.dumps(asdict(self.about), indent=1))

    @classmethod
    def load(cls, folder: Path) -> FrozenEncoder | None:
        """The frozen encoder of a run folder, or None where the run was trained on its inputs as they are.

        Raises DataError where it is damaged.
        """
        path = folder / FILES[0]
        if not path.exists():
            return None
        try:
            data = json.loads(path.read_text())
            about = About(**{**data, "shape": tuple(data["shape"])})
            path = folder / FILES[1]
            state = load_file(path)
            return cls(about, state)
        except (OSError, KeyError, TypeError, ValueError, SafetensorError, RuntimeError) as error:
            raise DataError(f"{path} is damaged: {(str(error) or type(error).__name__).splitlines()[0]}") from error


def standardisation(name: str, channels: int) -> tuple[Tensor, Tensor]:
    """Shift and scale [C, 1, 1] of images in [0, 1] for an encoder's published weights; grey takes the averages."""
    mean, std, _ = _published(name) or ((0.0,), (1.0,), None)
    if len(mean) != channels:
        mean, std = ((sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels)
    return torch.tensor(mean)[:, None, None], torch.tensor(std)[:, None, None]


def usual_side(given: str) -> int | None:
    """The side in pixels of the images that an encoder's published weights are for, or None where it has none."""
    published = _published(given)
    return None if published is None else published[2]


def _published(name: str) -> tuple[tuple[float, ...], tuple[float, ...], int] | None:
    if name.startswith(TIMM):
        from taut.nn.timm_encoder import normalisation

        return normalisation(name.removeprefix(TIMM))
    return IMAGENET if name in CLASSIC else None


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))

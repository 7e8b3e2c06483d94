"""Published weights from a local file into an encoder: safetensors, a torch state dict, or a run of taut."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from taut.data.dataset import DataError

HEADS = {"fc", "classifier", "head", "heads", "head_dist", "classif", "last_linear", "logits", "AuxLogits"}
OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var)$)")


def find_weights(path: Path) -> Path:
    """The file of weights that a path means, of a run folder its model's; DataError where there is none."""
    file = path / "model.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{path}: there are no such weights" if path == file else f"{path} holds no trained model")
    return file


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name: .safetensors, or what torch.save wrote; of a run folder, its model's.

    Nothing in the file is run. Raises DataError where there is none, or the file holds something else.
    """
    file = find_weights(path)
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        found = _tensors(torch.load(file, map_location="cpu", weights_only=True))
    except SafetensorError as error:
        raise DataError(f"{file} is not a safetensors file, or it is damaged") from error
    except Exception as error:  # torch's readers raise many kinds for what is not theirs
        raise DataError(
            f"{file} cannot be read as weights (a state dict that torch.save wrote, without other Python objects, "
            f"or .safetensors)"
        ) from error
    if not found:
        raise DataError(f"{file} holds no state dict: no tensors by name")
    return {OLD_DENSENET.sub(r"\1\2", name): tensor for name, tensor in found.items()}


def _tensors(data: Any) -> dict[str, Tensor]:
    """The greatest dictionary of tensors in what was saved, such as that under "state_dict"."""
    if not isinstance(data, dict):
        return {}
    own = {str(name): value for name, value in data.items() if isinstance(value, Tensor)}
    return max([own, *(_tensors(value) for value in data.values() if isinstance(value, dict))], key=len)


def load_weights(backbone: nn.Module, path: Path, name: str) -> None:
    """Copy a file's weights into the backbone of an encoder of that name; the classifier in the file is left out.

    Names may stand behind any prefix ("module.", "features.", "encoder.body."). A first layer for another number of
    channels is adapted: for grey images its weights are summed over red, green and blue, and those for grey are spread
    over the three. Raises DataError where any other tensor is missing, of another shape, or left over.
    """
    wanted, given = backbone.state_dict(), read_weights(path)
    prefix = _prefix(wanted, given)
    given = {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}
    needed = [key for key in wanted if not key.endswith("num_batches_tracked")]
    missing = [key for key in needed if key not in given]
    tops = {key.split(".")[0] for key in wanted}
    extra = [
        key for key in given if key not in wanted and key.split(".")[0] in tops and not HEADS & set(key.split("."))
    ]
    if missing:
        raise DataError(
            f"{path} does not fit {name}: it lacks {len(missing)} of {len(needed)} tensors, such as {missing[0]!r}"
        )
    if extra:
        raise DataError(
            f"{path} does not fit {name}: it has {len(extra)} tensors that are not in it, such as {extra[0]!r}"
        )
    state = {key: _adapted(given[key], wanted[key]) for key in wanted if key in given}
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            raise DataError(
                f"{path} does not fit {name}: {key!r} is {list(value.shape)} there, but {list(wanted[key].shape)} here"
            )
    backbone.load_state_dict({**wanted, **state})


def _prefix(wanted: dict[str, Tensor], given: dict[str, Tensor]) -> str:
    """What stands before the names of most of the tensors."""
    counts: Counter[str] = Counter()
    for key in given:
        parts = key.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in wanted:
                counts[".".join([*parts[:i], ""])] += 1
    return max(counts, key=lambda prefix: (counts[prefix], -len(prefix)), default="")


def _adapted(value: Tensor, like: Tensor) -> Tensor:
    """A first layer [O, 3, h, w] for grey input, or [O, 1, h, w] for three channels that are alike; else as it is."""
    if value.dim() != 4 or value.shape[0] != like.shape[0] or value.shape[2:] != like.shape[2:]:
        return value
    if (value.shape[1], like.shape[1]) == (3, 1):
        return value.sum(1, keepdim=True)
    if (value.shape[1], like.shape[1]) == (1, 3):
        return value.expand_as(like) / 3
    return value

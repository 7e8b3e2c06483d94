"""The run folder: the only thing that passes from one command to the next."""

from __future__ import annotations

import json
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from taut.data.dataset import DataError
from taut.errors import out_of_memory
from taut.evaluate.ood import OODReference
from taut.facts import Facts
from taut.flags import scalar
from taut.labels import LabelSpace, Scalar
from taut.nn.vae import Architecture, LabelVAE
from taut.plan import Plan, override

FORMAT = 1
SAME = 1e-3  # of a standard deviation, within which moments of features are those of the same ones
WHILE_READING = ("skipped.csv", "skipped-test.csv", "leakage.csv", "frozen.json", "frozen.safetensors")


class Run:
    """A folder: plan.yaml, facts.json, annotation.npz, split.csv, metrics.jsonl, checkpoint/ and the model.

    Where there is something for them, folds.npz, skipped.csv (and -test), leakage.csv, frozen.json and
    frozen.safetensors too.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: Path | str) -> Run:
        """A new run folder; DataError where one is there already, so that nothing is lost."""
        run = cls(path)
        # These are written while data is read, and are there after a start that failed.
        if run.path.exists() and any(path.name not in WHILE_READING for path in run.path.iterdir()):
            raise DataError(f"--out {path}: the folder is there already; choose another, or --resume it")
        run.path.mkdir(parents=True, exist_ok=True)
        for name in WHILE_READING:
            (run.path / name).unlink(missing_ok=True)
        return run

    @property
    def checkpoint(self) -> Path:
        """The folder from which training resumes."""
        return self.path / "checkpoint"

    def has_checkpoint(self) -> bool:
        """Whether there is one, or the former one, which is there while a new one is written."""
        return self.checkpoint.exists() or self.checkpoint.with_name("checkpoint.old").exists()

    # --- plan and facts -----------------------------------------------------------------------------------

    def save_plan(self, plan: Plan, facts: Facts, source: dict[str, Any]) -> None:
        """Write every decision, the facts behind it, and where the data came from."""
        plan.save(self.path / "plan.yaml")
        _write(self.path / "facts.json", json.dumps({"source": source, "facts": asdict(facts)}, indent=1))

    def load_plan(self) -> Plan:
        """The plan that was run, by `taut train` or by a classifier that `TautClassifier.save` wrote here."""
        saved = load_about(self.path).get("plan") if (self.path / "model.json").exists() else None
        if saved is not None:
            return override(Plan(), saved, str(self.path / "model.json"))
        self._need("plan.yaml")
        return Plan.load(self.path / "plan.yaml")

    def source(self) -> dict[str, Any]:
        """Where the data of the run came from: the arguments of load_dataset and of the draw."""
        return dict(self._facts("source"))

    def unlabeled(self) -> Scalar | None:
        """What means unannotated among class values as the training read them."""
        about = load_about(self.path)
        if "unlabeled" in about:
            said: Scalar | None = about["unlabeled"]
            return said
        given = None if "plan" in about else self.source().get("unlabeled")
        return -1 if given is None else scalar(given)

    def has_facts(self, facts: Facts) -> bool:
        """Whether the rows that were trained on have these facts."""
        now = json.loads(json.dumps(asdict(facts)))
        # A run of an older version has not all of them.
        usual = json.loads(json.dumps({f.name: f.default for f in fields(Facts) if f.default is not MISSING}))
        saved = self._facts("facts")
        for name in ("prevalence", "spacing", "frequencies"):  # which no version before could tell
            saved.setdefault(name, now[name])
        if not facts.is_image:
            # An encoder's features are not the same to the last bit on another machine.
            scales = {"mean": now["std"], "std": now["std"], "spacing": now["spacing"]}
            scales |= {"center": now["knee"], "knee": now["knee"]}
            for name, scale in scales.items():
                was, new = np.array(saved.get(name, usual.get(name))), np.array(now[name])
                if was.shape == new.shape and bool((abs(was - new) <= SAME * np.array(scale)).all()):
                    saved[name] = now[name]
        return bool({**usual, **saved} == now)

    def _facts(self, part: str) -> dict[str, Any]:
        self._need("facts.json")
        path = self.path / "facts.json"
        try:
            return dict(json.loads(path.read_text())[part])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged: {_first_line(error)}") from error

    def save_draw(self, train: NDArray[Any], valid: NDArray[Any], observed: NDArray[np.bool_]) -> None:
        """Write which rows were trained on and held out, and which cells counted as annotated."""
        np.savez_compressed(self.path / "annotation.npz", train=train, valid=valid, observed=observed)

    def load_draw(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
        """The rows trained on, the rows held out, and the mask of all rows."""
        self._need("annotation.npz")
        train, valid, observed = _read_arrays(self.path / "annotation.npz", "train", "valid", "observed")
        return train, valid, observed

    def save_folds(self, parts: NDArray[np.intp], logits: NDArray[np.float32]) -> None:
        """Write the fold of each training row [N], −1 for none, and its out-of-fold logits [N, W], NaN until known."""
        temporary = self.path / "folds.new.npz"
        np.savez_compressed(temporary, parts=parts, logits=logits)
        os.replace(temporary, self.path / "folds.npz")

    def load_folds(self) -> tuple[NDArray[np.intp], NDArray[np.float32]] | None:
        """What `save_folds` wrote, or None; DataError where it is damaged."""
        path = self.path / "folds.npz"
        if not path.exists():
            return None
        parts, logits = _read_arrays(path, "parts", "logits")
        return parts, logits

    # --- metrics ------------------------------------------------------------------------------------------

    def log(self, row: dict[str, float]) -> None:
        """Append one line to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")

    def metrics(self) -> list[dict[str, float]]:
        """The lines of metrics.jsonl, but for a last one that an interruption cut off."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def truncate_metrics(self, step: int) -> None:
        """Drop the lines after a step, which a resumed run will write again."""
        path = self.path / "metrics.jsonl"
        rows = [row for row in self.metrics() if row["step"] <= step]
        _write(path, "".join(json.dumps(row) + "\n" for row in rows))

    # --- model --------------------------------------------------------------------------------------------

    def save_model(self, model: LabelVAE, about: dict[str, Any]) -> None:
        """Write the weights (safetensors) and what is needed to build the networks again (JSON)."""
        save_model(model, self.path, about)

    def load_model(self) -> LabelVAE:
        """The trained model in evaluation mode; DataError where it is missing or damaged."""
        return load_model(self.path)

    def pixel_max(self) -> float | None:
        """What counted as white in the training images; None for feature vectors, and where nobody knows."""
        value = load_about(self.path).get("pixel_max")
        return None if value is None else float(value)

    def feature_names(self) -> list[str]:
        """The names of the features that the model takes, in their order; none where nobody named them."""
        return list(load_about(self.path).get("feature_names") or [])

    def _need(self, name: str) -> None:
        if not (self.path / name).exists():
            raise DataError(f"{self.path} is not a run folder: it has no {name}")


@contextmanager
def writing(folder: Path, hint: str = "") -> Iterator[None]:
    """DataError that names the folder where weights cannot be written; hint: what to do then."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if out_of_memory(error):  # a checkpoint copies the weights of a GPU there before they are written
            raise
        said = " ".join(str(error).split())
        # Of a full disk torch says RuntimeError, and something of its own archives.
        raise DataError(f"{folder} cannot be written, perhaps since the disk is full ({said}){hint}") from error


def save_model(model: LabelVAE, folder: Path, about: dict[str, Any]) -> None:
    """Write model.safetensors and model.json into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    data = {
        "format": FORMAT,
        "labels": model.space.to_json(),
        "architecture": model.architecture.to_json(),
        "about": about,
    }
    text = json.dumps(data, indent=1)  # before anything is replaced, since it fails where a value is no JSON
    temporary = folder / "model.safetensors.new"
    with writing(folder):
        save_file(tensors, temporary)
        os.replace(temporary, folder / "model.safetensors")
    _write(folder / "model.json", text)


def load_model(folder: Path) -> LabelVAE:
    """The model in a folder, in evaluation mode; DataError where it is missing, damaged or of a later format."""
    for name in ("model.json", "model.safetensors"):
        if not (folder / name).exists():
            raise DataError(f"{folder} holds no trained model: it has no {name}")
    path = folder / "model.json"
    try:
        data = json.loads(path.read_text())
        newer = data["format"] > FORMAT
        if not newer:
            model = LabelVAE(LabelSpace.from_json(data["labels"]), Architecture.from_json(data["architecture"]))
            path = folder / "model.safetensors"
            _load_weights(model, load_file(path))
    except (KeyError, TypeError, ValueError, SafetensorError, RuntimeError) as error:
        raise DataError(f"{path} is damaged: {_first_line(error)}") from error
    if newer:
        raise DataError(f"{path} is of format {data['format']}: a newer taut wrote it")
    return model.to(memory_format=torch.channels_last).eval()


def load_about(folder: Path) -> dict[str, Any]:
    """What `save_model` was told about a model; DataError where its model.json is damaged."""
    path = folder / "model.json"
    try:
        return dict(json.loads(path.read_text()).get("about", {}))
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{path} is damaged: {_first_line(error)}") from error


def _read_arrays(path: Path, *names: str) -> list[NDArray[Any]]:
    """Arrays of an .npz file by name; DataError where it is damaged."""
    try:
        with path.open("rb") as file, np.load(file) as data:
            return [data[name] for name in names]
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged: {_first_line(error)}") from error


def _load_weights(model: LabelVAE, state: dict[str, Tensor]) -> None:
    """Load a saved state, with the parts that a fresh model does not have."""
    reference = {name.removeprefix("ood."): value for name, value in state.items() if name.startswith("ood.")}
    if reference:
        model.ood = OODReference(**{name: torch.empty_like(value) for name, value in reference.items()})
    model.isotonic, model.views = state.get("isotonic"), state.get("views")
    model.load_state_dict(state)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _write(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(text)
    os.replace(temporary, path)

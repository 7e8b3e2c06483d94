"""NIH chest X-rays of 128 pixels: DenseNet-121 from scratch and the small network, with time and peak memory.

The 1,437 images are some of those of the 64-pixel pack, whose split is theirs too. 20 % of the training patients are
annotated. Each training runs in a process of its own, which gives its peak memory. Both networks have batches of 16
annotated and 32 other images: a step of DenseNet-121 on the planned 320 takes most of a minute on two cores.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, find_pack, numbers, peak_mib, record
from benchmarks.xrays import figures
from benchmarks.xrays import parts as small_parts
from taut.data import load_dataset
from taut.data.dataset import DataError, Dataset
from taut.data.leakage import check_leakage
from taut.fit import fit
from taut.flags import DataFlags
from taut.memory import estimate_memory
from taut.plan import override
from taut.sources import draw_annotations, named_parts

PACK = "nih_cxr14_128.npz"
ENCODERS = {"small network": "conv", "DenseNet-121": "densenet-121"}
BATCHES = {"train.batch_labelled": 16, "train.batch_unlabelled": 32}


@cache
def parts() -> tuple[Dataset, Dataset]:
    """The training images with the valid part, and the test images, split as in the pack of 64 pixels.

    Raises DataError where $TAUT_DATA has no such pack, or where it has images that the other one has not.
    """
    path = find_pack(PACK, "x, y, label_names, patient_id, image_id")
    data = load_dataset(str(path), group="patient_id")
    known = {name: split for part in small_parts() for name, split in zip(part.ids, part.split, strict=True)}
    unknown = [name for name in data.ids if name not in known]
    if unknown:
        raise DataError(f"{PACK} has {len(unknown)} images that the pack of 64 pixels has not, such as {unknown[0]}")
    data = dataclasses.replace(data, split=np.array([known[name] for name in data.ids]))
    training, testing = data.rows(data.split != "test"), data.part("test")
    check_leakage(named_parts(training, testing))
    return training, testing


def one(encoder: str, minutes: float, seed: int) -> dict[str, Any]:
    """Figures of one training in this process, and what it takes: MiB of the greatest resident set, and as planned."""
    training = draw_annotations(parts()[0], DataFlags(PACK, labelled_fraction=0.2), seed)
    change = partial(override, changes={"model.encoder": encoder, **BATCHES}, where="benchmark")
    before = peak_mib()
    fitted = fit(training, change, minutes, seed, quiet=True)
    took = {
        "step_ms": round(1000 * fitted.result.step_seconds, 1),
        "peak MiB": round(peak_mib(), 1),
        "before MiB": round(before, 1),
        "planned MiB": round(estimate_memory(training, fitted.plan, fitted.facts).total, 1),
    }
    return {**figures(fitted, parts()[1]), **took}


def measured(encoder: str, minutes: float, seed: int) -> dict[str, Any]:
    """`one` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.xrays128", "one", encoder, str(minutes), str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main(seeds: int = 1, minutes: float = 3.0, folder: Path = RESULTS) -> None:
    """Measure draws 0 … seeds − 1."""
    rows = " + ".join(str(rows) for rows in BATCHES.values())
    about = (
        f"NIH chest X-rays, 128 pixels, from scratch; 20 % of the training patients annotated; batches of {rows} "
        f"images, {minutes:g} min a training"
    )
    methods: dict[str, Callable[[int], dict[str, Any]]] = {
        name: partial(measured, encoder, minutes) for name, encoder in ENCODERS.items()
    }
    record("xrays-128", about, methods, range(seeds), folder)


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(one(sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))))
    else:
        main(*numbers())

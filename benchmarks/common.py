"""What every benchmark shares: a results file that grows draw by draw and survives being cut off."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from taut.data.dataset import DataError
from taut.rules import fast_bf16

RESULTS = Path(__file__).parent / "results"
NUMBERS = re.compile(r"\[[^][{}\"]*\]|\{(?:\s*\"[^\"]*\": -?[\d.e+-]+,?)+\s*\}")
ABOUT = ("seed", "machine")  # numbers of a draw that are no figures
PACKAGES = ("taut", "torch", "torchvision", "numpy", "scikit-learn", "accelerate")


def machine() -> dict[str, Any]:
    """The machine and the versions, as a results file records them for its draws."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next((line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "fast bf16": fast_bf16(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def commit() -> str | None:
    """The commit that is measured, or None outside of a repository, or where there is no git."""
    try:
        found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None


def find_pack(file: str, arrays: str) -> Path:
    """A file of data that is not part of the project; DataError, naming its arrays, where $TAUT_DATA has none."""
    path = Path(os.environ.get("TAUT_DATA", "")) / file
    if not path.is_file():
        raise DataError(f"put {file} ({arrays}) into a folder that TAUT_DATA names")
    return path


def peak_mib() -> float:
    """The greatest resident set of this process so far, MiB."""
    # Not getrusage, whose figure can be that of the process which started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def numbers() -> list[Any]:
    """The arguments of the command line, counts as int and minutes as float."""
    return chosen(())[0]


def chosen(names: Collection[str]) -> tuple[list[Any], list[str]]:
    """The numbers of the command line, and its words, which must be among some names: ValueError for others."""
    words = [argument for argument in sys.argv[1:] if argument in names]
    others = [argument for argument in sys.argv[1:] if argument not in names]
    return [int(argument) if argument.isdecimal() else float(argument) for argument in others], words


def record(
    name: str,
    about: str,
    methods: dict[str, Callable[[int], dict[str, Any]]],
    seeds: Sequence[int],
    folder: Path = RESULTS,
) -> dict[str, Any]:
    """Run every method on every seed that the file does not have yet, method by method within a seed.

    A method takes a seed and returns figures. Each finished draw is written at once, with the machine that it was
    measured on; draws of a GPU have a file of their own. Returns the file's content.
    A file of draws that were measured otherwise (`about`) stays as it is, and a sentence says so.
    """
    folder.mkdir(parents=True, exist_ok=True)
    here = machine()
    name = f"{name}-gpu" if here["gpu"] else name
    path = folder / f"{name}.json"
    data: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"machines": [], "draws": []}
    if data.get("about", about) != about:
        print(f"{path} is of {data['about']!r}: move it away to measure {about!r}", file=sys.stderr)
        return data
    for seed in seeds:
        for method, run in methods.items():
            if any(d["method"] == method and d["seed"] == seed for d in data["draws"]):
                continue
            figures = {key: value for key, value in run(seed).items() if value is not None}
            if here not in data["machines"]:
                data["machines"].append(here)
            where = {"machine": data["machines"].index(here), "commit": commit()}
            data["draws"].append({"method": method, "seed": seed, **figures, **where})
            print(json.dumps(data["draws"][-1]), flush=True)
            _write(path, name, about, data)
    return data


def _write(path: Path, name: str, about: str, data: dict[str, Any]) -> None:
    content = {
        "benchmark": name,
        "about": about,
        "command": " ".join([f"python -m {Path(sys.argv[0]).parent.name}.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "machines": data["machines"],
        "summary": summary(data["draws"]),
        "draws": data["draws"],
    }
    temporary = path.with_suffix(".new")
    # What holds numbers alone takes one line.
    text = NUMBERS.sub(lambda found: " ".join(found[0].split()), json.dumps(content, indent=1))
    temporary.write_text(text + "\n")
    os.replace(temporary, path)


def summary(draws: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Mean, standard deviation (n − 1), greatest value and number of draws of each figure of each method."""
    result: dict[str, dict[str, dict[str, float]]] = {}
    for method in dict.fromkeys(d["method"] for d in draws):
        rows = [d for d in draws if d["method"] == method]
        result[method] = {}
        # A figure may be undefined in some draws, the first one too.
        keys = dict.fromkeys(k for row in rows for k, v in row.items() if isinstance(v, int | float) and k not in ABOUT)
        for key in keys:
            values = np.array([row[key] for row in rows if key in row], dtype=float)
            result[method][key] = {
                "mean": round(float(values.mean()), 5),
                "std": round(float(values.std(ddof=1)), 5) if len(values) > 1 else 0.0,
                "max": round(float(values.max()), 5),
                "n": len(values),
            }
    return result

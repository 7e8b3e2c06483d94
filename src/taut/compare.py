"""Several objectives side by side: the same draws of annotations, networks, budget and loop for each of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate.utils import broadcast_object_list

from taut.baselines import find_objective
from taut.data.dataset import DataError, Dataset
from taut.evaluate.metrics import evaluate
from taut.fit import fit
from taut.labels import LabelError
from taut.memory import OUT_OF_MEMORY, out_of_memory
from taut.plan import Plan
from taut.train import TrainingError, processes

FIGURES = ("error", "nll", "ece", "auroc_macro", "ap_macro", "elbo", "seconds")


def compare(
    draw: Callable[[int], Dataset],
    testing: Dataset,
    objectives: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    minutes: float | None = None,
    change: Callable[[Plan], Plan] = lambda plan: plan,
    about: dict[str, Any] | None = None,
    failures: list[str] | None = None,
) -> pd.DataFrame:
    """Train every objective on every draw and evaluate it on the same test data: one row for each of them.

    draw: the training set with the annotations of a seed.  folder: draws.jsonl gets a line for each finished training,
    and what is there already is not trained again.  about: what the draws depend on; DataError where a folder was
    begun with something else.  failures: gets a sentence for each training that failed, by TrainingError, for want of
    memory or because the method cannot do the data, and the others go on; without it the first one raises.
    Returns the columns of `FIGURES` that are defined, with method and seed.
    """
    for name in objectives:
        find_objective(name)
    path, state = folder / "draws.jsonl", processes()
    if state.is_main_process:
        _begin(folder, {**(about or {}), "minutes": minutes})
    # Of several processes the first one reads, since it also writes, and all must train the same methods.
    rows = broadcast_object_list([read_rows(path) if state.is_main_process else None])[0]
    for seed in seeds:
        training = draw(seed)
        for name in objectives:
            if any(row["method"] == name and row["seed"] == seed for row in rows):
                continue
            try:
                fitted = fit(training, change, minutes, seed, quiet=True, objective=name)
            except (DataError, LabelError):
                raise  # of the data or the flags, which are the same for every method
            except (RuntimeError, ValueError, MemoryError) as error:
                full = out_of_memory(error)
                known = full or isinstance(error, TrainingError | ValueError)
                if not known or failures is None or state.num_processes > 1:  # the others may not have failed, and wait
                    raise
                failures.append(f"{name} failed on the draw of seed {seed}: {OUT_OF_MEMORY if full else error}")
                continue
            figures = evaluate(fitted.model, testing)
            row = {
                "method": name,
                "seed": seed,
                **{key: value for key, value in figures.items() if key in FIGURES and value is not None},
                "seconds": round(fitted.result.seconds, 1),
                "steps": fitted.result.steps,
                "parameters": sum(p.numel() for p in fitted.model.parameters()),
            }
            rows.append(row)
            if state.is_main_process:
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    chosen = [row for row in rows if row["method"] in objectives and row["seed"] in seeds]
    return pd.DataFrame(chosen)


def _begin(folder: Path, about: dict[str, Any]) -> None:
    settings = folder / "settings.json"
    folder.mkdir(parents=True, exist_ok=True)
    asked = json.loads(json.dumps({name: value for name, value in about.items() if value is not None}, default=str))
    if not settings.exists():
        settings.write_text(json.dumps(asked, indent=1))
    elif json.loads(settings.read_text()) != asked:
        raise DataError(f"{folder} was begun with other data or flags (see {settings}); choose another --out")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The finished trainings, each once; a last line that an interruption cut off is dropped."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    first: dict[tuple[str, int], dict[str, Any]] = {}
    for row in found:
        first.setdefault((row["method"], row["seed"]), row)
    rows = list(first.values())
    if len(rows) < len(lines):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean ± standard deviation (n − 1) of each figure over the draws, a row for each method in order of appearance."""
    names = [name for name in FIGURES if name in rows]
    result: dict[str, dict[str, Any]] = {}
    for method, group in rows.groupby("method", sort=False):
        cells = {name: _cell(group[name].dropna().to_numpy(dtype=float)) for name in names}
        result[str(method)] = {**cells, "draws": len(group), "parameters": int(group["parameters"].iloc[0])}
    return pd.DataFrame.from_dict(result, orient="index")


def _cell(values: Any) -> str:
    if len(values) == 0:
        return ""
    spread = f" ± {values.std(ddof=1):.4g}" if len(values) > 1 else ""
    return f"{values.mean():.4g}{spread}"


def pictures(rows: pd.DataFrame, folder: Path) -> list[Path]:
    """One picture for each figure: every draw as a point, the mean as a line."""
    from matplotlib.figure import Figure  # slow to import

    paths = []
    methods = list(dict.fromkeys(rows["method"]))
    for name in (name for name in FIGURES if name in rows):
        figure = Figure(figsize=(5, 0.4 * len(methods) + 1.2), dpi=120, layout="constrained")
        axis = figure.subplots()
        values = {method: rows.loc[rows["method"] == method, name].dropna().tolist() for method in methods}
        draw_points(axis, values, {"error": "error, %", "nll": "NLL, nats", "elbo": "ELBO, nats"}.get(name, name))
        paths.append(folder / f"{name}.png")
        figure.savefig(paths[-1])
    return paths


def draw_points(axis: Any, values: dict[str, list[float]], label: str) -> None:
    """A row for each method on matplotlib axes: every draw as a point, the mean as a line."""
    for place, numbers in enumerate(values.values()):
        axis.plot(numbers, [place] * len(numbers), "o", alpha=0.6)
        if numbers:
            axis.plot([float(np.mean(numbers))] * 2, [place - 0.3, place + 0.3], "k-")
    axis.set_yticks(range(len(values)), list(values))
    axis.invert_yaxis()
    axis.set_xlabel(label)

"""Several objectives side by side: the same draws of annotations, networks, budget and loop for each of them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from accelerate.utils import broadcast_object_list

from taut.baselines import find_objective
from taut.data.dataset import DataError, Dataset
from taut.data.leakage import pixel_keys
from taut.errors import OUT_OF_MEMORY, out_of_memory
from taut.evaluate.metrics import evaluate
from taut.fit import fit
from taut.labels import LabelError
from taut.plan import Plan
from taut.train import TrainingError, processes

FIGURES = ("error", "nll", "ece", "auroc_macro", "ap_macro", "elbo", "seconds")
LABEL_FIGURES = ("error", "auroc", "ap")


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
    tell: Callable[[str], None] = lambda note: None,
) -> pd.DataFrame:
    """Train every objective on every draw and evaluate it on the same test data: one row for each of them.

    draw: the training set with the annotations of a seed.  folder: draws.jsonl gets a line for each finished training,
    and what is there already is not trained again.  about: what the draws depend on, the `digest` of the data too;
    DataError where a folder was begun with something else.  failures: gets a sentence for each training that failed, by
    TrainingError, for want of memory or because the method cannot do the data, and the others go on; without it the
    first one raises.  tell: gets a line after each training, and once what the trainings have to note.
    Returns the columns of `FIGURES` that are defined, with method, seed and the figures of each label (per_label).
    """
    for name in objectives:
        find_objective(name)
    path, state = folder / "draws.jsonl", processes()
    if state.is_main_process:
        _begin(folder, {**(about or {}), "minutes": minutes})
    # Of several processes the first one reads, since it also writes, and all must train the same methods.
    rows = broadcast_object_list([read_rows(path) if state.is_main_process else None])[0]
    note = _once(tell)
    for seed in seeds:
        training = draw(seed)
        for name in objectives:
            if any(row["method"] == name and row["seed"] == seed for row in rows):
                continue
            try:
                fitted = fit(training, change, minutes, seed, quiet=True, objective=name, tell=note)
            except (DataError, LabelError):
                raise  # of the data or the flags, which are the same for every method
            except (RuntimeError, ValueError, MemoryError) as error:
                full = out_of_memory(error)
                known = full or isinstance(error, TrainingError | ValueError)
                if not known or failures is None or state.num_processes > 1:  # the others may not have failed, and wait
                    raise
                failures.append(f"{name} failed on the draw of seed {seed}: {OUT_OF_MEMORY if full else error}")
                tell(failures[-1])
                continue
            figures = evaluate(fitted.model, testing)
            row = {
                "method": name,
                "seed": seed,
                **{key: value for key, value in figures.items() if key in FIGURES and value is not None},
                "seconds": round(fitted.result.seconds, 1),
                "steps": fitted.result.steps,
                "parameters": sum(p.numel() for p in fitted.model.parameters()),
                "per_label": figures["per_label"],
            }
            rows.append(row)
            if state.is_main_process:
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            shown = [f"{key} {row[key]:.4g}" for key in FIGURES if key in row and key != "seconds"]
            tell(f"{name}, draw of seed {seed}: {', '.join(shown)}, {row['seconds']:.0f} s")
    chosen = [row for row in rows if row["method"] in objectives and row["seed"] in seeds]
    return pd.DataFrame(chosen)


def _once(tell: Callable[[str], None]) -> Callable[[str], None]:
    """Passes on each sentence once: one that differs in its numbers alone says the same of another draw."""
    told: set[str] = set()

    def note(sentence: str) -> None:
        if (kind := re.sub(r"\d[\d.,]*", "", sentence)) not in told:
            told.add(kind)
            tell(sentence)

    return note


def digest(*datasets: Dataset) -> str:
    """A digest of all of some data that figures depend on: labels, annotations, ids, groups, parts and inputs.

    The hashes of images' pixels are those that the search for leaks has found, so that none is read again.
    """
    found = hashlib.sha256()
    for data in datasets:
        auxiliary, lists = data.auxiliary, (data.groups, data.split, pixel_keys(data))
        about = [
            data.space.to_json(),
            None if auxiliary is None else auxiliary.space.to_json(),
            [str(name) for name in data.ids],
            *(None if values is None else values.tolist() for values in lists),
            *([sorted(data.prevalence.items())] if data.prevalence else []),
        ]
        annotations = [data.annotation] if auxiliary is None else [data.annotation, auxiliary.annotation]
        arrays: list[Any] = [data.cells]
        arrays += [part for a in annotations for part in (a.targets, a.observed, a.ignored)]
        shapes = [None if part is None else [part.shape, str(part.dtype)] for part in (data.x, *arrays)]
        found.update(json.dumps([about, shapes], default=str).encode())
        for part in arrays if data.is_image else [*arrays, data.x]:
            for start in range(0, 0 if part is None else len(part), 1024):  # vectors may be a memory map
                found.update(np.ascontiguousarray(part[start : start + 1024]).tobytes())
    return found.hexdigest()


def _begin(folder: Path, about: dict[str, Any]) -> None:
    settings = folder / "settings.json"
    folder.mkdir(parents=True, exist_ok=True)
    asked = json.loads(json.dumps({name: value for name, value in about.items() if value is not None}, default=str))
    kept = json.loads(settings.read_text()) if settings.exists() else None
    # A folder of an older version has no digest, and goes on with that of now.
    begun = {"digest": asked.get("digest"), **(asked if kept is None else kept)}
    if begun != {**asked, "digest": begun["digest"]}:
        raise DataError(f"{folder} was begun with other data or flags (see {settings}); choose another --out")
    if begun["digest"] != asked.get("digest"):
        raise DataError(
            f"{folder} was begun with other data: the flags are the same, but labels, prevalences, annotations, ids or "
            "inputs have changed since; choose another --out, or move the folder away"
        )
    if kept != asked:
        settings.write_text(json.dumps(asked, indent=1))


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


def label_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean ± standard deviation (n − 1) over the draws of each label's error (percent), AUROC and AP for each method.

    Draws of an older version have no figures of labels and do not count; no rows where none has.
    """
    known = rows.dropna(subset="per_label") if "per_label" in rows else rows[:0]
    result = []
    for label in known["per_label"].iloc[0] if len(known) else ():
        for method, group in known.groupby("method", sort=False):
            figures = pd.DataFrame([found[label] for found in group["per_label"]]).reindex(columns=LABEL_FIGURES)
            cells = {name: _cell(figures[name].dropna().to_numpy(dtype=float)) for name in LABEL_FIGURES}
            result.append({"label": label, "method": method, **cells, "draws": len(group)})
    return pd.DataFrame(result)


def _cell(values: Any) -> str:
    if len(values) == 0:
        return ""
    spread = f" ± {values.std(ddof=1):.4g}" if len(values) > 1 else ""
    return f"{values.mean():.4g}{spread}"


def pictures(rows: pd.DataFrame, folder: Path) -> list[Path]:
    """One picture for each figure: every draw as a point, the mean as a line with a bar of a standard deviation."""
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
    """A row for each method on matplotlib axes: every draw a point, the mean a line, the standard deviation a bar."""
    for place, numbers in enumerate(values.values()):
        axis.plot(numbers, [place] * len(numbers), "o", alpha=0.6)
        if numbers:
            mean = float(np.mean(numbers))
            axis.plot([mean] * 2, [place - 0.3, place + 0.3], "k-")
        if len(numbers) > 1:
            axis.errorbar(mean, place, xerr=float(np.std(numbers, ddof=1)), color="k", capsize=3)
    axis.set_yticks(range(len(values)), list(values))
    axis.invert_yaxis()
    axis.set_xlabel(label)

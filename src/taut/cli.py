"""The command line: one typed function per command, and every field of the plan as a flag."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from taut.baselines import DEFAULT
from taut.data import DataError, Dataset
from taut.data.dataset import SPLITS
from taut.evaluate.metrics import evaluate as figures_of
from taut.evaluate.predict import predict_probabilities
from taut.fit import fit, plan_for
from taut.fit import resume as resume_fit
from taut.labels import LabelError
from taut.nn.vae import LabelVAE
from taut.plan import Plan, describe, fingerprint, flatten, override, read_plan
from taut.run import Run
from taut.sources import (
    LOADED,
    check_shape,
    cluster_space,
    draw_annotations,
    load_source,
    read_inputs,
    replaced_source,
    train_and_test,
)
from taut.train import TrainingError, processes

SWITCHES = ("--json", "--resume", "--quiet")
SECTIONS = tuple(f.name for f in dataclasses.fields(Plan) if f.name != "seed")


def train(
    data: str,
    test: str | None = None,
    labels: Path | None = None,
    labels_per_class: int | None = None,
    labelled_fraction: float | None = None,
    labelled_cells: float | None = None,
    classes: int | None = None,
    group: str | None = None,
    image_size: int | None = None,
    path_column: str | None = None,
    label_columns: list[str] | None = None,
    joined_column: str | None = None,
    split_column: str | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    objective: str | None = None,
    out: Path = Path("runs/latest"),
    plan: Path | None = None,
    resume: bool = False,
    quiet: bool = False,
    changes: dict[str, Any] | None = None,
) -> None:
    """Train on DATA and write a run folder.

    Args:
        data: digits, digit-grid, mnist, svhn, cifar10, an .npz file, or a folder of images.
        test: data to evaluate on after training; by default the data's own test part, where it has one.
        labels: a CSV table of annotations for a folder.
        labels_per_class: hide all annotations but this many images of every class.
        labelled_fraction: hide all annotations but those of this fraction of the images (or groups).
        labelled_cells: hide all annotations but this fraction of the table's cells.
        classes: the number of clusters where nothing is annotated.
        group: the column or array whose values (patients) stay on one side of every split.
        image_size: side in pixels to which the images of a folder are resized.
        path_column: the column of the table that names the images.
        label_columns: the columns of the table that are labels.
        joined_column: a column of joined names, such as 'A|B', that are the labels.
        split_column: a column of train, valid and test.
        minutes: a budget; the number of steps and the schedules are fitted to it.
        seed: of the draw of annotations, the weights and the batches; by default that of --plan, or 0.
        objective: tighter-elbo (the default), or a rival: supervised, pseudo-label, pi-model, mean-teacher, vat,
            mixmatch, fixmatch, freematch, m2, m1m2, siddharth, shot-vae, joint-vae, vae.
        out: the run folder to write.
        plan: a YAML file of decisions that override the planned ones.
        resume: go on with the interrupted run in --out.
        quiet: no progress bar.
        changes: set by flags such as --train.steps 500.
    """
    if resume and (changes or plan or objective or minutes is not None):
        raise DataError(
            "--resume goes on with the run's own plan: leave out --plan, --minutes, --objective and the plan's flags"
        )
    if seed is None:
        seed = int(read_plan(plan).get("seed", 0)) if plan else 0
    main_process = processes().is_main_process
    run = Run.create(out) if main_process and not resume else Run(out)
    processes().wait_for_everyone()
    source: dict[str, Any] = {
        "data": data,
        "test": test,
        "labels": None if labels is None else str(labels),
        "group": group,
        "image_size": image_size,
        "path_column": path_column,
        "label_columns": label_columns,
        "joined_column": joined_column,
        "split_column": split_column,
        "classes": classes,
        "labels_per_class": labels_per_class,
        "labelled_fraction": labelled_fraction,
        "labelled_cells": labelled_cells,
    }
    space = cluster_space(data, classes)
    dataset = load_source(source, space, run.path / "skipped.csv" if Path(data).is_dir() else None)
    training, testing = train_and_test(dataset, test, source, space)
    if resume:
        fitted = resume_fit(training, run, quiet)
    else:
        training = draw_annotations(training, labels_per_class, labelled_fraction, labelled_cells, seed)
        name = _objective(objective, plan, changes)
        fitted = fit(training, _changer(plan, changes), minutes, seed, run, source, quiet, name)
    if not main_process:
        return
    for note in fitted.notes:
        print(note)
    print(f"trained {fitted.result.steps} steps in {fitted.result.seconds:.0f} s; the run is in {run.path}")
    if testing is not None and testing.annotation.observed.any() and not classes:
        print(_sentence(figures_of(fitted.model, testing), testing))


def evaluate(
    run: Path,
    data: str | None = None,
    split: str | None = None,
    labels: Path | None = None,
    json: bool = False,
    calibrated: bool = True,
) -> None:
    """Evaluate the model of a run on annotated data.

    Args:
        run: a run folder.
        data: what to evaluate on, as in `taut train`; by default the test data of the run.
        split: train, valid or test; by default the test part where there is one, else everything.
        labels: a CSV table of annotations for a folder.
        json: print one JSON object on the last line.
        calibrated: use the temperatures fitted on held-out images.
    """
    folder = Run(run)
    model = folder.load_model()
    source = {key: folder.source().get(key) for key in (*LOADED, "test")}
    tested = source["test"] if data is None and split in (None, "test") else None
    source["data"] = tested or source["data"]
    dataset = load_source({**source, **replaced_source(data, labels)}, model.space, None)
    if split is not None and split not in SPLITS:
        raise DataError(f"--split {split!r} is not one of {', '.join(SPLITS)}")
    has_test = dataset.split is not None and bool((dataset.split == "test").any())
    chosen = split or ("test" if has_test else None)
    dataset = dataset.part(chosen) if chosen else dataset
    if data is None and tested is None and chosen is None:
        print("taut: there is no test part; these are the images that the run was trained on", file=sys.stderr)
    check_shape(model, dataset)
    figures = {"data": dataset.name, "split": chosen or "all", **figures_of(_on_device(model), dataset, calibrated)}
    print(_dump(figures) if json else _table(figures))


def predict(run: Path, images: Path, out: Path = Path("predictions.csv")) -> None:
    """Write calibrated probabilities of every image as CSV.

    Args:
        run: a run folder.
        images: an image file, a folder of them, or an .npz file with an array x.
        out: the CSV file to write.
    """
    model = _on_device(Run(run).load_model())
    names, x, unread = read_inputs(images, model)
    probabilities = predict_probabilities(model, x)
    table = pd.DataFrame({"image": names})
    decided = model.space.predict(probabilities).reshape(len(names), -1)
    for j, (label, block) in enumerate(zip(model.space, model.space.blocks, strict=True)):
        if label.classes == (0, 1):
            # A label may be called like the column of the images.
            name = label.name if label.name not in table else f"{label.name}=1"
            table[name] = probabilities[:, block][:, 1]
        else:
            for c, value in enumerate(label.classes):
                table[f"{label.name}={value}"] = probabilities[:, block][:, c]
        table[f"{label.name}:decision"] = decided[:, j]
    out.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(out, index=False, float_format="%.6f")
    print(f"wrote the probabilities of {len(names)} images to {out}")
    if unread:
        raise DataError(
            f"{len(unread)} images could not be read and are not in {out}: "
            + "; ".join(f"{path} ({reason})" for path, reason in unread[:5])
        )


def plan(
    data: str,
    labels: Path | None = None,
    labels_per_class: int | None = None,
    labelled_fraction: float | None = None,
    labelled_cells: float | None = None,
    classes: int | None = None,
    group: str | None = None,
    image_size: int | None = None,
    path_column: str | None = None,
    label_columns: list[str] | None = None,
    joined_column: str | None = None,
    split_column: str | None = None,
    seed: int | None = None,
    objective: str | None = None,
    plan: Path | None = None,
    changes: dict[str, Any] | None = None,
) -> None:
    """Print the facts found in DATA and the decisions that `taut train` would take.

    Args:
        data: as in `taut train`, and so are all the other flags.
        labels: a CSV table of annotations for a folder.
        labels_per_class: hide all annotations but this many images of every class.
        labelled_fraction: hide all annotations but those of this fraction of the images.
        labelled_cells: hide all annotations but this fraction of the table's cells.
        classes: the number of clusters where nothing is annotated.
        group: the column or array of groups.
        image_size: side in pixels.
        path_column: the column that names the images.
        label_columns: the columns that are labels.
        joined_column: a column of joined names.
        split_column: a column of train, valid and test.
        seed: as in `taut train`.
        objective: as in `taut train`.
        plan: a YAML file of decisions that override the planned ones.
        changes: set by flags such as --train.steps 500.
    """
    if seed is None:
        seed = int(read_plan(plan).get("seed", 0)) if plan else 0
    space = cluster_space(data, classes)
    source: dict[str, Any] = {
        "data": data, "labels": labels, "group": group, "image_size": image_size, "path_column": path_column,
        "label_columns": label_columns, "joined_column": joined_column, "split_column": split_column,
    }  # fmt: skip
    training, _ = train_and_test(load_source(source, space, None), None, source, space)
    training = draw_annotations(training, labels_per_class, labelled_fraction, labelled_cells, seed)
    for note in training.notes:
        print(note)
    facts, name = fingerprint(training), _objective(objective, plan, changes)
    print(describe(facts, training.space, _changer(plan, changes)(plan_for(facts, seed, name))))


def compare(
    data: str,
    objectives: str = "tighter-elbo,supervised",
    draws: int = 5,
    test: str | None = None,
    labels: Path | None = None,
    labels_per_class: int | None = None,
    labelled_fraction: float | None = None,
    labelled_cells: float | None = None,
    group: str | None = None,
    image_size: int | None = None,
    path_column: str | None = None,
    label_columns: list[str] | None = None,
    joined_column: str | None = None,
    split_column: str | None = None,
    minutes: float | None = None,
    seed: int = 0,
    out: Path = Path("runs/compare"),
    plan: Path | None = None,
    changes: dict[str, Any] | None = None,
) -> None:
    """Train several objectives on the same draws of annotations and write one table, and one picture a figure.

    Args:
        data: as in `taut train`, and so are the flags that are not described here; it needs a test part, or --test.
        objectives: names with commas between them, as --objective of `taut train` has them.
        draws: how often annotations are drawn and the networks' weights with them.
        test: data to evaluate on.
        labels: a CSV table of annotations for a folder.
        labels_per_class: hide all annotations but this many images of every class.
        labelled_fraction: hide all annotations but those of this fraction of the images.
        labelled_cells: hide all annotations but this fraction of the table's cells.
        group: the column or array of groups.
        image_size: side in pixels.
        path_column: the column that names the images.
        label_columns: the columns that are labels.
        joined_column: a column of joined names.
        split_column: a column of train, valid and test.
        minutes: a budget for each training.
        seed: of the first draw.
        out: a folder for the table and the pictures; what it holds already is not trained again.
        plan: a YAML file of decisions that override the planned ones of every objective.
        changes: set by flags such as --train.steps 500.
    """
    from taut.compare import compare as run_all
    from taut.compare import pictures, table

    names = [name.strip() for name in objectives.split(",") if name.strip()]
    if not names:
        raise DataError("--objectives names no method")
    if "objective.name" in (changes or {}):
        raise DataError("--objectives names the methods of a comparison: leave out --objective.name")
    if draws < 1:
        raise DataError(f"--draws {draws} is not a positive number")
    source: dict[str, Any] = {
        "data": data, "test": test, "labels": labels, "group": group, "image_size": image_size,
        "path_column": path_column, "label_columns": label_columns, "joined_column": joined_column,
        "split_column": split_column,
    }  # fmt: skip
    dataset = load_source(source, None, out.with_name(f"{out.name}-skipped.csv") if Path(data).is_dir() else None)
    training, testing = train_and_test(dataset, test, source, None)
    if testing is None or not testing.annotation.observed.any():
        raise DataError(f"{data} has no annotated test part to compare on; give one with --test")
    hidden = {"labels_per_class": labels_per_class, "labelled_fraction": labelled_fraction, "cells": labelled_cells}
    about = {**source, **hidden, "plan": read_plan(plan) if plan else None, "changes": changes}
    rows = run_all(
        lambda s: draw_annotations(training, labels_per_class, labelled_fraction, labelled_cells, s),
        testing,
        names,
        range(seed, seed + draws),
        out,
        minutes,
        _changer(plan, changes),
        about,
    )
    summary = table(rows)
    summary.to_csv(out / "table.csv", index_label="method")
    pictures(rows, out)
    print(summary.to_string())
    print(f"table.csv, a picture of each figure and every draw (draws.jsonl) are in {out}")


# --- what the commands share ------------------------------------------------------------------------------


def _changer(path: Path | None, changes: dict[str, Any] | None) -> Any:
    """The function from the planned decisions to those that a plan file and flags ask for."""

    def change(planned: Plan) -> Plan:
        if path is not None:
            # These two are settled before: --seed and --objective may replace those of the file.
            settled = {"seed": planned.seed, "objective.name": planned.objective.name}
            planned = override(planned, {**flatten(read_plan(path)), **settled}, str(path))
        return override(planned, changes, "command line") if changes else planned

    return change


def _objective(name: str | None, path: Path | None, changes: dict[str, Any] | None) -> str:
    """The method that --objective, --objective.name (taken out of the changes) or a plan file names, in this order."""
    flag = (changes or {}).pop("objective.name", None)
    planned = flatten(read_plan(path)).get("objective.name") if path is not None else None
    return str(name or flag or planned or DEFAULT)


def _on_device(model: LabelVAE) -> LabelVAE:
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def _dump(figures: dict[str, Any]) -> str:
    return json.dumps(figures)


def _sentence(figures: dict[str, Any], dataset: Dataset) -> str:
    shown = {k: v for k, v in figures.items() if isinstance(v, float)}
    return f"test part of {dataset.name}, {len(dataset)} images: " + ", ".join(f"{k} {v:.4g}" for k, v in shown.items())


def _table(figures: dict[str, Any]) -> str:
    rows = [f"{name:<12} {value}" for name, value in figures.items() if name != "per_label"]
    per_label = pd.DataFrame.from_dict(figures["per_label"], orient="index")
    return "\n".join([*rows, "", per_label.to_string(float_format=lambda v: f"{v:.4f}")])


def split_arguments(arguments: list[str]) -> tuple[list[str], dict[str, Any]]:
    """The flags of the commands, and those of the plan (--section.field VALUE or --section.field=VALUE) by name."""
    import yaml

    rest: list[str] = []
    changes: dict[str, Any] = {}
    i = 0
    while i < len(arguments):
        name, equals, value = arguments[i].removeprefix("--").partition("=")
        if not (arguments[i].startswith("--") and name.split(".")[0] in SECTIONS and "." in name):
            rest.append(arguments[i])
            if arguments[i] in SWITCHES and arguments[i + 1 : i + 2] not in (["true"], ["false"]):
                rest.append("true")
            i += 1
            continue
        if not equals:
            if i + 1 >= len(arguments):
                raise DataError(f"--{name} needs a value")
            value = arguments[i + 1]
            i += 1
        try:
            changes[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise DataError(f"--{name}: {value!r} is no value") from error
        i += 1
    return rest, changes


def build_parser() -> Any:
    """The parser of all commands: flags with hyphens, from the functions' signatures and docstrings."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog="taut", description="Image classification from few or partly annotated images.")
    commands = parser.add_subcommands(dest="command")
    for function in COMMANDS.values():
        command = ArgumentParser(description=(function.__doc__ or "").split("\n")[0])
        command.add_function_arguments(function, as_group=False, as_positional=True)
        for action in command._actions:
            action.option_strings = [flag.replace("_", "-") for flag in action.option_strings]
            command._option_string_actions.update(dict.fromkeys(action.option_strings, action))
        commands.add_subcommand(function.__name__, command)
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Run a command; bad input ends with one sentence and exit status 2."""
    try:
        rest, changes = split_arguments(sys.argv[1:] if arguments is None else arguments)
        if changes:
            if not rest or rest[0] not in ("train", "plan", "compare"):
                raise DataError(f"--{next(iter(changes))} is for `taut train`, `taut plan` and `taut compare`")
            rest += ["--changes", json.dumps(changes)]
        parser = build_parser()
        parsed = parser.parse_args(rest)
        values = parser.instantiate(parsed)[parsed.command].as_dict()
        COMMANDS[parsed.command](**values)
    except (DataError, LabelError, TrainingError, ValueError, OSError) as error:
        print(f"taut: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("taut: interrupted; `taut train … --resume` goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(130) from None


COMMANDS: dict[str, Callable[..., None]] = {f.__name__: f for f in (train, evaluate, predict, plan, compare)}

"""The command line: one typed function per command, and every field of the plan as a flag.

The commands that train are here, those that begin with a finished run in `results`, splits in `splits`.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from taut.budget import expected_time
from taut.cli.command import Command, command, parse
from taut.cli.decisions import PlanFlags
from taut.cli.results import evaluate, explain, export, predict
from taut.cli.splits import save_split, split
from taut.data import DataError, Dataset
from taut.data.cells import annotation_notes, certain, unscored
from taut.data.split import fold_count
from taut.data.table import listed
from taut.errors import OUT_OF_MEMORY, OUT_OF_MEMORY_LATER, out_of_memory
from taut.evaluate.metrics import evaluate as figures_of
from taut.facts import fingerprint
from taut.fit import can_calibrate, fit, hold_out, ignored_auxiliary, judges_of, own_valid, plan_of
from taut.fit import resume as resume_fit
from taut.flags import DataFlags
from taut.labels import LabelError
from taut.memory import estimate_memory
from taut.plan import MOST_FOLDS
from taut.rules import advice, describe, uncalibrated
from taut.run import Run
from taut.sources import draw_annotations, load_parts, resumed_source, with_owner
from taut.train import TrainingError, processes


@command()
def train(
    source: DataFlags,
    decisions: PlanFlags,
    minutes: float | None = None,
    out: Path = Path("runs/latest"),
    resume: bool = False,
    quiet: bool = False,
) -> None:
    """Train on DATA and write a run folder.

    Args:
        source: what to train on.
        decisions: what replaces planned decisions.
        minutes: a budget of training, once the data are read; the number of steps and the schedules are fitted to it.
        out: the run folder to write.
        resume: go on with the interrupted run in --out, with its own flags.
        quiet: no progress bar.
    """
    if resume and (decisions != PlanFlags() or minutes is not None):
        raise DataError(
            "--resume goes on with the run's own plan: leave out --plan, --minutes, --objective, --seed and the plan's "
            "flags"
        )
    if not resume:
        decisions.check(minutes=minutes)
    for note in decisions.ignored(minutes):
        _tell(note)
    seed, method = decisions.first_seed(), decisions.method()
    main_process = processes().is_main_process
    run = Run.create(out) if main_process and not resume else Run(out)
    processes().wait_for_everyone()
    if resume:
        source = resumed_source(source, DataFlags.from_json(run.source()))
    training, testing = load_parts(source, run.path / "skipped.csv", run.path)
    for note in training.notes:
        _tell(note)
    if resume:
        fitted = resume_fit(training, run, quiet, _tell)
    else:
        told = len(training.notes)
        training = draw_annotations(training, source, seed)
        for note in training.notes[told:]:
            _tell(note)
        about = with_owner(source, training).absolute().to_json()
        fitted = fit(training, decisions.change, minutes, seed, run, about, quiet, method, _tell)
    if not main_process:
        return
    kept, held, _ = run.load_draw()
    parts = {name: training.rows(rows) for name, rows in (("train", kept), ("valid", held)) if len(rows)}
    save_split(run.path / "split.csv", parts if testing is None else {**parts, "test": testing})
    print(f"trained {fitted.result.steps} steps in {fitted.result.seconds:.0f} s; the run is in {run.path}")
    if testing is not None and not source.classes:
        for note in unscored(testing):
            print(note)
        if (judged := certain(testing)).annotation.observed.any():
            print(_sentence(figures_of(fitted.model, judged), testing))


@command(without=("test",))
def plan(source: DataFlags, decisions: PlanFlags, time: bool = False, out: Path | None = None) -> None:
    """Print the facts found in DATA and the decisions that `taut train` would take.

    Args:
        source: what would be trained on.
        decisions: what replaces planned decisions.
        time: take a few steps, and say how long the training would take here.
        out: a YAML file to write the decisions to, for --plan of other commands.
    """
    if out is not None and out.suffix.lower() not in (".yaml", ".yml"):
        raise DataError(f"--out {out}: `taut plan` writes decisions to a file that ends in .yaml, and no run folder")
    if out is not None and out.exists():
        raise DataError(f"--out {out}: the file is there already; choose another")
    decisions.check()
    seed = decisions.first_seed()
    training, _ = load_parts(source)
    training.space.check_observed(training.annotation)
    training = draw_annotations(training, source, seed)
    learnt = training.rows(~own_valid(training))
    for note in (*training.notes, *annotation_notes(learnt)):
        print(note)
    facts = fingerprint(learnt)
    decided = plan_of(training, decisions.change, seed, decisions.method())
    for note in ignored_auxiliary(training, decided.objective.name):
        print(note)
    kept, held = hold_out(training, decided)
    judges = judges_of(training, held)
    print(estimate_memory(training, decided, facts).sentence())
    if (said := advice(facts, decided)) is not None:
        print(said)
    if decided.train.folds:
        print(f"calibration: {decided.train.folds} more trainings, each with a fold of the annotations hidden")
    elif not can_calibrate(judges):
        print(uncalibrated(facts, decided, fold_count(learnt, MOST_FOLDS)))
    if time:
        print(expected_time(training.rows(kept), decided, facts, judges))
    if out is not None:
        decided.save(out)
        print(f"the decisions are in {out}: --plan {out}")
    # Last, so that what is printed from "model:" on is a plan file.
    print(describe(facts, training.space, decided))


@command(without=("classes", "objective"))
def compare(
    source: DataFlags,
    decisions: PlanFlags,
    objectives: str = "tighter-elbo,supervised",
    draws: int = 5,
    minutes: float | None = None,
    out: Path = Path("runs/compare"),
) -> None:
    """Train several objectives on the same draws of annotations and write one table, and one picture a figure.

    Args:
        source: what to train on; it needs a test part, or --test.
        decisions: what replaces planned decisions of every objective; --seed is that of the first draw.
        objectives: names with commas between them, as --objective of `taut train` has them.
        draws: how often annotations are drawn and the networks' weights with them, from --seed on.
        minutes: a budget for each training.
        out: a folder for the tables and the pictures; what it holds already is not trained again.
    """
    from taut.compare import compare as run_all
    from taut.compare import digest, label_table, pictures, table

    names = [name.strip() for name in objectives.split(",") if name.strip()]
    if not names:
        raise DataError("--objectives names no method")
    if "objective.name" in (decisions.changes or {}):
        raise DataError("--objectives names the methods of a comparison: leave out --objective.name")
    if draws < 1:
        raise DataError(f"--draws {draws} is not a positive number")
    for note in decisions.ignored(minutes):
        _tell(note)
    decisions.check(*names, minutes=minutes)
    training, testing = load_parts(source, (place := out.resolve()).with_name(f"{place.name}-skipped.csv"))
    if testing is None or not (judged := certain(testing)).annotation.observed.any():
        raise DataError(f"{source.data} has no annotated test part to compare on; give one with --test")
    seed = decisions.first_seed()
    for note in [*draw_annotations(training, source, seed).notes, *unscored(testing)]:
        _tell(note)
    about = {**source.to_json(), "plan": decisions.file() or None, "changes": decisions.changes}
    about["digest"] = digest(training, judged)
    failures: list[str] = []
    rows = run_all(
        lambda s: draw_annotations(training, source, s),
        judged,
        names,
        range(seed, seed + draws),
        out,
        minutes,
        decisions.change,
        about,
        failures,
        _tell,
    )
    if len(rows) and processes().is_main_process:
        summary = table(rows)
        summary.to_csv(out / "table.csv", index_label="method")
        labels, also = label_table(rows), ""
        if len(judged.space) > 1 and len(labels):
            labels.to_csv(out / "per_label.csv", index=False)
            also = "per_label.csv, "
        pictures(rows, out)
        print(summary.to_string())
        print(f"table.csv, {also}a picture of each figure and every draw (draws.jsonl) are in {out}")
    if failures:
        raise TrainingError("; ".join(failures))


def _tell(note: str) -> None:
    """Print a note at once, before minutes of training on what was not meant; of several processes the first does."""
    if processes().is_main_process:
        print(note, flush=True)


def _sentence(figures: dict[str, Any], dataset: Dataset) -> str:
    shown = ", ".join(f"{k} {v:.4g}" for k, v in figures.items() if isinstance(v, float))
    named = [f"{name}={row['class']}" for name, row in figures["per_label"].items() if "class" in row]
    of = f" (ap, f1, sensitivity and specificity of {listed(named)})" if named else ""
    return f"test part of {dataset.name}, {len(dataset)} images: {shown}{of}"


def main(arguments: list[str] | None = None) -> None:
    """Run a command; bad input, and too little memory, end with one sentence and exit status 2."""
    given = sys.argv[1:] if arguments is None else arguments
    chosen: Command | None = None
    for stream in (sys.stdout, sys.stderr):
        # Text that a file or a terminal of another code page has no letters for must not end a training.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        chosen, flags = parse(given, COMMANDS)
        chosen(**flags)
    except (DataError, LabelError, TrainingError, ValueError, OSError) as error:
        print(f"taut: {_with_notes(str(error), error)}", file=sys.stderr)
        raise SystemExit(2) from error
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        trains = chosen in (train, compare, plan)
        said = OUT_OF_MEMORY if trains else OUT_OF_MEMORY_LATER
        print(f"taut: {_with_notes(said, error)}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt as error:
        resumed = None if hasattr(error, "__notes__") else AGAIN.get(given[0] if given else "")
        print(f"taut: {_with_notes('interrupted', error)}" + (f"; {resumed}" if resumed else ""), file=sys.stderr)
        raise SystemExit(130) from None


def _with_notes(sentence: str, error: BaseException) -> str:
    """A sentence in one line, and what is noted at its error, as where decoding goes on."""
    return "; ".join(" ".join(part.split()) for part in (sentence, *getattr(error, "__notes__", ())))


AGAIN = {
    "train": "`taut train … --resume` goes on from the last checkpoint, if there is one",
    "compare": "the same command goes on after the last finished training",
    "predict": "the rows so far, if any, are in a file that ends in .part; the same command begins anew",
}
COMMANDS: dict[str, Command] = {
    item.name: item for item in (train, evaluate, predict, explain, export, plan, split, compare)
}

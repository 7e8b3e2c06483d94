"""The commands that begin with a finished run: evaluate, predict, explain and export."""

from __future__ import annotations

import dataclasses
import os
import sys
from json import dumps
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from tqdm import tqdm

from taut.baselines import find_objective
from taut.cli.command import command
from taut.cli.splits import with_known_parts, with_saved_split
from taut.data import DataError, Dataset
from taut.data.cells import certain, unscored
from taut.data.dataset import SPLITS
from taut.data.files import find_images
from taut.data.leakage import seen_before
from taut.data.listing import write_skipped
from taut.evaluate.calibration import shifted
from taut.evaluate.metrics import evaluate as figures_of
from taut.evaluate.predict import on_device, predict_logits
from taut.evaluate.predictions import prediction_table
from taut.export import READING
from taut.export import export as export_run
from taut.features import FrozenEncoder
from taut.fit import own_part_calibrates
from taut.flags import DataFlags
from taut.inputs import read_inputs, table_images
from taut.report.explain import draw_explanation
from taut.report.explain import explain as explain_image
from taut.report.pictures import reliability_diagram
from taut.report.tables import evaluation_table, evaluation_text
from taut.run import Run, load_about
from taut.sources import (
    is_folder,
    is_table,
    kept_flags,
    label_table,
    load_source,
    lost_view,
    replaced_source,
    test_flags,
)
from taut.subgroups import figures_by, images_by, table_column

AT_ONCE = 1000  # images that are read and predicted before the next ones are


@command()
def evaluate(
    run: Path,
    data: str | None = None,
    split: str | None = None,
    labels: Path | None = None,
    images: Path | None = None,
    group: str | None = None,
    uncertain: str | None = None,
    blank: str | None = None,
    view: str | None = None,
    path_column: str | None = None,
    format: str | None = None,
    json: bool = False,
    calibrated: bool = True,
    resamples: int = 1000,
    by: str | None = None,
    out: Path | None = None,
) -> None:
    """Evaluate the model of a run on annotated data: a table, evaluation.json, evaluation.csv and reliability.png.

    Args:
        run: a run folder.
        data: what to evaluate on, as in `taut train`; by default the test data of the run.
        split: train, valid (with the images that training held out) or test; by default the test part where there is
            one, else everything.
        labels: a CSV table of annotations for a folder.
        images: where the images of a table are; by default in its folder, or where those of the run are.
        group: the column, or array, of patients of these data; by default the run's, where they have it.
        uncertain: what -1 cells of these data become, as in `taut train`; by default as in the run.
        blank: what their blank cells become, likewise.
        view: the images of a table of CheXpert, MIMIC-CXR or NIH to take.
        path_column: the column of their table that names the images.
        format: the format of their table.
        json: print one JSON object on the last line.
        calibrated: use the calibration fitted on held-out images.
        resamples: of the images, or whole groups, for the 95 % intervals; 0 for none.
        by: a column of the table, such as Sex, of whose values there are figures too; many numbers are in quarters.
        out: the folder to write to; by default the run's, and evaluation-NAME in it for other data, labels or parts.
            What is left out of the data is listed in skipped-evaluation.csv, there or in the run's.
    """
    folder = Run(run)
    model = folder.load_model()
    source = _source(folder)
    if data is None and not source.data:
        raise DataError(f"{run} is a model without its data: name what to evaluate on with --data")
    tested = source.test if data is None and split in (None, "test") else None
    reading = {
        "group": group,
        "uncertain": uncertain,
        "blank": blank,
        "view": view,
        "path_column": path_column,
        "format": format,
    }
    given: dict[str, Any] = {name: value for name, value in reading.items() if value is not None}
    if given and data is None and labels is None:
        flags = ", ".join("--" + name.replace("_", "-") for name in given)
        raise DataError(f"{flags} is for other data than the run's: name them with --data or --labels")
    # Before, so that images are looked for as they say; and after, as what the data lack is left out there.
    source = dataclasses.replace(source, **given)
    usual = source.view
    # Which need not have the group that the run's data have unasked.
    source = source if tested is None else kept_flags(test_flags(source), "group")
    source = replaced_source(source, data, labels, images)
    source = dataclasses.replace(source, auxiliary=None, **given)
    for note in lost_view(usual, source):
        print(f"taut: {note}", file=sys.stderr)
    column = None if by is None else table_column(source, by)
    saved = folder.path / "split.csv"
    dealt = source.split_fractions is not None and saved.is_file()
    # Shares of what has changed since would deal images that were learnt from into the test part.
    dataset = load_source(
        dataclasses.replace(source, split_fractions=None) if dealt else source,
        model.space,
        (out or folder.path) / "skipped-evaluation.csv",
        model.architecture.shape,
        folder.pixel_max(),
        FrozenEncoder.load(run),
        folder.feature_names(),
    )
    if dealt:
        dataset = with_saved_split(dataset, saved, source.test is not None)
    elif data is None and split in ("train", "valid") and saved.is_file():
        dataset = _with_held_out(dataset, saved)
    elif data is not None:
        dataset = with_known_parts(dataset, saved)
    if resamples < 0:
        raise DataError(f"--resamples {resamples} is negative: 0 gives no intervals")
    if split is not None and split not in SPLITS:
        raise DataError(f"--split {split!r} is not one of {', '.join(SPLITS)}")
    has_test = dataset.split is not None and bool((dataset.split == "test").any())
    whole = tested is not None and not has_test  # what --test named is the test part, where it has none of its own
    chosen = None if whole else split or ("test" if has_test else None)
    dataset = dataset.part(chosen) if chosen else dataset
    if data is None and tested is None and chosen is None:
        held = dataset.split is not None and bool((dataset.split == "valid").any())
        also = "; --split valid evaluates those that were held out to calibrate it" if held else ""
        print(f"taut: there is no test part; these are the images that the run was trained on{also}", file=sys.stderr)
    elif data is not None and (warning := seen_before(saved, dataset)) is not None:
        print(f"taut: {warning}", file=sys.stderr)
    for note in [*(f"{source.data}: {note}" for note in dataset.notes), *unscored(dataset)]:
        print(f"taut: {note}", file=sys.stderr)
    if calibrated and (names := shifted(model)):
        print(
            f"taut: probabilities and thresholds of {', '.join(names)} are for the frequencies that --prevalence "
            "stated: where those here differ, NLL, ECE, error and F1 are worse than they would be",
            file=sys.stderr,
        )
    dataset = certain(dataset)
    other = data is not None or labels is not None
    place = out or folder.path / _subfolder(source, dataset if other else None, split, calibrated)
    place.mkdir(parents=True, exist_ok=True)
    for name in ("evaluation.json", "evaluation.csv", "reliability.png"):
        _unfinished(place / name, "")  # said before anything that takes long
    values = None if column is None else images_by(column, dataset)
    logits = predict_logits(on_device(model), dataset.x)
    figures = figures_of(model, dataset, calibrated, resamples, logits)
    figures = {"data": dataset.name, "split": chosen or "all", **figures}
    if values is not None:
        figures["by"] = figures_by(
            values, lambda rows: figures_of(model, dataset.rows(rows), calibrated, resamples, logits[rows])
        )
    if not calibrated:
        figures["calibrated"] = False
    (place / "evaluation.json").write_text(dumps(figures, indent=1))
    evaluation_table(figures).to_csv(place / "evaluation.csv")
    reliability_diagram(model, dataset, place / "reliability.png", logits)
    written = f"evaluation.json, evaluation.csv and reliability.png are in {place}"
    print(dumps(figures) if json else f"{evaluation_text(figures)}\n\n{written}")


@command()
def predict(
    run: Path,
    images: Path,
    out: Path = Path("predictions.csv"),
    root: Path | None = None,
    view: str | None = None,
    path_column: str | None = None,
) -> None:
    """Write probabilities, decisions and out-of-distribution scores of every image as CSV.

    Args:
        run: a run folder.
        images: an image file, a folder of them, a table that names images in its folder (or where those of the run
            are), or an .npz, .npy or Parquet file.
        out: the CSV file to write; beside it NAME-skipped.csv lists images that are not there or cannot be read.
        root: where the images of a table are; by default in its folder, or where those of the run are.
        view: of a table of CheXpert, MIMIC-CXR or NIH the images to take; by default the run's, where a row shows it.
        path_column: the column of a table that names the images.
    """
    folder = Run(run)
    model = on_device(folder.load_model())
    source = _source(folder)
    _spare(out, images, label_table(source), Path(source.data))
    part, whole = _unfinished(out)
    count, bad, missing = 0, [], pd.Series(dtype=str)
    frozen, columns, white, named = FrozenEncoder.load(run), folder.feature_names(), folder.pixel_max(), None
    if is_table(str(images)):
        if frozen is None and len(model.architecture.shape) != 3:
            raise DataError(f"{images}: the model takes feature vectors, not images")
        names, files, missing, notes = table_images(source, images, root, view, path_column)
        named = names, files
        for note in notes:
            print(f"taut: {images}: {note}", file=sys.stderr)
    elif wrong := [
        flag for flag, value in (("--root", root), ("--view", view), ("--path-column", path_column)) if value
    ]:
        raise DataError(f"{', '.join(wrong)} is for a table of images, which {images} is not")
    elif images.is_dir():
        notes = []
        files = [images / name for name in find_images(images, notes)]
        for note in notes:
            print(f"taut: {images}: {note}", file=sys.stderr)
        named = [str(file) for file in files], files
    total = None if named is None else len(named[1])
    blocks = read_inputs(images, model, white, source, frozen, AT_ONCE, columns=columns, images=named)
    with tqdm(total=total, desc="predicting", unit="image", delay=2, disable=None) as bar:
        for names, x, unread in blocks:
            bar.total = total or len(names)  # arrays come as a whole
            bad += unread
            bar.update(len(unread))
            for start in range(0, len(names), AT_ONCE):
                some = slice(start, start + AT_ONCE)
                table = prediction_table(model, names[some], x[some])
                table.to_csv(part, index=False, float_format="%.6f", mode="a" if count else "w", header=not count)
                count += len(table)
                bar.update(len(table))
    if part != whole:
        os.replace(part, whole)
    print(f"wrote the probabilities of {count} images to {out}")
    skipped = whole.with_name(f"{whole.stem}-skipped.csv")
    left: list[tuple[Any, ...]] = [(row, name, "not found") for row, name in missing.items()]
    left += [(None, *pair) for pair in bad]
    if part != whole:  # beside a device or a pipe there is no place
        write_skipped(pd.DataFrame(left, columns=["row", "file", "reason"]).astype({"row": "Int64"}), skipped)
        if len(missing) and not bad:
            print(f"taut: rows without an image are listed in {skipped.name}", file=sys.stderr)
    if bad:
        raise DataError(
            f"{len(bad)} images could not be read and are not in {out}: "
            + "; ".join(f"{path} ({reason})" for path, reason in bad[:5])
        )


@command()
def explain(
    run: Path,
    image: Path,
    label: str | None = None,
    out: Path = Path("explanation.png"),
    attribution: Literal["none", "occlusion", "gradients"] = "none",
    row: str | None = None,
) -> None:
    """Draw an image decoded with and without a label, and where in it the classifier looks.

    Args:
        run: a run folder.
        image: an image file, or an .npz file with an array x.
        label: a label, or LABEL=CLASS; of a label of more than two classes the class is compared with the most probable
            one, and without a class the two most probable ones are.
        out: the PNG file to write.
        attribution: occlusion or gradients add a map of what speaks for the label (needs captum).
        row: the id of the image in an .npz file of several.
    """
    folder = Run(run)
    model = on_device(folder.load_model())
    if label is None:
        raise DataError(f"--label names no label; there are {', '.join(model.space.names)}")
    _spare(out, image)
    frozen = FrozenEncoder.load(run)
    if frozen is not None:
        frozen.to(model.log_prior.device)
    names, x, unread = next(read_inputs(image, model, folder.pixel_max(), _source(folder), frozen, encode=False))
    if unread:
        raise DataError(f"{unread[0][0]} cannot be read: {unread[0][1]}")
    chosen = [i for i, name in enumerate(names) if row in (None, name)]
    if len(chosen) != 1:
        known = f"{len(names)} images, such as {names[0]}"
        raise DataError(
            f"{image} has {known}: --row names one of them" if row is None else f"--row {row}: {image} has {known}"
        )
    plan = folder.load_plan()
    decodes = frozen is None and find_objective(plan.objective.name).decodes(plan)
    untrained = (
        f"the objective {plan.objective.name!r} of {run} never trained the decoder, so it has no counterfactual"
        if frozen is None
        else f"the decoder of {run} draws features of {frozen.about.given} and no images, so it has no counterfactual"
    )
    if not decodes and attribution == "none":
        raise DataError(f"{untrained}; --attribution occlusion shows where the classifier looks")
    found = explain_image(model, x[chosen], label, decodes, attribution, frozen)
    draw_explanation(found, out)
    print(f"{found.describe()}; the picture is {out}" + ("" if decodes else f"; {untrained}"))


@command()
def export(run: Path, out: Path = Path("model")) -> None:
    """Write the model of a run into a folder to ship, without names, patients or pixels of the images it learnt from.

    Args:
        run: a run folder.
        out: the folder to write: for `taut predict` and `taut explain`, and program.pt2 for torch alone.
    """
    if out.resolve() == run.resolve():
        raise DataError(f"--out {out} is the run itself: name another folder")
    said = export_run(Run(run), out)
    takes, gives = said["input"], said["output"]
    print(
        f"program.pt2 takes {takes['dtype']} {takes['shape']} and gives probabilities {gives['shape']}, as program.json"
        f" says; with it the model is in {out}"
    )


def _with_held_out(dataset: Dataset, saved: Path) -> Dataset:
    """The images that a run learnt from and held out as its parts, unless the data's own "valid" part was enough."""
    if dataset.split is None:
        return with_saved_split(dataset, saved, True)
    if own_part_calibrates(dataset):
        return dataset
    return with_saved_split(dataset.rows(dataset.split != "test"), saved, True)


def _source(folder: Run) -> DataFlags:
    """The flags that a run read its data with; of a folder that `TautClassifier.save` wrote, with "" for the data."""
    about = load_about(folder.path)
    if "plan" not in about:
        return DataFlags.from_json(folder.source())
    unlabeled = folder.unlabeled()
    # "" is no value at all, and None is -1, as where nothing is said.
    said = "" if unlabeled is None else None if unlabeled == -1 else str(unlabeled)
    return DataFlags("", unlabeled=said, **{name: about.get(name) for name in READING})


def _subfolder(source: DataFlags, other: Dataset | None, split: str | None, calibrated: bool) -> str:
    """Where in a run the figures go: those of its own test part into it, others where they replace none of these.

    other: the data where they, or their labels, are not the run's.
    """
    names = []
    if other is not None:
        names.append(other.name if is_folder(source.data) else Path(other.name).stem)
        table = label_table(source)
        names += [] if table is None else [table.stem]
    if split not in (None, "test"):
        names.append(str(split))
    names += [] if calibrated else ["uncalibrated"]
    return "-".join(["evaluation", *names]) if names else ""


def _spare(out: Path, *inputs: Path | None) -> None:
    """DataError where the file to write is one of those that are read, or that a run was trained on."""
    for path in inputs:
        if path is not None and path.is_file() and out.exists() and out.samefile(path):
            raise DataError(f"--out {out} would replace {path}, which is read: choose another name")


def _unfinished(out: Path, flag: str = "--out ") -> tuple[Path, Path]:
    """The file to write in until all is in it, and the one that it then becomes: NAME.part beside NAME.

    Both are the same where NAME is a device or a pipe. Raises DataError, before anything that takes long, where one of
    them cannot be written.
    """
    as_it_is = out.exists() and not out.is_file()
    whole = out if as_it_is else out.resolve()  # a link to a file stays one
    part = whole if as_it_is else whole.with_name(f"{whole.name}.part")
    try:
        whole.parent.mkdir(parents=True, exist_ok=True)
        for path in {part, whole}:
            there = path.exists()
            path.open("a").close()
            if not there:
                path.unlink()
    except OSError as error:
        raise DataError(f"{flag}{out} cannot be written: {error.strerror}") from error
    return part, whole

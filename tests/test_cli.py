from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from commands import Capture, refused, taut
from conftest import Array
from image_files import paint
from taut import cli
from taut.baselines import OBJECTIVES
from taut.cli.decisions import PLANNED
from taut.data import load_dataset
from taut.data.dataset import DataError
from taut.data.stream import Stream
from taut.estimator import TautClassifier
from taut.evaluate.metrics import evaluate
from taut.evaluate.ood import ood_percentiles, ood_scores
from taut.evaluate.predict import predict_probabilities
from taut.facts import Facts
from taut.fit import fit, plan_for
from taut.flags import DataFlags
from taut.objective import Batch
from taut.plan import Plan, flatten
from taut.rules import make_plan
from taut.run import Run, save_model
from taut.sources import replaced_source
from tiny import FLAGS, NAN, TINY

EMPTY = ("--train.batch_unlabelled", 0)


def figures(capsys: Capture, *arguments: Any) -> dict[str, Any]:
    """The JSON object on the last line of `taut evaluate`."""
    taut("evaluate", *arguments, "--json")
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def patients(n: int = 40) -> dict[str, Array]:
    """Images of 20 patients with two findings, some cells unknown, and a split by patient."""
    rng = np.random.default_rng(0)
    y = (rng.random((n, 2)) < 0.5).astype(float)
    y[rng.random((n, 2)) < 0.2] = NAN
    return {
        "x": rng.integers(0, 256, (n, 8, 8), dtype=np.uint8),
        "y": y,
        "label_names": np.array(["oedema", "mass"]),
        "patient_id": np.arange(n) // 2,
        "split": np.repeat(["train", "test"], [n - 10, 10]),
    }


@pytest.fixture
def pack(tmp_path: Path) -> Path:
    np.savez(tmp_path / "pack.npz", **patients())
    return tmp_path / "pack.npz"


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    y = np.arange(60) % 3
    y[40:] = -1
    np.savez(tmp_path / "vectors.npz", x=rng.normal(size=(60, 5)), y=y)
    return tmp_path / "vectors.npz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twelve images and a table with a blank cell; one image is damaged, one row names none."""
    for i in range(12):
        paint(tmp_path / "scans" / f"{i:02}.png")
    (tmp_path / "scans" / "11.png").write_bytes(b"damaged")
    lines = [f"{i:02}.png,{i % 2},{'' if i % 3 else i % 2},p{i // 2}" for i in range(12)]
    (tmp_path / "table.csv").write_text("\n".join(["file,oedema,mass,patient", *lines, "99.png,1,1,p9"]) + "\n")
    return tmp_path / "scans"


@pytest.fixture
def digits_run(tmp_path: Path) -> Path:
    taut("train", "digits", "--labels-per-class", 5, *FLAGS, "--out", tmp_path / "digits", "--quiet")
    return tmp_path / "digits"


# --- train --------------------------------------------------------------------------------------------------


def test_train_on_digits_and_evaluate(tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    taut("train", "digits", "--labels-per-class", 5, *FLAGS, "--out", run)
    said = capsys.readouterr().out
    assert "trained 6 steps" in said
    assert str(run) in said
    assert "test part of digits, 596 images: error" in said
    found = figures(capsys, run, "--data", "digits")
    assert {"error", "nll", "ece", "elbo", "per_label", "images", "split", "data"} <= found.keys()
    assert (found["images"], found["split"]) == (596, "test")
    assert 0 <= found["error"] <= 100
    assert found == figures(capsys, run)
    assert {path.name for path in run.iterdir()} >= {
        "plan.yaml", "facts.json", "annotation.npz", "metrics.jsonl", "model.safetensors", "model.json", "checkpoint"
    }  # fmt: skip


def test_labels_per_class_are_what_was_trained_on(digits_run: Path) -> None:
    _, _, observed = Run(digits_run).load_draw()
    assert observed.shape == (1201, 1)
    assert observed.sum() == 50
    assert Run(digits_run).source()["labels_per_class"] == 5


def test_train_on_a_pack_with_groups_and_a_split(pack: Path, tmp_path: Path, capsys: Capture) -> None:
    taut("train", pack, "--group", "patient_id", *FLAGS, "--train.valid_fraction", 0.3, "--out", tmp_path / "run")
    assert "test part of pack.npz, 10 images" in capsys.readouterr().out
    kept, held, _ = Run(tmp_path / "run").load_draw()
    assert len(kept) + len(held) == 30
    assert len(held) >= 4
    assert not set(kept // 2) & set(held // 2)
    found = figures(capsys, tmp_path / "run")
    assert {"auroc_macro", "ap_macro", "per_label", "elbo"} <= found.keys()
    assert set(found["per_label"]) == {"oedema", "mass"}
    assert 0 <= found["auroc_macro"] <= 1
    assert found["images"] == 10


def test_evaluate_a_part_of_the_split(pack: Path, tmp_path: Path, capsys: Capture) -> None:
    taut("train", pack, *FLAGS, "--out", tmp_path / "run")
    assert figures(capsys, tmp_path / "run", "--split", "train")["images"] == 30
    assert "has no part 'valid'" in refused(capsys, "evaluate", tmp_path / "run", "--split", "valid")
    assert "'tset' is not one of" in refused(capsys, "evaluate", tmp_path / "run", "--split", "tset")
    taut("evaluate", tmp_path / "run")
    shown = capsys.readouterr().out
    assert "auroc_macro" in shown
    assert "oedema" in shown


@pytest.mark.parametrize("split", [True, False], ids=["a test part of its own", "no split"])
def test_what_a_run_held_out_is_its_valid_part(split: bool, pack: Path, tmp_path: Path, capsys: Capture) -> None:
    data, flags = patients(60), ("--train.valid_fraction", 0.3)
    if not split:
        del data["split"]
    np.savez(pack, **data)
    taut("train", pack, "--group", "patient_id", *FLAGS, *flags, "--out", tmp_path / "run")
    kept, held, _ = Run(tmp_path / "run").load_draw()
    assert len(held) > 4
    for part, rows in (("train", kept), ("valid", held)):
        found = figures(capsys, tmp_path / "run", "--split", part)
        assert (found["images"], found["split"]) == (len(rows), part)
    if split:
        assert figures(capsys, tmp_path / "run")["images"] == 10
    # Other data have no part that was held out.
    said = refused(capsys, "evaluate", tmp_path / "run", "--data", pack, "--split", "valid")
    assert said == "pack.npz has no part 'valid'"


def test_a_valid_part_and_a_share_beside_it_are_the_valid_part(pack: Path, tmp_path: Path, capsys: Capture) -> None:
    data = patients(60)
    data["split"][:4] = "valid"  # too few to calibrate on
    np.savez(pack, **data)
    taut("train", pack, *FLAGS, "--train.valid_fraction", 0.3, "--out", tmp_path / "run")
    _, held, _ = Run(tmp_path / "run").load_draw()
    assert len(held) > 10
    assert figures(capsys, tmp_path / "run", "--split", "valid")["images"] == len(held)


def test_what_is_held_out_of_data_with_a_test_set_beside_its_own(tmp_path: Path, pack: Path, capsys: Capture) -> None:
    other = {**patients(), "x": np.random.default_rng(7).integers(0, 256, (40, 8, 8), dtype=np.uint8)}
    np.savez(tmp_path / "other.npz", **other)
    flags = ("--test", tmp_path / "other.npz", *FLAGS, "--train.valid_fraction", 0.3)
    taut("train", pack, *flags, "--out", tmp_path / "run")
    kept, held, _ = Run(tmp_path / "run").load_draw()
    assert len(kept) + len(held) == 30
    for part, rows in (("train", kept), ("valid", held)):
        assert figures(capsys, tmp_path / "run", "--split", part)["images"] == len(rows)


def test_the_groups_of_a_run_are_not_asked_of_other_data(pack: Path, tmp_path: Path, capsys: Capture) -> None:
    taut("train", pack, "--group", "patient_id", *FLAGS, "--out", tmp_path / "run")
    other = patients()
    del other["patient_id"], other["split"]
    other["x"] = 255 - other["x"]  # of the run's own images it would be the test part
    np.savez(tmp_path / "other.npz", **other)
    assert figures(capsys, tmp_path / "run", "--data", tmp_path / "other.npz")["images"] == 40


def test_groups_that_other_data_have_are_kept(pack: Path, tmp_path: Path) -> None:
    def group(source: DataFlags, data: Path, labels: Path | None = None) -> str | None:
        return replaced_source(source, str(data), labels).group

    source = DataFlags("first", group="patient_id", format="table")
    assert group(source, pack) == "patient_id"
    parts = {f"{name}_{part}": np.arange(3) for name in ("x", "patient_id") for part in ("train", "test")}
    np.savez(tmp_path / "parts.npz", **parts)
    assert group(source, tmp_path / "parts.npz") == "patient_id"
    (tmp_path / "with.csv").write_text("file,patient_id,A\n1.png,7,1\n")
    (tmp_path / "without.csv").write_text("file,A\n1.png,1\n")
    for name, kept in (("with.csv", "patient_id"), ("without.csv", None)):
        assert group(source, tmp_path / name) == kept
        assert group(source, tmp_path, tmp_path / name) == kept
    assert group(source, tmp_path) is None
    assert group(DataFlags("first"), pack) is None
    (tmp_path / "chest.csv").write_text("Path,Frontal/Lateral,AP/PA,Edema\nv/patient1/study1/a.jpg,Frontal,AP,1\n")
    assert group(DataFlags("first", group="study"), tmp_path / "chest.csv") == "study"


def test_images_that_the_run_has_seen_are_told_in_other_data(pack: Path, tmp_path: Path, capsys: Capture) -> None:
    run, other = tmp_path / "run", patients()
    taut("train", pack, "--group", "patient_id", *FLAGS, "--out", run)
    taut("evaluate", run, "--data", pack)  # its test part, which the run has not seen
    assert "pixel for pixel" not in capsys.readouterr().err
    del other["split"]
    other["x"][4:30] = np.random.default_rng(9).integers(0, 256, (26, 8, 8), dtype=np.uint8)
    other["x"][0] = 7  # of one colour, as any other image may be
    np.savez(tmp_path / "other.npz", **other, image_id=np.array([f"scan{i}" for i in range(40)]))
    taut("evaluate", run, "--data", tmp_path / "other.npz")
    said = capsys.readouterr().err
    assert "3 of these 40 images are, pixel for pixel, ones that the run was trained or calibrated on" in said
    assert "such as scan1 = " in said
    saved = pd.read_csv(run / "split.csv", dtype=str)
    learnt = set(saved.loc[saved["split"] != "test", "group"])
    related = sum(str(name) in learnt for name in other["patient_id"]) - 3
    assert related > 0
    assert f", and {related} others are of groups that the run was trained or calibrated on, such as " in said
    other["x"] = np.random.default_rng(8).integers(0, 256, other["x"].shape, dtype=np.uint8)
    np.savez(tmp_path / "later.npz", **other)
    taut("evaluate", run, "--data", tmp_path / "later.npz")
    said = capsys.readouterr().err
    assert "of these 40 images are of groups that the run was trained or calibrated on, such as " in said
    (run / "split.csv").write_text("image,group,split\n")  # of a run from before pixels were written
    taut("evaluate", run, "--data", tmp_path / "other.npz")
    assert "pixel for pixel" not in capsys.readouterr().err


def test_train_on_a_folder_with_a_table(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    run, table = tmp_path / "run", tmp_path / "table.csv"
    taut("train", folder, "--labels", table, "--group", "patient", *FLAGS, "--out", run)
    said = capsys.readouterr().out
    # Before the training, and once.
    assert said.count("1 image cannot be read") == 1
    assert 0 <= said.index("1 image cannot be read") < said.index("calibrated") < said.index("trained 6 steps")
    assert sorted(row["file"] for row in rows_of(run / "skipped.csv")) == ["11.png", "99.png"]
    found = figures(capsys, run)
    assert found["images"] == 11
    assert found["per_label"]["mass"]["annotated"] == 4
    # The same images as a pack need neither the table nor its columns.
    x = np.stack([np.asarray(Image.open(folder / f"{i:02}.png")) for i in range(11)])
    y = np.array([[i % 2, NAN if i % 3 else i % 2] for i in range(11)])
    np.savez(tmp_path / "same.npz", x=x, y=y, label_names=np.array(["oedema", "mass"]))
    same = figures(capsys, run, "--data", tmp_path / "same.npz", "--resamples", 0)
    # The folder's intervals are over patients, of which the pack knows nothing.
    plain = {
        name: {figure: value for figure, value in row.items() if not figure.endswith(("_low", "_high"))}
        for name, row in found["per_label"].items()
    }
    assert same["per_label"] == plain


def test_images_of_other_sizes_are_evaluated_at_the_models(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    """Height and width of their own, and colour where the training images are grey, as `taut predict` reads them."""
    run, other = tmp_path / "run", tmp_path / "other"
    taut("train", folder, "--labels", tmp_path / "table.csv", *FLAGS, "--out", run)
    assert Run(run).load_model().architecture.shape == (1, 8, 6)
    for i in range(6):
        paint(other / f"{i:02}.png", size=(20, 31), mode="RGB" if i % 2 else "L")
    flags = ("--data", other, "--labels", tmp_path / "table.csv")
    found = figures(capsys, run, *flags)
    assert found["images"] == 6
    taut("predict", run, other, "--out", tmp_path / "p.csv")
    q = np.array([float(row["oedema:calibrated"]) for row in rows_of(tmp_path / "p.csv")])
    truth = np.arange(6) % 2
    assert found["per_label"]["oedema"]["nll"] == pytest.approx(-np.log(np.where(truth, q, 1 - q)).mean(), abs=1e-4)
    # So are the images of a test set of its own, whose size does not make another network.
    train = ("train", folder, "--labels", tmp_path / "table.csv", *FLAGS, "--out", tmp_path / "tested", "--test")
    # But not by the rows that the training images are annotated by.
    said = refused(capsys, *train, other)
    assert "table.csv would annotate" in said
    assert "give the latter a table or names of its own" in said
    shutil.copy(tmp_path / "table.csv", other / "table.csv")
    taut(*train, other / "table.csv")
    assert "test part of other, 6 images" in capsys.readouterr().out
    assert figures(capsys, tmp_path / "tested")["images"] == 6


def test_uncalibrated_figures_go_beside_the_others(pack: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    taut("train", pack, *FLAGS, "--out", run)
    folder = Run(run)
    model = folder.load_model()
    model.temperature.fill_(0.2)
    save_model(model, run, {})
    calibrated = figures(capsys, run)
    assert "calibrated" not in calibrated
    usual = (run / "evaluation.json").read_text()
    plain = figures(capsys, run, "--calibrated", "false")
    assert plain["calibrated"] is False
    assert plain["nll"] != pytest.approx(calibrated["nll"], rel=1e-3)
    model.temperature.fill_(1)
    assert plain["nll"] == pytest.approx(evaluate(model, load_dataset(str(pack)).part("test"))["nll"], rel=1e-5)
    assert (run / "evaluation.json").read_text() == usual
    assert (run / "evaluation-uncalibrated" / "evaluation.json").is_file()


def test_a_test_set_of_another_shape_is_refused_before_training(pack: Path, tmp_path: Path, capsys: Capture) -> None:
    np.savez(tmp_path / "test.npz", x=np.zeros((4, 9, 7), np.uint8), y=np.eye(4)[:, :2])
    said = refused(capsys, "train", pack, "--test", tmp_path / "test.npz", *FLAGS, "--out", tmp_path / "run")
    assert said == "test.npz has inputs of shape [1, 9, 7], but the model takes [1, 8, 8]"


def test_train_on_vectors_with_a_test_set_of_its_own(vectors: Path, tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "test.npz", x=rng.normal(size=(20, 5)), y=np.arange(20) % 3)
    taut("train", vectors, "--test", tmp_path / "test.npz", *FLAGS, "--out", tmp_path / "run")
    assert "test part of test.npz, 20 images" in capsys.readouterr().out
    assert Run(tmp_path / "run").load_plan().model.encoder == "mlp"
    assert figures(capsys, tmp_path / "run", "--data", tmp_path / "test.npz")["images"] == 20


def test_clusters_need_no_annotation(tmp_path: Path, capsys: Capture) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).random((30, 4)))
    assert "no annotations 'y'" in refused(capsys, "train", tmp_path / "x.npz", "--out", tmp_path / "none")
    taut("train", tmp_path / "x.npz", "--classes", 3, *FLAGS, "--out", tmp_path / "run")
    model = Run(tmp_path / "run").load_model()
    assert (model.space.names, model.sizes) == (("cluster",), (3,))
    taut("predict", tmp_path / "run", tmp_path / "x.npz", "--out", tmp_path / "clusters.csv")
    assert len(rows_of(tmp_path / "clusters.csv")) == 30


@pytest.mark.parametrize(
    ("flag", "known"), [(("--labelled-fraction", 0.2), [6, 6]), (("--labelled-cells", 0.3), [None, None])]
)
def test_annotations_can_be_hidden(flag: tuple[str, float], known: list[int | None], tmp_path: Path) -> None:
    data = patients()
    data["y"] = np.nan_to_num(data["y"])
    np.savez(tmp_path / "full.npz", **data)
    taut("train", tmp_path / "full.npz", *flag, *FLAGS, "--out", tmp_path / "run")
    observed = Run(tmp_path / "run").load_draw()[2]
    if known[0] is None:
        assert 8 <= observed.sum() <= 28  # of 60 cells
        assert (observed.sum(axis=1) == 1).any()
    else:
        assert observed.sum(axis=0).tolist() == known
    taut("train", tmp_path / "full.npz", *flag, *FLAGS, "--seed", 1, "--out", tmp_path / "other")
    assert not np.array_equal(Run(tmp_path / "other").load_draw()[2], observed)


def test_draws_exclude_each_other(capsys: Capture, tmp_path: Path) -> None:
    draws = [("--labels-per-class", 5), ("--labelled-fraction", 0.5), ("--labelled-cells", 0.5)]
    for one, two in ((0, 1), (0, 2), (1, 2)):
        said = refused(capsys, "train", "digits", *draws[one], *draws[two], "--out", tmp_path / "run")
        assert said == f"{draws[one][0]} and {draws[two][0]} exclude each other"


def test_annotations_of_a_valid_part_are_never_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def kept(dataset: Any, *rest: Any) -> Any:
        seen.append(dataset)
        return fit(dataset, *rest)

    monkeypatch.setattr(cli, "fit", kept)
    data = patients()
    data["y"], data["split"] = np.nan_to_num(data["y"]), np.repeat(["train", "valid"], [20, 20])
    np.savez(tmp_path / "full.npz", **data)
    taut("train", tmp_path / "full.npz", "--labelled-fraction", 0.2, *FLAGS, "--out", tmp_path / "run")
    assert seen[0].annotation.observed.all(axis=1).tolist().count(True) == 24
    assert seen[0].annotation.observed[20:].all()


def test_warnings_come_before_the_training_and_once(
    pack: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = patients()
    data["y"][:, 0] = np.where(np.arange(40) % 2, 1, NAN)
    np.savez(pack, **data)
    before: list[str] = []
    usual = Stream.batch

    def batch(self: Stream, step: int, *rest: Any) -> Batch:
        before.append(capsys.readouterr().out)
        return usual(self, step, *rest)

    monkeypatch.setattr(Stream, "batch", batch)
    taut("train", pack, *FLAGS, "--out", tmp_path / "run")
    assert "Nearly all observed cells are positive: oedema (15 of 15)" in before[0]
    rest = "".join(before[1:]) + capsys.readouterr().out
    assert "Nearly all" not in rest
    assert rest.count("not calibrated") == 1


def test_too_many_labels_to_enumerate_leave_no_folder(tmp_path: Path, capsys: Capture) -> None:
    y = (np.random.default_rng(0).random((40, 14)) < 0.5).astype(float)
    np.savez(tmp_path / "many.npz", x=np.random.default_rng(1).normal(size=(40, 5)), y=y)
    flags = [*FLAGS, "--out", tmp_path / "run"]
    assert "16384 label combinations" in refused(
        capsys, "train", tmp_path / "many.npz", "--objective.sampling", "enumerate", *flags
    )
    taut("train", tmp_path / "many.npz", *flags, "--quiet")


def test_a_budget_of_time_is_kept_and_told(vectors: Path, tmp_path: Path, capsys: Capture) -> None:
    taut("train", vectors, "--minutes", 0.02, *FLAGS, "--out", tmp_path / "run")
    said = capsys.readouterr().out
    assert "steps fit into 90% of 0.02 minutes" in said
    steps = Run(tmp_path / "run").load_plan().train.steps
    assert steps >= 20
    assert f"trained {steps} steps" in said
    assert "--minutes -1 is not" in refused(capsys, "train", vectors, "--minutes=-1", "--out", tmp_path / "other")


# --- plan files and flags -----------------------------------------------------------------------------------


def test_a_plan_file_and_a_flag_beside_it(vectors: Path, tmp_path: Path, capsys: Capture) -> None:
    nested: dict[str, Any] = {}
    for name, value in TINY.items():
        section, field = name.split(".")
        nested.setdefault(section, {})[field] = value
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(nested))
    taut("train", vectors, "--plan", tmp_path / "plan.yaml", "--train.steps=4", "--out", tmp_path / "run")
    plan = Run(tmp_path / "run").load_plan()
    assert (plan.train.steps, plan.model.width, plan.model.z_dim) == (4, 4, 2)
    # The plan of a run is a plan file.
    taut("train", vectors, "--plan", tmp_path / "run" / "plan.yaml", "--out", tmp_path / "again")
    assert Run(tmp_path / "again").load_plan() == plan
    one, two = (tmp_path / name / "model.safetensors" for name in ("run", "again"))
    assert one.read_bytes() == two.read_bytes()


def test_faults_of_plans_and_flags_are_named(vectors: Path, tmp_path: Path, capsys: Capture) -> None:
    run, file = tmp_path / "run", tmp_path / "plan.yaml"
    file.write_text("train: {stepps: 3}")
    for arguments, parts in (
        (("--plan", file), (str(file), "'train.stepps' is not a field", "train.steps")),
        (("--train.stepps", 3), ("command line: 'train.stepps' is not a field",)),
        (("--train.steps", "many"), ("command line", "train.steps", "many")),
        (("--train.steps", "["), ("--train.steps", "'['")),
        (("--train.steps",), ("--train.steps needs a value",)),
        (("--plan", tmp_path / "absent.yaml"), ("absent.yaml", "cannot be read")),
    ):
        said = refused(capsys, "train", vectors, "--out", run, *arguments)
        assert all(part in said for part in parts), said
    assert "for `taut train`, `taut plan` and" in refused(capsys, "evaluate", run, "--train.steps", 3)
    taut("train", vectors, *FLAGS, "--out", run)  # none of the failures left anything behind


def test_scientific_numbers_are_numbers(vectors: Path, tmp_path: Path) -> None:
    taut("train", vectors, *FLAGS, "--train.learning_rate", "2e-3", "--out", tmp_path / "run")
    assert Run(tmp_path / "run").load_plan().train.learning_rate == 0.002


def test_plan_prints_facts_and_decisions(pack: Path, capsys: Capture) -> None:
    taut("plan", pack, "--train.steps", 123)
    shown = capsys.readouterr().out
    assert "30 inputs of 1x8x8 image; 2 label(s) of 2, 2 classes" in shown
    assert "oedema: " in shown
    decisions = yaml.safe_load(shown[shown.index("model:") :])
    assert decisions["train"]["steps"] == 123
    assert set(decisions) == {"model", "objective", "train", "augment", "seed"}


def test_an_image_size_may_be_of_two_sides(tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "lines.npz", x=rng.integers(0, 256, (12, 8, 40), dtype=np.uint8), y=np.arange(12) % 2)
    for size, shape in (("6x20", "6x20"), ("6,20", "6x20"), ("10", "10x10")):
        taut("plan", tmp_path / "lines.npz", "--image-size", size)
        assert f"8x40 pixels (height x width) are resized to {shape}." in capsys.readouterr().out
    run = tmp_path / "run"
    taut("train", tmp_path / "lines.npz", "--image-size", "6x20", *FLAGS, "--out", run, "--quiet")
    assert Run(run).load_model().architecture.shape == (1, 6, 20)
    taut("predict", run, tmp_path / "lines.npz", "--out", tmp_path / "p.csv")
    taut("evaluate", run, "--split", "train")
    capsys.readouterr()
    for size in ("wide", "6x20x3", "1.5", "6x"):
        said = refused(capsys, "plan", tmp_path / "lines.npz", "--image-size", size)
        assert said == f"--image-size {size!r} is neither a side in pixels nor HEIGHTxWIDTH, as in 32x512"


def test_a_plan_that_was_written_is_the_plan_of_a_training(vectors: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "plan.yaml"
    taut("plan", vectors, *FLAGS, "--out", out)
    assert f"--plan {out}" in capsys.readouterr().out
    taut("train", vectors, "--plan", out, "--out", tmp_path / "run")
    assert yaml.safe_load((tmp_path / "run" / "plan.yaml").read_text()) == yaml.safe_load(out.read_text())
    assert str(out) in refused(capsys, "plan", vectors, "--out", out)
    assert "ends in .yaml, and no run folder" in refused(capsys, "plan", vectors, "--out", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_plan_says_how_long_a_training_takes(
    vectors: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taut.budget.step_seconds", lambda *_, **__: 0.5)
    flags = (*FLAGS, "--train.valid_fraction", 0, "--train.steps", 600)
    taut("plan", vectors, *flags, "--time", "--train.folds", 0)
    assert "a step takes 500.0 ms here: 600 steps take about 5.0 minutes" in capsys.readouterr().out
    taut("plan", vectors, *flags, "--time", "--train.folds", 2, "--train.steps", 60_000)
    assert "3 trainings of 60000 steps take about 25.0 hours" in capsys.readouterr().out
    taut("plan", vectors, *flags)
    assert "a step takes" not in capsys.readouterr().out


def test_the_plan_never_sees_test_rows(tmp_path: Path, capsys: Capture) -> None:
    data = patients()
    data["x"][30:] = 255  # would move the mean
    data["y"][30:] = 1
    alone = {name: value[:30] if name != "label_names" else value for name, value in data.items() if name != "split"}
    np.savez(tmp_path / "both.npz", **data)
    np.savez(tmp_path / "alone.npz", **alone)
    shown, trained = [], []
    for name in ("both", "alone"):
        taut("plan", tmp_path / f"{name}.npz", "--labelled-fraction", 0.5)
        shown.append(capsys.readouterr().out)
        run = tmp_path / f"run-{name}"
        taut("train", tmp_path / f"{name}.npz", "--labelled-fraction", 0.5, *FLAGS, "--out", run)
        capsys.readouterr()
        trained.append((run / "model.safetensors").read_bytes())
    assert shown[0] == shown[1]
    assert trained[0] == trained[1]


# --- objectives ---------------------------------------------------------------------------------------------


def decisions(capsys: Capture, *arguments: Any) -> dict[str, Any]:
    """What `taut plan` decides."""
    taut("plan", "digits", "--labels-per-class", 5, *arguments)
    shown = capsys.readouterr().out
    found: dict[str, Any] = yaml.safe_load(shown[shown.index("\nmodel:") :])
    return found


def test_an_objective_is_trained_and_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = Stream.batch

    def cut(self: Stream, step: int, *rest: Any) -> Batch:
        assert self.second == "strong"
        if step == 13:
            raise KeyboardInterrupt
        return usual(self, step, *rest)

    few = ("--labels-per-class", 5, *FLAGS, "--train.steps", 20, "--train.checkpoint_every", 10)
    flags = ("train", "digits", "--objective", "fixmatch", *few)
    taut(*flags, "--out", tmp_path / "whole")
    plan = Run(tmp_path / "whole").load_plan()
    assert (plan.objective.name, plan.objective.threshold, plan.train.steps) == ("fixmatch", 0.95, 20)
    with monkeypatch.context() as patch:
        patch.setattr(Stream, "batch", cut)
        with pytest.raises(SystemExit):
            taut(*flags, "--out", tmp_path / "cut")
    taut("train", "digits", "--out", tmp_path / "cut", "--resume")
    one, two = (tmp_path / name / "model.safetensors" for name in ("whole", "cut"))
    assert one.read_bytes() == two.read_bytes()
    taut("train", "digits", "--labels-per-class", 5, *few[2:], "--out", tmp_path / "default")
    assert (tmp_path / "default" / "model.safetensors").read_bytes() != one.read_bytes()


@pytest.mark.parametrize("command", ["train", "plan"])
def test_an_unknown_objective_is_one_sentence(
    command: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, command, "digits", "--objective", "fixmach")
    assert said == f"--objective 'fixmach' is not one of {', '.join(OBJECTIVES)}"
    assert refused(capsys, command, "digits", "--objective.name", "fixmach") == said
    Path("plan.yaml").write_text("objective: {name: fixmach}")
    assert refused(capsys, command, "digits", "--plan", "plan.yaml") == said
    Path("plan.yaml").write_text("objective: fixmatch")
    assert "'objective' is not a field of a plan" in refused(capsys, command, "digits", "--plan", "plan.yaml")


def test_every_objective_is_in_the_help(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        taut("train", "--help")
    shown = " ".join(capsys.readouterr().out.split())
    for name in OBJECTIVES:
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", shown)


def test_the_objective_that_a_plan_file_names_is_honoured(tmp_path: Path) -> None:
    file = tmp_path / "plan.yaml"
    file.write_text("objective: {name: pseudo-label, consistency: 2.0}")
    flags = ("train", "digits", "--labels-per-class", 5, *FLAGS, "--quiet", "--plan", file)
    taut(*flags, "--out", tmp_path / "run")
    objective = Run(tmp_path / "run").load_plan().objective
    assert (objective.name, objective.consistency, objective.threshold) == ("pseudo-label", 2.0, 0.0)
    taut(*flags, "--objective", "fixmatch", "--out", tmp_path / "other")
    objective = Run(tmp_path / "other").load_plan().objective
    assert (objective.name, objective.consistency, objective.threshold) == ("fixmatch", 2.0, 0.95)


def test_a_plan_shows_the_decisions_of_its_method(tmp_path: Path, capsys: Capture) -> None:
    default, m2 = decisions(capsys), decisions(capsys, "--objective", "m2")
    assert default["objective"]["name"] == "tighter-elbo"
    assert not default["model"]["z_given_c"]
    assert m2["objective"]["name"] == "m2"
    assert (m2["model"]["z_given_c"], m2["objective"]["alpha"], m2["objective"]["source"]) == (True, 0.1, "none")
    assert decisions(capsys, "--objective", "m2", "--objective.alpha", 2)["objective"]["alpha"] == 2
    assert decisions(capsys, "--objective.name", "m2") == m2
    assert decisions(capsys, "--objective.name", "vat", "--objective", "m2") == m2
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({"objective.name": "m2"}))
    assert decisions(capsys, "--plan", tmp_path / "plan.yaml") == m2
    # Images without any annotation have no place in the batches of the supervised one.
    assert decisions(capsys, "--objective", "supervised")["train"]["batch_unlabelled"] == 0


# --- interruption -------------------------------------------------------------------------------------------


def test_resume_ends_where_an_uninterrupted_run_ends(
    vectors: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = Stream.batch

    def cut(self: Stream, step: int, *rest: Any) -> Batch:
        if step == 5:
            raise KeyboardInterrupt
        return usual(self, step, *rest)

    flags = (vectors, "--labelled-fraction", 0.5, *FLAGS, "--train.checkpoint_every", 2, "--train.steps", 8)
    taut("train", *flags, "--out", tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Stream, "batch", cut)
        with pytest.raises(SystemExit) as caught:
            taut("train", *flags, "--out", tmp_path / "cut")
    assert caught.value.code == 130
    assert "--resume" in capsys.readouterr().err
    assert "no model.json" in refused(capsys, "evaluate", tmp_path / "cut")
    assert "begun with other data" in refused(capsys, "train", "digits", "--out", tmp_path / "cut", "--resume")
    taut("train", vectors, "--out", tmp_path / "cut", "--resume")
    assert "trained 8 steps" in capsys.readouterr().out
    whole, resumed = (tmp_path / name / "model.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == resumed.read_bytes()


# --- predict ------------------------------------------------------------------------------------------------


def test_predict_images_one_of_which_cannot_be_read(
    digits_run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = [tmp_path / "new" / name for name in ("a.png", "deep/b.jpg")]
    for place in places:
        paint(place, size=(20, 30))
    (tmp_path / "new" / "bad.png").write_bytes(b"not an image")
    out = tmp_path / "deeper" / "predictions.csv"
    said = refused(capsys, "predict", digits_run, tmp_path / "new", "--out", out)
    assert "1 images could not be read" in said
    assert "bad.png" in said
    (left,) = rows_of(out.with_name("predictions-skipped.csv"))
    assert (left["row"], left["file"]) == ("", str(tmp_path / "new" / "bad.png"))
    rows = rows_of(out)
    assert [Path(row["image"]) for row in rows] == places
    for row in rows:
        for kind in ("probability", "calibrated"):
            q = [float(row[f"digit={c}:{kind}"]) for c in range(10)]
            assert sum(q) == pytest.approx(1, abs=1e-4)
        assert int(row["digit:decision"]) == int(np.argmax(q))
        assert 0 <= float(row["ood:percentile"]) <= 100
        assert float(row["ood:score"]) > 0
    (tmp_path / "new" / "bad.png").unlink()
    taut("predict", digits_run, tmp_path / "new", "--out", out)
    assert rows_of(out) == rows
    assert rows_of(out.with_name("predictions-skipped.csv")) == []
    monkeypatch.setattr("taut.cli.results.AT_ONCE", 1)
    taut("predict", digits_run, tmp_path / "new", "--out", out)
    assert [Path(row["image"]) for row in rows_of(out)] == places
    taut("predict", digits_run, places[0], "--out", tmp_path / "one.csv")
    (alone,) = rows_of(tmp_path / "one.csv")
    assert alone.pop("image") == rows[0].pop("image")
    among = {name: float(value) for name, value in rows[0].items()}
    assert {name: float(value) for name, value in alone.items()} == pytest.approx(among, rel=1e-3, abs=2e-6)


def test_a_file_that_cannot_be_written_is_told_before_images_are_read(
    digits_run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taut.cli.results.read_inputs", lambda *_: pytest.fail("read"))
    (tmp_path / "file").write_text("")
    for out in (tmp_path, tmp_path / "file" / "p.csv"):
        assert f"--out {out} cannot be written: " in refused(capsys, "predict", digits_run, tmp_path, "--out", out)


def test_predict_yes_and_no_labels_of_a_pack(pack: Path, tmp_path: Path) -> None:
    taut("train", pack, *FLAGS, "--out", tmp_path / "run")
    model = Run(tmp_path / "run").load_model()
    model.temperature.copy_(torch.tensor([0.25, 4.0]))
    model.threshold.copy_(torch.tensor([0.2, 0.5]))
    save_model(model, tmp_path / "run", {})
    data = patients()
    np.savez(tmp_path / "new.npz", x=data["x"][:3], ids=np.array(["u", "v", "w"]))
    taut("predict", tmp_path / "run", tmp_path / "new.npz", "--out", tmp_path / "p.csv")
    rows = rows_of(tmp_path / "p.csv")
    parts = ("probability", "calibrated", "decision")
    labels = [f"{name}:{part}" for name in ("oedema", "mass") for part in parts]
    assert list(rows[0]) == ["image", *labels, "ood:score", "ood:percentile"]
    assert [row["image"] for row in rows] == ["u", "v", "w"]
    plain, calibrated = (predict_probabilities(model, data["x"][:3, None], c)[:, 1::2] for c in (False, True))
    scores = ood_scores(model, data["x"][:3, None])
    for i, row in enumerate(rows):
        for j, name in enumerate(("oedema", "mass")):
            assert float(row[f"{name}:probability"]) == pytest.approx(plain[i, j], abs=1e-5)
            assert float(row[f"{name}:calibrated"]) == pytest.approx(calibrated[i, j], abs=1e-5)
            assert row[f"{name}:decision"] == str(int(calibrated[i, j] > (0.2, 0.5)[j]))
        assert float(row["ood:score"]) == pytest.approx(scores[i], rel=1e-3)
        assert float(row["ood:percentile"]) == pytest.approx(float(ood_percentiles(model, scores)[i]), abs=4)


def test_predictions_without_a_reference_have_empty_scores(pack: Path, tmp_path: Path) -> None:
    taut("train", pack, *FLAGS, "--out", tmp_path / "run")
    model = Run(tmp_path / "run").load_model()
    model.ood = None
    save_model(model, tmp_path / "run", {})
    np.savez(tmp_path / "new.npz", x=patients()["x"][:3])
    taut("predict", tmp_path / "run", tmp_path / "new.npz", "--out", tmp_path / "p.csv")
    assert [(row["ood:score"], row["ood:percentile"]) for row in rows_of(tmp_path / "p.csv")] == [("", "")] * 3


def test_a_pack_at_another_size_stays_at_it(tmp_path: Path, capsys: Capture) -> None:
    x = np.random.default_rng(0).integers(0, 256, (20, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "p.npz", x=x, y=np.arange(20) % 2)
    run = tmp_path / "run"
    taut("train", tmp_path / "p.npz", "--image-size", 8, *FLAGS, "--out", run)
    assert "are resized to 8x8" in capsys.readouterr().out
    assert Run(run).load_model().architecture.shape == (1, 8, 8)
    taut("evaluate", run)
    taut("evaluate", run, "--data", tmp_path / "p.npz")
    taut("predict", run, tmp_path / "p.npz", "--out", tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 20


def test_images_of_twelve_bits_keep_their_scale(tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    for i in range(12):
        place = tmp_path / "wells" / ("dead", "alive")[i % 2] / f"{i}.tif"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 3000, (8, 8)).astype(np.uint16)).save(place)
    run = tmp_path / "run"
    taut("train", tmp_path / "wells", *FLAGS, "--out", run)
    assert "12 images have 16 bits a pixel, of which 4,095 is taken as white." in capsys.readouterr().out
    dim = rng.integers(0, 300, (8, 8)).astype(np.uint16)
    Image.fromarray(dim).save(tmp_path / "new.tif")
    taut("predict", run, tmp_path / "new.tif", "--out", tmp_path / "new.csv")
    model = Run(run).load_model()
    want = predict_probabilities(model, np.rint(dim * (255 / 4095)).astype(np.uint8)[None, None])[0]
    with (tmp_path / "new.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    found = [float(row[f"label={name}:calibrated"]) for name in ("alive", "dead")]
    np.testing.assert_allclose(found, want, atol=1e-3)


def test_images_of_twelve_bits_are_seen_by_a_run_on_bytes(tmp_path: Path) -> None:
    for i in range(12):
        paint(tmp_path / "wells" / ("dead", "alive")[i % 2] / f"{i}.png")
    run = tmp_path / "run"
    taut("train", tmp_path / "wells", *FLAGS, "--out", run)
    pixels = np.random.default_rng(0).integers(0, 4000, (8, 6)).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "new.tif")
    taut("predict", run, tmp_path / "new.tif", "--out", tmp_path / "new.csv")
    want = predict_probabilities(Run(run).load_model(), np.rint(pixels * (255 / 4095)).astype(np.uint8)[None, None])[0]
    (row,) = rows_of(tmp_path / "new.csv")
    found = [float(row[f"label={name}:calibrated"]) for name in ("alive", "dead")]
    np.testing.assert_allclose(found, want, atol=1e-3)


# --- evaluate and explain -----------------------------------------------------------------------------------


def test_evaluate_writes_its_figures_beside_the_model(pack: Path, tmp_path: Path, capsys: Capture) -> None:
    run = tmp_path / "run"
    data = patients()
    data["y"][30:, 1] = 1  # one class only in the test part
    np.savez(pack, **data)
    taut("train", pack, "--group", "patient_id", *FLAGS, "--out", run)
    found = figures(capsys, run)
    assert json.loads((run / "evaluation.json").read_text()) == found
    assert (found["resampled"], found["macro_labels"]) == ("5 groups", 1)
    assert found["per_label"]["mass"]["auroc"] is None
    rows = {row["label"]: row for row in rows_of(run / "evaluation.csv")}
    assert rows["mass"]["auroc"] == ""
    assert float(rows["oedema"]["auroc"]) == found["per_label"]["oedema"]["auroc"] == found["auroc_macro"]
    assert (run / "reliability.png").read_bytes().startswith(b"\x89PNG")
    taut("evaluate", run, "--resamples", 0, "--out", tmp_path / "elsewhere")
    shown = capsys.readouterr().out
    assert "over 1 label(s) with both classes" in shown
    line = next(line for line in shown.splitlines() if line.startswith("mass")).split()
    assert "-" in line
    assert "to" not in line
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == [
        "evaluation.csv", "evaluation.json", "reliability.png"
    ]  # fmt: skip
    taut("evaluate", run)
    shown = capsys.readouterr().out
    assert "95 % intervals over 5 groups" in shown
    assert f"{found['error']:.2f} ({found['error_low']:.2f} to {found['error_high']:.2f})" in shown


def test_explain_an_image_of_a_file_and_of_a_pack(
    digits_run: Path, pack: Path, tmp_path: Path, capsys: Capture
) -> None:
    paint(tmp_path / "new.png", size=(20, 30))
    out = tmp_path / "deep" / "why.png"
    capsys.readouterr()
    taut("explain", digits_run, tmp_path / "new.png", "--label", "digit=3", "--out", out)
    said = capsys.readouterr().out
    assert said.startswith("q(digit=3|x) = ")
    assert f"; the picture is {out}" in said
    assert out.read_bytes().startswith(b"\x89PNG")
    taut("train", pack, *FLAGS, "--out", tmp_path / "run")
    taut("explain", tmp_path / "run", pack, "--row", 7, "--label", "mass", "--out", out, "--attribution", "occlusion")
    assert "q(mass=1|x) = " in capsys.readouterr().out
    said = refused(capsys, "explain", tmp_path / "run", pack, "--label", "mass")
    assert "has 40 images, such as 0: --row names one of them" in said
    assert "--row x:" in refused(capsys, "explain", tmp_path / "run", pack, "--label", "mass", "--row", "x")
    assert "there are oedema, mass" in refused(capsys, "explain", tmp_path / "run", pack)
    assert "'cough' is not one of oedema, mass" in refused(
        capsys, "explain", tmp_path / "run", pack, "--label", "cough", "--row", 7
    )


def test_explain_says_when_the_decoder_was_never_trained(pack: Path, tmp_path: Path, capsys: Capture) -> None:
    run, out = tmp_path / "run", tmp_path / "why.png"
    taut("train", pack, *FLAGS, "--objective", "supervised", "--out", run)
    flags = ("explain", run, pack, "--row", 7, "--label", "mass", "--out", out)
    said = refused(capsys, *flags)
    assert "the objective 'supervised' of" in said
    assert "never trained the decoder" in said
    assert not out.exists()
    taut(*flags, "--attribution", "gradients")
    assert "never trained the decoder" in capsys.readouterr().out
    assert out.exists()


@pytest.mark.parametrize("top", [1.0, 16.0, 255.0, 4000.0, 65535.0])
def test_the_scale_of_images_is_the_training_sets(top: float, tmp_path: Path, capsys: Capture) -> None:
    """Dark images alone are read as they are among others, and as `TautClassifier` reads them."""
    rng = np.random.default_rng(0)
    x = rng.random((24, 6, 6)) * top
    x[0, 0, 0], x[:4] = top, x[:4] * 0.05
    x[5, 0, 0] = top
    y, split = np.arange(24) % 2, np.repeat(["train", "test"], [20, 4])
    x[20:] *= 0.3
    np.savez(tmp_path / "x.npz", x=x, y=y, split=split)
    np.savez(tmp_path / "dark.npz", x=x[:4], y=y[:4])
    run = tmp_path / "run"
    taut("train", tmp_path / "x.npz", *FLAGS, "--out", run)
    assert Run(run).pixel_max() == top
    for name in ("x", "dark"):
        taut("predict", run, tmp_path / f"{name}.npz", "--out", tmp_path / f"{name}.csv")
    among, alone = (
        [float(row["label:calibrated"]) for row in rows_of(tmp_path / f"{name}.csv")] for name in ("x", "dark")
    )
    assert alone == pytest.approx(among[:4], abs=2e-6)
    assert TautClassifier.load(run).predict_proba(x)[:, 1] == pytest.approx(among, abs=2e-6)
    capsys.readouterr()
    wanted = -np.log(np.where(y[:4], alone, 1 - np.array(alone))).mean()
    assert figures(capsys, run, "--data", tmp_path / "dark.npz")["nll"] == pytest.approx(wanted, abs=1e-4)
    # A test set of its own is on the training set's scale too.
    np.savez(tmp_path / "alone.npz", x=x[:20], y=y[:20])
    flags = ("--leakage", "report", *FLAGS)  # the dark images are among those trained on
    taut("train", tmp_path / "alone.npz", "--test", tmp_path / "dark.npz", *flags, "--out", tmp_path / "tested")
    assert f"nll {wanted:.4g}" in capsys.readouterr().out


def test_images_on_another_scale_are_refused(digits_run: Path, tmp_path: Path, capsys: Capture) -> None:
    x = np.random.default_rng(0).random((4, 8, 8))
    assert Run(digits_run).pixel_max() == 255
    for factor, sentence in ((1, "expected 0 to 255"), (1000, "expected 0 to 255"), (-1, "expected 0 to 255")):
        np.savez(tmp_path / "x.npz", x=factor * x)
        said = refused(capsys, "predict", digits_run, tmp_path / "x.npz", "--out", tmp_path / "p.csv")
        assert f"x.npz: pixel values from {factor * x.min() if factor > 0 else -x.max():g}" in said
        assert said.endswith(sentence)
    np.savez(tmp_path / "x.npz", x=255 * x)
    taut("predict", digits_run, tmp_path / "x.npz", "--out", tmp_path / "p.csv")
    assert len(rows_of(tmp_path / "p.csv")) == 4


def test_a_run_without_a_scale_takes_that_of_the_images(digits_run: Path, tmp_path: Path) -> None:
    """Runs of before, whose model.json does not tell it."""
    path = digits_run / "model.json"
    about = json.loads(path.read_text())
    del about["about"]["pixel_max"]
    path.write_text(json.dumps(about))
    assert Run(digits_run).pixel_max() is None
    x = np.random.default_rng(0).integers(0, 256, (4, 8, 8)).astype(float)
    x[0, 0, 0] = 255
    found = []
    for factor in (1, 1 / 255):
        np.savez(tmp_path / "x.npz", x=factor * x)
        taut("predict", digits_run, tmp_path / "x.npz", "--out", tmp_path / "p.csv")
        found.append(rows_of(tmp_path / "p.csv"))
    assert found[0] == found[1]


# --- what is refused ----------------------------------------------------------------------------------------


def test_a_run_that_is_there_is_refused(digits_run: Path, capsys: Capture) -> None:
    before = (digits_run / "model.safetensors").read_bytes()
    said = refused(capsys, "train", "digits", *FLAGS, "--out", digits_run)
    assert "the folder is there already" in said
    assert (digits_run / "model.safetensors").read_bytes() == before


def test_inputs_of_another_shape_are_refused(digits_run: Path, pack: Path, vectors: Path, capsys: Capture) -> None:
    np.savez(pack, x=np.zeros((4, 9, 7), np.uint8), y=np.arange(4))
    for command in ("evaluate", "predict"):
        flag = ("--data",) if command == "evaluate" else ()
        said = refused(capsys, command, digits_run, *flag, pack)
        assert "inputs of shape [1, 9, 7], but the model takes [1, 8, 8]" in said


def test_other_labels_are_refused(digits_run: Path, pack: Path, capsys: Capture) -> None:
    said = refused(capsys, "evaluate", digits_run, "--data", pack)
    assert str(pack) in said
    taut("predict", digits_run, pack, "--out", digits_run / "p.csv")  # which needs no labels


def test_patients_on_both_sides_are_refused(pack: Path, tmp_path: Path, capsys: Capture) -> None:
    data = patients()
    flags = ("--group", "patient_id", *FLAGS, "--out", tmp_path / "run")
    np.savez(tmp_path / "test.npz", **{**data, "patient_id": data["patient_id"] + 14, "split": np.repeat("test", 40)})
    said = refused(capsys, "train", pack, "--test", tmp_path / "test.npz", *flags)
    assert said.startswith("1 groups are in both the training and the test part, such as 14; 30 images are, pixel for")
    data["split"][::2] = "test"
    np.savez(pack, **data)
    assert "groups are in both the training and the test part" in refused(capsys, "train", pack, *flags)
    data["split"][:] = np.where(np.arange(40) % 2, "train", "valid")
    np.savez(pack, **data)
    assert "groups are in both the training and the valid part" in refused(capsys, "train", pack, *flags)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("train", "nothing-there"), "'nothing-there' is neither one of digits"),
        (("plan", "nothing.npz"), "nothing.npz: there is no such file"),
        (("train", "digits", "--labels-per-class", "999"), "class 0 has"),
        (("train", "digits", "--labelled-fraction", "7"), "not between 0 and 1"),
        (("train", "digits", "--group", "patient"), "digits does not take --group"),
        (("evaluate", "no-run"), "no-run holds no trained model"),
        (("predict", "no-run", "x.png"), "no-run holds no trained model"),
        (("explain", "no-run", "x.png", "--label", "a"), "no-run holds no trained model"),
        (("train", "nothing-there", "--resume"), "is not a run folder"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: tuple[str, ...], part: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert part in refused(capsys, *arguments)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3. TiB for an array"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
        None,
    ],
    ids=["numpy", "CUDA", "MPS", "CPU"],
)
def test_too_little_memory_is_one_sentence(
    error: Exception | None, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*rest: Any) -> Any:
        if error is None:
            torch.empty(2**60, dtype=torch.uint8)
        else:
            raise error

    monkeypatch.setattr(cli, "fit", fails)
    said = refused(capsys, "train", "digits", "--out", tmp_path / "run")
    for part in ("out of memory", "--train.accumulate", "--train.batch_unlabelled", "--image-size"):
        assert part in said


def test_faults_of_the_program_keep_their_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*rest: Any) -> Any:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(cli, "fit", fails)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        taut("train", "digits", "--out", tmp_path / "run")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "command"),
        (("fly",), "fly"),
        (("train",), "data"),
        (("train", "digits", "--bogus", "1"), "--bogus"),
        (("train", "digits", "--seed", "x"), "seed"),
    ],
    ids=["nothing", "unknown command", "no data", "unknown flag", "wrong type"],
)
def test_bad_flags_exit_with_an_error(
    arguments: tuple[str, ...], named: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        taut(*arguments)
    assert caught.value.code not in (0, None)
    assert named in capsys.readouterr().err.split("error:")[-1]
    assert list(tmp_path.iterdir()) == []


def test_every_command_has_help(capsys: Capture) -> None:
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit) as caught:
            taut(command, "--help")
        assert caught.value.code == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert f"taut [options] {command}" in shown
        if command == "train":
            for flag in ("--labels-per-class", "--labelled-fraction", "--minutes", "--resume", "--plan", "--group"):
                assert flag in shown


@pytest.mark.parametrize("command", ["train", "plan", "compare", "evaluate"])
def test_the_flags_of_the_plan_are_in_the_help(command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        taut(command, "--help")
    shown = capsys.readouterr().out
    assert "--changes" not in shown
    lines = {line.split()[0]: line.strip() for line in shown.splitlines() if line.startswith("  --")}
    flags = {f"--{name}" for name in flatten(dataclasses.asdict(Plan())) if name != "seed"}
    if command == "evaluate":
        assert not flags & lines.keys()
        return
    assert flags - lines.keys() == ({"--objective.name"} if command == "compare" else set())
    for line in (
        "--train.ema float (default 0.999)  Decay of the averaged weights, which are the ones that are kept.",
        "--train.steps int (planned)  Optimiser steps; --minutes sets them to what the time allows.",
        "--model.pool {mean,meanmax,grid} (planned)  How the label head reads the last map; see `MapEncoder`.",
        "--model.z_given_c {true,false} (default false)  Whether z has the posterior q(z|x,c) of M2 instead of q(z|x).",
    ):
        assert lines[line.split()[0]] == line
    assert "are resized, or height and width, as in 32x512; by default those of a folder" in " ".join(shown.split())


def test_what_the_help_calls_planned_is_what_the_rules_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("taut.rules.fast_bf16", lambda: True)
    usual, changed = flatten(dataclasses.asdict(Plan())), set()
    for shape, k, n, known in itertools.product(
        [(7,), (1, 8, 8), (3, 28, 28), (1, 224, 224)], [1, 3], [90, 6000], [0.0, 0.1, 1.0]
    ):
        count, channels = int(n * known), shape[0] if len(shape) == 3 else 7
        cells = (count,) * k, (count // 2,) * k
        moments = (0.4,) * channels, (0.2,) * channels
        for complete in {count, count // 2}:  # all annotated images, or half of them
            facts = Facts(n, shape, k, (2,) * k, count, complete, *cells, shape[0] == 1, *moments)
            found = flatten(dataclasses.asdict(plan_for(facts)))
            changed |= {name for name in found if found[name] != usual[name]}
    assert changed == {f"{section}.{name}" for section, names in PLANNED.items() for name in names}


def test_the_installed_command_works_in_a_process_of_its_own() -> None:
    taut_command = Path(sys.executable).with_name("taut")
    done = subprocess.run([str(taut_command), "--help"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    for name in cli.COMMANDS:
        assert name in done.stdout
    assert not done.stderr


# --- what a user may trip over ------------------------------------------------------------------------------


def test_a_resumed_run_keeps_its_own_plan(digits_run: Path, capsys: Capture) -> None:
    for flags in (
        ["--train.steps", 9],
        ["--minutes", 1],
        ["--seed", 1],
        ["--plan", digits_run / "plan.yaml"],
        ["--objective", "fixmatch"],
    ):
        sentence = refused(capsys, "train", "digits", "--out", digits_run, "--resume", *flags)
        assert "leave out --plan, --minutes" in sentence


def test_a_whole_plan_of_another_method_is_refused(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "plan.yaml"
    make_plan(Facts(20, (4,), 1, (3,), 10, 10, (10,), (3,), False, (0.0,) * 4, (1.0,) * 4)).save(file)
    sentence = refused(capsys, "plan", "digits", "--plan", file, "--objective", "fixmatch")
    assert "plan.yaml is a whole plan of 'tighter-elbo', which would make another method of 'fixmatch'" in sentence
    with pytest.raises(DataError, match="whole plan of 'tighter-elbo'"):
        TautClassifier(plan=str(file), objective="m2").fit(np.ones((20, 4)), np.arange(20) % 2)


def test_a_start_that_failed_leaves_no_run(vectors: Path, tmp_path: Path, capsys: Capture) -> None:
    for flags in (["--train.batch_labelled", 0, "--train.batch_unlabelled", 0], ["--model.encoder", "conv"]):
        refused(capsys, "train", vectors, *FLAGS, *flags, "--out", tmp_path / "run")
        assert not (tmp_path / "run" / "plan.yaml").exists()
    assert "the batches are empty" in refused(capsys, "plan", vectors, "--train.batch_labelled", 0, *EMPTY)
    taut("train", vectors, *FLAGS, "--out", tmp_path / "run")


def test_an_interruption_says_how_to_go_on(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("taut.cli.parse", stop)
    said = {
        "train": "--resume",
        "compare": "the same command goes on",
        "predict": ".part",
        "explain": "taut: interrupted\n",
    }
    for command, sentence in said.items():
        with pytest.raises(SystemExit):
            taut(command, "digits")
        assert sentence in capsys.readouterr().err


def test_a_test_part_of_which_nothing_is_certain_stops_no_training(tmp_path: Path, capsys: Capture) -> None:
    data = patients()
    data["y"][data["split"] == "test"] = [[-1, NAN], *[[NAN, NAN]] * 8, [1, -1]]
    data["y"][-1] = [-1, -1]
    np.savez(tmp_path / "pack.npz", **data)
    flags = (tmp_path / "pack.npz", "--blank", "soft=0.1", "--uncertain", "positive", *FLAGS)
    taut("train", *flags, "--out", tmp_path / "run")
    assert "test part" not in capsys.readouterr().out
    assert "has no annotated test part" in refused(capsys, "compare", *flags, "--out", tmp_path / "compare")


def test_clusters_are_for_data_without_annotations(tmp_path: Path, capsys: Capture) -> None:
    sentence = refused(capsys, "train", "digits", "--classes", 3, "--out", tmp_path / "run")
    assert "--classes is for data without annotations" in sentence


def test_the_seed_of_a_plan_file_holds_unless_one_is_given(tmp_path: Path, digits_run: Path) -> None:
    saved = yaml.safe_load((digits_run / "plan.yaml").read_text())
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**saved, "seed": 7}))
    for flags, seed in (([], 7), (["--seed", 3], 3)):
        out = tmp_path / f"run{seed}"
        plan = ["--plan", tmp_path / "plan.yaml", *flags]
        taut("train", "digits", "--labels-per-class", 5, *plan, "--out", out, "--quiet")
        assert Run(out).load_plan().seed == seed


def test_evaluate_remembers_the_test_data_and_says_when_there_is_none(
    tmp_path: Path, vectors: Path, capsys: Capture
) -> None:
    taut("train", vectors, *FLAGS, "--out", tmp_path / "alone", "--quiet")
    capsys.readouterr()
    taut("evaluate", tmp_path / "alone", "--json")
    said = capsys.readouterr()
    assert "there is no test part" in said.err
    assert json.loads(said.out.splitlines()[-1])["images"] == 60
    rng = np.random.default_rng(1)
    np.savez(tmp_path / "test.npz", x=rng.normal(size=(9, 5)), y=np.arange(9) % 3)
    taut("train", vectors, "--test", tmp_path / "test.npz", *FLAGS, "--out", tmp_path / "both", "--quiet")
    capsys.readouterr()
    taut("evaluate", tmp_path / "both", "--json")
    said = capsys.readouterr()
    assert said.err == ""
    assert json.loads(said.out.splitlines()[-1])["images"] == 9


def test_two_processes_share_one_run(tmp_path: Path, pack: Path) -> None:
    """The first one alone writes the run and speaks."""
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "taut"]
    arguments = ["train", str(pack), *FLAGS, "--minutes", "0.01", "--out", str(out), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the run is in") == 1
    assert len(Run(out).metrics()) >= 1
    assert Run(out).load_model().sizes == (2, 2)

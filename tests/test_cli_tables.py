"""The commands on tables of chest images: policies, splits and leakage, from the flags to the run folder."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from commands import Capture, refused, taut
from image_files import paint, table
from taut import cli
from taut.cli import results
from taut.cli.command import parse
from taut.cli.splits import save_split, with_known_parts, write_split_table
from taut.data import Dataset, load_dataset
from taut.flags import DataFlags, ReadFlags
from taut.labels import LabelSpace
from taut.run import Run
from taut.sources import load_parts, replaced_source
from taut.sources import test_flags as flags_of_test
from tiny import FLAGS


@pytest.fixture
def chest(tmp_path: Path) -> Path:
    """40 images of 20 patients with a table of three findings, some cells blank and some uncertain."""
    rng = np.random.default_rng(0)
    rows = ["file,patient,Edema,Fracture,Hernia"]
    for i in range(40):
        paint(tmp_path / "images" / f"{i}.png")
        cells = rng.choice(["0", "1", "-1", ""], 3, p=[0.4, 0.3, 0.15, 0.15])
        rows.append(f"{i}.png,p{i // 2},{','.join(cells)}")
    table(tmp_path, "\n".join(rows) + "\n", "chest.csv")
    return tmp_path / "images"


def read_flags(arguments: list[str]) -> DataFlags:
    """The flags of data of a command line of `taut train`."""
    _, flags = parse(["train", *arguments], cli.COMMANDS)
    return DataFlags(**{f.name: flags[f.name] for f in fields(DataFlags)})


def policy_flags(chest: Path) -> list[str]:
    flags = ["--labels", str(chest.parent / "chest.csv"), "--group", "patient", "--uncertain", "latent,Edema=positive"]
    return [*flags, "--blank", "negative", "--prevalence", "Hernia=0.02", "--split-fractions", "0.6,0.15,0.25"]


def test_a_run_remembers_its_policies_and_its_split(chest: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "run"
    taut("train", chest, *policy_flags(chest), *FLAGS, "--out", out, "--quiet")
    said = capsys.readouterr().out
    assert "uncertain cells are not scored." in said
    source = DataFlags.from_json(Run(out).source())
    assert source.uncertain == "latent,Edema=positive"
    assert source.blank == "negative"
    assert source.labels == chest.parent / "chest.csv"
    prior = np.exp(Run(out).load_model().log_prior.numpy()).reshape(3, 2)
    np.testing.assert_allclose(prior[2], [0.98, 0.02], rtol=1e-5)
    split = pd.read_csv(out / "split.csv")
    assert len(split) == 40
    assert set(split["split"]) == {"train", "valid", "test"}
    assert split.groupby("group")["split"].nunique().max() == 1
    training, testing = load_parts(source)
    assert testing is not None
    assert set(split.loc[split["split"] == "test", "image"]) == set(testing.ids)
    assert set(split.loc[split["split"] == "valid", "image"]) == set(training.part("valid").ids)
    taut("evaluate", out, "--json")
    captured = capsys.readouterr()
    figures = json.loads(captured.out.splitlines()[-1])
    assert figures["images"] == len(testing)
    assert "taut: " in captured.err
    assert "uncertain cells are not scored" in captured.err or "uncertain cell is not scored" in captured.err
    assert testing.cells is not None
    stated = (testing.cells[:, 0] >= 0).sum() + (testing.cells[:, 0] == -2).sum()
    assert figures["per_label"]["Edema"]["annotated"] == stated
    taut("train", chest, *policy_flags(chest), "--out", out, "--resume", "--quiet")


def test_a_run_finds_its_data_from_any_working_directory(
    chest: Path, tmp_path: Path, evaluated: list[set[str]], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    run, digits = tmp_path / "run", DataFlags("digits", labelled_fraction=0.5)
    monkeypatch.chdir(tmp_path)
    prior = table(tmp_path, "Hernia: 0.02\n", "prior.yaml")
    flags = ["--labels", "chest.csv", "--group", "patient", "--split-fractions", "0.6,0.15,0.25"]
    taut("train", "images", *flags, "--prevalence", "prior.yaml", *FLAGS, "--out", "run", "--quiet")
    (tmp_path / "digits").mkdir()
    assert DataFlags.from_json(digits.to_json()) == digits  # a set that has a name, whatever there is
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    taut("evaluate", run, "--resamples", 0)
    split = pd.read_csv(run / "split.csv")
    assert evaluated == [set(split.loc[split["split"] == "test", "image"])]
    taut("train", chest, "--prevalence", prior, "--out", run, "--resume", "--quiet")
    # A run from before, whose paths are as they were typed.
    monkeypatch.chdir(tmp_path)
    about = json.loads((run / "facts.json").read_text())
    about["source"] |= {"data": "images", "labels": "chest.csv", "prevalence": "prior.yaml"}
    (run / "facts.json").write_text(json.dumps(about))
    taut("evaluate", run, "--resamples", 0)
    assert evaluated[1] == evaluated[0]
    taut("train", "images", "--prevalence", "prior.yaml", "--out", run, "--resume", "--quiet")
    # What has changed since would train the folds that are left under another prior.
    Path(prior).write_text("Hernia: 0.2\n")
    with pytest.raises(SystemExit):
        taut("train", "images", "--prevalence", "prior.yaml", "--out", run, "--resume", "--quiet")
    assert "was begun with other data than" in capsys.readouterr().err


def test_data_that_moved_keep_the_parts_of_the_run(chest: Path, tmp_path: Path, evaluated: list[set[str]]) -> None:
    out, labels = tmp_path / "run", tmp_path / "chest.csv"
    taut("train", chest, *policy_flags(chest), *FLAGS, "--out", out, "--quiet")
    split = pd.read_csv(out / "split.csv")
    parts = dict(zip(split["image"], split["split"], strict=True))
    there = tmp_path / "there" / "images"
    shutil.move(chest, there)
    paint(there / "new.png")
    data = load_dataset(str(there), labels=labels)
    assert with_known_parts(data, tmp_path / "no.csv") is data
    known = with_known_parts(data, out / "split.csv")
    assert known.split is not None
    assert dict(zip(known.ids, known.split, strict=True)) == parts
    assert known.notes[-1] == f"1 image is not in {out / 'split.csv'}: left out."
    taut("evaluate", out, "--data", there, "--labels", labels, "--resamples", 0)
    assert evaluated == [{name for name, part in parts.items() if part == "test"}]
    # From another folder on, the ids are others, and the pixels the same.
    below = with_known_parts(load_dataset(str(there.parent), labels=labels), out / "split.csv")
    assert below.split is not None
    assert dict(zip(below.ids, below.split, strict=True)) == {f"images/{name}": part for name, part in parts.items()}
    # Other images of the same names are others.
    for name in parts:
        paint(tmp_path / "other" / "site" / name)
    other = load_dataset(str(tmp_path / "other" / "site"), labels=labels)
    assert set(other.ids) == set(parts)
    assert with_known_parts(other, out / "split.csv") is other
    # A run without a test part has none to judge it by: all images are taken, and the warning stays.
    split[split["split"] != "test"].to_csv(tmp_path / "learnt.csv", index=False)
    assert with_known_parts(data, tmp_path / "learnt.csv") is data


def test_vectors_of_the_same_ids_may_be_others(tmp_path: Path) -> None:
    ids = [f"v{i}" for i in range(9)]
    space = LabelSpace.multiclass(3)
    x = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    data = Dataset("vectors", x, space, space.encode([i % 3 for i in range(9)]), ids)
    save_split(tmp_path / "split.csv", {"train": data.rows(np.arange(9) < 6), "test": data.rows(np.arange(9) >= 6)})
    assert with_known_parts(data, tmp_path / "split.csv") is data


def test_a_resumed_run_keeps_its_own_flags_for_the_data(
    chest: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, labels = tmp_path / "run", tmp_path / "chest.csv"
    taut("train", chest, *policy_flags(chest), *FLAGS, "--out", out, "--quiet")
    weights = (out / "model.safetensors").read_bytes()
    other = ["--labels", labels, "--group", "patient", "--blank", "latent", "--prevalence", "Hernia=0.5"]
    said = refused(capsys, "train", chest, *other, "--out", out, "--resume")
    assert said == ("--resume goes on with the flags that the run was begun with: leave out --blank, --prevalence")
    monkeypatch.chdir(tmp_path)  # where the same files have other names
    taut("train", "images", "--labels", "chest.csv", "--out", out, "--resume", "--quiet")
    assert (out / "model.safetensors").read_bytes() == weights
    parts = pd.read_csv(out / "split.csv")
    assert parts["group"].notna().all()
    assert set(parts["split"]) == {"train", "valid", "test"}


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The ids that each `taut evaluate` has judged the model by."""
    found: list[set[str]] = []
    usual = results.figures_of

    def kept(model: Any, dataset: Any, *rest: Any) -> Any:
        found.append(set(dataset.ids))
        return usual(model, dataset, *rest)

    monkeypatch.setattr(results, "figures_of", kept)
    return found


def test_a_run_is_evaluated_on_its_own_test_part_when_the_data_change(
    chest: Path, tmp_path: Path, capsys: Capture, evaluated: list[set[str]]
) -> None:
    out, labels = tmp_path / "run", tmp_path / "chest.csv"
    taut("train", chest, *policy_flags(chest), *FLAGS, "--out", out, "--quiet")
    split = pd.read_csv(out / "split.csv").set_index("image")["split"]
    test, train = set(split.index[split == "test"]), list(split.index[split == "train"])
    rows = pd.read_csv(labels, dtype=str, keep_default_na=False).set_index("file")
    rows = rows.drop(train[0])
    (chest / train[0]).unlink()
    rows.loc[train[1:6], "Edema"] = [str(1 - int(value == "1")) for value in rows.loc[train[1:6], "Edema"]]
    for i in range(40, 43):
        paint(chest / f"{i}.png")
        rows.loc[f"{i}.png"] = [f"p{i}", "1", "0", "1"]
    rows.to_csv(labels)
    capsys.readouterr()
    taut("evaluate", out)
    assert evaluated == [test]
    said = capsys.readouterr().err
    assert f"3 images are not in {out / 'split.csv'}: left out." in said
    assert f"1 image in {out / 'split.csv'} cannot be found any more." in said
    taut("evaluate", out, "--split", "train")
    assert evaluated[1] == set(train[1:])
    (out / "split.csv").unlink()  # as in runs from before there was one
    taut("evaluate", out)
    assert evaluated[2] & {"40.png", "41.png", "42.png", *train}


@pytest.mark.parametrize("named", [True, False])
def test_vectors_are_evaluated_by_the_ids_of_the_run_s_test_part(
    named: bool, tmp_path: Path, capsys: Capture, evaluated: list[set[str]]
) -> None:
    rng = np.random.default_rng(0)
    pack, out = tmp_path / "vectors.npz", tmp_path / "run"
    arrays = {"x": rng.normal(size=(60, 5)), "y": np.arange(60) % 3}
    arrays |= {"image_id": np.array([f"scan{i}" for i in range(60)])} if named else {}
    np.savez(pack, **arrays)
    taut("train", pack, "--split-fractions", "0.6,0.2,0.2", *FLAGS, "--out", out, "--quiet")
    split = pd.read_csv(out / "split.csv", dtype=str).set_index("image")["split"]
    taut("evaluate", out)
    assert evaluated.pop() == set(split.index[split == "test"])
    gone = str(split.index[split == "test"][0])
    left = np.arange(60) != int(gone.removeprefix("scan"))
    np.savez(pack, **{name: values[left] for name, values in arrays.items()})
    if named:
        taut("evaluate", out)
        assert evaluated == [set(split.index[split == "test"]) - {gone}]
    else:
        said = refused(capsys, "evaluate", out)
        assert said == (
            f"vectors.npz has other rows than {out / 'split.csv'}, and no ids that tell which ones: name what to "
            "evaluate on with --data"
        )


def test_the_plan_prints_what_cells_became(chest: Path, capsys: Capture) -> None:
    taut("plan", chest, *policy_flags(chest))
    said = capsys.readouterr().out
    assert "uncertain → positive" in said
    assert "blank → negative" in said
    assert "19 cells are −1 (uncertain): taken as positive (5), unannotated (14)." in said
    assert "26 cells are blank: taken as negative." in said
    refused(capsys, "plan", chest, "--labels", chest.parent / "chest.csv", "--blank", "perhaps")
    table(chest.parent, "file,A,B\n0.png,1,-1\n1.png,0,-1\n", "never.csv")
    said = refused(capsys, "plan", chest, "--labels", chest.parent / "never.csv")
    assert "no image is annotated with 'B'" in said


def test_suspicious_blanks_are_told(chest: Path, capsys: Capture) -> None:
    rows = "".join(f"{i}.png,{i % 2},{'1' if i < 4 else ''}\n" for i in range(30))
    table(chest.parent, "file,A,B\n" + rows, "filled.csv")
    taut("plan", chest, "--labels", chest.parent / "filled.csv")
    assert "Nearly all observed cells are positive: B (4 of 4)" in capsys.readouterr().out


def test_a_split_is_written_as_a_table_and_read_again(chest: Path, tmp_path: Path, capsys: Capture) -> None:
    labels, out = chest.parent / "chest.csv", tmp_path / "split" / "chest.csv"
    taut("split", chest, "--labels", labels, "--group", "patient", "--fractions", "0.5,0.25,0.25", "--out", out)
    said = capsys.readouterr().out
    assert f"wrote 40 rows to {out}" in said
    written = pd.read_csv(out, dtype=str, keep_default_na=False)
    original = pd.read_csv(labels, dtype=str, keep_default_na=False)
    pd.testing.assert_frame_equal(written.drop(columns="split"), original)
    assert written.groupby("patient")["split"].nunique().max() == 1
    _, testing = load_parts(
        DataFlags(str(chest), labels=out, group="patient", split_column="split", label_columns=["Edema", "Hernia"])
    )
    assert testing is not None
    assert set(testing.ids) == set(written.loc[written["split"] == "test", "file"])
    assert "is there already" in refused(capsys, "split", chest, "--labels", labels, "--out", out)
    assert "has a column 'split' already" in refused(
        capsys, "split", chest, "--labels", out, "--out", tmp_path / "x.csv"
    )
    assert "digits has no table" in refused(capsys, "split", "digits")
    # A table by itself: its images are found below --images.
    parts = []
    for number, seed in enumerate(("1", "1", "2")):
        other = tmp_path / f"other-{number}.csv"
        taut("split", labels, "--images", chest, "--seed", seed, "--out", other)
        parts.append(pd.read_csv(other)["split"].tolist())
    assert 6 <= parts[0].count("test") <= 10
    assert parts[0] == parts[1] != parts[2]


@pytest.mark.parametrize("kind", ["folder", "table", "absolute"])
def test_the_command_that_reads_a_written_split_is_printed(
    kind: str, chest: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "new folder" / "chest.csv"
    labels = chest.parent / "chest.csv"
    rows = pd.read_csv(labels, dtype=str, keep_default_na=False)
    rows["file"] = [f"{chest}/{name}" if kind == "absolute" else f"images/{name}" for name in rows["file"]]
    rows.rename(columns={"Edema": "Edema, mild"}).to_csv(labels, index=False)
    data = (chest, "--labels", labels) if kind == "folder" else (labels,)
    taut("split", *data, "--label-columns", '["Edema, mild","Hernia"]', "--group", "patient", "--out", out)
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert command[:2] == ["taut", "train"]
    taut("plan", *command[2:])
    assert "Columns not used: Fracture." in capsys.readouterr().out
    _, testing = load_parts(read_flags(command[2:]))
    assert testing is not None
    written = pd.read_csv(out)
    assert {Path(name).name for name in testing.ids} == {
        Path(name).name for name in written.loc[written["split"] == "test", "file"]
    }
    if kind == "table":
        assert "does not end in .csv" in refused(capsys, "split", labels, "--out", tmp_path / "split.txt")


def test_a_folder_of_unannotated_images_is_a_flag_of_every_command_that_reads(
    chest: Path, tmp_path: Path, capsys: Capture, evaluated: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(3):
        paint(tmp_path / "more" / f"extra{i}.png")
    monkeypatch.chdir(tmp_path)
    flags = ["chest.csv", "--images", "images", "--group", "patient", "--unannotated", "more"]
    taut("split", *flags, "--out", "split.csv")
    command = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert "--unannotated=more" in command
    taut("plan", *command[2:])
    assert "3 images of more added: unannotated." in capsys.readouterr().out
    run = tmp_path / "run"
    taut(*command[1:], *FLAGS, "--out", run, "--quiet")
    assert DataFlags.from_json(Run(run).source()).unannotated == tmp_path / "more"
    split = pd.read_csv(run / "split.csv").set_index("image")["split"]
    assert {split[f"extra{i}.png"] for i in range(3)} == {"train"}
    taut("evaluate", run, "--resamples", 0)
    taut("evaluate", run, "--data", chest, "--labels", "split.csv", "--resamples", 0)
    assert evaluated == [set(split.index[split == "test"])] * 2
    taut(*command[1:], "--out", run, "--resume", "--quiet")


@pytest.mark.parametrize("long", [True, False])
def test_all_rows_of_an_image_have_its_part_in_a_written_split(long: bool, tmp_path: Path) -> None:
    rows = ["file,found"] if long else ["file,A,B,C"]
    for i in range(12):
        paint(tmp_path / "images" / f"{i}.png")
        rows += [f"{i}.png,{name}" for name in "ABC"[i % 2 : 2 + i % 3]] if long else [f"{i}.png,{i % 2},,1"]
        rows += [] if long else [f"{i}.png,,{i % 3 // 2},"]
    shutil.copy(tmp_path / "images" / "0.png", tmp_path / "images" / "copy.png")
    rows += ["copy.png,A|B" if long else "copy.png,0,,", "gone.png,B" if long else "gone.png,1,1,1"]
    first, out = table(tmp_path, "\n".join(rows) + "\n"), tmp_path / "split.csv"
    flags: dict[str, Any] = {"images": tmp_path / "images", "joined_column": "found" if long else None}
    _, count = write_split_table(ReadFlags(str(first), **flags), "0.5,0.25,0.25", 0, out)
    written = pd.read_csv(out, dtype=str, keep_default_na=False)
    assert written.drop(columns="split").to_csv(index=False) == "".join(f"{row}\n" for row in rows[:-1])
    assert count == len(written) == len(rows) - 2
    assert written.groupby("file")["split"].nunique().max() == 1
    before, after = load_dataset(str(first), **flags), load_dataset(str(out), **flags, split_column="split")
    assert before.ids == after.ids
    np.testing.assert_array_equal(before.annotation.targets, after.annotation.targets)
    assert after.split is not None
    assert set(after.split) == {"train", "valid", "test"}


def test_the_notes_of_what_is_evaluated_on_are_printed(chest: Path, tmp_path: Path, capsys: Capture) -> None:
    other = table(tmp_path, "file,Edema,Fracture,Hernia\n0.png,1,0,0\n1.png,0,1,1\ngone.png,1,1,1\n", "other.csv")
    note = f"{other}: Left out: 1 row names an image that is not there."
    listed = note.replace("Left out:", "Left out (listed in {}):")
    labels = chest.parent / "chest.csv"
    flags = ["--labels", labels, "--test", other, "--images", chest, "--leakage", "report", "--quiet"]
    taut("train", labels, "--images", chest, *flags[2:], *FLAGS, "--out", tmp_path / "run")
    assert listed.format("skipped-test.csv") in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "run" / "skipped-test.csv")["file"].tolist() == ["gone.png"]
    for more in ([], ["--data", other]):
        taut("evaluate", tmp_path / "run", *more)
        assert f"taut: {listed.format('skipped-evaluation.csv')}" in capsys.readouterr().err
        left = tmp_path / "run" / "skipped-evaluation.csv"
        assert pd.read_csv(left)["file"].tolist() == ["gone.png"]
        left.unlink()
    assert not (tmp_path / "run" / "skipped.csv").exists()  # there is nothing to list
    arguments = ["--images", chest, *flags[2:-1], "--objectives", "supervised", "--draws", 1, *FLAGS]
    taut("compare", labels, *arguments, "--out", tmp_path / "compare")
    assert listed.format("compare-skipped-test.csv") in capsys.readouterr().out


def test_the_split_column_of_a_run_is_used_where_other_data_have_it(tmp_path: Path) -> None:
    source = DataFlags("first.csv", split_column="part", format="table")
    paint(tmp_path / "1.png")
    with_part = table(tmp_path, "file,part,A\n1.png,test,1\n", "with.csv")
    without = table(tmp_path, "file,A\n1.png,1\n", "without.csv")
    for labels, kept in ((with_part, "part"), (without, None)):
        assert replaced_source(source, str(labels), None).split_column == kept
        assert replaced_source(replace(source, data=str(tmp_path)), None, labels).split_column == kept
        assert replaced_source(source, str(tmp_path), labels).split_column == kept
        assert replaced_source(source, str(tmp_path / "e.npy"), labels).split_column == kept
        assert flags_of_test(replace(source, test=str(labels))).split_column == kept
    assert replaced_source(source, str(tmp_path), None).split_column is None
    assert replaced_source(source, None, None) == source


def chexpert(root: Path, patients: int) -> Path:
    """A table of CheXpert's with a frontal and a lateral image of each patient, its images and two findings."""
    lines = ["Path,Sex,Age,Frontal/Lateral,AP/PA,Edema,Fracture"]
    for i in range(2 * patients):
        view = ("frontal", "lateral")[i % 2]
        path = f"CheXpert-v1.0/train/patient{i // 2:05d}/study1/view1_{view}.jpg"
        paint(root / path)
        lines.append(f"{path},Male,60,{view.title()},AP,{i // 2 % 2},{i // 4 % 2}")
    return table(root / "CheXpert-v1.0", "\n".join(lines) + "\n", "train.csv")


def test_a_run_on_one_format_is_evaluated_on_a_table_of_another(tmp_path: Path, capsys: Capture) -> None:
    labels, run = chexpert(tmp_path, 12), tmp_path / "run"
    for i in range(4):
        paint(tmp_path / "hospital" / f"{i}.png")
    own = "file,Edema,Fracture\n0.png,1,0\n1.png,0,1\n2.png,1,1\n3.png,0,0\n"
    other = table(tmp_path / "hospital", own, "hospital.csv")
    flags = [labels, "--format", "chexpert", "--view", "frontal", "--path-column", "Path"]
    taut("train", *flags, "--test", other, *FLAGS, "--out", run)
    hint = f"{other} does not say whose its images are, as the training data do: a patient may be in both"
    assert hint in capsys.readouterr().out
    taut("evaluate", run, "--data", other)
    assert json.loads((run / "evaluation-hospital-hospital" / "evaluation.json").read_text())["images"] == 4
    assert not (run / "evaluation.json").exists()
    taut("evaluate", run, "--split", "test")  # what --test named has no column that says so
    assert json.loads((run / "evaluation.json").read_text())["images"] == 4
    # A table of the run's own format is still read as such.
    source = DataFlags.from_json(Run(run).source())
    again = replaced_source(source, str(labels), None)
    assert (again.format, again.view, again.path_column) == ("chexpert", "frontal", "Path")
    given = replaced_source(source, str(other), None)
    assert (given.format, given.view, given.path_column) == (None, None, None)


@pytest.mark.parametrize("name", ["scan.png", "scan"])
def test_the_images_of_another_table_are_looked_for_beside_it_first(name: str, tmp_path: Path) -> None:
    for folder in ("a/scans", "b/scans"):
        paint(tmp_path / folder / "scan.png")
    source = DataFlags(str(tmp_path / "a" / "train.csv"), images=tmp_path / "a" / "scans", format="table")
    rows = f"file,A\n{name},1\n"
    for folder, root in (("a", source.images), ("b", None), ("c", source.images)):
        (tmp_path / folder).mkdir(exist_ok=True)
        other = str(table(tmp_path / folder, rows, "test.csv"))
        assert replaced_source(source, other, None).images == root
        assert flags_of_test(replace(source, test=other)).images == root
        assert replaced_source(source, other, None, tmp_path).images == tmp_path


def test_leakage_is_refused_with_the_whole_list(chest: Path, tmp_path: Path, capsys: Capture) -> None:
    labels = pd.read_csv(chest.parent / "chest.csv", dtype=str, keep_default_na=False)
    # Patient p0 on both sides, and image 39 a copy of image 2 in other bytes.
    labels["part"] = np.where(labels.index.isin([0, *range(30, 40)]), "test", "train")
    from PIL import Image

    with Image.open(chest / "2.png") as image:
        image.save(chest / "39.bmp")
    labels.loc[39, "file"] = "39.bmp"
    (chest / "39.png").unlink()
    path = chest.parent / "leaking.csv"
    labels.to_csv(path, index=False)
    out = tmp_path / "run"
    flags = ["--labels", path, "--group", "patient", "--split-column", "part"]
    said = refused(capsys, "train", chest, *flags, *FLAGS, "--out", out)
    report = out / "leakage.csv"
    assert said == (
        "1 groups are in both the training and the test part, such as p0; 1 images are, pixel for pixel, in both the "
        f"training and the test part, such as 39.bmp = 2.png (all of them are in {report}): --leakage report goes on "
        "all the same"
    )
    listed = pd.read_csv(report)
    assert sorted(listed["image"]) == ["0.png", "1.png", "2.png", "39.bmp"]
    # The folder holds nothing but lists, so that another start may use it.
    labels = labels.drop(index=[0, 39])
    labels.to_csv(path, index=False)
    taut("train", chest, *flags, *FLAGS, "--out", out, "--quiet")
    capsys.readouterr()


def test_leakage_can_be_told_instead(chest: Path, tmp_path: Path, capsys: Capture) -> None:
    labels = pd.read_csv(chest.parent / "chest.csv", dtype=str)
    labels["part"] = np.where(labels.index % 2 == 0, "test", "train")
    path = chest.parent / "leaking.csv"
    labels.to_csv(path, index=False)
    flags = ["--labels", path, "--group", "patient", "--split-column", "part"]
    assert "20 groups are in both" in refused(capsys, "plan", chest, *flags)
    taut("plan", chest, *flags, "--leakage", "report")
    assert "20 groups are in both the training and the test part" in capsys.readouterr().out
    labels["part"] = labels["part"].replace("test", "valid")
    labels.to_csv(path, index=False)
    for command in (["plan"], ["train", "--out", tmp_path / "run", "--quiet"]):
        taut(command[0], chest, *command[1:], *flags, *FLAGS, "--leakage", "report")
        assert "20 groups are in both the training and the valid part" in capsys.readouterr().out
    assert "--leakage 'never' is neither refuse nor report" in refused(
        capsys, "plan", chest, *flags, "--leakage", "never"
    )


def test_columns_and_what_is_unannotated_are_named_as_people_write_them(tmp_path: Path, capsys: Capture) -> None:
    for i in range(6):
        paint(tmp_path / f"{i}.png")
    rows = ["0.png;yes;1;haze,road", "1.png;no;0;haze", "2.png;Unknown;1;road", "3.png;yes;0;haze", "4.png;no;1;road"]
    labels = table(tmp_path, "file;A;B;tags\n" + "\n".join([*rows, "5.png;no;0;"]) + "\n", "labels.csv")
    taut("plan", labels, "--label-columns", "A,B", "--unlabeled", "Unknown")
    said = capsys.readouterr().out
    assert "A: 5 known, 2 of them 1" in said
    assert "B: 6 known, 3 of them 1" in said
    assert "separator ','" in refused(capsys, "plan", labels, "--joined-column", "tags")
    taut("plan", labels, "--joined-column", "tags", "--separator", ",")
    assert "haze: 5 known, 3 of them 1" in capsys.readouterr().out


def test_the_images_of_a_table_are_predicted_under_the_names_that_it_has(
    chest: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "run"
    taut("train", chest, "--labels", chest.parent / "chest.csv", *FLAGS, "--out", out, "--quiet")
    names = table(tmp_path, "scan,age\nimages/3.png,50\nimages/1.png,60\nimages/3.png,\nimages/99.png,70\n", "n.csv")
    capsys.readouterr()
    taut("predict", out, names, "--out", tmp_path / "p.csv")
    assert "1 row names an image that is not in" in capsys.readouterr().err
    left = pd.read_csv(tmp_path / "p-skipped.csv")
    assert left.to_numpy().tolist() == [[5, "images/99.png", "not found"]]
    found = pd.read_csv(tmp_path / "p.csv")
    assert found["image"].tolist() == ["images/3.png", "images/1.png"]
    taut("predict", out, chest, "--out", tmp_path / "all.csv")
    everything = pd.read_csv(tmp_path / "all.csv").set_index("image")
    same = everything.loc[[str(chest / "3.png"), str(chest / "1.png")]]
    said = [name for name in found if "probability" in name or "calibrated" in name]
    assert len(said) == 6
    np.testing.assert_allclose(found[said], same[said], atol=2e-6)
    nothing = table(tmp_path, "scan\nimages/x.png\nimages/y.png\n", "x.csv")
    said = refused(capsys, "predict", out, nothing, "--out", tmp_path / "p.csv")
    assert "x.csv" in said
    assert "name the folder of the table's images with --root FOLDER" in said
    (tmp_path / "home").mkdir()
    far = table(tmp_path / "home", f"scan\n{chest / '3.png'}\n{chest / '1.png'}\n", "far.csv")
    taut("predict", out, far, "--out", tmp_path / "p.csv")
    assert pd.read_csv(tmp_path / "p.csv")["image"].tolist() == [str(chest / "3.png"), str(chest / "1.png")]
    assert "--view is for a table of images" in refused(capsys, "predict", out, chest, "--view", "PA")


def two_views(folder: Path) -> Path:
    """NIH's table of twelve images, a third of them AP and the others PA."""
    lines = ["Image Index,Finding Labels,Patient ID,View Position"]
    for i in range(12):
        paint(folder / "images" / f"{i:08}_000.png")
        lines.append(f"{i:08}_000.png,{'Mass' if i % 2 else 'No Finding'},{i},{'PA' if i % 3 else 'AP'}")
    return table(folder, "\n".join(lines) + "\n", "nih.csv")


def test_views_of_a_table_are_predicted_alone(tmp_path: Path, capsys: Capture) -> None:
    nih = two_views(tmp_path)
    out = tmp_path / "run"
    taut("train", nih, "--images", tmp_path / "images", *FLAGS, "--out", out, "--quiet")
    for flags, count in (((), 12), (("--view", "AP"), 4)):
        taut("predict", out, nih, *flags, "--out", tmp_path / "p.csv")
        assert len(pd.read_csv(tmp_path / "p.csv")) == count
    assert "only images of the view AP" in capsys.readouterr().err


def test_what_is_exported_keeps_the_view(tmp_path: Path) -> None:
    nih = two_views(tmp_path)
    taut("train", nih, "--images", tmp_path / "images", "--view", "PA", *FLAGS, "--out", tmp_path / "run", "--quiet")
    taut("export", tmp_path / "run", "--out", tmp_path / "shipped")
    taut("predict", tmp_path / "shipped", nih, "--root", tmp_path / "images", "--out", tmp_path / "p.csv")
    assert len(pd.read_csv(tmp_path / "p.csv")) == 8


def test_a_model_to_ship_looks_for_images_beside_the_table_alone(
    chest: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    taut("train", chest, *policy_flags(chest), *FLAGS, "--out", tmp_path / "run", "--quiet")
    taut("export", tmp_path / "run", "--out", tmp_path / "shipped")
    names = table(tmp_path / "shipped", "scan\n3.png\n", "n.csv")
    monkeypatch.chdir(chest)
    said = refused(capsys, "predict", tmp_path / "shipped", names, "--out", tmp_path / "p.csv")
    assert "--root" in said


def test_other_data_are_read_as_their_own_flags_say(chest: Path, tmp_path: Path, capsys: Capture) -> None:
    out, other = tmp_path / "run", tmp_path / "other.csv"
    taut("train", chest, *policy_flags(chest)[:-2], *FLAGS, "--out", out, "--quiet")
    known = pd.read_csv(chest.parent / "chest.csv", dtype=str)
    known.rename(columns={"patient": "who"}).to_csv(other, index=False)
    judged = ("evaluate", out, "--data", chest, "--labels", other, "--resamples", 5, "--json")

    def figures(*flags: Any) -> dict[str, Any]:
        capsys.readouterr()
        taut(*judged, *flags)
        return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))

    cells = known[["Edema", "Fracture", "Hernia"]]
    certain = cells.isin(["0", "1"]).sum()
    assert [row["annotated"] for row in figures("--blank", "latent")["per_label"].values()] == certain.tolist()
    blank = certain + cells.isna().sum()
    assert [row["annotated"] for row in figures()["per_label"].values()] == blank.tolist()  # as in the run
    own = table(tmp_path, other.read_text().replace("who", "number"), "own.csv")
    judged = (*judged[:5], own, *judged[6:])
    by_image, by_patient = figures(), figures("--group", "number")
    assert by_image["nll"] == by_patient["nll"]
    assert by_image["per_label"] != by_patient["per_label"]  # its intervals
    said = refused(capsys, "evaluate", out, "--blank", "latent")
    assert "--blank is for other data than the run's: name them with --data or --labels" in said


def test_policies_need_yes_no_labels(tmp_path: Path, capsys: Capture) -> None:
    for i in range(6):
        paint(tmp_path / "images" / f"{i}.png")
    rows = "\n".join(f"{i}.png,{'abc'[i % 3]}" for i in range(6))
    labels = table(tmp_path, f"file,grade\n{rows}\n", "grades.csv")
    said = refused(capsys, "plan", tmp_path / "images", "--labels", labels, "--blank", "negative")
    assert "--blank is for yes/no labels, of which there are none: 'grade' has the classes a, b, c" in said


def test_images_are_looked_for_where_the_run_s_are(chest: Path, tmp_path: Path, capsys: Capture) -> None:
    out, place = tmp_path / "run", tmp_path / "elsewhere"
    place.mkdir()
    taut("train", chest, "--labels", chest.parent / "chest.csv", *FLAGS, "--out", out, "--quiet")
    names = table(place, "scan,remark\n3.png,a\n1.png,b\n", "n.csv")
    taut("predict", out, names, "--out", tmp_path / "p.csv")
    assert pd.read_csv(tmp_path / "p.csv")["image"].tolist() == ["3.png", "1.png"]
    odd = table(place, "note,img,more\nx,3,a\ny,k9,b\nz,k8,c\n", "odd.csv")
    assert "--path-column" in refused(capsys, "predict", out, odd, "--out", tmp_path / "p.csv")
    taut("predict", out, odd, "--path-column", "img", "--root", chest, "--out", tmp_path / "p.csv")
    assert len(pd.read_csv(tmp_path / "p.csv")) == 1
    shutil.copy(chest.parent / "chest.csv", place / "other.csv")
    taut("evaluate", out, "--data", place / "other.csv", "--resamples", 0)


def test_a_view_of_the_run_that_no_row_shows_takes_all(tmp_path: Path, capsys: Capture) -> None:
    nih = two_views(tmp_path)
    out = tmp_path / "run"
    taut("train", nih, "--images", tmp_path / "images", "--view", "PA", *FLAGS, "--out", out, "--quiet")
    lateral = table(tmp_path, nih.read_text().replace(",PA", ",LL").replace(",AP", ",LL"), "lateral.csv")
    capsys.readouterr()
    taut("predict", out, lateral, "--out", tmp_path / "p.csv")
    assert "no row shows the run's view PA: all images are taken" in capsys.readouterr().err
    assert len(pd.read_csv(tmp_path / "p.csv")) == 12
    taut("evaluate", out, "--data", lateral, "--images", tmp_path / "images", "--resamples", 0)
    assert "no row shows the run's view PA: all images are taken" in capsys.readouterr().err
    tested = ["--test", lateral, "--images", tmp_path / "images", "--leakage", "report", "--view", "PA"]
    taut("train", nih, *tested, *FLAGS, "--out", tmp_path / "tested", "--quiet")
    assert f"{lateral}: no row shows the run's view PA: all images are taken" in capsys.readouterr().out
    assert "--view 'PA' is in no row" in refused(capsys, "predict", out, lateral, "--view", "PA")

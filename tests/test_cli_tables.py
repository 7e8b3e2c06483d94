"""The commands on tables of chest images: policies, splits and leakage, from the flags to the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from commands import Capture, refused, taut
from image_files import paint, table
from taut.run import Run
from taut.sources import DataFlags, load_parts
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
    other = tmp_path / "other.csv"
    taut("split", labels, "--images", chest, "--seed", "1", "--out", other)
    assert 6 <= (pd.read_csv(other)["split"] == "test").sum() <= 10


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
        f"training and the test part, such as 39.bmp = 2.png (all of them are in {report})"
    )
    listed = pd.read_csv(report)
    assert sorted(listed["image"]) == ["0.png", "1.png", "2.png", "39.bmp"]
    # The folder holds nothing but lists, so that another start may use it.
    labels = labels.drop(index=[0, 39])
    labels.to_csv(path, index=False)
    taut("train", chest, *flags, *FLAGS, "--out", out, "--quiet")
    capsys.readouterr()


def test_leakage_can_be_told_instead(chest: Path, capsys: Capture) -> None:
    labels = pd.read_csv(chest.parent / "chest.csv", dtype=str)
    labels["part"] = np.where(labels.index % 2 == 0, "test", "train")
    path = chest.parent / "leaking.csv"
    labels.to_csv(path, index=False)
    flags = ["--labels", path, "--group", "patient", "--split-column", "part"]
    assert "20 groups are in both" in refused(capsys, "plan", chest, *flags)
    taut("plan", chest, *flags, "--leakage", "report")
    assert "20 groups are in both the training and the test part" in capsys.readouterr().out
    assert "--leakage 'never' is neither refuse nor report" in refused(
        capsys, "plan", chest, *flags, "--leakage", "never"
    )

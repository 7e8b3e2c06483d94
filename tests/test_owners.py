"""Columns and arrays that say whose an image is, and are the group of every split where no flag names one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from commands import refused, taut
from image_files import paint
from taut.data import load_dataset
from taut.data.dataset import Dataset
from taut.data.split import split_off

EACH, OWNERS = 2, 25
TAKEN = "'patient_id' is the group: what is of one stays on one side of every split."
HINT = "'patient_id' is not used: --group patient_id keeps the images of one patient on one side of every split."
TORN = (
    "'patient_id' is not used: 1 of 25 are in several parts of the split, so that figures of the test part may be too "
    "good."
)


def rows(owners: int = OWNERS) -> pd.DataFrame:
    """A table of two images of each patient, but of the last one a single one, and one image of nobody known."""
    count = EACH * owners
    of = [*np.repeat(np.arange(owners), EACH)[: count - 1].astype(str), ""]
    sick = ["1" if i % 3 else "0" for i in range(count)]
    parts = ["test" if owner in ("0", "1", "2") else "train" for owner in of]
    return pd.DataFrame(
        {"file": [f"{i}.png" for i in range(count)], "sick": sick, "lesion_id": of, "patient_id": of, "part": parts}
    )


def read(kind: str, table: pd.DataFrame, folder: Path, **flags: str) -> Dataset:
    """The dataset of a table beside a folder of images, of one beside embeddings, or of arrays."""
    if kind == "arrays":
        rng = np.random.default_rng(0)
        y = table["sick"].astype(int).to_numpy()[:, None]
        pixels = rng.integers(0, 256, (len(table), 5, 5), dtype=np.uint8)
        parts = {"split": table["part"].to_numpy(dtype=str)} if "split_column" in flags else {}
        owners = {name: table[name].to_numpy(dtype=str) for name in ("patient_id", "lesion_id")}
        np.savez(folder / "pack.npz", x=pixels, y=y, label_names=np.array(["sick"]), **owners, **parts)
        return load_dataset(str(folder / "pack.npz"), group=flags.get("group"))
    table.to_csv(folder / "t.csv", index=False)
    if kind == "embeddings":
        x = np.random.default_rng(0).normal(size=(len(table), 3)).astype(np.float32)
        np.savez(folder / "e.npz", x=x, ids=table["file"].to_numpy(dtype=str))
        return load_dataset(str(folder / "e.npz"), labels=folder / "t.csv", path_column="file", **flags)
    for name in table["file"]:
        paint(folder / "images" / name)
    return load_dataset(str(folder / "images"), labels=folder / "t.csv", **flags)


@pytest.mark.parametrize("kind", ["images", "embeddings", "arrays"])
def test_a_column_of_patients_is_the_group_unasked(kind: str, tmp_path: Path) -> None:
    data = read(kind, rows(), tmp_path)
    what = "Array" if kind == "arrays" else "Column"
    assert f"{what} {TAKEN}" in data.notes
    hint = HINT.replace("images", "inputs") if kind == "embeddings" else HINT
    assert f"{what} {hint.replace('patient_id', 'lesion_id')}" in data.notes
    assert data.groups is not None
    assert data.groups[:5].tolist() == ["0", "0", "1", "1", "2"]
    assert len(set(data.groups)) == OWNERS + 1  # nobody known is somebody of their own
    named = read(kind, rows(), tmp_path, group="patient_id")
    np.testing.assert_array_equal(named.groups, data.groups)
    held = split_off(data, 0.3, seed=0)
    assert not {*data.groups[held]} & {*data.groups[~held]}
    assert data.space.names == ("sick",)


@pytest.mark.parametrize("kind", ["images", "embeddings", "arrays"])
def test_none_lets_each_image_stand_for_itself(kind: str, tmp_path: Path) -> None:
    data = read(kind, rows(), tmp_path, group="none")
    assert data.groups is None
    assert not any("patient_id" in note for note in data.notes)


@pytest.mark.parametrize("kind", ["images", "embeddings", "arrays"])
def test_patients_whom_the_split_has_in_two_parts_are_no_group(kind: str, tmp_path: Path) -> None:
    whole = read(kind, rows(), tmp_path, split_column="part")
    assert whole.groups is not None
    table = rows()
    table.loc[table["file"] == "0.png", "part"] = "train"  # of patient 0, who is in the test part
    torn = read(kind, table.drop(columns="lesion_id").assign(lesion_id=""), tmp_path, split_column="part")
    assert torn.groups is None
    assert any(note.endswith(TORN) for note in torn.notes)


@pytest.mark.parametrize("kind", ["images", "embeddings", "arrays"])
def test_few_patients_are_told_and_not_taken(kind: str, tmp_path: Path) -> None:
    data = read(kind, rows(owners=19), tmp_path)
    assert data.groups is None
    assert any("'patient_id' is not used: --group patient_id keeps" in note for note in data.notes)


def test_a_label_an_auxiliary_column_and_one_of_different_cells_are_no_groups(tmp_path: Path) -> None:
    table = rows()
    alone = table.assign(patient_id=[str(i) for i in range(len(table))], lesion_id="")
    assert read("images", alone, tmp_path).groups is None
    known = read("images", table.drop(columns="lesion_id"), tmp_path, auxiliary=["patient_id"])
    assert known.groups is None
    named = read("images", table.drop(columns="lesion_id"), tmp_path, label_columns=["patient_id"])
    assert named.groups is None
    assert named.space.names == ("patient_id",)


def test_a_column_called_none_can_be_named(tmp_path: Path) -> None:
    data = read("images", rows().rename(columns={"patient_id": "none"}), tmp_path, group="none")
    assert data.groups is not None
    assert data.groups[0] == "0"


def test_other_data_are_grouped_by_the_same_column_however_few_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    read("images", rows(), tmp_path)
    for name, patients in (("seen", (3, 40)), ("new", (41, 42))):
        lines = [f"{name}{patient}.png,{patient % 2},{patient}" for patient in patients]
        for patient in patients:
            paint(tmp_path / name / f"{name}{patient}.png")
        (tmp_path / name / "t.csv").write_text("\n".join(["file,sick,patient_id", *lines]) + "\n")
    flags = ("--images", tmp_path / "images", "--train.steps", 2, "--train.folds", 0, "--out", tmp_path / "run")
    text = refused(capsys, "train", tmp_path / "t.csv", "--test", tmp_path / "seen" / "t.csv", *flags)
    assert "1 groups are in both the training and the test part, such as 3" in text
    taut("train", tmp_path / "t.csv", "--test", tmp_path / "new" / "t.csv", *flags, "--quiet")
    assert "does not say whose" not in capsys.readouterr().out
    taut("evaluate", tmp_path / "run", "--resamples", 0)
    capsys.readouterr()
    taut("evaluate", tmp_path / "run", "--data", tmp_path / "seen" / "t.csv", "--resamples", 0)
    assert "1 of these 2 images are of groups that the run was trained or calibrated on" in capsys.readouterr().err
    # What has no such column has no groups, as before.
    (tmp_path / "new" / "bare.csv").write_text("file,sick\nnew41.png,1\nnew42.png,0\n")
    taut("evaluate", tmp_path / "run", "--data", tmp_path / "new" / "bare.csv", "--resamples", 0)

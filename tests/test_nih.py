from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from image_files import images, rows_of, table, yes
from packs import PACKS, needs
from taut.data import DataError, load_dataset
from taut.data.nih import FINDINGS
from taut.labels import LabelSpace

HEAD = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,OriginalImage[Width,"
HEAD += "Height],OriginalImagePixelSpacing[x,y]\n"


def entry(image: str, findings: str, patient: int, view: str = "PA") -> str:
    return f"{image},{findings},0,{patient},57,M,{view},2682,2749,0.143,0.143\n"


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    """A table with images in folders as the archive has them, one image missing."""
    images(tmp_path, "images_001/images/1_0.png", "images_001/images/1_1.png", "images_002/images/2_0.png", "3_0.png")
    rows = entry("1_0.png", "Cardiomegaly|Effusion", 1) + entry("1_1.png", "No Finding", 1, "AP")
    rows += entry("2_0.png", "Hernia", 2) + entry("3_0.png", "No Finding", 3) + entry("4_0.png", "Mass", 4)
    return table(tmp_path / "images", HEAD + rows, "Data_Entry_2017_v2020.csv")


def test_a_finding_that_nih_has_no_name_for_is_not_said_no_to(nih: Path) -> None:
    space = LabelSpace.multilabel(["Cardiomegaly", "Pleural Effusion", "Mass"])
    data = load_dataset(str(nih), space=space)
    np.testing.assert_equal(yes(data), [[1, np.nan, 0], [0, np.nan, 0], [0, np.nan, 0], [0, np.nan, 0]])
    assert "Labels that 'Finding Labels' does not name: Pleural Effusion." in data.notes


def test_the_header_is_recognised(nih: Path, tmp_path: Path) -> None:
    report = tmp_path / "skipped.csv"
    data = load_dataset(str(nih), skipped=report)
    assert data.space == LabelSpace.multilabel(FINDINGS)
    assert data.groups is not None
    assert data.groups.tolist() == ["1", "1", "2", "3"]
    positive = [[name for name, cell in zip(FINDINGS, row, strict=True) if cell] for row in yes(data)]
    assert positive == [["Cardiomegaly", "Effusion"], [], ["Hernia"], []]
    assert data.annotation.observed.all()
    assert data.notes[0] == "Left out (listed in skipped.csv): 1 row names an image that is not there."
    assert data.notes[1] == "Read as NIH's Data_Entry: findings from 'Finding Labels', patients from 'Patient ID'."
    assert [entry["file"] for entry in rows_of(report)] == ["4_0.png"]


def test_other_findings_make_other_labels(tmp_path: Path) -> None:
    folder = images(tmp_path, "1.png", "2.png")
    labels = table(tmp_path, "Image Index,Finding Labels\n1.png,Hernia|Calcification\n2.png,No Finding\n")
    data = load_dataset(str(folder), labels=labels)
    assert data.space.names == ("Calcification", "Hernia")
    assert data.groups is None
    other = table(tmp_path, "file,A\n1.png,1\n2.png,0\n", "other.csv")
    with pytest.raises(DataError, match=r"other\.csv: --format nih: the table has no columns 'Image Index'"):
        load_dataset(str(folder), labels=other, format="nih")


def test_a_table_of_the_healthy_alone_is_read_for_known_labels(tmp_path: Path) -> None:
    folder = images(tmp_path, "1.png", "2.png")
    labels = table(tmp_path, "Image Index,Finding Labels\n1.png,No Finding\n2.png,No Finding\n")
    data = load_dataset(str(folder), labels=labels, space=LabelSpace.multilabel(["Hernia", "Mass"]))
    assert yes(data) == [[0, 0], [0, 0]]


def test_one_view_only(nih: Path) -> None:
    assert [Path(name).name for name in load_dataset(str(nih), view="PA").ids] == ["1_0.png", "2_0.png", "3_0.png"]
    assert [Path(name).name for name in load_dataset(str(nih), view="ap").ids] == ["1_1.png"]


def test_lists_of_files_are_a_split(nih: Path, tmp_path: Path) -> None:
    train, test = tmp_path / "train_val_list.txt", tmp_path / "test_list.txt"
    train.write_text("1_0.png\n1_1.png\n")
    test.write_text("\n3_0.png\r\n4_0.png\n")
    data = load_dataset(str(nih), test_list=test)
    assert data.split is not None
    assert data.split.tolist() == ["train", "train", "train", "test"]
    report = tmp_path / "skipped.csv"
    data = load_dataset(str(nih), train_list=train, test_list=test, skipped=report)
    assert data.split is not None
    assert data.split.tolist() == ["train", "train", "test"]
    assert {entry["file"]: entry["reason"] for entry in rows_of(report)} == {
        "2_0.png": "it is in no list of files",
        "4_0.png": "no such image",
    }
    assert "1 row is in no list of files" in data.notes[0]
    train.write_bytes(b"\xef\xbb\xbf" + train.read_bytes() + b"8_0.png\n7_0.png\n")
    data = load_dataset(str(nih), train_list=train, test_list=test)
    assert data.split is not None
    assert data.split.tolist() == ["train", "train", "test"]
    assert "2 names of --train-list are in no row, such as 7_0.png." in data.notes
    assert load_dataset(str(nih), train_list=train).split.tolist() == ["train", "train"]  # type: ignore[union-attr]


def test_faults_of_lists(nih: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.txt"
    with pytest.raises(DataError, match=r"--test-list .*one\.txt cannot be read"):
        load_dataset(str(nih), test_list=one)
    one.write_text("\n")
    with pytest.raises(DataError, match="names no image"):
        load_dataset(str(nih), test_list=one)
    one.write_text("9_9.png\n")
    with pytest.raises(DataError, match=r"no row is in .*one\.txt"):
        load_dataset(str(nih), test_list=one)
    one.write_text("1_0.png\n")
    with pytest.raises(DataError, match=r"1_0\.png is in both"):
        load_dataset(str(nih), test_list=one, train_list=one)
    with pytest.raises(DataError, match="two ways to give a split"):
        load_dataset(str(nih), test_list=one, split_column="View Position")


@needs("nih_originals", "nih_cxr14_all_64.npz")
def test_originals_with_mostly_absent_images(tmp_path: Path) -> None:
    folder = PACKS / "nih_originals"
    report = tmp_path / "skipped.csv"
    data = load_dataset(str(folder), labels=folder / "Data_Entry_2017_v2020_subset.csv", skipped=report)
    assert len(data) == 13
    assert data.space.names == FINDINGS
    assert "2,411 rows name images that are not there" in data.notes[0]
    assert len(rows_of(report)) == 2411
    with np.load(PACKS / "nih_cxr14_all_64.npz") as pack:
        place = {name: i for i, name in enumerate(pack["image_id"].tolist())}
        index = [place[name] for name in data.ids]
        assert pack["label_names"].tolist() == list(FINDINGS)
        np.testing.assert_array_equal(np.array(yes(data)), pack["y"][index])


def test_images_that_no_row_names_are_of_their_patient(tmp_path: Path) -> None:
    images(tmp_path, *(f"{name}.png" for name in ("00000001_000", "00000001_001", "00000002_000", "00000005_003")))
    rows = entry("00000001_000.png", "Edema", 1) + entry("00000002_000.png", "No Finding", 2)
    data = load_dataset(str(tmp_path / "images"), labels=table(tmp_path / "images", HEAD + rows, "Data_Entry.csv"))
    assert data.groups is not None
    assert data.groups[data.ids.index("00000001_001.png")] == "1"
    assert "1 image has no 'Patient ID': each is a group of its own." in data.notes  # of whom the table has no row


def test_frontal_images_are_ap_and_pa(nih: Path) -> None:
    assert len(load_dataset(str(nih), view="PA")) == 3
    assert len(load_dataset(str(nih), view="frontal")) == 4
    with pytest.raises(DataError, match="--view 'lateral' is in no row of 'View Position': there are AP, PA"):
        load_dataset(str(nih), view="lateral")


def test_names_that_say_no_patient_make_no_groups(tmp_path: Path) -> None:
    images(tmp_path, *(f"img_{i}.png" for i in range(4)), "7_0.png", "7_1.png", "7_2.png")
    rows = entry("img_0.png", "Edema", 1) + entry("img_1.png", "Mass", 2) + entry("7_0.png", "Mass", 3)
    rows += entry("7_1.png", "Mass", 4)
    data = load_dataset(str(tmp_path / "images"), labels=table(tmp_path / "images", HEAD + rows, "Data_Entry.csv"))
    assert "3 images have no 'Patient ID': each is a group of its own." in data.notes

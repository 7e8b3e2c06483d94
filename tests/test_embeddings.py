from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from conftest import Array
from taut.data import vector_files
from taut.data.arrays import load_npz
from taut.data.dataset import DataError, Dataset
from taut.data.embeddings import load_embeddings
from taut.data.listing import TableOptions
from taut.data.mapped import MappedRows, is_mapped
from taut.evaluate.metrics import evaluate
from taut.fit import Fitted, fit
from taut.flags import ReadFlags
from taut.inputs import read_inputs
from taut.labels import LabelSpace
from taut.plan import override

pytest.importorskip("pyarrow")
N, F = 6, 3
IDS = [f"p{i}.png" for i in range(N)]


def vectors() -> Array:
    return np.arange(N * F, dtype=np.float32).reshape(N, F) / 7


def write(path: Path) -> Path:
    """The same embeddings in the form that the ending asks for."""
    kind, x = path.name.partition(".")[2], vectors()
    if kind == "npy":
        np.save(path, x)
    elif kind == "npz":
        np.savez(path, x=x, ids=np.array(IDS))
    elif kind == "lists.parquet":
        pd.DataFrame({"id": IDS, "embedding": list(x)}).to_parquet(path)
    else:
        pd.DataFrame({"id": IDS, **{f"f{j}": x[:, j] for j in range(F)}}).to_parquet(path)
    return path


def table(tmp_path: Path, text: str) -> Path:
    (tmp_path / "t.csv").write_text(text)
    return tmp_path / "t.csv"


@pytest.mark.parametrize("name", ["e.npz", "e.lists.parquet", "e.parquet"])
def test_rows_are_found_by_their_ids(name: str, tmp_path: Path) -> None:
    lines = "id,sick\np4.png,1\np0.png,0\np2.png,\n"
    data = load_embeddings(write(tmp_path / name), table(tmp_path, lines))
    np.testing.assert_array_equal(data.x, vectors())
    assert list(data.ids) == IDS
    assert data.space.names == ("sick",)
    assert data.annotation.observed[:, 0].tolist() == [True, False, False, False, True, False]
    assert data.annotation.targets[[0, 4], 1].tolist() == [0, 1]
    assert data.notes == ["3 inputs are named by no row: unannotated."]


@pytest.mark.parametrize("name", [None, "barcode"])
def test_an_index_that_does_not_count_the_rows_names_them(name: str | None, tmp_path: Path) -> None:
    order = [4, 0, 5, 2, 1, 3]
    frame = pd.DataFrame(vectors(), columns=["f0", "f1", "f2"]).iloc[order].rename_axis(name)
    frame.to_parquet(tmp_path / "e.parquet")
    key = name or "index"
    data = load_embeddings(tmp_path / "e.parquet", table(tmp_path, f"{key},sick\n4,1\n0,0\n"))
    np.testing.assert_array_equal(data.x, vectors()[order])
    assert list(data.ids) == [str(i) for i in order]
    assert data.annotation.targets[:2, 1].tolist() == [1, 0]  # of the rows that were 4 and 0
    frame = frame.set_axis([f"s{i}" for i in order])
    frame.to_parquet(tmp_path / "e.parquet")
    data = load_embeddings(tmp_path / "e.parquet", table(tmp_path, "sample,sick\ns4,1\ns0,0\n"))
    assert list(data.ids) == [f"s{i}" for i in order]
    # A column of text that differs from row to row names them before the numbers of an index do.
    frame.reset_index(drop=True).assign(filename=[f"s{i}" for i in order]).iloc[::-1].to_parquet(tmp_path / "e.parquet")
    data = load_embeddings(tmp_path / "e.parquet", table(tmp_path, "filename,sick\ns4,1\ns0,0\n"))
    assert list(data.ids) == [f"s{i}" for i in order[::-1]]
    pd.concat({"a": frame}).to_parquet(tmp_path / "e.parquet")
    with pytest.raises(DataError, match="index of several columns"):
        load_embeddings(tmp_path / "e.parquet", table(tmp_path, "sample,sick\ns4,1\ns0,0\n"))


def test_numbers_of_rows_and_of_patients_are_no_features(tmp_path: Path) -> None:
    frame = pd.DataFrame(vectors(), columns=["f0", "f1", "f2"])
    frame.insert(0, "Unnamed: 0", range(N))
    frame["patient_id"] = 7
    frame.to_parquet(tmp_path / "e.parquet")
    data = load_embeddings(tmp_path / "e.parquet", table(tmp_path, "Unnamed: 0,row,sick\n1,0,1\n0,2,0\n"))
    assert data.feature_names == ["f0", "f1", "f2"]
    assert data.annotation.targets[[0, 2], 1].tolist() == [1, 0]


def test_an_id_with_a_point_is_not_another_id(tmp_path: Path) -> None:
    np.savez(tmp_path / "e.npz", x=vectors(), ids=np.array(["1.2.7.1", "7.1", "8.0", "9.npy", "1.2.9", "10"]))
    data = load_embeddings(tmp_path / "e.npz", table(tmp_path, "id,sick\n7,1\n1.2.7,1\n8,1\n9,0\n10,0\n"))
    assert data.annotation.observed[:, 0].tolist() == [False, False, True, True, False, True]


@pytest.mark.parametrize("column", ["row", "index", "id"])
def test_arrays_without_ids_are_counted_from_zero(column: str, tmp_path: Path) -> None:
    lines = f"sick,{column}\n1,5\n0,0\n"
    data = load_embeddings(write(tmp_path / "e.npy"), table(tmp_path, lines))
    assert data.annotation.targets[5].tolist() == [0, 1]
    assert data.annotation.targets[0].tolist() == [1, 0]
    assert data.annotation.observed.sum() == 2
    assert f"Column {column!r} is the number of the row in e.npy, from 0." in data.notes


def test_a_column_of_rows_goes_before_one_of_ids_where_inputs_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "e.npy")
    data = load_embeddings(path, table(tmp_path, "id,row,sick\n3,0,1\n4,1,0\n"), TableOptions(label_columns=["sick"]))
    assert data.annotation.observed[:, 0].tolist() == [True, True, False, False, False, False]


@pytest.mark.parametrize(
    "more", [{"row": np.arange(N)}, {"index": np.arange(N), "file": IDS}, {"id": IDS, "row": [0] * N}]
)
def test_columns_of_ids_are_no_features_of_parquet(more: dict[str, Any], tmp_path: Path) -> None:
    columns = {**more, **{f"f{j}": vectors()[:, j] for j in range(F)}}
    pd.DataFrame(columns).to_parquet(tmp_path / "e.parquet")
    data = load_embeddings(tmp_path / "e.parquet", None, space=LabelSpace.multiclass(2))
    np.testing.assert_array_equal(data.x, vectors())
    assert data.feature_names == ["f0", "f1", "f2"]


def test_a_column_of_known_ids_is_found_whatever_its_name(tmp_path: Path) -> None:
    lines = "who,sick,patient,part\n" + "".join(
        f"p{i},{i % 2},a{i // 2},{'test' if i > 3 else 'train'}\n" for i in range(N)
    )
    path = tmp_path / "e.npz"
    np.savez(path, embeddings=vectors(), image_id=np.array([f"p{i}" for i in range(N)]))
    data = load_embeddings(
        path, table(tmp_path, lines), TableOptions(group="patient", split_column="part", label_columns=["sick"])
    )
    assert data.groups is not None
    assert data.split is not None
    assert data.groups.tolist() == ["a0", "a0", "a1", "a1", "a2", "a2"]
    assert data.split.tolist() == ["train"] * 4 + ["test"] * 2


def test_joined_names_and_several_labels(tmp_path: Path) -> None:
    lines = "row,found\n0,mass|oedema\n1,No Finding\n2,mass\n"
    data = load_embeddings(write(tmp_path / "e.npy"), table(tmp_path, lines), TableOptions(joined_column="found"))
    assert data.space.names == ("mass", "oedema")
    assert data.annotation.targets[:3, 1::2].tolist() == [[1, 1], [0, 0], [1, 0]]


def test_cells_follow_the_policy(tmp_path: Path) -> None:
    lines = "row,sick,mass\n0,-1,1\n1,,0\n2,1,1\n"
    path, labels = write(tmp_path / "e.npy"), table(tmp_path, lines)
    usual = load_embeddings(path, labels)
    assert usual.annotation.observed[:3, 0].tolist() == [False, False, True]
    assert "1 cell is −1 (uncertain): taken as unannotated." in usual.notes
    filled = load_embeddings(path, labels, uncertain="positive", blank="negative")
    assert filled.annotation.targets[:3, 1].tolist() == [1, 0, 1]
    assert not filled.annotation.observed[3:].any()  # nothing was said of the inputs without a row


def test_rows_that_cannot_be_used_are_counted_and_listed(tmp_path: Path) -> None:
    lines = "row,sick\n0,1\n0,1\n1,0\n1,1\n9,1\n,1\n2,0\n"
    data = load_embeddings(write(tmp_path / "e.npy"), table(tmp_path, lines), skipped=tmp_path / "skipped.csv")
    # Input 1 is out: its two rows contradict each other.
    assert list(data.ids) == ["0", "2", "3", "4", "5"]
    np.testing.assert_array_equal(data.x, vectors()[[0, 2, 3, 4, 5]])
    left_out = data.notes[0]
    for part in ("1 row names an input that is not there", "1 row names no input", "1 row repeats another"):
        assert part in left_out
    assert "2 rows contradict each other" in left_out
    listed = pd.read_csv(tmp_path / "skipped.csv")
    assert sorted(listed["row"]) == [3, 4, 5, 6, 7]


def test_rows_that_annotate_other_cells_of_one_input_are_one(tmp_path: Path) -> None:
    lines = "row,sick,mass\n0,1,\n0,,0\n1,1,\n1,0,1\n"
    data = load_embeddings(write(tmp_path / "e.npy"), table(tmp_path, lines))
    assert list(data.ids) == ["0", "2", "3", "4", "5"]
    assert data.annotation.targets[0].tolist() == [0, 1, 1, 0]
    lines = "row,sick,mass\n0,1,0\n0,1,1\n97,1,0\n98,1,1\n"
    data = load_embeddings(write(tmp_path / "e.npy"), table(tmp_path, lines))
    assert data.annotation.observed[0].tolist() == [True, False]
    assert "1 image has rows that differ in some yes/no cells: these cells are uncertain." in data.notes


def test_ids_may_be_bytes_and_other_arrays_objects(tmp_path: Path) -> None:
    labels = table(tmp_path, "id,sick\np4.png,1\np0.png,0\n")
    others = {"filenames": np.array(["a", None] * 3, dtype=object)}
    np.savez(tmp_path / "e.npz", x=vectors(), ids=np.array(IDS, dtype="S"), **others)
    data = load_embeddings(tmp_path / "e.npz", labels)
    assert list(data.ids) == IDS
    assert data.annotation.observed.sum() == 2
    np.savez(tmp_path / "e.npz", x=vectors(), ids=np.array(IDS, dtype=object))
    assert "array 'ids' holds pickled Python objects" in refused(tmp_path / "e.npz", labels)


def test_the_only_texts_that_differ_are_ids_whatever_they_are_called(tmp_path: Path) -> None:
    labels = table(tmp_path, "filename,sick\n" + "".join(f"{name},{int(name == IDS[4])}\n" for name in reversed(IDS)))
    np.savez(tmp_path / "e.npz", features=vectors(), filenames=np.array(IDS), stain=np.array(["blue"] * N))
    data = load_embeddings(tmp_path / "e.npz", labels)
    assert list(data.ids) == IDS
    assert data.annotation.targets[:, 1].tolist() == [0, 0, 0, 0, 1, 0]
    np.savez(tmp_path / "e.npz", features=vectors(), filenames=np.array(IDS), keys=np.array(list("abcdef")))
    assert "filenames, keys could all be ids of the inputs: call one of them 'ids'" in refused(
        tmp_path / "e.npz", labels
    )


def test_an_embedding_that_is_missing_is_named(tmp_path: Path) -> None:
    pd.DataFrame({"id": IDS, "embedding": [None, *vectors()[1:]]}).to_parquet(tmp_path / "e.parquet")
    said = refused(tmp_path / "e.parquet", table(tmp_path, "id,sick\np4.png,1\np0.png,0\n"))
    assert "the embeddings in its rows are not numbers of one length" in said


def test_a_group_that_one_row_of_an_input_has_is_that_of_the_others(tmp_path: Path) -> None:
    lines = "id,who,A,B\np0.png,x,1,\np0.png,,,1\np1.png,x,0,0\n"
    data = load_embeddings(write(tmp_path / "e.npz"), table(tmp_path, lines), TableOptions(group="who"))
    assert data.groups is not None
    assert data.groups[:2].tolist() == ["x", "x"]
    assert data.annotation.observed[:2].all()


def refused(path: Path, labels: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_embeddings(path, labels, **options)
    assert str(path.parent) in str(caught.value)
    return str(caught.value)


def test_tables_that_name_no_row_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "e.npy")
    lines = "sick\n" + "1\n" * (N - 1)
    assert "no column says which row" in refused(path, table(tmp_path, lines))
    lines = "sick\n" + "1\n0\n" * (N // 2)
    assert "no column says which row" in refused(write(tmp_path / "e.npz"), table(tmp_path, lines))  # which has ids
    assert "no row names" in refused(path, table(tmp_path, "id,sick\nx,1\ny,0\n"))
    assert "'nobody' is not a column" in refused(
        path, table(tmp_path, "id,sick\n0,1\n"), options=TableOptions(path_column="nobody")
    )


def test_files_that_hold_no_embeddings_are_refused(tmp_path: Path) -> None:
    labels = table(tmp_path, "id,sick\np0.png,1\np1.png,0\n")
    np.save(tmp_path / "flat.npy", np.zeros(4))
    assert "expected embeddings [N, F]" in refused(tmp_path / "flat.npy", labels)
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "is not a numpy .npy file of numbers" in refused(tmp_path / "objects.npy", labels)
    (tmp_path / "text.npy").write_text("text")
    assert "or it is damaged" in refused(tmp_path / "text.npy", labels)
    np.savez(tmp_path / "two.npz", a=vectors(), b=vectors())
    assert "but found a, b" in refused(tmp_path / "two.npz", labels)
    np.savez(tmp_path / "own.npz", x=vectors(), y=np.zeros(N))
    assert "has annotations of its own (y)" in refused(tmp_path / "own.npz", labels)
    np.savez(tmp_path / "ids.npz", x=vectors(), ids=np.array(IDS[:2]))
    assert "6 inputs but 2 ids" in refused(tmp_path / "ids.npz", labels)
    np.savez(tmp_path / "twice.npz", x=vectors(), ids=np.array(["a"] * N))
    assert "the id 'a' stands in several rows" in refused(tmp_path / "twice.npz", labels)
    (tmp_path / "text.parquet").write_text("text")
    assert "is not a Parquet file" in refused(tmp_path / "text.parquet", labels)
    pd.DataFrame({"id": IDS, "e": [[1.0] * (1 + i % 2) for i in range(N)]}).to_parquet(tmp_path / "ragged.parquet")
    assert "are not numbers of one length" in refused(tmp_path / "ragged.parquet", labels)
    pd.DataFrame({"id": IDS}).to_parquet(tmp_path / "bare.parquet")
    assert "has no columns of numbers" in refused(tmp_path / "bare.parquet", labels)
    assert "there is no such file" in refused(tmp_path / "none.npy", labels)
    for packed in ({"bytes": b"png", "path": "a.png"}, b"png"):
        pd.DataFrame({"image": [packed] * N, "label": range(N)}).to_parquet(tmp_path / "images.parquet")
        assert "column 'image' holds images as bytes or records, not embeddings" in refused(
            tmp_path / "images.parquet", labels
        )


def test_parquet_without_its_reader_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_files, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"e\.parquet: Parquet needs pyarrow: pip install pyarrow"):
        load_embeddings(write(tmp_path / "e.parquet"), table(tmp_path, "id,sick\np0.png,1\n"))


def test_images_beside_embeddings_are_left(tmp_path: Path) -> None:
    frame = pd.DataFrame({"image": [b"png"] * N, "id": IDS, "embedding": list(vectors())})
    frame.to_parquet(tmp_path / "e.parquet")
    data = load_embeddings(tmp_path / "e.parquet", table(tmp_path, "id,sick\np0.png,1\np1.png,0\n"))
    np.testing.assert_array_equal(data.x, vectors())
    assert data.ids == IDS


def test_columns_of_text_are_no_features_and_are_named(tmp_path: Path) -> None:
    columns = {"id": IDS, "stain": ["blue"] * N, **{f"f{j}": vectors()[:, j] for j in range(F)}}
    pd.DataFrame(columns).to_parquet(tmp_path / "e.parquet")
    data = load_embeddings(tmp_path / "e.parquet", table(tmp_path, "id,sick\np0.png,1\np1.png,0\n"))
    np.testing.assert_array_equal(data.x, vectors())
    assert "Columns of text are no features: stain." in data.notes


def test_columns_of_numbers_that_are_named_otherwise_are_told(tmp_path: Path) -> None:
    features = {f"f{j}": vectors()[:, j] for j in range(F)}
    labels = table(tmp_path, "id,sick\np0.png,1\np1.png,0\n")
    for more, told in (({}, False), ({"plate": np.arange(N) % 2}, True)):
        pd.DataFrame({"id": IDS, **more, **features}).to_parquet(tmp_path / "e.parquet")
        notes = load_embeddings(tmp_path / "e.parquet", labels).notes
        assert ("Not named like 'f0', but taken as features too: plate. Drop what is none." in notes) is told


def test_as_many_rows_as_inputs_are_in_order(tmp_path: Path) -> None:
    path = write(tmp_path / "e.npy")
    lines = "file,sick\n" + "".join(
        f"{name},{cell}\n" for name, cell in zip(IDS, ["", "1", "0", "", "1", ""], strict=True)
    )
    data = load_embeddings(path, table(tmp_path, lines.replace(IDS[3] + ",", ",")))  # row 3 says nothing at all
    np.testing.assert_array_equal(data.x, vectors())
    assert data.annotation.observed[:, 0].tolist() == [False, True, True, False, True, False]
    assert data.annotation.targets[[1, 2, 4], 1].tolist() == [1, 0, 1]
    assert "No column of t.csv says which row of e.npy is meant: there are as many, taken in order." in data.notes
    assert data.space.names == ("sick",)


def test_the_index_that_pandas_writes_says_which_row_is_meant(tmp_path: Path) -> None:
    path, frame = write(tmp_path / "e.npy"), pd.DataFrame({"sick": [1, 0, 1, 0, 1, 0]})
    frame.iloc[[4, 1, 2]].to_csv(tmp_path / "t.csv")
    data = load_embeddings(path, tmp_path / "t.csv")
    assert data.annotation.observed[:, 0].tolist() == [False, True, True, False, True, False]
    assert data.annotation.targets[[1, 2, 4], 1].tolist() == [0, 1, 1]
    frame.iloc[[4, 1, 2]].reset_index(drop=True).to_csv(tmp_path / "t.csv")  # which counts its own rows
    assert "no column says which row" in refused(path, tmp_path / "t.csv")


@pytest.mark.parametrize("flag", [None, "id"])
def test_numbers_from_one_are_refused(tmp_path: Path, flag: str | None) -> None:
    path, options = write(tmp_path / "e.npy"), TableOptions(path_column=flag)
    lines = "id,sick\n" + "".join(f"{i},{i % 2}\n" for i in range(1, N + 1))
    assert "'id' counts from 1, but the rows of" in refused(path, table(tmp_path, lines), options=options)
    lines = "id,sick\n" + "".join(f"{i},{i % 2}\n" for i in range(1, N))
    assert load_embeddings(path, table(tmp_path, lines), options=options).annotation.observed[1:, 0].all()
    np.savez(tmp_path / "e.npz", x=vectors(), ids=np.arange(1, N + 1))
    lines = "id,sick\n" + "".join(f"{i},{i % 2}\n" for i in range(1, N + 1))
    assert load_embeddings(tmp_path / "e.npz", table(tmp_path, lines), options=options).annotation.observed.all()


@pytest.mark.parametrize(
    ("key", "flag"),
    [("sample_id", None), ("index", None), ("case", "case"), ("study_id", None), ("patient_id", None), ("n", None)],
)
def test_a_numeric_key_of_parquet_is_no_feature(tmp_path: Path, key: str, flag: str | None) -> None:
    pd.DataFrame({key: [5, 3, 9, 4], "f": [0.5, 0.3, 0.9, 0.4]}).to_parquet(tmp_path / "e.parquet")
    labels = table(tmp_path, f"{key},sick\n3,1\n9,0\n")
    data = load_embeddings(tmp_path / "e.parquet", labels, TableOptions(path_column=flag))
    assert data.ids == ["5", "3", "9", "4"]
    assert data.x[:, 0].tolist() == pytest.approx([0.5, 0.3, 0.9, 0.4])
    assert data.annotation.observed[:, 0].tolist() == [False, True, True, False]


def test_a_column_that_both_files_have_names_the_rows(tmp_path: Path) -> None:
    """And no other one with the same numbers in another order."""
    keys, x = np.array([5, 3, 9, 4]), vectors()[:4]
    labels = table(tmp_path, "visit,study,sick\n9,3,1\n3,9,0\n5,4,1\n4,5,0\n")
    np.savez(tmp_path / "e.npz", x=x, study=keys)
    pd.DataFrame({"study": keys, **{f"f{j}": x[:, j] for j in range(F)}}).to_parquet(tmp_path / "e.parquet")
    for name in ("e.npz", "e.parquet"):
        data = load_embeddings(tmp_path / name, labels, TableOptions(label_columns=["sick"]))
        assert data.ids == ["5", "3", "9", "4"]
        assert data.annotation.targets.argmax(axis=1).tolist() == [0, 1, 0, 1]
        np.testing.assert_array_equal(data.x, x)
    # What is not in the table, or of other values, names none of its rows.
    np.savez(tmp_path / "other.npz", x=x, study=keys + 100)
    data = load_embeddings(tmp_path / "other.npz", labels, TableOptions(label_columns=["sick"]))
    assert data.ids == ["0", "1", "2", "3"]


def test_an_id_goes_before_a_number_of_rows(tmp_path: Path) -> None:
    columns = {"index": [7, 8, 9], "id": [9, 7, 8], "f": [0.9, 0.7, 0.8]}
    pd.DataFrame(columns).to_parquet(tmp_path / "e.parquet")
    labels = table(tmp_path, "sample_id,id,sick\n1,9,1\n2,8,0\n")
    data = load_embeddings(tmp_path / "e.parquet", labels)
    assert data.ids == ["9", "7", "8"]
    assert data.annotation.observed[:, 0].tolist() == [True, False, True]
    pd.DataFrame({"Row": [0, 0, 1], "tile": ["a", "b", "c"], "f": [1.0, 2.0, 3.0]}).to_parquet(tmp_path / "t.parquet")
    assert load_embeddings(tmp_path / "t.parquet", table(tmp_path, "tile,sick\na,1\nc,0\n")).ids == ["a", "b", "c"]


def test_a_label_among_the_features_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"id": IDS, "f": range(N), "sick": [0, 1] * 3}).to_parquet(tmp_path / "e.parquet")
    said = refused(tmp_path / "e.parquet", table(tmp_path, "id,sick\np0.png,1\np1.png,0\n"))
    assert "sick is among the features and among the labels" in said


def test_a_value_that_is_no_number_is_refused(tmp_path: Path) -> None:
    x = vectors()
    x[2, 1] = np.nan
    np.save(tmp_path / "e.npy", x)
    with pytest.raises(DataError, match=r"e\.npy: row 2 .* contains NaN or infinity in column"):
        load_embeddings(tmp_path / "e.npy", table(tmp_path, "row,sick\n0,1\n1,0\n"))


def test_a_column_that_holds_nothing_is_to_be_left_out(tmp_path: Path) -> None:
    x = vectors()
    x[:, 1] = np.nan
    np.save(tmp_path / "e.npy", x)
    with pytest.raises(
        DataError, match=r"row 0 \(0\) contains NaN or infinity in column 1, as all rows do: leave it out"
    ):
        load_embeddings(tmp_path / "e.npy", table(tmp_path, "row,sick\n0,1\n1,0\n"))


def test_spectra_with_a_side_of_one_are_vectors(tmp_path: Path) -> None:
    np.save(tmp_path / "e.npy", vectors()[:, :, None])
    assert load_embeddings(tmp_path / "e.npy", table(tmp_path, "row,sick\n0,1\n1,0\n")).x.shape == vectors().shape
    np.savez(tmp_path / "e.npz", x=vectors()[:, None], y=np.arange(N) % 2)
    assert load_npz(tmp_path / "e.npz").x.shape == vectors().shape


def test_the_loader_is_found_by_the_ending(tmp_path: Path) -> None:
    from taut.data import load_dataset

    data: Dataset = load_dataset(str(write(tmp_path / "e.npy")), labels=table(tmp_path, "row,sick\n0,1\n1,0\n"))
    assert data.x.shape == (N, F)
    with pytest.raises(DataError, match="has no annotations: pass a table with --labels, or --classes N"):
        load_dataset(str(tmp_path / "e.npy"))
    with pytest.raises(DataError, match="does not take --image-size"):
        load_dataset(str(tmp_path / "e.npy"), labels=tmp_path / "t.csv", image_size=8)


def test_a_model_reads_inputs_whatever_their_annotations(tmp_path: Path) -> None:
    model: Any = SimpleNamespace(
        space=LabelSpace.multiclass(["cat", "dog"]), architecture=SimpleNamespace(shape=(F,), z_dim=2)
    )
    flags = ReadFlags("")
    np.savez(tmp_path / "pack.npz", x=vectors(), y=np.array(["owl", "hen", "cow"] * 2), ids=np.array(IDS))
    np.savez(tmp_path / "embeddings.npz", vit=vectors(), ids=np.array(IDS))
    for name in ("pack.npz", "embeddings.npz"):
        ((names, x, unread),) = read_inputs(tmp_path / name, model, None, flags)
        assert (names, unread) == (IDS, [])
        np.testing.assert_array_equal(x, vectors())
    np.savez(tmp_path / "nothing.npz", a=np.zeros(3))
    with pytest.raises(DataError, match=r"nothing\.npz: expected an array 'x'"):
        next(read_inputs(tmp_path / "nothing.npz", model, None, flags))


def test_a_large_array_stays_on_the_disk_and_teaches_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "e.npy", rng.normal(size=(60, F)).astype(np.float32))
    parts = ["train", "test", "train"] * 20
    lines = [f"{i},{'ab'[i % 2]},{part}" for i, part in enumerate(parts) if i != 7]
    labels = table(tmp_path, "\n".join(["row,class,split", *lines]))
    change = partial(override, changes={"train.steps": 3, "train.folds": 2}, where="test")

    def trained() -> tuple[Dataset, Fitted, Any]:
        data = load_embeddings(tmp_path / "e.npy", labels, TableOptions(split_column="split"))
        fitted = fit(data.part("train"), change, quiet=True)
        return data, fitted, evaluate(fitted.model, data.part("test"))

    _, usual, figures = trained()
    monkeypatch.setattr(vector_files, "MAP_BYTES", 0)
    data, mapped, others = trained()
    assert is_mapped(data.x)
    assert isinstance(data.part("train").x, MappedRows)
    assert others == figures
    assert all(
        torch.equal(a, b) for a, b in zip(*(f.model.state_dict().values() for f in (usual, mapped)), strict=True)
    )
    x = np.load(tmp_path / "e.npy")
    x[11, 2] = np.nan
    np.save(tmp_path / "e.npy", x)
    with pytest.raises(DataError, match=r"row 10 \(11\) contains NaN"):
        load_embeddings(tmp_path / "e.npy", table(tmp_path, "row,class\n1,a\n2,b\n3,a\n3,b"))  # 3 is left out
    np.save(tmp_path / "double.npy", np.zeros((6, F)))
    whole = load_embeddings(tmp_path / "double.npy", None, space=LabelSpace.multiclass(2))
    assert (is_mapped(whole.x), whole.x.dtype) == (False, np.float32)

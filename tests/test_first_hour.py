"""What people do by mistake in their first hour: nothing of theirs is lost, and a sentence says what is meant."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from scipy.sparse import csr_matrix

from commands import Capture, refused, taut
from image_files import classes, images, paint, table
from taut.cli.command import split_arguments
from taut.cli.decisions import PlanFlags
from taut.data import DataError, load_dataset
from taut.estimator import TautClassifier
from taut.labels import LabelError
from tiny import FLAGS, TINY


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """Twelve images and a table of one finding beside their folder."""
    folder = images(tmp_path, *(f"{i}.png" for i in range(12)))
    lines = "\n".join(f"{i}.png,{i % 2}" for i in range(12))
    (tmp_path / "slides.csv").write_text(f"file,tumour\n{lines}\n")
    return folder


@pytest.fixture
def run(slides: Path) -> Path:
    """A run on them."""
    out = slides.parent / "run"
    taut("train", slides, "--labels", slides.parent / "slides.csv", *FLAGS, "--out", out, "--quiet")
    return out


# --- nothing that is read is written over -------------------------------------------------------------------


def test_predictions_replace_no_input(run: Path, slides: Path, capsys: Capture) -> None:
    labels, new, image = slides.parent / "slides.csv", slides.parent / "new.csv", slides / "0.png"
    shutil.copy(labels, new)
    before = {path: path.read_bytes() for path in (labels, new, image)}
    for given, out in ((slides, labels), (new, new), (image, image)):
        said = refused(capsys, "predict", run, given, "--out", out)
        assert said == f"--out {out} would replace {out}, which is read: choose another name"
    assert "would replace" in refused(capsys, "explain", run, image, "--label", "tumour", "--out", image)
    assert before == {path: path.read_bytes() for path in before}
    out = slides.parent / "p.csv"
    for _ in range(2):  # former predictions are replaced
        taut("predict", run, slides, "--out", out)
    assert len(pd.read_csv(out)) == 12


def test_an_evaluation_that_cannot_be_written_is_said_before_it_is_computed(
    run: Path, slides: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*_: Any) -> None:
        raise AssertionError("it was computed")

    monkeypatch.setattr("taut.cli.results.predict_logits", predict)
    (slides.parent / "file").write_text("")
    capsys.readouterr()
    assert "File exists" in refused(capsys, "evaluate", run, "--split", "train", "--out", slides.parent / "file")
    assert "--resamples -5 is negative" in refused(capsys, "evaluate", run, "--resamples", "-5")


def test_a_plan_is_written_into_a_new_folder(tmp_path: Path) -> None:
    taut("plan", "digits", "--labels-per-class", 5, "--out", tmp_path / "plans" / "p.yaml")
    assert yaml.safe_load((tmp_path / "plans" / "p.yaml").read_text())["train"]["steps"] > 0


def test_a_run_below_the_data_is_no_data(tmp_path: Path, capsys: Capture) -> None:
    folder = images(tmp_path / "pets", "cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png")
    for name in ("a", "b"):
        taut("train", folder, *FLAGS, "--out", folder / "runs" / name, "--quiet")
        assert "Classes are the subfolders: cat, dog." in capsys.readouterr().out
        taut("evaluate", folder / "runs" / name)  # which leaves a picture there


# --- what a comparison is asked for ---------------------------------------------------------------------------


def test_a_whole_plan_of_one_method_is_refused_before_any_method_trains(tmp_path: Path, capsys: Capture) -> None:
    taut("plan", "digits", "--labels-per-class", 5, "--out", tmp_path / "plan.yaml")
    capsys.readouterr()
    out = tmp_path / "c"
    said = refused(capsys, "compare", "digits", "--plan", tmp_path / "plan.yaml", "--out", out, "--minutes", 1)
    assert "is a whole plan of 'tighter-elbo', which would make another method of 'supervised'" in said
    assert not out.exists()


def test_a_comparison_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ("--labels-per-class", 5, "--objectives", "supervised", "--draws", 1)
    taut("compare", "digits", *flags, *FLAGS, "--out", ".")
    assert (tmp_path / "table.csv").is_file()


def test_steps_beside_minutes_are_said_to_have_no_effect(tmp_path: Path, capsys: Capture) -> None:
    said = "--train.steps 6 has no effect: --minutes sets the number of steps\n"
    flags = ("digits", "--labels-per-class", 5, *FLAGS)
    taut("train", *flags, "--minutes", 0.01, "--out", tmp_path / "run", "--quiet")
    assert said in capsys.readouterr().out
    taut("train", *flags, "--out", tmp_path / "other", "--quiet")
    assert "no effect" not in capsys.readouterr().out
    assert refused(capsys, "compare", *flags, "--minutes", -1, "--out", tmp_path / "c")
    assert PlanFlags(changes={"train.steps": 6}).ignored(1.0) == [said.strip()]


def test_a_flag_without_its_value_is_named() -> None:
    with pytest.raises(DataError, match=r"--augment\.flip needs a value"):
        split_arguments(["train", "x", "--augment.flip", "--out", "run"], set())
    assert split_arguments(["--train.seed_of", "-1"], set())[1] == {"train.seed_of": -1}


# --- what is said of the data -----------------------------------------------------------------------------------


def test_the_classes_of_a_column_are_listed_and_slips_of_the_pen_with_them(tmp_path: Path) -> None:
    folder = images(tmp_path, *(f"{i}.png" for i in range(6)))
    labels = table(tmp_path, "file,kind\n0.png,Benign\n1.png,benign\n2.png,bad\n3.png,bad\n4.png,Unknown\n5.png,\n")
    notes = load_dataset(str(folder), labels=labels, unlabeled="unknown").notes
    assert "No cell says 'unknown', which --unlabeled names." in notes
    assert "Classes of 'kind': Benign (1 row), Unknown (1 row), bad (2 rows), benign (1 row)." in notes
    assert "Classes Benign, benign differ in the case of letters alone: write them alike if they are one." in notes
    notes = load_dataset(str(folder), labels=labels, unlabeled="Unknown").notes
    assert not any("Unknown" in note for note in notes)


def test_subfolders_that_differ_in_case_or_are_not_there_are_told(tmp_path: Path) -> None:
    folder = images(tmp_path, "Cat/1.png", "cat/2.png", "dog/3.png")
    data = load_dataset(str(folder), unlabeled="rest")
    assert sorted(set(classes(data))) == ["Cat", "cat", "dog"]
    assert "Classes Cat, cat differ in the case of letters alone: write them alike if they are one." in data.notes
    assert "No subfolder is called 'rest', which --unlabeled names." in data.notes


def test_a_table_beside_subfolders_is_named(tmp_path: Path) -> None:
    folder = images(tmp_path, "images/1.png", "images/2.png")
    table(folder, "file,sick\n1.png,1\n2.png,0\n", "labels.csv")
    with pytest.raises(DataError, match=r"at least two are needed, or a table with --labels \(such as labels\.csv\)"):
        load_dataset(str(folder))
    paint(folder / "masks" / "1.png")
    assert any("(and not what --labels labels.csv would say)" in note for note in load_dataset(str(folder)).notes)


def test_an_image_that_is_found_in_another_folder_is_told(tmp_path: Path) -> None:
    """A folder of test images whose names begin anew, where that of training images was not unpacked."""
    folder = images(tmp_path, "test/0001.png", "test/0002.png")
    lines = "file,sick\ntrain/0001.png,1\ntrain/0002.png,0\n"
    notes = load_dataset(str(folder), labels=table(tmp_path, lines)).notes
    said = "2 rows name images in another folder than the one where it was found, such as 'train/0001.png', for which"
    assert any(note.startswith(said) for note in notes)
    for lines in ("test/0001.png,1\ntest/0002.png,0\n", "all/test/0001.png,1\nall\\test\\0002.png,0\n"):
        notes = load_dataset(str(folder), labels=table(tmp_path, f"file,sick\n{lines}")).notes
        assert not any("another folder" in note for note in notes)


def test_images_of_kinds_that_are_not_read_are_counted(tmp_path: Path) -> None:
    folder = images(tmp_path, "cat/1.png", "dog/2.png")
    (folder / "dog" / "3.HEIC").write_bytes(b"ftypheic")
    said = "Left out: 1 file of kinds that are not read, such as 'dog/3.HEIC': convert them to PNG."
    assert said in load_dataset(str(folder)).notes


def test_a_plan_that_leaves_images_without_annotation_out_says_so(tmp_path: Path, capsys: Capture) -> None:
    taut("plan", "digits", "--out", tmp_path / "plan.yaml")
    flags = ("--labels-per-class", 5, "--plan", tmp_path / "plan.yaml", *FLAGS, "--train.batch_unlabelled", 0)
    for name, told in (("tighter-elbo", True), ("supervised", False)):
        capsys.readouterr()
        changes = {"tighter-elbo": (), "supervised": ("--objective", "supervised")}[name]
        given = flags if told else ("--labels-per-class", 5, *FLAGS)
        taut("train", "digits", *given, *changes, "--out", tmp_path / name, "--quiet")
        said = "images that lack annotations take no part" in capsys.readouterr().out
        assert said == told


def test_a_size_that_the_frozen_encoder_does_not_take_is_refused(run: Path, slides: Path, capsys: Capture) -> None:
    train = ("train", slides, "--labels", slides.parent / "slides.csv", "--frozen", run, "--out", slides.parent / "x")
    said = refused(capsys, *train, "--image-size", 224)
    assert said.startswith(f"--image-size 224: --frozen {run} takes images of 1x")
    assert "--channels 3" in refused(capsys, *train, "--channels", 3)


# --- explain, evaluate, export --------------------------------------------------------------------------------


def test_a_class_alone_is_one_of_the_only_label(tmp_path: Path, capsys: Capture) -> None:
    folder = images(tmp_path / "pets", "cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png")
    taut("train", folder, *FLAGS, "--out", tmp_path / "run", "--quiet")
    taut("explain", tmp_path / "run", folder / "cat" / "1.png", "--label", "cat", "--out", tmp_path / "e.png")
    assert "q(label=cat|x)" in capsys.readouterr().out
    said = refused(capsys, "explain", tmp_path / "run", folder / "cat" / "1.png", "--label", "cow")
    assert said == "--label 'cow' is not one of label=cat, label=dog"


def test_an_exported_model_has_no_data_to_be_evaluated_on(run: Path, tmp_path: Path, capsys: Capture) -> None:
    taut("export", run, "--out", tmp_path / "model")
    said = refused(capsys, "evaluate", tmp_path / "model")
    assert said == f"{tmp_path / 'model'} is a model without its data: name what to evaluate on with --data"


def test_memory_that_runs_out_while_predicting_is_not_blamed_on_batches(
    run: Path, slides: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("taut.cli.results.prediction_table", full)
    said = refused(capsys, "predict", run, slides, "--out", slides.parent / "p.csv")
    assert said.startswith("out of memory")
    assert "--train" not in said


# --- from Python ----------------------------------------------------------------------------------------------


def test_arguments_that_are_no_arrays_are_named() -> None:
    model, x = TautClassifier(plan=TINY), np.random.default_rng(0).normal(size=(12, 4))
    y = np.arange(12) % 2
    with pytest.raises(ValueError, match=r"X is a list of names such as 'a\.png': read the files first"):
        model.fit(["a.png", "b.png"], [0, 1])
    pictures = [Image.new("L", size) for size in ((8, 8), (9, 8))]
    with pytest.raises(ValueError, match="X has images of several shapes"):
        model.fit(pictures, [0, 1])
    with pytest.raises(LabelError, match="y is a list of sets: scikit-learn's MultiLabelBinarizer"):
        model.fit(x, [{"a"}, {"a", "b"}] * 6)
    with pytest.raises(LabelError, match=r"y is a sparse matrix: pass y\.toarray"):
        model.fit(x, csr_matrix(np.eye(12)[:, :2]))
    assert model.fit([Image.new("L", (8, 8), i) for i in range(12)], y).predict(pictures[:1]).shape == (1,)


def test_sparse_vectors_are_written_out_where_there_is_room() -> None:
    x = np.random.default_rng(0).poisson(0.3, (30, 4)).astype(float)
    y = (x[:, 0] > 0).astype(int)
    model = TautClassifier(plan=TINY, random_state=0).fit(csr_matrix(x), y)
    np.testing.assert_array_equal(model.predict_proba(csr_matrix(x)), model.predict_proba(x))
    again = TautClassifier(plan=TINY, random_state=0).fit(x, y)
    np.testing.assert_array_equal(again.predict_proba(x), model.predict_proba(x))
    with pytest.raises(ValueError, match=r"X is sparse, and its 100,000 x 30,000 numbers take 12\.0 GB written out"):
        TautClassifier(plan=TINY).fit(csr_matrix((100_000, 30_000)), np.zeros(100_000))


def test_a_column_that_is_called_image_keeps_its_name(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    np.savez(tmp_path / "e.npz", x=x, ids=np.array(["a", "b", "c", "d"]))
    labels = table(tmp_path, "id,image site\na,north\nb,south\nc,north\n")
    notes = load_dataset(str(tmp_path / "e.npz"), labels=labels).notes
    assert "Classes of 'image site': north (2 rows), south (1 row)." in notes
    assert any("1 input is named by no row" in note for note in notes)
    assert not any("input site" in note for note in notes)


# --- what is wrong whatever the data are is told before they are read ---------------------------------------


@pytest.mark.parametrize("command", ["train", "plan", "compare"])
def test_no_image_is_read_for_flags_that_are_wrong(
    command: str, slides: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taut.cli.load_parts", lambda *_: pytest.fail("images were read"))
    out = () if command == "plan" else ("--out", slides.parent / "new")
    wrong = [
        (("--train.steps", "0"), "train.steps 0"),
        (("--model.weights", "no.pt"), "no.pt: there are no such weights"),
    ]
    wrong += [] if command == "plan" else [(("--minutes", "0"), "--minutes 0 is not a positive number")]
    # What a comparison has trained needs no weights any more.
    wrong = [(flags, said) for flags, said in wrong if command != "compare" or flags[0] != "--model.weights"]
    method = "--objectives" if command == "compare" else "--objective"
    for flags, said in [*wrong, ((method, "fixmach"), "'fixmach' is not one of")]:
        assert said in refused(capsys, command, slides, *flags, *out)
    assert not (slides.parent / "new").exists()

"""Several objectives side by side: the table, the draws that are kept, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from commands import Capture, refused, taut
from taut import compare as module
from taut.baselines import OBJECTIVES
from taut.compare import FIGURES, compare, digest, draw_points, label_table, pictures, read_rows, table
from taut.data.auxiliary import read_auxiliary
from taut.data.dataset import DataError, Dataset
from taut.data.split import draw_fraction
from taut.fit import fit
from taut.labels import LabelSpace
from taut.train import TrainingError, train
from tiny import FLAGS, SEVERAL, cells, images, some_known, tiny, vectors

pytestmark = pytest.mark.usefixtures("one_thread")

DIGITS = ("compare", "digits", "--labels-per-class", 5, *FLAGS, "--train.steps", 20)
PAIR = ("--objectives", "supervised,fixmatch", "--draws", 2)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The method and the seed of every training that is begun."""
    begun: list[tuple[str, int]] = []

    def counted(dataset: Dataset, change: Any, minutes: Any, seed: int, **options: Any) -> Any:
        begun.append((options["objective"], seed))
        return fit(dataset, change, minutes, seed, **options)

    monkeypatch.setattr(module, "fit", counted)
    return begun


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "draws.jsonl").read_text().splitlines()]


# --- the command --------------------------------------------------------------------------------------------


def test_two_objectives_on_two_draws(tmp_path: Path, capsys: Capture, trained: list[tuple[str, int]]) -> None:
    out = tmp_path / "deep" / "comparison"
    taut(*DIGITS, *PAIR, "--out", out)
    assert trained == [("supervised", 0), ("fixmatch", 0), ("supervised", 1), ("fixmatch", 1)]
    shown = capsys.readouterr().out
    assert f"draws.jsonl) are in {out}" in shown
    rows = lines(out)
    assert [(row["method"], row["seed"]) for row in rows] == trained
    assert all(row["steps"] == 20 and 0 <= row["error"] <= 100 and row["seconds"] > 0 for row in rows)
    assert len({row["parameters"] for row in rows}) == 1
    figures = [name for name in FIGURES if name in rows[0]]
    assert figures == ["error", "nll", "ece", "seconds"]  # one ten-way label has no AUROC, and nothing is decoded
    assert {path.name for path in out.iterdir()} == {
        "settings.json", "draws.jsonl", "table.csv", *(f"{name}.png" for name in figures)
    }  # fmt: skip
    for name in figures:
        with Image.open(out / f"{name}.png") as image:
            assert np.asarray(image.convert("L")).std() > 1
    saved = pd.read_csv(out / "table.csv", index_col="method")
    assert list(saved.index) == ["supervised", "fixmatch"]
    assert list(saved.columns) == [*figures, "draws", "parameters"]
    for name in saved.index:
        errors = np.array([row["error"] for row in rows if row["method"] == name])
        assert saved.loc[name, "error"] == f"{errors.mean():.4g} ± {errors.std(ddof=1):.4g}"
        assert saved.loc[name, "error"] in shown
        assert saved.loc[name, "draws"] == 2
    # A second call has all of it.
    taut(*DIGITS, *PAIR, "--out", out)
    assert len(trained) == 4
    again = capsys.readouterr().out
    assert again.splitlines()[-4:] == shown.splitlines()[-4:]
    assert "draw of seed" not in again
    # A method and a draw more cost only their own trainings.
    taut(*DIGITS, "--objectives", "fixmatch,pi-model", "--draws", 3, "--out", out)
    assert trained[4:] == [("pi-model", 0), ("pi-model", 1), ("fixmatch", 2), ("pi-model", 2)]
    assert list(pd.read_csv(out / "table.csv")["method"]) == ["fixmatch", "pi-model"]


def test_a_method_that_fails_is_named_after_the_table_of_the_others(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(dataset: Dataset, *rest: Any, **options: Any) -> Any:
        if options["objective"] == "fixmatch":
            raise TrainingError("step 3: the loss term 'total' is nan")
        return fit(dataset, *rest, **options)

    out = tmp_path / "c"
    few = ("--objectives", "fixmatch,supervised", "--draws", 1, "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr(module, "fit", fails)
        said = refused(capsys, *DIGITS, *few)
        assert said == "fixmatch failed on the draw of seed 0: step 3: the loss term 'total' is nan"
        assert list(pd.read_csv(out / "table.csv")["method"]) == ["supervised"]
        assert "fixmatch failed" in refused(capsys, *DIGITS, *few[:1], "fixmatch", *few[2:])  # none is left to show
    taut(*DIGITS, *few)
    assert set(pd.read_csv(out / "table.csv")["method"]) == {"fixmatch", "supervised"}


def several(path: Path, labels: int, n: int = 60) -> Path:
    """Vectors with yes/no labels, and a test part."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, (n, labels))
    split = np.repeat(["train", "test"], [n - 10, 10])
    np.savez(path, x=rng.normal(size=(n, 4)), y=y, label_names=np.array([f"l{i}" for i in range(labels)]), split=split)
    return path


def test_a_method_that_cannot_do_the_data_is_named_like_one_that_fails(tmp_path: Path, capsys: Capture) -> None:
    pack, out = several(tmp_path / "pack.npz", 14), tmp_path / "c"
    names = ("--objectives", "m2,supervised", "--draws", 1)
    said = refused(capsys, "compare", pack, *FLAGS, *names, "--labelled-fraction", 0.5, "--out", out)
    assert said.startswith("m2 failed on the draw of seed 0: 16384 label combinations")
    assert list(pd.read_csv(out / "table.csv")["method"]) == ["supervised"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
            "fixmatch failed on the draw of seed 0: out",
        ),
        (DataError("x.csv, row 3: no"), "x.csv, row 3: no"),
    ],
)
def test_other_failures(
    error: Exception, said: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one method has no memory for the others may have; data that are wrong are wrong for all of them."""

    def fails(dataset: Dataset, *rest: Any, **options: Any) -> Any:
        if options["objective"] == "fixmatch":
            raise error
        return fit(dataset, *rest, **options)

    monkeypatch.setattr(module, "fit", fails)
    few = ("--objectives", "fixmatch,supervised", "--draws", 1, "--out", tmp_path / "c")
    assert refused(capsys, *DIGITS, *few).startswith(said)
    assert (tmp_path / "c" / "table.csv").exists() == said.startswith("fixmatch")


def test_a_budget_that_is_none_is_no_methods_fault(tmp_path: Path, capsys: Capture) -> None:
    said = refused(capsys, *DIGITS, *PAIR, "--minutes=-1", "--out", tmp_path / "c")
    assert said == "--minutes -1 is not a positive number"


def test_a_prior_that_is_suspicious_is_told_before_the_trainings(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    y = np.ones((40, 2))
    y[20:30] = np.nan
    y[30:, 0] = 0
    split = np.repeat(["train", "test"], [30, 10])
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(40, 4)), y=y, split=split)
    told: list[str] = []

    def counted(*rest: Any, **options: Any) -> Any:
        told.append(capsys.readouterr().out)
        return train(*rest, **options)

    monkeypatch.setattr("taut.fit.train", counted)
    taut("compare", tmp_path / "x.npz", *FLAGS, *PAIR, "--out", tmp_path / "c")
    assert told[0].count("Nearly all observed cells are positive") == 1
    assert "positive" not in "".join(told[1:]) + capsys.readouterr().out


def test_the_draws_are_those_of_train(tmp_path: Path, capsys: Capture) -> None:
    """The same figures as `taut train` prints for the seed, so that nothing of a method leaks into another."""
    taut(*DIGITS, "--objectives", "fixmatch,supervised", "--draws", 1, "--seed", 3, "--out", tmp_path / "c")
    flags = ("train", *DIGITS[1:], "--objective", "supervised", "--seed", 3, "--out", tmp_path / "run")
    capsys.readouterr()
    taut(*flags)
    row = lines(tmp_path / "c")[1]
    assert (row["method"], row["seed"]) == ("supervised", 3)
    assert f"error {row['error']:.4g}, ece {row['ece']:.4g}, nll {row['nll']:.4g}" in capsys.readouterr().out


def test_other_flags_into_the_same_folder_are_refused(tmp_path: Path, capsys: Capture) -> None:
    out, few = tmp_path / "c", ("--objectives", "supervised", "--draws", 1)
    taut(*DIGITS, *few, "--out", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "plan.yaml").write_text("train: {learning_rate: 0.01}")
    for changed in (
        ("--train.learning_rate", 0.01),
        ("--minutes", 1),
        ("--plan", tmp_path / "plan.yaml"),
        ("--train.steps", 21),
    ):
        said = refused(capsys, *DIGITS, *few, *changed, "--out", out)
        assert said == (f"{out} was begun with other data or flags (see {out / 'settings.json'}); choose another --out")
    other = ("compare", "digits", "--labels-per-class", 6, *FLAGS, "--train.steps", 20)
    assert "was begun with other data or flags" in refused(capsys, *other, *few, "--out", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_other_data_under_the_same_flags_are_refused(
    tmp_path: Path, capsys: Capture, trained: list[tuple[str, int]]
) -> None:
    pack, out = several(tmp_path / "pack.npz", 2), tmp_path / "c"
    command = ("compare", pack, *FLAGS, "--objectives", "supervised", "--draws", 1, "--out", out)
    taut(*command)
    with np.load(pack) as data:
        usual = dict(data)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    refusal = (
        f"{out} was begun with other data: the flags are the same, but labels, prevalences, annotations, ids or inputs "
        "have changed since; choose another --out, or move the folder away"
    )
    for name, row in (("y", 0), ("y", -1), ("x", 0), ("x", -1)):  # of the training and of the test part
        changed = usual[name].copy()
        changed[row, 0] = 1 - changed[row, 0]
        np.savez(pack, **{**usual, name: changed})
        capsys.readouterr()
        assert refused(capsys, *command) == refusal
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    np.savez(pack, **usual)
    taut(*command)  # written anew, with the same in it
    assert len(trained) == 1


def test_a_folder_of_an_older_version_goes_on_and_is_bound_to_its_data_from_then_on(
    tmp_path: Path, capsys: Capture, trained: list[tuple[str, int]]
) -> None:
    pack, out = several(tmp_path / "pack.npz", 2), tmp_path / "c"
    command = ("compare", pack, *FLAGS, "--objectives", "supervised", "--out", out, "--draws")
    taut(*command, 1)
    settings = json.loads((out / "settings.json").read_text())
    assert settings.pop("digest")
    (out / "settings.json").write_text(json.dumps(settings))
    rows = lines(out)
    assert rows[0].pop("per_label")
    (out / "draws.jsonl").write_text(json.dumps(rows[0]) + "\n")
    taut(*command, 1)
    taut(*command, 2)
    assert trained == [("supervised", 0), ("supervised", 1)]
    assert list(pd.read_csv(out / "table.csv")["draws"]) == [2]
    assert list(pd.read_csv(out / "per_label.csv")["draws"]) == [1, 1]  # the other has no figures of labels
    several(pack, 2, n=70)
    capsys.readouterr()
    assert "was begun with other data: " in refused(capsys, *command, 2)


def test_every_label_has_its_figures(tmp_path: Path, capsys: Capture) -> None:
    pack, out = several(tmp_path / "pack.npz", 2, n=80), tmp_path / "c"
    taut("compare", pack, *FLAGS, *PAIR[:1], "supervised,pi-model", *PAIR[2:], "--out", out)
    assert f"table.csv, per_label.csv, a picture of each figure and every draw (draws.jsonl) are in {out}" in (
        capsys.readouterr().out
    )
    saved = pd.read_csv(out / "per_label.csv")
    assert list(saved.columns) == ["label", "method", "error", "auroc", "ap", "draws"]
    assert list(zip(saved["label"], saved["method"], strict=True)) == [
        ("l0", "supervised"), ("l0", "pi-model"), ("l1", "supervised"), ("l1", "pi-model")
    ]  # fmt: skip
    for row in saved.itertuples():
        values = np.array(
            [line["per_label"][row.label]["auroc"] for line in lines(out) if line["method"] == row.method]
        )
        assert row.auroc == f"{values.mean():.4g} ± {values.std(ddof=1):.4g}"


def test_what_cannot_be_compared_is_one_sentence(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "c"
    said = refused(capsys, *DIGITS, "--objectives", "supervised,fixmach", "--out", out)
    assert said == f"--objective 'fixmach' is not one of {', '.join(OBJECTIVES)}"
    assert refused(capsys, *DIGITS, "--objectives", ",", "--out", out) == "--objectives names no method"
    assert refused(capsys, *DIGITS, *PAIR[:2], "--draws", 0, "--out", out) == "--draws 0 is not a positive number"
    assert "leave out --objective.name" in refused(capsys, *DIGITS, "--objective.name", "vat", "--out", out)
    pack, hidden = tmp_path / "pack.npz", tmp_path / "hidden.npz"
    rng = np.random.default_rng(0)
    np.savez(pack, x=rng.normal(size=(30, 4)), y=np.arange(30) % 3)
    np.savez(hidden, x=rng.normal(size=(10, 4)), y=np.full(10, -1))
    said = refused(capsys, "compare", pack, *FLAGS, "--out", out)
    assert said == f"{pack} has no annotated test part to compare on; give one with --test"
    assert "has no annotated test part" in refused(capsys, "compare", pack, "--test", hidden, *FLAGS, "--out", out)
    assert not out.exists()


def test_test_data_of_its_own_and_a_plan_file(tmp_path: Path, trained: list[tuple[str, int]]) -> None:
    rng = np.random.default_rng(0)
    for name, n in (("pack", 40), ("test", 20)):
        np.savez(tmp_path / f"{name}.npz", x=rng.normal(size=(n, 4)), y=np.arange(n) % 3)
    # A plan that names a method does not make all methods that one.
    (tmp_path / "plan.yaml").write_text("objective: {name: vat}\ntrain: {weight_decay: 0.01}")
    files = ("--test", tmp_path / "test.npz", "--plan", tmp_path / "plan.yaml")
    flags = ("--labelled-fraction", 0.5, *FLAGS, "--objectives", "supervised, tighter-elbo", "--draws", 1)
    taut("compare", tmp_path / "pack.npz", *files, *flags, "--out", tmp_path / "c")
    assert trained == [("supervised", 0), ("tighter-elbo", 0)]
    one, two = lines(tmp_path / "c")
    assert one["nll"] != two["nll"]
    saved = pd.read_csv(tmp_path / "c" / "table.csv")
    assert "±" not in saved["error"].astype(str).iloc[0]  # one draw has no spread


# --- the function -------------------------------------------------------------------------------------------


def draws_of(data: Dataset) -> Callable[[int], Dataset]:
    return lambda seed: replace(data, annotation=draw_fraction(data, 0.5, seed))


def test_a_line_that_was_cut_off_is_trained_again(tmp_path: Path, trained: list[tuple[str, int]]) -> None:
    data = vectors(some_known(60, 60))
    arguments = (draws_of(data), data, ["supervised", "pi-model"], [0, 1], tmp_path, None, tiny())
    want = compare(*arguments)
    assert len(trained) == 4
    whole = (tmp_path / "draws.jsonl").read_text()
    (tmp_path / "draws.jsonl").write_text(whole[:-20])
    rows = read_rows(tmp_path / "draws.jsonl")
    assert [(row["method"], row["seed"]) for row in rows] == trained[:3]
    # The file ends with a whole line again, so that the next one does not run into the rest of it.
    assert (tmp_path / "draws.jsonl").read_text() == "".join(whole.splitlines(keepends=True)[:3])
    (tmp_path / "draws.jsonl").write_text(whole[:-20])
    got = compare(*arguments)
    assert trained[4:] == [("pi-model", 1)]
    assert len(lines(tmp_path)) == 4
    pd.testing.assert_frame_equal(got.drop(columns="seconds"), want.drop(columns="seconds"))


def test_every_training_is_told_of_and_its_notes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(dataset: Dataset, change: Any, minutes: Any, seed: int, **options: Any) -> Any:
        if (options["objective"], seed) == ("pi-model", 1):
            raise TrainingError("step 3")
        return fit(dataset, change, minutes, seed, **options)

    monkeypatch.setattr(module, "fit", fails)
    data, told = vectors(some_known(60, 60)), list[str]()
    arguments = (draws_of(data), data, ["supervised", "pi-model"], [0, 1], tmp_path, None, tiny(), None, [])
    compare(*arguments, told.append)
    trainings = [line for line in told if "draw of seed" in line]
    assert trainings == [
        *(
            f"{row['method']}, draw of seed {row['seed']}: error {row['error']:.4g}, nll {row['nll']:.4g}, "
            f"ece {row['ece']:.4g}, {row['seconds']:.0f} s"
            for row in lines(tmp_path)
        ),
        "pi-model failed on the draw of seed 1: step 3",
    ]
    notes = [line for line in told if line not in trainings]
    assert [line.startswith("out-of-distribution scores are compared with 60") for line in notes].count(True) == 1
    assert len({note.split()[0] for note in notes}) == len(notes)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: {"ids": [*data.ids[:-1], "other"]},
        lambda data: {"annotation": draw_fraction(data, 0.5, 0)},
        lambda data: {"annotation": replace(data.annotation, ignored=~data.annotation.observed)},
        lambda data: {"space": LabelSpace.multilabel(["a", "c"])},
        lambda data: {"x": np.where(np.arange(60)[:, None, None, None] == 3, 255 - data.x, data.x)},
        lambda data: {"groups": np.arange(60)},
        lambda data: {"prevalence": {"a": 0.3}},
        lambda data: {"split": np.repeat(["train", "valid"], 30)},
        lambda data: {"cells": np.zeros((60, 2), dtype=np.int16)},
        lambda data: {"auxiliary": read_auxiliary({"sex": np.arange(60) % 2})},
    ],
)
def test_the_digest_is_of_all_that_figures_depend_on(change: Callable[[Dataset], dict[str, Any]]) -> None:
    data, same = images(cells(60, 1.0), SEVERAL), images(cells(60, 1.0), SEVERAL)
    assert digest(data, data) == digest(same, same)
    other = replace(data, **change(data))
    assert len({digest(data, data), digest(other, data), digest(data, other)}) == 3


def test_finished_trainings_survive_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = vectors(some_known(60, 60))

    def stops(dataset: Dataset, *rest: Any, **options: Any) -> Any:
        if options["objective"] == "pi-model":
            raise KeyboardInterrupt
        return fit(dataset, *rest, **options)

    monkeypatch.setattr(module, "fit", stops)
    with pytest.raises(KeyboardInterrupt):
        compare(draws_of(data), data, ["supervised", "pi-model"], [0], tmp_path, None, tiny())
    assert [row["method"] for row in lines(tmp_path)] == ["supervised"]


def test_a_failure_is_raised_where_nobody_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*rest: Any, **options: Any) -> Any:
        raise TrainingError("step 3")

    monkeypatch.setattr(module, "fit", fails)
    data = vectors(some_known(60, 60))
    with pytest.raises(TrainingError, match="step 3"):
        compare(draws_of(data), data, ["supervised"], [0], tmp_path, None, tiny())


def test_a_training_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "draws.jsonl"
    rows = [{"method": "a", "seed": s, "error": e} for s, e in ((0, 1.0), (1, 2.0), (0, 3.0), (2, 4.0))]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_rows(path) == [rows[0], rows[1], rows[3]]
    assert lines(tmp_path) == [rows[0], rows[1], rows[3]]


def test_only_the_first_of_several_processes_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trained: list[tuple[str, int]]
) -> None:
    row = {"method": "pi-model", "seed": 0}
    monkeypatch.setattr(module, "processes", lambda: SimpleNamespace(is_main_process=False, num_processes=2))
    monkeypatch.setattr(module, "broadcast_object_list", lambda values: [[row]])
    data, folder = vectors(some_known(60, 60)), tmp_path / "c"
    rows = compare(draws_of(data), data, ["supervised", "pi-model"], [0], folder, None, tiny())
    assert trained == [("supervised", 0)]
    assert set(rows["method"]) == {"supervised", "pi-model"}
    assert not folder.exists()


def test_every_method_gets_the_same_draw_and_its_own_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, Any]] = []

    def kept(dataset: Dataset, *rest: Any, **options: Any) -> Any:
        fitted = fit(dataset, *rest, **options)
        seen.append((dataset.annotation.observed, fitted.plan))
        return fitted

    monkeypatch.setattr(module, "fit", kept)
    data = images(cells(60, 1.0), SEVERAL)
    rows = compare(draws_of(data), data, ["fixmatch", "m2"], [4, 5], tmp_path, None, tiny())
    assert [plan.objective.name for _, plan in seen] == ["fixmatch", "m2"] * 2
    assert [plan.seed for _, plan in seen] == [4, 4, 5, 5]
    assert np.array_equal(seen[0][0], seen[1][0])
    assert not np.array_equal(seen[0][0], seen[2][0])
    assert seen[0][1].objective.threshold == 0.95
    assert seen[1][1].model.z_given_c
    # Two-way labels have the figures of a ranking, and networks of different kinds different numbers of weights.
    assert {"auroc_macro", "ap_macro"} <= set(rows.columns)
    counts = table(rows)["parameters"]
    assert counts["fixmatch"] != counts["m2"]


def test_an_unknown_name_leaves_nothing_behind(tmp_path: Path) -> None:
    data = vectors(some_known())
    with pytest.raises(ValueError, match="'nothing' is not one of"):
        compare(draws_of(data), data, ["supervised", "nothing"], [0], tmp_path / "c", None, tiny())
    assert not (tmp_path / "c").exists()


def test_a_folder_of_another_budget_is_refused(tmp_path: Path) -> None:
    data = vectors(some_known(60, 60))
    arguments = (draws_of(data), data, ["supervised"], [0], tmp_path)
    compare(*arguments, None, tiny(), {"data": Path("x")})
    compare(*arguments, None, tiny(), {"data": "x"})  # as JSON has it
    for minutes, about in ((1.0, {"data": "x"}), (None, {"data": "y"}), (None, None)):
        with pytest.raises(DataError, match="begun with other data or flags"):
            compare(*arguments, minutes, tiny(), about)


def figures() -> pd.DataFrame:
    """Three draws of a method and one of another, which misses a figure."""
    rows = [{"method": "a", "seed": s, "error": e, "nll": 0.5, "parameters": 7} for s, e in enumerate([1.0, 2.0, 6.0])]
    return pd.DataFrame([*rows, {"method": "b", "seed": 0, "error": 12345.678, "parameters": 9}])


def test_the_table_has_means_and_deviations() -> None:
    shown = table(figures())
    assert shown.loc["a", "error"] == "3 ± 2.646"
    assert shown.loc["b", "error"] == "1.235e+04"
    assert (shown.loc["a", "nll"], shown.loc["b", "nll"]) == ("0.5 ± 0", "")
    assert list(shown["draws"]) == [3, 1]
    assert list(shown["parameters"]) == [7, 9]
    assert "seed" not in shown


def test_a_label_without_a_figure_has_none_in_the_table() -> None:
    labels = [{"a": {"annotated": 0, "error": None}, "b": {"error": error, "auroc": None}} for error in (1.0, 2.0)]
    shown = label_table(pd.DataFrame([{"method": "m", "seed": s, "per_label": row} for s, row in enumerate(labels)]))
    assert shown.to_dict("records") == [
        {"label": "a", "method": "m", "error": "", "auroc": "", "ap": "", "draws": 2},
        {"label": "b", "method": "m", "error": "1.5 ± 0.7071", "auroc": "", "ap": "", "draws": 2},
    ]
    assert label_table(figures()).empty  # of an older version


def test_a_picture_has_every_draw_the_mean_and_the_deviation() -> None:
    axis = Figure().subplots()
    draw_points(axis, {"a": [1.0, 3.0, 8.0], "b": [2.0], "c": []}, "error, %")
    drawn = [(line.get_marker(), line.get_xdata(), set(line.get_ydata())) for line in axis.get_lines()]
    dots = [(list(x), y) for marker, x, y in drawn if marker == "o"]
    assert dots == [([1.0, 3.0, 8.0], {0}), ([2.0], {1}), ([], set())]
    means = [(set(x), y) for marker, x, y in drawn if marker == "None" and len(y) == 2]
    assert means == [({4.0}, {-0.3, 0.3}), ({2.0}, {0.7, 1.3})]
    (bar,) = [container for container in axis.containers if container.has_xerr]
    (ends,) = bar[2][0].get_segments()
    np.testing.assert_allclose(ends[:, 0], [4 - 13**0.5, 4 + 13**0.5])
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a", "b", "c"]
    assert axis.get_xlabel() == "error, %"


@pytest.mark.parametrize("methods", [["a"], ["a", "b"], [*"abcdefghijklmn"]])
def test_a_picture_for_each_figure(methods: list[str], tmp_path: Path) -> None:
    rows = figures()
    more = [rows[rows["method"] == "b"].assign(method=name) for name in methods[2:]]
    drawn = pictures(pd.concat([rows[rows["method"].isin(methods)], *more]), tmp_path)
    assert drawn == [tmp_path / "error.png", tmp_path / "nll.png"]
    for path in drawn:
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert np.asarray(image.convert("L")).min() < 128

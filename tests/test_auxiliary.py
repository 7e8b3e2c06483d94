from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from commands import Capture, refused, taut
from taut.baselines import OBJECTIVES
from taut.build import build_model, build_objective, build_stream
from taut.data import load_dataset
from taut.data.auxiliary import Auxiliary, read_auxiliary
from taut.data.dataset import DataError, Dataset
from taut.estimator import TautClassifier
from taut.facts import fingerprint
from taut.fit import fit, plan_of
from taut.labels import LabelSpace
from taut.objective import Batch, auxiliary_term
from taut.plan import Plan, override
from taut.run import load_model
from tiny import FLAGS, TINY

NAN = float("nan")


def made(n: int = 60, **columns: Any) -> Dataset:
    """Vectors of two yes/no labels of which the first twenty are annotated, with auxiliary values."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 6)).astype(np.float32)
    y = np.stack([x[:, 0] > 0, x[:, 1] > 0], axis=1).astype(float)
    y[20:] = NAN
    space = LabelSpace.multilabel(2)
    columns = columns or {"side": x[:, 2] > 0}
    return Dataset("made", x, space, space.encode(y), list(map(str, range(n))), auxiliary=read_auxiliary(columns))


def tiny(plan: Plan) -> Plan:
    return override(plan, TINY, "test")


def batch_of(data: Dataset, plan: Plan, model: Any) -> Batch:
    objective = build_objective(model, plan, fingerprint(data))
    return build_stream(data, plan, objective).batch(0, model, torch.device("cpu"))


# --- reading ------------------------------------------------------------------------------------------------


def test_words_and_few_numbers_are_classes_and_many_numbers_quarters() -> None:
    ages = np.arange(12.0)
    ages[3] = NAN
    found = read_auxiliary({"sex": ["F", "M", " M", None, "", "nan"] * 2, "parity": [0, 1] * 6, "age": ages})
    assert [label.name for label in found.space] == ["sex", "parity", "age"]
    assert [label.classes for label in found.space] == [
        ("F", "M"),
        ("0", "1"),
        ("up to 3", "up to 6", "up to 8.5", "above 8.5"),
    ]
    assert found.annotation.observed[:6, 0].tolist() == [True, True, True, False, False, False]
    blocks = found.space.blocks
    assert found.annotation.targets[:3, blocks[0]].argmax(1).tolist() == [0, 1, 1]
    assert np.isnan(found.annotation.targets[3]).tolist() == [True, True, False, False, True, True, True, True]
    assert found.annotation.targets[[0, 4, 7, 11], blocks[2]].argmax(1).tolist() == [0, 1, 2, 3]
    assert "sex (2 classes, known of 6), parity (2 classes, known of 12), age (4 classes, known of 11)" in (
        found.describe()
    )


def test_numbers_that_are_mostly_one_value_have_fewer_classes() -> None:
    found = read_auxiliary({"dose": [0.0] * 40 + list(range(1, 13))})
    assert len(found.space.labels[0].classes) == 2
    np.testing.assert_array_equal(found.annotation.targets[:, 1], np.arange(52) >= 40)


@pytest.mark.parametrize(
    ("values", "classes", "last"),
    [
        ([100.0] * 40 + list(range(88, 100)), ("up to 99", "above 99"), 40),
        (list(20200101 + np.arange(12)), ("up to 20200103.75", "up to 20200106.5", "up to 20200109.25"), 3),
        ([0.1234567, 0.1234568] * 5, ("0.1234567", "0.1234568"), 5),
        ([1, 2, "F", "M"] * 2, ("1", "2", "F", "M"), 2),
        ([60, 70, "60+", 60], ("60", "60+", "70"), 1),
        ([b"F", b"M"], ("F", "M"), 1),
        (list(pd.cut([1, 2, 3, 4], 2)), ("(0.997, 2.5]", "(2.5, 4.0]"), 2),
        ([np.inf, 1, 2, -np.inf], ("1", "2"), 1),
        (np.ma.masked_equal([1, 2, -9, 1], -9), ("1", "2"), 1),
    ],
)
def test_values_of_any_kind_are_classes(values: Any, classes: tuple[str, ...], last: int) -> None:
    found = read_auxiliary({"a": values})
    assert found.space.labels[0].classes[: len(classes)] == classes
    assert np.nansum(found.annotation.targets[:, -1]) == last


def test_rows_that_are_not_learnt_from_say_nothing_of_the_classes() -> None:
    learnt = np.arange(24) < 20
    ages, sites = np.arange(24), ["a", "b"] * 10 + ["a", "c", "b", "c"]
    found = read_auxiliary({"age": ages, "site": sites}, learnt=learnt)
    assert found.space.labels[0].classes[-1] == "above 14.25"
    assert found.space.labels[1].classes == ("a", "b")
    assert found.annotation.observed[20:].tolist() == [[True, True], [True, False]] * 2
    with pytest.raises(DataError, match="'site' says the same"):
        read_auxiliary({"site": ["a"] * 20 + ["b"] * 4}, learnt=learnt)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"a": np.ones((3, 2))}, r"--auxiliary 'a' has shape \[3, 2\]: expected a value for each image"),
        ({"a": 1}, r"--auxiliary 'a' has shape \[\]"),
        ({"a": [1, 2], "b": [1, 2, 3]}, "--auxiliary has columns of different lengths: 2, 3"),
        ({}, "--auxiliary names no column"),
    ],
)
def test_columns_that_are_none_are_refused(columns: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_auxiliary(columns)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([f"note {i}" for i in range(30)], "'a' has 30 different texts, such as note 0"),
        (["F"] * 30, "'a' says the same of every image, or nothing"),
        ([None] * 30, "'a' says the same of every image, or nothing"),
    ],
)
def test_columns_that_teach_nothing_are_refused(values: list[Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_auxiliary({"a": values})


# --- the term -----------------------------------------------------------------------------------------------


def test_the_term_is_the_cross_entropy_of_what_is_known() -> None:
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    known = torch.tensor([[1, 0, NAN, NAN, NAN], [NAN] * 5, [0, 1, 0, 0, 1], [NAN, NAN, 1, 0, 0]])
    cross_entropy = torch.nn.functional.cross_entropy
    wanted = (
        cross_entropy(logits[[0, 2], :2], torch.tensor([0, 1]), reduction="sum")
        + cross_entropy(logits[[2, 3], 2:], torch.tensor([2, 0]), reduction="sum")
    ) / 3
    found = auxiliary_term(logits, known, (2, 3))
    torch.testing.assert_close(found, wanted)
    torch.autograd.backward(found)
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[1].eq(0).all()


@pytest.mark.parametrize("name", ["tighter-elbo", "supervised"])
def test_what_is_known_of_unannotated_inputs_reaches_the_encoder(name: str) -> None:
    data = made()
    assert data.auxiliary is not None
    data.auxiliary.annotation.observed[:20] = False  # of which only unannotated inputs tell
    plan = override(plan_of(data, tiny, objective=name), {"train.batch_labelled": 8, "train.batch_unlabelled": 8}, "")
    model = build_model(data, plan, fingerprint(data))
    batch = batch_of(data, plan, model)
    objective = build_objective(model, plan, fingerprint(data))
    assert batch.auxiliary is not None
    terms = objective.loss(model, batch, 0)
    without = objective.loss(model, dataclasses.replace(batch, auxiliary=None), 0)
    assert terms.auxiliary is not None
    assert without.auxiliary is None
    torch.autograd.backward(terms.auxiliary if name == "tighter-elbo" else terms.total)
    head = model.to_auxiliary
    assert head is not None
    assert head.weight.grad is not None
    assert head.weight.grad.abs().sum() > 0
    reached = [weight.grad for weight in model.encoder.parameters() if weight.grad is not None]
    assert sum(float(gradient.abs().sum()) for gradient in reached) > 0
    doubled = build_objective(model, override(plan, {"objective.auxiliary": 0.0}, ""), fingerprint(data))
    torch.manual_seed(0)
    silent = doubled.loss(model.eval(), batch, 0).total
    torch.manual_seed(0)
    torch.testing.assert_close(silent, doubled.loss(model, dataclasses.replace(batch, auxiliary=None), 0).total)


def test_auxiliary_values_are_learnt_and_the_trained_model_has_no_head_for_them() -> None:
    fitted = fit(made(), tiny, quiet=True)
    assert fitted.model.to_auxiliary is None
    assert not any("auxiliary" in name for name in fitted.model.state_dict())
    assert fitted.facts.auxiliary == 1


def test_methods_that_do_not_learn_from_them_keep_their_plan() -> None:
    rows = np.arange(400)
    y = np.where((rows < 40)[:, None], np.stack([rows % 2, rows // 2 % 2], axis=1), NAN)
    x = np.random.default_rng(0).integers(0, 256, (400, 1, 8, 8), dtype=np.uint8)
    space = LabelSpace.multilabel(2)
    data = Dataset("scans", x, space, space.encode(y), list(map(str, rows)), auxiliary=read_auxiliary({"a": rows % 3}))
    without = dataclasses.replace(data, auxiliary=None)
    for name in ("fixmatch", "m2"):
        assert plan_of(data, objective=name) == plan_of(without, objective=name)
    assert (plan_of(data).train.batch_unlabelled, plan_of(without).train.batch_unlabelled) == (32, 8)
    assert plan_of(without, objective="supervised").train.batch_unlabelled == 0
    plan = plan_of(data, objective="supervised")
    assert plan.train.batch_unlabelled == 32
    plan.objective.source = "teacher"
    # Strong views of what nothing is said of would teach nothing.
    assert build_objective(build_model(data, plan, fingerprint(data)), plan, fingerprint(data)).second_view == "none"


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_every_method_says_whether_it_learns_from_them(name: str) -> None:
    fitted = fit(made(), tiny, quiet=True, objective=name)
    said = f"{name} does not learn from auxiliary variables" in fitted.notes
    assert said != (name in ("tighter-elbo", "supervised"))


def test_rows_keep_their_values() -> None:
    data = made().rows(np.array([5, 3]))
    assert isinstance(data.auxiliary, Auxiliary)
    np.testing.assert_array_equal(data.auxiliary.annotation.targets[:, 1], data.x[:, 2] > 0)
    with pytest.raises(DataError, match="60 images but 2 auxiliary values"):
        dataclasses.replace(made(), auxiliary=data.auxiliary)


# --- where they come from -----------------------------------------------------------------------------------


def test_arrays_of_a_pack(tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (24, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "p.npz", x=x, y=np.arange(24) % 3, sex=np.array(["F", "M"] * 12), age=np.arange(24))
    data = load_dataset(str(tmp_path / "p.npz"), auxiliary=["sex", "age"])
    assert data.auxiliary is not None
    assert data.auxiliary.space.sizes == (2, 4)
    flags = (tmp_path / "p.npz", "--auxiliary", "sex,age", *FLAGS, "--out", tmp_path / "run")
    taut("train", *flags)
    assert "Auxiliary, to learn from and not to predict: sex (2 classes" in capsys.readouterr().out
    assert load_model(tmp_path / "run").to_auxiliary is None
    np.savez(tmp_path / "p.npz", x=x, y=np.arange(24) % 3)
    taut("evaluate", tmp_path / "run")  # which needs them no more
    other = {"x": x[:5], "y": np.arange(5) % 3}
    np.savez(tmp_path / "other.npz", **other)
    taut("evaluate", tmp_path / "run", "--data", tmp_path / "other.npz")
    capsys.readouterr()
    np.savez(tmp_path / "p.npz", x=x, y=np.arange(24) % 3, sex=np.array(["F", "M"] * 12), age=np.arange(24))
    said = refused(capsys, "plan", tmp_path / "p.npz", "--auxiliary", "y")
    assert "--auxiliary 'y' says nothing beside the images and their labels" in said
    taut("plan", tmp_path / "p.npz", "--auxiliary", "sex", "--objective", "mean-teacher")
    assert "mean-teacher does not learn from auxiliary variables" in capsys.readouterr().out
    assert "has no array 'size' that --auxiliary names; other arrays there: sex, age" in refused(
        capsys, "plan", tmp_path / "p.npz", "--auxiliary", "size"
    )
    assert "digits does not take --auxiliary" in refused(capsys, "plan", "digits", "--auxiliary", "age")


def test_columns_of_a_table(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = ["file,A,B,sex,age"]
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
        if i < 16:
            rows.append(f"{i}.png,{i % 2},{'' if i % 3 else 1 - i % 2},{'FM'[i % 2]},{'' if i == 2 else 20 + i}")
    rows.append("2.png,,,,71")  # of the same image as the row before it
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    data = load_dataset(str(folder), labels=tmp_path / "t.csv", auxiliary=["sex", "age"])
    assert data.space.names == ["A", "B"] or tuple(data.space.names) == ("A", "B")
    assert data.auxiliary is not None
    assert data.auxiliary.annotation.observed.sum(axis=0).tolist() == [16, 16]
    at = list(data.ids).index("2.png")
    assert data.auxiliary.annotation.targets[at, -1] == 1  # above all others
    unnamed = list(data.ids).index("19.png")
    assert not data.auxiliary.annotation.observed[unnamed].any()
    said = refused(capsys, "plan", folder, "--labels", tmp_path / "t.csv", "--auxiliary", "height")
    assert "height" in said
    assert "--auxiliary" in said
    said = refused(capsys, "plan", folder, "--labels", tmp_path / "t.csv", "--auxiliary", "file")
    assert "'file' is the column of images, groups, parts or labels too" in said
    assert "'A' is a label too" in refused(
        capsys, "plan", folder, "--labels", tmp_path / "t.csv", "--label-columns", "A,B", "--auxiliary", "A"
    )


def test_the_estimator_takes_a_data_frame() -> None:
    data = made()
    y = np.where(data.annotation.observed, data.annotation.targets[:, 1::2], NAN)
    frame = pd.DataFrame({"side": data.x[:, 2] > 0, "age": np.arange(60)})
    one = TautClassifier(plan=TINY, random_state=0).fit(data.x, y, auxiliary=frame)
    other = TautClassifier(plan=TINY, random_state=0).fit(data.x, y)
    assert not np.array_equal(one.predict_proba(data.x), other.predict_proba(data.x))
    assert one.model_.to_auxiliary is None
    with pytest.raises(DataError, match="auxiliary 'a' says the same of every image"):
        TautClassifier(plan=TINY).fit(data.x, y, auxiliary={"a": np.ones(60)})


def test_embeddings_without_a_table_have_no_columns(tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "e.npy", np.zeros((9, 4), dtype=np.float32))
    said = refused(capsys, "plan", tmp_path / "e.npy", "--classes", 3, "--auxiliary", "age")
    assert "--auxiliary is for columns of a table: pass the table with --labels" in said


def test_a_comparison_says_which_methods_do_not_learn_from_them(tmp_path: Path, capsys: Capture) -> None:
    rng = np.random.default_rng(0)
    split = np.array(["train"] * 20 + ["test"] * 10)
    np.savez(
        tmp_path / "p.npz", x=rng.normal(size=(30, 4)), y=np.arange(30) % 3, split=split, sex=np.array(["F", "M"] * 15)
    )
    objectives = ("--objectives", "supervised,pi-model", "--draws", 1, "--train.steps", 2)
    taut("compare", tmp_path / "p.npz", "--auxiliary", "sex", *objectives, "--out", tmp_path / "c")
    said = capsys.readouterr()
    assert "pi-model does not learn from auxiliary variables" in said.out + said.err
    assert "supervised does not" not in said.out + said.err


def test_what_other_rows_say_does_not_change_what_numbers_are() -> None:
    learnt = np.arange(41) < 40
    found = read_auxiliary({"age": [*range(40), "unknown?"]}, learnt=learnt)
    assert len(found.space.labels[0].classes) == 4
    assert not found.annotation.observed[40].any()
    close = read_auxiliary({"v": [0.1 + 0.2, 0.3, 0.3, 1.0]})
    assert len(set(close.space.labels[0].classes)) == 3

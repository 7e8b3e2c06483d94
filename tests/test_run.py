from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from taut.build import build_model
from taut.data.augment import Augment
from taut.data.dataset import DataError, Dataset
from taut.evaluate.predict import predict_posterior, predict_probabilities
from taut.facts import Facts, fingerprint
from taut.fit import fit
from taut.labels import Label, LabelSpace
from taut.nn.vae import LabelVAE
from taut.plan import ModelPlan, ObjectivePlan, Plan, TrainPlan
from taut.rules import make_plan
from taut.run import FORMAT, Run, load_model, save_model
from tiny import SEVERAL, cells, equal, images, some_known, tiny, vectors

MIX = LabelSpace((Label("grade", ("a", "b", "c")), Label("sick", (0, 1))))


def mixed() -> Dataset:
    return images(np.array([["b", 1], ["c", 0], [None, 1], ["a", None]] * 5, dtype=object), MIX, channels=3)


def model_of(data: Dataset) -> LabelVAE:
    facts = fingerprint(data)
    model = build_model(data, tiny()(make_plan(facts)), facts)
    model.temperature.copy_(torch.linspace(0.5, 2.0, len(data.space)))
    for _ in range(3):  # so that the running statistics are not those of a fresh net
        model.train().encode(model.prepare(torch.from_numpy(data.x)))
    return model.to(memory_format=torch.channels_last).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(model_of(images(some_known())), tmp_path / "model", {"steps": 6})
    return tmp_path / "model"


def sentence(function: Callable[[], Any], *parts: str) -> None:
    """One DataError of one line that contains these parts."""
    with pytest.raises(DataError) as caught:
        function()
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert len(text) < 450  # all fields of a section
    for part in parts:
        assert part in text


# --- the folder ---------------------------------------------------------------------------------------------


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "run" / "model.json"
    file.parent.mkdir()
    file.write_text("precious")
    sentence(lambda: Run.create(tmp_path / "run"), "--out", str(tmp_path / "run"), "--resume")
    assert file.read_text() == "precious"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["model.json"]


def test_a_new_or_empty_folder_is_taken(tmp_path: Path) -> None:
    assert Run.create(tmp_path / "deep" / "run").path.is_dir()
    assert Run.create(tmp_path / "deep" / "run").path.is_dir()
    # A start that failed while reading leaves the list of skipped images.
    (tmp_path / "deep" / "run" / "skipped.csv").write_text("row,file,reason\n")
    assert Run.create(tmp_path / "deep" / "run").path.is_dir()


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (Run.load_plan, "plan.yaml"),
        (Run.source, "facts.json"),
        (Run.load_draw, "annotation.npz"),
        (Run.load_model, "model.json"),
    ],
)
def test_a_folder_that_is_no_run_is_named(method: Callable[[Run], Any], name: str, tmp_path: Path) -> None:
    sentence(lambda: method(Run(tmp_path)), str(tmp_path), f"it has no {name}")


def test_a_damaged_model_json_is_named_where_the_plan_is_read(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{")
    sentence(lambda: Run(tmp_path).load_plan(), str(tmp_path / "model.json"), "is damaged")


def test_source_and_facts_come_back(tmp_path: Path) -> None:
    run, data = Run.create(tmp_path / "run"), vectors(some_known())
    facts = fingerprint(data)
    run.save_plan(Plan(), facts, {"data": "some.npz", "group": "patient_id", "labels": None})
    assert run.source() == {"data": "some.npz", "group": "patient_id", "labels": None}
    assert run.has_facts(facts)
    assert not run.has_facts(fingerprint(vectors(some_known(), seed=1)))
    # Features of one encoder differ in their last digits from one machine to another.
    x = data.x * np.float32(1 + 1e-5) + np.float32(1e-5)
    assert fingerprint(dataclasses.replace(data, x=x)).mean != facts.mean
    assert run.has_facts(fingerprint(dataclasses.replace(data, x=x)))
    assert not run.has_facts(fingerprint(dataclasses.replace(data, x=data.x * np.float32(1.01))))


def test_the_draw_comes_back(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    mask = np.random.default_rng(0).random((7, 2)) < 0.5
    run.save_draw(np.arange(7), np.array([8, 9]), mask)
    train, valid, observed = run.load_draw()
    assert train.tolist() == list(range(7))
    assert valid.tolist() == [8, 9]
    assert observed.dtype == bool
    np.testing.assert_array_equal(observed, mask)


def test_metrics_are_lines_that_can_be_cut_back(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    assert run.metrics() == []
    for step in (2, 4, 6):
        run.log({"step": step, "total": 1 / step})
    run.truncate_metrics(4)
    assert run.metrics() == [{"step": 2, "total": 0.5}, {"step": 4, "total": 0.25}]


# --- the model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [images(some_known()), images(cells(), SEVERAL), mixed(), vectors(some_known())],
    ids=["images", "several labels", "colour and a mix of labels", "vectors"],
)
def test_a_saved_model_predicts_the_same_bits(data: Dataset, tmp_path: Path) -> None:
    model = model_of(data)
    save_model(model, tmp_path / "model", {"steps": 6})
    again = load_model(tmp_path / "model")
    assert equal(model, again)
    assert not again.training
    assert again.space == data.space
    assert again.architecture == model.architecture
    np.testing.assert_array_equal(predict_probabilities(again, data.x), predict_probabilities(model, data.x))
    one, two = predict_posterior(model, data.x), predict_posterior(again, data.x)
    assert torch.equal(one.mean, two.mean)
    assert torch.equal(one.log_var, two.log_var)
    assert json.loads((tmp_path / "model" / "model.json").read_text())["about"] == {"steps": 6}


def test_a_run_holds_the_model_that_fit_returned(tmp_path: Path) -> None:
    run, data = Run.create(tmp_path / "run"), images(some_known(90, 60))
    fitted = fit(data, tiny(train={"valid_fraction": 0.6}), run=run, quiet=True)
    again = run.load_model()
    assert equal(fitted.model, again)
    np.testing.assert_array_equal(predict_probabilities(again, data.x), predict_probabilities(fitted.model, data.x))
    assert run.load_plan() == fitted.plan
    about = json.loads((run.path / "model.json").read_text())["about"]
    assert (about["steps"], about["checkpoint"]) == (6, fitted.result.kept)


def test_a_disk_that_takes_no_more_is_one_sentence_and_leaves_the_model(saved: Path) -> None:
    before = (saved / "model.safetensors").read_bytes()
    model = load_model(saved)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(
            DataError, match=f"{re.escape(str(saved))} cannot be written, perhaps since the disk is full"
        ):
            save_model(model, saved, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (saved / "model.safetensors").read_bytes() == before


def test_saving_again_replaces_the_model_and_leaves_no_other_files(saved: Path) -> None:
    other = model_of(images(some_known(), seed=2))
    save_model(other, saved, {})
    assert equal(load_model(saved), other)
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "model.safetensors"]


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: b"\xff\xfe\x00" + data[3:],
        lambda data: b"[]",
    ],
    ids=["cut off", "empty", "overwritten", "something else"],
)
def test_a_damaged_file_is_named(name: str, damage: Callable[[bytes], bytes], saved: Path) -> None:
    (saved / name).write_bytes(damage((saved / name).read_bytes()))
    sentence(lambda: load_model(saved), str(saved / name), "damaged")


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
def test_a_missing_file_is_named(name: str, saved: Path) -> None:
    (saved / name).unlink()
    sentence(lambda: load_model(saved), str(saved), f"no {name}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", [{"name": "label", "classes": [0]}]),
        ("labels", [{"name": "label"}]),
        ("labels", []),
        ("labels", 3),
        ("architecture", {"shape": [1, 8, 8], "encoder": "exec"}),
        ("architecture", {"shape": [1, 8, 8], "unheard_of": 1}),
        ("architecture", {"encoder": "conv"}),
        ("architecture", None),
        ("format", "one"),
    ],
)
def test_json_that_describes_no_model_is_named(key: str, value: Any, saved: Path) -> None:
    path = saved / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    sentence(lambda: load_model(saved), str(path), "damaged")


def test_a_state_of_an_older_version_lacks_what_it_did_not_know(saved: Path) -> None:
    model = load_model(saved)
    state = {name: value for name, value in model.state_dict().items() if name not in ("offset", "threshold")}
    fresh = load_model(saved)
    fresh.offset.fill_(0.0)
    fresh.load_state_dict(state)  # as a checkpoint's is, which lacks nothing else
    assert equal(fresh, model)
    save_file({name: value.contiguous() for name, value in state.items()}, saved / "model.safetensors")
    assert equal(load_model(saved), model)


def test_weights_of_another_model_are_refused(saved: Path, tmp_path: Path) -> None:
    save_model(model_of(images(cells(), SEVERAL)), tmp_path / "other", {})
    (tmp_path / "other" / "model.safetensors").rename(saved / "model.safetensors")
    sentence(lambda: load_model(saved), str(saved / "model.safetensors"), "damaged")


def test_weights_of_which_some_are_missing_are_refused(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    del tensors["to_logits.bias"]
    save_file(tensors, saved / "model.safetensors")
    sentence(lambda: load_model(saved), str(saved / "model.safetensors"), "damaged")


def test_a_newer_format_is_refused_with_its_number(saved: Path) -> None:
    path = saved / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": FORMAT + 1}))
    sentence(lambda: load_model(saved), str(path), f"format {FORMAT + 1}", "newer taut")


class Trap:
    """Creates a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_loading_a_model_unpickles_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something is unpickled")

    with monkeypatch.context() as patch:
        for where, name in (("torch", "load"), ("pickle", "load"), ("pickle", "loads"), ("pickle", "Unpickler")):
            patch.setattr(f"{where}.{name}", refuse)
        load_model(saved)
    (saved / "model.safetensors").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    sentence(lambda: load_model(saved), "damaged")
    torch.save(Trap(tmp_path / "sprung"), saved / "model.safetensors")
    sentence(lambda: load_model(saved), "damaged")
    assert not (tmp_path / "sprung").exists()


def test_a_draw_unpickles_nothing(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    trap: Any = np.array([Trap(tmp_path / "sprung")], dtype=object)
    np.savez(run.path / "annotation.npz", train=trap, valid=trap, observed=trap)
    sentence(run.load_draw, str(run.path / "annotation.npz"), "damaged")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"facts": {}}', '{"source": 3}'])
def test_damaged_facts_are_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(text)
    sentence(lambda: Run(tmp_path).source(), str(tmp_path / "facts.json"), "damaged")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not a zip", b"text"])
def test_a_damaged_draw_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "annotation.npz").write_bytes(content)
    sentence(lambda: Run(tmp_path).load_draw(), str(tmp_path / "annotation.npz"), "damaged")


# --- the plan -----------------------------------------------------------------------------------------------


def test_a_plan_comes_back_as_it_was(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run")
    facts = fingerprint(images(some_known()))
    plans = [
        Plan(),
        make_plan(facts, seed=5),
        Plan(
            ModelPlan(width=None, decoder_width=7, likelihood="gaussian", dropout=0.25),
            ObjectivePlan(alpha=None, reconstruction=1e-5, per="batch", source="none"),
            TrainPlan(steps=3, learning_rate=2.5e-7, precision="bf16"),
            Augment(flip=True, rotation=0),
            seed=12,
        ),
    ]
    for plan in plans:
        run.save_plan(plan, facts, {})
        assert run.load_plan() == plan
    assert type(run.load_plan().augment.rotation) is float


PLAN_FAULTS = {
    "train: {stepps: 5}": ("train.stepps", "not a field", "train.steps"),
    "trains: {steps: 5}": ("trains.steps", "not a field"),
    "train: {steps: many}": ("train.steps", "many"),
    "train: {steps: 2.5}": ("train.steps", "2.5"),
    "train: {steps: null}": ("train.steps", "needs a value"),
    "train: {steps: 0}": ("train.steps", "not between 1"),
    "train: {log_every: 0}": ("train.log_every", "not between 1"),
    "train: {valid_fraction: 1.5}": ("train.valid_fraction", "not between 0 and 1"),
    "train: {folds: 1}": ("train.folds 1 hides all annotations at once",),
    "train: {folds: 21}": ("train.folds", "not between 0 and 20"),
    "train: {folds: -1}": ("train.folds", "not between 0 and 20"),
    "train: {folds: 2.5}": ("train.folds", "2.5"),
    "train: {folds: 3, valid_fraction: 0.2}": ("train.folds 3 and train.valid_fraction 0.2 are two ways",),
    "objective: {source: oracle}": ("objective.source", "oracle"),
    "augment: {flip: perhaps}": ("augment.flip", "perhaps"),
    "model: {width: -3}": ("model.width", "not between 1"),
    "seed: x": ("seed", "x"),
    "train: 5": ("'train' is not a field",),
    "- 1": ("not a mapping",),
    "": ("not a mapping",),
    "train: {steps: [": ("cannot be read",),
}


@pytest.mark.parametrize("text", PLAN_FAULTS)
def test_a_plan_file_that_does_not_fit_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    sentence(lambda: Plan.load(path), str(path), *PLAN_FAULTS[text])


def test_a_plan_file_may_name_some_fields_only(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("train:\n  steps: 7\n  learning_rate: 4e-3\n")
    want = Plan()
    want.train = dataclasses.replace(want.train, steps=7, learning_rate=4e-3)
    assert Plan.load(path) == want


def test_facts_of_an_older_version_are_those_that_it_knew(tmp_path: Path) -> None:
    facts = Facts(4, (2,), 1, (2,), 2, 2, (2,), (1,), False, (0.0,) * 2, (1.0,) * 2)
    run = Run.create(tmp_path / "run")
    run.save_plan(make_plan(facts), facts, {})
    path = run.path / "facts.json"
    saved = json.loads(path.read_text())
    for name in ("auxiliary", "blank", "uncertain_as"):
        del saved["facts"][name]
    path.write_text(json.dumps(saved))
    assert run.has_facts(facts)
    assert not run.has_facts(dataclasses.replace(facts, auxiliary=1))
    assert not run.has_facts(dataclasses.replace(facts, images=5))

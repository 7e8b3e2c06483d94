from __future__ import annotations

import dataclasses
import json
import math
import random
import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from taut import latent
from taut.build import build_model, build_objective, build_stream
from taut.data.dataset import DataError, Dataset
from taut.data.split import hide
from taut.data.stream import Stream
from taut.facts import fingerprint
from taut.fit import fit, resume
from taut.labels import Annotation
from taut.nn.vae import LabelVAE
from taut.objective import Batch, LossTerms, Objective
from taut.plan import Plan, TrainPlan
from taut.rules import make_plan
from taut.run import Run
from taut.train import TrainingError, TrainResult, make_optimizer, one_cycle, train, usual_time
from tiny import SEVERAL, cells, equal, images, some_known, tiny, vectors


class CrossEntropy(Objective):
    """An objective that knows nothing of taut's method; keeps what it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[dict[str, Tensor]] = []
        self.steps: list[int] = []

    def loss(self, model: Any, batch: Batch, step: int) -> LossTerms:
        self.steps.append(step)
        self.weights.append({name: value.detach().clone() for name, value in model.state_dict().items()})
        log_q = latent.log_softmax(model.classify(batch.x), model.sizes)
        seen = latent.spread_labels(batch.observed, model.sizes)
        return LossTerms(total=-(torch.where(seen, batch.targets, 0) * log_q).sum(1).mean())


class Faulty(CrossEntropy):
    """Multiplies the total by `value` at a call, counted from 0, and a term with it."""

    def __init__(self, call: int, value: float, term: str | None = "kl_z") -> None:
        super().__init__()
        self.call, self.value, self.term = call, value, term

    def loss(self, model: Any, batch: Batch, step: int) -> LossTerms:
        terms = super().loss(model, batch, step)
        if len(self.steps) - 1 == self.call:
            if self.term is not None:
                setattr(terms, self.term, terms.total.detach() * self.value)
            terms.total = terms.total * self.value
        return terms


def parts(data: Dataset, **sections: Any) -> tuple[LabelVAE, Plan]:
    facts = fingerprint(data)
    plan = tiny(**sections)(make_plan(facts))
    return build_model(data, plan, facts), plan


def run_plain(data: Dataset, objective: Objective, **sections: Any) -> tuple[LabelVAE, TrainResult]:
    model, plan = parts(data, **sections)
    return model, train(model, objective, build_stream(data, plan, objective), plan, quiet=True)


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Ctrl-C while batch `at` is made."""
    usual = Stream.batch

    def batch(self: Stream, step: int, *rest: Any) -> Batch:
        if step == at:
            raise KeyboardInterrupt
        return usual(self, step, *rest)

    monkeypatch.setattr(Stream, "batch", batch)


# --- a step -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [images(some_known()), images(cells(), SEVERAL, channels=3), vectors(some_known())])
def test_one_step_moves_every_weight_that_takes_part(data: Dataset) -> None:
    model, plan = parts(data, train={"steps": 1}, objective={"share": 1.0})
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    objective = build_objective(model, plan, fingerprint(data))
    result = train(model, objective, build_stream(data, plan, objective), plan, quiet=True)
    for name, value in model.named_parameters():
        # log_noise is a constant of a Bernoulli likelihood.
        assert torch.equal(value, before[name]) != value.requires_grad, name
    assert sum(p.requires_grad for p in model.parameters()) > 10
    assert not equal(result.model, model)
    assert result.steps == 1
    assert not result.model.training


def test_averaged_weights_follow_the_formula() -> None:
    objective = CrossEntropy()
    model, result = run_plain(images(some_known()), objective, train={"steps": 12, "ema": 0.5})
    after = [*objective.weights[1:], model.state_dict()]
    for name, want in objective.weights[0].items():
        if want.is_floating_point():
            for step, weights in enumerate(after):
                decay = min(0.5, (1 + step) / (10 + step))
                want = decay * want + (1 - decay) * weights[name]
        else:
            want = after[-1][name]
        torch.testing.assert_close(result.model.state_dict()[name], want, msg=name)
    counts = [int(v) for name, v in result.model.state_dict().items() if "num_batches" in name]
    assert counts
    assert set(counts) == {12}


def test_the_loop_works_for_an_objective_that_knows_nothing_of_the_method() -> None:
    objective, y = CrossEntropy(), some_known(known=60)
    data = vectors(y)
    data.x[:, :3] += 4 * np.eye(3, dtype=np.float32)[y]
    still = {"noise": 0.1, "drop": 0.0}
    model, result = run_plain(data, objective, train={"steps": 60}, model={"width": 16}, augment=still)
    assert objective.steps == list(range(60))
    right = model.eval().classify(model.prepare(torch.from_numpy(data.x))).argmax(1).numpy() == y
    assert right.mean() > 0.95
    assert result.step_seconds > 0
    assert result.seconds >= result.step_seconds * 20


def test_two_parts_of_a_batch_have_the_gradient_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def plain_sgd(model: Any, plan: TrainPlan) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=plan.learning_rate)

    monkeypatch.setattr("taut.train.make_optimizer", plain_sgd)
    data = vectors(some_known(known=60))
    trained = []
    for accumulate, rows in ((1, 16), (2, 8)):
        sections = {
            "train": {"steps": 2, "accumulate": accumulate, "batch_labelled": rows, "learning_rate": 0.5},
            "augment": {"noise": 0.0},
        }
        objective = CrossEntropy()
        model, _ = run_plain(data, objective, **sections)
        assert objective.steps == sorted(list(range(2)) * accumulate)
        start = objective.weights[0]
        trained.append({name: value.detach() for name, value in model.named_parameters()})
    assert any(not torch.allclose(trained[0][name], start[name], atol=1e-3) for name in trained[0])
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, msg=name)


def test_decay_spares_biases_and_norms() -> None:
    model, plan = parts(images(some_known()), train={"weight_decay": 0.3})
    decayed, spared = make_optimizer(model, plan.train).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.3, 0.0)
    assert {p.dim() for p in spared["params"]} == {1}
    assert min(p.dim() for p in decayed["params"]) == 2
    assert len(decayed["params"]) + len(spared["params"]) == sum(p.requires_grad for p in model.parameters())


# --- the learning rate --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "warmup"), [(100, 0.3), (100, 0.0), (7, 0.5), (1, 0.3)])
def test_the_learning_rate_rises_and_falls(steps: int, warmup: float) -> None:
    factors = [one_cycle(step, TrainPlan(steps=steps, warmup=warmup)) for step in range(steps)]
    top = factors.index(max(factors))
    assert all(0 < f <= 1 for f in factors)
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)
    if steps == 100:
        assert max(factors) > 0.99
        assert factors[-1] < 0.01
        assert top == pytest.approx(100 * warmup, abs=1)


def test_the_learning_rate_of_each_stage_rises_and_falls() -> None:
    plan = TrainPlan(steps=99, warmup=0.3)
    factors = [one_cycle(step, plan, 2) for step in range(99)]
    alone = [one_cycle(step, TrainPlan(steps=49, warmup=0.3)) for step in range(49)]
    assert factors[:49] == pytest.approx(alone)
    assert factors[50:] == pytest.approx(alone)
    assert max(factors) <= 1
    assert factors[49] < 0.02


def test_the_optimizer_gets_the_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.optim.Optimizer] = []

    def kept(model: Any, plan: TrainPlan) -> torch.optim.Optimizer:
        made.append(make_optimizer(model, plan))
        return made[0]

    class Reading(CrossEntropy):
        def loss(self, model: Any, batch: Batch, step: int) -> LossTerms:
            rates.append([group["lr"] for group in made[0].param_groups])
            return super().loss(model, batch, step)

    rates: list[list[float]] = []
    monkeypatch.setattr("taut.train.make_optimizer", kept)
    run_plain(vectors(some_known()), Reading(), train={"steps": 5, "learning_rate": 0.01})
    want = [0.01 * one_cycle(step, TrainPlan(steps=5)) for step in range(5)]
    assert rates == [[rate, rate] for rate in want]


# --- interruption -------------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "teacher": {},
    "averaged teacher": {"objective": {"momentum": 0.9, "alignment": 0.5}},
    "accumulation": {"train": {"accumulate": 2}},
    "interpolation and dropout": {"objective": {"source": "interpolation"}, "model": {"dropout": 0.4}},
    "bfloat16": {"train": {"precision": "bf16"}},
    "looks": {"train": {"valid_fraction": 0.5, "looks": 8}},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_resumed_equals_uninterrupted_bit_for_bit(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    sections = {key: dict(value) for key, value in VARIANTS[name].items()}
    sections["train"] = {"steps": 8, "checkpoint_every": 3, "log_every": 2, **sections.get("train", {})}
    data, accumulate = images(some_known()), sections["train"].get("accumulate", 1)
    whole, cut = Run.create(tmp_path / "whole"), Run.create(tmp_path / "cut")
    want = fit(data, tiny(**sections), run=whole, quiet=True)
    with monkeypatch.context() as patch:
        interrupt(patch, at=5 * accumulate + accumulate - 1)
        with pytest.raises(KeyboardInterrupt):
            fit(data, tiny(**sections), run=cut, quiet=True)
    assert json.loads((cut.checkpoint / "progress.json").read_text())["step"] == 3
    assert not (cut.path / "model.safetensors").exists()
    got = resume(data, cut, quiet=True)
    assert equal(got.model, want.model)
    assert got.result.steps == 8
    assert [row["step"] for row in cut.metrics()] == [row["step"] for row in whole.metrics()] == [2, 4, 6, 8]
    # The window 3 to 4 lost its first step with the interruption; all others have the same means.
    for mine, theirs in zip(cut.metrics(), whole.metrics(), strict=True):
        if mine["step"] != 4:
            assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}


def test_resume_goes_on_from_a_checkpoint_that_was_being_replaced(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = vectors(some_known()), Run.create(tmp_path / "run")
    change = tiny(train={"steps": 6, "checkpoint_every": 2})
    with monkeypatch.context() as patch:
        interrupt(patch, at=3)
        with pytest.raises(KeyboardInterrupt):
            fit(data, change, run=run, quiet=True)
    run.checkpoint.rename(run.checkpoint.with_name("checkpoint.old"))
    assert equal(resume(data, run, quiet=True).model, fit(data, change, quiet=True).model)
    assert not run.checkpoint.with_name("checkpoint.old").exists()


def test_few_slow_steps_have_a_checkpoint_by_the_clock(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run, change = vectors(some_known()), Run.create(tmp_path / "run"), tiny()
    with monkeypatch.context() as patch:
        interrupt(patch, at=4)
        patch.setattr("taut.train.MOST_LOST", 0.0)
        with pytest.raises(KeyboardInterrupt):
            fit(data, change, run=run, quiet=True)
    assert json.loads((run.checkpoint / "progress.json").read_text())["step"] == 4
    assert equal(resume(data, run, quiet=True).model, fit(data, change, quiet=True).model)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT as Python takes it at a terminal; what runs in the background may have inherited that it is ignored."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(("often", "kept"), [(1, 4), (2, None)])
def test_ctrl_c_waits_for_its_step_and_a_checkpoint_but_twice_it_does_not(
    often: int, kept: int | None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run, change = images(some_known()), Run.create(tmp_path / "run"), tiny()
    usual = Stream.batch

    def batch(self: Stream, step: int, *rest: Any) -> Batch:
        for _ in range(often if step == 3 else 0):
            signal.raise_signal(signal.SIGINT)
        return usual(self, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Stream, "batch", batch)
        with pytest.raises(KeyboardInterrupt):
            fit(data, change, run=run, quiet=True)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run.checkpoint.exists() == (kept is not None)
    if kept is not None:
        assert json.loads((run.checkpoint / "progress.json").read_text())["step"] == kept
    assert equal(resume(data, run, quiet=True).model, fit(data, change, quiet=True).model)


def test_resume_keeps_the_fitted_number_of_steps(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = vectors(some_known()), Run.create(tmp_path / "run")
    monkeypatch.setattr("taut.budget.step_seconds", lambda *_: 0.1)
    with monkeypatch.context() as patch:
        interrupt(patch, at=25)
        with pytest.raises(KeyboardInterrupt):
            fit(data, tiny(train={"checkpoint_every": 10}), minutes=0.05, run=run, quiet=True)
    assert run.load_plan().train.steps == 27  # 0.9 · 3 s / 0.1 s
    monkeypatch.setattr("taut.budget.step_seconds", lambda *_: 1.0)
    assert resume(data, run, quiet=True).result.steps == 27


def test_resume_of_a_finished_run_changes_nothing(tmp_path: Any) -> None:
    data, run = vectors(some_known()), Run.create(tmp_path / "run")
    want = fit(data, tiny(), run=run, quiet=True)
    lines = run.metrics()
    assert equal(resume(data, run, quiet=True).model, want.model)
    assert run.metrics() == lines


def test_resume_survives_a_metrics_line_that_was_cut_off(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = vectors(some_known()), Run.create(tmp_path / "run")
    with monkeypatch.context() as patch:
        interrupt(patch, at=5)
        with pytest.raises(KeyboardInterrupt):
            fit(data, tiny(train={"checkpoint_every": 3, "log_every": 1}), run=run, quiet=True)
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "sec')
    resume(data, run, quiet=True)
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5, 6]


def test_resume_refuses_other_data(tmp_path: Any) -> None:
    data, run = vectors(some_known()), Run.create(tmp_path / "run")
    fit(data, tiny(), run=run, quiet=True)
    for other in (vectors(some_known(40)), images(some_known()), vectors(some_known(), seed=1)):
        with pytest.raises(DataError, match="begun with other data"):
            resume(other, run, quiet=True)


def test_a_run_cut_off_before_its_first_checkpoint_begins_anew(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = vectors(some_known()), Run.create(tmp_path / "run")
    change = tiny(train={"log_every": 1})
    with monkeypatch.context() as patch:
        interrupt(patch, at=3)
        with pytest.raises(KeyboardInterrupt):
            fit(data, change, run=run, quiet=True)
    assert not run.checkpoint.exists()
    assert "no checkpoint" not in capsys.readouterr().err
    assert equal(resume(data, run, quiet=True).model, fit(data, change, quiet=True).model)
    assert capsys.readouterr().err == f"taut: {run.path} has no checkpoint: the training begins anew\n"
    assert [row["step"] for row in run.metrics()] == [1, 2, 3, 4, 5, 6]


class Learning(CrossEntropy):
    """An objective with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = torch.nn.Parameter(torch.zeros(3))

    def loss(self, model: Any, batch: Batch, step: int) -> LossTerms:
        terms = super().loss(model, batch, step)
        return LossTerms(total=terms.total + (self.bias - 1).square().sum())


@pytest.mark.parametrize(
    ("times", "usual"),
    [
        ([], 0.0),
        ([0.4], 0.4),
        ([2.0, 0.9, 0.1], 0.1),
        ([2.0, 0.9, 0.1, 0.2], 0.1),
        ([2.0, 0.9, *[0.1, 0.2] * 9, 5.0, 5.0], 0.15),
    ],
)
def test_steps_that_make_kernels_and_the_slowest_tenth_are_not_usual(times: list[float], usual: float) -> None:
    assert usual_time(times) == pytest.approx(usual)


def test_parameters_of_an_objective_are_trained_too() -> None:
    data = vectors(some_known())
    model, plan = parts(data)
    objective = Learning()
    train(model, objective, build_stream(data, plan, objective), plan, quiet=True)
    assert bool((objective.bias > 0).all())


def test_weights_that_went_bad_in_the_last_step_are_not_kept() -> None:
    class Explosive(CrossEntropy):
        def loss(self, model: Any, batch: Batch, step: int) -> LossTerms:
            terms = super().loss(model, batch, step)
            # A finite value whose gradient is not: the square root at 0.
            return LossTerms(
                total=terms.total + (0.0 * terms.total).sqrt() if step == plan.train.steps - 1 else terms.total
            )

    data = vectors(some_known())
    model, plan = parts(data)
    objective = Explosive()
    with pytest.raises(TrainingError, match="weights are NaN or infinite"):
        train(model, objective, build_stream(data, plan, objective), plan, quiet=True)


# --- what goes wrong ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf")])
def test_a_bad_term_stops_with_its_name_and_the_last_checkpoint_stays(value: float, shown: str, tmp_path: Any) -> None:
    data, run = vectors(some_known()), Run.create(tmp_path / "run")
    model, plan = parts(data, train={"checkpoint_every": 2})
    objective = Faulty(4, value)
    stream = build_stream(data, plan, objective)
    with pytest.raises(TrainingError, match=f"step 5.*'kl_z' is {shown}"):
        train(model, objective, stream, plan, run, quiet=True)
    assert json.loads((run.checkpoint / "progress.json").read_text())["step"] == 4
    # And it is a good one: with a sound objective the run goes on and ends where a sound run ends.
    again, _ = parts(data)
    got = train(again, CrossEntropy(), stream, plan, run, resume=True, quiet=True)
    _, want = run_plain(data, CrossEntropy())
    assert equal(got.model, want.model)


def test_a_bad_total_is_named_where_no_term_is_to_blame() -> None:
    with pytest.raises(TrainingError, match=r"step 3.*'total' is nan"):
        run_plain(vectors(some_known()), Faulty(2, math.nan, term=None))


def test_a_bad_term_in_the_first_part_of_a_step_is_seen() -> None:
    with pytest.raises(TrainingError, match=r"step 6.*'kl_z'"):
        run_plain(vectors(some_known()), Faulty(10, math.nan), train={"accumulate": 2})


def test_no_checkpoint_is_of_weights_that_are_no_numbers(tmp_path: Any) -> None:
    class Explosive(CrossEntropy):
        def loss(self, model: Any, batch: Batch, step: int) -> LossTerms:
            terms = super().loss(model, batch, step)
            # A finite value whose gradient is not, in a step after which a checkpoint is due.
            return LossTerms(total=terms.total + (0.0 * terms.total).sqrt() if step == 3 else terms.total)

    data, run = vectors(some_known()), Run.create(tmp_path / "run")
    model, plan = parts(data, train={"checkpoint_every": 2})
    with pytest.raises(TrainingError, match="weights are NaN or infinite after step 4"):
        train(model, Explosive(), build_stream(data, plan, Explosive()), plan, run, quiet=True)
    assert json.loads((run.checkpoint / "progress.json").read_text())["step"] == 2


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.bin", "progress.json"])
def test_a_damaged_checkpoint_is_named(name: str, tmp_path: Any) -> None:
    data, run = vectors(some_known()), Run.create(tmp_path / "run")
    model, plan = parts(data, train={"checkpoint_every": 2})
    stream = build_stream(data, plan, CrossEntropy())
    train(model, CrossEntropy(), stream, plan, run, quiet=True)
    whole = (run.checkpoint / name).read_bytes()
    for left in (whole[: len(whole) // 2], b""):
        (run.checkpoint / name).write_bytes(left)
        with pytest.raises(DataError, match="checkpoint is damaged"):
            train(parts(data)[0], CrossEntropy(), stream, plan, run, resume=True, quiet=True)


def test_a_checkpoint_of_several_processes_is_not_resumed_by_one(tmp_path: Any) -> None:
    data, run = vectors(some_known()), Run.create(tmp_path / "run")
    model, plan = parts(data, train={"checkpoint_every": 2})
    stream = build_stream(data, plan, CrossEntropy())
    train(model, CrossEntropy(), stream, plan, run, quiet=True)
    said = run.checkpoint / "progress.json"
    assert json.loads(said.read_text())["processes"] == 1
    said.write_text(json.dumps({**json.loads(said.read_text()), "processes": 2}))
    with pytest.raises(DataError, match="was trained by 2 processes and is resumed by 1"):
        train(parts(data)[0], CrossEntropy(), stream, plan, run, resume=True, quiet=True)


# --- what must not be touched -------------------------------------------------------------------------------


def test_the_callers_random_state_is_left_alone(tmp_path: Any) -> None:
    data, run = vectors(some_known()), Run.create(tmp_path / "run")
    fit(data, tiny(), run=run, quiet=True)
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    want = random.random(), np.random.random(), float(torch.rand(()))  # noqa: NPY002
    for train_again in (lambda: fit(data, tiny(), quiet=True), lambda: resume(data, run, quiet=True)):
        random.seed(3)
        np.random.seed(3)  # noqa: NPY002
        torch.manual_seed(3)
        train_again()
        assert (random.random(), np.random.random(), float(torch.rand(()))) == want  # noqa: NPY002


def test_the_seed_decides_and_the_callers_state_does_not() -> None:
    data = images(some_known())
    first = fit(data, tiny(), seed=1, quiet=True)
    torch.manual_seed(99)
    assert equal(fit(data, tiny(), seed=1, quiet=True).model, first.model)
    assert not equal(fit(data, tiny(), seed=2, quiet=True).model, first.model)


SOURCES: list[dict[str, Any]] = [
    {"source": "none", "sampling": "enumerate", "per": "batch", "beta_c": 0.1},
    {"source": "interpolation", "z_consistency": 0.1, "sampling": "straight-through"},
    {"source": "teacher", "momentum": 0.9, "alignment": 1.0, "threshold": 0.4},
]


@pytest.mark.parametrize("objective", SOURCES, ids=lambda o: o["source"])
@pytest.mark.parametrize("several", [False, True])
def test_hidden_labels_change_no_bit_of_the_weights(several: bool, objective: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    n, space = 60, SEVERAL if several else images([0]).space
    mask = rng.random((n, len(space))) < 0.4
    truth = rng.integers(0, 2, (n, 2)).astype(float) if several else rng.integers(0, 3, n)
    other = np.where(mask, truth, 1 - truth) if several else np.where(mask[:, 0], truth, (truth + 1) % 3)
    one, two = images(truth, space), images(other, space)
    datasets = [dataclasses.replace(d, annotation=hide(d.annotation, mask, space.sizes)) for d in (one, two)]
    for wrong in (rng.random((n, space.width)), np.full((n, space.width), 1e30)):
        targets = one.annotation.targets.copy()
        seen = np.repeat(mask, space.sizes, axis=1)
        targets[~seen] = wrong[~seen]
        datasets.append(dataclasses.replace(one, annotation=Annotation(targets, mask)))
    assert not np.array_equal(one.annotation.targets, two.annotation.targets)
    change = tiny(objective={**objective, "share": 1.0}, train={"valid_fraction": 0.3})
    models = [fit(data, change, quiet=True).model for data in datasets]
    assert all(equal(model, models[0]) for model in models[1:])
    # The test can fail: an annotation that is shown does change them.
    shown = hide(one.annotation, mask | (rng.random(mask.shape) < 0.3), space.sizes)
    assert not equal(fit(dataclasses.replace(one, annotation=shown), change, quiet=True).model, models[0])


def test_terms_are_logged_as_means_over_the_window(tmp_path: Any) -> None:
    data, run = vectors(some_known(known=60)), Run.create(tmp_path / "run")
    model, plan = parts(data, train={"steps": 5, "log_every": 2, "accumulate": 2})

    class Counting(CrossEntropy):
        def loss(self, model: Any, batch: Batch, step: int) -> LossTerms:
            terms = super().loss(model, batch, step)
            return dataclasses.replace(terms, kl_z=torch.tensor(float(len(self.steps))))

    train(model, Counting(), build_stream(data, plan, Counting()), plan, run, quiet=True)
    # Calls 1-4, 5-8 and 9-10: two a step.
    assert [(row["step"], row["kl_z"]) for row in run.metrics()] == [(2, 2.5), (4, 6.5), (5, 9.5)]
    assert all(math.isfinite(row["total"]) and row["seconds"] >= 0 for row in run.metrics())

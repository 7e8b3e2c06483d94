from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks import (
    common,
    cross_entropy,
    embedded,
    folds,
    generative,
    grid,
    ideas,
    label_cost,
    mnist,
    overhead,
    rare,
    report,
    rivals,
    run,
    shares,
    speed,
    stages,
    tails,
    tightness,
    unbalanced,
    views,
    xrays,
    xrays128,
    yeast,
)
from examples import demo
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.preprocessing import StandardScaler

from packs import needs
from taut.data.cells import UNCERTAIN
from taut.data.dataset import Dataset
from taut.data.embedded import digits
from taut.data.split import hide
from taut.facts import fingerprint
from taut.fit import fit
from taut.labels import LabelSpace
from taut.nn.vae import Posterior
from taut.plan import Plan, override
from taut.rules import make_plan
from tiny import TINY, tiny

Change = Callable[[Plan], Plan]


def tiny_fit(dataset: Dataset, change: Change = lambda plan: plan, *rest: Any, **options: Any) -> Any:
    """`fit` with tiny networks and few steps on top of a method's own change."""
    return fit(dataset, lambda plan: tiny()(change(plan)), *rest, **options)


# --- the results file ---------------------------------------------------------------------------------------


class Method:
    """Gives seed + start as its figure; remembers its seeds; raises at one of them."""

    def __init__(self, start: float = 0.0, fails_at: int | None = None) -> None:
        self.start, self.fails_at = start, fails_at
        self.seeds: list[int] = []

    def __call__(self, seed: int) -> dict[str, Any]:
        if seed == self.fails_at:
            raise RuntimeError("cut off")
        self.seeds.append(seed)
        return {"error": self.start + seed, "ap": None if seed == 0 else 0.5, "note": "text"}


def test_draws_are_recorded_with_their_summary_and_circumstances(tmp_path: Path) -> None:
    data = common.record("name", "what it is", {"one": Method(), "two": Method(10)}, range(3), tmp_path)
    assert [(d["seed"], d["method"], d["error"]) for d in data["draws"]] == [
        (0, "one", 0), (0, "two", 10), (1, "one", 1), (1, "two", 11), (2, "one", 2), (2, "two", 12)
    ]  # fmt: skip
    saved = json.loads((tmp_path / "name.json").read_text())
    assert saved["draws"] == data["draws"]
    assert saved["summary"]["two"]["error"] == {"mean": 11.0, "std": 1.0, "max": 12.0, "n": 3}
    assert saved["summary"]["one"]["ap"] == {"mean": 0.5, "std": 0.0, "max": 0.5, "n": 2}  # None in the first draw
    assert set(saved["summary"]["one"]) == {"error", "ap"}
    assert (saved["benchmark"], saved["about"]) == ("name", "what it is")
    (machine,) = saved["machines"]
    assert {"cpu", "cores", "fast bf16", "python", "versions"} <= machine.keys()
    assert machine["versions"].keys() >= {"torch", "taut", "numpy"}
    assert all(draw["machine"] == 0 and "commit" in draw for draw in saved["draws"])


def test_draws_keep_the_machine_that_they_were_measured_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common.record("name", "about", {"one": Method()}, range(2), tmp_path)
    before = (tmp_path / "name.json").read_text()
    other = {**common.machine(), "cpu": "another", "fast bf16": False}
    monkeypatch.setattr(common, "machine", lambda: other)
    common.record("name", "about", {"one": Method()}, range(2), tmp_path)
    assert (tmp_path / "name.json").read_text() == before  # nothing was measured
    common.record("name", "about", {"one": Method()}, range(3), tmp_path)
    saved = json.loads((tmp_path / "name.json").read_text())
    assert [draw["machine"] for draw in saved["draws"]] == [0, 0, 1]
    assert saved["machines"][1] == other
    assert " and another without fast bfloat16, " in report.page(tmp_path)
    gpu = {**other, "gpu": "a card"}
    monkeypatch.setattr(common, "machine", lambda: gpu)
    common.record("name", "about", {"one": Method()}, range(1), tmp_path)
    assert json.loads((tmp_path / "name-gpu.json").read_text())["benchmark"] == "name-gpu"
    assert "## name-gpu\n\nabout. `python -m " in report.page(tmp_path)


def test_the_page_of_results_has_a_row_for_each_method(tmp_path: Path) -> None:
    common.record("name", "what it is", {"one": Method(), "two": Method(10)}, range(3), tmp_path)
    page = report.page(tmp_path)
    assert "## name" in page
    assert "what it is" in page
    assert "| method | draws | error, % | worst error, % |" in page
    assert "| one | 3 | 1.000 ± 1.000 | 2.000 |" in page
    assert "| two | 3 | 11.0 ± 1.0 | 12.0 |" in page


def test_the_page_of_results_is_up_to_date() -> None:
    assert report.PAGE.read_text() == report.page()


def test_what_was_cut_off_goes_on_draw_by_draw(tmp_path: Path) -> None:
    one, two = Method(), Method(fails_at=1)
    with pytest.raises(RuntimeError, match="cut off"):
        common.record("name", "about", {"one": one, "two": two}, range(3), tmp_path)
    saved = json.loads((tmp_path / "name.json").read_text())
    assert [(d["method"], d["seed"]) for d in saved["draws"]] == [("one", 0), ("two", 0), ("one", 1)]
    assert saved["summary"]["one"]["error"]["n"] == 2
    again, mended = Method(), Method()
    common.record("name", "about", {"one": again, "two": mended}, range(3), tmp_path)
    assert (again.seeds, mended.seeds) == ([2], [1, 2])
    draws = json.loads((tmp_path / "name.json").read_text())["draws"]
    assert len({(d["method"], d["seed"]) for d in draws}) == len(draws) == 6
    # More seeds later: only the new ones run. A new method: on all of them.
    more, new = Method(), Method()
    common.record("name", "about", {"one": more, "three": new}, range(4), tmp_path)
    assert (more.seeds, new.seeds) == ([3], [0, 1, 2, 3])
    assert [path.name for path in tmp_path.iterdir()] == ["name.json"]


def test_draws_that_were_measured_otherwise_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common.record("name", "half a minute", {"one": Method()}, range(2), tmp_path)
    before = (tmp_path / "name.json").read_text()
    other = Method()
    common.record("name", "two minutes", {"one": other}, range(3), tmp_path)
    assert (tmp_path / "name.json").read_text() == before
    assert other.seeds == []
    assert "is of 'half a minute': move it away to measure 'two minutes'" in capsys.readouterr().err


def test_counts_and_minutes_of_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(common.sys, "argv", ["benchmark", "10", "0.5", "3"])
    found = common.numbers()
    assert found == [10, 0.5, 3]
    assert [type(number) for number in found] == [int, float, int]
    monkeypatch.setattr(common.sys, "argv", ["benchmark", "some", "3", "other", "0.5"])
    assert common.chosen(["some", "other", "more"]) == ([3, 0.5], ["some", "other"])
    with pytest.raises(ValueError, match="other"):
        common.chosen(["some"])


def test_numbers_of_a_results_file_lie_in_one_line(tmp_path: Path) -> None:
    figures = {"auroc": {"a": 0.5, "b": 1e-05}, "curve": [[1, 2.5], [2, -1.0]], "words": ["x", "y"], "none": []}
    common.record("name", "about", {"one": lambda seed: figures}, range(1), tmp_path)
    text = (tmp_path / "name.json").read_text()
    assert '"auroc": { "a": 0.5, "b": 1e-05 }' in text
    assert "[ 2, -1.0 ]" in text
    assert {**figures, "method": "one", "seed": 0}.items() <= json.loads(text)["draws"][0].items()


def test_benchmarks_whose_data_are_not_there_are_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TAUT_DATA", "nowhere")
    monkeypatch.setattr(run.report, "main", lambda: print("written"))
    some = ModuleType("benchmarks.some")
    monkeypatch.setattr(some, "main", lambda: common.find_pack("some.npz", "x, y"), raising=False)
    run.main([some])
    said = capsys.readouterr()
    assert said.err == "benchmarks.some is left out: put some.npz (x, y) into a folder that TAUT_DATA names\n"
    assert said.out == "written\n"


def test_the_summary_by_hand() -> None:
    draws = [{"method": "m", "seed": s, "error": e, "commit": "abc"} for s, e in enumerate([1.0, 2.0, 6.0])]
    # Mean 3, deviations −2, −1, 3, so that the variance is 14 / 2.
    assert common.summary(draws) == {"m": {"error": {"mean": 3.0, "std": 2.64575, "max": 6.0, "n": 3}}}
    assert common.summary([]) == {}


# --- miniatures ---------------------------------------------------------------------------------------------


def test_the_embedded_benchmark_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "fit", tiny_fit)
    embedded.main(seeds=1, folder=tmp_path)
    digits, grid = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("digits", "digit-grid"))
    rivals = {"label_spreading", "self_training_svc", "svc"}
    assert set(digits["summary"]) == {"taut", "masked_cross_entropy"} | rivals
    assert set(grid["summary"]) == {"taut", "masked_cross_entropy"}
    assert all(0 <= row["error"]["mean"] <= 100 for row in digits["summary"].values())
    assert digits["summary"]["label_spreading"]["error"]["mean"] < 15  # the rivals are no miniatures
    assert 0 < grid["summary"]["taut"]["ap_macro"]["mean"] < 1


def test_the_draws_of_the_demo_hide_what_they_say_and_keep_the_test_part() -> None:
    train, test = demo.draw_digits(1)
    assert train.annotation.observed.sum() == 50
    assert (len(train), len(test)) == (1201, 596)
    assert test.annotation.observed.all()
    train, test = demo.draw_grid(1)
    assert train.annotation.observed.mean() == pytest.approx(0.2, abs=0.01)
    assert (len(train), len(test)) == (3000, 1000)


def test_the_overhead_benchmark_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "STEPS", 8)
    monkeypatch.setattr(overhead, "make_plan", lambda facts, seed: tiny()(make_plan(facts, seed)))
    overhead.main(seeds=1, folder=tmp_path)
    row = json.loads((tmp_path / "overhead.json").read_text())["draws"][0]
    assert 0.2 < row["ratio"] < 20
    assert row["loop_ms"] > 0 < row["bare_ms"]


def test_the_plain_objective_of_the_mnist_benchmark_has_no_other_sources() -> None:
    objective = mnist.changed(mnist.EQ_16, Plan()).objective
    assert (objective.source, objective.mutual_information) == ("none", 0)
    assert objective.reconstruction == objective.beta_z > 0 < objective.beta_c


NEEDS_YEAST = needs(yeast.PACK)
NEEDS_MNIST = needs("mnist_train.npz", "mnist_test.npz")


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded digits at MNIST's size in its place, tiny networks, and no measurement of the step."""
    data = digits()
    larger = np.kron(data.x, np.ones((1, 1, 4, 4), dtype=np.uint8))[:, :, 2:30, 2:30]
    data = dataclasses.replace(data, x=larger)
    train, test = (
        dataclasses.replace(part.rows(np.arange(len(part)) < count), split=None, ids=[str(i) for i in range(count)])
        for part, count in ((data.part("train"), 600), (data.part("test"), 200))
    )
    for module in (mnist, cross_entropy, tightness, speed):
        monkeypatch.setattr(module, "parts", lambda: (train, test))
    for module in (mnist, cross_entropy, tightness, speed, rivals, generative):
        monkeypatch.setattr(module, "fit", tiny_fit)
    monkeypatch.setattr(mnist, "HIDDEN", 100)
    monkeypatch.setattr("taut.budget.step_seconds", lambda *_: 1.0)


@NEEDS_MNIST
def test_the_draws_of_mnist() -> None:
    assert len(mnist.parts()[1]) == 10_000
    assert mnist.draw(0, 2).annotation.observed.sum() == 20
    training, hidden = mnist.hidden_part(0, 2)
    assert training.annotation.observed.sum() == 20
    assert hidden.annotation.observed.all()
    assert len(training) + len(hidden) == len(mnist.parts()[0])


@pytest.mark.usefixtures("few_images")
def test_the_mnist_benchmark_in_miniature(tmp_path: Path) -> None:
    mnist.main(seeds=1, minutes=0.01, plain_seeds=1, plain_minutes=0.01, folder=tmp_path)
    found = {path.stem.removeprefix("mnist-"): json.loads(path.read_text()) for path in tmp_path.iterdir()}
    assert {name.removesuffix("-0.01-minutes") for name in found} == {*mnist.MEASURED}
    for name, data in found.items():
        (row,) = data["summary"].values()
        assert row["images"]["mean"] == 200
        assert ("error_one_pass" in row) == ("plain" not in name and "mixed" not in name)
        assert row["steps"]["mean"] == 20
        assert 0 < row["error"]["mean"] < 100


@pytest.mark.usefixtures("few_images")
def test_the_cross_entropy_benchmark_in_miniature(tmp_path: Path) -> None:
    cross_entropy.main(seeds=1, minutes=0.01, folder=tmp_path, alphas=(1.0, 10.0))
    tuning, test = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("cross-entropy-tuning", "cross-entropy")
    )
    assert [d["alpha"] for d in tuning["draws"]] == [1, 10, 1, 10]
    rows = {d["method"]: d for d in test["draws"]}
    assert rows["M2, alpha = 0"]["alpha"] == 0
    assert rows["eq. 13"]["gap"] == pytest.approx(rows["eq. 13"]["surrogate"] - rows["eq. 13"]["bound"], abs=1e-2)
    assert "surrogate" not in rows["M2, tuned alpha"]
    assert all(0 < row["annotated_q"] < 1 and row["curve"] for row in rows.values())
    report.pictures(tmp_path, tmp_path / "pictures")
    assert (tmp_path / "pictures" / "cross-entropy.png").stat().st_size > 5000


@pytest.mark.usefixtures("few_images")
def test_the_speed_benchmark_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "EVERY", 4)
    speed.main(seeds=1, minutes=0.01, folder=tmp_path)
    (draw,) = json.loads((tmp_path / "mnist-speed.json").read_text())["draws"]
    seconds = [point[0] for point in draw["curve"]]
    assert seconds == sorted(seconds)
    assert len(seconds) == 5  # 20 steps, one snapshot in 4
    assert draw["error"] == draw["curve"][-1][1]
    assert len({error for _, error in draw["curve"]}) > 1
    # The curves of rivals, each with what it was tuned to.
    tuned = {"supervised": ("slower", {"train.learning_rate": 1e-3}, 0.5)}
    monkeypatch.setattr(speed.rivals, "tuned", lambda *_: tuned)
    monkeypatch.setattr(speed, "POINTS", 2)
    plans = []
    usual = speed.fit

    def fit(*arguments: Any, **named: Any) -> Any:
        fitted = usual(*arguments, **named)
        plans.append((fitted.plan.objective.name, fitted.plan.train.learning_rate, arguments[2]))
        return fitted

    monkeypatch.setattr(speed, "fit", fit)
    speed.main(1, 0.02, ["supervised", "vat"], tmp_path)
    assert [plans[0][0], plans[1][0]] == ["supervised", "vat"]
    assert plans[0][1:] == (1e-3, 0.01)
    assert plans[1][2] == 0.02
    draws = json.loads((tmp_path / "rivals-curves.json").read_text())["draws"]
    assert [(row["method"], len(row["curve"])) for row in draws] == [("supervised", 3), ("vat", 3)]
    assert all(row["curve"][-1][1] == row["error"] for row in draws)
    report.pictures(tmp_path, tmp_path / "pictures")
    assert (tmp_path / "pictures" / "rivals-curves.png").stat().st_size > 5000


def test_the_time_from_which_on_the_error_stays_under_a_bound() -> None:
    curve = [(1.0, 9.0), (2.0, 2.9), (3.0, 3.2), (4.0, 3.0), (5.0, 2.5)]
    assert speed.until(curve, 3.12) == 4.0
    assert speed.until(curve, 10.0) == 1.0
    assert speed.until(curve, 2.5) is None


@pytest.mark.usefixtures("few_images")
def test_the_generative_benchmark_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (50, 1, 28, 28), dtype=np.uint8)
    monkeypatch.setattr(generative, "foreign", lambda: {"noise": noise})
    monkeypatch.setattr(generative, "WEIGHTS", {"rho 0": generative.weight(0.0), "rho 0.001": generative.weight(1e-3)})
    monkeypatch.setattr(generative, "DETAILS", dict(list(generative.DETAILS.items())[:1]))
    generative.main(1, 0.01, ["augmented", "plain"], tmp_path)
    names = [f"generative-{setting}-{labels}" for setting in ("augmented", "plain") for labels in (20, 50, 100)]
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(names)
    summaries = {name: json.loads((tmp_path / f"{name}.json").read_text())["summary"] for name in names}
    assert [len(summary) for summary in summaries.values()] == [2, 2, 3, 2, 2, 3]
    for summary in summaries.values():
        assert all(0 <= row["ood_noise"]["mean"] <= 1 for row in summary.values())
        assert "decoder_error" not in summary["rho 0"]
        assert 0 <= summary["rho 0.001"]["joint_error"]["mean"] <= 100
    generative.main(1, 0.01, ["plain", "50-labels"], tmp_path / "some")
    assert [path.stem for path in (tmp_path / "some").iterdir()] == ["generative-plain-50"]
    ideas.main(1, 0.01, ["plain", "20-labels"], tmp_path / "ideas")
    rows = json.loads((tmp_path / "ideas" / "ideas-plain-20.json").read_text())["summary"]
    assert [name for name, row in rows.items() if "decoder_error" not in row] == ["no decoder"]
    assert {*rows} == {*ideas.IDEAS}


class Prototypes:
    """p(x|c) is normal around an image for each class, and q(c|x) knows nothing."""

    sizes = (3,)
    log_prior = torch.full((3,), -np.log(3.0))

    def __init__(self, images: torch.Tensor) -> None:
        self.images = images

    def prepare(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()

    def classify(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(x), 3)

    def encode(self, x: torch.Tensor) -> Posterior:
        return Posterior(torch.zeros(len(x), 2), torch.zeros(len(x), 2), self.classify(x))

    def decode(self, z: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return c @ self.images

    def log_likelihood(self, x: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        return -0.5 * (x - parameters).square().sum(1)


def test_the_second_opinion_is_the_class_under_which_the_image_is_most_probable() -> None:
    images = torch.eye(3) * 9
    known = np.arange(40) % 3
    x = images[known].numpy() + np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    space = LabelSpace.multiclass(3)
    hidden = Dataset("prototypes", x.astype(np.float32), space, space.encode(known), list(map(str, known)))
    model: Any = Prototypes(images)
    found = generative.second_opinion(model, hidden)
    assert found["decoder_error"] == found["joint_error"] == 0
    assert found["own_error"] == pytest.approx(100 * np.mean(known[20:] != 0))
    assert found["joint_weight"] > 0


@NEEDS_MNIST
@needs("nih_cxr14_all_64.npz")
@pytest.mark.usefixtures("few_images")
def test_the_images_that_are_foreign_are_of_one_size_and_not_those_they_are_compared_with() -> None:
    generative.foreign.cache_clear()
    found = generative.foreign()
    generative.foreign.cache_clear()
    inside, changed = generative.halves()
    assert not set(map(bytes, inside)) & set(map(bytes, changed))
    assert set(found) == {"cifar10", "chest", "turned", "noisy"}
    for images in found.values():
        assert images.shape[1:] == (1, 28, 28)
        assert images.dtype == np.uint8
    np.testing.assert_array_equal(np.rot90(found["turned"], -1, axes=(2, 3)), changed)


@pytest.mark.usefixtures("few_images")
def test_the_stages_benchmark_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    usual = mnist.draw

    def draw(seed: int, per_class: int = 10) -> Dataset:
        drawn.append(seed)
        return usual(seed, per_class)

    monkeypatch.setattr(mnist, "draw", draw)
    stages.main(seeds=2, minutes=0.01, folder=tmp_path)
    methods = len(stages.METHODS)
    assert drawn == [0] * 2 * methods + [0] * methods + [1] * methods
    for name in ("stages-seeds", "stages-draws"):
        summary = json.loads((tmp_path / f"{name}.json").read_text())["summary"]
        assert set(summary) == set(stages.METHODS)


@pytest.mark.usefixtures("few_images")
def test_the_tightness_benchmark_in_miniature(tmp_path: Path) -> None:
    tightness.main(seeds=1, minutes=0.01, folder=tmp_path, images=40, samples=20)
    rows = {d["method"]: d for d in json.loads((tmp_path / "tightness.json").read_text())["draws"]}
    assert set(rows) == set(tightness.METHODS)
    for row in rows.values():
        assert row["gap_11"] > 0
        assert row["gap_11"] == pytest.approx(row["iw_11"] - row["elbo_11"], abs=2e-3)
        assert row["bits_per_dim"] == pytest.approx(-row["iw_11"] / 784 / math.log(2), rel=1e-3)
    assert "error" not in rows["plain VAE"]


@NEEDS_MNIST
def test_binarised_images_are_black_or_white_and_keep_their_mean() -> None:
    _, test = mnist.parts()
    white = tightness.binarised(test, 0)
    assert set(np.unique(white.x)) == {0, 255}
    assert white.x.mean() == pytest.approx(test.x.mean(), rel=0.01)
    assert np.array_equal(white.x, tightness.binarised(test, 0).x)


@pytest.mark.usefixtures("few_images")
def test_the_rivals_benchmark_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "OBJECTIVES", ["tighter-elbo", "supervised"])
    rivals.main(seeds=1, minutes=0.01, folder=tmp_path, tuning_minutes=0.01)
    for name in ("rivals-augmented", "rivals-plain"):
        data = json.loads((tmp_path / f"{name}-0.01-minutes.json").read_text())
        assert set(data["summary"]) == {"tighter-elbo", "supervised"}
        assert data["summary"]["supervised"]["parameters"]["mean"] > 1000
        tuning = json.loads((tmp_path / name.replace("rivals", "rivals-tuning")).with_suffix(".json").read_text())
        best = min(tuning["draws"], key=lambda row: row["error"])["method"]
        row = next(row for row in data["draws"] if row["method"] == "supervised")
        assert best == f"supervised, {row['tuned']}"
        assert f"supervised: {row['tuned']}" in report.page(tmp_path)
    # Some objectives and settings alone, with the tuning that is there.
    rivals.main(1, 0.02, ["plain", "supervised"], tmp_path, tuning_minutes=0.01)
    data = json.loads((tmp_path / "rivals-plain-0.02-minutes.json").read_text())
    assert set(data["summary"]) == {"supervised"}
    assert not (tmp_path / "rivals-augmented-0.02-minutes.json").exists()
    # Two labels a class, with what was best of ten.
    rivals.main(1, 0.01, ["plain", "supervised", "20-labels"], tmp_path, tuning_minutes=0.01)
    assert "20 labels" in json.loads((tmp_path / "rivals-plain-20-labels-0.01-minutes.json").read_text())["about"]
    assert [name for name, _, _ in rivals.tries("m2")] == ["alpha 0.1", "alpha 100", "alpha 100, a quarter of the rate"]
    for name in rivals.methods_with_labels():
        for _, changes, _ in rivals.tries(name):
            mnist.changed(changes, Plan())  # which knows every name


@NEEDS_YEAST
def test_the_decoder_of_features_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generative, "fit", tiny_fit)
    monkeypatch.setattr(generative, "FEATURES", (0.0, 0.1))
    generative.main(1, names=["yeast"], folder=tmp_path)
    rows = json.loads((tmp_path / "generative-yeast.json").read_text())["draws"]
    assert [row["method"] for row in rows] == ["rho 0", "rho 0.1"]
    assert all(0.2 < row["ap_macro"] < 0.6 for row in rows)
    training, hidden = generative.hidden_rows(0)
    assert (len(training), len(hidden)) == (1000, 500)
    assert training.annotation.observed.all(axis=1).sum() == training.annotation.observed.any(axis=1).sum() == 150
    assert not set(map(bytes, training.x)) & set(map(bytes, hidden.x))


@NEEDS_YEAST
def test_the_yeast_benchmark_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yeast, "fit", lambda dataset, **options: tiny_fit(dataset, lambda plan: plan, **options))
    monkeypatch.setattr(yeast, "CHAINS", 2)
    yeast.main(seeds=1, folder=tmp_path)
    rows = {d["method"]: d for d in json.loads((tmp_path / "yeast.json").read_text())["draws"]}
    assert set(rows) == set(yeast.METHODS)
    for row in rows.values():
        assert 0.2 < row["ap_macro"] < 0.6  # the mean prevalence is 0.30
        assert row["nll"] > 0
    train = yeast.draw(0)
    assert train.annotation.observed.all(axis=1).sum() == 150
    assert train.annotation.observed.sum() == 150 * 14
    # The linear rivals are no miniatures: the figure of the benchmark's first draw, computed another way.
    known = train.annotation.observed.all(axis=1)
    x, y = StandardScaler().fit(train.x).transform(train.x[known]), train.annotation.targets[known][:, 1::2]
    test = yeast.parts()[1]
    scores = []
    for j in range(14):
        fitted = LogisticRegression(max_iter=5000).fit(x, y[:, j])
        q = fitted.predict_proba(StandardScaler().fit(train.x).transform(test.x))[:, 1]
        scores.append(average_precision_score(test.annotation.targets[:, 2 * j + 1], q))
    assert rows["one-vs-rest logistic regression"]["ap_macro"] == pytest.approx(np.mean(scores), abs=1e-4)


FLOOR = "masked_cross_entropy"

# --- chest X-rays -------------------------------------------------------------------------------------------

NEEDS_XRAYS = needs(xrays.PACK)


@NEEDS_XRAYS
def test_the_parts_of_the_x_rays_are_their_own_and_no_draw_touches_the_valid_or_the_test_part() -> None:
    training, testing = xrays.parts()
    assert (len(training), len(testing)) == (1883, 541)
    assert not set(training.groups) & set(testing.groups)
    valid = training.split == "valid"
    assert valid.sum() == 213
    methods = [method for _, setting in xrays.SETTINGS.values() for method in setting(0.01).values()]
    draws = {str(method.args[0]): method.args[0] for method in methods if method.func is not xrays.annotated}
    for draw in [xrays.everything, *draws.values()]:
        drawn = draw(0)
        assert drawn.annotation.observed[valid].all()
        np.testing.assert_array_equal(drawn.annotation.targets[valid], training.annotation.targets[valid])
        assert set(drawn.split) == {"train", "valid"}
    assert training.annotation.observed.all()
    assert testing.annotation.observed.all()


@NEEDS_XRAYS
def test_the_draws_of_the_x_rays_hide_what_they_say() -> None:
    training = xrays.parts()[0].part("train")
    tenth = xrays.hidden(0, labelled_fraction=0.1).part("train")
    seen = tenth.annotation.observed
    assert np.array_equal(seen.all(axis=1), seen.any(axis=1))
    patients = set(tenth.groups[seen.any(axis=1)])
    assert len(patients) == round(0.1 * len(set(training.groups)))
    assert not patients & set(tenth.groups[~seen.any(axis=1)])
    fifth = xrays.hidden(0, labelled_cells=0.2).part("train").annotation
    assert fifth.observed.mean() == pytest.approx(0.2, abs=0.01)
    blank = xrays.blanks_negative(0, labelled_cells=0.2).part("train").annotation
    assert blank.observed.all()
    positive = training.annotation.targets[:, 1::2] == 1
    np.testing.assert_array_equal(blank.targets[:, 1::2] == 1, positive & fifth.observed)
    lost = {}
    for policy, fate in xrays.POLICIES.items():
        drawn = xrays.unsure(3, fate).part("train")
        assert drawn.cells is not None
        lost[policy] = drawn.cells == UNCERTAIN
        yes = drawn.annotation.targets[:, 1::2][lost[policy]]
        assert np.isnan(yes).all() if policy in ("latent", "ignore") else (yes == (policy == "U-ones")).all()
        np.testing.assert_array_equal((drawn.annotation.targets[:, 1::2] == 1)[~lost[policy]], positive[~lost[policy]])
        assert (drawn.annotation.ignored is not None) == (policy == "ignore")
    assert all(np.array_equal(mask, lost["latent"]) for mask in lost.values())
    assert lost["latent"][positive].mean() == pytest.approx(0.3, abs=0.03)
    assert lost["latent"][~positive].mean() == pytest.approx(0.1, abs=0.01)


def fewer(parts: tuple[Dataset, Dataset], every: int, coarse: int) -> tuple[Dataset, Dataset]:
    """A part of the images, of a part of their pixels."""
    training, testing = (part.rows(np.arange(len(part)) % every == 0) for part in parts)
    return (
        dataclasses.replace(training, x=training.x[:, :, ::coarse, ::coarse].copy()),
        dataclasses.replace(testing, x=testing.x[:, :, ::coarse, ::coarse].copy()),
    )


@pytest.fixture
def few_x_rays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sixth of the X-rays, of 16 pixels, in the place of all, tiny networks, and no measurement of the step."""
    small = fewer(xrays.parts(), 6, 4)
    monkeypatch.setattr(xrays, "parts", lambda: small)
    monkeypatch.setattr(xrays, "fit", tiny_fit)
    monkeypatch.setattr(xrays, "NAMES", {name: xrays.NAMES[name] for name in ("taut", FLOOR, "mean-teacher")})
    monkeypatch.setattr(xrays, "MORE", {"siddharth": "siddharth"})
    monkeypatch.setitem(xrays.ADDED, "patients-10", partial(xrays.patients, 0.1, {"siddharth": "siddharth"}))
    monkeypatch.setattr(xrays, "POLICIES", {"latent": "latent", "ignore": "ignore"})
    monkeypatch.setattr("taut.budget.step_seconds", lambda *_: 1.0)
    monkeypatch.setattr("taut.budget.look_seconds", lambda *_: 0.0)
    monkeypatch.setattr("taut.budget.LEAST_STEPS", 7)
    monkeypatch.setattr(xrays, "MINUTES", 0.01)
    xrays.annotated.cache_clear()


@NEEDS_XRAYS
@pytest.mark.usefixtures("few_x_rays")
@pytest.mark.parametrize(
    ("name", "methods"),
    [("patients-10", 5), ("cells-20", 4), ("uncertain", 4), ("imbalance", 3), ("auxiliary-20", 4), ("foreign", 2)],
)
def test_the_x_ray_benchmark_in_miniature(tmp_path: Path, name: str, methods: int) -> None:
    xrays.main(seeds=1, minutes=0.01, names=[name, "more"], folder=tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.stem == f"xrays-{name}"
    data = json.loads(path.read_text())
    assert len(data["summary"]) == methods
    if name == "patients-10":
        assert set(data["summary"]) == {*xrays.NAMES, *xrays.MORE, "all annotated"}
        assert "| masked_cross_entropy | 1 |" in report.page(tmp_path)
    kinds = ("photographs", "digits", "negative", "turned", "noisy") if name == "foreign" else ()
    for draw in data["draws"]:
        assert all(0 <= draw[f"ood_{kind}"] <= 1 for kind in kinds)
        assert draw["auroc_macro"] == pytest.approx(np.mean(list(draw["auroc"].values())), abs=1e-4)
        assert draw["steps"] == 7
        assert 1 <= draw["kept"] <= 7


@NEEDS_XRAYS
@pytest.mark.usefixtures("few_x_rays")
def test_another_budget_and_some_methods_have_files_of_their_own(tmp_path: Path) -> None:
    xrays.main(seeds=1, minutes=0.02, names=["patients-10", "taut", "all annotated"], folder=tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.name == "xrays-patients-10-0.02-minutes.json"
    assert set(json.loads(path.read_text())["summary"]) == {"taut", "all annotated"}


@pytest.mark.usefixtures("few_images")
def test_the_benchmark_of_unequal_classes_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unbalanced, "fit", tiny_fit)
    monkeypatch.setattr(unbalanced, "SETTINGS", {"2-labels": 2})  # of so few images no class has ten
    training, hidden = unbalanced.parts(2, 0)
    for data in (training, hidden):
        index = mnist.parts()[0].annotation.targets[[int(name) for name in data.ids]].argmax(axis=1)
        counts = np.bincount(index, minlength=10)
        assert counts[0] / counts.sum() == pytest.approx(0.6, abs=0.15)  # one image of each other class
    assert training.annotation.observed.sum() == 20
    assert hidden.annotation.observed.all()
    assert not set(training.ids) & set(hidden.ids)
    unbalanced.main(seeds=1, minutes=0.01, folder=tmp_path)
    for name in unbalanced.SETTINGS:
        summary = json.loads((tmp_path / f"unbalanced-{name}.json").read_text())["summary"]
        assert set(summary) == set(unbalanced.METHODS)
        assert {row["images"]["mean"] for row in summary.values()} == {len(hidden)}
        assert {row["steps"]["mean"] for row in summary.values()} == {20}
        assert len({row["nll"]["mean"] for row in summary.values()}) == len(unbalanced.METHODS)


def shown(count: int) -> Any:
    """The first third of some rows, as a column."""
    return np.arange(count)[:, None] * 3 < count


@pytest.mark.usefixtures("few_images")
def test_the_benchmark_of_a_rare_class_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rare, "fit", tiny_fit)
    for setting, shape in (("images", (1, 28, 28)), ("vectors", (40,))):
        training, hidden = rare.parts(setting, 0)
        assert training.x.shape[1:] == shape
        seen = mnist.parts()[0].annotation.targets
        for data in (training, hidden):
            eight = seen[[int(name) for name in data.ids], 8]
            assert eight.mean() == pytest.approx(0.05, abs=0.04)
            known = data.annotation.observed[:, 0]
            np.testing.assert_array_equal(data.annotation.targets[known, 1], eight[known])
        assert (training.annotation.observed.sum(), hidden.annotation.observed.all()) == (100, True)
        assert not set(training.ids) & set(hidden.ids)
    np.testing.assert_allclose(rare.components(mnist.parts()[0].x).std(axis=0), 1, rtol=1e-3)
    monkeypatch.setattr(rare, "EACH", 1)
    monkeypatch.setattr(rare, "draw_per_class", lambda data, *_: hide(data.annotation, shown(len(data)), (100,)))
    for setting, features in (("unequal", 40), ("many", 80)):
        training, hidden = rare.parts(setting, 0)
        assert training.x.shape[1:] == hidden.x.shape[1:] == (features,)
        assert not set(training.ids) & set(hidden.ids)
        assert hidden.annotation.observed.all()
        for data in (training, hidden):
            known = data.annotation.observed[:, 0]
            of = [int("".join(str(seen[int(i)].argmax()) for i in name.split())) for name in data.ids]
            np.testing.assert_array_equal(data.annotation.targets[known].argmax(axis=1), np.array(of)[known])
    share = np.sort(rare.unequal(0)[1].annotation.targets.mean(axis=0))
    assert share[-1] > 4 * share[5]
    rare.main(seeds=1, minutes=0.01, folder=tmp_path)
    for setting in rare.SETTINGS:
        summary = json.loads((tmp_path / f"rare-{setting}.json").read_text())["summary"]
        assert set(summary) == {"taut", rare.SETTINGS[setting], "supervised", "fixmatch"}
        assert {row["images"]["mean"] for row in summary.values()} == {len(rare.parts(setting, 0)[1])}
        learnt = len({row["nll"]["mean"] for row in summary.values()})
        assert learnt == len(rare.METHODS) if setting in ("images", "vectors") else learnt >= 2  # in six steps
        assert all(0 <= row["balanced_error"]["mean"] <= 100 for row in summary.values())
        assert all(0 <= row["auroc_macro"]["mean"] <= 1 for row in summary.values() if "auroc_macro" in row)


@pytest.mark.usefixtures("few_images")
def test_the_benchmark_of_folds_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {name: value for name, value in TINY.items() if name != "train.folds"}
    monkeypatch.setattr(
        folds,
        "fit",
        lambda data, change, *rest, **options: fit(
            data, lambda plan: override(change(plan), small, "test"), *rest, **options
        ),
    )
    monkeypatch.setattr(shares, "parts", lambda _: mnist.parts())
    assert (folds.parts("half-digits", 0)[0].x[:, :, 14:] == 0).all()
    monkeypatch.setattr(folds, "SETTINGS", {"cats-and-dogs": ("cifar10", (3, 5), 20, 6.0)})
    training, hidden = folds.parts("cats-and-dogs", 0)
    assert training.x[:, :, 14:].any()
    seen = mnist.parts()[0].annotation.targets.argmax(axis=1)
    for data in (training, hidden):
        index, known = seen[[int(name) for name in data.ids]], data.annotation.observed[:, 0]
        assert set(index) == {3, 5}
        np.testing.assert_array_equal(data.annotation.targets[known].argmax(axis=1), index[known] == 5)
    assert (training.annotation.observed.sum(), hidden.annotation.observed.all()) == (40, True)
    assert not set(training.ids) & set(hidden.ids)
    folds.main(seeds=1, folder=tmp_path)
    summary = json.loads((tmp_path / "folds-cats-and-dogs.json").read_text())["summary"]
    assert {name: row["folds"]["mean"] for name, row in summary.items()} == {
        "taut, two folds": 2,
        "taut, no folds": 0,
        "supervised, two folds": 2,
    }
    assert {row["images"]["mean"] for row in summary.values()} == {len(hidden)}
    assert len({row["nll"]["mean"] for row in summary.values()}) == len(folds.METHODS)


@pytest.mark.usefixtures("few_images")
def test_the_benchmark_of_shares_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "fit", tiny_fit)
    monkeypatch.setattr(shares, "parts", lambda _: mnist.parts())
    monkeypatch.setattr(shares, "SETTINGS", {"mnist-90": ("mnist", 300, 0.9, 0.01)})
    training = shares.draw("mnist", 300, 0.9, 0)
    assert len(training) == 300
    assert training.annotation.observed.sum() == pytest.approx(270, abs=5)
    assert set(training.ids) != set(shares.draw("mnist", 300, 0.9, 1).ids)
    shares.main(seeds=1, folder=tmp_path)
    summary = json.loads((tmp_path / "shares-mnist-90.json").read_text())["summary"]
    assert set(summary) == set(shares.METHODS)
    assert {row["images"]["mean"] for row in summary.values()} == {200}
    assert len({row["nll"]["mean"] for row in summary.values()}) == len(shares.METHODS)


@NEEDS_MNIST
@NEEDS_XRAYS
@pytest.mark.usefixtures("few_images", "few_x_rays")
def test_the_views_benchmark_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "fit", tiny_fit)
    training, hidden = views.hidden_patients(0)
    assert training.groups is not None
    assert hidden.groups is not None
    assert not np.isin(hidden.groups, training.groups).any()
    assert hidden.annotation.observed.all()
    assert 0.1 < len(hidden) / (len(hidden) + len(training.part("train"))) < 0.4
    views.main(seeds=1, minutes=0.01, folder=tmp_path)
    digits, scans = (json.loads((tmp_path / f"views-{name}.json").read_text())["draws"] for name in ("mnist", "xrays"))
    assert [d["method"] for d in digits] == [f"taut, {count} views" for count in views.COUNTS]
    assert len({d["nll"] for d in digits}) == len({d["nll"] for d in scans}) / 2 == 4
    assert all(0 < d["auroc_macro"] < 1 for d in scans)


NEEDS_128 = needs(xrays.PACK, xrays128.PACK)


@NEEDS_128
def test_the_larger_x_rays_have_the_split_of_the_small_ones() -> None:
    larger, small = xrays128.parts(), xrays.parts()
    assert sum(map(len, larger)) == 1437
    assert larger[0].x.shape[1:] == (1, 128, 128)
    for part, same in zip(larger, small, strict=True):
        assert set(part.ids) <= set(same.ids)
        row = list(same.ids).index(part.ids[5])
        np.testing.assert_array_equal(part.annotation.targets[5], same.annotation.targets[row])
        # The same image: at the same size the two are nearly the same.
        coarse = part.x[5].reshape(1, 64, 2, 64, 2).mean((2, 4))
        assert np.corrcoef(coarse.ravel(), same.x[row].ravel())[0, 1] > 0.95


@NEEDS_128
def test_the_benchmark_of_larger_x_rays_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = fewer(xrays128.parts(), 12, 4)
    monkeypatch.setattr(xrays128, "parts", lambda: small)
    monkeypatch.setattr(xrays128, "fit", tiny_fit)
    monkeypatch.setattr(xrays128, "measured", xrays128.one)
    monkeypatch.setattr("taut.budget.step_seconds", lambda *_: 1.0)
    monkeypatch.setattr("taut.budget.LEAST_STEPS", 2)
    xrays128.main(seeds=1, minutes=0.01, folder=tmp_path)
    rows = {d["method"]: d for d in json.loads((tmp_path / "xrays-128.json").read_text())["draws"]}
    assert set(rows) == set(xrays128.ENCODERS)
    assert rows["DenseNet-121"]["parameters"] > 50 * rows["small network"]["parameters"]
    for row in rows.values():
        assert row["peak MiB"] >= row["before MiB"] > 100
        assert row["planned MiB"] > 1
        assert row["step_ms"] > 0


def test_each_training_on_larger_x_rays_has_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xrays128.sys, "executable", "/bin/echo")
    with pytest.raises(json.JSONDecodeError) as caught:
        xrays128.measured("conv", 0.5, 3)
    assert caught.value.doc == "-m benchmarks.xrays128 one conv 0.5 3"


# --- digit-grid ---------------------------------------------------------------------------------------------


def test_the_grid_benchmark_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells, rows = (grid.draw(0, name).annotation.observed for name in grid.SETTINGS)
    assert cells.mean() == pytest.approx(0.05, abs=0.005)
    assert rows.all(axis=1).sum() == rows.any(axis=1).sum() == 150
    assert not np.array_equal(rows, grid.draw(1, "rows-5").annotation.observed)
    small = fewer(grid.parts(), 5, 1)
    monkeypatch.setattr(grid, "parts", lambda: small)
    monkeypatch.setattr(grid, "METHODS", ("taut", FLOOR))
    monkeypatch.setattr(grid, "fit", tiny_fit)
    monkeypatch.setattr("taut.budget.step_seconds", lambda *_: 1.0)
    monkeypatch.setattr("taut.budget.LEAST_STEPS", 7)
    grid.annotated.cache_clear()
    grid.main(seeds=1, minutes=0.01, folder=tmp_path)
    grid.annotated.cache_clear()
    for name in grid.SETTINGS:
        data = json.loads((tmp_path / f"grid-{name}.json").read_text())
        assert set(data["summary"]) == {*grid.METHODS, "all annotated"}
        assert all(0.1 < row["ap_macro"]["mean"] < 1 for row in data["summary"].values())


def test_labels_of_one_class_keep_their_frequency() -> None:
    x, y = np.arange(8.0)[:, None], np.array([[0, 0, 1], [0, 1, 0], [0, 1, 1], [0, 0, 0]] * 2)
    found = yeast.positive(yeast.one_vs_rest(0), x, y, x[:3])
    np.testing.assert_allclose(found[:, 0], 1 / 10)
    assert ((found[:, 1:] > 0) & (found[:, 1:] < 1)).all()


def test_the_cost_of_labels_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(label_cost, "measured", lambda *setting: label_cost.step_cost(*setting, budget=0.05))
    monkeypatch.setattr(label_cost, "ENUMERATION_LIMIT", 16)
    monkeypatch.setattr(label_cost, "FAR", 2)
    label_cost.main(seeds=1, folder=tmp_path, settings=[(1, 2), (3, 2), (6, 2)])
    rows = {d["method"]: d for d in json.loads((tmp_path / "label-cost.json").read_text())["draws"]}
    assert rows["taut"]["extrapolated"] == []
    assert rows["M2"]["extrapolated"] == ["k=6 c=2"]
    # The line through log time at 2 and at 8 combinations, at 64.
    one, three = rows["M2"]["k=1 c=2 ms"], rows["M2"]["k=3 c=2 ms"]
    assert rows["M2"]["k=6 c=2 ms"] == pytest.approx(three * (three / one) ** 1.5, rel=0.01)
    assert rows["M2"]["exponent of c^k"] == pytest.approx(np.log2(three / one) / 2, abs=1e-3)
    report.pictures(tmp_path, tmp_path / "pictures")
    assert (tmp_path / "pictures" / "label-cost.png").stat().st_size > 5000


def test_a_machine_without_git_measures_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert common.commit() is None


def test_the_pages_of_claims_are_up_to_date() -> None:
    for path in [report.README, *report.DOCS.glob("*.md")]:
        assert path.read_text(encoding="utf-8") == report.filled(path.read_text(encoding="utf-8")), path.name


PAIRS = {"taut": [0.7, 0.6, 0.8], "masked_cross_entropy": [0.5, 0.5, 0.6], "all annotated": [0.9, 0.8, 0.8]}


def paired(seed: int, name: str) -> dict[str, Any]:
    return {"auroc_macro": PAIRS[name][seed], "seconds": 1.0}


def test_differences_are_paired_by_draw_with_their_intervals(tmp_path: Path) -> None:
    methods = {name: partial(paired, name=name) for name in PAIRS}
    data = common.record("pairs", "what it is", methods, range(3), tmp_path)
    # 0.2, 0.1, 0.2: mean 1/6, standard deviation 0.1/√3, t(0.975, 2) = 4.30265, half width 4.30265·0.1/3.
    values = report.differences(data, "taut", "masked_cross_entropy", "auroc_macro")
    mean, half = report.interval(values)
    assert mean == pytest.approx(1 / 6)
    assert half == pytest.approx(4.30265 * 0.1 / 3, abs=1e-6)
    page = report.page(tmp_path)
    assert "taut less the method, paired by draw" in page
    assert "| masked_cross_entropy | 3 | +0.167 [+0.023, +0.310] |" in page
    # −0.2, −0.2, 0: mean −2/15, standard deviation 0.2/√3.
    assert "| all annotated | 3 | -0.133 [-0.420, +0.154] |" in page
    # (2.1 − 1.6) / (2.5 − 1.6) of the way.
    assert "Of the way in auroc_macro from masked_cross_entropy to all annotated: taut 56 %." in page
    # Draws that only one of the two has do not count.
    common.record("pairs", "what it is", {"other": lambda seed: {"auroc_macro": 0.0}}, [2, 3], tmp_path)
    data = json.loads((tmp_path / "pairs.json").read_text())
    np.testing.assert_allclose(report.differences(data, "taut", "other", "auroc_macro"), [0.8])
    assert "| other | 2 |" in report.page(tmp_path)  # the table of means
    assert "+0.800" not in report.page(tmp_path)


def test_the_first_of_several_forms_of_taut_is_compared(tmp_path: Path) -> None:
    methods = {name: Method(start) for start, name in enumerate(["baseline, latent", "taut, latent", "taut, U-ones"])}
    common.record("forms", "what it is", methods, range(3), tmp_path)
    data = json.loads((tmp_path / "forms.json").read_text())
    head, table = report.paired_table(data)
    assert head.startswith("taut, latent less")
    assert "| taut, U-ones | 3 | -1.000 [-1.000, -1.000] |" in table
    assert report.paired_table({**data, "summary": {"baseline, latent": data["summary"]["baseline, latent"]}}) == []
    assert report.shares(data) == []


def test_marked_tables_are_filled_in(tmp_path: Path) -> None:
    common.record("name", "what it is", {"one": Method()}, range(2), tmp_path)
    text = "a\n<!-- results: name -->\nold\n<!-- end -->\nb\n<!-- results: other -->\n<!-- end -->\n"
    once = report.filled(text, tmp_path)
    assert "| one | 2 | 0.500 ± 0.707 |" in once
    assert "old" not in once
    assert "Not measured yet." in once
    assert report.filled(once, tmp_path) == once


@pytest.mark.usefixtures("few_images")
def test_the_benchmark_of_heavy_tails_in_miniature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tails, "fit", tiny_fit)
    monkeypatch.setattr(tails, "SETTINGS", dict.fromkeys(tails.SETTINGS, 2))
    for setting in tails.SETTINGS:
        training, hidden = tails.parts(setting, 0)
        assert not set(training.ids) & set(hidden.ids)
        assert (training.annotation.observed.sum(), hidden.annotation.observed.all()) == (
            2 * training.space.width,
            True,
        )
        heavy = sum(knee > 0 for knee in fingerprint(training).knee)
        assert heavy > 0 or setting == "breast-cancer"
    seen = mnist.parts()[0].x.reshape(-1, 784)
    photons = tails.counts(seen, np.random.default_rng(0))
    assert (photons == photons.round()).all()
    assert (photons[seen == 0] == 0).all()
    # The mean of the log-normal efficiency is exp(σ²/2).
    assert photons.sum(axis=1).mean() == pytest.approx(200 * math.exp(0.125), rel=0.15)
    tails.main(seeds=1, names=["counts", "breast-cancer"], folder=tmp_path)
    for setting in ("counts", "breast-cancer"):
        summary = json.loads((tmp_path / f"tails-{setting}.json").read_text())["summary"]
        assert set(summary) == {
            *("taut", "taut, standardised alone", "supervised", "supervised, standardised alone"),
            *("fixmatch", "logistic regression"),
        }
        assert len({row["images"]["mean"] for name, row in summary.items() if "logistic" not in name}) == 1
        assert all(row["nll"]["mean"] > 0 for row in summary.values())
    assert summary["logistic regression"]["error"]["mean"] < 20

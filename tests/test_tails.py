"""Columns of vectors with heavy tails are taken as their arcsinh."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from taut import TautClassifier
from taut.build import build_model
from taut.export import export
from taut.facts import fingerprint
from taut.labels import LabelSpace
from taut.nn.vae import Architecture, LabelVAE
from taut.plan import Plan
from taut.rules import describe, make_plan
from taut.run import Run
from tiny import some_known, vectors


def columns(*made, rows=4000):
    rng = np.random.default_rng(0)
    y = np.arange(rows) % 3
    data = vectors(y, LabelSpace.multiclass([0, 1, 2]))
    return dataclasses.replace(data, x=np.stack([make(rng, rows) for make in made], axis=1).astype(np.float32))


LIGHT = {
    "normal": lambda rng, n: rng.normal(1e4, 3, n),
    "uniform": lambda rng, n: rng.random(n),
    "exponential": lambda rng, n: rng.exponential(2, n),
    "laplace": lambda rng, n: rng.laplace(0, 1, n),
    "constant": lambda rng, n: np.full(n, 7.0),
}
HEAVY = {
    "rare yes": lambda rng, n: (rng.random(n) < 0.02).astype(float),
    "log-normal": lambda rng, n: rng.lognormal(0, 1.5, n),
    "rare counts": lambda rng, n: rng.poisson(rng.gamma(0.1, 10, n)),
    "negative": lambda rng, n: -5 - rng.lognormal(0, 2, n),
    "an outlier": lambda rng, n: np.where(np.arange(n) == 17, 1e8, rng.normal(0, 1, n)),
}


def test_which_columns_have_heavy_tails():
    assert fingerprint(columns(*LIGHT.values())).knee == ()
    facts = fingerprint(columns(*HEAVY.values(), *LIGHT.values()))
    assert [knee > 0 for knee in facts.knee] == [True] * len(HEAVY) + [False] * len(LIGHT)
    assert facts.center[len(HEAVY) :] == (0.0,) * len(LIGHT)


def test_they_do_not_depend_on_units():
    data = columns(*HEAVY.values())
    facts, other = fingerprint(data), fingerprint(dataclasses.replace(data, x=data.x * np.float32(1e-6)))
    np.testing.assert_allclose(np.array(other.knee) / facts.knee, 1e-6, rtol=1e-4)
    np.testing.assert_allclose(other.std, facts.std, rtol=1e-4)
    np.testing.assert_allclose(other.mean, facts.mean, atol=1e-4)


def test_the_model_takes_the_arcsinh_and_gives_back_units():
    data = columns(*HEAVY.values(), *LIGHT.values())
    facts = fingerprint(data)
    model = build_model(data, make_plan(facts), facts)
    x = torch.from_numpy(data.x)
    prepared = model.prepare(x)
    heavy = len(HEAVY)
    bent = np.arcsinh((data.x[:, :heavy].astype(float) - facts.center[:heavy]) / facts.knee[:heavy])
    # What is not 0 in few rows alone is not made large in these.
    np.testing.assert_allclose(
        prepared[:, :heavy], (bent - bent.mean(axis=0)) / bent.std(axis=0).clip(min=1), atol=2e-4
    )
    assert bent.std(axis=0).min() < 0.2
    torch.testing.assert_close(prepared.mean(0), torch.zeros(10), atol=1e-3, rtol=0)
    torch.testing.assert_close(prepared[:, heavy:-1].std(0), torch.ones(4), atol=1e-3, rtol=0)
    assert prepared[:, :heavy].abs().max() < 30 < (data.x[17, 4] - data.x[:, 4].mean()) / data.x[:, 4].std()
    length = float(prepared.square().sum(1).mean().sqrt())
    assert facts.typical_length == pytest.approx(length, rel=1e-3)
    torch.testing.assert_close(model.mean_image(prepared), x, rtol=1e-3, atol=1e-2)


def test_a_model_of_an_older_version_takes_its_columns_as_they_are():
    model = LabelVAE(LabelSpace.multiclass([0, 1]), Architecture((4,), "mlp", 8))
    state = {name: value for name, value in model.state_dict().items() if name not in ("center", "knee")}
    assert len(state) == len(model.state_dict()) - 2
    model.load_state_dict(state)
    x = torch.rand(3, 4)
    torch.testing.assert_close(model.prepare(x), x)


def test_the_plan_says_so():
    data = columns(*HEAVY.values(), *LIGHT.values())
    facts = fingerprint(data)
    text = describe(facts, data.space, make_plan(facts))
    assert "5 of the features have heavy tails; the arcsinh of each stands in for it" in text
    data = columns(*LIGHT.values())
    assert "tails" not in describe(fingerprint(data), data.space, make_plan(fingerprint(data)))


def test_a_run_has_the_facts_of_features_that_differ_in_their_last_digits(tmp_path):
    run, data = Run.create(tmp_path / "run"), columns(*HEAVY.values())
    run.save_plan(Plan(), fingerprint(data), {"data": "some.npz"})
    x = data.x * np.float32(1 + 1e-5)
    assert fingerprint(dataclasses.replace(data, x=x)).knee != fingerprint(data).knee
    assert run.has_facts(fingerprint(dataclasses.replace(data, x=x)))
    assert not run.has_facts(fingerprint(dataclasses.replace(data, x=data.x * np.float32(1.01))))
    assert not run.has_facts(fingerprint(vectors(some_known())))


@pytest.mark.parametrize("tails", [False, True])
def test_classes_apart_by_orders_of_magnitude_are_learnt(tails, tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(600) % 3
    exponent = rng.normal(size=(600, 8)) + np.eye(3, 8)[y] * 3
    x = (np.exp(2 * exponent) if tails else exponent).astype(np.float32)
    model = TautClassifier(plan={"train.steps": 150, "train.folds": 0}, random_state=0)
    model.fit(x, np.where(np.arange(600) < 60, y, -1))
    score = model.score(x[60:], y[60:])
    assert score > 0.88  # of the exponents: 0.94 at best
    model.save(tmp_path / "model")
    np.testing.assert_array_equal(TautClassifier.load(tmp_path / "model").predict_proba(x), model.predict_proba(x))
    said = export(Run(tmp_path / "model"), tmp_path / "shipped")
    assert json.loads((tmp_path / "shipped" / "program.json").read_text()) == said
    program = torch.export.load(tmp_path / "shipped" / "program.pt2").module()
    np.testing.assert_allclose(program(torch.from_numpy(x)).numpy(), model.predict_proba(x), atol=1e-6)


def test_what_is_far_outside_of_anything_known_has_numbers():
    data = columns(*HEAVY.values(), *LIGHT.values())
    facts = fingerprint(data)
    model = build_model(data, make_plan(facts), facts).eval()
    x = torch.full((2, len(facts.std)), 3e38)
    x[1] = -x[1]
    assert model.log_probabilities(model.predict(model.prepare(x)).logits).isfinite().all()
    assert model.log_likelihood(model.prepare(x), torch.zeros_like(x)).isfinite().all()

"""Predictions are averaged over fixed views of an image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from taut import latent
from taut.data.augment import Augment
from taut.evaluate.calibration import calibrate_on
from taut.evaluate.metrics import evaluate
from taut.evaluate.predict import predict_logits, predict_posterior
from taut.facts import fingerprint
from taut.fit import fit
from taut.nn.vae import Architecture, LabelVAE
from taut.nn.warp import warp
from taut.plan import Plan, override
from taut.report.explain import explain
from taut.rules import make_plan
from taut.run import load_model, save_model
from tiny import SEVERAL, cells, images, some_known, tiny, vectors

SHAPE = (1, 12, 10)


@pytest.fixture
def model() -> LabelVAE:
    """A model of two labels that was not trained."""
    torch.manual_seed(0)
    return LabelVAE(SEVERAL, Architecture(SHAPE, width=4, decoder_width=4, z_dim=2)).eval()


def some(n: int = 7) -> torch.Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_the_maps_are_within_half_of_the_ranges_and_always_the_same() -> None:
    augment = Augment(rotation=20, scale=0.2, shift=0.1, shear=0.0, views=64)
    maps = augment.fixed_maps((1, 16, 16))
    assert maps is not None
    assert maps.shape == (64, 2, 3)
    torch.testing.assert_close(augment.fixed_maps((1, 16, 16)), maps, rtol=0, atol=0)
    turned = torch.atan2(maps[:, 1, 0], maps[:, 0, 0]).rad2deg().abs()
    zoomed = maps[:, :, 0].norm(dim=1).log().abs()
    moved = maps[:, :, 2].abs() / 2
    for values, most in ((turned, 10), (zoomed, 0.1), (moved, 0.05)):
        assert 0.8 * most < values.max() <= most + 1e-6
    assert len({tuple(one.flatten().tolist()) for one in maps}) == 64


def test_mirror_images_are_among_them_only_where_augmentation_has_them() -> None:
    for flip in (False, True):
        maps = Augment(flip=flip, views=16).fixed_maps((1, 8, 8))
        assert maps is not None
        assert bool((maps[:, 0, 0] < 0).any()) == flip


def test_there_are_none_without_ranges_and_none_of_vectors() -> None:
    assert Augment(rotation=0, scale=0, shift=0, shear=0, views=8).fixed_maps(SHAPE) is None
    assert Augment(views=0).fixed_maps(SHAPE) is None
    assert Augment(views=8).fixed_maps((5,)) is None


def test_the_same_map_leaves_images_alone() -> None:
    x = some()
    same = torch.eye(2, 3)[None]
    torch.testing.assert_close(warp(x, same), x)
    torch.testing.assert_close(warp(x, same.expand(len(x), -1, -1)), x)


def test_a_prediction_is_the_mean_over_an_image_and_its_views(model: LabelVAE) -> None:
    x = some()
    alone = model.predict(x)
    assert torch.equal(alone.logits, model.classify(x))
    model.views = Augment(views=3).fixed_maps(SHAPE)
    assert model.views is not None
    with torch.no_grad():
        seen = [x, *(warp(x, view.expand(len(x), -1, -1)) for view in model.views)]
        want = torch.stack([model.classify(one).reshape(-1, 2, 2).softmax(-1) for one in seen]).mean(0)
        got = model.predict(x)
    torch.testing.assert_close(got.logits.exp().reshape(-1, 2, 2), want)
    assert torch.equal(got.mean, alone.mean)
    # Neither on other images of a batch nor on chance.
    torch.testing.assert_close(model.predict(x[2:3]).logits, got.logits[2:3])


def test_views_travel_with_a_model_and_an_older_file_has_none(model: LabelVAE, tmp_path: Path) -> None:
    save_model(model, tmp_path / "old", {})
    assert load_model(tmp_path / "old").views is None
    model.views = Augment(views=3).fixed_maps(SHAPE)
    save_model(model, tmp_path / "new", {})
    x = some()
    torch.testing.assert_close(load_model(tmp_path / "new").predict(x).logits, model.predict(x).logits)


def test_only_a_finished_training_has_them_and_calibrates_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    data = images(cells(80, 0.9), SEVERAL, split=["valid"] * 40 + ["train"] * 40)
    during, calibrated = [], []

    def look(model: LabelVAE, held: object) -> torch.Tensor:
        during.append(model.views)
        return torch.zeros(40)

    def with_logits(model: LabelVAE, logits: torch.Tensor, *others: Any) -> str:
        calibrated.append(logits)
        return calibrate_on(model, logits, *others)

    monkeypatch.setattr("taut.looks.held_out_nll", look)
    monkeypatch.setattr("taut.evaluate.calibration.calibrate_on", with_logits)
    model = fit(data, tiny(), quiet=True).model
    assert during
    assert all(views is None for views in during)
    assert model.views is not None
    assert len(model.views) == 8
    x = data.x[:40]
    log_q = latent.log_softmax(calibrated[0], model.sizes)
    torch.testing.assert_close(log_q, predict_logits(model, x))
    single = model.classify(model.prepare(torch.from_numpy(np.asarray(x))))
    assert not torch.allclose(log_q, latent.log_softmax(single, model.sizes), atol=1e-4)


def test_trainings_on_folds_predict_with_them_too() -> None:
    data = images(cells(80, 0.9), SEVERAL)
    one, several = (fit(data, tiny(train={"folds": 2}, augment={"views": views}), quiet=True).model for views in (0, 4))
    assert not torch.equal(one.temperature, several.temperature)
    weights = [dict(model.named_parameters()) for model in (one, several)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_the_plan_has_eight_for_the_small_network_and_none_for_deep_ones_and_vectors() -> None:
    facts = fingerprint(images(some_known()))
    assert make_plan(facts).augment.views == 8
    assert make_plan(facts, encoder="densenet-121").augment.views == 0
    assert make_plan(fingerprint(vectors(some_known()))).augment.views == 0
    with pytest.raises(ValueError, match=r"augment\.views -1 is not between 0 and inf"):
        override(Plan(), {"augment.views": -1}, "test")


def test_everything_that_says_a_probability_says_the_same(model: LabelVAE) -> None:
    data = images(cells(20, 1.0), SEVERAL)
    fitted = LabelVAE(SEVERAL, Architecture(data.x.shape[1:], width=4, decoder_width=4, z_dim=2)).eval()
    fitted.views = Augment(views=3).fixed_maps(data.x.shape[1:])
    q = predict_posterior(fitted, data.x).logits.exp().numpy()
    told = explain(fitted, data.x[:1], "a")
    np.testing.assert_allclose(told.probability, q[0, :2], atol=1e-6)
    given = evaluate(fitted, data, logits=predict_logits(fitted, data.x))
    assert given == evaluate(fitted, data)
    nll = -np.log(q.reshape(20, 2, 2))[data.annotation.targets.reshape(20, 2, 2) > 0].mean()
    assert given["nll"] == pytest.approx(nll, abs=1e-5)

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.spatial.distance import mahalanobis
from scipy.special import rel_entr, softmax
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score

from conftest import Array
from taut.baselines import OBJECTIVES
from taut.build import build_model
from taut.data import load_dataset
from taut.data.dataset import DataError, Dataset
from taut.evaluate.ood import (
    STATISTICS,
    OODReference,
    _distance,
    _gaussian,
    _left_out,
    fit_ood,
    ood_auroc,
    ood_percentiles,
    ood_scores,
    ood_statistics,
)
from taut.evaluate.predict import predict_posterior
from taut.facts import fingerprint
from taut.fit import fit
from taut.nn.vae import LabelVAE
from taut.rules import make_plan
from taut.run import load_model, save_model
from tiny import SEVERAL, cells, equal, images, some_known, tiny, vectors

STEPS = {"steps": 150, "batch_labelled": 32, "batch_unlabelled": 96}


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def model(digits: Dataset) -> LabelVAE:
    """A small network that was trained on digits for about two seconds, with 120 images held out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    split = np.where(digits.split == "test", "test", "train").astype("U5")
    split[np.random.default_rng(0).choice(np.flatnonzero(split == "train"), 120, replace=False)] = "valid"
    digits.split = split
    change = tiny(train=STEPS, model={"width": 16, "decoder_width": 16, "z_dim": 8})
    found = fit(digits.rows(split != "test"), change, quiet=True).model
    torch.set_num_threads(threads)
    return found


def fresh(data: Dataset) -> LabelVAE:
    facts = fingerprint(data)
    return build_model(data, tiny()(make_plan(facts)), facts).eval()


# --- what it is for -----------------------------------------------------------------------------------------


def foreign(x: Array) -> dict[str, Array]:
    noise = np.random.default_rng(0).integers(0, 256, x.shape).astype(np.uint8)
    dark = np.zeros_like(x)
    dark[:, :, 3:5] = x[:, :, 3:5]
    return {"noise": noise, "inverted": 255 - x, "black": 0 * x, "two rows": dark}


def test_foreign_images_score_higher_than_new_ones(model: LabelVAE, digits: Dataset) -> None:
    """Simple ones too, which a likelihood prefers to the digits themselves."""
    inside = digits.part("test").x
    own = ood_scores(model, inside)
    for name, outside in foreign(inside).items():
        found = ood_auroc(model, inside, outside)
        assert found > 0.97, name
        truth = np.repeat([False, True], len(inside))
        assert found == roc_auc_score(truth, np.concatenate([own, ood_scores(model, outside)])), name
    assert ood_auroc(model, inside[::2], inside[1::2]) == pytest.approx(0.5, abs=0.08)


def test_percentiles_of_new_images_are_what_they_say(model: LabelVAE, digits: Dataset) -> None:
    inside = digits.part("test").x
    percent = ood_percentiles(model, ood_scores(model, inside))
    assert 0 <= percent.min() <= percent.max() <= 100
    assert np.mean(percent) == pytest.approx(50, abs=10)
    assert np.mean(percent > 95) == pytest.approx(0.05, abs=0.05)
    assert isinstance(model.ood, OODReference)
    assert "120 held-out images" in model.ood.describe()
    known = model.ood.scores.numpy().astype(float)
    middle = (known[59] + known[60]) / 2
    wanted = ood_percentiles(model, np.array([0.0, known[0], known[5], middle, known[-1] + 1]))
    np.testing.assert_allclose(wanted, [0, 0, 100 * 5 / 120, 50, 100])


def test_each_reference_image_is_judged_by_the_others() -> None:
    """By leaving one out at a time, and by how many new ones lie above the 95th percentile of few."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 5))
    rows -= rows.mean(axis=0)
    covariance = np.cov(rows.T, bias=True)
    got = _left_out(rows, np.linalg.inv(covariance), 0.0)
    for i in range(40):
        others = np.delete(rows, i, axis=0)
        precision = np.linalg.inv(np.cov(others.T, bias=True))
        assert got[i] == pytest.approx(mahalanobis(rows[i], others.mean(axis=0), precision))
    above, own = [], []
    related = np.linalg.cholesky(np.full((6, 6), 0.8) + 0.2 * np.eye(6)).T  # a covariance that is hardly shrunk
    for _ in range(200):
        known, new = rng.normal(size=(100, 6)) @ related, rng.normal(size=(200, 6)) @ related
        mean, precision, shrinkage = _gaussian(known)
        scores = _left_out(known - mean, precision, shrinkage)
        above.append(np.mean(_distance(new - mean, precision) > np.quantile(scores, 0.95)))
        own.append(np.mean(_distance(new - mean, precision) > np.quantile(_distance(known - mean, precision), 0.95)))
    assert np.mean(above) == pytest.approx(0.055, abs=0.01)
    assert np.mean(own) > np.mean(above) + 0.005  # what it mends


def test_reference_images_that_were_trained_on_do_not_count_in_their_own_distances() -> None:
    """Of new vectors as many as should are above the 95th percentile of 60 that made the Gaussians themselves."""
    rng, above = np.random.default_rng(0), []
    data = vectors(np.zeros(60), features=5)
    for seed in range(12):
        known = vectors(np.zeros(60), features=5, seed=seed)
        model = fresh(data)
        model.ood = fit_ood(model, known.x, known.x[:0], decodes=False)
        new = rng.normal(size=(400, 5)).astype(np.float32)
        above.append(np.mean(ood_percentiles(model, ood_scores(model, new)) > 95))
    assert np.mean(above) == pytest.approx(0.05, abs=0.03)


def test_a_score_depends_on_its_image_alone(model: LabelVAE, digits: Dataset) -> None:
    x = digits.x[:40]
    scores = ood_scores(model, x)
    np.testing.assert_allclose(ood_scores(model, x[7:9]), scores[7:9], rtol=1e-4)
    np.testing.assert_array_equal(ood_scores(model, x), scores)
    np.testing.assert_allclose(ood_scores(model, x[::-1]), scores[::-1], rtol=1e-4)


# --- the figures by other means -----------------------------------------------------------------------------


def test_the_statistics_by_hand(model: LabelVAE, digits: Dataset) -> None:
    x = digits.part("test").x[:6]
    reference = model.ood
    assert isinstance(reference, OODReference)
    posterior = predict_posterior(model, x)
    q = softmax(posterior.logits.numpy().astype(float), axis=1)
    c = torch.nn.functional.one_hot(torch.from_numpy(q).argmax(1), 10).float()
    with torch.no_grad():
        p = model.mean_image(model.decode(posterior.mean, c)).numpy().astype(float)
    pixels = x / 255
    normal = torch.distributions.Normal(posterior.mean, (0.5 * posterior.log_var).exp())
    kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1).numpy()
    steps = x.astype(int)
    steps[..., 1:] -= x[..., :-1].astype(int)
    raw = {
        "entropy": entropy(q, axis=1),
        "logits": [
            mahalanobis(row, reference.logits_mean.numpy(), reference.logits_precision.numpy())
            for row in posterior.logits.numpy()
        ],
        "complexity": [len(zlib.compress((image % 256).astype(np.uint8).tobytes())) / 64 for image in steps],
        "reconstruction": (rel_entr(pixels, p) + rel_entr(1 - pixels, 1 - p)).mean(axis=(1, 2, 3)),
        "kl_z": kl,
        "place": [
            mahalanobis(row, reference.z_mean.numpy(), reference.z_precision.numpy()) for row in posterior.mean.numpy()
        ],
    }
    found = ood_statistics(model, x)
    assert tuple(found) == STATISTICS
    for s, name in enumerate(STATISTICS):
        want = (np.log(raw[name]) - float(reference.centre[s])) / float(reference.spread[s])
        np.testing.assert_allclose(found[name], want, rtol=2e-3, atol=2e-3, err_msg=name)
    table = np.stack(list(found.values()), axis=1)
    want = [mahalanobis(row, np.zeros(6), reference.precision.double().numpy()) for row in table]
    np.testing.assert_allclose(ood_scores(model, x), want, rtol=1e-6)


def test_the_reference_is_standardised(model: LabelVAE, digits: Dataset) -> None:
    held = digits.part("valid").x
    for values in ood_statistics(model, held).values():
        assert values.mean() == pytest.approx(0, abs=1e-3)
        assert values.std() == pytest.approx(1, abs=1e-2)
    assert isinstance(model.ood, OODReference)
    own, left_out = np.sort(ood_scores(model, held)), model.ood.scores.numpy()
    assert (left_out > own).all()  # each is judged by the others
    table = np.stack(list(ood_statistics(model, held).values()), axis=1)
    mean, precision, shrinkage = _gaussian(table)
    np.testing.assert_allclose(left_out, np.sort(_left_out(table - mean, precision, shrinkage)), rtol=1e-3)


# --- other models -------------------------------------------------------------------------------------------


def test_without_a_trained_decoder_it_takes_no_part(digits: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    change = tiny(train=STEPS, model={"width": 16})
    training = digits.rows(digits.split != "test")
    fitted = fit(training, change, quiet=True, objective="supervised")
    model, x = fitted.model, digits.part("test").x
    assert any("the decoder was not trained and takes no part" in note for note in fitted.notes)
    monkeypatch.setattr(LabelVAE, "decode", lambda *_: pytest.fail("decoded"))
    assert tuple(ood_statistics(model, x[:3])) == STATISTICS[:3]
    assert ood_auroc(model, x, foreign(x)["noise"]) > 0.9


def test_feature_vectors_have_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    data = vectors(some_known(300, 200), features=6)
    model = fit(data, tiny(train={"steps": 40}), quiet=True).model
    near = np.random.default_rng(5).normal(size=(200, 6)).astype(np.float32)
    assert ood_auroc(model, near, 4 * near + 3) > 0.95
    assert ood_auroc(model, near, near / 20) > 0.8  # all too near the middle
    assert isinstance(model.ood, OODReference)
    assert "300 training images" in model.ood.describe()


@pytest.mark.parametrize("name", ["tighter-elbo", "m2", "m1m2", "siddharth", "shot-vae", "joint-vae", "vae"])
def test_objectives_that_train_a_decoder_say_so(name: str) -> None:
    plan = tiny()(make_plan(fingerprint(images(some_known()))))
    assert OBJECTIVES[name].decodes(plan)
    if name == "tighter-elbo":
        plan.objective.reconstruction = 0.0
        assert not OBJECTIVES[name].decodes(plan)
    others = set(OBJECTIVES) - {"tighter-elbo", "m2", "m1m2", "siddharth", "shot-vae", "joint-vae", "vae"}
    assert not any(OBJECTIVES[other].decodes(plan) for other in others)


# --- edges --------------------------------------------------------------------------------------------------


def test_a_model_without_a_reference_says_so() -> None:
    data = images(some_known(9, 9))
    model = fresh(data)
    assert fit_ood(model, data.x, data.x[:0], True) is None
    with pytest.raises(DataError, match="the model has no out-of-distribution reference"):
        ood_scores(model, data.x)


@pytest.mark.parametrize("held", [99, 100])
def test_a_few_held_out_images_are_no_reference(held: int) -> None:
    data = images(cells(120), SEVERAL)
    reference = fit_ood(fresh(data), data.x, data.x[:held], True)
    assert reference is not None
    assert (bool(reference.held_out), len(reference.scores)) == ((True, 100) if held == 100 else (False, 120))


def test_images_that_are_all_alike_have_finite_scores() -> None:
    data = images(some_known(20, 20))
    data.x[:] = 7
    model = fresh(data)
    model.ood = fit_ood(model, data.x, data.x[:0], True)
    assert np.isfinite(ood_scores(model, data.x)).all()
    assert np.isfinite(ood_scores(model, foreign(images(some_known(20)).x)["noise"])).all()


def test_the_reference_is_saved_with_the_weights(model: LabelVAE, digits: Dataset, tmp_path: Path) -> None:
    save_model(model, tmp_path, {})
    again = load_model(tmp_path)
    assert equal(model, again)
    x = digits.x[:50]
    np.testing.assert_array_equal(ood_scores(again, x), ood_scores(model, x))
    state: dict[str, Any] = load_file(tmp_path / "model.safetensors")
    del state["ood.scores"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match=r"model.safetensors is damaged"):
        load_model(tmp_path)
    save_file({k: v for k, v in state.items() if not k.startswith("ood.")}, tmp_path / "model.safetensors")
    with pytest.raises(DataError, match="no out-of-distribution reference"):
        ood_scores(load_model(tmp_path), x)

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import Array
from taut.build import build_model
from taut.data.dataset import DataError, Dataset
from taut.evaluate.predict import predict_logits, predict_posterior, predict_probabilities
from taut.facts import fingerprint
from taut.features import About, FrozenEncoder
from taut.labels import Label, LabelSpace
from taut.nn.vae import LabelVAE
from taut.report.explain import attribute, draw_explanation, explain, find_label
from taut.rules import make_plan
from tiny import NAN, SEVERAL, cells, images, some_known, tiny, vectors

MIX = LabelSpace((Label("grade", ("a", "b", "c")), Label("sick", (0, 1)), Label("a=b", ("no", "yes"))))


def model_of(data: Dataset) -> LabelVAE:
    facts = fingerprint(data)
    model = build_model(data, tiny()(make_plan(facts)), facts).eval()
    model.temperature.fill_(0.3)
    return model


def mixed(channels: int = 1) -> Dataset:
    y = np.array([["a", 1, "no"], ["b", 0, None], ["c", None, "yes"]] * 5, dtype=object)
    return images(y, MIX, channels=channels)


def one_hot(model: LabelVAE, *classes: int) -> torch.Tensor:
    parts = [torch.eye(size)[c] for size, c in zip(model.sizes, classes, strict=True)]
    return torch.cat(parts)[None]


# --- labels and classes -------------------------------------------------------------------------------------


def test_labels_and_classes_are_found_by_name() -> None:
    assert find_label(MIX, "grade") == (0, None)
    assert find_label(MIX, "grade=c") == (0, 2)
    assert find_label(MIX, "sick=1") == (1, 1)
    assert find_label(MIX, "a=b") == (2, None)
    assert find_label(MIX, "a=b=no") == (2, 0)
    with pytest.raises(DataError, match="--label 'lazy' is not one of grade, sick, a=b"):
        find_label(MIX, "lazy")
    with pytest.raises(DataError, match="--label grade=z: the classes of grade are a, b, c"):
        find_label(MIX, "grade=z")


# --- the counterfactual -------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_one_z_is_decoded_under_both_values(channels: int) -> None:
    data = mixed(channels)
    model, x = model_of(data), data.x[3:4]
    found = explain(model, x, "sick")
    posterior, q = predict_posterior(model, x), predict_probabilities(model, x, calibrated=False)[0]
    others = int(q[:3].argmax()), int(q[5:].argmax())
    with torch.no_grad():
        want = [
            model.mean_image(model.decode(posterior.mean, one_hot(model, others[0], c, others[1])))[0] for c in (0, 1)
        ]
    assert found.classes == (0, 1)
    assert found.decoded is not None
    np.testing.assert_allclose(found.decoded, torch.stack(want), atol=1e-6)
    np.testing.assert_allclose(found.difference, (want[1] - want[0]).mean(0), atol=1e-6)
    np.testing.assert_allclose(found.probability, q[3:5], rtol=1e-5)
    np.testing.assert_allclose(found.calibrated, predict_probabilities(model, x)[0, 3:5], rtol=1e-5)
    np.testing.assert_allclose(found.image, x[0] / 255, rtol=1e-6)
    said = found.describe()
    assert f"q(sick=1|x) = {found.calibrated[1]:.3f} ({q[4]:.3f} before calibration)" in said
    assert f"differ by at most {np.abs(found.difference).max():.3f}" in said
    assert explain(model, x, "sick=0").classes == (1, 0)


def test_a_class_of_many_is_compared_with_the_most_probable_other_one() -> None:
    data = mixed()
    model, x = model_of(data), data.x[:1]
    ranking = [("a", "b", "c")[i] for i in predict_probabilities(model, x)[0, :3].argsort()[::-1]]
    assert explain(model, x, "grade").classes == (ranking[0], ranking[1])
    assert explain(model, x, f"grade={ranking[2]}").classes == (ranking[0], ranking[2])
    assert explain(model, x, f"grade={ranking[0]}").classes == (ranking[1], ranking[0])


def test_a_decoder_that_ignores_the_label_shows_no_difference() -> None:
    data = images(cells(), SEVERAL)
    model = model_of(data)
    with torch.no_grad():
        model.decoder.linear.weight[:, 2:] = 0  # of z_dim 2 and the labels, those of the labels
    found = explain(model, data.x[:1], "b")
    assert found.difference is not None
    assert np.abs(found.difference).max() == 0
    assert "differ by at most 0.000" in found.describe()


def test_an_untrained_decoder_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    data = images(cells(), SEVERAL)
    monkeypatch.setattr(LabelVAE, "decode", lambda *_: pytest.fail("decoded"))
    found = explain(model_of(data), data.x[:1], "a", decodes=False)
    assert found.decoded is None
    assert found.difference is None
    assert "differ" not in found.describe()


def test_feature_vectors_have_no_image() -> None:
    data = vectors(some_known())
    with pytest.raises(DataError, match="feature vectors: there is no image to explain"):
        explain(model_of(data), data.x[:1], "label")


# --- where the classifier looks -----------------------------------------------------------------------------


def odds(model: LabelVAE, x: Array) -> Array:
    logits = predict_logits(model, x).double().numpy()
    return np.asarray(logits[:, 3] - logits[:, 2])


def test_occlusion_is_what_each_window_takes_away() -> None:
    pytest.importorskip("captum")
    data = images(cells(), SEVERAL, channels=3)
    model = model_of(data)
    x = data.x[:1].astype(np.float32) / 255
    found = attribute(model, torch.from_numpy(x), 3, 2, "occlusion")
    want = np.empty((8, 8))
    for row in range(8):
        for column in range(8):
            hidden = x.copy()
            hidden[0, :, row, column] = model.shift[:, 0, 0].numpy()
            want[row, column] = (odds(model, x) - odds(model, hidden))[0]
    np.testing.assert_allclose(found, want, atol=1e-5)


def test_integrated_gradients_add_up_to_the_difference_to_the_mean() -> None:
    pytest.importorskip("captum")
    data = images(cells(), SEVERAL)
    model = model_of(data)
    x = data.x[:1].astype(np.float32) / 255
    found = attribute(model, torch.from_numpy(x), 3, 2, "gradients")
    mean = np.broadcast_to(model.shift.numpy(), x.shape)
    assert found.shape == (8, 8)
    assert float(found.sum()) == pytest.approx(float((odds(model, x) - odds(model, mean))[0]), rel=0.05, abs=1e-3)


def test_a_map_of_a_frozen_encoder_is_of_the_image() -> None:
    pytest.importorskip("captum")
    data = images(cells(), SEVERAL, channels=3)
    whole = model_of(data)
    backbone = {f"backbone.{name}": value for name, value in whole.encoder.backbone.state_dict().items()}
    about = About("conv", "a run", (3, 8, 8), whole.architecture.width, whole.architecture.pool)
    frozen = FrozenEncoder(about, {**backbone, "shift": whole.shift + 0.1, "scale": whole.scale})
    features = dataclasses.replace(data, x=frozen.compute(data.x))
    head = model_of(features)

    @torch.no_grad()
    def difference(x: torch.Tensor) -> float:
        logits = head.classify(head.prepare(torch.from_numpy(frozen.compute(x.numpy()))))[0]
        return float(logits[3] - logits[2])

    head.scale[0] = 0  # a feature that was constant in training
    x = torch.from_numpy(data.x[:1].astype(np.float32) / 255)
    found = explain(head, data.x[:1], "b", attribution="gradients", frozen=frozen)
    assert found.decoded is None
    assert found.attribution is not None
    assert found.attribution.shape == (8, 8)
    mean = frozen.shift.expand(x.shape).contiguous()
    assert float(found.attribution.sum()) == pytest.approx(difference(x) - difference(mean), rel=0.05, abs=1e-3)
    np.testing.assert_allclose(found.image, x[0])
    assert found.probability[1] == pytest.approx(predict_probabilities(head, features.x[:1], False)[0, 3], abs=1e-5)
    # One window of the image replaced by the mean, by hand: the first one.
    lost = explain(head, data.x[:1], "b", attribution="occlusion", frozen=frozen).attribution
    assert lost is not None
    covered = x.clone()
    covered[..., :1, :1] = frozen.shift
    assert float(lost[0, 0]) == pytest.approx(difference(x) - difference(covered), abs=1e-4)


def test_the_classes_of_a_map_are_those_that_are_compared() -> None:
    pytest.importorskip("captum")
    data = images(cells(), SEVERAL)
    model = model_of(data)
    x = torch.from_numpy(data.x[:1].astype(np.float32) / 255)
    up, down = (explain(model, data.x[:1], f"b={c}", attribution="occlusion").attribution for c in (1, 0))
    np.testing.assert_allclose(up, attribute(model, x, 3, 2, "occlusion"), atol=1e-6)
    np.testing.assert_allclose(up, -np.asarray(down), atol=1e-6)


def test_a_missing_captum_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    data = images(cells(), SEVERAL)
    with pytest.raises(DataError, match=r"needs captum: pip install captum"):
        explain(model_of(data), data.x[:1], "a", attribution="gradients")


# --- the picture --------------------------------------------------------------------------------------------


def test_the_picture_has_a_panel_for_each_part(tmp_path: Path) -> None:
    data = images(np.where(np.isnan(cells()), 0, cells()), SEVERAL, channels=3)
    model = model_of(data)
    wide = []
    for decodes, attribution in ((True, "none"), (False, "occlusion")):
        found = explain(model, data.x[:1], "a", decodes, attribution)  # type: ignore[arg-type]
        draw_explanation(found, tmp_path / "deep" / "picture")
        with Image.open(tmp_path / "deep" / "picture") as picture:
            assert picture.format == "PNG"
            wide.append(picture.size[0])
            colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(colours, axis=0)) > 20
    assert wide == [4 * 300, 2 * 300]


def test_cells_of_which_nothing_is_known_do_not_matter() -> None:
    data = images(np.full((5, 2), NAN), SEVERAL)
    model = model_of(data)
    found = explain(model, data.x[:1], "b")
    assert found.classes == (0, 1)
    np.testing.assert_allclose(found.probability, predict_probabilities(model, data.x[:1], False)[0, 2:], rtol=1e-5)
    assert found.decoded is not None
    assert np.isfinite(found.decoded).all()

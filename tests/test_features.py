from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torchvision import models
from torchvision.transforms.functional import normalize

from conftest import Array
from taut.data.dataset import DataError, Dataset
from taut.data.embedded import digits
from taut.data.leakage import find_leaks, pixel_keys, units
from taut.data.split import draw_per_class
from taut.evaluate.metrics import evaluate
from taut.features import FrozenEncoder, standardisation, usual_side
from taut.fit import fit
from taut.labels import LabelSpace
from taut.nn import Architecture, LabelVAE
from taut.plan import Plan, override
from taut.run import save_model
from tiny import images, some_known

ONE = LabelSpace.multiclass(3)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TAUT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A ResNet-18 with random weights and running statistics."""
    torch.manual_seed(3)
    state = models.resnet18(weights=None).state_dict()
    state = {k: torch.rand_like(v) + 0.5 if "running" in k else v for k, v in state.items()}
    save_file(state, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A model for 8x8 grey images with a standardisation of its own."""
    model = LabelVAE(ONE, Architecture((1, 8, 8), width=4, z_dim=2, pool="grid"))
    model.shift.fill_(0.3)
    model.scale.fill_(0.2)
    save_model(model, tmp_path / "run", {})
    return tmp_path / "run"


def colours(n: int = 5, side: int = 40, channels: int = 3) -> Array:
    return np.random.default_rng(0).integers(0, 256, (n, channels, side, side), dtype=np.uint8)


# --- what is computed ---------------------------------------------------------------------------------------


def test_features_are_those_of_the_network_on_imagenets_scale(weights: Path) -> None:
    x = colours()
    frozen = FrozenEncoder.find("resnet-18", weights, x.shape[1:])
    net = models.resnet18(weights=None)
    from safetensors.torch import load_file

    net.load_state_dict(load_file(weights))
    net.fc = torch.nn.Identity()
    standard = normalize(torch.from_numpy(x).float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        want = net.eval()(standard).numpy()
    found = frozen.features(x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(frozen.compute(x.astype(np.float32) / 255), want, rtol=1e-4, atol=1e-4)


def test_features_of_a_run_are_what_its_label_head_reads(run: Path) -> None:
    from taut.run import load_model

    x = colours(4, 8, 1)
    frozen = FrozenEncoder.find(str(run))
    model = load_model(run)
    with torch.no_grad():
        prepared = model.prepare(torch.from_numpy(x))
        label = model.encoder(model.standardise(prepared)).label
        want = model.encode(prepared).logits
    features = torch.from_numpy(frozen.features(x))
    torch.testing.assert_close(features, label)
    torch.testing.assert_close(model.to_logits(features), want)


def test_an_image_has_the_same_features_in_any_company(weights: Path) -> None:
    x = colours(70)  # more than one batch
    frozen = FrozenEncoder.find("resnet-18", weights, (3, 40, 40))
    np.testing.assert_allclose(frozen.features(x)[66:67], frozen.features(x[66:67]), rtol=1e-3, atol=1e-4)


def test_networks_of_timm_have_the_scale_that_their_weights_are_for(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    x = colours(2, 224)
    frozen = FrozenEncoder.find("timm:vit_tiny_patch16_224", tmp_path / "w.safetensors", (3, 224, 224))
    config = timm.get_pretrained_cfg("vit_tiny_patch16_224")
    assert config.mean == (0.5, 0.5, 0.5)  # not ImageNet's
    net.reset_classifier(0)
    with torch.no_grad():
        want = net.eval()(normalize(torch.from_numpy(x).float() / 255, list(config.mean), list(config.std))).numpy()
    np.testing.assert_allclose(frozen.features(x), want, rtol=1e-3, atol=1e-4)
    assert usual_side("timm:vit_tiny_patch16_224") == usual_side("resnet-50") == 224


# --- the cache ----------------------------------------------------------------------------------------------


def test_features_are_computed_once(weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = colours()
    first = FrozenEncoder.find("resnet-18", weights, (3, 40, 40)).features(x)
    assert len(list(cache.iterdir())) == 1

    def never(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(FrozenEncoder, "forward", never)
    again = FrozenEncoder.find("resnet-18", weights, (3, 40, 40)).features(x.copy())
    np.testing.assert_array_equal(first, again)


def test_other_images_weights_or_encoders_are_computed_anew(weights: Path, cache: Path, tmp_path: Path) -> None:
    x = colours()
    frozen = FrozenEncoder.find("resnet-18", weights, (3, 40, 40))
    frozen.features(x)
    changed = x.copy()
    changed[3, 1, 20, 20] ^= 128
    frozen.features(changed)
    frozen.features(x[:4])
    assert len(list(cache.iterdir())) == 3
    from safetensors.torch import load_file

    state = load_file(weights)
    state["layer4.1.bn2.bias"] = state["layer4.1.bn2.bias"].clone()
    state["layer4.1.bn2.bias"][0] += 1
    save_file(state, tmp_path / "other.safetensors")
    other = FrozenEncoder.find("resnet-18", tmp_path / "other.safetensors", (3, 40, 40)).features(x)
    assert len(list(cache.iterdir())) == 4
    assert not np.array_equal(other, frozen.features(x))


def test_a_computation_that_fails_leaves_nothing_behind(run: Path, cache: Path) -> None:
    frozen = FrozenEncoder.of_run(run)
    frozen.scale = torch.zeros(1, 1, 1)
    with pytest.raises(DataError, match="the features of image 0 are NaN or infinite"):
        frozen.features(np.zeros((2, 1, 8, 8), dtype=np.uint8), "scans")
    assert list(cache.iterdir()) == []
    with pytest.raises(DataError, match=r"^scans: the features of image 0 are NaN or infinite"):
        frozen.compute(np.zeros((2, 1, 8, 8), dtype=np.uint8), "scans")


def test_features_that_are_interrupted_go_on_where_they_stopped(
    run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("taut.features.BATCH", 4)
    x, forward = colours(14, 8, 1), FrozenEncoder.forward
    want = FrozenEncoder.of_run(run).compute(x)
    seen: list[int] = []

    def stops(self: FrozenEncoder, images: Tensor) -> Tensor:
        seen.append(len(images))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return forward(self, images)

    monkeypatch.setattr(FrozenEncoder, "forward", stops)
    with pytest.raises(KeyboardInterrupt) as caught:
        FrozenEncoder.of_run(run).features(x)
    sentence = "computing features goes on after the first 8 images when the same command is given again"
    assert caught.value.__notes__ == [sentence]
    found = FrozenEncoder.of_run(run).features(x)
    assert seen == [4, 4, 4, 4, 2]
    np.testing.assert_array_equal(found, want)
    assert len(list(cache.iterdir())) == 1


# --- the run remembers --------------------------------------------------------------------------------------


def test_a_run_folder_keeps_the_encoder(weights: Path, tmp_path: Path) -> None:
    x = colours(2, 40, 1)
    frozen = FrozenEncoder.find("resnet-18", weights, (1, 40, 40))
    frozen.save(tmp_path)
    weights.unlink()
    again = FrozenEncoder.load(tmp_path)
    assert again is not None
    assert again.about == frozen.about
    np.testing.assert_array_equal(again.compute(x), frozen.compute(x))
    assert FrozenEncoder.load(tmp_path / "elsewhere") is None
    (tmp_path / "frozen.json").write_text(json.dumps({"name": "resnet-18"}))
    with pytest.raises(DataError, match=r"frozen\.json is damaged"):
        FrozenEncoder.load(tmp_path)


def test_a_dataset_keeps_its_annotations(run: Path) -> None:
    data = images(some_known(12, 6), groups=list(range(12)), split=["train"] * 8 + ["test"] * 4)
    out = FrozenEncoder.of_run(run).dataset(data)
    assert out.x.shape == (12, 16 * 16)
    assert out.annotation is data.annotation
    assert out.groups is data.groups
    assert "features of" in out.notes[-1]


def test_features_keep_the_identity_of_their_images(run: Path) -> None:
    data = images(some_known(12, 6), split=["train"] * 8 + ["test"] * 4)
    data.x[9] = data.x[2]
    out = FrozenEncoder.of_run(run).dataset(data)
    np.testing.assert_array_equal(pixel_keys(out), pixel_keys(data))
    np.testing.assert_array_equal(units(out), units(data))
    assert sorted(find_leaks({"training": out.part("train"), "test": out.part("test")})["image"]) == ["2", "9"]


@pytest.mark.parametrize(
    ("given", "shape", "sentence"),
    [
        ("resnet-18", (3, 40, 40), "--frozen resnet-18 needs its weights in a local file, --weights FILE"),
        ("RUN", (1, 9, 9), "takes images of 1x8x8, but these are 1x9x9"),
    ],
)
def test_what_does_not_fit_is_refused(given: str, shape: tuple[int, ...], sentence: str, run: Path) -> None:
    with pytest.raises(DataError, match=sentence):
        FrozenEncoder.find(given.replace("RUN", str(run)), None, shape).features(np.zeros((2, *shape), np.uint8))


def test_feature_vectors_need_no_encoder(weights: Path) -> None:
    with pytest.raises(DataError, match="is for images, but these are feature vectors already"):
        FrozenEncoder.find("resnet-18", weights, (5,))


def test_runs_that_are_no_encoders_of_images_are_refused(run: Path, weights: Path, tmp_path: Path) -> None:
    save_model(LabelVAE(ONE, Architecture((5,), "mlp", 8)), tmp_path / "vectors", {})
    with pytest.raises(DataError, match="feature vectors, not images"):
        FrozenEncoder.of_run(tmp_path / "vectors")
    with pytest.raises(DataError, match="has its own weights"):
        FrozenEncoder.find(str(run), weights, (1, 8, 8))


# --- learning on features -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("one_thread")
def test_one_example_of_each_class_is_enough_on_features_that_know_the_classes(tmp_path: Path) -> None:
    data = digits()
    train, test = dataclasses.replace(data.part("train"), split=None), data.part("test")
    teacher = fit(train, short, seed=0, quiet=True)
    save_model(teacher.model, tmp_path / "teacher", {})
    frozen = FrozenEncoder.of_run(tmp_path / "teacher")
    few = dataclasses.replace(train, annotation=draw_per_class(train, 1, 0))
    fitted = fit(frozen.dataset(few), short, seed=0, quiet=True)
    assert fitted.plan.model.encoder == "mlp"
    error = evaluate(fitted.model, frozen.dataset(test))["error"]

    def flat(part: Dataset) -> Dataset:
        return dataclasses.replace(part, x=part.x.reshape(len(part), -1).astype(np.float32))

    pixels = fit(flat(few), short, seed=0, quiet=True)
    assert error < 15
    assert error < evaluate(pixels.model, flat(test))["error"] / 2


def short(plan: Plan) -> Plan:
    return override(plan, {"train.steps": 60, "train.precision": "fp32"}, "test")


def test_grey_images_are_standardised_by_the_averages_of_the_colours() -> None:
    shift, scale = standardisation("resnet-18", 1)
    assert (shift.item(), scale.item()) == pytest.approx((0.449, 0.226), abs=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint16])
def test_pixels_on_another_scale_are_refused(dtype: Any, weights: Path) -> None:
    encoder = FrozenEncoder.find("resnet-18", weights, (3, 32, 32))
    x = np.full((2, 3, 32, 32), 200, dtype=dtype)
    for read in (encoder.compute, encoder.features):
        with pytest.raises(DataError, match="pixel values from 200 to 200: the frozen encoder takes bytes of 0 to 255"):
            read(x, "scans")

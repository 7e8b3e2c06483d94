from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torchvision import models

from taut.data.dataset import DataError
from taut.labels import LabelSpace
from taut.nn import Architecture, LabelVAE
from taut.nn.encoders import make_encoder
from taut.nn.weights import load_weights, read_weights
from taut.run import save_model

timm = pytest.importorskip("timm")
NAMES = {"resnet-18": "resnet18", "resnet-50": "resnet50", "densenet-121": "densenet121"}


def state_of(seed: int = 0) -> dict[str, Tensor]:
    """torchvision's ResNet-18 with a classifier of 1,000 classes, and running statistics that are not the defaults."""
    torch.manual_seed(seed)
    net = models.resnet18(weights=None)
    return {k: torch.rand_like(v) + 0.5 if "running" in k else v for k, v in net.state_dict().items()}


def same_features(encoder: Any, net: Any, x: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(encoder.eval()(x).label, net.eval()(x))


# --- encoders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(NAMES))
def test_torchvisions_weights_give_torchvisions_features(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    net = getattr(models, NAMES[name])(weights=None)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    encoder = make_encoder(name, (3, 64, 64))
    load_weights(encoder.backbone, tmp_path / "w.pth", name)
    setattr(net, "classifier" if name == "densenet-121" else "fc", torch.nn.Identity())
    same_features(encoder, net, torch.rand(2, 3, 64, 64))


TIMM = {
    "resnet18": (3, 64, 64),
    "mobilenetv3_small_050": (1, 40, 72),
    "vit_tiny_patch16_224": (3, 48, 64),
    "convnext_atto": (3, 64, 64),
    "swin_tiny_patch4_window7_224": (3, 56, 56),
}


@pytest.mark.parametrize(
    ("name", "pool"),
    [*((name, "mean") for name in TIMM), ("mobilenetv3_small_050", "grid"), ("vit_tiny_patch16_224", "meanmax")],
)
def test_networks_of_timm(name: str, pool: str) -> None:
    shape = TIMM[name]
    encoder = make_encoder(f"timm:{name}", shape, pool=pool)
    x = torch.rand(2, *shape)
    features = encoder(x)
    assert features.label.shape == (2, encoder.label_features)
    assert features.place.shape == (2, encoder.place_features) == (2, 16 * 4 * 4)
    if pool == "mean":
        same_features(encoder, encoder.backbone, x)  # without a classifier a network of timm gives its pooled features
    features.label.sum().backward()
    gradients = [p.grad for p in encoder.backbone.parameters() if p.grad is not None]
    assert len(gradients) > 20
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_the_places_of_tokens_are_those_of_their_patches() -> None:
    """A change in the upper left corner of the image changes the first patch before any attention mixes them."""
    from taut.nn.timm_encoder import as_map

    tokens = torch.arange(1 + 3 * 4).float()[None, :, None].expand(1, 13, 5)
    h = as_map(tokens, 5, (3, 48, 64), prefix=1)
    assert h.shape == (1, 5, 3, 4)
    assert h[0, 0].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]]
    with pytest.raises(ValueError, match="neither a map nor tokens"):
        as_map(torch.zeros(1, 7), 5, (3, 8, 8), 0)

    class Tokens(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return as_map(x, 5, (3, 48, 64), prefix=1)

    # As `taut export` ships it: of any number of images.
    program = torch.export.export(Tokens(), (tokens.repeat(2, 1, 1),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    assert program.module()(tokens.repeat(3, 1, 1)).shape == (3, 5, 3, 4)


@pytest.mark.parametrize(
    ("name", "shape", "width", "sentence"),
    [
        ("timm:resnet1800", (3, 64, 64), None, "'timm:resnet1800' is not a network that timm knows"),
        ("timm:resnet18", (3, 64, 64), 8, "model.width 8 does not fit 'timm:resnet18'"),
        ("resnet-18", (3, 64, 64), 8, "model.width 8 does not fit 'resnet-18'"),
        ("timm:inception_v3", (3, 8, 8), None, "'timm:inception_v3' does not take images of 3x8x8"),
        ("timm:resnet18", (5,), None, "is for images"),
    ],
)
def test_networks_that_do_not_fit_are_refused(
    name: str, shape: tuple[int, ...], width: int | None, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_encoder(name, shape, width)


def test_a_model_with_a_network_of_timm_comes_back_from_its_folder(tmp_path: Path) -> None:
    from taut.run import load_model

    architecture = Architecture((1, 32, 32), "timm:resnet10t", z_dim=2, decoder_width=4, reduce=2)
    model = LabelVAE(LabelSpace.multilabel(2), architecture).eval()
    save_model(model, tmp_path, {})
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path).encode(x).logits, model.encode(x).logits)


# --- files of weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.encoder_q."])
@pytest.mark.parametrize("inside", [(), ("state_dict",), ("model", "net")])
def test_names_may_stand_behind_a_prefix_and_in_a_dictionary(
    prefix: str, inside: tuple[str, ...], tmp_path: Path
) -> None:
    state = state_of()
    saved: Any = OrderedDict({f"{prefix}{name}": value for name, value in state.items()})
    for name in inside:
        saved = {name: saved, "epoch": 3}
    torch.save(saved, tmp_path / "w.pt")
    encoder = make_encoder("resnet-18", (3, 32, 32))
    load_weights(encoder.backbone, tmp_path / "w.pt", "resnet-18")
    for name, value in encoder.backbone.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_safetensors_and_a_timm_file(tmp_path: Path) -> None:
    net = timm.create_model("resnet10t", pretrained=False, num_classes=7)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    encoder = make_encoder("timm:resnet10t", (3, 64, 64))
    load_weights(encoder.backbone, tmp_path / "w.safetensors", "timm:resnet10t")
    net.reset_classifier(0)
    same_features(encoder, net, torch.rand(2, 3, 64, 64))


def test_a_first_layer_of_colours_reads_grey_and_the_other_way_round(tmp_path: Path) -> None:
    torch.save(state_of(), tmp_path / "rgb.pt")
    rgb, grey = make_encoder("resnet-18", (3, 32, 32)), make_encoder("resnet-18", (1, 32, 32))
    load_weights(rgb.backbone, tmp_path / "rgb.pt", "resnet-18")
    load_weights(grey.backbone, tmp_path / "rgb.pt", "resnet-18")
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        # A grey image and the same one as three equal channels.
        torch.testing.assert_close(grey.eval()(x).label, rgb.eval()(x.expand(-1, 3, -1, -1)).label)
    torch.save(grey.backbone.state_dict(), tmp_path / "grey.pt")
    again = make_encoder("resnet-18", (3, 32, 32))
    load_weights(again.backbone, tmp_path / "grey.pt", "resnet-18")
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x.expand(-1, 3, -1, -1)).label, grey(x).label)
    weight = again.backbone.state_dict()["conv1.weight"]
    torch.testing.assert_close(F.conv2d(x.expand(-1, 3, -1, -1), weight), F.conv2d(x, weight.sum(1, keepdim=True)))


def test_the_encoder_of_a_run_is_a_file_of_weights(tmp_path: Path) -> None:
    model = LabelVAE(LabelSpace.multiclass(3), Architecture((1, 16, 16), width=4))
    save_model(model, tmp_path / "run", {})
    other = make_encoder("conv", (1, 16, 16), 4)
    load_weights(other.backbone, tmp_path / "run", "conv")
    own = model.encoder.backbone.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in other.backbone.state_dict().items())


def test_the_names_of_old_densenets_are_known(tmp_path: Path) -> None:
    net = models.densenet121(weights=None)
    old = {
        name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2.") if "denselayer" in name else name: value
        for name, value in net.state_dict().items()
        if not name.endswith("num_batches_tracked")  # which old files do not have either
    }
    torch.save(old, tmp_path / "old.pth")
    encoder = make_encoder("densenet-121", (3, 32, 32))
    load_weights(encoder.backbone, tmp_path / "old.pth", "densenet-121")
    net.classifier = torch.nn.Identity()
    same_features(encoder, net, torch.rand(2, 3, 32, 32))


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = state_of()
    backbone = make_encoder("resnet-18", (3, 32, 32)).backbone
    before = {name: value.clone() for name, value in backbone.state_dict().items()}

    def refused(content: Any, file: str = "w.pt") -> str:
        if content is not None:
            torch.save(content, tmp_path / file)
        with pytest.raises(DataError) as caught:
            load_weights(backbone, tmp_path / file, "resnet-18")
        return str(caught.value)

    fewer = {name: value for name, value in state.items() if name != "layer4.1.conv2.weight"}
    assert "lacks 1 of 100 tensors" in refused(fewer)
    assert "'layer4.1.conv2.weight'" in refused(fewer)
    assert "tensors that are not in it" in refused(models.resnet34(weights=None).state_dict())
    shapes = refused({**state, "layer1.0.conv1.weight": torch.zeros(8, 64, 3, 3)})
    assert "'layer1.0.conv1.weight' is [8, 64, 3, 3] there, but [64, 64, 3, 3] here" in shapes
    assert "lacks" in refused(models.densenet121(weights=None).state_dict())
    assert "holds no state dict" in refused([1, 2])
    assert "there are no such weights" in refused(None, "nowhere.pt")
    assert "holds no trained model" in refused(None, ".")
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    assert "is not a safetensors file" in refused(None, "broken.safetensors")
    (tmp_path / "broken.pt").write_bytes(b"broken")
    assert "cannot be read as weights" in refused(None, "broken.pt")
    after = backbone.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


class Bomb:
    """What a stranger could put into a file: code that runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.mkdir, (Path("bomb"),))  # type: ignore[return-value]


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Bomb()}, tmp_path / "w.pt")
    with pytest.raises(DataError, match="cannot be read as weights"):
        read_weights(tmp_path / "w.pt")
    assert not (tmp_path / "bomb").exists()

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import densenet121

from taut import latent
from taut.labels import Label, LabelSpace
from taut.nn import Architecture, LabelVAE, Posterior
from taut.nn.decoders import make_decoder, reduce_image, reduced_shape
from taut.nn.encoders import DEFAULT_WIDTH, PreActBlock, make_encoder, strides
from taut.nn.stacked import gaussian_parameters
from taut.nn.vae import Likelihood
from taut.run import load_model, save_model

SPACE = LabelSpace((Label("a", (0, 1)), Label("b", ("x", "y", "z"))))
WIDTH = {"conv": 4, "wrn-28-2": 2, "preact-resnet-18": 4, "densenet-121": 8}
SHAPES = [
    (encoder, (channels, size, size))
    for encoder in ("conv", "wrn-28-2", "preact-resnet-18")
    for size in (8, 28, 32, 40, 64)
    for channels in (1, 3)
] + [("densenet-121", (channels, 64, 64)) for channels in (1, 3)]


def check_model(model: LabelVAE, x: Tensor) -> None:
    """Shapes and finite values of encoder, decoder and likelihood, and finite gradients of every weight."""
    n, z_dim = len(x), model.architecture.z_dim
    posterior = model.encode(x)
    assert posterior.mean.shape == posterior.log_var.shape == (n, z_dim)
    assert posterior.logits.shape == (n, SPACE.width)
    assert bool((posterior.log_var.abs() <= 10).all())
    z = latent.gaussian_sample(posterior.mean, posterior.log_var)
    c = latent.relaxed_sample(posterior.logits, model.sizes, 0.67)
    parameters = model.decode(z, c)
    assert parameters.shape == (n, *model.out_shape)
    assert parameters.dtype == torch.float32
    likelihood = model.log_likelihood(x, parameters)
    assert likelihood.shape == (n,)
    torch.autograd.backward(likelihood.sum() + posterior.logits.sum())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert bool(torch.isfinite(parameter.grad).all()), name


@pytest.mark.parametrize(("encoder", "shape"), SHAPES)
def test_every_encoder_at_every_size(encoder: str, shape: tuple[int, ...]) -> None:
    architecture = Architecture(shape, encoder, WIDTH[encoder], z_dim=3, decoder_width=4)
    check_model(LabelVAE(SPACE, architecture), torch.rand(2, *shape))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("shape", [(1, 29, 37), (3, 9, 70), (1, 1, 5)])
def test_images_of_odd_shapes(shape: tuple[int, ...], likelihood: Likelihood) -> None:
    model = LabelVAE(SPACE, Architecture(shape, width=4, z_dim=2, pool="meanmax", likelihood=likelihood))
    assert model.out_shape == shape
    check_model(model, torch.rand(3, *shape))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_feature_vectors(likelihood: Likelihood) -> None:
    model = LabelVAE(SPACE, Architecture((5,), "mlp", 16, z_dim=2, likelihood=likelihood, dropout=0.2))
    check_model(model, torch.rand(7, 5))
    assert model.out_shape == (5,)


@pytest.mark.parametrize("size", [8, 9, 16, 28, 32, 40, 64, 96, 128])
def test_strides_bring_an_image_to_a_small_map(size: int) -> None:
    steps = strides(size)
    assert len(steps) == 4
    left = size / math.prod(steps)
    assert 4 <= left <= 8 or (size > 128 and steps == [2] * 4)


@pytest.mark.parametrize("size", [8, 12, 28, 32, 64])
def test_the_grid_keeps_the_places_of_one_object(size: int) -> None:
    """Moved parts change what the label head reads of a grid, and not what it reads of a mean."""
    encoder = make_encoder("conv", (1, size, size), 4, "grid").eval()
    assert encoder.label_features == 16 * 4 * 4
    x = torch.zeros(2, 1, size, size)
    x[0, :, : size // 2] = 1
    x[1, :, size // 2 :] = 1
    label = encoder(x).label.detach().unflatten(1, (16, 4, 4))
    assert label.shape == (2, 16, 4, 4)
    top, bottom = label[:, :, :2].abs().sum((1, 2, 3)), label[:, :, 2:].abs().sum((1, 2, 3))
    assert not torch.allclose(label[0], label[1])
    assert bool((top > 0).all())
    assert bool((bottom > 0).all())


def test_densenet_121_is_torchvisions() -> None:
    encoder = make_encoder("densenet-121", (3, 64, 64))
    theirs = densenet121(weights=None).features.state_dict()
    own = {name.removeprefix("body."): value for name, value in encoder.state_dict().items()}
    assert {name: own[name].shape for name in theirs} == {name: value.shape for name, value in theirs.items()}
    grey = make_encoder("densenet-121", (1, 64, 64)).state_dict()["body.conv0.weight"]
    assert grey.shape == (64, 1, 7, 7)


@pytest.mark.parametrize("side", [8, 29])
def test_the_short_way_of_a_block_is_a_strided_convolution(side: int) -> None:
    block = PreActBlock(8, 12, 2).eval()
    x = torch.rand(2, 8, side, side).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        h = F.relu(block.norm1(x))
        assert block.short is not None
        want = F.conv2d(h, block.short.weight, stride=2) + block.conv2(F.relu(block.norm2(block.conv1(h))))
        torch.testing.assert_close(block(x), want)


def test_default_widths_build() -> None:
    for name in ("mlp", "conv"):
        shape = (5,) if name == "mlp" else (1, 16, 16)
        encoder = make_encoder(name, shape)
        features = encoder(torch.rand(2, *shape))
        assert features.label.shape == (2, encoder.label_features)
        assert features.place.shape == (2, encoder.place_features)
        assert encoder.label_features == DEFAULT_WIDTH[name] * (1 if name == "mlp" else 4)


def test_mean_and_max_pooling_doubles_the_features() -> None:
    x = torch.rand(2, 1, 16, 16)
    both = make_encoder("conv", (1, 16, 16), 4, "meanmax").eval()
    label = both(x).label
    assert label.shape == (2, both.label_features) == (2, 32)
    assert bool((label[:, 16:] >= label[:, :16]).all())


@pytest.mark.parametrize(
    ("name", "shape", "pool", "sentence"),
    [
        ("resnet-9", (1, 8, 8), "mean", "model.encoder 'resnet-9' is not one of mlp, conv"),
        ("conv", (5,), "mean", "is for images; for feature vectors use 'mlp'"),
        ("conv", (1, 8, 8), "max", "model.pool 'max' is not one of mean, meanmax, grid"),
    ],
)
def test_encoders_that_do_not_fit_are_refused(name: str, shape: tuple[int, ...], pool: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make_encoder(name, shape, pool=pool)


# --- reconstruction at a part of the resolution -------------------------------------------------------------


def test_half_resolution_averages_areas() -> None:
    x = torch.rand(2, 3, 8, 12)
    assert reduced_shape((3, 8, 12), 2) == (3, 4, 6)
    want = (x[:, :, 0::2, 0::2] + x[:, :, 1::2, 0::2] + x[:, :, 0::2, 1::2] + x[:, :, 1::2, 1::2]) / 4
    torch.testing.assert_close(reduce_image(x, (3, 4, 6)), want)
    assert reduced_shape((1, 29, 37), 2) == (1, 15, 19)
    assert reduced_shape((7,), 2) == (7,)
    assert reduce_image(x, (3, 8, 12)) is x
    model = LabelVAE(SPACE, Architecture((3, 8, 12), width=4, z_dim=2, reduce=2))
    check_model(model, x)
    parameters = model.decode(torch.zeros(2, 2), torch.zeros(2, 5))
    torch.testing.assert_close(model.log_likelihood(x, parameters), latent.bernoulli_log_likelihood(want, parameters))


def test_a_decoder_uses_both_of_its_inputs() -> None:
    for shape in ((5,), (1, 11, 13)):
        decoder = make_decoder(2, 5, shape, 8)
        z, c = torch.randn(3, 2), torch.rand(3, 5)
        base = decoder(z, c)
        assert base.shape == (3, *shape)
        assert not torch.allclose(decoder(z + 1, c), base)
        assert not torch.allclose(decoder(z, 1 - c), base)


# --- inputs and outputs -------------------------------------------------------------------------------------


def test_prepare() -> None:
    images = LabelVAE(SPACE, Architecture((1, 8, 8), width=4))
    raw = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    prepared = images.prepare(raw)
    assert prepared.dtype == torch.float32
    torch.testing.assert_close(prepared, raw.float() / 255)
    torch.testing.assert_close(images.prepare(prepared.double()), prepared)
    vectors = LabelVAE(SPACE, Architecture((4,), "mlp", 8))
    vectors.shift.copy_(torch.tensor([1.0, 2, 3, 4]))
    vectors.scale.copy_(torch.tensor([1.0, 2, 4, 8]))
    torch.testing.assert_close(vectors.prepare(torch.tensor([[2.0, 4, 7, 12]])), torch.ones(1, 4))


def test_standardisation_happens_once() -> None:
    """Images are standardised inside `encode` (the likelihood wants [0, 1]); features by `prepare`."""
    images = LabelVAE(SPACE, Architecture((3, 8, 8), width=4)).eval()
    x = torch.rand(2, 3, 8, 8)
    plain = images.encode(2 * x - 0.5).logits
    images.shift.fill_(0.25)
    images.scale.fill_(0.5)
    torch.testing.assert_close(images.encode(x).logits, plain)
    torch.testing.assert_close(images.prepare(x), x)
    vectors = LabelVAE(SPACE, Architecture((4,), "mlp", 8)).eval()
    x = torch.rand(2, 4)
    plain = vectors.encode(x).logits
    vectors.shift.fill_(3.0)
    torch.testing.assert_close(vectors.encode(x).logits, plain)


def test_likelihoods_and_mean_images() -> None:
    x, parameters = torch.rand(2, 1, 8, 8), torch.randn(2, 1, 8, 8)
    bernoulli = LabelVAE(SPACE, Architecture((1, 8, 8), width=4))
    want = -F.binary_cross_entropy_with_logits(parameters, x, reduction="none").sum((1, 2, 3))
    torch.testing.assert_close(bernoulli.log_likelihood(x, parameters), want)
    torch.testing.assert_close(bernoulli.mean_image(parameters), parameters.sigmoid())
    assert not bernoulli.log_noise.requires_grad
    gaussian = LabelVAE(SPACE, Architecture((1, 8, 8), width=4, likelihood="gaussian"))
    gaussian.log_noise.data.fill_(-1.0)
    want = -0.5 * ((x - parameters).square() * math.e - 1 + math.log(2 * math.pi)).sum((1, 2, 3))
    torch.testing.assert_close(gaussian.log_likelihood(x, parameters), want)
    torch.testing.assert_close(gaussian.mean_image(parameters), parameters.clamp(0, 1))
    vectors = LabelVAE(SPACE, Architecture((4,), "mlp", 8, likelihood="gaussian"))
    vectors.shift.copy_(torch.tensor([1.0, 2, 3, 4]))
    vectors.scale.copy_(torch.tensor([1.0, 2, 4, 8]))
    raw = torch.rand(3, 4)
    torch.testing.assert_close(vectors.mean_image(vectors.prepare(raw)), raw)


def test_temperatures_scale_each_label() -> None:
    model = LabelVAE(SPACE, Architecture((4,), "mlp", 8)).eval()
    model.temperature.copy_(torch.tensor([2.0, 0.5]))
    x = torch.rand(6, 4)
    logits = model.classify(x)
    torch.testing.assert_close(logits, model.encode(x).logits)
    want = torch.cat([(logits[:, :2] / 2).log_softmax(1), (logits[:, 2:] / 0.5).log_softmax(1)], 1)
    torch.testing.assert_close(model.log_probabilities(logits), want)
    torch.testing.assert_close(
        model.log_probabilities(logits, calibrated=False), latent.log_softmax(logits, SPACE.sizes)
    )


def test_log_variance_is_bounded_and_open_in_between() -> None:
    model = LabelVAE(SPACE, Architecture((4,), "mlp", 8, z_dim=1))
    with torch.no_grad():
        model.to_z.weight.zero_()
        for raw, want in ((0.1, 0.1), (1e6, 10.0), (-1e6, -10.0)):
            model.to_z.bias.copy_(torch.tensor([0.0, raw]))
            assert float(model.encode(torch.rand(1, 4)).log_var) == pytest.approx(want, abs=1e-4)


def test_posteriors_are_sliced_by_row() -> None:
    posterior = Posterior(torch.rand(5, 2), torch.rand(5, 2), torch.rand(5, 3))
    part = posterior[torch.tensor([3, 0])]
    assert torch.equal(part.logits, posterior.logits[[3, 0]])
    assert torch.equal(part.mean, posterior.mean[[3, 0]])
    assert torch.equal(posterior[1:].log_var, posterior.log_var[1:])


def test_a_new_model_starts_from_a_uniform_prior() -> None:
    model = LabelVAE(SPACE, Architecture((4,), "mlp", 8))
    torch.testing.assert_close(model.log_prior.exp(), torch.tensor([1 / 2] * 2 + [1 / 3] * 3))


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture((3, 16, 20), width=4, z_dim=3, reduce=2, pool="meanmax"),
        Architecture((6,), "mlp", 8, likelihood="gaussian", dropout=0.1),
        Architecture((1, 8, 8), width=4, z_dim=3, z_given_c=True),
        Architecture((6,), "mlp", 8, z_dim=3, likelihood="gaussian", z_given_c=True, stack=4),
    ],
)
def test_a_model_survives_its_files(architecture: Architecture, tmp_path: Path) -> None:
    """Architecture by JSON and weights with buffers by safetensors: the same posterior and reconstruction."""
    model, x = LabelVAE(SPACE, architecture), torch.rand(4, *architecture.shape)
    model.encode(x)
    for buffer in (model.log_prior, model.shift, model.scale, model.temperature):
        buffer.copy_(torch.rand_like(buffer) + 0.5)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    again = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
    assert again == architecture
    loaded = LabelVAE(LabelSpace.from_json(json.loads(json.dumps(SPACE.to_json()))), again)
    loaded.load_state_dict(load_file(tmp_path / "model.safetensors"))
    model.eval()
    loaded.eval()
    for name, value in model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    a, b = model.encode(x), loaded.encode(x)
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(a.mean, b.mean)
    c = F.one_hot(torch.tensor([0, 1, 2, 3]), 5).float()
    assert torch.equal(model.decode(a.mean, c), loaded.decode(b.mean, c))
    assert torch.equal(model.log_probabilities(a.logits), loaded.log_probabilities(b.logits))


def test_a_model_file_of_an_older_version_loads(tmp_path: Path) -> None:
    """One that was written before models had posteriors given labels and a second level."""
    model = LabelVAE(SPACE, Architecture((1, 8, 8), width=4, z_dim=3)).eval()
    save_model(model, tmp_path, {})
    data = json.loads((tmp_path / "model.json").read_text())
    for field in ("z_given_c", "stack"):
        assert not data["architecture"].pop(field)
    assert Architecture.from_json(data["architecture"]) == model.architecture
    (tmp_path / "model.json").write_text(json.dumps(data))
    assert {"to_z.weight", "to_z.bias", "decoder.linear.weight", "encoder.reduce.weight"} < set(model.state_dict())
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(load_model(tmp_path).encode(x).mean, model.encode(x).mean)


# --- posteriors given labels, and a second level ------------------------------------------------------------

SECOND = [
    Architecture((1, 8, 8), width=4, z_dim=3, z_given_c=True),
    Architecture((3, 16, 12), width=4, z_dim=3, reduce=2, dropout=0.2, stack=5),
    Architecture((1, 8, 8), width=4, z_dim=3, pool="grid", z_given_c=True, stack=5, likelihood="gaussian"),
    Architecture((6,), "mlp", 8, z_dim=3, z_given_c=True, stack=2, likelihood="gaussian"),
]


@pytest.mark.parametrize("architecture", SECOND)
def test_models_of_rivals_learn_everywhere(architecture: Architecture) -> None:
    check_model(LabelVAE(SPACE, architecture), torch.rand(5, *architecture.shape))


def test_a_posterior_without_labels_is_the_same_for_all() -> None:
    posterior = Posterior(torch.rand(5, 2), torch.rand(5, 2), torch.rand(5, 3))
    for shape in ((5, 3), (4, 5, 3)):
        mean, log_var = posterior.given(torch.rand(shape))
        assert mean.shape == log_var.shape == (*shape[:-1], 2)
        assert torch.equal(mean, posterior.mean.expand_as(mean))
        assert torch.equal(log_var, posterior.log_var.expand_as(log_var))


def test_a_posterior_given_labels_is_computed_row_by_row() -> None:
    model = LabelVAE(SPACE, SECOND[0]).eval()
    x = torch.rand(5, 1, 8, 8)
    posterior, place = model.encode(x), model.encoder(x).place
    c = F.one_hot(torch.randint(0, 5, (4, 5)), 5).float()
    mean, log_var = posterior.given(c)
    assert mean.shape == log_var.shape == (4, 5, 3)
    for s in range(4):
        for i in range(5):
            raw = model.to_z(torch.cat([place[i], c[s, i]]))
            torch.testing.assert_close(mean[s, i], raw[:3])
            torch.testing.assert_close(log_var[s, i], 10 * torch.tanh(raw[3:] / 10))
    for a, b in zip(posterior.given(c[0]), (mean[0], log_var[0]), strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.allclose(mean[0], posterior.given(c[0].roll(1, 1))[0])
    # Parts of a batch keep what the posterior is computed from.
    rows = torch.tensor([3, 0])
    torch.testing.assert_close(posterior[rows].given(c[:, rows])[0], mean[:, rows])
    torch.testing.assert_close(posterior[1:].given(c[0, 1:])[1], log_var[0, 1:])


def test_without_a_label_the_posterior_is_that_of_its_probabilities() -> None:
    model = LabelVAE(SPACE, SECOND[0]).eval()
    posterior = model.encode(torch.rand(5, 1, 8, 8))
    mean, log_var = posterior.given(latent.log_softmax(posterior.logits, SPACE.sizes).exp())
    assert torch.equal(posterior.mean, mean)
    assert torch.equal(posterior.log_var, log_var)


def test_log_variance_given_labels_is_bounded() -> None:
    model = LabelVAE(SPACE, SECOND[3])
    with torch.no_grad():
        for parameter in model.to_z.parameters():
            parameter.mul_(1e6)
    log_var = model.encode(torch.rand(20, 6)).log_var.detach()
    assert float(log_var.abs().max()) == 10


@pytest.mark.parametrize("architecture", SECOND[1:])
def test_a_second_level_reads_a_sample_in_training_and_the_mean_otherwise(architecture: Architecture) -> None:
    model, x = LabelVAE(SPACE, architecture), torch.rand(6, *architecture.shape)
    model.shift.fill_(0.3)
    model.scale.fill_(0.5)
    model.dropout.p = 0.0
    standard = (x - 0.3) / 0.5 if x.dim() == 4 else x
    torch.testing.assert_close(model.standardise(x), standard)
    for training in (True, False):
        model.train(training)
        torch.manual_seed(1)
        logits = model.encode(x).logits
        torch.manual_seed(1)
        mean, log_var = model.encoder.z1(standard)
        z1 = mean + (0.5 * log_var).exp() * torch.randn_like(mean) if training else mean
        assert z1.shape == (6, architecture.stack)
        torch.testing.assert_close(logits, model.to_logits(model.encoder.read(z1).label))


def test_a_second_level_joins_two_decoders() -> None:
    model = LabelVAE(SPACE, SECOND[1])
    z, c = torch.randn(4, 3), torch.rand(4, 5)
    mean, log_var = gaussian_parameters(model.decoder.second(z, c))
    assert mean.shape == log_var.shape == (4, 5)
    assert model.decode(z, c).shape == (4, 3, 8, 6)
    torch.testing.assert_close(model.decode(z, c), model.decoder.image(mean))
    assert model.decoder.first.linear.in_features == 5  # no label beside z1


def test_images_too_small_for_a_dense_network_are_refused() -> None:
    with pytest.raises(ValueError, match="'densenet-121' takes images of 29 pixels or more a side, not 28"):
        make_encoder("densenet-121", (1, 28, 28))
    assert make_encoder("densenet-121", (1, 29, 29)).eval()(torch.zeros(1, 1, 29, 29)).label.shape[0] == 1

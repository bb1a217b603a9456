"""Every net takes the images it says it takes, refuses the others in a sentence, and is built as its source says."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from zoo.base import ImageSpec
from zoo.errors import UserError
from zoo.families.gaussian import GaussianVAE
from zoo.models import create
from zoo.nets.pairs import HIDDEN, NETS, Net, build_net, label_vector
from zoo.nets.published import ResidualUnit

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden_dims": [7]},
    "conv": {"base_channels": 2},
    "celeba": {"base_channels": 2},
    "mnist": {"base_channels": 2, "hidden_dim": 6},
    "vanilla": {"hidden_dims": [2, 3, 4]},
    "resnet": {"hidden_dims": [4, 6, 6], "blocks": 2},
    "gated": {"hidden_dims": [7, 5]},
    "rae": {"base_channels": 2},
    "grid": {"base_channels": 2},
    "ldm": {"hidden_dims": [4, 6], "blocks": 1, "z_channels": 2},
}
ANY_SIZE = ["mlp", "vanilla", "resnet", "gated"]


def layers(module: nn.Module, kind: type) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, kind)]


def check(net: Net, image: ImageSpec, in_channels: int) -> None:
    with torch.no_grad():
        features = net.encoder(torch.zeros(2, in_channels, image.height, image.width))
        assert features.shape == (2, *net.feature_shape)
        given = features if net.decoder_shape is None else torch.zeros(2, *net.decoder_shape)
        assert net.decoder(given).shape == (2, *image.shape)


def test_every_net_is_tested() -> None:
    assert {entry.name for entry in NETS} >= SMALL.keys()
    assert {entry.name for entry in NETS if entry.target.__module__.startswith("zoo.nets.")} == SMALL.keys()


@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", SMALL)
def test_square_images(name: str, channels: int, size: int) -> None:
    image = ImageSpec(channels, size, size)
    check(build_net(name, image, **SMALL[name]), image, channels)


@given(st.sampled_from(ANY_SIZE), *(st.integers(1, n) for n in (4, 50, 50, 3)))
@settings(max_examples=60, deadline=None)
def test_nets_that_take_any_size(name: str, channels: int, height: int, width: int, extra: int) -> None:
    image = ImageSpec(channels, height, width)
    check(build_net(name, image, channels + extra, **SMALL[name]), image, channels + extra)


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("conv", 16, 48),
        ("conv", 80, 32),
        ("mnist", 28, 28),
        ("mnist", 12, 20),
        ("celeba", 8, 8),
        ("celeba", 128, 128),
        ("grid", 28, 12),
    ],
)
def test_sizes_that_a_net_admits(name: str, height: int, width: int) -> None:
    image = ImageSpec(1, height, width)
    check(build_net(name, image, 2, **SMALL[name]), image, 2)


@pytest.mark.parametrize(
    ("name", "height", "width", "words"),
    [
        ("conv", 28, 28, "divisible by 16, not 28 x 28: set data.size=32"),
        ("conv", 32, 40, "divisible by 16, not 32 x 40"),
        ("conv", 2, 2, "divisible by 16, not 2 x 2: set data.size=16"),
        *(("rae", h, w, f"square images of 16, .* not {h} x {w}") for h, w in ((28, 28), (8, 8), (256, 256), (48, 48))),
        ("rae", 32, 64, "square images of 16, .* not 32 x 64"),
        ("grid", 30, 28, "divisible by 4, not 30 x 28"),
        ("mnist", 30, 28, "divisible by 4, not 30 x 28: set data.size=\\[32, 28"),
        ("mnist", 1, 1, "divisible by 4, not 1 x 1: set data.size=4"),
        *(("celeba", h, w, f"square images of 8, 16, .* not {h} x {w}") for h, w in ((4, 4), (2, 2), (1, 1), (48, 48))),
        ("celeba", 64, 32, "square images of 8, 16, .* not 64 x 32"),
    ],
)
def test_other_sizes_are_refused_in_one_sentence(name: str, height: int, width: int, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        build_net(name, ImageSpec(3, height, width))
    assert "\n" not in str(error.value) and f"net {name!r}" in str(error.value)


@pytest.mark.parametrize("name", SMALL)
def test_building_changes_no_option_and_no_default(name: str) -> None:
    image = ImageSpec(1, 16, 16)
    options = copy.deepcopy(SMALL[name])
    nets = [build_net(name, image, **options) for _ in range(2)]
    assert options == SMALL[name]
    assert str(nets[0]) == str(nets[1])
    assert str(build_net(name, image)) == str(build_net(name, image))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vanila", {}, "no net named 'vanila'. Did you mean 'vanilla'"),
        ("mlp", {"hidden_dim": [3]}, "net 'mlp' has no option 'hidden_dim'. Did you mean 'hidden_dims'"),
        ("mlp", {"hidden_dims": []}, "hidden_dims is .*at least 1"),
        ("mlp", {"hidden_dims": [0]}, "hidden_dims is .*greater than 0"),
        ("conv", {"base_channels": 0}, "base_channels is 0"),
        ("mlp", {"activation": "swish"}, "activation is 'swish'"),
        ("gated", {"hidden_dims": []}, "hidden_dims is .*at least 1"),
        ("rae", {"base_channels": 0}, "base_channels is 0"),
        ("resnet", {"blocks": 0}, "blocks is 0"),
        ("grid", {"factor": 16}, "factor is 16"),
        ("mnist", {"hidden_dim": -1}, "hidden_dim is -1"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        build_net(name, ImageSpec(1, 16, 16), **options)


# ---- what the sources say


def test_mlp_of_the_notebook_has_its_parameter_count() -> None:
    model = create("mlp", ImageSpec(1, 28, 28))
    widths = [(layer.in_features, layer.out_features) for layer in layers(model, nn.Linear)]
    assert sorted(widths) == sorted([(784, 400), (400, 20), (400, 20), (20, 400), (400, 784)])
    assert sum(parameter.numel() for parameter in model.parameters()) == 652_824


@pytest.mark.parametrize("activation", HIDDEN)
def test_an_mlp_has_the_activation_that_is_asked_for(activation: str) -> None:
    net = build_net("mlp", ImageSpec(1, 4, 4), hidden_dims=[5, 6], activation=activation)
    linear = layers(net.encoder, nn.Linear)
    x = torch.rand(3, 1, 4, 4)
    function = getattr(F, activation, getattr(torch, activation, None))
    assert function is not None
    expected = function(linear[1](function(linear[0](x.flatten(1)))))
    torch.testing.assert_close(net.encoder(x), expected)
    linear = layers(net.decoder, nn.Linear)
    h = torch.randn(3, 6)
    expected = linear[1](function(linear[0](function(h))))  # the decoder's first activation is of what it is given
    torch.testing.assert_close(net.decoder(h).flatten(1), expected)


def test_gated_net() -> None:
    """Tomczak & Welling: A(x) sigmoid(B(x)) in two layers of 300 on both sides, and no other activation."""
    net = build_net("gated", ImageSpec(1, 28, 28))
    widths = [(layer.in_features, layer.out_features) for layer in layers(net.encoder, nn.Linear)]
    assert widths == [(784, 300)] * 2 + [(300, 300)] * 2
    widths = [(layer.in_features, layer.out_features) for layer in layers(net.decoder, nn.Linear)]
    assert widths == [(300, 300)] * 4 + [(300, 784)]
    net = build_net("gated", ImageSpec(1, 2, 2), hidden_dims=[3])
    x = torch.randn(5, 1, 2, 2)
    value, gate = layers(net.encoder, nn.Linear)
    torch.testing.assert_close(net.encoder(x), value(x.flatten(1)) * torch.sigmoid(gate(x.flatten(1))))


def test_rae_net() -> None:
    net = build_net("rae", ImageSpec(1, 32, 32))
    down, up = layers(net.encoder, nn.Conv2d), layers(net.decoder, nn.ConvTranspose2d)
    assert [(c.in_channels, c.out_channels) for c in down] == [(1, 128), (128, 256), (256, 512), (512, 1024)]
    assert [(c.in_channels, c.out_channels) for c in up] == [(1024, 512), (512, 256)]
    (last,) = layers(net.decoder, nn.Conv2d)
    assert (last.in_channels, last.out_channels, last.kernel_size, last.stride) == (256, 1, (4, 4), (1, 1))
    assert {(c.kernel_size, c.stride) for c in down + up} == {((4, 4), (2, 2))}
    assert (net.feature_shape, net.decoder_shape) == ((1024, 2, 2), (1024, 8, 8))
    assert [norm.num_features for norm in layers(net.decoder, nn.BatchNorm2d)] == [512, 256]
    faces = build_net("rae", ImageSpec(3, 64, 64), base_channels=8)
    assert [c.out_channels for c in layers(faces.decoder, nn.ConvTranspose2d)] == [32, 16, 8]
    kernels = {c.kernel_size for part in (faces.encoder, faces.decoder) for c in layers(part, nn.Conv2d)}
    assert kernels == {(5, 5)} and faces.decoder_shape == (64, 8, 8)


def test_a_model_on_a_net_whose_decoder_begins_with_another_map() -> None:
    model = create("mlp", ImageSpec(1, 16, 16), net="rae", base_channels=2, latent_dim=3)
    shapes = [tuple(layer.weight.shape) for layer in layers(model, nn.Linear)]
    assert sorted(shapes) == sorted([(3, 16), (3, 16), (16 * 64, 3)])
    assert model.reconstruct(torch.zeros(2, 1, 16, 16)).shape == (2, 1, 16, 16)
    with pytest.raises(UserError, match="net 'rae' has another map at its decoder"):
        create("vq", ImageSpec(1, 16, 16), net="rae", base_channels=2)


def test_teaching_net() -> None:
    net = build_net("conv", ImageSpec(3, 64, 64), base_channels=8)
    down, up = layers(net.encoder, nn.Conv2d), layers(net.decoder, nn.ConvTranspose2d)
    assert [(c.in_channels, c.out_channels) for c in down] == [(3, 8), (8, 16), (16, 32), (32, 64)]
    assert [(c.in_channels, c.out_channels) for c in up] == [(64, 32), (32, 16), (16, 8), (8, 3)]
    assert {(c.kernel_size, c.stride, c.padding) for c in down + up} == {((4, 4), (2, 2), (1, 1))}
    # No BatchNorm after the first convolution, none before the image, and plain ReLU everywhere.
    assert [norm.num_features for norm in layers(net.encoder, nn.BatchNorm2d)] == [16, 32, 64]
    assert [norm.num_features for norm in layers(net.decoder, nn.BatchNorm2d)] == [32, 16, 8]
    assert len(layers(net.encoder, nn.ReLU)) == 4 and len(layers(net.decoder, nn.ReLU)) == 3
    assert isinstance(layers(net.decoder, nn.Module)[-1], nn.ConvTranspose2d)
    assert net.feature_shape == (64, 4, 4)


def test_vanilla_net() -> None:
    widths = [32, 64, 128, 256, 512]
    net = build_net("vanilla", ImageSpec(3, 64, 64))
    down, up = layers(net.encoder, nn.Conv2d), layers(net.decoder, nn.ConvTranspose2d)
    assert [(c.in_channels, c.out_channels) for c in down] == list(zip([3, *widths], widths, strict=False))
    assert [(c.in_channels, c.out_channels) for c in up] == [(512, 256), (256, 128), (128, 64), (64, 32), (32, 32)]
    assert {(c.kernel_size, c.stride, c.padding) for c in down + up} == {((3, 3), (2, 2), (1, 1))}
    for part in (net.encoder, net.decoder):
        assert len(layers(part, nn.BatchNorm2d)) == 5
        assert [a.negative_slope for a in layers(part, nn.LeakyReLU)] == [0.01] * 5
    last = layers(net.decoder, nn.Module)[-1]
    assert isinstance(last, nn.Conv2d) and (last.in_channels, last.out_channels, last.kernel_size) == (32, 3, (3, 3))
    assert net.feature_shape == (512, 2, 2)


def test_celeba_net() -> None:
    net = build_net("celeba", ImageSpec(3, 64, 64))
    pools = layers(net.encoder, nn.AdaptiveAvgPool2d)
    assert net.feature_shape == (256, 4, 4) and [pool.output_size for pool in pools] == [4]
    assert [c.out_channels for c in layers(net.encoder, nn.Conv2d)] == [32, 64, 128, 256]
    assert len(layers(net.encoder, nn.BatchNorm2d)) == len(layers(net.decoder, nn.BatchNorm2d)) == 4
    assert len(layers(net.decoder, nn.ConvTranspose2d)) == 4


@pytest.mark.parametrize(
    ("name", "net", "latent_dim", "recon", "activation", "pixels"),
    [
        ("mlp", "mlp", 20, "bce", "sigmoid", (0, 1)),
        ("conv", "conv", 128, "mse", "sigmoid", (0, 1)),
        ("celeba", "celeba", 256, "mse", "tanh", (-1, 1)),
        ("mnist", "mnist", 8, "bce", "sigmoid", (0, 1)),
        ("vanilla", "vanilla", 128, "mse", "tanh", (-1, 1)),
    ],
)
def test_plain_names_bring_their_sources_defaults(
    name: str, net: str, latent_dim: int, recon: str, activation: str, pixels: tuple[float, float]
) -> None:
    image = ImageSpec(3, 32, 32, pixels)
    model = create(name, image)
    assert isinstance(model, GaussianVAE)
    assert str(model.encoder) == str(build_net(net, image).encoder)
    assert (model.latent_dim, model.likelihood.kind, model.likelihood.activation) == (latent_dim, recon, activation)


def test_only_resnet_needs_no_synchronised_batch_statistics() -> None:
    norms = {name: len(layers(build_net(name, ImageSpec(1, 16, 16)).encoder, nn.BatchNorm2d)) for name in SMALL}
    assert (
        norms["resnet"] == norms["gated"] == norms["mlp"] == 0
        and norms["rae"]
        and norms["conv"]
        and norms["vanilla"]
        and norms["celeba"]
    )


def test_labels_as_vectors() -> None:
    classes = label_vector(torch.tensor([1, 0]), ImageSpec(1, 4, 4, classes=3))
    assert torch.equal(classes, torch.tensor([[0.0, 1, 0], [1, 0, 0]]))
    attributes = label_vector(torch.tensor([[1, 0]], dtype=torch.uint8), ImageSpec(1, 4, 4, attributes=2))
    assert torch.equal(attributes, torch.tensor([[1.0, 0.0]]))


@pytest.mark.parametrize("factor", [4, 8])
def test_grids_have_a_position_for_so_many_pixels(factor: int) -> None:
    """Van den Oord et al. 2017, section 4.1: stride-2 convolutions with windows of 4x4, then two residual blocks."""
    net = build_net("grid", ImageSpec(3, 64, 32), base_channels=4, factor=factor)
    assert net.feature_shape == (8, 64 // factor, 32 // factor)
    halvings = int(math.log2(factor))
    for part, kind in ((net.encoder, nn.Conv2d), (net.decoder, nn.ConvTranspose2d)):
        strided = [layer for layer in layers(part, kind) if layer.stride == (2, 2)]
        assert len(strided) == halvings and all(layer.kernel_size == (4, 4) for layer in strided)
        assert len(layers(part, ResidualUnit)) == 2
    unit = ResidualUnit(8)
    x = torch.randn(1, 8, 3, 3)
    torch.testing.assert_close(unit(x), x + unit.body[3](unit.body[1](x.relu()).relu()))

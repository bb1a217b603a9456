"""The convolutions compute what torch's compute."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zoo.nets import convolutions
from zoo.nets.convolutions import SMALL, WIDE, Conv2d, ConvTranspose2d, seen_pixels


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Note each use of the matrix products, and use them for narrow layers too."""
    used: list[tuple] = []
    real = convolutions.seen_pixels

    def noted(*arguments: object) -> Tensor:
        used.append(arguments)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(convolutions, "seen_pixels", noted)
    monkeypatch.setattr(convolutions, "WIDE", 1)
    return used


def outcome(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and every gradient of a weighted sum of it."""
    x = x.clone().requires_grad_()
    y = layer(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])]


def assert_same(ours: nn.Module, torchs: nn.Module, x: Tensor) -> None:
    torchs.load_state_dict(ours.state_dict())
    for a, b in zip(outcome(ours.double(), x), outcome(torchs.double(), x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


SHAPES = [(3, 2, 1), (4, 2, 1), (3, 1, 1), (1, 1, 0), (2, 2, 0)]  # kernel, stride, padding


@pytest.mark.parametrize("size", [(4, 4), (2, 2), (3, 5), (4, 1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_convolution_is_torchs(shape: tuple[int, int, int], size: tuple[int, int], products: list) -> None:
    torch.manual_seed(0)
    if min(size) + 2 * shape[2] < shape[0]:
        size = (4, 4)
    assert_same(Conv2d(3, 5, *shape), nn.Conv2d(3, 5, *shape), torch.randn(2, 3, *size, dtype=torch.double))
    assert products


@pytest.mark.parametrize("size", [(4, 4), (2, 2), (3, 5), (4, 1)])
@pytest.mark.parametrize(("shape", "more"), [*((shape, 0) for shape in SHAPES), ((3, 2, 1), 1), ((3, 2, 1), (1, 0))])
def test_a_transposed_convolution_is_torchs(
    shape: tuple[int, int, int], more: int | tuple[int, int], size: tuple[int, int], products: list
) -> None:
    torch.manual_seed(0)
    ours, torchs = ConvTranspose2d(3, 5, *shape, more), nn.ConvTranspose2d(3, 5, *shape, more)
    assert_same(ours, torchs, torch.randn(2, 3, *size, dtype=torch.double))
    assert products


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(4, 2, 1, 0), (3, 2, 1, 1), (3, 2, 1, (1, 0)), (3, 1, 1, 0)])
def test_a_transposed_convolution_of_a_large_map_is_torchs(
    shape: tuple, layout: torch.memory_format, products: list
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, 6, dtype=torch.double).contiguous(memory_format=layout)
    ours, torchs = ConvTranspose2d(3, 5, *shape), nn.ConvTranspose2d(3, 5, *shape)
    assert_same(ours.to(memory_format=layout), torchs.to(memory_format=layout), x)
    assert not products


@pytest.mark.parametrize("layer", [ConvTranspose2d(WIDE, WIDE, 4, 2, 1), ConvTranspose2d(3, 3, 4, 2, 1)])
def test_an_activation_in_place_may_follow(layer: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, layer.in_channels, 4, 4)
    for a, b in zip(
        outcome(nn.Sequential(layer, nn.ReLU(inplace=True)), x),
        outcome(nn.Sequential(layer, nn.ReLU()), x),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_a_gradient_can_be_differentiated_again() -> None:
    torch.manual_seed(0)
    ours, torchs = ConvTranspose2d(3, 5, 4, 2, 1).double(), nn.ConvTranspose2d(3, 5, 4, 2, 1).double()
    torchs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 5, 5, dtype=torch.double, requires_grad=True)

    def penalty(layer: nn.Module) -> list[Tensor]:
        (gradient,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
        return list(torch.autograd.grad(gradient.square().sum(), list(layer.parameters())))

    for a, b in zip(penalty(ours), penalty(torchs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@given(st.tuples(st.integers(1, 5), st.integers(1, 5)), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2))
def test_each_tap_sees_one_pixel_or_the_padding(size: tuple[int, int], kernel: int, stride: int, padding: int) -> None:
    if min(size) + 2 * padding < kernel:
        return
    rows = iter(seen_pixels(size, kernel, stride, padding))
    height, width = size
    for top in range(-padding, height + padding - kernel + 1, stride):
        for left in range(-padding, width + padding - kernel + 1, stride):
            for i in range(kernel):
                for j in range(kernel):
                    y, x = top + i, left + j
                    inside = 0 <= y < height and 0 <= x < width
                    assert next(rows).nonzero().flatten().tolist() == ([y * width + x] if inside else [])
    assert next(rows, None) is None


@pytest.mark.parametrize(
    ("layer", "small"), [(lambda c: Conv2d(c, c, 4, 2, 1), 8), (lambda c: ConvTranspose2d(c, c, 4, 2, 1), 4)]
)
def test_only_wide_layers_over_small_maps_are_products(
    layer: Callable[[int], nn.Module], small: int, products: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SMALL == 16
    monkeypatch.setattr(convolutions, "WIDE", WIDE)
    layer(WIDE - 1)(torch.zeros(1, WIDE - 1, small, small))
    layer(WIDE)(torch.zeros(1, WIDE, 2 * small, 2 * small))
    assert not products
    layer(WIDE)(torch.zeros(1, WIDE, small, small))
    assert products


@pytest.mark.parametrize("layer", [Conv2d(3, 5, 3, 2, 1), ConvTranspose2d(3, 5, 3, 2, 1, 1)])
def test_type_and_layout_stay(layer: nn.Module, products: list) -> None:
    x = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    layer = layer.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert products
    assert y.dtype == torch.bfloat16
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y.float(), layer(x), rtol=2e-2, atol=2e-2)


def test_an_asked_for_output_size_is_torchs_affair(products: list) -> None:
    assert ConvTranspose2d(2, 2, 3, 2, 1)(torch.zeros(1, 2, 2, 2), output_size=[4, 4]).shape[2:] == (4, 4)
    assert not products


@pytest.mark.parametrize("layer", [Conv2d(WIDE, WIDE, 3, 2, 1), ConvTranspose2d(WIDE, WIDE, 3, 2, 1, 1)])
def test_a_layer_first_used_in_inference_mode_can_be_trained(layer: nn.Module) -> None:
    convolutions._kept_seen_pixels.cache_clear()
    with torch.inference_mode():
        layer(torch.zeros(1, WIDE, 4, 4))
    layer(torch.zeros(1, WIDE, 4, 4)).sum().backward()


def test_several_compiled_layers_compute_the_same() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        Conv2d(WIDE, WIDE, 3, 2, 1),
        Conv2d(WIDE, WIDE, 3, 2, 1),
        ConvTranspose2d(WIDE, WIDE, 4, 2, 1),
        ConvTranspose2d(WIDE, 3, 4, 2, 1),
    )
    x = torch.randn(2, WIDE, 8, 8)
    torch._dynamo.reset()
    compiled = copy.deepcopy(layers)
    compiled.compile()
    for a, b in zip(outcome(compiled, x), outcome(layers, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

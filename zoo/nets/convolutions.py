"""Convolutions that are fast over small maps on a CPU.

A wide layer over 4x4 or 2x2 pixels, as at the bottom of an encoder and the top of a decoder, takes oneDNN two to eight
times as long as the matrix products that it amounts to, most of it for the gradient of the weights. These layers choose
the products there. And of a transposed convolution over a large map oneDNN takes longer for the gradient of the bias, a
plain sum, than for everything else: here torch sums it. In all but rounding the layers are torch's: parameters,
checkpoints, results. In a graph that is exported or traced they are torch's altogether: it may run anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALL = 16  # pixels of the smaller of the layer's two maps
WIDE = 64  # channels of the narrower


class Conv2d(nn.Conv2d):
    """A convolution with square kernels."""

    def __init__(self, before: int, after: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__(before, after, kernel, stride, padding)

    def forward(self, input: Tensor) -> Tensor:
        """`[B, before, H, W]` -> `[B, after, h, w]`."""
        (kernel, _), (stride, _), padding = self.kernel_size, self.stride, int(self.padding[0])
        size = [(n + 2 * padding - kernel) // stride + 1 for n in input.shape[2:]]
        if _exporting() or not _products_are_faster(self, input, size):
            return super().forward(input)
        pixels = input.flatten(2).transpose(1, 2)  # [B, H W, before]
        seen = seen_pixels(tuple(input.shape[2:]), kernel, stride, padding)
        patches = seen.to(input) @ pixels  # [B, h w k k, before]
        weight = self.weight.permute(0, 2, 3, 1).flatten(1)  # [after, k k before]
        out = F.linear(patches.view(len(input), math.prod(size), -1), weight, self.bias)  # [B, h w, after]
        return out.transpose(1, 2).unflatten(2, size)


class ConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution with square kernels."""

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        output_padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__(before, after, kernel, stride, padding, output_padding)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """`[B, before, h, w]` -> `[B, after, H, W]`; `output_size` is torch's, and overrides `output_padding`."""
        if output_size is not None or _exporting():
            return super().forward(input, output_size)
        assert self.bias is not None
        (kernel, _), (stride, _), padding = self.kernel_size, self.stride, int(self.padding[0])
        if not _products_are_faster(self, input, input.shape[2:]):
            out = F.conv_transpose2d(input, self.weight, self.bias.detach(), stride, padding, self.output_padding)
            return _BiasGradient.apply(out, self.bias)
        size = [
            (n - 1) * stride - 2 * padding + kernel + more
            for n, more in zip(input.shape[2:], self.output_padding, strict=True)
        ]
        weight = self.weight.permute(2, 3, 1, 0).flatten(0, 2)  # [k k after, before]
        patches = F.linear(input.flatten(2).transpose(1, 2), weight)  # [B, h w, k k after]
        patches = patches.view(len(input), -1, self.out_channels)  # [B, h w k k, after]
        out = seen_pixels(tuple(size), kernel, stride, padding).to(patches).T @ patches  # [B, H W, after]
        return (out + self.bias.to(out)).transpose(1, 2).unflatten(2, size)


class _BiasGradient(torch.autograd.Function):
    """Passes on `[B, C, H, W]`, to which a bias `[C]` was added out of autograd's sight, and gives the bias its due."""

    @staticmethod
    def forward(out: Tensor, bias: Tensor) -> Tensor:
        return out

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.mark_dirty(inputs[0])  # though unchanged: what is returned would otherwise refuse in-place activations

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        return gradient, gradient.sum((0, 2, 3))


def seen_pixels(size: tuple[int, ...], kernel: int, stride: int, padding: int) -> Tensor:
    """Return what a kernel sees of an image of `size` (H, W), as a matrix of 0 and 1: `[h w k k, H W]`.

    Each row is one tap of the kernel at one place, and has its 1 at the pixel under it; all are 0 over the padding. Do
    not write to it, since it is cached.
    """
    # A compiled step makes it anew: torch.compile traces no cache, and fails over two such matrices assumed constant.
    make = _seen_pixels if torch.compiler.is_compiling() else _kept_seen_pixels
    return make(size, kernel, stride, padding)


def _seen_pixels(size: tuple[int, ...], kernel: int, stride: int, padding: int) -> Tensor:
    pixels = torch.eye(math.prod(size)).view(-1, 1, *size)
    return F.unfold(pixels, kernel, padding=padding, stride=stride).permute(2, 1, 0).flatten(0, 1)


@lru_cache  # making one takes some hundred microseconds of every step
def _kept_seen_pixels(size: tuple[int, ...], kernel: int, stride: int, padding: int) -> Tensor:
    with torch.inference_mode(False):  # what is made in inference mode could not serve training later
        return _seen_pixels(size, kernel, stride, padding)


def _exporting() -> bool:
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def _products_are_faster(layer: nn.Conv2d | nn.ConvTranspose2d, input: Tensor, smaller: Sequence[int]) -> bool:
    wide = min(layer.in_channels, layer.out_channels) >= WIDE
    return wide and math.prod(smaller) <= SMALL and input.device.type == "cpu"

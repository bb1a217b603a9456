"""Nets of papers whose numbers are held against ours."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from zoo.base import ImageSpec
from zoo.errors import UserError
from zoo.nets.convolutions import Conv2d, ConvTranspose2d
from zoo.nets.pairs import Net, Widths, must_divide, register_net

Blocks = Annotated[int, Field(gt=0, le=100)]
SMALLEST = 8  # pixels of a side, where RAE's decoder begins


class Gated(nn.Module):
    """A(x) sigmoid(B(x)), A and B linear."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.value, self.gate = nn.Linear(before, after), nn.Linear(before, after)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, before]` -> `[B, after]`."""
        return self.value(x) * self.gate(x).sigmoid()


@register_net("gated", "fully connected with gates, 784-300-300")
def gated(image: ImageSpec, in_channels: int, *, hidden_dims: Widths = [300, 300]) -> Net:  # noqa: B006 (never changed)
    """Gated layers, no other activation; any image size. Tomczak & Welling 2018, arXiv:1705.07120, section 5.

    Departs from the paper: the linear map that every variant has from its latent comes before the decoder's first gated
    layer; where that is at least as wide as the latent, the two are what one gated layer is.

    Args:
        image: Shape of the images.
        in_channels: Channels the encoder sees.
        hidden_dims: Widths of the encoder's hidden layers; the decoder has them in reverse.
    """
    widths = [in_channels * image.height * image.width, *hidden_dims]
    encoder = [Gated(before, after) for before, after in zip(widths, hidden_dims, strict=False)]
    widths = [hidden_dims[-1], *reversed(hidden_dims)]
    decoder = [Gated(before, after) for before, after in zip(widths, widths[1:], strict=False)]
    to_image = nn.Sequential(nn.Linear(hidden_dims[0], image.pixels), nn.Unflatten(1, image.shape))
    return Net(nn.Sequential(nn.Flatten(), *encoder), nn.Sequential(*decoder, *to_image), (hidden_dims[-1],))


class ResidualUnit(nn.Module):
    """x + conv1x1(relu(conv3x3(relu(x)))), a quarter as wide between."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // 4)
        self.body = nn.Sequential(
            nn.ReLU(), Conv2d(channels, narrow, 3, padding=1), nn.ReLU(), Conv2d(narrow, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> the same shape."""
        return x + self.body(x)


@register_net("grid", "stride-2 convolutions to a quarter or an eighth of the side, residual blocks; for codes")
def grid(
    image: ImageSpec,
    in_channels: int,
    *,
    base_channels: PositiveInt = 64,
    factor: Literal[4, 8] = 4,
    blocks: Blocks = 2,
) -> Net:
    """The nets of van den Oord et al. 2017, arXiv:1711.00937, section 4.1, in the widths of the authors' code.

    4x4 convolutions of stride 2, a 3x3 one, residual blocks; the decoder has them in reverse. No BatchNorm.

    Args:
        image: Shape of the images.
        in_channels: Channels the encoder sees.
        base_channels: Width of the outermost convolution; all others are twice as wide.
        factor: Pixels of an image's side to one position of the grid; 4 in the paper.
        blocks: Residual blocks on each side.
    """
    must_divide("grid", image, factor)
    wide = 2 * base_channels
    widths = [in_channels, base_channels, *[wide] * int(math.log2(factor) - 1)]
    encoder: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        encoder += [Conv2d(before, after, 4, stride=2, padding=1), nn.ReLU()]
    encoder += [Conv2d(wide, wide, 3, padding=1), *(ResidualUnit(wide) for _ in range(blocks)), nn.ReLU()]
    decoder: list[nn.Module] = [Conv2d(wide, wide, 3, padding=1), *(ResidualUnit(wide) for _ in range(blocks))]
    widths = [*reversed(widths[1:]), image.channels]
    for before, after in zip(widths, widths[1:], strict=False):
        decoder += [nn.ReLU(), ConvTranspose2d(before, after, 4, stride=2, padding=1)]
    shape = (wide, image.height // factor, image.width // factor)
    return Net(nn.Sequential(*encoder), nn.Sequential(*decoder), shape)


class SameConv2d(nn.Module):
    """A convolution that keeps height and width, with an even kernel, too: the odd pixel of padding comes last."""

    def __init__(self, before: int, after: int, kernel: int) -> None:
        super().__init__()
        self.padding = ((kernel - 1) // 2, kernel // 2)
        self.conv = Conv2d(before, after, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, before, H, W]` -> `[B, after, H, W]`."""
        return self.conv(F.pad(x, (*self.padding, *self.padding)))


@register_net("rae", "four convolutions to a map, and from a larger map up again, BatchNorm, wide")
def rae(image: ImageSpec, in_channels: int, *, base_channels: PositiveInt = 128) -> Net:
    """The nets of Ghosh et al. 2020, arXiv:1903.12436, appendix B; square sizes 16, 32, 64, 128.

    Stride-2 convolutions, 4x4 up to 32 pixels and 5x5 above, each with BatchNorm and ReLU; the decoder begins at 8x8,
    with as many channels as the encoder ends with, and its last convolution keeps the size.

    Args:
        image: Shape of the images.
        in_channels: Channels the encoder sees.
        base_channels: Width of the first convolution; the others are 2, 4 and 8 times as wide.
    """
    side, doublings = image.height, int(math.log2(image.height / SMALLEST)) if image.height > SMALLEST else 0
    if image.height != image.width or side != SMALLEST * 2**doublings or not 1 <= doublings <= 4:
        raise UserError(
            f"net 'rae' needs square images of 16, 32, 64 or 128 pixels, not {image.height} x {image.width}: set "
            "data.size=32, or choose net 'vanilla', which takes any size"
        )
    kernel = 4 if side <= 32 else 5

    def block(convolution: nn.Module, channels: int) -> list[nn.Module]:
        return [convolution, nn.BatchNorm2d(channels), nn.ReLU()]

    widths = [in_channels, *(base_channels * 2**i for i in range(4))]
    encoder: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        encoder += block(Conv2d(before, after, kernel, stride=2, padding=(kernel - 1) // 2), after)
    widths = [base_channels * 8 // 2**i for i in range(doublings + 1)]
    decoder: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        double = ConvTranspose2d(before, after, kernel, 2, padding=(kernel - 1) // 2, output_padding=kernel % 2)
        decoder += block(double, after)
    decoder.append(SameConv2d(widths[-1], image.channels, kernel))
    return Net(
        nn.Sequential(*encoder),
        nn.Sequential(*decoder),
        feature_shape=(base_channels * 8, side // 16, side // 16),
        decoder_shape=(base_channels * 8, SMALLEST, SMALLEST),
    )

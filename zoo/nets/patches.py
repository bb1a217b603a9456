"""A discriminator that judges patches: what is wrong with an image is told where it is wrong."""

from __future__ import annotations

import math

from torch import Tensor, nn

from zoo.base import ImageSpec
from zoo.errors import UserError
from zoo.nets.convolutions import Conv2d

SMALLEST = 8  # pixels of a side
WIDEST = 8  # times the first layer's width


class PatchDiscriminator(nn.Module):
    """A logit for each patch. Isola et al. 2017 (PatchGAN), arXiv:1611.07004, appendix 6.1.2.

    4x4 convolutions with LeakyReLU(0.2), GroupNorm behind all but the first and the last; all but two halve the size.
    Three halvings see patches of 70 x 70 pixels, two of 34 x 34, one of 16 x 16.

    Departs from the paper: GroupNorm stands in for BatchNorm, which would tell real batches from decoded ones by their
    statistics, and takes its own over the whole image; weights begin as torch's do, not at N(0, 0.02^2); small
    images are halved less often, as far as a patch is left.

    Args:
        image: Shape of the images.
        channels: Width of the first convolution; each further one is twice as wide, up to eight times.
        layers: Halvings.

    Raises:
        UserError: if the images are too small to have patches.
    """

    def __init__(self, image: ImageSpec, *, channels: int = 64, layers: int = 3) -> None:
        super().__init__()
        side = min(image.height, image.width)
        if side < SMALLEST:
            raise UserError(
                f"a discriminator of patches needs images of {SMALLEST} pixels a side or more, not {image.height} x "
                f"{image.width}: set data.size={SMALLEST} or more"
            )
        layers = min(layers, int(math.log2(side)) - 2)
        widths = [channels * min(2**i, WIDEST) for i in range(layers + 1)]
        body: list[nn.Module] = [Conv2d(image.channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False), 1):
            stride = 2 if i < layers else 1
            body += [Conv2d(before, after, 4, stride, padding=1), nn.GroupNorm(1, after), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*body, Conv2d(widths[-1], 1, 4, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W]` -> logits `[B, 1, h, w]`, high for what looks like an image of the data."""
        return self.body(x).float()

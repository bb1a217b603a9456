"""Between stored bytes and the floats that models see."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.memory import require

Size = int | tuple[int, int]  # of images, in pixels: height and width, or one number for both


def sides(size: Size) -> tuple[int, int]:
    """Return height and width."""
    return (size, size) if isinstance(size, int) else size


def to_float(images: Tensor, range: tuple[float, float]) -> Tensor:
    """Scale uint8 images of any shape to float32 in `range` (least, greatest), on the device where they are."""
    low, high = range
    # Dividing, not multiplying by a rounded inverse, takes 255 to exactly `high`; and converting first saves a third.
    scaled = images.float().div_(255 / (high - low))
    return scaled.add_(low) if low else scaled


def dequantise(images: Tensor, range: tuple[float, float]) -> Tensor:
    """Scale uint8 images to float32 in `range`, each pixel anywhere in its grey level's 256th of the range.

    A density of real numbers fitted to whole ones could grow without bound; one fitted to these bounds the probability
    of the whole ones. Uria et al. 2013, "RNADE"; Theis et al. 2016, "A note on the evaluation of generative models".

    Args:
        images: Of any shape.
        range: Least and greatest value.
    """
    low, high = range
    noise = torch.rand(images.shape, device=images.device)
    return images.float().add_(noise).mul_((high - low) / 256).add_(low)  # in the images' memory format


def augmented(images: Tensor, flip: bool, margin: int, memory_format: torch.memory_format) -> Tensor:
    """Return training images as a model is to see them but for their scale: mirrored, cropped, in its memory layout.

    Args:
        images: uint8 `[B, C, H, W]`: bytes are a quarter of floats, so all this is done before they are scaled.
        flip: Whether each is mirrored, at random.
        margin: Of the random crop, pixels; 0 for none.
        memory_format: Of the result.
    """
    images = mirror(images) if flip else images
    images = random_crop(images, margin) if margin else images
    return images.contiguous(memory_format=memory_format)


def mirror(images: Tensor) -> Tensor:
    """Flip each image of `[B, C, H, W]`, of any type, left to right with probability one half, on its device."""
    flipped = torch.rand(len(images), device=images.device) < 0.5
    rows = torch.arange(len(images), device=images.device) + len(images) * flipped
    return torch.cat((images, images.flip(-1))).index_select(0, rows)  # half the time of `where`


def random_crop(images: Tensor, margin: int) -> Tensor:
    """Move each image of `[B, C, H, W]` by up to `margin` pixels up or down and left or right, on its device.

    What comes in at an edge mirrors what is beside it: as if the images were padded by `margin` and cropped at random.

    Args:
        images: Of any type.
        margin: Less than height and width.
    """

    def moved(side: int) -> Tensor:
        offsets = torch.randint(-margin, margin + 1, (len(images), 1), device=images.device)
        positions = (offsets + torch.arange(side, device=images.device)).abs()
        return side - 1 - (side - 1 - positions).abs()

    _, channels, height, width = images.shape
    pixels = (moved(height)[:, :, None] * width + moved(width)[:, None, :]).flatten(1)  # [B, H * W]
    return images.flatten(2).gather(2, pixels[:, None].expand(-1, channels, -1)).view_as(images)


def resize(pixels: Tensor, size: Size) -> Tensor:
    """Resize uint8 `[N, C, H, W]` to `size`, antialiased bilinear."""
    shape = sides(size)
    if pixels.shape[-2:] == shape:
        return pixels
    chunk = 2048  # as floats, all at once are too many
    what = f"{len(pixels):,} images of {shape[0]} x {shape[1]} pixels"
    image = math.prod(shape) * pixels.shape[1]
    require(image * (len(pixels) + 4 * min(chunk, len(pixels))), what, "choose a smaller data.size or data.limit")
    out = torch.empty(*pixels.shape[:2], *shape, dtype=torch.uint8)
    for part, target in zip(pixels.split(chunk), out.split(chunk), strict=True):
        scaled = F.interpolate(part.float(), shape, mode="bilinear", antialias=True)
        target.copy_(scaled.round_().clamp_(0, 255))
    return out

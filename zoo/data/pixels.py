"""Between stored bytes and the floats that models see."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def to_float(images: Tensor, range: tuple[float, float]) -> Tensor:
    """Scale uint8 images of any shape to float32 in `range` (least, greatest), on the device where they are."""
    low, high = range
    # Dividing, not multiplying by a rounded inverse, takes 255 to exactly `high`; and converting first saves a third.
    scaled = images.float().div_(255 / (high - low))
    return scaled.add_(low) if low else scaled


def mirror(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Flip each image of `[B, C, H, W]` left to right with probability one half, on the device where they are.

    Args:
        images: Of any type.
        generator: On the images' device; None: torch's global one.
    """
    flipped = torch.rand(len(images), device=images.device, generator=generator) < 0.5
    rows = torch.arange(len(images), device=images.device) + len(images) * flipped
    return torch.cat((images, images.flip(-1))).index_select(0, rows)  # half the time of `where`


def resize(pixels: Tensor, size: int) -> Tensor:
    """Resize uint8 `[N, C, H, W]` to `size` pixels a side, antialiased bilinear."""
    if pixels.shape[-2:] == (size, size):
        return pixels
    out = torch.empty(*pixels.shape[:2], size, size, dtype=torch.uint8)
    for chunk, target in zip(pixels.split(2048), out.split(2048), strict=True):  # as floats, all at once are too many
        scaled = F.interpolate(chunk.float(), (size, size), mode="bilinear", antialias=True)
        target.copy_(scaled.round_().clamp_(0, 255))
    return out

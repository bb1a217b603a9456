"""Generated shapes whose factors of variation are known exactly, for measuring disentanglement."""

from __future__ import annotations

import colorsys
import math
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor

from zoo.data.sampler import permutation
from zoo.data.source import Images, Source, register_dataset
from zoo.memory import require

SHAPES = ("square", "ellipse", "heart")
PLACES = 10  # along x and along y
SPAN = 0.45  # from the first place to the last, as a share of the image's side
SIZES = {"shape": len(SHAPES), "scale": 5, "orientation": 10, "x": PLACES, "y": PLACES}
HUES = 5
PERIODS = (math.pi / 2, math.pi, 2 * math.pi)  # the angle after which each shape looks the same again
SUPERSAMPLE = 4  # points per pixel, in each direction


@register_dataset("shapes", "generated squares, ellipses and hearts with known factors, 1 or 3 x 32 x 32")
def shapes(
    root: Path, size: int | None, limit: int | None, *, channels: Literal[1, 3] = 1, count: PositiveInt = 15_000
) -> Source:
    """White (or coloured) shapes on black, after dSprites (Matthey et al. 2017), one for each choice of factors.

    Factors and their numbers of values: shape 3 (also the class label), scale 5, orientation 10, x 10, y 10; with three
    channels also hue 5. All combinations are 15,000, or 75,000 with hue; `count` of them are drawn without replacement,
    by default every one of the 15,000.

    In dSprites the same square stands under four values of the orientation. Here the angles of a shape divide the turn
    that brings it back to itself (a quarter for the square, a half for the ellipse, a whole one for the heart), so no
    two combinations give the same image. The first and last angles are neighbours.
    """
    sizes = SIZES | ({"hue": HUES} if channels == 3 else {})
    order = permutation(math.prod(sizes.values()), 0)[: min(count, limit or count)]
    factors = torch.stack(torch.unravel_index(order, tuple(sizes.values())), dim=1)
    pixels = render(factors, size or 32)
    images = Images(pixels, labels=factors[:, 0].clone(), factors=factors)
    return Source(images, class_names=SHAPES, factor_names=tuple(sizes), factor_sizes=tuple(sizes.values()))


def render(factors: Tensor, size: int) -> Tensor:
    """Draw images of known factors.

    Args:
        factors: int64 `[N, 5]` (shape, scale, orientation, x, y) or `[N, 6]` (and hue).
        size: Pixels a side.

    Returns:
        uint8 `[N, 1, size, size]`, or `[N, 3, size, size]` with hue.
    """
    points = size * SUPERSAMPLE
    taken = len(factors) * (3 if factors.shape[1] == 6 else 1) * size**2 + 4 * 4 * points**2  # a canvas, four times
    require(taken, f"{len(factors):,} shapes of {size} x {size} pixels", "choose a smaller data.size or data.limit")
    step = max(1, round(SPAN * points / (PLACES - 1)))  # whole points, so that all steps are alike
    if factors.shape[1] == 6:
        palette = torch.tensor([colorsys.hsv_to_rgb(hue / HUES, 1.0, 1.0) for hue in range(HUES)])
        colours = 255 * palette[factors[:, 5]]
    else:
        colours = torch.full((len(factors), 1), 255.0)
    pixels = torch.empty(len(factors), colours.shape[1], size, size, dtype=torch.uint8)
    kinds, kind_of = torch.unique(factors[:, :3], dim=0, return_inverse=True)
    for k, (shape, scale, orientation) in enumerate(kinds.tolist()):
        rows = torch.nonzero(kind_of == k).flatten()
        x, y = factors[rows, 3], factors[rows, 4]
        # Drawn once on a canvas with room for every place; an image is a window, further left as the shape is right.
        canvas = _draw(shape, scale, orientation, points + (PLACES - 1) * step, points)
        windows = canvas.unfold(0, points, step).unfold(1, points, step)
        cover = F.avg_pool2d(windows[PLACES - 1 - y, PLACES - 1 - x], SUPERSAMPLE)
        pixels[rows] = (cover[:, None] * colours[rows, :, None, None]).round_().byte()
    return pixels


def _draw(shape: int, scale: int, orientation: int, side: int, points: int) -> Tensor:
    """Return which points of a canvas lie in the shape at its middle: 0 or 1, `[side, side]`; an image has `points`."""
    radius = points * (0.125 + 0.125 * scale / (SIZES["scale"] - 1))  # an eighth to a quarter of the image
    angle = orientation / SIZES["orientation"] * PERIODS[shape]
    at = (torch.arange(side) + 0.5 - side / 2) / radius
    # The shape's own coordinates, in which its radius is 1: it turns clockwise.
    u = math.cos(angle) * at[None, :] + math.sin(angle) * at[:, None]
    v = math.cos(angle) * at[:, None] - math.sin(angle) * at[None, :]
    return (_in_square, _in_ellipse, _in_heart)[shape](u, v).float()


def _in_square(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) <= math.sqrt(0.5)


def _in_ellipse(u: Tensor, v: Tensor) -> Tensor:
    return u.square() + (2 * v).square() <= 1


def _in_heart(u: Tensor, v: Tensor) -> Tensor:
    # (a^2 + b^2 - 1)^3 = a^2 b^3 is a heart whose points are within 1.26 of (0, 0.25).
    a, b = (1.26 * u).square(), 0.25 - 1.26 * v
    c = a + b.square() - 1
    return c * c * c <= a * b * b * b

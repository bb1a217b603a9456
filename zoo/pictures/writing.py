"""Pictures that somebody asked for, in full size and colour: one beside the other, one by one, moving, or as arrays."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from zoo.data.decode import AVIF
from zoo.errors import UserError
from zoo.files import writing
from zoo.memory import require

PAD, BREAK = 2, 10  # white pixels around each image of a sheet, and below a band of rows
CELL = 64  # pixels that the longer side of an image on a sheet has at least: smaller ones are enlarged
MILLISECONDS = 80  # that a frame is shown
QUALITY = 95
MOVING = {".gif": "GIF", ".webp": "WEBP"}
STILL = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".gif": "GIF"}
STILL |= {".tiff": "TIFF"} | ({".avif": "AVIF"} if AVIF else {})
ARRAYS = ".npz"


def is_folder(out: Path) -> bool:
    """Say whether a place that somebody named is one for many files: a folder that is there, or no file's name."""
    return os.path.isdir(out) or not out.suffix


def check_ending(out: Path, endings: Sequence[str]) -> str:
    """Return the ending of a file's name, which says what is written.

    Raises:
        UserError: if it is none of these, or there is a folder of that name.
    """
    if os.path.isdir(out):  # no error if the name is longer than any may be
        raise UserError(f"{out} can't be written: it is a folder; name a file")
    ending = out.suffix.lower()
    if ending not in endings:
        raise UserError(f"{out} can't be written: its name must end in one of {', '.join(endings)}")
    return ending


def to_bytes(images: Tensor) -> np.ndarray:
    """Turn images `[N, C, H, W]` in [0, 1] into uint8 `[N, H, W, C]`."""
    return images.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()


def sheet(images: np.ndarray, columns: int, rows_together: int = 1) -> np.ndarray:
    """Put images side by side on white, each in its full size, and small ones enlarged by a whole number.

    Args:
        images: uint8 `[N, H, W, C]`; of other than 1 or 3 channels, the first is shown.
        columns: Images to a row.
        rows_together: Rows of a band, with a gap below it.

    Returns:
        uint8 `[height, width, 1 or 3]`.
    """
    if images.shape[3] not in (1, 3):
        images = images[..., :1]
    factor = max(1, math.ceil(CELL / max(images.shape[1:3])))
    height, width = (factor * side for side in images.shape[1:3])
    rows = math.ceil(len(images) / columns)
    gaps = (math.ceil(rows / rows_together) - 1) * BREAK if rows_together > 1 else 0
    shape = (rows * (height + PAD) + PAD + gaps, columns * (width + PAD) + PAD, images.shape[3])
    require(2 * math.prod(shape), f"a picture of {shape[1]:,} x {shape[0]:,} pixels", "ask for fewer images, or --each")
    canvas = np.full(shape, 255, np.uint8)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        top = PAD + row * (height + PAD) + (row // rows_together * BREAK if rows_together > 1 else 0)
        left = PAD + column * (width + PAD)
        canvas[top : top + height, left : left + width] = image.repeat(factor, 0).repeat(factor, 1)
    return canvas


def write_picture(pixels: np.ndarray, out: Path) -> None:
    """Write a picture, uint8 `[H, W, 1 or 3]`, in the format that its name's ending says.

    Raises:
        UserError: if there is no such format, it takes no picture of that size, or nothing can be written there.
    """
    kind = STILL[check_ending(out, list(STILL))]
    _save(_picture(pixels), out, kind, quality=QUALITY)


def write_film(frames: np.ndarray, out: Path) -> None:
    """Write moving images, uint8 `[N, H, W, C]`, that go on from the last to the first without end."""
    kind = MOVING[check_ending(out, list(MOVING))]
    first, *others = (_picture(sheet(frame[None], 1)) for frame in frames)
    _save(first, out, kind, save_all=True, append_images=others, duration=MILLISECONDS, loop=0, quality=QUALITY)


def write_arrays(out: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write named arrays as .npz."""
    with writing(out):
        np.savez_compressed(out, **arrays)  # type: ignore[arg-type]


def _picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] != 3 else pixels)


def _save(picture: Image.Image, out: Path, kind: str, **options: Any) -> None:
    whole = io.BytesIO()
    try:
        picture.save(whole, kind, **options)
    except (OSError, ValueError) as error:  # of what is too large for the format
        raise UserError(f"{out} can't be written: no {kind} of {picture.width} x {picture.height} ({error})") from None
    with writing(out):
        out.write_bytes(whole.getvalue())

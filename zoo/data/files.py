"""Image files that are decoded whenever they are asked for: for sets that are too large even for the cache's disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoo.data import decode
from zoo.errors import UserError


class ImageFiles:
    """Stands in for the pixels `[N, C, H, W]` of a set.

    Args:
        folder: Where the files are.
        names: Their N paths within the folder.
        size: Pixels a side, H and W, after cutting out a square and resizing it.
        channels: C, 3 or 1.
        crop: Pixels a side of the square, in the middle of the image; None: the largest.
    """

    dtype = torch.uint8
    ndim = 4

    def __init__(self, folder: Path, names: Sequence[str], size: int, channels: int, crop: int | None) -> None:
        self.files = [str(folder / name) for name in names]
        self.crop = crop
        self.shape = (len(names), channels, size, size)

    def __len__(self) -> int:
        """Return N."""
        return len(self.files)

    def read(self, rows: Tensor) -> Tensor:
        """Decode the images at `rows`, int64 `[B]`: uint8 `[B, C, H, W]`.

        Raises:
            UserError: if a file can't be read or decoded, or is smaller than `crop`.
        """
        _, channels, size, _ = self.shape
        try:
            pixels, bad = decode.decode_many([self.files[row] for row in rows.tolist()], size, channels, self.crop)
        except (OSError, ValueError) as error:
            raise UserError(str(error)) from None
        for file, fault in bad.items():
            raise UserError(
                f"{file} can't be decoded ({fault}): remove it, or set data.cache=true, which passes over it"
            )
        return torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(-1, channels, size, size)

"""Image files that are decoded whenever they are asked for: for sets that are too large even for the cache's disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from zoo.data import decode
from zoo.errors import UserError
from zoo.memory import require


class ImageFiles:
    """Stands in for the pixels `[N, C, H, W]` of a set.

    Args:
        folder: Where the files are.
        names: Their N paths within the folder.
        form: What is made of each: C, H and W.
    """

    dtype = torch.uint8
    ndim = 4
    advice = "remove it, or set data.cache=true, which passes over it"

    def __init__(self, folder: Path, names: Sequence[str], form: decode.Form) -> None:
        require(form.bytes, f"an image of {form.height} x {form.width} pixels", "choose a smaller data.size")
        self.files = [str(folder / name) for name in names]
        self.form = form
        self.shape = (len(names), form.channels, form.height, form.width)

    def __len__(self) -> int:
        """Return N."""
        return len(self.files)

    def content(self, row: int) -> bytes:
        """Return the bytes of an image's file."""
        return decode.content_of(self.files[row])

    def read(self, rows: Tensor) -> Tensor:
        """Decode the images at `rows`, int64 `[B]`: uint8 `[B, C, H, W]`.

        Raises:
            UserError: if a file can't be read or decoded, or is smaller than what is to be cut out of it.
        """
        pixels = bytearray()
        for row in rows.tolist():
            name = self.files[row]
            try:
                content = self.content(row)
                pixels += decode.decode(content, self.form)
            except OSError as error:
                raise UserError(str(error)) from None
            except decode.TooSmall as error:
                raise UserError(f"{name} {error}") from None
            except decode.BadImage as error:
                raise UserError(f"{name} can't be decoded ({error}): {self.advice}") from None
        return torch.frombuffer(pixels, dtype=torch.uint8).view(-1, *self.shape[1:])

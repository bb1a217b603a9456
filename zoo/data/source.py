"""What a data set returns, and the registry that finds it by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from zoo.data.files import ImageFiles
from zoo.errors import UserError
from zoo.registry import Registry


@dataclass(frozen=True)
class Images:
    """A set of images, held in memory or memory-mapped, with what is known about each.

    Attributes:
        pixels: uint8 `[M, C, H, W]`, or files that are decoded at each use; a memory map is left where it is.
        labels: int64 `[N]` class labels, or uint8 `[N, A]` attributes of 0 and 1.
        factors: int64 `[N, F]`, the generating factors' values.
        index: int64 `[N]`, the rows of `pixels` that are in the set, so that a subset copies no pixels; None: all.
        mapped: Whether reading `pixels` may wait for a disk.
    """

    pixels: Tensor | ImageFiles
    labels: Tensor | None = None
    factors: Tensor | None = None
    index: Tensor | None = None
    mapped: bool = False

    def __post_init__(self) -> None:
        """Check what a plugin's author may get wrong."""
        if self.pixels.dtype != torch.uint8 or self.pixels.ndim != 4:
            found = f"{str(self.pixels.dtype).removeprefix('torch.')} {list(self.pixels.shape)}"
            raise UserError(f"a data set's pixels must be uint8 [N, C, H, W], not {found}")
        for name, known in (("labels", self.labels), ("factors", self.factors)):
            if known is not None and len(known) != len(self):
                raise UserError(f"a data set has {len(self)} images but {len(known)} {name}")

    def __len__(self) -> int:
        """Return how many images are in the set."""
        return len(self.pixels if self.index is None else self.index)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def subset(self, positions: Tensor) -> Images:
        """Return the images at `positions`, int64 `[K]`, without copying pixels."""
        return Images(
            self.pixels,
            None if self.labels is None else self.labels[positions],
            None if self.factors is None else self.factors[positions],
            positions if self.index is None else self.index[positions],
            self.mapped,
        )

    def batch(self, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the images at `positions`, int64 `[B]`, and their labels as a model takes them.

        Returns:
            uint8 `[B, C, H, W]`, and int64 `[B]` classes, float32 `[B, A]` attributes, or None.
        """
        rows = positions if self.index is None else self.index[positions]
        # NumPy and `index_select` copy image by image, which torch's own indexing does not: it takes 5 to 50 times as
        # long. A mapped set is read by a thread beside the loop, where torch would start a second pool of threads.
        if isinstance(self.pixels, ImageFiles):
            pixels = self.pixels.read(rows)
        elif self.mapped:
            pixels = torch.from_numpy(self.pixels.numpy().take(rows.numpy(), axis=0))
        else:
            pixels = self.pixels.index_select(0, rows)
        if self.labels is None:
            return pixels, None
        labels = self.labels.numpy().take(positions.numpy(), axis=0)
        return pixels, torch.from_numpy(labels if labels.ndim == 1 else labels.astype(np.float32))


@dataclass(frozen=True)
class Source:
    """A data set's official splits; those that are None are cut from the others by `build_data`.

    Attributes:
        train: The training images, or all images where there is no official split.
        test: The official test images.
        val: The official validation images.
        class_names: One per class, where labels are classes.
        attribute_names: One per attribute, where labels are attributes.
        factor_names: One per generating factor.
        factor_sizes: How many values each factor takes.
    """

    train: Images
    test: Images | None = None
    val: Images | None = None
    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    factor_names: tuple[str, ...] = ()
    factor_sizes: tuple[int, ...] = ()


DATASETS: Registry[Callable[..., Source]] = Registry("data set", package="zoo.data")
register_dataset = DATASETS.register

"""What a data set returns, and the registry that finds it by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.utils.data
from torch import Tensor

from zoo.data.binarise import binarise
from zoo.data.digests import Files
from zoo.data.files import ImageFiles
from zoo.errors import PluginError
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
        files: Where each row of `pixels` comes from, for pictures that are files.
        balance: Whether training draws the classes evenly, and not the images.
        draw: The key of the draw by which pixels are made black or white, see `binarise`; "": they stay grey.
        redraw: Whether training draws them anew at each look.
    """

    pixels: Tensor | ImageFiles
    labels: Tensor | None = None
    factors: Tensor | None = None
    index: Tensor | None = None
    mapped: bool = False
    files: Files | None = None
    balance: bool = False
    draw: str = ""
    redraw: bool = False

    def __post_init__(self) -> None:
        """Check what a plugin's author may get wrong."""
        if fault := _fault(self.pixels):
            raise PluginError(f"a data set's pixels {fault}")
        for name, known in (("labels", self.labels), ("factors", self.factors)):
            if known is None:
                continue
            if not isinstance(known, Tensor):
                advice = f": write torch.from_numpy({name})" if isinstance(known, np.ndarray) else ""
                raise PluginError(f"a data set's {name} must be a tensor, not {described(known)}{advice}")
            if len(known) != len(self):
                raise PluginError(f"a data set has {len(self)} images but {len(known)} {name}")
        if self.labels is not None and self.labels.ndim == 1 and self.labels.dtype != torch.int64:
            raise PluginError(
                f"a data set's labels are {described(self.labels)}: classes must be int64 [N] (write labels.long()), "
                "attributes uint8 [N, A]"
            )

    def __len__(self) -> int:
        """Return how many images are in the set."""
        return len(self.pixels if self.index is None else self.index)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    @property
    def digests(self) -> Tensor | None:
        """What stands for the content of each image's file, int64 `[N]`; None for images that are no files."""
        if self.files is None:
            return None
        return self.files.digests if self.index is None else self.files.digests[self.index]

    @property
    def names(self) -> list[str]:
        """The images' files, paths within the data's folder; empty for images that are no files."""
        if self.files is None:
            return []
        return list(self.files.names) if self.index is None else [self.files.names[i] for i in self.index.tolist()]

    @property
    def stored(self) -> Images:
        """The same images with pixels as they are stored, not made black or white."""
        return replace(self, draw="", redraw=False)

    def subset(self, positions: Tensor) -> Images:
        """Return the images at `positions`, int64 `[K]`, without copying pixels."""
        return replace(
            self,
            labels=None if self.labels is None else self.labels[positions],
            factors=None if self.factors is None else self.factors[positions],
            index=positions if self.index is None else self.index[positions],
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
        if self.draw:  # a file is known by its content, so that its draw stays when others come and go
            pixels = binarise(pixels, rows if self.files is None else self.files.digests[rows], self.draw)
        if self.labels is None:
            return pixels, None
        labels = self.labels.numpy().take(positions.numpy(), axis=0)
        return pixels, torch.from_numpy(labels if labels.ndim == 1 else labels.astype(np.float32))


def described(thing: object) -> str:
    """Say what something is: "a tensor, uint8 [1000, 3, 32, 32]", "a NumPy array, …", "a list"."""
    if isinstance(thing, Tensor | np.ndarray):
        kind = "tensor" if isinstance(thing, Tensor) else "NumPy array"
        return f"a {kind}, {str(thing.dtype).removeprefix('torch.')} {list(thing.shape)}"
    name = type(thing).__name__
    if isinstance(thing, torch.utils.data.Dataset):
        return f"a torch Dataset ({name})"
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _fault(pixels: object) -> str:
    """Say what is wrong with pixels, and what would be right; "" if nothing is."""
    if isinstance(pixels, np.ndarray):
        return f"are {described(pixels)}, and must be a tensor: write Images(torch.from_numpy(pixels))"
    if not isinstance(pixels, Tensor | ImageFiles):
        return f"are {described(pixels)}, and must be a tensor, uint8 [N, C, H, W]"
    shape = list(pixels.shape)
    if pixels.dtype != torch.uint8 or pixels.ndim != 4:
        found = f"{str(pixels.dtype).removeprefix('torch.')} {shape}"
        advice = ""
        if pixels.dtype.is_floating_point:
            advice = ": from [0, 1], write pixels.mul(255).round().byte()"
        elif pixels.ndim == 3:
            advice = ": of grey images, write pixels.unsqueeze(1)"
        return f"must be uint8 [N, C, H, W], not {found}{advice}"
    # No image has so many colours and is so narrow, unless its colours come last. One of few pixels may be anything.
    few = 4
    if shape[3] in (1, 3, 4) and min(shape[1:3]) > few:
        return f"are {shape}, with the colours last, and must be [N, C, H, W]: write pixels.permute(0, 3, 1, 2)"
    return ""


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
        title: What the data is called where it is nothing that the data set's name says: the user's own folder.
        digest: What stands for the content of all images, where it is known without reading them; else "".
    """

    train: Images
    test: Images | None = None
    val: Images | None = None
    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    factor_names: tuple[str, ...] = ()
    factor_sizes: tuple[int, ...] = ()
    title: str = ""
    digest: str = ""

    def __post_init__(self) -> None:
        """Check what a plugin's author may get wrong."""
        for split in ("train", "test", "val"):
            images = getattr(self, split)
            if not isinstance(images, Images) and not (images is None and split != "train"):
                raise PluginError(f"Source({split}=…) is {described(images)}, and must be Images: {_advice(images)}")
            if images is not None:
                self._check_split(split, images)

    def _check_split(self, split: str, images: Images) -> None:
        labels, named = images.labels, self.class_names or self.attribute_names
        if images.shape != self.train.shape:
            shapes = [" x ".join(map(str, each.shape)) for each in (images, self.train)]
            raise PluginError(f"Source's {split} images are {shapes[0]}, and its train images {shapes[1]}")
        if isinstance(named, str):
            raise PluginError(f"Source's class_names or attribute_names is one text, {named!r}, not a tuple of names")
        if (labels is None) != (self.train.labels is None):
            which = ("no labels", "labels") if labels is None else ("labels", "no labels")
            raise PluginError(f"Source's {split} images have {which[0]}, and its train images {which[1]}")
        if named and labels is None:
            raise PluginError("Source has class_names or attribute_names, but its images have no labels")
        if labels is None or not len(labels):
            return
        if self.class_names and labels.ndim == 1:
            for label in (int(labels.min()), int(labels.max())):
                if not 0 <= label < len(self.class_names):
                    names = f"{len(self.class_names)} class names, the first for label 0"
                    raise PluginError(f"Source has {names}, but {split} has the label {label}")
        elif labels.shape[1:] != self.train.labels.shape[1:]:  # type: ignore[union-attr]
            raise PluginError(f"Source's {split} labels are {list(labels.shape)}, unlike train's")


def source_of(returned: object, function: str) -> Source:
    """Return what a data set's function returned, if that is a source.

    Args:
        returned: By the function.
        function: Its name.

    Raises:
        PluginError: if it is anything else; says what it is, and what would be right.
    """
    if isinstance(returned, Source):
        return returned
    advice = "return Source(train=images)" if isinstance(returned, Images) else _advice(returned)
    raise PluginError(f"{function} returned {described(returned)}, and must return a Source: {advice}")


def _advice(returned: object) -> str:
    if isinstance(returned, Tensor):
        return "write Source(train=Images(pixels))"
    if isinstance(returned, np.ndarray):
        return "write Source(train=Images(torch.from_numpy(pixels)))"
    if isinstance(returned, torch.utils.data.Dataset):
        return "stack its images, as pixels uint8 [N, C, H, W], and write Source(train=Images(pixels))"
    return "write Source(train=Images(pixels)), with pixels uint8 [N, C, H, W]"


DATASETS: Registry[Callable[..., Source]] = Registry(
    "data set", package="zoo.data", decorator="register_dataset", given=("root", "size", "limit")
)
register_dataset = DATASETS.register

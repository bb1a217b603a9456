"""Pictures that somebody hands to a trained model: brought to what it was trained on, some at a time."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from torch import Tensor

from zoo.base import ImageSpec
from zoo.config import DataConfig
from zoo.data import decode
from zoo.data.binarise import binarise
from zoo.data.decode import Form
from zoo.data.layout import class_folders
from zoo.data.listing import list_images, shown
from zoo.errors import UserError, warn
from zoo.memory import require
from zoo.texts import printable

MOST_TOGETHER = 2**22  # bytes of pixels that are decoded at a time


class Picture(NamedTuple):
    """A picture file.

    Attributes:
        name: Its path within the folder that was named, or its file's name; bytes that are no UTF-8 by their numbers.
        file: Where it lies.
        named: Whether it was named itself, and not a folder that it lies in.
    """

    name: str
    file: Path
    named: bool


def find_pictures(places: Sequence[Path]) -> list[Picture]:
    """Return the pictures that files and folders, with their subfolders, are or hold.

    Raises:
        UserError: if a place is missing or holds none.
    """
    found = []
    several = sum(os.path.isdir(place) for place in places) > 1
    for place in places:
        if os.path.isdir(place):  # no error if the name is longer than any may be
            above = f"{place.resolve().name}/" if several else ""
            names = list_images(place, recursive=True, advice="").names
            found += [Picture(f"{above}{name}", place / name, False) for name in names]
        elif os.path.isfile(place):
            found.append(Picture(place.name, place, True))
        else:
            raise UserError(f"there is no picture, and no folder of pictures, {printable(place)}")
    taken: set[str] = set()
    return [picture._replace(name=_unlike(_text(picture.name), taken)) for picture in found]


def _text(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()


def _unlike(name: str, taken: set[str]) -> str:
    """Return a name, or where another picture has it, name_2, name_3, …; and take it."""
    path = PurePosixPath(name)
    free = chain([name], (str(path.with_stem(f"{path.stem}_{number}")) for number in count(2)))
    chosen = next(each for each in free if each not in taken)
    taken.add(chosen)
    return chosen


def classes_of(pictures: Sequence[Picture]) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return the pictures' classes, int64 `[N]`, and these classes' names, where they lie in two or more folders."""
    return class_folders([picture.name for picture in pictures], official=False)


def form_of(data: DataConfig | None, image: ImageSpec) -> Form:
    """Return what is made of a picture before a model sees it, as its data set made it of each of its own.

    Args:
        data: The run's; None: not known, and the largest part of the model's shape is cut out of the middle.
        image: The model's.

    Raises:
        UserError: if the model's images are no pictures.
    """
    if image.channels not in (1, 3):
        raise UserError(f"this model's images have {image.channels} channels, and pictures have 3, or 1 of grey")
    options = {} if data is None else data.options
    return Form(image.height, image.width, image.channels, options.get("crop"), options.get("fit", "crop"))


def prepared(pictures: Sequence[Picture], form: Form, draw: str = "") -> Iterator[tuple[list[Picture], Tensor]]:
    """Yield pictures, some at a time, with their pixels as a model's data has them: uint8 `[B, C, H, W]`.

    What can't be decoded in a folder is passed over, and told at the end.

    Args:
        pictures: From `find_pictures`.
        form: What is made of each.
        draw: The key of the draw by which pixels are made black or white, see `binarise`; "": they stay grey.

    Raises:
        UserError: if a file can't be read, one that was named itself can't be decoded, or none of all can.
    """
    require(form.bytes, f"an image of {form.height} x {form.width} pixels", "choose another model")
    size = max(1, MOST_TOGETHER // form.bytes)
    bad: list[str] = []
    for start in range(0, len(pictures), size):
        good, pixels, numbers = [], bytearray(), []
        for picture in pictures[start : start + size]:
            try:
                content = decode.content_of(picture.file)
                pixels += decode.decode(content, form)
            except OSError as error:
                raise UserError(f"{printable(picture.file)} can't be read: {error.strerror}") from None
            except (decode.BadImage, decode.TooSmall) as error:
                fault = f"{printable(picture.file)} ({error})"
                if picture.named:
                    raise UserError(f"{fault} can't be used as a picture") from None
                bad.append(fault)
                continue
            good.append(picture)
            numbers.append(decode.digest(io.BytesIO(content)))
        if good:
            images = torch.frombuffer(pixels, dtype=torch.uint8).view(-1, form.channels, form.height, form.width)
            yield good, binarise(images, torch.tensor(numbers), draw) if draw else images
    if bad:
        text = f"{len(bad):,} of {len(pictures):,} pictures can't be used: {shown(bad)}"
        if len(bad) == len(pictures):
            raise UserError(text)
        warn(f"{text}; they are passed over")

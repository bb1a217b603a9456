"""Folders of image files: the user's own, and CelebA."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from zoo.data.cache import decoded
from zoo.data.decode import ENDINGS
from zoo.data.files import ImageFiles
from zoo.data.source import Images, Source, register_dataset
from zoo.errors import UserError

OnBadImage = Literal["skip", "fail"]
DEFAULT_SIZE = 64


@register_dataset("image_folder", "your own images: every jpg, png, webp and bmp in data.root and its subfolders")
def image_folder(
    root: Path,
    size: int | None,
    limit: int | None,
    *,
    channels: Literal[1, 3] = 3,
    on_bad_image: OnBadImage = "skip",
    cache: bool = True,
) -> Source:
    """Images of a folder, in the order of their paths; each is its largest centred square, resized (64 by default).

    If all images lie in subfolders, and these are two or more, each immediate subfolder is a class. A limit takes
    images evenly spaced over the sorted list, so that no class is left out because of its name. What is transparent
    turns white. Hidden files and folders are passed over, and a file that is reached by two paths is taken once.

    Without `cache` nothing is written to disk: each batch is decoded anew, and a bad file ends the run that meets it.
    """
    names = list_images(root, recursive=True)
    if limit is not None and limit < len(names):
        names = [names[i * len(names) // limit] for i in range(limit)]
    pixels, kept = load_images(root, names, size or DEFAULT_SIZE, channels, None, on_bad_image, cache)

    tops = [name.split("/")[0] for name in names]
    classes = sorted(set(tops))
    if len(classes) < 2 or any("/" not in name for name in names):
        return Source(Images(pixels, mapped=True))
    labels = torch.tensor([classes.index(top) for top in tops])[kept]
    return Source(Images(pixels, labels, mapped=True), class_names=tuple(classes))


def list_images(folder: Path, recursive: bool) -> list[str]:
    """Return the sorted paths, within `folder`, of the files whose names end like an image's.

    Hidden files and folders are passed over; a file that is linked to twice is listed once.

    Raises:
        UserError: if the folder is missing, can't be read, or has no such file.
    """
    looked_for = f"{', '.join(ENDINGS)} (data.root or DATA_ROOT says where to look)"
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder.absolute()} to look in for images ending in {looked_for}")
    names = []
    seen = set()  # device and inode of each folder and file: links may lead in circles
    try:
        for at, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
            here = os.stat(at)
            if (here.st_dev, here.st_ino) in seen:
                folders.clear()
                continue
            seen.add((here.st_dev, here.st_ino))
            folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
            for name in sorted(files):
                if name.startswith(".") or not name.lower().endswith(ENDINGS):
                    continue
                file = os.stat(os.path.join(at, name))
                if (file.st_dev, file.st_ino) not in seen:
                    seen.add((file.st_dev, file.st_ino))
                    names.append(Path(at, name).relative_to(folder).as_posix())
    except OSError as error:
        raise UserError(f"{error.filename} can't be read: {error.strerror}") from None
    if not names:
        within = " or its subfolders" if recursive else ""
        raise UserError(f"no file in {folder.absolute()}{within} ends in {looked_for}")
    return sorted(names)


def _raise(error: OSError) -> None:
    raise error


def load_images(
    folder: Path,
    names: Sequence[str],
    size: int,
    channels: int,
    crop: int | None,
    on_bad_image: OnBadImage,
    cache: bool,
) -> tuple[Tensor | ImageFiles, Tensor]:
    """Return images from the cache, which decodes them if need be, and warn of those that can't be decoded.

    Returns:
        uint8 `[K, channels, size, size]`, memory-mapped, and which of `names` they are, int64 `[K]`; without
        `cache`, all of them, not decoded yet.

    Raises:
        UserError: if a file is bad and `on_bad_image` is "fail", if all are, or as `decoded` does.
    """
    if not cache:
        return ImageFiles(folder, names, size, channels, crop), torch.arange(len(names))
    pixels, bad = decoded(folder, names, size, channels, crop)
    if bad:
        shown = ", ".join(f"{folder / name} ({fault})" for name, fault in list(bad.items())[:3])
        count = f"{len(bad):,} of {len(names):,} images can't be decoded"
        text = f"{count}: {shown}{', …' if len(bad) > 3 else ''}"
        if len(bad) == len(names):
            raise UserError(text)
        if on_bad_image == "fail":
            raise UserError(f"{text}; mend or remove them, or set data.on_bad_image to skip")
        if os.environ.get("RANK", "0") == "0":  # of many processes one speaks
            print(f"warning: {text}; they are skipped", file=sys.stderr)
    return pixels, torch.tensor([i for i, name in enumerate(names) if name not in bad])

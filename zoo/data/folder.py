"""Folders of image files: the user's own, and CelebA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.data.cache import decoded
from zoo.data.decode import Form
from zoo.data.digests import Files, digests_of
from zoo.data.files import ImageFiles
from zoo.data.layout import class_folders, split_folders
from zoo.data.listing import list_images, shown, warn_of_others
from zoo.data.pixels import Size, sides
from zoo.data.source import Images, Source, register_dataset
from zoo.data.tables import read_labels
from zoo.errors import UserError, warn

OnBadImage = Literal["skip", "fail"]
Fit = Literal["crop", "pad", "squash"]
DEFAULT_SIZE = 64


@register_dataset("image_folder", "your own images: every picture in data.root and its subfolders")
def image_folder(
    root: Path,
    size: Size | None,
    limit: int | None,
    *,
    channels: Literal[1, 3] = 3,
    fit: Fit = "crop",
    labels: Path | None = None,
    on_bad_image: OnBadImage = "skip",
    cache: bool = True,
    verify: bool = False,
) -> Source:
    """Images of a folder, brought to `size`, 64 by default: one number, or [height, width].

    Folders `train`, `test` and `val` (or training, testing, valid, validation, in any case) are the official splits;
    those that are not there are cut from train. If all images lie in subfolders, of the splits or of the root, and
    these are two or more, each is a class. Or `labels` names a CSV file in the root with the columns file (a path in
    the root) and label, or file and attributes of 0 and 1 (or -1 and 1). A limit takes images evenly spaced over the
    sorted list, so that no class is left out because of its name. Hidden files and folders are passed over, a file that
    is reached by two paths is taken once, and what is transparent turns white.

    `fit` says how a picture comes to its size: `crop` takes the largest part of that shape from its middle, `pad` puts
    bars of black beside it, `squash` stretches it. Without `cache` no pixels are written to disk: each batch is decoded
    anew, and a bad file ends the run that meets it. A start holds the files' contents against those that were decoded:
    of more than 5,000 files or 200 MB a part, or all with `verify`.
    """
    found = list_images(root, recursive=True)
    others = [name for name in found.others if labels is None or root / name != root / labels]
    warn_of_others(root, others, len(found.names))
    check_links(root, found.dangling, on_bad_image)
    official = split_folders(root, found.names)
    parts = {split: _thinned(names, limit) for split, names in (official or {"train": found.names}).items()}
    names = [name for part in parts.values() for name in part]
    known, classes, attributes = (
        read_labels(root / labels, names) if labels else (*class_folders(names, bool(official)), ())
    )
    form = Form(*sides(size or DEFAULT_SIZE), channels, None, fit)
    loaded = load_images(root, names, form, on_bad_image, cache, verify)
    splits = split_images(loaded, parts, known)
    if "train" not in splits:
        raise UserError(f"none of the images in {root.absolute()} that are for training can be decoded")
    warn_of_twins(splits)
    official_splits = (splits["train"], splits.get("test"), splits.get("val"))
    return Source(*official_splits, classes, attributes, title=root.resolve().name)


def _thinned(names: list[str], limit: int | None) -> list[str]:
    if limit is None or limit >= len(names):
        return names
    return [names[i * len(names) // limit] for i in range(limit)]


class Loaded(NamedTuple):
    """What became of image files.

    Attributes:
        pixels: Of the good ones, uint8 `[K, C, H, W]`, memory-mapped; or all, not decoded yet.
        kept: Which they are, int64 `[K]`.
        files: Their names and digests.
    """

    pixels: Tensor | ImageFiles
    kept: Tensor
    files: Files


def load_images(
    folder: Path, names: Sequence[str], form: Form, on_bad_image: OnBadImage, cache: bool, verify: bool
) -> Loaded:
    """Return images from the cache, which decodes them if need be, and warn of those that can't be decoded.

    Raises:
        UserError: if a file is bad and `on_bad_image` is "fail", if all are, or as `decoded` does.
    """
    if not cache:
        files = Files(names, digests_of(folder, names), folder)
        return Loaded(ImageFiles(folder, names, form), torch.arange(len(names)), files)
    pixels, bad, digests = decoded(folder, names, form, verify)
    check_bad({str(folder / name): fault for name, fault in bad.items()}, len(names), on_bad_image)
    kept = [i for i, name in enumerate(names) if name not in bad]
    return Loaded(pixels, torch.tensor(kept), Files([names[i] for i in kept], digests, folder))


def check_bad(bad: Mapping[str, str], count: int, on_bad_image: OnBadImage) -> None:
    """Warn of images that can't be decoded.

    Raises:
        UserError: if `on_bad_image` is "fail", or all of the `count` images are bad.
    """
    if not bad:
        return
    text = f"{len(bad):,} of {count:,} images can't be decoded: {shown([f'{name} ({bad[name]})' for name in bad])}"
    if len(bad) == count:
        raise UserError(text)
    if on_bad_image == "fail":
        raise UserError(f"{text}; mend or remove them, or set data.on_bad_image to skip")
    warn(f"{text}; they are skipped")


def check_links(folder: Path, dangling: Sequence[str], on_bad_image: OnBadImage) -> None:
    """Warn of links that lead nowhere, or raise `UserError` if `on_bad_image` is "fail"."""
    if not dangling:
        return
    text = f"{len(dangling):,} links in {folder} lead to no file: {shown(dangling)}"
    if on_bad_image == "fail":
        raise UserError(f"{text}; mend or remove them, or set data.on_bad_image to skip")
    warn(f"{text}; they are skipped")


def split_images(loaded: Loaded, parts: Mapping[str, Sequence[str]], labels: Tensor | None) -> dict[str, Images]:
    """Return the images of each split that has any.

    Args:
        loaded: The images of all splits, one split after another.
        parts: Names of each split's images, in the same order.
        labels: Of all images, `[N]` or `[N, A]`.
    """
    splits: dict[str, Images] = {}
    kept, start = loaded.kept, 0
    for split, names in parts.items():
        rows = torch.nonzero((kept >= start) & (kept < start + len(names))).flatten()
        start += len(names)
        if len(rows):
            whole = Images(loaded.pixels, index=rows, mapped=True, files=loaded.files)
            splits[split] = whole if labels is None else replace(whole, labels=labels[kept[rows]])
    return splits


def warn_of_twins(splits: Mapping[str, Images]) -> None:
    """Say which images of different official splits have the same content."""
    for split, other, pairs in twins(splits):
        named = shown([f"{one} = {two}" for one, two in pairs])
        warn(f"{len(pairs):,} images of {split} are in {other}, too: {named}")


def twins(splits: Mapping[str, Images]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Return, for each two splits that have images of equal content, the names of these images in both."""
    found = []
    order = [split for split in ("test", "val", "train") if split in splits and splits[split].files is not None]
    for i, split in enumerate(order):
        for other in order[i + 1 :]:
            one, two = splits[split], splits[other]
            common = np.isin(one.digests.numpy(), two.digests.numpy())  # type: ignore[union-attr]
            if common.any():
                by_digest = dict(zip(two.digests.tolist(), two.names, strict=True))  # type: ignore[union-attr]
                pairs = [
                    (name, by_digest[digest])
                    for name, digest, shared in zip(one.names, one.digests.tolist(), common, strict=True)  # type: ignore[union-attr]
                    if shared
                ]
                found.append((split, other, pairs))
    return found

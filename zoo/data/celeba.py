"""CelebA: 202,599 photographs of faces, 178 x 218, with 40 attributes. Liu et al. 2015, arXiv:1411.7766."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from pydantic import PositiveInt
from torch import Tensor

from zoo.data.decode import Form
from zoo.data.folder import DEFAULT_SIZE, Fit, OnBadImage, check_links, load_images, split_images
from zoo.data.listing import list_images, missing
from zoo.data.pixels import Size, sides
from zoo.data.source import Source, register_dataset
from zoo.errors import UserError
from zoo.files import read_text
from zoo.registry import did_you_mean

PARTITION, ATTRIBUTES = "list_eval_partition", "list_attr_celeba"  # .txt as published, .csv as Kaggle has them


@register_dataset("celeba", "photographs of faces, 202,599, 3 x 64 x 64, with 40 attributes")
def celeba(
    root: Path,
    size: Size | None,
    limit: int | None,
    *,
    crop: PositiveInt | None = None,
    fit: Fit = "crop",
    attributes: list[str] | None = None,
    on_bad_image: OnBadImage = "skip",
    cache: bool = True,
    verify: bool = False,
) -> Source:
    """CelebA from `celeba/img_align_celeba` or `img_align_celeba` in the root, or from the root itself.

    Each photograph is its largest centred square (178 of 178 x 218), or the centred `crop` x `crop` pixels of it (140
    and 148 are usual in the literature), resized (64 by default). With `list_eval_partition.txt` beside the
    photographs' folder or in it, the splits are the official ones; with `list_attr_celeba.txt` the labels are all 40
    attributes, or the `attributes` asked for. Kaggle's copy, with tables that end in .csv and the photographs a folder
    deeper, is read as it is. `fit`, `cache`, `verify` and `on_bad_image` are those of `image_folder`.
    """
    folder = find_photographs(root)
    found = list_images(folder, recursive=False)
    check_links(folder, found.dangling, on_bad_image)
    parts = {part: chosen[:limit] for part, chosen in _partition(folder, found.names).items()}
    names = [name for chosen in parts.values() for name in chosen]
    labels, attribute_names = _attributes(folder, names, attributes)
    form = Form(*sides(size or DEFAULT_SIZE), 3, crop, fit)
    splits = split_images(load_images(folder, names, form, on_bad_image, cache, verify), parts, labels)
    if "train" not in splits:
        raise UserError(f"none of the images in {folder.absolute()} is for training according to its {PARTITION}.txt")
    official = (splits["train"], splits.get("test"), splits.get("val"))
    return Source(*official, attribute_names=attribute_names)


def find_photographs(root: Path) -> Path:
    """Return the folder of the photographs, which are downloaded if the package gdown is there to do it.

    Raises:
        UserError: saying where to put them.
    """
    wanted = (
        "put CelebA's img_align_celeba (and, for the official splits and attributes, "
        f"{PARTITION}.txt and {ATTRIBUTES}.txt) in {(root / 'celeba').absolute()}, "
        "or set data.root or DATA_ROOT to the folder that holds celeba/"
    )
    if not root.is_dir():
        raise UserError(missing(root) or f"there is no folder {root.absolute()}: {wanted}")
    if (found := _find(root)) is not None:
        return found
    for folder in (root / "celeba" / "img_align_celeba", root / "img_align_celeba"):
        if (zipped := folder.with_suffix(".zip")).is_file():
            raise UserError(f"{zipped.absolute()} is an archive: unpack it there, into the folder {folder.name}")
    # torchvision fetches it from Google Drive through the package gdown, and often meets Drive's quota.
    if importlib.util.find_spec("gdown") is None:
        raise UserError(f"there is no CelebA in {root.absolute()}: {wanted}")
    from torchvision.datasets import CelebA

    try:
        with FileLock(root / ".CelebA.lock"):
            CelebA(str(root), download=True)
    except Exception as error:  # torchvision and gdown raise many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"CelebA is not in {root.absolute()} and can't be downloaded ({reason}): {wanted}") from None
    return root / "celeba" / "img_align_celeba"


def _find(root: Path) -> Path | None:
    for folder in (root / "celeba" / "img_align_celeba", root / "img_align_celeba"):
        if (folder / folder.name).is_dir():  # as Kaggle's archive has it
            return folder / folder.name
        if folder.is_dir():
            return folder
    return root if any(file.suffix.lower() == ".jpg" for file in root.iterdir()) else None


def _table(folder: Path, name: str) -> tuple[Path, list[str], list[str]] | None:
    """Return a table's file, the names of its columns but for the images', and its rows, values between spaces."""
    doubled = [folder.parent.parent] if folder.parent.name == folder.name else []
    for place in (folder, folder.parent, *doubled):
        for file in (place / f"{name}.txt", place / f"{name}.csv"):
            if file.is_file():
                lines = read_text(file).replace(",", " ").splitlines()
                if file.suffix == ".csv":
                    return file, lines[0].split()[1:] if lines else [], lines[1:]
                if name == ATTRIBUTES:
                    return file, lines[1].split() if len(lines) > 1 else [], lines[2:]
                return file, ["partition"], lines
    return None


def _rows(file: Path, lines: Iterable[str], names: list[str]) -> list[str]:
    """Return what the table's lines say of each name; by stem, since a .png copy of CelebA has tables that say .jpg."""
    said = {}
    for line in lines:
        name, _, rest = line.strip().partition(" ")
        said[Path(name).stem] = rest
    missing = [name for name in names if Path(name).stem not in said]
    if missing:
        raise UserError(
            f"{file} has no line about {missing[0]} ({len(missing):,} of {len(names):,} images are missing)"
        )
    return [said[Path(name).stem] for name in names]


def _partition(folder: Path, names: list[str]) -> dict[str, list[str]]:
    """Return the names of each official split, or all as "train" where there is no partition."""
    if (table := _table(folder, PARTITION)) is None:
        return {"train": names}
    file, _, lines = table
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    numbered = dict(zip("012", parts, strict=True))
    for name, number in zip(names, _rows(file, lines, names), strict=True):
        if number.strip() not in numbered:
            raise UserError(f"{file} puts {name} in the partition {number!r}, which is not 0, 1 or 2")
        parts[numbered[number.strip()]].append(name)
    return parts


def _attributes(folder: Path, names: list[str], wanted: list[str] | None) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return uint8 `[N, A]` of 0 and 1, and the names of the A attributes."""
    if wanted == []:
        return None, ()
    if (table := _table(folder, ATTRIBUTES)) is None:
        if wanted is not None:
            raise UserError(f"data.attributes needs {ATTRIBUTES}.txt in {folder.absolute()} or the folder above it")
        return None, ()
    file, known, lines = table
    for name in wanted or ():
        if name not in known:
            raise UserError(f"CelebA has no attribute {name!r}.{did_you_mean(name, known)}")
    try:
        values = np.array([row.split() for row in _rows(file, lines, names)], dtype=np.int8)
        table_values = torch.from_numpy(values.reshape(len(names), len(known)))
    except ValueError:
        raise UserError(f"{file} is damaged: it needs {len(known)} numbers, 1 or -1, for each image") from None
    columns = [known.index(name) for name in wanted or known]
    return (table_values[:, columns] > 0).byte(), tuple(known[i] for i in columns)

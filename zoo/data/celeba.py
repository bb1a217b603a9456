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

from zoo.data.folder import DEFAULT_SIZE, OnBadImage, list_images, load_images
from zoo.data.source import Images, Source, register_dataset
from zoo.errors import UserError
from zoo.registry import did_you_mean

PARTITION = "list_eval_partition.txt"
ATTRIBUTES = "list_attr_celeba.txt"


@register_dataset("celeba", "photographs of faces, 202,599, 3 x 64 x 64, with 40 attributes")
def celeba(
    root: Path,
    size: int | None,
    limit: int | None,
    *,
    crop: PositiveInt | None = None,
    attributes: list[str] | None = None,
    on_bad_image: OnBadImage = "skip",
    cache: bool = True,
) -> Source:
    """CelebA from `celeba/img_align_celeba` or `img_align_celeba` in the root, or from the root itself.

    Each photograph is its largest centred square (178 of 178 x 218), or the centred `crop` x `crop` pixels of it (140
    and 148 are usual in the literature), resized (64 by default). With `list_eval_partition.txt` beside the
    photographs' folder or in it, the splits are the official ones; with `list_attr_celeba.txt` the labels are all 40
    attributes, or the `attributes` asked for. `cache` and `on_bad_image` are those of `image_folder`.
    """
    folder = find_photographs(root)
    names = list_images(folder, recursive=False)
    parts = _partition(folder, names)
    parts = {part: chosen[:limit] for part, chosen in parts.items()}
    names = [name for chosen in parts.values() for name in chosen]
    labels, attribute_names = _attributes(folder, names, attributes)
    pixels, kept = load_images(folder, names, size or DEFAULT_SIZE, 3, crop, on_bad_image, cache)

    splits: dict[str, Images] = {}
    start = 0
    for part, chosen in parts.items():
        rows = torch.nonzero((kept >= start) & (kept < start + len(chosen))).flatten()
        start += len(chosen)
        if len(rows):
            splits[part] = Images(pixels, None if labels is None else labels[kept[rows]], index=rows, mapped=True)
    if "train" not in splits:
        raise UserError(f"none of the images in {folder.absolute()} is for training according to its {PARTITION}")
    return Source(splits["train"], splits.get("test"), splits.get("val"), attribute_names=attribute_names)


def find_photographs(root: Path) -> Path:
    """Return the folder of the photographs, which are downloaded if the package gdown is there to do it.

    Raises:
        UserError: saying where to put them.
    """
    wanted = (
        "put CelebA's img_align_celeba (and, for the official splits and attributes, "
        f"{PARTITION} and {ATTRIBUTES}) in {(root / 'celeba').absolute()}, "
        "or set data.root or DATA_ROOT to the folder that holds celeba/"
    )
    if not root.is_dir():
        raise UserError(f"there is no folder {root.absolute()}: {wanted}")
    if (found := _find(root)) is not None:
        return found
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
        if folder.is_dir():
            return folder
    return root if any(file.suffix.lower() == ".jpg" for file in root.iterdir()) else None


def _table(folder: Path, file_name: str) -> tuple[Path, list[str]] | None:
    for file in (folder / file_name, folder.parent / file_name):
        if file.is_file():
            return file, file.read_text().splitlines()
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
    file, lines = table
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
            raise UserError(f"data.attributes needs {ATTRIBUTES} in {folder.absolute()} or the folder above it")
        return None, ()
    file, lines = table
    known = lines[1].split() if len(lines) > 1 else []
    for name in wanted or ():
        if name not in known:
            raise UserError(f"CelebA has no attribute {name!r}.{did_you_mean(name, known)}")
    try:
        values = np.array([row.split() for row in _rows(file, lines[2:], names)], dtype=np.int8)
        table_values = torch.from_numpy(values.reshape(len(names), len(known)))
    except ValueError:
        raise UserError(f"{file} is damaged: it needs {len(known)} numbers, 1 or -1, for each image") from None
    columns = [known.index(name) for name in wanted or known]
    return (table_values[:, columns] > 0).byte(), tuple(known[i] for i in columns)

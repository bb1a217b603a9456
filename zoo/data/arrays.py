"""Images that lie in NumPy's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.data import decode
from zoo.data.digests import digests_of
from zoo.data.layout import CLASS_NUMBER, MOST_CLASSES
from zoo.data.pixels import Size, resize
from zoo.data.source import Images, Source, register_dataset
from zoo.errors import UserError
from zoo.memory import require

CHUNK = 1000  # images that are turned into floats at once
SPLITS = ("train", "test", "val")
NAMES = "images and labels, or train_images, train_labels, test_images, …"


@register_dataset("arrays", "your own .npy and .npz files: grey or colour images, uint8, or floats with data.scale")
def arrays(root: Path, size: Size | None, limit: int | None, *, scale: tuple[float, float] | None = None) -> Source:
    """Images from `data.root`: a .npz file, a .npy file, or a folder of .npy files.

    Arrays are called images and labels, or train_images, train_labels, test_images, and so on, also val_…; a single one
    may have any name. Images are `[N, H, W]`, `[N, H, W, C]` or `[N, C, H, W]`, uint8, or floats between the two values
    of `scale`, which are rounded to 8 bits. Labels are whole numbers from 0, `[N]`, or attributes of 0 and 1, `[N, A]`.
    A .npy file of uint8 stays on the disk as long as `size` is its own; all else is held in memory.
    """
    found = _read(root)
    splits = {split: found[f"{split}_images"] for split in SPLITS if f"{split}_images" in found}
    if not splits and ("images" in found or len(found) == 1):
        splits = {"": found.get("images", next(iter(found.values())))}
    if not {"", "train"} & splits.keys():
        held = f"the arrays {', '.join(found)}" if found else "no array"
        raise UserError(f"{root} holds {held}: call them {NAMES}")
    images, counted = {}, 0
    for split, array in splits.items():
        prefix = f"{split}_" if split else ""
        known = found.get(f"{prefix}labels")
        labels = None if known is None else _labels(known, limit, f"{root}: {prefix}labels")
        pixels = _pixels(array, limit, scale, f"{root}: {prefix}images")
        if size is not None:
            pixels = resize(pixels, size)
        if labels is not None and len(labels) != len(pixels):
            raise UserError(f"{root}: {prefix}images are {len(pixels):,}, and {prefix}labels {len(labels):,}")
        if labels is not None and labels.ndim == 1:
            counted = max(counted, int(labels.max()) + 1)
        images[split] = Images(pixels, labels, mapped=isinstance(array, np.memmap))
    train = images.get("train", images.get(""))
    assert train is not None
    attributes = train.labels.shape[1] if train.labels is not None and train.labels.ndim == 2 else 0
    return Source(
        train,
        images.get("test"),
        images.get("val"),
        tuple(map(str, range(counted))),
        tuple(map(str, range(attributes))),
        title=root.resolve().stem,
        digest=_digest(root),
    )


def _read(root: Path) -> dict[str, Any]:
    """Return the arrays by their names; those of .npy files are memory maps that are not written back."""
    files = sorted(root.glob("*.npy")) if root.is_dir() else [root]
    if not files or not root.exists():
        raise UserError(f"{root.absolute()} holds no .npy: data.root is to be a .npz, a .npy, or a folder of .npy")
    found: dict[str, Any] = {}
    for file in files:
        try:
            decode.size_of(file)
            with np.errstate(over="ignore"):  # of a header that says more than there is
                opened = np.load(file, mmap_mode="c")  # and no pickles, which run what code they like
            found |= _members(file, opened) if isinstance(opened, np.lib.npyio.NpzFile) else {file.stem: opened}
        except UserError:
            raise
        except Exception as error:  # a reader of a binary format fails in many ways on what is none
            why = getattr(error, "strerror", None) or error
            raise UserError(f"{file.absolute()} is not a whole .npy or .npz of numbers ({why})") from None
    return found


def _members(file: Path, opened: np.lib.npyio.NpzFile) -> dict[str, Any]:
    """Return the arrays of a .npz file, read into memory; what else is in it is passed over."""
    assert opened.zip is not None
    with opened:
        size = sum(member.file_size for member in opened.zip.infolist())
        require(size, f"{file.absolute()}", "save its arrays as a folder of .npy, which stay on the disk")
        return {name: array for name, array in opened.items() if isinstance(array, np.ndarray)}


def _digest(root: Path) -> str:
    files = sorted(root.glob("*.npy")) if root.is_dir() else [root]
    folder, names = files[0].parent, [file.name for file in files]
    return " ".join(map(str, digests_of(folder, names).tolist()))


def _pixels(array: Any, limit: int | None, scale: tuple[float, float] | None, where: str) -> Tensor:
    """Return uint8 `[N, C, H, W]`, without a copy of what is uint8 already."""
    kind = f"{array.dtype} {list(array.shape)}"
    array = array[:limit] if array.ndim else array
    if array.ndim == 3:
        array = array[:, None]
    if array.ndim != 4 or not array.size:
        raise UserError(f"{where} are {kind}: they must be [N, H, W], [N, H, W, C] or [N, C, H, W]")
    if array.shape[3] <= 4 < min(array.shape[1:3]):
        array = np.moveaxis(array, 3, 1)
    if array.dtype == np.uint8:
        return torch.from_numpy(array)
    if array.dtype.kind != "f":
        raise UserError(f"{where} are {kind}: they must be uint8, or floats")
    least, greatest = float(array.min()), float(array.max())
    low, high = scale or (0.0, 0.0)
    if not low <= least <= greatest <= high:
        what = f"data.scale is [{low:g}, {high:g}]" if scale else "data.scale is missing"
        raise UserError(f"{where} are floats from {least:g} to {greatest:g}, and {what}: give [least, greatest] of all")
    require(array.size, f"{where} as 8 bits", "set data.limit")
    pixels = torch.empty(array.shape, dtype=torch.uint8)
    for start in range(0, len(array), CHUNK):
        part = torch.from_numpy(np.array(array[start : start + CHUNK], np.float32))
        pixels[start : start + CHUNK] = part.sub_(low).mul_(255 / (high - low)).round_().byte()
    return pixels


def _labels(array: Any, limit: int | None, where: str) -> Tensor:
    """Return classes, int64 `[N]`, or attributes, uint8 `[N, A]`."""
    kind = f"{array.dtype} {list(array.shape)}"
    if array.ndim not in (1, 2) or array.dtype.kind not in "iub" or not array.size:
        raise UserError(f"{where} are {kind}: they must be whole numbers from 0, [N], or attributes of 0 and 1, [N, A]")
    array = array[:limit]
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    least, greatest = int(array.min()), int(array.max())
    if array.ndim == 1:
        if least < 0 or greatest >= MOST_CLASSES:
            raise UserError(f"{where} go from {least:,} to {greatest:,}: each must be the {CLASS_NUMBER}")
        return torch.from_numpy(np.array(array, np.int64))
    if least < 0 or greatest > 1:
        raise UserError(f"{where} go from {least:,} to {greatest:,}: attributes are 0 and 1")
    return torch.from_numpy(np.array(array, np.uint8))

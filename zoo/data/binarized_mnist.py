"""The fixed binarisation of MNIST that likelihoods are published on. Larochelle & Murray 2011, AISTATS.

One Bernoulli draw of each grey digit, once for all: 50,000 + 10,000 + 10,000 images without labels. The files are text,
784 numbers of 0 and 1 a line; a mirror has the same as MATLAB files of the same names.
"""

from __future__ import annotations

import io
import os
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from zoo.data.cache import cache_folder, file_key
from zoo.data.decode import size_of
from zoo.data.source import Images, Source, register_dataset
from zoo.errors import UserError

FOLDER = "binarized_mnist"
SIDE = 28
CHECKSUM = 4  # bytes


@register_dataset("binarized_mnist", "MNIST in black and white, 50,000 + 10,000 + 10,000, 1 x 28 x 28, no labels")
def binarized_mnist(root: Path, size: int | None, limit: int | None) -> Source:
    """Read the published files, looked for in `root` and in `root/binarized_mnist`; at 32 pixels framed in black.

    Raises:
        UserError: if a file is not there or isn't what it should be, or `size` would make pixels grey.
    """
    if size not in (None, SIDE, 32):
        raise UserError(f"data.size is {size}: binarized_mnist stays black and white at 28 and 32 alone")

    def images(split: str) -> Images:
        pixels = torch.from_numpy(rows(_find(root, split))[:limit]).view(-1, 1, SIDE, SIDE).mul_(255)
        return Images(F.pad(pixels, (2, 2, 2, 2)) if size == 32 else pixels)

    return Source(images("train"), val=images("valid"), test=images("test"))


def _find(root: Path, split: str) -> Path:
    name = f"{FOLDER}_{split}.amat"
    path = next((p for p in (root / name, root / FOLDER / name) if p.is_file()), None)
    if path is None:
        raise UserError(
            f"{name} was not found in {root.absolute()}, nor in its folder {FOLDER}: put {FOLDER}_train.amat, "
            "_valid.amat and _test.amat there, from www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist, "
            "or as MATLAB from github.com/mingzhang-yin/ARM-gradient, or set data.root or DATA_ROOT to their folder"
        )
    return path


def rows(path: Path) -> np.ndarray:
    """Return a file's images, uint8 `[N, 784]` of 0 and 1; parsed once, and then kept as bits in the cache's folder.

    Raises:
        UserError: if it can't be read, or is neither of the two forms.
    """
    kept = cache_folder() / f"{file_key(path.parent, [path.name], None)}.bits"
    with suppress(OSError):
        size_of(kept)
        checksum, bits = np.split(np.frombuffer(kept.read_bytes(), np.uint8), [CHECKSUM])
        if len(bits) and len(bits) % (SIDE * SIDE // 8) == 0 and checksum.tobytes() == _checksum(bits.tobytes()):
            return np.unpackbits(bits).reshape(-1, SIDE * SIDE)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror}") from None
    found = _matlab(content) if content.startswith(b"MATLAB") else _text(content)
    if found is None or not found.size or found.size % (SIDE * SIDE) or found.max() > 1:
        raise UserError(
            f"{path} is damaged, or not binarized_mnist: it must hold 784 numbers of 0 and 1 for each image"
        )
    found = np.ascontiguousarray(found, np.uint8).reshape(-1, SIDE * SIDE)
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}")
        packed = np.packbits(found).tobytes()
        partial.write_bytes(_checksum(packed) + packed)
        partial.replace(kept)
    return found


def _checksum(content: bytes) -> bytes:
    return zlib.crc32(content).to_bytes(CHECKSUM, "little")


def _matlab(content: bytes) -> np.ndarray | None:
    from scipy.io import loadmat

    try:
        return loadmat(io.BytesIO(content))["X"]
    except MemoryError:
        raise
    except Exception:  # a reader of a binary format fails in many ways on what is none
        return None


def _text(content: bytes) -> np.ndarray | None:
    """Return the numbers of a text of 0 and 1, one character each; None if there is anything else in it."""
    characters = np.frombuffer(content, np.uint8)
    characters = characters[characters > ord(" ")]
    numbers = characters - np.uint8(ord("0"))
    return numbers if len(content) >= 2 * len(numbers) - 1 else None

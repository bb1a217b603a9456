"""What stands for the content of files: by it a picture is known again, whatever it is called and wherever it lies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from zoo.data import decode
from zoo.data.cache import cache_folder, file_key, read_digests
from zoo.errors import UserError


@dataclass(frozen=True)
class Files:
    """Where pixels come from, a file for each of their rows.

    Attributes:
        names: Paths within the folder, or whatever the data calls its images.
        digests: int64 `[M]`, what stands for each one's content.
        folder: Where the files are; None for images within larger files.
    """

    names: Sequence[str]
    digests: Tensor
    folder: Path | None = None


def digests_of(folder: Path, names: Sequence[str]) -> Tensor:
    """Return what stands for the content of files that the cache of decoded images does not hold, int64 `[N]`.

    They are read once, and 8 bytes a file kept in the cache's folder; where that can't be written, at every start.

    Raises:
        UserError: if a file can't be read.
    """
    file = cache_folder() / f"{file_key(folder, names, None)}.digests"
    if (known := read_digests(file, len(names))) is not None:
        return known
    digests = torch.empty(len(names), dtype=torch.int64)
    try:
        for i, name in enumerate(tqdm(names, desc=f"reading {folder.name}", unit=" files", disable=None)):
            decode.size_of(folder / name)
            with open(folder / name, "rb") as stream:
                digests[i] = decode.digest(stream)
    except OSError as error:
        raise UserError(f"{error.filename} can't be read: {error.strerror}") from None
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_bytes(digests.numpy().tobytes())
        partial.replace(file)
    return digests

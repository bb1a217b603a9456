"""Image files, decoded once into a memory map that all runs and processes share.

A cache entry is three files: `<key>.u8` holds the pixels, `<key>.digests` what stands for each file's content, and
`<key>.json` the pixels' shape and the files that were bad. The key is made of the files' names, sizes and times and of
everything that decides what is made of them, so that an entry never goes stale; the header is written last, so that an
entry is whole if its header exists.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from zoo.data.decode import Form
from zoo.data.workers import decode_files
from zoo.errors import UserError
from zoo.memory import require

VERSION = 2  # to be raised when the same files come to give other pixels


def cache_folder() -> Path:
    """Return $VAE_ZOO_CACHE, else $XDG_CACHE_HOME/vae-zoo, else ~/.cache/vae-zoo."""
    if chosen := os.environ.get("VAE_ZOO_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vae-zoo"


Build = Callable[[Path], tuple[dict[str, str], list[int]]]  # see `kept`


class Decoded(NamedTuple):
    """What became of files.

    Attributes:
        pixels: uint8 `[K, C, H, W]`, memory-mapped: the good files in the order of their names.
        bad: The others, each with what is wrong with it.
        digests: int64 `[K]`, what stands for each good file's content.
    """

    pixels: Tensor
    bad: dict[str, str]
    digests: Tensor


def decoded(folder: Path, names: Sequence[str], form: Form) -> Decoded:
    """Return the pixels of image files, decoding them if no run has done so before.

    Args:
        folder: Where the files are.
        names: Their paths within the folder.
        form: What is made of each.

    Raises:
        UserError: if a file can't be read or is smaller than `crop`, or if the cache can't be written.
    """
    return kept(file_key(folder, names, form), len(names), form, lambda out: decode_files(out, folder, names, form))


def kept(key: str, count: int, form: Form, build: Build) -> Decoded:
    """Return an entry, building it if it is not there.

    Args:
        key: Its name.
        count: Images, at most.
        form: What is made of each.
        build: Writes the good images' pixels to a file, and returns the bad ones, and the good ones' digests.

    Raises:
        UserError: if the cache can't be written, or as `build` does.
    """
    require(form.bytes, f"an image of {form.height} x {form.width} pixels", "choose a smaller data.size")
    stem = cache_folder() / key
    entry = _read(stem)
    if entry is None:
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(stem.with_suffix(".lock")):  # of many ranks one decodes, the others wait and read
                entry = _read(stem)
                if entry is None:
                    _build(stem, form, build)
                    entry = _read(stem)
        except OSError as error:
            need = count * form.bytes / 1e6
            raise UserError(
                f"the decoded images can't be written to {stem.parent} ({error.strerror or error}): make room for "
                f"{need:,.0f} MB there, or set VAE_ZOO_CACHE to another folder"
            ) from None
    assert entry is not None
    return entry


def file_key(folder: Path, names: Sequence[str], form: Form | None) -> str:
    """Return what an entry is called: by its files, and by what is made of them, None where that is nothing."""
    digest = hashlib.sha256(json.dumps([VERSION, form]).encode())
    for name in names:
        try:
            stat = os.stat(folder / name)
        except OSError as error:
            raise UserError(f"{folder / name} can't be read: {error.strerror}") from None
        digest.update(f"\n{name}\0{stat.st_size}\0{stat.st_mtime_ns}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _read(stem: Path) -> Decoded | None:
    """Return a whole entry, or None for one that is absent or damaged."""
    file = stem.with_suffix(".u8")
    try:
        header = json.loads(stem.with_suffix(".json").read_text())
        shape, bad = header["shape"], header["bad"]
        length = math.prod(shape)
        if file.stat().st_size != length:
            return None
        digests = read_digests(stem.with_suffix(".digests"), shape[0])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if digests is None:
        return None
    if not length:
        return Decoded(torch.empty(shape, dtype=torch.uint8), bad, digests)
    # A private map: read page by page on demand, and what a caller might write into it never reaches the file.
    pixels = torch.from_file(str(file), shared=False, size=length, dtype=torch.uint8).view(shape)
    return Decoded(pixels, bad, digests)


def read_digests(file: Path, count: int) -> Tensor | None:
    """Return int64 `[count]`, or None for a file that is absent or damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    return torch.from_numpy(np.frombuffer(content, np.int64).copy()) if len(content) == 8 * count else None


def _build(stem: Path, form: Form, build: Build) -> None:
    partial = stem.with_suffix(".partial")
    try:
        partial.write_bytes(b"")  # one of a build that was killed may be there
        bad, digests = build(partial)
        partial.replace(stem.with_suffix(".u8"))
        partial.write_bytes(np.array(digests, np.int64).tobytes())
        partial.replace(stem.with_suffix(".digests"))
        shape = [len(digests), form.channels, form.height, form.width]
        partial.write_text(json.dumps({"shape": shape, "bad": bad}))
        partial.replace(stem.with_suffix(".json"))
    finally:
        partial.unlink(missing_ok=True)

"""Image files, decoded once into a memory map that all runs and processes share.

A cache entry is three files: `<key>.u8` holds the pixels, `<key>.digests` what stands for each file's content, and
`<key>.json` the pixels' shape, their checksums and the files that were bad. The key is made of the files' names, sizes
and times and of everything that decides what is made of them; the header is written last, so that an entry is whole if
its header exists.

At each start the files' contents are held against their digests, and the pixels against their checksums: all of them
where that takes a moment, or with `verify`; else as many as that, evenly spaced. What differs is decoded anew.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, InstanceOf, NonNegativeInt
from torch import Tensor

from zoo.data.decode import Form, digest, size_of
from zoo.data.workers import decode_files
from zoo.errors import UserError, warn
from zoo.files import parse_json
from zoo.memory import require

VERSION = 2  # to be raised when the same files come to give other pixels
MOST_FILES, MOST_BYTES, CHUNK = 5000, 200 * 2**20, 2**20  # that are checked at each start, and by one checksum


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


def decoded(folder: Path, names: Sequence[str], form: Form, verify: bool = False) -> Decoded:
    """Return the pixels of image files, decoding them if no run has done so before, or if they have changed since.

    Args:
        folder: Where the files are.
        names: Their paths within the folder.
        form: What is made of each.
        verify: Check all contents, however long it takes.

    Raises:
        UserError: if a file can't be read or is smaller than `crop`, or if the cache can't be written.
    """
    key = file_key(folder, names, form)
    build = partial(decode_files, folder=folder, names=names, form=form)
    entry = kept(key, names, form, build, verify)
    good = [name for name in names if name not in entry.bad]
    if other := _changed(folder, good, entry.digests, verify):
        warn(f"{other} holds another picture than was decoded, with the same size and time: all are decoded anew")
        _remove(cache_folder() / key)
        entry = kept(key, names, form, build, verify)
    return entry


def _changed(folder: Path, names: Sequence[str], digests: Tensor, verify: bool) -> str:
    """Return a file whose content is not what it was when it was decoded; "" if none of those looked at is."""
    few = len(names) if verify else min(len(names), MOST_FILES)
    read = 0
    for i in range(few):
        at = i * len(names) // few
        path = folder / names[at]
        with open(path, "rb") as stream:
            if digest(stream) != digests[at].item():
                return str(path)
            read += stream.tell()
        if read > MOST_BYTES and not verify:
            break
    return ""


def kept(key: str, names: Sequence[str], form: Form, build: Build, verify: bool = False) -> Decoded:
    """Return an entry, building it if it is not there.

    Args:
        key: Its name.
        names: Of all images, good or bad.
        form: What is made of each.
        build: Writes the good images' pixels to a file, and returns the bad ones, and the good ones' digests.
        verify: Check all checksums, however long it takes.

    Raises:
        UserError: if the cache can't be written, or as `build` does.
    """
    require(form.bytes, f"an image of {form.height} x {form.width} pixels", "choose a smaller data.size")
    stem = cache_folder() / key
    entry = _read(stem, names, form, verify)
    if entry is None:
        try:
            stem.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(stem.with_suffix(".lock")):  # of many ranks one decodes, the others wait and read
                entry = _read(stem, names, form, verify)
                if entry is None:
                    _build(stem, form, build)
                    entry = _read(stem, names, form, verify)
        except OSError as error:
            need = len(names) * form.bytes / 1e6
            raise UserError(
                f"the decoded images can't be written to {stem.parent} ({error.strerror or error}): make room for "
                f"{need:,.0f} MB there, or set VAE_ZOO_CACHE to another folder"
            ) from None
    assert entry is not None
    return entry


def file_key(folder: Path, names: Sequence[str], form: Form | None) -> str:
    """Return what an entry is called: by its files, and by what is made of them, None where that is nothing."""
    above = f"{folder}{os.sep}"
    parts = [json.dumps([VERSION, form])]
    for name in names:
        try:
            stat = os.stat(above + name)
        except OSError as error:
            raise UserError(f"{above}{name} can't be read: {error.strerror}") from None
        parts.append(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]


class _Header(BaseModel):
    """What an entry says of itself: it may be damaged, as any file may."""

    model_config = ConfigDict(strict=True)

    shape: list[NonNegativeInt]
    bad: dict[InstanceOf[str], InstanceOf[str]]  # a file's name may be no UTF-8, which pydantic's own strings must be
    checksums: list[int]

    def fits(self, names: Sequence[str], form: Form) -> bool:
        """Say whether it is of these images, in this form."""
        right = [len(names) - len(self.bad), form.channels, form.height, form.width]
        chunks = math.ceil(math.prod(right) / CHUNK)
        return self.shape == right and len(self.checksums) == chunks and self.bad.keys() <= set(names)


def _read(stem: Path, names: Sequence[str], form: Form, verify: bool) -> Decoded | None:
    """Return a whole entry, or None for one that is absent or damaged."""
    file, head = stem.with_suffix(".u8"), stem.with_suffix(".json")
    try:
        size_of(head)
        header = _Header.model_validate(parse_json(head.read_bytes(), str(head)))
        shape, bad = header.shape, header.bad
        length = math.prod(shape)
        if not header.fits(names, form) or size_of(file) != length:
            return None
        if not _holds(file, header.checksums, verify):
            warn(f"the decoded images in {file} are damaged, and decoded anew")
            return None
        digests = read_digests(stem.with_suffix(".digests"), shape[0])
    except (OSError, ValueError):
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
        if size_of(file) != 8 * count:
            return None
        return torch.from_numpy(np.fromfile(file, np.int64))
    except OSError:
        return None


def _checksums(file: Path) -> list[int]:
    """Return a checksum of each `CHUNK` bytes of a file."""
    with open(file, "rb") as stream:
        return [zlib.crc32(part) for part in iter(partial(stream.read, CHUNK), b"")]


def _holds(file: Path, checksums: Sequence[int], verify: bool) -> bool:
    """Say whether a file has these checksums: all of it, or `MOST_BYTES` evenly spaced."""
    few = len(checksums) if verify else min(len(checksums), MOST_BYTES // CHUNK)
    with open(file, "rb") as stream:
        for i in range(few):
            at = i * len(checksums) // few
            stream.seek(at * CHUNK)
            if zlib.crc32(stream.read(CHUNK)) != checksums[at]:
                return False
    return True


def _remove(stem: Path) -> None:
    for ending in (".json", ".u8", ".digests", ".lock"):  # the header first: then there is no entry
        stem.with_suffix(ending).unlink(missing_ok=True)


def _build(stem: Path, form: Form, build: Build) -> None:
    unfinished = stem.with_suffix(".partial")
    try:
        unfinished.unlink(missing_ok=True)  # one of a build that was killed may be there
        unfinished.write_bytes(b"")
        bad, digests = build(unfinished)
        checksums = _checksums(unfinished)
        unfinished.replace(stem.with_suffix(".u8"))
        unfinished.write_bytes(np.array(digests, np.int64).tobytes())
        unfinished.replace(stem.with_suffix(".digests"))
        shape = [len(digests), form.channels, form.height, form.width]
        unfinished.write_text(json.dumps({"shape": shape, "bad": bad, "checksums": checksums}))
        unfinished.replace(stem.with_suffix(".json"))
    finally:
        unfinished.unlink(missing_ok=True)

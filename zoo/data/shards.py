"""Shards, .tar files of pictures as webdataset has them: read where they lie, for sets that no disk holds twice."""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tqdm import tqdm

from zoo.data import decode
from zoo.data.cache import cache_folder, file_key
from zoo.data.digests import Files
from zoo.data.files import ImageFiles
from zoo.data.folder import DEFAULT_SIZE, Fit, warn_of_twins
from zoo.data.layout import CLASS_NUMBER, MOST_CLASSES, SPLITS
from zoo.data.pixels import Size, sides
from zoo.data.source import Images, Source, register_dataset
from zoo.errors import UserError

LONGEST = 32  # bytes of a number with the blanks around it
COLUMNS = ("shard", "offset", "length", "digest", "label")  # of an index; a label of -1 is none


class ShardImages(ImageFiles):
    """Pictures within .tar files.

    Args:
        shards: The files.
        index: int64 `[N, 5]`, a row of `COLUMNS` for each picture.
        names: What they are called.
        form: What is made of each.
    """

    advice = "make its shard anew without it"

    def __init__(self, shards: list[Path], index: np.ndarray, names: list[str], form: decode.Form) -> None:
        super().__init__(Path(), names, form)
        self.shards = shards
        self.index = index

    def content(self, row: int) -> bytes:
        """Return a picture's bytes."""
        shard, offset, length = self.index[row, :3].tolist()
        decode.check_size(length)
        with self.shards[shard].open("rb") as file:
            file.seek(offset)
            return file.read(length)


@register_dataset("shards", "webdataset's .tar files of pictures in data.root, read where they lie")
def shards(
    root: Path, size: Size | None, limit: int | None, *, channels: Literal[1, 3] = 3, fit: Fit = "crop"
) -> Source:
    """Pictures in the .tar files of `data.root` and its subfolders; a member KEY.cls holds the class of KEY.jpg.

    Where all files, or the folders they are in, are called train…, test…, val… and so on, these are official splits.
    The shards are looked through once, and where each picture lies is kept in the cache's folder; each batch is decoded
    anew. Pictures are drawn from all shards, and a resumed run repeats none. `channels` and `fit` are those of
    `image_folder`; a damaged picture ends the run that meets it.
    """
    files = sorted(root.rglob("*.tar"))
    if not files:
        raise UserError(f"no file in {root.absolute()} or its subfolders ends in .tar (gunzip what ends in .tar.gz)")
    names, index = _index(root, files)
    if not names:
        raise UserError(f"the .tar files in {root.absolute()} hold no picture: {', '.join(decode.ENDINGS)}")
    form = decode.Form(*sides(size or DEFAULT_SIZE), channels, None, fit)
    labels = torch.from_numpy(index[:, 4].copy())
    known = bool((labels >= 0).all())
    everything = Images(
        ShardImages(files, index, names, form),
        labels if known else None,
        mapped=True,
        files=Files(names, torch.from_numpy(index[:, 3].copy())),
    )
    roles = [_role(root, file) for file in files]
    if None in roles:
        roles = ["train"] * len(files)
    splits = {}
    for role in set(roles):
        of_role = [i for i, each in enumerate(roles) if each == role]
        splits[str(role)] = everything.subset(torch.from_numpy(np.flatnonzero(np.isin(index[:, 0], of_role))[:limit]))
    if "train" not in splits:
        raise UserError(f"the .tar files in {root.absolute()} are called {', '.join(sorted(splits))}, and none train")
    warn_of_twins(splits)
    classes = tuple(map(str, range(int(labels.max()) + 1))) if known else ()
    return Source(splits["train"], splits.get("test"), splits.get("val"), classes, title=root.resolve().name)


def _role(root: Path, file: Path) -> str | None:
    """Return which split a file's own name begins with, or else its folder's."""
    for part in reversed(file.relative_to(root).parts):
        if role := SPLITS.get((re.match("[a-z]*", part.casefold()) or [""])[0]):
            return role
    return None


def _index(root: Path, files: list[Path]) -> tuple[list[str], np.ndarray]:
    """Return the pictures' names and where they lie, from the cache's folder or else from the files."""
    kept = cache_folder() / f"{file_key(root, [file.relative_to(root).as_posix() for file in files], None)}.npz"
    # A damaged file is one of many errors, and read anew.
    with suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        decode.size_of(kept)
        with np.load(kept) as stored:
            known, index = stored["names"], stored["index"]
        whole = known.dtype.kind == "U" and index.dtype == np.int64 and index.shape == (len(known), len(COLUMNS))
        if whole and _possible(index, len(files)):
            return known.tolist(), index
    names: list[str] = []
    rows: list[list[int]] = []
    for number, file in enumerate(tqdm(files, f"reading {root.name}", unit=" shards", disable=None)):
        try:
            decode.size_of(file)
            with tarfile.open(file, "r:") as tar:
                found = dict(_members(tar, number, file))
        except UserError:
            raise
        except (OSError, tarfile.TarError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(f"{file.absolute()} can't be read as an uncompressed .tar ({why})") from None
        names += [f"{file.relative_to(root).as_posix()}/{name}" for name in found]
        rows += found.values()
    index = np.array(rows, np.int64).reshape(-1, len(COLUMNS))
    with suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_suffix(f".{os.getpid()}.npz")
        np.savez_compressed(partial, names=np.array(names), index=index)
        partial.replace(kept)
    return names, index


def _possible(index: np.ndarray, shards: int) -> bool:
    """Say whether an index can be of so many shards."""
    shard, offset, length, _, label = index.T
    places = np.isin(shard, range(shards)) & (offset >= 0) & (length >= 0)
    return bool((places & (label >= -1) & (label < MOST_CLASSES)).all())


def _members(tar: tarfile.TarFile, number: int, file: Path) -> Iterable[tuple[str, list[int]]]:
    """Yield a shard's pictures: name, and row of the index.

    Raises:
        UserError: if a class is no number that there may be.
    """
    classes: dict[str, int] = {}
    pictures: dict[str, list[Any]] = {}
    for member in tar:
        folder, slash, name = member.name.rpartition("/")
        key = folder + slash + name.partition(".")[0]  # as webdataset has it: up to the first dot
        if not member.isreg() or member.issparse() or name.startswith("."):
            continue
        stream = tar.extractfile(member)
        assert stream is not None
        if member.name.lower().endswith(decode.ENDINGS):
            pictures[member.name] = [key, number, member.offset_data, member.size, decode.digest(stream)]  # type: ignore[arg-type]
        elif name.endswith(".cls"):
            text = stream.read(LONGEST)
            if not re.fullmatch(rb"\s*[0-9]+\s*", text) or int(text) >= MOST_CLASSES or stream.read(1):
                raise UserError(f"{file.absolute()}: {member.name} holds no {CLASS_NUMBER}")
            classes[key] = int(text)
    for name, (key, *row) in pictures.items():
        yield name, [*row, classes.get(key, -1)]

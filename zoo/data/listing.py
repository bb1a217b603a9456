"""Which files of a folder are pictures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo.data.decode import ENDINGS
from zoo.errors import UserError, warn

ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".7z", ".rar")
WHERE = " (data.root or DATA_ROOT says where to look)"


@dataclass(frozen=True)
class Found:
    """Paths within a folder, sorted.

    Attributes:
        names: Of the files whose names end like an image's.
        dangling: Of those that are links to nothing.
        others: Of all other files.
    """

    names: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)


def list_images(folder: Path, recursive: bool, advice: str = WHERE) -> Found:
    """Look through a folder.

    Hidden files and folders are passed over; a file that is linked to twice is listed once.

    Args:
        folder: Where to look.
        recursive: Whether to look into its subfolders, too.
        advice: What to say where there is nothing.

    Raises:
        UserError: if the folder is missing, can't be read, or has no image.
    """
    looked_for = f"{', '.join(ENDINGS)}{advice}"
    if not folder.is_dir():
        raise UserError(missing(folder) or f"there is no folder {folder.absolute()} to look in for {looked_for}")
    found = Found()
    seen = set()  # device and inode of each folder and file: links may lead in circles
    try:
        for at, folders, files in os.walk(folder, onerror=_raise, followlinks=True):
            here = os.stat(at)
            if (here.st_dev, here.st_ino) in seen:
                folders.clear()
                continue
            seen.add((here.st_dev, here.st_ino))
            folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
            # No Path for each of many thousand files: it takes longer than the disk.
            above = os.path.relpath(at, folder).replace(os.sep, "/")
            for name in sorted(files):
                if name.startswith("."):
                    continue
                path = name if above == "." else f"{above}/{name}"
                if not name.lower().endswith(ENDINGS):
                    found.others.append(path)
                    continue
                try:
                    file = os.stat(f"{at}{os.sep}{name}")
                except FileNotFoundError:
                    found.dangling.append(path)
                    continue
                if (file.st_dev, file.st_ino) not in seen:
                    seen.add((file.st_dev, file.st_ino))
                    found.names.append(path)
    except OSError as error:
        raise UserError(f"{error.filename} can't be read: {error.strerror}") from None
    if not found.names:
        within = " or its subfolders" if recursive else ""
        packed = [name for name in found.others if name.lower().endswith(ARCHIVES)]
        unpack = f"; it holds the archive {packed[0]}: unpack that first" if packed else ""
        raise UserError(f"no file in {folder.absolute()}{within} ends in {looked_for}{unpack}")
    for paths in (found.names, found.dangling, found.others):
        paths.sort()
    return found


def missing(folder: Path) -> str:
    """Say what to do about an archive where a folder is wanted; "" if there is none."""
    for archive in (folder, *(folder.with_name(folder.name + ending) for ending in ARCHIVES)):
        if archive.is_file() and archive.name.lower().endswith(ARCHIVES):
            return f"{archive.absolute()} is an archive: unpack it, and set data.root to the folder that comes out"
    return ""


def warn_of_others(folder: Path, others: Sequence[str], images: int) -> None:
    """Say which files are passed over, if any."""
    if others:
        endings = Counter(os.path.splitext(name)[1].lower() or "without an ending" for name in others)
        kinds = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common(5))
        count = f"{len(others):,} of {len(others) + images:,} files in {folder}"
        warn(f"{count} don't end like an image's and are passed over: {kinds} ({shown(others)})")


def shown(names: Sequence[str]) -> str:
    """Return the first three of some names."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _raise(error: OSError) -> None:
    raise error

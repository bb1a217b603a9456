"""What lies in the cache of decoded images and reference features, and how to make room: `run.py cache`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from zoo.data.cache import cache_folder
from zoo.errors import UserError

UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class CacheEntry:
    """Files of one name.

    Attributes:
        name: Without an ending, within the cache's folder.
        files: Its files.
        size: Bytes.
        used: When one was last read or written, seconds since 1970.
    """

    name: str
    files: tuple[Path, ...]
    size: int
    used: float


def entries(folder: Path) -> list[CacheEntry]:
    """Return all entries, the one that was used last first."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        if path.is_file() and not path.is_symlink():
            files.setdefault(str(path.relative_to(folder).with_suffix("")), []).append(path)
    found = []
    for name, group in files.items():
        stats = [path.stat() for path in group]
        used = max(max(stat.st_atime, stat.st_mtime) for stat in stats)
        found.append(CacheEntry(name, tuple(group), sum(stat.st_size for stat in stats), used))
    return sorted(found, key=lambda entry: -entry.used)


def to_remove(found: Sequence[CacheEntry], names: Sequence[str], keep: str | None) -> list[CacheEntry]:
    """Return the entries that go: those named, or those used longest ago until the others fit into `keep`.

    Raises:
        UserError: if a name or a size is none.
    """
    known = {entry.name: entry for entry in found}
    if unknown := [name for name in names if name not in known]:
        raise UserError(f"the cache has no entry {unknown[0]!r}: `run.py cache` lists them")
    gone = [known[name] for name in names]
    if keep is not None:
        most = size_of(keep)
        room = 0
        for entry in found:
            room += entry.size
            if room > most and entry not in gone:
                gone.append(entry)
    return gone


def size_of(text: str) -> int:
    """Return the bytes of "500M", "2G".

    Raises:
        UserError: if it is no such size.
    """
    if not (match := re.fullmatch(r"(\d{1,6}(?:\.\d{1,3})?)([kMGT]?)B?", text)):
        raise UserError(f"{text!r} is no size: write 500M, or 2G")
    return int(float(match[1]) * UNITS[match[2]])


def show(names: Sequence[str] = (), keep: str | None = None) -> str:
    """List the cache, after removing what is to go.

    Args:
        names: Entries to remove.
        keep: How much may stay, such as "2G".
    """
    folder = cache_folder()
    found = entries(folder)
    gone = to_remove(found, names, keep)
    for entry in gone:
        for path in sorted(entry.files, key=lambda path: path.suffix != ".json"):  # without its header it is no entry
            path.unlink(missing_ok=True)
    lines = [f"removed {entry.name}, {entry.size / 1e6:,.1f} MB" for entry in gone]
    for entry in found:
        if entry not in gone:
            used = datetime.fromtimestamp(entry.used).strftime("%Y-%m-%d %H:%M")
            lines.append(f"{entry.size / 1e6:>10,.1f} MB  used {used}  {entry.name}")
    total = sum(entry.size for entry in found if entry not in gone)
    return "\n".join([*lines, f"{len(found) - len(gone)} entries, {total / 1e6:,.1f} MB in {folder}"])

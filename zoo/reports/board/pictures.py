"""What a row shows beside its numbers: links to its configs, and its pictures, made small."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from zoo.files import CONFIG_FILE
from zoo.reports.board.rows import Board, Row

PICTURES = {"samples": "generated_samples", "reconstructions": "reconstructions"}
FORMATS = {".png": "PNG", ".webp": "WEBP"}  # what a run writes, and what is published of colours
PICTURE_BYTES, PAGE_BYTES = 12_000, 360_000  # one picture's, and all of a page's: one of fifty rows stays below 1 MB
SIDES = (48, 800)  # of an embedded picture, pixels
PIXELS_PER_BYTE = 20  # of a sheet of digits as WEBP, about
QUALITY = 50
# What Pillow raises for a file that is no picture, or would be too large a one.
PICTURE_FAULTS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def add_files(boards: Sequence[Board], out: Path) -> list[str]:
    """Give each row its links, relative to `out`, and its pictures; return a sentence about each that is missing."""
    rows = [row for board in boards for row in board.rows]
    most = min(PICTURE_BYTES, PAGE_BYTES // (len(rows) * len(PICTURES)))
    for row in rows:
        row.links = {run.results.seed: link(run.folder / CONFIG_FILE, out) for run in row.runs}
        row.folder = link(row.runs[0].folder, Path.cwd())
    with ThreadPoolExecutor() as threads:  # Pillow lets others work while it encodes
        return [
            problem for found in threads.map(lambda row: list(_add_pictures(row, most, out)), rows) for problem in found
        ]


def _add_pictures(row: Row, most: int, out: Path) -> Iterator[str]:
    for kind, name in PICTURES.items():
        path = picture_file(row.runs[0].folder, name)
        try:
            row.pictures[kind] = embed(path, most)
            row.files[kind] = link(path, out)
        except PICTURE_FAULTS as error:
            why = "is missing" if isinstance(error, FileNotFoundError) else "is not a whole picture"
            yield f"{path} {why}: its row goes without"


def picture_file(folder: Path, name: str) -> Path:
    """Return where a run's picture lies, or would lie."""
    return next((path for ending in FORMATS if (path := folder / f"{name}{ending}").exists()), folder / f"{name}.png")


def link(path: Path, out: Path) -> str:
    """Return the URL of a file as seen from the folder `out`."""
    return quote(os.path.relpath(path, out).replace(os.sep, "/"), errors="surrogateescape")


def embed(path: Path, most: int = PICTURE_BYTES) -> str:
    """Return a picture as a data URI of about `most` bytes."""
    with Image.open(path, formats=list(FORMATS.values())) as opened:
        picture = opened.convert("RGB")
    side = min(SIDES[1], math.isqrt(most * PIXELS_PER_BYTE))
    while True:  # each picture is encoded once or twice
        side = max(SIDES[0], side)
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, "WEBP", quality=QUALITY)
        if buffer.tell() <= most or side == SIDES[0]:
            break
        side = math.floor(side * min(0.8, math.sqrt(most / buffer.tell())))
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()

"""How fast photographs are decoded into the cache: `python -m benchmarks.speed.decoding`.

By one process, and on all cores.

Cores of a shared machine rarely give what their number promises, so a third way tells what they do give: as many
processes as cores, each with its share of the files and nothing in common with the others. All of them are the cache's
workers, and write to files that are thrown away. (This process itself is up to a fifth faster or slower by chance:
libjpeg-turbo stores past the processor's caches where Pillow's buffer for a line happens to begin at a multiple of 32
bytes, Pillow reads the line again at once, and where the buffer lies differs from process to process.)

Each round decodes the photographs four times over, so that starting processes weighs little, and every other round goes
backwards. What counts is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import NamedTemporaryFile

from zoo.data import decode
from zoo.data.celeba import find_photographs
from zoo.data.listing import list_images
from zoo.data.workers import BLOCK, cores, decode_all
from zoo.errors import UserError

REPEATED = 4
FORM = decode.Form(64, 64)


def together(files: list[str]) -> float:
    """Return the seconds in which the cache decodes all files on all cores and writes them out."""
    start = time.perf_counter()
    with NamedTemporaryFile() as out:
        for _ in decode_all(files, Path(out.name), FORM, cores()):
            pass
    return time.perf_counter() - start


def apart(files: list[str], processes: int) -> float:
    """Return the seconds in which so many workers, each for itself, decode all files and write them out."""
    blocks = [files[i : i + BLOCK] for i in range(0, len(files), BLOCK)]
    with ExitStack() as stack:
        asked, written = ([stack.enter_context(NamedTemporaryFile()) for _ in range(processes)] for _ in range(2))
        for i, (file, out) in enumerate(zip(asked, written, strict=True)):
            for n, block in enumerate(blocks[i::processes]):
                file.write(json.dumps([out.name, n * BLOCK * FORM.bytes, block, FORM]).encode() + b"\n")
            file.seek(0)
        start = time.perf_counter()
        workers = [
            stack.enter_context(
                subprocess.Popen([sys.executable, decode.__file__], stdin=questions, stdout=subprocess.DEVNULL)
            )
            for questions in asked
        ]
        failed = any(worker.wait() for worker in workers)
        seconds = time.perf_counter() - start
        if (
            failed or sum(os.path.getsize(out.name) for out in written) != len(files) * FORM.bytes
        ):  # else it counted as fast
            raise RuntimeError("a process that decoded images failed or was killed: this is no measurement")
        return seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; exit code 2 where there are no photographs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed.decoding", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="(default %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        folder = find_photographs(Path(os.environ.get("DATA_ROOT", "data")))
        files = [str(folder / name) for name in list_images(folder, recursive=False).names] * REPEATED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    ways = {
        "one process": lambda: apart(files, 1),
        f"{cores()} processes that share nothing": lambda: apart(files, cores()),
        f"the cache, {cores()} processes": lambda: together(files),
    }
    together(files)  # reads the files into the system's cache
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for i in range(arguments.rounds):
        for name in list(ways)[:: -1 if i % 2 else 1]:
            seconds[name].append(ways[name]())
    for name, times in seconds.items():
        faster = median(one / own for one, own in zip(seconds["one process"], times, strict=True))
        print(f"  {name:<32} {len(files) / median(times):>8,.0f} images/s {faster:>6.2f} x one process")
    return 0


if __name__ == "__main__":
    sys.exit(main())

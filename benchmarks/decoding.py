"""How fast photographs are decoded into the cache, by one process and on all cores: `python -m benchmarks.decoding`.

Each round decodes them eight times over, so that starting processes weighs little, as in a set of CelebA's size, into a
file that is thrown away. In turns, some rounds of each; what counts is the median of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryFile

from zoo.data.cache import cores, decode_all
from zoo.data.celeba import find_photographs
from zoo.data.folder import list_images
from zoo.errors import UserError

REPEATED = 8


def seconds(files: list[str], processes: int) -> float:
    """Decode all files to 64 pixels and write them out."""
    start = time.perf_counter()
    with TemporaryFile() as out:
        for pixels, _ in decode_all(files, 64, 3, None, processes):
            out.write(pixels)
    return time.perf_counter() - start


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; exit code 2 where there are no photographs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoding", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="(default %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        folder = find_photographs(Path(os.environ.get("DATA_ROOT", "data")))
        files = [str(folder / name) for name in list_images(folder, recursive=False)] * REPEATED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    seconds(files, cores())  # reads the files into the system's cache
    rounds = [(seconds(files, 1), seconds(files, cores())) for _ in range(arguments.rounds)]
    for name, times in zip(("one process", f"{cores()} processes"), zip(*rounds, strict=True), strict=True):
        print(f"  {name:<12} {len(files) / median(times):>8,.0f} images/s")
    print(f"  faster by    {median(one / many for one, many in rounds):>8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

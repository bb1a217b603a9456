"""Copy finished runs, small enough to commit: `python -m benchmarks.publish runs/zoo benchmarks/results/zoo`.

Of each run: config, results, and of each config's first seed the pictures that a leaderboard shows, in few colours. The
leaderboard is then written from the copies, so that whoever has them can write it again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml
from PIL import Image

from zoo.config import read_yaml
from zoo.errors import UserError
from zoo.files import CONFIG_FILE, RESULTS_FILE
from zoo.reports import leaderboard
from zoo.reports.board.pictures import PICTURES
from zoo.reports.board.reading import build_boards, find_runs
from zoo.reports.reference import Run

PICTURE_SIDE = 560  # pixels
COLOURS = 16


def publish(source: Path, out: Path) -> int:
    """Copy the runs below `source` to `out/runs`, replacing what is there.

    Returns:
        How many.

    Raises:
        UserError: if there is no finished run, or a run was made from code that was not committed.
    """
    runs, _ = find_runs(source)
    for run in runs:
        if run.results.commit.endswith("-dirty"):
            raise UserError(f"{run.folder} was made from code that is not committed: {run.results.commit}")
    shutil.rmtree(out / "runs", ignore_errors=True)
    for board in build_boards(runs, []):
        for row in board.rows:
            for run in row.runs:
                _copy(run, out / "runs" / run.folder.name, with_pictures=run is row.runs[0])
    return len(runs)


def _copy(run: Run, folder: Path, with_pictures: bool) -> None:
    folder.mkdir(parents=True)
    config = read_yaml(run.folder / CONFIG_FILE)
    config["data"]["root"] = None  # where the data lies is nobody else's business
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(config, sort_keys=False))
    results = json.loads((run.folder / RESULTS_FILE).read_text())
    (folder / RESULTS_FILE).write_text(json.dumps(results, indent=1) + "\n")
    for name in PICTURES.values() if with_pictures else ():
        with Image.open(run.folder / name, formats=("PNG",)) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
        picture.quantize(COLOURS).save(folder / name, optimize=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Copy, and write the leaderboard beside the copies."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.publish", description="Copy finished runs, small enough to commit."
    )
    parser.add_argument("source", type=Path, help="a suite's folder, such as runs/zoo")
    parser.add_argument("out", type=Path, help="where the copies and the leaderboard go")
    arguments = parser.parse_args(argv)
    try:
        count = publish(arguments.source, arguments.out)
        print(f"{count} runs in {arguments.out / 'runs'}")
        leaderboard.write(arguments.out / "runs", arguments.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Copy finished runs, small enough to commit: `python -m benchmarks.publish runs/zoo benchmarks/results/zoo`.

Of each run: config, results, and of each config's first seed the pictures that a leaderboard shows, small, and without
the images of a data set whose terms forbid it. Published runs among them are taken as they are: a suite whose folder
holds them goes on with what they lack. The leaderboard is then written from the copies, so that whoever has them can
write it again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml
from PIL import Image

from zoo.config import read_yaml
from zoo.engine.checkpoint import load
from zoo.errors import UserError
from zoo.evaluation import data_of
from zoo.files import CONFIG_FILE, RESULTS_FILE
from zoo.pictures.of_models import reconstructions
from zoo.pictures.of_runs import first_batch
from zoo.reports import leaderboard
from zoo.reports.board.pictures import PICTURES, picture_file
from zoo.reports.board.reading import build_boards, find_runs
from zoo.reports.reference import Run

PICTURE_SIDE = 560  # pixels
GREYS, QUALITY = 16, 80  # of a picture without colours, a PNG; of one with them, a WebP
WITHHELD = ("celeba",)  # data sets whose own images are not to be handed on


def publish(source: Path, out: Path) -> int:
    """Copy the runs below `source` to `out/runs`, replacing what is there once all are copied.

    Returns:
        How many.

    Raises:
        UserError: if there is no finished run, or a run was made from code that was not committed.
    """
    runs, _ = find_runs(source)
    for run in runs:
        if run.results.commit.endswith("-dirty"):
            raise UserError(f"{run.folder} was made from code that is not committed: {run.results.commit}")
    folders: dict[str, Path] = {}
    for run in runs:
        if (other := folders.setdefault(run.folder.name, run.folder)) != run.folder:
            raise UserError(f"{other} and {run.folder} would be published in one folder: rename one of them")
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix=".runs") as temporary:  # what is there may be what is copied
        copies = Path(temporary) / "runs"
        for board in build_boards(runs, []):
            for row in board.rows:
                for run in row.runs:
                    _copy(run, copies / run.folder.name, with_pictures=run is row.runs[0])
        shutil.rmtree(out / "runs", ignore_errors=True)
        copies.rename(out / "runs")
    return len(runs)


def _copy(run: Run, folder: Path, with_pictures: bool) -> None:
    folder.mkdir(parents=True)
    config = read_yaml(run.folder / CONFIG_FILE)
    config["data"]["root"] = None  # where the data lies is nobody else's business
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(config, sort_keys=False))
    results = json.loads((run.folder / RESULTS_FILE).read_text())
    (folder / RESULTS_FILE).write_text(json.dumps(results, indent=1) + "\n")
    for name in PICTURES.values() if with_pictures else ():
        picture = picture_file(run.folder, name)
        if picture.suffix == ".webp":  # a run's own is a PNG: this one was published, and copied for a suite to go on
            shutil.copy(picture, folder)
        elif name == PICTURES["reconstructions"] and config["data"]["name"] in WITHHELD:
            with TemporaryDirectory() as temporary:
                _shrink(_without_originals(run.folder, Path(temporary)), folder, name)
        else:
            _shrink(picture, folder, name)


def _without_originals(run: Path, folder: Path) -> Path:
    """Draw a run's reconstructions, without the images that they are of."""
    model = load(run)
    _, data = data_of(run, model)
    reconstructions(model, first_batch(data.test, model, 60), folder / "r.png", originals=False)
    return folder / "r.png"


def _shrink(picture: Path, folder: Path, name: str) -> None:
    """Write a small copy of a PNG: a PNG in few greys, or a WebP in colour."""
    with Image.open(picture, formats=("PNG",)) as opened:
        pixels = opened.convert("RGB")
    pixels.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    red, green, blue = (np.asarray(pixels)[..., channel] for channel in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        pixels.quantize(GREYS).save(folder / f"{name}.png", optimize=True)
    else:
        pixels.save(folder / f"{name}.webp", quality=QUALITY)


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

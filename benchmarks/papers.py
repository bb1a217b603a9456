"""Keep the runs of papers' rows, and write README's table of them: `python -m benchmarks.papers runs/papers`.

Of each run: config, results, and the rows of its log that end an epoch. Without a folder the table alone is written.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from zoo.config import read_yaml
from zoo.errors import UserError
from zoo.files import CONFIG_FILE, METRICS_FILE, RESULTS_FILE, read_lines
from zoo.reports.papers import PUBLISHED, Attempt, attempts, names
from zoo.reports.reference import load_references, read_run

BEGIN, END = "<!-- written by `python -m benchmarks.papers` -->", "<!-- papers end -->"
LOGGED = ("step", "epoch", "train/epoch_loss", "val/loss")


def publish(source: Path) -> int:
    """Copy the finished runs below `source`, laid out as `<name>/seed<seed>`, over those of the same rows.

    Returns:
        How many.

    Raises:
        UserError: if a run was made from code that was not committed.
    """
    count = 0
    for name in names():
        finished = sorted(source.glob(f"{name}/seed*/{RESULTS_FILE}"))
        if finished:
            shutil.rmtree(PUBLISHED / name, ignore_errors=True)
        for path in finished:
            _copy(path.parent, PUBLISHED / name / path.parent.name)
            count += 1
    return count


def _copy(run: Path, folder: Path) -> None:
    commit = read_run(run).results.commit
    if commit.endswith("-dirty"):
        raise UserError(f"{run} was made from code that is not committed: {commit}")
    folder.mkdir(parents=True)
    config = read_yaml(run / CONFIG_FILE)
    config["out"] = None
    config["data"]["root"] = None  # where the data lies is nobody else's business
    (folder / CONFIG_FILE).write_text(yaml.safe_dump(config, sort_keys=False))
    results = re.sub(r"(?<=--config )\S*/configs/", "configs/", (run / RESULTS_FILE).read_text())  # nor is the project
    (folder / RESULTS_FILE).write_text(json.dumps(json.loads(results), indent=1) + "\n")
    rows = [json.loads(line) for line in read_lines(run / METRICS_FILE)]
    kept = [
        {key: row[key] for key in LOGGED if key in row} for row in rows if {"val/loss", "train/epoch_loss"} & row.keys()
    ]
    (folder / METRICS_FILE).write_text("".join(json.dumps(row) + "\n" for row in kept))


def section() -> str:
    """Return README's table: every row that was tried, and how many are within what is allowed."""
    references = load_references()
    found = [attempt for name in names() for attempt in attempts(name, [PUBLISHED], references)]
    tried = [attempt for attempt in found if attempt.verdict != "not run"]
    within = [attempt for attempt in tried if attempt.verdict == "within"]
    sources = {attempt.reference.table.source for attempt in tried}
    lines = [
        f"{len(within)} of {len(tried)} published numbers, from {len(sources)} sources, came out within 1 % or "
        "the published spread, whichever is larger (the notebook's losses: 1.5 %).",
        "",
        "| row | source | metric | published | obtained | difference | verdict |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_line(attempt) for attempt in tried),
        "",
        _untried([attempt.name for attempt in found if attempt.verdict == "not run"]),
    ]
    return "\n".join(lines).rstrip()


def _line(attempt: Attempt) -> str:
    table = attempt.reference.table
    row = f"[`{attempt.name}`](configs/papers/{attempt.name}.yaml)"
    return f"| {' | '.join([row, table.source.split(',')[0], f'`{table.metric}`', *attempt.cells])} |"


def _untried(rows: Sequence[str]) -> str:
    return f"Not run yet: {', '.join(f'`{name}`' for name in dict.fromkeys(rows))}." if rows else ""


def with_section(readme: str) -> str:
    """Return README with the table put between its marks."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n\n{section()}\n\n{END}{rest.split(END)[1]}"


def main(argv: Sequence[str] | None = None) -> int:
    """Copy, and write the table into README."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.papers", description=(__doc__ or "").split(":")[0] + "."
    )
    parser.add_argument("source", type=Path, nargs="?", help="where `run.py papers NAME` left its runs: runs/papers")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    arguments = parser.parse_args(argv)
    try:
        if arguments.source is not None:
            print(f"{publish(arguments.source)} runs in {PUBLISHED}")
        text = with_section(arguments.readme.read_text(encoding="utf-8"))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    arguments.readme.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""From folders to boards: finished runs are found, and grouped into rows by config, and into boards by their images."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from zoo.errors import UserError
from zoo.files import CONFIG_FILE, RESULTS_FILE
from zoo.records import Metric
from zoo.reports.board.rows import Board, Cell, Column, Row, processes, short
from zoo.reports.board.statistics import not_shown_worse
from zoo.reports.reference import Reference, Run, compare_all, read_run
from zoo.texts import printable

SYMBOLS = {"beta": "β"}
# What provenance leaves out of the config's hash, and what only decides where things are written.
NO_DIFFERENCE = (
    *("out", "title", "seed", "device", "threads", "trackers", "wandb", "keep", "plugins", "benchmark"),
    *("data.root", "data.title"),
)
# Settings of the data that change what is trained on, not what is measured.
TRAINING_ONLY = (
    "data.name",
    "data.root",
    "data.title",
    "data.balance",
    "data.range",
    "data.flip",
    "data.random_crop",
    "data.dequantise",
    "data.size",
)


Digests = dict[tuple[str, tuple[int, ...]], set[str]]  # by the data's name and the images' shape


def find_runs(root: Path) -> tuple[list[Run], list[str]]:
    """Return the finished runs below a folder, and a sentence about each folder that can't be used.

    Raises:
        UserError: if there is no such folder, or no finished run in it.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")
    found, problems = [], []
    for folder in _run_folders(root):
        try:
            found.append(read_run(folder))
        except UserError as error:
            problems.append(str(error))
    runs: dict[tuple[str, ...], Run] = {}
    digests = digests_of(found)
    for run in found:
        key = (*row_key(run, digests), str(run.results.seed))
        if twin := runs.get(key):
            newer, older = sorted((run, twin), key=lambda r: (r.folder / RESULTS_FILE).stat().st_mtime, reverse=True)
            problems.append(f"{older.folder} repeats {newer.folder}, which is newer: same config, same seed")
            run = newer
        runs[key] = run
    if not runs:
        raise UserError("; ".join([f"no finished run in {root}", *problems]))
    return list(runs.values()), problems


def row_key(run: Run, digests: Digests) -> tuple[str, ...]:
    """Return what a run has in common with its repeats by other seeds, and with no other."""
    return run.results.variant, run.results.dataset, _content(run, digests), run.results.config_hash


def _run_folders(root: Path) -> Iterator[Path]:
    """Yield folders that hold a run; what lies inside a run (checkpoints, a tracker's files) is its own."""
    for folder, subfolders, files in os.walk(root):
        if RESULTS_FILE in files or CONFIG_FILE in files:
            subfolders.clear()
            yield Path(folder)
        subfolders.sort()


def build_boards(runs: Iterable[Run], references: Sequence[Reference]) -> list[Board]:
    """Group runs into boards and rows, and mark each column's best."""
    boards: dict[tuple[Any, ...], dict[tuple[str, str], list[Run]]] = {}
    runs = sorted(runs, key=lambda run: run.results.seed)
    digests = digests_of(runs)
    for run in runs:
        results = run.results
        measured_on = {k: v for k, v in run.config.items() if k.startswith("data.") and k not in TRAINING_ONLY}
        if measured_on.get("data.binarize") == "none":  # as are the runs from before there was a choice
            del measured_on["data.binarize"]
        board_key = (results.dataset, results.image, json.dumps(measured_on, sort_keys=True), _content(run, digests))
        rows = boards.setdefault(board_key, {})
        rows.setdefault((results.variant, results.config_hash), []).append(run)

    built = []
    for (dataset, image, _, content), groups in sorted(boards.items()):
        rows_ = [Row(group, compare_all(references, group)) for group in groups.values()]
        title = f"{dataset}, {' × '.join(map(str, image))}"
        if len({key[3] for key in boards if key[:2] == (dataset, image)}) > 1:
            title += f", content {content or 'unknown'}"  # two data sets of one name
        built.append(Board(dataset, title, rows_))
    for _, group in groupby(built, key=lambda board: board.title):
        twins = list(group)
        for board, options in zip(twins, _differences([b.rows[0].runs[0] for b in twins], "data."), strict=True):
            board.title += f" ({options})" if options else ""
    for board in built:
        _fill(board)
    return built


def digests_of(runs: Iterable[Run]) -> Digests:
    """Return the digests of the data that bear one name and size."""
    digests: Digests = {}
    for run in runs:
        known = digests.setdefault((run.results.dataset, run.results.image), set())
        if run.results.data_digest:
            known.add(run.results.data_digest)
    return digests


def _content(run: Run, digests: Digests) -> str:
    """Return what stands for a run's data; of a run from before there were digests, that of all others of its name."""
    known = digests[run.results.dataset, run.results.image]
    return run.results.data_digest or (next(iter(known)) if len(known) == 1 else "")


def _fill(board: Board) -> None:
    for row in board.rows:
        for run in row.runs:
            for column, value, error in _measurements(run):
                cell = row.cells.setdefault(column, Cell([]))
                cell.values.append(value)
                cell.errors.append(error)
    for variant in {row.variant for row in board.rows}:
        same = [row for row in board.rows if row.variant == variant]
        for row, options in zip(same, _differences([row.runs[0] for row in same]), strict=True):
            row.options = options or _own_setting(row.runs[0])
            if not row.options and len(same) > 1:
                row.options = f"#{row.runs[0].results.config_hash}"
    for column in board.columns:
        cells = [row.cells[column] for row in board.rows if column in row.cells]
        if column.higher_is_better is not None:
            best = not_shown_worse([cell.values for cell in cells], column.higher_is_better)
            for cell, is_best in zip(cells, best, strict=True):
                cell.best = is_best
    _tell_apart(board.rows)
    _mark_older(board)
    first = next((column for column in board.columns if column.ranked), None)
    board.rows = board.sorted_by(first)


def _tell_apart(rows: Sequence[Row]) -> None:
    """Have no two rows of one name: what a suite calls alike is called by its options as well."""
    named = Counter(row.name for row in rows)
    for row in rows:
        if named[row.name] > 1:
            first = row.runs[0].results
            row.alias = f"{row.name} {row.options or f'#{first.config_hash}'}"
    named = Counter(row.name for row in rows)
    for row in rows:
        if named[row.name] > 1:
            row.alias = f"{row.name} #{row.runs[0].results.config_hash}"


def _mark_older(board: Board) -> None:
    """Say of each row whose code is older than the newest one's: what it measured by may be older too."""
    newest = max(board.rows, key=lambda row: row.started)
    for row in board.rows:
        if row.started < newest.started and row.commit != newest.commit:
            row.older = f"its code ({short(row.commit)}) is older than the newest row's ({short(newest.commit)})"


def _measurements(run: Run) -> Iterator[tuple[Column, float, float | None]]:
    """Yield all of a run's numbers, with their standard errors: its metrics, and what it cost."""
    results = run.results
    metrics = dict(results.metrics)
    if results.parameters is not None:
        metrics["parameters"] = Metric(value=results.parameters, protocol="of the whole model")
    if results.images_per_second and results.steps and results.batch_size:
        where = f"{results.device}, {processes(results)}, precision {results.precision}"
        seconds = results.steps * results.batch_size / results.images_per_second
        metrics["training_time"] = Metric(
            value=seconds, unit="s", protocol=f"without validations and pictures; {where}"
        )
    metrics.pop("loss", None)  # each variant's own: no two compare
    for name, m in metrics.items():
        yield Column(name, m.unit, m.higher_is_better, m.protocol, m.n, m.split, m.sampler), m.value, m.se


def _differences(runs: Sequence[Run], prefix: str = "") -> list[str]:
    """Say for each config what tells it from the others: "β=4, net=mlp"."""
    keys = dict.fromkeys(key for run in runs for key in run.config if key.startswith(prefix))
    skipped = tuple(f"{key}." for key in NO_DIFFERENCE)
    differing = [
        key
        for key in keys
        if key not in NO_DIFFERENCE
        and not key.startswith(skipped)
        and len({repr(run.config.get(key)) for run in runs}) > 1
    ]
    return [
        ", ".join(_setting(key, run.config[key]) for key in differing if run.config.get(key) is not None)
        for run in runs
    ]


def _own_setting(run: Run) -> str:
    """Say what a variant is told by that bears its name: "β=4" of a lone `beta`."""
    key = f"model.{run.results.variant}"
    return _setting(key, run.config[key]) if key in run.config else ""


def _setting(key: str, value: Any) -> str:
    name = key.removeprefix("model.").removeprefix("data.")
    return printable(f"{SYMBOLS.get(name, name)}={f'{value:g}' if isinstance(value, float) else value}")

"""From folders to boards: a board holds what was measured on the same images; its rows are configs, all seeds of each.

Columns are metrics by protocol. Only numbers of one column are ever compared.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from zoo.errors import UserError
from zoo.files import CONFIG_FILE, RESULTS_FILE, printable, read_text
from zoo.reports.board.families import family
from zoo.reports.board.statistics import Interval, interval, shown_worse
from zoo.reports.reference import Comparison, Metric, Reference, Results, Run, compare_all, read_run

MAIN_METRICS = ("fid", "fd_lenet", "nll", "elbo", "psnr", "kl", "recon")  # in this order, where there are such
COST_UNITS = ("s", "MiB", "images/s")
SYMBOLS = {"beta": "β"}
# What provenance leaves out of the config's hash, and what only decides where things are written.
NO_DIFFERENCE = (
    *("out", "title", "seed", "device", "threads", "trackers", "wandb", "keep", "plugins", "benchmark"),
    *("data.root", "data.title"),
)
DIFFERING = ("unit", "sampler", "split", "n", "kind")  # what tells columns of one name apart, in words
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

LIKELIHOOD = re.compile(r"(nll|elbo|bits_per_dim|distortion|rate)(_dynamic|_fixed)?")
# A path that begins at the root, up to its last part; not a URL's.
PLACE = re.compile(r"(?<![\w.:/])/(?:[^\s/'\"=,]+/)+")


def without_places(text: str) -> str:
    """Leave of each absolute path its last part: where a run was made is nobody else's business."""
    return PLACE.sub("…/", text)


@dataclass(frozen=True)
class Column:
    """A metric under one protocol: all that must agree before two numbers may stand in one column."""

    name: str
    unit: str
    higher_is_better: bool | None
    protocol: str
    n: int | None
    split: str
    sampler: str | None

    @property
    def arrow(self) -> str:
        """Which way is better."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]

    @property
    def kind(self) -> str:
        """Of what distribution it is the likelihood, as its protocol begins; "" of what is no likelihood."""
        return _kind(self.protocol) if LIKELIHOOD.fullmatch(self.name) else ""

    @property
    def is_cost(self) -> bool:
        """Whether it tells of the model's size or the machine, not of what the model can do."""
        return self.unit in COST_UNITS or self.name == "parameters"

    @property
    def ranked(self) -> bool:
        """Whether rows are put in its order."""
        return self.higher_is_better is not None and not self.is_cost

    @property
    def about(self) -> str:
        """The protocol in one line."""
        images = f"{self.n:,} {self.split}".strip() if self.n else self.split
        parts = [self.protocol, f"n = {images}" if images else "", f"sampler {self.sampler}" if self.sampler else ""]
        return "; ".join(part for part in parts if part) or "no protocol was written down"


@dataclass
class Cell:
    """One metric of one row: a value for each seed that has it."""

    values: list[float]
    errors: list[float | None] = field(default_factory=list)  # standard errors, as far as they are known
    best: bool = False  # no row is shown to be better

    @property
    def mean(self) -> float:
        """Over seeds."""
        return fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Over seeds, with n - 1; None for a single one, and for what no seed moves, such as a count of parameters."""
        return stdev(self.values) if len(set(self.values)) > 1 else None

    @cached_property
    def interval(self) -> Interval | None:
        """Where the mean may lie, with 95 % confidence."""
        return interval(self.values, self.errors)


@dataclass
class Row:
    """One config, all its seeds."""

    runs: list[Run]
    comparisons: list[Comparison]
    options: str = ""  # what tells it from the board's other rows of the same variant
    cells: dict[Column, Cell] = field(default_factory=dict)
    alias: str = ""  # a name that no other row of the board has
    older: str = ""  # in what its code or protocol is older than that of the board's newest row
    links: dict[int, str] = field(default_factory=dict)  # seed to its config file
    pictures: dict[str, str] = field(default_factory=dict)  # "samples" and "reconstructions" as data URIs

    @property
    def variant(self) -> str:
        """The registered name."""
        return self.runs[0].results.variant

    @property
    def name(self) -> str:
        """What a suite or a config calls it, else variant and options."""
        return self.alias or self.title or f"{self.variant} {self.options}".strip()

    @property
    def title(self) -> str:
        """What a suite or a config calls it; of a run from before that was written down, what its folder tells."""
        run = self.runs[0]
        end = f"_{run.results.dataset}_{run.results.seed}"  # as suites name their folders
        return run.results.title or (
            printable(run.folder.name).removesuffix(end) if run.folder.name.endswith(end) else ""
        )

    @cached_property
    def kinds(self) -> list[str]:
        """The kinds of likelihood that it has."""
        return sorted({column.kind for column in self.cells if column.kind})

    @property
    def family(self) -> str:
        """What its colour stands for."""
        return family(self.variant)

    @property
    def net(self) -> str:
        """The pair of encoder and decoder."""
        return _short(self.runs[0].config.get("model.net", ""))

    @property
    def likelihood(self) -> str:
        """What its decoder means by a pixel, as the config calls it."""
        return _short(self.runs[0].config.get("model.recon", ""))

    @property
    def made(self) -> str:
        """The day of its newest start, "2026-11-03"; "" of runs from before that was written down."""
        return max((life.started[:10] for run in self.runs for life in run.results.history), default="")

    @property
    def commit(self) -> str:
        """Of the code that trained it, the first seed's."""
        return self.runs[0].results.commit

    @property
    def seeds(self) -> list[int]:
        """In order."""
        return [run.results.seed for run in self.runs]

    @property
    def config_text(self) -> str:
        """The first seed's resolved config, as it stands in its folder."""
        return without_places(read_text(self.runs[0].folder / CONFIG_FILE))

    @property
    def facts(self) -> dict[str, str]:
        """What the row's numbers stand on, for reading."""
        results = [run.results for run in self.runs]
        facts = {
            "trained for": [
                f"{r.steps or 0:,} steps of {r.batch_size} images, {r.epochs or 0:.4g} epochs" for r in results
            ],
            "latent dimensions": [str(r.latent_dim) for r in results],
            "on": [f"{r.device}, {_processes(r)}, precision {r.precision}" for r in results],
            "made": [self.made or "not written down"],
            "commit": [r.commit for r in results],
            "config hash": [r.config_hash for r in results],
            "command": [without_places(r.command) for r in results],
        }
        return {name: "\n".join(dict.fromkeys(values)) for name, values in facts.items()}


@dataclass
class Board:
    """Rows whose numbers were measured on the same images."""

    dataset: str
    title: str
    rows: list[Row]

    @cached_property
    def columns(self) -> list[Column]:
        """Ranked ones first, the usual ones before others; of one metric, the protocol that most rows have."""
        held = Counter(column for row in self.rows for column in row.cells)
        return sorted(held, key=lambda column: _order(column, held[column]))

    @cached_property
    def headings(self) -> dict[Column, str]:
        """A column's name, with what tells it from others of that name."""
        headings = {}
        for name, group in groupby(self.columns, key=lambda column: column.name):
            same = list(group)
            differing = [key for key in DIFFERING if len({getattr(c, key) for c in same}) > 1]
            names = []
            for column in same:
                marks = [mark for key in differing if (mark := _mark(column, key))]
                if column.sampler and not differing and column.sampler not in name:
                    marks.append(column.sampler)
                names.append(", ".join([name.replace("_", " ").replace("@", " "), *marks]))
            for number, (column, text) in enumerate(zip(same, names, strict=True)):
                letter = chr(ord("A") + number) if number < 26 else str(number + 1)
                headings[column] = f"{text}, protocol {letter}" if names.count(text) > 1 else text
        return headings

    @cached_property
    def decimals(self) -> dict[Column, int]:
        """Digits after the point, the same all down a column: about four that count."""
        return {
            column: _decimals([row.cells[column] for row in self.rows if column in row.cells])
            for column in self.columns
        }

    def text(self, row: Row, column: Column) -> str:
        """Write a cell: "12.34 ± 0.56", half of its interval's width, or nothing where the row has no such number."""
        cell = row.cells.get(column)
        if cell is None:
            return ""
        digits = self.decimals[column]
        return f"{cell.mean:,.{digits}f}" + (f" ± {cell.interval.half:,.{digits}f}" if cell.interval else "")

    def sorted_by(self, column: Column | None) -> list[Row]:
        """Return the rows, best first; last those that have no such number."""
        return sorted(self.rows, key=lambda row: (badness(row, column), row.name))

    @property
    def compared(self) -> bool:
        """Whether any row has a published counterpart."""
        return any(row.comparisons for row in self.rows)


def _order(column: Column, rows: int) -> tuple[Any, ...]:
    name = column.name.partition("@")[0]  # fid@gmm10 is fid, by another sampler
    main = MAIN_METRICS.index(name) if name in MAIN_METRICS else len(MAIN_METRICS)
    return column.is_cost, not column.ranked, main, column.name, -rows, str(column)


def _decimals(cells: Sequence[Cell]) -> int:
    finite = [cell for cell in cells if math.isfinite(cell.mean)]
    means = [abs(cell.mean) for cell in finite]
    if all(cell.mean.is_integer() and cell.interval is None for cell in finite):
        return 0
    exponent = math.floor(math.log10(max(means)))
    return 1 if exponent >= 3 else 2 if exponent >= 1 else 3 - exponent


# --- From folders to boards


def find_runs(root: Path) -> tuple[list[Run], list[str]]:
    """Return the finished runs below a folder, and a sentence about each folder that can't be used.

    Raises:
        UserError: if there is no such folder, or no finished run in it.
    """
    if not root.is_dir():
        raise UserError(f"there is no folder {root}")
    runs: dict[tuple[str, str, str, int], Run] = {}
    problems = []
    for folder in _run_folders(root):
        try:
            run = read_run(folder)
        except UserError as error:
            problems.append(str(error))
            continue
        results = run.results
        key = (results.variant, results.dataset, results.config_hash, results.seed)
        if twin := runs.get(key):
            newer, older = sorted((run, twin), key=lambda r: (r.folder / RESULTS_FILE).stat().st_mtime, reverse=True)
            problems.append(f"{older.folder} repeats {newer.folder}, which is newer: same config, same seed")
            run = newer
        runs[key] = run
    if not runs:
        raise UserError("; ".join([f"no finished run in {root}", *problems]))
    return list(runs.values()), problems


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
    for run in runs:
        results = run.results
        measured_on = {k: v for k, v in run.config.items() if k.startswith("data.") and k not in TRAINING_ONLY}
        if measured_on.get("data.binarize") == "none":  # as are the runs from before there was a choice
            del measured_on["data.binarize"]
        board_key = (results.dataset, results.image, json.dumps(measured_on, sort_keys=True), _content(run, runs))
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


def _content(run: Run, runs: Sequence[Run]) -> str:
    """Return what stands for a run's data; of a run from before there were digests, that of all others of its name."""
    known = {
        other.results.data_digest
        for other in runs
        if (other.results.dataset, other.results.image) == (run.results.dataset, run.results.image)
        and other.results.data_digest
    }
    return run.results.data_digest or (known.pop() if len(known) == 1 else "")


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
            worse = shown_worse([cell.values for cell in cells], column.higher_is_better)
            for cell, is_worse in zip(cells, worse or [True] * len(cells), strict=True):
                cell.best = not is_worse
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
    """Say of each row in what it is older than the newest one, as far as days are known."""
    newest = max(board.rows, key=lambda row: row.made)
    if not newest.made:
        return
    protocols: dict[str, set[str]] = {}
    for column in newest.cells:
        protocols.setdefault(column.name, set()).add(column.protocol)
    for row in board.rows:
        code = row.commit != newest.commit and row.made < newest.made
        other = {
            c.name
            for c in row.cells
            if not c.is_cost and not c.kind and c.protocol not in protocols.get(c.name, {c.protocol})
        }
        if row.made < newest.made:
            row.older = ", ".join(["code"] * code + [f"protocol of {name}" for name in sorted(other)])


def _mark(column: Column, key: str) -> str:
    """Say what tells a column from others of its name, in few words."""
    value = getattr(column, key)
    if key == "n":
        return f"n={value:,}" if value else ""
    return kind_mark(value) if key == "kind" else str(value)


@lru_cache
def _kind(protocol: str) -> str:
    first, *more = protocol.split("; ")
    more = [part for part in more if part == "given the label" or part.startswith("pixels binarised")]
    return "; ".join([first.partition(": ")[0] or "a likelihood that was not written down", *more])


def kind_mark(kind: str) -> str:
    """Name a kind of likelihood in a word or two."""
    named = re.search(r"likelihood '(\w+)'", kind)
    words = [named[1] if named else "grey" if "grey pixels" in kind else "Bernoulli" if "Bernoulli" in kind else kind]
    words += ["binarised"] if named and "binarised" in kind else []
    return " ".join([*words, *(["given the label"] if "given the label" in kind else [])])


def badness(row: Row, column: Column | None) -> float:
    """Return what rows are sorted by: the lower the better, and last what has no such number."""
    if column is None or column not in row.cells or math.isnan(row.cells[column].mean):
        return math.inf
    return -row.cells[column].mean if column.higher_is_better else row.cells[column].mean


def _measurements(run: Run) -> Iterator[tuple[Column, float, float | None]]:
    """Yield all of a run's numbers, with their standard errors: its metrics, and what it cost."""
    results = run.results
    metrics = dict(results.metrics)
    if results.parameters is not None:
        metrics["parameters"] = Metric(value=results.parameters, protocol="of the whole model")
    if results.images_per_second and results.steps and results.batch_size:
        where = f"{results.device}, {_processes(results)}, precision {results.precision}"
        seconds = results.steps * results.batch_size / results.images_per_second
        metrics["training_time"] = Metric(
            value=seconds, unit="s", protocol=f"without validations and pictures; {where}"
        )
    metrics.pop("loss", None)  # each variant's own: no two compare
    for name, m in metrics.items():
        yield Column(name, m.unit, m.higher_is_better, m.protocol, m.n, m.split, m.sampler), m.value, m.se


def _processes(results: Results) -> str:
    return f"{results.processes} process{'' if results.processes == 1 else 'es'}"


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


def _short(value: Any) -> str:
    return printable(value)[:40]


def _setting(key: str, value: Any) -> str:
    name = key.removeprefix("model.").removeprefix("data.")
    return printable(f"{SYMBOLS.get(name, name)}={f'{value:g}' if isinstance(value, float) else value}")

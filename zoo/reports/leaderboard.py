"""Tables and plots of finished runs: `python run.py leaderboard runs/ --out leaderboard`.

A board holds what was measured on the same images; its rows are configs, averaged over seeds; its columns are metrics
by protocol. Only numbers of one column are ever ranked.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from urllib.parse import quote

from PIL import Image

from zoo.errors import UserError
from zoo.files import CONFIG_FILE, RESULTS_FILE, printable, read_text
from zoo.reports.reference import (
    Comparison,
    Metric,
    Reference,
    Results,
    Run,
    compare_all,
    load_references,
    read_run,
)

MAIN_METRICS = ("fid", "fd_lenet", "nll", "elbo", "psnr", "kl", "recon")  # in this order, where there are such
COST_UNITS = ("s", "MiB", "images/s")
RATE_AND_DISTORTION = (("rate", "distortion"), ("kl", "recon"))
TERMINAL_COLUMNS = 4
PICTURES = {"samples": "generated_samples.png", "reconstructions": "reconstructions.png"}
PICTURE_BYTES, PAGE_BYTES = 16_000, 450_000  # one picture's, and all pictures' of a page
SIDES = (48, 800)  # of an embedded picture, pixels
PIXELS_PER_BYTE = 20  # of a sheet of digits as WEBP, about
QUALITY = 50
COLOURS = 8  # in the template
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


FORMULA = ("=", "+", "-", "@", "\t", "\r")
# What Pillow raises for a file that is no picture, or would be too large a one.
PICTURE_FAULTS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
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
    best: bool = False

    @property
    def mean(self) -> float:
        """Over seeds."""
        return fmean(self.values)

    @property
    def sd(self) -> float | None:
        """Over seeds, with n - 1; None for a single one, and for what no seed moves, such as a count of parameters."""
        return stdev(self.values) if len(set(self.values)) > 1 else None


@dataclass
class Row:
    """One config, all its seeds."""

    runs: list[Run]
    comparisons: list[Comparison]
    colour: int = 0  # the same for all rows of a variant
    options: str = ""  # what tells it from the board's other rows of the same variant
    cells: dict[Column, Cell] = field(default_factory=dict)
    links: dict[int, str] = field(default_factory=dict)  # seed to its config file
    pictures: dict[str, str] = field(default_factory=dict)  # "samples" and "reconstructions" as data URIs

    @property
    def variant(self) -> str:
        """The registered name."""
        return self.runs[0].results.variant

    @property
    def name(self) -> str:
        """What a suite or a config calls it, else variant and options."""
        return self.runs[0].results.title or f"{self.variant} {self.options}".strip()

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
            for number, column in enumerate(same):
                differing = [
                    key for key in ("unit", "sampler", "split", "n") if len({getattr(c, key) for c in same}) > 1
                ]
                marks = [
                    f"n={column.n:,}" if key == "n" and column.n else str(getattr(column, key)) for key in differing
                ]
                twins = [c for c in same if all(getattr(c, key) == getattr(column, key) for key in differing)]
                marks += [f"protocol {'ABCDEFGHIJ'[number % 10]}"] if len(twins) > 1 else []
                if column.sampler and not differing and column.sampler not in name:
                    marks.append(column.sampler)
                headings[column] = ", ".join([name.replace("_", " ").replace("@", " "), *marks])
        return headings

    @cached_property
    def decimals(self) -> dict[Column, int]:
        """Digits after the point, the same all down a column: about four that count."""
        return {
            column: _decimals([row.cells[column] for row in self.rows if column in row.cells])
            for column in self.columns
        }

    def text(self, row: Row, column: Column) -> str:
        """Write a cell: "12.34 ± 0.56", or nothing where the row has no such number."""
        cell = row.cells.get(column)
        if cell is None:
            return ""
        digits = self.decimals[column]
        return f"{cell.mean:,.{digits}f}" + ("" if cell.sd is None else f" ± {cell.sd:,.{digits}f}")

    @property
    def compared(self) -> bool:
        """Whether any row has a published counterpart."""
        return any(row.comparisons for row in self.rows)


def _order(column: Column, rows: int) -> tuple[Any, ...]:
    name = column.name.partition("@")[0]  # fid@gmm10 is fid, by another sampler
    main = MAIN_METRICS.index(name) if name in MAIN_METRICS else len(MAIN_METRICS)
    return column.is_cost, not column.ranked, main, column.name, -rows, str(column)


def _decimals(cells: Sequence[Cell]) -> int:
    means = [abs(cell.mean) for cell in cells if math.isfinite(cell.mean)]
    if all(mean.is_integer() for mean in means):
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
    variants = sorted({row.variant for board in built for row in board.rows})
    for row in (row for board in built for row in board.rows):
        row.colour = variants.index(row.variant) % COLOURS
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
            for column, value in _measurements(run):
                row.cells.setdefault(column, Cell([])).values.append(value)
    for variant in {row.variant for row in board.rows}:
        same = [row for row in board.rows if row.variant == variant]
        for row, options in zip(same, _differences([row.runs[0] for row in same]), strict=True):
            row.options = options or _own_setting(row.runs[0])
            if not row.options and len(same) > 1:
                row.options = f"#{row.runs[0].results.config_hash}"
    for column in board.columns:
        cells = [row.cells[column] for row in board.rows if column in row.cells]
        finite = [cell.mean for cell in cells if math.isfinite(cell.mean)]
        if column.higher_is_better is None or len(cells) < 2 or not finite:
            continue
        best = max(finite) if column.higher_is_better else min(finite)
        for cell in cells:
            cell.best = cell.mean == best
    first = next((column for column in board.columns if column.ranked), None)
    board.rows.sort(key=lambda row: (_badness(row, first), row.name))


def _badness(row: Row, column: Column | None) -> float:
    if column is None or column not in row.cells or math.isnan(row.cells[column].mean):
        return math.inf
    return -row.cells[column].mean if column.higher_is_better else row.cells[column].mean


def _measurements(run: Run) -> Iterator[tuple[Column, float]]:
    """Yield all of a run's numbers: its metrics, and what it cost."""
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
        yield Column(name, m.unit, m.higher_is_better, m.protocol, m.n, m.split, m.sampler), m.value


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


def _setting(key: str, value: Any) -> str:
    name = key.removeprefix("model.").removeprefix("data.")
    return printable(f"{SYMBOLS.get(name, name)}={f'{value:g}' if isinstance(value, float) else value}")


# --- Pictures


def add_files(boards: Sequence[Board], out: Path) -> list[str]:
    """Give each row its links, relative to `out`, and its pictures; return a sentence about each that is missing."""
    problems = []
    rows = [row for board in boards for row in board.rows]
    most = min(PICTURE_BYTES, PAGE_BYTES // (len(rows) * len(PICTURES)))
    for row in rows:
        row.links = {run.results.seed: link(run.folder / CONFIG_FILE, out) for run in row.runs}
        for kind, name in PICTURES.items():
            try:
                row.pictures[kind] = embed(row.runs[0].folder / name, most)
            except PICTURE_FAULTS as error:
                why = "is missing" if isinstance(error, FileNotFoundError) else "is not a whole picture"
                problems.append(f"{row.runs[0].folder / name} {why}: its row goes without")
    return problems


def link(path: Path, out: Path) -> str:
    """Return the URL of a file as seen from the folder `out`."""
    return quote(os.path.relpath(path, out).replace(os.sep, "/"), errors="surrogateescape")


def embed(path: Path, most: int = PICTURE_BYTES) -> str:
    """Return a picture as a data URI of about `most` bytes."""
    with Image.open(path, formats=("PNG",)) as opened:  # what a run writes
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


# --- Plots: positions are worked out here, the template draws them

WIDTH, HEIGHT = 460, 310
LEFT, RIGHT, TOP, BOTTOM = 58, 446, 12, 264
CHARACTER = 5.6  # width of one, at the size of the labels
LONGEST_LABEL = 26


@dataclass
class Axis:
    """Values to pixels, with some space at both ends."""

    label: str
    values: Sequence[float]
    start: float
    end: float
    log: bool = False

    def __post_init__(self) -> None:
        low, high = self._on_scale(min(self.values)), self._on_scale(max(self.values))
        space = 0.12 * (high - low) or 0.05 * abs(high) or 1.0
        self.low, self.high = low - space, high + space

    def _on_scale(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def at(self, value: float) -> float:
        """Return a value's pixel."""
        share = (self._on_scale(value) - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    @property
    def ends(self) -> tuple[float, float]:
        """The values at both ends."""
        return (10**self.low, 10**self.high) if self.log else (self.low, self.high)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Pixels and numbers."""
        from matplotlib.ticker import LogLocator, MaxNLocator

        locator = LogLocator(subs=(1, 2, 5)) if self.log else MaxNLocator(5, steps=[1, 2, 5, 10])
        low, high = self.ends
        return [(self.at(v), f"{v:,.6g}") for v in locator.tick_values(low, high) if low <= v <= high]


@dataclass
class Point:
    """A row in a plot: its mean, and from where to where its seeds' sd reaches."""

    colour: int
    about: str
    x: float
    y: float
    x_bar: tuple[float, float]
    y_bar: tuple[float, float]
    label: str
    text_x: float = 0.0
    text_y: float = 0.0
    anchor: str = "start"


@dataclass
class Plot:
    """What the template draws."""

    title: str
    caption: str
    x: Axis
    y: Axis
    points: list[Point]
    guides: list[tuple[float, float, float, float]] = field(default_factory=list)


def plots(board: Board) -> list[Plot]:
    """Return a board's plots; each shows only numbers of one protocol."""
    return [*rate_distortion(board), *quality_and_cost(board)]


def rate_distortion(board: Board) -> list[Plot]:
    """Plot the two halves of the ELBO against each other, where the protocol says by which likelihood."""
    drawn = []
    for names in RATE_AND_DISTORTION:
        for x, y, rows in _pairs(board, *names):
            if not y.protocol:
                continue
            plot = _plot(board, x, y, rows)
            plot.title = "Rate and distortion"
            plot.caption = (
                "Down and to the left is better. Along a dotted line rate + distortion, and so the ELBO, is the same."
            )
            drawn.append(_with_guides(plot))
        if drawn:
            break
    return drawn


def quality_and_cost(board: Board) -> list[Plot]:
    """Plot the foremost ranked metric against the time that training took."""
    ranked = dict.fromkeys(column.name for column in board.columns if column.ranked)
    for name in ranked:
        drawn = []
        for x, y, rows in _pairs(board, "training_time", name):
            plot = _plot(board, x, y, rows)
            better = "Up" if y.higher_is_better else "Down"
            plot.title = "Quality and cost"
            plot.caption = (
                f"{better} and to the left is better. Time is that of training alone, {x.protocol.split('; ')[1]}."
            )
            drawn.append(plot)
        if drawn:
            return drawn
    return []


def _pairs(board: Board, x_name: str, y_name: str) -> Iterator[tuple[Column, Column, list[Row]]]:
    """Yield two columns and the rows that have both, if they are two at least."""
    for x in (column for column in board.columns if column.name == x_name):
        for y in (column for column in board.columns if column.name == y_name):
            rows = [
                row for row in board.rows if all(c in row.cells and math.isfinite(row.cells[c].mean) for c in (x, y))
            ]
            if len(rows) > 1:
                yield x, y, rows


def _plot(board: Board, x: Column, y: Column, rows: list[Row]) -> Plot:
    across, up = ([end for row in rows for end in _bar(row.cells[column])] for column in (x, y))
    log = x.name == "training_time" and min(across) > 0 and max(across) > 10 * min(across)
    axes = (
        Axis(_axis_label(board, x), across, LEFT, RIGHT, log),
        Axis(_axis_label(board, y), up, BOTTOM, TOP),
    )
    points = []
    for row in rows:
        x_bar, y_bar = (
            (axis.at(low), axis.at(high))
            for axis, (low, high) in zip(axes, (_bar(row.cells[x]), _bar(row.cells[y])), strict=True)
        )
        about = f"{row.name}: {axes[0].label} {board.text(row, x)}; {axes[1].label} {board.text(row, y)}"
        label = row.name if len(row.name) <= LONGEST_LABEL else row.name[: LONGEST_LABEL - 1] + "…"
        centre = axes[0].at(row.cells[x].mean), axes[1].at(row.cells[y].mean)
        points.append(Point(row.colour, about, *centre, x_bar, y_bar, label))
    _place_labels(points)
    return Plot("", "", *axes, points)


def _bar(cell: Cell) -> tuple[float, float]:
    sd = cell.sd or 0.0
    return cell.mean - sd, cell.mean + sd


def _axis_label(board: Board, column: Column) -> str:
    return board.headings[column] + (f" ({column.unit})" if column.unit else "")


def _with_guides(plot: Plot) -> Plot:
    """Add lines of constant x + y; the template cuts them off at the frame."""
    from matplotlib.ticker import MaxNLocator

    (left, right), (low, high) = plot.x.ends, plot.y.ends
    for total in MaxNLocator(8).tick_values(left + low, right + high):
        plot.guides.append((plot.x.at(left), plot.y.at(total - left), plot.x.at(right), plot.y.at(total - right)))
    return plot


def _place_labels(points: Sequence[Point]) -> None:
    """Put each label to the right, left, top or bottom of its point, where it covers least."""
    taken = [(p.x - 5, p.y - 5, p.x + 5, p.y + 5) for p in points]
    for point in points:
        width = CHARACTER * len(point.label)
        choices: list[tuple[Any, ...]] = []
        for anchor, dx, dy, share in (
            ("start", 9, 4, 0),
            ("end", -9, 4, 1),
            ("middle", 0, -10, 0.5),
            ("middle", 0, 19, 0.5),
        ):
            left, base = point.x + dx - share * width, point.y + dy
            box = (left, base - 10, left + width, base + 3)
            covered = sum(_overlap(box, other) for other in taken)
            inside = _overlap(box, (LEFT, TOP, RIGHT, BOTTOM))
            choices.append((covered + 3 * (13 * width - inside), len(choices), box, point.x + dx, base, anchor))
        _, _, box, point.text_x, point.text_y, point.anchor = min(choices)
        taken.append(box)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


# --- Writing


def write_csv(boards: Sequence[Board], path: Path) -> None:
    """Write one line per row and metric, in full precision."""
    lines = [line for board in boards for row in board.rows for line in _csv_lines(board, row)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)))
        writer.writeheader()
        writer.writerows({key: _csv_cell(value) for key, value in line.items()} for line in lines)


def _csv_cell(value: Any) -> Any:
    """Have a text that a spreadsheet would take for a formula begin with an apostrophe."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _csv_lines(board: Board, row: Row) -> Iterator[dict[str, Any]]:
    head = {"board": board.title, "dataset": board.dataset, "variant": row.variant, "options": row.options}
    tail = {"config_hash": row.runs[0].results.config_hash, "configs": " ".join(row.links.values())}
    for column in board.columns:
        if column in row.cells:
            cell = row.cells[column]
            numbers = {"metric": column.name, "unit": column.unit, "mean": cell.mean, "sd": cell.sd}
            numbers |= {"seeds": len(cell.values), "best": cell.best}
            yield head | numbers | {k: v for k, v in vars(column).items() if k not in ("name", "unit")} | tail
    for comparison in row.comparisons:
        table, values = comparison.reference.table, comparison.reference.values
        for index, (published, ours) in enumerate(zip(values, comparison.ours, strict=True), 1):
            name = table.metric if len(values) == 1 else f"{table.metric} {index}"
            numbers = {"metric": name, "unit": table.unit, "mean": ours, "seeds": len(row.runs)}
            verdict = {"published": published, "within_tolerance": comparison.within, "source": table.source}
            yield head | numbers | {"protocol": table.protocol} | verdict | tail


def write_markdown(boards: Sequence[Board], path: Path) -> None:
    """Write a table per board, with its protocols below."""
    lines = ["# Leaderboard", "", "Mean ± sd over seeds; best of a column in bold; ↑ higher, ↓ lower is better."]
    for board in boards:
        heads = [" ".join(filter(None, (board.headings[c], c.arrow, c.unit))) for c in board.columns]
        heads = ["variant", "seeds (configs)", *heads, *(["published"] if board.compared else [])]
        lines += ["", f"## {_md(board.title)}", "", _md_row(map(_md, heads)), _md_row(["---"] * len(heads))]
        for row in board.rows:
            cells = [_md(row.name), ", ".join(f"[{seed}]({url})" for seed, url in row.links.items())]
            for column in board.columns:
                text = board.text(row, column)
                cells.append(f"**{text}**" if text and row.cells[column].best else text)
            if board.compared:
                cells.append("; ".join(f"{'✓' if c.within else '✗'} {_md(str(c))}" for c in row.comparisons))
            lines.append(_md_row(cells))
        lines += ["", *(f"- {_md(board.headings[column])}: {_md(column.about)}" for column in board.columns)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _md(text: str) -> str:
    for character in "\\|*_<`[":
        text = text.replace(character, f"\\{character}")
    return text


def _md_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_html(boards: Sequence[Board], problems: Sequence[str], path: Path) -> None:
    """Write one page that needs nothing beside itself."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    frame = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM}
    datasets = list(dict.fromkeys(board.dataset for board in boards))
    page = environment.get_template("leaderboard.html.j2").render(
        boards=boards, datasets=datasets, problems=problems, plots=plots, frame=frame, kinds=list(PICTURES)
    )
    path.write_text(page, encoding="utf-8")


def terminal_table(board: Board) -> str:
    """Return a board's main columns for reading in a terminal, the best of each marked with a star."""
    usual = [column for column in board.columns if column.ranked or column.name in MAIN_METRICS]
    columns = usual[:TERMINAL_COLUMNS]
    lines = [["variant", "seeds", *(" ".join(filter(None, (board.headings[c], c.arrow, c.unit))) for c in columns)]]
    lines[0] += ["published"] if board.compared else []
    for row in board.rows:
        texts = [board.text(row, column) for column in columns]
        stars = [text and row.cells[c].best for c, text in zip(columns, texts, strict=True)]
        line = [row.name, str(len(row.seeds))]
        line += [f"{'*' if star else ''}{text}" for star, text in zip(stars, texts, strict=True)]
        line += [", ".join("within" if c.within else "outside" for c in row.comparisons)] if board.compared else []
        lines.append(line)
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    padded = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join([board.title, *(f"  {line}".rstrip() for line in padded)])


def write(folder: Path, out: Path) -> None:
    """Write leaderboard.html, leaderboard.md and leaderboard.csv from the finished runs below a folder.

    Args:
        folder: Searched with all its subfolders.
        out: Folder to write.

    Raises:
        UserError: if there is nothing to show, or nowhere to write it.
    """
    runs, problems = find_runs(folder)
    boards = build_boards(runs, load_references())
    problems += add_files(boards, out)
    try:
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {out} is a file: name a folder")
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out is {out}, where nothing can be written: {error.strerror}") from None
    write_csv(boards, out / "leaderboard.csv")
    write_markdown(boards, out / "leaderboard.md")
    write_html(boards, [without_places(printable(problem)) for problem in problems], out / "leaderboard.html")
    problems = [printable(problem) for problem in problems]
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    print("\n\n".join(terminal_table(board) for board in boards))
    print(f"\nmean ± sd over seeds, * best; all columns, pictures and plots in {out / 'leaderboard.html'}")

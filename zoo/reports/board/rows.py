"""What a board is made of: columns are metrics by protocol, rows are configs, all seeds of each.

A board holds what was measured on the same images. Only numbers of one column are ever compared.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import groupby
from statistics import fmean, stdev
from typing import Any

import yaml

from zoo.config import parse_yaml
from zoo.files import CONFIG_FILE, read_text
from zoo.records import Results
from zoo.reports.board.families import family
from zoo.reports.board.statistics import Interval, interval
from zoo.reports.reference import Comparison, Run
from zoo.texts import placeless, printable

# In this order, where there are such, before all others; the last ones behind them.
MAIN_METRICS = (r"fid", r"fd_(?!infinity)\w+", r"nll", r"elbo", r"psnr", r"kl", r"recon")
LAST_METRICS = re.compile(r"authpct(_\w+)?")  # says of samples that are not good already next to nothing
COST_UNITS = ("s", "MiB", "images/s")
DIFFERING = ("unit", "sampler", "split", "n", "kind")  # what tells columns of one name apart, in words
LIKELIHOOD = re.compile(r"(nll|elbo|bits_per_dim|distortion|rate)(_dynamic|_fixed)?")


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
        """Over seeds; not a number where they are infinite on both sides."""
        return fmean(self.values) if all(map(math.isfinite, self.values)) else sum(self.values)

    @property
    def sd(self) -> float | None:
        """Over seeds, with n - 1; None for a single one, and for what no seed moves, such as a count of parameters."""
        return stdev(self.values) if len(set(self.values)) > 1 and math.isfinite(self.mean) else None

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
    older: str = ""  # that its code is older than that of the board's newest row
    links: dict[int, str] = field(default_factory=dict)  # seed to its config file
    folder: str = ""  # the first seed's, as a URL from where the board was made
    pictures: dict[str, str] = field(default_factory=dict)  # "samples" and "reconstructions" as data URIs
    files: dict[str, str] = field(default_factory=dict)  # the same as links to whole files

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
    def newest(self) -> Run:
        """The run that was started last."""
        return max(self.runs, key=_started)

    @property
    def started(self) -> str:
        """When that was, in UTC; "" of runs from before that was written down."""
        return _started(self.newest)

    @property
    def made(self) -> str:
        """The day of that, "2026-11-03"."""
        return self.started[:10]

    @property
    def commit(self) -> str:
        """Of the code that trained it."""
        return self.newest.results.commit

    @property
    def seeds(self) -> list[int]:
        """In order."""
        return [run.results.seed for run in self.runs]

    @property
    def config_text(self) -> str:
        """The first seed's resolved config, as it stands in its folder."""
        path = self.runs[0].folder / CONFIG_FILE
        return yaml.safe_dump(placeless(parse_yaml(read_text(path), str(path))), sort_keys=False, allow_unicode=True)

    @property
    def facts(self) -> dict[str, str]:
        """What the row's numbers stand on, for reading."""
        results = [run.results for run in self.runs]
        facts = {
            "trained for": [
                f"{r.steps or 0:,} steps of {r.batch_size} images, {r.epochs or 0:.4g} epochs" for r in results
            ],
            "latent dimensions": [str(r.latent_dim) for r in results],
            "on": [f"{r.device}, {processes(r)}, precision {r.precision}" for r in results],
            "made": [self.made or "not written down"],
            "commit": [r.commit for r in results],
            "measured at commit": [m.commit for r in results for m in r.metrics.values() if m.commit],
            "config hash": [r.config_hash for r in results],
            "command": [r.command for r in results],
        }
        if {*facts["measured at commit"]} <= {*facts["commit"]}:
            del facts["measured at commit"]
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
    main = next((i for i, pattern in enumerate(MAIN_METRICS) if re.fullmatch(pattern, name)), len(MAIN_METRICS))
    main += bool(LAST_METRICS.fullmatch(name))
    return column.is_cost, not column.ranked, main, column.name, -rows, str(column)


def _decimals(cells: Sequence[Cell]) -> int:
    finite = [cell for cell in cells if math.isfinite(cell.mean)]
    means = [abs(cell.mean) for cell in finite]
    if all(cell.mean.is_integer() and cell.interval is None for cell in finite):
        return 0
    exponent = math.floor(math.log10(max(means))) if any(means) else 0
    return 1 if exponent >= 3 else 2 if exponent >= 1 else 3 - exponent


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
    """Name a kind of likelihood in a word or two, with the pixels' range where it is not [0, 1]."""
    named = re.search(r"likelihood '(\w+)'", kind)
    words = [named[1] if named else "grey" if "grey pixels" in kind else "Bernoulli" if "Bernoulli" in kind else kind]
    span = re.search(r"pixels in (\[[^]]*\])", kind)
    words += [f"on {span[1]}"] if named and span and span[1] != "[0, 1]" else []
    words += ["binarised"] if named and "binarised" in kind else []
    return " ".join([*words, *(["given the label"] if "given the label" in kind else [])])


def badness(row: Row, column: Column | None) -> float:
    """Return what rows are sorted by: the lower the better, and last what has no such number that is finite."""
    if column is None or column not in row.cells or not math.isfinite(row.cells[column].mean):
        return math.inf
    return -row.cells[column].mean if column.higher_is_better else row.cells[column].mean


def _started(run: Run) -> str:
    return max((life.started for life in run.results.history), default="")


def short(commit: str) -> str:
    """Name a commit by seven digits, and whether files had been changed since."""
    return commit[:7] + "-dirty" * commit.endswith("-dirty") if commit else "unknown commit"


def processes(results: Results) -> str:
    """Say how many there were."""
    return f"{results.processes} process{'' if results.processes == 1 else 'es'}"


def _short(value: Any) -> str:
    return printable(value)[:40]

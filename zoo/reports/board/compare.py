"""Two configs number by number: `python run.py compare runs/zoo/vamp_mnist_0 runs/zoo/mlp_mnist_0`."""

from __future__ import annotations

import math
import os
from pathlib import Path

from zoo.errors import UserError
from zoo.files import RESULTS_FILE
from zoo.reports.board.reading import build_boards, digests_of, row_key
from zoo.reports.board.rows import Board, Cell, Column, Row
from zoo.reports.board.statistics import LEVEL, Difference, difference, holm
from zoo.reports.reference import Run, read_run


def compare(a: Path, b: Path) -> str:
    """Say in what two configs differ, with intervals, and what follows.

    Each is named by the folder of one of its runs; those beside it of the same config are its other seeds.

    Raises:
        UserError: if one is no finished run, both are one config, or nothing was measured of both.
    """
    first, second = _seeds(a), _seeds(b)
    boards = build_boards([*first, *second], [])
    if len(boards) > 1:
        raise UserError(
            f"{a} and {b} can't be compared: one was measured on {boards[0].title}, one on {boards[1].title}"
        )
    (board,) = boards
    if len(board.rows) == 1:
        raise UserError(f"{a} and {b} are one config: name runs of two")
    rows = sorted(board.rows, key=lambda row: row.runs[0].results.config_hash != first[0].results.config_hash)
    columns = [column for column in board.columns if all(column in row.cells for row in rows)]
    if not columns:
        raise UserError(f"{a} and {b} can't be compared: no metric was measured of both by one protocol")
    return "\n".join(_report(board, rows, columns))


def _seeds(folder: Path) -> list[Run]:
    """Return the run in a folder, and the others beside it of the same config."""
    run = read_run(folder)
    runs = {run.results.seed: run}
    beside = folder.absolute().parent
    for name in sorted(os.listdir(beside)):
        if (beside / name / RESULTS_FILE).is_file():
            try:
                other = read_run(beside / name)
            except UserError:  # not what was asked about
                continue
            digests = digests_of([run, other])
            if row_key(run, digests) == row_key(other, digests):
                runs.setdefault(other.results.seed, other)
    return [runs[seed] for seed in sorted(runs)]


def _report(board: Board, rows: list[Row], columns: list[Column]) -> list[str]:
    cells = [[row.cells[column] for row in rows] for column in columns]
    found = [difference(x.values, y.values, (x.errors, y.errors)) for x, y in cells]
    ranked = [d for d, column in zip(found, columns, strict=True) if d is not None and column.ranked]
    significant = {id(d) for d, is_so in zip(ranked, holm([d.p for d in ranked]), strict=True) if is_so}
    names = [f"{row.name} ({_count(row)})" for row in rows]
    lines = [["", *names, f"difference, {100 * LEVEL:.0f} % interval", "p"]]
    sentences: dict[str, list[str]] = {}  # what follows, and from which metrics
    for column, pair, d in zip(columns, cells, found, strict=True):
        head = " ".join(filter(None, (board.headings[column], column.arrow, column.unit)))
        lines.append([head, *(board.text(row, column) for row in rows), *_difference(board, column, pair, d)])
        if column.ranked:
            told = _what_follows(board, rows, column, d, id(d) in significant)
            sentences.setdefault(told, []).append(board.headings[column])
    widths = [max(map(len, texts)) for texts in zip(*lines, strict=True)]
    table = [
        "  ".join(t.rjust(w) if i else t.ljust(w) for i, (t, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    follows = [f"{', '.join(metrics)}: {told}." for told, metrics in sentences.items()]
    return [board.title, *(line.rstrip() for line in table), "", *follows, *_caution(cells, found)]


def _count(row: Row) -> str:
    return f"seed{'' if len(row.seeds) == 1 else 's'} {', '.join(map(str, row.seeds))}"


def _difference(board: Board, column: Column, pair: list[Cell], d: Difference | None) -> tuple[str, str]:
    digits = board.decimals[column]
    if d is None:
        return f"{_amount(pair[0].mean - pair[1].mean, digits, '+')}, unknown how sure", ""
    p = "< 0.001" if d.p < 0.001 else f"{d.p:.3f}"
    if d.low == d.high:
        return _amount(d.value, digits, "+"), p if column.ranked else ""  # such as a count of parameters
    low, value, high = (_amount(end, digits, "+") for end in (d.low, d.value, d.high))
    return f"{value} ({low} to {high})", p


def _amount(value: float, digits: int, sign: str = "") -> str:
    """Write with so many digits, or with as many as show that it is not 0."""
    text = f"{value:{sign},.{digits}f}"
    return text if not value or text.strip("+-0.,") else f"{value:{sign}.1g}"


def _what_follows(board: Board, rows: list[Row], column: Column, d: Difference | None, significant: bool) -> str:
    digits = board.decimals[column]
    if d is None:
        finite = all(math.isfinite(value) for row in rows for value in row.cells[column].values)
        why = (
            "neither has a second seed of it, nor both a standard error to go by" if finite else "a value is not finite"
        )
        return f"nothing follows, as {why}"
    if d.low == d.high == 0:
        return "the same in both, in every seed"
    if not significant and d.p < 1 - LEVEL:
        return f"told apart if it were the only metric (p = {d.p:.3f}), but not among so many"
    if not significant and d.low == d.high:
        return "not told apart: no seed moves either, and there are too few for that to tell"
    if not significant:
        low, high = (_amount(end, digits, "+") for end in (d.low, d.high))
        return f"not told apart; the truth may lie anywhere from {low} to {high}"
    better, worse = rows if (d.value > 0) == column.higher_is_better else rows[::-1]
    least, most = (_amount(end, digits) for end in sorted(abs(end) for end in (d.low, d.high)))
    by = f"{least} in every seed" if d.low == d.high else f"{least} to {most}"
    return f"{better.name} is better than {worse.name}, by {by}{f' {column.unit}' if column.unit else ''}"


def _caution(cells: list[list[Cell]], found: list[Difference | None]) -> list[str]:
    lines = ["Welch's test over seeds where both have two or more; Holm's correction for the number of metrics."]
    over = {
        (d.over, min(len(cell.values) for cell in pair)) for d, pair in zip(found, cells, strict=True) if d is not None
    }
    if ("seeds", 1) in over:
        lines.append(
            "Where one has a single seed, the other's spread over seeds is taken for its own (Student's test)."
        )
    if ("images", 1) in over:
        lines.append(
            "With one seed the two trained models are compared, over test images: how much another seed would differ "
            "is not known."
        )
    return ["", *lines]

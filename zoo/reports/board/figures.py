"""A board's plots as files for papers: `run.py leaderboard runs --format svg --format pdf`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.reports.board.families import FAMILIES, OTHER
from zoo.reports.board.rows import Board, Column, Row
from zoo.reports.board.views import tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "pdf")
# TOL as in page.css: Paul Tol's "muted" for nine families, plain in black, what is not the zoo's in grey.
TOL = "#3b3d42 #88ccee #332288 #44aa99 #117733 #999933 #ddaa33 #cc6677 #882255 #aa4499 #a9abae"
COLOURS = dict(zip((*FAMILIES, OTHER), TOL.split(), strict=True))
MARKERS = dict(zip((*FAMILIES, OTHER), ("o", "d", "s", "^", "*", "1", "P", "x", "2", "+", "."), strict=True))
PAIRS = (
    ("training_time", "fid"),
    ("training_time", "fd_lenet"),
    ("training_time", "fd_mobilenet"),
    ("rate", "distortion"),
)  # across, up
SPAN = 20  # from where on an axis is logarithmic


def write_figures(boards: Sequence[Board], formats: Sequence[str], out: Path) -> list[Path]:
    """Write a plot of intervals for each view, and the plots of two columns, into `out/plots`.

    Returns:
        The files.
    """
    import matplotlib.pyplot as plt

    written = []
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "zoo", "font.size": 8, "text.parse_math": False}):
        for board in boards:
            for name, figure in _figures(board):
                for kind in formats:
                    path = out / "plots" / f"{_slug(board.title)}-{_slug(name)}.{kind}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    undated = {"Date" if kind == "svg" else "CreationDate": None}  # the same again from the same runs
                    figure.savefig(path, bbox_inches="tight", metadata=undated)
                    written.append(path)
                plt.close(figure)
    return written


def _slug(text: str) -> str:
    return re.sub(r"[^\w]+", "-", text.replace("×", "x"), flags=re.ASCII).strip("-")[:60] or "board"


def _figures(board: Board) -> Iterator[tuple[str, Figure]]:
    for table in tables(board):
        column = next((c for c in table.columns if c.ranked), None)
        if column is not None and len(rows := _having(table.rows, column)) > 1:
            yield table.title, _forest(board, column, rows)
    for across, up in PAIRS:
        x, y = (next((c for c in board.columns if c.name == name), None) for name in (across, up))
        if x is not None and y is not None and len(rows := _having(board.rows, x, y)) > 1:
            yield f"{up} against {across}", _scatter(board, x, y, rows)


def _having(rows: Sequence[Row], *columns: Column) -> list[Row]:
    return [row for row in rows if all(c in row.cells and math.isfinite(row.cells[c].mean) for c in columns)]


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height))
    axes.grid(True, color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _label(board: Board, column: Column) -> str:
    return " ".join(filter(None, (board.headings[column], f"({column.unit})" if column.unit else "", column.arrow)))


def _forest(board: Board, column: Column, rows: Sequence[Row]) -> Figure:
    """Draw a line a row, the best first: mean and interval; names in bold where no row is shown to be better."""
    figure, axes = _axes(4.5, 0.6 + 0.16 * len(rows))
    for y, row in enumerate(rows):
        cell, colour = row.cells[column], COLOURS[row.family]
        if cell.interval:
            axes.plot([cell.interval.low, cell.interval.high], [y, y], color=colour, linewidth=1.4)
        axes.plot(cell.mean, y, MARKERS[row.family], color=colour, markersize=4.5)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    for text, row in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_fontweight("bold" if row.cells[column].best else "normal")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(False, axis="y")
    if _is_wide(rows, column):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(_label(board, column))
    return figure


def _scatter(board: Board, x: Column, y: Column, rows: Sequence[Row]) -> Figure:
    """Draw a point a row; names stand in the page, where there is room to ask for them."""
    figure, axes = _axes(4.5, 3.4)
    for family in dict.fromkeys(row.family for row in rows):
        some = [row for row in rows if row.family == family]
        means = [[row.cells[column].mean for row in some] for column in (x, y)]
        axes.plot(*means, MARKERS[family], color=COLOURS[family], markersize=5, linestyle="", label=family)
    for column, scale, axis in ((x, axes.set_xscale, axes.xaxis), (y, axes.set_yscale, axes.yaxis)):
        if _is_wide(rows, column):
            scale("log")
            axis.set_major_formatter("{x:g}")
    axes.set_xlabel(_label(board, x))
    axes.set_ylabel(_label(board, y))
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False)
    return figure


def _is_wide(rows: Sequence[Row], column: Column) -> bool:
    means = [row.cells[column].mean for row in rows]
    return min(means) > 0 and max(means) > SPAN * min(means)

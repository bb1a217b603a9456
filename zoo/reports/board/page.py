"""Boards as one page that needs nothing beside itself: numbers as JSON, which `page.js` shows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.reports.board.families import FAMILIES, OTHER
from zoo.reports.board.rows import Board, Cell, Column, Row, kind_mark
from zoo.reports.board.statistics import mean_ranks
from zoo.reports.board.text import HOW
from zoo.reports.board.views import MOST_METRICS, kinds, place, views

HERE = Path(__file__).parent


def write_html(boards: Sequence[Board], problems: Sequence[str], path: Path) -> None:
    """Write the page."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    data: dict[str, Any] = {
        "families": [*FAMILIES, OTHER],
        "most": MOST_METRICS,
        "boards": [_board(board) for board in boards],
    }
    data["kinds"] = {c.kind: kind_mark(c.kind) for board in boards for c in board.columns if c.kind}
    page = environment.get_template("page.html.j2").render(
        problems=problems,
        how=HOW,
        css=(HERE / "page.css").read_text(encoding="utf-8"),
        # Nothing in it can end the element that it stands in.
        data=json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
        plot=(HERE / "plot.js").read_text(encoding="utf-8"),
        js=(HERE / "page.js").read_text(encoding="utf-8"),
    )
    path.write_text(page, encoding="utf-8")


def _board(board: Board) -> dict[str, Any]:
    number = {column: i for i, column in enumerate(board.columns)}
    hashes = [row.runs[0].results.config_hash for row in board.rows]
    ids = [h if hashes.count(h) == 1 else f"{row.variant} {h}" for row, h in zip(board.rows, hashes, strict=True)]
    return {
        "title": board.title,
        "dataset": board.dataset,
        "kinds": kinds(board),
        "columns": [_column(board, column) for column in board.columns],
        "views": [
            {"name": v.name, "about": v.about, "shown": {k: [number[c] for c in cs] for k, cs in v.shown.items()}}
            for v in views(board)
        ],
        "rows": [_row(board, row, id_) for row, id_ in zip(board.rows, ids, strict=True)],
        "ranks": _ranks(board),
    }


def _column(board: Board, column: Column) -> dict[str, Any]:
    better = {True: 1, False: -1, None: 0}[column.higher_is_better]
    if column.name in ("training_time", "parameters"):  # nobody is ranked by them, and less is better all the same
        better = -1
    heading = board.headings[column]
    plain = column.name.replace("_", " ").replace("@", " ")
    # The kind of likelihood is chosen beside the table, and not said again in each head.
    keys = {
        "name": column.name,
        "key": heading,
        "head": plain if column.kind else heading,
        "unit": column.unit,
        "arrow": column.arrow,
    }
    return keys | {"about": column.about, "kind": column.kind, "view": place(column), "better": better}


def _row(board: Board, row: Row, id_: str) -> dict[str, Any]:
    cells = {i: _cell(board, row, c) for i, c in enumerate(board.columns) if c in row.cells}
    published = [[c.within, str(c), c.reference.table.protocol] for c in row.comparisons]
    return {
        **{"id": id_, "name": row.name, "variant": row.variant, "options": row.options, "family": row.family},
        **{"net": row.net, "likelihood": row.likelihood, "kinds": row.kinds, "seeds": list(row.links.items())},
        **{"made": row.made, "commit": row.commit, "older": row.older, "cells": cells, "pictures": row.pictures},
        **{"facts": list(row.facts.items()), "published": published, "config": row.config_text},
        **{"files": row.files, "folder": row.folder},
    }


def _cell(board: Board, row: Row, column: Column) -> list[Any]:
    """Text, mean, the interval's ends, what it is over, whether no row is shown to be better, how many seeds."""
    cell: Cell = row.cells[column]
    between = cell.interval
    ends = [_number(between.low), _number(between.high), between.over] if between else [None, None, ""]
    return [board.text(row, column), _number(cell.mean), *ends, int(cell.best), len(cell.values)]


def _number(value: float) -> float | None:
    return float(f"{value:.7g}") if math.isfinite(value) else None


def _ranks(board: Board) -> dict[str, Any] | None:
    """Mean ranks over the ranked columns of the Overview, of the rows that have them all."""
    overview = next(iter(views(board)[0].shown.values()))
    columns = [column for column in overview if column.ranked]
    rows = [
        i
        for i, row in enumerate(board.rows)
        if all(c in row.cells and math.isfinite(row.cells[c].mean) for c in columns)
    ]
    signs = {column: -1 if column.higher_is_better else 1 for column in columns}
    ranks = mean_ranks([[signs[c] * board.rows[i].cells[c].mean for i in rows] for c in columns])
    if ranks is None:
        return None
    over = [board.headings[column] for column in columns]
    return {"rows": rows, "means": ranks.means, "critical": ranks.critical, "over": over}

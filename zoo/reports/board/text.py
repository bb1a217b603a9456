"""Boards as CSV, Markdown, LaTeX, and for the terminal."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo.reports.board.rows import Board, Column, Row, kind_mark, short
from zoo.reports.board.views import Table, place, tables, views
from zoo.texts import csv_cell

TERMINAL_COLUMNS = 4
HOW = (
    "Mean ± half of the 95 % interval: over seeds (t) from three on, else over test images where the standard error is "
    "known; else the mean alone. Bold: no row is shown to be better (Welch over seeds, corrected for the number of "
    "rows); a row of one seed takes no part in that. ↑ higher, ↓ lower is better."
)
LATEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "β": r"$\beta$"},
    **{character: f"\\{character}" for character in "{}$&#_%"},
    **{"[": "{[}", "*": "{*}"},  # behind the end of a line they would be its options
    **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "`": r"\textasciigrave{}"},
    **{"↑": r"$\uparrow$", "↓": r"$\downarrow$", "×": r"$\times$", "±": r"$\pm$", "…": r"\ldots{}", "σ": r"$\sigma$"},
}


def write_csv(boards: Sequence[Board], path: Path) -> None:
    """Write one line per row and metric, in full precision."""
    lines = [line for board in boards for row in board.rows for line in _csv_lines(board, row)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for line in lines for key in line)))
        writer.writeheader()
        writer.writerows({key: csv_cell(value) for key, value in line.items()} for line in lines)


def _csv_lines(board: Board, row: Row) -> Iterator[dict[str, Any]]:
    head = {"board": board.title, "dataset": board.dataset, "name": row.name, "variant": row.variant}
    head |= {"family": row.family, "options": row.options}
    tail = {"config_hash": row.runs[0].results.config_hash, "commit": row.commit, "made": row.made}
    tail |= {"older": row.older, "configs": " ".join(row.links.values())}
    for column in board.columns:
        if column in row.cells:
            cell = row.cells[column]
            numbers = {"view": place(column), "metric": column.name, "unit": column.unit, "mean": cell.mean}
            between = cell.interval
            numbers |= {"low": between.low, "high": between.high, "over": between.over} if between else {}
            numbers |= {"sd": cell.sd, "seeds": len(cell.values), "best": cell.best, "likelihood": column.kind}
            yield head | numbers | {k: v for k, v in vars(column).items() if k not in ("name", "unit")} | tail
    for comparison in row.comparisons:
        table, values = comparison.reference.table, comparison.reference.values
        for index, (published, ours) in enumerate(zip(values, comparison.ours, strict=True), 1):
            name = table.metric if len(values) == 1 else f"{table.metric} {index}"
            numbers = {"metric": name, "unit": table.unit, "mean": ours, "seeds": len(row.runs)}
            verdict = {"published": published, "within_tolerance": comparison.within, "source": table.source}
            yield head | numbers | {"protocol": table.protocol} | verdict | tail


def _head(board: Board, column: Column) -> str:
    return " ".join(filter(None, (board.headings[column], column.arrow, column.unit)))


def _missing(table: Table, row: Row, column: Column) -> str:
    """Say of which kind a row's likelihood is, in the first column where it lacks that of the table."""
    first = next((c for c in table.columns if c.kind), None)
    return "; ".join(map(kind_mark, row.kinds)) if column is first and column.kind not in row.kinds else ""


def _name(row: Row) -> str:
    return f"{row.name} (older)" if row.older else row.name


def _made(table: Table, row: Row) -> list[str]:
    """Day and commit, which stand where it is told what a row takes."""
    return [f"{row.made} {short(row.commit)}".strip()] * _says_when(table)


def _says_when(table: Table) -> bool:
    return table.title == "Cost"


# --- Markdown


def write_markdown(boards: Sequence[Board], path: Path) -> None:
    """Write a table for each view of each board, with its protocols below."""
    lines = ["# Leaderboard", "", HOW]
    for board in boards:
        lines += ["", f"## {_md(board.title)}"]
        for table in tables(board):
            lines += ["", f"### {_md(table.title)}", "", _md(table.about), "", *_md_table(board, table)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _md_table(board: Board, table: Table) -> Iterator[str]:
    published = board.compared and table.title == "Overview"
    heads = ["name", "seeds (configs)", *["made"] * _says_when(table), *(_head(board, c) for c in table.columns)]
    heads += ["published"] * published
    yield _md_row(map(_md, heads))
    yield _md_row(["---"] * len(heads))
    for row in table.rows:
        cells = [_md(_name(row)), ", ".join(f"[{seed}]({url})" for seed, url in row.links.items())]
        cells += map(_md, _made(table, row))
        for column in table.columns:
            text = board.text(row, column)
            if not text:
                missing = _missing(table, row, column)
                cells.append(f"*{_md(missing)}*" if missing else "")
            else:
                cells.append(f"**{text}**" if row.cells[column].best else text)
        if published:
            cells.append("; ".join(f"{'✓' if c.within else '✗'} {_md(str(c))}" for c in row.comparisons))
        yield _md_row(cells)
    yield ""
    yield from (f"- {_md(board.headings[column])}: {_md(column.about)}" for column in table.columns)


def _md(text: str) -> str:
    text = re.sub(r"[\\|*_<`\[#~$&]", r"\\\g<0>", text)
    return re.sub(r":(?=//)|(?<=www)\.", r"\\\g<0>", text, flags=re.IGNORECASE)  # or an address becomes a link


def _md_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


# --- LaTeX


def write_latex(boards: Sequence[Board], path: Path) -> None:
    """Write a table for each view of each board, in the manner of booktabs."""
    lines = [
        r"% \usepackage{booktabs} and \usepackage[utf8]{inputenc}; names in other than Latin letters want LuaLaTeX"
    ]
    for board in boards:
        for table in tables(board):
            lines += ["", *_tex_table(board, table)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _tex_table(board: Board, table: Table) -> Iterator[str]:
    yield r"\begin{table}"
    yield r"  \centering\small"
    yield f"  \\caption{{{_tex(f'{board.title}. {table.title}. {HOW}')}}}"
    made = ["made"] * _says_when(table)
    yield f"  \\begin{{tabular}}{{lr{'l' * len(made)}{'r' * len(table.columns)}}}"
    yield r"    \toprule"
    yield "    " + " & ".join(["name", "seeds", *made, *(_tex(_head(board, c)) for c in table.columns)]) + r" \\"
    yield r"    \midrule"
    for row in table.rows:
        cells = [_tex(_name(row)), str(len(row.seeds)), *map(_tex, _made(table, row))]
        for column in table.columns:
            text, missing = _tex(board.text(row, column)), _tex(_missing(table, row, column))
            if text:
                cells.append(f"\\textbf{{{text}}}" if row.cells[column].best else text)
            else:
                cells.append(f"\\emph{{{missing}}}" if missing else "")
        yield "    " + " & ".join(cells) + r" \\"
    yield r"    \bottomrule"
    yield r"  \end{tabular}"
    for column in table.columns:
        yield f"  \\par\\footnotesize {_tex(board.headings[column])}: {_tex(column.about)}"
    yield r"\end{table}"


def _tex(text: str) -> str:
    text = "".join(LATEX.get(character, character) for character in text)
    return re.sub("-(?=-)", "-{}", text)  # or two become a dash


# --- Terminal


def terminal_table(board: Board) -> str:
    """Return a board's foremost columns for reading in a terminal; a star where no row is shown to be better."""
    overview = next(iter(views(board)[0].shown.values()))
    columns = overview[:TERMINAL_COLUMNS]
    first = next((column for column in columns if column.ranked), None)
    lines = [["name", "seeds", *(_head(board, column) for column in columns)]]
    lines[0] += ["published"] if board.compared else []
    for row in board.sorted_by(first):
        texts = [board.text(row, column) for column in columns]
        stars = [text and row.cells[c].best for c, text in zip(columns, texts, strict=True)]
        line = [_name(row), str(len(row.seeds))]
        line += [f"{'*' if star else ''}{text}" for star, text in zip(stars, texts, strict=True)]
        line += [", ".join("within" if c.within else "outside" for c in row.comparisons)] if board.compared else []
        lines.append(line)
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    padded = [
        "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    return "\n".join([board.title, *(f"  {line}".rstrip() for line in padded)])

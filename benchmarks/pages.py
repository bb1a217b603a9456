"""A page per variant, from its code and the runs of leaderboards: `python -m benchmarks.pages FOLDER...`.

Writes `docs/variants/NAME.md` (equation, departures, options, logged terms, command, numbers, pictures) for every
registered variant, and an index.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from zoo.base import VARIANTS
from zoo.documentation import Documentation, document
from zoo.errors import UserError
from zoo.files import CONFIG_FILE
from zoo.reports.board.pictures import PICTURES, link, picture_file
from zoo.reports.board.reading import build_boards, find_runs
from zoo.reports.board.rows import Board, Column, Row

INDEX_METRICS = ("fd_lenet", "fd_lenet@gmm10", "nll", "elbo", "psnr")
HEAD = "<!-- written by `python -m benchmarks.pages`: edit the variant's own file instead -->"


def page_texts(results: Sequence[Path], out: Path) -> dict[str, str]:
    """Return the text of a page for each registered variant, and of `README.md`, the index, by file name.

    Args:
        results: The folders of published leaderboards, the index's first.
        out: Where the pages will lie: links count from there.

    Raises:
        UserError: if there is no run below one of `results`.
    """
    boards = [(board, link(folder, out)) for folder in results for board in build_boards(find_runs(folder)[0], [])]
    for row in (row for board, _ in boards for row in board.rows):
        row.links = {run.results.seed: link(run.folder / CONFIG_FILE, out) for run in row.runs}
    pages = [document(entry.name) for entry in VARIANTS]
    texts = {f"{page.name}.md": page_text(page, boards, out) for page in pages}
    first = link(results[0], out)
    return texts | {"README.md": index_text(pages, [board for board, folder in boards if folder == first], first)}


def page_text(page: Documentation, boards: Sequence[tuple[Board, str]], out: Path) -> str:
    """Write one variant's page, from boards and where each of them lies."""
    lines = [HEAD, "", f"# `{page.name}`", ""]
    lines += [f"*{page.about}*", ""] if page.about else []
    lines += [_linked(page.title), "", _linked(page.body), ""]
    if page.departures:
        lines += ["## Departures from the paper", "", _linked(page.departures[0].upper() + page.departures[1:]), ""]
    lines += ["## Options", "", "| option | default | values | meaning |", "| --- | --- | --- | --- |"]
    lines += [f"| `{o.name}` | `{o.default}` | {_cell(o.kind)} | {_cell(o.about)} |" for o in page.options]
    lines += ["", "## Logged terms", "", "| term | meaning |", "| --- | --- |"]
    lines += [f"| `{term}` | {_cell(meaning)} |" for term, meaning in page.terms.items()]
    mine = [(board, row, results) for board, results in boards for row in board.rows if row.variant == page.name]
    for board, row, results in mine:
        lines += ["", f"## On {board.title}{f', {row.options}' if row.options else ''}", ""]
        lines += _numbers(board, row, results)
        lines += ["", "```sh", row.runs[0].results.command, "```"]
        for kind, name in PICTURES.items():
            picture = picture_file(row.runs[0].folder, name)
            lines += ["", f"![{kind} of {row.name}]({link(picture, out)})"] if picture.is_file() else []
    return "\n".join(lines) + "\n"


def _numbers(board: Board, row: Row, results: str) -> list[str]:
    results_of = row.runs[0].results
    seeds = ", ".join(f"[{seed}]({url})" for seed, url in row.links.items())
    lines = [
        f"{results_of.steps:,} steps of {results_of.batch_size} images, {results_of.latent_dim} latent dimensions, "
        f"{results_of.parameters:,} parameters; seeds (and configs) {seeds}; protocols and all other variants on the "
        f"[leaderboard]({results}/leaderboard.md).",
        "",
        "| metric | mean ± half of its 95 % interval | rank |",
        "| --- | --- | --- |",
    ]
    for column in board.columns:
        if column in row.cells and not column.is_cost:
            lines.append(f"| {_heading(board, column)} | {board.text(row, column)} | {_rank(board, row, column)} |")
    return lines


def _heading(board: Board, column: Column) -> str:
    return " ".join(filter(None, (board.headings[column], column.arrow, column.unit)))


def _rank(board: Board, row: Row, column: Column) -> str:
    if not column.ranked:
        return ""
    means = [other.cells[column].mean for other in board.rows if column in other.cells]
    mine = row.cells[column].mean
    better = sum(mean > mine if column.higher_is_better else mean < mine for mean in means)
    return f"{better + 1} of {len(means)}"


def index_text(pages: Sequence[Documentation], boards: Sequence[Board], results: str) -> str:
    """Write the index: every variant, its paper, and its main numbers."""
    lines = [HEAD, "", "# Variants", ""]
    lines += [
        f"Numbers are those of the [leaderboard]({results}/leaderboard.md), which states their protocols; of each "
        "metric, those of the protocol that most variants share. The others stand on the variants' pages.",
        "",
    ]
    board = max(boards, key=lambda board: len(board.rows))
    columns = [
        next(c for c in board.columns if c.name == name)
        for name in INDEX_METRICS
        if name in {c.name for c in board.columns}
    ]
    heads = ["name", "what it is", *(_heading(board, column) for column in columns)]
    lines += [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    for page in pages:
        row = next((row for row in board.rows if row.variant == page.name), None)
        numbers = ["" if row is None else board.text(row, column) for column in columns]
        what = _linked(page.title) + (f" Here: {page.about}" if page.about else "")
        lines.append(f"| [`{page.name}`]({page.name}.md) | {_cell(what)} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def _linked(text: str) -> str:
    """Turn the names of papers into links, and keep an indented equation as it is."""
    text = re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
    return re.sub(r"(?<![/\w(])((?:openreview\.net|papers\.nips\.cc)/[\w/?=.&-]*[\w])", r"[\1](https://\1)", text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pages; exit code 2 where there are no runs."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.pages",
        description="Write a page per variant and an index, from the variants' files and the runs of leaderboards.",
    )
    parser.add_argument("results", type=Path, nargs="+", help="folders of published leaderboards, the index's first")
    parser.add_argument("--out", type=Path, default=Path("docs/variants"), help="folder to write (default %(default)s)")
    arguments = parser.parse_args(argv)
    try:
        texts = page_texts(arguments.results, arguments.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (arguments.out / name).write_text(text, encoding="utf-8")
    print(f"{len(texts)} pages in {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

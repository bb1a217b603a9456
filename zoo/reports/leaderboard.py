"""Tables and plots of finished runs: `python run.py leaderboard runs/ --out leaderboard`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from zoo.errors import UserError, warn
from zoo.reports.board.figures import write_figures
from zoo.reports.board.page import write_html
from zoo.reports.board.pictures import add_files
from zoo.reports.board.reading import build_boards, find_runs
from zoo.reports.board.text import terminal_table, write_csv, write_latex, write_markdown
from zoo.reports.reference import load_references
from zoo.texts import printable, without_places


def write(folder: Path, out: Path, formats: Sequence[str] = ()) -> None:
    """Write leaderboard.html, .md, .csv and .tex from the finished runs below a folder.

    Args:
        folder: Searched with all its subfolders.
        out: Folder to write.
        formats: Of files that every plot is written to as well: "svg", "pdf".

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
    write_latex(boards, out / "leaderboard.tex")
    write_html(boards, [without_places(printable(problem)) for problem in problems], out / "leaderboard.html")
    if formats:
        write_figures(boards, formats, out)
    for problem in problems:
        warn(problem)
    print("\n\n".join(terminal_table(board) for board in boards))
    print(
        "\nmean ± half of the 95 % interval, * no row is shown to be better; all views, pictures and plots in "
        f"{printable(out / 'leaderboard.html')}"
    )

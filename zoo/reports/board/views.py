"""What a board is asked: each view is a question, with the few columns that answer it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.reports.board.rows import LIKELIHOOD, Board, Column, Row

MOST_COLUMNS = 8  # of a view, with the row's name and its seeds
MOST_METRICS = MOST_COLUMNS - 2
QUESTIONS = {
    "Overview": "The foremost numbers of each view.",
    "Samples": "Do its samples look like the data?",
    "Reconstruction": "How much of an image comes back?",
    "Likelihood": "How probable are test images? Of one kind of likelihood at a time: no two kinds compare.",
    "Representation": "What do its latents hold?",
    "Cost": "What does it take?",
    "Other": "What else was measured.",
}
# By the metric's name, up to an @ with the sampler behind it.
NAMES = {
    "Samples": re.compile(
        r"fid|fid_infinity|authpct(_\w+)?|kid|fd_\w+|kd_\w+|inception_score|(precision|recall|density|coverage)(_\w+)?"
    ),
    "Reconstruction": re.compile(r"psnr|ssim|ms_ssim|mse|lpips|perceptual_\w+|rfid|rfd_\w+"),
    "Likelihood": re.compile(f"{LIKELIHOOD.pattern}|kl|recon"),
    "Representation": re.compile(
        r"active_units|kl_per_dim_\w+|mutual_information|marginal_kl|latent_\w+|effective_rank|linear_probe|equivariance"
        r"|codebook_\w+|mig|sap|dci_\w+|modularity|\w+_vae_score"
    ),
}
FOREMOST = {"Samples": 2, "Reconstruction": 1, "Likelihood": 1, "Representation": 1, "Cost": 1, "Other": 1}


@dataclass(frozen=True)
class View:
    """A question.

    Attributes:
        name: "Samples".
        about: The question in words.
        columns: That belong to it, the foremost first.
        shown: Those that are shown at first, six at most, for each kind of likelihood; "" if the board has none.
    """

    name: str
    about: str
    columns: list[Column]
    shown: dict[str, list[Column]]


def place(column: Column) -> str:
    """Return the name of the view that a column belongs to."""
    if column.is_cost:
        return "Cost"
    name = column.name.partition("@")[0]
    return next((view for view, names in NAMES.items() if names.fullmatch(name)), "Other")


def kinds(board: Board) -> list[str]:
    """Return the kinds of likelihood that there are, that of most rows first."""
    held = {kind: sum(kind in row.kinds for row in board.rows) for kind in {c.kind for c in board.columns if c.kind}}
    return sorted(held, key=lambda kind: (-held[kind], kind))


def views(board: Board) -> list[View]:
    """Return the views that have something to show, Overview first."""
    by_view: dict[str, list[Column]] = {name: [] for name in QUESTIONS}
    for column in board.columns:
        by_view[place(column)].append(column)
    found = []
    for name, columns in by_view.items():
        if columns:
            shown = {kind: _foremost(board, columns, kind) for kind in kinds(board) or [""]}
            found.append(View(name, QUESTIONS[name], columns, shown))
    first = {
        kind: [column for view in found for column in view.shown[kind][: FOREMOST[view.name]]][:MOST_METRICS]
        for kind in kinds(board) or [""]
    }
    return [View("Overview", QUESTIONS["Overview"], board.columns, first), *found]


def _foremost(board: Board, columns: Sequence[Column], kind: str) -> list[Column]:
    """Return the first columns that at least half of the rows have: half of those that have this kind of likelihood."""
    able = [row for row in board.rows if kind in row.kinds] or board.rows

    def share(column: Column) -> float:
        rows = able if column.kind else board.rows
        return sum(column in row.cells for row in rows) / len(rows)

    possible = [column for column in columns if column.kind in ("", kind)]
    possible = [column for column in possible if column.kind] or possible  # what a likelihood is made of, is in it
    frequent = [column for column in possible if share(column) >= 0.5]
    return (frequent or possible[:1])[:MOST_METRICS]


@dataclass(frozen=True)
class Table:
    """A view as it is printed.

    Attributes:
        title: The view's name, and of which kind its likelihood is.
        about: The question in words.
        columns: Six at most.
        rows: Sorted by the first column that ranks.
    """

    title: str
    about: str
    columns: list[Column]
    rows: list[Row]


def tables(board: Board) -> list[Table]:
    """Return every view as a table; Likelihood once for each kind that two rows have, or one where there is but one."""
    found = []
    for view in views(board):
        split = view.name == "Likelihood"
        for number, (kind, columns) in enumerate(view.shown.items()):
            first = next((column for column in columns if column.ranked), None)
            rows = [row for row in board.sorted_by(first) if not split or kind in row.kinds]
            if number == 0 or (split and len(rows) > 1):
                found.append(Table(f"{view.name}: {kind}" if split else view.name, view.about, columns, rows))
    return found

"""Whether published orderings hold in a board's runs: `python -m benchmarks.orderings benchmarks/results/zoo/runs`.

Each claim is compared seed by seed, between runs of the same seed; it holds if it holds for every seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import UserError
from zoo.reports.board.reading import find_runs
from zoo.reports.reference import Run


@dataclass(frozen=True)
class Ordering:
    """A claim that one number is lower than another.

    Attributes:
        claim: In words, with its paper.
        lower: Run and row of `results.json` that should be lower; the run's folder is named `<run>_<data>_<seed>`.
        higher: Those that should be higher.
    """

    claim: str
    lower: tuple[str, str]
    higher: tuple[str, str]


ORDERINGS = (
    Ordering("50 importance samples predict better than 1 (Burda 2015, table 1)", ("iwae50", "nll"), ("mlp", "nll")),
    Ordering("VampPrior predicts better than N(0, I) (Tomczak 2018, table 1)", ("vamp", "nll"), ("mlp", "nll")),
    Ordering(
        "an autoencoder's mixture of ten Gaussians samples better than N(0, I) (Ghosh 2020, table 1)",
        ("ae", "fd_lenet@gmm10"),
        ("ae", "fd_lenet"),
    ),
    Ordering(
        "learned σ samples better than σ = 1 (Rybkin 2021, table 1)",
        ("sigma_shared", "fd_lenet"),
        ("mse_unit", "fd_lenet"),
    ),
)


@dataclass(frozen=True)
class Verdict:
    """What the runs say of a claim: by seed, the number that should be lower and the one that should be higher."""

    ordering: Ordering
    pairs: dict[int, tuple[float, float]]

    @property
    def holds(self) -> bool:
        """Whether it holds for every seed."""
        return all(lower < higher for lower, higher in self.pairs.values())

    def __str__(self) -> str:
        name = " < ".join(f"{run} {row}" for run, row in (self.ordering.lower, self.ordering.higher))
        numbers = ", ".join(f"{a:.2f} < {b:.2f}" if a < b else f"{a:.2f} NOT < {b:.2f}" for a, b in self.pairs.values())
        return f"{'holds' if self.holds else 'FAILS'}  {self.ordering.claim}\n       {name}: {numbers}"


def judge(runs: Sequence[Run], ordering: Ordering) -> Verdict:
    """Compare what a claim names.

    Raises:
        UserError: if no seed has both numbers.
    """

    def numbers(name: str, row: str) -> dict[int, float]:
        named = [run for run in runs if run.folder.name == f"{name}_{run.results.dataset}_{run.results.seed}"]
        return {run.results.seed: run.results.metrics[row].value for run in named if row in run.results.metrics}

    lower, higher = numbers(*ordering.lower), numbers(*ordering.higher)
    pairs = {seed: (lower[seed], higher[seed]) for seed in sorted(lower.keys() & higher.keys())}
    if not pairs:
        raise UserError(f"no seed has both {' '.join(ordering.lower)} and {' '.join(ordering.higher)}")
    return Verdict(ordering, pairs)


def main(argv: Sequence[str] | None = None) -> int:
    """Print each claim with its numbers; exit code 1 if one fails, 2 if the runs lack what it takes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.orderings", description="Say whether published orderings hold in a board's runs."
    )
    parser.add_argument("runs", type=Path, help="runs of configs/suites/zoo.yaml: runs/zoo, or the published copies")
    arguments = parser.parse_args(argv)
    try:
        runs, _ = find_runs(arguments.runs)
        verdicts = [judge(runs, ordering) for ordering in ORDERINGS]
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(map(str, verdicts)))
    return 0 if all(verdict.holds for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Commands that measure runs, and compare what was measured."""

from __future__ import annotations

import argparse


def run_evaluate(arguments: argparse.Namespace) -> int:
    """Measure what a trained run lacks, and draw its pictures."""
    from zoo.evaluation import evaluate_run

    overrides = arguments.overrides
    if arguments.inception_weights is not None:
        overrides = [*overrides, f"benchmark.inception_weights={arguments.inception_weights.resolve()}"]
    evaluate_run(
        arguments.run, overrides, arguments.again, arguments.plugin, arguments.trust_plugins, arguments.checkpoint
    )
    return 0


def run_leaderboard(arguments: argparse.Namespace) -> int:
    """Write the leaderboard of finished runs."""
    from zoo.reports.leaderboard import write

    write(arguments.runs, arguments.out, arguments.format)
    return 0


def run_compare(arguments: argparse.Namespace) -> int:
    """Compare two configs number by number."""
    from zoo.reports.board.compare import compare

    print(compare(arguments.run_a, arguments.run_b))
    return 0


def run_reference(arguments: argparse.Namespace) -> int:
    """Compare one run with what is published; exit code 0 if all is within tolerance, 1 if not."""
    from zoo.reports.reference import compare_run

    return 0 if compare_run(arguments.run) else 1


def run_papers(arguments: argparse.Namespace) -> int:
    """List published rows beside what was obtained, or run one; exit code 1 if it is not within what is allowed."""
    from zoo.reports import papers

    if arguments.name is None:
        print(papers.show())
        return 0
    return papers.run(arguments.name, arguments.overrides)

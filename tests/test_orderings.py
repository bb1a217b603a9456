"""Published orderings, and whether the committed runs show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import orderings
from benchmarks.orderings import ORDERINGS, Ordering, judge
from tests.runs import ROOT
from zoo.errors import UserError
from zoo.records import Metric, Results
from zoo.reports.leaderboard import find_runs
from zoo.reports.reference import Run

RUNS = ROOT / "benchmarks" / "results" / "zoo" / "runs"


def a_run(name: str, seed: int, **metrics: float) -> Run:
    common: dict[str, Any] = {"unit": "nats", "protocol": "", "n": 1, "split": "test"}
    results = Results(
        variant=name,
        dataset="toy",
        image=(1, 8, 8),
        seed=seed,
        config_hash="",
        metrics={key: Metric(value=value, **common) for key, value in metrics.items()},
    )
    return Run(Path(f"{name}_toy_{seed}"), results, {})


CLAIM = Ordering("a is below b", ("a", "nll"), ("b", "nll"))


def test_a_claim_holds_if_it_holds_for_every_seed() -> None:
    runs = [a_run("a", 0, nll=1.0), a_run("b", 0, nll=2.0), a_run("a", 1, nll=3.0), a_run("b", 1, nll=3.5)]
    assert judge(runs, CLAIM).holds
    assert judge(runs, CLAIM).pairs == {0: (1.0, 2.0), 1: (3.0, 3.5)}
    assert "holds  a is below b" in str(judge(runs, CLAIM))
    failing = judge([*runs, a_run("a", 2, nll=4.0), a_run("b", 2, nll=4.0)], CLAIM)
    assert not failing.holds and "4.00 NOT < 4.00" in str(failing)


def test_seeds_are_compared_with_themselves() -> None:
    runs = [a_run("a", 0, nll=1.0), a_run("b", 1, nll=2.0), a_run("b", 0, psnr=2.0)]
    with pytest.raises(UserError, match="no seed has both a nll and b nll"):
        judge(runs, CLAIM)


def test_the_committed_runs_show_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert orderings.main([str(RUNS)]) == 0
    assert capsys.readouterr().out.count("holds") == len(ORDERINGS) >= 4
    assert all(len(judge(find_runs(RUNS)[0], ordering).pairs) >= 3 for ordering in ORDERINGS)

"""How sure a board is: intervals, ties and differences on simulated runs, and against other implementations."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pytest
import torch
from scipy import stats

from zoo.commands import main
from zoo.engine.validation import standard_error
from zoo.metrics import fid
from zoo.metrics.core import mean_score
from zoo.metrics.kid import kernel_distance
from zoo.records import Metric, Results
from zoo.reports.board.reading import build_boards
from zoo.reports.board.rows import Board
from zoo.reports.board.statistics import difference, holm, interval, mean_ranks, not_shown_worse
from zoo.reports.reference import Run

BOARDS = 1000


def simulated(truth: dict[str, float], seeds: int, chance: np.random.Generator) -> Board:
    """A board of runs whose numbers lie around a known truth, each row with a spread of its own."""
    runs = []
    for number, (name, mean) in enumerate(truth.items()):
        for seed, value in enumerate(mean + (1 + number) * chance.standard_normal(seeds)):
            metric = Metric(value=float(value), higher_is_better=True)
            results = Results(
                variant=name, dataset="made up", image=(1, 8, 8), seed=seed, config_hash=name, metrics={"m": metric}
            )
            runs.append(Run(Path(f"{name}_{seed}"), results, {"model.name": name}))
    (board,) = build_boards(runs, [])
    return board


@pytest.mark.parametrize("seeds", [3, 10])
def test_intervals_hold_the_truth_and_ties_are_ties(seeds: int) -> None:
    """As often as is promised: 93 to 97 % of intervals; a tie is called one in 95 % of pairs, but for chance."""
    chance = np.random.default_rng(seeds)
    held, ties = [], 0
    for _ in range(BOARDS):
        board = simulated({"a": 5.0, "b": 5.0}, seeds, chance)
        cells = [cell for row in board.rows for cell in row.cells.values()]
        for between in (cell.interval for cell in cells):
            assert between is not None
            held.append(between.low <= 5 <= between.high)
        ties += all(cell.best for cell in cells)
    assert 0.93 <= fmean(held) <= 0.97
    assert ties / BOARDS >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / BOARDS)


def test_a_difference_of_three_standard_errors_is_found() -> None:
    """In four boards of five, with sixteen seeds; with three seeds Welch's test has not the degrees of freedom."""
    chance, seeds = np.random.default_rng(0), 16
    apart = 3 * math.sqrt((1 + 2**2) / seeds)  # the rows' standard deviations are 1 and 2
    found = 0
    for _ in range(BOARDS):
        board = simulated({"better": apart, "worse": 0.0}, seeds, chance)
        best = {row.name: cell.best for row in board.rows for cell in row.cells.values()}
        found += best == {"better": True, "worse": False}
    assert found / BOARDS >= 0.8


def test_with_many_equal_rows_the_best_is_seldom_denied() -> None:
    """The correction for the number of rows holds: all are the best, and each is called so nearly always."""
    chance = np.random.default_rng(3)
    wrong = 0
    for _ in range(200):
        wrong += not_shown_worse(chance.standard_normal((20, 4)).tolist(), higher_is_better=False).count(False)
    assert wrong / (200 * 20) < 0.05


def test_a_row_that_spreads_wider_than_others_is_not_denied_for_that() -> None:
    """Nine rows of spread 1 and one of 6, all of them equal; and with it nine rows of a single seed."""
    chance = np.random.default_rng(5)
    denied = 0
    for _ in range(BOARDS):
        rows = [*(chance.standard_normal(3) for _ in range(9)), 6 * chance.standard_normal(3)]
        rows += [chance.standard_normal(1) for _ in range(9)]
        good = not_shown_worse([row.tolist() for row in rows], higher_is_better=True)
        denied += not good[9]
        assert not any(good[10:])
    assert denied / BOARDS <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / BOARDS)


@pytest.mark.parametrize("counts", [(3, 1), (1, 2), (3, 3)])
def test_equal_rows_differ_as_seldom_as_is_promised_whatever_their_seeds(counts: tuple[int, int]) -> None:
    """Test images are the same for all seeds, and their error says nothing of how seeds spread."""
    chance = np.random.default_rng(counts)
    found = [
        difference(
            *(chance.standard_normal(n).tolist() for n in counts), errors=([0.01] * counts[0], [0.01] * counts[1])
        )
        for _ in range(BOARDS)
    ]
    ps = [d.p for d in found if d is not None and d.over == "seeds"]
    assert len(ps) == BOARDS
    assert np.mean(np.array(ps) < 0.05) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / BOARDS)
    held = np.mean([d.low <= 0 <= d.high for d in found if d is not None])
    assert held >= 0.95 - 2 * math.sqrt(0.05 * 0.95 / BOARDS)


def test_no_spread_over_a_few_seeds_is_no_certainty() -> None:
    few, many = difference([20.0] * 3, [20.001] * 3), difference([20.0] * 5, [20.001] * 5)
    assert few is not None and few.p == pytest.approx(2 / math.comb(6, 3)) and few.low == few.high
    assert many is not None and many.p == pytest.approx(2 / math.comb(10, 5))
    same = difference([20.0] * 3, [20.0] * 3)
    assert same is not None and same.p == 1
    assert not_shown_worse([[20.0] * 3, [20.001] * 3], True) == [True, True]
    assert not_shown_worse([[20.0] * 5, [20.001] * 5], True) == [False, True]
    for value in (0.1, 0.7, 7.7, 123.456):  # whose sums are off by a last digit
        equal = difference([value] * 3, [value] * 10)
        assert equal is not None and equal.value == 0 and equal.p == 1
        assert not_shown_worse([[value] * 3, [value] * 5, [value] * 10], True) == [True] * 3
    rounded = difference([0.3, 0.1 + 0.2, 0.3], [0.31] * 3)
    assert rounded is not None and rounded.p == pytest.approx(0.1)
    assert not_shown_worse([[1e80, 2e80, 3e80], [1.1e80, 2.2e80, 3e80]], True) == [True, True]
    assert not_shown_worse([[math.inf] * 3, [20.0] * 3], True) == [False, False]  # nothing to be compared with


def test_the_numbers_are_scipys() -> None:
    a, b = [1.0, 2.0, 4.0], [3.0, 3.5, 5.0, 9.0]
    found = difference(a, b)
    pooled = difference(a, b[:1])
    students = stats.ttest_ind(a, b[:1])  # a single value adds no degree of freedom
    assert pooled is not None and pooled.p == pytest.approx(students.pvalue, rel=1e-9)
    theirs = stats.ttest_ind(a, b, equal_var=False)
    assert found is not None and found.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)), rel=1e-9)
    between = interval(b)
    expected = stats.t.interval(0.95, 3, fmean(b), stdev(b) / 2)
    assert between is not None and (between.low, between.high) == pytest.approx(expected, rel=1e-9)


def test_holm_stops_at_the_first_that_may_be_chance() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == [True, False, False, True]
    assert holm([0.001, 0.02, 0.03]) == [True, True, True]
    assert holm([]) == []


def test_mean_ranks_and_their_critical_difference_are_demsars() -> None:
    """Demšar 2006, table 6 and section 3.2.2: four classifiers, fourteen data sets, CD = 2.569 sqrt(4·5/(6·14))."""
    blocks = [[1.0, 2.0, 3.0, 4.0]] * 13 + [[2.0, 2.0, 1.0, 4.0]]
    ranks = mean_ranks(blocks)
    assert ranks is not None and ranks.critical == pytest.approx(1.25, abs=0.005)
    assert ranks.means == pytest.approx([(13 + 2.5) / 14, (26 + 2.5) / 14, (39 + 1) / 14, 4])
    assert mean_ranks(blocks[:1]) is None
    many = mean_ranks([[float(i) for i in range(40)]] * 5)
    q = stats.studentized_range.ppf(0.95, 40, math.inf)
    assert many is not None and many.critical == pytest.approx(q * math.sqrt(40 * 41 / (2 * 6 * 5)), rel=1e-4)


def test_scores_know_their_standard_error() -> None:
    """Means over images, means of batches, Fréchet and kernel distances: all against many draws anew."""
    torch.manual_seed(0)
    values = torch.randn(400) * 3
    score = mean_score(values, "", True, "")
    assert score.se == pytest.approx(3 / 20, rel=0.1) and score.value == pytest.approx(values.mean().item(), abs=1e-6)
    assert mean_score(values[:1], "", True, "").se is None
    errors = [
        standard_error([(50, {"x": float(v.mean())}) for v in draw.split(50)], {"x": 2.0})
        for draw in torch.randn(200, 600).unbind()
    ]
    assert fmean(e for e in errors if e is not None) == pytest.approx(2 / math.sqrt(600), rel=0.1)
    assert standard_error([(50, {"x": 1.0})] * 7, {"x": 1.0}) is None


def test_the_error_of_a_frechet_distance_is_that_of_drawing_anew() -> None:
    torch.manual_seed(0)
    draws = [(torch.randn(400, 4), torch.randn(400, 4) + 1) for _ in range(60)]
    spread = stdev(fid.frechet_distance(*draw) for draw in draws)
    errors = [error for draw in draws[:20] if (error := fid.standard_error(*draw)) is not None]
    assert fmean(errors) == pytest.approx(spread, rel=0.3)
    assert fid.standard_error(torch.randn(39, 4), torch.randn(400, 4)) is None


def test_two_configs_are_compared_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.test_leaderboard import elbo, write_run

    for seed in range(3):
        more = {"psnr": {"value": 20.0 + seed, "higher_is_better": True, "unit": "dB"}}
        write_run(tmp_path / f"good_digits_{seed}", "good", seed, elbo(-10.0 - seed / 100) | more)
        write_run(tmp_path / f"bad_digits_{seed}", "bad", seed, elbo(-20.0 - seed / 100) | more)
    write_run(tmp_path / "once", "once", 0, elbo(-15.0, se=0.1))
    write_run(tmp_path / "again", "again", 0, elbo(-15.1, se=0.1))
    assert main(["compare", str(tmp_path / "bad_digits_1"), str(tmp_path / "good_digits_0")]) == 0
    said = capsys.readouterr().out
    assert "bad (seeds 0, 1, 2)" in said and "elbo: good is better than bad, by 9.98 to 10.02 nats." in said
    assert "psnr: not told apart; the truth may lie anywhere from -2.27 to +2.27." in said
    assert main(["compare", str(tmp_path / "once"), str(tmp_path / "again")]) == 0
    said = capsys.readouterr().out
    assert "elbo: not told apart" in said and "how much another seed would differ is not known" in said
    assert main(["compare", str(tmp_path / "once"), str(tmp_path / "good_digits_0")]) == 0
    said = capsys.readouterr().out
    assert "elbo: good is better than once" in said and "the other's spread over seeds is taken for its own" in said
    assert "not known" not in said


def test_what_cant_be_compared_is_said_once_with_its_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.test_leaderboard import write_run

    for name, value in (("a", 1.0), ("b", 2.0)):
        rows = {f"m{i}": {"value": value, "higher_is_better": True} for i in range(3)}
        rows["endless"] = {"value": math.inf if name == "a" else value, "higher_is_better": True}
        write_run(tmp_path / name, name, 0, rows)
        for seed in range(3):
            write_run(
                tmp_path / f"{name * 2}_{seed}", name * 2, seed, {"flat": {"value": value, "higher_is_better": True}}
            )
        for seed in range(6):
            rows = {
                "flat": {"value": value, "higher_is_better": True},
                "same": {"value": 4.0, "higher_is_better": True},
            }
            rows["large"] = {"value": 5000 + value / 100 + seed / 1e5, "higher_is_better": True, "unit": "nats"}
            if seed == 0 or name == "b":
                rows["seldom"] = {"value": value + seed / 10, "higher_is_better": False}
            write_run(tmp_path / f"{name * 3}_{seed}", name * 3, seed, rows)
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert (
        "m0, m1, m2: nothing follows, as neither has a second seed of it, nor both a standard error to go by." in said
    )
    assert "endless: nothing follows, as a value is not finite." in said
    assert main(["compare", str(tmp_path / "aa_0"), str(tmp_path / "bb_0")]) == 0
    said = capsys.readouterr().out
    assert "flat: not told apart: no seed moves either, and there are too few for that to tell." in said
    assert "0.100" in said  # how often chance parts three and three
    assert main(["compare", str(tmp_path / "aaa_0"), str(tmp_path / "bbb_0")]) == 0
    said = capsys.readouterr().out
    assert (
        "flat: bbb is better than aaa, by 1 in every seed." in said and "same: the same in both, in every seed." in said
    )
    assert "large: bbb is better than aaa, by 0.01 to 0.01 nats." in said and "-0.01 (-0.01 to -0.01)" in said
    assert "Where one has a single seed" in said  # of "seldom"


def test_a_config_and_itself_are_no_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.test_leaderboard import elbo, write_run

    for seed in range(2):
        write_run(tmp_path / f"bad_digits_{seed}", "bad", seed, elbo(-20.0 - seed / 100))
    assert main(["compare", str(tmp_path / "bad_digits_1"), str(tmp_path / "bad_digits_0")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_error_of_a_kernel_distance_follows_from_its_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.metrics import kid

    monkeypatch.setattr(kid, "SUBSET_SIZE", 60)
    draw = torch.Generator().manual_seed(0)  # kernel_distance seeds torch's own
    pairs = [[torch.randn(240, 8, generator=draw) + mean for mean in (0, 1)] for _ in range(25)]
    found = [kernel_distance(*pair) for pair in pairs]
    estimated = fmean(spread for _, spread in found) * math.sqrt(60 / (240 - 60))
    assert estimated == pytest.approx(stdev(mean for mean, _ in found), rel=0.5)

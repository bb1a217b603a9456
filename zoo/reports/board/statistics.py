"""How sure a board is of its numbers: intervals, ties, and mean ranks. Everything at 95 %.

An interval speaks of what another seed would give where there are three seeds or more (Student's t). With fewer it
speaks of what other test images would give, by the standard error that a run's results hold; with neither there is
none.

A row of two seeds or more is *shown worse* if another such row has a better mean, and the difference is no chance:
Welch's test over seeds (Welch 1947, Biometrika 34), two-sided, against each other row of the column, with Holm's
correction (1979, Scand. J. Statist. 6), of which one rejection needs the first step alone: the smallest p-value times
the number of tests. So the true best of them is among those not shown worse with at least 95 % (Hsu 1984, Ann. Statist.
12). A row of one seed has no spread of its own, and takes no part.

Where no seed moves either of two numbers, their spread is not known to be nothing: it is asked how often chance would
part as many values as cleanly, which is 10 % for three seeds each, and 3 % for four.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

LEVEL = 0.95
LEAST_SEEDS = 3  # for an interval over seeds
ROUNDING = 1e-12  # of a number: what moves it by less than that part is no spread


@dataclass(frozen=True)
class Interval:
    """From where to where a number may lie, with 95 % confidence.

    Attributes:
        low: Its lower end.
        high: Its upper end.
        over: What varies: "seeds" or "images".
    """

    low: float
    high: float
    over: str

    @property
    def half(self) -> float:
        """Half of its width."""
        return (self.high - self.low) / 2


def interval(values: Sequence[float], errors: Sequence[float | None] = ()) -> Interval | None:
    """Return the interval of a mean over seeds; None where nothing tells how sure it is, or nothing varies.

    Args:
        values: One a seed.
        errors: The standard error of each over test images, or resampled ones, where it is known. All seeds are scored
            by the same images, so that more of them make these errors no smaller.
    """
    from scipy.special import ndtri, stdtrit

    if not values or not all(map(math.isfinite, values)):
        return None
    mean, above = fmean(values), (1 + LEVEL) / 2
    known = [error for error in errors if error is not None and math.isfinite(error)]
    if len(values) >= LEAST_SEEDS:
        if len(set(values)) == 1:  # a count that no seed moves
            return None
        half, over = float(stdtrit(len(values) - 1, above)) * stdev(values) / math.sqrt(len(values)), "seeds"
    elif len(known) == len(values) and any(known):
        half, over = float(ndtri(above)) * fmean(known), "images"
    else:
        return None
    return Interval(mean - half, mean + half, over)


@dataclass(frozen=True)
class Difference:
    """Of two means, the first minus the second.

    Attributes:
        value: The difference.
        low: Lower end of its interval.
        high: Upper end of its interval.
        p: How often chance alone gives one as large, two-sided.
        over: What varies: "seeds" or "images".
    """

    value: float
    low: float
    high: float
    p: float
    over: str


def difference(
    a: Sequence[float], b: Sequence[float], errors: tuple[Sequence[float | None], Sequence[float | None]] = ((), ())
) -> Difference | None:
    """Compare two rows: over seeds where either has two or more, else over test images by their standard errors.

    Of two rows with seeds, this is Welch's test. Where one has a single seed, the other's spread is taken for its own
    too (Student's test). Over images, the two are taken as independent: as they are scored by the same ones, that errs
    on the safe side.

    Returns:
        None where neither is possible.
    """
    from scipy.special import ndtr, ndtri, stdtrit

    if not a or not b or not all(map(math.isfinite, (*a, *b))):
        return None
    value = _mean(a) - _mean(b)
    if len(a) > 1 or len(b) > 1:
        s, t = (_variance(x if len(x) > 1 else y) for x, y in ((a, b), (b, a)))
        tested = _over_seeds(*(np.array([number], float) for number in (value, len(a), s, len(b), t)))
        p, error, df = (float(part[0]) for part in tested)
        half = float(stdtrit(df, (1 + LEVEL) / 2)) * error if error > 0 else 0.0
        return Difference(value, value - half, value + half, p, "seeds")
    known = [[e for e in of_row if e is not None and math.isfinite(e)] for of_row in errors]
    if not all(known) or not any(known[0] + known[1]):
        return None
    error = math.hypot(fmean(known[0]), fmean(known[1]))
    half = float(ndtri((1 + LEVEL) / 2)) * error
    return Difference(value, value - half, value + half, 2 * float(ndtr(-abs(value) / error)), "images")


def holm(ps: Sequence[float]) -> list[bool]:
    """Say which of several p-values are no chance, with Holm's correction for their number."""
    rejected = [False] * len(ps)
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        if ps[i] * (len(ps) - rank) >= 1 - LEVEL:
            break
        rejected[i] = True
    return rejected


def _mean(values: Sequence[float]) -> float:
    """Without what the last digits of sums add: of equal values it is theirs, however many there are."""
    return values[0] if _variance(values) == 0 else fmean(values)


def _variance(values: Sequence[float]) -> float:
    spread = stdev(values) if len(values) > 1 else 0.0
    return spread**2 if spread > ROUNDING * max(map(abs, values)) else 0.0


def _over_seeds(
    apart: np.ndarray, n: np.ndarray, s: np.ndarray, m: np.ndarray, t: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Test differences of means, of n and m values with variances s and t, two-sided.

    Returns:
        p-values, standard errors, and degrees of freedom: Welch's, or where one has a single value Student's.
    """
    from scipy.special import comb, stdtr

    of_a, of_b = s / n, t / m
    error = np.sqrt(of_a + of_b)
    with np.errstate(all="ignore"):
        welch = (of_a + of_b) ** 2 / (of_a**2 / (n - 1) + of_b**2 / (m - 1))
        df = np.where(np.minimum(n, m) > 1, welch, np.maximum(n, m) - 1)
        p = np.nan_to_num(2 * stdtr(df, -np.abs(apart) / error), nan=1.0)  # beyond what numbers can hold
    cleanly = np.minimum(1, 2 / comb(n + m, n))  # one of so many ways to part n + m values, and its mirror image
    return np.where(error > 0, p, np.where(apart == 0, 1, cleanly)), error, df


def not_shown_worse(rows: Sequence[Sequence[float]], higher_is_better: bool) -> list[bool]:
    """Say of each row of a column whether it has two seeds or more, and no other such row is shown to be better.

    None is where fewer than two have: there is nothing to be better than.

    Args:
        rows: Each row's values, one a seed. A row with a value that is not finite takes no part.
        higher_is_better: Which way is better.
    """
    takes_part = [len(values) > 1 and all(map(math.isfinite, values)) for values in rows]
    some = [values for values, does in zip(rows, takes_part, strict=True) if does]
    if len(some) < 2:
        return [False] * len(rows)
    n = np.array([len(values) for values in some])
    mean = (1 if higher_is_better else -1) * np.array([_mean(values) for values in some])
    variance = np.array([_variance(values) for values in some])
    good = []
    for i in range(len(some)):
        p, _, _ = _over_seeds(mean - mean[i], n, variance, n[i], variance[i])
        ahead = p[mean > mean[i]]
        good.append(not len(ahead) or float(ahead.min()) * (len(some) - 1) >= 1 - LEVEL)
    told = iter(good)
    return [does and next(told) for does in takes_part]


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of rows over blocks (metrics, or data sets), 1 the best. Demšar 2006, JMLR 7.

    Attributes:
        means: A mean rank for each row.
        critical: By how much two of them must differ at least to be told apart (Nemenyi).
        blocks: Over how many.
    """

    means: list[float]
    critical: float
    blocks: int


def mean_ranks(blocks: Sequence[Sequence[float]]) -> Ranks | None:
    """Rank rows within each block, and average.

    Args:
        blocks: Each a badness a row, the lower the better; ties share their ranks.

    Returns:
        None for fewer than two blocks or three rows.
    """
    if len(blocks) < 2 or len(blocks[0]) < 3:
        return None
    n, k = len(blocks), len(blocks[0])
    means = np.mean([_ranks(np.array(block)) for block in blocks], axis=0)
    return Ranks(means.tolist(), _range_of_normals(k) / math.sqrt(2) * math.sqrt(k * (k + 1) / (6 * n)), n)


def _ranks(values: np.ndarray) -> np.ndarray:
    below, up_to = (compare(values[:, None], values[None]).sum(0) for compare in (np.less, np.less_equal))
    return (below + up_to + 1) / 2


def _range_of_normals(k: int) -> float:
    """Return what the range of k normal numbers stays below in 95 % of draws: the studentized range of endless df.

    P(range < q) = k ∫ φ(z) (Φ(z) - Φ(z - q))^(k - 1) dz. scipy.stats has it, and takes seconds to import and to solve.
    """
    from scipy.special import ndtr

    z = np.linspace(-9, 9, 2001)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    low, high = 0.0, 20.0
    for _ in range(50):
        q = (low + high) / 2
        below = k * (density * (ndtr(z) - ndtr(z - q)) ** (k - 1)).sum() * (z[1] - z[0])
        low, high = (low, q) if below > LEVEL else (q, high)
    return high

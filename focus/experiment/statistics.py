"""Statistics of the experiment: Student's t over draws, Holm, equivalence, max-t intervals."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from focus.metrics.arrays import Floats


@dataclass(frozen=True)
class MeanInterval:
    """A mean over ``n`` values, their standard deviation (divided by n - 1) and an interval.

    sd, low and high are NaN for a single value.
    """

    mean: float
    sd: float
    low: float
    high: float
    n: int


def t_interval(values: Any, level: float = 0.95) -> MeanInterval:
    """Return the mean of ``values`` [n] with Student's interval; NaN are left out."""
    found = np.asarray(values, dtype=np.float64)
    found = found[~np.isnan(found)]
    n = len(found)
    mean = float(found.mean()) if n else math.nan
    if n < 2:
        return MeanInterval(mean, math.nan, math.nan, math.nan, n)
    sd = float(found.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    return MeanInterval(mean, sd, mean - half, mean + half, n)


def of_shared_splits(interval: MeanInterval, tested_by_trained: float) -> MeanInterval:
    """Return Student's interval over splits of the same units, corrected for what they share.

    Nadeau and Bengio (2003): the variance of the mean is ``sd² (1/n + tested/trained)``, as the
    training sets of random splits overlap.

    tested_by_trained: The units that a split tests on, divided by those that it trains on.
    """
    factor = math.sqrt(1 + interval.n * tested_by_trained)
    return replace(
        interval,
        low=interval.mean - factor * (interval.mean - interval.low),
        high=interval.mean + factor * (interval.high - interval.mean),
    )


def student_p(found: MeanInterval) -> float:
    """Return Student's two-sided p-value of "the mean is 0"; NaN of fewer than two values."""
    if found.n < 2:
        return math.nan
    if found.sd == 0:
        return float(found.mean == 0)
    return float(2 * stats.t.sf(abs(found.mean) * math.sqrt(found.n) / found.sd, found.n - 1))


def equivalence_p(found: MeanInterval, margin: float) -> float:
    """Return the p-value of "the mean is not within ± margin" (two one-sided tests).

    Below .05 where Student's 90 % interval lies within the margin (Schuirmann, 1987).
    """
    if found.n < 2:
        return math.nan
    nearest = margin - abs(found.mean)
    if found.sd == 0:
        return float(nearest <= 0)
    return float(stats.t.sf(nearest * math.sqrt(found.n) / found.sd, found.n - 1))


def detectable(found: MeanInterval, power: float = 0.8) -> float:
    """Return the mean that a two-sided test at .05 would show with this power, by the SD found."""
    if found.n < 2:
        return math.nan
    quantiles = stats.t.ppf(0.975, found.n - 1) + stats.t.ppf(power, found.n - 1)
    return float(quantiles * found.sd / math.sqrt(found.n))


def simultaneous(values: Floats, level: float = 0.95) -> list[MeanInterval]:
    """Return intervals that cover the means of all columns of ``values`` [n, m] at once.

    Student's intervals with the quantile of the largest ``|t|`` of m correlated ones ("max-t",
    Hothorn, Bretz and Westfall, 2008), by 100,000 draws with the correlation found. Rows with a NaN
    are left out.
    """
    whole = values[~np.isnan(values).any(axis=1)]
    n, m = whole.shape
    each = [t_interval(whole[:, column], level) for column in range(m)]
    if n < 2 or any(one.sd == 0 for one in each):
        return each
    draw = np.random.default_rng(0)
    normal = draw.multivariate_normal(
        np.zeros(m), np.atleast_2d(np.corrcoef(whole, rowvar=False)), 100_000
    )
    largest = np.abs(normal).max(axis=1) / np.sqrt(draw.chisquare(n - 1, 100_000) / (n - 1))
    quantile = float(np.quantile(largest, level))
    halves = [quantile * one.sd / math.sqrt(n) for one in each]
    return [
        MeanInterval(one.mean, one.sd, one.mean - half, one.mean + half, n)
        for one, half in zip(each, halves, strict=True)
    ]


def at_equal_closed(open_differences: Floats, closed_differences: Floats) -> MeanInterval:
    """Return the difference in open AUC where there is none in closed AUC, with its interval.

    It is the intercept of the line of least squares through the paired differences of two arms [n],
    one for each draw (analysis of covariance). NaN where there is no line: fewer than three draws
    with both, or closed differences that are all the same. ``sd`` is NaN.
    """
    has_both = ~np.isnan(open_differences) & ~np.isnan(closed_differences)
    closed, opened = closed_differences[has_both], open_differences[has_both]
    n = len(closed)
    if n < 3 or np.ptp(closed) < 1e-12:
        return MeanInterval(math.nan, math.nan, math.nan, math.nan, n)
    line = stats.linregress(closed, opened)
    half = float(stats.t.ppf(0.975, n - 2) * line.intercept_stderr)
    intercept = float(line.intercept)
    return MeanInterval(intercept, math.nan, intercept - half, intercept + half, n)

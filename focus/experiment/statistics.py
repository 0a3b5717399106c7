"""Statistics of the experiment, as pure functions on numpy arrays.

Runs are compared in arrays [A, L, S]: A arms, L lengths of training, S seeds; NaN where there is no
run. A replicate of the bootstrap adds the last axis R.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A mean over ``n`` values, their standard deviation (divided by n - 1) and an interval.

    sd, low and high are NaN for a single value.
    """

    mean: float
    sd: float
    low: float
    high: float
    n: int


def t_interval(values: Any) -> Interval:
    """Return the mean of ``values`` [n] with Student's 95 % interval; NaN are left out."""
    found = np.asarray(values, dtype=np.float64)
    found = found[~np.isnan(found)]
    n = len(found)
    mean = float(found.mean()) if n else math.nan
    if n < 2:
        return Interval(mean, math.nan, math.nan, math.nan, n)
    sd = float(found.std(ddof=1))
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, sd, mean - half, mean + half, n)


def student_p(found: Interval) -> float:
    """Return Student's two-sided p-value of "the mean is 0"; NaN of fewer than two values."""
    if found.n < 2:
        return math.nan
    if found.sd == 0:
        return float(found.mean == 0)
    return float(2 * stats.t.sf(abs(found.mean) * math.sqrt(found.n) / found.sd, found.n - 1))


def holm(p_values: Any) -> Floats:
    """Return Holm's (1979) adjusted p-values [n], in the order given; NaN are left out, and stay.

    ``p̃_(i) = max over j ≤ i of min(1, (m - j + 1) · p_(j))`` for the m ordered p-values.
    """
    adjusted = np.array(p_values, dtype=np.float64)
    order = np.argsort(adjusted, kind="stable")[: np.count_nonzero(~np.isnan(adjusted))]
    raised = np.minimum(1.0, adjusted[order] * np.arange(len(order), 0, -1))
    adjusted[order] = np.maximum.accumulate(raised)
    return adjusted


def bootstrap_p(replicates: Any) -> float:
    """Return the two-sided p-value of "it is 0" from replicates [R] of a statistic.

    Twice the smaller share of replicates on either side of 0; one is added to count and number
    (Davison and Hinkley, *Bootstrap Methods*, 1997, section 4.2), so that it is never 0.
    """
    found = np.asarray(replicates, dtype=np.float64)
    beyond = min(int((found <= 0).sum()), int((found >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(found) + 1))


def common_slope(closed: Floats, opened: Floats, weights: Floats) -> Floats:
    """Return the slope of open on closed AUC within the arms, common to all of them (ANCOVA).

    closed, opened [A, L, S, ...]; weights [S, ...]: of the seeds. NaN where no arm has two runs
    that differ in closed AUC.
    """
    there = ~np.isnan(closed) & ~np.isnan(opened)
    weight = np.where(there, np.broadcast_to(weights, closed.shape), 0.0)
    total = weight.sum((1, 2), keepdims=True)
    safe = np.where(total > 0, total, 1.0)
    x, y = (np.where(there, values, 0.0) for values in (closed, opened))
    dx = x - (weight * x).sum((1, 2), keepdims=True) / safe
    dy = y - (weight * y).sum((1, 2), keepdims=True) / safe
    spread = (weight * dx * dx).sum((0, 1, 2))
    shared = (weight * dx * dy).sum((0, 1, 2))
    defined = spread > 1e-12  # the rounding of a sum of squares of AUCs that are alike
    return np.asarray(np.where(defined, shared / np.where(defined, spread, 1.0), np.nan))


@dataclass(frozen=True)
class Compared:
    """One arm minus another in mean open AUC.

    low, high: of the two-level bootstrap. p: two-sided, the larger of the bootstrap's and of
    Student's paired test over seeds. over_seeds: Student's interval of the same differences.
    """

    difference: float
    low: float
    high: float
    p: float
    over_seeds: Interval


class TwoLevel:
    """Two-level bootstrap of differences between arms: over seeds, and over test images.

    Both draws are shared by all arms, so differences are paired in both. Drawing n seeds of n makes
    their variance too small by (n - 1)/n; the part of a replicate that comes from the seeds is
    stretched by ``sqrt(n / (n - 1))`` (Rao and Wu, *Resampling inference with complex survey data*,
    1988). A single seed gives the images' part alone. docs/experiment.md says why a p-value is also
    Student's.

    closed, opened [A, L, S]: AUC as observed. closed_drawn, opened_drawn [A, L, S, R]: of each
    replicate's images.
    """

    def __init__(
        self,
        closed: Floats,
        opened: Floats,
        closed_drawn: Floats,
        opened_drawn: Floats,
        rng: np.random.Generator,
    ) -> None:
        self._aucs = closed, opened, closed_drawn, opened_drawn
        seeds, replicates = closed.shape[2], closed_drawn.shape[3]
        counts = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=replicates)
        self._counts = counts.T.astype(np.float64)  # [S, R]
        self._ones = np.ones((seeds, 1))
        self.slope = float(common_slope(closed, opened, self._ones[:, 0]))
        """Slope of open on closed AUC."""
        of_images = common_slope(closed_drawn, opened_drawn, self._ones)
        of_both = common_slope(closed_drawn, opened_drawn, self._counts)
        # Of one length, a replicate that draws one seed alone has no slope of its own; without it,
        # those would be left that draw every seed, and so nothing of what sets the seeds apart.
        self._slopes = of_images, np.where(np.isnan(of_both), of_images, of_both)

    def compare(self, arm: int, other: int, length: int, *, matched: bool) -> Compared:
        """Return arm minus other, of one length of training, over the seeds that both have.

        matched: at the same closed AUC, ``Δopen - slope · Δclosed`` with the common slope, which is
        fitted again in each replicate.
        """
        closed, opened, closed_drawn, opened_drawn = (
            values[arm, length] - values[other, length] for values in self._aucs
        )
        both = ~np.isnan(opened) & ~(np.isnan(closed) & matched)
        n = int(both.sum())

        def at(slope: Floats | float, x: Floats, y: Floats) -> Floats:
            return np.asarray(y[both] - slope * x[both] if matched else y[both])

        def mean(slope: Floats, weights: Floats) -> Floats:
            # A replicate that draws none of the pair's seeds has nothing to compare.
            total = weights[both].sum(0)
            summed = (at(slope, closed_drawn, opened_drawn) * weights[both]).sum(0)
            return np.where(total > 0, summed / np.where(total > 0, total, 1), np.nan)

        over_seeds = t_interval(at(self.slope, closed, opened))
        replicates = mean(self._slopes[0], self._ones)
        if n > 1:
            drawn = mean(self._slopes[1], self._counts)
            replicates = replicates + math.sqrt(n / (n - 1)) * (drawn - replicates)
        replicates = replicates[~np.isnan(replicates)]
        if not len(replicates):
            return Compared(over_seeds.mean, math.nan, math.nan, math.nan, over_seeds)
        low, high = np.quantile(replicates, [0.025, 0.975])
        p = float(np.fmax(bootstrap_p(replicates), student_p(over_seeds)))  # of one seed no NaN
        return Compared(over_seeds.mean, float(low), float(high), p, over_seeds)

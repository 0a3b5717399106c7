"""Statistics as pure functions on numpy arrays: they know no run, no file and no loss.

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
    """A mean and what is known of it over ``n`` values.

    sd: standard deviation (divided by n - 1). low, high: of the confidence interval. All three are
    NaN for a single value.
    """

    mean: float
    sd: float
    low: float
    high: float
    n: int


def t_interval(values: Any, confidence: float = 0.95) -> Interval:
    """Mean of ``values`` [n] with Student's interval ``mean ± t(n - 1) · sd / sqrt(n)``.

    Values that are NaN are left out; without any, all is NaN. It takes the values for draws from a
    normal distribution, which few of them cannot show.
    """
    found = np.asarray(values, dtype=np.float64)
    found = found[~np.isnan(found)]
    n = len(found)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, math.nan, 0)
    mean = float(found.mean())
    if n == 1:
        return Interval(mean, math.nan, math.nan, math.nan, 1)
    sd = float(found.std(ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, sd, mean - half, mean + half, n)


def student_p(found: Interval) -> float:
    """Two-sided p-value of "the mean is 0" by Student's test of the values of ``found``.

    It is below 0.05 where the 95 % interval of :func:`t_interval` leaves 0 out. In [0, 1]; NaN of
    fewer than two values.
    """
    if found.n < 2:
        return math.nan
    if found.sd == 0:
        return float(found.mean == 0)
    return float(2 * stats.t.sf(abs(found.mean) * math.sqrt(found.n) / found.sd, found.n - 1))


def holm(p_values: Any) -> Floats:
    """Holm's adjusted p-values [m], in the order given.

    ``p̃_(i) = max over j ≤ i of min(1, (m - j + 1) · p_(j))`` for the ordered p-values (Holm, *A
    simple sequentially rejective multiple test procedure*, 1979). Rejecting where it is at most α
    keeps the chance of any false rejection at α, however the tests depend on each other.
    """
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given, kind="stable")
    raised = np.minimum(1.0, given[order] * np.arange(len(given), 0, -1))
    adjusted = np.empty_like(given)
    adjusted[order] = np.maximum.accumulate(raised)
    return adjusted


def bootstrap_p(replicates: Any) -> float:
    """Two-sided p-value of "it is 0" from replicates [R] of a statistic.

    Twice the smaller share of replicates on either side of 0, itself counted on both; one is added
    to count and number (Davison and Hinkley, *Bootstrap Methods*, 1997, section 4.2), so that it is
    never 0. NaN if a replicate is.
    """
    found = np.asarray(replicates, dtype=np.float64)
    if not len(found) or np.isnan(found).any():
        return math.nan
    beyond = min(int((found <= 0).sum()), int((found >= 0).sum()))
    return min(1.0, 2 * (beyond + 1) / (len(found) + 1))


def draw_counts(rng: np.random.Generator, n: int, replicates: int) -> NDArray[np.int64]:
    """How often each of n things is drawn in n draws with replacement: [R, n], rows sum to n."""
    return rng.multinomial(n, np.full(n, 1 / n), size=replicates)


def common_slope(closed: Floats, opened: Floats, weights: Floats) -> Floats:
    """Slope of open on closed AUC within the arms, the same for all of them (of ANCOVA).

    closed, opened [A, L, S, ...]: NaN where there is no run; weights [S, ...]: of the seeds. Each
    arm's runs, of both lengths, are taken from the arm's own mean, so that what sets the arms apart
    does not enter. NaN where no arm has two runs that differ in closed AUC.
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
    """One arm against another.

    difference: of mean open AUC, at matched closed AUC if that was asked for. low, high: of the
    two-level bootstrap. p: two-sided, the larger of the bootstrap's and of Student's paired test
    over the seeds that both arms have; of a single seed the bootstrap's. over_seeds: Student's
    interval of the same differences.
    """

    difference: float
    low: float
    high: float
    p: float
    over_seeds: Interval


class TwoLevel:
    """Two-level bootstrap of differences between arms: over seeds, and over test images.

    A replicate draws test images and, apart from them, seeds. All runs score the same images, and
    the same seed starts each arm with the same weights and order of images, so both draws are
    shared by all arms: differences are paired in both. Drawing n seeds of n makes their variance
    too small by (n - 1)/n; the part of a replicate that comes from the draw of seeds is stretched
    by ``sqrt(n / (n - 1))`` (Rao and Wu, *Resampling inference with complex survey data*, 1988). A
    single seed gives the images' part alone.

    Of two or three seeds no replicate lies on the other side of 0 once all of them agree in sign,
    which chance alone does with every fourth triple. So a p-value is also Student's (1908), paired
    over seeds, which knows that a spread of few values is itself uncertain: the larger of the two.

    closed, opened [A, L, S]: AUC as observed. closed_drawn, opened_drawn [A, L, S, R]: of each
    replicate's images. NaN where there is no run.
    """

    def __init__(
        self,
        closed: Floats,
        opened: Floats,
        closed_drawn: Floats,
        opened_drawn: Floats,
        rng: np.random.Generator,
    ) -> None:
        self.closed, self.opened = closed, opened
        self._closed, self._opened = closed_drawn, opened_drawn
        seeds, replicates = closed.shape[2], closed_drawn.shape[3]
        self._counts = draw_counts(rng, seeds, replicates).T.astype(np.float64)  # [S, R]
        ones = np.ones(seeds)
        self.slope = float(common_slope(closed, opened, ones))
        """Of open on closed AUC."""
        of_images = common_slope(closed_drawn, opened_drawn, ones[:, None])
        of_both = common_slope(closed_drawn, opened_drawn, self._counts)
        # Of one length, a replicate that draws one seed alone has no slope of its own; without it,
        # those would be left that draw every seed, and so nothing of what sets the seeds apart.
        self._slope = of_images, np.where(np.isnan(of_both), of_images, of_both)

    def compare(self, arm: int, other: int, length: int, *, matched: bool) -> Compared:
        """Arm minus other, of one length of training, over the seeds that both have.

        matched: at the same closed AUC: ``Δopen - slope · Δclosed`` with the common slope, which is
        fitted again in each replicate, to all seeds where those that were drawn define none.
        """
        pairs = [(values[arm, length] - values[other, length]) for values in self._all()]
        closed, opened, closed_drawn, opened_drawn = pairs
        both = ~np.isnan(opened) & ~(np.isnan(closed) & matched)

        def at(slope: Floats | float, x: Floats, y: Floats) -> Floats:
            return np.asarray(y[both] - slope * x[both] if matched else y[both])

        def mean(values: Floats, weights: Floats) -> Floats:
            # A replicate that draws none of the pair's seeds has nothing to compare.
            total = weights[both].sum(0)
            summed = (values * weights[both]).sum(0)
            return np.asarray(np.where(total > 0, summed / np.where(total > 0, total, 1), np.nan))

        over_seeds = t_interval(at(self.slope, closed, opened))
        n = int(both.sum())
        ones = np.ones((len(both), 1))
        all_seeds = mean(at(self._slope[0], closed_drawn, opened_drawn), ones)
        drawn = mean(at(self._slope[1], closed_drawn, opened_drawn), self._counts)
        if n > 1:
            replicates = all_seeds + math.sqrt(n / (n - 1)) * (drawn - all_seeds)
        else:
            replicates = all_seeds
        replicates = replicates[~np.isnan(replicates)]
        if not len(replicates):
            return Compared(over_seeds.mean, math.nan, math.nan, math.nan, over_seeds)
        low, high = np.quantile(replicates, [0.025, 0.975])
        p = float(np.fmax(bootstrap_p(replicates), student_p(over_seeds)))  # of one seed no NaN
        return Compared(over_seeds.mean, float(low), float(high), p, over_seeds)

    def _all(self) -> tuple[Floats, Floats, Floats, Floats]:
        return self.closed, self.opened, self._closed, self._opened

"""Compute 95 % intervals of rates (Clopper and Pearson) and of AUCs and differences (DeLong)."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from focus.metrics.arrays import Array
from focus.metrics.ranking import SUPPORT

LEVEL = 0.95

Interval = tuple[float, float]
Floats = NDArray[np.float64]
Compared = tuple[Array, Array, Array, Array]
"""Scores [M] of real images and [N] of fakes, and the integers [M], [N] of their independent units
(:func:`focus.metrics.bootstrap.units`), the same where comparisons share an image."""


class Difference(NamedTuple):
    """One AUC minus another, its interval, and the p-value of no difference."""

    value: float
    low: float
    high: float
    p_value: float


def rate_interval(count: float, total: float, level: float = LEVEL) -> Interval | None:
    """Return Clopper and Pearson's (1934) interval of ``count / total``; None for a total of 0.

    It covers at least ``level`` whatever the rate is: 0 of 300 is [0, 0.0122]. A ``count`` with
    ties, and a ``total`` of images that weigh differently, need not be whole numbers.
    """
    if total == 0:
        return None
    # Quantiles of beta distributions; scipy's binomtest looks for the same ends, for a millisecond.
    tail = (1 - level) / 2
    low = special.betaincinv(count, total - count + 1, tail) if count else 0.0
    high = special.betainccinv(count + 1, total - count, tail) if count < total else 1.0
    return float(low), float(high)


def mean_of_rates(rates: Sequence[tuple[int, int]]) -> Interval | None:
    """Return the interval of the mean of ``count / total`` over independent images.

    For equal totals it is that of the pooled count, since independent images of several rates vary
    no more than as many images of the mean rate (Hoeffding, 1956). Otherwise it is that of
    :func:`mean_interval`, and no shorter than that of the count if the rates were equal. None
    without rates, or if a total is 0.
    """
    totals = [of for _, of in rates]
    if not totals or 0 in totals:
        return None
    if len(set(totals)) == 1:
        return rate_interval(sum(n for n, _ in rates), sum(totals))
    values, alike = [n / of for n, of in rates], len(rates) ** 2 / sum(1 / of for of in totals)
    ends = [interval for rate in rates if (interval := rate_interval(*rate))]
    by_count = rate_interval(alike * sum(values) / len(values), alike)
    assert by_count is not None
    low, high = mean_interval(values, ends)
    return min(low, by_count[0]), max(high, by_count[1])


def mean_interval(values: Sequence[float], intervals: Sequence[Interval]) -> Interval:
    """Return the interval of the mean of independent ``values`` from the interval of each.

    The squares of the distances to the ends are added up (Zou and Donner, 2008).
    """
    mean, n = sum(values) / len(values), len(values)
    pairs = list(zip(values, intervals, strict=True))
    below = math.hypot(*(value - low for value, (low, _) in pairs)) / n
    above = math.hypot(*(high - value for value, (_, high) in pairs)) / n
    return mean - below, mean + above


def mean_auc_interval(comparisons: Sequence[Compared]) -> Interval | None:
    """Return the interval of the mean AUC over ``comparisons`` by DeLong et al. (1988).

    It is computed on the scale of logits, so that it stays in (0, 1), with Student's quantile for
    the smallest class. The contributions of the images of a unit are added up (Obuchowski, 1997).
    Units of unequal sizes, such as one long video among photographs, count for their effective
    number (Kish, 1965) in the quantile, and each variance is raised by what the unit itself pulls
    the mean towards it (Bell and McCaffrey, 2002).
    Where fewer than ``SUPPORT`` units of a class are on the wrong side of any image of the other,
    the variance is not known well. The interval then contains that of as many pairs as the smaller
    class has units, by :func:`rate_interval`, or that which follows from the intervals of the
    comparisons (Zou and Donner, 2008), whichever is shorter. None where a class of a comparison has
    fewer than two units.
    """
    return PlacedScores(comparisons).interval


def few_inverted(comparisons: Sequence[Compared]) -> bool:
    """Return whether fewer than ``SUPPORT`` units of a class are on the wrong side of the other.

    The variance is then not known well, as in :func:`mean_auc_interval`.
    """
    parts = _parts(comparisons)
    return bool(parts) and _placed(parts).inverted < SUPPORT


class _Side(NamedTuple):
    """The units [U] of one class of a comparison.

    images: How many images each unit has. moved: By how much each moves the comparison's AUC.
    wrong: Whether an image of the unit is ranked the wrong way round with any image of the other
    class, or tied. right: Whether one is ranked the right way round, or tied.
    """

    units: NDArray[np.int64]
    images: NDArray[np.int64]
    moved: Floats
    wrong: NDArray[np.bool_]
    right: NDArray[np.bool_]


class _Part(NamedTuple):
    """One comparison, placed: its AUC, its real images and its fakes."""

    auc: float
    sides: tuple[_Side, _Side]


class _Placed(NamedTuple):
    """A mean AUC and the parts of DeLong's variance of it.

    ``moved`` is by how much each unit moves the mean; the sum of its squares is the variance.
    ``smallest`` is the effective number of units in the smallest class of a comparison: as many of
    equal sizes would tell as much. ``pairs`` counts the units of the smaller class, and
    ``inverted`` the units of a class with an image of the other on the wrong (or on the right)
    side, the fewest of these. It is a weighted count: a unit counts as the square of its weight in
    the mean, divided by that of the heaviest unit of its class. So the errors of a generator with a
    thousand images say nothing of the variance of one with three.
    """

    auc: float
    moved: Floats
    smallest: float
    pairs: int
    inverted: float

    @property
    def quantile(self) -> float:
        """Student's quantile, with the degrees of freedom of the smallest class."""
        return float(stats.t.ppf((1 + LEVEL) / 2, self.degrees_of_freedom))

    @property
    def degrees_of_freedom(self) -> float:
        """The effective number of units in the smallest class, less one.

        At least 1, that of two equal units: one video beside a few photographs has next to none,
        and one class would make the interval of a whole mean as wide as can be.
        """
        return max(1.0, self.smallest - 1)


def _parts(comparisons: Sequence[Compared]) -> list[_Part]:
    """Return each comparison, placed; none if a class of one has fewer than two units."""
    parts = []
    for real, fake, *units_of_sides in comparisons:
        placements = _placements(real, fake)
        auc = float(np.mean(placements[1])) if len(fake) else math.nan
        real_side, fake_side = (
            _side(placed, units, auc)
            for placed, units in zip(placements, units_of_sides, strict=True)
        )
        if min(len(real_side.units), len(fake_side.units)) < 2:
            return []
        parts.append(_Part(auc, (real_side, fake_side)))
    return parts


def _side(placements: Floats, unit_of_image: Array, auc: float) -> _Side:
    """Add up the placements [N] of one class by the unit of each image."""
    units, unit, images = np.unique(unit_of_image, return_inverse=True, return_counts=True)
    if len(units) < 2:
        nothing = np.zeros(len(units), dtype=bool)
        return _Side(units, images, np.zeros(len(units)), nothing, nothing)
    # For n images by themselves the square of this is Bessel's n / (n - 1).
    correction = 1 / np.sqrt(1 - images / len(placements))
    summed = np.bincount(unit, placements - auc, len(units))
    wrong, right = np.zeros((2, len(units)), dtype=bool)
    wrong[unit[placements < 1]] = right[unit[placements > 0]] = True
    return _Side(units, images, correction * summed / len(placements), wrong, right)


def _placed(parts: Sequence[_Part]) -> _Placed:
    """Return the mean over at least one comparison."""
    count = len(parts)
    everyone = np.unique(np.concatenate([side.units for part in parts for side in part.sides]))
    sizes, effective_sizes, moved = [], [], np.zeros(len(everyone))
    weights = np.zeros((2, len(everyone)))
    wrong, right = np.zeros((2, 2, len(everyone)), dtype=bool)
    for part in parts:
        for number, side in enumerate(part.sides):
            unit = np.searchsorted(everyone, side.units)
            size = len(side.units)
            sizes.append(size)
            effective_sizes.append(effective_number(side.images))
            moved[unit] += side.moved / count
            weights[number, unit] += 1 / (count * size)
            wrong[number, unit] |= side.wrong
            right[number, unit] |= side.right
    pairs = min(count * min(sizes), *np.count_nonzero(weights, axis=1).tolist())
    relative = (weights / weights.max(axis=1, keepdims=True)) ** 2
    # Rounded, as the sum of five ones may come out a little less than five.
    inverted = min(round(float((relative * side).sum(axis=1).min()), 6) for side in (wrong, right))
    auc = float(np.mean([part.auc for part in parts]))
    return _Placed(auc, moved, min(effective_sizes), pairs, inverted)


def effective_number(sizes: Array) -> float:
    """Return how many units of equal sizes tell as much about a mean as units of these (Kish).

    n for n units of one size, and 4 for one with half of the images and many small ones.
    """
    share = np.asarray(sizes) / np.sum(sizes)
    # Rounded, as the sum over 200 equal units may come out a little less than 200.
    return round(1 / float(np.sum(share**2)), 9)


def _placements(real: Array, fake: Array) -> tuple[Floats, Floats]:
    """Return [M] and [N], the share of the other class on the right side of each, ties half."""
    real, fake = np.asarray(real, dtype=np.float64), np.asarray(fake, dtype=np.float64)
    shares = []
    for own, other in ((real, np.sort(fake)), (fake, np.sort(real))):
        below, up_to = (np.searchsorted(other, own, side) for side in ("left", "right"))
        shares.append((below + up_to) / 2 / max(1, len(other)))
    return 1 - shares[0], shares[1]


def _interval(parts: Sequence[_Part], placed: _Placed) -> Interval:
    auc, error = placed.auc, math.sqrt((placed.moved**2).sum())
    low = high = auc
    if error > 0 and 0 < auc < 1:
        half = placed.quantile * error / (auc * (1 - auc))
        low, high = map(float, special.expit(special.logit(auc) + np.array([-half, half])))
        if placed.inverted >= SUPPORT:
            return low, high
    least, most = _by_pairs(placed)
    if len(parts) > 1:
        from_parts = _from_parts(parts)
        least, most = max(least, from_parts[0]), min(most, from_parts[1])
    return min(low, least), max(high, most)


def _by_pairs(placed: _Placed) -> Interval:
    """Return the interval of an AUC as if it were the share of independent pairs in order."""
    # A fraction of a pair stays, as a whole number would favour one class; only float noise goes.
    interval = rate_interval(round(placed.auc * placed.pairs, 6), placed.pairs)
    assert interval is not None, "a class has at least two units"
    return interval


def _from_parts(parts: Sequence[_Part]) -> Interval:
    """Return the interval of the mean AUC that follows from those of its comparisons.

    The squares of the distances to the ends are added up, and twice their products for comparisons
    that share images (Zou and Donner, 2008).
    """
    aucs, below, above = [], [], []
    for part in parts:
        low, high = _interval([part], _placed([part]))
        aucs.append(part.auc)
        below.append(part.auc - low)
        above.append(high - part.auc)
    mean, count, alike = float(np.mean(aucs)), len(aucs), _correlations(parts)
    down, up = (math.sqrt(side @ alike @ side) for side in (np.array(below), np.array(above)))
    return mean - down / count, mean + up / count


def _correlations(parts: Sequence[_Part]) -> Floats:
    """Return [K, K], how much the errors of K comparisons go together by the images they share.

    It is the cosine of the weights of their units: 1 for the same images, 0 for none in common,
    n / (m + n) for two generators with n fakes each and the same m real images.
    """
    everyone = np.unique(np.concatenate([side.units for part in parts for side in part.sides]))
    directions = np.zeros((len(parts), 2, len(everyone)))
    for direction, part in zip(directions, parts, strict=True):
        for weights, side in zip(direction, part.sides, strict=True):
            weights[np.searchsorted(everyone, side.units)] = side.images / side.images.sum()
        direction /= np.linalg.norm(direction)
    flat = directions.reshape(len(parts), -1)
    return np.asarray(flat @ flat.T)


class PlacedScores:
    """A model's scores over some comparisons, placed once for its AUCs and any differences."""

    def __init__(self, comparisons: Sequence[Compared]) -> None:
        self._parts = _parts(comparisons)

    @functools.cached_property
    def _mean(self) -> _Placed:
        return _placed(self._parts)

    @property
    def auc(self) -> float | None:
        """The mean AUC; None where a class of a comparison has fewer than two units."""
        return self._mean.auc if self._parts else None

    @functools.cached_property
    def interval(self) -> Interval | None:
        """The interval of the mean AUC, that of :func:`mean_auc_interval`."""
        return _interval(self._parts, self._mean) if self._parts else None

    @property
    def aucs(self) -> list[float]:
        """The AUC of each comparison."""
        return [part.auc for part in self._parts]

    @property
    def intervals(self) -> list[Interval]:
        """The interval of the AUC of each comparison."""
        return [_interval([part], _placed([part])) for part in self._parts]

    def minus(self, other: "PlacedScores") -> Difference | None:
        """Return the difference of the mean AUCs, that of :func:`mean_auc_difference`."""
        if not self._parts or not other._parts:
            return None
        pairs = list(zip(self._parts, other._parts, strict=True))
        differing = [pair for pair in pairs if not _same_order(*pair)]
        if not differing:
            return Difference(0.0, 0.0, 0.0, 1.0)
        share = len(differing) / len(pairs)
        if share == 1:
            value, low, high, p_value = _difference(self, other)
        else:
            value, low, high, p_value = _difference(
                PlacedScores._of([part for part, _ in differing]),
                PlacedScores._of([part for _, part in differing]),
            )
        low, high = max(-1.0, share * low), min(1.0, share * high)
        return Difference(share * value, low, high, p_value)

    @classmethod
    def _of(cls, parts: list[_Part]) -> Self:
        placed_scores = cls([])
        placed_scores._parts = parts
        return placed_scores


def mean_auc_difference(first: Sequence[Compared], second: Sequence[Compared]) -> Difference | None:
    """Compare two models' mean AUCs over the same comparisons by DeLong et al. (1988).

    The models scored the same images. The variance is that of the difference between what a unit
    moves the first mean by and what it moves the second by. Where that is not known well, as in
    :func:`mean_auc_interval`, the interval is at least that of independent models (Zou and Donner,
    2008).

    Scores in the same order do not differ, unless the AUC is 0 or 1. A comparison whose scores do
    not differ draws the mean towards 0 and adds no uncertainty. The p-value is below 0.05 where the
    interval does not contain 0. None with fewer than two units in a class of a comparison.
    """
    return PlacedScores(first).minus(PlacedScores(second))


def _difference(scores: PlacedScores, other_scores: PlacedScores) -> Difference:
    """Return the difference of two models whose scores differ in each comparison."""
    one, other = scores._mean, other_scores._mean
    value, apart = one.auc - other.auc, one.moved - other.moved
    below = above = one.quantile * math.sqrt((apart**2).sum())
    if min(one.inverted, other.inverted) < SUPPORT:
        interval, other_interval = scores.interval, other_scores.interval
        assert interval is not None
        assert other_interval is not None
        below = max(below, math.hypot(one.auc - interval[0], other_interval[1] - other.auc))
        above = max(above, math.hypot(interval[1] - one.auc, other.auc - other_interval[0]))
    towards_0 = below if value > 0 else above
    distance = one.quantile * abs(value) / towards_0 if value else 0.0
    p_value = float(2 * stats.t.sf(distance, one.degrees_of_freedom))
    return Difference(value, value - below, value + above, p_value)


def _same_order(one: _Part, other: _Part) -> bool:
    """Return whether two models rank the images of a comparison alike, with errors on both."""
    return one.auc == other.auc not in (0.0, 1.0) and all(
        np.array_equal(side.moved, other_side.moved)
        for side, other_side in zip(one.sides, other.sides, strict=True)
    )

"""Compute 95 % intervals of rates (Clopper and Pearson) and of AUCs and differences (DeLong).

Differences have a p-value, too, which :func:`holm` adjusts where there are several.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash
from scipy import sparse, special, stats

from focus.metrics.arrays import Array, Booleans, Floats, Integers, distinct
from focus.metrics.ranking import SUPPORT

LEVEL = 0.95

Interval = tuple[float, float]
Compared = tuple[Array, Array, Array, Array]
"""Scores [M] of real images and [N] of fakes, and the integers [M], [N] of their independent units
(:func:`focus.metrics.bootstrap.units`), the same where comparisons share an image."""


class Difference(NamedTuple):
    """One AUC minus another, its interval, and the p-value of no difference."""

    value: float
    low: float
    high: float
    p_value: float


class AucInterval(NamedTuple):
    """The interval of an AUC, None without one.

    few_inverted: Whether so few units are on the wrong side that its variance is not known well.
    """

    interval: Interval | None
    few_inverted: bool


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
    totals = [total for _, total in rates]
    if not totals or 0 in totals:
        return None
    if len(set(totals)) == 1:
        return rate_interval(sum(count for count, _ in rates), sum(totals))

    values = [count / total for count, total in rates]
    intervals = [rate_interval(count, total) for count, total in rates]
    low, high = mean_interval(values, [ends for ends in intervals if ends is not None])

    # The mean varies as a rate of so many images does.
    images = len(rates) ** 2 / sum(1 / total for total in totals)
    by_count = rate_interval(images * sum(values) / len(values), images)
    assert by_count is not None
    return min(low, by_count[0]), max(high, by_count[1])


def largest_rate_interval(rates: Sequence[tuple[int, int]]) -> Interval | None:
    """Return the interval of the largest ``count / total``, None without rates.

    All rates are within their intervals at once (Bonferroni), so the largest one lies between the
    largest of their ends. No total is 0.
    """
    if not rates:
        return None
    level = 1 - (1 - LEVEL) / len(rates)
    intervals = [rate_interval(count, total, level) for count, total in rates]
    lows, highs = zip(*(ends for ends in intervals if ends is not None), strict=True)
    return max(lows), max(highs)


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
    the variance is not known well. Each end then lies at least as far out as that of
    :func:`rate_interval` for as many pairs as the smaller class has units; of several comparisons,
    as that end or the one that follows from their intervals (Zou and Donner, 2008), the nearer of
    both. None where a class of a comparison has fewer than two units.
    """
    return PlacedScores(comparisons).interval


class _Class(NamedTuple):
    """The images [N] of one class of a comparison as units [U].

    units: The integers of the units, rising. unit: The number of each image's unit in ``units``.
    images: How many images each unit has.
    """

    units: Integers
    unit: Integers
    images: Integers


class _Side(NamedTuple):
    """What the scores of a comparison say of each unit [U] of one class.

    moved: By how much each moves the comparison's AUC. wrong: Whether an image of the unit is
    ranked the wrong way round with any image of the other class, or tied. right: Whether one is
    ranked the right way round, or tied.
    """

    moved: Floats
    wrong: Booleans
    right: Booleans


class _Placed(NamedTuple):
    """A mean AUC and the parts of DeLong's variance of it.

    ``error`` is the standard error, the root of the sum of the squares by which each unit moves the
    mean. ``smallest`` is the effective number of units in the smallest class of a comparison: as
    many of equal sizes would tell as much. ``pairs`` counts the units of the smaller class, and
    ``inverted`` the units of a class with an image of the other on the wrong (or on the right)
    side, the fewest of these. It is a weighted count: a unit counts as the square of its weight in
    the mean, divided by that of the heaviest unit of its class. So the errors of a generator with a
    thousand images say nothing of the variance of one with three.
    """

    auc: float
    error: float
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


def _class_of(unit_of_image: Array) -> _Class:
    units, unit, images = np.unique(unit_of_image, return_inverse=True, return_counts=True)
    return _Class(units, unit, images)


def _classes(comparisons: Sequence[Compared]) -> list[tuple[_Class, _Class]]:
    """Return the classes of each comparison; comparisons with the same images share one."""
    classes: dict[bytes, _Class] = {}

    def class_of(unit_of_image: Array) -> _Class:
        key = xxhash.xxh3_128_digest(np.ascontiguousarray(unit_of_image, dtype=np.int64).data)
        if key not in classes:
            classes[key] = _class_of(unit_of_image)
        return classes[key]

    return [(class_of(real), class_of(fake)) for _, _, real, fake in comparisons]


def _side(placements: Floats, members: _Class, auc: float) -> _Side:
    """Add up the placements [N] of one class by the unit of each image."""
    # For n images by themselves the square of this is Bessel's n / (n - 1).
    correction = 1 / np.sqrt(1 - members.images / len(placements))
    count = len(members.units)
    summed = np.bincount(members.unit, placements - auc, count)
    wrong, right = np.zeros((2, count), dtype=bool)
    wrong[members.unit[placements < 1]] = right[members.unit[placements > 0]] = True
    return _Side(correction * summed / len(placements), wrong, right)


def effective_number(sizes: Array) -> float:
    """Return how many units of equal sizes tell as much about a mean as units of these (Kish).

    n for n units of one size, and 4 for one with half of the images and many small ones.
    """
    share = np.asarray(sizes) / np.sum(sizes)
    # Rounded, as the sum over 200 equal units may come out a little less than 200.
    return round(1 / float(np.sum(share**2)), 9)


class _SortedScores(NamedTuple):
    """Scores [N] of one class, rising, and the position in the given array of each of them."""

    scores: Floats
    order: Integers


def _sorted(scores: Array) -> _SortedScores:
    scores = np.asarray(scores, dtype=np.float64)
    order = np.argsort(scores, kind="stable")
    return _SortedScores(scores[order], order)


def _placements(real: _SortedScores, fake: _SortedScores) -> tuple[Floats, Floats]:
    """Return [M] and [N], the share of the other class on the right side of each, ties half.

    They are in the order of the arrays that were sorted. Only the fakes are looked up among the
    real images, as many fakes' generators share a million of these.
    """
    reals_below = np.searchsorted(real.scores, fake.scores, side="left")
    reals_up_to = np.searchsorted(real.scores, fake.scores, side="right")
    # A fake is below a real image where no more reals are up to the fake than are before that one.
    fakes_below = np.cumsum(np.bincount(reals_up_to, minlength=len(real.scores) + 1))[:-1]
    fakes_up_to = np.cumsum(np.bincount(reals_below, minlength=len(real.scores) + 1))[:-1]

    of_real, of_fake = np.empty(len(real.scores)), np.empty(len(fake.scores))
    of_real[real.order] = 1 - (fakes_below + fakes_up_to) / 2 / max(1, len(fake.scores))
    of_fake[fake.order] = (reals_below + reals_up_to) / 2 / max(1, len(real.scores))
    return of_real, of_fake


def _by_pairs(placed: _Placed) -> Interval:
    """Return the interval of an AUC as if it were the share of independent pairs in order."""
    # A fraction of a pair stays, as a whole number would favour one class; only float noise goes.
    interval = rate_interval(round(placed.auc * placed.pairs, 6), placed.pairs)
    assert interval is not None, "a class has at least two units"
    return interval


def _interval(placed: _Placed, of_parts: Interval | None = None) -> Interval:
    """Return the interval of an AUC, or of a mean with the one that follows from its parts."""
    auc, error = placed.auc, placed.error
    low = high = auc
    if error > 0 and 0 < auc < 1:
        half = placed.quantile * error / (auc * (1 - auc))
        low, high = map(float, special.expit(special.logit(auc) + np.array([-half, half])))
        if placed.inverted >= SUPPORT:
            return low, high
    least, most = _by_pairs(placed)
    if of_parts is not None:
        least, most = max(least, of_parts[0]), min(most, of_parts[1])
    return min(low, least), max(high, most)


class PlacedScores:
    """A model's scores over some comparisons, placed once for its AUCs and any differences.

    It takes memory for each unit and for each comparison, and not for each image of each
    comparison, so that many generators may share many real images.
    """

    def __init__(self, comparisons: Sequence[Compared]) -> None:
        self._comparisons = comparisons
        self._classes = _classes(comparisons)
        different = {id(members): members for classes in self._classes for members in classes}
        everyone = [members.units for members in different.values()]
        self._everyone = distinct(np.concatenate([np.zeros(0, dtype=np.int64), *everyone]))
        self._positions = {
            key: np.searchsorted(self._everyone, members.units)
            for key, members in different.items()
        }
        self._orders: list[bytes] = []
        self._parts: list[_Placed | None] = []
        self._mean: _Placed | None = None
        self._place()

    def _place(self) -> None:
        """Place the scores of each comparison, and add up what its units do to the mean."""
        count, everyone = len(self._comparisons), len(self._everyone)
        self._moved = np.zeros(everyone)
        weights = np.zeros((2, everyone))
        wrong, right = np.zeros((2, 2, everyone), dtype=bool)
        sorted_reals: dict[int, _SortedScores] = {}  # which several comparisons share
        for (real, fake, *_), classes in zip(self._comparisons, self._classes, strict=True):
            pairs = min(len(members.units) for members in classes)
            if pairs < 2:
                self._parts.append(None)
                self._orders.append(b"")
                continue
            if id(real) not in sorted_reals:
                sorted_reals[id(real)] = _sorted(real)
            placements = _placements(sorted_reals[id(real)], _sorted(fake))
            auc = float(np.mean(placements[1]))
            order, moved = xxhash.xxh3_128(), np.zeros(everyone)
            inverted = []
            for number, (placed, members) in enumerate(zip(placements, classes, strict=True)):
                side, position = _side(placed, members, auc), self._positions[id(members)]
                moved[position] += side.moved
                self._moved[position] += side.moved / count
                weights[number, position] += 1 / (count * len(members.units))
                wrong[number, position] |= side.wrong
                right[number, position] |= side.right
                inverted += [np.count_nonzero(side.wrong), np.count_nonzero(side.right)]
                order.update(side.moved.data)
            smallest = min(effective_number(members.images) for members in classes)
            error = math.sqrt((moved**2).sum())
            self._parts.append(_Placed(auc, error, smallest, pairs, float(min(inverted))))
            self._orders.append(order.digest())
        parts = self._defined
        if parts and len(parts) == count:
            self._mean = self._mean_of(parts, weights, (wrong, right))

    @property
    def _defined(self) -> list[_Placed]:
        """The comparisons whose classes have two units."""
        return [part for part in self._parts if part is not None]

    def _mean_of(
        self,
        parts: Sequence[_Placed],
        weights: Floats,
        inverted: tuple[Booleans, Booleans],
    ) -> _Placed:
        """Return the mean of all comparisons.

        weights: Those of the units in the mean, by class, [2, U]. inverted: Whether a unit of the
        class has an image on the wrong, and one on the right side, [2, U].
        """
        pairs = min(
            len(parts) * min(part.pairs for part in parts),
            *np.count_nonzero(weights, axis=1).tolist(),
        )
        relative = (weights / weights.max(axis=1, keepdims=True)) ** 2
        # Rounded, as the sum of five ones may come out a little less than five.
        fewest = min(round(float((relative * side).sum(axis=1).min()), 6) for side in inverted)
        auc = float(np.mean([part.auc for part in parts]))
        smallest = min(part.smallest for part in parts)
        return _Placed(auc, math.sqrt((self._moved**2).sum()), smallest, pairs, fewest)

    @property
    def auc(self) -> float | None:
        """The mean AUC; None where a class of a comparison has fewer than two units."""
        return None if self._mean is None else self._mean.auc

    @functools.cached_property
    def interval(self) -> Interval | None:
        """The interval of the mean AUC, that of :func:`mean_auc_interval`."""
        if self._mean is None:
            return None
        several = len(self._parts) > 1
        return _interval(self._mean, self._from_parts() if several and self.few_inverted else None)

    @property
    def few_inverted(self) -> bool:
        """Whether fewer than ``SUPPORT`` units of a class are on the wrong side of the other.

        The variance is then not known well, as in :func:`mean_auc_interval`.
        """
        return self._mean is not None and self._mean.inverted < SUPPORT

    @property
    def aucs(self) -> list[float]:
        """The AUC of each comparison whose classes have two units."""
        return [part.auc for part in self._defined]

    @property
    def intervals(self) -> list[Interval]:
        """The interval of the AUC of each comparison whose classes have two units."""
        return [_interval(part) for part in self._defined]

    def of_comparison(self, number: int) -> AucInterval:
        """Return the interval of the AUC of one comparison."""
        part = self._parts[number]
        if part is None:
            return AucInterval(None, few_inverted=False)
        return AucInterval(_interval(part), part.inverted < SUPPORT)

    def _from_parts(self) -> Interval:
        """Return the interval of the mean AUC that follows from those of its comparisons.

        The squares of the distances to the ends are added up, and twice their products for
        comparisons that share images (Zou and Donner, 2008).
        """
        aucs, count, alike = self.aucs, len(self._parts), self._correlations()
        ends = list(zip(aucs, self.intervals, strict=True))
        below = np.array([auc - low for auc, (low, _) in ends])
        above = np.array([high - auc for auc, (_, high) in ends])
        mean = float(np.mean(aucs))
        down, up = (math.sqrt(side @ alike @ side) for side in (below, above))
        return mean - down / count, mean + up / count

    def _correlations(self) -> Floats:
        """Return [K, K], how much the errors of K comparisons go together by shared images.

        It is the cosine of the weights of their units: 1 for the same images, 0 for none in common,
        n / (m + n) for two generators with n fakes each and the same m real images.
        """
        different = {id(members): members for classes in self._classes for members in classes}
        number = {key: row for row, key in enumerate(different)}
        shares = [members.images / members.images.sum() for members in different.values()]
        columns = [self._positions[key] for key in different]
        rows = np.repeat(np.arange(len(shares)), [len(share) for share in shares])
        weights = sparse.csr_array(
            (np.concatenate(shares), (rows, np.concatenate(columns))),
            (len(shares), len(self._everyone)),
        )
        products = (weights @ weights.T).toarray()
        real, fake = np.array([[number[id(c)] for c in classes] for classes in self._classes]).T
        both = products[np.ix_(real, real)] + products[np.ix_(fake, fake)]
        lengths = np.sqrt(both.diagonal())
        return np.asarray(both / np.outer(lengths, lengths))

    def minus(self, other: "PlacedScores") -> Difference | None:
        """Return the difference of the mean AUCs, that of :func:`mean_auc_difference`."""
        if self._mean is None or other._mean is None:
            return None
        differing = [n for n in range(len(self._parts)) if not self._same_order(other, n)]
        if not differing:
            return Difference(0.0, 0.0, 0.0, 1.0)
        share = len(differing) / len(self._parts)
        one_of_them, other_of_them = (
            scores if share == 1 else PlacedScores([scores._comparisons[n] for n in differing])
            for scores in (self, other)
        )
        value, low, high, p_value = _difference(one_of_them, other_of_them)
        low, high = max(-1.0, share * low), min(1.0, share * high)
        return Difference(share * value, low, high, p_value)

    def _same_order(self, other: "PlacedScores", number: int) -> bool:
        """Return whether two models rank a comparison's images alike, with errors on both."""
        part, other_part = self._parts[number], other._parts[number]
        assert part is not None
        assert other_part is not None
        same_auc = part.auc == other_part.auc not in (0.0, 1.0)
        return same_auc and self._orders[number] == other._orders[number]


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
    assert one is not None
    assert other is not None
    value, apart = one.auc - other.auc, scores._moved - other_scores._moved
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


def holm(p_values: Any) -> Floats:
    """Return Holm's (1979) adjusted p-values [n], in the order given; NaN are left out, and stay.

    ``p̃_(i) = max over j ≤ i of min(1, (m - j + 1) · p_(j))`` for the m ordered p-values.
    """
    adjusted = np.array(p_values, dtype=np.float64)
    order = np.argsort(adjusted, kind="stable")[: np.count_nonzero(~np.isnan(adjusted))]
    raised = np.minimum(1.0, adjusted[order] * np.arange(len(order), 0, -1))
    adjusted[order] = np.maximum.accumulate(raised)
    return adjusted

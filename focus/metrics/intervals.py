"""95 % intervals: of rates (Clopper-Pearson), of an AUC (DeLong), of anything by resampling."""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from focus.metrics.arrays import Array
from focus.metrics.ranking import SUPPORT, Ranking

LEVEL = 0.95

Interval = tuple[float, float]
Floats = NDArray[np.float64]
Comparison = tuple[Array, Array, Array, Array]
"""Scores of real images and of fakes, and the numbers of their units: see mean_auc_interval."""


class Difference(NamedTuple):
    """Of two AUCs: the first minus the second, its interval, and the p-value of no difference."""

    value: float
    low: float
    high: float
    p_value: float


def rate_interval(count: float, total: int, level: float = LEVEL) -> Interval | None:
    """Clopper and Pearson's (1934) exact interval of ``count / total``; None for a total of 0.

    It covers at least 95 % whatever the rate is: 0 of 300 is [0, 0.0122]. count: that of a mean
    over ties may be no whole number; its interval lies between those of its neighbours.
    """
    if total == 0:
        return None
    if not 0 <= count <= total:
        raise ValueError(f"{count} of {total} is no rate")
    # Quantiles of beta distributions; scipy's binomtest looks for the same ends, for a millisecond.
    tail = (1 - level) / 2
    low = special.betaincinv(count, total - count + 1, tail) if count else 0.0
    high = special.betainccinv(count + 1, total - count, tail) if count < total else 1.0
    return float(low), float(high)


def auc_interval(
    real_scores: Array,
    fake_scores: Array,
    real_units: Array | None = None,
    fake_units: Array | None = None,
) -> Interval | None:
    """Interval of the AUC by DeLong et al. (1988), on the scale of logits: it stays in (0, 1).

    With Student's quantile at Satterthwaite's degrees of freedom, for small classes. real_scores
    [M], fake_scores [N]. real_units [M], fake_units [N]: integers, the same for what is not
    independent; default: each image by itself. Placements are summed by unit (Obuchowski, 1997).
    Where every fake lies above every real image (or below), the variance is 0: then that of
    ``min(M, N)`` of as many pairs (of units of equal weight: Kish, 1965), by
    :func:`rate_interval`; and the wider of the two where fewer than ``SUPPORT`` images of a class
    (of units: their effective number) have any of the other on the wrong side. None with fewer
    than two units in a class.
    """
    own_units = _units(real_units, fake_units, len(real_scores), len(fake_scores))
    return Compared.of((real_scores, fake_scores, *own_units)).interval


def mean_auc_interval(comparisons: Sequence[Comparison]) -> Interval | None:
    """Interval of the mean AUC over ``comparisons``, as :func:`auc_interval`.

    Each has real_scores [M], fake_scores [N] and the numbers of their units [M], [N]: the same
    where comparisons share an image. The mean moves with a unit by the sum of what each AUC does,
    divided by the number of comparisons; units that are in the same comparisons, of the same class,
    are a sample. Comparisons with fewer than ``SUPPORT`` images on the wrong side move the mean at
    least as far as their own intervals tell, as in :func:`mean_interval`. None where a class of a
    comparison has fewer than two units.
    """
    return mean_interval_of([Compared.of(each) for each in comparisons])


def mean_interval_of(comparisons: Sequence["Compared"]) -> Interval | None:
    """:func:`mean_auc_interval` of comparisons that are ranked already."""
    placed = _placed(comparisons)
    if placed is None:
        return None
    low, high = _by_delong(placed)
    count, alone = len(comparisons), [each.alone for each in comparisons]
    # A comparison without a fake on the wrong side has no variance, and is no more certain than it.
    unsure = [(own.auc, own.interval) for own in alone if own and own.fewest < SUPPORT]
    below, above = (
        math.sqrt(sum((auc - ends[side]) ** 2 for auc, ends in unsure)) / count for side in (0, 1)
    )
    return min(low, placed.auc - below), max(high, placed.auc + above)


class _Estimate(NamedTuple):
    """A (mean) AUC, DeLong's interval of it, and :attr:`_Placed.fewest`."""

    auc: float
    interval: Interval
    fewest: float


class Compared:
    """A comparison in one order, its own interval found once for all that ask for it.

    rank: gives the order, asked only where each class has two units. real_units, fake_units: their
    numbers, in the order in which the scores were given.
    """

    def __init__(self, rank: Callable[[], Ranking], real_units: Array, fake_units: Array) -> None:
        self._rank, self.units = rank, (real_units, fake_units)

    @classmethod
    def of(cls, comparison: Comparison) -> Self:
        """Of scores, which are ranked."""
        real_scores, fake_scores, *units = comparison
        return cls(lambda: Ranking.of(real_scores, fake_scores), *units)

    @cached_property
    def ranking(self) -> Ranking:
        """The two classes in one order."""
        return self._rank()

    @property
    def interval(self) -> Interval | None:
        """:func:`auc_interval`."""
        return None if self.alone is None else self.alone.interval

    @cached_property
    def alone(self) -> _Estimate | None:
        """What it says of itself, None where a class has fewer than two units."""
        placed = _placed([self])
        return None if placed is None else _estimate(placed)


class _Placed(NamedTuple):
    """What DeLong's interval of a (mean) AUC is made of.

    samples: of units that are alike, [G] each, G times what each moves the AUC by. pairs: how many
    pairs of units of equal weight there are. fewest: units of a class on the wrong side, or on the
    right, whichever are the fewest, by the images that each has there (:func:`_effective`).
    """

    auc: float
    samples: list[Floats]
    pairs: int
    fewest: float


def _placed(comparisons: Sequence[Compared]) -> _Placed | None:
    """None without comparisons, and where a class of one has fewer than two units."""
    count = len(comparisons)
    if not count or any(_all_equal(own) for each in comparisons for own in each.units):
        return None
    everyone = np.unique(np.concatenate([own for each in comparisons for own in each.units]))
    aucs, moved, weight = [], np.zeros(len(everyone)), np.zeros((2, len(everyone)))
    member = np.zeros((2 * count, len(everyone)), dtype=bool)
    wrong, right = np.zeros((2, *weight.shape))
    for number, each in enumerate(comparisons):
        auc, *placements = _placements(each.ranking)
        aucs.append(auc)
        for side, (own, names) in enumerate(zip(placements, each.units, strict=True)):
            unit = np.searchsorted(everyone, names)
            share = 1 / (count * len(own))
            moved += share * np.bincount(unit, own - auc, len(everyone))
            weight[side] += share * np.bincount(unit, minlength=len(everyone))
            member[2 * number + side, unit] = True
            wrong[side] = np.maximum(wrong[side], np.bincount(unit, own < 1, len(everyone)))
            right[side] = np.maximum(right[side], np.bincount(unit, own > 0, len(everyone)))
    # The bits of a column as one string of bytes: sorted several times as fast as the column.
    bits = np.ascontiguousarray(np.packbits(member, axis=0).T)
    columns = bits.view(f"S{bits.shape[1]}").ravel()
    _, sample, sizes = np.unique(columns, return_inverse=True, return_counts=True)
    # Those that no other is like are a sample together; one alone goes with the most.
    lone = sizes[sample] < 2
    sample[lone] = len(sizes) if lone.sum() > 1 else sizes.argmax()
    samples = [moved[sample == each] for each in np.unique(sample)]
    return _Placed(
        float(np.mean(aucs)),
        [len(own) * own for own in samples],
        # What is whole but for rounding stays whole.
        int((1 / (weight**2).sum(axis=1)).min() + 1e-6),
        min(map(_effective, (*wrong, *right))),
    )


def _all_equal(values: Array) -> bool:
    return len(values) < 2 or bool(np.min(values) == np.max(values))


def _effective(counts: Floats) -> float:
    """How many units share images alike that are ``counts`` [G] of each (Kish, 1965)."""
    return float(counts.sum() ** 2 / (counts**2).sum()) if counts.any() else 0.0


def _estimate(placed: _Placed) -> _Estimate:
    return _Estimate(placed.auc, _by_delong(placed), placed.fewest)


def _by_delong(placed: _Placed) -> Interval:
    error, quantile = _error(placed.samples)
    auc, pairs = placed.auc, placed.pairs
    # Not rounded, but for rounding: half a pair more would favour one of the classes.
    by_pairs = rate_interval(round(auc * pairs, 6), pairs)
    assert by_pairs is not None
    if error == 0 or auc in (0.0, 1.0):
        return by_pairs
    half = quantile * error / (auc * (1 - auc))
    low, high = special.expit(special.logit(auc) + np.array([-half, half]))
    # A variance that a handful of images makes is itself not known.
    if placed.fewest < SUPPORT:
        low, high = min(low, by_pairs[0]), max(high, by_pairs[1])
    return float(low), float(high)


def auc_difference(
    real_first: Array,
    fake_first: Array,
    real_second: Array,
    fake_second: Array,
    real_units: Array | None = None,
    fake_units: Array | None = None,
) -> Difference | None:
    """Of the AUCs of two models on the same images, as :func:`mean_auc_difference`.

    real_* [M], fake_* [N]: the scores, the same image at the same place; units as for
    :func:`auc_interval`.

    Raises ValueError if the models scored different numbers of images.
    """
    own_units = _units(real_units, fake_units, len(real_first), len(fake_first))
    first, second = (real_first, fake_first, *own_units), (real_second, fake_second, *own_units)
    return mean_auc_difference([first], [second])


def mean_auc_difference(
    first: Sequence[Comparison], second: Sequence[Comparison]
) -> Difference | None:
    """Of two models' mean AUCs over the same comparisons, by DeLong et al. (1988).

    Each comparison as for :func:`mean_auc_interval`, the same images at the same places: the
    variance is that of what a unit moves the first mean by less what it moves the second by. Where
    a model has fewer than ``SUPPORT`` images on the wrong side, in a comparison or in all, that
    variance is itself not known: the interval is then at least that of models that are independent
    there, by the squares of the distances to the ends of their own (Zou and Donner, 2008), and the
    p-value at least that which such an interval has (Altman and Bland, 2011). So 0 lies outside
    where p is below 0.05. Scores in the same order do not differ, whatever the sample, unless the
    AUC is 0 or 1. None with fewer than two units in a class of a comparison.

    Raises ValueError if the models did not score the same numbers of images, of the same units.
    """
    pairs = list(zip(first, second, strict=True))
    for (*one_scores, one_real, one_fake), (*other_scores, other_real, other_fake) in pairs:
        same_units = np.array_equal(one_real, other_real) and np.array_equal(one_fake, other_fake)
        if list(map(len, one_scores)) != list(map(len, other_scores)) or not same_units:
            raise ValueError("the two models did not score the same images")
    ones, others = ([Compared.of(each) for each in side] for side in (first, second))
    one, other = _placed(ones), _placed(others)
    if one is None or other is None:
        return None
    value = one.auc - other.auc
    apart = [a - b for a, b in zip(one.samples, other.samples, strict=True)]
    error, quantile = _error(apart)
    low, high = value - quantile * error, value + quantile * error
    p_value = float(2 * stats.t.sf(abs(value) / error, _freedom(apart))) if error else 1.0
    apart_in = [
        (own, others_own)
        for pair, each, others_each in zip(pairs, ones, others, strict=True)
        if (own := each.alone) and (others_own := others_each.alone)
        # Some of the images on the wrong side, or the variance is not known.
        if not (0 < own.auc < 1 and _alike(*pair))
    ]
    unsure = [found for estimates in apart_in if (found := _unsure(*estimates))]
    # Of all, too: comparisons that share images are not independent of each other.
    whole = _unsure(_estimate(one), _estimate(other)) if apart_in else None
    if unsure or whole:
        parts = [math.hypot(*ends) / len(pairs) for ends in zip(*unsure, strict=True)]
        below, above = map(max, parts or (0.0, 0.0), whole or (0.0, 0.0))
        low, high = min(low, value - below), max(high, value + above)
        quantiles = special.ndtri((1 + LEVEL) / 2) * abs(value) / (below if value > 0 else above)
        p_value = max(p_value if error else 0.0, float(2 * stats.norm.sf(quantiles)))
    return Difference(value, max(-1.0, low), min(1.0, high), p_value)


def _alike(first: Comparison, second: Comparison) -> bool:
    """Whether two models have the images in the same order."""
    return np.array_equal(*(stats.rankdata(np.concatenate(own[:2])) for own in (first, second)))


def _unsure(one: _Estimate, other: _Estimate) -> Interval | None:
    """How far two AUCs may differ below and above what they do, if the variance is not known."""
    if min(one.fewest, other.fewest) >= SUPPORT:
        return None
    (low_one, high_one), (low_other, high_other) = one.interval, other.interval
    return (
        math.hypot(one.auc - low_one, high_other - other.auc),
        math.hypot(high_one - one.auc, other.auc - low_other),
    )


def grouped(groups: Array, images: Array | None = None) -> bool:
    """Whether a group holds more than one image: images are then not independent.

    groups, images [N]: as for :class:`Resampler`.
    """
    count = len(groups) if images is None else len(np.unique(images))
    return len(np.unique(units(groups, images))) < count


def units(groups: Array, images: Array | None = None) -> NDArray[np.int64]:
    """[N] the number of the independent unit of each image: the first row that it has.

    groups, images [N]: as for :class:`Resampler`.
    """
    groups = np.asarray(groups, dtype=np.object_)
    unit, named = np.arange(len(groups)), np.flatnonzero(groups != "")
    if len(named):
        _, first, inverse = np.unique(
            groups[named].astype(str), return_index=True, return_inverse=True
        )
        unit[named] = named[first][inverse]
    return unit if images is None else unit[images]


def _units(real: Array | None, fake: Array | None, reals: int, fakes: int) -> tuple[Array, Array]:
    """As given, or of ``reals`` and ``fakes`` images that are each by itself."""
    if real is None or fake is None:
        return np.arange(reals), np.arange(reals, reals + fakes)
    return real, fake


class Resampler:
    """Draws of a table's images with replacement, within strata, whole groups at a time.

    strata [N]: integers; each keeps its size (Efron and Tibshirani's stratified bootstrap), so an
    image that several comparisons share is drawn once for all. groups [N]: names of what is not
    independent, such as a person or a clip; "" is an image by itself. Groups that lie in more than
    one stratum are drawn from all such groups: their strata keep their size in the mean alone.
    images [N]: of each row the first that has its image; default: each row another.
    """

    def __init__(self, strata: Array, groups: Array, images: Array | None = None) -> None:
        strata = np.asarray(strata, dtype=np.int64)
        self.grouped = grouped(groups, images)
        _, self.unit = np.unique(units(groups, images), return_inverse=True)
        self.count = int(self.unit.max(initial=-1)) + 1
        self._alike = self._units_alike(strata)

    def units(self, rows: NDArray[np.int64]) -> int:
        """How many independent draws some of the images are."""
        if self.count == len(self.unit):
            return len(rows)
        return len(np.unique(self.unit[rows]))

    def _units_alike(self, strata: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The units of each stratum, and those that lie in several."""
        pairs = np.unique(np.stack([self.unit, strata]), axis=1)
        first, lies_in = np.unique(pairs[0], return_index=True, return_counts=True)[1:]
        pool = np.where(lies_in > 1, -1, pairs[1][first])
        # By their first unit: how strata are numbered makes no other draws.
        _, met = np.unique(pool, return_index=True)
        return [np.flatnonzero(pool == stratum) for stratum in pool[np.sort(met)]]

    def draw(self, random: np.random.Generator, resamples: int) -> Floats:
        """[R, N] how often each image is in each resample."""
        times = np.zeros((resamples, self.count))
        for units in self._alike:
            drawn = random.integers(0, len(units), (resamples, len(units)))
            drawn += len(units) * np.arange(resamples)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=drawn.size)
            times[:, units] = counts.reshape(drawn.shape)
        return times if self.count == len(self.unit) else times[:, self.unit]


def mean_interval(parts: Sequence[tuple[float, Interval]]) -> Interval | None:
    """Of the mean of independent figures, from each one's value and interval.

    By the squares of the distances to their ends (Zou and Donner, 2008): where a figure is 0 or 1,
    its interval still tells how far it may be from there. None without parts.
    """
    return sum_interval([(1 / len(parts), *part) for part in parts]) if parts else None


def sum_interval(parts: Sequence[tuple[float, float, Interval]]) -> Interval:
    """Of a sum of independent figures: the weight (above 0), value and interval of each.

    As :func:`mean_interval`, whose weights are equal.
    """
    total = sum(weight * value for weight, value, _ in parts)
    below = math.hypot(*(weight * (value - low) for weight, value, (low, _) in parts))
    above = math.hypot(*(weight * (high - value) for weight, value, (_, high) in parts))
    return total - below, total + above


def percentiles(draws: Array) -> Interval | None:
    """The middle 95 % of ``draws`` [R]; NaN is a resample in which the figure is not defined.

    None if that is more than one in twenty: the rest would be a choice among the resamples.
    """
    defined = np.asarray(draws, dtype=np.float64)
    defined = defined[~np.isnan(defined)]
    if len(defined) < 0.95 * len(draws) or len(defined) == 0:
        return None
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def widened(interval: Interval, value: float, count: int) -> Interval:
    """Percentiles of a figure, whose estimate is ``value``, as wide as ``count`` units ask for.

    A resample of n has (n - 1) / n of the variance, and its percentiles are as if that were known:
    both ends move from the value by Student's quantile over the normal one, and by that root
    (Hesterberg, 2015, takes outer quantiles instead, which two or three units do not have).
    Percentiles that are equal remain so. count: 2 or more.
    """
    if interval[0] == interval[1]:
        return interval
    student, normal = stats.t.ppf((1 + LEVEL) / 2, count - 1), special.ndtri((1 + LEVEL) / 2)
    by = float(student / normal * math.sqrt(count / (count - 1)))
    low, high = (value + by * (end - value) for end in interval)
    # Where a figure lies outside its percentiles, an end would move inwards.
    return min(low, interval[0]), max(high, interval[1])


def _placements(ranking: Ranking) -> tuple[float, Floats, Floats]:
    """The AUC, and the share of the other class on the right side of each real image and fake."""
    real, fake = ranking.real.scores, ranking.fake.scores
    of_fake = (ranking.real_below + ranking.real_up_to) / 2 / len(real)
    below = np.searchsorted(fake, real, side="left")
    up_to = np.searchsorted(fake, real, side="right")
    of_real = 1 - (below + up_to) / 2 / len(fake)
    # In the order in which the scores were given: another model's are in the same.
    back_real, back_fake = np.empty_like(of_real), np.empty_like(of_fake)
    back_real[ranking.real.order], back_fake[ranking.fake.order] = of_real, of_fake
    return float(ranking.at().auc()[0]), back_real, back_fake


def _variances(placed: Sequence[Floats]) -> Floats:
    """Of the mean of each [N]."""
    return np.array([np.var(values, ddof=1) / len(values) for values in placed])


def _freedom(placed: Sequence[Floats]) -> float:
    """Satterthwaite's degrees of freedom of the sum of the means."""
    variances = _variances(placed)
    own = sum(v**2 / (len(p) - 1) for v, p in zip(variances, placed, strict=True))
    return float(variances.sum() ** 2 / own) if own else math.inf


def _error(placed: Sequence[Floats]) -> tuple[float, float]:
    """Standard error of the sum of the means of ``placed``, and Student's quantile for it."""
    error = float(np.sqrt(_variances(placed).sum()))
    return error, float(stats.t.ppf((1 + LEVEL) / 2, _freedom(placed)))

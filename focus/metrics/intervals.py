"""95 % intervals: of rates (Clopper-Pearson), of an AUC (DeLong), of anything by resampling."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from focus.metrics.arrays import Array
from focus.metrics.ranking import SUPPORT, Ranking

LEVEL = 0.95

Interval = tuple[float, float]
Floats = NDArray[np.float64]


class Difference(NamedTuple):
    """Of two AUCs: the first minus the second, its interval, and the p-value of no difference."""

    value: float
    low: float
    high: float
    p_value: float


def rate_interval(count: int, total: int, level: float = LEVEL) -> Interval | None:
    """Clopper and Pearson's (1934) exact interval of ``count / total``; None for a total of 0.

    It covers at least 95 % whatever the rate is: 0 of 300 is [0, 0.0122].
    """
    if total == 0:
        return None
    found = stats.binomtest(count, total).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)


def auc_interval(real_scores: Array, fake_scores: Array) -> Interval | None:
    """Interval of the AUC by DeLong et al. (1988), on the scale of logits: it stays in (0, 1).

    With Student's quantile at Satterthwaite's degrees of freedom, for small classes. real_scores
    [M], fake_scores [N]. Where every fake lies above every real image (or below), the variance is
    0: then that of ``min(M, N)`` of as many pairs, by :func:`rate_interval`; and the wider of the
    two where fewer than ``SUPPORT`` images of a class have any of the other on the wrong side.
    None with fewer than two images in a class.
    """
    if min(len(real_scores), len(fake_scores)) < 2:
        return None
    auc, *placed = _placements(real_scores, fake_scores)
    pairs = min(len(real_scores), len(fake_scores))
    return _by_delong(auc, placed, pairs, _fewest(placed))


def mean_auc_interval(comparisons: Sequence[tuple[Array, Array, Array]]) -> Interval | None:
    """Interval of the mean AUC over ``comparisons``, as :func:`auc_interval`.

    Each has real_scores [M], fake_scores [N] and images [M]: numbers of its real images, the same
    where several share one. The mean's placement of an image is the sum of those that it has, each
    divided by the number of comparisons and by the images of its class there; real images that are
    in the same comparisons are a sample. The pairs are those of as many images of equal weight
    (Kish, 1965). Comparisons with fewer than ``SUPPORT`` images on the wrong side move the mean at
    least as far as their own intervals tell, as in :func:`mean_interval`. None where a sample has
    fewer than two images.
    """
    count = len(comparisons)
    if any(min(len(real), len(fake)) < 2 for real, fake, _ in comparisons) or not count:
        return None
    everyone = np.unique(np.concatenate([images for *_, images in comparisons]))
    weight, reals = np.zeros((count, len(everyone))), np.zeros(len(everyone))
    aucs, fakes, unsure = [], [], []
    for own, (real_scores, fake_scores, images) in zip(weight, comparisons, strict=True):
        auc, of_real, of_fake = _placements(real_scores, fake_scores)
        aucs.append(auc)
        if _fewest([of_real, of_fake]) < SUPPORT:
            unsure.append((auc, auc_interval(real_scores, fake_scores) or (0.0, 1.0)))
        fakes.append(of_fake / count)
        places = np.searchsorted(everyone, images)
        own[places] = 1 / (count * len(real_scores))
        reals[places] += of_real / (count * len(real_scores))
    _, sample, sizes = np.unique(weight > 0, axis=1, return_inverse=True, return_counts=True)
    if sizes.min() < 2:
        return None
    sample = sample.reshape(-1)  # in numpy 2.0 it has another shape
    placed = [size * reals[sample == number] for number, size in enumerate(sizes)]
    most = weight.sum(axis=0)
    alike = 1 / (most**2).sum(), count**2 / sum(1 / len(own) for own in fakes)
    wrong = int((reals < most * (1 - 1e-9)).sum()), sum(int((f < 1 / count).sum()) for f in fakes)
    right = int((reals > 0).sum()), sum(int((f > 0).sum()) for f in fakes)
    pairs = int(min(alike) + 1e-6)  # what is whole but for rounding stays whole
    mean = float(np.mean(aucs))
    interval = _by_delong(mean, [*placed, *fakes], pairs, min(*wrong, *right))
    if interval is None:
        return None
    # A comparison without a fake on the wrong side has no variance, and is no more certain than it.
    below, above = (
        math.sqrt(sum((auc - ends[side]) ** 2 for auc, ends in unsure)) / count for side in (0, 1)
    )
    return min(interval[0], mean - below), max(interval[1], mean + above)


def _fewest(placed: Sequence[Floats]) -> int:
    """Images of a class on the wrong side, or on the right, whichever are the fewest."""
    wrong = min(int((of_class < 1).sum()) for of_class in placed)
    return min(wrong, *(int((of_class > 0).sum()) for of_class in placed))


def _by_delong(auc: float, placed: Sequence[Floats], pairs: int, fewest: int) -> Interval | None:
    """From the placements of each sample; fewest: images on the wrong side, or on the right."""
    error, quantile = _error(placed)
    by_pairs = rate_interval(round(auc * pairs), pairs)
    if error == 0 or auc in (0.0, 1.0) or by_pairs is None:
        return by_pairs
    half = quantile * error / (auc * (1 - auc))
    low, high = special.expit(special.logit(auc) + np.array([-half, half]))
    # A variance that a handful of images makes is itself not known.
    if fewest < SUPPORT:
        low, high = min(low, by_pairs[0]), max(high, by_pairs[1])
    return float(low), float(high)


def auc_difference(
    real_first: Array, fake_first: Array, real_second: Array, fake_second: Array
) -> Difference | None:
    """Of the AUCs of two models on the same images, by DeLong et al. (1988).

    real_* [M], fake_* [N]: the scores, the same image at the same place. Where both AUCs are 0 or
    1, the variance is 0: the interval is then as wide as that of each AUC, and the p-value that of
    a sign test on ``min(M, N)`` pairs. None with fewer than two images in a class.

    Raises ValueError if the models scored different numbers of images.
    """
    if len(real_first) != len(real_second) or len(fake_first) != len(fake_second):
        raise ValueError("the two models did not score the same images")
    if min(len(real_first), len(fake_first)) < 2:
        return None
    first, *placed_first = _placements(real_first, fake_first)
    second, *placed_second = _placements(real_second, fake_second)
    value = first - second
    error, quantile = _error([a - b for a, b in zip(placed_first, placed_second, strict=True)])
    pairs = min(len(real_first), len(fake_first))
    if error == 0:
        bound = rate_interval(pairs, pairs)
        assert bound is not None
        half, p_value = 1 - bound[0], 1.0 if value == 0 else min(1.0, 2.0 ** (1 - pairs))
        # Equal scores are equal for any sample; perfect ones need not be.
        if value == 0 and 0 < first < 1:
            half = 0.0
    else:
        half = quantile * error
        freedom = _freedom([a - b for a, b in zip(placed_first, placed_second, strict=True)])
        p_value = float(2 * stats.t.sf(abs(value) / error, freedom))
    return Difference(value, max(-1.0, value - half), min(1.0, value + half), p_value)


class Resampler:
    """Draws of a table's images with replacement, within strata, whole groups at a time.

    strata [N]: integers; each keeps its size (Efron and Tibshirani's stratified bootstrap), so an
    image that several comparisons share is drawn once for all. groups [N]: names of what is not
    independent, such as a person or a clip; "" is an image by itself. Groups that lie in more than
    one stratum are drawn from all such groups: their strata keep their size in the mean alone.
    images [N]: of each row the first that has its image; default: each row another.
    """

    def __init__(self, strata: Array, groups: Array, images: Array | None = None) -> None:
        strata, groups = np.asarray(strata, dtype=np.int64), np.asarray(groups, dtype=np.object_)
        self.grouped = bool((groups != "").any())
        unit = np.arange(len(strata))
        if self.grouped:
            named = np.flatnonzero(groups != "")
            _, first, inverse = np.unique(
                groups[named].astype(str), return_index=True, return_inverse=True
            )
            unit[named] = named[first][inverse]
        if images is not None:
            unit = unit[images]
        _, self._unit = np.unique(unit, return_inverse=True)
        self.count = int(self._unit.max(initial=-1)) + 1
        self._alike = self._units_alike(strata)

    def units(self, rows: NDArray[np.int64]) -> int:
        """How many independent draws some of the images are."""
        if self.count == len(self._unit):
            return len(rows)
        return len(np.unique(self._unit[rows]))

    def _units_alike(self, strata: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The units of each stratum, and those that lie in several."""
        pairs = np.unique(np.stack([self._unit, strata]), axis=1)
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
        return times if self.count == len(self._unit) else times[:, self._unit]


def mean_interval(parts: Sequence[tuple[float, Interval]]) -> Interval | None:
    """Of the mean of independent figures, from each one's value and interval.

    By the squares of the distances to their ends (Zou and Donner, 2008): where a figure is 0 or 1,
    its interval still tells how far it may be from there. None without parts.
    """
    if not parts:
        return None
    mean = sum(value for value, _ in parts) / len(parts)
    below = math.sqrt(sum((value - low) ** 2 for value, (low, _) in parts)) / len(parts)
    above = math.sqrt(sum((high - value) ** 2 for value, (_, high) in parts)) / len(parts)
    return mean - below, mean + above


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


def _placements(real_scores: Array, fake_scores: Array) -> tuple[float, Floats, Floats]:
    """The AUC, and the share of the other class on the right side of each real image and fake."""
    ranking = Ranking.of(real_scores, fake_scores)
    of_fake = (ranking.real_below + ranking.real_up_to) / 2 / len(real_scores)
    fake = ranking.fake.scores
    below = np.searchsorted(fake, ranking.real.scores, side="left")
    up_to = np.searchsorted(fake, ranking.real.scores, side="right")
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

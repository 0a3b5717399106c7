"""95 % intervals: of rates (Clopper-Pearson), of an AUC (DeLong), of anything by resampling."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from focus.metrics.arrays import Array
from focus.metrics.ranking import Ranking

LEVEL = 0.95

Interval = tuple[float, float]
Floats = NDArray[np.float64]


class Difference(NamedTuple):
    """Of two AUCs: the first minus the second, its interval, and the p-value of no difference."""

    value: float
    low: float
    high: float
    p_value: float


def rate_interval(count: int, total: int) -> Interval | None:
    """Clopper and Pearson's (1934) exact interval of ``count / total``; None for a total of 0.

    It covers at least 95 % whatever the rate is: 0 of 300 is [0, 0.0122].
    """
    if total == 0:
        return None
    found = stats.binomtest(count, total).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)


def auc_interval(real_scores: Array, fake_scores: Array) -> Interval | None:
    """Interval of the AUC by DeLong et al. (1988), on the scale of logits: it stays in (0, 1).

    real_scores [M], fake_scores [N]. Where every fake lies above every real image (or below), the
    variance is 0: then that of ``min(M, N)`` of as many pairs, by :func:`rate_interval`. None with
    fewer than two images in a class.
    """
    if min(len(real_scores), len(fake_scores)) < 2:
        return None
    auc, of_real, of_fake = _placements(real_scores, fake_scores)
    variance = _variance_of_mean(of_real) + _variance_of_mean(of_fake)
    pairs = min(len(real_scores), len(fake_scores))
    if variance == 0 or auc in (0.0, 1.0):
        return rate_interval(round(auc * pairs), pairs)
    half = _quantile() * np.sqrt(variance) / (auc * (1 - auc))
    low, high = special.expit(special.logit(auc) + np.array([-half, half]))
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
    variance = sum(
        _variance_of_mean(a - b) for a, b in zip(placed_first, placed_second, strict=True)
    )
    pairs = min(len(real_first), len(fake_first))
    if variance == 0:
        bound = rate_interval(pairs, pairs)
        assert bound is not None
        half, p_value = 1 - bound[0], 1.0 if value == 0 else min(1.0, 2.0 ** (1 - pairs))
        # Equal scores are equal for any sample; perfect ones need not be.
        if value == 0 and 0 < first < 1:
            half = 0.0
    else:
        half = float(_quantile() * np.sqrt(variance))
        p_value = float(2 * stats.norm.sf(abs(value) / np.sqrt(variance)))
    return Difference(value, max(-1.0, value - half), min(1.0, value + half), p_value)


class Resampler:
    """Draws of a table's images with replacement, within strata, whole groups at a time.

    strata [N]: integers; each keeps its size (Efron and Tibshirani's stratified bootstrap), so an
    image that several comparisons share is drawn once for all. groups [N]: names of what is not
    independent, such as a person or a clip; "" is an image by itself. A group that lies in several
    strata is drawn with those that lie in the same ones.
    """

    def __init__(self, strata: Array, groups: Array) -> None:
        strata, groups = np.asarray(strata, dtype=np.int64), np.asarray(groups, dtype=np.object_)
        self.grouped = bool((groups != "").any())
        unit = np.arange(len(strata))
        if self.grouped:
            named = np.flatnonzero(groups != "")
            _, first, inverse = np.unique(
                groups[named].astype(str), return_index=True, return_inverse=True
            )
            unit[named] = named[first][inverse]
        _, self._unit = np.unique(unit, return_inverse=True)
        self.count = int(self._unit.max(initial=-1)) + 1
        self._alike = self._units_alike(strata)

    def units(self, rows: NDArray[np.int64]) -> int:
        """How many independent draws some of the images are."""
        return len(np.unique(self._unit[rows]))

    def _units_alike(self, strata: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The units, those that lie in the same strata together."""
        pairs = np.unique(np.stack([self._unit, strata]), axis=1)
        lies_in: dict[tuple[int, ...], list[int]] = {}
        starts = np.flatnonzero(np.diff(pairs[0], prepend=-1))
        for unit, found in enumerate(np.split(pairs[1], starts[1:]) if len(starts) else []):
            lies_in.setdefault(tuple(found.tolist()), []).append(unit)
        return [np.array(units) for units in lies_in.values()]

    def draw(self, random: np.random.Generator, resamples: int) -> Floats:
        """[R, N] how often each image is in each resample."""
        times = np.zeros((resamples, self.count))
        for units in self._alike:
            drawn = random.integers(0, len(units), (resamples, len(units)))
            drawn += len(units) * np.arange(resamples)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=drawn.size)
            times[:, units] = counts.reshape(drawn.shape)
        return times[:, self._unit] if self.grouped else times


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


def _variance_of_mean(values: Floats) -> float:
    return float(np.var(values, ddof=1) / len(values))


def _quantile() -> float:
    return float(stats.norm.ppf((1 + LEVEL) / 2))

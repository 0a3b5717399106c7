"""How well scores tell fakes from real images: ROC, precision, error rates, calibration errors.

A score is the probability of synthetic, larger = more likely synthetic. Every figure is defined for
images that carry weights, as in a resample, where a weight is how often an image was drawn: one
definition serves the figure and its interval. :class:`Side` sorts the scores of a class once,
:class:`Ranking` puts two classes in one order once, and :class:`Rates` gives the figures of many
resamples together. Its figures are [R], one a resample, NaN where a resample does not define it;
the functions at the end are for images that weigh 1.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from focus.metrics.arrays import Array, divided, finite

BINS = 15
"""Of equal mass, in the expected calibration error."""
SUPPORT = 5
"""A rate that fewer than so many images of the sample would make is not defined."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


class Side:
    """The scores of one class, sorted once: ``scores`` [N], ascending.

    Raises ValueError for a score that is not finite.
    """

    def __init__(self, scores: Array) -> None:
        given = finite(scores, "scores")
        self.order = np.argsort(given, kind="stable")
        self.scores = given[self.order]

    def __len__(self) -> int:
        return len(self.scores)

    def at(self, weights: Array | None = None) -> "Mass":
        """With ``weights`` [R, N] in the order in which the scores were given; default: 1 each."""
        if weights is None:
            return Mass(self, np.ones((1, len(self))))
        return Mass(self, np.asarray(weights, dtype=np.float64)[:, self.order])


class Mass:
    """The weights of a side's images.

    weights [R, N] by rising score; below [R, N+1] of the k images with the lowest scores; total
    [R].
    """

    def __init__(self, side: Side, weights: Floats) -> None:
        self.side, self.weights = side, weights
        self.below = _cumulated(weights)
        self.total = self.below[:, -1]

    @cached_property
    def moment(self) -> Floats:
        """[R, N+1] weight times score of the k lowest."""
        return self.moment_of(self.side.scores)

    def moment_of(self, values: Floats) -> Floats:
        """[R, N+1] weight times ``values`` [N], which are by rising score."""
        return _cumulated(self.weights * values)

    def share_above(self, threshold: float) -> Floats:
        """[R] share of the weight with a score above ``threshold``."""
        cut = np.searchsorted(self.side.scores, threshold, side="right")
        return 1 - divided(self.below[:, cut], self.total)


class Ranking:
    """Two sides in one order: which real images lie below each fake, and every score there is."""

    def __init__(self, real: Side, fake: Side) -> None:
        self.real, self.fake = real, fake
        self.real_below = np.searchsorted(real.scores, fake.scores, side="left")
        self.real_up_to = np.searchsorted(real.scores, fake.scores, side="right")
        self.tied_from = np.searchsorted(fake.scores, fake.scores, side="left")
        # A threshold at each score and one above all; one there is always.
        every = np.concatenate([real.scores, fake.scores])
        self.levels = np.unique(every) if len(every) else np.zeros(1)
        self.real_at = np.searchsorted(real.scores, [*self.levels, np.inf], side="left")
        self.fake_at = np.searchsorted(fake.scores, [*self.levels, np.inf], side="left")

    @classmethod
    def of(cls, real_scores: Array, fake_scores: Array) -> Self:
        """Of scores [M] of real images and [N] of fakes."""
        return cls(Side(real_scores), Side(fake_scores))

    def at(self, real: Mass | None = None, fake: Mass | None = None) -> "Rates":
        """The figures for these weights; default: 1 each."""
        return Rates(self, real or self.real.at(), fake or self.fake.at())


class Rates:
    """Figures of a ranking for given weights, each [R]."""

    def __init__(self, ranking: Ranking, real: Mass, fake: Mass) -> None:
        self.ranking, self.real, self.fake = ranking, real, fake
        self.both = (real.total > 0) & (fake.total > 0)
        """[R] whether each class has weight."""

    def auc(self) -> Floats:
        """Area under the ROC curve: the chance that a fake scores above a real image, ties half."""
        below = self.real.below
        pairs = below[:, self.ranking.real_below] + below[:, self.ranking.real_up_to]
        return divided(_dot(pairs, self.fake.weights), 2 * self.real.total * self.fake.total)

    def average_precision(self, *, balanced: bool = False) -> Floats:
        """Mean precision at the fakes, scikit-learn's ``average_precision_score``.

        balanced: as if there were as many real images as fakes.
        """
        hits, alarms = self._called_at_fakes
        if balanced:
            alarms = divided(self.fake.total, self.real.total)[:, None] * alarms
        called = hits + alarms
        precision = hits / np.where(called == 0, 1, called)  # above every image that was drawn
        found = divided(_dot(precision, self.fake.weights), self.fake.total)
        return np.where(self.both, found, np.nan)

    def eer(self) -> Floats:
        """Equal error rate: where the ROC, straight between its points, has FPR = 1 - TPR."""
        last = self._first_that_misses_more()
        alarms, missed = self._errors(np.concatenate([last - 1, last], axis=1))
        gap, next_gap = (alarms - missed).T
        share = divided(gap, gap - next_gap)
        return np.where(self.both, alarms[:, 0] + (alarms[:, 1] - alarms[:, 0]) * share, np.nan)

    def tpr_at_fpr(self, target: float) -> Floats:
        """Largest true positive rate at a false positive rate of ``target`` at most.

        A property of the ROC, without interpolation. NaN too if the real images cannot support the
        rate: fewer than ``SUPPORT`` of them would be false positives.
        """
        cut = np.searchsorted(self.fake.side.scores, self._score_at_fpr(target), side="right")
        found = 1 - divided(_taken(self.fake.below, cut[:, None])[:, 0], self.fake.total)
        supported = len(self.real.side) * target >= SUPPORT * (1 - 1e-12)
        return np.where(self.both & supported, found, np.nan)

    def accuracy(self) -> Floats:
        """Share of the images on their side of a score of 0.5; one above it says synthetic."""
        flagged = self.real.total * np.nan_to_num(self.real.share_above(0.5))
        found = self.fake.total * np.nan_to_num(self.fake.share_above(0.5))
        total = self.real.total + self.fake.total
        return divided(found + self.real.total - flagged, total)

    def balanced_accuracy(self) -> Floats:
        """Mean over the two classes of the share on their side of a score of 0.5."""
        return (1 - self.real.share_above(0.5) + self.fake.share_above(0.5)) / 2

    def brier(self, *, balanced: bool = False) -> Floats:
        """Mean squared distance of the score from the label, in [0, 1] (Brier, 1950).

        balanced: as if there were as many real images as fakes.
        """
        real, fake = self._squares
        if balanced:
            return (divided(real, self.real.total) + divided(fake, self.fake.total)) / 2
        return divided(real + fake, self.real.total + self.fake.total)

    @cached_property
    def _squares(self) -> tuple[Floats, Floats]:
        """[R] of each class the sum of the squared distances from the label."""
        real = self.real.weights @ self.real.side.scores**2
        return real, self.fake.weights @ (1 - self.fake.side.scores) ** 2

    def ece(
        self, *, balanced: bool = False, moments: tuple[Floats, Floats] | None = None
    ) -> Floats:
        """Expected calibration error over ``BINS`` bins of equal mass, in [0, 1].

        The mean over the bins of the distance between the mean score and the share of fakes,
        weighed by the mass (Nguyen and O'Connor, 2015). balanced, moments: as for
        :meth:`calibration_bins`.
        """
        mass, scored, fakes = self.calibration_bins(balanced=balanced, moments=moments)
        return divided(np.abs(scored - fakes).sum(axis=1), mass.sum(axis=1))

    def calibration_bins(
        self, *, balanced: bool = False, moments: tuple[Floats, Floats] | None = None
    ) -> tuple[Floats, Floats, Floats]:
        """[R, BINS] the mass of each bin, its sum of scores and its mass of fakes, by rising score.

        Tied scores share a bin, that of their first. balanced: as if there were as many real images
        as fakes. moments: of the two sides, :meth:`Mass.moment_of` of probabilities in the scores'
        stead, which rise with them.
        """
        real_moment, fake_moment = moments or (self.real.moment, self.fake.moment)
        ranking, ones = self.ranking, np.ones(len(self.both))
        of_real, of_fake = ones[:, None], ones[:, None]
        if balanced:
            of_real = divided(ones, self.real.total)[:, None]
            of_fake = divided(ones, self.fake.total)[:, None]
        total = of_real[:, 0] * self.real.total + of_fake[:, 0] * self.fake.total
        bounds = total[:, None] * np.arange(1, BINS) / BINS * (1 - 1e-12)

        def reached(levels: Integers) -> Booleans:
            real = of_real * _taken(self.real.below, ranking.real_at[levels])
            fake = of_fake * _taken(self.fake.below, ranking.fake_at[levels])
            return np.asarray(real + fake >= bounds)

        inner = _first(reached, len(ranking.levels), bounds.shape)
        edges = np.pad(inner, ((0, 0), (1, 1)))
        edges[:, -1] = len(ranking.levels)
        real_at, fake_at = ranking.real_at[edges], ranking.fake_at[edges]
        scored = of_real * np.diff(_taken(real_moment, real_at))
        scored += of_fake * np.diff(_taken(fake_moment, fake_at))
        fakes = of_fake * np.diff(_taken(self.fake.below, fake_at))
        reals = of_real * np.diff(_taken(self.real.below, real_at))
        return reals + fakes, scored, fakes

    def prevalence(self) -> Floats:
        """Share of fakes."""
        return divided(self.fake.total, self.real.total + self.fake.total)

    def threshold_at_fpr(self, target: float) -> Floats:
        """The lowest threshold with a false positive rate of ``target`` at most."""
        above = np.searchsorted(self.ranking.levels, self._score_at_fpr(target), side="right")
        return self._thresholds(above)

    def threshold_at_eer(self) -> Floats:
        """Where the two error rates are closest."""
        last = self._first_that_misses_more()
        alarms, missed = self._errors(np.concatenate([last - 1, last], axis=1))
        return self._thresholds(last[:, 0] - 1 + np.abs(alarms - missed).argmin(axis=1))

    def threshold_of_best_balance(self) -> Floats:
        """Where the balanced accuracy is largest; the lowest of several."""
        real, fake = self.real.total[:, None], self.fake.total[:, None]
        alarms = real - self.real.below[:, self.ranking.real_at]
        missed = self.fake.below[:, self.ranking.fake_at]
        # Both rates times both totals: whole numbers, so that no rounding decides between equals.
        return self._thresholds((alarms * fake + missed * real).argmin(axis=1))

    @cached_property
    def _called_at_fakes(self) -> tuple[Floats, Floats]:
        """[R, N] the weight of the fakes, and of the real images, from each fake's score on."""
        hits = self.fake.total[:, None] - self.fake.below[:, self.ranking.tied_from]
        return hits, self.real.total[:, None] - self.real.below[:, self.ranking.real_below]

    def _errors(self, levels: Integers) -> tuple[Floats, Floats]:
        """[R, n] shares of the real images from each level [R, n] on, and of the fakes below it."""
        alarms = _taken(self.real.below, self.ranking.real_at[levels])
        missed = _taken(self.fake.below, self.ranking.fake_at[levels])
        real, fake = self.real.total[:, None], self.fake.total[:, None]
        return 1 - divided(alarms, real), divided(missed, fake)

    def _first_that_misses_more(self) -> Integers:
        """[R, 1] the first level from which more fakes are missed than real images flagged."""

        def reached(levels: Integers) -> Booleans:
            alarms, missed = self._errors(levels)
            return np.asarray(missed > alarms)

        return np.maximum(_first(reached, len(self.ranking.levels), (len(self.both), 1)), 1)

    def _score_at_fpr(self, target: float) -> Floats:
        """[R] the lowest score above which lie at most ``target`` of the real images' weight."""
        total = self.real.total[:, None]

        def reached(kept: Integers) -> Booleans:
            above = total - _taken(self.real.below, kept)
            return np.asarray(above <= target * total * (1 + 1e-12))

        kept = _first(reached, len(self.real.side), (len(self.both), 1))[:, 0]
        return np.concatenate([[-np.inf], self.real.side.scores])[kept]

    def _thresholds(self, levels: Integers) -> Floats:
        """[R] above which lie the scores from each level on: half way, so that rounding moves
        none."""
        scores = self.ranking.levels
        around = np.concatenate([scores[:1] - 1, scores, scores[-1:]])
        low, high = around[levels], around[levels + 1]
        between = (low + high) / 2
        # Between neighbours it is rounded to one of them, and nothing at ``high`` would be above.
        between = np.where(between < high, between, low)
        return np.asarray(np.where(levels == 0, around[0], between), dtype=np.float64)


def auc(real_scores: Array, fake_scores: Array) -> float | None:
    """:meth:`Rates.auc` of scores [M] of real images and [N] of fakes; None where one is empty."""
    return _single(Ranking.of(real_scores, fake_scores).at().auc())


def average_precision(
    real_scores: Array, fake_scores: Array, *, balanced: bool = False
) -> float | None:
    """:meth:`Rates.average_precision` of scores [M] of real images and [N] of fakes."""
    rates = Ranking.of(real_scores, fake_scores).at()
    return _single(rates.average_precision(balanced=balanced))


def eer(real_scores: Array, fake_scores: Array) -> float | None:
    """:meth:`Rates.eer` of scores [M] of real images and [N] of fakes."""
    return _single(Ranking.of(real_scores, fake_scores).at().eer())


def tpr_at_fpr(real_scores: Array, fake_scores: Array, target: float) -> float | None:
    """:meth:`Rates.tpr_at_fpr` of scores [M] of real images and [N] of fakes."""
    return _single(Ranking.of(real_scores, fake_scores).at().tpr_at_fpr(target))


def ece(real_scores: Array, fake_scores: Array, *, balanced: bool = False) -> float | None:
    """:meth:`Rates.ece` of scores [M] of real images and [N] of fakes."""
    return _single(Ranking.of(real_scores, fake_scores).at().ece(balanced=balanced))


def brier(real_scores: Array, fake_scores: Array, *, balanced: bool = False) -> float | None:
    """:meth:`Rates.brier` of scores [M] of real images and [N] of fakes."""
    return _single(Ranking.of(real_scores, fake_scores).at().brier(balanced=balanced))


def _single(figure: Floats) -> float | None:
    value = float(figure[0])
    return None if np.isnan(value) else value


def _cumulated(values: Floats) -> Floats:
    """[R, N+1]: the sums of the first 0 to N."""
    out = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=out[:, 1:])
    return out


def _dot(first: Floats, second: Floats) -> Floats:
    return np.asarray(np.einsum("rn,rn->r", first, second))


def _taken(values: Floats, places: Integers) -> Floats:
    """[R, n] of ``values`` [R, N] at ``places`` [R, n]."""
    # take_along_axis does the same, and takes several times as long for the few that these are.
    return values[np.arange(len(values))[:, None], places]


def _first(reached: Callable[[Integers], Booleans], last: int, shape: tuple[int, ...]) -> Integers:
    """The first index in [0, last] at which each condition holds, ``last`` if none before.

    reached: for indices of ``shape``, which conditions hold there; each goes on to hold.
    """
    low, high = np.zeros(shape, dtype=np.int64), np.full(shape, last, dtype=np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        holds = reached(middle)
        low = np.where(holds | (low == high), low, middle + 1)
        high = np.where(holds, middle, high)
    return high

"""Measure how well scores tell fakes from real images: ROC, precision, error and calibration rates.

A score is the probability of synthetic. Every figure is defined for weighted images, where a weight
is how often a resample drew the image: one definition serves the figure, for which each image
weighs 1, and its bootstrap. Figures are [R], one per resample, NaN where a resample leaves them
undefined.
"""

import math
from collections.abc import Callable
from typing import Self

import numpy as np

from focus.metrics.arrays import Array, Booleans, Floats, Integers, divided, finite

BINS = 15
"""Bins of equal mass in the expected calibration error."""
SUPPORT = 5
"""A rate that fewer images of the sample than this would make is not defined."""


class Side:
    """The scores of one class, sorted once, with the weights of its images.

    ``scores`` [N] ascend, and ``weights`` [R, N] are in their order, until :meth:`weigh` the number
    of images that have each score. ``below`` [R, N+1] is the weight of the k lowest scores,
    ``total`` [R] that of all. ``images`` is the number of images. ``tempered`` [N] are
    probabilities after a temperature, None without a calibration.

    counts: How many images [N] have each score, by default one. Raises ValueError for a score that
    is not finite.
    """

    def __init__(self, scores: Array, counts: Array | None = None) -> None:
        scores = finite(scores, "scores")
        counts = np.ones(len(scores)) if counts is None else counts
        self.order = np.argsort(scores, kind="stable")
        self._are_sorted = bool((np.diff(scores) >= 0).all())
        self.tempered: Floats | None = None
        self.scores = scores[self.order]
        self.images = int(counts.sum())
        self.weigh(counts[None])

    def weigh(self, weights: Array) -> None:
        """Set the weights [R, N], in the order of the constructor's scores."""
        self.weights: Floats = np.asarray(weights, dtype=np.float64)
        if not self._are_sorted:
            self.weights = self.weights.take(self.order, axis=1)
        self.below = _cumulated(self.weights)
        self.total = self.below[:, -1]
        self._moments: dict[int, tuple[Floats, Floats]] = {}
        self._squares: dict[int, Floats] = {}
        self._scores_at_shares: dict[float, Floats] = {}

    def squares(self, label: int) -> Floats:
        """Return [R], the sum of weight times squared distance of the score from ``label``.

        It is kept until the weights change, as rankings of several fakes share the real images.
        """
        if label not in self._squares:
            self._squares[label] = self.weights @ (label - self.scores) ** 2
        return self._squares[label]

    def moment(self, values: Floats) -> Floats:
        """Return [R, N+1], the sums of weight times ``values`` [N] over the k lowest scores.

        They are kept until the weights change, as rankings of several fakes share the real images.
        """
        key = id(values)
        if key not in self._moments:  # with the values, so that no others get their id
            self._moments[key] = values, _cumulated(self.weights * values)
        return self._moments[key][1]

    def score_at_share(self, target: float) -> Floats:
        """Return [R], the lowest score with at most ``target`` of the weight above it.

        It is kept until the weights change, as rankings of several fakes share the real images.
        """
        if target not in self._scores_at_shares:
            total = self.total[:, None]

            def reached(kept: Integers) -> Booleans:
                above = total - _taken(self.below, kept)
                return np.asarray(above <= target * total * (1 + 1e-12))

            kept = _first_index(reached, len(self.scores), total.shape)[:, 0]
            self._scores_at_shares[target] = np.concatenate([[-np.inf], self.scores])[kept]
        return self._scores_at_shares[target]

    def share_above(self, threshold: float) -> Floats:
        """Return [R], the share of the weight with a score above ``threshold``."""
        cut = np.searchsorted(self.scores, threshold, side="right")
        return 1 - divided(self.below[:, cut], self.total)


class Ranking:
    """Two classes in one order; the figures are for the weights that the sides have now."""

    def __init__(self, real: Side, fake: Side) -> None:
        self.real, self.fake = real, fake
        self._real_below = np.searchsorted(real.scores, fake.scores, side="left")
        self._real_up_to = np.searchsorted(real.scores, fake.scores, side="right")
        self._tied_from = np.searchsorted(fake.scores, fake.scores, side="left")
        # A threshold at each score and one above all; without scores there is one level.
        every = np.concatenate([real.scores, fake.scores])
        order = np.argsort(every, kind="stable")
        ordered = every[order]
        first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1])[: len(every)])
        self.levels = ordered[first] if len(every) else np.zeros(1)
        # How many scores of each class are below each threshold.
        scores_below = np.append(first if len(every) else 0, len(every))
        self._real_at = np.append(0, np.cumsum(order < len(real.scores)))[scores_below]
        self._fake_at = scores_below - self._real_at

    @classmethod
    def of(cls, real_scores: Array, fake_scores: Array) -> Self:
        """Rank scores [M] of real images and [N] of fakes."""
        return cls(Side(real_scores), Side(fake_scores))

    def weigh(self, real: Array, fake: Array) -> Self:
        """Set the weights [R, M] of the real images and [R, N] of the fakes; return the ranking."""
        self.real.weigh(real)
        self.fake.weigh(fake)
        return self

    @property
    def defined(self) -> Booleans:
        """True where each class has weight, [R]."""
        return np.asarray((self.real.total > 0) & (self.fake.total > 0))

    def auc(self) -> Floats:
        """Area under the ROC curve: the chance that a fake scores above a real image, ties half."""
        below = self.real.below  # np.take, as it is thrice as fast as an index
        pairs = below.take(self._real_below, axis=1) + below.take(self._real_up_to, axis=1)
        in_order = np.einsum("rn,rn->r", pairs, self.fake.weights)
        return divided(in_order, 2 * self.real.total * self.fake.total)

    def average_precision(self, *, balanced: bool = False) -> Floats:
        """Mean precision at the fakes, scikit-learn's ``average_precision_score``.

        ``balanced`` weighs both classes alike.
        """
        hits = self.fake.total[:, None] - self.fake.below.take(self._tied_from, axis=1)
        alarms = self.real.total[:, None] - self.real.below.take(self._real_below, axis=1)
        if balanced:
            alarms = divided(self.fake.total, self.real.total)[:, None] * alarms
        alarms += hits
        called = np.maximum(alarms, 1e-300, out=alarms)  # 0 above every image that was drawn
        precision = np.divide(hits, called, out=hits)
        total = np.einsum("rn,rn->r", precision, self.fake.weights)
        return np.where(self.defined, divided(total, self.fake.total), np.nan)

    def eer(self) -> Floats:
        """Equal error rate: where the ROC, straight between its points, has FPR = 1 - TPR."""
        false_positives, misses = self._errors(self._around_eer)
        gap, next_gap = (false_positives - misses).T
        first, last = false_positives.T
        rate = first + (last - first) * divided(gap, gap - next_gap)
        return np.where(self.defined, rate, np.nan)

    def tpr_at_fpr(self, target: float) -> Floats:
        """Largest true positive rate at a false positive rate of ``target`` at most.

        A property of the ROC, without interpolation. NaN too if the real images cannot support the
        rate: fewer than ``SUPPORT`` of them would be false positives.
        """
        cut = np.searchsorted(self.fake.scores, self.real.score_at_share(target), side="right")
        rate = 1 - divided(_taken(self.fake.below, cut[:, None])[:, 0], self.fake.total)
        supported = self.real.images * target >= SUPPORT * (1 - 1e-12)
        return np.where(self.defined & supported, rate, np.nan)

    def bpcer(self, threshold: float) -> Floats:
        """Share of the real images above ``threshold``."""
        return self.real.share_above(threshold)

    def apcer(self, threshold: float) -> Floats:
        """Share of the fakes not above ``threshold``."""
        return 1 - self.fake.share_above(threshold)

    def prevalence(self) -> Floats:
        """Share of the fakes among all images."""
        return divided(self.fake.total, self.real.total + self.fake.total)

    def accuracy(self, threshold: float) -> Floats:
        """Share of the images on their side of ``threshold``; a score above it says synthetic."""
        flagged = self.real.total * np.nan_to_num(self.real.share_above(threshold))
        detected = self.fake.total * np.nan_to_num(self.fake.share_above(threshold))
        total = self.real.total + self.fake.total
        return divided(detected + self.real.total - flagged, total)

    def balanced_accuracy(self, threshold: float) -> Floats:
        """Mean over the two classes of the share on their side of ``threshold``."""
        return (1 - self.real.share_above(threshold) + self.fake.share_above(threshold)) / 2

    def brier(self, *, balanced: bool = False) -> Floats:
        """Mean squared distance of the score from the label, in [0, 1] (Brier, 1950).

        ``balanced`` weighs both classes alike.
        """
        real, fake = self.real.squares(0), self.fake.squares(1)
        if balanced:
            return (divided(real, self.real.total) + divided(fake, self.fake.total)) / 2
        return divided(real + fake, self.real.total + self.fake.total)

    def ece(
        self, *, balanced: bool = False, probabilities: tuple[Floats, Floats] | None = None
    ) -> Floats:
        """Expected calibration error over ``BINS`` bins of equal mass, in [0, 1].

        The mean over the bins of the distance between the mean score and the share of fakes,
        weighted by the mass (Nguyen and O'Connor, 2015). The arguments are those of
        :meth:`calibration_bins`.
        """
        mass, scored, fakes = self.calibration_bins(balanced=balanced, probabilities=probabilities)
        return divided(np.abs(scored - fakes).sum(axis=1), mass.sum(axis=1))

    def calibrated_ece(self, *, balanced: bool, probabilities: tuple[Floats, Floats]) -> float:
        """Return about what :meth:`ece` would be if the scores were calibrated, for weights of 1.

        The mean distance from 0 of a bin's sum of independent ``label - p``, normal, with p the
        mean score of the bin.
        """
        mass, scored, _ = self.calibration_bins(balanced=balanced, probabilities=probabilities)
        p = np.clip(np.nan_to_num(divided(scored, mass)), 0, 1)
        reals, fakes = (self.real.images, self.fake.images) if balanced else (1, 1)
        variances = mass * p * (1 - p) * (p / reals + (1 - p) / fakes)
        spread = math.sqrt(2 / math.pi) * np.sqrt(variances).sum()
        return float(spread / mass.sum())

    def calibration_bins(
        self,
        *,
        balanced: bool = False,
        probabilities: tuple[Floats, Floats] | None = None,
        bins: int = BINS,
    ) -> tuple[Floats, Floats, Floats]:
        """Return [R, bins]: mass, sum of scores and mass of fakes of each bin, by rising score.

        Tied scores share the bin of the first of them. ``balanced`` weighs both classes alike.
        ``probabilities`` of the real images [M] and the fakes [N], by rising score and rising with
        it, are summed up in the place of the scores.
        """
        real_values, fake_values = probabilities or (self.real.scores, self.fake.scores)
        real_moment, fake_moment = self.real.moment(real_values), self.fake.moment(fake_values)

        # What the weights of each class are multiplied by, [R, 1].
        ones = np.ones(len(self.real.total))
        real_factor, fake_factor = ones[:, None], ones[:, None]
        if balanced:
            real_factor = divided(ones, self.real.total)[:, None]
            fake_factor = divided(ones, self.fake.total)[:, None]

        # The mass below each bin but the first, a little less: no image is moved by rounding.
        mass = real_factor[:, 0] * self.real.total + fake_factor[:, 0] * self.fake.total
        mass_below = mass[:, None] * np.arange(1, bins) / bins * (1 - 1e-12)

        def reached(levels: Integers) -> Booleans:
            """Tell where the images below these levels [R, bins - 1] have that mass."""
            real = real_factor * _taken(self.real.below, self._real_at[levels])
            fake = fake_factor * _taken(self.fake.below, self._fake_at[levels])
            return np.asarray(real + fake >= mass_below)

        # The levels [R, bins + 1] between which the bins lie.
        inner_edges = _first_index(reached, len(self.levels), mass_below.shape)
        edges = np.pad(inner_edges, ((0, 0), (1, 1)))
        edges[:, -1] = len(self.levels)

        real_at, fake_at = self._real_at[edges], self._fake_at[edges]
        scored = real_factor * np.diff(_taken(real_moment, real_at))
        scored += fake_factor * np.diff(_taken(fake_moment, fake_at))
        fakes = fake_factor * np.diff(_taken(self.fake.below, fake_at))
        reals = real_factor * np.diff(_taken(self.real.below, real_at))
        return reals + fakes, scored, fakes

    def threshold_at_fpr(self, target: float) -> Floats:
        """Return [R], the lowest threshold with a false positive rate of ``target`` at most."""
        above = np.searchsorted(self.levels, self.real.score_at_share(target), side="right")
        return self._thresholds(above)

    def threshold_at_eer(self) -> Floats:
        """Return [R], the threshold where the two error rates are closest."""
        false_positives, misses = self._errors(self._around_eer)
        closest = np.abs(false_positives - misses).argmin(axis=1)
        return self._thresholds(self._around_eer[:, 0] + closest)

    def threshold_of_best_balance(self) -> Floats:
        """Return [R], the threshold with the largest balanced accuracy, the lowest of several."""
        real, fake = self.real.total[:, None], self.fake.total[:, None]
        false_positives = real - self.real.below[:, self._real_at]
        misses = self.fake.below[:, self._fake_at]
        # Both rates times both totals: whole numbers, so that no rounding decides between equals.
        return self._thresholds((false_positives * fake + misses * real).argmin(axis=1))

    def _errors(self, levels: Integers) -> tuple[Floats, Floats]:
        """Return [R, n], the false positive and the false negative rate at each level [R, n]."""
        passed = _taken(self.real.below, self._real_at[levels])
        missed = _taken(self.fake.below, self._fake_at[levels])
        real, fake = self.real.total[:, None], self.fake.total[:, None]
        return 1 - divided(passed, real), divided(missed, fake)

    @property
    def _around_eer(self) -> Integers:
        """Levels [R, 2]: the first with more misses than false positives, and the one before."""

        def reached(levels: Integers) -> Booleans:
            false_positives, misses = self._errors(levels)
            return np.asarray(misses > false_positives)

        last = _first_index(reached, len(self.levels), (len(self.real.total), 1)).clip(1)
        return np.concatenate([last - 1, last], axis=1)

    def _thresholds(self, levels: Integers) -> Floats:
        """Return [R], half way below each level, so that rounding moves no score across."""
        around = np.concatenate([self.levels[:1] - 1, self.levels, self.levels[-1:]])
        low, high = around[levels], around[levels + 1]
        between = (low + high) / 2
        # Between neighbours it is rounded to one of them, and nothing at ``high`` would be above.
        between = np.where(between < high, between, low)
        return np.asarray(np.where(levels == 0, around[0], between), dtype=np.float64)


def needed(target: float) -> int:
    """Return how many real images a rate of ``target`` asks for."""
    return math.ceil(SUPPORT / target)


def auc(real_scores: Array, fake_scores: Array) -> float | None:
    """Return the AUC of scores [M] of real images and [N] of fakes; None where one is empty."""
    value = float(Ranking.of(real_scores, fake_scores).auc()[0])
    return None if np.isnan(value) else value


def _cumulated(values: Floats) -> Floats:
    """Return [R, N+1], the sums of the first 0 to N."""
    out = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=out[:, 1:])
    return out


def _taken(values: Floats, columns: Integers) -> Floats:
    """Return [R, n], ``values`` [R, N] in ``columns`` [R, n]."""
    # take_along_axis does the same, and takes several times as long for the few that these are.
    return values[np.arange(len(values))[:, None], columns]


def _first_index(
    reached: Callable[[Integers], Booleans], last: int, shape: tuple[int, ...]
) -> Integers:
    """Return the first index in [0, last] where each condition holds, ``last`` if none before.

    ``reached`` says which conditions hold at indices of ``shape``. A condition that holds at an
    index holds at all later ones.
    """
    low, high = np.zeros(shape, dtype=np.int64), np.full(shape, last, dtype=np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        holds = reached(middle)
        is_settled = low == high
        low = np.where(holds | is_settled, low, middle + 1)
        high = np.where(holds, middle, high)
    return high

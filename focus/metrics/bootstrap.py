"""Resample images with replacement: stratified, and whole groups at a time."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

from focus.metrics.arrays import Array
from focus.metrics.intervals import LEVEL, Interval
from focus.metrics.ranking import SUPPORT

Floats = NDArray[np.float64]


class Resampler:
    """Draws of a table's images with replacement, within strata, whole groups at a time.

    ``strata`` [N] are integers; each stratum keeps its size (Efron and Tibshirani's stratified
    bootstrap), so an image that several comparisons share is drawn once for all. ``groups`` and
    ``images`` [N] are those of :func:`units`. Groups that lie in more than one stratum are drawn
    from all such groups; their strata keep their size only on average.
    """

    def __init__(self, strata: Array, groups: Array, images: Array | None = None) -> None:
        strata = np.asarray(strata, dtype=np.int64)
        _, self.unit = np.unique(units(groups, images), return_inverse=True)
        self.count = int(self.unit.max(initial=-1)) + 1
        pairs = np.unique(np.stack([self.unit, strata]), axis=1)
        first, strata_of_unit = np.unique(pairs[0], return_index=True, return_counts=True)[1:]
        pool = np.where(strata_of_unit > 1, -1, pairs[1][first])
        # In the order of their first unit, so that the draws do not depend on the strata's numbers.
        _, met = np.unique(pool, return_index=True)
        self._pools = [np.flatnonzero(pool == stratum) for stratum in pool[np.sort(met)]]

    def units(self, rows: NDArray[np.int64]) -> int:
        """Return how many independent units the images in ``rows`` are."""
        return int(np.count_nonzero(np.bincount(self.unit[rows])))

    def independent(self, rows: NDArray[np.int64]) -> bool:
        """Return whether no two of the images in ``rows`` are of one unit."""
        return self.units(rows) == len(rows)

    def draw(self, random: np.random.Generator, resamples: int) -> Floats:
        """Return [R, N], how often each image is in each resample."""
        times = np.zeros((resamples, self.count))
        for pool in self._pools:
            drawn = random.integers(0, len(pool), (resamples, len(pool)))
            drawn += len(pool) * np.arange(resamples)[:, None]
            counts = np.bincount(drawn.ravel(), minlength=drawn.size)
            times[:, pool] = counts.reshape(drawn.shape)
        return times if self.count == len(self.unit) else times[:, self.unit]


def units(groups: Array, images: Array | None = None) -> NDArray[np.int64]:
    """Return [N], the independent unit of each image, named by the number of its first row.

    ``groups`` [N] name what is not independent, such as a person or a clip; "" is an image by
    itself. ``images`` [N] are the first rows with the same image, by default each row its own.
    """
    groups = np.asarray(groups, dtype=np.object_)
    unit, named = np.arange(len(groups)), np.flatnonzero(groups != "")
    if len(named):
        _, first, inverse = np.unique(
            groups[named].astype(str), return_index=True, return_inverse=True
        )
        unit[named] = named[first][inverse]
    return unit if images is None else unit[images]


def percentiles(draws: Array, count: int) -> Interval | None:
    """Return the 95 % interval from ``draws`` [R] of a figure of ``count`` independent units.

    The percentiles are widened by the ratio of Student's quantile to the normal one, and of the
    variance of the units to that of resamples (Hesterberg, 2015). NaN is a resample that leaves
    the figure undefined. Fewer than ``SUPPORT`` units have no interval.
    """
    if count < SUPPORT:
        return None
    wider = special.stdtrit(count - 1, (1 + LEVEL) / 2) * math.sqrt(count / (count - 1))
    low, high = np.nanquantile(draws, special.ndtr([-wider, wider]))
    return float(low), float(high)

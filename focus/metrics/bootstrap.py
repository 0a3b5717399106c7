"""Resample images with replacement: stratified, and whole groups at a time."""

import functools
import math

import numpy as np
from scipy import sparse, special, stats
from scipy.stats.sampling import DiscreteGuideTable

from focus.metrics.arrays import Array, Floats, Integers, distinct, first_rows, numbered
from focus.metrics.intervals import LEVEL, Interval
from focus.metrics.ranking import SUPPORT

RESAMPLES = 2000
CELLS_PER_DEVIATION = 3
"""Into how many cells :func:`merged` divides what moves a rank by chance, its square root."""


class Resampler:
    """Draws of a table's images with replacement, within strata, whole groups at a time.

    ``strata`` [N] are integers; each stratum keeps its size (Efron and Tibshirani's stratified
    bootstrap), so an image that several comparisons share is drawn once for all. ``groups`` and
    ``images`` [N] are those of :func:`units`. Groups that lie in more than one stratum are drawn
    from all such groups; their strata keep their size only on average.
    """

    def __init__(self, strata: Array, groups: Array, images: Array | None = None) -> None:
        strata = np.asarray(strata, dtype=np.int64)
        self.images: Integers = np.arange(len(strata)) if images is None else images
        _, self.unit = np.unique(units(groups, images), return_inverse=True)
        self.count = int(self.unit.max(initial=-1)) + 1
        _, stratum = np.unique(strata, return_inverse=True)
        count = int(stratum.max(initial=-1)) + 1
        of_pairs, strata_of_pairs = np.divmod(distinct(self.unit * count + stratum), max(1, count))
        first, strata_of_unit = np.unique(of_pairs, return_index=True, return_counts=True)[1:]
        pool = np.where(strata_of_unit > 1, -1, strata_of_pairs[first])
        # In the order of their first unit, so that the draws do not depend on the strata's numbers.
        _, met = np.unique(pool, return_index=True)
        self.pools = [np.flatnonzero(pool == stratum) for stratum in pool[np.sort(met)]]

    def units(self, rows: Integers) -> int:
        """Return how many independent units the images in ``rows`` are."""
        return int(np.count_nonzero(np.bincount(self.unit[rows])))

    def independent(self, rows: Integers) -> bool:
        """Return whether no two of the images in ``rows`` are of one unit."""
        return self.units(rows) == len(rows)

    def draw(self, random: np.random.Generator, resamples: int) -> Floats:
        """Return [R, N], how often each image is in each resample."""
        times = np.zeros((resamples, self.count))
        for pool in self.pools:
            drawn = random.integers(0, len(pool), (resamples, len(pool)))
            times[:, pool] = _counted(drawn, len(pool))
        return times if self.count == len(self.unit) else times[:, self.unit]


class CellResampler:
    """Draws of the units of a :class:`Resampler`, each image counted in its cell.

    The law of the counts is that of its draws added up by cell; the random numbers are others. It
    takes time and memory for each cell, and not for each image, where units are single images.

    cells: The cell [N] of each row, from 0 on; rows of one image have one cell.
    """

    def __init__(self, resampler: Resampler, cells: Integers) -> None:
        images = distinct(resampler.images)
        self.count = int(cells.max(initial=-1)) + 1
        counts = np.ones(len(images))
        of_units = sparse.csr_array(
            (counts, (resampler.unit[images], cells[images])), (resampler.count, self.count)
        )
        self._pools = [_Pool(of_units[units_of_pool]) for units_of_pool in resampler.pools]

    def draw(self, random: np.random.Generator, resamples: int) -> Floats:
        """Return [R, cells], how many images of each cell are in each resample."""
        drawn = np.zeros((resamples, self.count))
        for pool in self._pools:
            drawn[:, pool.cells] += pool.draw(random, resamples)
        return drawn


class _Pool:
    """Units that are drawn among each other, as kinds: single images of one cell are one kind."""

    def __init__(self, of_units: sparse.csr_array) -> None:
        """Take how many images [units, cells] each unit has in each cell."""
        self.units, cells = of_units.shape
        single = of_units.sum(axis=1) == 1
        kind = cells + np.arange(self.units)
        kind[single] = of_units[single].indices
        _, first, self._kind_of_unit, self._sizes = np.unique(
            kind, return_index=True, return_inverse=True, return_counts=True
        )
        of_kinds = of_units[first]
        self.cells = distinct(of_kinds.indices)
        # Kinds of single images are their cells, in the same order.
        self._content = None if single.all() else of_kinds[:, self.cells]

    def draw(self, random: np.random.Generator, resamples: int) -> Floats:
        """Return [R, cells], how many images of each of ``cells`` are in each resample."""
        kinds = len(self._sizes)
        if self.units > _UNITS_A_KIND * kinds:
            counts = self._topped_up(random, resamples)
        else:
            units = random.integers(0, self.units, (resamples, self.units))
            counts = _counted(self._kind_of_unit.take(units), kinds).astype(np.float64)
        return counts if self._content is None else np.asarray(counts @ self._content)

    def _topped_up(self, random: np.random.Generator, resamples: int) -> Floats:
        """Return [R, kinds], multinomial counts, faster than NumPy draws them.

        Independent Poisson counts are multinomial given their sum. Here the sum is mostly a little
        below the number of units, and the rest is drawn unit by unit; where it is above, NumPy
        draws all counts of the resample.
        """
        counts = np.empty((resamples, len(self._sizes)))
        for kinds, poisson in self._poisson_of_kinds:
            counts[:, kinds] = poisson.rvs((resamples, len(kinds)), random_state=random)
        missing = self.units - counts.sum(axis=1).astype(np.int64)
        for resample in np.flatnonzero(missing < 0):
            counts[resample] = random.multinomial(self.units, self._sizes / self.units)
        resample_of_unit = np.repeat(np.arange(resamples), missing.clip(0))
        kind = self._kind_of_unit[random.integers(0, self.units, len(resample_of_unit))]
        # By one index, which NumPy adds by faster than by two.
        np.add.at(counts.reshape(-1), resample_of_unit * len(self._sizes) + kind, 1.0)
        return counts

    @functools.cached_property
    def _poisson_of_kinds(self) -> list[tuple[Integers, DiscreteGuideTable]]:
        """The numbers of the kinds of one size, and the counts that they may have."""
        sum_of_counts = self.units - _DEVIATIONS_BELOW * math.sqrt(self.units)
        distributions = []
        for size in distinct(self._sizes):
            kinds = np.flatnonzero(self._sizes == size)
            distributions.append((kinds, _poisson(size * sum_of_counts / self.units)))
        return distributions


@functools.lru_cache(maxsize=1024)  # generators often have as many images as others
def _poisson(rate: float) -> DiscreteGuideTable:
    """Return what draws Poisson counts of a mean of ``rate``, without tails of 1e-15."""
    low, high = stats.poisson.ppf(1e-15, rate), stats.poisson.isf(1e-15, rate)
    return DiscreteGuideTable(stats.poisson.pmf(np.arange(low, high + 1), rate), domain=(low, high))


def _counted(numbers: Integers, count: int) -> Integers:
    """Return [R, count], how often each number from 0 on is in each row of ``numbers`` [R, N]."""
    rows = len(numbers)
    places = numbers + count * np.arange(rows)[:, None]
    return np.bincount(places.ravel(), minlength=rows * count).reshape(rows, count)


_DEVIATIONS_BELOW = 2.5  # of a Poisson count: so far is the mean sum of counts below the units
_UNITS_A_KIND = 8  # from which on counts of kinds cost less than the units that are drawn


def merged(scores: Floats, strata: Integers) -> Integers:
    """Return the cells [N] of scores [N]: neighbours among those of one stratum.

    Equal scores of a stratum are one cell. Others are merged by rank: the image with t others
    between it and the nearer end of its stratum shares a cell with about ``sqrt(t) /
    CELLS_PER_DEVIATION`` others, and none if that is below one. So a cell holds less than what a
    sample moves the number of images beyond a score by, up to a rare rate's few images.
    """
    order = np.lexsort((scores, strata))
    ordered_scores, ordered_strata = scores[order], strata[order]
    _, first, sizes = np.unique(ordered_strata, return_index=True, return_counts=True)
    begin, end = np.repeat(first, sizes), np.repeat(first + sizes, sizes)

    new_stratum = np.arange(len(order)) == begin
    new_score = new_stratum | np.append(True, np.diff(ordered_scores) != 0)[: len(order)]
    rank = np.maximum.accumulate(np.where(new_score, np.arange(len(order)), 0))
    below, above = rank - begin, end - 1 - rank
    # The integral of CELLS_PER_DEVIATION / sqrt(t): the number of cells from the end on.
    lower, upper = (
        np.floor(2 * CELLS_PER_DEVIATION * np.sqrt(others)).astype(np.int64)
        for others in (below, above)
    )
    level = np.where(below <= above, lower, -1 - upper)
    new_cell = new_stratum | np.append(True, np.diff(level) != 0)[: len(order)]
    cells = np.empty(len(order), dtype=np.int64)
    cells[order] = np.cumsum(new_cell) - 1
    return cells


def units(groups: Array, images: Array | None = None) -> Integers:
    """Return [N], the independent unit of each image, named by the number of its first row.

    ``groups`` [N] name what is not independent, such as a person or a clip; "" is an image by
    itself. ``images`` [N] are the first rows with the same image, by default each row its own.
    """
    groups = np.asarray(groups, dtype=np.object_)
    unit, named = np.arange(len(groups)), np.flatnonzero(groups != "")
    if len(named):
        unit[named] = named[first_rows(numbered(groups[named])[0])]
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

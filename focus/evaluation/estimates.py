"""Compute every figure of a group of images, for any weights of them, and its 95 % interval.

A group is some real images and the fakes that they are compared with. One definition gives the
figure, for which each image weighs 1, and its bootstrap, for which it weighs what a resample drew.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focus.data.manifest import REAL, SYNTHETIC
from focus.evaluation.scores import HITS, LATER, Scores
from focus.metrics.arrays import Floats, divided
from focus.metrics.bootstrap import Resampler, percentiles
from focus.metrics.calibration import llr_costs, min_cllr
from focus.metrics.figures import (
    CONFUSION,
    DECISION,
    FIGURE,
    FIGURES,
    POINTS,
    Figure,
    Keys,
    Method,
    Unit,
    of_ranking,
)
from focus.metrics.intervals import (
    Compared,
    Interval,
    mean_of_rates,
    rate_interval,
)
from focus.metrics.ranking import Ranking, Side
from focus.model.operating_points import OperatingPoints, Threshold

Integers = NDArray[np.int64]
Figures = dict[Keys, Floats]
Intervals = dict[Keys, Interval | None]
Units = dict[str, int]
"""Independent images or groups by unit, and those with a value by the name of a mean over images"""

_SOURCES = list(dict.fromkeys(figure.source for figure in FIGURES if figure.source))
_RATES = {Method.RATE, Method.RATE_OF_FAKES, Method.TWO_RATES}
_SHARES = _RATES | {Method.SHARE, Method.LARGEST}
_COSTS = {Method.COST, Method.ERROR}
_OVERSTATED = {Method.LARGEST, Method.ERROR}


class WeightedScores:
    """All scores of an evaluation; its parts follow its weights.

    counts: How many images [N] have each row's scores, by default one.
    """

    def __init__(
        self,
        scores: Scores,
        points: OperatingPoints | None,
        threshold: Threshold,
        counts: Floats | None = None,
    ) -> None:
        self.scores, self.points, self.threshold = scores, points, threshold.value
        self.counts = np.ones(len(scores)) if counts is None else counts
        fixed = {} if points is None else points.thresholds
        # The largest ratio in the table costs this much for an image of the wrong class.
        self.largest_cost = float(llr_costs(-np.abs(scores.llr).max(initial=0), SYNTHETIC))
        self.thresholds = [(DECISION, threshold.value)]
        self.thresholds += [(name, value) for name, value in fixed.items() if value is not None]
        columns = _measures(scores)
        self.columns = list(columns)
        self.values = np.stack([*columns.values()]) if columns else np.zeros((0, len(scores)))
        self.sources: set[str] = set()
        if scores.has_cams:
            self.sources = {
                name
                for name, values in columns.items()
                if name not in LATER or not np.isnan(values).all()
            }
            width = int(scores.peak_col.max(initial=0)) + 1
            self.cells = scores.peak_row * width + scores.peak_col
        self._parts: dict[tuple[int, bytes], Part] = {}

    def part(self, rows: Integers, label: int) -> "Part":
        """Return the images of one class; a part that several groups share is weighed once."""
        key = (label, rows.tobytes())
        if key not in self._parts:
            self._parts[key] = Part(self, rows, label)
        return self._parts[key]

    def weigh(self, weights: Floats) -> None:
        """Set the weights [R, N] of the images."""
        for part in self._parts.values():
            part.weigh(weights.take(part.rows, axis=1))


def _measures(scores: Scores) -> dict[str, Floats]:
    """Return the columns [N] whose means are figures, NaN for an empty cell.

    Without CAMs those without any value are left out: of a million rows they would take 120 MB.
    """
    measures = {}
    for name in _SOURCES:
        column = getattr(scores, name)
        empty = column < 0 if name in HITS else np.isnan(column)
        if scores.has_cams or not empty.all():
            measures[name] = np.where(empty, np.nan, column.astype(np.float64))
    return measures


class Part:
    """Images of one class in a table: their scores sorted, and sums for the present weights.

    ``rows`` [N] are those of the table, ``values`` [columns, N] its columns with NaN for an empty
    cell, and ``costs`` [N] those of the log-likelihood ratios.
    """

    def __init__(self, table: WeightedScores, rows: Integers, label: int) -> None:
        scores, points, counts = table.scores, table.points, table.counts[rows]
        self.rows, self.side = rows, Side(scores.score[rows], counts)
        self._has_cams, self._columns = scores.has_cams, table.columns
        self._units: tuple[Resampler, Integers] | None = None
        self.values = table.values[:, rows]
        self.costs = llr_costs(scores.llr[rows], label)
        if points is not None and points.calibration is not None:
            self.side.tempered = points.calibration.tempered(self.side.scores)
        if self._has_cams:
            self._known = (~np.isnan(self.values)).astype(np.float64)
            self._filled = np.nan_to_num(self.values)
            cells = table.cells[rows]
            self._by_cell = np.argsort(cells, kind="stable")
            self.cells, self._starts = np.unique(cells[self._by_cell], return_index=True)
        self.weigh(counts[None])

    def known(self, column: str) -> tuple[Integers, Floats]:
        """Return the rows that have a value in a column, and the values."""
        if column not in self._columns:
            return self.rows[:0], np.zeros(0)
        values = self.values[self._columns.index(column)]
        there = ~np.isnan(values)
        return self.rows[there], values[there]

    def units(self, resampler: Resampler) -> Integers:
        """Return the units [N] of the images by rising score; groups that share them share it."""
        if self._units is None or self._units[0] is not resampler:
            self._units = resampler, resampler.unit[self.rows[self.side.order]]
        return self._units[1]

    def weigh(self, weights: Floats) -> None:
        """Sum up again with ``weights`` [R, N]."""
        self.side.weigh(weights)
        self.cost = divided(weights @ self.costs, self.side.total)
        if not self._has_cams:
            return
        self.sums = dict(zip(self._columns, self._filled @ weights.T, strict=True))
        self.counts = dict(zip(self._columns, self._known @ weights.T, strict=True))
        # [R, cells]: the weight of the images whose CAM peaks there.
        self.peaks = np.zeros((len(weights), 0))
        if len(self.rows):
            self.peaks = np.add.reduceat(weights[:, self._by_cell], self._starts, axis=1)


class Group:
    """Some real images and some fakes of a table, by their rows."""

    def __init__(self, table: WeightedScores, real: Integers, fake: Integers) -> None:
        self._table = table
        self.real, self.fake = table.part(real, REAL), table.part(fake, SYNTHETIC)
        both = [self.real, self.fake]
        self._parts: dict[Unit, list[Part]] = {"real": both[:1], "fake": both[1:]}
        self._parts |= {"both": both, "smaller": both}

    @functools.cached_property
    def _ranking(self) -> Ranking:
        return Ranking(self.real.side, self.fake.side)

    def forget_ranking(self) -> None:
        """Free what takes memory for each image, also where generators share the real images."""
        self.__dict__.pop("_ranking", None)

    def figures(self) -> Figures:
        """Return the figures that are resampled, for the present weights of the table."""
        ranked = of_ranking(self._ranking, self._table.threshold)
        found: Figures = {}
        for figure in FIGURES:
            if figure.name in ranked:
                found[figure.name,] = ranked[figure.name]
            elif figure.where == "point":
                for point, value in self._table.thresholds:
                    found[POINTS, point, figure.name] = figure.compute(self._ranking, value)
            elif figure.where == "group" and (values := figure.compute(self)) is not None:
                found[figure.name,] = values
        return found

    def undefined(self) -> dict[str, str]:
        """Return what the group lacks for each figure that it cannot support."""
        return {
            figure.name: f"needs >= {figure.reals} real images"
            for figure in FIGURES
            if len(self.real.rows) < figure.reals
        }

    def counts(self) -> dict[str, int]:
        """Count the images, the fakes with an artefact mask and the images with a human map."""
        return {
            "n_real": len(self.real.rows),
            "n_synthetic": len(self.fake.rows),
            "n_pointing": len(self.known(FIGURE["pointing_hit"])[0]),
            "n_maps": len(self.known(FIGURE["map_mse"])[0]),
        }

    def known(self, figure: Figure) -> tuple[Integers, Floats]:
        """Return the rows that have a value of a mean over images, and the values."""
        rows, values = zip(*(p.known(figure.source) for p in self._parts[figure.unit]), strict=True)
        return np.concatenate(rows), np.concatenate(values)

    def units(self, resampler: Resampler) -> Units:
        """Count what ``resampler`` draws as one."""
        rows = {"real": self.real.rows, "fake": self.fake.rows}
        rows["both"] = np.append(self.real.rows, self.fake.rows)
        rows |= {figure.name: self.known(figure)[0] for figure in FIGURES if figure.source}
        return {name: resampler.units(own) for name, own in rows.items()}

    def compared(self, resampler: Resampler) -> Compared:
        """Return the scores of the real images and of the fakes, and their units."""
        real, fake = self.real, self.fake
        return real.side.scores, fake.side.scores, real.units(resampler), fake.units(resampler)

    def errors(self, threshold: float) -> list[tuple[int, int]]:
        """Count real images above ``threshold``, of how many, and fakes not above, of how many."""
        real, fake = self.real.side.scores, self.fake.side.scores
        cuts = (np.searchsorted(scores, threshold, side="right") for scores in (real, fake))
        not_flagged, missed = map(int, cuts)
        return [(len(real) - not_flagged, len(real)), (missed, len(fake))]

    def confusion(self, threshold: float) -> dict[str, int]:
        """Count the images by label and by what the threshold calls them."""
        (flagged, real), (missed, fake) = self.errors(threshold)
        return dict(zip(CONFUSION, (real - flagged, flagged, missed, fake - missed), strict=True))

    def exact_intervals(self, values: Mapping[Keys, float], units: Units) -> Intervals:
        """Return those of rates whose images are independent.

        units: Those of :meth:`units`.
        """
        intervals: Intervals = {}
        for place, value in values.items():
            figure = FIGURE[place[-1]]
            if math.isnan(value) or figure.interval not in _RATES:
                continue
            if figure.source:
                images, independent = len(self.known(figure)[0]), units[figure.name]
            else:
                images = sum(len(part.rows) for part in self._parts[figure.unit])
                independent = units["both" if figure.unit == "smaller" else figure.unit]
            if independent != images:
                continue
            if figure.interval is Method.TWO_RATES:
                errors = self.errors(self._table.threshold)
                rates = [(total - wrong, total) for wrong, total in errors]
                intervals[place] = mean_of_rates(rates)
            else:
                intervals[place] = rate_interval(round(value * images), images)
        return intervals

    def excess(self) -> dict[Keys, float]:
        """Return what chance adds to each calibration error; nothing without both classes."""
        if not self._ranking.defined[0]:
            return {}
        added = {(f.name,): f.excess(self._ranking) for f in FIGURES if f.excess}
        return {place: value for place, value in added.items() if value is not None}

    @functools.cached_property
    def min_cllr(self) -> float | None:
        """The part of C_llr that the ranking costs; the ratios are fitted to these images."""
        return min_cllr(self.real.side.scores, self.fake.side.scores)

    def calibration_loss(self) -> float | None:
        """Return the rest of C_llr, for weights of 1."""
        cost = self.cllr()
        return None if cost is None or self.min_cllr is None else float(cost[0]) - self.min_cllr

    def cllr(self) -> Floats | None:
        """Return the cost of the likelihood ratios, None where an image has none."""
        if any(np.isnan(part.costs).any() for part in self._parts["both"]):
            return None
        return (self.real.cost + self.fake.cost) / 2

    def mean(self, source: str, unit: Unit) -> Floats | None:
        """Return the mean of a column over the images of a class that have a value."""
        if source not in self._table.sources:
            return None
        parts = self._parts[unit]
        total = np.sum([part.sums[source] for part in parts], axis=0)
        return divided(total, np.sum([part.counts[source] for part in parts], axis=0))

    def peak_share(self, unit: Unit) -> Floats | None:
        """Return the share of the images of a class whose CAM peaks in the commonest cell."""
        if not self._table.scores.has_cams:
            return None
        parts = self._parts[unit]
        cells = np.unique(np.concatenate([part.cells for part in parts]))
        peaks = np.zeros((len(self.real.peaks), len(cells)))
        for part in parts:
            peaks[:, np.searchsorted(cells, part.cells)] += part.peaks
        total = np.sum([part.side.total for part in parts], axis=0)
        return divided(peaks.max(axis=1, initial=0), total)


class Estimate:
    """Figures of the same images: their values, and the draws of their resamples."""

    def __init__(self, figures: Figures, of_cells: Figures | None = None) -> None:
        """Take the figures of the images.

        of_cells: Those of the cells that are resampled in the place of the images; the draws move
            by the difference.
        """
        self.values = {place: float(values[0]) for place, values in figures.items()}
        self._of_cells = of_cells
        self._draws: dict[Keys, list[Floats]] = {place: [] for place in figures}

    def draw(self, figures: Figures) -> None:
        """Add the figures of some resamples."""
        for place, draws in self._draws.items():
            if self._of_cells is None:
                draws.append(figures[place])
            else:
                moved = figures[place] + (self.values[place] - self._of_cells[place])
                draws.append(np.clip(moved, *FIGURE[place[-1]].bounds))

    def entry(
        self,
        exact: Intervals,
        units: Units,
        excess: Mapping[Keys, float] | None = None,
        unseen: float = 0.0,
    ) -> dict[str, Any]:
        """Return the values and their intervals as results.json has them.

        Args:
            exact: Intervals that need no resamples.
            units: What the resamples drew as one.
            excess: What chance adds to each calibration error.
            unseen: What an image on the wrong side may add to C_llr; 0 where enough are there.
        """
        units = units | {"smaller": min(units["real"], units["fake"])}
        ends: dict[Keys, Interval] = {}
        for place, value in self.values.items():
            figure, draws = FIGURE[place[-1]], self._draws[place]
            if figure.interval is Method.NONE or math.isnan(value) or not draws:
                continue
            interval = exact.get(place)
            if place not in exact:
                above = (excess or {}).get(place, 0.0)
                interval = _bootstrap(figure, value, np.concatenate(draws), units, above, unseen)
            if interval is not None:
                ends[place] = interval
        return {**nested(self.values), "intervals": nested(ends)}


def _bootstrap(
    figure: Figure, value: float, draws: Floats, units: Units, excess: float, unseen: float
) -> Interval | None:
    """Return the percentiles of ``draws``, or None.

    The interval of a figure that samples overstate goes from the reflection of the percentiles in
    it (the basic bootstrap), less ``excess``, to the higher end of both. That of a cost with
    ``unseen`` goes up at least to Clopper and Pearson's end, as if an image cost nothing or the
    most. A share that no resample moves from a bound has Clopper and Pearson's.
    """
    count = units[figure.name if figure.source else figure.unit]
    interval = percentiles(draws, count)
    if interval is not None:
        low, high = interval
        least, most = figure.bounds
        if figure.interval in _OVERSTATED:
            low, high = min(low, 2 * value - high) - excess, max(high, 2 * value - low)
            low, high = max(least, low), min(most, high)
        if unseen and figure.interval in _COSTS:
            most = unseen if math.isinf(most) else most
            images = min(2 * count, units["both"])
            of_share = rate_interval(value / most * images, images)
            high = max(high, most * of_share[1]) if of_share else high
        if not math.isclose(low, high, abs_tol=1e-12):  # equal up to the rounding of sums
            return low, high
    share = value in figure.bounds and figure.interval in _SHARES
    return rate_interval(round(value * count), count) if share and count > 1 else None


def nested(flat: Mapping[Keys, Any]) -> dict[str, Any]:
    """Turn ``{("a", "b"): 1}`` into ``{"a": {"b": 1}}``, and NaN into None."""
    made: dict[str, Any] = {}
    for (*path, last), value in flat.items():
        inner = made
        for key in path:
            inner = inner.setdefault(key, {})
        inner[last] = None if isinstance(value, float) and math.isnan(value) else value
    return made

"""Compute every figure of a group of images, for any weights of them.

A group is some real images and the fakes that they are compared with. One definition gives the
figure, for which each image weighs 1, and its bootstrap, for which it weighs what a resample drew.
"""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import xxhash

from focus.data.manifest import REAL, SYNTHETIC
from focus.evaluation.scores import HITS, LATER, Scores
from focus.metrics.arrays import Floats, Integers, divided
from focus.metrics.bootstrap import Resampler
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

Figures = dict[Keys, Floats]
Intervals = dict[Keys, Interval | None]
Excess = dict[Keys, float]
"""What chance adds to each calibration error."""
Units = dict[str, int]
"""How many independent images or groups each class has, by its unit, and how many have a value, by
the name of a mean over images."""

_SOURCES = list(dict.fromkeys(figure.source for figure in FIGURES if figure.source))
RATES = {Method.RATE, Method.RATE_OF_FAKES, Method.TWO_RATES}
"""The methods of figures whose intervals are exact where the images are independent."""


class Count(NamedTuple):
    """How many images of a class are on one side of a threshold, of how many."""

    number: int
    total: int

    @property
    def others(self) -> int:
        """How many are on the other side."""
        return self.total - self.number


class Values(NamedTuple):
    """The values [n] of a column that are there, and the rows [n] of the table that have them."""

    rows: Integers
    values: Floats


class WeightedScores:
    """All scores of an evaluation; the parts that were asked for follow its weights.

    Attributes:
        scores: The scores.
        points: The operating points that validation fixed, if any.
        threshold: The one that decides.
        counts: How many images [N] have each row's scores, by default one.
        largest_cost: What the largest ratio in the table costs for an image of the wrong class.
        thresholds: The name and the value of each threshold: the one that decides, then those of
            the points that are defined.
        columns: The names of the columns whose means are figures.
        values: These columns [columns, N], NaN for an empty cell.
        sources: Those of the columns that have a figure here.
        cells: The number [N] of the cell where each CAM peaks; only where there are CAMs.
    """

    def __init__(
        self,
        scores: Scores,
        points: OperatingPoints | None,
        threshold: Threshold,
        counts: Floats | None = None,
    ) -> None:
        self.scores = scores
        self.points = points
        self.threshold = threshold.value
        self.counts = np.ones(len(scores)) if counts is None else counts
        self.largest_cost = float(llr_costs(-np.abs(scores.llr).max(initial=0), SYNTHETIC))

        self.thresholds = [(DECISION, threshold.value)]
        if points is not None:
            self.thresholds += [
                (name, value) for name, value in points.thresholds.items() if value is not None
            ]

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
        key = (label, xxhash.xxh3_128_digest(np.ascontiguousarray(rows).data))
        if key not in self._parts:
            self._parts[key] = Part(self, rows, label)
        return self._parts[key]

    def weigh(self, weights: Floats) -> None:
        """Set the weights [R, N] of the images."""
        for part in self._parts.values():
            part.weigh(weights.take(part.rows, axis=1))

    def forget_weights(self) -> None:
        """Free the memory of the weights: set those of no resample."""
        self.weigh(np.zeros((0, len(self.scores))))


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

    Attributes:
        rows: The rows [N] of the table.
        side: The scores of these rows.
        values: The table's columns [columns, N] at these rows, NaN for an empty cell.
        costs: What the log-likelihood ratio of each image costs, [N].
        cost: The mean [R] of these costs for the present weights.
        sums: By column, the weighted sum [R] of its values.
        counts: By column, the weight [R] of the images that have a value.
        cells: The numbers of the cells where a CAM peaks.
        peaks: The weight [R, cells] of the images whose CAM peaks in each of these.

    Without CAMs there are neither sums, counts, cells nor peaks.
    """

    def __init__(self, table: WeightedScores, rows: Integers, label: int) -> None:
        scores, points = table.scores, table.points
        counts = table.counts[rows]
        self.rows = rows
        self.side = Side(scores.score[rows], counts)
        self._has_cams = scores.has_cams
        self._columns = table.columns
        self._units: tuple[Resampler, Integers] | None = None
        self.values = table.values[:, rows]
        self.costs = llr_costs(scores.llr[rows], label)
        if points is not None and points.calibration is not None:
            self.side.tempered = points.calibration.tempered(self.side.scores)
        if self._has_cams:
            self._has_value = (~np.isnan(self.values)).astype(np.float64)
            self._filled = np.nan_to_num(self.values)
            cells = table.cells[rows]
            self._by_cell = np.argsort(cells, kind="stable")
            self.cells, self._starts = np.unique(cells[self._by_cell], return_index=True)
        self.weigh(counts[None])

    def values_of(self, column: str) -> Values:
        """Return the values of a column that are there."""
        if column not in self._columns:
            return Values(self.rows[:0], np.zeros(0))
        values = self.values[self._columns.index(column)]
        has_value = ~np.isnan(values)
        return Values(self.rows[has_value], values[has_value])

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
        self.counts = dict(zip(self._columns, self._has_value @ weights.T, strict=True))
        self.peaks = np.zeros((len(weights), 0))
        if len(self.rows):
            self.peaks = np.add.reduceat(weights[:, self._by_cell], self._starts, axis=1)


class Group:
    """Some real images and some fakes of a table, by their rows."""

    def __init__(self, table: WeightedScores, real: Integers, fake: Integers) -> None:
        self._table = table
        self.real = table.part(real, REAL)
        self.fake = table.part(fake, SYNTHETIC)
        self._parts: dict[Unit, list[Part]] = {
            "real": [self.real],
            "fake": [self.fake],
            "both": [self.real, self.fake],
            "smaller": [self.real, self.fake],
        }

    @functools.cached_property
    def _ranking(self) -> Ranking:
        return Ranking(self.real.side, self.fake.side)

    def forget_ranking(self) -> None:
        """Free what takes memory for each image, also where generators share the real images."""
        self.__dict__.pop("_ranking", None)

    def figures(self, *, only_resampled: bool = False) -> Figures:
        """Return the figures for the present weights of the table.

        only_resampled: Whether those are left out whose interval needs no resamples.
        """
        ranked = of_ranking(self._ranking, self._table.threshold, only_resampled=only_resampled)
        figures: Figures = {}
        for figure in FIGURES:
            if figure.name in ranked:
                figures[figure.name,] = ranked[figure.name]
            elif figure.where == "point":
                for point, threshold in self._table.thresholds:
                    values = figure.compute(self._ranking, threshold)
                    figures[POINTS, point, figure.name] = values
            elif figure.where == "group":
                values = figure.compute(self)
                if values is not None:
                    figures[figure.name,] = values
        return figures

    def unsampled(self) -> dict[str, float | None]:
        """Return the figures that are computed once, without resamples, by name."""
        return {figure.name: figure.compute(self) for figure in FIGURES if figure.where == "once"}

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
            "n_pointing": len(self.values_of(FIGURE["pointing_hit"]).rows),
            "n_maps": len(self.values_of(FIGURE["map_mse"]).rows),
        }

    def values_of(self, figure: Figure) -> Values:
        """Return the values of the images that a mean over images is of."""
        by_part = [part.values_of(figure.source) for part in self._parts[figure.unit]]
        return Values(
            np.concatenate([of_part.rows for of_part in by_part]),
            np.concatenate([of_part.values for of_part in by_part]),
        )

    def units(self, resampler: Resampler) -> Units:
        """Count what ``resampler`` draws as one."""
        counts = {
            "real": resampler.units(self.real.rows),
            "fake": resampler.units(self.fake.rows),
            "both": resampler.units(np.append(self.real.rows, self.fake.rows)),
        }
        for figure in FIGURES:
            if figure.source:
                counts[figure.name] = resampler.units(self.values_of(figure).rows)
        return counts

    def compared(self, resampler: Resampler) -> Compared:
        """Return the scores of the real images and of the fakes, and their units."""
        return (
            self.real.side.scores,
            self.fake.side.scores,
            self.real.units(resampler),
            self.fake.units(resampler),
        )

    def flagged(self, threshold: float) -> Count:
        """Count the real images above ``threshold``."""
        scores = self.real.side.scores
        not_above = int(np.searchsorted(scores, threshold, side="right"))
        return Count(len(scores) - not_above, len(scores))

    def missed(self, threshold: float) -> Count:
        """Count the fakes that are not above ``threshold``."""
        scores = self.fake.side.scores
        return Count(int(np.searchsorted(scores, threshold, side="right")), len(scores))

    def confusion(self, threshold: float) -> dict[str, int]:
        """Count the images by label and by what the threshold calls them."""
        flagged, missed = self.flagged(threshold), self.missed(threshold)
        counts = (flagged.others, flagged.number, missed.number, missed.others)
        return dict(zip(CONFUSION, counts, strict=True))

    def exact_intervals(self, values: Mapping[Keys, float], units: Units) -> Intervals:
        """Return the intervals of the rates whose images are independent.

        values: The figures. units: What :meth:`units` returns.
        """
        intervals: Intervals = {}
        for keys, value in values.items():
            figure = FIGURE[keys[-1]]
            if math.isnan(value) or figure.interval not in RATES:
                continue

            if figure.source:
                images = len(self.values_of(figure).rows)
                independent = units[figure.name]
            else:
                images = sum(len(part.rows) for part in self._parts[figure.unit])
                independent = units["both" if figure.unit == "smaller" else figure.unit]
            if independent != images:
                continue

            if figure.interval is Method.TWO_RATES:
                threshold = self._table.threshold
                flagged, missed = self.flagged(threshold), self.missed(threshold)
                right = [(flagged.others, flagged.total), (missed.others, missed.total)]
                intervals[keys] = mean_of_rates(right)
            else:
                intervals[keys] = rate_interval(round(value * images), images)
        return intervals

    def excess(self) -> Excess:
        """Return what chance adds to each calibration error; nothing without both classes."""
        if not self._ranking.defined[0]:
            return {}
        added: Excess = {}
        for figure in FIGURES:
            excess = None if figure.excess is None else figure.excess(self._ranking)
            if excess is not None:
                added[figure.name,] = excess
        return added

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

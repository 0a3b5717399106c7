"""Estimate the figures of a test set: of each generator, of all images, and their mean.

Each has a 95 % interval, exact where the images are independent, else of resamples.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np

from focus.evaluation.groups import (
    RATES,
    Excess,
    Figures,
    Group,
    Intervals,
    Units,
    WeightedScores,
)
from focus.evaluation.protocol import UNNAMED, Comparison, union
from focus.metrics.arrays import Floats
from focus.metrics.bootstrap import Resampler, percentiles
from focus.metrics.figures import FIGURE, FIGURES, POINTS, Errors, Figure, Keys, Method
from focus.metrics.intervals import (
    AucInterval,
    Interval,
    PlacedScores,
    largest_rate_interval,
    mean_interval,
    mean_of_rates,
    rate_interval,
)

AUC: Keys = ("auc",)
GroupMap = Callable[[Callable[[Group], Figures], list[Group]], Iterable[Figures]]
"""Calls a function for each of some groups, as ``map`` does, perhaps in threads."""
_SHARES = RATES | {Method.SHARE, Method.LARGEST}
_COSTS = {Method.COST, Method.ERROR}
_OVERSTATED = {Method.LARGEST, Method.ERROR}


class Estimated(NamedTuple):
    """A figure, None if it is not defined, and its 95 % interval, None without one."""

    value: float | None
    interval: Interval | None


def as_entry(figures: Mapping[Keys, Estimated]) -> dict[str, Any]:
    """Return figures as results.json has them: the values, and beside them their intervals."""
    values: dict[str, Any] = {}
    intervals: dict[str, Any] = {}
    for keys, figure in figures.items():
        _put(values, keys, figure.value)
        if figure.interval is not None:
            _put(intervals, keys, figure.interval)
    return {**values, "intervals": intervals}


def _put(entry: dict[str, Any], keys: Keys, value: object) -> None:
    *outer, last = keys
    for key in outer:
        entry = entry.setdefault(key, {})
    entry[last] = value


class Estimate:
    """Figures of the same images: their values, and the draws of their resamples."""

    def __init__(self, figures: Figures, of_cells: Figures | None = None) -> None:
        """Take the figures of the images.

        of_cells: Those of the cells that are resampled in the place of the images; the draws move
            by the difference.
        """
        self.values = {keys: float(values[0]) for keys, values in figures.items()}
        self._of_cells = of_cells
        self._has_resamples = False
        self._draws: dict[Keys, list[Floats]] = {
            keys: [] for keys in figures if FIGURE[keys[-1]].is_resampled
        }

    def draw(self, figures: Figures) -> None:
        """Add the figures of some resamples."""
        self._has_resamples = True
        for keys, draws in self._draws.items():
            if self._of_cells is None:
                draws.append(figures[keys])
            else:
                moved = figures[keys] + (self.values[keys] - self._of_cells[keys])
                draws.append(np.clip(moved, *FIGURE[keys[-1]].bounds))

    def estimated(
        self,
        exact: Intervals,
        units: Units,
        excess: Excess | None = None,
        unseen: float = 0.0,
    ) -> dict[Keys, Estimated]:
        """Return the values, each with its interval.

        Args:
            exact: Intervals that need no resamples.
            units: What the resamples drew as one.
            excess: What chance adds to each calibration error.
            unseen: What an image on the wrong side may add to C_llr; 0 where enough are there.
        """
        units = units | {"smaller": min(units["real"], units["fake"])}
        figures = {}
        for keys, value in self.values.items():
            figure = FIGURE[keys[-1]]
            interval: Interval | None = None
            if math.isnan(value) or not self._has_resamples:
                pass
            elif keys in exact:
                interval = exact[keys]
            elif figure.is_resampled:
                by_chance = 0.0 if excess is None else excess.get(keys, 0.0)
                drawn = np.concatenate(self._draws[keys])
                interval = _bootstrap(figure, value, drawn, units, by_chance, unseen)
            figures[keys] = Estimated(None if math.isnan(value) else value, interval)
        return figures


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
    is_bound_of_share = value in figure.bounds and figure.interval in _SHARES
    return rate_interval(round(value * count), count) if is_bound_of_share and count > 1 else None


class _GroupFigures(NamedTuple):
    """Figures of each generator of a test set, and of all its images."""

    generators: list[Figures]
    pooled: Figures


class SetGroups:
    """The groups of one test set in a table: the images of each generator, and all together."""

    def __init__(self, table: WeightedScores, comparisons: list[Comparison]) -> None:
        self.table = table
        self.comparisons = comparisons
        self.generators = [Group(table, c.real, c.fake) for c in comparisons]
        # One generator is the whole test set.
        self.pooled = self.generators[0] if len(comparisons) == 1 else self._all_images()

    def _all_images(self) -> Group:
        images = self.table.scores.images
        real = union((c.real for c in self.comparisons), images)
        return Group(self.table, real, union((c.fake for c in self.comparisons), images))

    def resampled_figures(self, map_groups: GroupMap) -> _GroupFigures:
        """Return the figures that are resampled, for the present weights of the table."""
        figures_of = partial(Group.figures, only_resampled=True)
        if len(self.generators) == 1:
            (figures,) = map_groups(figures_of, self.generators)
            return _GroupFigures([figures], figures)
        # The largest first, so that the threads end at about the same time.
        pooled, *generators = map_groups(figures_of, [self.pooled, *self.generators])
        return _GroupFigures(generators, pooled)


class _AllFigures(NamedTuple):
    """Figures of a test set, all for the same weights.

    generators: Those of each generator. pooled: Those of all images, without error rates. mean:
    The means over the generators, without error rates. errors: The error rates of the set, by
    operating point and name.
    """

    generators: list[Figures]
    pooled: Figures
    mean: Figures
    errors: Figures

    def parts(self) -> list[Figures]:
        """Return all of them in one list."""
        return [*self.generators, self.pooled, self.mean, self.errors]


@dataclass(frozen=True, eq=False)
class _Member:
    """A generator of a test set, or all its images.

    group: The images. estimate: The figures that are resampled. excess: What chance adds to the
    calibration errors. unsampled: The figures without an interval.
    """

    group: Group
    estimate: Estimate
    excess: Excess
    unsampled: dict[str, float | None]


@dataclass(frozen=True, eq=False)
class _Certainty:
    """How certain the figures of a member are.

    auc: The interval of its AUC. units: What is drawn as one. exact: The intervals, also that of
    the AUC, that need no resamples.
    """

    auc: AucInterval
    units: Units
    exact: Intervals

    @classmethod
    def of(cls, member: _Member, auc: AucInterval, resampler: Resampler) -> Self:
        units = member.group.units(resampler)
        exact = member.group.exact_intervals(member.estimate.values, units)
        return cls(auc, units, {AUC: auc.interval} | exact)


class SetFigures:
    """The comparisons of one test set, with figures by generator, of all images, and their mean."""

    def __init__(self, groups: SetGroups, resampled: SetGroups) -> None:
        """Compute the figures of the groups of images.

        resampled: What is resampled, the same groups or those of merged scores.
        """
        self.comparisons = groups.comparisons
        self._table = groups.table  # of the images
        self._resampled = resampled
        figures, excess, unsampled = [], [], []
        members = [*groups.generators, groups.pooled]
        for group in members:
            figures.append(group.figures())
            excess.append(group.excess())
            unsampled.append(group.unsampled())
            if resampled is not groups:
                group.forget_ranking()

        *of_generators, of_pooled = figures
        # The numbers of the generators that have each figure, over which its mean is.
        self._defining = _defining(of_generators)
        of_images = self._with_means(_GroupFigures(of_generators, of_pooled))
        if resampled is groups:
            self._estimates = [Estimate(part) for part in of_images.parts()]
        else:
            of_cells = self._with_means(resampled.resampled_figures(map))
            self._estimates = [
                Estimate(part, part_of_cells)
                for part, part_of_cells in zip(of_images.parts(), of_cells.parts(), strict=True)
            ]

        # In the order of _AllFigures.parts.
        *of_members, self._mean, self._errors = self._estimates
        *self._generators, self._pooled = map(_Member, members, of_members, excess, unsampled)

    def draw(self, map_groups: GroupMap) -> None:
        """Add the figures for the present weights of the table."""
        drawn = self._with_means(self._resampled.resampled_figures(map_groups))
        for figures, estimate in zip(drawn.parts(), self._estimates, strict=True):
            estimate.draw(figures)

    def results(self, resampler: Resampler) -> dict[str, Any]:
        """Return the figures and their intervals as results.json has them."""
        placed_together = PlacedScores([self._pooled.group.compared(resampler)])
        auc_of_pooled = placed_together.of_comparison(0)
        del placed_together  # a million images take 60 MB

        with_auc = [self._generators[number] for number in self._defining.get(AUC, [])]
        placed = PlacedScores([generator.group.compared(resampler) for generator in with_auc])
        certainties = [
            _Certainty.of(generator, auc, resampler)
            for generator, auc in zip(self._generators, self._auc_intervals(placed), strict=True)
        ]
        certainty = _Certainty.of(self._pooled, auc_of_pooled, resampler)
        fewest = _fewest([*(of_one.units for of_one in certainties), certainty.units])

        generators = {}
        for number, comparison in enumerate(self.comparisons):
            entry = self._entry(self._generators[number], certainties[number])
            generators[comparison.generator or UNNAMED] = entry
        exact = [of_one.exact for of_one in certainties]
        mean = self._mean_entry(placed, exact, fewest, resampler)
        return {
            "n_generators": len(with_auc),
            "mean": mean,
            "pooled": self._entry(self._pooled, certainty),
            POINTS: self._errors_entry(fewest, resampler),
            "generators": generators,
        }

    def _auc_intervals(self, placed: PlacedScores) -> list[AucInterval]:
        """Return the interval of the AUC of each generator.

        placed: The scores of those that have one.
        """
        aucs = [AucInterval(None, few_inverted=False) for _ in self._generators]
        for number, generator in enumerate(self._defining.get(AUC, [])):
            aucs[generator] = placed.of_comparison(number)
        return aucs

    def _entry(self, member: _Member, certainty: _Certainty) -> dict[str, Any]:
        """Return the entry of a generator, or of all images."""
        unseen = self._table.largest_cost if certainty.auc.few_inverted else 0.0
        figures = member.estimate.estimated(certainty.exact, certainty.units, member.excess, unseen)
        entry = as_entry(figures) | member.group.counts()
        if POINTS in entry:
            for point, threshold in self._table.thresholds:
                entry[POINTS][point]["confusion"] = member.group.confusion(threshold)
        entry["undefined"] = member.group.undefined()
        return entry | member.unsampled

    def _mean_entry(
        self, placed: PlacedScores, exact: list[Intervals], fewest: Units, resampler: Resampler
    ) -> dict[str, Any]:
        """Return the entry of the mean over the generators.

        placed: The scores of the generators that have an AUC. exact: The intervals of each
        generator that need no resamples. fewest: The units of the smallest of them.
        """
        exact_of_mean = self._mean_intervals(exact, resampler) | {AUC: placed.interval}
        excess = _largest([generator.excess for generator in self._generators])
        unseen = self._table.largest_cost if placed.few_inverted else 0.0
        entry = as_entry(self._mean.estimated(exact_of_mean, fewest, excess, unseen))

        for name in self._pooled.unsampled:
            values = [generator.unsampled[name] for generator in self._generators]
            defined = [value for value in values if value is not None]
            entry[name] = float(np.mean(defined)) if defined else None

        n_defined = {}
        n_defined_images = {}
        for keys, numbers in self._defining.items():
            if keys in self._mean.values and len(numbers) < len(self.comparisons):
                n_defined[keys[-1]] = len(numbers)
                n_defined_images[keys[-1]] = self._images(numbers)
        return entry | {"n_defined": n_defined, "n_defined_images": n_defined_images}

    def _images(self, numbers: Iterable[int]) -> dict[str, int]:
        """Count the images of some of the generators, by their numbers; shared ones count once."""
        comparisons = [self.comparisons[number] for number in numbers]
        images = self._table.scores.images
        return {
            "n_real": len(union((c.real for c in comparisons), images)),
            "n_synthetic": len(union((c.fake for c in comparisons), images)),
        }

    def _errors_entry(self, fewest: Units, resampler: Resampler) -> dict[str, Any]:
        """Return the error rates of the set at each operating point, and what they count."""
        intervals = self._error_intervals(resampler)
        entry = as_entry(self._errors.estimated(intervals, fewest))
        for point, threshold in self._table.thresholds:
            entry[point]["confusion"] = self._pooled.group.confusion(threshold)
            entry[point]["apcer_max_generator"] = self._most_missed(point)
        return entry

    def _most_missed(self, point: str) -> str | None:
        """Return the generator with the largest APCER, None if no fake is missed."""
        keys = (POINTS, point, "apcer")
        rates = [generator.estimate.values[keys] for generator in self._generators]
        if not np.nansum(rates):
            return None
        return self.comparisons[int(np.nanargmax(rates))].generator or UNNAMED

    def _with_means(self, figures: _GroupFigures) -> _AllFigures:
        """Add the means over the generators, and the error rates of the set."""
        undefined = np.full_like(next(iter(figures.pooled.values())), np.nan)
        by_generator = {
            keys: [figures.generators[number][keys] for number in numbers]
            for keys, numbers in self._defining.items()
            if keys in figures.pooled
        }
        mean = {
            keys: np.mean(by_generator[keys], axis=0) if keys in by_generator else undefined
            for keys in figures.pooled
        }

        rates: Figures = {}
        for point, _ in self._table.thresholds:
            bpcer, apcer = (POINTS, point, "bpcer"), (POINTS, point, "apcer")
            largest = np.max(by_generator[apcer], axis=0) if apcer in by_generator else undefined
            errors = Errors(figures.pooled[bpcer], figures.pooled[apcer], mean[apcer], largest)
            rates[point, "bpcer"] = errors.bpcer
            for figure in FIGURES:
                if figure.where == "set":
                    rates[point, figure.name] = figure.compute(errors)
        return _AllFigures(
            figures.generators, _without_points(figures.pooled), _without_points(mean), rates
        )

    def _mean_intervals(self, exact: list[Intervals], resampler: Resampler) -> Intervals:
        """Return the intervals of means over one generator, and of rates of fakes.

        ``exact`` holds the intervals of each generator. Rates of real images depend on each other,
        since generators share these images.
        """
        intervals: Intervals = {}
        for keys, numbers in self._defining.items():
            figure = FIGURE[keys[-1]]
            if len(numbers) == 1 and keys in exact[numbers[0]]:
                intervals[keys] = exact[numbers[0]][keys]
            elif figure.interval is Method.RATE_OF_FAKES:
                hits = [self._generators[number].group.values_of(figure) for number in numbers]
                if resampler.independent(np.concatenate([of_one.rows for of_one in hits])):
                    rates = [(int(of_one.values.sum()), len(of_one.values)) for of_one in hits]
                    intervals[keys] = mean_of_rates(rates)
        return intervals

    def _error_intervals(self, resampler: Resampler) -> Intervals:
        """Return exact intervals of the error rates whose images are independent."""
        independent_units = self._independent_units(resampler)
        intervals: Intervals = {}
        for point, threshold in self._table.thresholds:
            missed = [generator.group.missed(threshold) for generator in self._generators]
            missed = [count for count in missed if count.total]
            rate_intervals = {
                "bpcer": rate_interval(*self._pooled.group.flagged(threshold)),
                "apcer_pooled": rate_interval(*self._pooled.group.missed(threshold)),
                "apcer_mean": mean_of_rates(missed),
                "apcer_max": largest_rate_interval(missed),
            }
            for kind in ("mean", "max"):
                rate_intervals[f"acer_{kind}"] = self._acer_interval(
                    point, f"apcer_{kind}", rate_intervals
                )
            for rate, interval in rate_intervals.items():
                if FIGURE[rate].unit in independent_units:
                    intervals[point, rate] = interval
        return intervals

    def _acer_interval(
        self, point: str, apcer: str, rate_intervals: Mapping[str, Interval | None]
    ) -> Interval | None:
        """Return the interval of the mean of the BPCER and an APCER, from those of the two."""
        of_bpcer, of_apcer = rate_intervals["bpcer"], rate_intervals[apcer]
        if of_bpcer is None or of_apcer is None:
            return None
        values = [self._errors.values[point, rate] for rate in ("bpcer", apcer)]
        return mean_interval(values, [of_bpcer, of_apcer])

    def _independent_units(self, resampler: Resampler) -> set[str]:
        """Return the units of error rates whose images are independent of each other."""
        real = self._pooled.group.real.rows
        # A fake that several generators list is there several times.
        fake = np.concatenate([real[:0], *(c.fake for c in self.comparisons)])
        rows_of_unit = {"real": real, "fake": fake, "smaller": np.append(real, fake)}
        return {unit for unit, rows in rows_of_unit.items() if resampler.independent(rows)}


def _without_points(figures: Figures) -> Figures:
    return {keys: values for keys, values in figures.items() if keys[0] != POINTS}


def _defining(figures: Sequence[Figures]) -> dict[Keys, list[int]]:
    """Return the numbers of the generators that have each figure, before any resampling.

    A mean is over these in each resample, and undefined in one where a generator lacks the figure.
    """
    numbers: dict[Keys, list[int]] = {}
    for number, figures_of_generator in enumerate(figures):
        for keys, values in figures_of_generator.items():
            if not np.isnan(values).all():
                numbers.setdefault(keys, []).append(number)
    return numbers


def _fewest(units: Sequence[Units]) -> Units:
    """Return the fewest units that a group has of each kind.

    A mean over images with a value does not count the groups that have none.
    """
    return {
        name: min((counts[name] for counts in units if counts[name]), default=0)
        for name in units[0]
    }


def _largest(excess: Sequence[Excess]) -> Excess:
    """Return the largest of the generators' values of each figure, 0 where one has none."""
    largest: Excess = {}
    for of_generator in excess:
        for keys in of_generator:
            largest[keys] = max(other.get(keys, 0.0) for other in excess)
    return largest

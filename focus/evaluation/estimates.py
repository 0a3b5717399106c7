"""The figures of a group of images, for any weights of them: as they are, and in each resample.

A group is some real images and the fakes that are told from them. One definition gives the figure
(each image weighs 1) and, over weights that a resample draws, its interval.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focus.data.manifest import REAL, SYNTHETIC
from focus.evaluation.scores import Scores
from focus.metrics import (
    Compared,
    Interval,
    Mass,
    Ranking,
    Resampler,
    Side,
    llr_costs,
    mean_interval,
    percentiles,
    rate_interval,
    widened,
)
from focus.metrics.arrays import divided
from focus.model.operating_points import OperatingPoints, needed

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Figures = dict[str, Floats]
"""By name, [R], one a resample; NaN is what the images cannot give. A slash in a name makes a level
of results.json."""

Intervals = dict[str, Interval | None]

Shares = tuple[Integers, Floats, Floats]
"""A figure that is a weighted share of images: their rows, 1 or 0 of each, and their weights, of
sum 1."""

Units = Mapping[str, int]
"""How many independent images figures are of: "real" ones, the "fake" ones, and under its own name
those that a hit rate has a map or mask of."""
SIDES = ("real", "fake")

FPR_TARGETS = (0.001, 0.002, 0.01, 0.05)

# Name of the figure: column of the scores. Means over the images that have a value, of all of them,
# of the real ones and of the fakes.
OF_BOTH = {
    "entropy": "entropy_predicted",
    "entropy_synthetic": "entropy_synthetic",
    "entropy_sum": "entropy_sum",
    "entropy_z": "entropy_z",
    "cam_range": "cam_range",
    "map_mse": "map_mse",
    "map_cosine": "map_cosine",
    "map_hit": "map_hit",
    "map_chance": "map_chance",
    "map_mass": "map_mass",
}
# Of the fakes alone.
OF_FAKES = {
    "pointing_hit": "pointing_hit",
    "pointing_hit_synthetic": "pointing_hit_synthetic",
    "pointing_chance": "pointing_chance",
    "mask_mass": "mask_mass",
}
_COLUMNS = [*OF_BOTH.values(), *OF_FAKES.values()]
_RATES = ("map_hit", "pointing_hit", "pointing_hit_synthetic")  # of 0 and 1, -1 unknown


class Table:
    """All scores of an evaluation; its parts follow its weights."""

    def __init__(self, scores: Scores, points: OperatingPoints | None) -> None:
        self.scores, self.points = scores, points
        self.images = scores.images
        columns = [getattr(scores, name).astype(np.float64) for name in _COLUMNS]
        self._values = np.stack(columns)
        for name, values in zip(_COLUMNS, self._values, strict=True):
            if name in _RATES:
                values[values < 0] = np.nan
        self._cells = scores.peak_row * (int(scores.peak_col.max(initial=0)) + 1) + scores.peak_col
        self._parts: dict[tuple[int, bytes], Part] = {}

    def part(self, rows: Integers, label: int) -> "Part":
        """Images of one class; those that several groups share are weighed once."""
        key = (label, rows.tobytes())
        if key not in self._parts:
            llr, side = self.scores.llr[rows], Side(self.scores.score[rows])
            costs = None if np.isnan(llr).any() else llr_costs(llr, label)
            cells = self._cells[rows]
            line = None if self.points is None else self.points.calibration
            tempered = None if line is None else line.tempered(side.scores)
            self._parts[key] = Part(rows, side, self._values[:, rows], cells, costs, tempered)
        return self._parts[key]

    def weigh(self, weights: Floats) -> None:
        """Give the images these weights [R, N]."""
        for part in self._parts.values():
            part.weigh(weights[:, part.rows])


class Part:
    """Images of one class: their scores sorted, and sums over them for the present weights.

    rows: of the table. values: [columns, N], NaN where there is none. cells: [N] where the CAM
    peaks. costs: [N] of the log-likelihood ratio. tempered: [N] probabilities by rising score.
    """

    def __init__(
        self,
        rows: Integers,
        side: Side,
        values: Floats,
        cells: Integers,
        costs: Floats | None,
        tempered: Floats | None,
    ) -> None:
        self.rows, self.side, self.values, self.tempered = rows, side, values, tempered
        known = ~np.isnan(values)
        self._wholly = known.all(axis=1)
        self._partly = np.flatnonzero(known.any(axis=1) & ~self._wholly)
        self._known = known[self._partly].astype(np.float64)
        self._filled = np.nan_to_num(values)
        self._costs = costs
        self._by_cell = np.argsort(cells, kind="stable")
        self.cells, self._starts = np.unique(cells[self._by_cell], return_index=True)
        self.weigh(np.ones((1, len(rows))))

    def known(self, column: str) -> tuple[Integers, Floats]:
        """The rows that have a value in a column, and it."""
        values = self.values[_COLUMNS.index(column)]
        there = ~np.isnan(values)
        return self.rows[there], values[there]

    def weigh(self, weights: Floats) -> None:
        """Sum up again with ``weights`` [R, N]."""
        self.mass: Mass = self.side.at(weights)
        self.sums = dict(zip(_COLUMNS, self._filled @ weights.T, strict=True))
        # Weights are whole numbers, whose sums are exact in any order.
        counts = np.outer(self._wholly, self.mass.total)
        counts[self._partly] = self._known @ weights.T
        self.counts = dict(zip(_COLUMNS, counts, strict=True))
        # [R, cells]: the weight of the images whose CAM peaks there.
        self.peaks = np.zeros((len(weights), 0))
        if len(self.rows):
            self.peaks = np.add.reduceat(weights[:, self._by_cell], self._starts, axis=1)
        self.tempered_moment = None
        if self.tempered is not None:
            self.tempered_moment = self.mass.moment_of(self.tempered)
        self.cost = None if self._costs is None else divided(weights @ self._costs, self.mass.total)


class Group:
    """Some real images and some fakes of a table, by their rows."""

    def __init__(self, table: Table, real: Integers, fake: Integers) -> None:
        self._table = table
        self.real, self.fake = table.part(real, REAL), table.part(fake, SYNTHETIC)
        self._ranking = Ranking(self.real.side, self.fake.side)

    def figures(self) -> Figures:
        """All of them, for the weights that the table has now."""
        return self._told_apart() | self._operating() | self._focus()

    def undefined(self) -> dict[str, str]:
        """What a figure lacks that the images of the group cannot support, by its name."""
        return {
            _at_fpr(target): f"needs >= {needed(target)} real images"
            for target in FPR_TARGETS
            if len(self.real.rows) < needed(target)
        }

    def counts(self) -> dict[str, int]:
        """Of the images, and of those with a mask of their artefacts or with a human map."""
        masks, maps = _COLUMNS.index("pointing_hit"), _COLUMNS.index("map_mse")
        known = [~np.isnan(part.values) for part in (self.real, self.fake)]
        return {
            "n_real": len(self.real.rows),
            "n_fake": len(self.fake.rows),
            "n_pointing": int(known[1][masks].sum()),
            "n_maps": int(known[0][maps].sum() + known[1][maps].sum()),
        }

    def units(self, resampler: Resampler) -> dict[str, int]:
        """As :data:`Units`: the draws of ``resampler``."""
        rows = {"real": self.real.rows, "fake": self.fake.rows}
        rows |= {name: known for name, (known, _) in self.means().items()}
        return {name: resampler.units(own) for name, own in rows.items()}

    def means(self) -> dict[str, tuple[Integers, Floats]]:
        """By the name of each mean over images: the rows that have a value, and the values."""
        found = {}
        for name, column in (OF_BOTH | OF_FAKES).items():
            real, fake = (part.known(column) for part in (self.real, self.fake))
            found[name] = fake
            if name in OF_BOTH:
                found |= {f"{name}_real": real, f"{name}_fake": fake}
                found[name] = np.append(real[0], fake[0]), np.append(real[1], fake[1])
        return found

    def hits(self) -> dict[str, tuple[Integers, Floats]]:
        """Those whose values are 0s and 1s."""
        rates = [f"{name}{side}" for name in _RATES for side in ("", "_real", "_fake")]
        return {name: known for name, known in self.means().items() if name in rates}

    def shares(self) -> dict[str, Shares]:
        """Of the accuracies, and of the hit rates: where images are independent, of 0s and 1s."""
        rows = np.append(self.real.rows, self.fake.rows)
        counts = np.array([len(self.real.rows), len(self.fake.rows)])
        label = np.repeat([REAL, SYNTHETIC], counts)
        right = np.asarray((self._table.scores.score[rows] > 0.5) == (label == SYNTHETIC), float)
        found = {
            "accuracy": (rows, right, np.full(len(rows), 1 / max(1, len(rows)))),
            "balanced_accuracy": (rows, right, np.repeat(1 / (2 * np.maximum(1, counts)), counts)),
        }
        for name, (known, hits) in self.hits().items():
            found[name] = known, hits, np.full(len(known), 1 / max(1, len(known)))
        return found

    def errors(self, threshold: float) -> tuple[tuple[int, int], tuple[int, int]]:
        """Real images above ``threshold``, of how many; fakes that are not, of how many."""
        real, fake = self.real.side.scores, self.fake.side.scores
        flagged, missed = int((real > threshold).sum()), int((fake <= threshold).sum())
        return (flagged, len(real)), (missed, len(fake))

    def compared(self, resampler: Resampler) -> Compared:
        """The real images and the fakes, with the numbers of their draws."""
        unit = resampler.unit
        return Compared(lambda: self._ranking, unit[self.real.rows], unit[self.fake.rows])

    def exact_intervals(self, compared: Compared, resampler: Resampler) -> Intervals:
        """Of what needs no resampling: the AUC, and rates where images are independent.

        compared: its own, :meth:`compared`.
        """
        found = {"auc": compared.interval}
        if resampler.grouped:
            return found
        alarms, misses = self.errors(0.5)
        found |= {
            "accuracy": rate_interval(
                alarms[1] - alarms[0] + misses[1] - misses[0], alarms[1] + misses[1]
            ),
            "balanced_accuracy": mean_of_rates(
                [(total - wrong, total) for wrong, total in (alarms, misses)]
            ),
        }
        found |= {
            name: rate_interval(int(hits.sum()), len(hits))
            for name, (_, hits) in self.hits().items()
        }
        for point, threshold in thresholds(self._table.points):
            alarms, misses = self.errors(threshold)
            found[f"operating_points/{point}/bpcer"] = rate_interval(*alarms)
            found[f"operating_points/{point}/apcer"] = rate_interval(*misses)
        return found

    def ece_if_calibrated(self) -> dict[str, float]:
        """About what each calibration error is of so many images that are calibrated by it.

        The mean distance from 0 of a bin's sum of independent ``label - p``, normal, p being the
        probability that the error is of. Where the classes weigh alike, the images of a class of n
        weigh 1 / n, and a share p of the weight at p is fakes': 1 / n times ``(1 - p)**2`` of it,
        and of the rest ``p**2`` times that of the real images, make the variance.
        """
        rates, found = self._ranking.at(), {}
        if not rates.both[0]:
            return {}
        each = 1 / len(self.real.rows), 1 / len(self.fake.rows)
        scores = [np.clip(part.side.scores, 0, 1) for part in (self.real, self.fake)]
        pairs: dict[str, list[Floats]] = {"ece": scores}
        if self.real.tempered is not None and self.fake.tempered is not None:
            pairs["ece_tempered"] = [self.real.tempered, self.fake.tempered]
        for name, sides in pairs.items():
            for suffix, (of_real, of_fake) in (("", (1.0, 1.0)), ("_balanced", each)):
                own = [p * (1 - p) * (p * of_real + (1 - p) * of_fake) for p in sides]
                moments = rates.real.moment_of(own[0]), rates.fake.moment_of(own[1])
                # In the bins of the error itself, where any values of images are summed up.
                mass, variances, _ = rates.calibration_bins(balanced=bool(suffix), moments=moments)
                spread = math.sqrt(2 / math.pi) * np.sqrt(variances).sum()
                found[name + suffix] = float(spread / mass.sum())
        return found

    def _told_apart(self) -> Figures:
        rates = self._ranking.at(self.real.mass, self.fake.mass)
        found = {
            "auc": rates.auc(),
            "average_precision": rates.average_precision(),
            "average_precision_balanced": rates.average_precision(balanced=True),
            "eer": rates.eer(),
            **{_at_fpr(target): rates.tpr_at_fpr(target) for target in FPR_TARGETS},
            "accuracy": rates.accuracy(),
            "balanced_accuracy": rates.balanced_accuracy(),
            "brier": rates.brier(),
            "brier_balanced": rates.brier(balanced=True),
            "ece": rates.ece(),
            "ece_balanced": rates.ece(balanced=True),
            "prevalence": rates.prevalence(),
        }
        # Of one class alone, accuracy would be another figure by the same name.
        return {name: np.where(rates.both, value, np.nan) for name, value in found.items()}

    def _operating(self) -> Figures:
        found: Figures = {}
        real, fake = self.real.tempered_moment, self.fake.tempered_moment
        if real is not None and fake is not None:
            rates = self._ranking.at(self.real.mass, self.fake.mass)
            for name, balanced in (("ece_tempered", False), ("ece_tempered_balanced", True)):
                error = rates.ece(balanced=balanced, moments=(real, fake))
                found[name] = np.where(rates.both, error, np.nan)
        if self.real.cost is not None and self.fake.cost is not None:
            found["cllr"] = (self.real.cost + self.fake.cost) / 2
        for point, threshold in thresholds(self._table.points):
            found[f"operating_points/{point}/bpcer"] = self.real.mass.share_above(threshold)
            found[f"operating_points/{point}/apcer"] = 1 - self.fake.mass.share_above(threshold)
        return found

    def _focus(self) -> Figures:
        real, fake = self.real, self.fake
        found: Figures = {}
        for name, column in OF_BOTH.items():
            total, count = real.sums[column], real.counts[column]
            found[f"{name}_real"] = divided(total, count)
            found[f"{name}_fake"] = divided(fake.sums[column], fake.counts[column])
            found[name] = divided(total + fake.sums[column], count + fake.counts[column])
        for name, column in OF_FAKES.items():
            found[name] = divided(fake.sums[column], fake.counts[column])
        cells = np.union1d(real.cells, fake.cells)
        peaks = np.zeros((len(real.mass.total), len(cells)))
        for suffix, part in (("_real", real), ("_fake", fake)):
            peaks[:, np.searchsorted(cells, part.cells)] += part.peaks
            commonest = part.peaks.max(axis=1, initial=0)
            found[f"peak_share{suffix}"] = divided(commonest, part.mass.total)
        total = real.mass.total + fake.mass.total
        found["peak_share"] = divided(peaks.max(axis=1, initial=0), total)
        return found


def mean_of_rates(rates: list[tuple[int, int]]) -> Interval | None:
    """Interval of the mean of ``count / total`` over independent images; None if a total is 0."""
    parts = [(count / total, rate_interval(count, total)) for count, total in rates if total]
    known = [(value, interval) for value, interval in parts if interval is not None]
    return mean_interval(known) if len(known) == len(rates) else None


def intervals(
    found: Mapping[str, float],
    draws: Mapping[str, Floats],
    exact: Intervals,
    units: Units,
    ece_if_calibrated: Mapping[str, float] | None = None,
) -> dict[str, Interval]:
    """95 % interval of each figure that has one: the exact one, else from its ``draws``.

    units: for so many the percentiles are widened; a figure of fewer than two has none. A share of
    0 or 1 that no resample moves gets the exact interval of a rate over them: resamples never show
    that it could have been otherwise. ece_if_calibrated: :meth:`Group.ece_if_calibrated`.
    """
    made = {}
    for name, value in found.items():
        if name == "prevalence" or math.isnan(value):
            continue
        interval = exact[name] if name in exact else percentiles(draws[name])
        if interval is not None and name not in exact:
            independent = _units_of(name, units)
            bias = (ece_if_calibrated or {}).get(name, 0.0)
            interval = _of_draws(name, value, interval, independent, bias)
        if interval is not None:
            made[name] = interval
    return made


def _of_draws(
    name: str, value: float, interval: Interval, independent: int, bias: float
) -> Interval | None:
    """From the percentiles of a figure; None where they tell of no interval."""
    if independent < 2:
        return None
    low, high = widened(interval, value, independent)
    if name.startswith(_UPWARD) or name.endswith(_UPWARD):
        low, high = _for_upward(value, (low, high), bias)
    lowest, highest = next((ends for word, ends in _RANGES.items() if word in name), (0.0, 1.0))
    low, high = max(low, lowest), min(high, highest)
    if math.isclose(low, high, abs_tol=1e-12):  # equal up to the rounding of sums
        share = value in (0, 1) and any(word in name for word in _SHARES)
        return rate_interval(round(value * independent), independent) if share else None
    return low, high


# A sample makes these too large, the largest of several or a sum of distances, and a resample
# still more.
_UPWARD = ("ece", "peak_share", "apcer_max", "acer_max")
_SHARES = (
    *("auc", "average_precision", "eer", "tpr_at_fpr", "accuracy", "pcer", "acer"),
    *("map_hit", "pointing_hit", "peak_share", "share_peak_larger"),
)
# By a word of their names, the ends of figures that are not in [0, 1].
_RANGES = {"cllr": (0.0, math.inf), "cam_range": (0.0, math.inf)}
_RANGES |= dict.fromkeys(("fall_", "difference"), (-1.0, 1.0))


def _for_upward(value: float, interval: Interval, bias: float) -> Interval:
    """Percentiles on both sides of a figure that is too large.

    From the lower end of them or of their reflection in the value (the basic bootstrap), less
    ``bias``, to the higher one.
    """
    low, high = interval
    lowest = min(low, 2 * value - high) - bias
    return lowest, max(high, 2 * value - low)


def _units_of(name: str, units: Units) -> int:
    if name in units:
        return units[name]
    real, fake = units["real"], units["fake"]
    if name.endswith(("_real", "bpcer")):
        return real
    if name.endswith("_fake") or name in OF_FAKES or "apcer" in name:
        return fake
    return min(real, fake)


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """``{"a/b": 1}`` to ``{"a": {"b": 1}}``; NaN to None."""
    made: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        place = made
        for part in path:
            place = place.setdefault(part, {})
        place[last] = None if isinstance(value, float) and math.isnan(value) else value
    return made


def _at_fpr(target: float) -> str:
    return f"tpr_at_fpr_{target:g}"


def thresholds(points: OperatingPoints | None) -> list[tuple[str, float]]:
    """The operating points that have one."""
    given = {} if points is None else points.thresholds
    return [(point, value) for point, value in given.items() if value is not None]

"""Compute every figure of a group of images, for any weights of them, and its 95 % interval.

A group is some real images and the fakes that they are compared with. One definition gives the
figure, for which each image weighs 1, and its bootstrap, for which it weighs what a resample drew.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focus.data.manifest import REAL, SYNTHETIC
from focus.evaluation.scores import Scores
from focus.metrics.arrays import divided
from focus.metrics.bootstrap import Resampler, percentiles
from focus.metrics.calibration import llr_costs, min_cllr
from focus.metrics.detection import FPR_TARGETS, detection_figures
from focus.metrics.intervals import (
    Compared,
    Interval,
    mean_auc_interval,
    mean_of_rates,
    rate_interval,
)
from focus.metrics.ranking import Ranking, Side
from focus.model.operating_points import OperatingPoints, Threshold, needed

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Figures = dict[str, Floats]
"""By name, [R], one per resample, NaN where not defined. A slash in a name makes a level of
results.json."""
Intervals = dict[str, Interval | None]
Units = Mapping[str, int]
"""Independent images or groups that a figure is of: ``real`` ones, ``fake`` ones, ``both``, and
under its own name those that a mean over images has a value of."""

_OF_BOTH = (
    *("entropy_synthetic", "entropy_sum", "entropy_z", "cam_range"),
    *("map_mse", "map_cosine", "map_hit", "map_chance", "map_mass", "peak_outlier"),
)
OF_BOTH = {"entropy": "entropy_predicted", **{name: name for name in _OF_BOTH}}
"""Column of the scores by figure: means over the images with a value, of both or of one class."""
OF_FAKES = ("pointing_hit", "pointing_hit_synthetic", "pointing_chance", "mask_mass")
"""Figures, and columns, that are means over the fakes with a value."""
HITS = ("map_hit", "pointing_hit", "pointing_hit_synthetic", "peak_outlier")
"""Columns of 0 and 1, -1 unknown."""
_COLUMNS = [*OF_BOTH.values(), *OF_FAKES]


DECISION = "decision"
"""The operating point of the threshold that decides, beside those that validation fixed."""


class Table:
    """All scores of an evaluation; its parts follow its weights."""

    def __init__(
        self, scores: Scores, points: OperatingPoints | None, threshold: Threshold
    ) -> None:
        self.scores, self.points, self.threshold = scores, points, threshold.value
        given = {} if points is None else points.thresholds
        # Of the wrong class.
        self.largest_cost = float(llr_costs(-np.abs(scores.llr).max(initial=0), SYNTHETIC))
        self.thresholds = [(DECISION, threshold.value)]
        self.thresholds += [(name, value) for name, value in given.items() if value is not None]
        self.values = np.stack([getattr(scores, name).astype(np.float64) for name in _COLUMNS])
        hits = np.isin(_COLUMNS, HITS)[:, None]
        self.values[hits & (self.values < 0)] = np.nan
        self.cells = scores.peak_row * (int(scores.peak_col.max(initial=0)) + 1) + scores.peak_col
        self._parts: dict[tuple[int, bytes], Part] = {}

    def part(self, rows: Integers, label: int) -> "Part":
        """Return images of one class; those that several groups share are weighed once."""
        key = (label, rows.tobytes())
        if key not in self._parts:
            self._parts[key] = Part(self, rows, label)
        return self._parts[key]

    def weigh(self, weights: Floats) -> None:
        """Give the images these weights [R, N]."""
        for part in self._parts.values():
            part.weigh(weights.take(part.rows, axis=1))


class Part:
    """Images of one class in a table: their scores sorted, and sums for the present weights.

    rows [N] of the table. values [columns, N]: NaN where there is none. costs [N]: of the
    log-likelihood ratios. tempered [N]: probabilities after the temperature, by rising score.
    """

    def __init__(self, table: Table, rows: Integers, label: int) -> None:
        scores, points = table.scores, table.points
        self.rows, self.side = rows, Side(scores.score[rows])
        self._has_cams = scores.has_cams
        self.values = table.values[:, rows]
        self.costs = llr_costs(scores.llr[rows], label)
        self.tempered = None
        if points is not None and points.calibration is not None:
            self.tempered = points.calibration.tempered(self.side.scores)
        self._known = (~np.isnan(self.values)).astype(np.float64)
        self._filled = np.nan_to_num(self.values)
        cells = table.cells[rows]
        self._by_cell = np.argsort(cells, kind="stable")
        self.cells, self._starts = np.unique(cells[self._by_cell], return_index=True)
        self.weigh(np.ones((1, len(rows))))

    def known(self, column: str) -> tuple[Integers, Floats]:
        """Return the rows that have a value in a column, and the values."""
        values = self.values[_COLUMNS.index(column)]
        there = ~np.isnan(values)
        return self.rows[there], values[there]

    def weigh(self, weights: Floats) -> None:
        """Sum up again with ``weights`` [R, N]."""
        self.side.weigh(weights)
        self.cost = divided(weights @ self.costs, self.side.total)
        if not self._has_cams:
            return
        self.sums = dict(zip(_COLUMNS, self._filled @ weights.T, strict=True))
        self.counts = dict(zip(_COLUMNS, self._known @ weights.T, strict=True))
        # [R, cells]: the weight of the images whose CAM peaks there.
        self.peaks = np.zeros((len(weights), 0))
        if len(self.rows):
            self.peaks = np.add.reduceat(weights[:, self._by_cell], self._starts, axis=1)


class Group:
    """Some real images and some fakes of a table, by their rows."""

    def __init__(self, table: Table, real: Integers, fake: Integers) -> None:
        self._scores, self._points = table.scores, table.thresholds
        self._threshold = table.threshold
        self._outliers_known = bool((table.scores.peak_outlier >= 0).any())
        self.real, self.fake = table.part(real, REAL), table.part(fake, SYNTHETIC)
        self.rows = np.append(real, fake)
        self._calibrated = not any(np.isnan(p.costs).any() for p in (self.real, self.fake))
        self._ranking = Ranking(self.real.side, self.fake.side)

    def figures(self) -> Figures:
        """Return all of them, for the weights that the table has now."""
        found = self._detection() | self._operating()
        return found | self._focus() if self._scores.has_cams else found

    def undefined(self) -> dict[str, str]:
        """Return what a figure lacks that the images of the group cannot support, by its name."""
        return {
            f"tpr_at_fpr_{target:g}": f"needs >= {needed(target)} real images"
            for target in FPR_TARGETS
            if len(self.real.rows) < needed(target)
        }

    def counts(self) -> dict[str, int]:
        """Count the images, the fakes with an artefact mask and the images with a human map."""
        return {
            "n_real": len(self.real.rows),
            "n_synthetic": len(self.fake.rows),
            "n_pointing": len(self.fake.known("pointing_hit")[0]),
            "n_maps": sum(len(part.known("map_mse")[0]) for part in (self.real, self.fake)),
        }

    def calibration(self, cllr: float | None) -> dict[str, float | None]:
        """Return the part of C_llr that the ranking costs, and the rest, the calibration's.

        Of the images as they are, without an interval: the ratios are fitted to these images.
        """
        least = min_cllr(self.real.side.scores, self.fake.side.scores)
        loss = None if cllr is None or least is None else cllr - least
        return {"min_cllr": least, "calibration_loss": loss}

    def known(self) -> dict[str, tuple[Integers, Floats]]:
        """Return, by the name of each mean over images, the rows that have a value and these."""
        found = {name: self.fake.known(name) for name in OF_FAKES}
        for name, column in OF_BOTH.items():
            real, fake = self.real.known(column), self.fake.known(column)
            found |= {f"{name}_on_real": real, f"{name}_on_synthetic": fake}
            found[name] = np.append(real[0], fake[0]), np.append(real[1], fake[1])
        return found

    def units(self, resampler: Resampler) -> dict[str, int]:
        """Count what ``resampler`` draws as one, as :data:`Units`."""
        rows = {"real": self.real.rows, "fake": self.fake.rows, "both": self.rows}
        rows |= {name: known for name, (known, _) in self.known().items()}
        return {name: resampler.units(own) for name, own in rows.items()}

    def errors(self, threshold: float) -> tuple[tuple[int, int], tuple[int, int]]:
        """Count real images above ``threshold``, of how many, and fakes not above, of how many."""
        real, fake = self.real.side.scores, self.fake.side.scores
        flagged, missed = int((real > threshold).sum()), int((fake <= threshold).sum())
        return (flagged, len(real)), (missed, len(fake))

    def compared(self, resampler: Resampler) -> Compared:
        """Return the scores of the real images and of the fakes, and their units."""
        rows = self.real.rows, self.fake.rows
        score, unit = self._scores.score, resampler.unit
        return score[rows[0]], score[rows[1]], unit[rows[0]], unit[rows[1]]

    def exact_intervals(self, resampler: Resampler) -> Intervals:
        """Return DeLong's of the AUC, and those of rates whose images are independent."""
        found: Intervals = {"auc": mean_auc_interval([self.compared(resampler)])}
        if resampler.independent(self.rows):
            right = [(total - wrong, total) for wrong, total in self.errors(self._threshold)]
            found["accuracy"] = rate_interval(sum(n for n, _ in right), len(self.rows))
            found["balanced_accuracy"] = mean_of_rates(right)
        for name, (rows, values) in self.known().items():
            if name.startswith(HITS) and resampler.independent(rows):
                found[name] = rate_interval(int(values.sum()), len(rows))
        for point, threshold in self._points:
            for rate, part, errors in zip(
                ("bpcer", "apcer"), (self.real, self.fake), self.errors(threshold), strict=True
            ):
                if resampler.independent(part.rows):
                    found[f"operating_points/{point}/{rate}"] = rate_interval(*errors)
        return found

    def calibrated_ece(self) -> dict[str, float]:
        """Return about what each calibration error would be if the scores were calibrated.

        For the weights 1: the mean distance from 0 of a bin's sum of independent ``label - p``,
        normal, with p the mean score of the bin. Empty without both classes.
        """
        found: dict[str, float] = {}
        if not self._ranking.defined[0]:
            return found
        sizes = {"": (1, 1), "_balanced": (len(self.real.rows), len(self.fake.rows))}
        for name, probabilities in self._probabilities().items():
            for suffix, (reals, fakes) in sizes.items():
                mass, scored, _ = self._ranking.calibration_bins(
                    balanced=bool(suffix), probabilities=probabilities
                )
                p = np.clip(np.nan_to_num(divided(scored, mass)), 0, 1)
                variances = mass * p * (1 - p) * (p / reals + (1 - p) / fakes)
                spread = math.sqrt(2 / math.pi) * np.sqrt(variances).sum()
                found[name + suffix] = float(spread / mass.sum())
        return found

    def _probabilities(self) -> dict[str, tuple[Floats, Floats]]:
        """Return those by rising score that a calibration error is of, by its name."""
        found = {"ece": (self.real.side.scores, self.fake.side.scores)}
        if self.real.tempered is not None and self.fake.tempered is not None:
            found["ece_tempered"] = self.real.tempered, self.fake.tempered
        return found

    def _detection(self) -> Figures:
        found = detection_figures(self._ranking, self._threshold)
        if self.real.tempered is not None and self.fake.tempered is not None:
            tempered = self.real.tempered, self.fake.tempered
            for suffix in ("", "_balanced"):
                ece = self._ranking.ece(balanced=bool(suffix), probabilities=tempered)
                found[f"ece_tempered{suffix}"] = np.where(self._ranking.defined, ece, np.nan)
        return found

    def _operating(self) -> Figures:
        found: Figures = {}
        if self._calibrated:
            found["cllr"] = (self.real.cost + self.fake.cost) / 2
        for point, threshold in self._points:
            found[f"operating_points/{point}/bpcer"] = self.real.side.share_above(threshold)
            found[f"operating_points/{point}/apcer"] = 1 - self.fake.side.share_above(threshold)
        return found

    def _focus(self) -> Figures:
        real, fake = self.real, self.fake
        found: Figures = {}
        for name, column in OF_BOTH.items():
            if name == "peak_outlier" and not self._outliers_known:
                continue
            total, count = real.sums[column], real.counts[column]
            found[f"{name}_on_real"] = divided(total, count)
            found[f"{name}_on_synthetic"] = divided(fake.sums[column], fake.counts[column])
            found[name] = divided(total + fake.sums[column], count + fake.counts[column])
        for name in OF_FAKES:
            found[name] = divided(fake.sums[name], fake.counts[name])
        cells = np.union1d(real.cells, fake.cells)
        peaks = np.zeros((len(real.peaks), len(cells)))
        for suffix, part in (("_on_real", real), ("_on_synthetic", fake)):
            peaks[:, np.searchsorted(cells, part.cells)] += part.peaks
            commonest = part.peaks.max(axis=1, initial=0)
            found[f"peak_share{suffix}"] = divided(commonest, part.side.total)
        total = real.side.total + fake.side.total
        found["peak_share"] = divided(peaks.max(axis=1, initial=0), total)
        return found


def intervals(
    found: Mapping[str, float],
    draws: Mapping[str, Floats],
    exact: Intervals,
    units: Units,
    calibrated_ece: Mapping[str, float],
    unseen: float,
) -> dict[str, Interval]:
    """Return the interval of each figure that has one: the exact one, else that of its draws.

    draws [R]: of the resamples. calibrated_ece: :meth:`Group.calibrated_ece`. unseen: what
    an image on the wrong side may add to C_llr, 0 where enough are there.
    """
    made = {}
    for name, value in found.items():
        if name == "prevalence" or math.isnan(value):
            continue
        interval = exact.get(name)
        if name not in exact:
            excess = calibrated_ece.get(name, 0.0)
            interval = _bootstrap(name, value, draws[name], units, excess, unseen)
        if interval is not None:
            made[name] = interval
    return made


# A sample overstates these, the largest of several or a sum of distances, and a resample more so.
_OVERSTATED = ("ece", "peak_share", "apcer_max", "acer_max")
_COSTS = ("brier", "cllr", "ece")
_SHARES = (
    *("auc", "average_precision", "eer", "tpr_at_fpr", "accuracy", "pcer", "acer"),
    *("map_hit", "pointing_hit", "peak_share", "peak_outlier"),
)


def _bootstrap(
    name: str, value: float, draws: Floats, units: Units, excess: float, unseen: float
) -> Interval | None:
    """Return the percentiles of ``draws``, or None.

    Of a figure that samples overstate: from the reflection of the percentiles in it (the basic
    bootstrap), less ``excess``, to the higher end of both. Of a cost with ``unseen``: at least to
    Clopper and Pearson's end, as if an image cost nothing or the most. Of a share that no resample
    moves from 0 or 1: theirs.
    """
    count = _units_of(name, units)
    interval = percentiles(draws, count)
    if interval is not None:
        low, high = interval
        if name.startswith(_OVERSTATED) or name.endswith(_OVERSTATED):
            low, high = min(low, 2 * value - high) - excess, max(high, 2 * value - low)
            low, high = max(0.0, low), min(1.0, high)
        if unseen and name.startswith(_COSTS):
            most, images = unseen if name == "cllr" else 1.0, min(2 * count, units["both"])
            of_share = rate_interval(value / most * images, images)
            high = max(high, most * of_share[1]) if of_share else high
        if not math.isclose(low, high, abs_tol=1e-12):  # equal up to the rounding of sums
            return low, high
    share = value in (0, 1) and any(word in name for word in _SHARES)
    return rate_interval(round(value * count), count) if share and count > 1 else None


def _units_of(name: str, units: Units) -> int:
    if name in units:
        return units[name]
    if name.endswith(("_on_real", "bpcer")):
        return units["real"]
    if name.endswith("_on_synthetic") or "apcer" in name:
        return units["fake"]
    return units["both"] if name == "peak_share" else min(units["real"], units["fake"])


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Turn ``{"a/b": 1}`` into ``{"a": {"b": 1}}``, and NaN into None."""
    made: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split("/")
        place = made
        for part in path:
            place = place.setdefault(part, {})
        place[last] = None if isinstance(value, float) and math.isnan(value) else value
    return made

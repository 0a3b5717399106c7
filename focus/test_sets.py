"""The figures of a test set: by generator, their mean, and of all its images together."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focus.figures import (
    HITS_OF_FAKES,
    SIDES,
    Figures,
    Floats,
    Group,
    Intervals,
    Table,
    intervals,
    mean_of_rates,
    nested,
    thresholds,
)
from focus.metrics import LEVEL, Compared, Resampler, mean_interval, mean_interval_of, rate_interval
from focus.operating_points import POINTS

UNNAMED = "(unnamed)"


@dataclass(frozen=True)
class Comparison:
    """The fakes of one generator and the real images that they are told from (row numbers)."""

    test_set: str
    generator: str
    real: NDArray[np.int64]
    fake: NDArray[np.int64]


class TestSet:
    """The comparisons of one test set, and what resamples have given so far."""

    __test__ = False  # no class of tests, whatever its name

    def __init__(self, table: Table, members: list[Comparison]) -> None:
        self.members = members
        self._table = table
        self._groups = [Group(table, c.real, c.fake) for c in members]
        rows = [
            union((getattr(c, side) for c in members), table.images) for side in ("real", "fake")
        ]
        # One generator is the whole test set.
        self._pooled = self._groups[0] if len(members) == 1 else Group(table, *rows)
        self._defining = _defining([group.figures() for group in self._groups])
        self._found = [{n: float(v[0]) for n, v in f.items()} for f in self._all_figures()]
        self._draws: list[dict[str, list[Floats]]] = [{n: [] for n in f} for f in self._found]

    def redraw(self) -> None:
        """Take up the figures for the weights that the table has now."""
        for figures, draws in zip(self._all_figures(), self._draws, strict=True):
            for name, values in draws.items():
                values.append(figures[name])

    def results(self, resampler: Resampler) -> dict[str, Any]:
        """As results.json has them; where images come in groups, no rate's interval is exact."""
        groups = [*self._groups, self._pooled]
        units = [group.units(resampler) for group in groups]
        fewest = _fewest(units)
        units += [fewest, fewest]
        # Each placed once, for its own interval and for that of the mean.
        compared = [group.compared(resampler) for group in groups]
        exact = [
            group.exact_intervals(own, resampler)
            for group, own in zip(groups, compared, strict=True)
        ]
        exact += [
            self._exact_means(compared, resampler),
            {} if resampler.grouped else self._exact_errors(),
        ]
        biases = [group.ece_if_calibrated() for group in groups]
        biases += [max(biases[:-1], default=0.0), 0.0]
        made = []
        for found, draws, sure, count, bias in zip(
            self._found, self._draws, exact, units, biases, strict=True
        ):
            ranges: dict[str, Any] = {}
            if any(draws.values()):
                joined = {name: np.concatenate(parts) for name, parts in draws.items()}
                ranges = intervals(found, joined, sure, count, bias)
            made.append({**nested(found), "intervals": nested(ranges)})
        for group, entry in zip(groups, made, strict=False):
            entry |= {**group.counts(), "undefined": group.undefined()}
        *entries, all_images, macro, operating = made
        macro["n_defined"] = self._defined()
        for name, entry in operating.items():
            if name in POINTS:
                entry["apcer_max_generator"] = self._worst(name)
        names = [c.generator or UNNAMED for c in self.members]
        return {
            "n_generators": sum(not math.isnan(found["auc"]) for found in self._found[:-3]),
            "mean": macro,
            "pooled": all_images,
            "operating_points": operating,
            "generators": dict(zip(names, entries, strict=True)),
        }

    def _all_figures(self) -> list[Figures]:
        """Of each generator; of all images; means over the generators; at the operating points."""
        of_generators = [group.figures() for group in self._groups]
        pooled = of_generators[0] if len(self._groups) == 1 else self._pooled.figures()
        known = {
            name: [of_generators[place][name] for place in places]
            for name, places in self._defining.items()
        }
        undefined = np.full_like(pooled["auc"], np.nan)
        mean = {
            name: np.mean(known[name], axis=0) if name in known else undefined for name in pooled
        }
        points: Figures = {}
        for point in POINTS:
            bpcer, apcer = (f"operating_points/{point}/{rate}" for rate in ("bpcer", "apcer"))
            if bpcer not in pooled:
                continue
            worst = np.max(known[apcer], axis=0) if apcer in known else undefined
            points |= {
                f"{point}/bpcer": pooled[bpcer],
                f"{point}/apcer_pooled": pooled[apcer],
                f"{point}/apcer_mean": mean[apcer],
                f"{point}/apcer_max": worst,
                f"{point}/acer_mean": (mean[apcer] + pooled[bpcer]) / 2,
                f"{point}/acer_max": (worst + pooled[bpcer]) / 2,
            }
        return [*of_generators, _without_points(pooled), _without_points(mean), points]

    def _exact_means(self, compared: list[Compared], resampler: Resampler) -> Intervals:
        """Of the mean AUC, and of the means of hit rates of fakes, which no generators share."""
        defining = [compared[place] for place in self._defining.get("auc", [])]
        found: Intervals = {"auc": mean_interval_of(defining)}
        if resampler.grouped:
            return found
        counts = [
            {name: (int(hits.sum()), len(hits)) for name, (_, hits) in group.hits().items()}
            for group in self._groups
        ]
        return found | {
            name: mean_of_rates([own[name] for own in counts if own[name][1]])
            for name in HITS_OF_FAKES
        }

    def _exact_errors(self) -> Intervals:
        """At the operating points, over independent images."""
        found: Intervals = {}
        for point, threshold in thresholds(self._table.points):
            flagged, missed = self._pooled.errors(threshold)
            each = [e for e in (g.errors(threshold)[1] for g in self._groups) if e[1]]
            bpcer, mean = rate_interval(*flagged), mean_of_rates(each) if each else None
            # All at once, so that the largest of them lies between the largest of their ends.
            ends = [rate_interval(*e, 1 - (1 - LEVEL) / len(each)) for e in each]
            low, high = (max((end[side] for end in ends if end), default=0) for side in (0, 1))
            found |= {
                f"{point}/bpcer": bpcer,
                f"{point}/apcer_pooled": rate_interval(*missed),
                f"{point}/apcer_mean": mean,
                f"{point}/apcer_max": (low, high) if ends else None,
            }
            for name in ("mean", "max"):
                parts = [
                    (self._found[-1][f"{point}/{rate}"], found[f"{point}/{rate}"])
                    for rate in ("bpcer", f"apcer_{name}")
                ]
                known = [(value, interval) for value, interval in parts if interval]
                both = mean_interval(known) if len(known) == 2 else None
                found[f"{point}/acer_{name}"] = both
        return found

    def _defined(self) -> dict[str, int]:
        """Over how many generators a mean is, where it is not over all."""
        counts = {
            name: sum(not math.isnan(found[name]) for found in self._found[:-3])
            for name in self._found[-2]
        }
        return {name: n for name, n in counts.items() if 0 < n < len(self.members)}

    def _worst(self, point: str) -> str | None:
        """The generator whose fakes are missed most at an operating point, if any is missed."""
        missed = [found[f"operating_points/{point}/apcer"] for found in self._found[:-3]]
        if not np.nansum(missed):
            return None
        return self.members[int(np.nanargmax(missed))].generator or UNNAMED


def union(
    rows: Iterable[NDArray[np.int64]], images: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The numbers in any of ``rows``, sorted; with ``images`` [N] one row of each image."""
    found = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *rows]))
    if images is None:
        return found
    return found[np.sort(np.unique(images[found], return_index=True)[1])]


def _defining(figures: list[Figures]) -> dict[str, list[int]]:
    """By name the places of the generators that have a figure, by the images as they are.

    A mean is over these in each resample, and undefined in one that leaves a generator without.
    """
    found: dict[str, list[int]] = {}
    for place, own in enumerate(figures):
        for name, values in own.items():
            if not np.isnan(values).all():
                found.setdefault(name, []).append(place)
    return found


def _fewest(units: list[dict[str, int]]) -> dict[str, int]:
    """Of several groups; one that has no map or mask is in no mean of hit rates."""
    return {
        name: min((n for each in units if (n := each[name]) or name in SIDES), default=0)
        for name in units[0]
    }


def _without_points(figures: Figures) -> Figures:
    return {n: v for n, v in figures.items() if not n.startswith("operating_points/")}

"""From scores to results: which fakes are told from which reals, their figures, and the files.

Every metric is computed once, from the whole table of scores. ``docs/formats.md`` describes the two
files that :func:`write_results` leaves.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from focus.data.generators import families, relation, with_families
from focus.data.manifest import REAL, SYNTHETIC, TEST_SETS
from focus.evaluation.estimates import (
    SIDES,
    Figures,
    Floats,
    Group,
    Intervals,
    Shares,
    Table,
    intervals,
    mean_of_rates,
    nested,
    thresholds,
)
from focus.evaluation.protocol import UNNAMED, Comparison, match, strata, union
from focus.evaluation.scores import Scores
from focus.metrics import (
    LEVEL,
    Compared,
    Interval,
    Resampler,
    mean_interval,
    mean_interval_of,
    rate_interval,
    sum_interval,
)
from focus.model.operating_points import POINTS, OperatingPoints
from focus.runtime.files import atomic_write
from focus.runtime.progress import progress_bar

VERSION = 2
RESAMPLES = 2000
_AT_ONCE = 2**20  # weights; 2**18 takes twice the time for 100,000 images, 2**21 as long
Results = dict[str, Any]


def summarise(
    scores: Scores,
    training_generators: Iterable[str],
    training_families: Mapping[str, str] | None = None,
    points: OperatingPoints | None = None,
    *,
    resamples: int = RESAMPLES,
    progress: bool = False,
) -> Results:
    """``results.json`` as a dictionary: figures and their 95 % intervals, as docs/formats.md says.

    ``closed`` and ``open`` are always there, ``closed_balanced`` only where a fake belongs to it.
    What the data cannot give is None. training_families: of the training generators; the family of
    one that is missing is that of :mod:`focus.data.families`. points: fixed on validation.
    resamples: for the intervals, 0 for none; always the same ones.
    """
    training_generators = sorted(training_generators)
    known = with_families(training_generators, training_families or {})
    comparisons = match(scores, training_generators)
    results: Results = {
        "version": VERSION,
        "training_generators": training_generators,
        "training_families": {name: family or None for name, family in known.items()},
        "n_real": int((scores.label == REAL).sum()),
        "n_fake": int((scores.label == SYNTHETIC).sum()),
        "n_unlabelled": int((scores.label < 0).sum()),
        "thresholds": None if points is None else dict(points.thresholds),
        "undefined_thresholds": {} if points is None else points.undefined(),
    }
    results["n_real_unused"] = results["n_real"] - len(union(c.real for c in comparisons))
    table = Table(scores, points)
    test_sets = {
        name: TestSet(table, [c for c in comparisons if c.test_set == name])
        for name in TEST_SETS
        if name != "closed_balanced" or any(c.test_set == name for c in comparisons)
    }
    images = table.images
    resampler = Resampler(strata(scores.label, comparisons, images), scores.group, images)
    random = np.random.default_rng(0)
    at_once = max(1, _AT_ONCE // max(1, len(scores)))
    # Narrow matrix products, for which a second thread of BLAS only waits, at the price of a first.
    with (
        threadpool_limits(1, "blas"),
        progress_bar(total=resamples, desc="resampling", delay=3, disable=not progress) as bar,
    ):
        for done in range(0, resamples, at_once):
            count = min(at_once, resamples - done)
            table.weigh(resampler.draw(random, count))
            for test_set in test_sets.values():
                test_set.redraw()
            bar.update(count)
    for name, test_set in test_sets.items():
        made = test_set.results(resampler)
        for comparison, generator in zip(
            test_set.members, made["generators"].values(), strict=True
        ):
            generator |= _kinship(scores, comparison, known)
        results[name] = made
    return results


def _kinship(scores: Scores, comparison: Comparison, known: Mapping[str, str]) -> Results:
    """The generator's family and how far it is from training, None where that is not known."""
    name, fake = comparison.generator, comparison.fake
    family = families(zip(scores.generator[fake], scores.family[fake], strict=True)).get(name, "")
    return {"family": family or None, "relation": relation(name, family, known)}


def write_results(folder: str | Path, scores: Scores, results: Results | None) -> list[Path]:
    """Writes ``scores.csv`` and ``results.json`` into ``folder``; returns the paths written.

    Each file is written aside and renamed, so that it is there whole or not at all. Without
    results (no image has a label) an earlier ``results.json``, which would be of other scores, is
    removed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / "scores.csv"]
    scores.to_csv(written[0])
    target = folder / "results.json"
    if results is None:
        target.unlink(missing_ok=True)
        return written
    with atomic_write(target) as aside:
        aside.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return [target, *written]


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
            self._exact_means(compared, exact, resampler),
            {} if resampler.grouped else self._exact_errors(),
        ]
        biases = [group.ece_if_calibrated() for group in groups]
        biases += [_largest(biases[:-1]), {}]
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

    def _exact_means(
        self, compared: list[Compared], exact: list[Intervals], resampler: Resampler
    ) -> Intervals:
        """Of the mean AUC, and of the means of shares of independent images.

        exact: of the groups; that of the only generator which has a figure is that of the mean.
        """
        defining = [compared[place] for place in self._defining.get("auc", [])]
        found: Intervals = {"auc": mean_interval_of(defining)}
        if resampler.grouped:
            return found
        shares = [group.shares() for group in self._groups]
        for name in {name for own in shares for name in own} & self._defining.keys():
            places = self._defining[name]
            found[name] = (
                exact[places[0]][name]
                if len(places) == 1
                else self._interval_of_mean([shares[place][name] for place in places])
            )
        return found

    def _interval_of_mean(self, shares: list[Shares]) -> Interval:
        """Of the mean of ``shares``, by the rates that it is a weighted sum of.

        A generator's fakes are its own, as in ``apcer_mean``. A real image counts once, with the
        sum of its weights; those that weigh alike are counted together, as in ``bpcer``: so many of
        them scatter no more than those of one rate (Hoeffding, 1956).
        """
        rates, reals = [], []
        for rows, ones, weights in shares:
            real = self._table.scores.label[rows] == REAL
            reals.append((self._table.images[rows[real]], ones[real], weights[real]))
            rates.append((weights[~real].sum(), ones[~real].sum(), (~real).sum()))
        images, ones, weights = (np.concatenate(parts) for parts in zip(*reals, strict=True))
        _, first, image = np.unique(images, return_index=True, return_inverse=True)
        weight = np.bincount(image, weights, len(first))
        _, alike, sizes = np.unique(weight, return_inverse=True, return_counts=True)
        sums = (np.bincount(alike, values, len(sizes)) for values in (weight, ones[first]))
        rates += list(zip(*sums, sizes, strict=True))
        return sum_interval(
            [
                (float(total) / len(shares), float(count / size), interval)
                for total, count, size in rates
                if (interval := rate_interval(round(count), int(size)))
            ]
        )

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


def _largest(found: list[dict[str, float]]) -> dict[str, float]:
    """Of each name."""
    names = {name for each in found for name in each}
    return {name: max(each.get(name, 0.0) for each in found) for name in names}


def _without_points(figures: Figures) -> Figures:
    return {n: v for n, v in figures.items() if not n.startswith("operating_points/")}

"""Compute results.json from a table of scores, and write both files.

Every metric is computed once, from the whole table. ``docs/formats.md`` describes the two files
that :func:`write_results` leaves.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from focus.data.manifest import REAL, SYNTHETIC, TEST_SETS
from focus.data.near_far import families, relation, with_families
from focus.evaluation.estimates import (
    Figures,
    Floats,
    Group,
    Intervals,
    Table,
    intervals,
    nested,
)
from focus.evaluation.protocol import UNNAMED, Comparison, match, strata, union
from focus.evaluation.scores import Scores
from focus.metrics.bootstrap import Resampler
from focus.metrics.intervals import (
    LEVEL,
    few_inverted,
    mean_auc_interval,
    mean_interval,
    mean_of_rates,
    rate_interval,
)
from focus.model.operating_points import OperatingPoints, Threshold, choose_threshold
from focus.runtime.files import atomic_write
from focus.runtime.machine import usable_cores
from focus.runtime.progress import progress_bar

VERSION = 4
RESAMPLES = 2000
_AT_ONCE = 2**20  # weights; 2**18 takes twice the time for 100,000 images, 2**21 as long
Results = dict[str, Any]
Map = Callable[[Callable[[Group], Figures], list[Group]], Iterable[Figures]]


def summarise(
    scores: Scores,
    training_generators: Iterable[str],
    training_families: Mapping[str, str] | None = None,
    points: OperatingPoints | None = None,
    *,
    threshold: Threshold | None = None,
    resamples: int = RESAMPLES,
    progress: bool = False,
) -> Results:
    """Return ``results.json`` as a dictionary, as docs/formats.md describes it.

    ``closed`` and ``open`` are always there, ``closed_balanced`` only where a fake belongs to it.
    What the data cannot give is None. ``groups`` are the same figures of the mean score of each
    group, only where one holds several images of a class and generator.

    training_families: of the training generators; the family of one that is missing is that of
    :mod:`focus.data.near_far`. points: fixed on validation. threshold: what decides, by
    default what the points say.
    resamples: for the intervals, 0 for none; always the same ones.
    """
    training_generators = sorted(training_generators)
    known = with_families(training_generators, training_families or {})
    comparisons = match(scores, training_generators)
    threshold = threshold or choose_threshold(points)
    results: Results = {
        "version": VERSION,
        "training_generators": training_generators,
        "training_families": {name: family or None for name, family in known.items()},
        "n_real": int((scores.label == REAL).sum()),
        "n_synthetic": int((scores.label == SYNTHETIC).sum()),
        "n_unlabelled": int((scores.label < 0).sum()),
        "decision": {"point": threshold.name, "threshold": threshold.value},
        "thresholds": None if points is None else dict(points.thresholds),
        "undefined_thresholds": {} if points is None else points.undefined(),
    }
    results["n_real_unused"] = results["n_real"] - len(union(c.real for c in comparisons))
    table = Table(scores, points, threshold)
    test_sets = {
        name: TestSet(table, [c for c in comparisons if c.test_set == name])
        for name in TEST_SETS
        if name != "closed_balanced" or any(c.test_set == name for c in comparisons)
    }
    images = scores.images
    resampler = Resampler(strata(scores.label, comparisons, images), scores.group, images)
    random = np.random.default_rng(0)
    at_once = max(1, _AT_ONCE // max(1, len(scores)))
    # Narrow matrix products, for which a second thread of BLAS only waits, at the price of a first.
    with (
        threadpool_limits(1, "blas"),
        ThreadPool(usable_cores()) as pool,
        progress_bar(total=resamples, desc="resampling", delay=3, disable=not progress) as bar,
    ):
        for done in range(0, resamples, at_once):
            count = min(at_once, resamples - done)
            table.weigh(resampler.draw(random, count))
            for test_set in test_sets.values():
                test_set.draw(pool.map)
            bar.update(count)
    for name, test_set in test_sets.items():
        results[name] = test_set.results(resampler)
        entries = results[name]["generators"].values()
        for comparison, entry in zip(test_set.comparisons, entries, strict=True):
            generator, fake = comparison.generator, comparison.fake
            pairs = zip(scores.generator[fake], scores.family[fake], strict=True)
            family = families(pairs).get(generator, "")
            entry |= {"family": family or None, "relation": relation(generator, family, known)}
    groups = scores.by_group()
    if len(groups) < len(scores):
        found = summarise(
            groups, training_generators, known, points, threshold=threshold, resamples=resamples
        )
        results["groups"] = {name: found[name] for name in ("n_real", "n_synthetic", *test_sets)}
    return results


class TestSet:
    """The comparisons of one test set: figures by generator, their mean, and of all images."""

    def __init__(self, table: Table, comparisons: list[Comparison]) -> None:
        self.comparisons, self._largest_cost = comparisons, table.largest_cost
        self._thresholds = table.thresholds
        self._groups = [Group(table, c.real, c.fake) for c in comparisons]
        rows = [
            union((getattr(c, side) for c in comparisons), table.scores.images)
            for side in ("real", "fake")
        ]
        # One generator is the whole test set.
        self._pooled = self._groups[0] if len(comparisons) == 1 else Group(table, *rows)
        self._defining = _defining([group.figures() for group in self._groups])
        self._found = [{n: float(v[0]) for n, v in f.items()} for f in self._figures()]
        self._draws: list[dict[str, list[Floats]]] = [{n: [] for n in f} for f in self._found]
        noise = [group.calibrated_ece() for group in (*self._groups, self._pooled)]
        names = {name for each in noise for name in each}
        largest = {name: max(each.get(name, 0.0) for each in noise[:-1]) for name in names}
        self._noise = [*noise, largest, {}]

    def draw(self, each: Map) -> None:
        """Take up the figures for the weights that the table has now; each: ``map``."""
        for figures, draws in zip(self._figures(each), self._draws, strict=True):
            for name, values in draws.items():
                values.append(figures[name])

    def results(self, resampler: Resampler) -> Results:
        """Return them as results.json has them."""
        groups = [*self._groups, self._pooled]
        units = [group.units(resampler) for group in groups]
        # A group without images of a kind is in no mean of theirs.
        fewest = {name: min((n for u in units if (n := u[name])), default=0) for name in units[0]}
        units += [fewest, fewest]
        compared = [[group.compared(resampler)] for group in groups]
        compared += [[one for n in self._defining.get("auc", []) for one in compared[n]], []]
        unseen = [self._largest_cost if few_inverted(own) else 0.0 for own in compared]
        exact = [group.exact_intervals(resampler) for group in groups]
        exact += [self._mean_intervals(exact, resampler), self._error_intervals(resampler)]
        exact[-2]["auc"] = mean_auc_interval(compared[-2])
        entries = []
        for found, draws, sure, count, noise, most in zip(
            self._found, self._draws, exact, units, self._noise, unseen, strict=True
        ):
            ends: dict[str, Any] = {}
            if any(draws.values()):
                joined = {name: np.concatenate(parts) for name, parts in draws.items()}
                ends = intervals(found, joined, sure, count, noise, most)
            entries.append({**nested(found), "intervals": nested(ends)})
        for group, entry in zip(groups, entries, strict=False):
            entry |= {**group.counts(), "undefined": group.undefined()}
            entry |= group.calibration(entry.get("cllr"))
        *generators, pooled, mean, operating = entries
        for name in ("min_cllr", "calibration_loss"):
            known = [entry[name] for entry in generators if entry[name] is not None]
            mean[name] = float(np.mean(known)) if known else None
        names = [c.generator or UNNAMED for c in self.comparisons]
        mean["n_defined"] = {
            name: len(places)
            for name, places in self._defining.items()
            if name in self._found[-2] and len(places) < len(self.comparisons)
        }
        for point, _ in self._thresholds:
            missed = [found[f"operating_points/{point}/apcer"] for found in self._found[:-3]]
            worst = names[int(np.nanargmax(missed))] if np.nansum(missed) else None
            operating[point]["apcer_max_generator"] = worst
        return {
            "n_generators": len(self._defining.get("auc", [])),
            "mean": mean,
            "pooled": pooled,
            "operating_points": operating,
            "generators": dict(zip(names, generators, strict=True)),
        }

    def _figures(self, each: Map = map) -> list[Figures]:
        """Return those of each generator, of all images, their means, and the error rates."""
        # The largest first, so that the threads end at about the same time.
        several = len(self._groups) != 1
        found = list(each(Group.figures, [self._pooled] * several + self._groups))
        pooled, generators = found[0], found[several:]
        known = {
            name: [generators[place][name] for place in places]
            for name, places in self._defining.items()
        }
        undefined = np.full_like(pooled["auc"], np.nan)
        mean = {
            name: np.mean(known[name], axis=0) if name in known else undefined for name in pooled
        }
        rates: Figures = {}
        for point, _ in self._thresholds:
            bpcer, apcer = (f"operating_points/{point}/{rate}" for rate in ("bpcer", "apcer"))
            largest = np.max(known[apcer], axis=0) if apcer in known else undefined
            rates |= {
                f"{point}/bpcer": pooled[bpcer],
                f"{point}/apcer_pooled": pooled[apcer],
                f"{point}/apcer_mean": mean[apcer],
                f"{point}/apcer_max": largest,
                f"{point}/acer_mean": (mean[apcer] + pooled[bpcer]) / 2,
                f"{point}/acer_max": (largest + pooled[bpcer]) / 2,
            }
        both = [
            {name: own[name] for name in own if not name.startswith("operating_points/")}
            for own in (pooled, mean)
        ]
        return [*generators, *both, rates]

    def _mean_intervals(self, exact: list[Intervals], resampler: Resampler) -> Intervals:
        """Return those of means over one generator, and of rates of fakes.

        exact: of the generators. Real images that they share make other rates dependent.
        """
        found: Intervals = {}
        for name, places in self._defining.items():
            if len(places) == 1 and name in exact[places[0]]:
                found[name] = exact[places[0]][name]
            elif name.startswith("pointing_hit"):
                rows, hits = zip(*(self._groups[n].known()[name] for n in places), strict=True)
                if resampler.independent(np.concatenate(rows)):
                    found[name] = mean_of_rates([(int(own.sum()), len(own)) for own in hits])
        return found

    def _error_intervals(self, resampler: Resampler) -> Intervals:
        """Return those of the error rates whose images are independent."""
        found: Intervals = {}
        real = self._pooled.real.rows
        fake = np.concatenate([real[:0], *(c.fake for c in self.comparisons)])
        rows = {"bpcer": real, "apcer": fake, "acer": np.append(real, fake)}
        exact = tuple(rate for rate, own in rows.items() if resampler.independent(own))
        for point, threshold in self._thresholds:
            flagged, missed = self._pooled.errors(threshold)
            each = [e for e in (g.errors(threshold)[1] for g in self._groups) if e[1]]
            found |= {
                f"{point}/bpcer": rate_interval(*flagged),
                f"{point}/apcer_pooled": rate_interval(*missed),
                f"{point}/apcer_mean": mean_of_rates(each),
                f"{point}/apcer_max": None,
            }
            # All at once (Bonferroni): the largest rate lies between the largest of their ends.
            ends = [rate_interval(*e, 1 - (1 - LEVEL) / len(each)) for e in each]
            if known := [end for end in ends if end]:
                low, high = (max(side) for side in zip(*known, strict=True))
                found[f"{point}/apcer_max"] = low, high
            for name in ("mean", "max"):
                rates = [f"{point}/{rate}" for rate in ("bpcer", f"apcer_{name}")]
                parts = [interval for rate in rates if (interval := found[rate])]
                values = [self._found[-1][rate] for rate in rates]
                acer = mean_interval(values, parts) if len(parts) == 2 else None
                found[f"{point}/acer_{name}"] = acer
        return {name: found[name] for name in found if name.rpartition("/")[2].startswith(exact)}


def _defining(figures: list[Figures]) -> dict[str, list[int]]:
    """Return, by name, the places of the generators that have a figure, by the images as they are.

    A mean is over these in each resample, and undefined in one that leaves a generator without.
    """
    found: dict[str, list[int]] = {}
    for place, own in enumerate(figures):
        for name, values in own.items():
            if not np.isnan(values).all():
                found.setdefault(name, []).append(place)
    return found


def write_results(folder: str | Path, scores: Scores, results: Results | None) -> list[Path]:
    """Write ``scores.csv`` and ``results.json`` into ``folder``; return the paths written.

    Each is there whole or not at all. Without results (no image has a label) an earlier
    ``results.json``, which would be of other scores, is removed.
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

"""Compute results.json from a table of scores, and write both files.

Every metric is computed once, from the whole table. ``docs/formats.md`` describes the two files
that :func:`write_results` leaves.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from focus.data.manifest import REAL, SYNTHETIC, TEST_SETS
from focus.data.near_far import families, relation, with_families
from focus.evaluation.estimates import Estimate, Figures, Group, Intervals, WeightedScores
from focus.evaluation.protocol import UNNAMED, Comparison, match, strata, union
from focus.evaluation.scores import Scores
from focus.metrics.bootstrap import CellResampler, Resampler
from focus.metrics.figures import FIGURE, FIGURES, POINTS, Errors, Keys, Method
from focus.metrics.intervals import (
    LEVEL,
    Interval,
    PlacedScores,
    mean_interval,
    mean_of_rates,
    rate_interval,
)
from focus.model.operating_points import OperatingPoints, Threshold, choose_threshold
from focus.runtime.files import atomic_write
from focus.runtime.machine import usable_cores
from focus.runtime.progress import progress_bar

VERSION = 4
FAITHFULNESS = "faithfulness.csv"
"""What :mod:`focus.evaluation.faithfulness` measured of the same scores."""
AUC: Keys = ("auc",)
RESAMPLES = 2000
MOST_RESAMPLED = 20_000
"""Rows without CAMs above which neighbouring scores are resampled together, as one cell."""
_AT_ONCE = 2**20  # weights; 2**18 takes twice the time for 100,000 images, 2**21 as long
Results = dict[str, Any]
GroupMap = Callable[[Callable[[Group], Figures], list[Group]], Iterable[Figures]]


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

    Args:
        scores: The scores of all images.
        training_generators: The generators whose fakes training saw.
        training_families: Their families; a missing one is taken from :mod:`focus.data.near_far`.
        points: The operating points that validation fixed.
        threshold: The threshold that decides, by default that of the points.
        resamples: The number of resamples for the intervals, always the same ones; 0 for none.
        progress: Whether to show a bar.
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
    images = scores.images
    strata_of_rows = strata(scores.label, comparisons, images)
    resampler = Resampler(strata_of_rows, scores.group, images)
    table = WeightedScores(scores, points, threshold)
    drawn_table, drawn_comparisons = table, comparisons
    drawer: Resampler | CellResampler = resampler
    if resamples and len(scores) > MOST_RESAMPLED and not scores.has_cams:
        from focus.evaluation.merging import merge  # of large tables alone

        merged = merge(scores, strata_of_rows, comparisons, resampler)
        drawn_table = WeightedScores(merged.scores, points, threshold, merged.counts)
        drawn_comparisons, drawer = merged.comparisons, merged.resampler
    test_sets: dict[str, SetFigures] = {}
    for set_name in TEST_SETS:
        of_set = [number for number, c in enumerate(comparisons) if c.test_set == set_name]
        if of_set or set_name != "closed_balanced":
            of_images = SetGroups(table, [comparisons[number] for number in of_set])
            drawn = of_images
            if drawn_table is not table:
                drawn = SetGroups(drawn_table, [drawn_comparisons[number] for number in of_set])
            test_sets[set_name] = SetFigures(of_images, drawn)

    random = np.random.default_rng(0)
    at_once = max(1, _AT_ONCE // max(1, len(drawn_table.scores)))
    # On matrices so narrow a second thread of BLAS gains nothing and takes a core from the pool.
    with (
        threadpool_limits(1, "blas"),
        ThreadPool(usable_cores()) as pool,
        progress_bar(total=resamples, desc="resampling", delay=3, disable=not progress) as bar,
    ):
        for done in range(0, resamples, at_once):
            count = min(at_once, resamples - done)
            drawn_table.weigh(drawer.draw(random, count))
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


class SetGroups:
    """The groups of one test set in a table: the images of each generator, and all together."""

    def __init__(self, table: WeightedScores, comparisons: list[Comparison]) -> None:
        self.table, self.comparisons = table, comparisons
        self.generators = [Group(table, c.real, c.fake) for c in comparisons]
        # One generator is the whole test set.
        self.pooled = self.generators[0] if len(comparisons) == 1 else self._all_images()

    def _all_images(self) -> Group:
        images = self.table.scores.images
        real = union((c.real for c in self.comparisons), images)
        return Group(self.table, real, union((c.fake for c in self.comparisons), images))

    def figures(self, each: GroupMap) -> list[Figures]:
        """Return the figures of each generator, then of all images; ``each`` is used as ``map``."""
        # The largest first, so that the threads end at about the same time.
        several = len(self.generators) != 1
        figures = list(each(Group.figures, [self.pooled] * several + self.generators))
        return [*figures[several:], figures[0]]


class SetFigures:
    """The comparisons of one test set, with figures by generator, of all images, and their mean.

    groups: Those of the images. drawn: Those that are resampled, the same or of merged scores.
    """

    def __init__(self, groups: SetGroups, drawn: SetGroups) -> None:
        self.comparisons, self._table, self._drawn = groups.comparisons, groups.table, drawn
        self._groups, self._pooled = groups.generators, groups.pooled
        figures = []
        self._excess: list[dict[Keys, float]] = []
        self._once: list[dict[str, float | None]] = []
        for group in (*self._groups, self._pooled):
            figures.append(group.figures())
            self._excess.append(group.excess())
            self._once.append({f.name: f.compute(group) for f in FIGURES if f.where == "once"})
            if drawn is not groups:
                group.forget_ranking()
        self._defining = _defining(figures[:-1])
        of_images = self._with_means(figures)
        if drawn is groups:
            self._estimates = [Estimate(figures) for figures in of_images]
        else:
            of_cells = self._with_means(drawn.figures(map))
            self._estimates = [Estimate(*both) for both in zip(of_images, of_cells, strict=True)]

    def draw(self, each: GroupMap) -> None:
        """Add the figures for the present weights of the table; ``each`` is used as ``map``."""
        drawn = self._with_means(self._drawn.figures(each))
        for figures, estimate in zip(drawn, self._estimates, strict=True):
            estimate.draw(figures)

    def results(self, resampler: Resampler) -> Results:
        """Return the figures and their intervals as results.json has them."""
        groups = [*self._groups, self._pooled]
        units = [group.units(resampler) for group in groups]
        # The mean over images with a value does not count groups that have none.
        fewest = {name: min((n for u in units if (n := u[name])), default=0) for name in units[0]}
        *estimates, of_mean, of_errors = self._estimates
        ranked = self._defining.get(AUC, [])
        placed = PlacedScores([self._groups[n].compared(resampler) for n in ranked])
        of_pooled = PlacedScores([self._pooled.compared(resampler)])
        aucs: list[tuple[Interval | None, bool]] = [(None, False)] * len(self._groups)
        for number, n in enumerate(ranked):
            aucs[n] = placed.of_comparison(number)
        aucs.append(of_pooled.of_comparison(0))
        exact = [
            {AUC: auc} | group.exact_intervals(estimate.values, units_of_group)
            for group, estimate, (auc, _), units_of_group in zip(
                groups, estimates, aucs, units, strict=True
            )
        ]
        entries = []
        for n, (group, estimate) in enumerate(zip(groups, estimates, strict=True)):
            unseen = self._table.largest_cost if aucs[n][1] else 0.0
            entry = estimate.entry(exact[n], units[n], self._excess[n], unseen)
            about = {**group.counts(), "undefined": group.undefined()}
            entries.append(entry | about | self._once[n])
        *generators, pooled = entries
        names = [c.generator or UNNAMED for c in self.comparisons]
        sure = self._mean_intervals(exact, resampler) | {AUC: placed.interval}
        unseen = self._table.largest_cost if placed.few_inverted else 0.0
        mean = of_mean.entry(sure, fewest, _largest(self._excess[:-1]), unseen)
        for name in self._once[-1]:
            values = [entry[name] for entry in generators if entry[name] is not None]
            mean[name] = float(np.mean(values)) if values else None
        of_fewer = {
            place[-1]: having
            for place, having in self._defining.items()
            if place in of_mean.values and len(having) < len(self.comparisons)
        }
        mean["n_defined"] = {name: len(having) for name, having in of_fewer.items()}
        mean["n_defined_images"] = {name: self._images(having) for name, having in of_fewer.items()}
        errors = of_errors.entry(self._error_intervals(resampler), fewest)
        for point, threshold in self._table.thresholds:
            for entry, group in zip(generators, self._groups, strict=True):
                entry[POINTS][point]["confusion"] = group.confusion(threshold)
            errors[point]["confusion"] = self._pooled.confusion(threshold)
            missed = [own.values[POINTS, point, "apcer"] for own in estimates[:-1]]
            worst = names[int(np.nanargmax(missed))] if np.nansum(missed) else None
            errors[point]["apcer_max_generator"] = worst
        return {
            "n_generators": len(ranked),
            "mean": mean,
            "pooled": pooled,
            POINTS: errors,
            "generators": dict(zip(names, generators, strict=True)),
        }

    def _images(self, numbers: Iterable[int]) -> dict[str, int]:
        """Count the images of some of the generators, by their numbers; shared ones count once."""
        comparisons = [self.comparisons[number] for number in numbers]
        images = self._table.scores.images
        return {
            "n_real": len(union((c.real for c in comparisons), images)),
            "n_synthetic": len(union((c.fake for c in comparisons), images)),
        }

    def _with_means(self, figures: Sequence[Figures]) -> list[Figures]:
        """Return the figures of each generator, of all images, the means, and the error rates.

        figures: Those of each generator, then of all images.
        """
        *generators, pooled = figures
        undefined = np.full_like(pooled[AUC], np.nan)
        known = {
            place: [generators[n][place] for n in having]
            for place, having in self._defining.items()
        }
        mean = {
            place: np.mean(known[place], axis=0) if place in known else undefined
            for place in pooled
        }
        rates: Figures = {}
        for point, _ in self._table.thresholds:
            bpcer, apcer = (POINTS, point, "bpcer"), (POINTS, point, "apcer")
            largest = np.max(known[apcer], axis=0) if apcer in known else undefined
            errors = Errors(pooled[bpcer], pooled[apcer], mean[apcer], largest)
            rates[point, "bpcer"] = pooled[bpcer]
            rates |= {(point, f.name): f.compute(errors) for f in FIGURES if f.where == "set"}
        both = [
            {place: own[place] for place in own if place[0] != POINTS} for own in (pooled, mean)
        ]
        return [*generators, *both, rates]

    def _mean_intervals(self, exact: list[Intervals], resampler: Resampler) -> Intervals:
        """Return the intervals of means over one generator, and of rates of fakes.

        ``exact`` holds the intervals of each generator. Rates of real images depend on each other,
        since generators share these images.
        """
        found: Intervals = {}
        for place, having in self._defining.items():
            figure = FIGURE[place[-1]]
            if len(having) == 1 and place in exact[having[0]]:
                found[place] = exact[having[0]][place]
            elif figure.interval is Method.RATE_OF_FAKES:
                rows, hits = zip(*(self._groups[n].known(figure) for n in having), strict=True)
                if resampler.independent(np.concatenate(rows)):
                    found[place] = mean_of_rates([(int(own.sum()), len(own)) for own in hits])
        return found

    def _error_intervals(self, resampler: Resampler) -> Intervals:
        """Return the intervals of the error rates whose images are independent."""
        found: Intervals = {}
        real = self._pooled.real.rows
        fake = np.concatenate([real[:0], *(c.fake for c in self.comparisons)])
        rows = {"real": real, "fake": fake, "smaller": np.append(real, fake)}
        exact = [unit for unit, own in rows.items() if resampler.independent(own)]
        for point, threshold in self._table.thresholds:
            flagged, missed = self._pooled.errors(threshold)
            each = [e for e in (g.errors(threshold)[1] for g in self._groups) if e[1]]
            own = {
                "bpcer": rate_interval(*flagged),
                "apcer_pooled": rate_interval(*missed),
                "apcer_mean": mean_of_rates(each),
                "apcer_max": None,
            }
            # All at once (Bonferroni): the largest rate lies between the largest of their ends.
            ends = [rate_interval(*e, 1 - (1 - LEVEL) / len(each)) for e in each]
            if known := [end for end in ends if end]:
                low, high = (max(side) for side in zip(*known, strict=True))
                own["apcer_max"] = low, high
            for name in ("mean", "max"):
                rates = ("bpcer", f"apcer_{name}")
                parts = [interval for rate in rates if (interval := own[rate])]
                values = [self._estimates[-1].values[point, rate] for rate in rates]
                own[f"acer_{name}"] = mean_interval(values, parts) if len(parts) == 2 else None
            found |= {(point, n): own[n] for n in own if FIGURE[n].unit in exact}
        return found


def _defining(figures: list[Figures]) -> dict[Keys, list[int]]:
    """Return the numbers of the generators that have each figure, before any resampling.

    A mean is over these in each resample, and undefined in one where a generator lacks the figure.
    """
    found: dict[Keys, list[int]] = {}
    for number, own in enumerate(figures):
        for place, values in own.items():
            if not np.isnan(values).all():
                found.setdefault(place, []).append(number)
    return found


def _largest(excess: list[dict[Keys, float]]) -> dict[Keys, float]:
    """Return the largest value at each place."""
    return {n: max(own.get(n, 0.0) for own in excess) for n in {n for own in excess for n in own}}


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

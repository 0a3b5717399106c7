"""Compute results.json from a table of scores, write both files, and read figures by their keys.

Every metric is computed once, from the whole table. ``docs/formats.md`` describes the two files
that :func:`write_results` leaves.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from focus.data.manifest import REAL, SYNTHETIC, TEST_SETS
from focus.data.near_far import families, relation, with_families
from focus.evaluation.estimates import Estimated, SetFigures, SetGroups
from focus.evaluation.groups import WeightedScores
from focus.evaluation.protocol import Comparison, match, strata, union
from focus.evaluation.scores import Scores
from focus.metrics.arrays import Floats, Integers, distinct
from focus.metrics.bootstrap import RESAMPLES, CellResampler, Resampler, merged
from focus.metrics.figures import Keys
from focus.model.operating_points import OperatingPoints, Threshold, choose_threshold
from focus.runtime.files import atomic_write
from focus.runtime.machine import usable_cores
from focus.runtime.progress import progress_bar

VERSION = 4
FAITHFULNESS = "faithfulness.csv"
"""What :mod:`focus.evaluation.faithfulness` measured of the same scores."""
MOST_RESAMPLED = 20_000
"""Rows without CAMs above which neighbouring scores are resampled together, as one cell."""
_AT_ONCE = 2**20
"""Weights that are drawn at once. What a table's resamples are depends on it."""
_OF_CELLS_AT_ONCE = 2**21
"""The same for cells: 2**20 takes a fifth longer for a million rows, more takes more memory."""
Results = dict[str, Any]


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
    family_of_training = with_families(training_generators, training_families or {})
    comparisons = match(scores, training_generators)
    threshold = threshold or choose_threshold(points)
    results: Results = {
        "version": VERSION,
        "training_generators": training_generators,
        "training_families": {name: family or None for name, family in family_of_training.items()},
        "n_real": int((scores.label == REAL).sum()),
        "n_synthetic": int((scores.label == SYNTHETIC).sum()),
        "n_unlabelled": int((scores.label < 0).sum()),
        "decision": {"point": threshold.name, "threshold": threshold.value},
        "thresholds": None if points is None else dict(points.thresholds),
        "undefined_thresholds": {} if points is None else points.undefined(),
    }
    results["n_real_unused"] = results["n_real"] - len(union(c.real for c in comparisons))

    strata_of_rows = strata(scores.label, comparisons, scores.images)
    resampler = Resampler(strata_of_rows, scores.group, scores.images)
    table = WeightedScores(scores, points, threshold)
    resampled_table, resampled_comparisons = table, comparisons
    drawer: Resampler | CellResampler = resampler
    if resamples and len(scores) > MOST_RESAMPLED and not scores.has_cams:
        cells = _merge(scores, strata_of_rows, comparisons, resampler)
        resampled_table = WeightedScores(cells.scores, points, threshold, cells.counts)
        resampled_comparisons, drawer = cells.comparisons, cells.resampler

    test_sets: dict[str, SetFigures] = {}
    for name in TEST_SETS:
        groups = SetGroups(table, _of_test_set(comparisons, name))
        if not groups.comparisons and name == "closed_balanced":
            continue
        resampled = groups
        if resampled_table is not table:
            resampled = SetGroups(resampled_table, _of_test_set(resampled_comparisons, name))
        test_sets[name] = SetFigures(groups, resampled)

    if resampled_table is not table:
        table.forget_weights()
    _resample([*test_sets.values()], resampled_table, drawer, resamples, progress=progress)
    if resampled_table is not table:
        resampled_table.forget_weights()

    for set_name, test_set in test_sets.items():
        results[set_name] = test_set.results(resampler)
        entries = results[set_name]["generators"].values()
        for comparison, entry in zip(test_set.comparisons, entries, strict=True):
            fakes = zip(
                scores.generator[comparison.fake], scores.family[comparison.fake], strict=True
            )
            family = families(fakes).get(comparison.generator, "")
            entry["family"] = family or None
            entry["relation"] = relation(comparison.generator, family, family_of_training)

    groups_as_images = scores.by_group() if scores.has_groups else scores
    if len(groups_as_images) < len(scores):
        of_groups = summarise(
            groups_as_images,
            training_generators,
            family_of_training,
            points,
            threshold=threshold,
            resamples=resamples,
        )
        results["groups"] = {
            name: of_groups[name] for name in ("n_real", "n_synthetic", *test_sets)
        }
    return results


def _of_test_set(comparisons: Iterable[Comparison], test_set: str) -> list[Comparison]:
    return [comparison for comparison in comparisons if comparison.test_set == test_set]


class _MergedScores(NamedTuple):
    """The scores of an evaluation with a row for each cell of images.

    scores: The mean score and the mean log-likelihood ratio of each cell. counts: How many images
    [cells] each has. comparisons: Those of the images, with the numbers of cells for rows.
    resampler: It draws the images of all cells.
    """

    scores: Scores
    counts: Floats
    comparisons: list[Comparison]
    resampler: CellResampler


def _merge(
    scores: Scores,
    strata_of_rows: Integers,
    comparisons: Sequence[Comparison],
    resampler: Resampler,
) -> _MergedScores:
    """Merge the neighbouring scores of each stratum, as :func:`focus.metrics.bootstrap.merged`.

    Resampling then takes time for cells, not for images. Images of one stratum are of one class and
    in the same comparisons, so each comparison has all images of a cell or none.
    """
    first_rows, image_of_row = np.unique(resampler.images, return_inverse=True)
    cell_of_image = merged(scores.score[first_rows], strata_of_rows[first_rows])
    order = np.argsort(cell_of_image, kind="stable")
    rows = first_rows[order]
    starts = np.flatnonzero(np.diff(cell_of_image[order], prepend=-1))
    counts = np.diff(starts, append=len(rows)).astype(np.float64)

    score = scores.score[rows]
    llr = scores.llr[rows].astype(np.float64)
    lowest = np.minimum.reduceat(score, starts)
    highest = np.maximum.reduceat(score, starts)
    mean = np.add.reduceat(score, starts) / counts
    cells = Scores.without_cams(
        label=scores.label[rows[starts]],
        # The mean of equal scores may be rounded, and would not tie with those of another stratum.
        score=np.where(lowest == highest, lowest, mean),
        llr=np.add.reduceat(llr, starts) / counts,
    )

    cell_of_row = cell_of_image[image_of_row]
    shared_reals = {id(c.real): c.real for c in comparisons}  # of several generators
    real_cells = {key: distinct(cell_of_row[reals]) for key, reals in shared_reals.items()}
    comparisons_of_cells = [
        replace(c, real=real_cells[id(c.real)], fake=distinct(cell_of_row[c.fake]))
        for c in comparisons
    ]
    return _MergedScores(cells, counts, comparisons_of_cells, CellResampler(resampler, cell_of_row))


def _resample(
    test_sets: Sequence[SetFigures],
    table: WeightedScores,
    drawer: Resampler | CellResampler,
    resamples: int,
    *,
    progress: bool,
) -> None:
    """Draw the images of all test sets, and compute the figures of each resample.

    table: What is resampled. drawer: It draws the weights of its rows.
    """
    random = np.random.default_rng(0)
    weights = _AT_ONCE if isinstance(drawer, Resampler) else _OF_CELLS_AT_ONCE
    at_once = max(1, weights // max(1, len(table.scores)))
    # On matrices so narrow a second thread of BLAS gains nothing and takes a core from the pool.
    with (
        threadpool_limits(1, "blas"),
        ThreadPool(usable_cores()) as pool,
        progress_bar(total=resamples, desc="resampling", delay=3, disable=not progress) as bar,
    ):
        for drawn in range(0, resamples, at_once):
            count = min(at_once, resamples - drawn)
            table.weigh(drawer.draw(random, count))
            for test_set in test_sets:
                test_set.draw(pool.map)
            bar.update(count)


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


def value_at(results: Any, keys: Keys) -> Any:
    """Return what lies at ``keys`` of results.json, None where nothing does."""
    for key in keys:
        results = results.get(key) if isinstance(results, dict) else None
    return results


def figure_at(results: Results, keys: Keys) -> Estimated:
    """Return the figure at ``keys`` of results.json, None for what is missing.

    Its interval lies in ``intervals`` beside it, beside the operating point that it is of, or
    beside all of these.
    """
    for number in range(len(keys)):
        interval = value_at(results, (*keys[:number], "intervals", *keys[number:]))
        if interval:
            low, high = interval
            return Estimated(value_at(results, keys), (low, high))
    return Estimated(value_at(results, keys), None)

"""From scores to results: which fakes are told from which reals, their figures, and the files.

Every metric is computed once, from the whole table of scores. ``docs/formats.md`` describes the two
files that :func:`write_results` leaves.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from focus.data.generators import families, home_of, relation, served_by, with_families
from focus.data.manifest import REAL, SYNTHETIC, TEST_SETS
from focus.evaluation.estimates import Table
from focus.evaluation.protocol import UNNAMED, Comparison, TestSet, union
from focus.evaluation.scores import Scores
from focus.metrics import Resampler
from focus.model.operating_points import OperatingPoints
from focus.runtime.files import atomic_write
from focus.runtime.progress import progress_bar

VERSION = 2
RESAMPLES = 2000
_AT_ONCE = 2**20  # weights; 2**18 takes twice the time for 100,000 images, 2**21 as long
Results = dict[str, Any]


def match(scores: Scores, training_generators: Iterable[str]) -> list[Comparison]:
    """Which fakes are scored against which real images: one comparison a generator and test set.

    A fake belongs to its test set; without one it is "closed" if training knew its generator, if
    by another of its names, else "open". Its real images are the first of these that there are
    any of: the generator's own in the same test set; those of the same test set that name no
    generator; the generator's own without a test set; those given apart, with neither.
    """
    known = list(training_generators)
    # What the results call a fake without a name is no name.
    names = np.where(scores.generator == UNNAMED, "", scores.generator)
    given = list(zip(scores.test_set, names, strict=True))
    homes = {pair: home_of(*pair, known) for pair in set(given)}
    home = np.array([homes[pair] for pair in given], dtype=np.object_)
    real, fake = scores.label == REAL, scores.label == SYNTHETIC
    nameless = real & (names == "")
    serving = {text: served_by(text) for text in set(names[real])}
    comparisons = []
    for test_set, generator in sorted(set(zip(home[fake], names[fake], strict=True))):
        own = np.zeros(len(scores), bool)
        for text in (text for text, served in serving.items() if generator in served):
            own |= real & (names == text)
        here = scores.test_set == test_set
        apart = scores.test_set == ""
        at_home = home_of("", generator, known) == test_set
        candidates = (
            own & (here | (apart & at_home)),
            nameless & here,
            own & apart,
            nameless & apart,
        )
        chosen = next((rows for rows in candidates if rows.any()), np.zeros(len(scores), bool))
        fakes = fake & (home == test_set) & (names == generator)
        comparisons.append(
            Comparison(test_set, generator, np.flatnonzero(chosen), np.flatnonzero(fakes))
        )
    return comparisons


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


def strata(
    labels: NDArray[np.int64], comparisons: Iterable[Comparison], images: NDArray[np.int64]
) -> NDArray[np.int64]:
    """[N] what is resampled apart: images of one class that are in the same comparisons.

    labels [N] of the scored images, whose rows the comparisons hold. images [N]: of each row the
    first that has its image.
    """
    found = labels
    for comparison in comparisons:
        member = np.zeros(len(labels), dtype=np.int64)
        member[images[comparison.real]] = member[images[comparison.fake]] = 1
        _, found = np.unique(2 * found + member, return_inverse=True)
    return found[images]


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

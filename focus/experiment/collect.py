"""From run folders to numbers: the figures of a run, and AUCs of all runs on drawn test images."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focus import metrics
from focus.data.known_images import MANIFEST
from focus.data.manifest import SYNTHETIC, Manifest
from focus.errors import InputError
from focus.evaluation.protocol import Comparison, match, strata, union
from focus.evaluation.result_table import figure
from focus.evaluation.scores import Scores
from focus.experiment.frozen import GLOBAL_GENERATORS
from focus.experiment.grid import Run
from focus.experiment.statistics import Floats

_AT_ONCE = 4_000_000  # weights of drawn images: 32 MB

FIGURES: Mapping[str, str] = {
    "closed": "closed AUC",
    "closed_balanced": "closed-balanced AUC",
    "open": "open AUC",
    "gap": "open - closed",
    "open_local": "open AUC without global fingerprints",
    "open_global": "open AUC of global fingerprints",
    "open_known_artefact": "open AUC, artefact known",
    "open_new_artefact": "open AUC, artefact new",
    "entropy_closed": "entropy, all images, closed",
    "entropy_open": "entropy, all images, open",
    "entropy_sum_open": "h_sum, all images, open",
    "pointing_closed": "pointing, all fakes, closed",
    "pointing_open": "pointing, all fakes, open",
    "peak_share_open": "commonest peak, all images, open",
    "validation": "validation AUC",
    "best_epoch": "epoch kept",
}
"""The figures of a run and what a table calls them; a generator's AUC is ``open.NAME``."""


@dataclass(frozen=True)
class Outcome:
    """What a finished run gave.

    figures: by name, NaN where not defined. scores [N]: of the test images, in the manifest's
    order. comparisons: which fakes are told from which reals, of the closed and of the open set.
    strata, groups, images [N]: what :class:`focus.metrics.Resampler` draws apart, and as a whole.
    """

    run: Run
    figures: Mapping[str, float]
    scores: NDArray[np.float64]
    comparisons: Mapping[str, Sequence[Comparison]]
    strata: NDArray[np.int64]
    groups: NDArray[np.object_]
    images: NDArray[np.int64]


def outcome(run: Run) -> Outcome:
    """Read a run folder.

    Raises:
        InputError: scores and results do not belong together, or cannot be read.
    """
    results = read_json(run.folder / "results.json")
    scores = Scores.from_csv(run.folder / "scores.csv")
    found, images = match(scores, results["training_generators"]), scores.images

    def at(*keys: str) -> float | None:
        return figure(results, keys)[0]

    closed_auc, open_auc = at("closed", "mean", "auc"), at("open", "mean", "auc")
    by_name = {name: each["auc"] for name, each in results["open"]["generators"].items()}
    aucs = {name: auc for name, auc in by_name.items() if auc is not None}
    local = [auc for name, auc in aucs.items() if name not in GLOBAL_GENERATORS]
    spread = [auc for name, auc in aucs.items() if name in GLOBAL_GENERATORS]
    figures = {
        "closed": closed_auc,
        "closed_balanced": at("closed_balanced", "mean", "auc"),
        "open": open_auc,
        "gap": _difference(open_auc, closed_auc),
        "open_local": metrics.mean(np.array(local)),
        "open_global": metrics.mean(np.array(spread)),
        **_by_artefact(run, scores, [c for c in found if c.test_set == "open"]),
        "entropy_closed": at("closed", "pooled", "entropy"),
        "entropy_open": at("open", "pooled", "entropy"),
        "entropy_sum_open": at("open", "pooled", "entropy_sum"),
        "pointing_closed": at("closed", "pooled", "pointing_hit"),
        "pointing_open": at("open", "pooled", "pointing_hit"),
        "peak_share_open": at("open", "pooled", "peak_share"),
        "validation": at("model", "validation_auc"),
        "best_epoch": at("model", "epoch"),
        **{f"open.{name}": auc for name, auc in by_name.items()},
    }
    return Outcome(
        run,
        {name: math.nan if value is None else float(value) for name, value in figures.items()},
        scores.score,
        {name: [c for c in found if c.test_set == name] for name in ("closed", "open")},
        strata(scores.label, found, images),
        scores.group,
        images,
    )


def _by_artefact(run: Run, scores: Scores, opened: Sequence[Comparison]) -> dict[str, float | None]:
    """AUC of the unknown fakes, pooled, whose artefact training knew, and of the others.

    From the column ``known_artefact`` of the run's manifest, which the demo set has. Fakes of
    global fingerprints, and those that are not marked, are in neither.
    """
    known = {
        sample.path: sample.extra["known_artefact"]
        for sample in Manifest.from_csv(run.folder / MANIFEST)
        if sample.label == SYNTHETIC and "known_artefact" in sample.extra
    }
    found: dict[str, float | None] = {}
    for name, mark in (("open_known_artefact", "1"), ("open_new_artefact", "0")):
        real, fake = list[NDArray[np.int64]](), list[int]()
        for comparison in opened:
            if comparison.generator in GLOBAL_GENERATORS:
                continue
            chosen = [row for row in comparison.fake if known.get(scores.path[row]) == mark]
            fake += chosen
            real += [comparison.real] if chosen else []
        rows = union(real, scores.images)
        found[name] = metrics.auc(scores.score[rows], scores.score[fake]) if fake else None
    return found


@dataclass(frozen=True)
class Drawn:
    """Closed and open AUC [A, L, S, R] of every run on the test images of each replicate."""

    closed: Floats
    opened: Floats


def placed(
    outcomes: Iterable[Outcome], arms: Sequence[str], lengths: Sequence[int], seeds: int
) -> dict[tuple[int, int, int], Outcome]:
    """Outcomes by their place (arm, length, seed); those of no arm (``dose``) have none."""
    return {
        (arms.index(o.run.arm), lengths.index(o.run.length), o.run.seed): o
        for o in outcomes
        if o.run.arm in arms and o.run.seed < seeds
    }


def observed(
    places: Mapping[tuple[int, int, int], Outcome], shape: tuple[int, int, int], name: str
) -> Floats:
    """One figure of all runs, [A, L, S], NaN where there is no run."""
    values = np.full(shape, np.nan)
    for place, found in places.items():
        values[place] = found.figures[name]
    return values


def drawn_aucs(
    places: Mapping[tuple[int, int, int], Outcome],
    shape: tuple[int, int, int],
    replicates: int,
    rng: np.random.Generator,
) -> Drawn:
    """AUCs of all runs on the same drawn images.

    Images are drawn as for the intervals of ``results.json``: within strata, whole groups at a
    time, real images that several generators share once for all of them. Either AUC is, as in
    ``results.json``, the mean over the generators that have images of both classes.

    Raises:
        InputError: the runs did not score the same images.
    """
    closed, opened = (np.full((*shape, replicates), np.nan) for _ in range(2))
    if not places:
        return Drawn(closed, opened)
    first = next(iter(places.values()))
    for found in places.values():
        if not _same(first, found):
            raise InputError(
                f"{found.run.folder} scored other images than {first.run.folder}: give an "
                "--output of its own to each data set."
            )
    resampler = metrics.Resampler(first.strata, first.groups, first.images)
    step = max(1, _AT_ONCE // max(1, len(first.scores)))
    for start in range(0, replicates, step):
        part = slice(start, min(start + step, replicates))
        weights = resampler.draw(rng, part.stop - start)
        for place, found in places.items():
            for name, values in (("closed", closed), ("open", opened)):
                both = [c for c in found.comparisons[name] if len(c.real) and len(c.fake)]
                if both:
                    each = [_auc(found.scores, c.real, c.fake, weights) for c in both]
                    values[place][part] = np.mean(each, axis=0)
    return Drawn(closed, opened)


def _auc(
    scores: NDArray[np.float64], real: NDArray[np.int64], fake: NDArray[np.int64], weights: Floats
) -> Floats:
    """[R] of some rows, with the weights [R, N] of all; NaN without images of a class."""
    ranking = metrics.Ranking.of(scores[real], scores[fake])
    return ranking.weigh(weights[:, real], weights[:, fake]).auc()


def _same(one: Outcome, other: Outcome) -> bool:
    if not all(
        np.array_equal(ours, theirs)
        for ours, theirs in ((one.groups, other.groups), (one.images, other.images))
    ):
        return False
    return all(
        len(ours) == len(theirs)
        and all(
            a.generator == b.generator
            and np.array_equal(a.real, b.real)
            and np.array_equal(a.fake, b.fake)
            for a, b in zip(ours, theirs, strict=True)
        )
        for ours, theirs in ((one.comparisons[n], other.comparisons[n]) for n in one.comparisons)
    )


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises InputError if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read ({error}): remove its folder and run again."
        ) from error

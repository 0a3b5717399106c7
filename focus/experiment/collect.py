"""Collect the figures of finished runs, and their AUCs on test images that are drawn again."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from focus.data.known_images import MANIFEST
from focus.data.manifest import SYNTHETIC, Manifest
from focus.errors import InputError
from focus.evaluation.protocol import Comparison, match, strata, union
from focus.evaluation.result_table import figure
from focus.evaluation.scores import Scores
from focus.experiment.frozen import GLOBAL_GENERATORS
from focus.experiment.grid import Run
from focus.experiment.statistics import Floats
from focus.metrics.bootstrap import Resampler
from focus.metrics.ranking import Ranking, auc

_AT_ONCE = 4_000_000  # weights of drawn images: 32 MB

FIGURES: Mapping[str, tuple[str, str]] = {
    "closed": ("closed AUC", "closed mean auc"),
    "closed_balanced": ("closed-balanced AUC", "closed_balanced mean auc"),
    "open": ("open AUC", "open mean auc"),
    "gap": ("open - closed", ""),
    "open_local": ("open AUC without global fingerprints", ""),
    "open_global": ("open AUC of global fingerprints", ""),
    "open_known_artefact": ("open AUC, artefact known", ""),
    "open_new_artefact": ("open AUC, artefact new", ""),
    "entropy_closed": ("entropy, all images, closed", "closed pooled entropy"),
    "entropy_open": ("entropy, all images, open", "open pooled entropy"),
    "entropy_sum_open": ("h_sum, all images, open", "open pooled entropy_sum"),
    "pointing_closed": ("pointing, all synthetic, closed", "closed pooled pointing_hit"),
    "pointing_open": ("pointing, all synthetic, open", "open pooled pointing_hit"),
    "peak_share_open": ("commonest peak, all images, open", "open pooled peak_share"),
    "validation": ("validation AUC", "model validation_auc"),
    "best_epoch": ("epoch kept", "model epoch"),
}
"""The figures of a run: what a table calls them, and where in results.json those are that it has.

A generator's AUC is ``open.NAME``.
"""


@dataclass(frozen=True)
class Outcome:
    """Figures of a finished run by name, NaN where not defined, and its scores."""

    run: Run
    figures: Mapping[str, float]
    scores: Scores
    comparisons: Sequence[Comparison]


def outcome(run: Run) -> Outcome:
    """Read a run folder."""
    results = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
    scores = Scores.from_csv(run.folder / "scores.csv")
    comparisons = match(scores, results["training_generators"])
    found = {n: figure(results, at.split())[0] for n, (_, at) in FIGURES.items() if at}
    aucs = {name: each["auc"] for name, each in results["open"]["generators"].items()}
    for name, kind in (("open_local", False), ("open_global", True)):
        own = [a for n, a in aucs.items() if (n in GLOBAL_GENERATORS) == kind and a is not None]
        found[name] = float(np.mean(own)) if own else None
    found |= _by_artefact(run, scores, [c for c in comparisons if c.test_set == "open"])
    found |= {f"open.{name}": auc for name, auc in aucs.items()}
    figures = {name: math.nan if value is None else value for name, value in found.items()}
    figures["gap"] = figures["open"] - figures["closed"]
    return Outcome(run, figures, scores, comparisons)


def _by_artefact(run: Run, scores: Scores, opened: Sequence[Comparison]) -> dict[str, float | None]:
    """Return the AUC of the unknown fakes, pooled, whose artefact training knew, and of the others.

    By the column ``known_artefact`` of the run's manifest, which the demo set has. Fakes of global
    fingerprints, and those that are not marked, are in neither.
    """
    known = {
        sample.path: sample.extra.get("known_artefact")
        for sample in Manifest.from_csv(run.folder / MANIFEST)
        if sample.label == SYNTHETIC
    }
    local = [c for c in opened if c.generator not in GLOBAL_GENERATORS]
    found: dict[str, float | None] = {}
    for name, mark in (("open_known_artefact", "1"), ("open_new_artefact", "0")):
        fakes = [[row for row in c.fake if known.get(scores.path[row]) == mark] for c in local]
        rows = union((c.real for c, f in zip(local, fakes, strict=True) if f), scores.images)
        found[name] = auc(scores.score[rows], scores.score[list(chain(*fakes))])
    return found


def drawn_aucs(
    outcomes: Sequence[Outcome], replicates: int, rng: np.random.Generator
) -> dict[str, Floats]:
    """Return the closed and the open AUC [N, R] of all runs on the same drawn images.

    Images are drawn as for the intervals of ``results.json``: within strata, whole groups at a
    time, shared real images once. An AUC is the mean over the generators with images of both
    classes, NaN without any.

    Raises InputError if the runs did not score the same images.
    """
    drawn = {name: np.full((len(outcomes), replicates), np.nan) for name in ("closed", "open")}
    if not outcomes:
        return drawn
    first, scores = outcomes[0], outcomes[0].scores
    for found in outcomes:
        if not np.array_equal(found.scores.path, scores.path):
            raise InputError(
                f"{found.run.folder} scored other images than {first.run.folder}: give an "
                "--output of its own to each data set."
            )
    own_strata = strata(scores.label, first.comparisons, scores.images)
    resampler = Resampler(own_strata, scores.group, scores.images)
    step = max(1, _AT_ONCE // max(1, len(scores)))
    for start in range(0, replicates, step):
        part = slice(start, min(start + step, replicates))
        weights = resampler.draw(rng, part.stop - start)
        for row, found in enumerate(outcomes):
            for name, values in drawn.items():
                own = [c for c in found.comparisons if c.test_set == name and len(c.real)]
                if own:
                    each = [_auc(found.scores.score, c, weights) for c in own]
                    values[row, part] = np.mean(each, axis=0)
    return drawn


def _auc(score: Floats, comparison: Comparison, weights: Floats) -> Floats:
    """Return the AUC [R] of a comparison, with the weights [R, N] of all images."""
    real, fake = comparison.real, comparison.fake
    ranking = Ranking.of(score[real], score[fake])
    return ranking.weigh(weights[:, real], weights[:, fake]).auc()

"""Collect the figures of finished runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from focus.data.known_images import MANIFEST
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.evaluation.result_table import figure
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores
from focus.experiment.frozen import LOCKED
from focus.experiment.grid import Run
from focus.metrics.ranking import auc
from focus.runtime.json_files import read_json

GRADES = ("recombined", "near", "far", "global")
"""Of the benchmark's unknown generators: how far their artefacts are from those of training."""

FIGURES: Mapping[str, str] = {
    "closed": "closed mean auc",
    "closed_balanced": "closed_balanced mean auc",
    "open": "open mean auc",
    **dict.fromkeys(GRADES, ""),
    "source": "",
    "locked": "",
    "pointing": "open pooled pointing_hit",
    "chance": "open pooled pointing_chance",
    "entropy": "open pooled entropy",
    "validation": "model validation_auc",
    "epoch": "model epoch",
}
"""The figures of a run, and where in results.json those are that it has.

A grade: mean open AUC over its generators. source: AUC of the shortcut among real test images.
locked: whether that is above ``LOCKED``.
"""


@dataclass(frozen=True)
class Outcome:
    """Figures of a finished run by name, NaN where not defined."""

    run: Run
    figures: Mapping[str, float]


def read_results(run: Run) -> Results:
    """Return what ``results.json`` of a finished run holds."""
    advice = f"remove the folder {run.folder}, and the experiment makes the run again"
    return read_json(run.folder / "results.json", Results, advice)


def outcome(run: Run) -> Outcome:
    """Read a run folder."""
    results = read_results(run)
    found = {n: figure(results, at.split())[0] for n, at in FIGURES.items() if at}
    tests = Manifest.from_csv(run.folder / MANIFEST).split("test")
    grades = {s.generator: s.extra.get("grade") for s in tests if s.label == SYNTHETIC}
    for grade in GRADES:
        aucs = [
            each["auc"]
            for name, each in results["open"]["generators"].items()
            if grades.get(name) == grade
        ]
        found[grade] = float(np.mean(aucs)) if aucs else None
    found["source"] = source_auc(Scores.from_csv(run.folder / "scores.csv"), tests)
    figures = {name: math.nan if value is None else value for name, value in found.items()}
    source = figures["source"]
    figures["locked"] = math.nan if math.isnan(source) else float(source > LOCKED)
    return Outcome(run, {name: figures[name] for name in FIGURES})


def source_auc(scores: Scores, tests: Manifest) -> float | None:
    """Return the AUC of the shortcut among the real test images in which it says nothing.

    The source that goes with fakes in training counts as positive: 1 for a network that follows the
    shortcut alone, .5 for one that does not see it.
    """
    sources = {sample.path: sample.extra.get("source") for sample in tests}
    real = (scores.label == REAL) & (scores.test_set != "closed")
    own = np.array([sources.get(path) for path in scores.path])
    return auc(scores.score[real & (own == "0")], scores.score[real & (own == "1")])


def whole_units(runs: Sequence[Run], finished: Sequence[Run]) -> set[int]:
    """Return the draws, or seeds, of which no run is missing."""
    done = {run.name for run in finished}
    return {run.unit for run in runs} - {run.unit for run in runs if run.name not in done}

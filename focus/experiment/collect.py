"""Collect the figures of finished runs."""

import csv
import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from focus.data.known_images import MANIFEST
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.evaluation.result_table import figure
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores
from focus.experiment.grid import Run
from focus.metrics.figures import Keys
from focus.metrics.ranking import auc
from focus.runtime.json_files import Natural, NotNegative, Share, read_json
from focus.training.run_folder import SUMMARY

GRADES = ("recombined", "near", "far", "global")
"""Of the benchmark's unknown generators: how far their artefacts are from those of training."""


@dataclass(frozen=True)
class RunFigure:
    """A figure of a run.

    path_in_results: Where it is in results.json; () for one that is computed here. kind: Its type
    and range.
    """

    path_in_results: Keys = ()
    kind: Any = Share


FIGURES: Mapping[str, RunFigure] = {
    "closed": RunFigure(("closed", "mean", "auc")),
    "closed_balanced": RunFigure(("closed_balanced", "mean", "auc")),
    "open": RunFigure(("open", "mean", "auc")),
    **dict.fromkeys(GRADES, RunFigure()),
    "source": RunFigure(),
    "pointing": RunFigure(("open", "pooled", "pointing_hit")),
    "chance": RunFigure(("open", "pooled", "pointing_chance")),
    "entropy": RunFigure(("open", "pooled", "entropy")),
    "entropy_sum": RunFigure(("open", "pooled", "entropy_sum")),
    "entropy_z": RunFigure(("open", "pooled", "entropy_z")),
    "cam_range": RunFigure(("open", "pooled", "cam_range"), NotNegative),
    "peak_share": RunFigure(("open", "pooled", "peak_share")),
    "ece": RunFigure(("open", "pooled", "ece_balanced")),
    "validation": RunFigure(("model", "validation_auc")),
    "validation_entropy": RunFigure(),
    "epoch": RunFigure(("model", "epoch"), Natural),
}
"""The figures of a run.

A grade: mean open AUC over its generators. source: AUC of the shortcut among real test images.
validation_entropy: of the CAMs of validation, at the kept epoch.
"""


@dataclass(frozen=True)
class Outcome:
    """Figures of a finished run by name, NaN where not defined, and the commit that made it."""

    run: Run
    figures: Mapping[str, float]
    commit: str = ""


def read_results(run: Run) -> Results:
    """Return what ``results.json`` of a finished run holds."""
    advice = f"remove the folder {run.folder}, and the experiment makes the run again"
    return read_json(run.folder / "results.json", Results, advice)


def outcome(run: Run) -> Outcome:
    """Read a run folder."""
    results = read_results(run)
    values = {
        name: figure(results, run_figure.path_in_results)[0]
        for name, run_figure in FIGURES.items()
        if run_figure.path_in_results
    }
    tests = Manifest.from_csv(run.folder / MANIFEST).split("test")
    grades = {s.generator: s.extra.get("grade") for s in tests if s.label == SYNTHETIC}
    opened = results.get("open", {}).get("generators", {})
    for grade in GRADES:
        aucs = [generator["auc"] for name, generator in opened.items() if grades.get(name) == grade]
        values[grade] = float(np.mean(aucs)) if aucs else None
    values["source"] = source_auc(Scores.from_csv(run.folder / "scores.csv"), tests)
    with (run.folder / SUMMARY).open(newline="", encoding="utf-8") as file:
        kept = (row for row in csv.DictReader(file) if float(row["epoch"]) == values["epoch"])
        values["validation_entropy"] = float(next(kept, {}).get("eval_entropy", "nan"))
    figures = {}
    for name in FIGURES:
        value = values[name]
        figures[name] = math.nan if value is None else float(value)
    return Outcome(run, figures, results["provenance"]["commit"] or "")


def source_auc(scores: Scores, tests: Manifest) -> float | None:
    """Return the AUC of the shortcut among the real test images in which it says nothing.

    The source that goes with fakes in training counts as positive: 1 for a network that follows the
    shortcut alone, .5 for one that does not see it.
    """
    sources = {sample.path: sample.extra.get("source") for sample in tests}
    real = (scores.label == REAL) & (scores.test_set != "closed")
    own = np.array([sources.get(path) for path in scores.path])
    return auc(scores.score[real & (own == "0")], scores.score[real & (own == "1")])


def whole_units(runs: Iterable[Run], finished: Container[str]) -> set[int]:
    """Return the draws, or seeds, of which no run is missing; finished: names of runs."""
    return {run.unit for run in runs} - {run.unit for run in runs if run.name not in finished}

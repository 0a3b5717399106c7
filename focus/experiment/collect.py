"""Collect the figures of finished runs."""

import csv
import math
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from focus.data.known_images import MANIFEST
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.errors import InputError
from focus.evaluation.result_table import figure
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores
from focus.experiment.grid import Run
from focus.metrics.figures import Place
from focus.metrics.ranking import auc
from focus.runtime.files import write_csv
from focus.runtime.json_files import read_json
from focus.training.run_folder import SUMMARY

_KEYS = ("arm", "world", "draw")

GRADES = ("recombined", "near", "far", "global")
"""Of the benchmark's unknown generators: how far their artefacts are from those of training."""

FIGURES: Mapping[str, Place] = {
    "closed": ("closed", "mean", "auc"),
    "closed_balanced": ("closed_balanced", "mean", "auc"),
    "open": ("open", "mean", "auc"),
    **dict.fromkeys(GRADES, ()),
    "source": (),
    "pointing": ("open", "pooled", "pointing_hit"),
    "chance": ("open", "pooled", "pointing_chance"),
    "entropy": ("open", "pooled", "entropy"),
    "entropy_sum": ("open", "pooled", "entropy_sum"),
    "entropy_z": ("open", "pooled", "entropy_z"),
    "cam_range": ("open", "pooled", "cam_range"),
    "peak_share": ("open", "pooled", "peak_share"),
    "ece": ("open", "pooled", "ece_balanced"),
    "validation": ("model", "validation_auc"),
    "validation_entropy": (),
    "epoch": ("model", "epoch"),
}
"""The figures of a run, and where in results.json those are that it has.

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
    found = {n: figure(results, at)[0] for n, at in FIGURES.items() if at}
    tests = Manifest.from_csv(run.folder / MANIFEST).split("test")
    grades = {s.generator: s.extra.get("grade") for s in tests if s.label == SYNTHETIC}
    opened = results.get("open", {}).get("generators", {})
    for grade in GRADES:
        aucs = [each["auc"] for name, each in opened.items() if grades.get(name) == grade]
        found[grade] = float(np.mean(aucs)) if aucs else None
    found["source"] = source_auc(Scores.from_csv(run.folder / "scores.csv"), tests)
    with (run.folder / SUMMARY).open(newline="", encoding="utf-8") as file:
        kept = (row for row in csv.DictReader(file) if float(row["epoch"]) == found["epoch"])
        found["validation_entropy"] = float(next(kept, {}).get("eval_entropy", "nan"))
    figures = {n: math.nan if (v := found[n]) is None else float(v) for n in FIGURES}
    return Outcome(run, figures, results["provenance"]["commit"] or "")


class Records:
    """The table ``runs.csv``: a row for each finished run, also of one whose folder is gone.

    A run that has a row is not made again, so an experiment goes on from the table alone.
    """

    def __init__(self, path: Path) -> None:
        """Read the table, if there is one."""
        self._path = path
        self._rows: dict[tuple[str, ...], dict[str, str]] = {}
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                self._rows = {tuple(row[k] for k in _KEYS): row for row in csv.DictReader(file)}

    def find(self, run: Run) -> Outcome | None:
        """Return the outcome of a run, None without a row.

        Raises InputError if the row is of a run with other settings.
        """
        row = self._rows.get((run.arm, run.world, str(run.unit)))
        if row is None:
            return None
        if row["settings"] != run.settings:
            raise InputError(
                f"{self._path} has {run.name} with {row['settings']}, not {run.settings}: give "
                "another --output."
            )
        return Outcome(run, {name: float(row[name] or "nan") for name in FIGURES}, row["commit"])

    def add(self, found: Outcome) -> None:
        """Write the row of a finished run."""
        run = found.run
        key = run.arm, run.world, str(run.unit)
        figures = {n: "" if math.isnan(v) else f"{v:.6g}" for n, v in found.figures.items()}
        about = {"settings": run.settings, "commit": found.commit}
        self._rows[key] = dict(zip(_KEYS, key, strict=True)) | about | figures
        header = (*_KEYS, *about, *FIGURES)
        write_csv(self._path, header, ([r[n] for n in header] for r in self._rows.values()))


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

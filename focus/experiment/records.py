"""What came out of the runs: the figures of a run folder, and the table ``runs.csv`` of all.

A run that has a row is not made again, also where its folder is gone, so that an experiment goes on
from the table alone. The table may come from another machine or a spreadsheet: each cell is
checked. Several experiments may add to one table.
"""

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec
import numpy as np

from focus.data.bad_files import DIGESTS
from focus.data.known_images import MANIFEST
from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample, refuse_repeated
from focus.errors import InputError
from focus.evaluation.results import Results, figure_at
from focus.evaluation.scores import Scores
from focus.experiment.protocol import Run
from focus.metrics.figures import Keys
from focus.metrics.ranking import auc
from focus.runtime.csv_files import CsvForm, csv_rows, read_numbers
from focus.runtime.files import digest, waiting_for, write_csv
from focus.runtime.json_files import Natural, NotNegative, Share, read_json
from focus.training.run_folder import SUMMARY

GRADES = ("recombined", "near", "far", "global")
"""Of the benchmark's unknown generators: how far their artefacts are from those of training."""


@dataclass(frozen=True)
class RunFigure:
    """A figure of a run.

    path_in_results: Where it is in results.json; () for one that is computed here.
    kind: Its type and range.
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
        name: figure_at(results, run_figure.path_in_results)[0]
        for name, run_figure in FIGURES.items()
        if run_figure.path_in_results
    }

    tests = Manifest.from_csv(run.folder / MANIFEST).split("test")
    values |= _open_auc_by_grade(results, tests)
    values["source"] = source_auc(Scores.from_csv(run.folder / "scores.csv"), tests)

    epochs = read_numbers(run.folder / SUMMARY)
    kept = next((row for row in epochs if row["epoch"] == values["epoch"]), {})
    values["validation_entropy"] = kept.get("eval_entropy", math.nan)

    figures = {}
    for name in FIGURES:
        value = values[name]
        figures[name] = math.nan if value is None else float(value)
    return Outcome(run, figures, results["provenance"]["commit"] or "")


def _open_auc_by_grade(results: Results, tests: Manifest) -> dict[str, float | None]:
    """Return the mean open AUC of the generators of each grade, None of a grade without any."""
    grade_by_generator = {}
    for sample in tests:
        if sample.label == SYNTHETIC:
            grade_by_generator[sample.generator] = sample.extra.get("grade")

    aucs_by_grade: dict[str, list[float]] = {grade: [] for grade in GRADES}
    for name, generator in results.get("open", {}).get("generators", {}).items():
        grade = grade_by_generator.get(name)
        if grade in aucs_by_grade:
            aucs_by_grade[grade].append(generator["auc"])

    means: dict[str, float | None] = {}
    for grade, aucs in aucs_by_grade.items():
        means[grade] = float(np.mean(aucs)) if aucs else None
    return means


def source_auc(scores: Scores, tests: Manifest) -> float | None:
    """Return the AUC of the shortcut among the real test images in which it says nothing.

    The source that goes with fakes in training counts as positive: 1 for a network that follows the
    shortcut alone, .5 for one that does not see it.
    """
    sources = {sample.path: sample.extra.get("source") for sample in tests}
    real = (scores.label == REAL) & (scores.test_set != "closed")
    source = np.array([sources.get(path) for path in scores.path])
    return auc(scores.score[real & (source == "0")], scores.score[real & (source == "1")])


def whole_units(runs: Iterable[Run], finished: Container[str]) -> set[int]:
    """Return the draws, or seeds, of which no run is missing; finished: names of runs."""
    units = {run.unit for run in runs}
    units_with_missing_runs = {run.unit for run in runs if run.name not in finished}
    return units - units_with_missing_runs


RUNS = "runs.csv"
_DATA = "data"
_HEADER = ("arm", "world", "draw", "settings", _DATA, "commit", *FIGURES)
_LOCK = ".lock"

_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Key = tuple[str, str, int]


def data_digest(manifest: Manifest) -> str:
    """Return a digest of what the images are, wherever they lie: content, labels and splits.

    manifest: With the digests of all files.
    """
    return digest(map(identity, manifest))


def identity(sample: Sample) -> tuple[object, ...]:
    """Return what an image is, wherever it lies; sample: With the digests of its files."""
    return (
        *(sample.extra.get(column, "") for column in DIGESTS.values()),
        sample.label,
        sample.generator,
        sample.family,
        sample.split,
        sample.test_set,
        sample.group,
        sample.box,
    )


class Records:
    """The rows of a table, by arm, world and draw."""

    def __init__(self, path: Path, data: str = "") -> None:
        """Read the table, if there is one.

        data: The digest of one's own data, "" for the embedded benchmark.

        Raises InputError for a row that cannot be one.
        """
        self._path, self._data = path, data
        self._rows = _read(path)

    def find(self, run: Run) -> Outcome | None:
        """Return the outcome of a run, None without a row.

        Raises InputError if the row is of a run with other settings, or on other data.
        """
        row = self._rows.get((run.arm, run.world, run.unit))
        if row is None:
            return None
        if row.settings != run.settings:
            raise InputError(
                f"{self._path} has {run.name} with {row.settings}, not {run.settings}: give "
                "another --output."
            )
        if row.data != self._data:
            raise InputError(
                f"{self._path} has {run.name} of other data than those given now: give another "
                "--output, or the data that it was begun with."
            )
        return Outcome(run, row.figures, row.commit)

    def add(self, outcome: Outcome) -> None:
        """Write the row of a finished run beside those that others may have added meanwhile.

        Raises InputError for a figure that is out of its range, and on a disk without locks where a
        process that was killed on another machine has left its file.
        """
        run = outcome.run
        cells = {
            "arm": run.arm,
            "world": run.world,
            "draw": str(run.unit),
            "settings": run.settings,
            _DATA: self._data,
            "commit": outcome.commit,
        }
        for name, value in outcome.figures.items():
            cells[name] = "" if math.isnan(value) else f"{value:.6g}"
        try:
            row = _Row.of(cells)
        except ValueError as error:
            raise InputError(
                f"{run.folder}: {error}: remove the folder, and the experiment makes the run again."
            ) from error
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with waiting_for(self._path.with_name(_LOCK), even_without_locks=True):
            self._rows = {**_read(self._path), row.key: row}
            table = [[row.cells[name] for name in _HEADER] for row in self._rows.values()]
            write_csv(self._path, _HEADER, table, may_lack=(_DATA,))


@dataclass(frozen=True)
class _Row:
    """A row of the table.

    key: Arm, world and draw.
    data: The digest of one's own data.
    figures: NaN where not defined.
    cells: The row as it is written, by column.
    """

    key: _Key
    settings: str
    data: str
    commit: str
    figures: Mapping[str, float]
    cells: Mapping[str, str]

    @classmethod
    def of(cls, cells: Mapping[str, str]) -> Self:
        """Return the row that these cells are; raises ValueError, which names the column."""
        return cls(
            key=(_value(cells, "arm", _Name), cells["world"], _value(cells, "draw", Natural)),
            settings=cells["settings"],
            data=cells[_DATA],
            commit=cells["commit"],
            figures={
                name: _value(cells, name, figure.kind) if cells[name] else math.nan
                for name, figure in FIGURES.items()
            },
            cells=cells,
        )


def _value(cells: Mapping[str, str], name: str, kind: Any) -> Any:
    try:
        return msgspec.convert(cells[name], kind, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name} is {cells[name]!r} ({error})") from error


def _read(path: Path) -> dict[_Key, _Row]:
    """Return the rows of a table by their keys, none if there is no file; raises InputError."""
    if not path.exists():
        return {}
    lines = csv_rows(path, CsvForm())  # as the program writes it
    _, header = next(lines, (1, []))
    _check_header(header, path)
    rows: dict[_Key, _Row] = {}
    for line, cells in lines:
        try:
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} columns instead of {len(header)}")
            row = _Row.of({_DATA: "", **dict(zip(header, cells, strict=True))})
            if row.key in rows:
                raise ValueError(f"the run {' '.join(map(str, row.key))} is there before")
        except ValueError as error:
            raise InputError(
                f"{path}, line {line}: {error}: correct the row, or remove it, and the experiment "
                "makes the run again."
            ) from error
        rows[row.key] = row
    return rows


def _check_header(header: Sequence[str], path: Path) -> None:
    """Raise InputError if these are not the columns of a table of runs."""
    try:
        refuse_repeated(header)
    except ValueError as error:
        raise InputError(f"{path}, line 1: {error}.") from error
    # Tables of the benchmark, and of earlier versions, do not name their data.
    lacking = [name for name in _HEADER if name not in header and name != _DATA]
    unknown = [name for name in header if name not in _HEADER]
    if lacking or unknown:
        what = f"has no column {lacking[0]!r}" if lacking else f"has a column {unknown[0]!r}"
        raise InputError(
            f"{path} is no table of runs: its first line {what}; its columns are "
            f"{', '.join(_HEADER)}, separated by commas."
        )

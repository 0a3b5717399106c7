"""The table ``runs.csv`` of an experiment: a row for each finished run.

A run that has a row is not made again, also where its folder is gone, so that an experiment goes on
from the table alone. The table may come from another machine or a spreadsheet: each cell is
checked. Several experiments may add to one table.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import msgspec

from focus.data.bad_files import DIGESTS
from focus.data.manifest import Manifest, Sample, refuse_repeated
from focus.errors import InputError
from focus.experiment.collect import FIGURES, Outcome
from focus.experiment.grid import Run
from focus.runtime.csv_files import CsvForm, csv_rows
from focus.runtime.files import digest, waiting_for, write_csv
from focus.runtime.json_files import Natural

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
        *(sample.label, sample.generator, sample.family, sample.split, sample.test_set),
        *(sample.group, sample.box),
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
        figures = {n: "" if math.isnan(v) else f"{v:.6g}" for n, v in outcome.figures.items()}
        names = {"arm": run.arm, "world": run.world, "draw": str(run.unit)}
        others = {"settings": run.settings, _DATA: self._data, "commit": outcome.commit}
        try:
            row = _Row.of({**names, **others, **figures})
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

    key: Arm, world and draw. data: The digest of one's own data. figures: NaN where not defined.
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
    # Tables of the benchmark, and of earlier versions, do not name their data.
    try:
        refuse_repeated(header)
    except ValueError as error:
        raise InputError(f"{path}, line 1: {error}.") from error
    lacking = [name for name in _HEADER if name not in header and name != _DATA]
    unknown = [name for name in header if name not in _HEADER]
    if lacking or unknown:
        what = f"has no column {lacking[0]!r}" if lacking else f"has a column {unknown[0]!r}"
        raise InputError(
            f"{path} is no table of runs: its first line {what}; its columns are "
            f"{', '.join(_HEADER)}, separated by commas."
        )
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

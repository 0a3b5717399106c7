"""Compute results from the scores that any detector left in a table."""

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import Any, Literal, Self, SupportsIndex, overload

import numpy as np

from focus.config.shared import SCORE
from focus.config.use import ScoreScale
from focus.data.columns import PathColumn
from focus.data.listed_files import listed_files
from focus.data.manifest import (
    LABEL_NAMES,
    REAL,
    SYNTHETIC,
    Sample,
    absolute,
    place_inside,
)
from focus.data.near_far import families
from focus.data.readers.parquet import PARQUET, text_rows
from focus.data.readers.rows import refuse_missing
from focus.data.readers.tables import NAMES, NO_WORDS, PATHS, Columns, plain_group, plain_name
from focus.errors import InputError, listed, shown
from focus.evaluation.findings import add_findings
from focus.evaluation.provenance import this_program
from focus.evaluation.result_table import SET_TITLES
from focus.evaluation.results import Results, summarise
from focus.evaluation.score_scales import ROUNDING, DetectorScores, detector_scores
from focus.evaluation.scores import Scores
from focus.evaluation.selection import operating_points
from focus.findings import Finding, finding
from focus.metrics.arrays import Booleans, Integers, first_rows, joined
from focus.metrics.figures import FIGURES
from focus.model.operating_points import OperatingPoints, Threshold, choose_threshold
from focus.runtime.csv_files import CsvForm, column_count_error, csv_form, csv_rows, legible

_SCORES = (
    "score",
    "p_synthetic",
    "p_fake",
    "fake_prob",
    "fake_score",
    "probability",
    "prob",
    "y_score",
    "prediction",
    "pred",
    "y_pred",
)
"""Usual names of the column of scores; the first that is there counts."""
_OF_PROBABILITIES = {figure.name for figure in FIGURES if figure.probability}
_NOT_TESTED = ("train", "validation")


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """A table of scores, of one detector or of several on the same images.

    images: A row a line, whose ``split`` says what it is for, without a score. detectors: The
    scores [N] of each detector. columns: The table's name of each column that is used, the scores'
    aside. root: The folder of the images, None if they are not looked for. form: How the table is
    written, "" for the usual way. unused: The columns that mean nothing to the program. left_out:
    How many rows were left out as a detector has no score for them.
    """

    path: Path
    images: Scores
    detectors: tuple[DetectorScores, ...]
    columns: dict[str, str]
    root: str | None
    form: str
    unused: list[str]
    left_out: int = 0

    @property
    def scores(self) -> Scores:
        """The rows with the scores of the first detector."""
        return Scores(**(self.images.columns() | {"score": self.detectors[0].values}))

    @property
    def findings(self) -> list[Finding]:
        """Which rows are left out, and what the numbers of each detector were taken for."""
        findings = []
        if self.left_out:
            total = self.left_out + len(self.images)
            findings.append(finding("rows_left_out", count=self.left_out, total=total))
        for detector in self.detectors:
            if detector.assumption:
                whose = f"{shown(detector.name)}: " if len(self.detectors) > 1 else ""
                findings.append(finding("scale_assumed", text=whose + detector.assumption))
        return findings

    def __str__(self) -> str:
        columns = [f"{role}={name}" for role, name in self.columns.items()]
        for detector in self.detectors:
            remark = f" ({detector.remark})" if detector.remark else ""
            columns.append(f"{SCORE}={detector.name}{remark}")
        splits = Counter(split or "test" for split in self.images.split)
        counts = ", ".join(f"{number} {split}" for split, number in splits.items())

        text = f"{shown(str(self.path))}: scores ({shown(', '.join(columns))}), {counts}"
        if self.left_out:
            text += f"; {self.left_out} rows without a score left out"
        if self.form:
            text += f"; {self.form}"
        if self.unused:
            text += f"; not used: {shown(listed(self.unused))}"
        return text


def read(
    path: str | Path,
    columns: Mapping[str, str],
    data_root: str | None = None,
    *,
    scores: Sequence[str] = (),
    words: Mapping[str, int] = NO_WORDS,
    scale: ScoreScale = "auto",
    higher_is: Literal["synthetic", "real"] = "synthetic",
    common: bool = False,
) -> ScoreTable:
    """Read a CSV or parquet file of scores; those that it returns are in [0, 1], 1 synthetic.

    Args:
        path: The table.
        columns: Unusual names of its columns, by the manifest's names.
        data_root: The folder of the images, whose files must then be there.
        scores: The columns of scores, each of a detector; by default one of a usual name.
        words: The class of each word for a label, beside the usual words.
        scale: The scale of the scores, as for ``--score-scale``.
        higher_is: The class that a high score means.
        common: Whether rows that lack a score are left out.

    Raises InputError for a missing column, a row that cannot be read, and an image with two scores
    or two classes.
    """
    path = Path(path)
    is_parquet = path.suffix.lower() in PARQUET
    unit = f"{path}, {'row' if is_parquet else 'line'}"
    form = CsvForm() if is_parquet else csv_form(path)
    rows = text_rows(path) if is_parquet else csv_rows(path, form)
    line, header = next(rows, (1, []))
    try:
        table_columns, positions = _columns(header, columns, scores, words)
    except ValueError as error:
        separators = ", or separate the columns by commas, semicolons or tabs"
        raise InputError(
            f"{unit} {line}: {error}{separators if len(header) == 1 else ''}."
        ) from error
    root = None if data_root is None else str(absolute(data_root))
    path_of = legible if root is None else partial(place_inside, root=root, outside=True)
    table_rows = _read_rows(rows, unit, table_columns, positions, path_of)
    total = len(table_rows.paths)
    if common:
        table_rows = table_rows.with_all_scores()

    images = _images(table_rows)
    if not (images.label >= 0).any():
        raise InputError(f"No row of {path} has a label: name its column by --columns label=NAME.")
    names = [table_columns.header[position] for position in positions]
    lines = _Lines(unit, np.asarray(table_rows.numbers))
    detectors = tuple(
        detector_scores(name, cells, lines, scale, higher_is)
        for name, cells in zip(names, table_rows.cells_by_detector, strict=True)
    )
    _refuse_contradictions(images, lines, detectors)
    if root is not None:
        column = PathColumn()
        column.extend(table_rows.paths)
        files = listed_files(column)
        numbers = table_rows.numbers.tolist()
        refuse_missing(files.is_there, table_rows.paths.__getitem__, numbers, f"{unit} ")

    return ScoreTable(
        path=path,
        images=images,
        detectors=detectors,
        columns={
            role: table_columns.header[position]
            for role, position in table_columns.positions.items()
        },
        root=root,
        form=str(form),
        unused=[name for name in table_columns.unused if name not in names],
        left_out=total - len(images),
    )


class _Lines(Sequence[str]):
    """Where each row of a table is, for messages. numbers: The number [N] of each row."""

    def __init__(self, unit: str, numbers: Integers) -> None:
        self._unit, self._numbers = unit, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, row: SupportsIndex) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> "_Lines": ...

    def __getitem__(self, row: SupportsIndex | slice) -> "str | _Lines":
        if isinstance(row, slice):
            return _Lines(self._unit, self._numbers[row])
        return f"{self._unit} {self._numbers[row]}"


@dataclass
class _TableRows:
    """The rows [N] of a table of scores.

    Rows with the same label, generator, family, split and test set are one kind, which is read
    once.

    numbers: The number of each row in its file. kinds: The number of its sample in ``samples``,
    whose path and group are those of another row. groups: The number of its group in
    ``names_of_groups``. cells_by_detector: Its scores, [D][N].
    """

    samples: list[Sample]
    names_of_groups: list[str]
    cells_by_detector: list[list[str]]
    paths: list[str]
    numbers: "array[int]"
    kinds: "array[int]"
    groups: "array[int]"

    def with_all_scores(self) -> Self:
        """Return the rows for which each detector has a score."""
        is_there = [[bool(cell.strip()) for cell in cells] for cells in self.cells_by_detector]
        has_all = np.all(is_there, axis=0)
        return replace(
            self,
            cells_by_detector=[list(compress(cells, has_all)) for cells in self.cells_by_detector],
            paths=list(compress(self.paths, has_all)),
            numbers=array("q", compress(self.numbers, has_all)),
            kinds=array("q", compress(self.kinds, has_all)),
            groups=array("q", compress(self.groups, has_all)),
        )


def _read_rows(
    rows: Iterable[tuple[int, list[str]]],
    unit: str,
    columns: Columns,
    score_positions: Sequence[int],
    path_of: Callable[[str], str],
) -> _TableRows:
    """Return the rows of a table.

    path_of: Returns the path of an image by its cell. Raises InputError with the number of a row
    that cannot be read.
    """
    table = _TableRows([], [], [[] for _ in score_positions], [], *(array("q") for _ in range(3)))
    path_position, group_position = columns.positions["path"], columns.positions.get("group")
    of_kind = [i for role, i in columns.positions.items() if role not in (*PATHS, "group")]
    kind_numbers: dict[tuple[str, ...], int] = {}
    group_numbers: dict[str, int] = {}
    for number, cells in rows:
        try:
            if len(cells) != len(columns.header):
                raise column_count_error(cells, columns.header)
            key = tuple([cells[position] for position in of_kind])
            kind = kind_numbers.get(key)
            if kind is None:
                table.samples.append(columns.sample(cells, path_of))
                kind = kind_numbers[key] = len(kind_numbers)
            path = cells[path_position].strip()
            if not path:
                raise ValueError("an empty path")
            table.paths.append(path_of(path))
        except ValueError as error:
            raise InputError(f"{unit} {number}: {error}; fix the row.") from error
        group = "" if group_position is None else cells[group_position]
        if group not in group_numbers:
            group_numbers[group] = len(group_numbers)
            table.names_of_groups.append(plain_group(legible(group).strip()))
        table.numbers.append(number)
        table.kinds.append(kind)
        table.groups.append(group_numbers[group])
        for position, of_detector in zip(score_positions, table.cells_by_detector, strict=True):
            of_detector.append(cells[position])
    return table


def _images(table_rows: _TableRows) -> Scores:
    """Return the rows of a table without their scores."""
    kind, group = np.asarray(table_rows.kinds), np.asarray(table_rows.groups)
    samples = _with_generators_of_fakes(table_rows.samples)
    labels = [-1 if sample.label is None else sample.label for sample in samples]
    texts = {
        name: np.array([getattr(sample, name) for sample in samples], dtype=np.object_)[kind]
        for name in ("generator", "family", "split", "test_set")
    }
    return Scores.without_cams(
        path=table_rows.paths,
        **texts,
        group=np.array(table_rows.names_of_groups, dtype=np.object_)[group],
        label=np.array(labels, dtype=np.int64)[kind],
        score=np.full(len(table_rows.paths), np.nan),
    )


def _with_generators_of_fakes(samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples; a real image keeps a generator only if the table has fakes of it."""
    of_fakes = {sample.generator for sample in samples if sample.label == SYNTHETIC}
    return [
        replace(sample, generator="")
        if sample.label == REAL and sample.generator not in of_fakes
        else sample
        for sample in samples
    ]


def _columns(
    header: Sequence[str],
    names: Mapping[str, str],
    scores: Sequence[str],
    words: Mapping[str, int],
) -> tuple[Columns, list[int]]:
    """Return the columns, and the positions of those of the scores; raises ValueError."""
    plain = [plain_name(legible(name)) for name in header]
    roles = dict(names)
    if "path" not in roles and "id" in plain and not {*plain} & {*NAMES["path"]}:
        roles["path"] = "id"
    if not scores:
        usual = next((name for name in _SCORES if name in plain), None)
        if usual is None:
            raise ValueError(
                f"no column holds the score among {listed(header)}; give --columns {SCORE}=NAME"
            )
        return Columns.find(header, roles, words), [plain.index(usual)]

    positions = []
    for name in scores:
        if plain_name(name) not in plain:
            raise ValueError(
                f"no column {name!r} holds the score among {listed(header)}; give --columns "
                f"{SCORE}=NAME"
            )
        position = plain.index(plain_name(name))
        if position in positions:
            raise ValueError(f"--columns names the score {name!r} twice; name each detector once")
        positions.append(position)
    return Columns.find(header, roles, words), positions


def _refuse_contradictions(
    images: Scores, lines: Sequence[str], detectors: Sequence[DetectorScores]
) -> None:
    """Raise InputError for an image of two classes, and for one with two scores."""
    path, paths = images.numbered("path")
    if len(paths) == len(images):
        return
    labelled = np.flatnonzero(images.label >= 0)
    first = labelled[first_rows(path[labelled])]
    differing = np.flatnonzero(images.label[labelled] != images.label[first])
    if len(differing):
        row, earlier = (int(rows[differing[0]]) for rows in (labelled, first))
        raise InputError(
            f"{lines[row]}: {images.path[row]!r} is {LABEL_NAMES[images.label[row]]}, and "
            f"{LABEL_NAMES[images.label[earlier]]} in {lines[earlier]}; remove one of them, or "
            "give each image a path or id of its own."
        )
    first_of_image = first_rows(joined(path, images.label + 1))
    later_rows = np.flatnonzero(first_of_image != np.arange(len(images)))
    earlier_rows = first_of_image[later_rows]
    for detector in detectors:
        difference = np.abs(detector.values[later_rows] - detector.values[earlier_rows])
        different = np.flatnonzero(difference > ROUNDING)
        if len(different):
            row = int(later_rows[different[0]])
            raise InputError(
                f"{lines[row]}: {images.path[row]!r} is there before, with another score; give "
                "each image a path or id of its own, and what images share, as a video, in a "
                "column group."
            )


def without_calibration(results: Results) -> Results:
    """Return results without what takes the scores for probabilities."""

    of_sets = (*SET_TITLES, "groups")
    return {
        name: _without_calibration(part) if name in of_sets else part
        for name, part in results.items()
    }


def _without_calibration(part: Any) -> Any:
    if not isinstance(part, dict):
        return part
    return {
        key: None if key in _OF_PROBABILITIES else _without_calibration(value)
        for key, value in part.items()
    }


def rows_to_test(table: ScoreTable) -> Booleans:
    """Return [N], the rows that are neither for training nor for validation.

    Raises InputError if none of them has a label.
    """
    tested = ~np.isin(table.images.split, _NOT_TESTED)
    if not (table.images.label[tested] >= 0).any():
        raise InputError(
            f"{table.path} has no row with a label to test on, all are for training or validation: "
            "mark them test in the column split."
        )
    return tested


def generators_of_training(scores: Scores) -> set[str]:
    """Return the generators of the fakes that are marked as those for training."""
    of_training = (scores.label == SYNTHETIC) & (scores.split == "train")
    return set(scores.generator[of_training]) - {""}


def evaluate_scores(
    table: ScoreTable,
    training_generators: Sequence[str] = (),
    threshold: str | None = None,
    *,
    progress: bool = False,
) -> tuple[Scores, Results]:
    """Return the scores to test on, with their decisions, and their results.

    Thresholds and calibration are those of the rows for validation. The detector was trained on
    ``training_generators``, by default the fakes of the rows for training.

    Raises InputError if no row is to be tested on, or there is no ``threshold`` of that name.
    """
    if len(table.detectors) > 1:
        raise InputError(f"{table.path} has scores of several detectors: name one, score=NAME.")
    detector = table.detectors[0]
    rows = table.scores
    scores = rows.select(rows_to_test(table))
    validation = rows.select((rows.split == "validation") & (rows.label >= 0))
    fakes = rows.select(rows.label == SYNTHETIC)
    training_generators = training_generators or [*generators_of_training(rows)]
    family_of_generator = families(zip(fakes.generator, fakes.family, strict=True))
    del rows, fakes  # a million rows of each take 70 MB

    points = operating_points(validation) if len(validation) else None
    if points and detector.raw_ends:
        points = replace(points, calibration=None)
    deciding = choose_threshold(points, threshold)
    scores = _decided(scores, points, deciding)
    results = summarise(
        scores,
        training_generators,
        family_of_generator,
        points,
        threshold=deciding,
        progress=progress,
    )
    if detector.raw_ends:
        results = without_calibration(results)
    results["provenance"] = {"scores": _origin(table), **this_program()}

    findings = table.findings
    if deciding.name == "default":
        findings.append(finding("no_threshold"))
    if detector.raw_ends:
        low, high = detector.raw_ends
        findings.append(finding("raw_scores", low=low, high=high))
    add_findings(results, scores, points, findings, files=table.root is not None)
    return scores, results


def _decided(scores: Scores, points: OperatingPoints | None, threshold: Threshold) -> Scores:
    """Return the scores with what the threshold calls them, and what the calibration says."""
    columns: dict[str, Any] = dict(scores.columns())
    columns["index"] = np.arange(len(scores))
    columns["predicted"] = scores.score > threshold.value
    if points and points.calibration:
        columns["llr"] = points.calibration.llr(scores.score)
    return Scores(**columns)


def _origin(table: ScoreTable) -> dict[str, Any]:
    """Return what results.json says of the table that the scores come from."""
    with table.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    columns = {**table.columns, SCORE: table.detectors[0].name}
    return {"file": table.path.name, "sha256": digest, "columns": columns}

"""Compute results from the scores that any detector left in a table."""

import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import special

from focus.config.layouts import SCORE
from focus.data.manifest import (
    LABEL_NAMES,
    SYNTHETIC,
    Sample,
    absolute,
    csv_rows,
    parsed,
    place_inside,
)
from focus.data.near_far import families
from focus.data.readers.parquet import PARQUET, text_rows
from focus.data.readers.rows import refuse_missing
from focus.data.readers.tables import NAMES, NO_WORDS, Columns, plain_name, reals_by_generator
from focus.errors import InputError, listed, shown
from focus.evaluation.findings import add_findings
from focus.evaluation.provenance import this_program
from focus.evaluation.result_table import SET_TITLES
from focus.evaluation.results import Results, summarise
from focus.evaluation.scores import Scores
from focus.evaluation.selection import operating_points
from focus.findings import Finding
from focus.metrics.figures import FIGURES
from focus.model.operating_points import choose_threshold

Scale = Literal["probability", "log-odds", "raw"]
_SCORES = (
    *("score", "p_synthetic", "p_fake", "fake_prob", "fake_score"),
    *("probability", "prob", "y_score", "prediction", "pred", "y_pred"),
)
"""Usual names of the column of scores; the first that is there counts."""
_OF_PROBABILITIES = {figure.name for figure in FIGURES if figure.probability}
_NOT_TESTED = ("train", "validation")
_ROUNDING = 1e-6  # a softmax in float32 may be a little above 1


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores.

    ``scores`` has a row a line, whose ``split`` says what it is for, and ``columns`` the table's
    name of each column that was found. ``root`` is the folder of the images, None if they are not
    looked for, and ``raw`` the two raw scores that became 0 and 1, None for other scales.
    """

    path: Path
    scores: Scores
    columns: dict[str, str]
    root: str | None
    raw: tuple[float, float] | None = None

    def __str__(self) -> str:
        splits = Counter(split or "test" for split in self.scores.split)
        found = ", ".join(f"{own}={name}" for own, name in self.columns.items())
        counts = ", ".join(f"{number} {split}" for split, number in splits.items())
        return f"{shown(str(self.path))}: scores ({shown(found)}), {counts}"


def read(
    path: str | Path,
    columns: dict[str, str],
    data_root: str | None = None,
    *,
    words: Mapping[str, int] = NO_WORDS,
    scale: Scale = "probability",
    higher_is: Literal["synthetic", "real"] = "synthetic",
) -> ScoreTable:
    """Read a CSV or parquet file of scores; those that it returns are in [0, 1], 1 synthetic.

    Args:
        path: The table.
        columns: Unusual names of its columns, by the manifest's names and ``score``.
        data_root: The folder of the images, whose files must then be there.
        words: The class of each word for a label, beside the usual words.
        scale: The scale of the scores, as for ``--score-scale``; raw ones are stretched to [0, 1].
        higher_is: The class that a high score means.

    Raises InputError for a missing column, a row that cannot be read, and an image with two scores
    or two classes.
    """
    path = Path(path)
    is_parquet = path.suffix.lower() in PARQUET
    unit = f"{path}, {'row' if is_parquet else 'line'}"
    rows = text_rows(path) if is_parquet else csv_rows(path)
    line, header = next(rows, (1, []))
    try:
        found, at = _columns(header, columns, words)
    except ValueError as error:
        commas = ", or separate the columns by commas" * (len(header) == 1)
        raise InputError(f"{unit} {line}: {error}{commas}.") from error
    root = None if data_root is None else str(absolute(data_root))
    place = str if root is None else partial(place_inside, root=root, outside=True)
    values: list[float] = []

    def parse(cells: Sequence[str]) -> Sample:
        made = found.sample(cells, place)
        values.append(_number(cells[at], scale))
        return made

    numbered = list(reals_by_generator(parsed(rows, unit, parse)))
    samples = [sample for _, sample in numbered]
    if not any(sample.label is not None for sample in samples):
        raise InputError(f"No row of {path} has a label: name its column by --columns label=NAME.")
    labelled: dict[str, tuple[int, int]] = {}
    first: dict[tuple[str, int | None], float] = {}
    for (number, sample), value in zip(numbered, values, strict=True):
        if sample.label is not None:
            line_before, label = labelled.setdefault(sample.path, (number, sample.label))
            if label != sample.label:
                raise InputError(
                    f"{unit} {number}: {sample.path!r} is {LABEL_NAMES[sample.label]}, and "
                    f"{LABEL_NAMES[label]} in {unit} {line_before}; remove one of them, or give "
                    "each image a path or id of its own."
                )
        before = first.setdefault((sample.path, sample.label), value)
        if abs(before - value) > _ROUNDING:
            raise InputError(
                f"{unit} {number}: {sample.path!r} is there before, with another score; give each "
                "image a path or id of its own, and what images share, as a video, in a column "
                "group."
            )
    if root is not None:
        refuse_missing(numbered, f"{unit} ")
    values, spread = _as_probabilities(values, scale, higher_is)
    texts = ("path", "generator", "family", "split", "test_set", "group")
    scores = Scores.without_cams(
        **{name: [getattr(sample, name) for sample in samples] for name in texts},
        label=[-1 if sample.label is None else sample.label for sample in samples],
        score=values,
    )
    names = {own: header[n] for own, n in {**found.at, SCORE: at}.items()}
    return ScoreTable(path, scores, names, root, spread)


def _columns(
    header: Sequence[str], given: dict[str, str], words: Mapping[str, int]
) -> tuple[Columns, int]:
    """Return the columns, and the number of that of the scores; raises ValueError."""
    plain = [plain_name(name) for name in header]
    wanted = (plain_name(given[SCORE]),) if SCORE in given else _SCORES
    score = next((plain.index(name) for name in wanted if name in plain), None)
    if score is None:
        raise ValueError(
            f"no column holds the score among {listed(header)}; give --columns {SCORE}=NAME"
        )
    roles = {role: name for role, name in given.items() if role != SCORE}
    if "path" not in roles and "id" in plain and not {*plain} & {*NAMES["path"]}:
        roles["path"] = "id"
    return Columns.find(header, roles, words), score


def _number(cell: str, scale: Scale) -> float:
    if not cell:
        raise ValueError("there is no score")
    value = float(cell)
    if not math.isfinite(value):
        raise ValueError(f"the score {cell!r} is not finite")
    if scale == "probability" and not -_ROUNDING <= value <= 1 + _ROUNDING:
        raise ValueError(
            f"the score {cell!r} is no probability, from 0 to 1: give --score-scale log-odds, or "
            "raw for any other number"
        )
    return min(max(value, 0.0), 1.0) if scale == "probability" else value


def _as_probabilities(
    values: list[float], scale: Scale, higher_is: str
) -> tuple[list[float], tuple[float, float] | None]:
    """Return scores in [0, 1] with 1 synthetic, and of raw ones what became 0 and 1.

    Raises InputError for log-odds of which several would be 1.0, from some 37 on.
    """
    numbers = np.array(values)
    spread = None
    if scale == "log-odds":
        odds = -numbers if higher_is == "real" else numbers
        numbers = special.expit(odds)
        # Below 1.0 only close neighbours become the same, as in any table of many digits.
        if len(np.unique(odds[numbers == 1])) > 1:
            raise InputError(
                f"Log-odds of up to {odds.max():g} become one probability and lose their ranks: "
                "give --score-scale raw."
            )
        return numbers.tolist(), None
    if scale == "raw":
        spread = float(numbers.min()), float(numbers.max())
        numbers = (numbers - spread[0]) / ((spread[1] - spread[0]) or 1.0)
    if higher_is == "real":
        numbers, spread = 1 - numbers, spread and spread[::-1]
    return numbers.tolist(), spread


def without_calibration(results: Results) -> Results:
    """Return results without what takes the scores for probabilities."""

    def without(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        return {n: None if n in _OF_PROBABILITIES else without(v) for n, v in part.items()}

    of_sets = (*SET_TITLES, "groups")
    return {name: without(part) if name in of_sets else part for name, part in results.items()}


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
    every = table.scores
    tested = every.select(~np.isin(every.split, _NOT_TESTED))
    if not (tested.label >= 0).any():
        raise InputError(
            f"{table.path} has no row with a label to test on, all are for training or validation: "
            "mark them test in the column split."
        )
    validation = every.select((every.split == "validation") & (every.label >= 0))
    points = operating_points(validation) if len(validation) else None
    if points and table.raw:
        points = replace(points, calibration=None)
    decides = choose_threshold(points, threshold)
    fakes = every.select(every.label == SYNTHETIC)
    known = training_generators or set(fakes.generator[fakes.split == "train"]) - {""}
    of_generators = families(zip(fakes.generator, fakes.family, strict=True))
    decided: dict[str, Any] = {"predicted": tested.score > decides.value}
    if points and points.calibration:
        decided["llr"] = points.calibration.llr(tested.score)
    scores = Scores(**(tested.columns() | decided | {"index": np.arange(len(tested))}))
    results = summarise(scores, known, of_generators, points, threshold=decides, progress=progress)
    if table.raw:
        results = without_calibration(results)
    with table.path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    origin = {"file": table.path.name, "sha256": digest, "columns": table.columns}
    results["provenance"] = {"scores": origin, **this_program()}
    text = (
        "No threshold was fixed, as that takes rows marked validation whose classes the scores "
        "tell apart: a score of 0.5 decides, of which the error rates are."
    )
    known_before = [Finding("note", text)] if decides.name == "default" else []
    if table.raw:
        low, high = table.raw
        text = f"Raw scores are shown from 0 ({low:g} in the table) to 1 ({high:g}), uncalibrated."
        known_before.append(Finding("note", text))
    add_findings(results, scores, points, known_before, files=table.root is not None)
    return scores, results

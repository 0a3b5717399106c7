"""Show images and their CAMs: in the gallery of a report, and on a sheet of a few.

A picture of the gallery is one small WebP: squares side by side of the face, the CAM of the
decision over it with the artefact outlined, and the human map, the last two where the manifest has
them.
"""

import base64
import io
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.data.images import Preprocessing
from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC, Manifest, Sample
from focus.data.near_far import home_of
from focus.data.overlay import NO_CAM, SheetRow, contact_sheet, strip
from focus.evaluation.protocol import UNNAMED, Comparison
from focus.evaluation.scores import Scores
from focus.metrics.arrays import Integers, evenly
from focus.model.operating_points import score_text

if TYPE_CHECKING:
    from focus.model.detector import Detector

SHOWN = 240
"""Images with a picture, at most, if there are no more kinds of them."""
LISTED = 20_000
"""Rows of the table, at most."""
OUTCOMES = ("right", "false alarm", "missed", "unlabelled")

SIDE = 160  # pixels of a square in the gallery
_QUALITY = 62  # of 100; a strip of three is about 7 kB

# More digits are in scores.csv.
_NUMBERS = {
    "score": "score",
    "entropy": "entropy_predicted",
    "entropy_z": "entropy_z",
    "cam_range": "cam_range",
}
"""Columns of the table and where they come from."""

_SOFT, _WRONG = "#565656", "#b3261e"  # as in the page
_SHEET_SIDE = 192  # pixels of a picture
_MOST_ROWS = 12  # as much as a screen shows, and a log takes at each validation


def outcomes(scores: Scores) -> Integers:
    """Return [N] index into ``OUTCOMES``, of the decision that the scores hold."""
    decisions = zip(scores.label.tolist(), scores.predicted.tolist(), strict=True)
    numbers = [OUTCOMES.index(outcome_of(label, predicted)) for label, predicted in decisions]
    return np.array(numbers, dtype=np.int64)


def outcome_of(label: int | None, predicted: int) -> str:
    """Return the outcome of an image; label None or -1: not known."""
    if label is None or label < 0:
        return "unlabelled"
    if (label != REAL) == (predicted != REAL):
        return "right"
    return "false alarm" if label == REAL else "missed"


def sets(scores: Scores, comparisons: Iterable[Comparison]) -> NDArray[np.object_]:
    """Return the test sets [N]: for a fake the one of its figures, else the manifest's."""
    test_sets = scores.test_set.copy()
    for comparison in comparisons:
        test_sets[comparison.fake] = comparison.test_set
    return test_sets


def pick_rows(
    scores: Scores, test_sets: NDArray[np.object_], shown: int = SHOWN
) -> tuple[Integers, int]:
    """Return the rows that get a picture, rising, and how many there are of each kind.

    test_sets: The test sets [N] that :func:`sets` returns.

    A kind is a test set, class, generator and outcome. Of each kind the same number of images is
    shown, at least one, all if it has no more, at even steps of the order by score: from the lowest
    score to the highest, without anybody's choice.
    """
    columns = test_sets, scores.label, scores.generator, outcomes(scores)
    rows_of_kind: dict[tuple[Any, ...], list[int]] = {}
    for row, values in enumerate(zip(*columns, strict=True)):
        rows_of_kind.setdefault(values, []).append(row)

    sizes = np.array([len(rows) for rows in rows_of_kind.values()])
    per_kind = 1
    while per_kind < sizes.max(initial=1) and sizes.clip(max=per_kind + 1).sum() <= shown:
        per_kind += 1

    chosen = []
    for rows in rows_of_kind.values():
        ordered = sorted(rows, key=lambda row: scores.score[row])
        chosen += [ordered[position] for position in evenly(len(ordered), per_kind)]
    return np.array(sorted(chosen), dtype=np.int64), per_kind


def pictures(
    manifest: Manifest, scores: Scores, rows: Sequence[int], seen_by: Sequence[Preprocessing]
) -> Iterator[tuple[int, str]]:
    """Yield each row and its picture as a data URI: without CAMs among the scores the face alone.

    Raises ImageError, naming the file, where one cannot be decoded any more.
    """
    cams = [NO_CAM] * len(scores) if scores.cams is None else scores.cams
    for row in rows:
        yield row, as_data_uri(strip(manifest[row], cams[row], SIDE, seen_by))


def as_data_uri(picture: Image.Image) -> str:
    """Return a picture as a WebP in a data URI."""
    file = io.BytesIO()
    picture.save(file, format="WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def table(scores: Scores, test_sets: NDArray[np.object_], shown: Integers) -> dict[str, Any]:
    """Return what the page's script needs of the images, column by column.

    test_sets: The test sets [N] that :func:`sets` returns.

    Of more than ``LISTED`` images it has those of ``shown`` alone. In the table, ``shown`` has the
    rows with a picture, and ``root`` the folder that all paths have in common.
    """
    listed = np.arange(len(scores)) if len(scores) <= LISTED else shown
    rows = scores.select(listed)
    paths = rows.path.tolist()
    root = os.path.commonpath([os.path.dirname(path) for path in paths])  # noqa: PTH120

    labels_and_names = zip(rows.label, rows.generator, strict=True)
    kinds = [kind(label, name) for label, name in labels_and_names]
    generators, generator = np.unique(kinds, return_inverse=True)
    names_of_sets, test_set = np.unique(
        [name.replace("_", "-") for name in test_sets[listed]], return_inverse=True
    )
    columns: dict[str, Any] = {
        "root": root,
        "generators": generators.tolist(),
        "sets": names_of_sets.tolist(),
        "outcomes": OUTCOMES,
        "path": [os.path.relpath(path, root or ".") for path in paths],
        "label": rows.label.tolist(),
        "generator": generator.tolist(),
        "set": test_set.tolist(),
        "outcome": outcomes(rows).tolist(),
    }
    for name, column in _NUMBERS.items():
        if rows.has_cams or name == "score":
            columns[name] = [round(float(value), 4) for value in getattr(rows, column)]
    return columns | {"shown": np.searchsorted(listed, shown).tolist()}


def kind(label: int, generator: str) -> str:
    """Return the name of an image's kind in the filter by generator."""
    if label == SYNTHETIC:
        return generator or UNNAMED
    name = "real" if label == REAL else "unlabelled"
    return f"{name} ({generator})" if generator else name


class _SheetKind(NamedTuple):
    """The images of one row of the sheet.

    note: Whether the results have the generator among known ones; "" for other images.
    """

    name: str
    note: str


def write_sheet(
    detector: "Detector", manifest: Manifest, scores: Scores, path: Path, *, columns: int = 3
) -> None:
    """Write a PNG of faces and CAMs: a row of real images, then a row a generator.

    Of many generators it shows some, at even steps through the known and then the unknown ones.
    Each row shows the first ``columns`` images of its kind in the manifest's order, none chosen: a
    face, the CAM of the decision over it with the artefact outlined, and the human map; below, the
    outcome, red if it is wrong, the score and the entropy of the CAM.

    scores: The scores of the images of ``manifest``, with their CAMs.
    Raises ImageError for a file that cannot be decoded any more.
    """
    row_numbers, left_out = _sheet_rows(manifest, detector.config.training_generators, columns)
    assert scores.cams is not None, "the detector has scored them"
    rows: list[SheetRow] = []
    shown: list[Sample] = []
    for kind, numbers in row_numbers.items():
        cells = []
        for number in numbers:
            sample = manifest[number]
            shown.append(sample)
            outcome = outcome_of(sample.label, scores.predicted[number])
            entropy = scores.entropy_predicted[number]
            caption = f"{outcome} · score {scores.score[number]:.2f} · h {entropy:.2f}"
            colour = _WRONG if outcome in ("missed", "false alarm") else _SOFT

            picture = strip(sample, scores.cams[number], _SHEET_SIDE, [detector.preprocessing])
            cells.append((picture, caption, colour))
        rows.append(SheetRow(kind.name, kind.note, cells))

    head = "face | class activation map (CAM) of the decision"
    if any(sample.human_map for sample in shown):
        head += " | human map"
    if any(sample.mask_path for sample in shown):
        head += "; artefact outlined"
    lines = [
        head,
        f"score: above {score_text(detector.threshold.value)} it says synthetic; "
        "h: entropy of the CAM, 0 one cell, 1 even",
        "each CAM is stretched from its smallest to its largest value",
    ]
    if left_out:
        lines.append(f"{left_out} more generator{'s' if left_out > 1 else ''} not shown")
    contact_sheet(path, lines, rows, _SHEET_SIDE)


def _sheet_rows(
    manifest: Manifest, training_generators: Collection[str], columns: int
) -> tuple[dict[_SheetKind, list[int]], int]:
    """Return the images of each row of the sheet, and how many generators are left out."""
    order = {REAL: 0, SYNTHETIC: 1, None: 2}
    by_label: dict[tuple[int, _SheetKind], list[int]] = {}
    for number, sample in enumerate(manifest):
        key = order[sample.label], _sheet_kind(sample, training_generators)
        numbers = by_label.setdefault(key, [])
        if len(numbers) < columns:
            numbers.append(number)
    rows = {kind: by_label[label, kind] for label, kind in sorted(by_label)}

    left_out = max(0, len(rows) - _MOST_ROWS)
    if left_out:
        generators = sorted((kind for kind in rows if kind.note), key=lambda kind: kind.note)
        steps = np.linspace(0, len(generators) - 1, len(generators) - left_out).round().astype(int)
        shown = {generators[step] for step in steps}
        rows = {kind: row for kind, row in rows.items() if not kind.note or kind in shown}
    return rows, left_out


def _sheet_kind(sample: Sample, training_generators: Collection[str]) -> _SheetKind:
    if sample.label is None:
        return _SheetKind("unlabelled", "")
    if sample.label == REAL:
        return _SheetKind(LABEL_NAMES[REAL], "")
    home = home_of(sample.test_set, sample.generator, training_generators)
    note = "unknown generator" if home == "open" else "known generator"
    return _SheetKind(sample.generator or UNNAMED, note)

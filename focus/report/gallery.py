"""Show the images of a report: which have a picture, their pictures, and the table of all of them.

A picture is one small WebP: squares side by side of the face, the CAM of the decision over it
with the artefact outlined, and the human map, the last two where the manifest has them.
"""

import base64
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.data.images import Preprocessing
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.data.overlay import NO_CAM, strip
from focus.evaluation.protocol import UNNAMED, Comparison
from focus.evaluation.scores import Scores
from focus.metrics.arrays import Integers, evenly

SHOWN = 240
"""Images with a picture, at most, if there are no more kinds of them."""
LISTED = 20_000
"""Rows of the table, at most."""
OUTCOMES = ("right", "false alarm", "missed", "unlabelled")

SIDE = 160  # pixels
_QUALITY = 62  # of 100; a strip of three is about 7 kB

# More digits are in scores.csv.
_NUMBERS = {
    "score": "score",
    "entropy": "entropy_predicted",
    "entropy_z": "entropy_z",
    "cam_range": "cam_range",
}
"""Columns of the table and where they come from."""


def outcomes(scores: Scores) -> Integers:
    """Return [N] index into ``OUTCOMES``, of the decision that the scores hold."""
    pairs = zip(scores.label.tolist(), scores.predicted.tolist(), strict=True)
    return np.array([OUTCOMES.index(outcome_of(*pair)) for pair in pairs], dtype=np.int64)


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
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for row, kind in enumerate(zip(*columns, strict=True)):
        kinds.setdefault(kind, []).append(row)
    sizes = np.array([len(rows) for rows in kinds.values()])
    per_kind = 1
    while per_kind < sizes.max(initial=1) and sizes.clip(max=per_kind + 1).sum() <= shown:
        per_kind += 1

    chosen = []
    for rows in kinds.values():
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
    generators, generator = np.unique(
        [kind(*pair) for pair in zip(rows.label, rows.generator, strict=True)], return_inverse=True
    )
    names_of_sets, test_set = np.unique(
        [name.replace("_", "-") for name in test_sets[listed]], return_inverse=True
    )
    return {
        "root": root,
        "generators": generators.tolist(),
        "sets": names_of_sets.tolist(),
        "outcomes": OUTCOMES,
        "path": [os.path.relpath(path, root or ".") for path in paths],
        "label": rows.label.tolist(),
        "generator": generator.tolist(),
        "set": test_set.tolist(),
        "outcome": outcomes(rows).tolist(),
        **{
            name: [round(float(value), 4) for value in getattr(rows, column)]
            for name, column in _NUMBERS.items()
            if rows.has_cams or name == "score"
        },
        "shown": np.searchsorted(listed, shown).tolist(),
    }


def kind(label: int, generator: str) -> str:
    """Return the name of an image's kind in the filter by generator."""
    if label == SYNTHETIC:
        return generator or UNNAMED
    name = "real" if label == REAL else "unlabelled"
    return f"{name} ({generator})" if generator else name

"""Measure how far annotators mark the same places of a face, against other faces.

Of two marks, in [0, 1] on one grid: Pearson's correlation of both blurred by a Gaussian of 5 % of
the side, and the intersection over the union (IoU) of where they are at least 0.5. A face's figure
is the mean over the pairs of its annotators. Its chance level pairs each of its marks with marks of
other annotators in other faces of the same class, drawn at random: the agreement that is due to
people marking eyes and mouths in any face.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from focus.metrics.arrays import Array, Booleans, Floats
from focus.metrics.bootstrap import RESAMPLES, Resampler, percentiles

MEASURES = ("correlation", "iou")
_BLUR = 0.05
_DRAWS = 20  # marks of other faces that each mark is compared with


def between_annotators(
    marks: Array, faces: Sequence[Any], annotators: Sequence[str], classes: Sequence[Any]
) -> dict[Any, Floats]:
    """Return [2, 2] for each face that several marked: both measures, and their chance level.

    marks [N, S, S]; of each its face, annotator and class. Chance is NaN where no other annotator
    marked another face of the class, the correlation where a mark is even, the IoU where both are
    empty.
    """
    prepared = [_prepared(mark) for mark in marks]
    rows_of_face: dict[Any, list[int]] = {}
    rows_of_class: dict[Any, list[int]] = {}
    for row, (face, kind) in enumerate(zip(faces, classes, strict=True)):
        rows_of_face.setdefault(face, []).append(row)
        rows_of_class.setdefault(kind, []).append(row)

    random = np.random.default_rng(0)
    agreement = {}
    for face, rows in rows_of_face.items():
        # For a face with one mark, too: the draws do not depend on which faces have several.
        drawn = []
        for row in rows:
            others = random.choice(rows_of_class[classes[row]], _DRAWS)
            drawn += [(row, other) for other in others.tolist()]
        if len(rows) < 2:
            continue
        of_face = _mean([(prepared[a], prepared[b]) for a, b in combinations(rows, 2)])
        by_chance = _mean(
            [
                (prepared[a], prepared[b])
                for a, b in drawn
                if faces[b] != face and annotators[a] != annotators[b]
            ]
        )
        agreement[face] = np.stack([of_face, by_chance])
    return agreement


def overall(agreement: Mapping[Any, Floats], classes: Any) -> dict[str, Any]:
    """Return both measures over all faces, by chance, and the difference, with 95 % intervals.

    agreement: That of each face, by :func:`between_annotators`. classes: The class of each face, by
    face. The bootstrap resamples the faces within each class.
    """
    faces = [face for face, values in agreement.items() if not np.isnan(values).any()]
    summary: dict[str, Any] = {"n_images": len(faces)}
    if not faces:
        return summary
    values = np.stack([agreement[face] for face in faces])
    _, strata = np.unique([str(classes[face]) for face in faces], return_inverse=True)
    resampler = Resampler(strata, np.full(len(faces), "", dtype=np.object_))
    weights = resampler.draw(np.random.default_rng(0), RESAMPLES)
    for number, measure in enumerate(MEASURES):
        of_faces, by_chance = values[:, 0, number], values[:, 1, number]
        figures = {
            measure: of_faces,
            f"{measure}_chance": by_chance,
            f"{measure}_above_chance": of_faces - by_chance,
        }
        for name, of_each_face in figures.items():
            ends = percentiles(weights @ of_each_face / len(faces), len(faces))
            summary[name] = {"value": float(of_each_face.mean()), "interval": ends}
    return summary


class _Mark(NamedTuple):
    """A mark, flat: ``blurred`` with mean 0 and length 1 (NaN if even), and its ``area``."""

    blurred: NDArray[np.float32]
    area: Booleans


def _prepared(mark: Array) -> _Mark:
    blurred = gaussian_filter(np.asarray(mark, np.float32), _BLUR * len(mark), mode="constant")
    flat = blurred.ravel() - blurred.mean()
    length = float(np.linalg.norm(flat))
    return _Mark(flat / (length if length > 1e-6 else math.nan), np.asarray(mark).ravel() >= 0.5)


def _mean(pairs: Sequence[tuple[_Mark, _Mark]]) -> Floats:
    """Return the mean [2] of both measures over pairs of marks, NaN without any."""
    if not pairs:
        return np.full(2, math.nan)
    values = [
        (one.blurred @ other.blurred, _intersection_over_union(one.area, other.area))
        for one, other in pairs
    ]
    return np.asarray(np.array(values, dtype=np.float64).mean(axis=0))


def _intersection_over_union(one: Booleans, other: Booleans) -> float:
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else math.nan

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
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from focus.metrics.arrays import Array, Floats
from focus.metrics.bootstrap import Resampler, percentiles

MEASURES = ("correlation", "iou")
_BLUR = 0.05
_DRAWS, _RESAMPLES = 20, 2000


def between_annotators(
    marks: Array, faces: Sequence[Any], annotators: Sequence[str], classes: Sequence[Any]
) -> dict[Any, Floats]:
    """Return [2, 2] for each face that several marked: both measures, and their chance level.

    marks [N, S, S]; of each its face, annotator and class. Chance is NaN where no other annotator
    marked another face of the class, the correlation where a mark is even, the IoU where both are
    empty.
    """
    ready = [_prepared(mark) for mark in marks]
    rows, of_class = dict[Any, list[int]](), dict[Any, list[int]]()
    for row, (face, kind) in enumerate(zip(faces, classes, strict=True)):
        rows.setdefault(face, []).append(row)
        of_class.setdefault(kind, []).append(row)
    random, found = np.random.default_rng(0), {}

    def mean(pairs: list[tuple[int, int]]) -> Floats:
        each = [(ready[a][0] @ ready[b][0], _iou(ready[a][1], ready[b][1])) for a, b in pairs]
        values = np.array(each, dtype=np.float64).reshape(-1, 2)
        return np.asarray(values.mean(axis=0)) if each else np.full(2, math.nan)

    for face, own in rows.items():
        pairs = list(combinations(own, 2))
        drawn = [(a, b) for a in own for b in random.choice(of_class[classes[a]], _DRAWS).tolist()]
        others = [(a, b) for a, b in drawn if faces[b] != face and annotators[a] != annotators[b]]
        if pairs:
            found[face] = np.stack([mean(pairs), mean(others)])
    return found


def overall(found: Mapping[Any, Floats], classes: Any) -> dict[str, Any]:
    """Return both measures over all faces, by chance, and the difference, with 95 % intervals.

    classes: The class of each face, by face. The bootstrap resamples the faces within each class.
    """
    faces = [face for face, values in found.items() if not np.isnan(values).any()]
    told: dict[str, Any] = {"n_images": len(faces)}
    if not faces:
        return told
    values = np.stack([found[face] for face in faces])
    _, strata = np.unique([str(classes[face]) for face in faces], return_inverse=True)
    resampler = Resampler(strata, np.full(len(faces), "", dtype=np.object_))
    weights = resampler.draw(np.random.default_rng(0), _RESAMPLES)
    for measure, (own, chance) in zip(
        MEASURES, np.moveaxis(values, 2, 0).swapaxes(1, 2), strict=True
    ):
        parts = {"": own, "_chance": chance, "_above_chance": own - chance}
        for ending, each in parts.items():
            ends = percentiles(weights @ each / len(faces), len(faces))
            told[f"{measure}{ending}"] = {"value": float(each.mean()), "interval": ends}
    return told


def _prepared(mark: Array) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return the blurred mark with mean 0 and length 1 (NaN if even), and its area, both flat."""
    blurred = gaussian_filter(np.asarray(mark, np.float32), _BLUR * len(mark), mode="constant")
    flat = blurred.ravel() - blurred.mean()
    length = float(np.linalg.norm(flat))
    return flat / (length if length > 1e-6 else math.nan), np.asarray(mark).ravel() >= 0.5


def _iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else math.nan

"""Decide which face an annotator sees next."""

import zlib
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from focus.data.manifest import REAL, SYNTHETIC, Sample

Keys = NDArray[np.float64]
UNSURE = 0.25
"""A detector is unsure where its score is nearer than this to its threshold."""
# How many faces of its kind one may be early or late, so that nobody can predict the next class.
_SPREAD, _PERSONAL = 4, 8


def balanced(faces: Sequence[Sample], seed: int, annotator: str = "") -> Keys:
    """Return [N], by which to sort: the classes take turns, and in each its generators.

    Every beginning has about as many faces of each kind, until a kind is used up. Annotators see
    about the same faces first, each in another order, so that those who stop early share faces.
    """
    kinds = [(face.label, face.generator or face.extra.get("source", "")) for face in faces]
    per_class = Counter(label for label, _ in set(kinds))
    rows = defaultdict[tuple[int | None, str], list[int]](list)
    for row, kind in enumerate(kinds):
        rows[kind].append(row)
    random, keys = np.random.default_rng(seed), np.zeros(len(faces))
    for kind in sorted(rows, key=str):
        drawn = random.permutation(rows[kind])
        keys[drawn] = np.arange(len(drawn)) + _SPREAD * random.random(len(drawn))
        keys[drawn] *= per_class[kind[0]]
    personal = np.random.default_rng([seed, zlib.crc32(annotator.encode())])
    return np.asarray(keys + _PERSONAL * personal.random(len(faces)))


def practice(faces: Sequence[Sample], count: int, seed: int) -> list[int]:
    """Return the rows of the practice round: as many real as synthetic faces, mixed.

    The round is empty if fewer than twice as many faces have a label, or a class has too few.
    """
    order = np.argsort(balanced(faces, seed)).tolist()
    real, fake = ([r for r in order if faces[r].label == label] for label in (REAL, SYNTHETIC))
    half = count // 2
    if len(real) + len(fake) < 2 * count or len(real) < half or len(fake) < count - half:
        return []
    mixed = np.random.default_rng(seed).permutation(real[:half] + fake[: count - half])
    return [int(row) for row in mixed]


def hard_first(keys: Keys, margins: Keys | None, disputed: Sequence[int]) -> Keys:
    """Return the keys [N] with hard faces first; without ``margins`` as they are.

    margins: How far a detector's score is on the right side of its threshold, [N], below 0 where it
        is wrong. Faces below ``UNSURE`` come first, the most wrong one at the very beginning.
    disputed: The rows on which annotators disagree; they follow.
    """
    if margins is None:
        return keys
    disagreed = np.isin(np.arange(len(keys)), disputed)
    return np.where(margins < UNSURE, margins - 2e9, keys - 1e9 * disagreed)


def repeated(seed: int, annotator: str, number: int, every: int) -> int:
    """Return which answer is asked again, from 0: one of the last ``every`` but the latest 5."""
    random = np.random.default_rng([seed, zlib.crc32(annotator.encode()), number])
    return number * every + int(random.integers(max(1, every - 5)))

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
# Faces of a kind by which one may be early or late, so that nobody can tell whose turn it is.
_SPREAD, _PERSONAL = 4, 8


def balanced(faces: Sequence[Sample], seed: int, annotator: str = "") -> Keys:
    """Return [N], by which to sort: the classes take turns, and in each its generators.

    Every beginning has about as many of each, until a kind is used up. Annotators see about the
    same faces first, so that those who stop early have done the same, but in orders of their own.
    """
    kinds = [(face.label, face.generator or face.extra.get("source", "")) for face in faces]
    per_class = Counter(label for label, _ in set(kinds))
    rows = defaultdict[tuple[int | None, str], list[int]](list)
    for row, kind in enumerate(kinds):
        rows[kind].append(row)
    random, keys = np.random.default_rng(seed), np.zeros(len(faces))
    for kind in sorted(rows, key=str):
        own = random.permutation(rows[kind])
        keys[own] = np.arange(len(own)) + _SPREAD * random.random(len(own))
        keys[own] *= per_class[kind[0]]
    personal = np.random.default_rng([seed, zlib.crc32(annotator.encode())])
    return np.asarray(keys + _PERSONAL * personal.random(len(faces)))


def practice(faces: Sequence[Sample], count: int, seed: int) -> list[int]:
    """Return the rows of the practice round: as many real as synthetic faces, mixed.

    None if fewer than twice as many faces have a label, or a class has too few.
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

    margins [N]: how far a detector's score is on the right side of its threshold, below 0 where it
    is wrong. Below ``UNSURE`` the most wrong come first, then ``disputed`` rows.
    """
    if margins is None:
        return keys
    disagreed = np.isin(np.arange(len(keys)), disputed)
    return np.where(margins < UNSURE, margins - 2e9, keys - 1e9 * disagreed)


def repeated(seed: int, annotator: str, number: int, every: int) -> int:
    """Return which answer is asked again, from 0: of the last ``every``, not of the latest 5."""
    random = np.random.default_rng([seed, zlib.crc32(annotator.encode()), number])
    return number * every + int(random.integers(max(1, every - 5)))

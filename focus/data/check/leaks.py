"""The same picture in two splits: what training saw would be scored.

Equal files are found by a hash of their bytes. For the same picture in other bytes (re-encoded,
resized), each thumbnail is compared with each of a later split by its DCT coefficients of up to 16
half-periods, each weighted by the root of its frequency, since aligned faces, which correlate by
.95 and more, differ in the finer ones. The measure is SSIM's term of contrast and structure (Wang
et al., *Image Quality Assessment*, 2004), ``(2 ab + C) / (aa + bb + C)``: a correlation that ``C``
keeps from being about JPEG's noise in pictures of little contrast. Mirrored and cropped copies are
not looked for.

The threshold was measured on 10,000 distinct demo faces of 64 x 64 pixels. The two most similar of
them reach .964. Each of them, stored as JPEG of quality 30 to 95 or resized by an averaging filter
to 0.5 to 2 times its size, is similar to itself by .988 at least. Larger photographs are told apart
more easily.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from focus.data.check.survey import THUMB, Look
from focus.data.manifest import REAL, STORED_IN, SYNTHETIC, Manifest, Split
from focus.runtime.files import write_csv
from focus.runtime.progress import progress_bar

PAIR: Literal["a fake and its source"] = "a fake and its source"
"""Kind of the same picture in both classes: a fake and the real face that it was made from."""
MIN_SIMILARITY = 0.9775
"""From here on two thumbnails count as the same picture."""

# An image belongs to the last of these that it occurs in.
_ORDER: tuple[Split, ...] = ("train", "validation", "test")
_MAX_FREQUENCY = 16.0  # half-periods
_C = 1e6  # in squared weighted coefficients of [0, 255]
_MIN_CONTRAST = 1.0  # grey levels; flat thumbnails are all alike
_PART = 2048  # images in one matrix product

_FREQUENCY = np.hypot(*np.mgrid[:THUMB, :THUMB]).ravel()
_USED = np.flatnonzero((_FREQUENCY > 0) & (_FREQUENCY <= _MAX_FREQUENCY))
_WEIGHT = np.sqrt(_FREQUENCY[_USED]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Leak:
    """An image of a split that occurs in a later one (of train, validation, test) too.

    row: The row of the image in the manifest. other: The row of the most similar image of the later
    split. similarity: That of the thumbnails, 1 for equal files.
    """

    row: int
    other: int
    kind: Literal["same file", "same picture", "a fake and its source"]
    similarity: float = 1.0


def find_leaks(manifest: Manifest, looks: Sequence[Look]) -> list[Leak]:
    """Return all leaks, by row; one for each pair of an image and a later split.

    looks: The look at each image of the manifest.
    """
    copies: dict[tuple[bytes, Split], list[int]] = {}
    for row, (sample, look) in enumerate(zip(manifest, looks, strict=True)):
        if not look.error and sample.split:
            copies.setdefault((look.digest, sample.split), []).append(row)
    found: dict[tuple[int, Split], Leak] = {}
    for (digest, split), rows in copies.items():
        for later in _ORDER[_ORDER.index(split) + 1 :]:
            if others := copies.get((digest, later)):
                found |= {(row, later): Leak(row, others[0], "same file") for row in rows}

    # One file of each content and split stands for all.
    pictures = {
        split: _features(looks, [rows[0] for (_, its), rows in copies.items() if its == split])
        for split in _ORDER
    }
    for split, later in combinations(_ORDER, 2):
        for row, other, similarity in _same_pictures(pictures[split], pictures[later]):
            best = found.get((row, later))
            if best is None or best.similarity < similarity:
                for copy in copies[looks[row].digest, split]:
                    labels = {manifest[copy].label, manifest[other].label}
                    kind = PAIR if labels == {REAL, SYNTHETIC} else "same picture"
                    found[copy, later] = Leak(copy, other, kind, similarity)
    return [found[key] for key in sorted(found, key=lambda key: (key[0], _ORDER.index(key[1])))]


def write_leaks(manifest: Manifest, leaks: Sequence[Leak], path: str | Path) -> None:
    """Write one row a leak; ``docs/formats.md`` describes it."""
    rows = []
    for leak in leaks:
        one, other = manifest[leak.row], manifest[leak.other]
        similarity = f"{leak.similarity:.4f}"
        stored = (each.extra.get(STORED_IN, "") for each in (one, other))
        rows.append((one.path, one.split, other.path, other.split, leak.kind, similarity, *stored))
    stored_in = STORED_IN, f"other_{STORED_IN}"
    header = ("path", "split", "other_path", "other_split", "kind", "similarity", *stored_in)
    write_csv(path, header, rows, may_lack=stored_in)


def find_pairs(manifest: Manifest, looks: Sequence[Look]) -> list[Leak]:
    """Return the fakes whose source, the real face that they were made from, is in their split.

    Fakes that share its group, as they should, are left out.
    """
    readable = [row for row, look in enumerate(looks) if not look.error]
    found = []
    for split in ("", *_ORDER):
        fakes, reals = (
            [r for r in readable if manifest[r].split == split and manifest[r].label == label]
            for label in (SYNTHETIC, REAL)
        )
        both = _features(looks, fakes), _features(looks, reals)
        found += [
            Leak(row, other, PAIR, similarity)
            for row, other, similarity in _same_pictures(*both)
            if looks[row].digest != looks[other].digest
            and not (manifest[row].group and manifest[row].group == manifest[other].group)
        ]
    return found


_Features = tuple[NDArray[np.int64], NDArray[np.float32]]
"""Rows [N] of a manifest, and the weighted DCT coefficients [N, K] of their thumbnails."""


def _features(looks: Sequence[Look], rows: Sequence[int]) -> _Features:
    """Return the features of the images in ``rows`` that are not flat."""
    kept = [np.zeros(0, np.int64)]
    features = [np.zeros((0, len(_USED)), np.float32)]
    for start in range(0, len(rows), _PART):
        part = np.array(rows[start : start + _PART])
        joined = b"".join(looks[row].thumb for row in part)
        thumbs = np.frombuffer(joined, np.uint8).reshape(-1, THUMB, THUMB).astype(np.float32)
        useful = thumbs.std(axis=(1, 2)) >= _MIN_CONTRAST
        spectra = fft.dctn(thumbs[useful], axes=(1, 2), norm="ortho")
        kept.append(part[useful])
        features.append(spectra.reshape(-1, THUMB * THUMB)[:, _USED] * _WEIGHT)
    return np.concatenate(kept), np.concatenate(features)


def _same_pictures(ones: _Features, others: _Features) -> Iterator[tuple[int, int, float]]:
    """Yield (row, row, similarity) of pairs that show the same picture.

    For each image, the most similar other one in a matrix product is named, as all may be alike.
    """
    starts = product(range(0, len(ones[0]), _PART), range(0, len(others[0]), _PART))
    for i, j in progress_bar(list(starts), "comparing", unit="block", delay=5, leave=False):
        a, b = ones[1][i : i + _PART], others[1][j : j + _PART]
        squares = [np.einsum("nk,nk->n", each, each) for each in (a, b)]
        similarity = (2 * (a @ b.T) + _C) / (np.add.outer(*squares) + _C)
        best = similarity.argmax(axis=1)
        most = similarity[np.arange(len(a)), best]
        for at in np.flatnonzero(most >= MIN_SIMILARITY):
            other = others[0][j + best[at]]
            yield int(ones[0][i + at]), int(other), min(float(most[at]), 1.0)

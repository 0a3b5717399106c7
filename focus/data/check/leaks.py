"""The same picture in two splits: what training saw would be scored.

Equal files are found by a hash of their bytes. For the same picture in other bytes (re-encoded,
resized), each thumbnail is compared with each of a later split by its DCT coefficients of up to 16
half-periods, each weighted by the root of its frequency, since faces differ in the finer ones:
aligned faces correlate by .95 and more. The measure is SSIM's term of contrast and structure (Wang
et al., *Image Quality Assessment*, 2004), ``(2 ab + C) / (aa + bb + C)``: a correlation that ``C``
keeps from being about JPEG's noise in pictures of little contrast. It is one matrix product, two
CPU minutes for 100,000 images against as many.

The threshold was measured on 10,000 distinct demo faces of 64 x 64 pixels. The two most similar of
them reach .964. Each of them, stored as JPEG of quality 30 to 95 or resized by an averaging filter
to 0.5 to 2 times its size, is similar to itself by .988 at least. Larger photographs are told apart
more easily: JPEG harms them less, and they differ more. Mirrored and cropped copies are not looked
for.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from focus.data.check.survey import THUMB, Look
from focus.data.manifest import Manifest, Split
from focus.runtime.files import atomic_csv_writer
from focus.runtime.progress import progress_bar

MIN_SIMILARITY = 0.9775
"""From here on two thumbnails count as the same picture."""

Kind = Literal["same file", "same picture"]

CSV_MARKER = "# focus-leaks 2"
# An image belongs to the last of these that it occurs in.
_ORDER: tuple[Split, ...] = ("train", "validation", "test")
_MAX_FREQUENCY = 16.0  # half-periods
_C = 1e6  # in squared weighted coefficients of [0, 255]
_MIN_CONTRAST = 1.0  # grey levels; flat thumbnails are all alike
_PART = 2048  # images in one go

_FREQUENCY = np.hypot(*np.mgrid[:THUMB, :THUMB]).ravel()
_USED = np.flatnonzero((_FREQUENCY > 0) & (_FREQUENCY <= _MAX_FREQUENCY))
_WEIGHT = np.sqrt(_FREQUENCY[_USED]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Leak:
    """An image of a split that occurs in a later one (of train, validation, test) too.

    row, other: rows of the manifest, the other's split being the later. Of several images there
    the most alike is named. similarity: of the thumbnails.
    """

    row: int
    other: int
    kind: Kind
    similarity: float = 1.0


def find_leaks(manifest: Manifest, looks: Sequence[Look]) -> list[Leak]:
    """All leaks, by row; one for each pair of an image and a later split.

    looks: of the manifest's images, row by row.
    """
    found: dict[tuple[int, Split], Leak] = {}
    same: dict[tuple[bytes, Split], list[int]] = {}
    for row, (sample, look) in enumerate(zip(manifest, looks, strict=True)):
        if not look.error and sample.split:
            same.setdefault((look.digest, sample.split), []).append(row)
    for (digest, split), rows in same.items():
        for later in _later(split):
            if others := same.get((digest, later)):
                found |= {(row, later): Leak(row, others[0], "same file") for row in rows}

    # One file of each content and split stands for all.
    members = {rows[0]: rows for rows in same.values()}
    pictures = {
        split: _pictures(looks, [row for row in members if manifest[row].split == split])
        for split in _ORDER
    }
    for split in _ORDER:
        for later in _later(split):
            for row, other, similar in _same_pictures(pictures[split], pictures[later]):
                best = found.get((row, later))
                if best is None or (best.kind == "same picture" and best.similarity < similar):
                    for member in members[row]:
                        found[member, later] = Leak(member, other, "same picture", similar)
    return [found[key] for key in sorted(found, key=lambda key: (key[0], _ORDER.index(key[1])))]


def without_leaks(manifest: Manifest, leaks: Sequence[Leak]) -> Manifest:
    """Each picture only in the last of train, validation and test that it occurs in."""
    rows = {leak.row for leak in leaks}
    return Manifest((s for row, s in enumerate(manifest) if row not in rows), manifest.source)


def write_leaks(manifest: Manifest, leaks: Sequence[Leak], path: str | Path) -> None:
    """One row a leak; ``docs/formats.md`` describes it."""
    with atomic_csv_writer(path, CSV_MARKER) as writer:
        writer.writerow(["path", "split", "other_path", "other_split", "kind", "similarity"])
        for leak in leaks:
            one, other = manifest[leak.row], manifest[leak.other]
            similar = f"{leak.similarity:.4f}"
            writer.writerow([one.path, one.split, other.path, other.split, leak.kind, similar])


def _later(split: Split) -> tuple[Split, ...]:
    return _ORDER[_ORDER.index(split) + 1 :]


class _Pictures(NamedTuple):
    """Rows [N] of a manifest and the features [N,K] of their images."""

    rows: NDArray[np.int64]
    features: NDArray[np.float32]


def _pictures(looks: Sequence[Look], rows: Sequence[int]) -> _Pictures:
    """Of the images in ``rows`` those that are not flat."""
    found = [_Pictures(np.zeros(0, np.int64), np.zeros((0, len(_USED)), np.float32))]
    for start in range(0, len(rows), _PART):
        part = np.array(rows[start : start + _PART])
        thumbs = b"".join(looks[row].thumb for row in part)
        spectrum = spectra(np.frombuffer(thumbs, np.uint8).reshape(-1, THUMB, THUMB))
        useful = contrast(spectrum) >= _MIN_CONTRAST
        found.append(_Pictures(part[useful], features(spectrum[useful])))
    return _Pictures(*(np.concatenate(field) for field in zip(*found, strict=True)))


def _same_pictures(ones: _Pictures, others: _Pictures) -> Iterator[tuple[int, int, float]]:
    """(row, row, similarity) of pairs that show the same picture.

    Of each row's in a part of the others only the most alike, the first of several: all of the
    pairs may be alike.
    """
    parts = list(
        itertools.product(range(0, len(ones.rows), _PART), range(0, len(others.rows), _PART))
    )
    for i, j in progress_bar(parts, "comparing", unit="block", delay=5, leave=False):
        similar = similarity(ones.features[i : i + _PART], others.features[j : j + _PART])
        best = similar.argmax(axis=1)
        most = np.take_along_axis(similar, best[:, None], axis=1)[:, 0]
        for a in np.flatnonzero(most >= MIN_SIMILARITY):
            yield int(ones.rows[i + a]), int(others.rows[j + best[a]]), float(most[a])


def spectra(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Orthonormal two-dimensional DCT-II of [N, 32, 32], the coefficients as [N, 1024]."""
    found: NDArray[np.float32] = fft.dctn(thumbs.astype(np.float32), axes=(1, 2), norm="ortho")
    return found.reshape(len(thumbs), THUMB * THUMB)


def contrast(spectrum: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, 1024] coefficients to the [N] standard deviations of the pixels, in grey levels."""
    deviation: NDArray[np.float32] = np.linalg.norm(spectrum[:, 1:], axis=1) / np.float32(THUMB)
    return deviation


def features(spectrum: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, 1024] coefficients to the [N, K] weighted ones that are compared."""
    weighted: NDArray[np.float32] = spectrum[:, _USED] * _WEIGHT
    return weighted


def similarity(ones: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each of the features [N, K] and [M, K], as [N, M]: 1 for equal ones."""
    squares = [np.einsum("nk,nk->n", each, each) for each in (ones, others)]
    ssim: NDArray[np.float32] = ones @ others.T
    ssim *= 2
    ssim += _C
    ssim /= np.add.outer(*squares) + _C
    return ssim

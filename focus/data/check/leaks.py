"""The same picture in two splits: what training saw would be scored.

Equal files are found by a hash of their bytes. For the same picture in other bytes (encoded anew,
resized), each thumbnail has a 64-bit perceptual hash: its 64 lowest DCT coefficients, the mean
apart, against their median (after Zauner, *Implementation and Benchmarking of Perceptual Image Hash
Functions*, 2010). Candidates are pairs that agree in one of the hash's 8 bytes, which every pair at
a Hamming distance of 7 or less does (Norouzi et al., *Fast Search in Hamming Space with Multi-Index
Hashing*, 2012), so not all pairs are compared.

Aligned faces have much the same hash, and correlate by .95 and more. What decides is how similar
the thumbnails are in their DCT coefficients of up to 16 half-periods, each weighted by the root of
its frequency, since faces differ in the finer ones. The measure is SSIM's term of contrast and
structure (Wang et al., *Image Quality Assessment*, 2004), ``(2 ab + C) / (aa + bb + C)``: a
correlation that ``C`` keeps from being about JPEG's noise in pictures of little contrast.

The thresholds were measured on 10,000 distinct demo faces of 64 x 64 pixels. The two most similar
of them reach .957. Each of them, stored as JPEG of quality 30 to 95 or resized by an averaging
filter to 0.5 to 2 times its size, is similar to itself by .988 at least, at distances up to 10; all
are candidates. Larger photographs are told apart more easily: JPEG harms them less, and they differ
more. Mirrored and cropped copies are not looked for.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from focus.data.check.survey import THUMB, Look
from focus.data.manifest import Manifest, Split

MAX_DISTANCE = 14
"""Bits in which the hashes of two candidates may differ."""
MIN_SIMILARITY = 0.9775
"""From here on two candidates count as the same picture."""

Kind = Literal["same file", "same picture"]

CSV_MARKER = "# focus-leaks 1"
# An image belongs to the last of these that it occurs in.
_ORDER: tuple[Split, ...] = ("train", "validation", "test")
_MAX_FREQUENCY = 16.0  # half-periods
_C = 1e6  # in squared weighted coefficients of [0, 255]
_MIN_CONTRAST = 1.0  # grey levels; flat thumbnails are all alike
_CELLS = 1 << 22  # of the largest table of distances held at once
_PART = 4096  # images, or pairs, in one go

_FREQUENCY = np.hypot(*np.mgrid[:THUMB, :THUMB]).ravel()
_LOWEST = np.argsort(_FREQUENCY, kind="stable")[1:65]
_USED = np.flatnonzero((_FREQUENCY > 0) & (_FREQUENCY <= _MAX_FREQUENCY))
_WEIGHT = np.sqrt(_FREQUENCY[_USED]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Leak:
    """An image of a split that occurs in a later one (of train, validation, test) too.

    row, other: rows of the manifest, the other's split being the later. Of several images there
    the most alike is named. distance: Hamming, of the hashes. similarity: of the thumbnails.
    """

    row: int
    other: int
    kind: Kind
    distance: int = 0
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
    by_split = {split: [r for r in members if manifest[r].split == split] for split in _ORDER}
    index = _Index(looks, list(members))
    for split in _ORDER:
        for later in _later(split):
            pairs = index.pairs(by_split[split], by_split[later])
            for row, other, distance, similarity in pairs:
                best = found.get((row, later))
                if best is None or (best.kind == "same picture" and best.similarity < similarity):
                    for member in members[row]:
                        found[member, later] = Leak(
                            member, other, "same picture", distance, similarity
                        )
    return [found[key] for key in sorted(found, key=lambda key: (key[0], _ORDER.index(key[1])))]


def without_leaks(manifest: Manifest, leaks: Sequence[Leak]) -> Manifest:
    """Each picture only in the last of train, validation and test that it occurs in."""
    rows = {leak.row for leak in leaks}
    return Manifest((s for row, s in enumerate(manifest) if row not in rows), manifest.source)


def write_leaks(manifest: Manifest, leaks: Sequence[Leak], path: str | Path) -> None:
    """One row a leak; ``docs/formats.md`` describes it."""
    with Path(path).open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(f"{CSV_MARKER}\r\n")
        writer = csv.writer(file)
        writer.writerow(
            ["path", "split", "other_path", "other_split", "kind", "hash_distance", "similarity"]
        )
        for leak in leaks:
            one, other = manifest[leak.row], manifest[leak.other]
            numbers = (leak.distance, f"{leak.similarity:.4f}")
            writer.writerow([one.path, one.split, other.path, other.split, leak.kind, *numbers])


def _later(split: Split) -> tuple[Split, ...]:
    return _ORDER[_ORDER.index(split) + 1 :]


class _Index:
    """Hashes and features of the images in ``rows``, and the pairs among them that are alike."""

    def __init__(self, looks: Sequence[Look], rows: Sequence[int]) -> None:
        self._rows = np.array(rows, dtype=np.int64)
        self._place = {row: place for place, row in enumerate(rows)}
        self._hashes = np.empty(len(rows), np.uint64)
        self._features = np.empty((len(rows), len(_USED)), np.float32)
        self._useful = np.empty(len(rows), bool)
        for start in range(0, len(rows), _PART):
            here = slice(start, start + _PART)
            thumbs = b"".join(looks[row].thumb for row in rows[here])
            spectrum = spectra(np.frombuffer(thumbs, np.uint8).reshape(-1, THUMB, THUMB))
            self._hashes[here] = hashes(spectrum)
            self._features[here] = features(spectrum)
            self._useful[here] = contrast(spectrum) >= _MIN_CONTRAST

    def pairs(
        self, ones: Sequence[int], others: Sequence[int]
    ) -> Iterator[tuple[int, int, int, float]]:
        """(row, row, distance, similarity) of each pair that shows the same picture."""
        left, right = (
            places[self._useful[places]]
            for rows in (ones, others)
            for places in [np.array([self._place[row] for row in rows], dtype=np.int64)]
        )
        for a, b, distance in self._candidates(left, right):
            for start in range(0, len(a), _PART):
                here = slice(start, start + _PART)
                similar = similarity(self._features[a[here]], self._features[b[here]])
                for at in np.flatnonzero(similar >= MIN_SIMILARITY):
                    yield (
                        int(self._rows[a[here][at]]),
                        int(self._rows[b[here][at]]),
                        int(distance[here][at]),
                        float(similar[at]),
                    )

    def _candidates(
        self, left: NDArray[np.int64], right: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]]:
        """Pairs that share a byte of the hash and are near, each once."""
        bytes_left = self._hashes[left].view(np.uint8).reshape(-1, 8)
        bytes_right = self._hashes[right].view(np.uint8).reshape(-1, 8)
        for band in range(8):
            for value in np.intersect1d(bytes_left[:, band], bytes_right[:, band]):
                ours = left[bytes_left[:, band] == value]
                theirs = right[bytes_right[:, band] == value]
                step = max(1, _CELLS // len(theirs))
                for start in range(0, len(ours), step):
                    part = ours[start : start + step]
                    differing = self._hashes[part, None] ^ self._hashes[theirs]
                    distances = np.bitwise_count(differing)
                    a, b = np.nonzero(distances <= MAX_DISTANCE)
                    # A pair that agrees in an earlier byte was there before.
                    earlier = differing[a, b][:, None].view(np.uint8)[:, :band]
                    new = (earlier != 0).all(axis=1)
                    a, b = a[new], b[new]
                    yield part[a], theirs[b], distances[a, b]


def spectra(thumbs: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Orthonormal two-dimensional DCT-II of [N, 32, 32], the coefficients as [N, 1024]."""
    place = np.arange(THUMB)
    basis = np.cos(np.pi / THUMB * np.outer(place, place + 0.5)) * np.sqrt(2 / THUMB)
    basis[0] /= np.sqrt(2)
    single = basis.astype(np.float32)
    both: NDArray[np.float32] = single @ thumbs.astype(np.float32) @ single.T
    return both.reshape(len(thumbs), THUMB * THUMB)


def hashes(spectrum: NDArray[np.float32]) -> NDArray[np.uint64]:
    """[N, 1024] coefficients to [N] hashes."""
    low = spectrum[:, _LOWEST]
    bits = np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)
    return np.ascontiguousarray(bits).view(np.uint64)[:, 0]


def contrast(spectrum: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, 1024] coefficients to the [N] standard deviations of the pixels, in grey levels."""
    deviation: NDArray[np.float32] = np.linalg.norm(spectrum[:, 1:], axis=1) / np.float32(THUMB)
    return deviation


def features(spectrum: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, 1024] coefficients to the [N, K] weighted ones that are compared."""
    weighted: NDArray[np.float32] = spectrum[:, _USED] * _WEIGHT
    return weighted


def similarity(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of the features of [N] pairs: 1 for equal ones."""
    ab, aa, bb = (np.einsum("nk,nk->n", x, y) for x, y in ((a, b), (a, a), (b, b)))
    ssim: NDArray[np.float32] = (2 * ab + _C) / (aa + bb + _C)
    return ssim

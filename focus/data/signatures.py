"""What a picture looks like in 200 numbers, by which it is found where it is stored anew.

The signature of a picture are the DCT coefficients of its grey thumbnail, of up to 16 half-periods,
each weighted by the root of its frequency, since aligned faces, which correlate by .95 and more,
differ in the finer ones. The measure is SSIM's term of contrast and structure (Wang et al., *Image
Quality Assessment*, 2004), ``(2 ab + C) / (aa + bb + C)``: a correlation that ``C`` keeps from
being about JPEG's noise in pictures of little contrast. A mirrored picture has the coefficients of
the picture, those of odd horizontal frequency with the other sign.

:class:`PictureIndex` finds the same picture without comparing all (LSH forest, Bawa et al., 2005):
the signs of a signature in random directions are a key, by which pictures are sorted, in several
lists with other directions each. The same picture is among the neighbours in nearly all of them.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft

from focus.runtime.machine import cache_dir
from focus.runtime.progress import progress_bar
from focus.runtime.rows import NAME, RowStore

_log = logging.getLogger(__name__)

Signatures = NDArray[np.int16]
"""Weighted DCT coefficients [N, K], a row of zeros for a picture without a signature."""

SIGNATURES = "signatures"
"""Folder of the cache."""
MIN_SIMILARITY = 0.9775
"""From here on two signatures count as those of the same picture."""

_VERSION = 1  # to be raised where a signature is computed otherwise
_SIDE = 32  # pixels of the thumbnail
_MAX_FREQUENCY = 16.0  # half-periods
_C = 1e6  # in squared weighted coefficients of [0, 255]
_MIN_CONTRAST = 1.0  # grey levels; flat pictures are all alike
_ORDERS, _NEARBY = 16, 8  # lists, and neighbours on either side that are compared in each
_SAMPLE = 4096  # pictures of which the spread is computed
_LEAST_VARIANCE = 1e4  # of a component, about that of JPEG's noise
_PART = 512  # pictures that are looked up at once
_WRITTEN_EVERY = 4096

_ROW, _COLUMN = np.mgrid[:_SIDE, :_SIDE]
_FREQUENCY = np.hypot(_ROW, _COLUMN)
_USED = (_FREQUENCY > 0) & (_FREQUENCY <= _MAX_FREQUENCY)
_WEIGHT = np.sqrt(_FREQUENCY[_USED]).astype(np.float32)
_MIRROR = np.where(_COLUMN[_USED] % 2, -1, 1).astype(np.float32)
_DCT = fft.dct(np.eye(_SIDE, dtype=np.float32), axis=0, norm="ortho")
_K = int(_USED.sum())


def signature(image: Image.Image) -> NDArray[np.int16]:
    """Return the signature [K] of an upright image."""
    grey = image.convert("L")
    thumbnail = grey.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    spectrum = _DCT @ np.asarray(thumbnail, np.float32) @ _DCT.T
    coefficients: NDArray[np.int16] = np.rint(spectrum[_USED] * _WEIGHT).astype(np.int16)
    return coefficients


class SignatureStore:
    """Signatures by the digest of a file, kept in the cache from one program to the next.

    folder: By default ``signatures`` in :func:`cache_dir`.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._rows = RowStore((folder or cache_dir()) / f"{SIGNATURES}-{_VERSION}", np.int16, (_K,))
        self._unwritten: dict[str, NDArray[np.int16]] = {}
        self._next_write = _WRITTEN_EVERY

    def has(self, digests: Sequence[str]) -> NDArray[np.bool_]:
        """Return which of these digests have a signature."""
        is_unwritten = np.array([digest in self._unwritten for digest in digests], bool)
        return is_unwritten | (self._rows.find(_names(digests)) >= 0)

    def add(self, digest: str, row: NDArray[np.int16]) -> None:
        """Keep a signature, on the disk with the next :meth:`flush`, which follows now and then."""
        self._unwritten[digest] = row
        if len(self._unwritten) >= self._next_write:
            self.flush()

    def flush(self) -> None:
        """Write what was added; what the disk refuses is kept in memory."""
        if not self._unwritten:
            return
        try:
            self._rows.append(_names(list(self._unwritten)), list(self._unwritten.values()))
        except OSError as error:
            _log.warning("signatures of pictures are not kept for the next program: %s", error)
            self._next_write = 2 * len(self._unwritten)
            return
        self._unwritten.clear()

    def table(self, digests: Iterable[str]) -> "SignatureTable":
        """Read the signatures of these digests, of which some may be the same or ""."""
        distinct = [digest for digest in dict.fromkeys(digests) if digest]
        return SignatureTable(distinct, self.of(distinct))

    def of(self, digests: Sequence[str]) -> Signatures:
        """Return the signatures of these digests, zeros where there is none."""
        signatures = np.zeros((len(digests), _K), np.int16)
        numbers = self._rows.find(_names(digests))
        for row, (digest, number) in enumerate(zip(digests, numbers.tolist(), strict=True)):
            unwritten = self._unwritten.get(digest)
            if unwritten is not None:
                signatures[row] = unwritten
            elif number >= 0 and not self._rows.read(number, signatures[row]):
                signatures[row] = 0
        return signatures


class SignatureTable:
    """Signatures in memory, 400 bytes each, for whoever compares the same pictures several times.

    digests: Distinct ones. signatures: Their signatures [N, K].
    """

    def __init__(self, digests: Sequence[str], signatures: Signatures) -> None:
        self._row_of = {digest: row for row, digest in enumerate(digests)}
        self._signatures = signatures

    def of(self, digests: Iterable[str]) -> Signatures:
        """Return the signatures of these digests, which are in the table."""
        return self._signatures[[self._row_of[digest] for digest in digests]]


@dataclass(frozen=True, slots=True)
class Matches:
    """The most similar picture of an index for each picture that was looked up.

    rows: Its row in the index [N], -1 where none is the same picture. similarity: Of the two
    signatures [N], at most 1. mirrored: Whether it is the same picture mirrored [N].
    """

    rows: NDArray[np.int64]
    similarity: NDArray[np.float32]
    mirrored: NDArray[np.bool_]


class PictureIndex:
    """Pictures among which the same ones are found: in their order, by their signatures."""

    def __init__(self, signatures: Signatures) -> None:
        self._rows = np.flatnonzero(_has_contrast(signatures))
        self._signatures = signatures
        sample = signatures[self._rows[:: max(1, len(self._rows) // _SAMPLE)]].astype(np.float32)
        self._mean = sample.mean(axis=0) if len(sample) else np.zeros(_K, np.float32)
        self._directions = _directions(sample - self._mean)
        self._orders: list[tuple[NDArray[np.uint32], NDArray[np.int64]]] = []
        if len(self._rows):
            for keys in self._keys(signatures):
                order = self._rows[np.argsort(keys[self._rows], kind="stable")]
                self._orders.append((keys[order], order))

    def find(self, signatures: Signatures) -> Matches:
        """Return the same picture as each of these, mirrored or not, if the index has one."""
        matches = Matches(
            np.full(len(signatures), -1, np.int64),
            np.zeros(len(signatures), np.float32),
            np.zeros(len(signatures), bool),
        )
        if not self._orders:
            return matches
        usable = np.flatnonzero(_has_contrast(signatures))
        starts = range(0, len(usable), _PART)
        for start in progress_bar(starts, "comparing pictures", unit="part", delay=5, leave=False):
            part = usable[start : start + _PART]
            as_it_is = signatures[part].astype(np.float32)
            for mirrored in (False, True):
                rows, similarity = self._most_similar(as_it_is * _MIRROR if mirrored else as_it_is)
                better = (similarity >= MIN_SIMILARITY) & (similarity > matches.similarity[part])
                matches.rows[part[better]] = rows[better]
                matches.similarity[part[better]] = similarity[better]
                matches.mirrored[part[better]] = mirrored
        return matches

    def _most_similar(
        self, pictures: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the row and the similarity of the most similar picture of those nearby."""
        best_row = np.full(len(pictures), -1, np.int64)
        best = np.zeros(len(pictures), np.float32)
        squares = np.einsum("nk,nk->n", pictures, pictures)
        for keys, (sorted_keys, rows) in zip(self._keys(pictures), self._orders, strict=True):
            first = np.searchsorted(sorted_keys, keys) - _NEARBY
            nearby = first[:, None] + np.arange(2 * _NEARBY)
            candidates = rows[nearby.clip(0, len(rows) - 1)]
            others = self._signatures[candidates].astype(np.float32)
            products = np.einsum("nk,nck->nc", pictures, others)
            squares_of_others = np.einsum("nck,nck->nc", others, others)
            similarity = (2 * products + _C) / (squares[:, None] + squares_of_others + _C)
            most = similarity.argmax(axis=1)[:, None]
            highest = np.take_along_axis(similarity, most, axis=1)[:, 0]
            is_better = highest > best
            best[is_better] = highest[is_better]
            best_row[is_better] = np.take_along_axis(candidates, most, axis=1)[is_better, 0]
        return best_row, np.minimum(best, 1)

    def _keys(self, signatures: NDArray[np.generic]) -> NDArray[np.uint32]:
        """Return the key of each picture in each order [orders, N]."""
        keys = np.zeros((_ORDERS, len(signatures)), np.uint32)
        for start in range(0, len(signatures), _PART):
            centred = signatures[start : start + _PART].astype(np.float32) - self._mean
            is_positive = centred @ self._directions > 0
            bits = np.packbits(is_positive.reshape(len(centred), _ORDERS, 32), axis=2)
            keys[:, start : start + _PART] = bits.view(">u4")[..., 0].T
        return keys


def _directions(centred: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the directions [K, orders * 32] of the bits of keys, drawn at random from a seed.

    Each is weighted by the spread of the pictures, so that the few components in which most
    pictures differ most do not decide all bits alone.
    """
    variances, components = np.linalg.eigh(centred.T @ centred / max(1, len(centred)))
    spread = np.sqrt(np.sqrt(np.maximum(variances, _LEAST_VARIANCE)))
    drawn = np.random.default_rng(0).standard_normal((_K, _ORDERS * 32))
    directions: NDArray[np.float32] = (components @ (drawn / spread[:, None])).astype(np.float32)
    return directions


def _has_contrast(signatures: Signatures) -> NDArray[np.bool_]:
    has_contrast = np.empty(len(signatures), bool)
    # A part at a time, as numbers of floating point take twice the memory of all signatures.
    for start in range(0, len(signatures), _PART):
        coefficients = signatures[start : start + _PART] / _WEIGHT
        energy = (coefficients**2).sum(axis=1)
        has_contrast[start : start + _PART] = energy >= (_SIDE * _MIN_CONTRAST) ** 2
    return has_contrast


def _names(digests: Sequence[str]) -> NDArray[np.bytes_]:
    return np.array([bytes.fromhex(digest) for digest in digests], NAME)

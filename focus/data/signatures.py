"""What a picture looks like in 200 numbers, by which it is found where it is stored anew.

The signature of a picture are the DCT coefficients of its grey thumbnail, of up to 16 half-periods,
each weighted by the root of its frequency, since aligned faces, which correlate by .95 and more,
differ in the finer ones. The measure is SSIM's term of contrast and structure (Wang et al., *Image
Quality Assessment*, 2004), ``(2 ab + C) / (aa + bb + C)``: a correlation that ``C`` keeps from
being about JPEG's noise in pictures of little contrast. A mirrored picture has the coefficients of
the picture, those of odd horizontal frequency with the other sign.

:class:`PictureIndex` finds the same picture without comparing all (LSH forest, Bawa et al., 2005).
The signs of a signature in 512 random directions are its sketch. Each 32 of them are a key by which
pictures are sorted, and the same picture is among the neighbours in nearly all of these orders.
Neighbours with sketches that are alike are compared by their signatures.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import fft

from focus.runtime.machine import cache_dir
from focus.runtime.progress import progress_bar
from focus.runtime.rows import NAME, Names, RowStore, names_of

_log = logging.getLogger(__name__)

Signatures = NDArray[np.int16]
"""Weighted DCT coefficients [N, K], a row of zeros for a picture without a signature."""
Sketches = NDArray[np.uint32]
"""Keys [N, 16] of 32 signs each; the second half are the first half of the mirrored picture."""
Numbers = NDArray[np.int64]
"""Numbers of pictures [N]."""

SIGNATURES = "signatures"
"""Folder of the cache."""
MIN_SIMILARITY = 0.9775
"""From here on two signatures count as those of the same picture."""

_VERSION = 1  # to be raised where a signature is computed otherwise
_SIDE = 32  # pixels of the thumbnail
_MAX_FREQUENCY = 16.0  # half-periods
_C = 1e6  # in squared weighted coefficients of [0, 255]
_MIN_CONTRAST = 1.0  # grey levels; flat pictures are all alike
_KEYS, _NEARBY = 16, 8  # of a sketch, and neighbours on either side that are looked at by each
_MOST_DIFFERENT = 144  # of 512 signs, in which sketches of the same picture may differ
_SAMPLE = 4096  # pictures of which the spread is computed
_LEAST_VARIANCE = 1e4  # of a component, about that of JPEG's noise
_PART = 2048  # pictures that are read, looked up or compared at once
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
        self._unwritten: dict[bytes, NDArray[np.int16]] = {}
        self._next_write = _WRITTEN_EVERY

    def has(self, names: Names) -> NDArray[np.bool_]:
        """Return which of these have a signature [N]."""
        has_signature: NDArray[np.bool_] = self._rows.find(names) >= 0
        if self._unwritten:
            has_signature |= np.array([name in self._unwritten for name in names.tolist()], bool)
        return has_signature

    def add(self, digest: str, row: NDArray[np.int16]) -> None:
        """Keep a signature, on the disk with the next :meth:`flush`, which follows now and then."""
        (name,) = names_of([digest]).tolist()
        self._unwritten[name] = row
        if len(self._unwritten) >= self._next_write:
            self.flush()

    def flush(self) -> None:
        """Write what was added; what the disk refuses is kept in memory."""
        if not self._unwritten:
            return
        try:
            names = np.array([*self._unwritten], NAME)
            self._rows.append(names, [*self._unwritten.values()])
        except OSError as error:
            _log.warning("signatures of pictures are not kept for the next program: %s", error)
            self._next_write = 2 * len(self._unwritten)
            return
        self._unwritten.clear()

    def read(self, names: Names) -> Signatures:
        """Return the signatures of these names, zeros where there is none."""
        signatures = np.zeros((len(names), _K), np.int16)
        numbers = self._rows.find(names).tolist()
        for row, (name, number) in enumerate(zip(names.tolist(), numbers, strict=True)):
            unwritten = self._unwritten.get(name)
            if unwritten is not None:
                signatures[row] = unwritten
            elif number >= 0 and not self._rows.read(number, signatures[row]):
                signatures[row] = 0
        return signatures


@dataclass(frozen=True, slots=True)
class Matches:
    """The most similar original of each picture that was looked up.

    originals: Its number [N], -1 where none is the same picture. similarity: Of the two signatures
    [N], at most 1. mirrored: Whether it is the same picture mirrored [N].
    """

    originals: Numbers
    similarity: NDArray[np.float32]
    mirrored: NDArray[np.bool_]


class PictureIndex:
    """Pictures by number, among which the same ones are found; a picture takes 65 bytes.

    read: Returns the signatures [N, K] of pictures by their numbers. count: How many there are.
    """

    def __init__(self, read: Callable[[Numbers], Signatures], count: int) -> None:
        self._read, self._count = read, count
        sample = read(np.arange(0, count, max(1, count // _SAMPLE)))
        directions = _directions(sample[_has_contrast(sample)])
        self._sketches = np.zeros((count, _KEYS), np.uint32)
        self._has_contrast = np.zeros(count, bool)
        for part in _parts(np.arange(count), "reading signatures"):
            signatures = read(part)
            self._sketches[part] = directions.sketches(signatures)
            self._has_contrast[part] = _has_contrast(signatures)

    def find(self, originals: Numbers, pictures: Numbers) -> Matches:
        """Return the original that is the same picture as each of ``pictures``, mirrored or not.

        Both are numbers, each of them there once.
        """
        match_of = np.full(self._count, -1, np.int64)
        highest = np.zeros(self._count, np.float32)
        is_mirrored = np.zeros(self._count, bool)
        upright, mirrored = self._alike(
            originals[self._has_contrast[originals]], pictures[self._has_contrast[pictures]]
        )
        # A picture that equals its mirrored one counts as upright.
        for pairs, of_mirrored in ((upright, False), (mirrored, True)):
            for part in _parts(pairs, "comparing pictures"):
                picture, original = np.divmod(part, self._count)
                similarity = self._similarity(picture, original, mirrored=of_mirrored)
                is_better = (similarity >= MIN_SIMILARITY) & (similarity > highest[picture])
                better = np.flatnonzero(is_better)
                better = better[np.argsort(similarity[better], kind="stable")]  # the last one stays
                match_of[picture[better]] = original[better]
                highest[picture[better]] = similarity[better]
                is_mirrored[picture[better]] = of_mirrored
        return Matches(match_of[pictures], highest[pictures], is_mirrored[pictures])

    def _alike(self, originals: Numbers, pictures: Numbers) -> tuple[Numbers, Numbers]:
        """Return pairs of a picture and an original that may be the same, upright and mirrored.

        The number of a pair is that of the picture times the count of all, plus the original's.
        """
        upright = mirrored = np.empty(0, np.int64)
        if not len(originals):
            return upright, mirrored
        keys = progress_bar(
            range(_KEYS), "looking for the same pictures", unit="order", delay=5, leave=False
        )
        for key in keys:
            order = _Order(self._sketches, originals, key)
            upright = np.union1d(upright, self._alike_in(order, pictures, mirrored=False))
            mirrored = np.union1d(mirrored, self._alike_in(order, pictures, mirrored=True))
        return upright, mirrored

    def _alike_in(self, order: "_Order", pictures: Numbers, *, mirrored: bool) -> Numbers:
        """Return pairs of a picture and that of its neighbours in an order that is most alike."""
        turn = _KEYS // 2 if mirrored else 0
        keys = self._sketches[pictures, (order.key + turn) % _KEYS]
        # In their order the neighbours of a picture are still in the processor's cache.
        pictures = pictures[np.argsort(keys, kind="stable")]
        pairs = [np.empty(0, np.int64)]
        for part in _parts(pictures):
            nearest, differences = order.nearest(np.roll(self._sketches[part], turn, axis=1))
            is_alike = differences <= _MOST_DIFFERENT
            pairs.append(part[is_alike] * self._count + nearest[is_alike])
        return np.concatenate(pairs)

    def _similarity(
        self, pictures: Numbers, originals: Numbers, *, mirrored: bool
    ) -> NDArray[np.float32]:
        """Return the similarity of the two pictures of each pair [N]."""
        of_pictures = self._read(pictures).astype(np.float32)
        of_originals = self._read(originals).astype(np.float32)
        if mirrored:
            of_pictures *= _MIRROR
        products = np.einsum("nk,nk->n", of_pictures, of_originals)
        squares = np.einsum("nk,nk->n", of_pictures, of_pictures)
        squares += np.einsum("nk,nk->n", of_originals, of_originals)
        similarity: NDArray[np.float32] = np.minimum(1, (2 * products + _C) / (squares + _C))
        return similarity


class _Order:
    """Pictures in the order of one of the keys of their sketches.

    sketches: Those of all pictures. numbers: The pictures of this order, at least one.
    """

    def __init__(self, sketches: Sketches, numbers: Numbers, key: int) -> None:
        self.key = key
        self._numbers = numbers[np.argsort(sketches[numbers, key], kind="stable")]
        self._sketches = sketches[self._numbers]
        self._keys = self._sketches[:, key].copy()

    def nearest(self, sketches: Sketches) -> tuple[Numbers, NDArray[np.uint16]]:
        """Return which neighbour of each sketch differs in the fewest signs, and in how many."""
        first = np.searchsorted(self._keys, sketches[:, self.key]) - _NEARBY
        neighbours = (first[:, None] + np.arange(2 * _NEARBY)).clip(0, len(self._keys) - 1)
        signs = sketches.view(np.uint64)[:, None] ^ self._sketches.view(np.uint64)[neighbours]
        differences = np.bitwise_count(signs).sum(axis=2, dtype=np.uint16)
        least = differences.argmin(axis=1)
        rows = np.arange(len(sketches))
        return self._numbers[neighbours[rows, least]], differences[rows, least]


class _Directions(NamedTuple):
    """What sketches are the signs in: ``directions`` [K, 512] from the ``mean`` [K].

    The second half mirrors the first half, and the mean is symmetric: so the signs of a mirrored
    picture are those of the picture with the halves exchanged.
    """

    mean: NDArray[np.float32]
    directions: NDArray[np.float32]

    def sketches(self, signatures: Signatures) -> Sketches:
        """Return the sketches of signatures."""
        is_positive = (signatures - self.mean) @ self.directions > 0
        bits = np.packbits(is_positive.reshape(len(signatures), _KEYS, 32), axis=2)
        return bits.view(">u4")[..., 0].astype(np.uint32)


def _directions(signatures: Signatures) -> _Directions:
    """Return directions drawn at random from a seed, by the spread of these pictures.

    Each is weighted, so that the few components in which most pictures differ most do not decide
    all signs alone.
    """
    mirrored_too = np.concatenate([signatures, signatures * _MIRROR]).astype(np.float32)
    count = max(1, len(mirrored_too))
    mean = mirrored_too.sum(axis=0) / count
    centred = mirrored_too - mean
    variances, components = np.linalg.eigh(centred.T @ centred / count)
    spread = np.sqrt(np.sqrt(np.maximum(variances, _LEAST_VARIANCE)))
    drawn = np.random.default_rng(0).standard_normal((_K, _KEYS // 2 * 32))
    half = (components @ (drawn / spread[:, None])).astype(np.float32)
    return _Directions(mean, np.hstack([half, half * _MIRROR[:, None]]))


def _parts(numbers: Numbers, text: str = "") -> Iterator[Numbers]:
    """Yield some of the numbers at a time; text: What a bar calls it, where one is shown."""
    starts: Iterable[int] = range(0, len(numbers), _PART)
    if text:
        starts = progress_bar(starts, text, unit="part", delay=5, leave=False)
    for start in starts:
        yield numbers[start : start + _PART]


def _has_contrast(signatures: Signatures) -> NDArray[np.bool_]:
    energy = np.square(signatures / _WEIGHT).sum(axis=1)
    has_contrast: NDArray[np.bool_] = energy >= (_SIDE * _MIN_CONTRAST) ** 2
    return has_contrast

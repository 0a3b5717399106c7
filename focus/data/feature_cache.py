"""Features of a frozen network, each computed once and kept in a file that is mapped into memory.

``$FOCUS_CACHE/features`` has a folder for each network, preprocessing and type of the numbers:
``records.bin``, a record an image and view, and ``index.bin``, 16 bytes that name each record. The
records of a batch are on the disk before their names are, so that of a program that is killed all
whole batches stay, and the next one goes on from there. Nothing is ever written over.
"""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from focus.data.bad_files import DIGESTS
from focus.data.dataset import UNLABELLED, Batch
from focus.data.known_images import CONTENT, content_hash
from focus.data.manifest import Manifest, Sample
from focus.errors import InputError
from focus.runtime.files import flush, locked
from focus.runtime.machine import cache_dir
from focus.runtime.progress import progress_bar

FeatureType = Literal["bfloat16", "float32"]
Digests = NDArray[np.bytes_]
Encoded = tuple[Tensor, Tensor | None, Tensor | None]
Batches = Callable[[list[int]], Iterable[tuple[Batch, Encoded]]]

FOLDER = "features"
# Of torch and of NumPy, which has no bfloat16.
_STORED = {"bfloat16": (torch.int16, np.int16), "float32": (torch.float32, np.float32)}
_DIGEST = 16  # bytes
_WAIT = 1.0  # seconds


def digests(manifest: Manifest, augment: Sequence[str] = (), views: int = 1) -> Digests:
    """Return the names [N, views] of the records: of image, human map, augmentation and view."""
    found = np.empty((len(manifest), views), f"S{_DIGEST}")
    for row, sample in enumerate(manifest):
        about = f"{digest_of(sample)} {sample.extra.get(DIGESTS['map'])} {','.join(augment)}"
        for view in range(views):
            text = f"{about} {view}".encode()
            found[row, view] = hashlib.blake2b(text, digest_size=_DIGEST).digest()
    return found


def digest_of(sample: Sample) -> str:
    """Return a digest of an image's bytes, that of the check before the run if there was one."""
    return sample.extra.get(CONTENT) or content_hash(sample.path)


def gib(size: int) -> str:
    """Return a number of bytes in words."""
    return f"{size / 2**30:.3g} GiB"


class FeatureCache:
    """The records of one network: features, and the human map on their grid.

    Args:
        name: of the network, for people; key: what else the features depend on, as text.
        shape: C, H and W of the features. token: whether a class token [C] is beside them;
            norms: whether those of tokens are, [H, W].
    """

    def __init__(
        self,
        name: str,
        key: str,
        shape: tuple[int, int, int],
        dtype: FeatureType = "bfloat16",
        *,
        token: bool = False,
        norms: bool = False,
    ) -> None:
        channels, *grid = shape
        self.record = np.dtype(
            [
                # Channels last, as tokens are, and as the head's torch form is fastest.
                ("features", _STORED[dtype][1], (*grid, channels)),
                ("saliency", np.float32, tuple(grid)),
                ("has_map", np.bool_),
                ("token", _STORED[dtype][1], (channels * token,)),
                ("norms", np.float32, tuple(side * norms for side in grid)),
            ],
            align=True,
        )
        self.dtype = dtype
        about = hashlib.blake2b(f"{key} {self.record}".encode(), digest_size=8).hexdigest()
        self.folder = cache_dir() / FOLDER / f"{name.replace('/', '_')}-{dtype}-{about}"
        self._data, self._index = self.folder / "records.bin", self.folder / "index.bin"
        self._mapped: NDArray[Any] = np.empty(0, self.record)

    def rows(self, wanted: Digests) -> NDArray[np.int64]:
        """Return the record of each name, -1 where there is none; of the shape of ``wanted``."""
        try:
            whole = self._index.stat().st_size // _DIGEST
            names = np.fromfile(self._index, f"S{_DIGEST}", count=whole)
        except FileNotFoundError:
            names = np.empty(0, f"S{_DIGEST}")
        if not len(names):
            return np.full(wanted.shape, -1)
        by_name = np.argsort(names)
        place = np.searchsorted(names, wanted, sorter=by_name).clip(max=len(names) - 1)
        found = by_name[place]
        if len(self._mapped) < len(names):
            self._mapped = np.memmap(self._data, self.record, "r", shape=len(names))
        return np.where(names[found] == wanted, found, -1)

    def read(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return features ``[B,C,H,W]``, channels last, maps ``[B,H,W]``, which are, and tokens."""
        names = "features", "saliency", "has_map", "token"
        features, saliency, has_map, token = (
            torch.from_numpy(self._mapped[name][rows]) for name in names
        )
        dtype = getattr(torch, self.dtype)
        return features.view(dtype).permute(0, 3, 1, 2), saliency, has_map, token.view(dtype)

    def norms(self, rows: NDArray[np.int64]) -> Tensor:
        """Return those of tokens ``[B,H,W]``, or ``[B,0,0]``."""
        return torch.from_numpy(self._mapped["norms"][rows])

    def fill(
        self,
        wanted: Digests,
        batches: Batches,
        *,
        progress: bool = True,
    ) -> None:
        """Add what is missing of the names ``wanted`` [N].

        batches: yields, for places in ``wanted``, the images in batches, and of each what
        :meth:`focus.model.detector.Detector.encode_with_norms` returns. It is called once no other
        program fills the same folder.

        Raises:
            InputError: the disk is full; what was written stays.
        """
        if (self.rows(wanted) >= 0).all():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with _waiting_for(self.folder / ".lock", progress):
                missing = np.flatnonzero(self.rows(wanted) < 0)
                _, first = np.unique(wanted[missing], return_index=True)
                self._append(wanted, missing[np.sort(first)], batches, progress)
        except OSError as error:
            raise InputError(
                f"The features cannot be written to {self.folder} ({error.strerror or error}): "
                "free some space, or set FOCUS_CACHE to another folder."
            ) from error

    def _append(
        self,
        wanted: Digests,
        missing: NDArray[np.int64],
        batches: Batches,
        progress: bool,
    ) -> None:
        size, free = len(missing) * self.record.itemsize, shutil.disk_usage(self.folder).free
        if progress and len(missing):
            print(
                f"features of {len(missing)} images or views: {gib(size)} to write to "
                f"{self.folder}, where {gib(free)} are free"
            )
        if size > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with (
            self._data.open("ab") as data,
            self._index.open("ab") as index,
            progress_bar(
                total=len(missing), desc="features", unit="image", disable=not progress
            ) as bar,
        ):
            done = index.tell() // _DIGEST
            index.truncate(done * _DIGEST)  # what a killed program left in part
            data.truncate(done * self.record.itemsize)
            begin = 0
            for batch, (features, token, norms) in batches(missing.tolist()):
                records = np.zeros(len(features), self.record)
                records["features"] = self._stored(features.permute(0, 2, 3, 1))
                if token is not None:
                    records["token"] = self._stored(token)
                if norms is not None:
                    records["norms"] = norms.cpu()
                records["saliency"], records["has_map"] = batch.saliency, batch.saliency_mask
                data.write(records.data)
                data.flush()
                flush(self._data)
                end = begin + len(records)
                index.write(wanted[missing[begin:end]].tobytes())
                index.flush()
                begin = end
                bar.update(len(records))

    def _stored(self, values: Tensor) -> NDArray[Any]:
        kept = values.to("cpu", getattr(torch, self.dtype)).contiguous()
        return kept.view(_STORED[self.dtype][0]).numpy()


class CachedFaces:
    """The images of a manifest as the cache has them: batches with features in place of images."""

    def __init__(
        self,
        cache: FeatureCache,
        manifest: Manifest,
        augment: Sequence[str] = (),
        views: int = 1,
    ) -> None:
        self._cache = cache
        self._rows = cache.rows(digests(manifest, augment, views))
        assert (self._rows >= 0).all(), "the cache is filled first"
        labels = (UNLABELLED if sample.label is None else sample.label for sample in manifest)
        self._labels = torch.tensor([*labels])

    def batch(self, rows: Sequence[int], views: Sequence[int] | int = 0) -> Batch:
        """Return the batch of these rows of the manifest, each in its view."""
        index = torch.tensor(rows)
        features, saliency, has_map, token = self._cache.read(self._rows[rows, views])
        return Batch(features, self._labels[index], saliency, has_map, index, token)

    def norms(self, rows: Sequence[int]) -> Tensor:
        """Return the norms of the tokens of these rows, in their first view: [B, H, W]."""
        return self._cache.norms(self._rows[rows, 0])


@contextmanager
def _waiting_for(lock: Path, progress: bool) -> Iterator[None]:
    """Hold a lock within the block, once no other process holds it."""
    said = not progress
    while True:
        with locked(lock) as mine:
            if mine:
                yield
                return
        if not said:
            print(f"another process writes to {lock.parent}: waiting for its end")
            said = True
        time.sleep(_WAIT)

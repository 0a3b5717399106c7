"""Features of a frozen network, each computed once and kept on the disk.

``$FOCUS_CACHE/features`` has a folder for each key, which is all that decides the features of a
picture (:func:`focus.training.features.decided_by`): a :class:`focus.runtime.rows.RowStore` with a
row for each image and view.
"""

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from focus.data.bad_files import DIGESTS
from focus.data.cache.images import gb
from focus.data.dataset import Batch
from focus.data.file_pass import file_digest
from focus.data.manifest import Manifest
from focus.data.named_files import Role
from focus.errors import InputError, UnreadableError
from focus.runtime.files import waiting_for
from focus.runtime.machine import cache_dir
from focus.runtime.progress import progress_bar
from focus.runtime.rows import NAME, Names, RowStore

FeatureType = Literal["bfloat16", "float32"]
Encoded = tuple[Tensor, Tensor | None, Tensor | None]
Batches = Callable[[list[int]], Iterable[tuple[Batch, Encoded]]]

FOLDER = "features"
# Of torch and of NumPy, which has no bfloat16.
_STORED = {"bfloat16": (torch.int16, np.int16), "float32": (torch.float32, np.float32)}


def digests(manifest: Manifest, augment: Sequence[str] = (), views: int = 1) -> Names:
    """Return the names [N, views] of the records: of image, human map, augmentation and view."""
    names = np.empty((len(manifest), views), NAME)
    for row, sample in enumerate(with_digests(manifest)):
        contents = f"{sample.extra[DIGESTS['image']]} {sample.extra.get(DIGESTS['map'])}"
        for view in range(views):
            text = f"{contents} {','.join(augment)} {view}".encode()
            names[row, view] = hashlib.blake2b(text, digest_size=16).digest()
    return names


def with_digests(manifest: Manifest) -> Manifest:
    """Return a manifest with a digest of each image and human map, also of those not checked."""
    samples = []
    for sample in manifest:
        files: dict[Role, str | None] = {"image": sample.path, "map": sample.human_map}
        digests_of_files = {
            DIGESTS[role]: file_digest(path, role)
            for role, path in files.items()
            if path is not None and DIGESTS[role] not in sample.extra
        }
        samples.append(replace(sample, extra={**sample.extra, **digests_of_files}))
    return Manifest(samples, manifest.source)


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
        digest = hashlib.blake2b(f"{key} {self.record}".encode(), digest_size=8).hexdigest()
        folder = cache_dir() / FOLDER / f"{name.replace('/', '_')}-{dtype}-{digest}"
        self.store = RowStore(folder, self.record)

    def read(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Return records by their rows.

        Raises:
            UnreadableError: one has been damaged since :meth:`fill` verified it.
        """
        records = np.empty(len(rows), self.record)
        for position, row in enumerate(rows.tolist()):
            if not self.store.read(row, records[position : position + 1]):
                raise self.changed()
        return records

    def changed(self) -> UnreadableError:
        """Return the error of features that are not as :meth:`fill` has left them."""
        return UnreadableError(
            f"Features in {self.store.folder} were changed while they were used, and the next run "
            "computes them again: end what changes that folder."
        )

    def tensor(self, stored: NDArray[Any]) -> Tensor:
        """Return a field of records that holds features."""
        return torch.from_numpy(np.ascontiguousarray(stored)).view(getattr(torch, self.dtype))

    def fill(self, wanted: Names, batches: Batches, *, progress: bool = True) -> None:
        """Verify what is there of the names ``wanted`` [N], and add what is missing.

        batches: yields, for places in ``wanted``, the images in batches, and of each what
        :meth:`focus.model.detector.Detector.encode_with_norms` returns. It is called once no other
        program fills the same folder.

        Raises:
            InputError: the disk is full or has no locks; what was written stays.
        """
        folder = self.store.folder
        try:
            self._verify(wanted, progress)
            if (self.store.find(wanted) >= 0).all():
                return
            self.store.check_writable()
            said = f"another process writes to {folder}: waiting for its end"
            with waiting_for(folder / ".filling", said * progress):
                missing = np.flatnonzero(self.store.find(wanted) < 0)
                _, first = np.unique(wanted[missing], return_index=True)
                self._add(wanted, missing[np.sort(first)], batches, progress)
        except OSError as error:
            raise InputError(
                f"The features cannot be written to {folder} ({error.strerror or error}): free "
                "some space, set FOCUS_CACHE to another folder, or give --cached-features no."
            ) from error

    def _verify(self, wanted: Names, progress: bool) -> None:
        rows = np.unique(self.store.find(wanted))
        record = np.empty(1, self.record)
        for row in progress_bar(
            rows[rows >= 0], desc="verifying features", unit="image", disable=not progress
        ):
            self.store.read(int(row), record)

    def _add(
        self, wanted: Names, missing: NDArray[np.int64], batches: Batches, progress: bool
    ) -> None:
        if not len(missing):
            return
        folder = self.store.folder
        size, free = len(missing) * self.record.itemsize, shutil.disk_usage(folder).free
        if progress:
            print(
                f"features of {len(missing)} images or views: {gb(size)} to write to {folder}, "
                f"where {gb(free)} are free"
            )
        if size > free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done = 0
        with progress_bar(
            total=len(missing), desc="features", unit="image", disable=not progress
        ) as bar:
            for batch, (features, token, norms) in batches(missing.tolist()):
                records = np.zeros(len(features), self.record)
                records["features"] = self._stored(features.permute(0, 2, 3, 1))
                if token is not None:
                    records["token"] = self._stored(token)
                if norms is not None:
                    records["norms"] = norms.cpu()
                records["saliency"], records["has_map"] = batch.saliency, batch.saliency_mask
                places = missing[done : done + len(records)]
                self.store.append(wanted[places], np.split(records, len(records)))
                done += len(records)
                bar.update(len(records))

    def _stored(self, values: Tensor) -> NDArray[Any]:
        kept = values.to("cpu", getattr(torch, self.dtype)).contiguous()
        return kept.view(_STORED[self.dtype][0]).numpy()


class CachedFaces:
    """The images of a manifest as the cache has them: batches with features in place of images."""

    def __init__(
        self, cache: FeatureCache, manifest: Manifest, augment: Sequence[str] = (), views: int = 1
    ) -> None:
        self._cache = cache
        self._rows = cache.store.find(digests(manifest, augment, views))
        if (self._rows < 0).any():
            raise cache.changed()
        self._labels = torch.from_numpy(manifest.labels.astype(np.int64))

    def batch(self, rows: Sequence[int], views: Sequence[int] | int = 0) -> Batch:
        """Return the batch of these rows of the manifest, each in its view."""
        index, cache = torch.tensor(rows), self._cache
        records = cache.read(self._rows[rows, views])
        return Batch(
            cache.tensor(records["features"]).permute(0, 3, 1, 2),
            self._labels[index],
            torch.from_numpy(np.ascontiguousarray(records["saliency"])),
            torch.from_numpy(np.ascontiguousarray(records["has_map"])),
            index,
            cache.tensor(records["token"]),
        )

    def norms(self, rows: Sequence[int]) -> Tensor:
        """Return the norms of the tokens of these rows, in their first view: [B, H, W].

        [B, 0, 0] for a network without tokens.
        """
        return torch.from_numpy(self._cache.read(self._rows[rows, 0])["norms"].copy())

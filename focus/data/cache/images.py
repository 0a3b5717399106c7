"""Pictures squashed to one size, and their human maps, decoded once and kept on the disk."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from focus.config.recipes import Fit
from focus.data.images import squash
from focus.data.known_images import CONTENT
from focus.data.manifest import Manifest
from focus.data.maps import Map, resized
from focus.runtime.machine import cache_dir
from focus.runtime.rows import NAME, RowStore

IMAGES = "images"
"""Folder of the cache."""

_RESAMPLING = 1  # to be raised where focus.data.images squashes otherwise
_SHARE = 0.1  # of the free disk

_log = logging.getLogger(__name__)
KINDS: dict[str, str] = {"image": CONTENT, "map": "map_hash"}
"""What is kept, and the column of a manifest that has the digest of its file."""


class ImageCache:
    """The pictures and human maps of any data sets at one size, each under a digest of its file.

    Pillow's decoders and the resampling of this version are part of where they lie.

    Args:
        image_size: pixels a side, S.
        where: the folder of the cache; "auto" is ``images`` in :func:`cache_dir`, which is used as
            long as what is added takes at most a tenth of the free disk.
    """

    def __init__(self, image_size: int, where: str = "auto") -> None:
        self.image_size = image_size
        self._limited = where == "auto"
        folder = cache_dir() / IMAGES if self._limited else Path(where)
        self.folder = folder / f"{image_size}-{_RESAMPLING}-pillow-{PIL.__version__}"
        side = image_size, image_size
        self._stores: dict[str, RowStore] = {
            "image": RowStore(self.folder / "pictures", np.uint8, (*side, 3)),
            "map": RowStore(self.folder / "maps", np.float32, side),
        }
        self._added: dict[str, list[tuple[str, NDArray[Any]]]] = {"image": [], "map": []}
        self._writes = False

    @classmethod
    def of(cls, image_size: int, image_cache: str, fit: Fit = "squash") -> "ImageCache | None":
        """Return the cache that ``--image-cache`` names; None for "no", and for pictures as they
        are, which have no one size.
        """
        return cls(image_size, image_cache) if image_cache != "no" and fit == "squash" else None

    def has(self, kind: str, digests: Sequence[str]) -> NDArray[np.bool_]:
        """Return which of these digests have a row."""
        return self._stores[kind].find(_names(digests)) >= 0

    def make_room(self, missing: Mapping[str, int], *, progress: bool = True) -> bool:
        """Return whether so many rows will be kept; a line says where and how many GB, or why not.

        Of rows that are not kept each is decoded whenever it is wanted.
        """
        size = sum(count * self._stores[kind].row.itemsize for kind, count in missing.items())
        if not size:
            self._writes = True
            return True
        try:
            for kind, count in missing.items():
                if count:
                    self._stores[kind].check_writable()
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            self._give_up(error)
            return False
        self._writes = size <= (_SHARE if self._limited else 1) * free
        if progress:
            about = f"{gb(size)} of decoded images"
            print(
                f"{about} go to {self.folder}, where {gb(free)} are free (--image-cache no: none)"
                if self._writes
                else f"{about} are not kept, as {self.folder} has {gb(free)} free: each epoch "
                "decodes them again (--image-cache DIR takes another disk)"
            )
        return self._writes

    def row(self, kind: str, values: Image.Image | Map | None) -> NDArray[Any] | None:
        """Return what was decoded at the cache's size; None for what is not kept."""
        if values is None or kind not in KINDS or not self._writes:
            return None
        if isinstance(values, Image.Image):
            return squash(values, self.image_size)
        return resized(values, (self.image_size, self.image_size))

    def add(self, kind: str, digest: str, row: NDArray[Any]) -> None:
        """Keep a row, on the disk with the next :meth:`flush`, which follows now and then."""
        if self._writes:
            self._added[kind].append((digest, row))
            if len(self._added[kind]) == 64:
                self.flush()

    def flush(self) -> None:
        """Write the rows added; where that fails, a line says so and nothing more is kept."""
        for kind, added in self._added.items():
            if added and self._writes:
                digests, rows = zip(*added, strict=True)
                try:
                    self._stores[kind].append(_names(digests), rows)
                except OSError as error:
                    self._give_up(error)
            added.clear()

    def _give_up(self, error: OSError) -> None:
        self._writes = False
        _log.warning(
            "decoded images are not kept in %s (%s): each epoch decodes them again "
            "(--image-cache DIR takes another disk)",
            self.folder,
            error.strerror,
        )

    def rows_of(self, manifest: Manifest, kind: str) -> "StoredRows":
        """Return the rows of the images of a manifest, or of their human maps."""
        column = KINDS[kind]
        digests = [sample.extra.get(column, "") for sample in manifest]
        return StoredRows(self._stores[kind], self._stores[kind].find(_names(digests)))


class StoredRows:
    """The rows of a store that belong to those of a manifest."""

    def __init__(self, store: RowStore, rows: NDArray[np.int64]) -> None:
        self._store, self._rows = store, rows

    def read(self, number: int, out: NDArray[Any]) -> bool:
        """Read the row of the manifest's row ``number``; return whether it is there and whole."""
        row = int(self._rows[number])
        if row >= 0 and not self._store.read(row, out):
            self._rows[number] = row = -1
        return row >= 0


def gb(size: float) -> str:
    """Return a number of bytes in words."""
    return f"{size / 1e9:.3g} GB"


def _names(digests: Sequence[str]) -> NDArray[np.bytes_]:
    return np.array([bytes.fromhex(digest) for digest in digests], NAME)

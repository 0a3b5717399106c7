"""Pictures and their human maps, decoded once and kept on the disk, at one size or their own."""

import logging
import shutil
from collections.abc import Collection
from dataclasses import dataclass
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
from focus.data.maps import Map, files_of, resized
from focus.runtime.files import size_of
from focus.runtime.machine import cache_dir
from focus.runtime.rows import Names, RowStore, names_of

IMAGES = "images"
"""Folder of the cache."""

_RESAMPLING = 1  # to be raised where focus.data.images squashes otherwise
_SHARE = 0.1  # of the free disk, in the user's own cache
_SHARE_OF_OTHERS = 0.95  # in a folder that was chosen
_LEAST_PART = 0.01  # of what is to be kept: for less no file is decoded anew
_MOST_PENDING = 2**26  # bytes of rows that wait to be written

_log = logging.getLogger(__name__)
KINDS: dict[str, str] = {"image": CONTENT, "map": "map_hash"}
"""What is kept, and the column of a manifest that has the digest of its file."""


@dataclass(frozen=True)
class Room:
    """The room of a cache for rows of ``size`` bytes: how much of them is ``allowed``.

    free: The bytes that are free on its disk.
    """

    size: int
    allowed: int
    free: int


class ImageCache:
    """The pictures and human maps of any data sets, each under a digest of its file.

    Pillow's decoders and the resampling of this version are part of where they lie.

    Args:
        image_size: The pixels a side, S, to which all are squashed; None to keep them at their own
            sizes, as ``--fit crop`` takes them.
        where: the folder of the cache; "auto" is ``images`` in :func:`cache_dir`, which takes at
            most a tenth of the disk's free space.
    """

    def __init__(self, image_size: int | None, where: str = "auto") -> None:
        self.image_size = image_size
        self._in_users_cache = where == "auto"
        folder = cache_dir() / IMAGES if self._in_users_cache else Path(where)
        size = "own-size" if image_size is None else f"{image_size}-{_RESAMPLING}"
        self.folder = folder / f"{size}-pillow-{PIL.__version__}"
        side = () if image_size is None else (image_size, image_size)
        colours = () if image_size is None else (3,)
        self._stores: dict[str, RowStore] = {
            "image": RowStore(self.folder / "pictures", np.uint8, (*side, *colours)),
            "map": RowStore(self.folder / "maps", np.float32, side),
        }
        # Of rows at their own sizes: without its shape, a row is only a line of numbers.
        self._shapes: dict[str, RowStore] = {}
        if image_size is None:
            self._shapes = {
                "image": RowStore(self.folder / "picture-shapes", np.int64, (3,)),
                "map": RowStore(self.folder / "map-shapes", np.int64, (2,)),
            }
        self._added: dict[str, list[tuple[str, NDArray[Any]]]] = {"image": [], "map": []}
        self._writes = False  # until keep(True)

    @classmethod
    def of(cls, image_size: int, image_cache: str, fit: Fit = "squash") -> "ImageCache | None":
        """Return the cache that ``--image-cache`` names, None for "no"."""
        if image_cache == "no":
            return None
        return cls(image_size if fit == "squash" else None, image_cache)

    def has(self, kind: str, names: Names) -> NDArray[np.bool_]:
        """Return which of these digests have a row [N]."""
        has_row: NDArray[np.bool_] = self._stores[kind].find(names) >= 0
        if kind in self._shapes:
            has_row &= self._shapes[kind].find(names) >= 0
        return has_row

    def bytes_of(self, path: str, kind: str) -> int:
        """Return how many bytes the row of a file takes: at its own size, as its header says."""
        store = self._stores[kind]
        if kind not in self._shapes:
            return store.row.itemsize
        values_of_a_pixel = 3 if kind == "image" else 1
        file = path if kind == "image" else files_of(path)[0]
        try:
            with Image.open(file) as image:
                return image.width * image.height * values_of_a_pixel * store.row.itemsize
        except Exception:  # no picture, or one that is drawn from shapes
            return 0

    def is_writable(self, kinds: Collection[str]) -> bool:
        """Return whether rows of these kinds can be added."""
        try:
            for kind in kinds:
                self._stores[kind].check_writable()
        except OSError:
            return False
        return True

    def room(self, size: int, kinds: Collection[str]) -> Room | None:
        """Return the room for so many bytes of rows; None, after a warning, if none can be added.

        The cache in :func:`cache_dir` takes at most a tenth of the disk's space that is free but
        for it; in another folder a twentieth of what is free stays free.
        """
        try:
            for kind in kinds:
                self._stores[kind].check_writable()
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            self._give_up(error)
            return None
        allowed = int(_SHARE_OF_OTHERS * free)
        if self._in_users_cache:
            taken = size_of(self.folder.parent)
            allowed = int(_SHARE * (free + taken)) - taken
        if allowed < _LEAST_PART * size:
            allowed = 0
        return Room(size, min(size, allowed), free)

    def announcement(self, room: Room) -> str:
        """Return a line that says how much is decoded, and what of it is kept where."""
        where = f"{self.folder}, where {gb(room.free)} are free"
        if room.allowed == room.size:
            return f"{gb(room.size)} of decoded images go to {where} (--image-cache no: none)"
        if room.allowed:
            part = f"{gb(room.allowed)} of {gb(room.size)}"
            return (
                f"{part} of decoded images go to {where}: each epoch decodes the others again "
                "(--image-cache DIR takes another disk)"
            )
        return (
            f"{gb(room.size)} of decoded images are not kept, as {self.folder} has "
            f"{gb(room.free)} free: each epoch decodes them again (--image-cache DIR takes another "
            "disk)"
        )

    def keep(self, writes: bool) -> None:
        """Keep the rows that are added, or none."""
        self._writes = writes

    def row(self, kind: str, values: Image.Image | Map | None) -> NDArray[Any] | None:
        """Return what was decoded, at the cache's size.

        None where it is not kept: of a bad file, of a kind without a place here (a mask), and while
        the cache takes nothing (:meth:`keep`).
        """
        if values is None or kind not in KINDS or not self._writes:
            return None
        if self.image_size is None:
            return np.ascontiguousarray(values)
        if isinstance(values, Image.Image):
            return squash(values, self.image_size)
        return resized(values, (self.image_size, self.image_size))

    def add(self, kind: str, digest: str, row: NDArray[Any]) -> None:
        """Keep a row, on the disk with the next :meth:`flush`, which follows now and then."""
        if self._writes:
            pending = self._added[kind]
            pending.append((digest, row))
            if len(pending) == 64 or sum(row.nbytes for _, row in pending) >= _MOST_PENDING:
                self.flush()

    def flush(self) -> None:
        """Write the rows added; where that fails, a line says so and nothing more is kept."""
        for kind, added in self._added.items():
            if added and self._writes:
                digests, rows = zip(*added, strict=True)
                names = names_of(digests)
                try:
                    if kind in self._shapes:
                        self._shapes[kind].append(names, [np.array(row.shape) for row in rows])
                    self._stores[kind].append(names, rows)
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
        names = names_of(manifest.cells(column))
        store, shapes = self._stores[kind], self._shapes.get(kind)
        if shapes is None:
            return StoredRows(store, store.find(names))
        return StoredRows(store, store.find(names), shapes, shapes.find(names))


class StoredRows:
    """The rows of a store that belong to those of a manifest.

    shapes, shape_numbers: The store of their shapes, and the numbers there, if they have their own.
    """

    def __init__(
        self,
        store: RowStore,
        numbers: NDArray[np.int64],
        shapes: RowStore | None = None,
        shape_numbers: NDArray[np.int64] | None = None,
    ) -> None:
        self._store, self._numbers = store, numbers
        self._shapes, self._shape_numbers = shapes, shape_numbers

    def read(self, number: int, out: NDArray[Any]) -> bool:
        """Read the row of the manifest's row ``number``; return whether it is there and whole."""
        row = int(self._numbers[number])
        if row >= 0 and not self._store.read(row, out):
            self._numbers[number] = row = -1
        return row >= 0

    def read_at_own_size(self, number: int) -> NDArray[Any] | None:
        """Return the row of the manifest's row ``number``, None if it is not there or not whole."""
        if self._shapes is None or self._shape_numbers is None:
            return None
        shape = np.empty(self._shapes.row.shape, self._shapes.row.base)
        row = int(self._shape_numbers[number])
        if row >= 0 and not self._shapes.read(row, shape):
            self._shape_numbers[number] = row = -1
        if row < 0:
            return None
        array = np.empty(shape, self._store.row.base)
        return array if self.read(number, array) else None


def gb(size: float) -> str:
    """Return a number of bytes in words."""
    return f"{size / 1e9:.3g} GB"

"""Rows of numbers on the disk, each under a name, which is checked when it is read.

A folder has ``rows.bin``, rows of one type one after the other, and ``index.bin``, which has the
name and the CRC-32 of each. Rows are appended under a lock, a row before its name: a program that
is killed leaves whole rows, and two that write at once lose none. What is not as it was written,
after a power cut or in a file that was cut off, counts as missing.
"""

import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from focus.runtime.files import waiting_for

Names = NDArray[np.bytes_]
"""Digests of 16 bytes, dtype ``S16``."""

NAME = "S16"
_ENTRY = np.dtype([("name", NAME), ("crc", np.uint32)])

_log = logging.getLogger(__name__)


class RowStore:
    """Rows of the NumPy type ``dtype`` and of one shape in a folder, which need not exist yet."""

    def __init__(self, folder: Path, dtype: Any, shape: tuple[int, ...] = ()) -> None:
        self.folder, self.row = folder, np.dtype((dtype, shape))
        self._rows, self._index = folder / "rows.bin", folder / "index.bin"
        self._entries = np.empty(0, _ENTRY)
        self._by_name = np.empty(0, np.int64)
        # Which index they are of, and the number of its first row; of those before none is read.
        self._looked: tuple[int, ...] = ()
        self._first = 0
        # Rows in the index when this last saw it, and the names among them that it did not sort.
        self._seen, self._later = 0, set[bytes]()
        self._verified = torch.empty(0, dtype=torch.bool)
        self._file: tuple[int, BinaryIO] | None = None  # of which process, since forks share it

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}

    def find(self, names: Names) -> NDArray[np.int64]:
        """Return the row of each name, -1 where there is none; of the shape of ``names``."""
        self._look()
        known = self._known(names)
        return np.where(known < 0, known, known + self._first)

    def read(self, row: int, out: NDArray[Any]) -> bool:
        """Read a row that :meth:`find` returned into ``out``, which is contiguous.

        Return whether it is what was written; one that is not is forgotten, and a line says so. One
        that was found before others cleared the folder is none.
        """
        row -= self._first
        if row < 0:
            return False
        content = out.reshape(-1).view(np.uint8)
        try:
            file = self._opened()
            file.seek(row * self.row.itemsize)
            whole = file.readinto(content) == self.row.itemsize  # type: ignore[attr-defined]
        except OSError:
            whole = False
        if whole and (self._verified[row] or zlib.crc32(content.data) == self._entries["crc"][row]):
            self._verified[row] = True
            return True
        _log.warning("row %d of %s is damaged and is made anew", row, self._rows)
        self._forget(row)
        return False

    def append(self, names: Names, rows: Sequence[NDArray[Any]]) -> None:
        """Add rows, but for those whose name is there.

        Raises:
            OSError: the disk is full or refuses; what was there before is whole.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with waiting_for(self.folder / ".lock"), self._index.open("ab") as index:
            end = index.tell() // _ENTRY.itemsize
            # Others may have added some since this looked.
            seen = min(self._seen, end)
            count = end - seen
            later = np.fromfile(self._index, _ENTRY, count, offset=seen * _ENTRY.itemsize)
            self._later.update(later["name"].tolist())
            new = []
            for at, (name, row) in enumerate(zip(names.tolist(), self._known(names), strict=True)):
                if row < 0 and name not in self._later:
                    self._later.add(name)
                    new.append(at)
            entries = np.zeros(len(new), _ENTRY)
            entries["name"] = names[new]
            entries["crc"] = [zlib.crc32(rows[at].reshape(-1).view(np.uint8).data) for at in new]
            try:
                with self._rows.open("ab") as file:
                    # What a killed program left in part goes; what was cut off leaves a gap.
                    file.truncate(end * self.row.itemsize)
                    for at in new:
                        file.write(rows[at].data)
            except BaseException:
                os.truncate(self._rows, end * self.row.itemsize)  # others need the room
                raise
            index.truncate(end * _ENTRY.itemsize)
            index.write(entries.tobytes())
            self._seen = end + len(new)

    def _known(self, names: Names) -> NDArray[np.int64]:
        """Return what :meth:`find` does, of what this saw when it last looked."""
        known = self._entries["name"]
        if not len(known):
            return np.full(names.shape, -1)
        # The last of a name, which was written after another one had been damaged.
        rows = self._by_name[np.searchsorted(known, names, side="right", sorter=self._by_name) - 1]
        # A row without a name is one that was forgotten.
        return np.where((known[rows] == names) & (names != b""), rows, -1)

    def _look(self) -> None:
        """Read the index anew; rows that were verified stay so, unless they are others now."""
        try:
            status = self._index.stat()
            looked: tuple[int, ...] = (status.st_ino, status.st_ctime_ns, status.st_size)
            if looked == self._looked:
                return
            entries = np.fromfile(self._index, _ENTRY, count=status.st_size // _ENTRY.itemsize)
        except OSError:
            looked, entries = (), np.empty(0, _ENTRY)
        before = self._entries["crc"]  # by names the same row would differ once it is forgotten
        verified = torch.zeros(len(entries), dtype=torch.bool, device="cpu")
        if len(before) <= len(entries) and (before == entries["crc"][: len(before)]).all():
            verified[: len(before)] = self._verified
        else:
            self._first += len(before)
            self._file = None
        self._looked = looked
        # Workers that outlive an epoch verify a row once.
        self._verified = verified.share_memory_()
        self._entries, self._by_name = entries, np.argsort(entries["name"], kind="stable")
        self._seen, self._later = len(entries), set()

    def _opened(self) -> BinaryIO:
        if self._file is None or self._file[0] != os.getpid():
            self._file = os.getpid(), self._rows.open("rb", buffering=0)
        return self._file[1]

    def _forget(self, row: int) -> None:
        """Take the row's name away, so that it is missing from now on."""
        self._entries["name"][row] = b""
        self._by_name = np.argsort(self._entries["name"], kind="stable")
        try:
            with self._index.open("r+b") as index:
                index.seek(row * _ENTRY.itemsize)
                index.write(bytes(16))
        except OSError as error:
            _log.warning("cannot mark it in %s: %s", self._index, error)

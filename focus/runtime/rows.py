"""Rows of numbers on the disk, each under a name: a file of rows and their index in a folder.

1. A row that is read is the one that was written under its name: each read compares a checksum of
   the name and the numbers, whatever has been done to the files since.
2. What is not as it was written counts as missing: one line says so, and it can be written again.
3. Files only grow, and no byte of them is written twice: who writes disturbs nobody who reads.
4. A program that is killed and a disk that is full lose the rows of one call at most, and never
   one that was there before.
5. Programs that write at once take turns and write each row once; where the file system has no
   locks, nothing is written, and the error says so.

The index has an entry for each row: its name, the number of its first byte and its checksum. The
last entry of a name counts. One whose number is negative takes the row at ``-1 - number`` away. The
first entry of an index has no name and a checksum at random, by which it is told from others.
"""

import logging
import os
import secrets
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
import xxhash
from numpy.typing import NDArray

from focus.runtime.files import locked

Names = NDArray[np.bytes_]
"""Digests of 16 bytes, dtype ``S16``."""

NAME = "S16"

_log = logging.getLogger(__name__)


class _Entry(NamedTuple):
    """What the index says of a row."""

    name: bytes
    """16 bytes; NumPy drops zeros at the end."""
    start: int
    """The number of the row's first byte in the file of rows."""
    checksum: int

    @classmethod
    def of(cls, name: bytes, start: int, content: NDArray[np.uint8]) -> Self:
        padded = name.ljust(16, b"\0")
        return cls(padded, start, _checksum(padded, content))


_FORMAT = struct.Struct("<16sqQ")  # of an entry
_MOST_RECENT = 2**14  # names in a dictionary, beside an eighth of those in arrays
_NO_NAME = bytes(16)  # also that of an image without a digest, which has no row


class RowStore:
    """Rows of the NumPy type ``dtype`` and of one shape in a folder, which need not exist yet."""

    def __init__(self, folder: Path, dtype: Any, shape: tuple[int, ...] = ()) -> None:
        self.folder, self.row = folder, np.dtype((dtype, shape))
        self.rows_file, self.index_file = folder / "rows-2.bin", folder / "index-2.bin"
        self._lock = folder / ".lock"
        # All entries that were ever read. Their numbers stay what they are, since none is removed
        # here: the row of one that is out of date fails its checksum.
        self._entries = bytearray()
        self._number_of = _Numbers()
        # The index that was read last, by its first entry, and how many bytes of it.
        self._index_identity, self._index_bytes = b"", 0
        # With the number of the process: forked ones would share the position in the file.
        self._open_file: tuple[int, BinaryIO] | None = None
        # Imported late: it takes seconds, and evaluating a table of scores opens no rows.
        import torch

        # Shared by the processes that are forked from this one.
        self._warned = torch.zeros((), dtype=torch.bool, device="cpu").share_memory_()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open_file": None}

    def find(self, names: Names) -> NDArray[np.int64]:
        """Return the number of each name's row, -1 where there is none; of the shape of ``names``.

        :meth:`read` takes these numbers as long as this object lives.
        """
        self._read_index()
        return self._number_of.find(names.ravel()).reshape(names.shape)

    def read(self, number: int, out: NDArray[Any]) -> bool:
        """Read the row of a number that :meth:`find` returned into ``out``, which is contiguous.

        Return whether it is what was written. If not, ``out`` may hold anything, and the row is
        missing from now on.
        """
        content, entry = out.reshape(-1).view(np.uint8), self._entry(number)
        # The file that is open may be another one than that of a row which was added later.
        for reopen in (False, True):
            is_whole = self._read_into(content, entry.start, reopen=reopen)
            if is_whole and _checksum(entry.name, content) == entry.checksum:
                return True
        self._take_away(number)
        return False

    def append(self, names: Names, rows: Sequence[NDArray[Any]]) -> None:
        """Add rows, but for those whose name is there.

        Raises:
            OSError: the disk is full or refuses, or its file system has no locks.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self._lock, wait=True, required=True):
            # Others may have added some of them.
            missing = (self.find(names) < 0).tolist()
            new = {
                name: row
                for name, row, is_missing in zip(names.tolist(), rows, missing, strict=True)
                if is_missing
            }
            entries = []
            # Without a buffer an append tells where it went, also where another machine appends at
            # the same time: the locks of some file systems hold on one machine only.
            with self.rows_file.open("ab", buffering=0) as file:
                for name, row in new.items():
                    content = row.reshape(-1).view(np.uint8)
                    _write_all(file, content.data)
                    entries.append(_Entry.of(name, file.tell() - len(content), content))
            self._write_index(entries)

    def check_writable(self) -> None:
        """Make the folder; raise OSError if that fails, or if its file system has no locks."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self._lock, required=True):
            pass

    def _entry(self, number: int) -> _Entry:
        return _Entry(*_FORMAT.unpack_from(self._entries, number * _FORMAT.size))

    def _start_of(self, name: bytes) -> int | None:
        number = self._number_of.get(name)
        return None if number < 0 else self._entry(number).start

    def _read_index(self) -> None:
        """Take in the entries that the index has more than when it was last read."""
        try:
            with self.index_file.open("rb") as index:
                identity = index.read(_FORMAT.size)
                length = index.seek(0, os.SEEK_END)
                if identity != self._index_identity or length < self._index_bytes:
                    # Another index, or this one cut off: what is not in it any more is missing.
                    self._index_identity, self._index_bytes = identity, 0
                    self._number_of = _Numbers()
                index.seek(self._index_bytes)
                content = index.read()
        except OSError:
            self._index_identity, self._index_bytes = b"", 0
            self._number_of = _Numbers()
            return
        content = content[: len(content) // _FORMAT.size * _FORMAT.size]
        self._index_bytes += len(content)
        first_number = len(self._entries) // _FORMAT.size
        self._entries += content
        for number, (name, start, _) in enumerate(_FORMAT.iter_unpack(content), first_number):
            if name == _NO_NAME:
                continue
            if start >= 0:
                self._number_of.set(name, number)
            elif self._start_of(name) == -1 - start:
                self._number_of.remove(name)

    def _write_index(self, entries: Sequence[_Entry]) -> None:
        with self.index_file.open("ab", buffering=0) as index:
            if index.tell() == 0:
                entries = [_Entry(_NO_NAME, 0, secrets.randbits(64)), *entries]
            # A program that was killed may have left a part of an entry.
            filling = bytes(-index.tell() % _FORMAT.size)
            _write_all(index, filling + b"".join(_FORMAT.pack(*entry) for entry in entries))

    def _read_into(self, content: NDArray[np.uint8], start: int, *, reopen: bool) -> bool:
        """Read what begins at ``start`` into ``content``; return whether there is that much."""
        try:
            if reopen or self._open_file is None or self._open_file[0] != os.getpid():
                self._open_file = os.getpid(), self.rows_file.open("rb", buffering=0)
            file = self._open_file[1]
            file.seek(start)
            length: int = file.readinto(content)  # type: ignore[attr-defined]
        except (OSError, ValueError):  # a ValueError: the start, of a damaged index, is none
            return False
        return length == len(content)

    def _take_away(self, number: int) -> None:
        """Make a damaged row a missing one, for other programs as well where they can be told."""
        if not self._warned:
            self._warned.fill_(True)
            text = "%s is damaged: what is not as it was written is made anew"
            _log.warning(text, self.rows_file)
        entry = self._entry(number)
        if self._number_of.get(entry.name) == number:
            self._number_of.remove(entry.name)
        with suppress(OSError), locked(self._lock, wait=True, required=True):
            self._write_index([entry._replace(start=-1 - entry.start)])


class _Numbers:
    """The numbers of names of 16 bytes, in some 20 bytes a name where there are many.

    A dictionary, which takes 150 bytes a name, has the names that were set last; once they are
    many, they go to the others, in arrays sorted by name.
    """

    def __init__(self) -> None:
        self._recent: dict[bytes, int] = {}
        self._high = np.empty(0, np.uint64)  # the first eight bytes of each name, ascending
        self._low = np.empty(0, np.uint64)  # the others
        self._numbers = np.empty(0, np.int64)  # -1 where a name was removed

    def set(self, name: bytes, number: int) -> None:
        """Give a name a number, which is larger than all before."""
        self._recent[name] = number
        if len(self._recent) > _MOST_RECENT + len(self._numbers) // 8:
            self._sort()

    def remove(self, name: bytes) -> None:
        """Take a name out, if it is there."""
        self._recent.pop(name, None)
        position = self._positions(np.array([name], NAME))[0]
        if position >= 0:
            self._numbers[position] = -1

    def get(self, name: bytes) -> int:
        """Return the number of a name, -1 if it has none."""
        return int(self.find(np.array([name], NAME))[0])

    def find(self, names: Names) -> NDArray[np.int64]:
        """Return the number of each name [N], -1 where it has none."""
        positions = self._positions(names)
        numbers = np.append(self._numbers, -1)[positions]
        if self._recent:
            for row, name in enumerate(names.tolist()):
                number = self._recent.get(name.ljust(16, b"\0"))
                if number is not None:
                    numbers[row] = number
        return numbers

    def _positions(self, names: Names) -> NDArray[np.int64]:
        """Return the position of each name in the arrays [N], -1 where it is not there."""
        high, low = _halves(names)
        next_position = np.searchsorted(self._high, high)
        positions = np.full(len(names), -1, np.int64)
        rows = np.arange(len(names))
        while len(rows):
            rows = rows[next_position[rows] < len(self._high)]
            rows = rows[self._high[next_position[rows]] == high[rows]]
            is_equal = self._low[next_position[rows]] == low[rows]
            positions[rows[is_equal]] = next_position[rows[is_equal]]
            rows = rows[~is_equal]  # another name may have the same first half
            next_position[rows] += 1
        return positions

    def _sort(self) -> None:
        """Take the recent names into the arrays, each once, with its highest row number."""
        recent_high, recent_low = _halves(np.array([*self._recent], NAME))
        recent_numbers = np.fromiter(self._recent.values(), np.int64, len(self._recent))
        self._recent = {}

        high = np.append(self._high, recent_high)
        low = np.append(self._low, recent_low)
        numbers = np.append(self._numbers, recent_numbers)

        order = np.lexsort((numbers, low, high))
        high = high[order]
        low = low[order]
        numbers = numbers[order]

        is_last_of_name = np.ones(len(order), bool)
        is_last_of_name[:-1] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
        is_kept = is_last_of_name & (numbers >= 0)
        self._high = high[is_kept]
        self._low = low[is_kept]
        self._numbers = numbers[is_kept]


def names_of(digests: Iterable[str]) -> Names:
    """Return digests of up to 32 hexadecimal digits as names [N], a name of zeros for ""."""
    return np.fromiter(map(bytes.fromhex, digests), NAME)


def _halves(names: Names) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the first and the last eight bytes of names as numbers, [N] each."""
    halves = np.ascontiguousarray(names, NAME).view(np.uint64).reshape(-1, 2)
    return halves[:, 0], halves[:, 1]


def _checksum(name: bytes, content: NDArray[np.uint8]) -> int:
    checksum = xxhash.xxh3_64(name)
    checksum.update(content.data)
    return checksum.intdigest()


def _write_all(file: BinaryIO, content: bytes | memoryview) -> None:
    """Write to a file without a buffer, which may take a part of it at a time."""
    while len(content):
        content = content[file.write(content) :]

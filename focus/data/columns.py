"""Texts as columns: one block of bytes and arrays of numbers, no object for each text.

A million Python objects take hundreds of bytes each, and a process that was forked gets a copy of
each page whose objects it looks at, since a look counts references. Arrays have neither.
"""

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, chain, count, islice, pairwise
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int32]
"""Numbers of rows."""

_NONE = -1
_RECENT = 2**14  # texts of a column that are recognised when they come again
_BLOCK = 4096  # texts that are decoded together
_HASHED_BYTES = 2**16  # that are hashed together
_MULTIPLIER = 0x9E3779B97F4A7C15
_ERRORS = "surrogatepass"  # any str comes back as it was


class Texts(Sequence[str]):
    """Texts one after another in one block of memory; equal ones may be there several times."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._bytes = bytearray()
        self._bounds = array("Q", [0])
        self._first_equal = np.empty(0, np.int32)
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add a text behind the others."""
        self._bytes += text.encode("utf-8", _ERRORS)
        self._bounds.append(len(self._bytes))

    def extend(self, texts: Sequence[str]) -> None:
        """Add texts behind the others."""
        joined = "".join(texts)
        if joined.isascii():
            lengths: Iterable[int] = map(len, texts)
            self._bytes += joined.encode()
        else:
            encoded = [text.encode("utf-8", _ERRORS) for text in texts]
            lengths = map(len, encoded)
            self._bytes += b"".join(encoded)
        self._bounds.extend(islice(accumulate(lengths, initial=self._bounds[-1]), 1, None))

    def pad(self, count: int) -> None:
        """Add empty texts until there are ``count``."""
        missing = count - len(self)
        if missing > 0:
            self._bounds.extend(array("Q", [len(self._bytes)]) * missing)

    def __len__(self) -> int:
        return len(self._bounds) - 1

    @overload
    def __getitem__(self, number: int) -> str: ...

    @overload
    def __getitem__(self, number: slice) -> "Texts": ...

    def __getitem__(self, number: int | slice) -> "str | Texts":
        if isinstance(number, slice):
            return Texts(self[n] for n in range(*number.indices(len(self))))
        start, end = self._bounds[number], self._bounds[number + 1]
        return self._bytes[start:end].decode("utf-8", _ERRORS)

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), _BLOCK):
            yield from self._part(start, min(start + _BLOCK, len(self)))

    def of(self, numbers: NDArray[np.integer[Any]]) -> list[str]:
        """Return the texts of these numbers."""
        if len(numbers) and (np.diff(numbers) == 1).all():
            return self._part(int(numbers[0]), int(numbers[-1]) + 1)
        content, bounds = self._bytes, self._bounds
        return [
            content[bounds[n] : bounds[n + 1]].decode("utf-8", _ERRORS) for n in numbers.tolist()
        ]

    def _part(self, start: int, stop: int) -> list[str]:
        """Return the texts from one number to another."""
        first, last = self._bounds[start], self._bounds[stop]
        content = self._bytes[first:last]
        bounds = [bound - first for bound in self._bounds[start : stop + 1]]
        if content.isascii():
            text = content.decode()
            return [text[begin:end] for begin, end in pairwise(bounds)]
        return [content[begin:end].decode("utf-8", _ERRORS) for begin, end in pairwise(bounds)]

    def extended(self, other: "Texts") -> "Texts":
        """Return the texts of both."""
        both = Texts()
        both._bytes = self._bytes + other._bytes
        bounds = np.asarray(other._bounds)[1:] + np.uint64(len(self._bytes))
        both._bounds = array("Q", self._bounds)
        both._bounds.frombytes(bounds.tobytes())
        return both

    def taken(self, numbers: Iterable[int]) -> "Texts":
        """Return the texts of these numbers as texts of their own."""
        taken, content, bounds = Texts(), self._bytes, self._bounds
        for number in numbers:
            taken._bytes += content[bounds[number] : bounds[number + 1]]
            taken._bounds.append(len(taken._bytes))
        return taken

    def are_empty(self) -> NDArray[np.bool_]:
        """Tell which texts are "", [N]."""
        are_empty: NDArray[np.bool_] = np.diff(np.asarray(self._bounds)) == 0
        return are_empty

    def hashes(self) -> NDArray[np.uint64]:
        """Return a number for each text, [N], that is the same where the texts are equal.

        It is a polynomial of the bytes, in any process: the sum of each byte times the multiplier
        to the power of its distance from the end.
        """
        bounds = np.asarray(self._bounds).astype(np.int64)
        content = np.frombuffer(self._bytes, np.uint8)
        hashes = np.zeros(len(self), np.uint64)
        start = 0
        while start < len(self):
            stop = int(np.searchsorted(bounds, bounds[start] + _HASHED_BYTES, side="right")) - 1
            stop = min(max(stop, start + 1), len(self))
            first = bounds[start]
            ends = bounds[start : stop + 1] - first
            powers = _powers(int(ends[-1]) + 1)
            sums = np.zeros(int(ends[-1]) + 1, np.uint64)
            np.cumsum(content[first : first + ends[-1]] * powers.inverse[: ends[-1]], out=sums[1:])
            hashes[start:stop] = (sums[ends[1:]] - sums[ends[:-1]]) * powers.straight[ends[1:]]
            start = stop
        return hashes

    def lengths(self) -> NDArray[np.int64]:
        """Return the number of bytes of each text, [N]."""
        bounds = np.asarray(self._bounds).astype(np.int64)
        return bounds[1:] - bounds[:-1]

    def first_equal(self) -> NDArray[np.int32]:
        """Return for each text the number of the first one that equals it."""
        if len(self._first_equal) != len(self):
            first = np.arange(len(self), dtype=np.int32)
            number_of: dict[str, int] = {}
            for number in repeated(self.hashes()).tolist():
                first[number] = number_of.setdefault(self[number], number)
            first.flags.writeable = False  # it is kept
            self._first_equal = first
        return self._first_equal

    def contain(self, parts: Sequence[str]) -> NDArray[np.bool_]:
        """Tell which texts have one of these in them, in any case, [N].

        parts: In small letters of ASCII.
        """
        contain = np.zeros(len(self), bool)
        lowered = self._bytes.lower()  # letters of ASCII alone
        for part in parts:
            searched = part.encode()
            position = lowered.find(searched)
            while position >= 0:
                row = bisect_right(self._bounds, position) - 1
                end = self._bounds[row + 1]
                if position + len(searched) <= end:
                    contain[row] = True
                    position = lowered.find(searched, end)
                else:  # it goes on into the next text
                    position = lowered.find(searched, position + 1)

        if not lowered.isascii():
            for row, text in enumerate(self):
                if not text.isascii():  # some letters become ASCII by case folding
                    folded = text.casefold()
                    contain[row] = any(part in folded for part in parts)
        return contain


class _Powers(NamedTuple):
    """Powers of the multiplier of hashes modulo 2**64, and of what undoes it, from 0 on."""

    straight: NDArray[np.uint64]
    inverse: NDArray[np.uint64]


def _powers(count: int) -> _Powers:
    """Return at least ``count`` powers."""
    return _powers_of_size(max(_HASHED_BYTES + 1, 1 << (count - 1).bit_length()))


@lru_cache(maxsize=2)
def _powers_of_size(size: int) -> _Powers:
    factors = np.full((2, size), _MULTIPLIER, np.uint64)
    factors[1] = pow(_MULTIPLIER, -1, 2**64)
    factors[:, 0] = 1
    return _Powers(*np.cumprod(factors, axis=1))


def repeated(keys: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Return the numbers of the keys that are there more than once, in order."""
    order = np.argsort(keys, kind="stable")
    equals_next = keys[order[:-1]] == keys[order[1:]]
    is_repeated = np.zeros(len(keys), bool)
    is_repeated[order[:-1][equals_next]] = True
    is_repeated[order[1:][equals_next]] = True
    return np.flatnonzero(is_repeated)


class TextColumn:
    """A column of texts that are the same in many rows; each is stored once, or a few times.

    numbers: The number of each row's text in ``texts``, -1 for none.
    """

    def __init__(self) -> None:
        self.numbers = array("i")
        self.texts = Texts()
        self._recent: dict[str, int] = {}

    def append(self, text: str | None) -> None:
        """Add a row."""
        if text is None:
            self.numbers.append(_NONE)
            return
        number = self._recent.get(text)
        if number is None:
            if len(self._recent) == _RECENT:
                self._recent.clear()
            number = self._recent[text] = len(self.texts)
            self.texts.append(text)
        self.numbers.append(number)

    def extend(self, texts: Sequence[str]) -> None:
        """Add rows, those of "" without a text; faster than one by one."""
        distinct = dict.fromkeys(texts)
        numbers = {text: self._recent[text] for text in distinct if text in self._recent}
        new = [text for text in distinct if text and text not in numbers]
        number_of_new = dict(zip(new, count(len(self.texts)), strict=False))
        self.texts.extend(new)
        if len(self._recent) + len(new) > _RECENT:
            self._recent.clear()
        self._recent |= number_of_new
        numbers |= {**number_of_new, "": _NONE}
        self.numbers.extend(map(numbers.__getitem__, texts))

    def pad(self, count: int) -> None:
        """Add rows without a text until there are ``count``."""
        missing = count - len(self.numbers)
        if missing > 0:
            self.numbers.extend(array("i", [_NONE]) * missing)

    def finish(self) -> None:
        """Forget what only :meth:`append` needs."""
        self._recent = {}

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, row: int) -> str | None:
        number = self.numbers[row]
        return None if number == _NONE else self.texts[number]

    def of(self, rows: Rows) -> list[str | None]:
        """Return the texts of these rows."""
        numbers = np.asarray(self.numbers)[rows]
        distinct, positions = np.unique(numbers, return_inverse=True)
        texts: list[str | None] = [
            None if number == _NONE else self.texts[number] for number in distinct.tolist()
        ]
        return [texts[position] for position in positions.tolist()]

    def hashes(self) -> NDArray[np.uint64]:
        """Return :meth:`Texts.hashes` of the rows, [N], 0 in a row of "" or None."""
        of_texts = np.append(self.texts.hashes(), np.uint64(0))
        hashes: NDArray[np.uint64] = of_texts[np.asarray(self.numbers)]
        return hashes

    def is_there(self) -> NDArray[np.bool_]:
        """Tell which rows are not None, [N]."""
        is_there: NDArray[np.bool_] = np.asarray(self.numbers) != _NONE
        return is_there

    def has_text(self) -> NDArray[np.bool_]:
        """Tell which rows are neither None nor "", [N]."""
        of_texts: NDArray[np.bool_] = ~self.texts.are_empty()
        has_text: NDArray[np.bool_] = np.append(of_texts, False)[np.asarray(self.numbers)]
        return has_text

    @classmethod
    def of_numbers(cls, numbers: NDArray[np.integer[Any]], texts: Texts) -> "TextColumn":
        """Return a column of the numbers of texts, -1 for none."""
        column = cls()
        column.texts = texts
        column.numbers.frombytes(numbers.astype(np.int32).tobytes())
        return column

    def taken(self, rows: Rows) -> "TextColumn":
        """Return these rows, with the same texts."""
        return self.of_numbers(np.asarray(self.numbers)[rows], self.texts)

    def replaced(self, rows: Rows, texts: Iterable[str | None]) -> "TextColumn":
        """Return the column with other texts in these rows."""
        new = TextColumn()
        for text in texts:
            new.append(text)
        numbers = np.array(self.numbers, np.int32)
        if len(rows) == len(numbers):
            numbers[rows] = new.numbers
            return self.of_numbers(numbers, new.texts)
        both = self.extended(new)
        numbers[rows] = both.numbers[len(numbers) :]
        return self.of_numbers(numbers, both.texts)

    def extended(self, other: "TextColumn") -> "TextColumn":
        """Return the rows of both."""
        numbers = np.array(other.numbers, np.int32)
        numbers[numbers != _NONE] += len(self.texts)
        numbers = np.concatenate([np.asarray(self.numbers), numbers])
        return self.of_numbers(numbers, self.texts.extended(other.texts))


class PathColumn:
    """A column of paths, which share folders: the names of the files alone are there for each row.

    names: What follows the folder of each row, "" in a row without a path.
    """

    def __init__(self) -> None:
        self.folders = TextColumn()
        self.names = Texts()

    def append(self, text: str | None) -> None:
        """Add a row."""
        if text is None:
            self.folders.append(None)
            self.names.append("")
            return
        split = text.rfind(os.sep) + 1
        self.folders.append(text[:split])
        self.names.append(text[split:])

    def extend(self, paths: Sequence[str], beginning: str = "") -> None:
        """Add rows, those of "" without a path; faster than one by one.

        paths: Absolute, or relative to ``beginning``. beginning: A folder, with a separator behind
        it.
        """
        parts = [path.rpartition(os.sep) for path in paths]
        folders = [folder + separator for folder, separator, _ in parts]
        whole_folders = {
            folder: folder if folder.startswith(os.sep) else beginning + folder
            for folder in dict.fromkeys(folders)
        }
        whole = [whole_folders[folder] for folder in folders]
        if "" in paths:
            whole = [folder if path else "" for path, folder in zip(paths, whole, strict=True)]
        self.folders.extend(whole)
        self.names.extend([name for _, _, name in parts])

    def pad(self, count: int) -> None:
        """Add rows without a path until there are ``count``."""
        self.names.pad(count)
        self.folders.pad(count)

    def finish(self) -> None:
        """Forget what only :meth:`append` needs."""
        self.folders.finish()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, row: int) -> str | None:
        folder = self.folders[row]
        return None if folder is None else folder + self.names[row]

    def of(self, rows: Rows) -> list[str | None]:
        """Return the paths of these rows."""
        pairs = zip(self.folders.of(rows), self.names.of(rows), strict=True)
        return [None if folder is None else folder + name for folder, name in pairs]

    def hashes(self) -> NDArray[np.uint64]:
        """Return :meth:`Texts.hashes` of the paths, [N], 0 in a row without one."""
        return self.hashes_in(self.folders.texts)

    def hashes_in(self, folders: Texts) -> NDArray[np.uint64]:
        """Return them as if the folders, by number, were these."""
        lengths = self.names.lengths()
        of_folder = np.append(folders.hashes(), np.uint64(0))[np.asarray(self.folders.numbers)]
        powers = _powers(int(lengths.max(initial=0)) + 1).straight
        hashes: NDArray[np.uint64] = of_folder * powers[lengths] + self.names.hashes()
        return hashes

    def has_text(self) -> NDArray[np.bool_]:
        """Tell which rows have a path, [N]."""
        return self.folders.is_there()

    def taken(self, rows: Rows) -> "PathColumn":
        """Return these rows."""
        taken = PathColumn()
        taken.folders = self.folders.taken(rows)
        taken.names = self.names.taken(rows.tolist())
        return taken

    def replaced(self, rows: Rows, texts: Iterable[str | None]) -> "PathColumn":
        """Return the column with other paths in these rows, which ascend."""
        new = PathColumn()
        is_empty = not self.has_text().any()
        for row, text in zip(
            chain(array("i", rows.tobytes()), [len(self)]), chain(texts, [None]), strict=True
        ):
            if is_empty:
                new.pad(row)
            for other in range(len(new), row):
                new.append(self[other])
            if row < len(self):
                new.append(text)
        new.finish()
        return new

    def extended(self, other: "PathColumn") -> "PathColumn":
        """Return the rows of both."""
        both = PathColumn()
        both.folders = self.folders.extended(other.folders)
        both.names = self.names.extended(other.names)
        return both


Column = TextColumn | PathColumn

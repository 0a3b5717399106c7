"""The rows of tables as a manifest: each image once, and no two rows that contradict each other."""

import logging
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from focus.data.columns import repeated
from focus.data.manifest import REAL, Manifest, Sample, place_of
from focus.errors import InputError

_log = logging.getLogger(__name__)

# An image has one value of each; bytes in a table may well be in two splits.
_UNIQUE = ("label", "split", "human_map", "mask_path", "box", "group")
_UNIQUE_OF_FAKES = (*_UNIQUE, "generator", "family")


class Portion:
    """Take the first ``most`` images of each class, generator and split."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._taken = Counter[tuple[object, ...]]()

    def wants(self, sample: Sample) -> bool:
        """Return whether an image would be among them."""
        return self._taken[_kind(sample)] < self.most

    def takes(self, sample: Sample) -> bool:
        """Return whether an image is among them, and count it."""
        wanted = self.wants(sample)
        self._taken[_kind(sample)] += wanted
        return wanted


def _kind(sample: Sample) -> tuple[object, ...]:
    return sample.split, sample.label, sample.generator


class TableRows:
    """The rows of a table: their samples as a manifest, and the number of each.

    It is read as pairs of both.
    """

    def __init__(self, manifest: Manifest, numbers: "array[int]") -> None:
        self.manifest, self.numbers = manifest, numbers

    @classmethod
    def of(cls, rows: Iterable[tuple[int, Sample]]) -> Self:
        """Return the rows, of which no more than one is held as a sample."""
        numbers = array("q")

        def counted() -> Iterator[Sample]:
            for number, sample in rows:
                numbers.append(number)
                yield sample

        return cls(Manifest(counted()), numbers)

    def __iter__(self) -> Iterator[tuple[int, Sample]]:
        return zip(self.numbers, self.manifest, strict=True)


def from_rows(
    rows: Iterable[tuple[int, Sample]], source: str | Path, *, embedded: bool = False
) -> Manifest:
    """Return the samples of a table's numbered rows, whose files must all be there.

    A row that repeats an earlier one is left out, with one warning for all. embedded: Whether the
    table holds the images themselves; then one image may be in two splits.

    Raises InputError if two rows contradict each other, a file is missing or there are no rows.
    """
    table = rows if isinstance(rows, TableRows) else TableRows.of(rows)
    unit = f"{source}, {'row' if embedded else 'line'} "
    is_kept = _is_first(table.manifest, table.numbers.__getitem__, unit, label_only=embedded)
    if not is_kept.any():
        raise InputError(f"{source} has no rows: give a table with at least one image.")
    kept = Manifest(table.manifest.take(is_kept), str(source))
    numbers = np.asarray(table.numbers)[is_kept]
    refuse_missing(kept.files().is_there, partial(kept.cell, "path"), numbers, unit)
    return kept


def refuse_missing(
    is_there: NDArray[np.bool_],
    path_of: Callable[[int], str],
    numbers: Sequence[int] | NDArray[np.int64],
    unit: str,
) -> None:
    """Raise InputError if an image does not exist.

    is_there: Whether the image of each row does, [N]. path_of: Returns the path in a row. numbers:
    The number of each row in its table. unit: What precedes such a number.
    """
    missing = np.flatnonzero(~is_there)
    if len(missing):
        first = int(missing[0])
        raise InputError(
            f"{unit}{numbers[first]}: {len(missing)} of {len(numbers)} images do not exist, the "
            f"first is {path_of(first)!r}: fix or remove the rows, or give another --data-root."
        )


def join(parts: Sequence[Manifest]) -> Manifest:
    """Return the samples of several manifests, each once; raises InputError as :func:`from_rows`.

    A single manifest is returned as it is.
    """
    if len(parts) == 1:
        return parts[0]
    source = ", ".join(dict.fromkeys(part.source for part in parts if part.source))
    joined = sum(parts, Manifest())
    ends = np.cumsum([len(part) for part in parts])

    def source_of(row: int) -> str:
        return parts[int(np.searchsorted(ends, row, side="right"))].source

    return Manifest(joined.take(_is_first(joined, source_of)), source)


def _is_first(
    manifest: Manifest,
    origin_of: Callable[[int], object],
    unit: str = "",
    *,
    label_only: bool = False,
) -> NDArray[np.bool_]:
    """Tell which rows are no repetitions of earlier ones, [N], and warn of those that are.

    An image may be there several times for several purposes: a test set each, and a real image for
    each generator that it is compared with.

    origin_of: Says where a row comes from, for messages. unit: What precedes that.
    """
    is_first = np.ones(len(manifest), bool)
    first_of_path: dict[str, tuple[int, Sample]] = {}
    purposes = set[tuple[str, ...]]()
    rows = repeated(manifest.hashes())  # most paths are there once
    for row, sample in zip(rows.tolist(), manifest.take(rows), strict=True):
        first_row, first = first_of_path.setdefault(sample.path, (row, sample))
        if label_only:
            unique: Sequence[str] = ("label",)
        elif sample.label == REAL:
            unique = _UNIQUE
        else:
            unique = _UNIQUE_OF_FAKES
        for name in unique:
            if getattr(first, name) != getattr(sample, name):
                raise InputError(
                    f"{unit}{origin_of(row)}: {place_of(sample)!r} is in "
                    f"{unit}{origin_of(first_row)} too, with another {name}; keep one of them."
                )

        generator = sample.generator if sample.label == REAL else ""
        purpose = sample.path, sample.split, sample.test_set, generator
        is_first[row] = purpose not in purposes
        purposes.add(purpose)

    repetitions = np.flatnonzero(~is_first)
    if len(repetitions):
        row = int(repetitions[0])
        _log.warning(
            "left out %d images that were given before, the first in %s%s, %r",
            len(repetitions),
            unit,
            origin_of(row),
            place_of(manifest[row]),
        )
    return is_first

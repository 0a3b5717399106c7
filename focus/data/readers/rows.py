"""The rows of tables as a manifest: each image once, and no two rows that contradict each other."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

from focus.data.manifest import REAL, Manifest, Sample, place_of
from focus.errors import InputError

_log = logging.getLogger(__name__)

# An image has one value of each; bytes in a table may well be in two splits.
_UNIQUE = ("label", "split", "human_map", "mask_path", "box", "group")
_UNIQUE_OF_FAKES = (*_UNIQUE, "generator", "family")
_THREADS = 16  # a network's file system takes its time for each file


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


def from_rows(
    rows: Iterable[tuple[int, Sample]], source: str | Path, *, embedded: bool = False
) -> Manifest:
    """Return the samples of a table's numbered rows, whose files must all be there.

    A row that repeats an earlier one is left out, with one warning for all. embedded: Whether the
    table holds the images themselves; then one image may be in two splits.

    Raises InputError if two rows contradict each other, a file is missing or there are no rows.
    """
    unit = f"{source}, {'row' if embedded else 'line'} "
    kept = _unique(rows, unit, label_only=embedded)
    if not kept:
        raise InputError(f"{source} has no rows: give a table with at least one image.")
    refuse_missing(kept, unit)
    return Manifest((sample for _, sample in kept), str(source))


def refuse_missing(rows: Sequence[tuple[object, Sample]], unit: str) -> None:
    """Raise InputError if an image does not exist. unit: What precedes the number of its row."""
    with ThreadPool(_THREADS) as pool:
        found = pool.map(os.path.lexists, [sample.path for _, sample in rows], chunksize=256)
    if missing := [row for row, there in zip(rows, found, strict=True) if not there]:
        number, sample = missing[0]
        raise InputError(
            f"{unit}{number}: {len(missing)} of {len(rows)} images do not exist, the first is "
            f"{sample.path!r}: fix or remove the rows, or give another --data-root."
        )


def join(parts: Sequence[Manifest]) -> Manifest:
    """Return the samples of several manifests, each once; raises InputError as :func:`from_rows`.

    A single manifest is returned as it is.
    """
    if len(parts) == 1:
        return parts[0]
    source = ", ".join(dict.fromkeys(part.source for part in parts if part.source))
    kept = _unique((part.source, sample) for part in parts for sample in part)
    return Manifest((sample for _, sample in kept), source)


def _unique(
    rows: Iterable[tuple[object, Sample]], unit: str = "", *, label_only: bool = False
) -> list[tuple[object, Sample]]:
    """Return the rows without repetitions, of which it warns. unit: What precedes a row's number.

    An image may be there several times for several purposes: a test set each, and a real image for
    each generator that it is compared with.
    """
    first: dict[str, tuple[object, Sample]] = {}
    kept: dict[tuple[str, ...], tuple[object, Sample]] = {}
    repeated: list[tuple[object, Sample]] = []
    for row in rows:
        at, sample = row
        other, one = first.setdefault(sample.path, row)
        unique = _UNIQUE if sample.label == REAL else _UNIQUE_OF_FAKES
        for name in ("label",) if label_only else unique:
            if getattr(one, name) != getattr(sample, name):
                raise InputError(
                    f"{unit}{at}: {place_of(sample)!r} is in {unit}{other} too, with another "
                    f"{name}; keep one of them."
                )
        generator = sample.generator if sample.label == REAL else ""
        purpose = sample.path, sample.split, sample.test_set, generator
        if kept.setdefault(purpose, row) is not row:
            repeated.append(row)
    if repeated:
        at, sample = repeated[0]
        _log.warning(
            "left out %d images that were given before, the first in %s%s, %r",
            *(len(repeated), unit, at, place_of(sample)),
        )
    return list(kept.values())

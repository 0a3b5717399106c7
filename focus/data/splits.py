"""Assign splits, by group and generator, and refuse those that cannot train."""

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from focus.data.columns import repeated
from focus.data.manifest import REAL, SYNTHETIC, UNLABELLED, Manifest, Sample, Split, file_key
from focus.errors import InputError

SHARE = 0.15
"""Share of the images for validation, and for test, where the data have no split."""

RENAME_GROUPS = "; if unrelated groups share a name, rename one, or give --columns group="
"""Advice for images that are left out, or refused, by their group."""

_SPLITS: tuple[Split, ...] = ("train", "validation", "test")
_TRAIN = 0
"""The number of train in ``_SPLITS``."""
_NONE = -1


def assign_splits(manifest: Manifest, *, seed: int) -> Manifest:
    """Give every sample a split, in the manifest's order.

    Splits that are given stay, samples without one go where their group already is, the others to
    train. If there is no validation split, ``SHARE`` of train is cut off; if no sample had a split
    at all, as much for test. Cuts take the share of each (label, generator), at least one sample
    where there are two, and never go through a group. They depend on the seed and on the paths
    below the samples' common folder alone, not on the order.

    Call it on the data of ``--data``, before test sets given apart are joined.
    """
    splits = _split_numbers(manifest)
    cuts: list[Split] = [] if (splits != _NONE).any() else ["test"]
    group = manifest.numbered("group").numbers
    of_group = np.full(group.max(initial=_NONE) + 2, _TRAIN, np.int8)  # the last: of no group
    in_both = (group != _NONE) & (splits != _NONE)
    of_group[group[in_both]] = splits[in_both]
    splits = np.where(splits == _NONE, of_group[group], splits)
    if not (splits == _SPLITS.index("validation")).any():
        cuts.append("validation")

    if cuts:
        pool = np.flatnonzero(splits == _TRAIN)
        units = _Units.of(manifest.take(pool), common_folder(_folders(manifest)), seed)
        is_free = np.ones(units.number, bool)
        quota = [round(SHARE * size) for size in units.sizes]
        for split in cuts:
            chosen = units.cut(is_free, quota)
            is_free[chosen] = False
            is_chosen = np.zeros(units.number, bool)
            is_chosen[chosen] = True
            splits[pool[is_chosen[units.of_row]]] = _SPLITS.index(split)
    return manifest.with_numbered("split", splits, _SPLITS)


def check_trainable(manifest: Manifest) -> None:
    """Check that each split holds both classes and is apart from the others.

    Train and validation must be there and be labelled, test need not. No group and no file may lie
    in more than one split, test included: training images would be scored.

    Raises:
        InputError: they cannot be trained on.
    """
    source = manifest.source or "the data"
    splits, labels = _split_numbers(manifest), manifest.labels
    _check_apart(
        manifest,
        "groups",
        splits,
        manifest.numbered("group").numbers,
        lambda sample: sample.group,
        RENAME_GROUPS,
    )
    files = equal_files(manifest)
    _check_apart(manifest, "images", splits, files, lambda sample: file_key(sample.path), "")
    for number, split in enumerate(_SPLITS):
        count = Counter(labels[splits == number].tolist())
        advice = "give some of both, training needs them in it"
        if split == "test":
            advice = "give some of both (--test-data, --test-real), or none"
            if not count[REAL] and not count[SYNTHETIC]:
                continue
        elif count[UNLABELLED]:
            raise InputError(
                f"{count[UNLABELLED]} of {count.total()} {split} images of {source} have no label: "
                "label them or take them out."
            )
        if not count[REAL] or not count[SYNTHETIC]:
            raise InputError(
                f"The {split} split of {source} has {count[REAL]} real and {count[SYNTHETIC]} "
                f"synthetic images: {advice}."
            )


def equal_files(manifest: Manifest) -> NDArray[np.int64]:
    """Return the same number for rows of one file, by whatever link; -1 for the only one."""
    numbers = np.full(len(manifest), _NONE, np.int64)
    rows = repeated(manifest.file_hashes())
    number_of: dict[str, int] = {}
    for row, path in zip(rows.tolist(), manifest.take(rows).cells("path"), strict=True):
        numbers[row] = number_of.setdefault(file_key(path), len(number_of))
    return numbers


def _split_numbers(manifest: Manifest) -> NDArray[np.int8]:
    """Return the number of each row's split in ``_SPLITS``, -1 for none."""
    numbers = np.full(len(manifest), _NONE, np.int8)
    for number, split in enumerate(_SPLITS):
        numbers[manifest.equals("split", split)] = number
    return numbers


def _check_apart(
    manifest: Manifest,
    what: str,
    splits: NDArray[np.int8],
    members: NDArray[np.integer[Any]],
    name_of: Callable[[Sample], str],
    advice: str,
) -> None:
    """Refuse rows of one group, or of one file, that lie in several splits.

    splits, members: The numbers of each row's split and of its group, or file; -1 for none.
    """
    rows = np.flatnonzero((members != _NONE) & (splits != _NONE))
    _, first, positions = np.unique(members[rows], return_index=True, return_inverse=True)
    first_rows = rows[first[positions]]
    is_torn = splits[rows] != splits[first_rows]
    if is_torn.any():
        n_torn = len(np.unique(positions[is_torn]))
        one, two = manifest[first_rows[is_torn][0]], manifest[rows[is_torn][0]]
        raise InputError(
            f"{n_torn} {what} of {manifest.source or 'the data'} lie in more than one split, "
            f"the first is {name_of(two)!r} in {one.split} ({one.path!r}) and {two.split} "
            f"({two.path!r}): give each one split{advice}."
        )


@dataclass(frozen=True)
class _Units:
    """Groups, and files without one, whose rows stay together, in the order of the cuts.

    A kind is a label and a generator, of each of which a share is cut off.

    Attributes:
        of_row: The number of each row's unit.
        sizes: The number of rows of each kind.
        names: Each kind as text, by which kinds are ordered.
        bounds: Where the entries of each unit begin, and where the last one's end.
        kinds: The kind of each entry: the kinds of the first unit, then those of the next.
        counts: The number of its rows.
    """

    of_row: NDArray[np.int64]
    sizes: list[int]
    names: list[str]
    bounds: "array[int]"
    kinds: "array[int]"
    counts: "array[int]"

    @property
    def number(self) -> int:
        """The number of units."""
        return len(self.bounds) - 1

    @classmethod
    def of(cls, pool: Manifest, folder: str, seed: int) -> Self:
        """Return the units in the order of a hash of the seed and the name of group or file.

        folder: What is left out of the paths.
        """
        members = _members(pool)
        _, first, unsorted = np.unique(members, return_index=True, return_inverse=True)
        position = _positions(pool.take(first), folder, seed)
        of_row = position[unsorted]

        generator = pool.numbered("generator")
        n_generators = len(generator.texts) + 1
        keys = (pool.labels + np.int32(1)) * n_generators + generator.numbers + 1
        distinct, kind_of_row = np.unique(keys, return_inverse=True)
        names = [
            str((None if label == 0 else label - 1, generator.text(number - 1)))
            for label, number in (divmod(key, n_generators) for key in distinct.tolist())
        ]
        sizes = np.bincount(kind_of_row, minlength=len(names)).tolist()
        n_kinds = max(len(names), 1)
        entries, counts = np.unique(of_row * n_kinds + kind_of_row, return_counts=True)
        bounds = np.searchsorted(entries, np.arange(len(first) + 1) * n_kinds)
        return cls(
            of_row,
            sizes,
            names,
            _as_array(bounds),
            _as_array(entries % n_kinds),
            _as_array(counts),
        )

    def cut(self, is_free: NDArray[np.bool_], quota: Sequence[int]) -> list[int]:
        """Return the first free units that fill the quotas of the kinds without passing one.

        A kind of which no unit fits gets the one with the fewest rows. A unit is taken only if
        another free one is left of each of its kinds.
        """
        kind_of_entry = np.asarray(self.kinds)
        is_free_entry = np.repeat(is_free, np.diff(self.bounds))
        # Of each kind: free units that are not chosen, rows still wanted, whether it has a unit.
        units_left = np.bincount(kind_of_entry[is_free_entry], minlength=len(quota)).tolist()
        rows_wanted = list(quota)
        has_unit = [False] * len(quota)
        chosen: list[int] = []

        def entries(unit: int) -> range:
            return range(self.bounds[unit], self.bounds[unit + 1])

        def is_dispensable(unit: int) -> bool:
            return all(units_left[self.kinds[entry]] > 1 for entry in entries(unit))

        def n_rows(unit: int) -> int:
            return sum(self.counts[entry] for entry in entries(unit))

        def take(unit: int) -> None:
            chosen.append(unit)
            for entry in entries(unit):
                kind = self.kinds[entry]
                rows_wanted[kind] -= self.counts[entry]
                units_left[kind] -= 1
                has_unit[kind] = True

        is_wanted = any(rows > 0 for rows in rows_wanted)
        for unit in np.flatnonzero(is_free).tolist():
            if not is_wanted:
                break
            fits = all(
                self.counts[entry] <= rows_wanted[self.kinds[entry]] for entry in entries(unit)
            )
            if fits and is_dispensable(unit):
                take(unit)
                is_wanted = any(rows > 0 for rows in rows_wanted)

        for kind in sorted(range(len(quota)), key=self.names.__getitem__):
            if has_unit[kind]:
                continue
            entries_of_kind = np.flatnonzero(is_free_entry & (kind_of_entry == kind))
            units = np.searchsorted(self.bounds, entries_of_kind, side="right") - 1
            dispensable = [unit for unit in units.tolist() if is_dispensable(unit)]
            if dispensable:
                take(min(dispensable, key=n_rows))
        return chosen


def _as_array(values: NDArray[np.int64]) -> "array[int]":
    """Return numbers as an array of Python's, whose items are faster to look at."""
    return array("i", values.astype(np.int32).tobytes())


def _members(pool: Manifest) -> NDArray[np.int64]:
    """Return a number for each row, the same for rows of one group, or else of one path."""
    group = pool.numbered("group").numbers
    numbers = group + np.int64(len(pool))
    alone = np.flatnonzero(group == _NONE)
    numbers[alone] = alone
    paths = pool.take(alone)
    rows = repeated(paths.hashes())
    number_of: dict[str, int] = {}
    for row, path in zip(alone[rows].tolist(), paths.take(rows).cells("path"), strict=True):
        numbers[row] = number_of.setdefault(path, row)
    return numbers


def _positions(first: Manifest, folder: str, seed: int) -> NDArray[np.int64]:
    """Return the position of each unit in the order of the hashes. first: The first row of each."""
    digests = bytearray()
    for group, path in zip(first.cells("group"), first.cells("path"), strict=True):
        name = f"group {group}" if group else path.removeprefix(folder)
        text = f"{seed} {name}".encode(errors="surrogateescape")
        digests += hashlib.blake2b(text, digest_size=16).digest()
    halves = np.frombuffer(digests, ">u8").reshape(-1, 2)
    position = np.empty(len(first), np.int64)
    position[np.lexsort((halves[:, 1], halves[:, 0]))] = np.arange(len(first))
    return position


def _folders(manifest: Manifest) -> Iterator[str]:
    """Yield the folders that the images lie in."""
    numbers, texts = manifest.folders()
    for number in np.unique(numbers[numbers != _NONE]).tolist():
        yield texts[number]


def common_folder(files: Iterable[str]) -> str:
    """Return what all paths begin with, so that a data set may move without changing its splits."""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in files])  # noqa: PTH120
    except ValueError:  # no samples, or different drives
        return ""

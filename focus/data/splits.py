"""Assign splits, by group and generator, and refuse those that cannot train."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample, Split, file_key
from focus.errors import InputError

SHARE = 0.15
"""Share of the images for validation, and for test, where the data have no split."""

RENAME_GROUPS = "; if unrelated groups share a name, rename one, or give --columns group="
"""Advice for images that are left out, or refused, by their group."""

_Kind = tuple[int | None, str]
"""Label and generator: a share of each is cut off."""


class _Unit(NamedTuple):
    """A group, or the rows of one file: they stay together."""

    rows: list[int]
    counts: Counter[_Kind]


def assign_splits(manifest: Manifest, *, seed: int) -> Manifest:
    """Give every sample a split, in the manifest's order.

    Splits that are given stay, samples without one go where their group already is, the others to
    train. If there is no validation split, ``SHARE`` of train is cut off; if no sample had a split
    at all, as much for test. Cuts take the share of each (label, generator), at least one sample
    where there are two, and never go through a group. They depend on the seed and on the paths
    below the samples' common folder alone, not on the order.

    Call it on the data of ``--data``, before test sets given apart are joined.
    """
    group_split = {s.group: s.split for s in manifest if s.group and s.split}
    splits: list[Split] = [s.split or group_split.get(s.group, "train") for s in manifest]
    cuts: list[Split] = [] if any(sample.split for sample in manifest) else ["test"]
    if "validation" not in splits:
        cuts.append("validation")

    pool = [row for row, split in enumerate(splits) if split == "train"] if cuts else []
    units = _units(manifest, pool, seed)
    sizes: Counter[_Kind] = sum((unit.counts for unit in units), Counter())
    for split in cuts:
        chosen = _cut(units, {kind: round(SHARE * size) for kind, size in sizes.items()})
        for row in chain.from_iterable(units[number].rows for number in chosen):
            splits[row] = split
        units = [unit for number, unit in enumerate(units) if number not in chosen]
    assigned = (replace(s, split=split) for s, split in zip(manifest, splits, strict=True))
    return Manifest(assigned, manifest.source)


def check_trainable(manifest: Manifest) -> None:
    """Check that each split holds both classes and is apart from the others.

    Train and validation must be there and be labelled, test need not. No group and no file may lie
    in more than one split, test included: training images would be scored.

    Raises:
        InputError: they cannot be trained on.
    """
    place = manifest.source or "the data"
    _check_apart(manifest, "groups", lambda sample: sample.group, RENAME_GROUPS)
    _check_apart(manifest, "images", lambda sample: file_key(sample.path), "")
    for split in ("train", "validation", "test"):
        count = Counter(sample.label for sample in manifest if sample.split == split)
        advice = "give some of both, training needs them in it"
        if split == "test":
            advice = "give some of both (--test-data, --test-real), or none"
            if not count[REAL] and not count[SYNTHETIC]:
                continue
        elif count[None]:
            raise InputError(
                f"{count[None]} of {count.total()} {split} images of {place} have no label: label "
                "them or take them out."
            )
        if not count[REAL] or not count[SYNTHETIC]:
            raise InputError(
                f"The {split} split of {place} has {count[REAL]} real and {count[SYNTHETIC]} "
                f"synthetic images: {advice}."
            )


def _check_apart(
    manifest: Manifest, what: str, name_of: Callable[[Sample], str], advice: str
) -> None:
    first: dict[str, Sample] = {}
    torn: dict[str, Sample] = {}
    for sample in manifest:
        name = name_of(sample)
        if name and sample.split and first.setdefault(name, sample).split != sample.split:
            torn.setdefault(name, sample)
    if torn:
        name, two = next(iter(torn.items()))
        one = first[name]
        raise InputError(
            f"{len(torn)} {what} of {manifest.source or 'the data'} lie in more than one split, "
            f"the first is {name!r} in {one.split} ({one.path!r}) and {two.split} ({two.path!r}): "
            f"give each one split{advice}."
        )


def _units(manifest: Manifest, rows: Sequence[int], seed: int) -> list[_Unit]:
    """Return the units in the order of a hash of the seed and the name of group or file."""
    folder = common_folder(sample.path for sample in manifest)
    members: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        sample = manifest[row]
        name = f"group {sample.group}" if sample.group else sample.path.removeprefix(folder)
        members[name].append(row)

    def place(name: str) -> bytes:
        text = f"{seed} {name}".encode(errors="surrogateescape")
        return hashlib.blake2b(text, digest_size=16).digest()

    return [
        _Unit(rows, Counter((manifest[row].label, manifest[row].generator) for row in rows))
        for rows in (members[name] for name in sorted(members, key=place))
    ]


def _cut(units: Sequence[_Unit], quota: Mapping[_Kind, int]) -> set[int]:
    """Return the numbers of the first units that fill the quotas without passing one.

    Of each kind with a quota at least one unit is taken and one left, if there are two.
    """
    spare = Counter(chain.from_iterable(unit.counts for unit in units))
    left = Counter(quota)
    chosen: set[int] = set()

    def take(number: int) -> None:
        chosen.add(number)
        left.subtract(units[number].counts)
        spare.subtract(units[number].counts.keys())

    def dispensable(unit: _Unit) -> bool:
        return all(spare[kind] > 1 for kind in unit.counts)

    for number, unit in enumerate(units):
        if all(n <= left[kind] for kind, n in unit.counts.items()) and dispensable(unit):
            take(number)
    for kind in sorted(quota, key=str):
        if not any(kind in units[number].counts for number in chosen):
            able = [n for n, unit in enumerate(units) if kind in unit.counts and dispensable(unit)]
            if able:
                take(min(able, key=lambda number: len(units[number].rows)))
    return chosen


def common_folder(files: Iterable[str]) -> str:
    """Return what all paths begin with, so that a data set may move without changing its splits."""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in files])  # noqa: PTH120
    except ValueError:  # no samples, or different drives
        return ""

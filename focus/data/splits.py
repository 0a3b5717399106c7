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
"""Of the images, for validation and for test, where the data have no split."""

RENAME_GROUPS = (
    "; where unrelated data have groups of the same names, rename those of one, or, if none of the "
    "tables needs its groups, give --columns group="
)
"""Advice for images that are left out, or refused, by their group."""

_Kind = tuple[int | None, str]
"""Label and generator: a share of each is cut off."""


class _Unit(NamedTuple):
    """Rows of the manifest that stay together: a group, or the rows of one file."""

    rows: list[int]
    counts: Counter[_Kind]


def assign_splits(
    manifest: Manifest, *, seed: int, validation: float = SHARE, test: float = SHARE
) -> Manifest:
    """Give every sample a split, in the manifest's order.

    Splits that are given stay, samples without one go where their group already is, the others to
    train. If there is no validation split, the share ``validation`` of train is cut off; if no
    sample had a split at all, a share ``test`` too. Cuts take the share of each (label, generator),
    at least one sample where there are two, and never go through a group. They depend on the seed
    and on the paths below the samples' common folder alone, not on the order.

    Call it on the data of ``--data``, before test sets given apart are joined.
    """
    group_split = {s.group: s.split for s in manifest if s.group and s.split}
    splits: list[Split] = [s.split or group_split.get(s.group, "train") for s in manifest]
    cuts: dict[Split, float] = {}  # in this order
    if not any(sample.split for sample in manifest):
        cuts["test"] = test
    if "validation" not in splits:
        cuts["validation"] = validation

    pool = [row for row, split in enumerate(splits) if split == "train"] if cuts else []
    units = _units(manifest, pool, seed)
    sizes = Counter(_kind(manifest[row]) for row in pool)
    for split, share in cuts.items():
        chosen, units = _cut(units, {kind: share * size for kind, size in sizes.items()})
        for row in chain.from_iterable(unit.rows for unit in chosen):
            splits[row] = split
    return Manifest(
        (
            s if s.split == split else replace(s, split=split)
            for s, split in zip(manifest, splits, strict=True)
        ),
        manifest.source,
    )


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
        if split != "test" and count[None]:
            raise InputError(
                f"{count[None]} of {count.total()} {split} images of {place} have no label: label "
                "them or take them out."
            )
        advice = "give some of both, training needs them in it"
        if split == "test":
            advice = "give some of both (--test-data, --test-real), or none"
            if not count[REAL] and not count[SYNTHETIC]:
                continue
        if not count[REAL] or not count[SYNTHETIC]:
            raise InputError(
                f"The {split} split of {place} has {count[REAL]} real and {count[SYNTHETIC]} "
                f"synthetic images: {advice}."
            )


def _check_apart(
    manifest: Manifest, what: str, name_of: Callable[[Sample], str], advice: str
) -> None:
    home: dict[str, tuple[int, Split]] = {}
    torn: dict[str, str] = {}
    for row, sample in enumerate(manifest, start=1):
        name = name_of(sample)
        if not name or not sample.split:
            continue
        first, split = home.setdefault(name, (row, sample.split))
        if split != sample.split and name not in torn:
            torn[name] = (
                f"{split} (image {first}, {manifest[first - 1].path!r}) and {sample.split} "
                f"(image {row}, {sample.path!r})"
            )
    if torn:
        name, where = next(iter(torn.items()))
        raise InputError(
            f"{len(torn)} {what} of {manifest.source or 'the data'} lie in more than one split, "
            f"the first is {name!r} in {where}: give each one split{advice}."
        )


def _kind(sample: Sample) -> _Kind:
    return sample.label, sample.generator


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
        _Unit(members[name], Counter(_kind(manifest[row]) for row in members[name]))
        for name in sorted(members, key=place)
    ]


def _cut(units: Sequence[_Unit], quota: Mapping[_Kind, float]) -> tuple[list[_Unit], list[_Unit]]:
    """Return the first units that fill the quotas without passing one, and the rest.

    Of each kind with a quota at least one unit is taken and one left, if there are two.
    """
    spare = Counter(chain.from_iterable(unit.counts for unit in units))
    left = {kind: round(share) for kind, share in quota.items()}
    taken: set[_Kind] = set()
    chosen: set[int] = set()

    def take(number: int) -> None:
        chosen.add(number)
        for kind, count in units[number].counts.items():
            left[kind] -= count
            spare[kind] -= 1
            taken.add(kind)

    def dispensable(unit: _Unit) -> bool:
        return all(spare[kind] > 1 for kind in unit.counts)

    for number, unit in enumerate(units):
        if all(n <= left[kind] for kind, n in unit.counts.items()) and dispensable(unit):
            take(number)
    for kind in sorted(quota, key=str):
        if quota[kind] > 0 and kind not in taken:
            holders = (n for n, unit in enumerate(units) if kind in unit.counts)
            able = [n for n in holders if dispensable(units[n])]
            if able:
                take(min(able, key=lambda number: len(units[number].rows)))
    return (
        [unit for number, unit in enumerate(units) if number in chosen],
        [unit for number, unit in enumerate(units) if number not in chosen],
    )


def common_folder(files: Iterable[str]) -> str:
    """Return what all paths begin with, so that a data set may move without changing its splits."""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in files])  # noqa: PTH120
    except ValueError:  # no samples, or different drives
        return ""

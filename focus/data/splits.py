"""Assigning splits, and refusing those that cannot train."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from focus.data.manifest import REAL, SYNTHETIC, Manifest, Split
from focus.errors import InputError

_Unit = list[int]
"""Rows of the manifest that stay together: a group, or the rows of one file."""


def assign_splits(
    manifest: Manifest, *, seed: int, validation: float = 0.15, test: float = 0.15
) -> Manifest:
    """Give every sample a split, in the manifest's order; splits that are given stay.

    Samples without split go where their group already is, the others to train. If there is no
    validation split, the share ``validation`` of train is cut off; if no sample had a split at all,
    a share ``test`` too. Cuts take the share of each (label, generator), at least one sample where
    there are two, and never go through a group. They depend on the seed and on the paths below
    the samples' common folder alone, not on the order.

    Call it on the data of ``--data``, before test sets given apart are joined.
    """
    group_split = {s.group: s.split for s in manifest if s.group and s.split}
    splits: list[Split] = [s.split or group_split.get(s.group, "train") for s in manifest]
    cuts: dict[Split, float] = {}  # in this order
    if not any(sample.split for sample in manifest):
        cuts["test"] = test
    if "validation" not in splits:
        cuts["validation"] = validation

    pool = [row for row, split in enumerate(splits) if split == "train"]
    for units in _strata(manifest, pool, seed):
        size = sum(map(len, units))
        for split, share in cuts.items():
            chosen, units = _fitting(units, share * size)
            for row in chain.from_iterable(chosen):
                splits[row] = split
    return Manifest(
        (replace(s, split=split) for s, split in zip(manifest, splits, strict=True)),
        manifest.source,
    )


def check_trainable(manifest: Manifest) -> None:
    """Raise InputError unless train and validation hold both classes and each split is apart.

    No group and no file may lie in more than one split, test included: what training saw would be
    scored.
    """
    place = manifest.source or "the data"
    for split in ("train", "validation"):
        count = Counter(sample.label for sample in manifest if sample.split == split)
        if count[None]:
            raise InputError(
                f"{count[None]} of {count.total()} {split} images of {place} have no label: label "
                "them or take them out."
            )
        if not count[REAL] or not count[SYNTHETIC]:
            raise InputError(
                f"The {split} split of {place} has {count[REAL]} real and {count[SYNTHETIC]} "
                "synthetic images: give some of both, training needs them in it."
            )
    for kind in ("group", "path"):
        home: dict[str, Split] = {}
        torn: dict[str, Split] = {}
        for sample in manifest:
            name: str = getattr(sample, kind)
            if name and sample.split and home.setdefault(name, sample.split) != sample.split:
                torn.setdefault(name, sample.split)
        if torn:
            what, first = "groups" if kind == "group" else "images", min(torn)
            raise InputError(
                f"{len(torn)} {what} of {place} lie in more than one split, the first is "
                f"{first!r} in {' and '.join(sorted((home[first], torn[first])))}: give each one "
                "split."
            )


def _strata(manifest: Manifest, rows: Sequence[int], seed: int) -> list[list[_Unit]]:
    """The units of each combination of labels and generators.

    They are in the order of a hash of the seed and the group's name or the file's place.
    """
    folder = _common_folder(manifest)
    units: defaultdict[str, _Unit] = defaultdict(list)
    for row in rows:
        sample = manifest[row]
        units[f"group {sample.group}" if sample.group else sample.path.removeprefix(folder)] += [
            row
        ]
    strata: defaultdict[frozenset[tuple[int | None, str]], list[str]] = defaultdict(list)
    for name, members in units.items():
        kinds = frozenset((manifest[row].label, manifest[row].generator) for row in members)
        strata[kinds].append(name)

    def place(name: str) -> bytes:
        text = f"{seed} {name}".encode(errors="surrogateescape")
        return hashlib.blake2b(text, digest_size=16).digest()

    return [[units[name] for name in sorted(names, key=place)] for names in strata.values()]


def _fitting(units: list[_Unit], quota: float) -> tuple[list[_Unit], list[_Unit]]:
    """The first units that fill the quota without passing it, at least one but not all; the rest.

    None if that leaves no choice, a single unit.
    """
    if quota <= 0 or len(units) < 2:
        return [], units
    chosen: list[_Unit] = []
    rest: list[_Unit] = []
    left = round(quota)
    for unit in units:
        fits = len(unit) <= left and len(chosen) < len(units) - 1
        (chosen if fits else rest).append(unit)
        left -= len(unit) if fits else 0
    if not chosen:
        smallest = min(rest, key=len)
        rest.remove(smallest)
        chosen.append(smallest)
    return chosen, rest


def _common_folder(manifest: Manifest) -> str:
    """What all paths begin with, so that a data set may move without changing its splits."""
    try:
        return os.path.commonpath([os.path.dirname(s.path) for s in manifest])  # noqa: PTH120
    except ValueError:  # no samples, or different drives
        return ""

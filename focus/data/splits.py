"""Assigning splits, and refusing those that cannot train."""

import hashlib
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from focus.data.known_images import tell_known
from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample, Split, file_key
from focus.errors import InputError

_log = logging.getLogger(__name__)

_Kind = tuple[int | None, str]
"""What shares are taken of: a label and a generator."""

SHARE = 0.15
"""Of the images, for validation and for test, where the data have no split."""


NOT_ONE_GROUP = (
    "; where unrelated data have groups of the same names, rename those of one, or, if none of the "
    "tables needs its groups, give --columns group="
)
"""What else to do about images that are known, or torn, by their group."""


class _Unit:
    """Rows of the manifest that stay together, a group or the rows of one file, and their kinds."""

    __slots__ = ("counts", "rows")

    def __init__(self, rows: list[int], counts: Mapping[_Kind, int]) -> None:
        self.rows, self.counts = rows, counts


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
    sizes: Counter[_Kind] = Counter()
    for unit in units:
        sizes.update(unit.counts)
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


def check_unseen(manifest: Manifest, before: Manifest, weights: str) -> None:
    """Raise InputError if images to be tested or validated on are known to the weights.

    Neither may be among those that the weights were trained on, nor a test image among those that
    they were chosen on.

    Args:
        before: what the weights were trained on (``train``) and chosen on (``validation``).
        weights: their file, for the message.
    """
    forbidden: dict[Split, Manifest] = {"validation": before.split("train"), "test": before}
    found = {}
    by_group = False
    for split, known in forbidden.items():
        given = manifest.split(split)
        told = tell_known(known, given)
        if told.warning:
            _log.warning("%s", told.warning)
        by = Counter(map(told.by_what, given))
        by_group = by_group or by["group"] > 0
        if count := by["file"] + by["group"]:
            found[split] = count
    if found:
        counts = " and ".join(f"{count} {split}" for split, count in found.items())
        raise InputError(
            f"{counts} images of {manifest.source or 'the data'}, or others of their groups, are "
            f"among those that {weights} was trained or chosen on: give the manifest.csv of its "
            "run as --data, the --seed of that run, or other images"
            f"{NOT_ONE_GROUP * by_group}."
        )


def check_trainable(manifest: Manifest) -> None:
    """Raise InputError unless each split holds both classes and is apart from the others.

    Train and validation must be there and be labelled, test need not. No group and no file may lie
    in more than one split, test included: what training saw would be scored.
    """
    place = manifest.source or "the data"
    _check_apart(manifest, place)
    for split in ("train", "validation", "test"):
        count = Counter(sample.label for sample in manifest if sample.split == split)
        if split == "test":
            if (count[REAL] > 0) != (count[SYNTHETIC] > 0):
                raise InputError(
                    f"The test split of {place} has {count[REAL]} real and {count[SYNTHETIC]} "
                    "synthetic images: give some of both (--test-data, --test-real), or none."
                )
            continue
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


def _check_apart(manifest: Manifest, place: str) -> None:
    kinds: dict[str, Callable[[Sample], str]] = {
        "groups": lambda sample: sample.group,
        "images": lambda sample: file_key(sample.path),
    }
    for what, name_of in kinds.items():
        home: dict[str, Split] = {}
        torn: set[str] = set()
        for sample in manifest:
            name = name_of(sample)
            if name and sample.split and home.setdefault(name, sample.split) != sample.split:
                torn.add(name)
        if not torn:
            continue
        first = min(torn)
        members: defaultdict[str, list[str]] = defaultdict(list)
        for row, sample in enumerate(manifest, start=1):
            if sample.split and name_of(sample) == first:
                members[sample.split].append(f"image {row}, {sample.path!r}")
        where = "; ".join(
            f"{split}: {images[0]}{f' and {len(images) - 1} more' * (len(images) > 1)}"
            for split, images in sorted(members.items())
        )
        raise InputError(
            f"{len(torn)} {what} of {place} lie in more than one split, the first is {first!r} in "
            f"{' and '.join(sorted(members))} ({where}): give each one split"
            f"{NOT_ONE_GROUP * (what == 'groups')}."
        )


def _units(manifest: Manifest, rows: Sequence[int], seed: int) -> list[_Unit]:
    """What stays together, in the order of a hash of the seed and the name of group or file."""
    folder = common_folder(sample.path for sample in manifest)
    members: defaultdict[str, list[int]] = defaultdict(list)
    for row in rows:
        sample = manifest[row]
        name = f"group {sample.group}" if sample.group else sample.path.removeprefix(folder)
        members[name].append(row)

    def place(name: str) -> bytes:
        text = f"{seed} {name}".encode(errors="surrogateescape")
        return hashlib.blake2b(text, digest_size=16).digest()

    single: dict[_Kind, Mapping[_Kind, int]] = {}  # shared, since most units are one image
    units = []
    for name in sorted(members, key=place):
        kinds = [(manifest[row].label, manifest[row].generator) for row in members[name]]
        counts = single.setdefault(kinds[0], {kinds[0]: 1}) if len(kinds) == 1 else Counter(kinds)
        units.append(_Unit(members[name], counts))
    return units


def _cut(units: Sequence[_Unit], quota: Mapping[_Kind, float]) -> tuple[list[_Unit], list[_Unit]]:
    """The first units that fill the quotas without passing one; the rest.

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

    missing = {kind for kind, share in quota.items() if share > 0} - taken
    holders: defaultdict[_Kind, list[int]] = defaultdict(list)
    for number, unit in enumerate(units):
        for kind in missing.intersection(unit.counts):
            holders[kind].append(number)
    for kind in sorted(missing, key=str):
        able = [number for number in holders[kind] if dispensable(units[number])]
        if kind not in taken and able:
            take(min(able, key=lambda number: len(units[number].rows)))
    return (
        [unit for number, unit in enumerate(units) if number in chosen],
        [unit for number, unit in enumerate(units) if number not in chosen],
    )


def common_folder(files: Iterable[str]) -> str:
    """What all paths begin with, so that a data set may move without changing its splits."""
    try:
        return os.path.commonpath([os.path.dirname(path) for path in files])  # noqa: PTH120
    except ValueError:  # no samples, or different drives
        return ""

"""The data of a run that is resumed: those that it recorded, but for files lost since then."""

import os
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from focus.data.bad_files import BadFile, Role
from focus.data.manifest import Manifest, Sample, Split
from focus.data.maps import files_of
from focus.data.splits import common_folder
from focus.errors import InputError

_Lost = dict[tuple[str, Role], None]  # a set in the record's order


class Resumed(NamedTuple):
    """What a run goes on with.

    manifest: what it takes. record: all that it began with, by the names of today, so that a file
    that comes back is taken again. warning: what to say of lost files; "" without any.
    """

    manifest: Manifest
    record: Manifest
    warning: str


def resumed_data(
    manifest: Manifest,
    recorded: Manifest,
    run: Path,
    *,
    bad: Iterable[BadFile],
    max_bad: float,
) -> Resumed:
    """The manifest with the splits that a run recorded when it began.

    The data may lie in another place, but not differ otherwise, but for files that cannot be
    decoded any more or are not there. A training image that is lost stays in its place, which the
    order of the batches depends on, and the next one of its class is taken for it; others are left
    out.

    Args:
        manifest: as it was read, with the splits that are given and no others, without bad files.
        recorded: what the run trains on.
        run: its folder, for the messages.
        bad: the files that cannot be decoded.
        max_bad: the share of the images, maps or masks above which lost ones are too many.

    Raises:
        InputError: the data differ, or too many files are lost.
    """
    record = _in_todays_place(recorded, manifest)
    paths = {sample.path for sample in manifest}
    undecodable = {(file.path, file.role) for file in bad}
    # As in assign_splits: without a validation split, train gives some of its own.
    cut = all(sample.split != "validation" for sample in manifest)
    lost: _Lost = {}

    def is_lost(file: str, role: Role) -> bool:
        parts = files_of(file) if role == "map" else [file]
        found = (file, role) in undecodable or not all(map(os.path.exists, parts))
        if found:
            lost[file, role] = None
        return found

    def same(now: Sample, then: Sample) -> bool:
        """But for a map or mask that is lost."""
        map_path, mask_path = then.map_path, then.mask_path
        if map_path and now.map_path != map_path and is_lost(map_path, "map"):
            map_path = now.map_path
        if mask_path and now.mask_path != mask_path and is_lost(mask_path, "mask"):
            mask_path = now.mask_path
        return now == replace(then, split=now.split, map_path=map_path, mask_path=mask_path)

    def other(sample: Sample) -> InputError:
        return InputError(
            f"The data are not those that the run {run} began with ({len(recorded)} images then, "
            f"{len(manifest)} now, the first that differs is {sample.path!r}): resume it with the "
            "same data, or give another --name."
        )

    taken: list[Sample] = []
    left = iter(manifest)
    for then in record:
        if then.path not in paths:
            if not is_lost(then.path, "image"):
                raise other(then)
            taken.append(then)
            continue
        now = next(left, None)
        if now is None or not (_may_become(now.split, then.split, cut) and same(now, then)):
            raise other(now or then)
        taken.append(replace(now, split=then.split))
    if (new := next(left, None)) is not None:
        raise other(new)
    if not lost:
        return Resumed(Manifest(taken, manifest.source), record, "")
    _refuse_too_many(lost, record, run, max_bad)
    usable = _without(taken, {path for path, role in lost if role == "image"})
    first, _ = next(iter(lost))
    warning = (
        f"{len(lost)} of the files that the run {run} began with cannot be read any more, the "
        f"first is {first!r}: it goes on without, and from here on its results differ from those "
        "of a run that had them"
    )
    return Resumed(Manifest(usable, manifest.source), record, warning)


def _in_todays_place(recorded: Manifest, manifest: Manifest) -> Manifest:
    """The record with the paths that its files have if the data lie in another place by now."""
    if not {sample.path for sample in manifest}.isdisjoint(sample.path for sample in recorded):
        return Manifest(recorded, manifest.source)
    # As a beginning of texts, which the root is without its slash.
    here, there = (common_folder(_all_files(m)).rstrip(os.sep) for m in (manifest, recorded))

    def moved(path: str) -> str:
        return here + path.removeprefix(there)

    return Manifest(
        (
            replace(
                then,
                path=moved(then.path),
                map_path=then.map_path and moved(then.map_path),
                mask_path=then.mask_path and moved(then.mask_path),
            )
            for then in recorded
        ),
        manifest.source,
    )


def _all_files(manifest: Manifest) -> Iterable[str]:
    for sample in manifest:
        yield sample.path
        yield from filter(None, (sample.map_path, sample.mask_path))


def _may_become(given: Split, recorded: Split, cut: bool) -> bool:
    return given in ("", recorded) or (cut and (given, recorded) == ("train", "validation"))


def _refuse_too_many(lost: _Lost, record: Manifest, run: Path, max_bad: float) -> None:
    total: dict[Role, int] = {
        "image": len({sample.path for sample in record}),
        "map": len({sample.map_path for sample in record} - {None}),
        "mask": len({sample.mask_path for sample in record} - {None}),
    }
    for role, count in total.items():
        files = [path for path, of in lost if of == role]
        if len(files) > max_bad * count:
            raise InputError(
                f"{len(files)} of the {count} {role} files that the run {run} began with cannot be "
                f"read any more, more than the share of {max_bad:g} that --max-bad allows: bring "
                f"them back, the first is {files[0]!r}, or raise it, or give another --name."
            )


def _without(samples: list[Sample], lost: Collection[str]) -> Iterable[Sample]:
    """The samples without lost images; for one to train on the next of its class, from the last on
    the first."""
    following: dict[int | None, Sample] = {}
    taken: dict[int, Sample] = {}
    training = [row for row, sample in enumerate(samples) if sample.split == "train"]
    for row in [*reversed(training)] * 2:  # the second time, those before it are known
        sample = samples[row]
        if sample.path not in lost:
            following[sample.label] = taken[row] = sample
        elif sample.label in following:
            taken[row] = following[sample.label]
    for row, sample in enumerate(samples):
        if sample.split == "train" and row in taken:
            yield taken[row]
        elif sample.path not in lost:
            yield sample

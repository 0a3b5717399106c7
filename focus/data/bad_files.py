"""Decode every file once, before training starts: bad ones are named, the others get a digest.

The pass also leaves the signature of each picture, by which copies are found, and decoded images.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from focus.data.cache.images import KINDS, ImageCache
from focus.data.file_pass import BadFile, Looks, Quality, Stores, look_at
from focus.data.manifest import STORED_IN, Manifest, Sample
from focus.data.named_files import FILE_COLUMNS, Role, named_files
from focus.data.signatures import SignatureStore
from focus.errors import InputError
from focus.findings import Finding, finding
from focus.runtime.digests import DigestList
from focus.runtime.files import write_csv
from focus.runtime.machine import cache_dir
from focus.runtime.processes import ALONE, Processes

DIGESTS: dict[Role, str] = {"image": KINDS["image"], "map": KINDS["map"], "mask": "mask_hash"}
"""Columns of a run's manifest: a digest of what each file held."""

_log = logging.getLogger(__name__)
_CACHE = "decoded-7.txt"

ODD: dict[Quality, str] = {
    "blank": "blank_maps",
    "coloured": "coloured_maps",
    "inverted": "inverted_maps",
    "faint": "faint_masks",
}
"""What may look wrong in a map or mask, and the id of its finding."""


@dataclass(frozen=True)
class DecodedFiles:
    """What the pass over all files of a manifest found.

    Attributes:
        manifest: The images that can be decoded, in order, with the columns ``DIGESTS``.
        bad: The files that cannot.
        odd_files: The human maps and artefact masks that look wrong, by what is wrong.
    """

    manifest: Manifest
    bad: list[BadFile]
    odd_files: Mapping[Quality, list[str]]

    def odd(self, quality: Quality) -> list[str]:
        """Return the human maps and artefact masks that are like that."""
        return self.odd_files[quality]

    @property
    def findings(self) -> list[Finding]:
        """A finding of the files that are left out, and one of each kind of maps that look odd."""
        findings = []
        if self.bad:
            first = self.bad[0]
            findings.append(
                finding(
                    "bad_files",
                    count=len(self.bad),
                    role=first.role,
                    path=first.place,
                    reason=first.reason,
                )
            )
        for quality, name in ODD.items():
            if paths := self.odd(quality):
                findings.append(finding(name, count=len(paths), path=min(paths)))
        return findings


def check_images(
    manifest: Manifest,
    *,
    images: ImageCache | None = None,
    signatures: SignatureStore | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
    max_bad: float = 0.01,
    processes: Processes = ALONE,
) -> DecodedFiles:
    """Decode every file once, in parallel; return the usable samples and the bad files.

    A bad image removes its sample, a bad map or mask only itself; each gives a logged warning.
    Maps of a single value count as none. Maps and masks that look wrong are kept.

    images, signatures: They store the decoded images and their signatures. cache: The folder that
    remembers good files as long as they are unchanged. max_bad: The share of images, of maps and of
    masks that may be bad; from 1 on all may. processes: Those that share the work, each of which
    calls this with the same manifest; see :mod:`focus.data.file_pass`.

    Raises:
        InputError: more files of a kind are bad than ``max_bad`` allows, no image is left, or a
            file is another one on another machine.
    """
    files, numbers = named_files(manifest)
    store = DigestList(Path(cache if cache is not None else cache_dir()) / _CACHE)
    looks = look_at(files, Stores(store, images, signatures), processes, progress=progress)
    bad = with_rows(looks.bad.values(), manifest)
    _refuse_too_many(bad, files.counts(), max_bad, manifest.source)
    if processes.is_main:
        for file in bad:
            _log.warning("left out the %s %r: %s", file.role, file.place, file.reason)
    odd_files = {
        quality: [files[number][0] for number in looks.of_quality(quality)] for quality in ODD
    }

    return DecodedFiles(_usable(manifest, numbers, looks), bad, odd_files)


def _usable(
    manifest: Manifest, numbers: Mapping[Role, NDArray[np.int32]], looks: Looks
) -> Manifest:
    """Return the samples whose image can be decoded, with digests and the maps that can be used.

    numbers: Those of each sample's files, by role.
    """
    is_usable = looks.are_usable()
    is_kept = is_usable[numbers["image"]]
    manifest = manifest.take(is_kept)
    for role, column in DIGESTS.items():
        of_samples = numbers[role][is_kept]
        is_used = (of_samples >= 0) & is_usable[of_samples]
        is_dropped = (of_samples >= 0) & ~is_used
        if is_dropped.any():
            nothing = repeat("", int(is_dropped.sum()))
            manifest = manifest.with_cells(FILE_COLUMNS[role], nothing, is_dropped)
        if is_used.any() or manifest.has(column).any():
            digests = (
                looks.digest(number) if used else ""
                for number, used in zip(of_samples.tolist(), is_used.tolist(), strict=True)
            )
            manifest = manifest.with_cells(column, digests)
    return manifest


def with_rows(bad: Iterable[BadFile], manifest: Manifest) -> list[BadFile]:
    """Return the files with the rows of tables that hold them."""
    files = list(bad)
    paths = {file.path for file in files}
    rows: dict[str, str] = {}
    if files and manifest.has(STORED_IN).any():
        for column in FILE_COLUMNS.values():
            cells = zip(manifest.cells(column), manifest.cells(STORED_IN), strict=True)
            rows |= {path: row for path, row in cells if row and path in paths}
    return [replace(file, stored_in=rows.get(file.path, "")) for file in files]


def without_digests(sample: Sample) -> Sample:
    """Return the sample without the columns ``DIGESTS``."""
    if DIGESTS["image"] not in sample.extra:
        return sample
    extra = {name: cell for name, cell in sample.extra.items() if name not in DIGESTS.values()}
    return replace(sample, extra=extra)


def write_bad_files(bad: Sequence[BadFile], path: str | Path) -> None:
    """Write ``bad_files.csv``; ``docs/formats.md`` describes it."""
    rows = ((e.path, e.role, e.reason, e.stored_in) for e in bad)
    write_csv(path, ("path", "role", "reason", STORED_IN), rows, may_lack=(STORED_IN,))


def _refuse_too_many(
    bad: list[BadFile], totals: Mapping[Role, int], max_bad: float, source: str
) -> None:
    for role, n_bad in Counter(file.role for file in bad).items():
        none_left = role == "image" and n_bad == totals[role]
        if none_left or n_bad > max_bad * totals[role]:
            first = next(file for file in bad if file.role == role)
            raise InputError(
                f"{n_bad} of {totals[role]} {role} files of "
                f"{source or 'the data'} cannot be decoded, more than --max-bad {max_bad:g} "
                f"allows: fix or leave them out, the first is {first.place!r} ({first.reason})."
            )

"""Decode every file once, before training starts: bad ones are named, the others get a digest.

The pass also leaves the signature of each picture, by which copies are found, and decoded images.
"""

import logging
import os
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.data.cache.images import KINDS, ImageCache
from focus.data.images import load_image, load_map, pixel_limit, reason
from focus.data.known_images import content_hash
from focus.data.manifest import STORED_IN, Manifest, Sample
from focus.data.maps import (
    Map,
    files_of,
    human_map,
    is_blank,
    is_drawing,
    is_faint,
    looks_inverted,
    read_coco,
)
from focus.data.signatures import SignatureStore, signature
from focus.errors import ImageError, InputError
from focus.findings import Finding, finding
from focus.runtime.digests import DigestList, key_of
from focus.runtime.files import write_csv
from focus.runtime.machine import cache_dir, usable_cores
from focus.runtime.progress import progress_bar

Role = Literal["image", "map", "mask", "video"]
_File = tuple[str, Role]

DIGESTS: dict[Role, str] = {"image": KINDS["image"], "map": KINDS["map"], "mask": "mask_hash"}
"""Columns of a run's manifest: a digest of what each file held."""

_log = logging.getLogger(__name__)
_CACHE = "decoded-7.txt"
_AHEAD = 1024  # files decoded before those that are kept on the disk
_STORED_EVERY = 8192  # files, so that a pass of an hour that is killed goes on from there


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that cannot be decoded.

    reason: what the decoder said, one line. stored_in: the row of a table that holds it, if any.
    """

    path: str
    role: Role
    reason: str
    stored_in: str = ""

    @property
    def place(self) -> str:
        """Where a person finds it."""
        return self.stored_in or self.path

    @classmethod
    def of(cls, path: str, role: Role, error: ImageError) -> Self:
        """Take the decoder's own error where ``error`` was raised from one."""
        return cls(path, role, reason(path, error.__cause__ or error))


Verdict = BadFile | Literal["good", "blank", "coloured", "inverted", "faint"]
ODD: dict[Verdict, str] = {
    "blank": "blank_maps",
    "coloured": "coloured_maps",
    "inverted": "inverted_maps",
    "faint": "faint_masks",
}
"""What may look wrong in a map or mask, and the id of its finding."""


class _Look(NamedTuple):
    """One look at a file: its key, digest and verdict, and what is kept of it."""

    key: str
    digest: str
    verdict: Verdict
    row: NDArray[Any] | None
    signature: NDArray[np.int16] | None


@dataclass(frozen=True)
class DecodedFiles:
    """What the pass over all files of a manifest found.

    Attributes:
        manifest: The images that can be decoded, in order, with the columns ``DIGESTS``.
        bad: The files that cannot.
        verdicts: What is wrong with each file, by its path and role.
    """

    manifest: Manifest
    bad: list[BadFile]
    verdicts: Mapping[_File, Verdict]

    def odd(self, verdict: Verdict) -> list[str]:
        """Return the human maps and artefact masks with this verdict."""
        return [path for (path, _), one in self.verdicts.items() if one == verdict]

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
        for verdict, name in ODD.items():
            if paths := self.odd(verdict):
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
) -> DecodedFiles:
    """Decode every file once, in parallel; return the usable samples and the bad files.

    A bad image removes its sample, a bad map or mask only itself; each gives a logged warning.
    Maps of a single value count as none. Maps and masks that look wrong are kept.

    images, signatures: They store the decoded images and their signatures. cache: The folder that
    remembers good files as long as they are unchanged. max_bad: The share of images, of maps and of
    masks that may be bad; from 1 on all may.

    Raises:
        InputError: more files of a kind are bad than ``max_bad`` allows, or no image is left.
    """
    store = DigestList(Path(cache if cache is not None else cache_dir()) / _CACHE)
    looks = _looks(_files(manifest), store, images, signatures, progress)
    verdicts = {file: verdict for file, (verdict, _) in looks.items()}
    bad = with_rows((v for v in verdicts.values() if isinstance(v, BadFile)), manifest)
    _refuse_too_many(bad, Counter(role for _, role in verdicts), max_bad, manifest.source)
    for file in bad:
        _log.warning("left out the %s %r: %s", file.role, file.place, file.reason)

    def usable(path: str | None, role: Role) -> str | None:
        verdict = path and verdicts[path, role]
        return None if isinstance(verdict, BadFile) or verdict == "blank" else path

    def checked(sample: Sample) -> Sample:
        files: dict[Role, str | None] = {
            "image": sample.path,
            "map": usable(sample.human_map, "map"),
            "mask": usable(sample.mask_path, "mask"),
        }
        digests = {DIGESTS[role]: looks[path, role][1] for role, path in files.items() if path}
        extra = {**without_digests(sample).extra, **digests}
        return replace(sample, human_map=files["map"], mask_path=files["mask"], extra=extra)

    kept = (checked(sample) for sample in manifest if usable(sample.path, "image"))
    return DecodedFiles(Manifest(kept, manifest.source), bad, verdicts)


def with_rows(bad: Iterable[BadFile], manifest: Manifest) -> list[BadFile]:
    """Return the files with the rows of tables that hold them."""
    rows = {
        path: sample.extra[STORED_IN]
        for sample in manifest
        if STORED_IN in sample.extra
        for path in (sample.path, sample.human_map, sample.mask_path)
    }
    return [replace(file, stored_in=rows.get(file.path, "")) for file in bad]


def without_digests(sample: Sample) -> Sample:
    """Return the sample without the columns ``DIGESTS``."""
    if DIGESTS["image"] not in sample.extra:
        return sample
    extra = {name: cell for name, cell in sample.extra.items() if name not in DIGESTS.values()}
    return replace(sample, extra=extra)


def _decoded(path: str, role: Role) -> tuple[Verdict, Image.Image | Map | None]:
    """Decode a file; return what is wrong with it, and what it holds (None if it is bad)."""
    coloured: list[str] = []
    try:
        if role == "image":
            return "good", load_image(path)
        values = load_map(path) if role == "mask" else human_map(path, coloured=coloured)
    except ImageError as error:
        return BadFile.of(path, role, error), None
    verdict: Verdict = "good"
    if role == "mask":
        verdict = "faint" if is_faint(values) else "good"
    elif is_blank(values):
        verdict = "blank"
    elif coloured:
        verdict = "coloured"
    elif looks_inverted(values):
        verdict = "inverted"
    return verdict, values


def write_bad_files(bad: Sequence[BadFile], path: str | Path) -> None:
    """Write ``bad_files.csv``; ``docs/formats.md`` describes it."""
    rows = ((e.path, e.role, e.reason, e.stored_in) for e in bad)
    write_csv(path, ("path", "role", "reason", STORED_IN), rows, may_lack=(STORED_IN,))


def _files(manifest: Manifest) -> list[_File]:
    """Return every distinct file and its role, in the manifest's order."""
    files: dict[_File, None] = {}
    for sample in manifest:
        files[sample.path, "image"] = None
        if sample.human_map is not None:
            files[sample.human_map, "map"] = None
        if sample.mask_path is not None:
            files[sample.mask_path, "mask"] = None
    return list(files)


def _looks(
    files: list[_File],
    store: DigestList,
    images: ImageCache | None,
    signatures: SignatureStore | None,
    progress: bool,
) -> dict[_File, tuple[Verdict, str]]:
    """Return the verdict on each file, and its digest; the stores take what is decoded."""
    checked = store.read()
    good: list[tuple[str, str]] = []

    def look(file: _File) -> _Look:
        key = _key(*file)
        verdict, values = _decoded(*file)
        row = images.row(file[1], values) if images else None
        of_picture = None
        if signatures is not None and isinstance(values, Image.Image):
            of_picture = signature(values)
        digest = file_digest(*file)
        # What was replaced meanwhile may be another file than the one that was decoded.
        if key != _key(*file):
            key, of_picture = "", None
        return _Look(key, digest, verdict, row, of_picture)

    with ThreadPool(usable_cores()) as pool:
        keys = zip(files, pool.starmap(_key, files, chunksize=256), strict=True)
        looks: dict[_File, tuple[Verdict, str]] = {
            file: ("good", checked[key]) for file, key in keys if key in checked
        }
        todo = [file for file in files if file not in looks]  # bad ones are looked at again
        if images is not None:
            lacking = _lacking(images, looks)
            wanted = [file for file in [*todo, *lacking] if file[1] in KINDS]
            size = sum(pool.starmap(images.bytes_of, wanted, chunksize=256))
            kinds = {role for _, role in wanted}
            if images.make_room(size, kinds, progress=progress):
                todo += lacking
        if signatures is not None:
            todo += _without_signature(signatures, looks, {*todo})
        # A part at a time: where the disk is slower than the cores, what is decoded would pile up.
        ahead = _AHEAD
        if images is not None and images.image_size is None:  # whose pictures may be large
            ahead = 4 * usable_cores()
        parts = (todo[start : start + ahead] for start in range(0, len(todo), ahead))
        bar = progress_bar(
            chain.from_iterable(pool.imap(look, part, chunksize=8) for part in parts),
            initial=len(files) - len(todo),
            total=len(files),
            desc="checking files",
            unit="file",
            disable=not progress,
        )
        try:
            for (path, role), one in zip(todo, bar, strict=True):
                looks[path, role] = one.verdict, one.digest
                if one.key and images and one.row is not None:
                    images.add(role, one.digest, one.row)
                if one.digest and signatures is not None and one.signature is not None:
                    signatures.add(one.digest, one.signature)
                if one.key and one.verdict == "good" and one.key not in checked:
                    good.append((one.key, one.digest))
                if len(good) == _STORED_EVERY:
                    _remember(store, good)
                    good = []
        finally:  # Ctrl-C keeps what was found
            _remember(store, good)
            if images is not None:
                images.flush()
            if signatures is not None:
                signatures.flush()
    return looks


def _lacking(images: ImageCache, looks: Mapping[_File, tuple[Verdict, str]]) -> list[_File]:
    """Return the files known to be good that ``images`` has not kept, at its size."""
    lacking: list[_File] = []
    for kind in KINDS:
        own = [file for file in looks if file[1] == kind]
        kept = images.has(kind, [looks[file][1] for file in own])
        lacking += [file for file, there in zip(own, kept, strict=True) if not there]
    return lacking


def _without_signature(
    signatures: SignatureStore,
    looks: Mapping[_File, tuple[Verdict, str]],
    looked_at: Container[_File],
) -> list[_File]:
    """Return the images known to be good without a signature that are not looked at anyway."""
    files = [file for file in looks if file[1] == "image" and file not in looked_at]
    has_signature = signatures.has([looks[file][1] for file in files])
    return [file for file, has in zip(files, has_signature, strict=True) if not has]


def file_digest(path: str, role: Role) -> str:
    """Return a digest of what a file holds, of a map in a COCO file of its shapes; "" for none."""
    if role != "map":
        return content_hash(path)
    if not is_drawing(path):
        return content_hash(*files_of(path))
    file, _, number = path.rpartition("#")  # which may hold the shapes of all images
    try:
        return read_coco(file)[number].digest()
    except (OSError, ValueError, KeyError):
        return ""


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


def _remember(store: DigestList, good: Sequence[tuple[str, str]]) -> None:
    try:
        store.append(good)
    except OSError as error:
        _log.warning("cannot remember the checked files in %s: %s", store.path, error)


def _key(path: str, role: Role) -> str:
    """Return a digest of path, role, limit and what tells that a file is unchanged; "" for none.

    Size and time of the content can be the same for another one (tar, rsync -t); the time of the
    last change of the file and its place on the disk cannot.
    """
    whole = os.path.abspath(path)  # noqa: PTH100 - a million Path objects take seconds
    key = b"%s %d\0%s" % (role.encode(), pixel_limit(), os.fsencode(whole))
    try:
        for part in files_of(path) if role == "map" else [path]:
            found = os.stat(part)  # noqa: PTH116
            about = found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev
            key += b"\0%d %d %d %d %d" % about
    except (OSError, ValueError):
        return ""
    return key_of(key)

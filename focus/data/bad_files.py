"""Find the files that cannot be decoded, before training starts, and digest the others."""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, Literal, Self

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
from focus.errors import ImageError, InputError
from focus.findings import Finding
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
    "blank": "human maps have one single value and count as none",
    "coloured": "human maps are in colour, of which only the luminance is used, so that what looks "
    "hottest may count less than what is around it (export them in grey)",
    "inverted": "human maps are bright over most of the image and may be inverted (bright is where "
    "people looked)",
    "faint": "artefact masks are nowhere half white and so count as empty (stored as 0 and 1 "
    "instead of 0 and 255?)",
}


def check_images(
    manifest: Manifest,
    *,
    images: ImageCache | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
    max_bad: float = 0.01,
    noticed: list[Finding] | None = None,
) -> tuple[Manifest, list[BadFile]]:
    """Decode every file once, in parallel; return the usable samples, in order, and the bad files.

    A bad image removes its sample, a bad map or mask only itself; each gives a logged warning.
    Maps of a single value count as none. Maps and masks that look wrong are kept, and counted in
    one warning of each kind. The samples get the columns ``DIGESTS``.

    images: Stores the decoded images. cache: The folder that remembers good files as long as they
    are unchanged. max_bad: The share of images, of maps and of masks that may be bad. noticed:
    Receives the findings: what is left out and, instead of the log, what looks wrong.

    Raises:
        InputError: more files of a kind are bad than ``max_bad`` allows, or no image is left.
    """
    store = DigestList(Path(cache if cache is not None else cache_dir()) / _CACHE)
    found = _looks(_files(manifest), store, images, progress)
    verdicts = {file: verdict for file, (verdict, _) in found.items()}
    bad = with_rows((v for v in verdicts.values() if isinstance(v, BadFile)), manifest)
    _refuse_too_many(bad, list(verdicts), _files(manifest), max_bad, manifest.source)
    for file in bad:
        _log.warning("left out the %s %r: %s", file.role, file.place, file.reason)
    odd = [
        finding
        for verdict in ODD
        for finding in odd_finding(verdict, [p for (p, _), s in verdicts.items() if s == verdict])
    ]
    if noticed is None:
        for finding in odd:
            _log.warning(finding.text)
    else:
        noticed += [*bad_finding(bad), *odd]

    def usable(path: str | None, role: Role) -> str | None:
        verdict = path and verdicts[path, role]
        return None if isinstance(verdict, BadFile) or verdict == "blank" else path

    def checked(sample: Sample) -> Sample:
        files: dict[Role, str | None] = {
            "image": sample.path,
            "map": usable(sample.human_map, "map"),
            "mask": usable(sample.mask_path, "mask"),
        }
        digests = {DIGESTS[role]: found[path, role][1] for role, path in files.items() if path}
        extra = {**without_digests(sample).extra, **digests}
        return replace(sample, human_map=files["map"], mask_path=files["mask"], extra=extra)

    kept = (checked(sample) for sample in manifest if usable(sample.path, "image"))
    return Manifest(kept, manifest.source), bad


def bad_finding(bad: Sequence[BadFile]) -> list[Finding]:
    """Return a finding of the files that cannot be decoded, none if there are none."""
    if not bad:
        return []
    text = (
        f"{len(bad)} files cannot be decoded and are left out, the first is the {bad[0].role} "
        f"{bad[0].place!r} ({bad[0].reason})."
    )
    return [Finding("warning", text)]


def odd_finding(verdict: Verdict, paths: Sequence[str]) -> list[Finding]:
    """Return a finding of the maps or masks that look wrong, none if there are none."""
    text = f"{len(paths)} {ODD[verdict]}, the first is {min(paths, default='')!r}."
    return [Finding("warning", text)] if paths else []


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


def decode(path: str, role: Role) -> tuple[Verdict, tuple[int, int]]:
    """Decode a file; return what is wrong with it, and its width and height (0 if it is bad)."""
    verdict, values = _decoded(path, role)
    if values is None:
        return verdict, (0, 0)
    return verdict, values.size if isinstance(values, Image.Image) else values.shape[::-1]


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
    files: list[_File], store: DigestList, images: ImageCache | None, progress: bool
) -> dict[_File, tuple[Verdict, str]]:
    """Return the verdict on each file, and its digest; what is decoded goes into ``images``."""
    checked = store.read()
    good: list[tuple[str, str]] = []

    def look(file: _File) -> tuple[str, str, Verdict, Any]:
        key = _key(*file)
        verdict, values = _decoded(*file)
        row = images.row(file[1], values) if images else None
        digest = file_digest(*file)
        # What was replaced meanwhile may be another file than the one that was decoded.
        return key if key == _key(*file) else "", digest, verdict, row

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
            for (path, role), (key, digest, verdict, row) in zip(todo, bar, strict=True):
                looks[path, role] = verdict, digest
                if key and images and row is not None:
                    images.add(role, digest, row)
                if key and verdict == "good" and key not in checked:
                    good.append((key, digest))
                if len(good) == _STORED_EVERY:
                    _remember(store, good)
                    good = []
        finally:  # Ctrl-C keeps what was found
            _remember(store, good)
            if images is not None:
                images.flush()
    return looks


def _lacking(images: ImageCache, looks: Mapping[_File, tuple[Verdict, str]]) -> list[_File]:
    """Return the files known to be good that ``images`` has not kept, at its size."""
    lacking: list[_File] = []
    for kind in KINDS:
        own = [file for file in looks if file[1] == kind]
        kept = images.has(kind, [looks[file][1] for file in own])
        lacking += [file for file, there in zip(own, kept, strict=True) if not there]
    return lacking


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
    bad: list[BadFile], checked: list[_File], total: list[_File], max_bad: float, source: str
) -> None:
    for role, n_bad in Counter(file.role for file in bad).items():
        n_checked, n_total = (sum(r == role for _, r in files) for files in (checked, total))
        none_left = role == "image" and n_bad == n_checked
        if none_left or n_bad > max_bad * n_total:
            first = next(file for file in bad if file.role == role)
            raise InputError(
                f"{n_bad} of {n_checked if none_left else n_total} {role} files of "
                f"{source or 'the data'} cannot be decoded, more than --max-bad {max_bad:g} "
                f"allows: fix or leave them out, the first is {first.path!r} ({first.reason})."
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

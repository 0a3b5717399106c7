"""Finding the files that cannot be decoded, before training starts."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal, Self

from focus.data.images import is_huge, load_image, load_map, reason
from focus.data.manifest import Manifest
from focus.data.maps import files_of, human_map, is_blank, is_faint, looks_inverted
from focus.errors import ImageError, InputError
from focus.runtime.files import atomic_csv_writer
from focus.runtime.machine import cache_dir, usable_cores
from focus.runtime.progress import progress_bar

Role = Literal["image", "map", "mask", "video"]

BAD_FILES = "bad_files.csv"
MAX_BAD = 0.01

_log = logging.getLogger(__name__)
_CSV_MARKER = "# focus-bad-files 1"
_DIGEST_BYTES = 16
_LOOKED_AT: Mapping[Role, bytes] = {"map": b"map, colour"}  # of those that were found good before
_STORED_EVERY = 8192  # files, so that what stops the pass does not lose it


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that cannot be decoded. reason: what the decoder said, one line."""

    path: str
    role: Role
    reason: str

    @classmethod
    def of(cls, path: str, role: Role, error: ImageError) -> Self:
        """By the decoder's own error, where there is one behind this."""
        return cls(path, role, reason(path, error.__cause__ or error))


_Verdict = BadFile | Literal["good", "huge", "blank", "coloured", "inverted", "faint"]
_WARNINGS = {
    "huge": "images have more than the 89 million pixels that Pillow warns of, and take long",
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
    threads: int | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
    max_bad: float = MAX_BAD,
    of: Manifest | None = None,
) -> tuple[Manifest, list[BadFile]]:
    """Decode every file once, in parallel, and take out what cannot be decoded.

    Returns the usable part of the manifest, in order, and the bad files. A bad image removes its
    sample; a bad map or mask only that; each gives one logged warning. Maps of one single value
    (all zero, say) say nothing about where to look and count as none; one warning counts them.
    Maps that are in colour or look inverted, masks that are nowhere white enough to count, and
    images that are huge are kept as they are; one warning counts them, and of images that were
    known says nothing.

    threads: default one per usable core (decoders release the GIL). cache: folder that remembers
    the files found good, by path, size and time; default :func:`focus.runtime.machine.cache_dir`.
    max_bad: the share of bad images, of bad maps or of bad masks above which InputError is raised;
    so is it when no image is left. of: what these images were taken from, if the share is of that.
    """
    known = _Known(Path(cache) if cache is not None else cache_dir())
    verdicts = _verdicts(_files(manifest), known, threads, progress)
    bad = [verdict for verdict in verdicts.values() if isinstance(verdict, BadFile)]
    checked = Counter(role for _, role in verdicts)
    total = checked if of is None else Counter(role for _, role in _files(of))
    _refuse_too_many(bad, checked, total, max_bad, manifest.source or "the data")
    for file in bad:
        _log.warning("left out the %s %r: %s", file.role, file.path, file.reason)
    for verdict, what in _WARNINGS.items():
        if odd := [path for (path, _), found in verdicts.items() if found == verdict]:
            _log.warning("%d %s, the first is %r", len(odd), what, min(odd))
    blank = {path for (path, _), verdict in verdicts.items() if verdict == "blank"}
    unusable = {(file.path, file.role) for file in bad} | {(path, "map") for path in blank}
    if not unusable:
        return manifest, bad
    kept = (
        replace(
            sample,
            map_path=None if (sample.map_path, "map") in unusable else sample.map_path,
            mask_path=None if (sample.mask_path, "mask") in unusable else sample.mask_path,
        )
        for sample in manifest
        if (sample.path, "image") not in unusable
    )
    return Manifest(kept, manifest.source), bad


def write_bad_files(bad: Sequence[BadFile], path: str | Path) -> None:
    """Write ``bad_files.csv``: path, role, reason; a name's bytes that are no UTF-8 stay."""
    with atomic_csv_writer(path, _CSV_MARKER) as writer:
        writer.writerow(("path", "role", "reason"))
        writer.writerows((entry.path, entry.role, entry.reason) for entry in bad)


def _files(manifest: Manifest) -> list[tuple[str, Role]]:
    """Every distinct file and its role, in the manifest's order."""
    files: dict[tuple[str, Role], None] = {}
    for sample in manifest:
        files[sample.path, "image"] = None
        if sample.map_path is not None:
            files[sample.map_path, "map"] = None
        if sample.mask_path is not None:
            files[sample.mask_path, "mask"] = None
    return list(files)


def _verdicts(
    files: list[tuple[str, Role]], known: "_Known", threads: int | None, progress: bool
) -> dict[tuple[str, Role], _Verdict]:
    verdicts: dict[tuple[str, Role], _Verdict] = {}

    def look(file: tuple[str, Role]) -> tuple[bytes, _Verdict]:
        # Here, since even a file that is known has to be asked for its size and time.
        digest = _digest(file)
        return digest, "good" if digest in known else _verdict(file)

    with ThreadPool(threads or usable_cores()) as pool:
        found = pool.imap(look, files, chunksize=8)
        bar = progress_bar(
            found, total=len(files), desc="checking files", unit="file", disable=not progress
        )
        good = []
        try:
            for file, (digest, verdict) in zip(files, bar, strict=True):
                verdicts[file] = verdict
                if verdict in ("good", "huge"):  # which would take long each time
                    good.append(digest)
                if len(good) == _STORED_EVERY:
                    known.add(good)
                    good = []
        finally:  # what was found before Ctrl-C, too
            known.add(good)
    return verdicts


def _verdict(file: tuple[str, Role]) -> _Verdict:
    path, role = file
    try:
        if role == "image":
            if is_huge(load_image(path)):
                return "huge"
        elif role == "mask":
            if is_faint(load_map(path)):
                return "faint"
        else:
            coloured: list[str] = []
            values = human_map(path, coloured=coloured)
            if is_blank(values):
                return "blank"
            if coloured:
                return "coloured"
            if looks_inverted(values):
                return "inverted"
    except ImageError as error:
        return BadFile.of(path, role, error)
    return "good"


def _refuse_too_many(
    bad: list[BadFile],
    checked: Counter[Role],
    total: Counter[Role],
    max_bad: float,
    place: str,
) -> None:
    for role, n_bad in Counter(file.role for file in bad).items():
        none_left = role == "image" and n_bad == checked[role]
        if none_left or n_bad > max_bad * total[role]:
            first = next(file for file in bad if file.role == role)
            count = checked[role] if none_left else total[role]
            raise InputError(
                f"{n_bad} of {count} {role} files of {place} cannot be decoded, more than "
                f"the share of {max_bad:g} that --max-bad allows: fix or remove them, the first "
                f"is {first.path!r} ({first.reason})."
            )


class _Known:
    """The files found good before: a file of digests of (path, size, time, role).

    Bad files are not remembered: they are few, and a mended environment should see them again.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "decoded-3.bin"
        try:
            raw = self._file.read_bytes()
        except OSError:
            raw = b""
        whole = len(raw) - len(raw) % _DIGEST_BYTES
        self._digests = {raw[i : i + _DIGEST_BYTES] for i in range(0, whole, _DIGEST_BYTES)}

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._digests

    def add(self, digests: Iterable[bytes]) -> None:
        new = {digest for digest in digests if digest} - self._digests
        if not new:
            return
        self._digests |= new
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("ab") as file:
                # Part of a digest, of a run that was killed, is filled up to one that is nobody's.
                padding = bytes(-file.tell() % _DIGEST_BYTES)
                file.write(padding + b"".join(new))
        except OSError as error:
            _log.warning("cannot remember the checked files in %s: %s", self._file, error)


def _digest(file: tuple[str, Role]) -> bytes:
    """Empty for a file that does not exist."""
    path, role = file
    whole = os.path.abspath(path)  # noqa: PTH100 - a million Path objects take seconds
    key = _LOOKED_AT.get(role, role.encode()) + b"\0" + os.fsencode(whole)
    try:
        for part in files_of(path) if role == "map" else [path]:
            found = os.stat(part)  # noqa: PTH116
            key += b"\0%d %d" % (found.st_size, found.st_mtime_ns)
    except (OSError, ValueError):
        return b""
    return hashlib.blake2b(key, digest_size=_DIGEST_BYTES).digest()

"""Find the files that cannot be decoded, before training starts."""

import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal, Self

from focus.data.images import load_image, load_map, reason
from focus.data.manifest import Manifest
from focus.data.maps import files_of, human_map, is_blank, is_faint, looks_inverted
from focus.errors import ImageError, InputError
from focus.runtime.files import atomic_csv_writer
from focus.runtime.machine import cache_dir, usable_cores
from focus.runtime.progress import progress_bar

Role = Literal["image", "map", "mask", "video"]
_File = tuple[str, Role]

BAD_FILES = "bad_files.csv"

_log = logging.getLogger(__name__)
_CSV_MARKER = "# focus-bad-files 1"
_CACHE = "decoded-4.txt"
_STORED_EVERY = 8192  # files, so that a pass of an hour that is killed goes on from there


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that cannot be decoded. reason: what the decoder said, one line."""

    path: str
    role: Role
    reason: str

    @classmethod
    def of(cls, path: str, role: Role, error: ImageError) -> Self:
        """Take the decoder's own error where ``error`` was raised from one."""
        return cls(path, role, reason(path, error.__cause__ or error))


Verdict = BadFile | Literal["good", "blank", "coloured", "inverted", "faint"]
_WARNINGS = {
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
    cache: str | Path | None = None,
    progress: bool = True,
    max_bad: float = 0.01,
    share_of: Manifest | None = None,
) -> tuple[Manifest, list[BadFile]]:
    """Decode every file once, in parallel; return the usable samples, in order, and the bad files.

    A bad image removes its sample, a bad map or mask only itself; each gives a logged warning.
    Maps of a single value count as none. Maps and masks that look wrong are kept, and counted in
    one warning of each kind.

    cache: folder that remembers the files found good, by path, size and time. max_bad: share of
    the images, of the maps and of the masks that may be bad. share_of: take that share of these
    files, of which ``manifest`` has a part.

    Raises:
        InputError: more files of a kind are bad than ``max_bad`` allows, or no image is left.
    """
    store = Path(cache if cache is not None else cache_dir()) / _CACHE
    verdicts = _verdicts(_files(manifest), store, progress)
    bad = [verdict for verdict in verdicts.values() if isinstance(verdict, BadFile)]
    _refuse_too_many(bad, list(verdicts), _files(share_of or manifest), max_bad, manifest.source)
    for file in bad:
        _log.warning("left out the %s %r: %s", file.role, file.path, file.reason)
    for verdict, text in _WARNINGS.items():
        if odd := [path for (path, _), found in verdicts.items() if found == verdict]:
            _log.warning("%d %s, the first is %r", len(odd), text, min(odd))

    def usable(path: str | None, role: Role) -> bool:
        found = path and verdicts[path, role]
        return not (isinstance(found, BadFile) or found == "blank")

    kept = (
        replace(
            sample,
            map_path=sample.map_path if usable(sample.map_path, "map") else None,
            mask_path=sample.mask_path if usable(sample.mask_path, "mask") else None,
        )
        for sample in manifest
        if usable(sample.path, "image")
    )
    return Manifest(kept, manifest.source), bad


def decode(path: str, role: Role) -> tuple[Verdict, tuple[int, int]]:
    """Decode a file; return what is wrong with it, and its width and height (0 if it is bad)."""
    coloured: list[str] = []
    verdict: Verdict = "good"
    try:
        if role == "image":
            return verdict, load_image(path).size
        values = load_map(path) if role == "mask" else human_map(path, coloured=coloured)
    except ImageError as error:
        return BadFile.of(path, role, error), (0, 0)
    if role == "mask":
        verdict = "faint" if is_faint(values) else "good"
    elif is_blank(values):
        verdict = "blank"
    elif coloured:
        verdict = "coloured"
    elif looks_inverted(values):
        verdict = "inverted"
    return verdict, values.shape[::-1]


def write_bad_files(bad: Sequence[BadFile], path: str | Path) -> None:
    """Write ``bad_files.csv``: path, role, reason."""
    with atomic_csv_writer(path, _CSV_MARKER) as writer:
        writer.writerow(("path", "role", "reason"))
        writer.writerows((entry.path, entry.role, entry.reason) for entry in bad)


def _files(manifest: Manifest) -> list[_File]:
    """Return every distinct file and its role, in the manifest's order."""
    files: dict[_File, None] = {}
    for sample in manifest:
        files[sample.path, "image"] = None
        if sample.map_path is not None:
            files[sample.map_path, "map"] = None
        if sample.mask_path is not None:
            files[sample.mask_path, "mask"] = None
    return list(files)


def _verdicts(files: list[_File], store: Path, progress: bool) -> dict[_File, Verdict]:
    try:
        checked = set(store.read_text().split())
    except (OSError, ValueError):
        checked = set()
    verdicts: dict[_File, Verdict] = {}
    good: list[str] = []

    def look(file: _File) -> tuple[str, Verdict]:
        key = _key(*file)
        return key, "good" if key in checked else decode(*file)[0]  # bad ones are looked at again

    with ThreadPool(usable_cores()) as pool:
        found = pool.imap(look, files, chunksize=8)
        bar = progress_bar(
            found, total=len(files), desc="checking files", unit="file", disable=not progress
        )
        try:
            for file, (key, verdict) in zip(files, bar, strict=True):
                verdicts[file] = verdict
                if key and verdict == "good" and key not in checked:
                    good.append(key)
                if len(good) == _STORED_EVERY:
                    _remember(store, good)
                    good = []
        finally:  # Ctrl-C keeps what was found
            _remember(store, good)
    return verdicts


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
                f"{source or 'the data'} cannot be decoded, more than the share of {max_bad:g} "
                f"that --max-bad allows: fix or remove them, the first is {first.path!r} "
                f"({first.reason})."
            )


def _remember(store: Path, keys: Sequence[str]) -> None:
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        with store.open("a") as file:
            file.writelines(f"\n{key}" for key in keys)
    except OSError as error:
        _log.warning("cannot remember the checked files in %s: %s", store, error)


def _key(path: str, role: Role) -> str:
    """Return a digest of path, role, size and time; "" for a file that does not exist."""
    whole = os.path.abspath(path)  # noqa: PTH100 - a million Path objects take seconds
    key = role.encode() + b"\0" + os.fsencode(whole)
    try:
        for part in files_of(path) if role == "map" else [path]:
            found = os.stat(part)  # noqa: PTH116
            key += b"\0%d %d" % (found.st_size, found.st_mtime_ns)
    except (OSError, ValueError):
        return ""
    return hashlib.blake2b(key, digest_size=16).hexdigest()

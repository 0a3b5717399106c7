"""Decoding images and maps, and finding the files that cannot be decoded before training starts."""

import hashlib
import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps
from tqdm import tqdm

from focus.data.machine import cache_dir, usable_cores
from focus.data.manifest import Manifest
from focus.errors import ImageError, InputError

Role = Literal["image", "map", "mask"]

_log = logging.getLogger(__name__)
_DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class BadFile:
    """A file that cannot be decoded. reason: what the decoder said, one line."""

    path: str
    role: Role
    reason: str


def load_image(path: str | Path) -> Image.Image:
    """The image as 8-bit RGB, fully decoded and turned upright by its EXIF orientation.

    Palette, grey, CMYK and other modes are converted as Pillow does; alpha is dropped, not
    composited; 16-bit grey keeps its upper byte; of an animation the first frame is taken.
    Raises ImageError, naming the file, for whatever cannot be decoded.
    """
    try:
        image = _decode(path)
        if image.mode == "RGB":
            return image
        if image.mode.startswith("I"):
            # Pillow would clip at 255, which turns most 16-bit images white.
            image = Image.fromarray((_sixteen_bit(image) >> 8).astype(np.uint8))
        elif image.mode == "F":
            raise ValueError("a float image has no defined white")
        elif "transparency" in image.info:
            image = image.convert("RGBA")
        return image.convert("RGB")
    except Exception as error:  # decoders raise anything, from struct.error to SyntaxError
        raise _undecodable(path, error) from error


def load_map(path: str | Path) -> npt.NDArray[np.float32]:
    """A human map or artefact mask as grey values, float32 [H, W] in [0, 1].

    8-bit values are divided by 255, 16-bit ones by 65535, float files are taken as they are;
    colours are reduced to luminance. Raises ImageError, naming the file, as :func:`load_image`.
    """
    try:
        image = _decode(path)
        if image.mode.startswith("I"):
            return _sixteen_bit(image).astype(np.float32) / np.float32(65535)
        if image.mode == "F":
            values = np.array(image, dtype=np.float32)
            if not (values.min() >= 0 and values.max() <= 1):  # NaN fails too
                raise ValueError("float values outside [0, 1]")
            return values
        return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)
    except Exception as error:
        raise _undecodable(path, error) from error


def check_images(
    manifest: Manifest,
    *,
    threads: int | None = None,
    cache: str | Path | None = None,
    progress: bool = True,
    max_bad: float = 0.01,
) -> tuple[Manifest, list[BadFile]]:
    """Decode every file once, in parallel, and take out what cannot be decoded.

    Returns the usable part of the manifest, in order, and the bad files. A bad image removes its
    sample; a bad map or mask only that; each gives one logged warning. Maps of one single value
    (all zero, say) say nothing about where to look and count as none; one warning counts them.

    threads: default one per usable core (decoders release the GIL). cache: folder that remembers
    the files found good, by path, size and time; default :func:`focus.data.machine.cache_dir`.
    max_bad: the share of bad images, of bad maps or of bad masks above which InputError is raised;
    so is it when no image is left.
    """
    known = _Known(Path(cache) if cache is not None else cache_dir())
    verdicts = _verdicts(_files(manifest), known, threads, progress)
    bad = [BadFile(path, role, why) for (path, role), why in verdicts.items() if why]
    _refuse_too_many(
        bad, Counter(role for _, role in verdicts), max_bad, manifest.source or "the data"
    )
    for file in bad:
        _log.warning("left out the %s %r: %s", file.role, file.path, file.reason)

    blank = {path for (path, _), why in verdicts.items() if why is None}
    if blank:
        _log.warning(
            "%d human maps have one single value and count as none, the first is %r",
            len(blank),
            min(blank),
        )
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


def _decode(path: str | Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        if "exif" in image.info or "xmp" in image.info or "Raw profile type exif" in image.info:
            try:
                ImageOps.exif_transpose(image, in_place=True)
            except Exception:  # broken metadata around sound pixels says nothing of orientation
                return image
        return image


def _sixteen_bit(image: Image.Image) -> npt.NDArray[np.int64]:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("more than 16 bits a pixel")
    return values


def _undecodable(path: str | Path, error: Exception) -> ImageError:
    name = repr(os.fspath(path))
    return ImageError(f"Cannot decode {name} ({_reason(path, error)}): mend or remove the file.")


def _reason(path: str | Path, error: BaseException) -> str:
    """What the decoder says, on one line and without the file's name."""
    said = getattr(error, "strerror", None) or str(error) or repr(error)
    return " ".join(said.replace(repr(os.fspath(path)), "").split())


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
) -> dict[tuple[str, Role], str | None]:
    """For each file "" if it is good, None for a map of one value, else what is wrong."""
    unknown = [file for file in files if file not in known]
    verdicts: dict[tuple[str, Role], str | None] = dict.fromkeys(files, "")
    if not unknown:
        return verdicts
    with ThreadPool(threads or usable_cores()) as pool:
        found = pool.imap(_verdict, unknown, chunksize=16)
        bar = tqdm(found, "checking files", len(unknown), unit="file", disable=not progress)
        verdicts.update(zip(unknown, bar, strict=True))
    known.add(file for file in unknown if verdicts[file] == "")
    return verdicts


def _verdict(file: tuple[str, Role]) -> str | None:
    path, role = file
    try:
        if role == "image":
            load_image(path)
            return ""
        values = load_map(path)
    except ImageError as error:
        return _reason(path, error.__cause__ or error)
    return None if role == "map" and values.min() == values.max() else ""


def _refuse_too_many(bad: list[BadFile], total: Counter[Role], max_bad: float, place: str) -> None:
    for role, n_bad in Counter(file.role for file in bad).items():
        none_left = role == "image" and n_bad == total[role]
        if none_left or n_bad > max_bad * total[role]:
            first = next(file for file in bad if file.role == role)
            raise InputError(
                f"{n_bad} of {total[role]} {role} files of {place} cannot be decoded, more than "
                f"the share of {max_bad:g} that is allowed: mend or remove them, the first is "
                f"{first.path!r} ({first.reason})."
            )


class _Known:
    """The files found good before: a file of digests of (path, size, time, role).

    Bad files are not remembered: they are few, and a mended environment should see them anew.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / "decoded-1.bin"
        try:
            raw = self._file.read_bytes()
        except OSError:
            raw = b""
        whole = len(raw) - len(raw) % _DIGEST_BYTES
        self._digests = {raw[i : i + _DIGEST_BYTES] for i in range(0, whole, _DIGEST_BYTES)}

    def __contains__(self, file: tuple[str, Role]) -> bool:
        return bool(self._digests) and _digest(file) in self._digests

    def add(self, files: Iterable[tuple[str, Role]]) -> None:
        new = {digest for file in files if (digest := _digest(file))}
        if not new - self._digests:
            return
        self._digests |= new
        try:  # a whole file replaces the old one, so another run never reads half of it
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._file.parent, delete=False) as part:
                part.write(b"".join(self._digests))
            Path(part.name).replace(self._file)
        except OSError as error:
            _log.warning("cannot remember the checked files in %s: %s", self._file, error)


def _digest(file: tuple[str, Role]) -> bytes:
    """Empty for a file that does not exist."""
    path, role = file
    try:
        stat = os.stat(path)  # noqa: PTH116 - a million Path objects take seconds
    except (OSError, ValueError):
        return b""
    key = os.fsencode(os.path.abspath(path))  # noqa: PTH100
    key += b"\0%d %d %s" % (stat.st_size, stat.st_mtime_ns, role.encode())
    return hashlib.blake2b(key, digest_size=_DIGEST_BYTES).digest()

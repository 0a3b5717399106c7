"""List the image files below a folder, and check that files are there."""

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path

from focus.data.manifest import absolute
from focus.errors import InputError

IMAGE_EXTENSIONS = frozenset(
    [
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".webp"),
        *(".avif", ".bmp", ".dib", ".gif", ".tga", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    ]
)
_UNPACKED_LEFTOVERS = "__MACOSX"  # holds files named as images that are none
_THREADS = 16  # a network's file system takes its time for each file


def images_below(
    folder: Path,
    extensions: Collection[str] = IMAGE_EXTENSIONS,
    skip: Callable[[Path], bool] = lambda _: False,
) -> Iterator[Path]:
    """Yield the image files below a folder in natural order, without hidden ones.

    Follows symbolic links, but not in circles.

    Args:
        folder: the folder.
        extensions: of the files to yield, in small letters.
        skip: tells which folders below it, by their absolute paths, to leave out.

    Raises:
        InputError: a folder cannot be listed.
    """
    return _below(absolute(folder), extensions, skip, ())


def _below(
    folder: Path,
    extensions: Collection[str],
    skip: Callable[[Path], bool],
    above: tuple[str, ...],
) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above or (above and skip(folder)):
        return
    try:
        with os.scandir(folder) as entries:
            found = [
                (entry.name, entry.is_dir())
                for entry in entries
                if not entry.name.startswith(".") and entry.name != _UNPACKED_LEFTOVERS
            ]
    except OSError as error:
        raise InputError(
            f"Cannot list {folder} ({error.strerror}): make the folder readable."
        ) from error
    for name, is_folder in sorted(found, key=lambda entry: _natural_key(entry[0])):
        extension = os.path.splitext(name)[1].lower()  # noqa: PTH122
        if is_folder:
            yield from _below(folder / name, extensions, skip, (*above, real))
        elif extension in extensions:
            yield folder / name


def _natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort ``2.png`` before ``10.png``, and the same everywhere."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(part or 0), "") if i % 2 else (0, part) for i, part in enumerate(parts)], name


def require_files(places: Sequence[tuple[str, str]]) -> None:
    """Raise InputError, with the first, if one of the paths, each with its row, is not there."""
    with ThreadPool(_THREADS) as pool:
        found = pool.map(os.path.lexists, [path for path, _ in places], chunksize=256)
    missing = [place for place, there in zip(places, found, strict=True) if not there]
    if missing:
        path, row = missing[0]
        raise InputError(
            f"{row}: {len(missing)} of {len(places)} images do not exist, the first is {path!r}: "
            "fix the paths or give another --data-root."
        )

"""List the image files below a folder."""

import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from focus.data.manifest import absolute, with_separator
from focus.errors import InputError

IMAGE_EXTENSIONS = frozenset(
    [
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".webp"),
        *(".avif", ".bmp", ".dib", ".gif", ".tga", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    ]
)
_NOT_LISTED = (".", "__MACOSX")  # hidden; of unpacked files, named as images that are none


def images_below(
    folder: Path,
    extensions: Collection[str] = IMAGE_EXTENSIONS,
    skip: Callable[[Path], bool] = lambda _: False,
) -> Iterator[Path]:
    """Yield the image files below a folder in natural order, as :func:`paths_below`."""
    return map(Path, paths_below(folder, extensions, skip))


def paths_below(
    folder: Path,
    extensions: Collection[str] = IMAGE_EXTENSIONS,
    skip: Callable[[Path], bool] = lambda _: False,
    _above: tuple[str, ...] = (),
) -> Iterator[str]:
    """Yield the paths of the image files below a folder in natural order, without hidden ones.

    Follows symbolic links, but not in circles. extensions: in small letters. skip: tells which
    folders below it, by their absolute paths, to leave out. Raises InputError for a folder that
    cannot be listed.
    """
    folder, real = absolute(folder), os.path.realpath(folder)
    if real in _above or (_above and skip(folder)):
        return
    try:
        with os.scandir(folder) as entries:
            is_folder = {e.name: e.is_dir() for e in entries if is_listed(e.name)}
    except OSError as error:
        raise InputError(
            f"Cannot list {folder} ({error.strerror}): make the folder readable."
        ) from error
    beginning = with_separator(folder)
    for name in _in_natural_order(is_folder):
        if is_folder[name]:
            yield from paths_below(folder / name, extensions, skip, (*_above, real))
        elif name[name.rfind(".") :].lower() in extensions:
            yield beginning + name


def is_listed(name: str) -> bool:
    """Return whether a file or folder of that name is looked at."""
    return not name.startswith(_NOT_LISTED)


def _in_natural_order(names: Collection[str]) -> list[str]:
    """Return the names in the order of :func:`_natural_key`.

    That key takes ten times as long as a number, in which the names of most folders differ alone.
    """
    if not names:
        return []
    shared = os.path.commonprefix([min(names), max(names)])  # noqa: RUF071 - letters, no folders
    beginning = shared.rstrip("0123456789")
    ending = re.split("[0-9]", min(names))[-1]
    start, end = len(beginning), -len(ending) or None
    if all(name.endswith(ending) for name in names):
        numbers = [name[start:end] for name in names]
        if all(number.isascii() and number.isdecimal() for number in numbers):
            return [name for _, name in sorted(zip(map(int, numbers), names, strict=True))]
    return sorted(names, key=_natural_key)


def _natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort ``2.png`` before ``10.png``, and the same everywhere."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(part or 0), "") if i % 2 else (0, part) for i, part in enumerate(parts)], name

"""List the image files below a folder, with or without its human maps."""

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import numpy as np

from focus.data.columns import PathColumn
from focus.data.manifest import absolute, with_separator
from focus.errors import InputError

_log = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset(
    [
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".webp"),
        *(".avif", ".bmp", ".dib", ".gif", ".tga", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    ]
)
_NOT_READ = (".heic", ".heif", ".jxl")  # images that Pillow does not read
MAP_FOLDERS = ("human_maps", "heatmaps")
"""Where human maps are looked for; the second is CYBORG's."""
_PASSED_OVER = (*MAP_FOLDERS, "maps", "masks")
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


def images_without_maps(
    root: Path, maps: Path | None = None, extensions: Collection[str] = IMAGE_EXTENSIONS
) -> list[Path]:
    """Return the image files below a folder, as :func:`list_images`."""
    paths = list_images(root, maps, extensions)
    return [Path(path) for path in paths.of(np.arange(len(paths), dtype=np.int32)) if path]


def list_images(
    root: Path, maps: Path | None = None, extensions: Collection[str] = IMAGE_EXTENSIONS
) -> PathColumn:
    """List the image files below a folder, without those in folders of maps and masks.

    Warns of folders that are passed over, but for ``maps``, and of files that Pillow does not read.
    extensions: The extensions of the files to list.
    """
    passed: list[Path] = []

    def holds_maps(folder: Path) -> bool:
        if folder != maps and folder.name.casefold() in _PASSED_OVER:
            passed.append(folder)
            return True
        return folder == maps

    paths = PathColumn()
    n_unread = 0
    for path in paths_below(root, {*extensions, *_NOT_READ}, holds_maps):
        if path[path.rfind(".") :].lower() in extensions:
            paths.append(path)
        else:
            n_unread += 1
    paths.finish()
    for folder in passed:
        if n_files := sum(1 for _ in paths_below(folder, extensions)):
            _log.warning(
                "%s: passed over %d files in %s, which by its name holds maps and no images",
                root,
                n_files,
                folder.relative_to(root),
            )
    if n_unread:
        _log.warning("%s: left out %d HEIC or JPEG XL files: convert them", root, n_unread)
    return paths


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

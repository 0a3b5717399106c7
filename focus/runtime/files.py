"""Files that are there whole or not at all, after a kill or a power cut too."""

import csv
import errno
import fcntl
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from focus.errors import InputError

if TYPE_CHECKING:
    from _csv import Writer as CsvWriter

REFUSED = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
)
"""What the system says of a place that cannot be written: full, a limit, forbidden, read-only."""


# Seconds after which what a process has left of a file is of one that was killed.
_LEFT = 3600.0


@contextmanager
def atomic_write(path: Path, *, flushed: bool = True) -> Iterator[Path]:
    """A path beside ``path`` to write to; then it is flushed to the disk and takes its place.

    An error leaves what was there. Of two that write at once, the one that ends last stays: each
    has a path of its own. What a killed one left there goes with a write that is an hour later.

    Args:
        path: the file.
        flushed: wait for the disk, some milliseconds. Without, the file is whole after a kill, but
            perhaps not after a power cut.
    """
    # Not the process's number alone, which another container may have too.
    aside = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield aside
        if flushed:
            flush(aside)
        aside.replace(path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in REFUSED and not error.filename:
            error.filename = str(path)  # which the system leaves out for what is written to a file
        raise
    if flushed:
        _remove_left(path)
        flush(path.parent)


def _remove_left(path: Path) -> None:
    """Remove what killed processes left of a file that they wrote."""
    left = re.compile(rf"{re.escape(path.name)}\.\d+-\d+\.part")
    for aside in path.parent.iterdir():
        if left.fullmatch(aside.name):
            with suppress(OSError):  # another has removed it, or it is another user's
                if time.time() - aside.stat().st_mtime > _LEFT:
                    aside.unlink()


@contextmanager
def atomic_csv_writer(
    path: str | Path, marker: str = "", end: str = "\r\n"
) -> Iterator["CsvWriter"]:
    """The writer of a CSV that is there whole or not at all, as :func:`atomic_write` has it.

    It is UTF-8; bytes of file names that are not stay as they are.

    Args:
        path: the file.
        marker: its first line, none if empty.
        end: of each line.
    """
    with (
        atomic_write(Path(path)) as aside,
        aside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        if marker:
            file.write(marker + end)
        yield csv.writer(RowsEnding(file, end))


class RowsEnding:
    """Takes the rows of a csv.writer and ends each of them otherwise than with CR LF.

    As the writer's own ``lineterminator``, it would have Python before 3.13 leave a cell that holds
    a carriage return without quotes, and nothing could read the row again.
    """

    def __init__(self, file: IO[str], end: str) -> None:
        self._file, self._end = file, end

    def write(self, row: str) -> None:
        self._file.write(row.removesuffix("\r\n") + self._end)


def is_utf8(text: str) -> bool:
    """False for a name, of a file or on the command line, that holds other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def lock(file: IO[Any]) -> bool:
    """Lock an open file for this process until it ends; False if another process holds it.

    The lock is one that workers do not inherit: nothing of a process that was killed holds it. On
    a file system without locks nothing is held.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        pass
    return True


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Whether this process, and no other, holds the lock of that name as long as this lasts.

    Nothing of the file is cut: in a folder of somebody else's it may be a link to another one.
    """
    with path.open("a") as file:
        yield lock(file)


def check_empty(folder: Path) -> None:
    """Raise InputError if the folder is there and holds something."""
    if folder.exists() and next(folder.iterdir(), None) is not None:
        raise InputError(
            f"The folder {folder} holds files already: give another one, or remove it."
        )


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def check_writable(folder: Path, flag: str = "--output") -> None:
    """Raise InputError if the folder is not there and cannot be made, or is not to be written to.

    Nothing stays: a program that ends early leaves no empty folder.

    flag: that named it.
    """
    # The name of a link that leads nowhere is taken too.
    place = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not place.is_dir():
        what = "a file" if place.exists() else "a link that leads nowhere"
        raise InputError(f"{flag}: {folder} cannot be written, {place} is {what}: give a folder.")
    try:
        # Only an attempt tells: /proc, say, has the permissions and takes nothing.
        Path(tempfile.mkdtemp(dir=place)).rmdir()
    except OSError as error:
        raise InputError(
            f"{flag}: {folder} cannot be written, nothing can be made in {place} "
            f"({error.strerror}): give another folder."
        ) from error
    longest = os.pathconf(place, "PC_NAME_MAX")
    for name in folder.absolute().parts[len(place.absolute().parts) :]:
        if len(os.fsencode(name)) > longest:
            raise InputError(
                f"The folder {name[:20]}... cannot be made in {place}, where a name has at most "
                f"{longest} bytes: give a shorter one."
            )

"""Write files that are there whole or not at all, and lock them."""

import csv
import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from focus.errors import InputError

if TYPE_CHECKING:
    from _csv import Writer as CsvWriter


@contextmanager
def atomic_write(path: Path, *, flushed: bool = True) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; then flush it to the disk and rename it.

    An error leaves what was there. Of two that write at once, the one that ends last stays.

    Args:
        path: the file.
        flushed: wait for the disk, some milliseconds. Without, the file is whole after a kill, but
            perhaps not after a power cut.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        yield aside
        if flushed:
            flush(aside)
        aside.replace(path)
    except BaseException as error:
        aside.unlink(missing_ok=True)
        if isinstance(error, OSError) and not error.filename:
            error.filename = str(path)  # which the system leaves out when a disk is full
        raise
    if flushed:
        flush(path.parent)


@contextmanager
def atomic_csv_writer(
    path: str | Path, marker: str = "", end: str = "\r\n"
) -> Iterator["CsvWriter"]:
    """Yield the writer of a CSV that is there whole or not at all, as by :func:`atomic_write`.

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
        yield csv.writer(file, lineterminator=end)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(file: IO[Any]) -> bool:
    """Lock an open file for this process until it ends; return False if another process holds it.

    Workers do not inherit the lock: nothing of a process that was killed holds it. On a file system
    without locks nothing is held.
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
    """Yield whether this process, and no other, holds the lock of that name within the block.

    Nothing of the file is cut: in a folder of somebody else's it may be a link to another one.
    """
    with path.open("a") as file:
        yield lock(file)


def is_utf8(text: str) -> bool:
    """Return False for a name, of a file or on the command line, that holds other bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_empty(folder: Path) -> None:
    """Raise InputError if the folder is there and holds something."""
    if folder.exists() and next(folder.iterdir(), None) is not None:
        raise InputError(
            f"The folder {folder} holds files already: give another one, or remove it."
        )


def check_writable(folder: Path, flag: str = "--output") -> None:
    """Raise InputError if nothing can be written to the folder, or it cannot be made.

    Nothing stays: a program that ends early leaves no empty folder.

    Args:
        folder: which may not exist yet.
        flag: that named it.
    """
    place = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        # Only an attempt tells: /proc, say, has the permissions and takes nothing.
        Path(tempfile.mkdtemp(dir=place)).rmdir()
    except OSError as error:
        raise InputError(
            f"{flag}: {folder} cannot be written, nothing can be made in {place} "
            f"({error.strerror}): give another folder."
        ) from error

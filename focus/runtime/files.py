"""Write files that are there whole or not at all, and lock them."""

import csv
import errno
import hashlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from filelock import FileLock, SoftFileLock, Timeout, lock_descriptor

from focus.errors import InputError

if TYPE_CHECKING:
    from _csv import Writer as CsvWriter

_LOCK = ".lock"
_MARKER = ".writing"
LOCK_FILES = (_LOCK, _MARKER)
"""What keeps other processes from a folder, by name."""
_PATIENCE = 30.0  # seconds
# What file systems without locks answer, and on a network those whose server gives none.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def atomic_write(path: Path, *, flushed: bool = True) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to; then flush it to the disk and rename it.

    An error leaves the earlier file. Of two writers at once, the last to end wins.

    flushed: Whether to wait for the disk, some milliseconds. Without, the file is whole after a
    kill, but perhaps not after a power cut.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
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
def atomic_csv_writer(path: str | Path) -> Iterator["CsvWriter"]:
    """Yield the writer of a CSV that is there whole or not at all, as by :func:`atomic_write`.

    It is UTF-8; bytes of file names that are not stay as they are. Lines end with a line feed, and
    any name comes back.
    """
    with (
        atomic_write(Path(path)) as aside,
        aside.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        yield csv.writer(_Lines(file))


def write_csv(
    path: str | Path,
    header: Iterable[object],
    rows: Iterable[Iterable[object]],
    may_lack: Collection[object] = (),
) -> Path:
    """Write a table by :func:`atomic_csv_writer`; return its path.

    may_lack: The columns that are left out where every cell is empty.
    """
    if may_lack:
        kept = []
        for name, *cells in zip(header, *rows, strict=True):
            if name not in may_lack or any(cells):
                kept.append((name, *cells))
        header, *rows = zip(*kept, strict=True)
    with atomic_csv_writer(path) as writer:
        writer.writerows(chain([header], rows))
    return Path(path)


def csv_row(cells: Iterable[object]) -> bytes:
    """Return a row as :func:`atomic_csv_writer` writes it."""
    text = io.StringIO(newline="")
    csv.writer(_Lines(text)).writerow(cells)
    return text.getvalue().encode("utf-8", errors="surrogateescape")


class _Lines:
    """Ends rows with a line feed.

    Told so itself, the writer of Python 3.11 quotes no carriage return, at which readers divide.
    """

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, row: str) -> None:
        self.file.write(row.removesuffix("\r\n") + "\n")


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Windows opens no folder, and flushes no file that is open for reading alone.
    """
    windows = sys.platform == "win32"
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path, *, wait: bool = False, required: bool = False) -> Iterator[bool]:
    """Yield whether this process, and no other, holds the lock of that name within the block.

    Workers do not inherit it: nothing of a process that was killed holds it. A file system without
    locks keeps nobody away.

    wait: Hold it once no other process does. required: Raise OSError, which says so, where the file
    system has no locks.
    """
    # Not by a marker in the place of a lock, which a process that is killed elsewhere would leave.
    lock = FileLock(path, blocking=wait, fallback_to_soft=False)
    mine = True
    try:
        lock.acquire()
    except Timeout:
        mine = False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        if required:
            raise OSError(error.errno, "its file system has no locks", str(path)) from error
    try:
        yield mine
    finally:
        lock.release()


@contextmanager
def waiting_for(lock: Path, said: str = "", *, even_without_locks: bool = False) -> Iterator[None]:
    """Hold a lock within the block, once no other process holds it.

    said: a line that is printed if there is something to wait for. even_without_locks: As of
    :func:`sole_writer`; raises InputError if another process holds the file for half a minute.
    """
    if even_without_locks and not has_locks(lock.parent):
        with _sole_by_marker(lock.parent, "--output", patience=_PATIENCE):
            yield
        return
    with locked(lock) as mine:
        if mine:
            yield
            return
    if said:
        print(said, flush=True)
    with locked(lock, wait=True):
        yield


@contextmanager
def sole_writer(
    output: Path,
    lock: Path | None = None,
    *,
    flag: str = "--output",
    even_without_locks: bool = False,
) -> Iterator[None]:
    """Make the folder to write, and keep other processes from writing there within the block.

    lock: The path of the lock (default: in the folder), which stays no longer than the block.
    even_without_locks: Keep them away on a disk without locks as well, by a file that names this
        process. One that is killed leaves the file, which the user has to remove by hand where it
        cannot be seen that the process has ended, as from another machine.

    Raises InputError, with the flag that gives the place, if another process writes there.
    """
    lock = lock or output / _LOCK
    lock.parent.mkdir(parents=True, exist_ok=True)
    if even_without_locks and not has_locks(lock.parent):
        with _sole_by_marker(output, flag):
            yield
        return
    with locked(lock) as mine:
        if not mine:
            raise InputError(
                f"Another process writes to {output}: wait for its end, or give another {flag}."
            )
        try:
            yield
        finally:
            with suppress(PermissionError):  # of Windows, where a file that is open stays
                lock.unlink(missing_ok=True)


def has_locks(folder: Path) -> bool:
    """Return whether the disk of a folder has locks, which some on a network have not."""
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
    return True


@contextmanager
def _sole_by_marker(folder: Path, flag: str, *, patience: float = 0) -> Iterator[None]:
    """Hold the file of a folder that says which process writes there.

    patience: Seconds to wait for another process.
    """
    path = folder / _MARKER
    marker = SoftFileLock(path, timeout=patience)
    try:
        marker.acquire()  # also where the process that it names has ended on this machine
    except Timeout as error:
        process, host = _process_of(path)
        raise InputError(
            f"The disk of {folder} has no locks, and by its file {_MARKER} process {process} on "
            f"{host} writes there: end that process, or give another {flag}; if it has ended, "
            f"remove {path}."
        ) from error
    try:
        yield
    finally:
        marker.release()


def _process_of(marker: Path) -> tuple[str, str]:
    """Return the number and the machine of the process that a marker names."""
    lines = marker.read_text(errors="replace").split() if marker.exists() else []
    return (lines[0], lines[1].partition("?")[0]) if len(lines) > 1 else ("(unknown)", "(unknown)")


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def check_empty(folder: Path) -> None:
    """Raise InputError if the folder is there and holds something but a lock."""
    if folder.exists() and any(path.name != _LOCK for path in folder.iterdir()):
        raise InputError(
            f"The folder {folder} holds files already: give another one, or remove it."
        )


def digest(things: Iterable[object]) -> str:
    """Return a digest of what the things look like in Python."""
    content = hashlib.blake2b(digest_size=16)
    for thing in things:
        content.update(repr(thing).encode(errors="replace"))
    return content.hexdigest()


def begin(folder: Path, name: str, content: Mapping[str, Any], *, resume: bool) -> None:
    """Make a folder with the JSON file ``name``, which says what is made there and of what.

    resume: if it is there already, check that it says the same.

    Raises InputError if it does not, or if other files are there.
    """
    text, record = (json.dumps(content) + "\n").encode(), folder / name
    if resume and record.exists():
        if record.read_bytes() != text:
            raise InputError(
                f"What is in {folder} was begun by another command or of other images: give the "
                "same, or another --output."
            )
        for part in folder.glob("**/*.part"):  # of a process that was killed
            part.unlink()
        return
    check_empty(folder)
    folder.mkdir(parents=True, exist_ok=True)
    record.write_bytes(text)


def check_writable(folder: Path, flag: str = "--output") -> None:
    """Raise InputError if nothing can be written to the folder, or it cannot be made.

    Nothing stays of the attempt. flag: The flag that named the folder.
    """
    nearest = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        # Only an attempt tells: /proc, say, has the permissions and takes nothing.
        Path(tempfile.mkdtemp(dir=nearest)).rmdir()
    except OSError as error:
        raise InputError(
            f"{flag}: {folder} cannot be written, nothing can be made in {nearest} "
            f"({error.strerror}): give another folder."
        ) from error

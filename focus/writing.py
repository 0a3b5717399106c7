"""Files that are there whole or not at all, after a kill or a power cut too."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REFUSED = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
)
"""What the system says of a place that cannot be written: full, a limit, forbidden, read-only."""


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to; then it is flushed to the disk and takes its place.

    An error leaves what was there.
    """
    aside = path.with_name(f"{path.name}.part")
    try:
        yield aside
        flush(aside)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    flush(path.parent)


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)

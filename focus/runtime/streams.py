"""What a program says goes on when nobody listens any more."""

import errno
import io
import os
import sys


class _Lasting(io.TextIOWrapper):
    """A standard stream that falls silent once its reader is gone.

    A pipe whose other end is closed, as by ``| head``, says EPIPE, a terminal that is lost EIO.
    Neither is a reason for a run to end.
    """

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._silence(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._silence(error)

    def _silence(self, error: OSError) -> None:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise error
        # The file itself, into which what is still in a buffer goes at Python's end.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


def set_up_streams() -> None:
    """Let stdout and stderr last; one that somebody has replaced, as tests do, stays.

    In a file, too, a line is there once it is said, not some thousand characters later. What cannot
    be encoded, as a file name that is not UTF-8, is shown escaped. One that was closed before the
    program began, as by ``2>&-``, takes all and keeps nothing.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # Python's for one that is closed; bars and warnings write to a file
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nowhere, "w", encoding="utf-8"))
        if not isinstance(stream, io.TextIOWrapper):
            continue
        if stream is getattr(sys, f"__{name}__"):
            stream = _Lasting(stream.buffer, stream.encoding, write_through=stream.write_through)
            setattr(sys, name, stream)
        stream.reconfigure(line_buffering=True, errors="backslashreplace")

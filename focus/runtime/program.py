"""End a program with one line and an exit code.

The codes are 0; 1 where a command found what it looks for, or after a traceback; 2 for what the
user can fix; 128 and the signal's number for a run that was stopped and has saved; 130 after
Ctrl-C.
"""

import errno
import io
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from focus.errors import InputError, OneProcessError, is_full_memory, sentence
from focus.runtime.machine import is_main_process
from focus.runtime.signals import Stopped

_NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def program(prog: str, *, debug: bool, sizes: Sequence[str] = ()) -> Iterator[None]:
    """End the process with code 2 and one line, with ``prog`` first, on what the user can fix.

    That is an InputError, a place that cannot be written, or too little memory. Of several
    processes only the first writes the line, unless one alone may meet the error. debug: show the
    traceback before it. sizes: The program's flags that decide how much memory it takes.
    """
    # Pillow names no file, and the pass over all files before training and evaluation does.
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a log has each line at once, any file's name too
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        yield
    except InputError as error:
        _end(2, sentence(error), prog, debug, isinstance(error, OneProcessError))
    except OSError as error:
        gone = Path(os.fsdecode(error.filename or ".")).parent
        if isinstance(error, FileNotFoundError) and not gone.exists():  # removed, or moved away
            advice = "put it back and give the command again, or for a run with --resume"
            _end(2, f"The folder {gone} is no longer there: {advice}.", prog, debug, True)
        if error.errno not in _NOT_WRITABLE:
            raise
        where = f" ({error.filename})" if error.filename else ""
        _end(2, f"{error.strerror}{where}: free or choose another place.", prog, debug, True)
    except (RuntimeError, MemoryError) as error:
        if not is_full_memory(error):
            raise
        advice = f"give a smaller {' or '.join(sizes)}" if sizes else "end other programs"
        _end(2, f"The memory is full: {advice}.", prog, debug, True)
    except Stopped as stopped:
        _end(128 + stopped.signum, str(stopped), prog, debug, False)
    except KeyboardInterrupt:
        _end(130, "interrupted.", prog, debug, False)


def _end(code: int, message: str, prog: str, debug: bool, alone: bool) -> NoReturn:
    """Exit with ``code``. alone: Whether this process alone may have met the error."""
    if alone or is_main_process():
        if debug:
            traceback.print_exc()
        kind = "error: " if code == 2 else ""
        begin = "" if is_main_process() else "\n"  # the first one's progress is on the line
        print(f"{begin}{prog}: {kind}{message}", file=sys.stderr, flush=True)
    elif code == 2 and "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun ends all when one has ended, also the first one, which has yet to say why.
        time.sleep(10)
    raise SystemExit(code)

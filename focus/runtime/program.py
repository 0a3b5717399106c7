"""How a program ends: with one line and a code."""

import errno
import os
import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from focus.errors import ImageError, InputError, OneProcessError, sentence
from focus.runtime.files import REFUSED
from focus.runtime.machine import is_main_process, process_rank
from focus.runtime.process_group import destroy_process_group
from focus.runtime.signals import Stopped
from focus.runtime.streams import set_up_streams

# What the system says of a path that is none, or of something else than it is used for.
_NO_PATH = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)
_NO_THREAD = "can't start new thread"  # what Python says of a limit on them
# What gloo says of another process that has ended; with NCCL one waits until the launcher ends it.
_GONE = re.compile("gloo.*(closed by peer|reset by peer|Broken pipe)")
# Where a GPU lacks memory for what torch does not allocate itself: CUDA's context, the work space
# of a library, a kernel; and, as a group, where torch finds none for a CPU's tensor.
_FULL = re.compile(
    r"(?:CUDA|HIP)(?:\]| error): out of memory|_STATUS_\w*ALLOC\w*_FAILED|(DefaultCPUAllocator)"
)
_SPOKEN = 10.0  # seconds in which the process that says the error of all has said it


@contextmanager
def program(prog: str, *, debug: bool, flags: Collection[str] = ()) -> Iterator[None]:
    """End the process with code 2 and one line on an InputError.

    A place that the system refuses to write to, or a path that is none, ends it alike, Ctrl-C with
    130, a run that was stopped by a signal and has saved with 128 and the signal's number. Of
    several processes only the first of each machine writes the line, but for what one alone may
    meet: an ImageError, a full disk, a GPU or a machine without memory left, which ends it alike.
    What it leaves the others with, a connection that is closed, is no traceback either.

    Args:
        prog: the program's name, with which the line begins.
        debug: show the traceback before it.
        flags: the names of what it takes, of which it is said which help.
    """
    # Read when torch is first imported. By default OpenMP's threads spin while they wait, which
    # costs a small network more than it computes, and far more on a machine that is shared.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Pillow names no file, and the pass over all files before training and evaluation does.
    warnings.filterwarnings("ignore", r"Image size \(\d+ pixels\) exceeds limit")
    set_up_streams()
    threading.excepthook = _thread_failed
    try:
        _check_folder()
        yield
    except InputError as error:
        # The first process of another machine, too, which may lack what the others have.
        elsewhere = not is_main_process() and os.environ.get("LOCAL_RANK") == "0"
        said = sentence(error)
        if elsewhere and not said.startswith("Process "):
            said = f"Process {process_rank()}: {said}"
        alone = elsewhere or isinstance(error, ImageError | OneProcessError)
        _end(2, said, prog, debug, alone or is_main_process())
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in REFUSED:
            _end(2, f"{error.strerror}{where}: free or choose another place.", prog, debug, True)
        if error.errno not in _NO_PATH or not where:
            raise
        _end(2, f"{error.strerror}{where}: check the path.", prog, debug, True)
    except (RuntimeError, AttributeError, MemoryError) as error:
        # A ThreadPool ends what it has started, which fails, too.
        if _NO_THREAD in (str(error), str(error.__context__)):
            said = "The system starts no more threads: end other programs, or raise the limit "
            _end(2, f"{said}(ulimit -u, or the container's).", prog, debug, True)
        # torch is imported where there can be such an error, and takes seconds where it is not.
        torch = sys.modules.get("torch")
        if torch is not None and _GONE.search(str(error)):
            # Of a group that is still there at Python's end, a thread may abort the process.
            destroy_process_group(error)
            said = "Another process of the launch has ended: its last line, or the launcher's, "
            first = os.environ.get("LOCAL_RANK", "0") == "0"
            _end(2, f"{said}says why.", prog, debug, first)
        if torch is not None and isinstance(error, torch.OutOfMemoryError):
            full = "GPU"
        elif found := _FULL.search(str(error)):
            full = "GPU" if found[1] is None else "machine"
        elif isinstance(error, MemoryError):
            full = "machine"
        else:
            raise
        said = f"{'The' if full == 'machine' else 'A'} {full} is out of memory"
        _end(2, f"{said}{_wanted(error)}: {_less_memory(full, flags)}.", prog, debug, True)
    except Stopped as stopped:
        _end(128 + stopped.signum, str(stopped), prog, debug, is_main_process())
    except KeyboardInterrupt:
        _end(130, "interrupted.", prog, debug, is_main_process())


def _check_folder() -> None:
    """Raise InputError if the current folder is gone, without which torch may not load."""
    try:
        Path.cwd()
    except OSError as error:
        raise InputError(
            f"The current folder cannot be found ({error.strerror}): change to another one."
        ) from error


def _wanted(error: BaseException) -> str:
    """How much memory was asked for in vain, in parentheses, where the error says so."""
    found = re.search(r"(?:[Tt]ried|Unable) to allocate ([\d.]+) (\w+)", str(error))
    if found is None:
        return ""
    size, unit = found.groups()
    if unit == "bytes":  # as torch says it of a GPU
        unit, scale = ("GiB", 2**30) if int(size) >= 2**30 else ("MiB", 2**20)
        size = f"{int(size) / scale:.2f}"
    return f" (tried to allocate {size} {unit})"


def _less_memory(full: str, flags: Collection[str]) -> str:
    """What a program with these flags may do to take less of the memory of a "GPU" or "machine"."""
    if "batch_size" not in flags:
        return f"free some of it, or take a larger {full}"
    if "gradient_accumulation_steps" not in flags:
        return "give a smaller --batch-size"
    # A fixed number, since the last digits of a score may differ with the size of its batch.
    return (
        "give a smaller --batch-size, of which --gradient-accumulation-steps N takes N for a step, "
        "or, where it scores, 64 images at a time, a smaller --image-size, or fewer by "
        "--eval-batch-size"
    )


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    """Show its traceback, but of a full disk: the thread of a tracker hands that on to who logs."""
    if not (isinstance(failed.exc_value, OSError) and failed.exc_value.errno in REFUSED):
        threading.__excepthook__(failed)


def _end(code: int, message: str, prog: str, debug: bool, speaks: bool) -> NoReturn:
    if speaks:
        if debug:
            traceback.print_exc()
        kind = "" if code >= 128 else "error: "
        print(f"{prog}: {kind}{message}", file=sys.stderr, flush=True)
    elif code == 2 and "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun ends all when one has ended, also the one that has yet to say why.
        with suppress(KeyboardInterrupt):
            time.sleep(_SPOKEN)
    raise SystemExit(code)

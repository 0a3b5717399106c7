"""Being stopped: a signal, or the launcher's end, is answered between two steps.

A first SIGTERM, SIGINT (Ctrl-C), SIGHUP (a closed terminal), SIGUSR1 or SIGUSR2 (a cluster warns)
is noted; the trainer finishes its step, saves and leaves. A second one, but for SIGHUP, ends the
process at once. What signals ``accelerate launch`` ends the launcher alone: a process whose
launcher is gone takes that for a SIGTERM.
"""

import os
import re
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from focus.runtime.machine import is_main_process

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# These only where nobody has another use for them: nohup has the first ignored.
IF_UNUSED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def _unused(number: signal.Signals) -> bool:
    """Whether the signal would end the process."""
    if signal.getsignal(number) is not signal.SIG_DFL:
        return False
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return True
    # Python does not know of handlers in C, such as those of faulthandler.
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return caught is None or not int(caught[1], 16) >> (number - 1) & 1


def _launched_by(parent: int) -> bool:
    """Whether that process is ``accelerate launch`` or ``torchrun``, which leave their variables.

    Accelerate's may be a user's own, too, and what started the program a shell that is closed
    before the run ends: where there is a /proc, its words decide.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return True
    if "ACCELERATE_MIXED_PRECISION" not in os.environ:
        return False
    try:
        words = Path(f"/proc/{parent}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return True
    # Behind those of Python: a script, or a module as in ``python -m accelerate.commands.launch``.
    names = {word.rpartition("/")[2] for word in words[:5]}
    return bool(names & _LAUNCHERS) or any(name.startswith("accelerate.") for name in names)


_LAUNCHERS = {"accelerate", "accelerate-launch"}
_parent, _launched = 0, False


def launched() -> None:
    """Say that the parent is a launcher: a run whose launcher is gone saves and stops."""
    global _launched
    _launched = True


def _note_parent() -> None:
    global _parent, _launched
    _parent = os.getppid()
    _launched = _launched_by(_parent)


# At the program's start: later, the launcher may be gone unnoticed.
_note_parent()
os.register_at_fork(after_in_child=_note_parent)


class Stopped(Exception):
    """The run was stopped by ``signum`` and has saved what it had; ``args[0]`` says so."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class StopSignals:
    """Notes signals while the ``with`` block runs; elsewhere they act as they did before."""

    def __init__(self) -> None:
        self._process = os.getpid()
        self._received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # Python allows no other
            taken = (*SIGNALS, *filter(_unused, IF_UNUSED))
            self._before = {number: signal.signal(number, self._note) for number in taken}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def pending(self) -> int:
        """The number of the signal to stop for, 0 if there is none."""
        if not self._received and _launched and os.getppid() != _parent:
            self._received = signal.SIGTERM
            _say("the launcher has ended: finishing the step, then saving.")
        return self._received

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker that loads images: its parent decides
        if self._received and signum == signal.SIGHUP:
            return  # of a terminal that is closed, the system tells all, and the shell does, too
        if self._received and signum == signal.SIGTERM and "TORCHELASTIC_RUN_ID" in os.environ:
            return  # torchrun hands on what a cluster has sent to all; it kills what takes too long
        if self._received:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(self._process, signum)
        self._received = signum
        again = "" if signum == signal.SIGHUP else "; again to stop now"
        _say(f"{signal.Signals(signum).name}: finishing the step, then saving{again}.")


def _say(text: str) -> None:
    if is_main_process():
        # A terminal may be gone, and a stream takes nothing in the midst of another line.
        with suppress(OSError, RuntimeError):
            print(f"\n{text}", file=sys.stderr, flush=True)

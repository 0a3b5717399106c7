"""Answer a signal, or the launcher's end, between two training steps.

The trainer finishes its step, saves and leaves after a first SIGTERM, SIGINT (Ctrl-C), SIGHUP (a
closed terminal) or SIGUSR1 (a cluster's warning). A second one ends the process at once, except a
SIGHUP. ``accelerate launch`` passes no signal on: a process whose launcher is gone stops as after a
SIGTERM.
"""

import os
import signal
import stat
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from focus.runtime.machine import is_main_process

_NAMES = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")  # of which Windows has the first two
SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))
_SIGHUP = getattr(signal, "SIGHUP", None)
# The launcher, if torchrun or accelerate has set its variable. Asked when the program starts:
# later, the launcher may be gone unnoticed.
_launched = {"TORCHELASTIC_RUN_ID", "ACCELERATE_MIXED_PRECISION"} & os.environ.keys()
_launcher = os.getppid() if _launched else None


class Stopped(Exception):
    """The run was stopped by ``signum`` and has saved what it had; ``args[0]`` says so."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.signum = signum


class StopSignals:
    """Note signals while the ``with`` block runs; elsewhere they act as they did before.

    doing: What the message says is done before the end.
    lost: Returns the processes without which that cannot be done; if there are any, none is said.
    """

    def __init__(
        self,
        doing: str = "finishing the step, then saving",
        lost: Callable[[], Sequence[object]] = tuple,
    ) -> None:
        self._doing = doing
        self._lost = lost
        self._process = os.getpid()
        self._received = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has SIGHUP
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) == self._note:  # else it was set anew, and stays
                signal.signal(number, handler)

    def pending(self) -> int:
        """Return the number of the signal to stop for, 0 if there is none."""
        if not self._received and _launcher not in (None, os.getppid()):
            self._received = signal.SIGTERM
            self._say("the launcher has ended", ".")
        return self._received

    def _note(self, signum: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a worker that loads images: its parent decides
        # A closed terminal sends two SIGHUP, and torchrun passes on a SIGTERM that all received.
        repeated = signum == _SIGHUP or (
            signum == signal.SIGTERM and "TORCHELASTIC_RUN_ID" in os.environ
        )
        if self._received and repeated:
            return
        if self._received:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(self._process, signum)
        self._received = signum
        if signum == _SIGHUP:
            _leave_terminal()
        again = "" if signum == _SIGHUP else "; again to stop now"
        self._say(signal.Signals(signum).name, f"{again}.")

    def _say(self, reason: str, end: str) -> None:
        if not is_main_process() or self._lost():
            return
        # The terminal may be gone, and a stream takes nothing in the middle of another line.
        with suppress(OSError, RuntimeError):
            print(f"\n{reason}: {self._doing}{end}", file=sys.stderr, flush=True)


def _leave_terminal() -> None:
    """Send stdout and stderr nowhere if the terminal is gone, where a line would end the run."""
    for stream in (1, 2):
        try:
            if stat.S_ISCHR(os.fstat(stream).st_mode):
                os.write(stream, b"\n")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)

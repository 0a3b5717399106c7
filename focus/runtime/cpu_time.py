"""The CPU time of a program by phase, of all processes that it has started: for ``--debug``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

STARTING, OTHER = "starting", "other"
_SET_BY_LAUNCHERS = {"ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"}


class PhaseClock:
    """CPU seconds by the phase in which they were spent, in the order in which phases began.

    A process begins with the phase "starting", which holds Python's own start, too. What lies
    between two phases is of the phase "other".
    """

    def __init__(self) -> None:
        self.seconds = {STARTING: 0.0}
        self._phase = STARTING
        self._counted = 0.0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the CPU time of the block for a phase, not for the one around it."""
        outer = OTHER if self._phase == STARTING else self._phase
        self._enter(name)
        try:
            yield
        finally:
            self._enter(outer)

    def table(self) -> str:
        """Return the CPU seconds so far as text, with the share of each phase."""
        self._enter(self._phase)
        rows = {"launcher": launcher_seconds(), **self.seconds}
        total = sum(rows.values())
        lines = [f"CPU time: {total:.1f} s, of this process, its launcher and those it started"]
        for name, seconds in rows.items():
            share = seconds / total if total else 0.0
            lines.append(f"  {name:<16}{seconds:8.1f} s{share:7.0%}".replace("%", " %"))
        return "\n".join(lines)

    def _enter(self, name: str) -> None:
        now = cpu_seconds()
        # A process that ends between two looks at it may be missed by one of them.
        passed = max(0.0, now - self._counted)
        self.seconds[self._phase] = self.seconds[self._phase] + passed
        self._counted += passed
        self.seconds.setdefault(name, 0.0)
        self._phase = name


_clock: PhaseClock | None = None


@contextmanager
def clocked() -> Iterator[PhaseClock]:
    """Let :func:`phase` count what the block takes."""
    global _clock
    _clock = PhaseClock()
    try:
        yield _clock
    finally:
        _clock = None


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the CPU time of the block for a phase, if the program runs :func:`clocked`."""
    if _clock is None:
        yield
        return
    with _clock.phase(name):
        yield


def launcher_seconds() -> float:
    """Return the CPU time of ``accelerate launch`` or ``torchrun`` itself; 0 without one."""
    if not _SET_BY_LAUNCHERS & os.environ.keys():
        return 0.0
    with suppress(psutil.Error):
        launcher = psutil.Process().parent()
        if launcher is not None:
            spent = launcher.cpu_times()
            return float(spent.user + spent.system)
    return 0.0


def cpu_seconds() -> float:
    """Return the CPU time of this process and all that it has started, of users and the system.

    Those that have ended are counted by the system, once their parent has heard of it; until then,
    and while they run, each is asked.
    """
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            spent = child.cpu_times()
            total += spent.user + spent.system
            total += getattr(spent, "children_user", 0.0) + getattr(spent, "children_system", 0.0)
    return total

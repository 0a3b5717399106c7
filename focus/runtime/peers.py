"""The other processes of a launch: which were lost, and how the command was given.

A process that is killed tells nobody. Those that wait for it meet an error of their connection, and
their launcher ends them at once; each knows by then the process numbers of all, so that one of them
can say whom it lost.
"""

import re
import shlex
import shutil
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from focus.errors import OneProcessError

_ENDS_WITHIN = 2.0  # seconds, in which the system ends a process whose connections it has closed
_EXPLAINED = "focus/explained"  # a key of the store that all processes share
_OF_CONNECTION = re.compile(r"\bgloo\b|\bNCCL\b|\bnccl[A-Z]")


class LostProcessError(OneProcessError):
    """Another process of the launch was lost, so that this one cannot go on."""


@dataclass(frozen=True)
class Peer:
    """A process of the launch, on the machine ``host``, which started it at ``started``."""

    rank: int
    host: str
    pid: int
    started: float

    @property
    def is_lost(self) -> bool:
        """Return whether the process has ended; it must be of this machine."""
        try:
            process = psutil.Process(self.pid)
            return bool(
                process.create_time() != self.started or process.status() == psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return True


_peers: list[Peer] = []
_rank = 0


def introduce(accelerator: Accelerator) -> None:
    """Tell each process of the launch who the others are."""
    global _peers, _rank
    started = psutil.Process().create_time()
    _rank = accelerator.process_index
    me = Peer(_rank, socket.gethostname(), psutil.Process().pid, started)
    _peers = gather_object([me])


def lost_peers(within: float = 0.0) -> list[Peer]:
    """Return the processes on this machine that have ended, once there is one.

    within: How many seconds to wait for one.
    """
    host, deadline = socket.gethostname(), time.monotonic() + within
    while True:
        lost = [peer for peer in _peers if peer.host == host and peer.is_lost]
        if lost or time.monotonic() >= deadline:
            return lost
        time.sleep(0.02)


def is_of_connection(error: BaseException) -> bool:
    """Return whether torch says that another process cannot be reached."""
    if not isinstance(error, RuntimeError) or len(_peers) < 2:
        return False
    return isinstance(error, torch.distributed.DistError) or bool(_OF_CONNECTION.search(str(error)))


def ignore_launcher_sigterm() -> None:
    """Ignore SIGTERM, so that this process has the time to say which process was lost.

    The launcher sends SIGTERM to all processes as soon as it has lost one, and kills them 30
    seconds later.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def lost_processes_clause() -> str | None:
    """Return a clause that names the lost processes; None if another process prints the reason.

    A process that ends with a message of its own prints the reason, see :func:`silence_peers`.
    Else the running process with the lowest number on each machine prints it.
    """
    host = socket.gethostname()
    lost = lost_peers(within=_ENDS_WITHIN)
    if _is_explained():
        return None

    running = [peer.rank for peer in _peers if peer.host == host and peer not in lost]
    if running and _rank != min(running):
        return None

    if not lost:
        other_hosts = sorted({peer.host for peer in _peers} - {host})
        hosts = " or ".join(other_hosts) or host
        return f"A process on {hosts}, or the connection to it, was lost"

    names = " and ".join(f"{peer.rank} (pid {peer.pid})" for peer in lost)
    were = f"process {names} was" if len(lost) == 1 else f"processes {names} were"
    return f"Of {len(_peers)} processes, {were} lost: killed, or ended by an error above"


def silence_peers() -> None:
    """Tell the other processes that this one says why it ends, so that they end without a word."""
    with suppress(RuntimeError, ValueError):  # no group, or its store is gone
        _store().set(_EXPLAINED, "1")


def _is_explained() -> bool:
    """Return whether some process has called :func:`silence_peers`."""
    try:
        return bool(_store().check([_EXPLAINED]))
    except (RuntimeError, ValueError):  # no group, or its store is gone
        return False


def _store() -> Any:
    return torch.distributed.distributed_c10d._get_default_store()


def as_it_was_given() -> str:
    """Return the words of the command before its flags, with those of its launcher; "" if unknown.

    For example ``torchrun --nproc_per_node 2 train.py``.
    """
    process = psutil.Process()
    with suppress(psutil.Error):
        words = _before_flags(process.parent()) or _before_flags(process)
        return shlex.join(_shortened(words)) if words else ""
    return ""


def launcher_words() -> list[str]:
    """Return the words by which the launcher was called, up to this program; none if unknown."""
    with suppress(psutil.Error):
        return _before_flags(psutil.Process().parent())
    return []


def _before_flags(process: psutil.Process | None) -> list[str]:
    """Return the words of a process's command before the flags of this program, if it has them."""
    flags = sys.argv[1:]
    while flags and not flags[0].startswith("-"):
        flags = flags[1:]  # sub-commands
    words: list[str] = process.cmdline() if process else []
    begin, end = words[: len(words) - len(flags)], words[len(words) - len(flags) :]
    programs = {sys.argv[0], _module_started()} & {*begin[1:]}
    return begin if end == flags and programs else []


def _module_started() -> str | None:
    """Return the module that ``-m`` has started, None for a program that is a file."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec else None


def _shortened(words: list[str]) -> list[str]:
    """Drop the interpreter before a program that the shell finds by its name."""
    program = Path(words[1])
    if shutil.which(program.name) == str(program):
        return [program.name, *words[2:]]
    return words

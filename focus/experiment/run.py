"""Runs of ``train.py`` several at a time, each in a process of its own, until all are done.

The processes are forked from one that has imported everything, so that a run starts at once; it
also keeps to the code that was there when the experiment began.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from focus.config.command_line import load_config
from focus.config.options import flag
from focus.config.train import TrainConfig, resolve
from focus.errors import InputError
from focus.experiment.grid import Run
from focus.runtime.progress import format_duration
from focus.training.run_folder import other_setting

LOGS = "logs"
_FIXED_COST = 1.4
"""Of a run beside its epochs, in epochs: start, test images, overlays (measured: 7 s and 5 s)."""
_PATIENCE = 60.0  # seconds to save in, before a run that is told to stop is killed


@dataclass(frozen=True)
class Failure:
    """A run that ended with another code than 0, and what it said."""

    run: Run
    code: int
    log: Path

    def __str__(self) -> str:
        return f"{self.run.name} ended with code {self.code}: see {self.log}"


def words(config: TrainConfig) -> list[str]:
    """The flags of ``train.py`` that make this configuration."""
    flags: list[str] = []
    for field in fields(config):
        value, name = getattr(config, field.name), flag(field.name)
        if value is None or (value is False and field.default is False):
            continue
        if isinstance(value, bool):
            flags.append(f"{name}={str(value).lower()}")
        elif isinstance(value, dict):
            flags += [f"{name}={key}={path}" for key, path in value.items()]
        elif isinstance(value, tuple):
            flags += [f"{name}={one}" for one in value]
        elif value != field.default:
            flags.append(f"{name}={value}")
    return flags


def is_finished(run: Run) -> bool:
    """Whether the run's results are there.

    Raises InputError if its folder is of a run with other settings: neither must stand for the
    other.
    """
    record = run.folder / "config.yaml"
    if not record.exists():
        return False
    then = asdict(load_config(TrainConfig, record))
    if other := other_setting(then, resolve(run.config)):
        name, before, now = other
        raise InputError(
            f"The run {run.folder} was made with {name} {before}, not {now}: give another --output."
        )
    return (run.folder / "results.json").exists()


def execute(
    runs: Sequence[Run], *, jobs: int, logs: Path, say: Callable[[str], None]
) -> list[Failure]:
    """Make all runs that are not finished, ``jobs`` at a time; returns those that failed.

    A run that was cut short goes on from its last checkpoint. On Ctrl-C, SIGTERM or an error
    all runs save and stop, and so does this. say: is told of each run that ends, with the time
    that is left.

    Raises:
        InputError: a folder holds a run with other settings; before any is started.
        KeyboardInterrupt: it was stopped.
    """
    left = [run for run in runs if not is_finished(run)]
    total = sum(map(_cost, left))
    say(f"{len(runs)} runs, {len(runs) - len(left)} of them done before; {jobs} at a time")
    logs.mkdir(parents=True, exist_ok=True)
    waiting, failures, done = list(left), [], 0.0
    running: dict[BaseProcess, tuple[Run, Path]] = {}
    began = time.monotonic()
    with _stoppable():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.pop(0)
                    log = logs / f"{run.name.replace('/', '-')}.log"
                    running[_start(run, log)] = run, log
                wait([process.sentinel for process in running])
                for process in [process for process in running if not process.is_alive()]:
                    run, log = running.pop(process)
                    process.join()
                    code = process.exitcode or 0
                    if code == 0 and not is_finished(run):
                        code = 1
                    done += _cost(run)
                    if code:
                        failures.append(Failure(run, code, log))
                    passed = time.monotonic() - began
                    number = len(left) - len(waiting) - len(running)
                    end = str(failures[-1]) if code else f"{run.name} is done"
                    say(
                        f"{number}/{len(left)}  {end}; {format_duration(passed)} passed, about "
                        f"{format_duration(passed * (total - done) / done)} left"
                    )
        except BaseException:  # Ctrl-C, or a run that cannot be begun or read: none goes on unseen
            _stop(list(running))
            raise
    return failures


def _cost(run: Run) -> float:
    """In epochs."""
    return _FIXED_COST + resolve(run.config).epochs


@contextmanager
def _stoppable() -> Iterator[None]:
    """SIGTERM acts as Ctrl-C does."""

    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(processes: Sequence[BaseProcess]) -> None:
    """Tell each to save and leave."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _PATIENCE
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()


def _start(run: Run, log: Path) -> BaseProcess:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["focus.training.run"])
    process = context.Process(target=_train, args=(words(run.config), str(log)))
    process.start()
    return process


def _train(flags: list[str], log: str) -> None:
    """``train.py`` with these flags, in the new process; what it says goes to the log."""
    # Away from the terminal, whose Ctrl-C would come on top of the experiment's SIGTERM: a run that
    # is told twice does not save.
    os.setsid()
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    from focus.config.command_line import run
    from focus.runtime.signals import watch_parent
    from focus.training.run import train

    watch_parent()
    print(f"train.py {' '.join(flags)}", flush=True)
    sys.argv[:] = ["train.py", *flags]
    run(train, TrainConfig, argv=flags, prog="train.py")

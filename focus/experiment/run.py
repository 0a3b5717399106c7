"""Run ``train.py`` several times at once, each in a process of its own, until all are done."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from focus.config.command_line import load_config
from focus.config.train import TrainConfig, resolve, write_config
from focus.errors import InputError
from focus.experiment.grid import Run
from focus.runtime.progress import format_duration
from focus.training.run_folder import other_setting

LOGS = "logs"
_PATIENCE = 60.0  # seconds to save in, before a run that is told to stop is killed


@dataclass(frozen=True)
class Failure:
    """A run that ended with another code than 0, and its log."""

    run: Run
    code: int
    log: Path

    def __str__(self) -> str:
        return f"{self.run.name} ended with code {self.code}: see {self.log}"


def is_finished(run: Run) -> bool:
    """Return whether the run's results are there.

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
    """Make all runs that are not finished, ``jobs`` at a time; return those that failed.

    A run that was cut short goes on from its last checkpoint. On Ctrl-C, SIGTERM, SIGHUP or an
    error all runs save and stop, and so does this. say: gets a line for each run that ends, with
    the time that is left.

    Raises:
        InputError: a folder holds a run with other settings; before any is started.
        KeyboardInterrupt: it was stopped.
    """
    left = [run for run in runs if not is_finished(run)]
    say(f"{len(runs)} runs, {len(runs) - len(left)} of them done before; {jobs} at a time")
    logs.mkdir(parents=True, exist_ok=True)
    waiting, failures, done = list(left), list[Failure](), 0
    total = sum(_epochs(run) for run in left)
    running: dict[subprocess.Popen[bytes], tuple[Run, Path]] = {}
    began = time.monotonic()
    with _stoppable():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    run = waiting.pop(0)
                    log = logs / f"{run.name.replace('/', '-')}.log"
                    running[_start(run, log)] = run, log
                time.sleep(0.1)
                for process in [process for process in running if process.poll() is not None]:
                    run, log = running.pop(process)
                    code = process.returncode or int(not is_finished(run))
                    if code:
                        failures.append(Failure(run, code, log))
                    done += _epochs(run)
                    passed = time.monotonic() - began
                    number = len(left) - len(waiting) - len(running)
                    end = str(failures[-1]) if code else f"{run.name} is done"
                    say(
                        f"{number}/{len(left)}  {end}; {format_duration(passed)} passed, about "
                        f"{format_duration(passed * (total - done) / done)} left"
                    )
        except BaseException:  # Ctrl-C or an error: no run goes on without this program
            _stop(list(running))
            raise
    return failures


def _epochs(run: Run) -> int:
    return resolve(run.config).epochs


def _start(run: Run, log: Path) -> "subprocess.Popen[bytes]":
    """Start a run, whose configuration is beside its log."""
    config = log.with_suffix(".yaml")
    write_config(run.config, config)
    command = [sys.executable, "-m", "focus", "train", "--config", str(config)]
    with log.open("ab") as file:
        file.write(f"{' '.join(command)}\n".encode())
        file.flush()
        # A session of its own: the terminal's Ctrl-C would come on top of the SIGTERM of _stop,
        # and a run that gets two signals does not save.
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP act as Ctrl-C does."""

    def interrupt(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signals = signal.SIGTERM, signal.SIGHUP
    before = [signal.signal(each, interrupt) for each in signals]
    try:
        yield
    finally:
        for each, handler in zip(signals, before, strict=True):
            signal.signal(each, handler)


def _stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Tell each to save and leave; kill those that do not."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _PATIENCE
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

"""Run ``focus train`` several times at once, each in a process of its own, until all are done."""

import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from focus.config.command_line import load_config
from focus.config.train import TrainConfig, resolve, write_config
from focus.errors import InputError
from focus.experiment.protocol import Run
from focus.runtime.progress import format_duration
from focus.runtime.signals import SIGNALS
from focus.training.run_folder import other_setting

_LINUX = sys.platform == "linux"
_PATIENCE = 60.0  # seconds to save in, before a run that is told to stop is killed


def is_finished(run: Run) -> bool:
    """Return whether the run's results are there.

    Raises InputError if its folder is of a run with other settings: neither must stand for the
    other.
    """
    record = run.folder / "config.yaml"
    if not record.exists():
        return False
    other = other_setting(load_config(TrainConfig, record), resolve(run.config))
    if other is not None:
        name, before, now = other
        raise InputError(
            f"The run {run.folder} was made with {name} {before}, not {now}: give another --output."
        )
    return (run.folder / "results.json").exists()


def execute(
    runs: Sequence[Run],
    *,
    jobs: int,
    logs: Path,
    prepare: Callable[[Run], None],
    finished: Callable[[Run], bool] = is_finished,
    ended: Callable[[Run], None] = lambda run: None,
) -> dict[str, str]:
    """Make all runs that are not finished, ``jobs`` at a time, and print a line for each that ends.

    prepare: Writes the images of a run, before it starts.
    finished: Says which runs are left out.
    ended: Is called with each run that has just been made.

    A run that was cut short goes on from its last checkpoint. On a signal of ``SIGNALS`` or an
    error all runs save and stop, as does this. Returns a sentence for each run that failed, by its
    name.

    Raises:
        InputError: a folder holds a run with other settings or images; before any is started.
        KeyboardInterrupt: it was stopped.
    """
    unfinished = [run for run in runs if not finished(run)]
    # One's own data may be others than those of finished runs; a draw of the benchmark is not.
    finished_on_data = [run for run in runs if not run.world and run not in unfinished]
    for run in {run.data: run for run in finished_on_data}.values():
        prepare(run)
    n_before = len(runs) - len(unfinished)
    print(f"{len(runs)} runs, {n_before} of them done before; {jobs} at a time")
    logs.mkdir(parents=True, exist_ok=True)
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # as nohup has SIGHUP
            signal.signal(signum, signal.default_int_handler)

    waiting = list(unfinished)
    running: dict[subprocess.Popen[bytes], tuple[Run, Path]] = {}
    failures: dict[str, str] = {}
    began = time.monotonic()
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                prepare(run)
                log = logs / f"{run.name}.log"
                running[_start(run, log)] = run, log
            time.sleep(0.1)
            for process in [process for process in running if process.poll() is not None]:
                run, log = running.pop(process)
                code = process.returncode or int(not is_finished(run))
                if code:
                    end = failures[run.name] = f"{run.name} ended with code {code}: see {log}"
                else:
                    end = f"{run.name} is done"
                    ended(run)
                n_done = len(unfinished) - len(waiting) - len(running)
                n_left = len(unfinished) - n_done
                seconds = (time.monotonic() - began) / n_done * n_left
                duration = format_duration(seconds)
                print(f"{n_done}/{len(unfinished)}  {end}; about {duration} left")
    finally:  # after Ctrl-C or an error: no run goes on without this program
        _stop(running)
    return failures


def _start(run: Run, log: Path) -> "subprocess.Popen[bytes]":
    """Start a run, whose configuration is beside its log."""
    config = log.with_suffix(".yaml")
    write_config(run.config, config)
    program = ["focus", "train"]
    if run.hold:
        program = ["focus.experiment.held", run.hold.figure, str(run.hold.aim)]
    # -P: not a focus.py of the current folder.
    command = [sys.executable, "-P", "-m", *program, "--config", str(config)]
    with log.open("ab") as file:
        file.write(f"{' '.join(command)}\n".encode())
        file.flush()
        # A session of its own: the terminal's Ctrl-C would come on top of the SIGTERM of _stop,
        # and a run that gets two signals does not save.
        tied = _tie if _LINUX else None
        return subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True, preexec_fn=tied
        )


def _tie() -> None:
    """Have Linux send a SIGHUP to a run whose experiment is gone, and was perhaps killed.

    It may come once for each thread that the experiment had, and a run that gets two of any other
    signal does not save.
    """
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores
    ctypes.CDLL(None).prctl(1, signal.SIGHUP)


def _stop(processes: Iterable["subprocess.Popen[bytes]"]) -> None:
    """Tell each to save and leave; kill those that do not."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()

"""How the benchmarks of the CPU are made, for all of them.

One thread, pinned to a core; CPU time; steps interleaved in one process in an order that changes by
round; medians of the rounds' paired ratios with a 95 % bootstrap interval. Rows go to a CSV, and
with what they were measured with to a JSON.
"""

import argparse
import csv
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench.entry import make_folder
from focus.runtime.machine import usable_cores

ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30),
}

Step = Callable[[], tuple[Tensor, ...]]


def at_least(limit: int) -> Callable[[str], int]:
    """For argparse: a whole number, not below the limit."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < limit:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {limit}")
        return int(text)

    return number


def above_0(text: str) -> float:
    """For argparse: a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def parser_of(
    about: str | None, files: str, fewer: str, rounds: int, short_rounds: int
) -> argparse.ArgumentParser:
    """The flags that the benchmarks share.

    Args:
        about: the text of ``--help``.
        files: what ``--output`` gets.
        fewer: what ``--short`` has less of.
        rounds: how many by default.
        short_rounds: how many with ``--short``.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--short", action="store_true", help=fewer)
    parser.add_argument("--output", type=Path, help=f"folder for {files}")
    parser.add_argument(
        "--rounds", type=at_least(1), help=f"default: {rounds}; short: {short_rounds}"
    )
    # No flags: what rounds_of chooses from.
    parser.set_defaults(default_rounds=rounds, short_rounds=short_rounds)
    return parser


def rounds_of(given: argparse.Namespace) -> int:
    """Those of ``--rounds``, else the default of a whole or a short measurement.

    given: what a parser of :func:`parser_of` made.
    """
    if given.rounds is not None:
        return int(given.rounds)
    return int(given.short_rounds if given.short else given.default_rounds)


def begin(module: str, given: argparse.Namespace, **more: str | int) -> dict[str, str | int]:
    """See to allocator, thread and folder, print the settings and return them.

    given: what a parser of :func:`parser_of` made. more: settings of this benchmark alone.

    Raises:
        InputError: as :func:`bench.entry.make_folder`.
    """
    keep_memory(module)
    torch.set_num_threads(1)
    if given.output:
        make_folder(given.output)
    command = f"python -m {module}" + " --short" * given.short
    measured_with = settings(command, rounds_of(given)) | more
    print(", ".join(f"{name} {value}" for name, value in measured_with.items()))
    return measured_with


def keep_memory(module: str) -> None:
    """Start ``python -m module`` again, unless its allocator already keeps its memory; also pins
    it to one core, where the system can.

    Tensors above the allocator's threshold would be mapped anew, page by page, in each step.
    """
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        if hasattr(os, "sched_setaffinity"):
            # What is started inherits it. The last core: the first ones take the interrupts.
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        # The C library reads them once, as a process starts.
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        quiet = {"KINETO_LOG_LEVEL": "99"}  # a line for each profile, across the progress bar
        os.execve(sys.executable, command, os.environ | ALLOCATOR | quiet)


def cpu_seconds(step: Step) -> float:
    """What a call takes."""
    start = time.process_time()
    step()
    return time.process_time() - start


def time_rounds(
    steps: dict[str, Step], rounds: int, seconds_of: Callable[[Step], float] = cpu_seconds
) -> dict[str, np.ndarray]:
    """Seconds of each step in each round."""
    names = list(steps)
    seconds = {name: np.zeros(rounds) for name in names}
    for name in names * 2:  # warm allocator and caches
        steps[name]()
    order = np.random.default_rng(0)
    for number in range(rounds):
        # At random, so that none always finds the caches as the same neighbour left them.
        for name in order.permutation(names):
            seconds[name][number] = seconds_of(steps[name])
    return seconds


def peak_bytes(step: Step) -> int:
    """The most bytes that a step has allocated and not yet freed, by torch's record of both."""
    step()  # what torch allocates once is no part of it
    activities = [ProfilerActivity.CPU]
    with profile(activities=activities, profile_memory=True, acc_events=True) as record:
        step()
    assert record.profiler is not None
    # The timeline is public nowhere else.
    events = record.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return int(np.cumsum([0, *(size for _, size in sorted(changes, key=lambda c: c[0]))]).max())


def median(values: np.ndarray) -> tuple[float, float, float]:
    """The median, and its 95 % bootstrap interval."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(draws, 1), [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> tuple[float, float, float]:
    """Median of the paired ratios, and its 95 % bootstrap interval."""
    return median(numerator / denominator)


def judge(asked: tuple[str, float] | None, low: float, high: float) -> bool | None:
    """Whether a bar is met by the whole interval; None where there is no bar."""
    if asked is None:
        return None
    sense, limit = asked
    return high <= limit if sense == "<=" else low >= limit


MET = {True: "met", False: "not met", None: ""}
"""What a table says of a bar."""


def settings(command: str, rounds: int) -> dict[str, str | int]:
    """What the figures were measured with."""
    return {
        "command": command,
        "commit": _commit(),
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "pinned": "yes" if usable_cores() == 1 else "no",
        **{name: os.environ.get(name, "") for name in ALLOCATOR},
    }


def write(
    folder: Path, name: str, rows: Sequence[Mapping[str, Any]], measured_with: Mapping[str, Any]
) -> None:
    """``NAME.csv``, and ``NAME.json``, which has the settings as well."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps({"settings": dict(measured_with), "rows": list(rows)}, indent=2)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _commit() -> str:
    """Of the checkout this lies in, with a mark if it was changed; empty without git."""
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except OSError:
        return ""
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())

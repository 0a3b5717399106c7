"""Time steps in turn on one pinned CPU thread, and write rows to a CSV, settings to a JSON.

Steps of a case run interleaved in one process, in an order that changes by round; a ratio is the
median of the rounds' paired ratios of CPU time, with a 95 % bootstrap interval.
"""

import argparse
import csv
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from focus.errors import InputError
from focus.evaluation.provenance import commit

ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(4 * 2**30), "MALLOC_MMAP_THRESHOLD_": str(4 * 2**30)}

Step = Callable[[], tuple[Tensor, ...]]
Row = dict[str, Any]
"""A row of a CSV that a benchmark writes, by the names of the columns; read again, of texts."""
Interval = tuple[float, float, float]  # a median with the ends of its 95 % interval


def run_program(main: Callable[[], int | None]) -> NoReturn:
    """Exit with the code that ``main`` returns; an InputError becomes one line and code 1."""
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def make_parser(about: str | None, *rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the flags that the benchmarks share.

    Args:
        about: The text of ``--help``.
        rounds: The defaults of ``--rounds``, without and with ``--short``; none without these.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=_folder, metavar="FOLDER", help="for the CSV and the JSON")
    if rounds:
        parser.add_argument("--short", action="store_true", help="fewer cases and rounds")
        parser.add_argument("--rounds", type=int, help="default: {}; short: {}".format(*rounds))
        parser.set_defaults(usual_rounds=rounds)
    return parser


def read_rows(path: Path) -> list[Row]:
    """Return the rows that ``python -m bench.NAME`` has written to ``NAME.csv``.

    Raises:
        InputError: there is no such file.
    """
    if not path.exists():
        raise InputError(
            f"There is no {path}: python -m bench.{path.stem} --output {path.parent} writes it."
        )
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _folder(text: str) -> Path:
    """Make the folder, so that nothing is measured in vain."""
    Path(text).mkdir(parents=True, exist_ok=True)
    return Path(text)


def begin(module: str, given: argparse.Namespace) -> dict[str, str | int]:
    """Prepare the process for timing; print and return the settings.

    Args:
        module: The program, as in ``python -m bench.head``.
        given: The arguments that a parser of :func:`make_parser` read; ``rounds`` is filled in.
    """
    keep_memory(module)
    torch.set_num_threads(1)
    given.rounds = given.rounds or given.usual_rounds[given.short]
    found = settings(f"python -m {module}" + " --short" * given.short) | {"rounds": given.rounds}
    print(", ".join(f"{name} {value}" for name, value in found.items()))
    return found


def keep_memory(module: str) -> None:
    """Start ``python -m module`` again, pinned to a core, with an allocator that keeps its memory.

    By default, glibc maps tensors above a threshold anew, page by page, in each step; it reads the
    threshold when a process starts.
    """
    if any(os.environ.get(name) != value for name, value in ALLOCATOR.items()):
        if hasattr(os, "sched_setaffinity"):
            # The last core: the first ones take the interrupts.
            os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        quiet = {"KINETO_LOG_LEVEL": "99"}  # a line for each profile, across the progress bar
        os.execve(sys.executable, command, os.environ | ALLOCATOR | quiet)


def time_rounds(steps: Mapping[str, Step], rounds: int) -> dict[str, np.ndarray]:
    """Return the CPU seconds ``[rounds]`` of each step."""
    names = list(steps)
    seconds = {name: np.zeros(rounds) for name in names}
    for name in names * 2:  # warm allocator and caches
        steps[name]()
    order = np.random.default_rng(0)
    for number in range(rounds):
        # At random, so that no step always finds the caches as the same neighbour left them.
        for name in order.permutation(names):
            start = time.process_time()
            steps[name]()
            seconds[name][number] = time.process_time() - start
    return seconds


def peak_bytes(step: Callable[[], object]) -> int:
    """Return the most bytes that a step has allocated and not yet freed, as torch records both."""
    step()  # what torch allocates once is no part of it
    activities = [ProfilerActivity.CPU]
    with profile(activities=activities, profile_memory=True, acc_events=True) as record:
        step()
    assert record.profiler is not None
    # The timeline is public nowhere else.
    events = record.profiler.kineto_results.events()
    changes = [(e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"]
    return int(np.cumsum([0, *(size for _, size in sorted(changes, key=lambda c: c[0]))]).max())


def median(values: np.ndarray) -> Interval:
    """Return the median of values and its 95 % bootstrap interval."""
    draws = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(draws, 1), [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> Interval:
    """Return the median of the paired ratios and its 95 % bootstrap interval."""
    return median(numerator / denominator)


def note(found: Interval, figure: str, **case: str) -> dict[str, Any]:
    """Print a figure of a case; return its row."""
    text = "{:.4g} [{:.4g}, {:.4g}]".format(*found)
    print(f"{' '.join(case.values()):20} {figure:28} {text}", flush=True)
    return {**case, "figure": figure, **dict(zip(("median", "low", "high"), found, strict=True))}


def shown(row: Row) -> Row:
    """Print the figures of a row that are there; return the row."""
    cells = (f"{name} {value}" for name, value in row.items() if value not in (None, ""))
    print(", ".join(cells), flush=True)
    return row


def judged(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Print rows as they come, and at the end how many have ``faults``; return them."""
    table = [shown(row) for row in rows]
    missed = sum(bool(row["faults"]) for row in table)
    print(f"{len(table)} lines, {missed} miss a limit")
    return table


def settings(command: str) -> dict[str, str | int]:
    """Return the versions and the machine that figures are measured with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return {
        "command": command,
        "commit": commit() or "",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "triton": next((d.version for d in distributions(name="triton")), ""),
        "python": platform.python_version(),
        "cpu": _cpu_model(),
        "cores": os.cpu_count() or 1,
        "pinned": "yes" if cores == 1 else "no",
    }


def write(
    folder: Path | None,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    measured_with: Mapping[str, Any],
) -> None:
    """Write the rows as ``NAME.csv`` and the settings as ``NAME.json``, if there is a folder."""
    if folder is None:
        return
    with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps({"settings": dict(measured_with)}, indent=1)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())

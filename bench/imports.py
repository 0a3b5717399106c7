"""What it costs to import the kernels, and to ask ``train.py`` for its flags, in CPU time.

    python -m bench.imports [--output FOLDER] [--rounds N]

Each round starts two fresh processes. One imports torch, then ``focus.kernels``, and times the
second; the other is ``train.py --help``, of which all counts. A round before the first leaves
bytecode and files where the others find them. Medians with a 95 % bootstrap interval; the whole
interval has to meet the bar.
"""

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from bench.entry import end_in_a_line, make_folder
from bench.timing import MET, at_least, judge, median, settings, write

ROOT = Path(__file__).parents[1]
IMPORT = """
import time, torch
start = time.process_time()
import focus.kernels
print(time.process_time() - start)
focus.kernels.focus_head
"""


@dataclass
class Row:
    """CPU seconds in the median, their interval, and the bar."""

    what: str
    median: float
    low: float
    high: float
    bar: str
    met: bool | None


def import_kernels() -> float:
    """CPU seconds of ``import focus.kernels`` in a process that has imported torch."""
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


def help_of_train() -> float:
    """CPU seconds of the whole process ``train.py --help``.

    Raises SystemExit if it fails.
    """
    before = _seconds_of_children()
    command = [sys.executable, "train.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    seconds = _seconds_of_children() - before
    if "--loss" not in done.stdout:
        raise SystemExit(f"train.py --help names no --loss, its output is {done.stdout!r}")
    return seconds


def _seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


MEASURED: dict[str, tuple[Callable[[], float], float]] = {
    "import focus.kernels after torch": (import_kernels, 0.3),
    "train.py --help": (help_of_train, 1.0),
}


def measure(rounds: int) -> list[Row]:
    """A row for each of ``MEASURED``, whose processes take turns."""
    seconds: dict[str, list[float]] = {what: [] for what in MEASURED}
    for number in tqdm(range(rounds + 1), "imports", unit="round"):
        for what, (once, _) in MEASURED.items():
            taken = once()
            if number > 0:
                seconds[what].append(taken)
    rows = []
    for what, (_, limit) in MEASURED.items():
        middle, low, high = median(np.array(seconds[what]))
        rows.append(
            Row(
                what=what,
                median=round(middle, 4),
                low=round(low, 4),
                high=round(high, 4),
                bar=f"<= {limit:.1f}",
                met=judge(("<=", limit), low, high),
            )
        )
    return rows


def main() -> None:
    """Measure, print a line each, and write them with ``--output``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, help="folder for imports.csv and imports.json")
    parser.add_argument("--rounds", type=at_least(1), default=21)
    arguments = parser.parse_args()
    if arguments.output:
        make_folder(arguments.output)
    measured_with = settings("python -m bench.imports", arguments.rounds)
    rows = measure(arguments.rounds)
    for row in rows:
        interval = f"{row.median:.3f} s [{row.low:.3f}, {row.high:.3f}]"
        print(f"{row.what:<34} {interval}  bar {row.bar} {MET[row.met]}")
    if arguments.output:
        write(arguments.output, "imports", [asdict(row) for row in rows], measured_with)


if __name__ == "__main__":
    end_in_a_line(main)

"""Run the tests of the kernels that are marked for GPUs: their values, on the card.

Each test is a row as soon as it has ended; the last row has their numbers.
"""

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable

import pytest

from bench.gpu.settings import Settings
from bench.gpu.timing import Row

COLUMNS = ("tests", "passed", "failed", "skipped")
FOLDER = "tests/kernels"
PROCESSES = 4
"""Python processes on the card: a test's time is that of Triton's compiler, a CPU's."""


class Recorder:
    """A plugin of pytest that adds a row for each test."""

    def __init__(self, add: Callable[[Row], None]) -> None:
        self.outcomes: Counter[str] = Counter()
        self._add = add

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add the outcome of a test: of its call, or of what kept it from being called."""
        if report.when != "call" and report.passed:
            return
        self.outcomes[report.outcome] += 1
        row: Row = {"test": report.nodeid, "outcome": report.outcome, "seconds": report.duration}
        if report.failed:
            row |= {"tests": report.nodeid, "error": report.longreprtext.strip()[-500:]}
        self._add(row)


def run_tests(settings: Settings, add: Callable[[Row], None]) -> None:
    """Run the tests, and add their rows as they end."""
    recorder = Recorder(add)
    processes = min(PROCESSES, os.cpu_count() or 1) if settings.device == "cuda" else 0
    words = [FOLDER, "-m", "gpu", "-q", f"-n{processes}", "--tb=short", "-p", "no:cacheprovider"]
    with contextlib.redirect_stdout(sys.stderr):  # the rows go to stdout
        code = pytest.main(words, plugins=[recorder])
    numbers = {name: recorder.outcomes[name] for name in ("passed", "failed", "skipped")}
    row: Row = {"tests": FOLDER, **numbers}
    if settings.device == "cuda" and code == 0 and not numbers["passed"]:
        row["error"] = "no test has run"
    elif code:
        row["error"] = f"pytest ended with exit code {int(code)}"
    add(row)

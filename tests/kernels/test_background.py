"""A program beside the tests ends with them, however they end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from .background import ROOT, background

pytest.importorskip("triton", reason="triton is not installed")

BEGIN = """
import sys
from pathlib import Path
from tests.kernels.background import background

with background(Path(sys.argv[1]), "compile_variants.py") as program:
    print(program.process.pid, flush=True)
    program.wait()
"""


def running(group: int) -> set[int]:
    """The processes of a group, those left out that have ended and nobody has asked about."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended since
            state, _, its_group, *_ = file.read_text().rpartition(")")[2].split()
            if int(its_group) == group and state != "Z":
                found.add(int(file.parent.name))
    return found


def wait_for(group: int, least: int, most: int) -> set[int]:
    deadline = time.monotonic() + 60
    while not least <= len(found := running(group)) <= most:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


@pytest.fixture
def begun(tmp_path: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """What stands for pytest, and the group of the program that it began, which has a pool."""
    words = [sys.executable, "-c", BEGIN, str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout
        group = os.getpgid(int(tests.stdout.readline()))
        try:
            wait_for(group, 4, 9)
            yield tests, group
        finally:
            tests.kill()
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_tests_that_are_killed(
    begun: tuple["subprocess.Popen[str]", int], signum: signal.Signals, tmp_path: Path
) -> None:
    tests, group = begun
    tests.send_signal(signum)
    assert tests.wait() == -signum
    wait_for(group, 0, 0)
    assert not (tmp_path / "variants.json").exists(), "it went on to its end"


def test_it_ends_with_what_it_is_for(tmp_path: Path) -> None:
    with background(tmp_path, "compile_variants.py") as program:
        group = os.getpgid(program.process.pid)
        assert program.process.pid in running(group)
    assert not running(group)
    assert program.process.returncode == -signal.SIGKILL

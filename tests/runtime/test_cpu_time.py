"""Where the CPU time goes, as ``--debug`` prints it: each second once, also those of others."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from focus.config.command_line import run
from focus.config.train import TrainConfig
from focus.runtime.cpu_time import STARTING, clocked, phase
from focus.training.run import train

from ..launching import write_faces

BURN = "import time\nwhile time.process_time() < {}: pass"
"""A program that takes so many seconds of CPU time."""


def burn(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_each_phase_has_its_own_seconds_and_those_of_processes_that_it_started() -> None:
    tick = 0.06  # the system counts in hundredths of a second, several of them are added
    with clocked() as clock:
        with phase("outer"):
            burn(0.1)
            with phase("inner"):
                subprocess.run([sys.executable, "-c", BURN.format(0.3)], check=True)
            burn(0.1)
        with phase("running"):  # counted while it runs, and not again when it has ended
            program = BURN.format(0.3) + "\nprint(flush=True); input()"
            child = subprocess.Popen(
                [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert child.stdout is not None
            child.stdout.readline()
        with phase("ended"):
            child.communicate(b"\n")
        clock.table()
    assert clock.seconds["outer"] == pytest.approx(0.2, abs=tick)
    assert clock.seconds["inner"] == pytest.approx(0.3, abs=tick)
    assert clock.seconds["running"] == pytest.approx(0.3, abs=tick)
    assert clock.seconds["ended"] == pytest.approx(0.0, abs=tick)
    assert clock.seconds[STARTING] > 0.2  # this process's own, before the clock was there


@pytest.mark.slow
def test_debug_prints_the_phases_of_a_run_last_and_others_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    words = ["--data", write_faces(tmp_path / "faces", 15), "--output", tmp_path / "runs"]
    words += ["--recipe", "demo", "--epochs", "1", "--threads", "1", "--workers", "1"]

    for name, debug in (("quiet", []), ("debug", ["--debug"])):
        argv = [*map(str, words), "--name", name, *debug]
        run(train, TrainConfig, argv=argv, prog="train.py")
        printed = capsys.readouterr().err
        assert ("CPU time: " in printed) == bool(debug)

    lines = printed.partition("CPU time: ")[2].splitlines()
    total = float(lines[0].split()[0])
    seconds = {}
    for line in lines[1:]:
        row = re.fullmatch(r"  (\S.*?) +([\d.]+) s +\d+ %", line)
        assert row is not None, line
        seconds[row[1]] = float(row[2])
    assert {"starting", "checking images", "training", "validation", "test", "report"} <= {*seconds}
    assert sum(seconds.values()) == pytest.approx(total, abs=0.05 * (len(seconds) + 1))

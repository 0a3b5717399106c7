"""Signals: noted between steps, the second one at once, the launcher's end taken for one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from focus.runtime.signals import SIGNALS, StopSignals

from ..launching import Begin

# Says that it is ready, counts what it could not be stopped from, and ends with the signal's code.
# Told to, it ends its one step when it is given a line.
PROGRAM = """
import select, sys, time
from focus.runtime.signals import StopSignals
with StopSignals() as signals:
    print("ready", flush=True)
    for step in range(1 if "waits" in sys.argv else 400):
        if "waits" in sys.argv:
            select.select([sys.stdin], [], [], 20)
        else:
            time.sleep(0.05)
        if signals.pending() and "deaf" not in sys.argv:
            print("saved", flush=True)
            sys.exit(128 + signals.pending())
print("unstopped", flush=True)
"""


def start(
    *words: str, elastic: bool = False, hangup: signal.Handlers = signal.SIG_DFL
) -> "subprocess.Popen[str]":
    """hangup: what nohup, if any, has said of it, instead of who runs the tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE", "TORCHELASTIC"))}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=kept | ({"TORCHELASTIC_RUN_ID": "none"} if elastic else {}),
        preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def until_noted(program: "subprocess.Popen[str]") -> None:
    """Of two equal signals that wait, a system may deliver one."""
    assert program.stderr is not None
    assert any("finishing the step" in line for line in program.stderr)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_lets_the_step_end(number: signal.Signals) -> None:
    program = start()
    program.send_signal(number)
    out, errors = program.communicate(timeout=20)
    assert (program.returncode, out) == (128 + number, "saved\n")
    assert f"{number.name}: finishing the step" in errors


def test_the_second_stops_at_once() -> None:
    program = start("deaf")
    program.send_signal(signal.SIGINT)
    until_noted(program)
    program.send_signal(signal.SIGINT)
    out, _ = program.communicate(timeout=20)
    assert (program.returncode, out) == (-signal.SIGINT, "")


def test_a_closed_terminal_and_torchrun_may_say_it_twice() -> None:
    """The system and the shell send a SIGHUP; torchrun passes on a SIGTERM that all received."""
    for number, elastic in ((signal.SIGHUP, False), (signal.SIGTERM, True)):
        program = start("waits", elastic=elastic)
        program.send_signal(number)
        until_noted(program)
        program.send_signal(number)
        out, _ = program.communicate("\n", timeout=20)
        assert (program.returncode, out) == (128 + number, "saved\n")


def test_a_terminal_that_is_gone_takes_no_line(begin: Begin) -> None:
    reader, written = os.openpty()
    loud = PROGRAM.replace("time.sleep(0.05)", "time.sleep(0.05); print(step, file=sys.stderr)")
    program = begin(
        [sys.executable, "-c", loud.replace("step in", "step in [time.sleep(0.5)] and")],
        stdout=subprocess.PIPE,
        stderr=written,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert program.stdout.readline() == "ready\n"
    os.close(written)
    os.close(reader)
    program.send_signal(signal.SIGHUP)
    out, _ = program.communicate(timeout=20)
    assert (program.returncode, out) == (128 + signal.SIGHUP, "saved\n")


def test_nohup_has_hangups_ignored() -> None:
    program = start("waits", hangup=signal.SIG_IGN)
    program.send_signal(signal.SIGHUP)
    out, errors = program.communicate("\n", timeout=20)
    assert (program.returncode, out, errors) == (0, "unstopped\n", "")


def test_a_process_without_its_launcher_stops(tmp_path: Path) -> None:
    """What `accelerate launch` starts, when a signal has ended accelerate alone."""
    launcher = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {PROGRAM!r}], stdout=open('out', 'w'))\n"
        "time.sleep(60)\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", launcher],
        cwd=tmp_path,
        env=os.environ | {"ACCELERATE_MIXED_PRECISION": "no"},
        stderr=subprocess.DEVNULL,
    )
    out = tmp_path / "out"
    deadline = time.monotonic() + 20
    while not (out.exists() and out.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    program.terminate()
    program.communicate(timeout=10)
    while out.read_text() == "ready\n" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert out.read_text() == "ready\nsaved\n"


def test_the_handlers_are_those_of_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in SIGNALS] == before

"""Signals: noted between steps, the second one at once, the launcher's end taken for one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from focus.runtime.signals import StopSignals, _launched_by, launched

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


# Those of a terminal that is closed, and of clusters that warn, beside SIGTERM and Ctrl-C.
ALL = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2]


def start(
    *words: str,
    launched: bool = False,
    elastic: bool = False,
    program: str = PROGRAM,
    hangup: signal.Handlers = signal.SIG_DFL,
) -> "subprocess.Popen[str]":
    """hangup: what nohup, if any, has said of it, instead of who runs the tests."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE", "TORCHELASTIC"))}
    extra = {"ACCELERATE_MIXED_PRECISION": "no"} if launched else {}
    extra |= {"TORCHELASTIC_RUN_ID": "none"} if elastic else {}
    process = subprocess.Popen(
        [sys.executable, "-c", program, *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=kept | extra,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, hangup),
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def until_noted(program: "subprocess.Popen[str]") -> None:
    """Of two equal signals that wait, a system may deliver one."""
    assert program.stderr is not None
    assert any("finishing the step" in line for line in program.stderr)


@pytest.mark.parametrize("number", ALL)
def test_the_first_signal_lets_the_step_end(number: signal.Signals) -> None:
    program = start()
    program.send_signal(number)
    out, errors = program.communicate(timeout=20)
    assert (program.returncode, out) == (128 + number, "saved\n")
    assert f"{number.name}: finishing the step" in errors


def test_torchrun_may_hand_on_what_came_to_all() -> None:
    program = start("waits", elastic=True)
    program.send_signal(signal.SIGTERM)
    until_noted(program)
    program.send_signal(signal.SIGTERM)
    out, _ = program.communicate("\n", timeout=20)
    assert (program.returncode, out) == (128 + signal.SIGTERM, "saved\n")


@pytest.mark.parametrize("number", [n for n in ALL if n != signal.SIGHUP])
def test_the_second_stops_at_once(number: signal.Signals) -> None:
    program = start("deaf")
    program.send_signal(number)
    until_noted(program)
    program.send_signal(number)
    out, _ = program.communicate(timeout=20)
    assert (program.returncode, out) == (-number, "")


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize("first", [signal.SIGHUP, signal.SIGTERM])
def test_a_closed_terminal_may_say_so_twice(first: signal.Signals, elastic: bool) -> None:
    """The system and the shell do; torchrun hands on what came to all."""
    program = start("waits", elastic=elastic)
    program.send_signal(first)
    until_noted(program)
    program.send_signal(signal.SIGHUP)
    out, _ = program.communicate("\n", timeout=20)
    assert (program.returncode, out) == (128 + first, "saved\n")


def test_a_closed_terminal_takes_no_line(begin: Begin) -> None:
    """Nor does that end the run, also where nobody has made its streams last."""
    reader, written = os.openpty()
    program = begin(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=written,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    assert program.stdout.readline() == "ready\n"
    os.close(written)
    os.close(reader)
    program.send_signal(signal.SIGHUP)
    out, _ = program.communicate(timeout=20)
    # Python says at its end, by 120, that a stream of its own could not be emptied.
    assert out == "saved\n"
    assert program.returncode in (128 + signal.SIGHUP, 120)


def test_nohup_has_hangups_ignored() -> None:
    program = start("waits", hangup=signal.SIG_IGN)
    program.send_signal(signal.SIGHUP)
    out, errors = program.communicate("\n", timeout=20)
    assert (program.returncode, out, errors) == (0, "unstopped\n", "")


def test_a_handler_of_somebody_else_stays() -> None:
    """Also in C, of which Python does not know."""
    handled = (
        "import faulthandler, signal\n"
        "faulthandler.register(signal.SIGUSR1)\n"
        "signal.signal(signal.SIGUSR2, lambda *_: print('own', flush=True))\n"
    )
    program = start("waits", program=handled + PROGRAM)
    assert program.stdout is not None
    assert program.stderr is not None
    program.send_signal(signal.SIGUSR1)
    assert "most recent call first" in program.stderr.readline()
    program.send_signal(signal.SIGUSR2)
    assert program.stdout.readline() == "own\n"
    out, errors = program.communicate("\n", timeout=20)
    assert (program.returncode, out) == (0, "unstopped\n")
    assert "finishing" not in errors


@pytest.mark.parametrize(
    ("parent", "then"),
    [
        ("bin/accelerate", "saved\n"),
        ("caf\udce9/accelerate", "saved\n"),  # whose folder's name is not UTF-8
        ("accelerate/go", ""),
    ],
)
def test_a_process_without_its_launcher_stops(parent: str, then: str, tmp_path: Path) -> None:
    """What `accelerate launch` starts, when a signal has ended accelerate alone.

    A shell may set the same variable, and is closed by who has given its program to nohup.
    """
    launcher = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {PROGRAM!r}], stdout=open("out", "w"))
print(child.pid, flush=True)
time.sleep(60)
"""
    program = subprocess.Popen(
        [sys.executable, "-c", launcher, parent],
        cwd=tmp_path,
        env=os.environ | {"ACCELERATE_MIXED_PRECISION": "no"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert program.stdout is not None
    child = int(program.stdout.readline())
    out = tmp_path / "out"
    deadline = time.monotonic() + 20
    while not (out.exists() and out.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    program.terminate()
    program.communicate(timeout=10)
    deadline = min(deadline, time.monotonic() + (20 if then else 1))
    while out.read_text() == "ready\n" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert out.read_text() == "ready\n" + then
    if not then:
        os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["bin/python", "/bin/accelerate-launch"], True),
        (["python", "-m", "accelerate.commands.launch"], True),
        (["bash", "run.sh", "a", "b", "c", "accelerate"], False),  # no script of Python's
    ],
    ids=str,
)
def test_which_parent_is_a_launcher(
    words: list[str], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "\0".join([*words, ""]))
    found = _launched_by(1)
    monkeypatch.undo()
    assert found == expected


def in_a_fork(work: Callable[[], int]) -> int:
    """What it gives in a child of this process, where the environment is looked at again."""
    child = os.fork()
    if child == 0:
        os._exit(work())
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def pending_without_its_parent() -> int:
    os.getppid = lambda: 1
    return StopSignals().pending()


def test_a_shell_that_is_closed_is_no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert in_a_fork(pending_without_its_parent) == 0


def test_a_launcher_that_ends_before_the_first_step_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the program's start and its first step the images are read, for minutes maybe."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert in_a_fork(pending_without_its_parent) == signal.SIGTERM


def test_the_parent_of_a_fork_is_the_process_that_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert in_a_fork(lambda: StopSignals().pending()) == 0


def test_a_fork_may_say_that_its_parent_is_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a run of an experiment does, whatever variables there are."""
    for name in ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)

    def told() -> int:
        launched()
        return pending_without_its_parent()

    assert in_a_fork(told) == signal.SIGTERM


def test_a_worker_that_loads_images_leaves_signals_to_its_parent() -> None:
    with StopSignals() as signals:

        def told() -> int:
            os.kill(os.getpid(), signal.SIGTERM)
            return signals.pending()

        assert in_a_fork(told) == 0


def test_the_handlers_are_those_of_before_afterwards() -> None:
    before = [signal.getsignal(number) for number in ALL]
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert [signal.getsignal(number) for number in ALL] == before


def test_a_thread_that_trains_takes_no_signals() -> None:
    """Python allows that to the main one alone."""

    def seen() -> tuple[object, int]:
        with StopSignals() as signals:
            return signal.getsignal(signal.SIGTERM), signals.pending()

    with ThreadPoolExecutor() as pool:
        assert pool.submit(seen).result() == (signal.getsignal(signal.SIGTERM), 0)

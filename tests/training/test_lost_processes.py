"""Runs of real processes of which one is lost: one sentence, which is true and can be followed.

torchrun starts them, ends the others as soon as it has lost one, and prints a report of its own.
"""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from ..launching import CHECKOUT, Begin, write_faces
from .test_resume import SMALL, assert_same_run, checkpoints, until_saved

pytestmark = pytest.mark.slow

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# As train.py, but in process 1 a layer asks for memory that is not there, in the second epoch.
SHORT_OF_MEMORY = """
import os, sys, torch
from torch.nn.modules.module import register_module_forward_pre_hook
from focus.config.command_line import run
from focus.config.train import TrainConfig
from focus.training.run import train

def ask(module, _, called=[]):
    called.append(module)
    if len(called) == 3000:
        torch.empty(1 << 50)

if os.environ["RANK"] == "1" and "--resume" not in sys.argv:
    register_module_forward_pre_hook(ask)
run(train, TrainConfig)
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 60)


def settings(faces: Path, output: Path) -> list[object]:
    words = [*SMALL, "--data", faces, "--epochs", "7", "--batch-size", "4", "--output", output]
    return [*words, "--report-to", "none", "--model-ema-decay", "0.9"]


@pytest.fixture(scope="module")
def undisturbed(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole")
    command = [*TORCHRUN, CHECKOUT / "train.py", *settings(faces, output)]
    subprocess.run([*map(str, command)], check=True, capture_output=True)
    return output


def ranks(launcher: "subprocess.Popen[str]") -> list[psutil.Process]:
    """The processes of the launch, by their numbers."""
    started = psutil.Process(launcher.pid).children()
    return sorted(started, key=lambda process: int(process.environ()["RANK"]))


def in_an_epoch(output: Path) -> None:
    """Wait for a moment between two checkpoints, of a network of which epochs take a second."""
    before = checkpoints(output)[-1]
    deadline = time.monotonic() + 60
    while checkpoints(output)[-1] == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.4)


def sentence_of(errors: str) -> str:
    """The one line that the program says at its end."""
    assert "[rank" not in errors, errors  # as torch begins each line of a process's traceback
    said: list[str] = re.findall(r"^train.py: (.*)$", errors, re.MULTILINE)
    assert len(said) == 1, errors
    return said[0]


def go_on_as_printed(said: str, *more: str, cwd: Path) -> None:
    command = [*shlex.split(said.rpartition("; to go on: ")[2]), *more]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stdout


def kill_first(launcher: "subprocess.Popen[str]") -> str:
    process = ranks(launcher)[0]
    process.kill()
    return rf"error: Of 2 processes, process 0 \(pid {process.pid}\) was lost: killed, or .*"


def kill_second(launcher: "subprocess.Popen[str]") -> str:
    process = ranks(launcher)[1]
    process.kill()
    return rf"error: Of 2 processes, process 1 \(pid {process.pid}\) was lost: killed, or .*"


def kill_worker(launcher: "subprocess.Popen[str]") -> str:
    worker = ranks(launcher)[1].children()[0]
    worker.kill()
    # By a signal, or because nothing came from it: whichever torch notices first.
    pid = worker.pid
    loss = rf"\(pid {pid}\) is killed by signal: Killed\.|\(pid\(s\) {pid}\) exited .*"
    return (
        "error: Process 1: The processes that load images have failed "
        rf"\(DataLoader worker ({loss})\): give --workers 0, or .*"
    )


def stop_launcher(launcher: "subprocess.Popen[str]") -> str:
    launcher.terminate()
    return "stopped after step .*"


@pytest.mark.parametrize(
    ("lose", "more"),
    [
        (kill_first, []),
        (kill_second, []),
        (kill_worker, ["--workers", "1"]),
        (stop_launcher, []),
    ],
)
def test_one_sentence_says_what_was_lost_and_what_goes_on(
    lose: Callable[["subprocess.Popen[str]"], str],
    more: list[str],
    faces: Path,
    undisturbed: Path,
    tmp_path: Path,
    begin: Begin,
) -> None:
    """And followed as it is printed, it ends with the bits of a run that lost nothing."""
    launcher = begin(
        [*TORCHRUN, CHECKOUT / "train.py", *settings(faces, tmp_path), *more],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    until_saved(tmp_path, launcher)
    in_an_epoch(tmp_path)
    cause = lose(launcher)
    _, errors = launcher.communicate(timeout=60)
    said = sentence_of(errors)
    assert re.fullmatch(cause + "; to go on: .*", said), said
    named = re.findall(r"(?:saved in|checkpoint is) (\S*/step-\d{8})", said)
    assert named, said
    assert Path(named[0]) in checkpoints(tmp_path)
    if lose is kill_second:  # the first has saved the step before, within the epoch
        assert int(named[0][-8:]) % 11, said
    assert ("saving after this step" in errors) == (lose is stop_launcher)
    go_on_as_printed(said, *more, cwd=tmp_path)
    assert_same_run(undisturbed, tmp_path)


def test_memory_that_is_full_in_one_process(
    faces: Path, undisturbed: Path, tmp_path: Path, begin: Begin
) -> None:
    (tmp_path / "train.py").write_text(SHORT_OF_MEMORY)
    launcher = begin(
        [*TORCHRUN, tmp_path / "train.py", *settings(faces, tmp_path)],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _, errors = launcher.communicate(timeout=100)
    said = sentence_of(errors)
    assert said.startswith("error: Process 1: The memory is full: end other programs, or begin")
    go_on_as_printed(said, cwd=tmp_path)
    assert_same_run(undisturbed, tmp_path)

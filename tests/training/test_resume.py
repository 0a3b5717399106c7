"""Runs that are killed, stopped, starved of disk, or shared by two processes: real ones, slow."""

import csv
import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from focus.evaluation.scores import Scores
from focus.model.detector import Detector

from ..launching import (
    CHECKOUT,
    Begin,
    disk_without_locks,
    free_port,
    python,
    run,
    told,
    write_faces,
)
from .trainers import launch, trained

pytestmark = pytest.mark.slow

SMALL = ["--recipe", "demo", "--model", "test_resnet", "--image-size", "64", "--threads", "1"]
SMALL += ["--workers", "0", "--lr", "1e-3", "--sheet-epochs", "0", "--name", "run"]
SMALL += ["--report", "false"]
INTERVAL = 5  # steps between checkpoints
EPOCHS = 12


# As train.py, but the system sends it Ctrl-C's signal when the training is done.
INTERRUPTED = """
import os, signal, sys
from focus.config.command_line import run
from focus.config.train import TrainConfig
from focus.training import run as training

def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)

if "--resume" not in sys.argv:
    training.evaluate_best = interrupt
run(training.train, TrainConfig, prog="train.py")
"""


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 60)


@pytest.fixture(autouse=True)
def none_outlives_its_test() -> Iterator[None]:
    """What was launched and still runs, since a test has failed."""
    yield
    for process in multiprocessing.active_children():
        process.kill()
        process.join()


def checkpoints(output: Path) -> list[Path]:
    return sorted((output / "run" / "checkpoints").glob("step-*"))


def until_saved(output: Path, process: "subprocess.Popen[Any]") -> None:
    """Wait for the first checkpoint of a program that runs."""
    deadline = time.monotonic() + 100
    while not checkpoints(output):
        assert process.poll() is None, "the program ended too early"
        assert time.monotonic() < deadline, "nothing is saved"
        time.sleep(0.02)


def being_written(output: Path) -> list[Path]:
    return list((output / "run" / "checkpoints").glob(".step-*.writing"))


def said_in(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def until(happened: Callable[[], object], process: BaseProcess, seconds: float = 60) -> None:
    """Wait until ``happened()``; a process that ends before is an error."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.is_alive(), "the run ended too early"
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.001)


def assert_same_run(one: Path, other: Path) -> None:
    """The same bits in all that a run leaves, but for the times in the log and the command."""
    names = ["summary.csv", "scores.csv", "model/model.safetensors"]
    last = checkpoints(one)[-1].name
    names += [f"checkpoints/{last}/{part}.safetensors" for part in ("model", "optimizer", "ema")]
    for name in names:
        assert (one / "run" / name).read_bytes() == (other / "run" / name).read_bytes(), name
    results = [json.loads((run / "run" / "results.json").read_text()) for run in (one, other)]
    for result in results:
        del result["provenance"]["command"]
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("model", "moments"),
    [
        ("test_resnet", ["early", "early", "writing", "random", "writing"]),
        ("mobilenetv3_small_100", ["writing", "writing"]),  # whose 24 MB a thread writes
    ],
)
def test_kill_9_loses_at_most_one_interval(
    model: str, moments: list[str], faces: Path, tmp_path: Path
) -> None:
    """Before the first checkpoint, within the writing of one, and at random."""
    words: list[object] = [*SMALL, "--data", faces, "--model", model, "--pretrained", "false"]
    words += ["--epochs", EPOCHS, "--batch-size", "8", "--model-ema-decay", "0.9"]
    words += ["--checkpoint-steps", INTERVAL, "--augment", "shift,flip", "--report-to", "none"]
    whole = launch([*words, "--output", tmp_path / "whole"], tmp_path / "whole.log")
    draw = random.Random(0)
    killed = tmp_path / "killed"
    for number, moment in enumerate(moments):
        log = tmp_path / f"{number}.log"
        before = checkpoints(killed)
        process = launch([*words, "--output", killed, *(["--resume"] if number else [])], log)
        if moment == "early":
            started = (
                (lambda log=log: "starting from scratch" in said_in(log))
                if number
                else (lambda: (killed / "run" / "manifest.csv").exists())
            )
            until(started, process)
        else:
            until(lambda before=before: checkpoints(killed)[-1:] != before[-1:], process)
        if moment == "writing":
            until(lambda: being_written(killed), process)
        elif moment == "random":
            time.sleep(draw.random() * 0.6)
        process.kill()
        process.join(30)
        assert process.exitcode == -signal.SIGKILL
        said = log.read_text()
        if moment == "early":
            assert not checkpoints(killed)
            assert ("no checkpoint in" in said) == (number > 0)
        elif before:
            # It went on from the newest there was, and checkpoints are INTERVAL steps apart.
            ((epoch, steps),) = re.findall(
                r"resuming .* after epoch (\d+)(?: and (\d+) of \d+ steps)?", said
            )
            assert int(epoch) * 11 + int(steps or 0) == int(before[-1].name.removeprefix("step-"))
        # Two are kept; killed before it has removed the oldest, the run leaves that one as well.
        assert len({int(p.name[5:]) for p in checkpoints(killed)}) <= 3
    last = launch([*words, "--output", killed, "--resume"], tmp_path / "last.log")
    for process in (whole, last):
        process.join(200)
        assert process.exitcode == 0, (tmp_path / "last.log").read_text()
    assert len(checkpoints(killed)) == 2
    assert len(list(csv.DictReader((killed / "run" / "summary.csv").open()))) == EPOCHS
    assert_same_run(tmp_path / "whole", killed)


def test_a_signal_to_all_processes_leaves_the_workers_to_their_work(
    faces: Path, tmp_path: Path, begin: Begin
) -> None:
    """As of a terminal, of torchrun, and of a cluster: the workers get it too."""
    words = [*SMALL, "--data", faces, "--epochs", "300", "--output", tmp_path, "--workers", "1"]
    process = begin(
        [sys.executable, CHECKOUT / "train.py", *words],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until_saved(tmp_path, process)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, errors
    step = int(checkpoints(tmp_path)[-1].name.removeprefix("step-"))
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"train.py: stopped after step {step}, saved in ")
    assert "Traceback" not in errors


def logged(folder: Path) -> dict[int, dict[str, float]]:
    """The figures of each step, as TensorBoard has them."""
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    figures: dict[int, dict[str, float]] = {}
    for name in events.Tags()["scalars"]:
        for event in events.Scalars(name):
            figures.setdefault(event.step, {})[name] = event.value
    return figures


def run_on_all(processes: int, *words: object, cwd: Path) -> str:
    """Run so many processes of one run, as torchrun does, but forked; return what they say.

    They have to succeed.
    """
    port = free_port()
    started = []
    for rank in range(processes):
        log = cwd / f"process{rank}.log"
        log.unlink(missing_ok=True)
        environment = told(rank, processes, port, local=processes)
        started.append(launch(words, log, cwd=cwd, **environment))
    for process in started:
        process.join(300)
    said = "".join((cwd / f"process{rank}.log").read_text() for rank in range(processes))
    assert [process.exitcode for process in started] == [0] * processes, said
    return said


def test_without_locks_a_second_run_is_refused_and_a_killed_one_goes_on(
    begin: Begin, faces: Path, tmp_path: Path
) -> None:
    """Two that wrote to one folder of checkpoints would give a model that is neither's."""
    words = ["-m", "focus", "train", *SMALL, "--data", faces, "--epochs", "6", "--batch-size", "8"]
    words += ["--checkpoint-steps", INTERVAL, "--report-to", "none", "--model-ema-decay", "0.9"]
    words += ["--output"]
    environment = disk_without_locks(tmp_path / "site")
    python(*words, tmp_path / "whole", **environment)

    killed, marker = tmp_path / "killed", tmp_path / "killed" / "run" / ".writing"
    resume = (*words, killed, "--resume")
    for number in range(2):
        command = [sys.executable, *(resume if number else (*words, killed))]
        before = checkpoints(killed)
        program = begin(command, env=os.environ | environment, stdout=subprocess.DEVNULL)
        while checkpoints(killed)[-1:] == before[-1:]:
            assert program.poll() is None, "the run ended too early"
            time.sleep(0.01)
        if number == 0:
            program.send_signal(signal.SIGSTOP)  # else it may end before the second has started
            second = run(*resume, **environment)
            assert second.returncode == 2
            assert f"The disk of {marker.parent} has no locks" in second.stderr
            assert f"process {program.pid} on " in second.stderr
        program.kill()
        program.wait()
        assert marker.exists()

    # Of another machine nobody can see whether it has ended: the way out is the one that is told.
    marker.write_text("1\nanother-machine\n")
    said = run(*resume, **environment).stderr.strip()
    assert "process 1 on another-machine writes there" in said
    Path(said.removesuffix(".").rpartition(" remove ")[2]).unlink()
    python(*resume, **environment)
    assert not marker.exists()
    assert_same_run(tmp_path / "whole", killed)


@pytest.mark.parametrize(("model", "tune"), [("test_convnext", "full"), ("test_vit", "lora")])
def test_two_processes_train_as_one(model: str, tune: str, faces: Path, tmp_path: Path) -> None:
    """10 steps, the last of each epoch short and uneven, without statistics of the batch."""
    weights = tmp_path / "weights.safetensors"
    save_file(Detector(model).state_dict(), weights)
    words: list[object] = [*SMALL, "--initial-checkpoint", weights, "--model", model]
    words += ["--tune", tune, "--data", faces, "--epochs", "2", "--cached-features", "no"]
    words += ["--opt", "sgd", "--lr", "0.05", "--log-steps", "1", "--augment", "shift,flip"]
    words += ["--class-weight", "balanced", "--patience", "9", "--clip-grad", "1"]
    alone = run_on_all(1, *words, "--batch-size", "18", "--output", tmp_path / "1", cwd=tmp_path)
    shared = run_on_all(2, *words, "--batch-size", "9", "--output", tmp_path / "2", cwd=tmp_path)
    assert "1 process with" in alone
    assert "2 processes with" in shared
    one, two = (logged(tmp_path / n / "run") for n in "12")
    assert sorted(one) == sorted(two) == list(range(1, 11))
    for step, figures in one.items():
        for name, value in figures.items():
            if name.startswith("step/") and not name.endswith("per_second"):
                assert two[step][name] == pytest.approx(value, rel=1e-5, abs=1e-5), (step, name)
    rows = [list(csv.DictReader((tmp_path / n / "run" / "summary.csv").open())) for n in "12"]
    for row, other in zip(*rows, strict=True):
        assert {k: float(v) for k, v in other.items()} == pytest.approx(
            {k: float(v) for k, v in row.items()}, rel=1e-3, abs=1e-4
        )
    scores = [Scores.from_csv(tmp_path / n / "run" / "scores.csv") for n in "12"]
    assert len(set(scores[1].path)) == len(scores[1]) == len(scores[0]) > 0
    np.testing.assert_allclose(scores[1].score, scores[0].score, atol=1e-4)

    # And on: two processes are not silently replaced by one.
    more = ("--batch-size", "9", "--output", tmp_path / "2", "--resume")
    refused = trained(*words, *more, cwd=tmp_path)
    assert refused.returncode == 2
    assert "trained by 2 processes, not 1" in refused.stderr


def test_two_machines_without_a_shared_folder_are_refused_at_once(
    faces: Path, tmp_path: Path, begin: Begin
) -> None:
    """As two machines: each process has its own, and a folder of its own by the same name.

    Not forked: what is left of the group must not abort the interpreter at its end.
    """
    words = [*SMALL, "--data", faces, "--epochs", "1", "--output", "runs", "--report-to", "none"]
    port, started = free_port(), []
    for rank in range(2):
        (folder := tmp_path / str(rank)).mkdir()
        with (tmp_path / f"{rank}.log").open("w") as log:
            started.append(
                begin(
                    [sys.executable, CHECKOUT / "train.py", *words],
                    cwd=folder,
                    env=os.environ | told(rank, 2, port, local=1),
                    stdout=subprocess.DEVNULL,
                    stderr=log,
                )
            )
    codes = [process.wait(200) for process in started]
    errors = [(tmp_path / f"{rank}.log").read_text() for rank in range(2)]
    assert codes == [2, 2], errors
    assert "Process 1 does not see the run folder runs/run" in errors[0]
    assert "give an --output that all machines share." in errors[0]
    assert not checkpoints(tmp_path / "0" / "runs")


def test_ctrl_c_after_the_last_epoch_says_how_to_go_on(faces: Path, tmp_path: Path) -> None:
    """The test is not made yet; as printed, the command makes it, of the same model."""
    words = [*SMALL, "--data", faces, "--epochs", "2", "--report-to", "none"]
    words += ["--model-ema-decay", "0.9", "--output"]
    python(CHECKOUT / "train.py", *words, tmp_path / "whole")
    (tmp_path / "train.py").write_text(INTERRUPTED)
    interrupted = run("train.py", *words, "stopped", cwd=tmp_path)
    assert interrupted.returncode == 128 + signal.SIGINT
    (said,) = re.findall(r"^train.py: (.*)$", interrupted.stderr, re.MULTILINE)
    last = checkpoints(tmp_path / "stopped")[-1].relative_to(tmp_path)
    step = int(last.name.removeprefix("step-"))
    cause, _, command = said.partition("; to go on: ")
    assert cause == f"interrupted; step {step} is saved in {last}"
    assert not (tmp_path / "stopped/run/results.json").exists()
    subprocess.run(["bash", "-c", command], cwd=tmp_path, check=True, capture_output=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_a_folder_that_is_moved_away_is_named(faces: Path, tmp_path: Path) -> None:
    """And put back, it is gone on with."""
    words = [*SMALL, "--data", faces, "--output", tmp_path, "--log-steps", "1"]
    log = tmp_path / "log"
    process = launch([*words, "--epochs", "12"], log)
    until(lambda: checkpoints(tmp_path), process)
    (tmp_path / "run").rename(tmp_path / "away")
    process.join(60)
    # A thread of TensorBoard's may have the last word.
    assert "run is no longer there: put it back" in log.read_text()
    (tmp_path / "away").rename(tmp_path / "run")
    assert process.exitcode == 2
    assert trained(*words, "--epochs", "12", "--resume", cwd=tmp_path).returncode == 0

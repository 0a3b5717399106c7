"""What ends a validation, or a process that loads images, costs none of the steps before."""

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import active_children
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from focus.data.dataset import loaded, worker_options
from focus.data.manifest import Manifest
from focus.errors import NotFiniteError, WorkerError
from focus.evaluation.scores import Scores
from focus.training.trainer import Trainer

from ..launching import CHECKOUT, Begin, run, trained, write_faces
from ..trainers import few_faces, trainer

SMALL = [
    *("--recipe", "demo", "--model", "test_resnet", "--image-size", "128", "--threads", "1"),
    *("--batch-size", "2", "--lr", "1e-3", "--sheet-epochs", "0", "--name", "run"),
    *("--report", "false", "--report-to", "none"),
]
ADVICE = (
    r"give fewer --workers, 0 for none, or a container more shared memory \(docker run "
    r"--shm-size=8g\)"
)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return few_faces(tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("faces"), 60)


@pytest.fixture(scope="module")
def whole(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    words = [*SMALL, "--data", faces, "--epochs", 2, "--workers", 0, "--output", folder]
    done = trained(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def steps_saved(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


def assert_same_run(one: Path, other: Path) -> None:
    assert steps_saved(one) == steps_saved(other)
    for name in (
        *("summary.csv", "scores.csv", "model/model.safetensors", "results.json"),
        *(
            f"checkpoints/{steps_saved(one)[-1]}/{part}.safetensors"
            for part in ("model", "optimizer")
        ),
    ):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


class Lost(Dataset[int]):
    """Whose second item ends the process that loads it, once the first is taken."""

    def __init__(self, taken: Path) -> None:
        self.taken = taken

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> int:
        if index == 1:
            while not self.taken.exists():
                time.sleep(0.01)
            signal.raise_signal(signal.SIGKILL)
        return index


def started(dataset: Dataset[Any]) -> tuple[Iterator[Any], BaseProcess]:
    """Its items, and the worker that loads them."""
    before = set(active_children())
    batches = loaded(DataLoader(dataset, batch_size=None, num_workers=1, **worker_options(1)))
    (worker,) = set(active_children()) - before
    return batches, worker


@pytest.mark.slow
def test_a_lost_worker_is_said_where_a_batch_is_waited_for(tmp_path: Path) -> None:
    """And not by torch's handler of a signal, in whatever the program does meanwhile."""
    batches, worker = started(Lost(tmp_path / "taken"))
    assert next(batches) == 0
    (tmp_path / "taken").touch()
    # Its end is not asked for, which would leave nothing to say for the handler.
    assert wait([worker.sentinel], 60)
    time.sleep(0.5)
    with pytest.raises(WorkerError, match=rf"have failed \(DataLoader worker .*\): {ADVICE}\.$"):
        next(batches)


class Stopped(Dataset[Tensor]):
    """Whose second item stops the process that still keeps the memory of the first."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> Tensor:
        if index == 1:
            time.sleep(0.2)  # in which the first is handed over
            signal.raise_signal(signal.SIGSTOP)
        return torch.zeros(9)


def test_a_worker_that_is_killed_while_a_batch_is_fetched_from_it() -> None:
    """The connection breaks before the process has ended: torch then raises what the socket does.

    In five of six times, so that this is tried thrice.
    """
    for _ in range(3):
        batches, worker = started(Stopped())
        assert worker.pid is not None
        _, status = os.waitpid(worker.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        killer = threading.Timer(0.2, worker.kill)
        killer.start()
        with pytest.raises(WorkerError, match=rf"have failed \(.+\): {ADVICE}\.$"):
            next(batches)
        killer.join()


class Numbers(Dataset[int]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        return index


def test_workers_that_cannot_be_started() -> None:
    """Where the system gives no more files, as where a container allows no more processes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(1)
    os.close(free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 5, hard))
        batches = loaded(DataLoader(Numbers(), batch_size=None, num_workers=2, **worker_options(2)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with pytest.raises(WorkerError, match=rf"have failed \(.*open files.*\): {ADVICE}\.$"):
        next(batches)


late = {"seconds": 0.0}  # of what is forked
os.register_at_fork(after_in_child=lambda: time.sleep(late["seconds"]))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_a_worker_that_has_just_been_forked(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes before the worker can have said what it does with signals."""
    monkeypatch.setitem(late, "seconds", 1.0)
    batches, worker = started(Numbers())
    assert worker.pid is not None
    os.kill(worker.pid, number)
    assert list(batches) == [0, 1, 2]


class Wrong(Dataset[int]):
    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise self.error("of the program")


@pytest.mark.parametrize("error", [RuntimeError, OSError, ConnectionError, EOFError])
@pytest.mark.parametrize("workers", [0, 1])
def test_another_error_of_a_worker_is_what_it_is(workers: int, error: type[Exception]) -> None:
    loader = DataLoader(Wrong(error), num_workers=workers, **worker_options(workers))
    with pytest.raises(error, match="of the program"):
        list(loaded(loader))


# train.py, stopped as by SIGSTOP when it has written the checkpoint of step 10.
STOPPED = f"""
import os, runpy, signal, sys
import focus.training.trainer

def saved_and_stopped(folder, *rest, save=focus.training.trainer.save_checkpoint, **options):
    path = save(folder, *rest, **options)
    if path.name == "step-00000010":
        os.kill(os.getpid(), signal.SIGSTOP)
    return path

focus.training.trainer.save_checkpoint = saved_and_stopped
sys.argv[0] = {str(CHECKOUT / "train.py")!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_the_step_before(
    faces: Path, whole: Path, tmp_path: Path, begin: Begin
) -> None:
    words = [*SMALL, "--data", faces, "--epochs", 2, "--output", tmp_path]
    process = begin(
        [sys.executable, "-c", STOPPED, *words, "--workers", 2, "--checkpoint-steps", 5],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    # What it would end with is left to communicate.
    ended = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    assert ended is not None
    assert ended.si_status == signal.SIGSTOP
    assert steps_saved(tmp_path / "run")[-1] == "step-00000010"
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    child = int(children[0])
    # Killed in the moment in which a batch is fetched from it, it is not the worker that is named.
    named = rf".*{child}.*|\[Errno \d+\].*|a connection was closed"
    os.kill(child, signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    found = re.search(
        rf"train\.py: error: The processes that load images have failed \((?:{named})\): "
        rf"{ADVICE}, then go on with --resume after step (\d+), saved in (\S+)\.$",
        errors.strip(),
    )
    assert found, errors
    assert steps_saved(tmp_path / "run")[-1] == f"step-{int(found[1]):08d}"
    again = trained(*words, "--workers", 0, "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert_same_run(tmp_path / "run", whole)


def little_shared_memory(size: str) -> list[str]:
    """The words before those of a program that is to have so much, as in a container."""
    mount = f'mount -t tmpfs -o size={size} none /dev/shm && exec "$0" "$@"'
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", mount]


def can_unshare() -> bool:
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    words = [*little_shared_memory("1m"), "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not can_unshare(), reason="no /dev/shm of its own can be mounted here")
def test_a_validation_without_shared_memory_costs_no_step(
    faces: Path, whole: Path, tmp_path: Path, begin: Begin
) -> None:
    """Which the small batches of training have enough of."""
    words = [*SMALL, "--data", faces, "--epochs", 2, "--output", tmp_path]
    steps, one = int(steps_saved(whole)[0].removeprefix("step-")), ("--workers", 1)
    process = begin(
        [*little_shared_memory("2800k"), sys.executable, CHECKOUT / "train.py", *words, *one],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 2, errors
    assert "Traceback" not in errors
    assert re.search(
        r"train\.py: error: The processes that load images have failed \(unable to allocate shared "
        rf"memory.*\): {ADVICE}, then go on with --resume after step {steps}, saved in \S+\.$",
        errors.strip(),
    ), errors
    assert steps_saved(tmp_path / "run") == steps_saved(whole)[:1]
    again = trained(*words, "--workers", 0, "--resume", cwd=tmp_path)
    assert f"after epoch 0 and {steps} of {steps} steps" in again.stdout
    assert again.returncode == 0, again.stderr
    assert_same_run(tmp_path / "run", whole)


def failing(original: Callable[..., Scores], error: Exception, epoch: int, run: Trainer) -> Any:
    """What scores as ``original`` does, but for the validation of one epoch."""

    def score(*arguments: Any, **options: Any) -> Scores:
        if run.state.epoch == epoch - 1:
            raise error
        return original(*arguments, **options)

    return score


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [1, 2])
def test_what_fails_in_a_validation_costs_no_step(
    epoch: int, few: Manifest, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3, "epochs": 2}
    undisturbed = trainer(few, tmp_path / "whole", **given)
    undisturbed.fit()
    first = trainer(few, tmp_path / "failed", **given)
    first._score = failing(first._score, RuntimeError("of any kind"), epoch, first)
    with pytest.raises(RuntimeError, match="of any kind"):
        first.fit()
    again = trainer(few, tmp_path / "failed", resume=True, **given)
    steps = first.plan.steps
    assert (again.state.epoch, again.state.step) == (epoch - 1, epoch * steps)
    saved = [(again.folder / "checkpoints" / steps_saved(again.folder)[-1]).stat().st_ino]
    again._score = partial(_noting, again._score, saved, again)
    again.fit()
    assert saved[0] == saved[1]  # what is there is not written again before it is validated
    assert steps_saved(again.folder) == steps_saved(undisturbed.folder)
    for name in ("summary.csv", "model/model.safetensors"):
        assert (again.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes()


def _noting(
    original: Callable[..., Scores], saved: list[int], run: Trainer, *arguments: Any, **options: Any
) -> Scores:
    saved.append((run.folder / "checkpoints" / steps_saved(run.folder)[-1]).stat().st_ino)
    return original(*arguments, **options)


def test_a_validation_that_finds_a_divergence_leaves_the_checkpoints_before(
    few: Manifest, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3, "epochs": 2}
    run = trainer(few, tmp_path, checkpoints_kept=1, **given)
    run._score = failing(run._score, NotFiniteError("a.png", "lower it."), 2, run)
    with pytest.raises(NotFiniteError):
        run.fit()
    steps = run.plan.steps
    assert steps_saved(run.folder) == [f"step-{steps:08d}", f"step-{2 * steps:08d}"]
    again = trainer(few, tmp_path, checkpoints_kept=1, resume=True, **given)
    again.fit()
    assert steps_saved(run.folder) == [f"step-{2 * steps:08d}"]


def test_so_many_images_are_scored_at_a_time(few: Manifest, tmp_path: Path) -> None:
    """A run that has too little memory for them goes on with fewer."""
    given: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3, "epochs": 1}
    first = trainer(few, tmp_path, **given)
    first._score = failing(first._score, MemoryError(), 1, first)
    with pytest.raises(MemoryError):
        first.fit()
    run = trainer(few, tmp_path, resume=True, eval_batch_size=5, **given)
    sizes = []
    run.detector.backbone.register_forward_hook(lambda _, images, __: sizes.append(len(images[0])))
    run.fit()
    assert sizes == [5, 5, 2]


@pytest.mark.slow
def test_evaluate_has_the_same_bits_with_as_many_images_at_a_time(
    faces: Path, tmp_path: Path
) -> None:
    words = [*SMALL, "--data", faces, "--epochs", 1, "--workers", 0, "--output", tmp_path]
    done = trained(*words, "--eval-batch-size", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    flags = ["--run", tmp_path / "run", "--batch-size", 3, "--threads", 1, "--report", "false"]
    done = run(CHECKOUT / "evaluate.py", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    own, other = tmp_path / "run" / "scores.csv", tmp_path / "run" / "evaluation" / "scores.csv"
    assert own.read_bytes() == other.read_bytes()

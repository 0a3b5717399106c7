"""A run that is resumed has as many CPU threads as before: its sums are of as many parts."""

import hashlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from focus.config.train import TrainConfig
from focus.config.use import ExplainConfig
from focus.data.manifest import Manifest
from focus.errors import InputError
from focus.runtime.launch import same_threads, start
from focus.runtime.signals import Stopped
from focus.training.checkpoint import CHECKSUMS, STATE
from focus.training.run_folder import CHECKPOINTS
from focus.training.trainer import Trainer
from focus.use.explain import explain

from ..trainers import few_faces, trainer

pytestmark = pytest.mark.usefixtures("one_thread")

GIVEN: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3, "epochs": 1}
OTHER = (
    "warning: the run had 2 threads each process, not 1: on a CPU its results are no longer those "
    "of an undisturbed run to the last bit"
)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return few_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def whole(faces: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A run that was never stopped, with two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    run = trainer(faces, tmp_path_factory.mktemp("whole"), **GIVEN)
    run.fit()
    torch.set_num_threads(threads)
    return run


def stopped(faces: Manifest, folder: Path) -> Path:
    """That run, told to stop in its third step; its checkpoint.

    Then, as a program that starts again elsewhere, the process has one thread.
    """
    torch.set_num_threads(2)
    run = trainer(faces, folder, **GIVEN)

    def stop(*_: Any) -> None:
        if run.state.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    run.detector.register_forward_hook(stop)
    with pytest.raises(Stopped, match="after step 3, saved"):
        run.fit()
    torch.set_num_threads(1)
    return run.folder / CHECKPOINTS / "step-00000003"


def weights(run: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.detector.parameters()])


@pytest.mark.slow
def test_a_resumed_run_has_the_threads_and_the_bits_of_before(
    faces: Manifest, whole: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(faces, tmp_path)
    again = trainer(faces, tmp_path, resume=True, **GIVEN)
    assert torch.get_num_threads() == 2
    again.fit()
    assert weights(again).equal(weights(whole))
    assert "warning" not in capsys.readouterr().out


def test_other_threads_are_taken_and_said(
    faces: Manifest, whole: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped(faces, tmp_path)
    again = trainer(faces, tmp_path, resume=True, threads=1, **GIVEN)
    assert torch.get_num_threads() == 1
    again.fit()
    assert not weights(again).equal(weights(whole))
    assert [line for line in capsys.readouterr().out.splitlines() if "warn" in line] == [OTHER]
    # From then on those are its own.
    assert again.state.threads == 1


def test_a_checkpoint_of_before_they_were_kept(
    faces: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = stopped(faces, tmp_path)
    state, checksums = (json.loads((saved / name).read_text()) for name in (STATE, CHECKSUMS))
    assert state["train_state"].pop("threads") == 2
    (saved / STATE).write_text(json.dumps(state))
    checksums[STATE] = hashlib.sha256((saved / STATE).read_bytes()).hexdigest()
    (saved / CHECKSUMS).write_text(json.dumps(checksums))
    for given in ({}, {"threads": 1}):
        again = trainer(faces, tmp_path, resume=True, **GIVEN, **given)
        assert torch.get_num_threads() == again.state.threads == 1
    assert again.state.step == 3
    assert "warning" not in capsys.readouterr().out


@pytest.mark.usefixtures("plain_cpu")
@pytest.mark.parametrize(
    ("processes", "given", "expected"),
    [("1", None, 8), ("3", None, 2), ("9", None, 1), ("3", 5, 5)],
)
def test_each_process_takes_its_share_of_the_cores(
    processes: str, given: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("focus.runtime.launch.usable_cores", lambda: 8)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    start(TrainConfig(threads=given))
    assert torch.get_num_threads() == expected


@pytest.mark.usefixtures("plain_cpu")
@pytest.mark.parametrize(("given", "expected"), [(3, 3), (None, 5)])
def test_explain_takes_all_cores_or_what_is_given(
    given: int | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("focus.use.explain.usable_cores", lambda: 5)
    lost = str(tmp_path / "lost.png")
    with pytest.raises(InputError, match="There is no file or folder"):
        explain(ExplainConfig(paths=(lost,), model_dir=lost, threads=given))
    assert torch.get_num_threads() == expected


def test_on_a_gpu_the_threads_stay() -> None:
    threads = torch.get_num_threads()
    assert same_threads(torch.device("cuda"), threads + 1, None) == ""
    assert same_threads(torch.device("cuda"), threads + 1, threads) == ""
    assert torch.get_num_threads() == threads

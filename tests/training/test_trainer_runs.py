"""Whole runs of the trainer, in this process: what they keep, give up at, and go on from."""

import csv
import json
import os
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from focus.config.command_line import load_config
from focus.config.train import TrainConfig
from focus.data.manifest import Manifest
from focus.errors import InputError
from focus.model.detector import Detector
from focus.runtime.signals import Stopped
from focus.training import run as training
from focus.training.log import NONFINITE
from focus.training.monitoring import validation_figures
from focus.training.trainer import Trainer

from ..trainers import few_faces, trainer

# Sums in one order, and the tests' networks are small.
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return few_faces(tmp_path_factory.mktemp("faces"))


def test_a_run_gives_up_and_names_the_images(faces: Manifest, tmp_path: Path) -> None:
    """A learning rate that no network survives."""
    run = trainer(
        faces,
        tmp_path,
        model="test_resnet",
        lr=1e30,
        max_nonfinite=4,
        checkpoint_steps=1,
        batch_size=16,
    )
    with pytest.raises(InputError, match=r"not finite in 4 steps in a row.*nonfinite\.csv"):
        run.fit()
    rows = list(csv.DictReader((tmp_path / "run" / NONFINITE).open()))
    last = run.state.step
    assert {int(row["step"]) for row in rows} == set(range(last - 3, last + 1))
    known = {sample.path for sample in run.train}
    assert {row["path"] for row in rows} <= known
    assert len(rows) > 16
    assert run.state.in_a_row == list(range(last - 3, last + 1))
    # The last checkpoint has weights that are numbers.
    saved = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    assert all(v.isfinite().all() for v in load_file(saved / "model.safetensors").values())
    # None of the steps that were skipped has pushed out one that was taken.
    assert int(saved.name.removeprefix("step-")) < run.state.in_a_row[0]


def test_images_of_earlier_epochs_and_of_before_a_stop_are_named_too(
    faces: Manifest, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"batch_size": 35, "max_nonfinite": 5, "checkpoint_steps": 1}
    run = trainer(faces, tmp_path, **given)

    def spoil(parameter: Tensor) -> Tensor:
        return torch.full_like(parameter, torch.nan)

    for parameter in run.detector.parameters():
        parameter.register_hook(spoil)
    run.detector.register_forward_hook(
        lambda *_: os.kill(os.getpid(), signal.SIGTERM) if run.state.step == 2 else None
    )
    with pytest.raises(Stopped):
        run.fit()
    again = trainer(faces, tmp_path, resume=True, **given)
    for parameter in again.detector.parameters():
        parameter.register_hook(spoil)
    with pytest.raises(InputError, match="not finite in 5 steps in a row, up to step 5"):
        again.fit()
    found: dict[int, list[str]] = {}
    for row in csv.DictReader((tmp_path / "run" / NONFINITE).open()):
        found.setdefault(int(row["step"]), []).append(row["path"])
    assert sorted(found) == [1, 2, 3, 4, 5]
    for epoch in (0, 1):  # two steps of 35 images see all
        pair = found[2 * epoch + 1] + found[2 * epoch + 2]
        assert sorted(pair) == sorted(sample.path for sample in run.train)


def test_each_epoch_augments_anew(faces: Manifest, tmp_path: Path) -> None:
    run = trainer(faces, tmp_path, epochs=2, augment="shift,flip", lr=1e-6, batch_size=35)
    seen: list[Tensor] = []
    run.detector.register_forward_pre_hook(
        lambda detector, given: seen.append(given[0].clone()) if detector.training else None
    )
    run.fit()
    epochs = []
    for epoch in range(2):
        rows = [row for step in run.plan.epoch(epoch) for batch in step for row in batch.rows]
        images = torch.cat(seen[2 * epoch : 2 * epoch + 2])
        epochs.append(images[torch.tensor(rows).argsort()])
    # One in 50 is moved and flipped alike: 25 places, 2 sides.
    alike = sum(one.equal(other) for one, other in zip(*epochs, strict=True))
    assert alike < 10


def test_bad_steps_that_do_not_follow_each_other_end_no_run_and_are_said(
    faces: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """4 of 9 steps, of which 2 in a row would be too many."""
    run = trainer(faces, tmp_path, model="test_resnet", lr=1e-3, epochs=1, max_nonfinite=2)

    def spoil(detector: Detector, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not detector.training or run.state.step % 2 == 0:
            return None
        return torch.full_like(given[0], torch.nan), *given[1:]

    run.detector.register_forward_pre_hook(spoil)
    run.fit()
    assert (run.state.step, run.state.nonfinite, run.state.in_a_row) == (9, 4, [])
    assert "4 of 9 steps were skipped: their loss or gradient was not finite" in (
        capsys.readouterr().out
    )


def test_a_foreign_file_beside_the_model_stays_and_ends_no_run(
    faces: Manifest, tmp_path: Path
) -> None:
    run = trainer(faces, tmp_path, epochs=2)
    folder = tmp_path / "run" / "model"
    folder.mkdir(parents=True)
    (folder / ".DS_Store").write_text("of a file manager")
    run._save_best()
    (folder / "detector.onnx").write_text("exported")
    run._save_best()
    assert Detector.from_pretrained(folder).config == run.kept.config
    assert (folder / ".DS_Store").read_text() == "of a file manager"
    assert (folder / "detector.onnx").read_text() == "exported"


def contents(run: Trainer) -> dict[str, Any]:
    """All that a run ends with, to be compared bit by bit."""
    folder = run.folder
    model = load_file(folder / "model" / "model.safetensors")
    moments = run.optimizer.optimizer.state_dict()["state"]
    return {
        "weights": run.detector.state_dict(),
        "averaged": run.kept.state_dict(),
        "moments": {f"{i}.{name}": v for i, d in moments.items() for name, v in d.items()},
        "model": model,
        "rate": run.scheduler.state_dict(),
        "state": asdict(run.state),
        "summary": (folder / "summary.csv").read_bytes(),
    }


def assert_same(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict) and any(isinstance(v, Tensor) for v in value.values()):
            assert value.keys() == other[name].keys()
            for key, tensor in value.items():
                assert tensor.equal(other[name][key]), f"{name} {key}"
        else:
            assert value == other[name], name


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_stopped_at_any_step_goes_on_with_the_same_bits(
    faces: Manifest, tmp_path: Path, workers: int
) -> None:
    """Accumulation, augmentation, an average, a schedule, batch statistics, waiting for a better.

    The signal comes in the midst of a step, which is finished.
    """
    given: dict[str, Any] = {
        "model": "test_resnet",
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup": 0.2,
        "lr": 1e-3,
        "batch_size": 13,
        "gradient_accumulation_steps": 2,
        "augment": "crop,shift,flip,blur,jpeg",
        "sampling": "balanced",
        "ema_decay": 0.9,
        "focus_schedule": "0:0,2:1",
        "patience": 2,
        "workers": workers,
    }
    whole = trainer(faces, tmp_path / "whole", **given)
    whole.fit()
    steps = whole.plan.steps
    assert steps == 3
    assert whole.state.step == 3 * whole.state.epoch
    expected = contents(whole)
    for at in range(1, whole.state.step + 1) if workers == 0 else (2, 4):
        folder = tmp_path / f"stopped-{at}"
        first = trainer(faces, folder, **given)

        told: list[int] = []

        def stop(*_: Any, first: Trainer = first, at: int = at, told: list[int] = told) -> None:
            if first.state.step == at - 1 and first.detector.training and not told:
                told.append(at)  # a second one would not wait
                os.kill(os.getpid(), signal.SIGTERM)

        first.detector.register_forward_hook(stop)
        with pytest.raises(Stopped, match=f"after step {at}, saved") as stopped:
            first.fit()
        assert stopped.value.signum == signal.SIGTERM
        assert not active_children(), "of the workers"
        second = trainer(faces, folder, resume=True, **given)
        second.fit()
        assert not active_children(), "of the workers"
        assert_same(contents(second), expected)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_image_that_is_lost_in_a_step_leaves_the_step_before(
    faces: Manifest, tmp_path: Path, workers: int
) -> None:
    """In the second half of it: once it is back, the same bits; also of the very first step."""
    given: dict[str, Any] = {
        "model": "test_resnet",
        "optimizer": "adamw",
        "lr": 1e-3,
        "batch_size": 13,
        "gradient_accumulation_steps": 2,
        "ema_decay": 0.9,
        "epochs": 2,
        "workers": workers,
    }
    whole = trainer(faces, tmp_path / "whole", **given)
    whole.fit()
    for step in (1, 3):
        first = trainer(faces, tmp_path / f"lost-{step}", **given)
        lost = Path(first.train[first.plan.epoch(0)[step - 1][-1].rows[-1]].path)
        with moved(lost), pytest.raises(InputError) as error:
            first.fit()
        assert str(error.value) == (
            f"Cannot decode {str(lost)!r} (No such file or directory): fix or remove the file, "
            f"then go on with --resume after step {step - 1}, saved in {first.folder}/checkpoints."
        )
        second = trainer(faces, tmp_path / f"lost-{step}", resume=True, **given)
        assert second.state.step == step - 1
        second.fit()
        assert_same(contents(second), contents(whole))


@pytest.mark.slow
def test_an_image_that_is_lost_in_a_validation_leaves_the_epoch_before_it(
    faces: Manifest, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3, "epochs": 2}
    whole = trainer(faces, tmp_path / "whole", **given)
    whole.fit()
    first = trainer(faces, tmp_path / "lost", **given)
    steps = first.plan.steps
    lost = Path(first.validation[-1].path)
    with (
        moved(lost),
        pytest.raises(InputError, match=rf"{lost}.* with --resume after step {steps}, saved"),
    ):
        first.fit()
    second = trainer(faces, tmp_path / "lost", resume=True, **given)
    assert (second.state.epoch, second.state.step) == (0, steps)
    second.fit()
    assert_same(contents(second), contents(whole))


@contextmanager
def moved(path: Path) -> Iterator[None]:
    """Away, for a while."""
    path.rename(path.with_suffix(".away"))
    yield
    path.with_suffix(".away").rename(path)


@pytest.mark.slow
def test_a_stop_during_validation_resumes_with_it(
    faces: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3, "epochs": 2}
    whole = trainer(faces, tmp_path / "whole", **given)
    whole.fit()
    first = trainer(faces, tmp_path / "stopped", **given)
    original = first.detector.predict_batch

    def predict_batch(images: Tensor) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return original(images)

    monkeypatch.setattr(first.detector, "predict_batch", predict_batch)
    with pytest.raises(Stopped) as stopped:
        first.fit()
    assert (stopped.value.signum, first.state.epoch) == (signal.SIGINT, 0)
    assert first.state.step == first.plan.steps
    assert not (first.folder / "summary.csv").exists()
    second = trainer(faces, tmp_path / "stopped", resume=True, **given)
    second.fit()
    assert_same(contents(second), contents(whole))


def test_of_several_processes_the_main_one_saves_before_it_ends_a_validation(
    faces: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torchrun kills those that do not end within 30 s of a signal."""
    run = trainer(faces, tmp_path, model="test_resnet", lr=1e-3, epochs=1)
    run.state.processes = 2
    original = run.detector.predict_batch
    there: list[list[str]] = []

    def predict_batch(images: Tensor) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return original(images)

    def figures(*given: Any) -> dict[str, float]:
        there.append([path.name for path in (run.folder / "checkpoints").glob("step-*")])
        return validation_figures(*given)

    monkeypatch.setattr(run.detector, "predict_batch", predict_batch)
    monkeypatch.setattr("focus.training.trainer.validation_figures", figures)
    with pytest.raises(Stopped):
        run.fit()
    assert there == [[f"step-{run.plan.steps:08d}"]]
    assert run.state.epoch == 1


def test_the_rates_that_are_logged_are_those_of_the_steps(
    faces: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"lr": 1e-3, "schedule": "one-cycle", "warmup": 0.25, "epochs": 2, "batch_size": 18}
    run = trainer(faces, tmp_path, optimizer="adamw", log_steps=1, **given)
    logged = []
    monkeypatch.setattr(run.log, "step", lambda done, step, lr: logged.append(lr))
    run.fit()
    optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=8, pct_start=0.25)
    expected = []
    for _ in range(8):
        expected += theirs.get_last_lr()
        optimizer.step()
        theirs.step()
    assert logged == expected
    rows = list(csv.DictReader((tmp_path / "run" / "summary.csv").open()))
    assert [float(row["lr"]) for row in rows] == [expected[4], expected[7]]


def test_a_summary_that_was_lost_is_written_again(faces: Manifest, tmp_path: Path) -> None:
    given: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3, "epochs": 1}
    run = trainer(faces, tmp_path, **given)
    run.fit()
    summary = run.folder / "summary.csv"
    whole = summary.read_text()
    summary.unlink()
    trainer(faces, tmp_path, resume=True, **given).fit()
    assert summary.read_text() == whole


@pytest.mark.slow
def test_a_disk_that_is_full_when_the_best_model_is_written(
    faces: Manifest, tmp_path: Path
) -> None:
    """The system's limit on a file's size: at the checkpoint of the second epoch it is lifted."""
    given: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3, "epochs": 2, "patience": 9}
    whole = trainer(faces, tmp_path / "whole", **given)
    whole.fit()
    run = trainer(faces, tmp_path / "full", **given)
    original, limits = run._save, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save() -> str:
        saved = original()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
        return saved

    run._save = save
    try:
        with pytest.raises(OSError, match="File too large"):
            run.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    again = trainer(faces, tmp_path / "full", resume=True, **given)
    again.fit()
    assert_same(contents(again), contents(whole))


def test_the_best_model_is_there_again_after_a_crash_while_it_was_written(
    faces: Manifest, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3, "epochs": 1}
    run = trainer(faces, tmp_path, **given)
    run.fit()
    expected = contents(run)
    shutil.rmtree(run.folder / "model")
    again = trainer(faces, tmp_path, resume=True, **given)
    again.fit()
    assert_same(contents(again), expected)


def test_a_run_whose_folder_was_renamed_goes_on_under_its_new_name(
    faces: Manifest, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3, "epochs": 2}
    whole = trainer(faces, tmp_path, **given)
    whole.fit()
    shutil.copytree(whole.folder, tmp_path / "renamed")
    *_, last = sorted((tmp_path / "renamed" / "checkpoints").glob("step-*"))
    shutil.rmtree(last)
    again = trainer(faces, tmp_path, resume=True, **given | {"name": "renamed"})
    assert again.state.epoch == 1
    again.fit()
    assert_same(contents(again), contents(whole))
    assert load_config(TrainConfig, tmp_path / "renamed" / "config.yaml").name == "renamed"
    assert json.loads((last / "state.json").read_text())["config"]["name"] == "renamed"


def test_other_processes_than_those_of_the_run(
    faces: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain_cpu: None
) -> None:
    """Refused before the images are read, which may take an hour."""
    run = trainer(faces, tmp_path, model="test_resnet", lr=1e-3, epochs=2, threads=1)
    run.state.processes = 2
    run._open_folder()
    run._save()
    monkeypatch.setattr(training, "listed_images", lambda *_, **__: pytest.fail("they are read"))
    with pytest.raises(InputError, match="trained by 2 processes, not 1: launch as many, or give"):
        training.train(replace(run.config, resume=True))

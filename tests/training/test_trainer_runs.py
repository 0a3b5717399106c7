"""Whole runs of the trainer, in this process: what they keep, give up at, and go on from."""

import csv
import math
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from focus.data.manifest import Manifest
from focus.errors import InputError, NotFiniteError
from focus.evaluation.inference import images_only
from focus.evaluation.scores import Scores
from focus.model.detector import Detector
from focus.runtime.signals import Stopped
from focus.training.trainer import Trainer

from .trainers import few_faces, trainer

SMALL: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3, "epochs": 2}


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return few_faces(tmp_path_factory.mktemp("faces"))


@pytest.fixture(scope="module")
def whole(faces: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """Two epochs of the small network, undisturbed."""
    run = trainer(faces, tmp_path_factory.mktemp("whole"), **SMALL)
    run.fit()
    return run


def steps_saved(run: Trainer) -> list[int]:
    return sorted(int(path.name[5:]) for path in (run.folder / "checkpoints").glob("step-*"))


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


@contextmanager
def moved(path: Path) -> Iterator[None]:
    """Away, for a while."""
    path.rename(path.with_suffix(".away"))
    yield
    path.with_suffix(".away").rename(path)


EVERYTHING: dict[str, Any] = {
    "model": "test_resnet",
    "opt": "adamw",
    "sched": "cosine",
    "warmup": 0.2,
    "lr": 1e-3,
    "batch_size": 13,
    "grad_accum_steps": 2,
    "augment": "crop,shift,flip,blur,jpeg",
    "sampling": "balanced",
    "model_ema_decay": 0.9,
    "focus_schedule": "0:0,2:1",
    "patience": 2,
}


@pytest.mark.parametrize(
    ("changed_settings", "moments"),
    [
        ({"workers": 0}, (2, 3)),
        pytest.param({"workers": 2}, (1, 4, 6), marks=pytest.mark.slow),
        *(
            pytest.param({"model": "test_vit", **tuning}, (2,), marks=pytest.mark.slow)
            for tuning in (
                {"tune": "lora", "layer_decay": 0.8, "sched": "one-cycle"},
                {"tune": "norm", "grad_checkpointing": True},
                {"tune": "head", "cached_features": "no"},
            )
        ),
    ],
)
def test_a_run_stopped_at_any_step_goes_on_with_the_same_bits(
    changed_settings: dict[str, Any], moments: tuple[int, ...], faces: Manifest, tmp_path: Path
) -> None:
    """With accumulation, augmentation, an average, a schedule, batch statistics, and patience.

    The signal comes in the midst of a step, which is finished.
    """
    settings = EVERYTHING | {"epochs": 2} | changed_settings
    undisturbed = trainer(faces, tmp_path / "whole", **settings)
    undisturbed.fit()
    assert undisturbed.plan.steps == 3
    for last_step in moments:
        folder = tmp_path / f"stopped-{last_step}"
        first = trainer(faces, folder, **settings)
        told: list[int] = []

        def stop(
            *_: Any, first: Trainer = first, last_step: int = last_step, told: list[int] = told
        ) -> None:
            if first.state.step == last_step - 1 and first.detector.training and not told:
                told.append(last_step)  # a second one would not wait
                os.kill(os.getpid(), signal.SIGTERM)

        first.detector.register_forward_hook(stop)
        with pytest.raises(Stopped, match=f"after step {last_step}, saved") as stopped:
            first.fit()
        assert stopped.value.signum == signal.SIGTERM
        second = trainer(faces, folder, resume=True, **settings)
        second.fit()
        assert not active_children(), "of the workers"
        assert_same(contents(second), contents(undisturbed))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_image_that_is_lost_in_a_step_leaves_the_step_before(
    workers: int, faces: Manifest, tmp_path: Path
) -> None:
    """In the second half of it: once the image is back, the run ends with the same bits."""
    settings = SMALL | {"batch_size": 13, "grad_accum_steps": 2, "workers": workers}
    undisturbed = trainer(faces, tmp_path / "whole", **settings)
    undisturbed.fit()
    first = trainer(faces, tmp_path / "lost", **settings)
    lost = Path(first.train[first.plan.epoch(0)[2][-1].rows[-1]].path)
    with moved(lost), pytest.raises(InputError) as error:
        first.fit()
    # The command is that of the tests, as far as the system tells it.
    cause, _, command = str(error.value).partition("; to go on: ")
    assert cause == (
        f"Cannot decode {str(lost)!r} (No such file or directory): bring it back as it was; step 2 "
        f"is saved in {first.folder}/checkpoints/step-00000002"
    )
    assert command.endswith(f"--resume --name run --output {tmp_path / 'lost'}")
    second = trainer(faces, tmp_path / "lost", resume=True, **settings)
    assert second.state.step == 2
    second.fit()
    assert_same(contents(second), contents(undisturbed))


@pytest.mark.slow
def test_the_workers_of_validation_wait_for_the_next_epoch(
    faces: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forked anew for each, they take seconds, and the memory of the process once more."""
    run = trainer(faces, tmp_path, workers=1, **SMALL | {"epochs": 3})
    original, seen = run.detector.predict_batch, list[int | None]()

    def predict_batch(images: Tensor) -> Any:
        seen.extend(child.pid for child in active_children())
        return original(images)

    monkeypatch.setattr(run.detector, "predict_batch", predict_batch)
    run.fit()
    assert len(set(seen)) == 2, "one for training, one for validation"
    assert not active_children()


def test_validation_is_compiled_where_training_is(
    faces: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scores are those of the network as it is; a graph is made, and no C++ of it."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    scores = []
    for compiled in (False, True):
        run = trainer(faces, tmp_path / str(compiled), compile=compiled, **SMALL)
        assert hasattr(run.kept.encode_with_norms, "_torchdynamo_orig_callable") == compiled
        scores.append(run.score(run.kept, images_only(run.validation), progress=False).score)
    np.testing.assert_allclose(*scores, rtol=1e-5)
    compiled_calls = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert compiled_calls > 0


def test_a_stop_during_validation_resumes_with_it(
    faces: Manifest, whole: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trainer(faces, tmp_path, **SMALL)
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
    second = trainer(faces, tmp_path, resume=True, **SMALL)
    second.fit()
    assert_same(contents(second), contents(whole))


def test_a_validation_that_finds_a_divergence_leaves_the_checkpoints_before(
    faces: Manifest, tmp_path: Path
) -> None:
    run = trainer(faces, tmp_path, checkpoints_kept=1, **SMALL)

    def score(*arguments: Any, **options: Any) -> Scores:
        if run.state.epoch == 1:
            raise NotFiniteError("a.png", "")
        return original(*arguments, **options)

    original, run.score = run.score, score  # type: ignore[assignment]
    with pytest.raises(NotFiniteError, match="the run run has diverged in epoch 2, lower --lr"):
        run.fit()
    steps = run.plan.steps
    assert steps_saved(run) == [steps, 2 * steps]
    again = trainer(faces, tmp_path, checkpoints_kept=1, resume=True, **SMALL)
    again.fit()
    assert steps_saved(run) == [2 * steps]


def test_a_run_that_diverges_gives_up_and_keeps_its_last_good_checkpoint(
    faces: Manifest, tmp_path: Path
) -> None:
    """A learning rate that no network survives."""
    settings = SMALL | {"lr": 1e30, "batch_size": 16}
    run = trainer(faces, tmp_path, max_nonfinite=4, checkpoint_steps=1, **settings)
    with pytest.raises(InputError, match=r"not finite in 4 steps in a row, up to step \d+: lower"):
        run.fit()
    assert run.state.in_a_row == 4
    saved = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    assert all(v.isfinite().all() for v in load_file(saved / "model.safetensors").values())
    # None of the steps that were skipped has pushed out one that was taken.
    assert int(saved.name.removeprefix("step-")) <= run.state.step - 4


def test_each_epoch_augments_anew(faces: Manifest, tmp_path: Path) -> None:
    run = trainer(faces, tmp_path, epochs=2, augment="shift,flip", lr=1e-6, batch_size=35)
    seen: list[Tensor] = []
    run.detector.register_forward_pre_hook(
        lambda detector, inputs: seen.append(inputs[0].clone()) if detector.training else None
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


def test_the_rates_that_are_logged_are_those_of_the_steps(
    faces: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"lr": 1e-3, "sched": "one-cycle", "warmup": 0.25, "epochs": 2, "batch_size": 18}
    run = trainer(faces, tmp_path, opt="adamw", log_steps=1, **settings)
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


@pytest.mark.slow
def test_best_patience_and_what_is_written(faces: Manifest, tmp_path: Path) -> None:
    run = trainer(faces, tmp_path, lr=1e-9, epochs=9, patience=2, eval_metric="log_loss", loss="ce")
    run.fit()
    # Nothing changes, so that no epoch after the first is better by more than rounding.
    rows = list(csv.DictReader((tmp_path / "run" / "summary.csv").open()))
    values = [float(row["eval_log_loss"]) for row in rows]
    best = min(range(len(values)), key=values.__getitem__)
    assert run.state.best_epoch == best + 1
    assert len(rows) == min(9, best + 3)
    assert run.state.best == values[best]
    kept = Detector.from_pretrained(tmp_path / "run" / "model")
    assert kept.config.training_generators == ("g",)


@pytest.mark.slow
def test_the_thresholds_are_those_of_the_kept_epoch(faces: Manifest, tmp_path: Path) -> None:
    """4 reals, of one video, and 6 fakes that the kept network tells apart."""
    fewer = Manifest(
        replace(s, group="" if s.split == "train" or s.label else "video") for s in list(faces)[:-2]
    )
    run = trainer(fewer, tmp_path, model="test_resnet", opt="adamw", lr=3e-3, epochs=4)
    run.fit()
    kept = Detector.from_pretrained(tmp_path / "run" / "model")
    samples = list(run.validation)
    score = kept.predict([sample.path for sample in samples]).score.double()
    fake = torch.tensor([sample.label == 1 for sample in samples])

    def balance(threshold: float) -> float:
        called = score > threshold
        return float((called[fake].double().mean() + (~called[~fake]).double().mean()) / 2)

    assert kept.points is not None
    assert (kept.points.n_real, kept.points.n_synthetic) == (4, 6)
    ordered = [-1.0, *score.sort().values.tolist()]
    best = max(map(balance, ordered))
    assert best > 0.7
    chosen = kept.points.thresholds["balanced"]
    assert chosen is not None
    assert balance(chosen) == best
    assert kept.points.calibration is not None
    assert kept.points.calibration.slope > 0
    assert kept.points.calibration.largest_llr == math.log(2)

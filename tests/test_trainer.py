"""A step of the trainer, in this process: what it computes, skips, costs and leaves behind."""

import csv
import gc
import os
import resource
import signal
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from focus.config import TrainConfig, resolve
from focus.data.dataset import Batch
from focus.data.manifest import Manifest, Sample
from focus.errors import InputError
from focus.models import Detector
from focus.monitoring import TERMS, validation_figures
from focus.run_log import NONFINITE
from focus.runs import check_folder
from focus.stopping import Stopped
from focus.trainer import Trainer, make_detector


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """One thread: sums in one order, and the tests' networks are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """70 images to train on, every third with a map, and 12 to validate on."""
    folder = tmp_path_factory.mktemp("faces")
    draw = np.random.default_rng(0)
    samples = []
    for number in range(82):
        path, label = folder / f"{number}.png", int(number % 5 > 1)
        pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        pixels[8:20, 8:20, 0] = 40 * label  # something to learn
        Image.fromarray(pixels).save(path)
        heat = None
        if number % 3 == 0:
            heat = folder / f"map{number}.png"
            Image.fromarray(draw.integers(0, 256, (8, 8), dtype=np.uint8)).save(heat)
        samples.append(
            Sample(
                str(path),
                label,
                generator="g" if label else "",
                split="train" if number < 70 else "validation",
                map_path=None if heat is None else str(heat),
            )
        )
    return Manifest(samples)


def trainer(
    faces: Manifest, folder: Path, accelerator: Accelerator | None = None, **given: Any
) -> Trainer:
    settings: dict[str, Any] = {
        "recipe": "demo",
        "model": "test_convnext",
        "image_size": 64,
        "name": "run",
        "optimizer": "sgd",
        "momentum": 0.0,
        "weight_decay": 0.0,
        "lr": 1.0,
        "schedule": "constant",
        "warmup": 0.0,
        "epochs": 3,
        "batch_size": 8,
        "workers": 0,
        "output": str(folder),
        "report_to": ("none",),
        "sheet_epochs": 0,
    }
    settings |= given
    if settings["optimizer"] == "adamw":
        del settings["momentum"]
    config = resolve(TrainConfig(**settings))
    saved = check_folder(config)
    accelerator = accelerator or Accelerator(cpu=True)
    return Trainer(config, make_detector(config), faces, accelerator, saved)


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    """With the scaler of fp16, which Accelerate gives to GPUs alone, over float32."""
    monkeypatch.setattr(Accelerator, "mixed_precision", "fp16")
    accelerator = Accelerator(cpu=True)
    accelerator.native_amp = True
    return accelerator


def steps_of(run: Trainer, epoch: int = 0) -> Iterator[tuple[list[Any], Iterator[Batch]]]:
    """Each step's batches, and the loader that they come from."""
    run.model.train()
    run.dataset.set_epoch(epoch)
    steps = run.plan.epoch(epoch)
    run.batches.plan(steps)
    loaded = (Batch(*batch) for batch in run.loader)
    return ((step, loaded) for step in steps)


def parameters(run: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in run.detector.parameters()]).double()


@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 5e-6)])
def test_four_batches_of_8_make_the_step_of_one_of_32(
    faces: Manifest,
    tmp_path: Path,
    clip: float | None,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    """With class weights, samples without maps, and a last step of 6 images.

    In float32 the network's own sums differ by more than 1e-6 with the size of the batch.
    """
    moved, norms = [], []
    given: dict[str, Any] = {"loss": "blend", "class_weight": "balanced", "clip_grad": clip}
    for sizes in ({"batch_size": 32}, {"batch_size": 8, "gradient_accumulation_steps": 4}):
        run = trainer(faces, tmp_path, **given, **sizes)
        run.detector.to(dtype)
        run.detector.register_forward_pre_hook(lambda _, given: (given[0].to(dtype), *given[1:]))
        own = []
        for batches, loaded in steps_of(run):
            before = parameters(run)
            step = run.train_step(batches, loaded)
            figures = torch.tensor([*step.sums, step.images, step.gradient_norm])
            own.append((before - parameters(run), figures))
            assert step.updated
        moved.append([gradient for gradient, _ in own])
        norms.append([figures for _, figures in own])
    assert [int(figures[-2]) for figures in norms[0]] == [32, 32, 6]
    # The first step alone begins from equal weights.
    one, four = (gradients[0] for gradients in moved)
    assert (one - four).abs().max() <= tolerance * one.abs().max()
    torch.testing.assert_close(norms[0][0], norms[1][0], rtol=1e-5, atol=1e-6)
    if clip is not None:
        assert one.norm() == pytest.approx(clip, rel=1e-4)


def test_a_step_is_that_of_plain_torch(faces: Manifest, tmp_path: Path) -> None:
    run = trainer(faces, tmp_path, loss="focus", lr=0.1)
    config = replace(run.config, name="other")
    torch.manual_seed(5)
    plain = make_detector(config)
    batches, loaded = next(steps_of(run))
    items = [run.dataset[row] for row in batches[0].rows]
    images, target = (torch.stack([getattr(i, n) for i in items]) for n in ("images", "target"))
    out = plain.train()(images.contiguous(memory_format=torch.channels_last), target)
    out.loss.backward()
    run.train_step(batches, loaded)
    for ours, theirs in zip(run.detector.parameters(), plain.parameters(), strict=True):
        assert theirs.grad is not None
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad, rtol=1e-5, atol=1e-7)


def test_the_weights_of_the_loss_follow_their_schedules(faces: Manifest, tmp_path: Path) -> None:
    run = trainer(
        faces,
        tmp_path,
        loss="blend",
        focus_weight=2.0,
        saliency_weight=4.0,
        lr=1e-6,
        focus_schedule="0:0,1:1",
        saliency_schedule="0:1,2:0.5",
        batch_size=14,
    )
    found = []
    for epoch in (0, 1):
        for batches, loaded in steps_of(run, epoch):
            step = run.train_step(batches, loaded)
            means = dict(zip(TERMS, np.array(step.sums) / step.images, strict=True))
            weights = run.detector.head.loss_weights
            assert weights is not None
            a, b, c = weights.tolist()
            expected = a * means["classification"] + b * means["focus"] + c * means["saliency"]
            assert means["loss"] == pytest.approx(expected, rel=1e-5)
            found.append((a, b, c))
    steps = [step / 5 for step in range(10)]
    assert found == [pytest.approx((1, 2 * min(epoch, 1), 4 - epoch), abs=1e-6) for epoch in steps]


def test_random_numbers_of_a_step_depend_on_its_number_alone(
    faces: Manifest, tmp_path: Path
) -> None:
    """Drop path draws from torch's generator."""
    drawn = []
    for spoil in (False, True):
        run = trainer(faces, tmp_path)
        seen: list[Tensor] = []
        run.detector.backbone.register_forward_hook(
            lambda *_, seen=seen: seen.append(torch.rand(1))
        )
        for batches, loaded in steps_of(run):
            if spoil:
                torch.rand(17)
            run.train_step(batches, loaded)
        drawn.append(torch.cat(seen))
    assert drawn[0].equal(drawn[1])
    assert len(set(drawn[0].tolist())) == len(drawn[0])


def test_a_loss_that_is_not_finite_is_skipped_and_leaves_no_trace(
    faces: Manifest, tmp_path: Path
) -> None:
    run = trainer(faces, tmp_path, model="test_resnet", lr=0.01, ema_decay=0.9)
    batches = steps_of(run)
    run.train_step(*next(batches))
    assert (run.state.step, run.state.updates) == (1, 1)
    before = {k: v.clone() for k, v in run.detector.state_dict().items()}
    averaged = {k: v.clone() for k, v in run.kept.state_dict().items()}
    planned, loaded = next(batches)
    spoilt = next(loaded)
    spoilt.images[3, 1, 2, 2] = torch.nan
    skipped = run.train_step(planned, iter([spoilt]))
    assert not skipped.updated
    assert not skipped.finite
    assert (run.state.step, run.state.updates) == (2, 1)
    for name, value in run.detector.state_dict().items():
        if value.is_floating_point():
            assert value.equal(before[name]), name
            assert run.kept.state_dict()[name].equal(averaged[name]), name
    assert all(p.grad is None for p in run.detector.parameters())
    assert run.train_step(*next(batches)).updated
    assert (run.state.step, run.state.updates) == (3, 2)


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


def test_a_scale_that_is_too_large_skips_steps_and_is_no_fault(
    faces: Manifest, tmp_path: Path, scaled: Accelerator
) -> None:
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**126, backoff_factor=2.0**-40)
    run = trainer(faces, tmp_path, scaled, max_nonfinite=1, epochs=1, model="test_resnet", lr=1e-3)
    run.fit()
    (row,) = csv.DictReader((tmp_path / "run" / "summary.csv").open())
    skipped = int(row["train_skipped_steps"])
    assert 0 < skipped < run.plan.steps
    assert run.state.updates == run.plan.steps - skipped
    assert run.state.nonfinite == 0
    assert 0 < float(row["train_grad_norm"]) < 1e6


def test_a_gradient_that_no_scale_makes_finite_ends_the_run(
    faces: Manifest, tmp_path: Path, scaled: Accelerator
) -> None:
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    run = trainer(faces, tmp_path, scaled, max_nonfinite=3)
    before = parameters(run)
    next(run.detector.parameters()).register_hook(lambda g: torch.full_like(g, torch.nan))
    with pytest.raises(InputError, match="not finite in 3 steps in a row, up to step 5"):
        run.fit()
    assert (run.state.step, run.state.updates, run.state.nonfinite) == (5, 0, 3)
    assert parameters(run).equal(before)


def test_averaged_weights_are_validated_and_kept(faces: Manifest, tmp_path: Path) -> None:
    run = trainer(faces, tmp_path, ema_decay=0.5, lr=0.05, epochs=1)
    expected: dict[str, Tensor] = {}
    run._open_folder()
    for batches, loaded in steps_of(run):
        run.train_step(batches, loaded)
        now = {k: v.clone() for k, v in run.detector.state_dict().items()}
        # timm's warm-up of the decay: 0 for the first step, then 1 - (1 + step) ** (-2 / 3).
        step = run.state.updates - 1
        decay = min(0.5, 1 - (1 + step) ** (-2 / 3)) if step else 0.0
        expected = {k: now[k].lerp(expected.get(k, now[k]), decay) for k in now}
    for name, value in run.kept.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)
    assert run.kept is not run.detector


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
    with pytest.raises(InputError, match=r"more than a detector"):
        run.kept.save_pretrained(folder)


def test_a_hinge_that_aims_at_the_maps(
    faces: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trainer(faces, tmp_path, loss="hinge", target_from_maps=True, epochs=1, augment="none")
    run.fit()
    entropies = []
    for row in range(len(run.train)):
        item = run.dataset[row]
        if item.saliency_mask:
            share = (item.saliency / item.saliency.sum()).double().flatten()
            entropies.append(float(torch.special.entr(share).sum() / np.log(share.numel())))
    assert len(entropies) == 24
    assert run.state.entropy_target == pytest.approx(np.mean(entropies), abs=1e-6)
    assert run.detector.head.loss.entropy_target == run.state.entropy_target
    assert f"entropy target: {run.state.entropy_target:.4f}" in capsys.readouterr().out

    without = Manifest(replace(sample, map_path=None) for sample in faces)
    none = trainer(without, tmp_path / "none", loss="hinge", target_from_maps=True)
    with pytest.raises(InputError, match="no training image has a human map"):
        none.fit()


def test_balanced_classes_weigh_alike(faces: Manifest, tmp_path: Path) -> None:
    run = trainer(faces, tmp_path, class_weight="balanced")
    weight = run.detector.head.class_weight
    assert weight is not None
    labels = np.array([sample.label for sample in run.train])
    totals = [weight[label].item() * (labels == label).sum() for label in (0, 1)]
    assert totals == pytest.approx([35, 35])
    assert run.detector.state_dict().keys() == trainer(faces, tmp_path).detector.state_dict().keys()


@pytest.mark.slow
def test_a_compiled_network_trains_alike_and_keeps_its_names(
    faces: Manifest, tmp_path: Path
) -> None:
    # What other tests compiled at several sizes would be compiled for any size here.
    torch._dynamo.reset()
    moved = []
    for compile in (False, True):
        run = trainer(faces, tmp_path / str(compile), lr=0.01, compile=compile, batch_size=35)
        for batches, loaded in steps_of(run):
            run.train_step(batches, loaded)
        moved.append(run.detector.state_dict())
    assert moved[0].keys() == moved[1].keys()
    for name, value in moved[0].items():
        torch.testing.assert_close(moved[1][name], value, rtol=1e-3, atol=1e-4)


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_memory_does_not_grow(faces: Manifest, tmp_path: Path) -> None:
    """Over 500 steps after a warm-up, with averaged weights, schedules and the log."""
    run = trainer(
        faces,
        tmp_path,
        model="test_resnet",
        lr=1e-3,
        batch_size=2,
        ema_decay=0.99,
        epochs=50,
        focus_schedule="0:0,9:1",
        clip_grad=1.0,
        log_steps=7,
        report_to=("tensorboard",),
    )
    sizes, tensors = [], []
    epoch = 0
    while run.state.step < 35 * 20:
        for batches, loaded in steps_of(run, epoch):
            run.train_step(batches, loaded)
        epoch += 1
        gc.collect()
        sizes.append(resident())
        tensors.append(sum(isinstance(o, Tensor) for o in gc.get_objects()))
    after = slice(5, None)  # 175 steps
    assert len(set(tensors[after])) == 1
    slope = np.polyfit(np.arange(len(sizes[after])) * 35, sizes[after], 1)[0]
    assert slope * 500 < 2 * 2**20, f"{slope * 500 / 2**20:.1f} MiB more in 500 steps"


class Slow(nn.Module):
    """A step of known length that computes nothing."""

    def __init__(self, own: nn.Module, seconds: float) -> None:
        super().__init__()
        self.own, self.seconds = own, seconds

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(self.seconds)
        out: Tensor = self.own(images)
        return out


@pytest.mark.slow
def test_loading_goes_on_during_a_step(
    faces: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images that take 80 % of a step to load add next to nothing to an epoch."""
    step, batch = 0.25, 5
    run = trainer(faces, tmp_path, model="test_resnet", batch_size=batch, workers=1, lr=1e-6)
    original = type(run.dataset).__getitem__

    def slow(self: Any, index: int) -> Batch:
        time.sleep(0.8 * step / batch)
        return original(self, index)

    monkeypatch.setattr(type(run.dataset), "__getitem__", slow)
    run.detector.backbone = Slow(run.detector.backbone, step)
    seconds = []
    for epoch in range(2):  # the first starts the worker
        began = time.perf_counter()
        for batches, loaded in steps_of(run, epoch):
            run.train_step(batches, loaded)
        seconds.append(time.perf_counter() - began)
    assert run.plan.steps == 14
    # One after the other it would take 14 * 0.45 = 6.3 s; the first batch has nothing to hide in.
    assert seconds[1] < 14 * step * 1.25 + 0.8 * step


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
        second = trainer(faces, folder, resume=True, **given)
        second.fit()
        assert_same(contents(second), expected)


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
    monkeypatch.setattr("focus.trainer.validation_figures", figures)
    with pytest.raises(Stopped):
        run.fit()
    assert there == [[f"step-{run.plan.steps:08d}"]]
    assert run.state.epoch == 1


def test_a_summary_that_was_lost_is_written_again(faces: Manifest, tmp_path: Path) -> None:
    given: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3, "epochs": 1}
    run = trainer(faces, tmp_path, **given)
    run.fit()
    summary = run.folder / "summary.csv"
    whole = summary.read_text()
    summary.unlink()
    trainer(faces, tmp_path, resume=True, **given).fit()
    assert summary.read_text() == whole


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
    (run.folder / "model").rename(run.folder / ".model.old")
    again = trainer(faces, tmp_path, resume=True, **given)
    again.fit()
    assert_same(contents(again), expected)


def test_other_processes_than_those_of_the_run(faces: Manifest, tmp_path: Path) -> None:
    given: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3, "epochs": 2}
    run = trainer(faces, tmp_path, **given)
    run.state.processes = 2
    run._open_folder()
    run._save()
    with pytest.raises(InputError, match="trained by 2 processes, not 1"):
        trainer(faces, tmp_path, resume=True, **given).fit()

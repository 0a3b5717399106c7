"""A step of the trainer: what it computes, skips and leaves behind; in this process."""

import gc
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import partialmethod
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

from focus.data.dataset import Batch
from focus.data.manifest import Manifest
from focus.errors import InputError
from focus.kernels.terms import Terms
from focus.model.detector import Detector
from focus.runtime.progress import progress_bar
from focus.training.run import make_detector
from focus.training.step import MEANS
from focus.training.trainer import Trainer

from .trainers import few_faces, trainer


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return few_faces(tmp_path_factory.mktemp("faces"))


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
    steps = run.plan.epoch(epoch)
    loaded = run.images.load(epoch, steps)
    return ((step, loaded) for step in steps)


def do(run: Trainer, step: tuple[list[Any], Iterator[Batch]]) -> dict[str, float]:
    """Do a step and return its figures."""
    run.train_step(*step)
    return run.tally.last()


def done(run: Trainer) -> tuple[int, int, int]:
    """Return the numbers of steps, of those done, and of those not finite, in a first epoch."""
    sums, _ = run.tally.read()
    return run.state.step, int(sums["updated"]), int(sums["nonfinite"])


def parameters(run: Trainer) -> Tensor:
    return torch.cat([p.detach().flatten() for p in run.detector.parameters()]).double()


@pytest.mark.slow
@pytest.mark.parametrize("clip", [None, 0.5])
def test_four_batches_of_8_make_the_step_of_one_of_32(
    faces: Manifest, tmp_path: Path, clip: float | None
) -> None:
    """With class weights, samples without maps, and a last step of 6 images."""
    moved, norms = [], []
    settings: dict[str, Any] = {"loss": "blend", "class_weight": "balanced", "clip_grad": clip}
    for sizes in ({"batch_size": 32}, {"batch_size": 8, "grad_accum_steps": 4}):
        run = trainer(faces, tmp_path, **settings, **sizes)
        run.detector.double()
        run.detector.register_forward_pre_hook(lambda _, inputs: (inputs[0].double(), *inputs[1:]))
        steps = []
        for batches, loaded in steps_of(run):
            before = parameters(run)
            step = do(run, (batches, loaded))
            figures = torch.tensor([step[name] for name in (*MEANS, "images", "grad_norm")])
            steps.append((before - parameters(run), figures))
            assert step["updated"]
        moved.append([gradient for gradient, _ in steps])
        norms.append([figures for _, figures in steps])
    assert [int(figures[-2]) for figures in norms[0]] == [32, 32, 6]
    # The first step alone begins from equal weights.
    one, four = (gradients[0] for gradients in moved)
    assert (one - four).abs().max() <= 1e-12 * one.abs().max()
    torch.testing.assert_close(norms[0][0], norms[1][0], rtol=1e-5, atol=1e-6)
    if clip is not None:
        assert one.norm() == pytest.approx(clip, rel=1e-4)


def test_a_step_is_that_of_plain_torch(faces: Manifest, tmp_path: Path) -> None:
    run = trainer(faces, tmp_path, loss="focus", lr=0.1)
    config = replace(run.config, name="other")
    torch.manual_seed(5)
    plain = make_detector(config)
    batches, loaded = next(steps_of(run))
    items = [run.images.dataset[row] for row in batches[0].rows]
    images, target = (torch.stack([getattr(i, n) for i in items]) for n in ("images", "target"))
    out = plain.train()(plain.normalise(images, torch.channels_last), target)
    out.loss.backward()
    do(run, (batches, loaded))
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
    weights_of_steps = []
    for epoch in (0, 1):
        for batches, loaded in steps_of(run, epoch):
            step = do(run, (batches, loaded))
            means = {name: step[name] / step["images"] for name in MEANS}
            weights = run.detector.head.loss_weights
            assert weights is not None
            weights = Terms(*weights.tolist())
            expected = sum(w * means[term] for term, w in weights._asdict().items())
            assert means["loss"] == pytest.approx(expected, rel=1e-5)
            weights_of_steps.append((weights.classification, weights.focus, weights.saliency))
    steps = [step / 5 for step in range(10)]
    assert weights_of_steps == [
        pytest.approx((1, 2 * min(epoch, 1), 4 - epoch), abs=1e-6) for epoch in steps
    ]


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
            do(run, (batches, loaded))
        drawn.append(torch.cat(seen))
    assert drawn[0].equal(drawn[1])
    assert len(set(drawn[0].tolist())) == len(drawn[0])


def test_the_scale_of_fp16_goes_on_from_what_was_saved(
    faces: Manifest, tmp_path: Path, scaled: Accelerator
) -> None:
    """It doubles with each step: from 64 to 256 in two."""
    settings: dict[str, Any] = {"model": "test_resnet", "lr": 1e-3}
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=1)
    first = trainer(faces, tmp_path, scaled, **settings)
    first.open_folder()
    for batches, loaded in islice(steps_of(first), 2):
        do(first, (batches, loaded))
    assert done(first) == (2, 2, 0)
    first.save()
    other = Accelerator(cpu=True)
    other.native_amp = True
    other.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    second = trainer(faces, tmp_path, other, resume=True, **settings)
    second.open_folder()
    assert other.scaler.get_scale() == 256


def test_a_loss_that_is_not_finite_is_skipped_and_leaves_no_trace(
    faces: Manifest, tmp_path: Path
) -> None:
    run = trainer(faces, tmp_path, model="test_resnet", lr=0.01, model_ema_decay=0.9)
    batches = steps_of(run)
    do(run, next(batches))
    before = {k: v.clone() for k, v in run.detector.state_dict().items()}
    averaged = {k: v.clone() for k, v in run.kept.state_dict().items()}

    def spoil(_: Detector, inputs: tuple[Tensor, ...]) -> None:
        inputs[0][3, 1, 2, 2] = torch.nan

    spoilt = run.detector.register_forward_pre_hook(spoil)
    skipped = do(run, next(batches))
    spoilt.remove()
    assert [skipped[name] for name in ("updated", "skipped", "nonfinite")] == [0, 1, 1]
    for name, value in run.detector.state_dict().items():
        if value.is_floating_point():
            assert value.equal(before[name]), name
            assert run.kept.state_dict()[name].equal(averaged[name]), name
    assert all(p.grad is None for p in run.detector.parameters())
    assert do(run, next(batches))["updated"]
    assert done(run) == (3, 2, 1)


def test_a_gradient_that_no_scale_makes_finite_ends_the_run(
    faces: Manifest, tmp_path: Path, scaled: Accelerator
) -> None:
    scaled.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    run = trainer(faces, tmp_path, scaled, max_nonfinite=3, log_steps=1)
    before = parameters(run)
    next(run.detector.parameters()).register_hook(lambda g: torch.full_like(g, torch.nan))
    with pytest.raises(InputError, match="not finite in 3 steps in a row, up to step 5"):
        run.fit()
    assert done(run) == (5, 0, 3)
    assert parameters(run).equal(before)


def test_a_hinge_that_aims_at_the_maps(
    faces: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trainer(faces, tmp_path, loss="hinge", target_from_maps=True, epochs=1, augment="none")
    run.fit()
    entropies = []
    for row in range(len(run.train)):
        item = run.images.dataset[row]
        if item.saliency_mask:
            share = (item.saliency / item.saliency.sum()).double().flatten()
            entropies.append(float(torch.special.entr(share).sum() / np.log(share.numel())))
    assert len(entropies) == 24
    assert run.state.entropy_target == pytest.approx(np.mean(entropies), abs=1e-6)
    assert run.detector.head.loss.entropy_target == run.state.entropy_target
    assert f"entropy target: {run.state.entropy_target:.4f}" in capsys.readouterr().out

    without = Manifest(replace(sample, human_map=None) for sample in faces)
    with pytest.raises(InputError, match="no training image has a human map"):
        trainer(without, tmp_path / "none", loss="hinge", target_from_maps=True)


@pytest.mark.slow
def test_a_compiled_network_trains_alike_and_keeps_its_names(
    faces: Manifest, tmp_path: Path
) -> None:
    """With adapters, whose names Peft changes as well."""
    # What other tests compiled at several sizes would be compiled for any size here.
    torch._dynamo.reset()
    moved = []
    for compile in (False, True):
        settings = {
            "lr": 0.01,
            "compile": compile,
            "batch_size": 35,
            "tune": "lora",
            "model": "test_vit",
        }
        run = trainer(faces, tmp_path / str(compile), **settings)
        for batches, loaded in steps_of(run):
            do(run, (batches, loaded))
        moved.append(run.detector.state_dict())
    assert moved[0].keys() == moved[1].keys()
    for name, value in moved[0].items():
        torch.testing.assert_close(moved[1][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_network_and_head_are_one_graph_compiled_for_two_sizes_of_batch(
    faces: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A break in the graph costs each step, a compilation a minute or more.

    The third batch of 32, 32 and 6 images is compiled for any size.
    """
    torch._dynamo.reset()
    compiled: list[int] = []

    def as_it_is(graph: torch.fx.GraphModule, _: Any) -> Any:
        compiled.append(len(graph.graph.nodes))
        return graph.forward

    compile = partialmethod(torch.nn.Module.compile, backend=as_it_is)
    monkeypatch.setattr(torch.nn.Module, "compile", compile)
    settings = {"compile": True, "batch_size": 32, "focus_schedule": "0:0,1:1"}
    run = trainer(faces, tmp_path, model="focus_small", lr=0.01, **settings)
    run.open_folder()
    for epoch in range(2):
        run.state.epoch = epoch
        run.train_epoch(progress_bar(disable=True))
    assert run.state.step == 6
    assert len(compiled) == 2


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_memory_does_not_grow(faces: Manifest, tmp_path: Path) -> None:
    """With averaged weights, schedules, the log, and what follows an epoch."""
    run = trainer(
        faces,
        tmp_path,
        model="test_resnet",
        lr=1e-3,
        batch_size=2,
        model_ema_decay=0.99,
        epochs=50,
        focus_schedule="0:0,9:1",
        clip_grad=1.0,
        log_steps=7,
        report_to=("tensorboard",),
    )
    sizes, tensors = [], []
    run.open_folder()
    bar = progress_bar(disable=True)
    while run.state.step < 35 * 14:
        speed = run.train_epoch(bar)
        run.note_epoch(run.validation_scores(), speed)
        gc.collect()
        sizes.append(resident())
        tensors.append(sum(isinstance(o, Tensor) for o in gc.get_objects()))
    after = slice(5, None)  # 175 steps
    assert len(set(tensors[after])) == 1
    slope = np.polyfit(np.arange(len(sizes[after])) * 35, sizes[after], 1)[0]
    assert slope * 500 < 2 * 2**20, f"{slope * 500 / 2**20:.1f} MiB more in 500 steps"


def test_bad_steps_that_do_not_follow_each_other_end_no_run_and_are_said(
    faces: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """4 of 9 steps, of which 2 in a row would be too many."""
    run = trainer(faces, tmp_path, model="test_resnet", lr=1e-3, epochs=1, max_nonfinite=2)

    def spoil(detector: Detector, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not detector.training or run.state.step % 2 == 0:
            return None
        return torch.full_like(inputs[0], torch.nan), *inputs[1:]

    run.detector.register_forward_pre_hook(spoil)
    run.fit()
    assert (run.state.step, run.state.nonfinite, run.state.in_a_row) == (9, 4, 0)
    assert "4 of 9 steps were skipped: their loss or gradient was not finite" in (
        capsys.readouterr().out
    )

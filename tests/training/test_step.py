"""A step on the device: nothing is read from it, and little is asked of it."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from focus.data.manifest import Manifest
from focus.training.step import Statistics, update

from .trainers import few_faces, trainer

READS = ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__array__")


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return few_faces(tmp_path_factory.mktemp("faces"))


class Calls(TorchDispatchMode):
    """Counts operations of torch, and reads of their results, but for those within ``apart``."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()
        self.reads: list[str] = []
        self._apart = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._apart and not str(func).startswith("profiler."):
            self.counted[str(func)] += 1
            if func is torch.ops.aten._local_scalar_dense.default:
                self.reads.append(str(func))
        return func(*args, **kwargs or {})

    def begin(self, *_: Any) -> None:
        self._apart += 1

    def end(self, *_: Any) -> None:
        self._apart -= 1

    @contextmanager
    def apart(self) -> Iterator[None]:
        self.begin()
        yield
        self.end()


@pytest.mark.parametrize("settings", [{}, {"clip_grad": 1.0}, {"model_ema_decay": 0.9}])
def test_a_step_reads_nothing_and_asks_for_little(
    faces: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """On a GPU each read would wait for all that the step has begun."""
    run = trainer(faces, tmp_path, model="test_resnet", loss="blend", lr=0.01, **settings)
    run.model.train()
    steps = run.plan.epoch(0)[:2]
    loaded = iter([*run.images.load(0, steps)])
    run.train_step(steps[0], loaded)
    calls = Calls()
    for name in READS:

        def read(tensor: Tensor, *args: Any, name: str, original: Any) -> Any:
            if not calls._apart:  # on a CPU the head looks at the classes that it is given
                calls.reads.append(name)
            return original(tensor, *args)

        original = getattr(Tensor, name)
        monkeypatch.setattr(Tensor, name, partialmethod(read, name=name, original=original))
    backward = Tensor.backward

    def apart(*args: Any, **kwargs: Any) -> None:
        with calls.apart():
            backward(*args, **kwargs)

    monkeypatch.setattr(Tensor, "backward", apart)
    run.detector.register_forward_pre_hook(calls.begin)
    run.detector.register_forward_hook(calls.end)
    optimizer = run.optimizer.optimizer
    optimizer.register_step_pre_hook(calls.begin)
    optimizer.register_step_post_hook(calls.end)
    if run.ema is not None:
        ema = run.ema.update

        def averaged(*args: Any, **kwargs: Any) -> None:
            with calls.apart():
                ema(*args, **kwargs)

        monkeypatch.setattr(run.ema, "update", averaged)
    with calls:
        run.train_step(steps[1], loaded)
    monkeypatch.undo()
    assert not calls.reads
    assert calls.counted.total() <= 25, calls.counted
    assert run.tally.read()[0]["updated"] == 2


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_first_step_that_is_skipped_changes_nothing(
    faces: Manifest, tmp_path: Path, kind: str
) -> None:
    """Torch's fused SGD leaves the momentum of such a step as memory that nobody wrote."""
    moved = []
    for skipped in (True, False):
        torch.manual_seed(0)
        settings = {"opt": kind, "lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
        run = trainer(faces, tmp_path / str(skipped), **settings)
        optimizer = run.optimizer.optimizer
        parameters = [p for p in run.detector.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in parameters]
        if skipped:
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, torch.nan)
            update(optimizer, torch.tensor(torch.nan), torch.tensor(1.0), 1.0)
            assert all(p.equal(b) for p, b in zip(parameters, before, strict=True))
        for step in range(2):
            for parameter in parameters:
                parameter.grad = torch.full_like(parameter, 0.5 + step)
            update(optimizer, torch.tensor(1.0), torch.tensor(0.0), None)
        moved.append([p.detach().clone() for p in parameters])
    assert all(a.equal(b) for a, b in zip(*moved, strict=True))


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize("lacks", ["found_inf", "grad_scale", "both", "fused"])
def test_a_device_whose_fused_step_ignores_the_flag_takes_no_wrong_step(
    faces: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, lacks: str
) -> None:
    """As Apple's before torch 2.13: a step by a gradient that is not finite loses the network."""
    reference = trainer(faces, tmp_path / "reference", opt=kind, lr=0.1, momentum=0.9)
    name = f"_fused_{kind}_"
    honest = getattr(torch, name)

    def ignorant(*args: Any, **kwargs: Any) -> None:
        ignored = ("found_inf", "grad_scale") if lacks == "both" else (lacks,)
        honest(*args, **kwargs | dict.fromkeys(ignored))

    with monkeypatch.context() as patch:
        if lacks == "fused":
            supported = sys.modules["torch.optim.optimizer"], "_get_fused_kernels_supported_devices"
            patch.setattr(*supported, lambda: ["cuda"])
        else:
            patch.setattr(torch, name, ignorant)
        unfused = trainer(faces, tmp_path / "unfused", opt=kind, lr=0.1, momentum=0.9)
    moved = []
    for run, fused in ((reference, True), (unfused, False)):
        optimizer = run.optimizer.optimizer
        assert optimizer.defaults["fused"] == fused
        weights = [p for p in run.detector.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in weights]
        for weight in weights:
            weight.grad = torch.full_like(weight, torch.nan)
        update(optimizer, torch.tensor(torch.nan), torch.tensor(1.0), 1.0)
        assert all(p.equal(b) for p, b in zip(weights, before, strict=True))
        for norm in (4.0, 0.5):  # clipped to a quarter, and not
            for weight in weights:
                weight.grad = torch.full_like(weight, 0.01)
            update(optimizer, torch.tensor(norm), torch.tensor(0.0), 1.0)
        moved.append(weights)
    for fused_weight, weight in zip(*moved, strict=True):
        torch.testing.assert_close(weight, fused_weight, rtol=1e-5, atol=1e-6)


def test_statistics_are_put_back_by_a_flag_on_the_device() -> None:
    norm = nn.BatchNorm2d(3)
    held = Statistics(norm)
    draw = torch.Generator().manual_seed(0)
    norm(torch.randn(4, 3, 5, 5, generator=draw))
    held.settle(torch.tensor(True))
    mean, count = norm.running_mean.clone(), norm.num_batches_tracked.clone()
    norm(torch.full((4, 3, 5, 5), torch.nan))
    assert norm.running_mean.isnan().all()
    held.settle(torch.tensor(False))
    assert norm.running_mean.equal(mean)
    # Without a step's first batches, as if they had not been.
    held.keep()
    after = norm.num_batches_tracked.clone()
    norm(torch.randn(4, 3, 5, 5, generator=draw))
    held.restore()
    assert norm.running_mean.equal(mean)
    assert norm.num_batches_tracked.equal(after)
    assert after > count

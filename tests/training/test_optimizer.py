"""Learning rates by hand and against torch's own schedules, steps by hand, statistics kept."""

import math
from typing import Any

import pytest
import torch

from focus.config.recipes import Tune
from focus.config.train import TrainConfig, resolve
from focus.model.detector import Detector
from focus.training.optimizer import make_optimizer, make_scheduler
from focus.training.tuning import freeze


def rates(steps_per_epoch: int, **settings: Any) -> list[float]:
    """The learning rate of each step, at a highest rate of 1."""
    config = resolve(TrainConfig.of(lr=1.0, **settings))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = make_scheduler(config, optimizer, steps_per_epoch)
    learning_rates = []
    for _ in range(config.epochs * steps_per_epoch):
        learning_rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    return learning_rates


def torchs(kind: Any, steps: int, *arguments: Any) -> list[float]:
    """The same of a schedule of torch's."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = kind(optimizer, *arguments)
    learning_rates = []
    for _ in range(steps):
        learning_rates += schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    return learning_rates


def test_one_cycle_that_rises_for_a_single_step() -> None:
    learning_rates = rates(1, epochs=5, warmup=0.2)
    # From lr / 25, then half a cosine down to almost 0.
    half_cosine = [(1 + math.cos(math.pi * step / 4)) / 2 for step in (1, 2, 3, 4)]
    assert learning_rates == pytest.approx([1 / 25, *half_cosine], abs=1e-5)


def test_one_cycle_of_a_single_step_has_the_whole_rate() -> None:
    for warmup in (0.0, 0.2, 0.9):
        assert rates(1, epochs=1, warmup=warmup) == rates(1, epochs=1, sched="constant")
    assert rates(1, epochs=1) == [1]


def test_constant_with_warmup() -> None:
    learning_rates = rates(4, epochs=2, sched="constant", warmup=0.5)
    assert learning_rates == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]
    assert rates(4, epochs=1, sched="constant", warmup=0.0) == [1] * 4


def test_cosine_is_that_of_torch() -> None:
    expected = torchs(torch.optim.lr_scheduler.CosineAnnealingLR, 12, 12)
    assert rates(4, epochs=3, sched="cosine", warmup=0.0) == pytest.approx(expected, abs=1e-12)
    warm = rates(4, epochs=4, sched="cosine", warmup=0.25)
    assert warm[:4] == [0.25, 0.5, 0.75, 1]
    assert warm[4:] == pytest.approx(expected, abs=1e-12)


def test_step_is_that_of_torch_and_counts_from_the_start() -> None:
    expected = torchs(torch.optim.lr_scheduler.StepLR, 15, 6, 0.1)
    settings: dict[str, Any] = {"sched": "step", "step_epochs": 2, "step_gamma": 0.1, "epochs": 5}
    assert rates(3, warmup=0.0, **settings) == pytest.approx(expected, rel=1e-12)
    assert rates(3, warmup=0.2, **settings) == pytest.approx(
        [1 / 3, 2 / 3, *expected[2:]], rel=1e-12
    )


def test_the_optimisers() -> None:
    detector = Detector()
    sgd = make_optimizer(resolve(TrainConfig.of(recipe="paper")), detector)
    adamw = make_optimizer(resolve(TrainConfig.of(opt="adamw", lr=0.5)), detector)
    for optimizer in (sgd, adamw):
        (group,) = optimizer.param_groups
        assert len(group["params"]) == len([*detector.parameters()])
    assert isinstance(sgd, torch.optim.SGD)
    assert {k: sgd.defaults[k] for k in ("lr", "momentum", "weight_decay")} == {
        "lr": 0.005,
        "momentum": 0.9,
        "weight_decay": 1e-6,
    }
    assert isinstance(adamw, torch.optim.AdamW)
    assert adamw.defaults["lr"] == 0.5


@pytest.mark.parametrize("tune", ["full", "norm", "head", "lora"])
def test_each_layer_has_its_rate_and_norms_no_decay(tune: Tune) -> None:
    """Those of timm, in whose schedules the rates are scaled; the head has the rate itself."""
    detector = Detector("test_vit", image_size=64)
    freeze(detector, tune)
    for decay in (None, 0.5):
        settings: dict[str, Any] = {
            "tune": tune,
            "layer_decay": decay,
            "lr": 0.1,
            "weight_decay": 0.2,
        }
        config = resolve(TrainConfig.of(**settings))
        optimizer = make_optimizer(config, detector)
        make_scheduler(config, optimizer, 10)
        if tune == "full" and decay is None:
            continue
        rate_and_decay = {
            parameter: (group["max_lr"], group["weight_decay"])
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        names = {p: name for name, p in detector.named_parameters() if p.requires_grad}
        assert rate_and_decay.keys() == names.keys()
        for parameter, (rate, weight_decay) in rate_and_decay.items():
            name = names[parameter].removeprefix("backbone.")
            layer = 7  # the head, after what embeds the patches and six blocks
            if name.startswith("blocks."):
                layer = 1 + int(name.split(".")[1])
            elif name.startswith("norm."):
                layer = 6  # as timm has it
            elif "embed" in name or "token" in name:
                layer = 0
            assert rate == pytest.approx(0.1 * (decay or 1) ** (7 - layer)), name
            spared = parameter.ndim < 2 or name in ("pos_embed", "cls_token", "reg_token")
            assert weight_decay == (0 if spared else 0.2), name

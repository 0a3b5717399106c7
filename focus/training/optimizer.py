"""The optimiser and its schedule."""

from functools import partial
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from focus.config.schedules import rate_factor
from focus.config.train import ResolvedTrainConfig
from focus.model.detector import Detector


def make_optimizer(config: ResolvedTrainConfig, detector: Detector) -> torch.optim.Optimizer:
    """Make SGD or AdamW on what is trained, in the fused form, which can skip a step by a flag.

    All weights are one group; where some are frozen, or ``--layer-decay`` is given, they are in the
    groups of timm, without a decay of norms and biases, the head's last.
    """
    kind: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": True}
    parameters: Any = detector.parameters()
    if config.tune != "full" or config.layer_decay is not None:
        parameters = _groups(detector, config.lr, config.weight_decay, config.layer_decay)
    if config.opt == "sgd":
        # Without a momentum of its own the schedule sets it, which torch asks to be above 0.
        momentum = 0.9 if config.momentum is None else config.momentum
        optimizer = torch.optim.SGD(parameters, momentum=momentum, **kind)
        for parameter in (p for group in optimizer.param_groups for p in group["params"]):
            # Else a first step that is skipped leaves memory that nobody has written.
            if momentum and parameter.requires_grad:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer
    return torch.optim.AdamW(parameters, **kind)


def _groups(
    detector: Detector, lr: float, weight_decay: float, layer_decay: float | None
) -> list[dict[str, Any]]:
    backbone = detector.backbone
    spared: set[str] = getattr(backbone, "no_weight_decay", set)()  # embeddings of positions
    if layer_decay is None:
        groups = param_groups_weight_decay(backbone, weight_decay, no_weight_decay_list=spared)
    else:
        groups = param_groups_layer_decay(
            backbone, weight_decay, no_weight_decay_list=spared, layer_decay=layer_decay
        )
        for group in groups:
            group["lr_scale"] *= layer_decay  # the layer after its last one is the head
    groups += param_groups_weight_decay(detector.head, weight_decay)
    # Of timm's own schedules: torch's multiply the rate that a group has.
    return [{**group, "lr": lr * group.pop("lr_scale", 1.0)} for group in groups]


def make_scheduler(
    config: ResolvedTrainConfig, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> LRScheduler:
    """Make the schedule of the learning rate, in steps of the optimiser."""
    steps = config.epochs * steps_per_epoch
    if config.sched == "one-cycle" and steps > 1:  # of one step torch makes the last, of rate 0
        # Torch divides by the length of the rise in its own count, 0 for exactly one step.
        rise = config.warmup * (1 + 1e-9 * (config.warmup * steps == 1))
        highest = [group["lr"] for group in optimizer.param_groups]
        return OneCycleLR(optimizer, max_lr=highest, total_steps=steps, pct_start=rise)
    factor = partial(
        rate_factor,
        config.sched,
        steps=steps,
        warmup=config.warmup,
        step_length=config.step_epochs * steps_per_epoch,
        gamma=config.step_gamma,
    )
    return LambdaLR(optimizer, factor)

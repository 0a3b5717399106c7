"""The optimiser and its schedule.

A fused optimiser steps by one kernel for all weights. torch hands it what a ``GradScaler`` knows,
as tensors of the device: it divides gradients by ``grad_scale``, and where ``found_inf`` is 1 it
changes nothing. By these two, :func:`focus.training.step.update` clips gradients and skips steps
without a wait of the host. What torch's kernels do with them, as their source says (PyTorch 2.13,
and torch-xpu-ops for XPU); on the CPU it was also run:

========================  ==============================  ==============================
device                    SGD                             AdamW
========================  ==============================  ==============================
CUDA                      both honoured, by the kernel    both honoured, by the kernel
XPU                       both honoured, by the kernel    both honoured, by the kernel
CPU                       both honoured, before it        both honoured, before it
MPS, from torch 2.13 on   both honoured, by the kernel    both honoured, by the kernel
MPS, before               both ignored                    both ignored
========================  ==============================  ==============================

On MPS before 2.13 (pytorch #186360) a step is taken by a gradient that is not finite, and none is
clipped. On every device torch itself puts back AdamW's count of steps where one is skipped, and a
first step that is skipped leaves SGD's momentum as memory that nobody wrote.

What holds on a device is tried before training (:func:`fused_obeys`). Where a flag is ignored, or
torch has no fused form, the optimiser is not fused: the host then reads whether a step is finite,
and waits for it.
"""

import math
from functools import partial
from typing import Any

import torch
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from focus.config.recipes import Optimizer, Schedule
from focus.config.train import ResolvedTrainConfig
from focus.model.detector import Detector
from focus.training.step import update


def make_optimizer(config: ResolvedTrainConfig, detector: Detector) -> torch.optim.Optimizer:
    """Make SGD or AdamW on what is trained, fused where its step obeys a flag of the device.

    All weights are one group; where some are frozen, or ``--layer-decay`` is given, they are in the
    groups of timm, without a decay of norms and biases, the head's last.
    """
    device = next(detector.parameters()).device
    fused = fused_obeys(config.opt, device)
    kind: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay, "fused": fused}
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


def fused_obeys(name: Optimizer, device: torch.device) -> bool:
    """Return whether a fused optimiser on the device honours ``found_inf`` and ``grad_scale``.

    Tried on a weight of 1: a step that is to be skipped must leave it, and one whose gradient of 2
    is to be divided by 2 must take it where a gradient of 1 would.
    """
    weight = torch.ones(1, device=device, requires_grad=True)
    weight.grad = torch.full_like(weight, 2.0)
    trial: torch.optim.Optimizer
    if name == "sgd":
        trial, expected = torch.optim.SGD([weight], lr=0.5, fused=True), 0.5
    else:  # by whose large eps the size of the gradient counts: 1 - 0.5 * 1 / (1 + eps)
        trial = torch.optim.AdamW([weight], lr=0.5, weight_decay=0.0, eps=1.0, fused=True)
        expected = 0.75
    one = torch.ones((), device=device)
    try:
        update(trial, norm=one, skip=one, limit=None)
        skipped = bool(torch.isclose(weight.detach(), one).all())
        update(trial, norm=2 * one, skip=0 * one, limit=1.0)
    except RuntimeError:  # torch has no fused form for the device
        return False
    return skipped and bool(torch.isclose(weight.detach(), expected * one).all())


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


def rate_factor(
    schedule: Schedule,
    step: int,
    *,
    steps: int,
    warmup: float,
    step_length: int = 1,
    gamma: float = 1,
) -> float:
    """Return the factor of the highest learning rate, in [0, 1] for ``gamma`` up to 1.

    Linear over the first ``round(warmup * steps)`` steps of the optimiser, the last of which has
    the whole rate. Then "constant"; "cosine", half a wave down to 0 after the last step; "step",
    times ``gamma`` every ``step_length`` steps, counted from the start.

    step: The number of the step, from 0. steps: The number of steps of the run. "one-cycle" is
    torch's own.
    """
    rising = round(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    if schedule == "cosine":
        share_done = min(1.0, (step - rising) / max(1, steps - rising))
        return (1 + math.cos(math.pi * share_done)) / 2
    if schedule == "step":
        return gamma ** (step // step_length)
    return 1.0

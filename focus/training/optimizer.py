"""The optimiser, its schedule, the gradients of a step, and what a skipped step takes back."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from focus.config.schedules import rate_factor
from focus.config.train import ResolvedTrainConfig
from focus.data.dataset import Batch
from focus.model.detector import Detector
from focus.training.batches import MicroBatch


def make_optimizer(config: ResolvedTrainConfig, detector: Detector) -> torch.optim.Optimizer:
    """Make SGD or AdamW on what is trained.

    All weights are one group; where some are frozen, or ``--layer-decay`` is given, they are in the
    groups of timm, without a decay of norms and biases, the head's last.
    """
    kind: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    parameters: Any = detector.parameters()
    if config.tune != "full" or config.layer_decay is not None:
        parameters = _groups(detector, **kind, layer_decay=config.layer_decay)
    if config.opt == "sgd":
        # Without a momentum of its own the schedule sets it, which torch asks to be above 0.
        momentum = 0.9 if config.momentum is None else config.momentum
        return torch.optim.SGD(parameters, momentum=momentum, **kind)
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


def add_gradients(
    accelerator: Accelerator,
    model: nn.Module,
    batches: Sequence[MicroBatch],
    loaded: Iterator[Batch],
    memory_format: torch.memory_format,
) -> list[Tensor]:
    """Add the gradients of a step's batches; return the sums of ``TERMS`` and images of each."""
    sums = []
    for planned in batches:
        batch = next(loaded).to(accelerator.device, memory_format)
        # The processes exchange gradients in the last backward only.
        with nullcontext() if planned.last else accelerator.no_sync(model):
            token = (batch.token,) if batch.token.shape[1] else ()
            out = model(batch.images, batch.target, batch.saliency, batch.saliency_mask, *token)
            accelerator.backward(out.loss * planned.weight)
        if planned.counted:
            terms = (out.classification, out.focus, out.saliency, out.entropy)
            totals = [out.loss.detach() * planned.counted, *(term.sum() for term in terms)]
            totals.append(batch.saliency_mask.sum(dtype=totals[0].dtype))
            sums.append(torch.stack([*totals, torch.full_like(totals[0], planned.counted)]))
    return sums


def clip_gradients(model: nn.Module, limit: float | None) -> Tensor:
    """Clip the norm of all gradients, unless there is no limit; return what it was before."""
    parameters = [p for p in model.parameters() if p.grad is not None]
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if limit is not None:
        clip_grads_with_norm_(parameters, limit, norm)
    return norm


class Buffers:
    """The running statistics of a network as they were after the last step that was done.

    A forward that is not finite has spoilt them before anybody sees its loss.
    """

    def __init__(self, model: nn.Module) -> None:
        # Those of one type are copied at once: statistics, and the numbers of batches in them.
        by_type: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            by_type.setdefault(buffer.dtype, []).append(buffer)
        self._own = list(by_type.values())
        self._kept = [[buffer.clone() for buffer in buffers] for buffers in self._own]

    def keep(self) -> None:
        """Copy them."""
        for kept, own in zip(self._kept, self._own, strict=True):
            torch._foreach_copy_(kept, own)

    def restore(self) -> None:
        """Put the copies back."""
        for kept, own in zip(self._kept, self._own, strict=True):
            torch._foreach_copy_(own, kept)

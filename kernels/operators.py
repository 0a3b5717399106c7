"""The kernels as operators of ``torch.library``, for graphs of torch.compile.

Arguments and results are those of the launchers, but for settings, which are tensors, and gradients
that nobody asks for, which are empty. An operator has shapes for tracing and no derivative of its
own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from focus.kernels.backend import form
from focus.kernels.types import (
    HeadArguments,
    HeadForward,
    channels_last,
    empty_features,
)


@torch.library.custom_op("focus::cam_entropy", mutates_args=())
def cam_entropy(
    features: Tensor, weight: Tensor, index: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor]:
    forward = form("triton", "cam_entropy_forward")
    out: tuple[Tensor, Tensor] = forward(features, weight, index, temperature)
    return out


@cam_entropy.register_fake
def _(features: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    batch, grid = features.shape[0], features.shape[2:]
    return _new(features, batch, *grid), _new(features, batch)


@torch.library.custom_op("focus::cam_entropy_backward", mutates_args=())
def cam_entropy_backward(
    features: Tensor,
    weight: Tensor,
    index: Tensor,
    cam: Tensor,
    temperature: Tensor,
    grad_cam: Tensor | None,
    grad_entropy: Tensor | None,
    need_features: bool,
    need_weight: bool,
) -> tuple[Tensor, Tensor]:
    backward, needs = form("triton", "cam_entropy_backward"), (need_features, need_weight)
    found = backward(features, weight, index, temperature, cam, grad_cam, grad_entropy, needs)
    return _or_empty(found[0], features), _or_empty(found[1], weight)


@cam_entropy_backward.register_fake
def _(features: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    like = (features.shape, features.dtype, channels_last(features), features.device)
    return (
        empty_features(*like) if others[-2] else features.new_empty(0),
        weight.new_empty(weight.shape if others[-1] else 0),
    )


@torch.library.custom_op("focus::class_activation", mutates_args=())
def class_activation(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    classes: Tensor,
    temperature: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    call = form("triton", "class_activation")
    out: tuple[Tensor, Tensor, Tensor] = call(features, weight, bias, classes, temperature)
    return out


@class_activation.register_fake
def _(
    features: Tensor, weight: Tensor, bias: Tensor | None, classes: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        _new(features, features.shape[0], weight.shape[0]),
        _new(features, *classes.shape, *features.shape[2:]),
        _new(features, *classes.shape),
    )


@torch.library.custom_op("focus::focus_head", mutates_args=())
def focus_head(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    saliency: Tensor | None,
    saliency_mask: Tensor | None,
    entropy_target: Tensor | None,
    class_weight: Tensor | None,
    numbers: Sequence[Tensor],
    level: str,
    cam_class: str,
    reduction: str,
    need_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    options: list[Any] = [class_weight, None, *numbers, level, cam_class, reduction]
    tensors = (features, weight, bias, target, saliency, saliency_mask, entropy_target)
    given = HeadArguments(*tensors, *options)
    out: HeadForward = form("triton", "focus_head_forward")(given, need_weight)
    return out


@focus_head.register_fake
def _(
    features: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, *others: Any
) -> tuple[Tensor, ...]:
    *_, reduction, need_weight = others
    (batch, channels, height, width), classes = features.shape, len(weight)
    kept = (batch, channels) if need_weight else (0,)
    return HeadForward(
        loss=_new(features, *((batch,) if reduction == "none" else ())),
        logits=_new(features, batch, classes),
        cam=_new(features, batch, height, width),
        terms=_new(features, 4, batch),
        classes=features.new_empty(batch, dtype=torch.int64),
        grad_cam=_new(features, batch, height * width),
        grad_logits=_new(features, batch, classes),
        pooled=_new(features, *kept),
        projected=_new(features, *kept),
    )


@torch.library.custom_op("focus::focus_head_backward", mutates_args=())
def focus_head_backward(
    grad_cam: Tensor,
    grad_logits: Tensor,
    pooled: Tensor,
    projected: Tensor,
    classes: Tensor,
    weight: Tensor,
    upstream: Tensor | None,
    upstream_logits: Tensor | None,
    grad_scale: Tensor | None,
    contrast: bool,
    shape: Sequence[int],
    dtype: torch.dtype,
    last: bool,
    need_features: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    out = empty_features(shape, dtype, last, weight.device) if need_features else None
    grad_weight, grad_bias = form("triton", "focus_head_backward")(
        grad_cam, grad_logits, pooled, projected, classes, weight, upstream, upstream_logits,
        grad_scale, contrast, out, (need_weight, need_bias),
    )  # fmt: skip
    found = zip((out, grad_weight, grad_bias), (grad_cam, weight, grad_logits), strict=True)
    grad_features, grad_weight, grad_bias = (_or_empty(*each) for each in found)
    return grad_features, grad_weight, grad_bias


@focus_head_backward.register_fake
def _(grad_cam: Tensor, grad_logits: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    weight = others[3]
    shape, dtype, last, need_features, need_weight, need_bias = others[-6:]
    out = empty_features(shape, dtype, last, weight.device) if need_features else None
    return (
        _or_empty(out, grad_cam),
        weight.new_empty(weight.shape if need_weight else 0),
        grad_logits.new_empty(len(weight) if need_bias else 0),
    )


def _new(features: Tensor, *shape: int) -> Tensor:
    return features.new_empty(shape, dtype=torch.float32)


def _or_empty(grad: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0) if grad is None else grad

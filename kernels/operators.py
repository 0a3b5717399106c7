"""The registered operators of ``torch.library``: the operations in their eager and Triton forms.

``class_activation``, without gradient, is one in Triton only. Operators have shapes for tracing
but no derivative of their own, so that a second derivative raises instead of being silently wrong.
Arguments and results are those of the forms, in ``eager`` and ``triton_*``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from focus.kernels import eager
from focus.kernels.checks import check_range
from focus.kernels.types import HeadForward, accumulation_dtype, empty_gradient


@torch.library.custom_op("focus::cam_entropy", mutates_args=())
def cam_entropy_op(
    features: Tensor, weight: Tensor, index: Tensor, temperature: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    check_range("index", index, len(weight))
    forward, _ = cam_entropy_form(backend)
    cam, entropy = forward(features, weight, index, temperature)
    return cam, entropy


@cam_entropy_op.register_fake
def _(
    features: Tensor, weight: Tensor, index: Tensor, temperature: Tensor, backend: str
) -> tuple[Tensor, Tensor]:
    dtype = accumulation_dtype(features)
    batch, _, height, width = features.shape
    return (
        features.new_empty((batch, height, width), dtype=dtype),
        features.new_empty((batch,), dtype=dtype),
    )


@torch.library.custom_op("focus::cam_entropy_backward", mutates_args=())
def cam_entropy_backward_op(
    features: Tensor,
    weight: Tensor,
    index: Tensor,
    temperature: Tensor,
    cam: Tensor,
    grad_cam: Tensor,
    grad_entropy: Tensor,
    need_features: bool,
    need_weight: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    _, backward = cam_entropy_form(backend)
    grad_features, grad_weight = backward(
        features,
        weight,
        index,
        temperature,
        cam,
        grad_cam,
        grad_entropy,
        (need_features, need_weight),
    )
    return _or_empty(grad_features, features), _or_empty(grad_weight, weight)


@cam_entropy_backward_op.register_fake
def _(features: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    *_, need_features, need_weight, _ = others
    return (
        empty_gradient(features) if need_features else features.new_empty(0),
        weight.new_empty(weight.shape) if need_weight else weight.new_empty(0),
    )


@torch.library.custom_op("focus::class_activation", mutates_args=())
def class_activation_op(
    features: Tensor, weight: Tensor, bias: Tensor | None, classes: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    from focus.kernels import triton_cam_entropy

    return triton_cam_entropy.class_activation(features, weight, bias, classes, temperature)


@class_activation_op.register_fake
def _(
    features: Tensor, weight: Tensor, bias: Tensor | None, classes: Tensor, temperature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulation_dtype(features)
    batch, _, height, width = features.shape
    return (
        features.new_empty((batch, len(weight)), dtype=dtype),
        features.new_empty((*classes.shape, height, width), dtype=dtype),
        features.new_empty(classes.shape, dtype=dtype),
    )


@torch.library.custom_op("focus::focus_head", mutates_args=())
def focus_head_op(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    saliency: Tensor | None,
    saliency_mask: Tensor | None,
    entropy_target: Tensor | None,
    class_weight: Tensor | None,
    scalars: Tensor,
    level: str,
    cam_class: str,
    reduction: str,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    check_range("target", target, len(weight))
    forward, _ = focus_head_form(backend)
    out: HeadForward = forward(
        features,
        weight,
        bias,
        target,
        saliency,
        saliency_mask,
        entropy_target,
        class_weight,
        scalars,
        level,
        cam_class,
        reduction,
    )
    return out


@focus_head_op.register_fake
def _(
    features: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, *others: Any
) -> tuple[Tensor, ...]:
    dtype = accumulation_dtype(features)
    batch, channels, height, width = features.shape
    *_, backend = others
    return HeadForward(
        terms=features.new_empty((5, batch), dtype=dtype),
        logits=features.new_empty((batch, len(weight)), dtype=dtype),
        cam=features.new_empty((batch, height, width), dtype=dtype),
        classes=target.new_empty((batch,)),
        pooled=features.new_empty((batch, channels) if backend == "eager" else (0,), dtype=dtype),
        grad_cam=features.new_empty((batch, height * width), dtype=dtype),
        grad_logits=features.new_empty((batch, len(weight)), dtype=dtype),
    )


@torch.library.custom_op("focus::focus_head_backward", mutates_args=())
def focus_head_backward_op(
    features: Tensor,
    weight: Tensor,
    index: Tensor,
    pooled: Tensor,
    grad_cam: Tensor,
    grad_logits: Tensor,
    upstream: Tensor,
    cam_class: str,
    need_features: bool,
    need_weight: bool,
    need_bias: bool,
    backend: str,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    # The gradients depend on the bias, through the logits', and are not made of it: it is here for
    # a second derivative by it alone to raise as well.
    _, backward = focus_head_form(backend)
    grad_features, grad_weight, grad_bias = backward(
        features,
        weight,
        index,
        pooled,
        grad_cam,
        grad_logits,
        upstream,
        cam_class,
        (need_features, need_weight, need_bias),
    )
    return (
        _or_empty(grad_features, features),
        _or_empty(grad_weight, weight),
        _or_empty(grad_bias, grad_logits),
    )


@focus_head_backward_op.register_fake
def _(features: Tensor, weight: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    *_, grad_logits, _, _, need_features, need_weight, need_bias, _, _ = others
    return (
        empty_gradient(features) if need_features else features.new_empty(0),
        weight.new_empty(weight.shape) if need_weight else weight.new_empty(0),
        grad_logits.new_empty(len(weight)) if need_bias else grad_logits.new_empty(0),
    )


def cam_entropy_form(backend: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Forward and backward of ``cam_entropy`` on a backend."""
    if backend == "triton":
        # Imported on first use: a machine without triton has everything else.
        from focus.kernels import triton_cam_entropy

        return triton_cam_entropy.cam_entropy_forward, triton_cam_entropy.cam_entropy_backward
    return eager.cam_entropy_forward, eager.cam_entropy_backward


def focus_head_form(backend: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Forward and backward of ``focus_head`` on a backend."""
    if backend == "triton":
        from focus.kernels import triton_focus_head

        return triton_focus_head.focus_head_forward, triton_focus_head.focus_head_backward
    return eager.focus_head_forward, eager.focus_head_backward


def _or_empty(grad: Tensor | None, like: Tensor) -> Tensor:
    """Operators cannot return None: an empty tensor stands for a gradient not asked for."""
    return like.new_empty(0) if grad is None else grad

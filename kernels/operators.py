"""The Triton kernels with their derivatives: in eager mode and in graphs of torch.compile.

In eager mode an ``autograd.Function`` calls a launcher. Dynamo cannot trace that, so in a graph
an operator of ``torch.library`` with the launcher's arguments stands for it; settings are then
tensors, since each float would compile anew.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from focus.kernels.terms import Terms
from focus.kernels.types import HeadArguments, Number, channels_last, refuse_second_derivative


@functools.cache
def launcher(name: str) -> Callable[..., Any]:
    """Return a launcher. Imported on first use: a machine without triton has everything else."""
    from focus.kernels import triton_cam, triton_focus_head

    module = triton_focus_head if name.startswith("focus_head") else triton_cam
    return getattr(module, name)  # type: ignore[no-any-return]


def _call(name: str, *arguments: Any) -> Any:
    if not torch.compiler.is_compiling():
        return launcher(name)(*arguments)
    device = arguments[0].device
    return getattr(torch.ops.focus, name)(*(_as_tensor(x, device) for x in arguments))


def _as_tensor(x: Any, device: torch.device) -> Any:
    """Return a float as a tensor. Added to a zero, one that changes is an input of the graph."""
    if isinstance(x, Terms):
        return [_as_tensor(each, device) for each in x]
    if isinstance(x, bool) or not isinstance(x, (int, float)):
        return x
    return torch.zeros((), dtype=torch.float32, device=device) + x


class CamEntropy(torch.autograd.Function):
    """CAMs ``[B,H,W]`` and entropies ``[B]``."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, index: Tensor, temperature: Number
    ) -> tuple[Tensor, Tensor]:
        cam, entropy = _call("cam_entropy_forward", features, weight, index, temperature)
        ctx.save_for_backward(features, weight, index, cam)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return cam, entropy

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        needs = ctx.needs_input_grad[:2]
        small = *ctx.saved_tensors, ctx.temperature, *upstream
        found = _call("cam_entropy_backward", *small, *needs)
        grads = [grad if need else None for grad, need in zip(found, needs, strict=True)]
        return *grads, None, None


class HeadFunction(torch.autograd.Function):
    """Loss, logits, CAMs ``[B,H,W]`` and terms, as in HeadForward.

    The three that have a gradient stand beside the HeadArguments.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        given: HeadArguments,
        need_weight: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if torch.compiler.is_compiling():  # where tensors in a tuple are none of the arguments
            given = given._replace(features=features, weight=weight, bias=bias)
        loss, logits, cam, terms, saved = _call("focus_head_forward", *given, need_weight)
        ctx.save_for_backward(saved, weight, bias)
        ctx.like = features.shape, features.dtype, channels_last(features)
        ctx.contrast = given.cam_class == "contrast"
        ctx.set_materialize_grads(False)  # zeros for the constants would be launches
        ctx.mark_non_differentiable(cam, terms)
        return loss, logits, cam, terms

    @staticmethod
    def backward(
        ctx: Any, upstream: Tensor | None, upstream_logits: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        saved, weight, bias = ctx.saved_tensors
        needs, of_sample = ctx.needs_input_grad[:3], bias is not None and bias.dim() == 2
        small = saved, weight, upstream, upstream_logits, ctx.contrast, of_sample
        found = _call("focus_head_backward", *small, *ctx.like, *needs)
        grads = [grad if need else None for grad, need in zip(found, needs, strict=True)]
        if grads[2] is not None:
            grads[2] = grads[2].to(bias.dtype)
        return *grads, None, None


_library = torch.library.Library("focus", "DEF")


def _register(schema: str, **options: Any) -> None:
    """Make a launcher an operator; given tensors without data, it makes results and no launch."""
    name = schema.partition("(")[0]

    def call(*given: Any) -> Any:
        return launcher(name)(*given, **options)

    _library.define(schema, tags=torch.Tag.pt2_compliant_tag)
    _library.impl(name, call, "CompositeExplicitAutograd")
    torch.library.register_fake(f"focus::{name}", call, lib=_library)


_register(
    "cam_entropy_forward(Tensor features, Tensor weight, Tensor index, Tensor temperature)"
    " -> (Tensor, Tensor)",
    in_graph=True,
)
_register(
    "cam_entropy_backward(Tensor features, Tensor weight, Tensor index, Tensor cam,"
    " Tensor temperature, Tensor? grad_cam, Tensor? grad_entropy, bool need_features,"
    " bool need_weight) -> (Tensor, Tensor)",
    in_graph=True,
)
_register(
    "focus_head_forward(Tensor features, Tensor weight, Tensor? bias, Tensor target,"
    " Tensor? saliency, Tensor? saliency_mask, Tensor? entropy_target, Tensor? class_weight,"
    " Tensor[] weights, Tensor temperature, Tensor label_smoothing, str focus_level,"
    " str cam_class, str entropy, str reduction, bool need_weight)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    in_graph=True,
)
_register(
    "focus_head_backward(Tensor saved, Tensor weight, Tensor? upstream, Tensor? upstream_logits,"
    " bool contrast, bool bias_of_sample, SymInt[] shape, ScalarType dtype, bool last,"
    " bool need_features, bool need_weight, bool need_bias) -> (Tensor, Tensor, Tensor)"
)

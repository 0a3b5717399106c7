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
from focus.kernels.types import (
    HeadArguments,
    HeadForward,
    Number,
    channels_last,
    refuse_second_derivative,
)


@functools.cache
def launcher(name: str) -> Callable[..., Any]:
    """Return a launcher. Imported on first use: a machine without triton has everything else."""
    from focus.kernels import triton_cam, triton_focus_head

    module = triton_focus_head if name.startswith("focus_head") else triton_cam
    return getattr(module, name)  # type: ignore[no-any-return]


def _call(name: str, **arguments: Any) -> Any:
    """Call a launcher, or in a graph the operator of its name."""
    if not torch.compiler.is_compiling():
        return launcher(name)(**arguments)
    device = arguments["weight"].device
    settings_as_tensors = {key: _as_tensor(x, device) for key, x in arguments.items()}
    return getattr(torch.ops.focus, name)(**settings_as_tensors)


def _as_tensor(x: Any, device: torch.device) -> Any:
    """Return a float as a tensor. Added to a zero, one that changes is an input of the graph."""
    if isinstance(x, Terms):
        return [_as_tensor(weight, device) for weight in x]
    if isinstance(x, bool) or not isinstance(x, (int, float)):
        return x
    return torch.zeros((), dtype=torch.float32, device=device) + x


class CamEntropy(torch.autograd.Function):
    """CAMs ``[B,H,W]`` and entropies ``[B]``."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, index: Tensor, temperature: Number
    ) -> tuple[Tensor, Tensor]:
        cam, entropy = _call(
            "cam_entropy_forward",
            features=features,
            weight=weight,
            index=index,
            temperature=temperature,
        )
        ctx.save_for_backward(features, weight, index, cam)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return cam, entropy

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        features, weight, index, cam = ctx.saved_tensors
        grad_cam, grad_entropy = upstream
        need_features, need_weight = ctx.needs_input_grad[:2]
        grad_features, grad_weight = _call(
            "cam_entropy_backward",
            features=features,
            weight=weight,
            index=index,
            cam=cam,
            temperature=ctx.temperature,
            grad_cam=grad_cam,
            grad_entropy=grad_entropy,
            need_features=need_features,
            need_weight=need_weight,
        )
        return (
            grad_features if need_features else None,
            grad_weight if need_weight else None,
            None,
            None,
        )


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
        arguments: HeadArguments,
        need_weight: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if torch.compiler.is_compiling():
            # Tensors in a tuple are none of the graph's arguments.
            arguments = arguments._replace(features=features, weight=weight, bias=bias)
            results = _call("focus_head_forward", **arguments._asdict(), need_weight=need_weight)
        else:
            results = launcher("focus_head_forward")(arguments, need_weight)
        out = HeadForward(*results)
        ctx.save_for_backward(out.saved, weight, bias)
        ctx.shape, ctx.dtype, ctx.last = features.shape, features.dtype, channels_last(features)
        ctx.contrast = arguments.cam_class == "contrast"
        ctx.set_materialize_grads(False)  # zeros for the constants would be launches
        ctx.mark_non_differentiable(out.cam, out.terms)
        return out.loss, out.logits, out.cam, out.terms

    @staticmethod
    def backward(
        ctx: Any, upstream: Tensor | None, upstream_logits: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        saved, weight, bias = ctx.saved_tensors
        need_features, need_weight, need_bias = ctx.needs_input_grad[:3]
        grad_features, grad_weight, grad_bias = _call(
            "focus_head_backward",
            saved=saved,
            weight=weight,
            upstream=upstream,
            upstream_logits=upstream_logits,
            contrast=ctx.contrast,
            bias_of_sample=bias is not None and bias.dim() == 2,
            shape=ctx.shape,
            dtype=ctx.dtype,
            last=ctx.last,
            need_features=need_features,
            need_weight=need_weight,
            need_bias=need_bias,
        )
        return (
            grad_features if need_features else None,
            grad_weight if need_weight else None,
            grad_bias.to(bias.dtype) if need_bias else None,
            None,
            None,
        )


_library = torch.library.Library("focus", "DEF")


def _register(schema: str, call: Callable[..., Any]) -> None:
    """Make ``call`` an operator; given tensors without data, it makes results and no launch."""
    name = schema.partition("(")[0]
    _library.define(schema, tags=torch.Tag.pt2_compliant_tag)
    _library.impl(name, call, "CompositeExplicitAutograd")
    torch.library.register_fake(f"focus::{name}", call, lib=_library)


def _launch_in_graph(name: str, *arguments: Any) -> Any:
    return launcher(name)(*arguments, in_graph=True)


def _launch_head(*arguments: Any) -> Any:
    *head_arguments, need_weight = arguments
    return _launch_in_graph("focus_head_forward", HeadArguments(*head_arguments), need_weight)


_register(
    "cam_entropy_forward(Tensor features, Tensor weight, Tensor index, Tensor temperature)"
    " -> (Tensor, Tensor)",
    functools.partial(_launch_in_graph, "cam_entropy_forward"),
)
_register(
    "cam_entropy_backward(Tensor features, Tensor weight, Tensor index, Tensor cam,"
    " Tensor temperature, Tensor? grad_cam, Tensor? grad_entropy, bool need_features,"
    " bool need_weight) -> (Tensor, Tensor)",
    functools.partial(_launch_in_graph, "cam_entropy_backward"),
)
_register(
    "focus_head_forward(Tensor features, Tensor weight, Tensor? bias, Tensor target,"
    " Tensor? saliency, Tensor? saliency_mask, Tensor? entropy_target, Tensor? class_weight,"
    " Tensor[] weights, Tensor temperature, Tensor label_smoothing, str focus_level,"
    " str cam_class, str entropy, str reduction, bool need_weight)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _launch_head,
)
_register(
    "focus_head_backward(Tensor saved, Tensor weight, Tensor? upstream, Tensor? upstream_logits,"
    " bool contrast, bool bias_of_sample, SymInt[] shape, ScalarType dtype, bool last,"
    " bool need_features, bool need_weight, bool need_bias) -> (Tensor, Tensor, Tensor)",
    lambda *arguments: launcher("focus_head_backward")(*arguments),
)

"""The public operations: arguments are checked at the entry, then autograd meets a form.

In eager mode a plain ``autograd.Function`` calls the form; where torch.compile traces, registered
operators stand for the forms, since Dynamo cannot trace a launcher.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from focus.kernels import checks, operators, reference
from focus.kernels.backend import backend_for, form, rows_held
from focus.kernels.types import (
    CamClass,
    FocusHeadOutput,
    HeadArguments,
    HeadForward,
    Level,
    Number,
    Reduction,
    as_tensor,
    channels_last,
    empty_features,
)


def cam_entropy(
    features: Tensor, weight: Tensor, index: Tensor, *, temperature: Number = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the CAM of one class per sample, and its entropy; both differentiable.

    Args:
        features: ``[B,C,H,W]``, float64, float32, bfloat16 or float16, any strides.
        weight: classifier ``[K,C]``, of any of these types.
        index: class of each sample ``[B]``, int64 in [0, K).
        temperature: T > 0 of the softmax; a float or a tensor of one element; no gradient.

    Returns:
        ``cam [B,H,W]``, ``z = sum_c W[index_b,c] F[b,c,p]``, raw and without bias, and
        ``entropy [B]``, ``-sum p log p / log(HW)`` of ``p = softmax(z / T)``, in [0, 1] up to
        rounding (0 when H*W is 1). float32; float64 for float64 features.

    Raises:
        ValueError, TypeError: shapes, types or devices that do not fit.
        IndexError: a class outside [0, K), for CPU tensors. On a GPU, where a check would stop the
            device, that sample becomes NaN.
    """
    checks.check_cam_entropy(features, weight, index, temperature)
    backend = _backend(features, 1)
    if backend != "triton":
        checks.check_range("index", index, len(weight))
    if backend == "reference":
        return reference.cam_entropy(features, weight, index, temperature)
    out: tuple[Tensor, Tensor] = _CamEntropy.apply(  # type: ignore[no-untyped-call]
        features, weight, index, temperature, backend
    )
    return out


def class_activation(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    classes: Tensor | Sequence[int],
    *,
    temperature: Number = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, and CAM and entropy of several classes per sample; without gradient.

    Args:
        features: ``[B,C,H,W]``, as in :func:`cam_entropy`.
        weight: classifier ``[K,C]``; bias: ``[K]`` or None.
        classes: ``[B,k]`` int64 in [0, K), or k class numbers that serve every sample.
        temperature: T > 0 of the softmax; a float or a tensor of one element.

    Returns:
        ``logits [B,K]``, raw ``cams [B,k,H,W]`` without bias, ``entropy [B,k]`` in [0, 1] (0 when
        H*W is 1). float32; float64 for float64 features.

    Raises:
        ValueError, TypeError, IndexError: as :func:`cam_entropy`; class numbers of a sequence are
            checked on every device.
    """
    index = checks.check_class_activation(features, weight, bias, classes, temperature)
    backend = _backend(features, 1)
    if backend != "triton" and isinstance(classes, Tensor):
        checks.check_range("classes", classes, len(weight))
    with torch.no_grad():
        if backend == "triton" and torch.compiler.is_compiling():
            call: Any = operators.class_activation
            temperature = as_tensor(temperature, features)
        else:
            call = form(backend, "class_activation")
        out: tuple[Tensor, Tensor, Tensor] = call(features, weight, bias, index, temperature)
        return out


def focus_head(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    saliency: Tensor | None = None,
    saliency_mask: Tensor | None = None,
    entropy_target: Number | None = None,
    classification_weight: Number = 1.0,
    focus_weight: Number = 0.0,
    saliency_weight: Number = 0.0,
    level: Level = "minimize",
    cam_class: CamClass = "true",
    temperature: Number = 1.0,
    label_smoothing: Number = 0.0,
    class_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    grad_scale: Tensor | None = None,
) -> FocusHeadOutput:
    """Pool, classify, and return cross-entropy, focus and saliency terms with all gradients.

    ``loss_b = a CE_b + b focus_b + c saliency_b`` with the weights ``classification_weight``,
    ``focus_weight`` and ``saliency_weight``. The formulas stand in :mod:`focus.kernels.reference`;
    the saliency term is CYBORG's (Boyd et al., 2023), the focus levels are this project's reading
    of arXiv 2303.00818.

    Args:
        features: ``[B,C,H,W]``, the very tensor that pooling and classifier see; float64, float32,
            bfloat16 or float16, any strides.
        weight: ``[K,C]``; bias: ``[K]`` or None.
        target: class numbers ``[B]`` int64 in [0, K), or shares of the classes ``[B,K]`` (mixup,
            distillation), floating point, taken as they are; no gradient. With shares the CAM is
            that of the largest, the first of equal ones.
        saliency: human maps ``[B,H,W]`` in [0, 1] on the CAM grid, bool or of a type that features
            may have, taken as they are: stretch each to the whole range; no gradient.
        saliency_mask: ``[B]`` bool, which samples have a map, and not a constant one; None means
            all.
        entropy_target: ``h*`` in [0, 1] for the levels match and hinge, a float or a tensor of one
            element or ``[B]``; no gradient. None means the entropy of the sample's map divided by
            its sum; then a sample without a map, or with an all-zero one, has no focus term.
        classification_weight, focus_weight, saliency_weight, temperature, label_smoothing: floats
            or tensors of one element (tensors, on the features' device, where the value changes
            with each step); no gradient. The temperature is above 0, the smoothing in [0, 1), which
            is checked of floats; the weights may be any number.
        level: "none", "match" ``|h - h*|``, "hinge" ``relu(h - h*)`` or "minimize" ``h``.
        cam_class: class of the CAM in the loss: "true" (the target), "predicted" (argmax of the
            logits, constant in backward) or "contrast" (the target's row minus the mean of the
            others; K >= 2).
        class_weight: ``[K]`` factors of the cross-entropy; no gradient.
        reduction: "mean", "sum" or "none". "mean" divides by B, also with ``class_weight``, where
            torch divides by the sum of the weights: a plain mean over samples, of which
            accumulated or data-parallel sums are exact. B = 0 gives 0.
        grad_scale: 0-d tensor; multiplies the gradients of features, weight and bias before they
            are rounded to their types, not the loss: backward gives
            ``grad_scale * upstream * d loss``.

    Returns:
        :class:`FocusHeadOutput`. ``loss`` and ``logits`` carry gradient. float32; float64 for
        float64 features.

    Raises:
        ValueError, TypeError: shapes, types, devices or options that do not fit.
        IndexError: a target outside [0, K), for CPU tensors. On a GPU that sample becomes NaN.
        RuntimeError: a second derivative is asked for, which only the reference has.
    """
    given = HeadArguments(
        features, weight, bias, target, saliency, saliency_mask, entropy_target, class_weight,
        grad_scale, classification_weight, focus_weight, saliency_weight, temperature,
        label_smoothing, level, cam_class, reduction,
    )  # fmt: skip
    checks.check_focus_head(given)
    backend = _backend(features, len(weight))
    if backend != "triton" and target.dim() == 1:
        checks.check_range("target", target, len(weight))
    if backend == "reference":
        return reference.focus_head(given)
    need_weight = weight.requires_grad and torch.is_grad_enabled()
    loss, logits, cam, terms = _FocusHead.apply(  # type: ignore[no-untyped-call]
        features, weight, bias, given, need_weight, backend
    )
    return FocusHeadOutput(loss, logits, cam, *terms.unbind())


def _backend(features: Tensor, classes: int) -> str:
    """Return the form to take. A graph of torch.compile holds kernels, or the definition itself."""
    name = backend_for(features).name
    if name == "triton":
        held = classes == 1 or classes <= rows_held(features.shape[2] * features.shape[3])
        return name if held or not torch.compiler.is_compiling() else "reference"
    return "reference" if torch.compiler.is_compiling() else name


class _CamEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, index: Tensor, temperature: Number, backend: str
    ) -> tuple[Tensor, Tensor]:
        ctx.backend, ctx.temperature = backend, temperature
        ctx.set_materialize_grads(False)
        if torch.compiler.is_compiling():
            cam, entropy = operators.cam_entropy(
                features, weight, index, as_tensor(temperature, features)
            )
        else:
            cam, entropy = form(backend, "cam_entropy_forward")(
                features, weight, index, temperature
            )
        ctx.save_for_backward(features, weight, index, cam)
        return cam, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        saved, needs = ctx.saved_tensors, ctx.needs_input_grad[:2]
        if torch.compiler.is_compiling():
            scale = as_tensor(ctx.temperature, saved[0])
            found = operators.cam_entropy_backward(*saved, scale, *grads, *needs)
            out = tuple(g if need else None for g, need in zip(found, needs, strict=True))
        else:
            features, weight, index, cam = saved
            backward = form(ctx.backend, "cam_entropy_backward")
            out = backward(features, weight, index, ctx.temperature, cam, *grads, needs)
        return (*out, None, None, None)


class _FocusHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        given: HeadArguments,
        need_weight: bool,
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        given = given._replace(features=features, weight=weight, bias=bias)
        if torch.compiler.is_compiling():
            numbers = [as_tensor(number, features) for number in given[9:14]]
            aim = given.entropy_target
            aim = None if aim is None else as_tensor(aim, features)
            tensors = (*given[:6], aim, given.class_weight)
            out = HeadForward(*operators.focus_head(*tensors, numbers, *given[14:], need_weight))
        else:
            out = form(backend, "focus_head_forward")(given, need_weight)
        ctx.save_for_backward(*out[5:], out.classes, weight, bias, given.grad_scale)
        ctx.like = features.shape, features.dtype, channels_last(features)
        ctx.contrast = given.cam_class == "contrast"
        ctx.backend = backend
        ctx.set_materialize_grads(False)  # zeros for the constants would be launches
        ctx.mark_non_differentiable(out.cam, out.terms)
        return out.loss, out.logits, out.cam, out.terms

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_second_derivative()
        *small, weight, bias, grad_scale = ctx.saved_tensors
        need_features, *needs = ctx.needs_input_grad[:3]
        arguments = (*small, weight, *grads[:2], grad_scale, ctx.contrast)
        if torch.compiler.is_compiling():
            out, *found = operators.focus_head_backward(
                *arguments, *ctx.like, need_features, *needs
            )
        else:
            shape, dtype, last = ctx.like
            out = empty_features(shape, dtype, last, weight.device) if need_features else None
            found = form(ctx.backend, "focus_head_backward")(*arguments, out, tuple(needs))
        grad_weight, grad_bias = (g if need else None for g, need in zip(found, needs, strict=True))
        if grad_bias is not None:
            grad_bias = grad_bias.to(bias.dtype)
        return out if need_features else None, grad_weight, grad_bias, None, None, None


def _refuse_second_derivative() -> None:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(
            "focus.kernels has no second derivative (create_graph=True): "
            'use_backend("reference") has'
        )

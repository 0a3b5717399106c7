"""The public operations: checks, registered torch operators, autograd.

Each operation is checked once at its entry. Those with gradients then run as registered operators
inside a thin ``autograd.Function``.
"""

from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from focus.kernels import eager, reference
from focus.kernels.backend import backend_for
from focus.kernels.checks import (
    check_bias,
    check_choice,
    check_device,
    check_features,
    check_index,
    check_integer,
    check_map,
    check_positive,
    check_range,
    check_real,
    check_share,
    check_tensor,
    class_row,
    scalar_tensor,
)
from focus.kernels.operators import (
    cam_entropy_backward_op,
    cam_entropy_op,
    class_activation_op,
    focus_head_backward_op,
    focus_head_op,
)
from focus.kernels.types import (
    CamClass,
    FocusHeadOutput,
    HeadArguments,
    HeadForward,
    Level,
    Reduction,
    accumulation_dtype,
)


def cam_entropy(
    features: Tensor, weight: Tensor, index: Tensor, *, temperature: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """CAM of one class per sample, and its entropy; both differentiable.

    Args:
        features: ``[B,C,H,W]``, float64, float32, bfloat16 or float16, any strides.
        weight: classifier ``[K,C]``, of any of these types.
        index: class of each sample ``[B]``, int64 in [0, K).
        temperature: T > 0 of the softmax; a float or a 0-d tensor; no gradient.

    Returns:
        ``cam [B,H,W]``, ``z = sum_c W[index_b,c] F[b,c,p]``, raw and without bias, and
        ``entropy [B]``, ``-sum p log p / log(HW)`` of ``p = softmax(z / T)``, in [0, 1] up to
        rounding (0 when H*W is 1). float32; float64 for float64 features.

    Raises:
        ValueError, TypeError: shapes, types or devices that do not fit.
        IndexError: a class outside [0, K), for CPU tensors. On a GPU, where a check would stop the
            device, that sample becomes NaN.
    """
    check_features(features, weight)
    check_index("index", index, features)
    check_positive("temperature", temperature)
    scale = scalar_tensor({"temperature": temperature}, features)[0]
    backend = backend_for(features).name
    if backend == "reference":
        check_range("index", index, len(weight))
        return reference.cam_entropy(features, weight, index, scale)
    out: tuple[Tensor, Tensor] = _CamEntropy.apply(  # type: ignore[no-untyped-call]
        features, weight, index, scale, backend
    )
    return out


def class_activation(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    classes: Tensor | Sequence[int],
    *,
    temperature: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, and CAM and entropy of several classes per sample, for inference: no gradient.

    Args:
        features: ``[B,C,H,W]``, as in :func:`cam_entropy`.
        weight: classifier ``[K,C]``; bias: ``[K]`` or None.
        classes: ``[B,k]`` int64 in [0, K), or k class numbers that serve every sample.
        temperature: T > 0 of the softmax; a float or a 0-d tensor.

    Returns:
        ``logits [B,K]``, raw ``cams [B,k,H,W]`` without bias, ``entropy [B,k]`` in [0, 1] (0 when
        H*W is 1). float32; float64 for float64 features.

    Raises:
        ValueError, TypeError, IndexError: as :func:`cam_entropy`; class numbers of a sequence are
            checked on every device, those of a tensor on the CPU; elsewhere, and on the CPU in what
            torch.compile or torch.export made, a class outside [0, K) gives NaN (but in the
            reference form, which takes what it gets).
    """
    check_features(features, weight)
    check_bias(bias, weight)
    check_positive("temperature", temperature)
    if isinstance(classes, Tensor):
        if classes.dim() != 2 or classes.shape[0] != features.shape[0]:
            raise ValueError(
                f"classes must be [B,k] with B = {features.shape[0]}, got {list(classes.shape)}"
            )
        check_integer("classes", classes)
        check_device("classes", classes, features)
        check_range("classes", classes, len(weight))
    else:
        classes = class_row("classes", classes, weight).expand(features.shape[0], -1)
    scale = scalar_tensor({"temperature": temperature}, features)[0]
    # Only the Triton form is a registered operator: torch.export can trace the others' torch calls.
    forms: dict[str, Callable[..., Any]] = {
        "triton": class_activation_op,
        "eager": eager.class_activation,
    }
    form = forms.get(backend_for(features).name, reference.class_activation)
    with torch.no_grad():
        out: tuple[Tensor, Tensor, Tensor] = form(features, weight, bias, classes, scale)
    return out


def focus_head(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    saliency: Tensor | None = None,
    saliency_mask: Tensor | None = None,
    entropy_target: float | Tensor | None = None,
    classification_weight: float | Tensor = 1.0,
    focus_weight: float | Tensor = 0.0,
    saliency_weight: float | Tensor = 0.0,
    level: Level = "minimize",
    cam_class: CamClass = "true",
    temperature: float | Tensor = 1.0,
    label_smoothing: float | Tensor = 0.0,
    class_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    grad_scale: Tensor | None = None,
) -> FocusHeadOutput:
    """Pooling, classifier, cross-entropy, CAM, focus and saliency terms with all gradients.

    ``loss_b = a CE_b + b focus_b + c saliency_b`` with the weights ``classification_weight``,
    ``focus_weight`` and ``saliency_weight``. The formulas stand in :mod:`focus.kernels.reference`;
    the saliency term is CYBORG's (Boyd et al., 2023), the focus levels are this project's reading
    of arXiv 2303.00818.

    Args:
        features: ``[B,C,H,W]``, the very tensor that pooling and classifier see; float64, float32,
            bfloat16 or float16, any strides.
        weight: ``[K,C]``; bias: ``[K]`` or None; target: ``[B]`` int64 in [0, K).
        saliency: human maps ``[B,H,W]`` in [0, 1] on the CAM grid, bool or of a type that features
            may have, taken as they are: stretch each to the whole range; no gradient.
            saliency_mask: ``[B]`` bool, which samples have a map, and not a constant one; None
            means all.
        entropy_target: ``h*`` in [0, 1] for the levels match and hinge, a float or ``[B]``; no
            gradient. None means the entropy of the sample's map divided by its sum; then a sample
            without a map, or with an all-zero one, has no focus term.
        classification_weight, focus_weight, saliency_weight, temperature, label_smoothing: floats
            or 0-d tensors (tensors, on the features' device, where the value changes with each
            step); no gradient. The temperature is above 0 and the smoothing in [0, 1), which, as
            the range of ``entropy_target``, is checked of floats; the weights may be any number.
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
        :class:`FocusHeadOutput`. Only ``loss`` carries gradient. float32; float64 for float64
        features.

    Raises:
        ValueError, TypeError: shapes, types, devices or options that do not fit.
        IndexError: a target outside [0, K), for CPU tensors. On a GPU that sample becomes NaN.
    """
    check_features(features, weight)
    check_bias(bias, weight)
    check_index("target", target, features)
    check_choice("level", level, get_args(Level))
    check_choice("cam_class", cam_class, get_args(CamClass))
    check_choice("reduction", reduction, get_args(Reduction))
    check_positive("temperature", temperature)
    check_share("label_smoothing", label_smoothing, below=True)
    if cam_class == "contrast" and len(weight) < 2:
        raise ValueError(f"cam_class 'contrast' needs at least 2 classes, weight has {len(weight)}")
    batch, grid = features.shape[0], features.shape[2:]
    if saliency is not None:
        check_tensor("saliency", saliency, (batch, *grid), features)
        check_map("saliency", saliency)
    if saliency_mask is not None:
        if saliency is None:
            raise ValueError("saliency_mask says which samples have a map, but saliency is None")
        check_tensor("saliency_mask", saliency_mask, (batch,), features)
        if saliency_mask.dtype != torch.bool:
            raise TypeError(f"saliency_mask must be bool, got {saliency_mask.dtype}")
    if class_weight is not None:
        check_tensor("class_weight", class_weight, (len(weight),), features)
        check_real("class_weight", class_weight)
    if grad_scale is not None:
        check_tensor("grad_scale", grad_scale, (), features)
        check_real("grad_scale", grad_scale)
    numbers = {
        "classification_weight": classification_weight,
        "focus_weight": focus_weight,
        "saliency_weight": saliency_weight,
        "temperature": temperature,
        "label_smoothing": label_smoothing,
    }
    count, of_samples = len(numbers), None
    if entropy_target is not None:
        check_share("entropy_target", entropy_target)
        if isinstance(entropy_target, Tensor) and entropy_target.dim():
            check_tensor("entropy_target", entropy_target, (batch,), features)
            check_real("entropy_target", entropy_target)
            of_samples = entropy_target.detach().to(accumulation_dtype(features))
        else:
            numbers["entropy_target"] = entropy_target
    scalars = scalar_tensor(numbers, features)
    if len(numbers) > count:
        of_samples = scalars[count].expand(batch)
    arguments = HeadArguments(
        scalars=scalars[:count],
        level=level,
        cam_class=cam_class,
        reduction=reduction,
        saliency=None if saliency is None else saliency.detach(),
        saliency_mask=saliency_mask,
        entropy_target=of_samples,
        class_weight=None if class_weight is None else class_weight.detach(),
        grad_scale=grad_scale,
    )
    backend = backend_for(features).name
    if backend == "reference":
        check_range("target", target, len(weight))
        return reference.focus_head(features, weight, bias, target, arguments)
    return _focus_head(features, weight, bias, target, arguments, backend)


def _focus_head(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    arguments: HeadArguments,
    backend: str,
) -> FocusHeadOutput:
    # Outside the autograd.Function and without gradient, so that no field but the loss carries any.
    with torch.no_grad():
        forward = HeadForward(
            *focus_head_op(
                features,
                weight,
                bias,
                target,
                arguments.saliency,
                arguments.saliency_mask,
                arguments.entropy_target,
                arguments.class_weight,
                arguments.scalars,
                arguments.level,
                arguments.cam_class,
                arguments.reduction,
                backend,
            )
        )
        total, *terms = forward.terms.unbind()
    loss: Tensor = _FocusHead.apply(  # type: ignore[no-untyped-call]
        features, weight, bias, total, forward, arguments, backend
    )
    entropy, classification, focus, saliency = terms
    return FocusHeadOutput(
        loss, forward.logits, forward.cam, entropy, classification, focus, saliency
    )


class _CamEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, index: Tensor, temperature: Tensor, backend: str
    ) -> tuple[Tensor, Tensor]:
        cam, entropy = cam_entropy_op(features, weight, index, temperature, backend)
        ctx.save_for_backward(features, weight, index, temperature, cam)
        ctx.backend = backend
        return cam, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[:2]
        out = cam_entropy_backward_op(*ctx.saved_tensors, *grads, *needs, ctx.backend)
        return (*_asked_for(out, needs), None, None, None)


class _FocusHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        total: Tensor,
        forward: HeadForward,
        arguments: HeadArguments,
        backend: str,
    ) -> Tensor:
        ctx.save_for_backward(
            features,
            weight,
            forward.classes,
            forward.pooled,
            forward.grad_cam,
            forward.grad_logits,
            bias,
            arguments.grad_scale,
        )
        ctx.cam_class, ctx.backend = arguments.cam_class, backend
        loss = arguments.reduce(total)
        return loss.clone() if loss is total else loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        *saved, bias, grad_scale = ctx.saved_tensors
        (upstream,) = grads
        if grad_scale is not None:
            upstream = upstream * grad_scale.to(upstream.dtype)
        upstream = upstream.expand(saved[0].shape[0])
        needs = ctx.needs_input_grad[:3]
        out = focus_head_backward_op(*saved, upstream, ctx.cam_class, *needs, ctx.backend, bias)
        grad_features, grad_weight, grad_bias = _asked_for(out, needs)
        if grad_bias is not None:
            grad_bias = grad_bias.to(bias.dtype)
        return grad_features, grad_weight, grad_bias, None, None, None, None


def _asked_for(gradients: tuple[Tensor, ...], needs: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    return tuple(g if need else None for g, need in zip(gradients, needs, strict=True))

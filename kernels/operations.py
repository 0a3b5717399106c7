"""The public operations: arguments are checked at the entry, then a form is taken.

Triton's has its own derivatives (:mod:`focus.kernels.operators`). Elsewhere autograd goes through
the reference, whose reading of the features has an eager form (:mod:`focus.kernels.eager`).
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from focus.kernels import checks, eager, operators, reference
from focus.kernels.backend import backend_for, rows_held
from focus.kernels.terms import CamClass, Entropy, FocusLevel, Reduction, Terms
from focus.kernels.types import FocusHeadOutput, HeadArguments, Number


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
            device, kernels make that sample NaN, and in torch calls (float64, in ``focus_head``
            more than 16 classes) torch's own assertion ends the program.

    Examples:
        >>> import torch
        >>> from focus.kernels import cam_entropy
        >>> features = torch.rand(2, 8, 7, 7, requires_grad=True)
        >>> weight, label = torch.randn(2, 8), torch.tensor([0, 1])
        >>> cam, entropy = cam_entropy(features, weight, label)
        >>> cam.shape, entropy.shape
        (torch.Size([2, 7, 7]), torch.Size([2]))
        >>> entropy.mean().backward()  # a CAM inside a loss
        >>> features.grad.shape
        torch.Size([2, 8, 7, 7])
    """
    temperature = checks.temperature_of(temperature)
    checks.check_cam_entropy(features, weight, index, temperature)
    backend = _backend(features, 1)
    if backend == "triton":
        out: tuple[Tensor, Tensor] = operators.CamEntropy.apply(  # type: ignore[no-untyped-call]
            features, weight, index, temperature
        )
        return out
    checks.check_range("index", index, len(weight))
    return reference.cam_entropy(features, weight, index, temperature, _reader(backend))


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
        weight: classifier ``[K,C]``; bias: ``[K]``, ``[B,K]`` of each sample, or None.
        classes: ``[B,k]`` int64 in [0, K), or k class numbers that serve every sample; a sequence
            other than a range is copied to the device.
        temperature: T > 0 of the softmax; a float or a tensor of one element.

    Returns:
        ``logits [B,K]``, raw ``cams [B,k,H,W]`` without bias, ``entropy [B,k]`` in [0, 1] (0 when
        H*W is 1). float32; float64 for float64 features.

    Raises:
        ValueError, TypeError, IndexError: as :func:`cam_entropy`; class numbers of a sequence are
            checked on every device.

    Examples:
        >>> import torch
        >>> from focus.kernels import class_activation
        >>> features, weight, bias = torch.rand(2, 8, 7, 7), torch.randn(3, 8), torch.zeros(3)
        >>> logits, cams, entropy = class_activation(features, weight, bias, classes=[0, 2])
        >>> logits.shape, cams.shape, entropy.shape
        (torch.Size([2, 3]), torch.Size([2, 2, 7, 7]), torch.Size([2, 2]))
        >>> torch.allclose(logits[:, 2], cams[:, 1].mean((1, 2)) + bias[2], atol=1e-5)
        True
    """
    temperature = checks.temperature_of(temperature)
    index = checks.check_class_activation(features, weight, bias, classes, temperature)
    backend = "reference" if torch.compiler.is_compiling() else _backend(features, len(weight))
    arguments = features, weight, bias, index, temperature
    with torch.no_grad():
        if backend == "triton":
            out: tuple[Tensor, Tensor, Tensor] = operators.launcher("class_activation")(*arguments)
            return out
        if isinstance(classes, Tensor):
            checks.check_range("classes", classes, len(weight))
        return reference.class_activation(*arguments, _reader(backend))


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
    focus_level: FocusLevel = "minimize",
    cam_class: CamClass = "true",
    entropy: Entropy = "softmax",
    temperature: Number = 1.0,
    label_smoothing: Number = 0.0,
    class_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> FocusHeadOutput[Tensor]:
    """Pool, classify, and return cross-entropy, focus and saliency terms with all gradients.

    ``loss_b = a CE_b + b focus_b + c saliency_b`` with the weights below. The formulas stand in
    :mod:`focus.kernels.reference`; the saliency term is CYBORG's (Boyd et al., 2023), the focus
    levels are this project's reading of arXiv 2303.00818.

    Args:
        features: ``[B,C,H,W]``, the very tensor that pooling and classifier see; float64, float32,
            bfloat16 or float16, any strides.
        weight: ``[K,C]``.
        bias: ``[K]``, or ``[B,K]`` of each sample (what a class token adds to the logits, a
            constant over the cells), or None.
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
        classification_weight: ``a``, any number. Like the next four, a float, or a tensor of one
            element on the features' device where the value changes with each step; no gradient.
        focus_weight: ``b``, any number.
        saliency_weight: ``c``, any number.
        temperature: ``T`` of the softmax over the CAM, above 0; only a float is checked.
        label_smoothing: share of the target that is spread over all classes, in [0, 1); only a
            float is checked.
        focus_level: "none", "match" ``|h - h*|``, "hinge" ``relu(h - h*)`` or "minimize" ``h``.
        cam_class: class of the CAM in the loss: "true" (the target), "predicted" (argmax of the
            logits, constant in backward) or "contrast" (the target's row minus the mean of the
            others; K >= 2).
        entropy: the ``h`` of the focus term: "softmax", of ``softmax(z / T)``, or "sum", of
            ``(z - min z) / sum(z - min z)``.
        class_weight: ``[K]`` factors of the cross-entropy; no gradient.
        reduction: "mean", "sum" or "none". "mean" divides by B, also with ``class_weight``, where
            torch divides by the sum of the weights: a plain mean over samples, of which
            accumulated or data-parallel sums are exact. B = 0 gives 0.

    Returns:
        :class:`FocusHeadOutput`. ``loss`` and ``logits`` carry gradient. float32; float64 for
        float64 features. Call ``backward`` outside of autocast, as torch asks: inside it, the
        products of all forms but the kernels' are rounded to 16 bits in it.

    Raises:
        ValueError, TypeError: shapes, types, devices or options that do not fit.
        IndexError: a target outside [0, K), for CPU tensors; on a GPU as :func:`cam_entropy`.
        RuntimeError: a second derivative is asked for, which only the reference has.

    Examples:
        >>> import torch
        >>> from focus.kernels import focus_head
        >>> features = torch.rand(2, 8, 7, 7, requires_grad=True)
        >>> weight = torch.randn(2, 8, requires_grad=True)
        >>> label, human_maps = torch.tensor([0, 1]), torch.rand(2, 7, 7)
        >>> out = focus_head(
        ...     features, weight, None, label,
        ...     saliency=human_maps, focus_weight=0.1, saliency_weight=5.0,
        ... )
        >>> out.loss.backward()
        >>> out.logits.shape, out.cam.shape, out.focus.shape
        (torch.Size([2, 2]), torch.Size([2, 7, 7]), torch.Size([2]))
    """
    number = checks.number
    arguments = HeadArguments(
        features=features, weight=weight, bias=bias, target=target, saliency=saliency,
        saliency_mask=saliency_mask, class_weight=class_weight,
        entropy_target=None if entropy_target is None else number("entropy_target", entropy_target),
        weights=Terms(
            classification=number("classification_weight", classification_weight),
            focus=number("focus_weight", focus_weight),
            saliency=number("saliency_weight", saliency_weight),
        ),
        temperature=checks.temperature_of(temperature),
        label_smoothing=number("label_smoothing", label_smoothing),
        focus_level=focus_level, cam_class=cam_class, entropy=entropy, reduction=reduction,
    )  # fmt: skip
    checks.check_focus_head(arguments)
    backend = _backend(features, len(weight))
    if backend == "triton":
        need_weight = weight.requires_grad and torch.is_grad_enabled()
        apply: Any = operators.HeadFunction.apply
        loss, logits, cam, rows = apply(features, weight, bias, arguments, need_weight)
        h, *terms, _ = rows.unbind()
        return FocusHeadOutput(loss, logits, cam, h, Terms(*terms))
    if target.dim() == 1:
        checks.check_range("target", target, len(weight))
    return reference.focus_head(arguments, _reader(backend))


def _backend(features: Tensor, classes: int) -> str:
    """Return the form to take: "triton" only where a program holds the maps of all classes.

    A graph of torch.compile holds the kernels, or the definition itself, which is then fused.
    """
    name = backend_for(features).name
    if name == "triton" and classes > rows_held(features.shape[2] * features.shape[3]):
        name = "eager"
    return "reference" if torch.compiler.is_compiling() and name == "eager" else name


def _reader(backend: str) -> reference.PoolAndProject:
    """Return what reads the features for the reference's calls."""
    return eager.pool_and_project if backend == "eager" else reference.pool_and_project

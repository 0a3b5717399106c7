# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""``focus_head`` in Triton: forward reads F once, backward reads it once and writes dF.

Up to 4 classes. Pooling, classifier and CAM are one product, so the forward needs the class maps
and nothing else of F:

    m[b,k,p]    = sum_c W[k,c] F[b,c,p]
    logits[b,k] = mean_p m[b,k,p] + bias[k]
    z[b,p]      = sum_k a[b,k] m[b,k,p]          a: one-hot of y_b, or (contrast) 1 and -1/(K-1)

More classes. One read of F leaves the pooled features and the CAM; the logits are a matrix product
of the former. Only the predicted class is not known before its logits: its CAM takes a read more.

In either case one small launch makes all terms of the loss and their gradients by z and by the
logits, and backward (``triton_gradient``) does the rest. dF is written there and not in forward,
since there the upstream gradient is known: one other than 1, or one that differs per sample, costs
nothing and is rounded once.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from focus.kernels.triton_cam_entropy import entropy_and_slope
from focus.kernels.triton_gradient import gradients
from focus.kernels.triton_maps import FUSED_CLASSES, class_maps
from focus.kernels.triton_target import small_options, triton_type
from focus.kernels.triton_tiles import padded
from focus.kernels.types import (
    FLAT_STEPS,
    CamClass,
    HeadForward,
    Level,
    MapGradients,
    Reduction,
    accumulation_dtype,
    flat_floor,
    inverse_log,
    linear,
    without_autocast,
)


@triton.jit
def _first_largest(logits, k, real, L: tl.constexpr):
    """torch's argmax of logits [L], to which NaN is the largest; Triton's does not look at NaN."""
    is_nan = real & (logits != logits)
    known = tl.where(real & (logits == logits), logits, float("-inf"))
    largest = real & (logits == tl.max(known, 0))
    largest = tl.where(tl.max(is_nan.to(tl.int32), 0) > 0, is_nan, largest)
    return tl.min(tl.where(largest, k, L), 0)


@triton.jit
def _cross_entropy(logits, share, hot, real):
    """Cross-entropy of logits [L], each class with a share of the target; its gradient [L]."""
    top = tl.max(tl.where(real, logits, float("-inf")), 0)
    shifted = tl.where(real, logits - top, 0)
    exps = tl.where(real, tl.exp(shifted), 0)
    normaliser = tl.sum(exps, 0)
    log_p = shifted - tl.log(normaliser)
    # A share of 0 is no term at all, also where its log-probability is -inf.
    term = -tl.sum(tl.where(share == 0, 0, share * log_p), 0)
    grad = tl.where(real, exps / normaliser * tl.sum(share, 0) - share, 0)
    # The row's sum is 0: minus the sum of the others keeps digits where p is near 1.
    return term, tl.where(hot, -tl.sum(tl.where(hot, 0, grad), 0), grad)


@triton.jit
def _focus(entropy, excess, LEVEL: tl.constexpr):
    """The focus term, and its derivative by the entropy, which exceeds its target by ``excess``."""
    term = tl.zeros_like(entropy)
    sign = tl.zeros_like(entropy)
    if LEVEL == "minimize":
        term = entropy
        sign += 1
    if LEVEL == "hinge":
        # Written so that NaN stays visible.
        term = tl.where(excess <= 0, 0, excess)
        sign = tl.where(excess > 0, 1.0, 0.0).to(entropy.dtype)
    if LEVEL == "match":
        term = tl.abs(excess)
        sign = tl.where(excess > 0, 1.0, tl.where(excess < 0, -1.0, 0.0)).to(entropy.dtype)
    return term, sign


@triton.jit
def _saliency(
    z, human, inside, FLAT_RANGE: tl.constexpr, FLAT_FLOOR: tl.constexpr, CELLS: tl.constexpr
):
    """Mean square of the min-max normalised CAM against the human map, and its gradient by z."""
    half = z / 2  # the range of the halves cannot overflow
    low = tl.min(tl.where(inside, half, float("inf")), 0)
    high = tl.max(tl.where(inside, half, float("-inf")), 0)
    largest = tl.max(tl.where(inside, tl.abs(half), 0), 0)
    flat = (high - low) <= tl.maximum(FLAT_RANGE * largest, FLAT_FLOOR / 2)
    span = tl.where(flat, 1, high - low)
    # NaN has no minimum here, and so no range, but is not flat.
    scaled = tl.where(flat, tl.where(half == half, 0, half), (half - low) / span)
    scaled = tl.where(inside, scaled, 0)
    error = tl.where(inside, scaled - human, 0)
    term = tl.sum(error * error, 0) / CELLS
    slope = error * (2 / CELLS)
    at_low = tl.where(inside & (half == low), 1.0, 0.0).to(z.dtype)
    at_high = tl.where(inside & (half == high), 1.0, 0.0).to(z.dtype)
    by_high = tl.sum(slope * scaled, 0)
    by_low = tl.sum(slope, 0) - by_high
    slope -= at_low * (by_low / tl.sum(at_low, 0)) + at_high * (by_high / tl.sum(at_high, 0))
    return term, tl.where(flat, 0, slope / (2 * span))


@triton.jit
def _terms_kernel(
    maps_ptr,
    bias_ptr,
    target_ptr,
    saliency_ptr,
    saliency_mask_ptr,
    entropy_target_ptr,
    class_weight_ptr,
    scalars_ptr,
    terms_ptr,
    logits_ptr,
    cam_ptr,
    classes_ptr,
    grad_cam_ptr,
    grad_logits_ptr,
    stride_h,
    batch,
    classes,
    splits,
    ACC: tl.constexpr,
    FROM_MAPS: tl.constexpr,
    LEVEL: tl.constexpr,
    CAM_CLASS: tl.constexpr,
    MEAN: tl.constexpr,
    INVERSE_LOG: tl.constexpr,
    FLAT_RANGE: tl.constexpr,
    FLAT_FLOOR: tl.constexpr,
    CELLS: tl.constexpr,
    L: tl.constexpr,
):
    """One sample: all terms, g and d from the partial maps [B,S,rows,HW].

    FROM_MAPS: the rows are the classes, and logits and class are written. Else the logits are
    given, with the predicted class, and the one row is the CAM. scalars [5]: weights of the three
    terms, temperature, label smoothing. INVERSE_LOG is 1 / log(HW), FLAT_RANGE 64 eps, FLAT_FLOOR
    the flat_floor. terms [5,B]: total, entropy, classification, focus, saliency. logits,
    grad_logits [B,K]; cam, grad_cam, saliency [B,HW]; classes, target [B]. MEAN: the gradients are
    of the total's mean, not its sum.
    """
    b = tl.program_id(0)
    k = tl.arange(0, L)
    p = tl.arange(0, padded(CELLS))
    real = k < classes
    inside = p < CELLS
    sample_k = b.to(tl.int64) * classes + k
    sample_p = b.to(tl.int64) * CELLS + p
    weight_ce = tl.load(scalars_ptr)
    weight_focus = tl.load(scalars_ptr + 1)
    weight_saliency = tl.load(scalars_ptr + 2)
    temperature = tl.load(scalars_ptr + 3)
    smoothing = tl.load(scalars_ptr + 4)
    t = tl.load(target_ptr + b)

    # Logits, and the CAM of the class.
    if FROM_MAPS:
        maps = tl.zeros((L, padded(CELLS)), ACC)
        for s in range(splits):
            row = (b.to(tl.int64) * splits + s) * classes + k
            maps += tl.load(
                maps_ptr + row[:, None] * CELLS + p[None, :],
                mask=real[:, None] & inside[None, :],
                other=0,
            )
        logits = tl.sum(maps, 1) / CELLS
        if bias_ptr is not None:
            logits += tl.load(bias_ptr + k, mask=real, other=0).to(ACC)
        y = _first_largest(logits, k, real, L).to(t.dtype) if CAM_CLASS == "predicted" else t
        chosen = (k == y)[:, None]
        if CAM_CLASS == "contrast":
            others = 1 / (classes - 1).to(ACC)
            z = tl.sum(tl.where(chosen, maps, -others * maps), 0)
        else:
            z = tl.sum(tl.where(chosen, maps, 0), 0)
        tl.store(logits_ptr + sample_k, logits, mask=real)
        tl.store(classes_ptr + b, y)
    else:
        if CAM_CLASS != "predicted":
            tl.store(classes_ptr + b, t)
        logits = tl.load(logits_ptr + sample_k, mask=real, other=0)
        z = tl.zeros((padded(CELLS),), ACC)
        for s in range(splits):
            row = b.to(tl.int64) * splits + s
            z += tl.load(maps_ptr + row * CELLS + p, mask=inside, other=0)
    # A target that does not exist shows as NaN.
    hot = (k == t) & real
    exists = tl.sum(hot.to(tl.int32), 0) > 0
    z = tl.where(exists, z, float("nan"))

    # Classification.
    share = tl.where(hot, 1 - smoothing, 0.0) + smoothing / classes
    if class_weight_ptr is not None:
        share *= tl.load(class_weight_ptr + k, mask=real, other=0).to(ACC)
    classification, slope_by_logits = _cross_entropy(logits, tl.where(real, share, 0), hot, real)
    classification = tl.where(exists, classification, float("nan"))
    slope_by_logits = tl.where(exists, slope_by_logits, float("nan"))
    of_one = tl.full((), 1, ACC) / batch if MEAN else 1.0
    tl.store(grad_logits_ptr + sample_k, weight_ce * of_one * slope_by_logits, mask=real)

    tl.store(cam_ptr + sample_p, z, mask=inside)

    # Entropy of the CAM, before other maps are there: of large grids they fill the registers.
    entropy, slope_by_z = entropy_and_slope(z, inside, temperature, INVERSE_LOG)

    # The human map, zero where there is none.
    present = 0
    human = tl.zeros((padded(CELLS),), ACC)
    if saliency_ptr is not None:
        present = 1
        if saliency_mask_ptr is not None:
            present = tl.load(saliency_mask_ptr + b).to(tl.int32)
        readable = tl.where(present != 0, CELLS, 0)
        human = tl.load(saliency_ptr + sample_p, mask=p < readable, other=0)
        human = human.to(ACC)

    # Focus: the entropy against its target.
    if entropy_target_ptr is not None:
        excess = entropy - tl.load(entropy_target_ptr + b.to(tl.int64) * stride_h)
    else:
        mass = tl.sum(human, 0)
        part = human / tl.where(mass > 0, mass, 1)
        own = -tl.sum(tl.where(part > 0, part * tl.log(tl.where(part > 0, part, 1)), 0), 0)
        excess = tl.where(mass > 0, entropy - own * INVERSE_LOG, 0)
    focus, sign = _focus(entropy, excess, LEVEL)
    g = weight_focus * sign * slope_by_z

    saliency = tl.zeros_like(entropy)
    if saliency_ptr is not None:
        saliency, slope = _saliency(z, human, inside, FLAT_RANGE, FLAT_FLOOR, CELLS)
        saliency = tl.where(present != 0, saliency, 0)
        g += weight_saliency * tl.where(present != 0, slope, 0)

    loss = weight_ce * classification + weight_focus * focus + weight_saliency * saliency
    tl.store(terms_ptr + b, loss)
    tl.store(terms_ptr + batch + b, entropy)
    tl.store(terms_ptr + 2 * batch + b, classification)
    tl.store(terms_ptr + 3 * batch + b, focus)
    tl.store(terms_ptr + 4 * batch + b, saliency)
    tl.store(grad_cam_ptr + sample_p, of_one * g, mask=inside)


def focus_head_forward(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    saliency: Tensor | None,
    saliency_mask: Tensor | None,
    entropy_target: Tensor | None,
    class_weight: Tensor | None,
    scalars: Tensor,
    level: Level,
    cam_class: CamClass,
    reduction: Reduction,
    splits: int | None = None,
) -> HeadForward:
    """As :func:`focus.kernels.eager.focus_head_forward`; ``splits`` None: by shape and layout."""
    batch, _, height, width = features.shape
    classes, cells = len(weight), height * width
    dtype = accumulation_dtype(features)
    new = features.new_empty
    out = HeadForward(
        terms=new((5, batch), dtype=dtype),
        logits=new((batch, classes), dtype=dtype),
        cam=new((batch, height, width), dtype=dtype),
        classes=torch.empty_like(target, memory_format=torch.contiguous_format),
        pooled=new(0, dtype=dtype),
        grad_cam=new((batch, cells), dtype=dtype),
        grad_logits=new((batch, classes), dtype=dtype),
    )
    if not batch:
        return out
    if from_maps := classes <= FUSED_CLASSES:
        maps, _ = class_maps(features, weight, splits=splits)
    else:
        maps, logits, predicted = _pool_and_cam(features, weight, bias, target, cam_class, splits)
        out = out._replace(logits=logits)
        if predicted is not None:
            out = out._replace(classes=predicted)
    with torch.cuda.device_of(features):
        _terms_kernel[(batch,)](
            maps,
            None if bias is None else bias.contiguous(),
            target.contiguous(),
            None if saliency is None else saliency.contiguous(),
            None if saliency_mask is None else saliency_mask.contiguous(),
            entropy_target,
            None if class_weight is None else class_weight.contiguous(),
            scalars,
            out.terms,
            out.logits,
            out.cam,
            out.classes,
            out.grad_cam,
            out.grad_logits,
            0 if entropy_target is None else entropy_target.stride(0),
            batch,
            classes,
            maps.shape[1],
            ACC=triton_type(dtype),
            FROM_MAPS=from_maps,
            LEVEL=level,
            CAM_CLASS=cam_class,
            MEAN=reduction == "mean",
            INVERSE_LOG=inverse_log(cells),
            FLAT_RANGE=FLAT_STEPS * torch.finfo(dtype).eps,
            FLAT_FLOOR=flat_floor(dtype),
            CELLS=cells,
            L=triton.next_power_of_2(classes),
            **small_options(max(cells, classes)),
        )
    return out


@without_autocast
def _pool_and_cam(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    cam_class: CamClass,
    splits: int | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Partial CAMs ``[B,S,1,HW]``, logits ``[B,K]``; classes ``[B]`` if they are the predicted."""
    rest = weight.sum(0, dtype=accumulation_dtype(features)) if cam_class == "contrast" else None
    maps, pooled = class_maps(features, weight, target[:, None], rest, pool=True, splits=splits)
    assert pooled is not None
    logits = linear(pooled, weight.to(pooled.dtype), bias)
    if cam_class != "predicted":
        return maps, logits, None
    index = logits.argmax(1)
    maps, _ = class_maps(features, weight, index[:, None], splits=splits)
    return maps, logits, index


def focus_head_backward(
    features: Tensor,
    weight: Tensor,
    index: Tensor,
    pooled: Tensor,
    grad_cam: Tensor,
    grad_logits: Tensor,
    upstream: Tensor,
    cam_class: CamClass,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """As :func:`focus.kernels.eager.focus_head_backward`; ``pooled`` is not needed."""
    maps = MapGradients(index, grad_cam, grad_logits, upstream, cam_class == "contrast")
    return gradients(features, weight, maps, needs)

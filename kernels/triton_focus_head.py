# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""``focus_head`` in Triton for K <= 16: forward reads F once, backward reads it once and writes dF.

Pooling, classifier and CAM are one product, so the forward needs the K class maps only:

    m[b,k,p]    = sum_c W[k,c] F[b,c,p]
    logits[b,k] = mean_p m[b,k,p] + bias[k]
    z[b,p]      = sum_k a[b,k] m[b,k,p]          a: one-hot of y_b, or (contrast) 1 and -1/(K-1)

From m all terms of the loss and its gradients by z and by the logits are a few hundred numbers per
sample. With s[b] the upstream gradient of the sample's loss, g = s dL/dz and d = s dL/dlogits,

    dF[b,c,p]   = sum_k W[k,c] (a[b,k] g[b,p] + d[b,k] / HW)
    dW[k,c]     = sum_b ( a[b,k] sum_p g[b,p] F[b,c,p] + d[b,k] mean_p F[b,c,p] ),   db = sum_b d

The gradient by F is written in backward, where s is known: an upstream gradient other than 1, or
one that differs per sample, costs nothing and is rounded once.

Launches that touch F: one in forward (``splits > 1`` divides the channels among programs, which
leave partial maps in scratch for a second, small launch), one in backward. Each backward program
holds one block of channels of W and walks over a group of samples, so W is read, and dW written,
once a group. No atomics: every sum has a fixed order.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from focus.kernels.checks import scalar_tensor
from focus.kernels.eager import HeadForward, empty_gradient
from focus.kernels.triton_common import OPTIONS, cell_offsets, softmax_entropy, triton_type
from focus.kernels.types import CamClass, Level, accumulation_dtype

# Elements of a forward program's accumulators, K_PAD x BLOCK_C x BLOCK_P, and of a backward tile.
FORWARD_TILE = 4096
BACKWARD_TILE = 2048
# Programs that keep a large GPU busy; the number of splits and of groups aims at it.
PROGRAMS = 256


@triton.jit
def _maps_kernel(
    features_ptr,
    weight_ptr,
    maps_ptr,
    stride_fb,
    stride_fc,
    stride_fh,
    stride_fw,
    stride_wk,
    stride_wc,
    channels,
    width,
    cells,
    classes,
    channels_per_split,
    ACC: tl.constexpr,
    FLAT: tl.constexpr,
    K_PAD: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Partial class maps of one sample and one split of the channels; maps [B,S,K,HW] of ACC."""
    b = tl.program_id(0)
    s = tl.program_id(1)
    k = tl.arange(0, K_PAD)
    p = tl.arange(0, BLOCK_P)
    first = s * channels_per_split
    maps = _class_maps(
        features_ptr + b.to(tl.int64) * stride_fb,
        weight_ptr,
        stride_fc,
        stride_fh,
        stride_fw,
        stride_wk,
        stride_wc,
        first,
        tl.minimum(first + channels_per_split, channels),
        channels,
        width,
        cells,
        classes,
        ACC,
        FLAT,
        K_PAD,
        BLOCK_C,
        BLOCK_P,
    )
    row = (b * tl.num_programs(1) + s).to(tl.int64) * classes + k
    mask = (k < classes)[:, None] & (p < cells)[None, :]
    tl.store(maps_ptr + row[:, None] * cells + p[None, :], maps, mask=mask)


@triton.jit
def _terms_kernel(
    features_ptr,
    weight_ptr,
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
    stride_fb,
    stride_fc,
    stride_fh,
    stride_fw,
    stride_wk,
    stride_wc,
    batch,
    channels,
    width,
    cells,
    classes,
    constants_ptr,
    ACC: tl.constexpr,
    FLAT: tl.constexpr,
    SPLITS: tl.constexpr,
    LEVEL: tl.constexpr,
    CAM_CLASS: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SALIENCY: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_TARGET_ENTROPY: tl.constexpr,
    HAS_CLASS_WEIGHT: tl.constexpr,
    K_PAD: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One sample: its class maps (of its own, or summed over the splits), all terms, g and d.

    scalars [5]: weights of the three terms, temperature, label smoothing. constants [2]:
    1 / log(HW) and 64 eps. terms [5,B]: total, entropy, classification, focus, saliency.
    logits, grad_logits [B,K]; cam, grad_cam, saliency [B,HW]; classes, target [B].
    """
    b = tl.program_id(0)
    k = tl.arange(0, K_PAD)
    p = tl.arange(0, BLOCK_P)
    real = k < classes
    inside = p < cells
    if SPLITS == 1:
        maps = _class_maps(
            features_ptr + b.to(tl.int64) * stride_fb,
            weight_ptr,
            stride_fc,
            stride_fh,
            stride_fw,
            stride_wk,
            stride_wc,
            0,
            channels,
            channels,
            width,
            cells,
            classes,
            ACC,
            FLAT,
            K_PAD,
            BLOCK_C,
            BLOCK_P,
        )
    else:
        maps = tl.zeros((K_PAD, BLOCK_P), ACC)
        for s in range(SPLITS):
            row = (b.to(tl.int64) * SPLITS + s) * classes + k
            maps += tl.load(
                maps_ptr + row[:, None] * cells + p[None, :],
                mask=real[:, None] & inside[None, :],
                other=0,
            )

    weight_ce = tl.load(scalars_ptr)
    weight_focus = tl.load(scalars_ptr + 1)
    weight_saliency = tl.load(scalars_ptr + 2)
    temperature = tl.load(scalars_ptr + 3)
    smoothing = tl.load(scalars_ptr + 4)
    inverse_log = tl.load(constants_ptr)

    # Classification.
    t = tl.load(target_ptr + b)
    logits = tl.sum(maps, 1) / cells
    if HAS_BIAS:
        logits += tl.load(bias_ptr + k, mask=real, other=0).to(ACC)
    lowest = float("-inf")
    top = tl.max(tl.where(real, logits, lowest), 0)
    shifted = tl.where(real, logits - top, 0)
    exps = tl.where(real, tl.exp(shifted), 0)
    normaliser = tl.sum(exps, 0)
    log_p = shifted - tl.log(normaliser)
    hot = (k == t) & real
    share = tl.where(hot, 1 - smoothing, 0.0) + smoothing / classes
    if HAS_CLASS_WEIGHT:
        share *= tl.load(class_weight_ptr + k, mask=real, other=0).to(ACC)
    share = tl.where(real, share, 0)
    # A share of 0 is no term at all, also where its log-probability is -inf.
    classification = -tl.sum(tl.where(share == 0, 0, share * log_p), 0)
    grad = tl.where(real, exps / normaliser * tl.sum(share, 0) - share, 0)
    # The row's sum is 0: minus the sum of the others keeps digits where p is near 1.
    grad = tl.where(hot, -tl.sum(tl.where(hot, 0, grad), 0), grad)

    # The class and its CAM. A target that does not exist shows as NaN.
    y = t
    if CAM_CLASS == "predicted":
        y = tl.argmax(tl.where(real, logits, lowest), 0).to(t.dtype)
    chosen = (k == y)[:, None]
    if CAM_CLASS == "contrast":
        others = 1 / (classes - 1).to(ACC)
        z = tl.sum(tl.where(chosen, maps, -others * maps), 0)
    else:
        z = tl.sum(tl.where(chosen, maps, 0), 0)
    exists = tl.sum(hot.to(tl.int32), 0) > 0
    z = tl.where(exists, z, float("nan"))
    classification = tl.where(exists, classification, float("nan"))
    grad = tl.where(exists, grad, float("nan"))

    # Entropy of the CAM.
    q, cam_shifted, total, mean = softmax_entropy(z, inside, temperature)
    entropy = (tl.log(total) - mean) * inverse_log
    slope = q * (mean - cam_shifted) * (inverse_log / temperature)

    # The human map, zero where there is none.
    present = 0
    human = tl.zeros((BLOCK_P,), ACC)
    if HAS_SALIENCY:
        present = 1
        if HAS_MASK:
            present = tl.load(saliency_mask_ptr + b).to(tl.int32)
        readable = tl.where(present != 0, cells, 0)
        human = tl.load(saliency_ptr + b.to(tl.int64) * cells + p, mask=p < readable, other=0)
        human = human.to(ACC)

    # Focus.
    focus = tl.zeros_like(entropy)
    sign = tl.zeros_like(entropy)
    if LEVEL == "minimize":
        focus = entropy
        sign += 1
    if LEVEL == "match" or LEVEL == "hinge":
        if HAS_TARGET_ENTROPY:
            excess = entropy - tl.load(entropy_target_ptr + b)
        else:
            mass = tl.sum(human, 0)
            part = human / tl.where(mass > 0, mass, 1)
            own = -tl.sum(tl.where(part > 0, part * tl.log(tl.where(part > 0, part, 1)), 0), 0)
            excess = tl.where(mass > 0, entropy - own * inverse_log, 0)
        if LEVEL == "hinge":
            # Written so that NaN stays visible.
            focus = tl.where(excess <= 0, 0, excess)
            sign = tl.where(excess > 0, 1.0, 0.0).to(ACC)
        else:
            focus = tl.abs(excess)
            sign = tl.where(excess > 0, 1.0, tl.where(excess < 0, -1.0, 0.0)).to(ACC)
    g = weight_focus * sign * slope

    # Saliency: the min-max normalised CAM against the human map.
    saliency = tl.zeros_like(entropy)
    if HAS_SALIENCY:
        half = z / 2  # the range of the halves cannot overflow
        low = tl.min(tl.where(inside, half, float("inf")), 0)
        high = tl.max(tl.where(inside, half, lowest), 0)
        largest = tl.max(tl.where(inside, tl.abs(half), 0), 0)
        flat = (high - low) <= tl.load(constants_ptr + 1) * largest
        span = tl.where(flat, 1, high - low)
        scaled = tl.where(inside, tl.where(flat, 0, (half - low) / span), 0)
        error = tl.where(inside, scaled - human, 0)
        saliency = tl.where(present != 0, tl.sum(error * error, 0) / cells, 0)
        along = error * (2 / cells.to(ACC))
        at_low = tl.where(inside & (half == low), 1.0, 0.0).to(ACC)
        at_high = tl.where(inside & (half == high), 1.0, 0.0).to(ACC)
        by_high = tl.sum(along * scaled, 0)
        by_low = tl.sum(along, 0) - by_high
        along -= at_low * (by_low / tl.sum(at_low, 0)) + at_high * (by_high / tl.sum(at_high, 0))
        along = along / (2 * span)
        g += weight_saliency * tl.where(flat, 0, tl.where(present != 0, along, 0))

    loss = weight_ce * classification + weight_focus * focus + weight_saliency * saliency
    tl.store(terms_ptr + b, loss)
    tl.store(terms_ptr + batch + b, entropy)
    tl.store(terms_ptr + 2 * batch + b, classification)
    tl.store(terms_ptr + 3 * batch + b, focus)
    tl.store(terms_ptr + 4 * batch + b, saliency)
    tl.store(classes_ptr + b, y)
    sample_k = b.to(tl.int64) * classes + k
    tl.store(logits_ptr + sample_k, logits, mask=real)
    tl.store(grad_logits_ptr + sample_k, weight_ce * grad, mask=real)
    sample_p = b.to(tl.int64) * cells + p
    tl.store(cam_ptr + sample_p, z, mask=inside)
    tl.store(grad_cam_ptr + sample_p, g, mask=inside)


@triton.jit
def _gradient_kernel(
    features_ptr,
    weight_ptr,
    classes_ptr,
    grad_cam_ptr,
    grad_logits_ptr,
    upstream_ptr,
    grad_features_ptr,
    grad_weight_ptr,
    stride_fb,
    stride_fc,
    stride_fh,
    stride_fw,
    stride_wk,
    stride_wc,
    stride_gb,
    stride_gc,
    stride_gh,
    stride_gw,
    stride_u,
    batch,
    channels,
    width,
    cells,
    classes,
    samples_per_group,
    ACC: tl.constexpr,
    FLAT: tl.constexpr,
    FLAT_GRADIENT: tl.constexpr,
    CONTRAST: tl.constexpr,
    NEED_FEATURES: tl.constexpr,
    NEED_WEIGHT: tl.constexpr,
    K_PAD: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One block of channels and one group of samples: dF, and the group's part of dW.

    grad_features [B,C,H,W]; grad_weight [groups,K,C] of ACC.
    """
    channel = tl.program_id(0).to(tl.int64) * BLOCK_C + tl.arange(0, BLOCK_C)
    group = tl.program_id(1)
    k = tl.arange(0, K_PAD)
    p = tl.arange(0, BLOCK_P)
    real = k < classes
    inside = p < cells
    mask = (channel < channels)[:, None] & inside[None, :]
    mask_kc = real[:, None] & (channel < channels)[None, :]
    w = tl.load(
        weight_ptr + k.to(tl.int64)[:, None] * stride_wk + channel[None, :] * stride_wc,
        mask=mask_kc,
        other=0,
    ).to(ACC)
    tile_f = channel[:, None] * stride_fc + cell_offsets(p, width, stride_fh, stride_fw, FLAT)
    tile_g = channel[:, None] * stride_gc + cell_offsets(
        p, width, stride_gh, stride_gw, FLAT_GRADIENT
    )
    grad_w = tl.zeros((K_PAD, BLOCK_C), ACC)
    first = group * samples_per_group
    for i in range(first, tl.minimum(first + samples_per_group, batch)):
        b = tl.cast(i, tl.int64)
        upstream = tl.load(upstream_ptr + b * stride_u).to(ACC)
        g = upstream * tl.load(grad_cam_ptr + b * cells + p, mask=inside, other=0)
        d = upstream * tl.load(grad_logits_ptr + b * classes + k, mask=real, other=0)
        chosen = (k == tl.load(classes_ptr + b))[:, None]
        others = -1 / (classes - 1).to(ACC) if CONTRAST else 0
        if NEED_FEATURES:
            row = tl.sum(tl.where(chosen, w, others * w), 0)
            spread = tl.sum(d[:, None] * w, 0) / cells
            # Explicit: the interpreter's own conversion to bfloat16 truncates.
            tl.store(
                grad_features_ptr + b * stride_gb + tile_g,
                (row[:, None] * g[None, :] + spread[:, None]).to(
                    grad_features_ptr.dtype.element_ty
                ),
                mask=mask,
            )
        if NEED_WEIGHT:
            tile = tl.load(features_ptr + b * stride_fb + tile_f, mask=mask, other=0).to(ACC)
            u = tl.sum(tile * g[None, :], 1)
            pooled = tl.sum(tile, 1) / cells
            grad_w += tl.where(chosen, u[None, :], others * u[None, :])
            grad_w += d[:, None] * pooled[None, :]
    if NEED_WEIGHT:
        out = (group.to(tl.int64) * classes + k)[:, None] * channels + channel[None, :]
        tl.store(grad_weight_ptr + out, grad_w, mask=mask_kc)


@triton.jit
def _class_maps(
    features_ptr,
    weight_ptr,
    stride_fc,
    stride_fh,
    stride_fw,
    stride_wk,
    stride_wc,
    first,
    last,
    channels,
    width,
    cells,
    classes,
    ACC: tl.constexpr,
    FLAT: tl.constexpr,
    K_PAD: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """sum_c W[k,c] F[c,p] over the channels [first, last) of one sample, [K_PAD, BLOCK_P].

    first is a multiple of BLOCK_C, so only the last block of all is partly empty. The mask says no
    more than that: with ``last`` in it the loads would no longer be known to be aligned.
    """
    k = tl.arange(0, K_PAD)
    p = tl.arange(0, BLOCK_P)
    offsets = cell_offsets(p, width, stride_fh, stride_fw, FLAT)
    rows = weight_ptr + k.to(tl.int64)[:, None] * stride_wk
    partial = tl.zeros((K_PAD, BLOCK_C, BLOCK_P), ACC)
    for start in range(first, last, BLOCK_C):
        channel = (start + tl.arange(0, BLOCK_C)).to(tl.int64)
        tile = tl.load(
            features_ptr + channel[:, None] * stride_fc + offsets,
            mask=(channel < channels)[:, None] & (p < cells)[None, :],
            other=0,
        ).to(ACC)
        w = tl.load(
            rows + channel[None, :] * stride_wc,
            mask=(k < classes)[:, None] & (channel < channels)[None, :],
            other=0,
        ).to(ACC)
        partial += w[:, :, None] * tile[None, :, :]
    return tl.sum(partial, 1)


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
    splits: int | None = None,
) -> HeadForward:
    """As :func:`focus.kernels.eager.focus_head_forward`; ``splits`` None: by the shapes."""
    batch, channels, height, width = features.shape
    classes, cells = len(weight), height * width
    dtype = accumulation_dtype(features)
    new = features.new_empty
    terms = new((5, batch), dtype=dtype)
    logits, grad_logits = (new((batch, classes), dtype=dtype) for _ in range(2))
    cam, grad_cam = new((batch, height, width), dtype=dtype), new((batch, cells), dtype=dtype)
    index = torch.empty_like(target, memory_format=torch.contiguous_format)
    inverse_log = 1 / math.log(cells) if cells > 1 else 0.0
    if batch:
        k_pad = triton.next_power_of_2(classes)
        block_p = triton.next_power_of_2(cells)
        block_c = _fit(FORWARD_TILE // (k_pad * block_p), channels)
        if splits is None:
            splits = default_splits(batch, channels, block_c)
        per_split = triton.cdiv(triton.cdiv(channels, splits), block_c) * block_c
        splits = triton.cdiv(channels, per_split)
        strides = (*features.stride(), *weight.stride())
        sizes = {
            "ACC": triton_type(dtype),
            "FLAT": features.stride(2) == width * features.stride(3),
            "K_PAD": k_pad,
            "BLOCK_C": block_c,
            "BLOCK_P": block_p,
        }
        maps = terms
        with torch.cuda.device_of(features):
            if splits > 1:
                maps = new((batch, splits, classes, cells), dtype=dtype)
                _maps_kernel[(batch, splits)](
                    features,
                    weight,
                    maps,
                    *strides,
                    channels,
                    width,
                    cells,
                    classes,
                    per_split,
                    **sizes,
                    **OPTIONS,
                )
            _terms_kernel[(batch,)](
                features,
                weight,
                maps,
                bias,
                target.contiguous(),
                None if saliency is None else saliency.contiguous(),
                None if saliency_mask is None else saliency_mask.contiguous(),
                None if entropy_target is None else entropy_target.contiguous(),
                None if class_weight is None else class_weight.contiguous(),
                scalars,
                terms,
                logits,
                cam,
                index,
                grad_cam,
                grad_logits,
                *strides,
                batch,
                channels,
                width,
                cells,
                classes,
                scalar_tensor([inverse_log, 64 * torch.finfo(dtype).eps], features),
                SPLITS=splits,
                LEVEL=level,
                CAM_CLASS=cam_class,
                HAS_BIAS=bias is not None,
                HAS_SALIENCY=saliency is not None,
                HAS_MASK=saliency_mask is not None,
                HAS_TARGET_ENTROPY=entropy_target is not None,
                HAS_CLASS_WEIGHT=class_weight is not None,
                **sizes,
                **OPTIONS,
            )
    return HeadForward(
        terms=terms,
        logits=logits,
        cam=cam,
        classes=index,
        pooled=new(0, dtype=dtype),
        grad_cam=grad_cam,
        grad_logits=grad_logits,
    )


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
    batch, channels, height, width = features.shape
    classes, cells = len(weight), height * width
    dtype = accumulation_dtype(features)
    grad_features = empty_gradient(features) if needs[0] else None
    block_p = triton.next_power_of_2(cells)
    block_c = _fit(BACKWARD_TILE // block_p, channels)
    blocks = triton.cdiv(channels, block_c)
    per_group = triton.cdiv(batch, min(max(PROGRAMS // blocks, 1), max(batch, 1)))
    groups = triton.cdiv(batch, per_group) if batch else 0
    partial = features.new_empty((groups, classes, channels), dtype=dtype) if needs[1] else None
    if batch and (needs[0] or needs[1]):
        written = features if grad_features is None else grad_features
        with torch.cuda.device_of(features):
            _gradient_kernel[(blocks, groups)](
                features,
                weight,
                index,
                grad_cam,
                grad_logits,
                upstream,
                grad_features,
                partial,
                *features.stride(),
                *weight.stride(),
                *written.stride(),
                upstream.stride(0),
                batch,
                channels,
                width,
                cells,
                classes,
                per_group,
                ACC=triton_type(dtype),
                FLAT=features.stride(2) == width * features.stride(3),
                FLAT_GRADIENT=written.stride(2) == width * written.stride(3),
                CONTRAST=cam_class == "contrast",
                NEED_FEATURES=needs[0],
                NEED_WEIGHT=needs[1],
                K_PAD=triton.next_power_of_2(classes),
                BLOCK_C=block_c,
                BLOCK_P=block_p,
                **OPTIONS,
            )
    grad_weight = None if partial is None else _reduce_groups(partial).to(weight.dtype)
    grad_bias = (upstream[:, None] * grad_logits).sum(0) if needs[2] else None
    return grad_features, grad_weight, grad_bias


def default_splits(batch: int, channels: int, block_c: int) -> int:
    """How many programs share a sample's channels: by the shapes only, so that results repeat."""
    return max(1, min(PROGRAMS // max(batch, 1), channels // (4 * block_c)))


def _fit(block: int, channels: int) -> int:
    """A channel block of at least 1 and no more than the channels need."""
    return min(max(block, 1), int(triton.next_power_of_2(channels)))


def _reduce_groups(partial: Tensor) -> Tensor:
    return partial[0] if len(partial) == 1 else partial.sum(0)

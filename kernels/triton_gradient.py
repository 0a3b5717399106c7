# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment, var-annotated"
"""Gradients of features and classifier from the small gradients of the maps: the backward.

With g[b,p] the gradient of sample b's CAM and d[b,k] that of its logits, both for an upstream
gradient of 1, s[b] the upstream gradient, and a[b,k] the combination of class maps that the CAM is,

    h[b,k,p]  = s[b] (a[b,k] g[b,p] + d[b,k] / HW)
    dF[b,c,p] = sum_k W[k,c] h[b,k,p]
    dW[k,c]   = sum_b sum_p h[b,k,p] F[b,c,p],      db[k] = sum_b s[b] d[b,k]

Up to 4 classes: a program holds one block of channels of W and walks over a group of samples, so W
is read, and dW written, once a group (and block of cells, where they are many); a small launch sums
these parts in a fixed order.

More classes: a program of one sample and block of channels gets V = s a W and v = s d W, which are
matrix products ``[B,C]``, and leaves what their transposes need: u = sum_p g F and the pooled
features.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from focus.kernels import triton_tiles
from focus.kernels.eager import empty_gradient
from focus.kernels.triton_maps import (
    MAX_CLASSES_IN_PLACE,
    PROGRAMS,
    SAMPLES,
    channels_per_split,
)
from focus.kernels.triton_tiles import (
    OPTIONS,
    arrangement,
    load_channels,
    on_amd,
    padded,
    samples_in_registers,
    spread_cells,
    sum_cells,
    tile_offsets,
    triton_type,
    zero_tile,
)
from focus.kernels.types import accumulation_dtype, without_autocast

# Parts of dW that are summed at once.
GROUPS = 16
# With more, fewer than four programs of four warps share a multiprocessor. Only triton 3.6 would
# take more.
MAX_REGISTERS = 128


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
    stride_y,
    stride_u,
    batch,
    channels,
    width,
    classes,
    channels_per_split,
    ACC: tl.constexpr,
    CONTRAST: tl.constexpr,
    LOGITS: tl.constexpr,
    NEED_FEATURES: tl.constexpr,
    NEED_WEIGHT: tl.constexpr,
    SAMPLES: tl.constexpr,
    STAGES: tl.constexpr,
    CELLS: tl.constexpr,
    FLAT: tl.constexpr,
    V: tl.constexpr,
    L: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """A group of SAMPLES samples, a split of the channels, a block of the cells: dF, a part of dW.

    grad_features [B,C,H,W]; grad_weight [groups blocks,K,C] of ACC. LOGITS: they have a gradient,
    too.
    """
    tl.static_assert(L <= MAX_CLASSES_IN_PLACE, "more classes do not fit into registers")
    group = tl.program_id(0)
    split = tl.program_id(1)
    k = tl.arange(0, L)
    first_p = 0
    if BLOCK_P < CELLS:
        first_p = tl.program_id(2) * BLOCK_P
    p = first_p + tl.arange(0, BLOCK_P)
    real = k < classes
    others = -1 / (classes - 1).to(ACC) if CONTRAST else 0
    # A CAM's gradient alone stays in its class, also where 0 times the features is NaN.
    ONE_CLASS: tl.constexpr = not LOGITS and not CONTRAST
    # Of each sample: h, or g where that is in one class, and the class.
    cams = ()
    chosen = ()
    for i in tl.static_range(SAMPLES):
        b = (group * SAMPLES + i).to(tl.int64)
        limit = tl.where(b < batch, classes, 0)
        s = tl.load(upstream_ptr + b * stride_u, mask=b < batch, other=0).to(ACC)
        y = tl.load(classes_ptr + b * stride_y, mask=b < batch, other=-1)
        inside = p < tl.where(b < batch, CELLS, 0)
        g = s * tl.load(grad_cam_ptr + b * CELLS + p, mask=inside, other=0)
        hot = ((k == y) & real)[:, None]
        if ONE_CLASS:
            g = spread_cells(g[None, :], 1, CELLS, V)
        else:
            g = tl.where(hot, g[None, :], others * g[None, :] if CONTRAST else 0)
            if LOGITS:
                d = s * tl.load(grad_logits_ptr + b * classes + k, mask=k < limit, other=0) / CELLS
                g += d[:, None]
            g = spread_cells(tl.where(inside[None, :], g, 0), L, CELLS, V)
        cams += (g,)
        chosen += (hot,)
    first = split * channels_per_split
    last = tl.minimum(first + channels_per_split, channels)
    rows = weight_ptr + k.to(tl.int64) * stride_wk
    for start in tl.range(first, last, BLOCK_C, num_stages=STAGES):
        w = load_channels(rows, real, start, channels, stride_wc, ACC, CELLS, V, BLOCK_C)
        grad_w = zero_tile(ACC, L, CELLS, V, BLOCK_C, BLOCK_P)
        for i in tl.static_range(SAMPLES):
            b = (group * SAMPLES + i).to(tl.int64)
            readable = tl.where(b < batch, channels, 0)
            if NEED_WEIGHT:
                offsets, mask = tile_offsets(
                    start,
                    readable,
                    first_p,
                    stride_fc,
                    stride_fh,
                    stride_fw,
                    width,
                    CELLS,
                    FLAT,
                    V,
                    BLOCK_C,
                    BLOCK_P,
                )
                tile = tl.load(features_ptr + b * stride_fb + offsets, mask=mask, other=0)
                tile = tile.to(ACC)[None]
            if ONE_CLASS:
                own = chosen[i][:, :, None, None] if V > 0 else chosen[i][:, :, None]
                grad_f = tl.sum(tl.sum(tl.where(own, w, 0), 0)[None] * cams[i], 0)
                if NEED_WEIGHT:
                    grad_w += tl.where(own, cams[i] * tile, 0)
            else:
                grad_f = tl.sum(w * cams[i], 0)
                if NEED_WEIGHT:
                    grad_w += cams[i] * tile
            if NEED_FEATURES:
                offsets, mask = tile_offsets(
                    start,
                    readable,
                    first_p,
                    stride_gc,
                    stride_gh,
                    stride_gw,
                    width,
                    CELLS,
                    FLAT,
                    V,
                    BLOCK_C,
                    BLOCK_P,
                )
                # Explicit: the interpreter's own conversion to bfloat16 truncates.
                tl.store(
                    grad_features_ptr + b * stride_gb + offsets,
                    grad_f.to(grad_features_ptr.dtype.element_ty),
                    mask=mask,
                )
        if NEED_WEIGHT:
            channel = start + tl.arange(0, BLOCK_C)
            part = group.to(tl.int64) * tl.num_programs(2) + tl.program_id(2)
            place = (part * classes + k)[:, None] * channels + channel[None, :]
            tl.store(
                grad_weight_ptr + place,
                sum_cells(grad_w, L, CELLS, V, BLOCK_C),
                mask=real[:, None] & (channel < channels)[None, :],
            )


@triton.jit
def _sum_groups_kernel(
    partial_ptr,
    grad_logits_ptr,
    upstream_ptr,
    grad_weight_ptr,
    grad_bias_ptr,
    stride_u,
    batch,
    groups,
    channels,
    classes,
    ACC: tl.constexpr,
    NEED_WEIGHT: tl.constexpr,
    NEED_BIAS: tl.constexpr,
    BLOCK_G: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_B: tl.constexpr,
):
    """dW [K,C] of a class and block of channels, summed over its parts [groups,K,C]; and db [K]."""
    k = tl.program_id(0).to(tl.int64)
    if NEED_WEIGHT:
        channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
        inside = channel < channels
        parts = tl.zeros((BLOCK_G, BLOCK_C), ACC)
        for start in range(0, groups, BLOCK_G):
            group = start + tl.arange(0, BLOCK_G)
            row = (group.to(tl.int64) * classes + k) * channels
            parts += tl.load(
                partial_ptr + row[:, None] + channel[None, :],
                mask=(group < groups)[:, None] & inside[None, :],
                other=0,
            )
        out = tl.sum(parts, 0).to(grad_weight_ptr.dtype.element_ty)
        tl.store(grad_weight_ptr + k * channels + channel, out, mask=inside)
    if NEED_BIAS and tl.program_id(1) == 0:
        i = tl.arange(0, BLOCK_B)
        total = tl.zeros((BLOCK_B,), ACC)
        for start in range(0, batch, BLOCK_B):
            b = (start + i).to(tl.int64)
            d = tl.load(grad_logits_ptr + b * classes + k, mask=b < batch, other=0)
            total += d * tl.load(upstream_ptr + b * stride_u, mask=b < batch, other=0)
        tl.store(grad_bias_ptr + k, tl.sum(total, 0))


@triton.jit
def _factors_kernel(
    classes_ptr,
    grad_logits_ptr,
    upstream_ptr,
    factors_ptr,
    stride_y,
    stride_u,
    batch,
    classes,
    ACC: tl.constexpr,
    CONTRAST: tl.constexpr,
    LOGITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """s a and s d of one sample: factors [2,B,K] of ACC."""
    b = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    s = tl.load(upstream_ptr + b * stride_u).to(ACC)
    others = -1 / (classes - 1).to(ACC) if CONTRAST else 0
    a = tl.where(k == tl.load(classes_ptr + b * stride_y), s, s * others if CONTRAST else 0)
    tl.store(factors_ptr + b * classes + k, a, mask=k < classes)
    d = tl.zeros((BLOCK,), ACC)
    if LOGITS:
        d = s * tl.load(grad_logits_ptr + b * classes + k, mask=k < classes, other=0)
    tl.store(factors_ptr + (batch + b) * classes + k, d, mask=k < classes)


@triton.jit
def _rows_kernel(
    features_ptr,
    rows_ptr,
    grad_cam_ptr,
    grad_features_ptr,
    sums_ptr,
    stride_fb,
    stride_fc,
    stride_fh,
    stride_fw,
    stride_gb,
    stride_gc,
    stride_gh,
    stride_gw,
    batch,
    channels,
    width,
    ACC: tl.constexpr,
    NEED_FEATURES: tl.constexpr,
    NEED_WEIGHT: tl.constexpr,
    CELLS: tl.constexpr,
    FLAT: tl.constexpr,
    V: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One sample and block of channels: dF = V g + v / HW, u = sum_p g F and the pooled features.

    rows [2,B,C] of ACC are V and v, sums [2,B,C] of ACC are u and the pooled features.
    """
    b = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK_C
    one = tl.zeros((1,), tl.int64)
    if NEED_FEATURES:
        vector = load_channels(
            rows_ptr + b * channels + one, one == 0, first, channels, 1, ACC, CELLS, V, BLOCK_C
        )
        spread = load_channels(
            rows_ptr + (batch + b) * channels + one,
            one == 0,
            first,
            channels,
            1,
            ACC,
            CELLS,
            V,
            BLOCK_C,
        )
    u = tl.zeros((BLOCK_C,), ACC)
    pooled = tl.zeros((BLOCK_C,), ACC)
    for first_p in range(0, CELLS, BLOCK_P):
        p = first_p + tl.arange(0, BLOCK_P)
        g = tl.load(grad_cam_ptr + b * CELLS + p, mask=p < CELLS, other=0)
        g = spread_cells(g[None, :], 1, CELLS, V)
        if NEED_FEATURES:
            offsets, mask = tile_offsets(
                first,
                channels,
                first_p,
                stride_gc,
                stride_gh,
                stride_gw,
                width,
                CELLS,
                FLAT,
                V,
                BLOCK_C,
                BLOCK_P,
            )
            grad_f = tl.sum(vector * g + spread / CELLS, 0)
            tl.store(
                grad_features_ptr + b * stride_gb + offsets,
                grad_f.to(grad_features_ptr.dtype.element_ty),
                mask=mask,
            )
        if NEED_WEIGHT:
            offsets, mask = tile_offsets(
                first,
                channels,
                first_p,
                stride_fc,
                stride_fh,
                stride_fw,
                width,
                CELLS,
                FLAT,
                V,
                BLOCK_C,
                BLOCK_P,
            )
            tile = tl.load(features_ptr + b * stride_fb + offsets, mask=mask, other=0).to(ACC)[None]
            u += tl.sum(sum_cells(tile * g, 1, CELLS, V, BLOCK_C), 0)
            pooled += tl.sum(sum_cells(tile, 1, CELLS, V, BLOCK_C), 0)
    if NEED_WEIGHT:
        channel = first + tl.arange(0, BLOCK_C)
        inside = channel < channels
        tl.store(sums_ptr + b * channels + channel, u, mask=inside)
        tl.store(sums_ptr + (batch + b) * channels + channel, pooled / CELLS, mask=inside)


def few_classes(
    features: Tensor,
    weight: Tensor,
    classes: Tensor,
    grad_cam: Tensor,
    grad_logits: Tensor | None,
    upstream: Tensor,
    *,
    contrast: bool,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """dF, dW and db, each where ``needs`` asks for it, for up to 4 classes.

    Args:
        classes: ``[B]``; grad_cam ``[B,HW]``, grad_logits ``[B,K]`` or None, upstream ``[B]``.
    """
    batch, channels, height, width = features.shape
    count = len(weight)
    dtype = accumulation_dtype(features)
    grad_features = empty_gradient(features) if needs[0] else None
    written = features if grad_features is None else grad_features
    lead = padded(count)
    seen = arrangement(features, written, per_thread=8, classes=lead)
    if seen["V"]:
        seen = arrangement(features, written, per_thread=seen["V"], classes=lead)
    samples = samples_in_registers(seen, SAMPLES if lead <= 2 or not seen["V"] else 2)
    groups, blocks = triton.cdiv(batch, samples), triton.cdiv(height * width, seen["BLOCK_P"])
    splits = default_splits(max(groups * blocks, 1), channels)
    per_split = channels_per_split(channels, seen["BLOCK_C"], splits)
    new = weight.new_empty
    partial = new((groups * blocks, count, channels), dtype=dtype) if needs[1] else None
    grad_weight = new((count, channels)) if needs[1] else None
    grad_bias = new((count,), dtype=dtype) if needs[2] else None
    with torch.cuda.device_of(features):
        if batch and (needs[0] or needs[1]):
            _gradient_kernel[(groups, triton.cdiv(channels, per_split), blocks)](
                features,
                weight,
                classes,
                grad_cam,
                grad_logits,
                upstream,
                grad_features,
                partial,
                *features.stride(),
                *weight.stride(),
                *written.stride(),
                classes.stride(0),
                upstream.stride(0),
                batch,
                channels,
                width,
                count,
                per_split,
                ACC=triton_type(dtype),
                CONTRAST=contrast,
                LOGITS=grad_logits is not None,
                NEED_FEATURES=needs[0],
                NEED_WEIGHT=needs[1],
                SAMPLES=samples,
                STAGES=1 if on_amd() else 3,
                L=lead,
                **seen,
                **OPTIONS,
                **({} if on_amd() else {"maxnreg": MAX_REGISTERS}),
            )
        if needs[1] or needs[2]:
            block_c = 64 * triton_tiles.tile_scale
            _sum_groups_kernel[(count, triton.cdiv(channels, block_c) if needs[1] else 1)](
                partial,
                grad_logits,
                upstream,
                grad_weight,
                grad_bias,
                upstream.stride(0),
                batch,
                groups * blocks,
                channels,
                count,
                ACC=triton_type(dtype),
                NEED_WEIGHT=needs[1],
                NEED_BIAS=needs[2],
                BLOCK_G=GROUPS,
                BLOCK_C=block_c,
                BLOCK_B=256,
                **OPTIONS,
            )
    return grad_features, grad_weight, grad_bias


def default_splits(groups: int, channels: int) -> int:
    """How many programs share the channels of a group of samples and a block of their cells.

    ``groups`` counts these pairs. Each program reads the small gradients again, which stays under
    1 % of the features in 16 bits; for small batches two dozen programs in any case.
    """
    return max(1, min(PROGRAMS // groups, max(channels // 200, 24 // groups)))


@without_autocast
def many_classes(
    features: Tensor,
    weight: Tensor,
    classes: Tensor,
    grad_cam: Tensor,
    grad_logits: Tensor | None,
    upstream: Tensor,
    *,
    contrast: bool,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """As :func:`few_classes`, for any number of them."""
    batch, channels, _, width = features.shape
    count = len(weight)
    dtype = accumulation_dtype(features)
    grad_features = empty_gradient(features) if needs[0] else None
    written = features if grad_features is None else grad_features
    # a and d, scaled; then what they make of W, and of what the kernel leaves.
    factors = features.new_empty((2, batch, count), dtype=dtype)
    sums = features.new_empty((2, batch, channels), dtype=dtype) if needs[1] else None
    if batch:
        with torch.cuda.device_of(features):
            _factors_kernel[(batch, triton.cdiv(count, 1024))](
                classes,
                grad_logits,
                upstream,
                factors,
                classes.stride(0),
                upstream.stride(0),
                batch,
                count,
                ACC=triton_type(dtype),
                CONTRAST=contrast,
                LOGITS=grad_logits is not None,
                BLOCK=1024,
                **OPTIONS,
            )
            rows = factors.flatten(0, 1) @ weight.to(dtype) if needs[0] else factors
            seen = arrangement(features, written, per_thread=16)
            if seen["V"]:
                seen = arrangement(features, written, per_thread=seen["V"])
            if needs[0] or needs[1]:
                _rows_kernel[(batch, triton.cdiv(channels, seen["BLOCK_C"]))](
                    features,
                    rows,
                    grad_cam,
                    grad_features,
                    sums,
                    *features.stride(),
                    *written.stride(),
                    batch,
                    channels,
                    width,
                    ACC=triton_type(dtype),
                    NEED_FEATURES=needs[0],
                    NEED_WEIGHT=needs[1],
                    **seen,
                    **OPTIONS,
                )
    grad_weight = None
    if sums is not None:
        grad_weight = (factors.flatten(0, 1).T @ sums.flatten(0, 1)).to(weight.dtype)
    return grad_features, grad_weight, factors[1].sum(0) if needs[2] else None

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment, var-annotated"
"""Backward of few classes, whose products with h stay in place until they are summed.

A program holds one block of channels of W and walks over a group of samples, so W is read, and dW
written, once a group (and block of cells, where they are many).
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from focus.kernels.eager import empty_gradient
from focus.kernels.triton_gradient_sums import sum_groups
from focus.kernels.triton_maps import (
    MAX_CLASSES_IN_PLACE,
    PROGRAMS,
    SAMPLES,
    THREADS,
    channels_per_split,
)
from focus.kernels.triton_tiles import (
    MAX_REGISTERS,
    OPTIONS,
    VECTOR_BYTES,
    arrangement,
    before_sm_90,
    load_channels,
    on_amd,
    samples_in_registers,
    spread_cells,
    stages_ahead,
    sum_cells,
    tile_offsets,
    triton_type,
    warp_size,
    zero_tile,
)
from focus.kernels.types import MapGradients, accumulation_dtype


@triton.jit
def _few_kernel(
    features_ptr,
    weight_ptr,
    classes_ptr,
    grad_cam_ptr,
    grad_logits_ptr,
    upstream_ptr,
    grad_features_ptr,
    grad_weight_ptr,
    stride_f,
    stride_w,
    stride_g,
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
    HOIST: tl.constexpr,
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
    # A thread has a few cells of a row, but more of a column than it has registers for h.
    KEEP_G: tl.constexpr = ONE_CLASS or V < 0
    # Of each sample: the class; h, or g of which h is made at each step; and d / HW for that.
    chosen = ()
    cams = ()
    evens = ()
    for i in tl.static_range(SAMPLES):
        b = (group * SAMPLES + i).to(tl.int64)
        limit = tl.where(b < batch, classes, 0)
        s = tl.load(upstream_ptr + b * stride_u, mask=b < batch, other=0).to(ACC)
        y = tl.load(classes_ptr + b * stride_y, mask=b < batch, other=-1)
        inside = p < tl.where(b < batch, CELLS, 0)
        g = s * tl.load(grad_cam_ptr + b * CELLS + p, mask=inside, other=0)
        hot = ((k == y) & real)[:, None]
        d = tl.zeros((L,), ACC)
        if LOGITS:
            d = s * tl.load(grad_logits_ptr + b * classes + k, mask=k < limit, other=0) / CELLS
        if KEEP_G:
            g = spread_cells(g[None, :], 1, CELLS, V)
        else:
            g = tl.where(hot, g[None, :], others * g[None, :] if CONTRAST else 0)
            if LOGITS:
                g += d[:, None]
            g = spread_cells(tl.where(inside[None, :], g, 0), L, CELLS, V)
        chosen += (hot,)
        cams += (g,)
        evens += (d,)
    first = split * channels_per_split
    last = tl.minimum(first + channels_per_split, channels)
    rows = weight_ptr + k.to(tl.int64) * stride_w[0]
    for start in tl.range(first, last, BLOCK_C, num_stages=STAGES, disable_licm=not HOIST):
        w = load_channels(rows, real, start, channels, stride_w[1], ACC, CELLS, V, BLOCK_C)
        grad_w = zero_tile(ACC, L, CELLS, V, BLOCK_C, BLOCK_P)
        for i in tl.static_range(SAMPLES):
            b = (group * SAMPLES + i).to(tl.int64)
            readable = tl.where(b < batch, channels, 0)
            own = chosen[i][:, :, None, None] if V > 0 else chosen[i][:, :, None]
            h = cams[i]
            if KEEP_G and not ONE_CLASS:
                h = tl.where(own, h, others * h if CONTRAST else 0)
                if LOGITS:
                    h = tl.where((p < CELLS)[None, :, None], h + evens[i][:, None, None], 0)
            # dF before F is there: of columns, both do not fit into registers.
            if NEED_FEATURES:
                if ONE_CLASS:
                    grad_f = tl.sum(tl.sum(tl.where(own, w, 0), 0)[None] * h, 0)
                else:
                    grad_f = tl.sum(w * h, 0)
                offsets, mask = tile_offsets(
                    start, readable, first_p, stride_g, width, CELLS, FLAT, V, BLOCK_C, BLOCK_P
                )
                tl.store(
                    grad_features_ptr + b * stride_g[0] + offsets,
                    grad_f.to(grad_features_ptr.dtype.element_ty),
                    mask=mask,
                )
            if NEED_WEIGHT:
                offsets, mask = tile_offsets(
                    start, readable, first_p, stride_f, width, CELLS, FLAT, V, BLOCK_C, BLOCK_P
                )
                tile = tl.load(features_ptr + b * stride_f[0] + offsets, mask=mask, other=0)
                tile = tile.to(ACC)[None]
                grad_w += tl.where(own, h * tile, 0) if ONE_CLASS else h * tile
        if NEED_WEIGHT:
            channel = start + tl.arange(0, BLOCK_C)
            part = group.to(tl.int64) * tl.num_programs(2) + tl.program_id(2)
            place = (part * classes + k)[:, None] * channels + channel[None, :]
            tl.store(
                grad_weight_ptr + place,
                sum_cells(grad_w, L, CELLS, V, BLOCK_C),
                mask=real[:, None] & (channel < channels)[None, :],
            )


def few_classes(
    features: Tensor,
    weight: Tensor,
    maps: MapGradients,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """As :func:`focus.kernels.triton_gradient.gradients`, for up to 4 classes."""
    batch, channels, height, width = features.shape
    count = len(weight)
    dtype = accumulation_dtype(features)
    grad_features = empty_gradient(features) if needs[0] else None
    written = features if grad_features is None else grad_features
    lead = triton.next_power_of_2(count)
    # Columns of more classes spill.
    options: dict[str, Any] = {"classes": lead, "columns": lead <= 2}
    seen = arrangement(features, written, per_thread=8, threads=THREADS, **options)
    # What vectors and their classes leave of the registers.
    crowded = seen["V"] > 0 and lead > 2
    threads, share = (4 * warp_size(), 2) if crowded else (THREADS, SAMPLES)
    if seen["V"] < 0:
        # Warps share the cells: twice as many hold half as much of h, each.
        threads = 2 * THREADS
        vector = VECTOR_BYTES // features.element_size()
        seen = arrangement(features, written, per_thread=vector, threads=threads, **options)
    if seen["V"] > 0:
        seen = arrangement(features, written, per_thread=seen["V"], threads=threads, **options)
    samples = samples_in_registers(seen, share, threads)
    groups, blocks = triton.cdiv(batch, samples), triton.cdiv(height * width, seen["BLOCK_P"])
    splits = default_splits(max(groups * blocks, 1), channels)
    per_split = channels_per_split(channels, seen["BLOCK_C"], splits)
    partial = None
    if needs[1]:
        partial = features.new_empty((groups * blocks, count, channels), dtype=dtype)
    with torch.cuda.device_of(features):
        if batch and (needs[0] or needs[1]):
            _few_kernel[(groups, triton.cdiv(channels, per_split), blocks)](
                features,
                weight,
                maps.classes,
                maps.cam,
                maps.logits,
                maps.upstream,
                grad_features,
                partial,
                features.stride(),
                weight.stride(),
                written.stride(),
                maps.classes.stride(0),
                maps.upstream.stride(0),
                batch,
                channels,
                width,
                count,
                per_split,
                ACC=triton_type(dtype),
                CONTRAST=maps.contrast,
                LOGITS=maps.logits is not None,
                NEED_FEATURES=needs[0],
                NEED_WEIGHT=needs[1],
                SAMPLES=samples,
                STAGES=stages_ahead(seen, samples, lead, features, 3 if crowded else 6),
                # What is the same at each step is kept, or made again, as registers allow.
                HOIST=seen["V"] >= 0 or before_sm_90(),
                L=lead,
                **seen,
                **OPTIONS,
                num_warps=threads // warp_size(),
                **({} if on_amd() else {"maxnreg": MAX_REGISTERS}),
            )
    return grad_features, *sum_groups(partial, maps, weight, need_bias=needs[2])


def default_splits(groups: int, channels: int) -> int:
    """How many programs share the channels of a group of samples and a block of their cells.

    ``groups`` counts these pairs. Each program reads the small gradients again, which stays under
    1 % of the features in 16 bits; for small batches two dozen programs in any case.
    """
    return max(1, min(PROGRAMS // groups, max(channels // 200, 24 // groups)))

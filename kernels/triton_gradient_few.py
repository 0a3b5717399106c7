# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment, var-annotated"
"""Backward of few classes, whose products with h stay in place until they are summed.

A program holds h of a group of samples and walks over the blocks of its split of the channels, so W
is read, and dW written, once a group (and block of cells, where they are many).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from focus.kernels.triton_gradient_sums import sum_groups
from focus.kernels.triton_maps import (
    MAX_CLASSES_IN_PLACE,
    PROGRAMS,
    SAMPLES,
    THREADS,
    channels_per_split,
)
from focus.kernels.triton_planes import as_stored, as_tile, planes
from focus.kernels.triton_target import MAX_REGISTERS, OPTIONS, on_amd, triton_type, warp_size
from focus.kernels.triton_tiles import (
    arrangement,
    cells_to_spread,
    load_channels,
    samples_in_registers,
    spread_cells,
    spread_classes,
    stages_ahead,
    sum_cells,
    tile_offsets,
    vector_of,
    zero_tile,
)
from focus.kernels.types import MapGradients, accumulation_dtype, empty_gradient

# Samples of a program where registers hold the h of so many: in rows and columns, of two classes
# at most, where the logits have a gradient.
MANY_SAMPLES = 10


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

    grad_features [B,C,H,W]; grad_weight [groups blocks,K,C] of ACC. Of grad_logits None is 0, and
    what is not needed of the others is None.
    """
    tl.static_assert(L <= MAX_CLASSES_IN_PLACE, "more classes do not fit into registers")
    group = tl.program_id(0)
    split = tl.program_id(1)
    k = tl.arange(0, L)
    first_p = 0
    if BLOCK_P < CELLS:
        first_p = tl.program_id(2) * BLOCK_P
    p = cells_to_spread(first_p, CELLS, V, BLOCK_P)
    real = k < classes
    others = -1 / (classes - 1).to(ACC) if CONTRAST else 0
    # A CAM's gradient alone stays in its class, also where 0 times the features is NaN.
    ONE_CLASS: tl.constexpr = grad_logits_ptr is None and not CONTRAST
    # Of each sample its class, and h; for a CAM alone h is just g.
    chosen = ()
    maps = ()
    for i in tl.static_range(SAMPLES):
        b = (group * SAMPLES + i).to(tl.int64)
        limit = tl.where(b < batch, classes, 0)
        s = tl.load(upstream_ptr + b * stride_u, mask=b < batch, other=0).to(ACC)
        y = tl.load(classes_ptr + b * stride_y, mask=b < batch, other=-1)
        inside = p < tl.where(b < batch, CELLS, 0)
        h = (s * tl.load(grad_cam_ptr + b * CELLS + p, mask=inside, other=0))[None, :]
        hot = ((k == y) & real)[:, None]
        if not ONE_CLASS:
            h = tl.where(hot, h, others * h if CONTRAST else 0)
            if grad_logits_ptr is not None:
                d = s * tl.load(grad_logits_ptr + b * classes + k, mask=k < limit, other=0)
                h += (d / CELLS)[:, None]
            h = tl.where(inside[None, :], h, 0)
        chosen += (spread_classes(hot, V),)
        maps += (spread_cells(h, CELLS, V),)
    first = split * channels_per_split
    last = tl.minimum(first + channels_per_split, channels)
    rows = weight_ptr + k.to(tl.int64) * stride_w[0]
    # One loop after the other: registers do not hold h, W and the sums for dW at once.
    if grad_weight_ptr is not None:
        for start in tl.range(first, last, BLOCK_C, num_stages=STAGES, disable_licm=not HOIST):
            grad_w = zero_tile(ACC, L, CELLS, V, BLOCK_C, BLOCK_P)
            for i in tl.static_range(SAMPLES):
                b = (group * SAMPLES + i).to(tl.int64)
                readable = tl.where(b < batch, channels, 0)
                offsets, mask = tile_offsets(
                    start, readable, first_p, stride_f, width, CELLS, FLAT, V, BLOCK_C, BLOCK_P
                )
                tile = tl.load(features_ptr + b * stride_f[0] + offsets, mask=mask, other=0)
                tile = as_tile(tile, ACC, V)
                summed = ()
                for e in tl.static_range(planes(V)):
                    more = grad_w[e] + maps[i][e] * tile[e]
                    summed += (tl.where(chosen[i], more, grad_w[e]) if ONE_CLASS else more,)
                grad_w = summed
            channel = start + tl.arange(0, BLOCK_C)
            part = group.to(tl.int64) * tl.num_programs(2) + tl.program_id(2)
            place = (part * classes + k)[:, None] * channels + channel[None, :]
            tl.store(
                grad_weight_ptr + place,
                sum_cells(grad_w, CELLS, V, BLOCK_C),
                mask=real[:, None] & (channel < channels)[None, :],
            )
    if grad_features_ptr is not None:
        for start in tl.range(first, last, BLOCK_C, num_stages=STAGES, disable_licm=not HOIST):
            w = load_channels(rows, real, start, channels, stride_w[1], ACC, CELLS, V, BLOCK_C)
            for i in tl.static_range(SAMPLES):
                b = (group * SAMPLES + i).to(tl.int64)
                readable = tl.where(b < batch, channels, 0)
                grad_f = ()
                for e in tl.static_range(planes(V)):
                    if ONE_CLASS:
                        grad_f += (tl.sum(tl.where(chosen[i], w[e], 0), 0)[None] * maps[i][e],)
                    else:
                        grad_f += (w[e] * maps[i][e],)
                offsets, mask = tile_offsets(
                    start, readable, first_p, stride_g, width, CELLS, FLAT, V, BLOCK_C, BLOCK_P
                )
                tl.store(
                    grad_features_ptr + b * stride_g[0] + offsets,
                    as_stored(grad_f, grad_features_ptr.dtype.element_ty, V),
                    mask=mask,
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
    vector = vector_of(features, written, classes=lead)
    # What vectors and their classes leave of the registers.
    crowded = vector > 0 and lead > 2
    # Of vectors triton 3.6 would give one of eight warps those of four rows.
    threads = 4 * warp_size() if vector > 0 else THREADS
    roomy = vector <= 0 and lead <= 2 and maps.logits is not None and not on_amd()
    # Ten samples of 64 bits, two stages of them, would be more shared memory than sm_86 has.
    many = roomy and batch > SAMPLES and features.element_size() <= 4
    share = MANY_SAMPLES if many else 2 if crowded or on_amd() else SAMPLES
    # By triton 3.9 the h of many samples spill, also where they are of the CAM alone.
    fewer = maps.logits is None
    samples = samples_in_registers(vector, height * width, share, threads, fewer=fewer)
    # A thread has a vector; of columns of 32 bits and more two, where their products leave
    # registers: of 16 bits they would be 64 channels, and two threads read W from each bank.
    columns = vector < 0 and lead <= 2
    per_thread = min(8, 2 * abs(vector)) if columns else abs(vector) or 8
    tile = arrangement(
        features, written, vector=vector, per_thread=per_thread, classes=lead, threads=threads
    )
    most = 3 if crowded else 12 if vector > 0 else 6
    groups, blocks = triton.cdiv(batch, samples), triton.cdiv(height * width, tile["BLOCK_P"])
    splits = default_splits(max(groups * blocks, 1), channels, samples)
    per_split = channels_per_split(channels, tile["BLOCK_C"], splits)
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
                SAMPLES=samples,
                STAGES=stages_ahead(tile, samples, lead, features, most),
                # What is the same at each step is kept, or made again, as registers allow.
                HOIST=vector <= 0 or on_amd(),
                L=lead,
                **tile,
                **OPTIONS,
                num_warps=threads // warp_size(),
                **({} if on_amd() else {"maxnreg": MAX_REGISTERS}),
            )
    return grad_features, *sum_groups(partial, maps, weight, need_bias=needs[2])


def default_splits(groups: int, channels: int, samples: int) -> int:
    """How many programs share the channels of a group of samples and a block of their cells.

    ``groups`` counts these pairs. Each program reads the small gradients again: for each block of
    256 channels, 1 % of the features in 16 bits, or twice that where two orders of cells are read,
    the second from L1. Where many samples share the reads of W and the
    parts of dW that leaves bytes for 3 %, blocks of 64 channels, until programs are 128. For small
    batches two dozen programs in any case.
    """
    splits = max(channels // 256, 24 // groups)
    if samples > SAMPLES:
        splits = max(splits, min(channels // 64, 128 // groups))
    return max(1, min(PROGRAMS // groups, splits))

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment, var-annotated"
"""Backward of many classes, whose rows of W a program cannot hold.

A program of one sample and block of channels gets V = s a W and v = s d W, which are matrix
products ``[B,C]``, and leaves what their transposes need: u = sum_p g F and the pooled features.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from focus.kernels import triton_tiles
from focus.kernels.eager import empty_gradient
from focus.kernels.triton_planes import as_stored, as_tile, planes, products
from focus.kernels.triton_tiles import (
    OPTIONS,
    ROUNDED,
    arrangement,
    load_channels,
    spread_cells,
    sum_cells,
    tile_offsets,
    triton_type,
)
from focus.kernels.types import MapGradients, accumulation_dtype, without_autocast


@triton.jit
def _factors_kernel(
    classes_ptr,
    grad_logits_ptr,
    upstream_ptr,
    factors_ptr,
    grad_bias_ptr,
    stride_y,
    stride_u,
    batch,
    classes,
    ACC: tl.constexpr,
    CONTRAST: tl.constexpr,
    LOGITS: tl.constexpr,
    NEED_BIAS: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A block of classes: s a and s d, factors [2,B,K] of ACC; and db [K]."""
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    others = -1 / (classes - 1).to(ACC) if CONTRAST else 0
    total = tl.zeros((BLOCK_B, BLOCK_K), ACC)
    for start in range(0, batch, BLOCK_B):
        b = (start + tl.arange(0, BLOCK_B)).to(tl.int64)
        inside = (b < batch)[:, None] & (k < classes)[None, :]
        s = tl.load(upstream_ptr + b * stride_u, mask=b < batch, other=0).to(ACC)[:, None]
        y = tl.load(classes_ptr + b * stride_y, mask=b < batch, other=-1)
        a = tl.where(k[None, :] == y[:, None], s, s * others if CONTRAST else 0)
        place = b[:, None] * classes + k[None, :]
        tl.store(factors_ptr + place, a, mask=inside)
        d = tl.zeros((BLOCK_B, BLOCK_K), ACC)
        if LOGITS:
            d = s * tl.load(grad_logits_ptr + place, mask=inside, other=0)
        tl.store(factors_ptr + (batch + b)[:, None] * classes + k[None, :], d, mask=inside)
        total += d
    if NEED_BIAS:
        tl.store(grad_bias_ptr + k, tl.sum(total, 0), mask=k < classes)


@triton.jit
def _rows_kernel(
    features_ptr,
    rows_ptr,
    grad_cam_ptr,
    grad_features_ptr,
    sums_ptr,
    stride_f,
    stride_g,
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
        g = spread_cells(g[None, :], CELLS, V)
        if NEED_FEATURES:
            offsets, mask = tile_offsets(
                first, channels, first_p, stride_g, width, CELLS, FLAT, V, BLOCK_C, BLOCK_P
            )
            grad_f = ()
            for e in tl.static_range(planes(V)):
                grad_f += (vector[e] * g[e] + spread[e] / CELLS,)
            tl.store(
                grad_features_ptr + b * stride_g[0] + offsets,
                as_stored(grad_f, grad_features_ptr.dtype.element_ty, V),
                mask=mask,
            )
        if NEED_WEIGHT:
            offsets, mask = tile_offsets(
                first, channels, first_p, stride_f, width, CELLS, FLAT, V, BLOCK_C, BLOCK_P
            )
            tile = tl.load(features_ptr + b * stride_f[0] + offsets, mask=mask, other=0)
            tile = as_tile(tile, ACC, V)
            u += tl.sum(sum_cells(products(tile, g), CELLS, V, BLOCK_C), 0)
            pooled += tl.sum(sum_cells(tile, CELLS, V, BLOCK_C), 0)
    if NEED_WEIGHT:
        channel = first + tl.arange(0, BLOCK_C)
        inside = channel < channels
        tl.store(sums_ptr + b * channels + channel, u, mask=inside)
        tl.store(sums_ptr + (batch + b) * channels + channel, pooled / CELLS, mask=inside)


@without_autocast
def many_classes(
    features: Tensor,
    weight: Tensor,
    maps: MapGradients,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """As :func:`focus.kernels.triton_gradient.gradients`, for any number of classes."""
    batch, channels, _, width = features.shape
    count = len(weight)
    dtype = accumulation_dtype(features)
    grad_features = empty_gradient(features) if needs[0] else None
    written = features if grad_features is None else grad_features
    # a and d, scaled; then what they make of W, and of what the kernel leaves.
    factors = features.new_empty((2, batch, count), dtype=dtype)
    sums = features.new_empty((2, batch, channels), dtype=dtype) if needs[1] else None
    grad_bias = features.new_empty((count,), dtype=dtype) if needs[2] else None
    with torch.cuda.device_of(features):
        block_k = 64 * triton_tiles.tile_scale
        _factors_kernel[(triton.cdiv(count, block_k),)](
            maps.classes,
            maps.logits,
            maps.upstream,
            factors,
            grad_bias,
            maps.classes.stride(0),
            maps.upstream.stride(0),
            batch,
            count,
            ACC=triton_type(dtype),
            CONTRAST=maps.contrast,
            LOGITS=maps.logits is not None,
            NEED_BIAS=needs[2],
            BLOCK_B=16,
            BLOCK_K=block_k,
            **OPTIONS,
        )
        if batch:
            rows = factors.flatten(0, 1) @ weight.to(dtype) if needs[0] else factors
            seen = arrangement(features, written, per_thread=16)
            if seen["V"] > 0:
                seen = arrangement(features, written, per_thread=seen["V"])
            if needs[0] or needs[1]:
                _rows_kernel[(batch, triton.cdiv(channels, seen["BLOCK_C"]))](
                    features,
                    rows,
                    maps.cam,
                    grad_features,
                    sums,
                    features.stride(),
                    written.stride(),
                    batch,
                    channels,
                    width,
                    ACC=triton_type(dtype),
                    NEED_FEATURES=needs[0],
                    NEED_WEIGHT=needs[1],
                    **seen,
                    **ROUNDED,
                )
    grad_weight = None
    if sums is not None:
        grad_weight = (factors.flatten(0, 1).T @ sums.flatten(0, 1)).to(weight.dtype)
    return grad_features, grad_weight, grad_bias

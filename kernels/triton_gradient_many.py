# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment, var-annotated"
"""Backward of many classes, whose rows of W a program cannot hold.

A program of one sample and block of channels gets V = s a W and v = s d W / HW, which are matrix
products ``[B,C]``, and leaves what their transposes need: u = sum_p g F and f = sum_p F.
Of a CAM alone V is a row of W and v is 0, so that dW of a class is the sum of its samples' u:
products with zeros would spread a NaN to other samples and classes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from focus.kernels import triton_tiles
from focus.kernels.triton_planes import as_stored, as_tile, products
from focus.kernels.triton_target import OPTIONS, ROUNDED, triton_type
from focus.kernels.triton_tiles import (
    arrangement,
    cells_to_spread,
    spread_cells,
    spread_channels,
    sum_cells,
    tile_offsets,
    vector_of,
    with_ones,
)
from focus.kernels.types import MapGradients, accumulation_dtype, empty_gradient, without_autocast


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
    cells,
    ACC: tl.constexpr,
    CONTRAST: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A block of classes: s a and s d / HW, factors [2,B,K] of ACC; and db [K]."""
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
        d = s * tl.load(grad_logits_ptr + place, mask=inside, other=0)
        place_of_d = (batch + b)[:, None] * classes + k[None, :]
        tl.store(factors_ptr + place_of_d, d / cells, mask=inside)
        total += d
    if grad_bias_ptr is not None:
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
    LOGITS: tl.constexpr,
    CELLS: tl.constexpr,
    FLAT: tl.constexpr,
    V: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """One sample and block of channels: dF = V g + v, u = sum_p g F and f = sum_p F.

    rows [2,B,C] of ACC are V and v, sums [2,B,C] of ACC are u and f: without LOGITS, V and u alone.
    """
    b = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * BLOCK_C
    channel = first + tl.arange(0, BLOCK_C)
    inside = (channel < channels)[None, :]
    # The first direction of h is g; the second is 1, where the logits have a gradient.
    DIRECTIONS: tl.constexpr = 2 if LOGITS else 1
    row = tl.arange(0, DIRECTIONS).to(tl.int64) * batch + b
    place = row[:, None] * channels + channel[None, :]
    if grad_features_ptr is not None:
        vectors = tl.load(rows_ptr + place, mask=inside, other=0)
        vectors = spread_channels(vectors, CELLS, V)
    summed = tl.zeros((DIRECTIONS, BLOCK_C), ACC)
    for first_p in range(0, CELLS, BLOCK_P):
        p = cells_to_spread(first_p, CELLS, V, BLOCK_P)
        g = tl.load(grad_cam_ptr + b * CELLS + p, mask=p < CELLS, other=0)
        directions = spread_cells(g[None, :], CELLS, V)
        if LOGITS:
            directions = with_ones(directions, V)
        if grad_features_ptr is not None:
            offsets, mask = tile_offsets(
                first, channels, first_p, stride_g, width, CELLS, FLAT, V, BLOCK_C, BLOCK_P
            )
            tl.store(
                grad_features_ptr + b * stride_g[0] + offsets,
                as_stored(products(directions, vectors), grad_features_ptr.dtype.element_ty, V),
                mask=mask,
            )
        if sums_ptr is not None:
            offsets, mask = tile_offsets(
                first, channels, first_p, stride_f, width, CELLS, FLAT, V, BLOCK_C, BLOCK_P
            )
            tile = tl.load(features_ptr + b * stride_f[0] + offsets, mask=mask, other=0)
            tile = as_tile(tile, ACC, V)
            summed += sum_cells(products(tile, directions), CELLS, V, BLOCK_C)
    if sums_ptr is not None:
        tl.store(sums_ptr + place, summed, mask=inside)


@triton.jit
def _class_sums_kernel(
    sums_ptr,
    classes_ptr,
    grad_weight_ptr,
    stride_y,
    batch,
    channels,
    ACC: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """dW [K,C] of a CAM alone: of a class and block of channels, the sum of its samples' u."""
    k = tl.program_id(0).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = channel < channels
    total = tl.zeros((BLOCK_B, BLOCK_C), ACC)
    for start in range(0, batch, BLOCK_B):
        b = (start + tl.arange(0, BLOCK_B)).to(tl.int64)
        own = tl.load(classes_ptr + b * stride_y, mask=b < batch, other=-1) == k
        place = b[:, None] * channels + channel[None, :]
        total += tl.load(sums_ptr + place, mask=own[:, None] & inside[None, :], other=0)
    out = tl.sum(total, 0).to(grad_weight_ptr.dtype.element_ty)
    tl.store(grad_weight_ptr + k * channels + channel, out, mask=inside)


@without_autocast
def many_classes(
    features: Tensor,
    weight: Tensor,
    maps: MapGradients,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """As :func:`focus.kernels.triton_gradient.gradients`, for any number of classes."""
    batch, channels, height, width = features.shape
    count = len(weight)
    dtype = accumulation_dtype(features)
    grad_features = empty_gradient(features) if needs[0] else None
    written = features if grad_features is None else grad_features
    of_logits = maps.logits is not None
    factors = grad_bias = rows = None
    if of_logits:
        factors, grad_bias = _factors(weight, maps, dtype, height * width, need_bias=needs[2])
        rows = factors @ weight.to(dtype) if needs[0] else None
    elif needs[0]:  # Where a class does not exist, g is NaN.
        rows = weight.index_select(0, maps.classes.clamp(0, count - 1)).to(dtype)
    left = None
    if needs[1]:
        left = features.new_empty((2 if of_logits else 1, batch, channels), dtype=dtype)
    vector = vector_of(features, written)
    # Two vectors share what says whose channel they are of.
    per_thread = 2 * vector if vector > 0 else 16
    tile = arrangement(features, written, vector=vector, per_thread=per_thread)
    if batch and (needs[0] or needs[1]):
        with torch.cuda.device_of(features):
            _rows_kernel[(batch, triton.cdiv(channels, tile["BLOCK_C"]))](
                features,
                rows,
                maps.cam,
                grad_features,
                left,
                features.stride(),
                written.stride(),
                batch,
                channels,
                width,
                ACC=triton_type(dtype),
                LOGITS=of_logits,
                **tile,
                **ROUNDED,
            )
    grad_weight = None
    if left is not None and factors is not None:
        grad_weight = (factors.T @ left.flatten(0, 1)).to(weight.dtype)
    elif left is not None:
        grad_weight = _class_sums(left, weight, maps)
    return grad_features, grad_weight, grad_bias


def _factors(
    weight: Tensor, maps: MapGradients, dtype: torch.dtype, cells: int, *, need_bias: bool
) -> tuple[Tensor, Tensor | None]:
    """s a and then s d / HW, ``[2 B,K]``; and db ``[K]`` if needed."""
    batch, count = len(maps.classes), len(weight)
    factors = weight.new_empty((2 * batch, count), dtype=dtype)
    grad_bias = weight.new_empty((count,), dtype=dtype) if need_bias else None
    block_k = 64 * triton_tiles.tile_scale
    with torch.cuda.device_of(weight):
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
            cells,
            ACC=triton_type(dtype),
            CONTRAST=maps.contrast,
            BLOCK_B=16,
            BLOCK_K=block_k,
            **OPTIONS,
        )
    return factors, grad_bias


def _class_sums(u: Tensor, weight: Tensor, maps: MapGradients) -> Tensor:
    """dW ``[K,C]`` of a CAM alone, from ``u [1,B,C]``."""
    _, batch, channels = u.shape
    grad_weight = weight.new_empty(weight.shape)
    block_c = 64 * triton_tiles.tile_scale
    with torch.cuda.device_of(weight):
        _class_sums_kernel[(len(weight), triton.cdiv(channels, block_c))](
            u,
            maps.classes,
            grad_weight,
            maps.classes.stride(0),
            batch,
            channels,
            ACC=triton_type(u.dtype),
            BLOCK_B=16,
            BLOCK_C=block_c,
            **OPTIONS,
        )
    return grad_weight

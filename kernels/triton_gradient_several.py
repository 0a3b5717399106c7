# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment, var-annotated"
"""Backward of several classes, too many for products in place and few enough to hold their rows.

A sample's h has only two directions, g and 1: it is ``s a g + s d / HW``. So dF is ``V g + v`` with
V = s sum_k a_k W[k] and v = s sum_k d_k W[k] / HW, and dW[k] is ``s a_k u + s d_k f / HW`` with u =
sum_p g F and f = sum_p F. A program holds the rows of W of its channels, and walks over a group of
samples: W is read, and dW written, once a group and block of cells.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from focus.kernels.triton_gradient_sums import sum_groups
from focus.kernels.triton_planes import as_stored, as_tile, products
from focus.kernels.triton_target import MAX_REGISTERS, ROUNDED, on_amd, triton_type
from focus.kernels.triton_tiles import (
    arrangement,
    cells_to_spread,
    gathered,
    spread_cells,
    spread_channels,
    sum_cells,
    tile_offsets,
    vector_of,
    with_ones,
)
from focus.kernels.types import MapGradients, accumulation_dtype, empty_gradient

# Up to here a program has registers for the rows of W, and of dW, of its channels.
MAX_CLASSES = 16
# Samples of a program, at most: so that W and the parts of dW stay small beside F.
SAMPLES = 16


@triton.jit
def _several_kernel(
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
    samples,
    ACC: tl.constexpr,
    CONTRAST: tl.constexpr,
    STAGES: tl.constexpr,
    HOIST: tl.constexpr,
    CELLS: tl.constexpr,
    FLAT: tl.constexpr,
    V: tl.constexpr,
    L: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """A group of samples, a block of the channels and one of the cells: dF, a part of dW.

    grad_features [B,C,H,W]; grad_weight [groups blocks,K,C] of ACC. Of grad_logits None is 0, and
    what is not needed of the others is None.
    """
    group = tl.program_id(0)
    first = tl.program_id(1) * BLOCK_C
    first_p = 0
    if BLOCK_P < CELLS:
        first_p = tl.program_id(2) * BLOCK_P
    k = tl.arange(0, L)
    p = cells_to_spread(first_p, CELLS, V, BLOCK_P)
    real = k < classes
    others = -1 / (classes - 1).to(ACC) if CONTRAST else 0
    channel = first + tl.arange(0, BLOCK_C)
    there = real[:, None] & (channel < channels)[None, :]
    rows = weight_ptr + k.to(tl.int64)[:, None] * stride_w[0]
    w = tl.load(rows + channel.to(tl.int64)[None, :] * stride_w[1], mask=there, other=0)
    w = w.to(ACC)[None, :, :]
    # The first direction of h is g; the second is 1, where the logits have a gradient.
    DIRECTIONS: tl.constexpr = 1 if grad_logits_ptr is None else 2
    along_g = (tl.arange(0, DIRECTIONS) == 0)[:, None, None]
    grad_w = tl.zeros((L, BLOCK_C), ACC)
    first_b = group.to(tl.int64) * samples
    count = tl.minimum(samples, batch - group * samples)
    for sample in tl.range(0, count, num_stages=STAGES, disable_licm=not HOIST):
        b = first_b + sample
        s = tl.load(upstream_ptr + b * stride_u).to(ACC)
        y = tl.load(classes_ptr + b * stride_y)
        g = s * tl.load(grad_cam_ptr + b * CELLS + p, mask=p < CELLS, other=0)
        directions = spread_cells(g[None, :], CELLS, V)
        d = tl.zeros((L,), ACC)
        if grad_logits_ptr is not None:
            directions = with_ones(directions, V)
            d = s * tl.load(grad_logits_ptr + b * classes + k, mask=real, other=0) / CELLS
        d = d[None, :, None]
        # Chosen, not multiplied by a: a CAM's gradient alone stays in its class, also where 0 times
        # another class's weight, or the features, is NaN.
        hot = ((k == y) & real)[None, :, None]
        # dW before dF: the other way round registers spill.
        if grad_weight_ptr is not None:
            offsets, mask = tile_offsets(
                first, channels, first_p, stride_f, width, CELLS, FLAT, V, BLOCK_C, BLOCK_P
            )
            tile = tl.load(features_ptr + b * stride_f[0] + offsets, mask=mask, other=0)
            tile = as_tile(tile, ACC, V)
            summed = sum_cells(products(tile, directions), CELLS, V, BLOCK_C)[:, None, :]
            of_cam = tl.where(hot, summed, others * summed if CONTRAST else 0)
            grad_w += tl.sum(tl.where(along_g, of_cam, d * summed), 0)
        if grad_features_ptr is not None:
            of_cam = tl.where(hot, w, others * w if CONTRAST else 0)
            vectors = tl.sum(tl.where(along_g, of_cam, d * w), 1)
            grad_f = products(directions, spread_channels(vectors, CELLS, V))
            offsets, mask = tile_offsets(
                first, channels, first_p, stride_g, width, CELLS, FLAT, V, BLOCK_C, BLOCK_P
            )
            tl.store(
                grad_features_ptr + b * stride_g[0] + offsets,
                as_stored(grad_f, grad_features_ptr.dtype.element_ty, V),
                mask=mask,
            )
    if grad_weight_ptr is not None:
        part = group.to(tl.int64) * tl.num_programs(2) + tl.program_id(2)
        place = (part * classes + k)[:, None] * channels + channel[None, :]
        tl.store(grad_weight_ptr + place, grad_w, mask=there)


def several_classes(
    features: Tensor,
    weight: Tensor,
    maps: MapGradients,
    needs: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """As :func:`focus.kernels.triton_gradient.gradients`, for up to 16 classes."""
    batch, channels, height, width = features.shape
    count = len(weight)
    dtype = accumulation_dtype(features)
    grad_features = empty_gradient(features) if needs[0] else None
    written = features if grad_features is None else grad_features
    vector = vector_of(features, written)
    # Of twice the channels, g is read, and spread, half as often. Registers do not allow it of 64
    # bits, nor of many cells in rows, of which a tile has a block, or gathered.
    narrow = height * width > 128 and (vector == 0 or gathered(height * width, vector))
    wide = features.element_size() <= 4 and not narrow
    per_thread = 16 if wide else 8
    tile = arrangement(features, written, vector=vector, per_thread=per_thread, classes=MAX_CLASSES)
    # As many for each group.
    samples = triton.cdiv(batch, triton.cdiv(batch, SAMPLES)) if batch else 1
    groups, blocks = triton.cdiv(batch, samples), triton.cdiv(height * width, tile["BLOCK_P"])
    partial = None
    if needs[1]:
        partial = features.new_empty((groups * blocks, count, channels), dtype=dtype)
    with torch.cuda.device_of(features):
        if batch and (needs[0] or needs[1]):
            _several_kernel[(groups, triton.cdiv(channels, tile["BLOCK_C"]), blocks)](
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
                samples,
                ACC=triton_type(dtype),
                CONTRAST=maps.contrast,
                # More stages make it spill, or 8 rows for up to 8 classes.
                STAGES=1 if on_amd() else 2,
                # With vectors, what is the same at each step spills.
                HOIST=vector <= 0 or on_amd(),
                L=MAX_CLASSES,
                **tile,
                **ROUNDED,
                **({} if on_amd() else {"maxnreg": MAX_REGISTERS}),
            )
    return grad_features, *sum_groups(partial, maps, weight, need_bias=needs[2])

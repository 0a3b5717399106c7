# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""How the Triton kernels see features: tiles of channels and cells, in two arrangements.

A tile holds BLOCK_C channels and all cells of one sample:

- rows (V = 0): ``[BLOCK_C, P]``, P cells and padding. Right where channels are contiguous
  (channels_last), or where a channel's cells are a multiple of 16.
- vectors (V > 0): ``[BLOCK_C / M, V, N]``, N vectors of V elements and padding. In NCHW with 49
  cells a channel's row of 98 bytes is not aligned, but M = 8 of them are 392 values without a gap,
  which is 49 vectors of 16 bytes. Element e of vector n is value n V + e of M channels in a row: of
  the (n V + e) // CELLS-th of them, the cell (n V + e) % CELLS.

The kernels are written once, in what both arrangements have: values of channels or of cells spread
over a tile, and tiles summed over cells ``[L, BLOCK_C]`` or over channels ``[L, P]``. L is a
leading axis, of classes or of length 1.
"""

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs
from triton.runtime.driver import driver

# Explicit, since the default changes in triton 3.10.
OPTIONS = {"enable_fp_fusion": True}
VECTOR_BYTES = 16
# For tests in the interpreter, which takes a millisecond a step whatever the size of the tile.
tile_scale = 1


@triton.constexpr_function
def channels_per_row(cells, vector):
    """M: how many channels it takes until the next begins on a vector's boundary."""
    return vector // math.gcd(cells, vector)


@triton.constexpr_function
def vectors_per_row(cells, vector):
    """Vectors in M channels."""
    return channels_per_row(cells, vector) * cells // vector


@triton.constexpr_function
def padded(count):
    """The next power of 2, which is what Triton's blocks are."""
    return triton.next_power_of_2(count)


@triton.jit
def zero_tile(
    ACC: tl.constexpr, L: tl.constexpr, CELLS: tl.constexpr, V: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Zeros ``[L, ...]`` of a tile's shape."""
    if V > 0:
        rows: tl.constexpr = BLOCK_C // channels_per_row(CELLS, V)
        out = tl.zeros((L, rows, V, padded(vectors_per_row(CELLS, V))), ACC)
    else:
        out = tl.zeros((L, BLOCK_C, padded(CELLS)), ACC)
    return out


@triton.jit
def tile_offsets(
    first,
    channels,
    stride_c,
    stride_h,
    stride_w,
    width,
    CELLS: tl.constexpr,
    FLAT: tl.constexpr,
    V: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Offsets of the tile whose first channel is ``first``, a multiple of BLOCK_C; and its mask.

    FLAT: a channel's cells follow each other at stride_w.
    """
    if V > 0:
        M: tl.constexpr = channels_per_row(CELLS, V)
        vectors: tl.constexpr = vectors_per_row(CELLS, V)
        row = first // M + tl.arange(0, BLOCK_C // M)
        n = tl.arange(0, padded(vectors))
        within = n[None, :] * V + tl.arange(0, V)[:, None]
        offsets = row.to(tl.int64)[:, None, None] * (M * CELLS) + within[None, :, :]
        mask = (row * M < channels)[:, None, None] & (n < vectors)[None, None, :]
    else:
        channel = first + tl.arange(0, BLOCK_C)
        p = tl.arange(0, padded(CELLS))
        if FLAT:
            cell = p.to(tl.int64) * stride_w
        else:
            cell = (p // width).to(tl.int64) * stride_h + (p % width).to(tl.int64) * stride_w
        offsets = channel.to(tl.int64)[:, None] * stride_c + cell[None, :]
        mask = (channel < channels)[:, None] & (p < CELLS)[None, :]
    return offsets, mask


@triton.jit
def vector_channels(CELLS: tl.constexpr, V: tl.constexpr):
    """Which of M channels a vector begins in ``[N]``; which elements are of the next ``[V, N]``.

    A vector is part of one channel or of two, since CELLS >= V.
    """
    start = tl.arange(0, padded(vectors_per_row(CELLS, V))) * V
    lead = start // CELLS
    return lead, (start[None, :] + tl.arange(0, V)[:, None]) // CELLS > lead[None, :]


@triton.jit
def load_channels(
    rows,
    readable,
    first,
    channels,
    stride_c,
    ACC: tl.constexpr,
    CELLS: tl.constexpr,
    V: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Values of the tile's channels at the pointers ``rows [L]``, spread over the cells.

    0 where not ``readable [L]``.
    """
    if V > 0:
        M: tl.constexpr = channels_per_row(CELLS, V)
        lead, of_next = vector_channels(CELLS, V)
        start = first + tl.arange(0, BLOCK_C // M) * M
        mask = readable[:, None] & (start < channels)[None, :]
        # Channel by channel: as a block of M they would have to be gathered.
        here = tl.zeros((1, 1, 1), ACC)
        after = here
        for j in tl.static_range(M):
            value = tl.load(
                rows[:, None] + (start + j).to(tl.int64)[None, :] * stride_c, mask=mask, other=0
            ).to(ACC)[:, :, None]
            here = tl.where(lead[None, None, :] == j, value, here)
            after = tl.where(lead[None, None, :] + 1 == j, value, after)
        out = tl.where(of_next[None, None, :, :], after[:, :, None, :], here[:, :, None, :])
    else:
        channel = first + tl.arange(0, BLOCK_C)
        out = tl.load(
            rows[:, None] + channel.to(tl.int64)[None, :] * stride_c,
            mask=readable[:, None] & (channel < channels)[None, :],
            other=0,
        ).to(ACC)[:, :, None]
    return out


@triton.jit
def spread_cells(x, L: tl.constexpr, CELLS: tl.constexpr, V: tl.constexpr):
    """``[L, P]`` spread over the channels of a tile."""
    if V > 0:
        # Gathered element by element, as in sum_channels.
        vectors: tl.constexpr = padded(vectors_per_row(CELLS, V))
        start = tl.arange(0, vectors) * V
        out = tl.zeros((1, 1, 1, 1), x.dtype)
        for e in tl.static_range(V):
            index = tl.broadcast_to(((start + e) % CELLS)[None, :], (L, vectors))
            of_e = (tl.arange(0, V) == e)[None, None, :, None]
            out = tl.where(of_e, tl.gather(x, index, 1)[:, None, None, :], out)
    else:
        out = x[:, None, :]
    return out


@triton.jit
def sum_channels(tile, L: tl.constexpr, CELLS: tl.constexpr, V: tl.constexpr):
    """A tile ``[L, ...]`` summed over its channels, ``[L, P]``."""
    out = tl.sum(tile, 1)
    if V > 0:
        M: tl.constexpr = channels_per_row(CELLS, V)
        vectors: tl.constexpr = padded(vectors_per_row(CELLS, V))
        values = out
        p = tl.arange(0, padded(CELLS))
        out = tl.zeros((L, padded(CELLS)), tile.dtype)
        # The values of a cell lie at different elements of their vectors, each at one. Gathered
        # element by element: all at once would take a warp's shuffle for each pair of values.
        for e in tl.static_range(V):
            n = tl.full((padded(CELLS),), vectors, tl.int32)
            for j in tl.static_range(M):
                here = (p < CELLS) & ((p + j * CELLS) % V == e)
                n = tl.where(here, (p + j * CELLS) // V, n)
            of_e = (tl.arange(0, V) == e)[None, :, None]
            plane = tl.sum(tl.where(of_e, values, 0), 1)
            index = tl.broadcast_to(tl.minimum(n, vectors - 1)[None, :], (L, padded(CELLS)))
            out += tl.where((n < vectors)[None, :], tl.gather(plane, index, 1), 0)
    return out


@triton.jit
def sum_cells(tile, L: tl.constexpr, CELLS: tl.constexpr, V: tl.constexpr, BLOCK_C: tl.constexpr):
    """A tile ``[L, ...]``, 0 where masked, summed over its cells, ``[L, BLOCK_C]``."""
    if V > 0:
        M: tl.constexpr = channels_per_row(CELLS, V)
        lead, of_next = vector_channels(CELLS, V)
        of_lead = tl.sum(tl.where(of_next[None, None, :, :], 0, tile), 2)
        of_next = tl.sum(tl.where(of_next[None, None, :, :], tile, 0), 2)
        channel = tl.arange(0, M)[:, None]
        here = (lead[None, :] == channel)[None, None, :, :]
        after = (lead[None, :] + 1 == channel)[None, None, :, :]
        parts = tl.where(here, of_lead[:, :, None, :], 0)
        parts += tl.where(after, of_next[:, :, None, :], 0)
        out = tl.reshape(tl.sum(parts, 3), (L, BLOCK_C))
    else:
        out = tl.sum(tile, 2)
    return out


@triton.jit
def softmax_entropy(z, inside, temperature):
    """q, (z - max) / T, the sum of its exponentials and its mean under q, over the cells inside.

    ``H = log(sum) - mean`` stays exact to rounding, where ``log S + m - E[z]`` cancels.
    """
    # tl.max drops NaN, the sum below keeps it.
    top = tl.max(tl.where(inside, z, float("-inf")), 0)
    # The clamp keeps 0 * -inf out where a finite CAM spans more than the type's range.
    shifted = (z - top) / temperature
    shifted = tl.where(shifted < -1e30, -1e30, shifted)
    shifted = tl.where(inside, shifted, 0)
    e = tl.where(inside, tl.exp(shifted), 0)
    total = tl.sum(e, 0)
    q = e / total
    return q, shifted, total, tl.sum(q * shifted, 0)


def triton_type(dtype: torch.dtype) -> tl.dtype:
    """Triton's name for an accumulation type."""
    return tl.float64 if dtype == torch.float64 else tl.float32


def arrangement(*tensors: Tensor, per_thread: int, vectors: bool = True) -> dict[str, Any]:
    """The constants by which a kernel sees features (and their gradient), and its BLOCK_C.

    V is above 0 only where vectors serve all tensors and rows would not be aligned. A tile has
    about ``per_thread`` elements a thread, padding included.
    """
    _, channels, height, width = tensors[0].shape
    cells = height * width
    vector = VECTOR_BYTES // tensors[0].element_size()
    row = channels_per_row(cells, vector)
    packed = all(t.stride()[1:] == (cells, width, 1) for t in tensors)
    # Triton knows a stride to be aligned if it is a multiple of 16.
    aligned = cells % 16 == 0
    if aligned or not (vectors and packed and cells >= vector and channels % row == 0):
        row = vector = 0
    size = padded(vectors_per_row(cells, vector)) * vector // row if row else padded(cells)
    warp = 64 if on_amd() else 32
    return {
        "CELLS": cells,
        "V": vector,
        "FLAT": all(t.stride(2) == width * t.stride(3) for t in tensors),
        "BLOCK_C": max(min(tile_scale * 4 * warp * per_thread // size, padded(channels)), row, 1),
    }


def on_amd() -> bool:
    """Whether kernels are compiled for an AMD GPU: warps of 64, and no asynchronous copies."""
    return not knobs.runtime.interpret and driver.active.get_current_target().backend == "hip"

# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"
"""How the Triton kernels see features: tiles of channels and cells, in three arrangements.

A tile holds BLOCK_C channels of one sample, and BLOCK_P of its cells:

- rows (V = 0): ``[BLOCK_C, BLOCK_P]``. Right where a channel's cells are a multiple of 16. Few
  cells are one block, with padding; of more, programs or steps take a block each, so that a tile
  always has MIN_CHANNELS.
- columns (V = -1): ``[BLOCK_P, BLOCK_C]``, else as rows, where channels are contiguous
  (channels_last). A warp's threads go along the last axis, also when they read what was copied to
  shared memory: along the cells, 64 bytes apart, they would all ask two banks. On AMD, and where
  columns spill, rows.
- vectors (V > 0): ``[BLOCK_C / M, V, N]``, N vectors of V elements and padding, which are all
  cells (BLOCK_P = P, the cells and their padding). In NCHW with 49 cells a channel's row of 98
  bytes is not aligned, but M = 8 of them are 392 values without a gap, which is 49 vectors of 16
  bytes. Element e of vector n is value n V + e of M channels in a row: of the (n V + e) //
  CELLS-th of them, the cell (n V + e) % CELLS.

The kernels are written once, in what all arrangements have: values of channels or of cells spread
over a tile, and tiles summed over cells ``[L, BLOCK_C]`` or over channels ``[L, BLOCK_P]``. L is a
leading axis, of classes or of length 1.
"""

import functools
import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs
from triton.runtime.driver import driver

from focus.kernels.types import accumulation_dtype

# Explicit, since the default changes in triton 3.10.
OPTIONS = {"enable_fp_fusion": True}
# Products are rounded before they are summed: fused into a sum over threads, each thread would
# round another of them, and hold another sum.
ROUNDED = {"enable_fp_fusion": False}
VECTOR_BYTES = 16
# Channels of a tile of rows or columns: where they are contiguous, 32 bytes of them in 16 bits are
# the sector that memory moves at once.
MIN_CHANNELS = 16
# Vectors of M channels that a tile takes, before its elements, for one class or two, are too many
# for the registers.
MAX_VECTORS = 256
# With more, fewer than 512 threads share a multiprocessor.
MAX_REGISTERS = 128
# Bytes of features and weight that a program asks for before it needs them. Programs are few, so
# memory is as busy as each of them keeps it.
BYTES_AHEAD = 72 * 2**10
# For tests in the interpreter, which takes a millisecond a step whatever the size of the tile.
tile_scale = 1


@triton.constexpr_function
def channels_per_row(cells, vector):
    """M: how many channels it takes until the next begins on a vector's boundary; else 1."""
    return vector // math.gcd(cells, vector) if vector > 0 else 1


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
    ACC: tl.constexpr,
    L: tl.constexpr,
    CELLS: tl.constexpr,
    V: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Zeros ``[L, ...]`` of a tile's shape."""
    if V > 0:
        rows: tl.constexpr = BLOCK_C // channels_per_row(CELLS, V)
        out = tl.zeros((L, rows, V, padded(vectors_per_row(CELLS, V))), ACC)
    elif V < 0:
        out = tl.zeros((L, BLOCK_P, BLOCK_C), ACC)
    else:
        out = tl.zeros((L, BLOCK_C, BLOCK_P), ACC)
    return out


@triton.jit
def tile_offsets(
    first,
    channels,
    first_p,
    strides,
    width,
    CELLS: tl.constexpr,
    FLAT: tl.constexpr,
    V: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Offsets of the tile whose first channel is ``first``, a multiple of BLOCK_C; and its mask.

    first_p: its first cell, a multiple of BLOCK_P; 0 for vectors. strides: of [B,C,H,W]. FLAT: a
    channel's cells follow each other at the last.
    """
    if V > 0:
        tl.static_assert(BLOCK_P >= CELLS, "vectors run over all cells")
        M: tl.constexpr = channels_per_row(CELLS, V)
        vectors: tl.constexpr = vectors_per_row(CELLS, V)
        row = first // M + tl.arange(0, BLOCK_C // M)
        n = tl.arange(0, padded(vectors))
        within = n[None, :] * V + tl.arange(0, V)[:, None]
        offsets = row.to(tl.int64)[:, None, None] * (M * CELLS) + within[None, :, :]
        mask = (row * M < channels)[:, None, None] & (n < vectors)[None, None, :]
    else:
        channel = first + tl.arange(0, BLOCK_C)
        p = first_p + tl.arange(0, BLOCK_P)
        if FLAT:
            cell = p.to(tl.int64) * strides[3]
        else:
            cell = (p // width).to(tl.int64) * strides[2] + (p % width).to(tl.int64) * strides[3]
        if V < 0:
            offsets = cell[:, None] + channel.to(tl.int64)[None, :] * strides[1]
            mask = (p < CELLS)[:, None] & (channel < channels)[None, :]
        else:
            offsets = channel.to(tl.int64)[:, None] * strides[1] + cell[None, :]
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
    parts = ()
    for j in tl.static_range(channels_per_row(CELLS, V)):
        channel = part_channels(first, j, CELLS, V, BLOCK_C)
        parts += (
            tl.load(
                rows[:, None] + channel.to(tl.int64)[None, :] * stride_c,
                mask=readable[:, None] & (channel < channels)[None, :],
                other=0,
            ).to(ACC),
        )
    return spread_channels(parts, CELLS, V)


@triton.jit
def part_channels(
    first, j: tl.constexpr, CELLS: tl.constexpr, V: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Channels of a tile's j-th part of M: the j-th of each M in a row."""
    M: tl.constexpr = channels_per_row(CELLS, V)
    return first + j + tl.arange(0, BLOCK_C // M) * M


@triton.jit
def spread_channels(parts, CELLS: tl.constexpr, V: tl.constexpr):
    """M parts ``[L, BLOCK_C / M]`` of a tile's channels, spread over the cells.

    In parts, as they can be loaded: from one block it takes sums, as in ``spread_block``.
    """
    if V > 0:
        lead, of_next = vector_channels(CELLS, V)
        here = tl.zeros((1, 1, 1), parts[0].dtype)
        after = here
        for j in tl.static_range(channels_per_row(CELLS, V)):
            value = parts[j][:, :, None]
            here = tl.where(lead[None, None, :] == j, value, here)
            after = tl.where(lead[None, None, :] + 1 == j, value, after)
        out = tl.where(of_next[None, None, :, :], after[:, :, None, :], here[:, :, None, :])
    elif V < 0:
        out = parts[0][:, None, :]
    else:
        out = parts[0][:, :, None]
    return out


@triton.jit
def spread_block(x, CELLS: tl.constexpr, V: tl.constexpr, BLOCK_C: tl.constexpr):
    """``[1, BLOCK_C]`` of a tile's channels, spread over the cells.

    Not gathered: the gather's layout would become that of the tile.
    """
    if V > 0:
        M: tl.constexpr = channels_per_row(CELLS, V)
        lead, of_next = vector_channels(CELLS, V)
        m = tl.arange(0, M)[:, None]
        x = tl.reshape(x, (1, BLOCK_C // M, M))[:, :, :, None]
        here = tl.sum(tl.where((lead[None, :] == m)[None, None, :, :], x, 0), 2)
        after = tl.sum(tl.where((lead[None, :] + 1 == m)[None, None, :, :], x, 0), 2)
        out = tl.where(of_next[None, None, :, :], after[:, :, None, :], here[:, :, None, :])
    elif V < 0:
        out = x[:, None, :]
    else:
        out = x[:, :, None]
    return out


@triton.jit
def spread_cells(x, L: tl.constexpr, CELLS: tl.constexpr, V: tl.constexpr):
    """``[L, BLOCK_P]`` spread over the channels of a tile."""
    if V > 0:
        # Gathered element by element, as in sum_channels.
        vectors: tl.constexpr = padded(vectors_per_row(CELLS, V))
        start = tl.arange(0, vectors) * V
        out = tl.zeros((1, 1, 1, 1), x.dtype)
        for e in tl.static_range(V):
            index = tl.broadcast_to(((start + e) % CELLS)[None, :], (L, vectors))
            of_e = (tl.arange(0, V) == e)[None, None, :, None]
            out = tl.where(of_e, tl.gather(x, index, 1)[:, None, None, :], out)
    elif V < 0:
        out = x[:, :, None]
    else:
        out = x[:, None, :]
    return out


@triton.jit
def sum_channels(tile, L: tl.constexpr, CELLS: tl.constexpr, V: tl.constexpr):
    """A tile ``[L, ...]`` summed over its channels, ``[L, BLOCK_P]``."""
    out = tl.sum(tile, 2 if V < 0 else 1)
    if V > 0:
        M: tl.constexpr = channels_per_row(CELLS, V)
        vectors: tl.constexpr = padded(vectors_per_row(CELLS, V))
        # Cells in rows as long as there are vectors: up to triton 3.8 a gather with more indices
        # than its source has elements does not compile.
        ROWS: tl.constexpr = padded(CELLS) // vectors
        values = out
        p = tl.arange(0, ROWS)[:, None] * vectors + tl.arange(0, vectors)[None, :]
        out = tl.zeros((L, ROWS, vectors), tile.dtype)
        # The values of a cell lie at different elements of their vectors, each at one. Gathered
        # element by element: all at once would take a warp's shuffle for each pair of values.
        for e in tl.static_range(V):
            n = tl.full((ROWS, vectors), vectors, tl.int32)
            for j in tl.static_range(M):
                here = (p < CELLS) & ((p + j * CELLS) % V == e)
                n = tl.where(here, (p + j * CELLS) // V, n)
            of_e = (tl.arange(0, V) == e)[None, :, None]
            plane = tl.sum(tl.where(of_e, values, 0), 1)
            source = tl.broadcast_to(plane[:, None, :], (L, ROWS, vectors))
            index = tl.broadcast_to(tl.minimum(n, vectors - 1)[None, :, :], (L, ROWS, vectors))
            out += tl.where((n < vectors)[None, :, :], tl.gather(source, index, 2), 0)
        out = tl.reshape(out, (L, padded(CELLS)))
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
        out = tl.sum(tile, 1 if V < 0 else 2)
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


def arrangement(
    *tensors: Tensor,
    per_thread: int,
    classes: int = 1,
    vectors: bool = True,
    columns: bool = True,
    threads: int = 0,
) -> dict[str, Any]:
    """The constants by which a kernel sees features (and their gradient), BLOCK_C and BLOCK_P.

    V is -1 only where ``columns`` are allowed and the channels of all tensors are contiguous; and
    above 0 only where ``vectors`` are allowed and serve all tensors, rows would not be aligned, and
    the sums in place for all ``classes`` still fit into registers. A tile has about ``per_thread``
    elements for each of so many ``threads`` (0: of four warps), padding included; fewer where
    classes outnumber its cells.
    """
    shape, size = tensors[0].shape, tensors[0].element_size()
    strides = tuple(tensor.stride() for tensor in tensors)
    elements = tile_scale * (threads or 4 * warp_size()) * per_thread
    columns &= not on_amd() and all(stride[1] == 1 for stride in strides) and shape[1] > 1
    return dict(_arrangement(tuple(shape), strides, size, elements, classes, vectors, columns))


@functools.lru_cache(4096)
def _arrangement(
    shape: tuple[int, ...],
    strides: tuple[tuple[int, ...], ...],
    element_size: int,
    elements: int,
    classes: int,
    vectors: bool,
    columns: bool,
) -> dict[str, Any]:
    # Remembered, as a step asks for it four times.
    _, channels, height, width = shape
    cells = height * width
    vector = VECTOR_BYTES // element_size
    row = channels_per_row(cells, vector)
    packed = all(stride[1:] == (cells, width, 1) for stride in strides)
    # Triton knows a stride to be aligned if it is a multiple of 16.
    aligned = cells % 16 == 0
    fit = vector <= cells and vectors_per_row(cells, vector) * max(classes, 2) <= 2 * MAX_VECTORS
    if aligned or not (vectors and packed and fit and channels % row == 0):
        row = vector = 0
    if columns:
        row, vector = 0, -1
    block_p = padded(cells)
    if row:
        of_channel = padded(vectors_per_row(cells, vector)) * vector // row
    else:
        block_p = min(block_p, elements // MIN_CHANNELS)
        # With fewer cells than classes, W's [classes, BLOCK_C] would not fit shared memory.
        of_channel = max(block_p, classes)
    return {
        "CELLS": cells,
        "V": vector,
        "FLAT": all(stride[2] == width * stride[3] for stride in strides),
        "BLOCK_C": max(min(elements // of_channel, padded(channels)), row, 1),
        "BLOCK_P": block_p,
    }


def samples_in_registers(seen: dict[str, Any], samples: int, threads: int) -> int:
    """Of the ``samples`` that are to share W, how many a program has registers for.

    A tile of vectors cannot have fewer than M channels, whatever their cells are.
    """
    if seen["V"] <= 0:
        return samples
    vectors = seen["BLOCK_P"] * channels_per_row(seen["CELLS"], seen["V"]) // seen["V"]
    return int(max(1, min(samples, samples * threads // vectors)))


def stages_ahead(
    seen: dict[str, Any], samples: int, classes: int, features: Tensor, most: int
) -> int:
    """Stages of a loop over tiles of so many samples and the classes' rows, one being at work."""
    if on_amd():
        return 1  # They would go through registers, of which it would take more than 128.
    of_channel = samples * seen["BLOCK_P"] * features.element_size()
    # W, and what the contrast takes off it, is in 32 bits, or in 64.
    of_channel += 2 * classes * accumulation_dtype(features).itemsize
    return int(max(2, min(BYTES_AHEAD // (seen["BLOCK_C"] * of_channel) + 1, most)))


def small_options(values: int) -> dict[str, Any]:
    """Options of a kernel whose program holds so many cells or classes: eight or more to a thread.

    Of products that are not rounded, fused into ``entropy - target``, the rounding of the entropy
    would be left where nothing is.
    """
    warps = min(max(triton.next_power_of_2(values) // 256, 4), 16)
    return ROUNDED | {"num_warps": warps}


def warp_size() -> int:
    """Threads of a warp."""
    return 64 if on_amd() else 32


def on_amd() -> bool:
    """Whether kernels are compiled for an AMD GPU: warps of 64, and no asynchronous copies."""
    return not knobs.runtime.interpret and bool(_target(driver.active).backend == "hip")


def before_sm_90() -> bool:
    """Whether kernels are compiled for an older GPU of NVIDIA."""
    if knobs.runtime.interpret:
        return False
    target = _target(driver.active)
    return bool(target.backend == "cuda" and target.arch < 90)


@functools.lru_cache
def _target(active: Any) -> Any:
    # Remembered, as a launch asks for it several times; GPUs of one machine count as alike.
    return active.get_current_target()

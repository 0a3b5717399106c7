# mypy: disable-error-code="no-untyped-def, untyped-decorator, assignment"
"""How the Triton kernels see features: tiles of channels and cells, in three arrangements.

A tile holds BLOCK_C channels of one sample, and BLOCK_P of its cells, as they are in memory:

- rows (V = 0): ``[BLOCK_C, BLOCK_P]``. Right where a channel's cells are a multiple of 16. Few
  cells are one block, with padding; of more, programs or steps take a block each, so that a tile
  always has MIN_CHANNELS.
- columns (V < 0): ``[BLOCK_P, BLOCK_C]``, else as rows, where channels are contiguous
  (channels_last); -V of them are 16 bytes, or all of a tile. On AMD, rows.
- vectors (V > 0): ``[BLOCK_C / M, M, I V]``, of all cells (BLOCK_P = P, the cells and their
  padding). In NCHW with 49 cells a channel's row of 98 bytes is not aligned, but M = 8 of them are
  392 values without a gap, which is 49 vectors of V values, 16 bytes. In the m-th of them up to I
  vectors begin, and the last of these may end in the next. Element e of the i-th is value
  ``(ceil(m CELLS / V) + i) V + e`` of the M channels in a row.

In registers a tile is a tuple of planes (``triton_planes.py``), one for each element of the 16
bytes: V of ``[L, BLOCK_C / M, M, I]``, or -V of ``[L, BLOCK_P, BLOCK_C / -V]``; rows are one, ``[L,
BLOCK_C, BLOCK_P]``. L is a leading axis, of classes or of length 1.

The kernels are written once, in what all arrangements have: values of channels ``[L, BLOCK_C]`` or
of cells (``cells_to_spread``) spread over a tile, and tiles summed over cells or over channels.
"""

import functools
import math
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from focus.kernels.triton_planes import from_planes, planes, products, sums, to_planes
from focus.kernels.triton_target import on_amd, warp_size
from focus.kernels.types import accumulation_dtype

VECTOR_BYTES = 16
# Channels of a tile of rows or columns: where they are contiguous, 32 bytes of them in 16 bits are
# the sector that memory moves at once.
MIN_CHANNELS = 16
# Most vectors of M channels for one class or two; of more, registers do not hold a tile's elements.
MAX_VECTORS = 256
# A row's M channels have vectors that begin at other cells. For up to so many, values of cells are
# read in the order of each, which is quicker than to gather them; for 4 and 8 it is too many bytes.
MAX_ORDERS = 2
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
def vectors_per_channel(cells, vector):
    """I: how many vectors begin in a channel, at most; the next power of 2."""
    return triton.next_power_of_2(triton.cdiv(cells, vector))


@triton.constexpr_function
def elements_together(cells, vector):
    """Within a vector, a channel ends only at multiples of so many elements."""
    return vector // channels_per_row(cells, vector)


@triton.constexpr_function
def gathered(cells, vector):
    """Whether the values of cells are gathered, and not read for each channel of a row."""
    return channels_per_row(cells, vector) > MAX_ORDERS


@triton.constexpr_function
def within_warp(shape):
    """How many cells of a plane of columns are in a warp, where it has all of the channels."""
    return min(shape[1], max(32 // shape[2], 1))


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
    """A tile of zeros."""
    if V > 0:
        M: tl.constexpr = channels_per_row(CELLS, V)
        zero = tl.zeros((L, BLOCK_C // M, M, vectors_per_channel(CELLS, V)), ACC)
    elif V < 0:
        zero = tl.zeros((L, BLOCK_P, BLOCK_C // planes(V)), ACC)
    else:
        zero = tl.zeros((L, BLOCK_C, BLOCK_P), ACC)
    tile = ()
    for _ in tl.static_range(planes(V)):
        tile += (zero,)
    return tile


@triton.jit
def zero_products(
    ACC: tl.constexpr,
    L: tl.constexpr,
    CELLS: tl.constexpr,
    V: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Zeros, to which ``add_products`` adds."""
    tile = zero_tile(ACC, L, CELLS, V, BLOCK_C, BLOCK_P)
    return (tile[0],) if V < 0 else tile


@triton.jit
def add_products(total, a, b, V: tl.constexpr):
    """Products of two tiles, added element by element, to be summed over the channels.

    Planes of columns are channels of the same cells, so that one plane holds their sum.
    """
    if V < 0:
        part = a[0] * b[0]
        for e in tl.static_range(1, planes(V)):
            part += a[e] * b[e]
        out = (total[0] + part,)
    else:
        out = sums(total, products(a, b))
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
    channel's cells are evenly spaced, by the last stride.
    """
    if V > 0:
        tl.static_assert(BLOCK_P >= CELLS, "vectors run over all cells")
        M: tl.constexpr = channels_per_row(CELLS, V)
        row = first // M + tl.arange(0, BLOCK_C // M)
        m = tl.arange(0, M)
        start = first_vector(m, CELLS, V) * V
        end = first_vector(m + 1, CELLS, V) * V
        within = start[:, None] + tl.arange(0, vectors_per_channel(CELLS, V) * V)[None, :]
        inside = within < end[:, None]
        offsets = row.to(tl.int64)[:, None, None] * (M * CELLS) + within[None, :, :]
        mask = (row * M < channels)[:, None, None] & inside[None, :, :]
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
def first_vector(m, CELLS: tl.constexpr, V: tl.constexpr):
    """Of the vectors of M channels in a row, the first that begins in the m-th."""
    return (m * CELLS + (V - 1)) // V


@triton.jit
def elements_of_channel(CELLS: tl.constexpr, V: tl.constexpr):
    """How many elements of each vector ``[M, I]`` are of the channel in which it begins.

    The others are of the next. Of padding, 0 or less.
    """
    m = tl.arange(0, channels_per_row(CELLS, V))[:, None]
    vector = first_vector(m, CELLS, V) + tl.arange(0, vectors_per_channel(CELLS, V))[None, :]
    return (m + 1) * CELLS - vector * V


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
    channel = first + tl.arange(0, BLOCK_C)
    values = tl.load(
        rows[:, None] + channel.to(tl.int64)[None, :] * stride_c,
        mask=readable[:, None] & (channel < channels)[None, :],
        other=0,
    )
    return spread_channels(values.to(ACC), CELLS, V)


@triton.jit
def spread_channels(x, CELLS: tl.constexpr, V: tl.constexpr):
    """``[L, BLOCK_C]`` of a tile's channels, spread over the cells."""
    if V > 0:
        of_channel = elements_of_channel(CELLS, V)
        here = over_vectors(x, CELLS, V)
        after = over_vectors(shifted(x, 1), CELLS, V)
        values = here
        tile = ()
        for e in tl.static_range(V):
            if e > 0 and e % elements_together(CELLS, V) == 0:
                values = tl.where((e < of_channel)[None, None, :, :], here, after)
            tile += (values,)
    elif V < 0:
        tile = as_columns(x, V)
    else:
        tile = (x[:, :, None],)
    return tile


@triton.jit
def over_vectors(x, CELLS: tl.constexpr, V: tl.constexpr):
    """``[L, BLOCK_C]`` as ``[L, BLOCK_C / M, M, 1]``, to be spread over a channel's vectors."""
    M: tl.constexpr = channels_per_row(CELLS, V)
    return tl.reshape(x, (x.shape[0], x.shape[1] // M, M))[:, :, :, None]


@triton.jit
def shifted(x, DISTANCE: tl.constexpr):
    """``[L, BLOCK_C]``, of each channel the value of the one so much further, or of an end."""
    channel = tl.arange(0, x.shape[1]) + DISTANCE
    channel = tl.minimum(tl.maximum(channel, 0), x.shape[1] - 1)
    return tl.gather(x, tl.broadcast_to(channel[None, :], x.shape), 1)


@triton.jit
def as_columns(x, V: tl.constexpr):
    """``[L, BLOCK_C]`` spread over the cells of a tile of columns."""
    parts = to_planes(x, V)
    tile = ()
    for e in tl.static_range(planes(V)):
        tile += (parts[e][:, None, :],)
    return tile


@triton.jit
def cells_to_spread(first_p, CELLS: tl.constexpr, V: tl.constexpr, BLOCK_P: tl.constexpr):
    """The cells ``[N]`` whose values ``spread_cells`` takes, of a tile whose first is ``first_p``.

    Of vectors, as often and in such orders as they are needed. Padding is CELLS or more.
    """
    if V > 0:
        if gathered(CELLS, V):
            p = tl.arange(0, padded(CELLS + V - 1))
            end = CELLS + V - 1
        else:
            # The cells of all elements, vector by vector; `make sanitize` follows no reshape.
            LENGTH: tl.constexpr = vectors_per_channel(CELLS, V) * V
            n = tl.arange(0, channels_per_row(CELLS, V) * LENGTH)
            m = n // LENGTH
            p = n % LENGTH + first_vector(m, CELLS, V) * V - m * CELLS
            end = first_vector(m + 1, CELLS, V) * V - m * CELLS
        # After a channel's last cell comes the first of the next.
        p = tl.where(p < CELLS, p, tl.where(p < end, p - CELLS, CELLS))
    else:
        p = first_p + tl.arange(0, BLOCK_P)
    return p


@triton.jit
def spread_cells(x, CELLS: tl.constexpr, V: tl.constexpr):
    """``[L, N]``, of the ``cells_to_spread``, spread over the channels of a tile."""
    tile = ()
    if V > 0:
        M: tl.constexpr = channels_per_row(CELLS, V)
        PER_CHANNEL: tl.constexpr = vectors_per_channel(CELLS, V)
        L: tl.constexpr = x.shape[0]
        if gathered(CELLS, V):
            n = tl.arange(0, M * PER_CHANNEL)
            # Of the first element; a vector has no more than CELLS.
            cell = (first_vector(n // PER_CHANNEL, CELLS, V) + n % PER_CHANNEL) * V % CELLS
            for e in tl.static_range(V):
                index = tl.broadcast_to((cell + e)[None, :], (L, M * PER_CHANNEL))
                values = tl.reshape(tl.gather(x, index, 1), (L, M, PER_CHANNEL))
                tile += (values[:, None, :, :],)
        else:
            parts = to_planes(tl.reshape(x, (L, M, PER_CHANNEL * V)), V)
            for e in tl.static_range(V):
                tile += (parts[e][:, None, :, :],)
    elif V < 0:
        for _ in tl.static_range(planes(V)):
            tile += (x[:, :, None],)
    else:
        tile += (x[:, None, :],)
    return tile


@triton.jit
def with_ones(tile, V: tl.constexpr):
    """A tile whose leading axis is 1 long, and one of ones after it."""
    first = spread_classes((tl.arange(0, 2) == 0)[:, None], V)
    both = ()
    for e in tl.static_range(planes(V)):
        both += (tl.where(first, tile[e], 1),)
    return both


@triton.jit
def spread_classes(x, V: tl.constexpr):
    """``[L, 1]`` spread over a tile."""
    return x[:, :, None, None] if V > 0 else x[:, :, None]


@triton.jit
def sum_channels(tile, CELLS: tl.constexpr, V: tl.constexpr):
    """Products, as ``add_products`` leaves them, summed over the channels, ``[L, BLOCK_P]``."""
    if V > 0:
        M: tl.constexpr = channels_per_row(CELLS, V)
        PER_CHANNEL: tl.constexpr = vectors_per_channel(CELLS, V)
        N: tl.constexpr = M * PER_CHANNEL
        # Cells in rows as long as there are vectors: up to triton 3.8 a gather with more indices
        # than its source has elements does not compile.
        ROWS: tl.constexpr = padded(CELLS) // N
        # Rows of M channels are summed at the end, since that takes shared memory: unless registers
        # do not hold all of them.
        L: tl.constexpr = tile[0].shape[0]
        AT_END: tl.constexpr = ROWS == 1 and L <= 2
        R: tl.constexpr = tile[0].shape[1] if AT_END else 1
        p = tl.arange(0, ROWS)[:, None] * N + tl.arange(0, N)[None, :]
        out = tl.zeros((L * R, ROWS, N), tile[0].dtype)
        TOGETHER: tl.constexpr = elements_together(CELLS, V)
        tl.static_assert(V <= 8, "modulo 16 not every odd number is its own inverse")
        # The values of a cell are of different elements of their vectors, each of one. Element e
        # has that of the j-th of M channels where p + j CELLS is e modulo V, if of any.
        for e in tl.static_range(V):
            distance = (e - p) & (V - 1)
            j = distance // TOGETHER * (CELLS // TOGETHER) % M
            vector = (p + j * CELLS) // V
            begins = vector * V // CELLS
            place = begins * PER_CHANNEL + vector - first_vector(begins, CELLS, V)
            n = tl.where((p < CELLS) & (distance % TOGETHER == 0), place, N)
            plane = tile[e] if AT_END else tl.sum(tile[e], 1)
            source = tl.broadcast_to(tl.reshape(plane, (L * R, 1, N)), (L * R, ROWS, N))
            index = tl.broadcast_to(tl.minimum(n, N - 1)[None, :, :], (L * R, ROWS, N))
            out += tl.where((n < N)[None, :, :], tl.gather(source, index, 2), 0)
        out = tl.sum(tl.reshape(out, (L, R, padded(CELLS))), 1)
    else:
        out = tl.sum(tile[0], 2 if V < 0 else 1)
    return out


@triton.jit
def sum_cells(tile, CELLS: tl.constexpr, V: tl.constexpr, BLOCK_C: tl.constexpr):
    """A tile, 0 where masked, summed over its cells, ``[L, BLOCK_C]``."""
    if V > 0:
        of_channel = elements_of_channel(CELLS, V)
        TOGETHER: tl.constexpr = elements_together(CELLS, V)
        own = tl.zeros_like(tile[0])
        rest = own
        for e in tl.static_range(0, V, TOGETHER):
            part = tile[e]
            for j in tl.static_range(1, TOGETHER):
                part += tile[e + j]
            own += tl.where((e < of_channel)[None, None, :, :], part, 0)
            if e > 0:
                rest += tl.where((e < of_channel)[None, None, :, :], 0, part)
        out = sum_vectors(own)
        if TOGETHER < V:
            # Nothing of padding, where the features are 0: times an infinite gradient that is NaN.
            rest = sum_vectors(tl.where((of_channel > 0)[None, None, :, :], rest, 0))
            out += tl.where((tl.arange(0, BLOCK_C) > 0)[None, :], shifted(rest, -1), 0)
    elif V < 0:
        # First what threads of a warp have of a channel. Then Triton is to choose again who has
        # what, so that a thread adds the sums of all warps: left where they are, they would meet
        # in shared memory, by triton 3.6 four and more in a bank.
        L: tl.constexpr = tile[0].shape[0]
        WITHIN: tl.constexpr = within_warp(tile[0].shape)
        parts = tl.reshape(from_planes(tile, V), (L, tile[0].shape[1] // WITHIN, WITHIN, BLOCK_C))
        out = tl.permute(tl.sum(parts, 2), (0, 2, 1))
        out = tl.sum(tl.sum(out[None], 0), 2)
    else:
        out = tl.sum(tile[0], 2)
    return out


@triton.jit
def sum_vectors(x):
    """``[L, BLOCK_C / M, M, I]`` summed over the vectors of each channel, ``[L, BLOCK_C]``."""
    return tl.reshape(tl.sum(x, 3), (x.shape[0], x.shape[1] * x.shape[2]))


def vector_of(*tensors: Tensor, classes: int = 1, vectors: bool = True) -> int:
    """V of features (and their gradient): below 0 of columns, 0 of rows, above 0 of vectors.

    Columns where the channels of all tensors are contiguous, but not on AMD; vectors only where
    ``vectors`` are allowed and serve all tensors, rows would not be aligned, and the sums in place
    for all ``classes`` still fit into registers.
    """
    strides = tuple(tensor.stride() for tensor in tensors)
    size = tensors[0].element_size()
    return _vector_of(tuple(tensors[0].shape), strides, size, classes, vectors, not on_amd())


@functools.lru_cache(4096)
def _vector_of(
    shape: tuple[int, ...],
    strides: tuple[tuple[int, ...], ...],
    element_size: int,
    classes: int,
    vectors: bool,
    columns: bool,
) -> int:
    # Remembered, as each launch asks for it.
    _, channels, height, width = shape
    cells, vector = height * width, VECTOR_BYTES // element_size
    if columns and channels > 1 and all(stride[1] == 1 for stride in strides):
        return -vector
    row = channels_per_row(cells, vector)
    packed = all(stride[1:] == (cells, width, 1) for stride in strides)
    # Triton knows a stride to be aligned if it is a multiple of 16.
    aligned = cells % 16 == 0
    vectors_of_row = row * vectors_per_channel(cells, vector)
    fit = vector <= cells and vectors_of_row * max(classes, 2) <= 2 * MAX_VECTORS
    return vector if vectors and packed and fit and not aligned and channels % row == 0 else 0


def arrangement(
    *tensors: Tensor, vector: int, per_thread: int, classes: int = 1, threads: int = 0
) -> dict[str, Any]:
    """The constants by which a kernel sees features (and their gradient), whose V is ``vector``.

    A tile has about ``per_thread`` elements for each of so many ``threads`` (0: of four warps),
    padding included; fewer where classes outnumber its cells.
    """
    _, channels, height, width = tensors[0].shape
    cells = height * width
    elements = tile_scale * (threads or 4 * warp_size()) * per_thread
    block_p = padded(cells)
    if vector > 0:
        of_channel = vectors_per_channel(cells, vector) * vector
    else:
        of_channel = block_p = min(block_p, elements // MIN_CHANNELS)
    # W's [classes, BLOCK_C] has to fit shared memory and registers, too, however few the cells.
    of_channel = max(of_channel, classes)
    block_c = max(min(elements // of_channel, padded(channels)), channels_per_row(cells, vector))
    return {
        "CELLS": cells,
        "V": max(vector, -block_c),
        "FLAT": all(tensor.stride(2) == width * tensor.stride(3) for tensor in tensors),
        "BLOCK_C": block_c,
        "BLOCK_P": block_p,
    }


def samples_in_registers(
    vector: int, cells: int, samples: int, threads: int, *, fewer: bool = False
) -> int:
    """Of the ``samples`` that are to share W, how many a program has registers for.

    A tile of vectors cannot have fewer than M channels, whatever their cells are; and to gather
    values of many cells takes registers, too. ``fewer``: as many as if they were gathered.
    """
    if vector <= 0:
        return samples
    vectors = padded(cells) * channels_per_row(cells, vector) // vector
    most = 256 // padded(cells) if fewer or gathered(cells, vector) else samples
    return int(max(1, min(samples * threads // vectors, samples, most)))


def stages_ahead(
    tile: dict[str, Any], samples: int, classes: int, features: Tensor, most: int
) -> int:
    """Stages of a loop over tiles of so many samples and the classes' rows, one being at work."""
    if on_amd():
        return 1  # They would go through registers, of which it would take more than 128.
    of_channel = samples * tile["BLOCK_P"] * features.element_size()
    # W, and what the contrast takes off it, is in 32 bits, or in 64.
    of_channel += 2 * classes * accumulation_dtype(features).itemsize
    return int(max(2, min(BYTES_AHEAD // (tile["BLOCK_C"] * of_channel) + 1, most)))

# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""How tiles see features, in each arrangement: what is spread over a tile, and summed over it."""

import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is not installed")

import triton
import triton.language as tl

from focus.kernels.triton_planes import as_stored, as_tile, products
from focus.kernels.triton_tiles import (
    beside_ones,
    cells_to_spread,
    channels_per_row,
    padded,
    spread_cells,
    spread_channels,
    sum_cells,
    sum_channels,
    tile_offsets,
)

from .interpreter import interpreter

# Where vectors of 4 and 8 elements begin: at each element of a channel, and up to a padded end.
CELLS = (*range(4, 26), 31, 36, 49, 57, 63, 64, 65, 100, 196, 225)


@triton.jit
def _spread(
    of_cells_ptr,
    of_channels_ptr,
    out_ptr,
    strides,
    channels,
    CELLS: tl.constexpr,
    V: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    channel = tl.arange(0, BLOCK_C)
    p = cells_to_spread(0, CELLS, V, BLOCK_P)
    of_cells = tl.load(of_cells_ptr + p, mask=p < CELLS, other=float("nan"))
    of_channels = tl.load(of_channels_ptr + channel, mask=channel < channels, other=float("nan"))
    out = products(
        beside_ones(spread_cells(of_cells[None, :], CELLS, V), V),
        spread_channels(of_channels[None, :], CELLS, V),
    )
    offsets, mask = tile_offsets(0, channels, 0, strides, CELLS, CELLS, True, V, BLOCK_C, BLOCK_P)
    tl.store(out_ptr + offsets, as_stored(out, tl.float64, V), mask=mask)


@triton.jit
def _sums(
    features_ptr,
    over_cells_ptr,
    over_channels_ptr,
    strides,
    channels,
    CELLS: tl.constexpr,
    V: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    channel, p = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_P)
    offsets, mask = tile_offsets(0, channels, 0, strides, CELLS, CELLS, True, V, BLOCK_C, BLOCK_P)
    tile = as_tile(tl.load(features_ptr + offsets, mask=mask, other=0), tl.float64, V)
    over_cells = tl.sum(sum_cells(tile, CELLS, V, BLOCK_C), 0)
    tl.store(over_cells_ptr + channel, over_cells, mask=channel < channels)
    if V >= 0:
        over_channels = tl.sum(sum_channels(tile, CELLS, V), 0)
        tl.store(over_channels_ptr + p, over_channels, mask=p < CELLS)


@pytest.fixture(autouse=True, scope="module")
def interpreted(one_thread: None) -> Iterator[None]:
    with interpreter(sys.modules[__name__]):
        yield


def constants(cells: int, vector: int, columns: bool = False) -> dict[str, int]:
    """Of a tile of 16 channels; with vectors, of as many in two rows at least."""
    channels = max(16, 2 * int(channels_per_row(cells, vector)))
    block_p = int(padded(cells))
    return {"CELLS": cells, "V": -4 if columns else vector, "BLOCK_C": channels, "BLOCK_P": block_p}


def features(channels: int, cells: int, columns: bool) -> Tensor:
    values = torch.from_numpy(np.random.default_rng(cells).integers(-99, 99, (channels, cells)))
    values = values.double()
    return values.T.contiguous().T if columns else values


# A vector has no more elements than a channel.
TILES = pytest.mark.parametrize(
    ("cells", "vector", "columns"),
    [
        (cells, vector, columns)
        for cells in CELLS
        for vector, columns in ((8, False), (4, False), (0, False), (0, True))
        if vector <= cells
    ],
)


@TILES
def test_values_of_cells_and_channels_meet(cells: int, vector: int, columns: bool) -> None:
    """A product of both in one direction of h, and the channels' in the other."""
    constant = constants(cells, vector, columns)
    channels = constant["BLOCK_C"]
    of_cells = torch.arange(1, cells + 1, dtype=torch.float64)
    of_channels = 1000 * torch.arange(1, channels + 1, dtype=torch.float64)
    out = torch.full_like(features(channels, cells, columns), float("nan"))
    strides = (0, *out.stride()[:1], 0, out.stride(1))
    _spread[(1,)](of_cells, of_channels, out, strides, channels, **constant)
    assert torch.equal(out, of_channels[:, None] * (of_cells[None, :] + 1))


@TILES
def test_sums_are_those_of_each_channel_and_cell(cells: int, vector: int, columns: bool) -> None:
    """To the bit, as they are sums of integers; and what is no number stays in its channel."""
    constant = constants(cells, vector, columns)
    channels = constant["BLOCK_C"]
    values = features(channels, cells, columns)
    over_cells = torch.full((channels,), float("nan"), dtype=torch.float64)
    over_channels = torch.full((cells,), float("nan"), dtype=torch.float64)
    strides = (0, values.stride(0), 0, values.stride(1))
    arguments = over_cells, over_channels, strides, channels
    _sums[(1,)](values, *arguments, **constant)
    assert torch.equal(over_cells, values.sum(1))
    if not columns:
        assert torch.equal(over_channels, values.sum(0))
    values[3, cells - 1] = float("inf")
    values[5, 0] = float("nan")
    _sums[(1,)](values, *arguments, **constant)
    torch.testing.assert_close(over_cells, values.sum(1), rtol=0, atol=0, equal_nan=True)

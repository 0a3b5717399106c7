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
    cells_to_spread,
    channels_per_row,
    padded,
    samples_in_registers,
    spread_cells,
    spread_channels,
    sum_cells,
    sum_channels,
    tile_offsets,
    with_ones,
)

from .interpreter import interpreter

# Of infinity times 0, where a test asks for it.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")

# Where vectors begin at each element of a channel, and up to a padded end.
CELLS = (*range(4, 20), 25, 31, 36, 49, 57, 63, 64, 65, 100, 196, 225)
# A vector has no more elements than a channel.
TILES = pytest.mark.parametrize(
    ("cells", "vector", "columns"),
    [
        (cells, vector, columns)
        for cells in CELLS
        for vector, columns in ((8, False), (4, False), (2, False), (0, False), (0, True))
        if vector <= cells
    ],
)


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
    first = tl.program_id(0) * BLOCK_C
    channel = first + tl.arange(0, BLOCK_C)
    p = cells_to_spread(0, CELLS, V, BLOCK_P)
    of_cells = tl.load(of_cells_ptr + p, mask=p < CELLS, other=float("nan"))
    of_channels = tl.load(of_channels_ptr + channel, mask=channel < channels, other=float("nan"))
    out = products(
        with_ones(spread_cells(of_cells[None, :], CELLS, V), V),
        spread_channels(of_channels[None, :], CELLS, V),
    )
    offsets, mask = tile_offsets(
        first, channels, 0, strides, CELLS, CELLS, True, V, BLOCK_C, BLOCK_P
    )
    tl.store(out_ptr + offsets, as_stored(out, tl.float64, V), mask=mask)


@triton.jit
def _sums(
    features_ptr,
    of_cells_ptr,
    over_cells_ptr,
    over_channels_ptr,
    strides,
    channels,
    CELLS: tl.constexpr,
    V: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    first = tl.program_id(0) * BLOCK_C
    channel, cell = first + tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_P)
    p = cells_to_spread(0, CELLS, V, BLOCK_P)
    of_cells = tl.load(of_cells_ptr + p, mask=p < CELLS, other=0)
    offsets, mask = tile_offsets(
        first, channels, 0, strides, CELLS, CELLS, True, V, BLOCK_C, BLOCK_P
    )
    tile = as_tile(tl.load(features_ptr + offsets, mask=mask, other=0), tl.float64, V)
    tile = products(tile, spread_cells(of_cells[None, :], CELLS, V))
    over_cells = tl.sum(sum_cells(tile, CELLS, V, BLOCK_C), 0)
    tl.store(over_cells_ptr + channel, over_cells, mask=channel < channels)
    if V >= 0:
        over_channels = tl.sum(sum_channels(tile, CELLS, V), 0)
        part = over_channels_ptr + tl.program_id(0) * CELLS
        tl.store(part + cell, over_channels, mask=cell < CELLS)


@pytest.fixture(autouse=True, scope="module")
def interpreted(one_thread: None) -> Iterator[None]:
    with interpreter(sys.modules[__name__]):
        yield


class Tiles:
    """Two tiles, of which the second has a row of M channels less than it has room for."""

    def __init__(self, cells: int, vector: int, *, columns: bool) -> None:
        row = int(channels_per_row(cells, vector))
        block = max(4 * row, 16)
        self.channels, self.cells, self.columns = 2 * block - row, cells, columns
        self.constants = {
            "CELLS": cells,
            "V": -4 if columns else vector,
            "BLOCK_C": block,
            "BLOCK_P": int(padded(cells)),
        }

    def features(self) -> Tensor:
        """Whole numbers from 1, whose sums are exact."""
        draw = np.random.default_rng(self.cells)
        values = torch.from_numpy(draw.integers(1, 99, (self.channels, self.cells))).double()
        return values.T.contiguous().T if self.columns else values

    def sums(self, features: Tensor, of_cells: Tensor) -> tuple[Tensor, Tensor]:
        """Over the cells of each channel, and over the channels of each tile, ``[2, cells]``."""
        over_cells = torch.full((self.channels,), float("nan"), dtype=torch.float64)
        over_channels = torch.full((2, self.cells), float("nan"), dtype=torch.float64)
        _sums[(2,)](
            features,
            of_cells,
            over_cells,
            over_channels,
            (0, features.stride(0), 0, features.stride(1)),
            self.channels,
            **self.constants,
        )
        return over_cells, over_channels


@TILES
def test_values_of_cells_and_channels_meet(cells: int, vector: int, columns: bool) -> None:
    """A product of both in one direction of h, and the channels' in the other."""
    tiles = Tiles(cells, vector, columns=columns)
    of_cells = torch.arange(1, cells + 1, dtype=torch.float64)
    of_channels = 1000 * torch.arange(1, tiles.channels + 1, dtype=torch.float64)
    out = torch.full_like(tiles.features(), float("nan"))
    strides = (0, out.stride(0), 0, out.stride(1))
    _spread[(2,)](of_cells, of_channels, out, strides, tiles.channels, **tiles.constants)
    assert torch.equal(out, of_channels[:, None] * (of_cells[None, :] + 1))


@TILES
def test_sums_are_those_of_each_channel_and_cell(cells: int, vector: int, columns: bool) -> None:
    """To the bit, as they are sums of whole numbers; and what is no number stays in its channel."""
    tiles = Tiles(cells, vector, columns=columns)
    features, of_cells = tiles.features(), torch.arange(cells, dtype=torch.float64)
    over_cells, over_channels = tiles.sums(features, of_cells)
    assert torch.equal(over_cells, (features * of_cells).sum(1))
    if not columns:
        assert torch.equal(over_channels.sum(0), (features * of_cells).sum(0))
    features[3, cells - 1] = float("inf")
    features[5, 0] = float("nan")
    over_cells, _ = tiles.sums(features, of_cells + 1)
    expected = (features * (of_cells + 1)).sum(1)
    torch.testing.assert_close(over_cells, expected, rtol=0, atol=0, equal_nan=True)


@TILES
@pytest.mark.parametrize("first", [True, False])
def test_an_infinite_value_of_a_cell_meets_no_padding(
    cells: int, vector: int, columns: bool, first: bool
) -> None:
    """There features are 0, and infinity times 0 would be NaN."""
    tiles = Tiles(cells, vector, columns=columns)
    of_cells = torch.ones(cells, dtype=torch.float64)
    of_cells[0 if first else -1] = float("inf")
    over_cells, _ = tiles.sums(tiles.features(), of_cells)
    assert torch.equal(over_cells, torch.full_like(over_cells, float("inf")))


@pytest.mark.parametrize(
    ("vector", "cells", "samples"),
    [(8, 49, 4), (8, 65, 2), (8, 121, 2), (8, 135, 1), (8, 100, 4), (4, 49, 4), (0, 4096, 4)],
)
def test_fewer_samples_share_a_program_where_many_cells_are_gathered(
    vector: int, cells: int, samples: int
) -> None:
    """More spill registers, by 14 to 90 values: 128 threads have 128 each."""
    assert samples_in_registers(vector, cells, 4, 128) == samples


@pytest.mark.parametrize(
    ("vector", "cells", "samples"), [(8, 49, 4), (8, 100, 2), (4, 225, 1), (0, 4096, 4)]
)
def test_and_where_h_is_of_the_cam_alone(vector: int, cells: int, samples: int) -> None:
    assert samples_in_registers(vector, cells, 4, 128, fewer=True) == samples

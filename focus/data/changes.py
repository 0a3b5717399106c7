"""Change batches of bytes: crop, shift and flip, human maps with their images, and blur."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Self

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, embedding_bag, interpolate

_REACH = 9  # pixels of a blur, three of the largest standard deviation


class Move(NamedTuple):
    """A crop, then a shift, then a flip of an image of S x S pixels; of a batch: tensors [B].

    top, left, height, width: The part that is stretched to S x S, bilinearly. down, right: How far
    the pixel that is taken lies from that which it replaces; beyond the border the border is
    repeated. flip: Whether the result is mirrored left and right.
    """

    top: Any
    left: Any
    height: Any
    width: Any
    down: Any = 0
    right: Any = 0
    flip: Any = False

    @classmethod
    def none(cls, side: int) -> Self:
        """Return the move that leaves an image as it is."""
        return cls(0, 0, side, side)


def moved(images: Tensor, moves: Sequence[Move]) -> Tensor:
    """Return images [B,3,S,S] uint8 moved, on the CPU: in new memory, of the same order.

    The colours of a pixel lie together in memory.
    """
    side = images.shape[2]
    result = torch.empty_like(images)
    pixels = result.permute(0, 2, 3, 1).numpy()
    for image, move, changed in zip(images.split(1), moves, pixels, strict=True):
        bottom, end = move.top + move.height, move.left + move.width
        part = image[..., move.top : bottom, move.left : end]
        # The smaller part is mirrored, not the whole, and the shift with it.
        if move.flip:
            part = part.flip(3)
        if part.shape[2:] != (side, side):
            # The part is never larger: nothing is averaged. With "antialias" it has a fast kernel.
            part = interpolate(part, (side, side), mode="bilinear", antialias=True)
        source = part[0].permute(1, 2, 0).numpy()
        _shift(source, move.down, -move.right if move.flip else move.right, changed)
    return result


def _shift(source: NDArray[Any], down: int, right: int, out: NDArray[Any]) -> None:
    """Write ``source[y + down, x + right]`` to ``out[y, x]``, both [S,S,3], borders repeated."""
    side = len(out)
    top, bottom = max(0, -down), side - max(0, down)
    left, end = max(0, -right), side - max(0, right)
    out[top:bottom, left:end] = source[top + down : bottom + down, left + right : end + right]
    if left:
        out[top:bottom, :left] = out[top:bottom, left : left + 1]
    elif end < side:
        out[top:bottom, end:] = out[top:bottom, end - 1 : end]
    if top:
        out[:top] = out[top]
    elif bottom < side:
        out[bottom:] = out[bottom - 1]


def moved_on_device(images: Tensor, move: Move) -> Tensor:
    """Return images [B,3,S,S] uint8 moved on their device; the fields of ``move`` are [B] there."""
    number = torch.arange(len(images), device=images.device)[:, None, None]
    pixels = images.permute(0, 2, 3, 1)
    rows, columns = _taps(move, images.shape[2])

    def along_columns(row: Tensor) -> Tensor:
        """Return the pixels [B, S, S, 3] of these rows [B, S], each a mean of two columns."""
        lower, upper = (
            pixels[number, row[:, :, None], column[:, None, :]].float()
            for column in (columns.lower, columns.upper)
        )
        return _between(lower, upper, columns.share[:, None, :, None])

    lower, upper = along_columns(rows.lower), along_columns(rows.upper)
    values = _between(lower, upper, rows.share[:, :, None, None])
    return values.round().to(torch.uint8).permute(0, 3, 1, 2)


def moved_to_grid(maps: Tensor, moves: Sequence[Move], grid: tuple[int, int]) -> Tensor:
    """Return maps [N,S,S] float32, moved as their images are and averaged over the cells of a grid.

    The result [N,Hg,Wg] has the same bits in whatever batch a map is: products and sums are apart.
    """
    table = torch.tensor(moves, dtype=torch.float32, device="cpu")
    rows, columns = _taps(Move(*table.unbind(1)), maps.shape[1])
    height, width = grid
    by_row = adaptive_avg_pool2d(_along_rows(maps, rows), (height, maps.shape[2]))
    by_column = adaptive_avg_pool2d(_along_rows(by_row.mT, columns), (width, height))
    return by_column.mT


class _Taps(NamedTuple):
    """The two rows, or columns, between which each of the result lies: [B, S] each.

    share: The weight of ``upper`` in [0, 1); that of ``lower`` is the rest.
    """

    lower: Tensor
    upper: Tensor
    share: Tensor


def _taps(move: Move, side: int) -> tuple[_Taps, _Taps]:
    """Return where the rows and the columns of a batch are taken from."""
    row = torch.arange(side, dtype=torch.float32, device=move.top.device)
    # A flip comes last, so the first column of the result is the last of what was shifted.
    column = torch.where(move.flip[:, None] > 0, side - 1 - row, row)
    return (
        _taps_along(row, move.down, move.top, move.height, side),
        _taps_along(column, move.right, move.left, move.width, side),
    )


def _taps_along(index: Tensor, shift: Tensor, start: Tensor, length: Tensor, side: int) -> _Taps:
    """Return where ``index`` [S] or [B, S] of the result is taken from, along one axis."""
    shift, start, length = (values[:, None] for values in (shift, start, length))
    stretched = (index + shift).clamp(0, side - 1)
    in_part = ((stretched + 0.5) * (length / side) - 0.5).clamp(min=0)
    lower = torch.minimum(in_part.floor(), length - 1)
    upper = torch.minimum(lower + 1, length - 1)
    return _Taps((start + lower).long(), (start + upper).long(), in_part - lower)


def _along_rows(values: Tensor, taps: _Taps) -> Tensor:
    """Return [N, S, W] of values [N, L, W], each row a mean of two."""
    number = torch.arange(len(values))[:, None]
    return _between(values[number, taps.lower], values[number, taps.upper], taps.share[:, :, None])


def _between(lower: Tensor, upper: Tensor, share: Tensor) -> Tensor:
    # Not torch.lerp, which fuses product and sum in whole vectors, and not behind the last of them.
    return lower * (1 - share) + upper * share


def blurred(images: Tensor, sigmas: Tensor) -> Tensor:
    """Blur images [B,3,H,W] uint8 by Gaussians cut off 9 pixels away, the border reflected.

    sigmas: The standard deviations [B] in pixels; 0 leaves an image as it is. Sums are float32 and
    rounded once, to bytes whose colours lie together in memory. Each pixel's sum has its own fixed
    order, so that no bit depends on the batch or on the number of threads.
    """
    n_images, _, height, width = images.shape
    offset = torch.arange(-_REACH, _REACH + 1, device=images.device)
    # At the least sigma all but the middle is 0 in float32.
    weights = torch.exp(-0.5 * (offset / sigmas.clamp(min=0.01)[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)

    rows = images.permute(0, 2, 3, 1).reshape(n_images, height, width * 3).float()
    by_row = _filtered(rows, weights)
    columns = by_row.mT.reshape(n_images, width, 3 * height)
    by_column = _filtered(columns, weights)

    # Bytes by way of int16, for which the CPU has vectors.
    rounded = by_column.add_(0.5).to(torch.int16).to(torch.uint8)
    pixels = rounded.view(n_images, width * 3, height).mT.contiguous()
    return pixels.view(n_images, height, width, 3).permute(0, 3, 1, 2)


def _filtered(rows: Tensor, weights: Tensor) -> Tensor:
    """Replace each row of [B, L, D] by the weighted sum of those around it; weights: [B, K]."""
    n_images, length, _ = rows.shape
    first = torch.arange(n_images, dtype=torch.int32, device=rows.device) * length
    summed = (first[:, None, None] + _neighbours(length, rows.device)).flatten(0, 1)
    by_row = weights[:, None, :].expand(-1, length, -1).flatten(0, 1)
    sums = embedding_bag(summed, rows.flatten(0, 1), mode="sum", per_sample_weights=by_row)
    return sums.view(rows.shape)


@lru_cache(maxsize=8)
def _neighbours(length: int, device: torch.device) -> Tensor:
    """Return the rows [L, K] int32 around each of so many, reflected at the border."""
    row = torch.arange(length, dtype=torch.int32, device=device)[:, None]
    offset = torch.arange(-_REACH, _REACH + 1, dtype=torch.int32, device=device)
    neighbour = (row + offset).abs()
    return torch.minimum(neighbour, 2 * (length - 1) - neighbour)

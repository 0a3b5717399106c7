"""A Gaussian blur of a batch of bytes, each image by its own standard deviation."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

_REACH = 9  # pixels, three of the largest standard deviation


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

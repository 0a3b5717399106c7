"""From pixels to what a network sees: normalised images, or differences of neighbours."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


def neighbour_differences(images: Tensor) -> Tensor:
    """Return NPR ``[B,3,H,W]`` of images ``[B,3,H,W]``: 2/3 (x - up(down(x))).

    down takes the upper left pixel of each 2 x 2, up gives its value to all four (Tan et al.,
    *Rethinking the Up-Sampling Operations in CNN-based Generative Network for Generalizable
    Deepfake Detection*, 2024). An odd side's last row or column has no neighbour, and is 0. The
    mean of the normalisation cancels.
    """
    rows, columns = (torch.arange(n, device=images.device) // 2 * 2 for n in images.shape[2:])
    return (images - images[:, :, rows][..., columns]) * (2 / 3)


@dataclass(frozen=True)
class Normalise:
    """Normalise pixels [..., 3, S, S] in 0..255 to float32, on the device where they are."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(
        self, pixels: Tensor, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Tensor:
        """Return new images in this order of memory, which other than [B, 3, S, S] do not have."""
        scale, offset = _scale_and_offset(self.mean, self.std, pixels.device)
        images = pixels.to(torch.float32, memory_format=memory_format, copy=True)
        return images.mul_(scale).add_(offset)


@lru_cache(maxsize=8)
def _scale_and_offset(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return s and o of x * s + o = (x / 255 - mean) / std, on a device."""
    with torch.inference_mode(False):  # else what is kept serves no gradient later
        mean_column, std_column = (
            torch.tensor(v, dtype=torch.float32, device="cpu").view(3, 1, 1) for v in (mean, std)
        )
        return (1 / (255 * std_column)).to(device), (-mean_column / std_column).to(device)

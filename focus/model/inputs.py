"""What a network sees of normalised images."""

import torch
from torch import Tensor


def neighbour_differences(images: Tensor) -> Tensor:
    """Return NPR ``[B,3,H,W]`` of images ``[B,3,H,W]``: 2/3 (x - up(down(x))).

    down takes the upper left pixel of each 2 x 2, up gives its value to all four (Tan et al.,
    *Rethinking the Up-Sampling Operations in CNN-based Generative Network for Generalizable
    Deepfake Detection*, 2024). Of an odd side the last row or column is its own neighbour: 0. The
    mean of the normalisation cancels.
    """
    rows, columns = (torch.arange(n, device=images.device) // 2 * 2 for n in images.shape[2:])
    return (images - images[:, :, rows][..., columns]) * (2 / 3)

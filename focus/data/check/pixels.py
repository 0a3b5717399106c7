"""Statistics of an image's pixels that may give the label away."""

import math

import numpy as np
from numpy.typing import NDArray

from focus.data.images import load_image

_CROP = 256  # pixels of the middle that noise and sharpness are measured on
_BORDER = 2  # pixels
# Immerkaer, "Fast Noise Variance Estimation", 1996: blind to whatever is linear in the image.
_IMMERKAER = math.sqrt(math.pi / 2) / 6


def pixel_statistics(path: str) -> dict[str, float]:
    """Return statistics of an image's pixels by name, pixels in 0..255.

    Noise: Immerkaer's estimate of the standard deviation. Sharpness: logarithm of the variance of
    the Laplacian. 8 x 8 blocks: how much larger steps are between the blocks of a JPEG than
    inside, as a ratio.
    """
    image = load_image(path)
    grey = np.asarray(image.convert("L")).astype(np.float32)
    edges = (grey[:_BORDER], grey[-_BORDER:], grey[:, :_BORDER], grey[:, -_BORDER:])
    border = np.concatenate([edge.ravel() for edge in edges])
    # The middle lies on the grid of 8 x 8 blocks.
    top, left = (8 * (max(0, side - _CROP) // 16) for side in grey.shape)
    middle = grey[top : top + _CROP, left : left + _CROP]
    red, green, blue = np.asarray(image).mean(axis=(0, 1))
    statistics = {
        "mean red": red,
        "mean green": green,
        "mean blue": blue,
        "contrast": grey.std(),
        "noise": _noise(middle),
        "sharpness": _sharpness(middle),
        "8 x 8 blocks": _blocks(middle),
        "share of black pixels": (grey < 1).mean(),
        "share of white pixels": (grey > 254).mean(),
        "brightness of the border": border.mean(),
        "contrast of the border": border.std(),
    }
    return {name: float(value) for name, value in statistics.items()}


def _noise(grey: NDArray[np.float32]) -> float:
    across = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    down = across[:-2] - 2 * across[1:-1] + across[2:]
    return float(_IMMERKAER * np.abs(down).mean())


def _sharpness(grey: NDArray[np.float32]) -> float:
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(np.log1p(laplacian.var()))


def _blocks(grey: NDArray[np.float32]) -> float:
    ratios = []
    for steps in (np.abs(np.diff(grey, axis=0)).mean(1), np.abs(np.diff(grey, axis=1)).mean(0)):
        between = np.arange(len(steps)) % 8 == 7
        ratios.append(float((steps[between].mean() + 0.1) / (steps[~between].mean() + 0.1)))
    return float(np.mean(ratios))

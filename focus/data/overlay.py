"""Draw a CAM over its image."""

from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.metrics import stretched

COLOUR_MAP = "inferno"
"""Perceptually uniform: equal steps of the CAM look equal."""


def overlay(
    image: Image.Image | NDArray[np.uint8], cam: NDArray[np.floating[Any]], alpha: float = 0.75
) -> Image.Image:
    """The CAM in colour over its image: RGB, of the image's size.

    image: a Pillow image, or [H, W, 3] in 0..255. cam [h, w]: raw or not; it is stretched to
    [0, 1] (a constant one is 0 everywhere) and enlarged bicubically. alpha in [0, 1]: how opaque
    the colour is where the CAM is largest; where it is small more of the face shows.
    """
    face = image if isinstance(image, Image.Image) else Image.fromarray(image)
    pixels = np.asarray(face.convert("RGB"), dtype=np.float32)
    heat = _enlarged(stretched(cam[None])[0], face.size)
    colours = 255 * matplotlib.colormaps[COLOUR_MAP](heat)[..., :3]
    opacity = alpha * (0.4 + 0.6 * heat[..., None])
    mixed = pixels + opacity * (colours - pixels)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _enlarged(values: NDArray[Any], size: tuple[int, int]) -> NDArray[np.float32]:
    """[h, w] in [0, 1] at another size (width, height); bicubic overshoot is cut."""
    image = Image.fromarray(values.astype(np.float32))
    resized = np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    return resized.clip(0.0, 1.0)

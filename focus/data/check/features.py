"""What may give the label away: the container of a file, and statistics of its pixels.

A table has a column for each property, by a name in plain words: numbers (NaN: not there) or texts.
"""

import math
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.data.check.survey import Look
from focus.data.images import load_image

Column = NDArray[np.float64] | list[str]
Table = dict[str, Column]

PIXEL_NAMES = (
    "mean red",
    "mean green",
    "mean blue",
    "contrast",
    "noise",
    "sharpness",
    "8 x 8 blocks",
    "share of black pixels",
    "share of white pixels",
    "brightness of the border",
    "contrast of the border",
)

_CROP = 256  # pixels of the middle that noise and sharpness are measured on
_BORDER = 2  # pixels
# Immerkaer, "Fast Noise Variance Estimation", 1996: blind to whatever is linear in the image.
_IMMERKAER = math.sqrt(math.pi / 2) / 6
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def metadata_table(looks: Sequence[Look]) -> Table:
    """What is known of the files before a pixel is decoded."""
    bits = [8 * look.n_bytes / max(1, look.width * look.height) for look in looks]
    return {
        "file format": [look.format for look in looks],
        "file name extension": [PurePath(look.path).suffix.lower() for look in looks],
        "colour mode": [look.mode for look in looks],
        "image width": np.array([look.width for look in looks], dtype=np.float64),
        "image height": np.array([look.height for look in looks], dtype=np.float64),
        "aspect ratio": np.array([look.width / max(1, look.height) for look in looks]),
        "JPEG quantisation of brightness": np.array([look.luma_step for look in looks]),
        "JPEG quantisation of colour": np.array([look.chroma_step for look in looks]),
        "JPEG chroma subsampling": [look.subsampling for look in looks],
        "EXIF data": [_yes(look.exif) for look in looks],
        "colour profile": [_yes(look.profile) for look in looks],
        "embedded text": [_yes(look.text) for look in looks],
        "file size in bits per pixel": np.array(bits),
    }


def pixel_table(rows: Sequence[tuple[float, ...]]) -> Table:
    """From what :func:`pixel_statistics` gives for each image."""
    values = np.array(rows, dtype=np.float64).reshape(-1, len(PIXEL_NAMES))
    return {name: values[:, column] for column, name in enumerate(PIXEL_NAMES)}


def pixel_statistics(path: str) -> tuple[float, ...]:
    """One number for each of ``PIXEL_NAMES``, pixels in 0..255; NaN if the file is unreadable.

    Noise: Immerkaer's estimate of the standard deviation. Sharpness: logarithm of the variance of
    the Laplacian. 8 x 8 blocks: how much larger steps are between the blocks of a JPEG than
    inside, as a ratio.
    """
    try:
        image = load_image(path)
    except Exception:
        return (math.nan,) * len(PIXEL_NAMES)
    pixels = np.asarray(image)
    grey = pixels.astype(np.float32) @ _LUMA if pixels.size < 1 << 22 else _grey(image)
    border = np.concatenate(
        [
            grey[:_BORDER].ravel(),
            grey[-_BORDER:].ravel(),
            grey[:, :_BORDER].ravel(),
            grey[:, -_BORDER:].ravel(),
        ]
    )
    red, green, blue = (float(mean) for mean in pixels.mean(axis=(0, 1)))
    middle = _middle(grey)
    return (
        *(red, green, blue),
        float(grey.std()),
        _noise(middle),
        _sharpness(middle),
        _blocks(middle),
        float((grey < 1).mean()),
        float((grey > 254).mean()),
        float(border.mean()),
        float(border.std()),
    )


def _yes(there: bool) -> str:
    return "yes" if there else "no"


def _grey(image: Image.Image) -> NDArray[np.float32]:
    """Eight bits instead of floats: what a large image has room for."""
    return np.asarray(image.convert("L")).astype(np.float32)


def _middle(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """The middle, on the grid of 8 x 8 blocks."""
    top, left = (8 * (max(0, side - _CROP) // 16) for side in grey.shape)
    return grey[top : top + _CROP, left : left + _CROP]


def _noise(grey: NDArray[np.float32]) -> float:
    if min(grey.shape) < 3:
        return math.nan
    across = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    both = across[:-2] - 2 * across[1:-1] + across[2:]
    return float(_IMMERKAER * np.abs(both).mean())


def _sharpness(grey: NDArray[np.float32]) -> float:
    if min(grey.shape) < 3:
        return math.nan
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(np.log1p(laplacian.var()))


def _blocks(grey: NDArray[np.float32]) -> float:
    if min(grey.shape) < 16:
        return math.nan
    ratios = []
    for steps in (np.abs(np.diff(grey, axis=0)).mean(1), np.abs(np.diff(grey, axis=1)).mean(0)):
        between = np.arange(len(steps)) % 8 == 7
        ratios.append(float((steps[between].mean() + 0.1) / (steps[~between].mean() + 0.1)))
    return sum(ratios) / 2

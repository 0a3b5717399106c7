"""Properties that may give the label away: a file's container, and statistics of its pixels.

A table has a column for each property, by a name in plain words: numbers (NaN: not there) or texts.
"""

import math
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from focus.data.check.survey import Look
from focus.data.images import load_image
from focus.errors import ImageError

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


def metadata_table(looks: Sequence[Look]) -> Table:
    """Return what is known of the files before a pixel is decoded."""

    def numbers(values: Sequence[float]) -> NDArray[np.float64]:
        return np.array(values, dtype=np.float64)

    def yes(flags: Sequence[bool]) -> list[str]:
        return ["yes" if flag else "no" for flag in flags]

    bits = [8 * look.n_bytes / max(1, look.width * look.height) for look in looks]
    return {
        "file format": [look.format for look in looks],
        "file name extension": [PurePath(look.path).suffix.lower() for look in looks],
        "colour mode": [look.mode for look in looks],
        "image width": numbers([look.width for look in looks]),
        "image height": numbers([look.height for look in looks]),
        "aspect ratio": numbers([look.width / max(1, look.height) for look in looks]),
        "JPEG quantisation of brightness": numbers([look.luma_step for look in looks]),
        "JPEG quantisation of colour": numbers([look.chroma_step for look in looks]),
        "JPEG chroma subsampling": [look.subsampling for look in looks],
        "EXIF data": yes([look.exif for look in looks]),
        "colour profile": yes([look.profile for look in looks]),
        "embedded text": yes([look.text for look in looks]),
        "file size in bits per pixel": numbers(bits),
    }


def pixel_table(rows: Sequence[tuple[float, ...]]) -> Table:
    """Return the table of what :func:`pixel_statistics` gives for each image."""
    values = np.array(rows, dtype=np.float64).reshape(-1, len(PIXEL_NAMES))
    return {name: values[:, column] for column, name in enumerate(PIXEL_NAMES)}


def pixel_statistics(path: str) -> tuple[float, ...]:
    """Return a number for each of ``PIXEL_NAMES``, pixels in 0..255; NaN for an unreadable file.

    Noise: Immerkaer's estimate of the standard deviation. Sharpness: logarithm of the variance of
    the Laplacian. 8 x 8 blocks: how much larger steps are between the blocks of a JPEG than
    inside, as a ratio.
    """
    try:
        image = load_image(path)
    except ImageError:
        return (math.nan,) * len(PIXEL_NAMES)
    grey = np.asarray(image.convert("L")).astype(np.float32)
    edges = (grey[:_BORDER], grey[-_BORDER:], grey[:, :_BORDER], grey[:, -_BORDER:])
    border = np.concatenate([edge.ravel() for edge in edges])
    middle = _middle(grey)
    return (
        *map(float, np.asarray(image).mean(axis=(0, 1))),
        float(grey.std()),
        _noise(middle),
        _sharpness(middle),
        _blocks(middle),
        float((grey < 1).mean()),
        float((grey > 254).mean()),
        float(border.mean()),
        float(border.std()),
    )


def _middle(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut out the middle, on the grid of 8 x 8 blocks."""
    top, left = (8 * (max(0, side - _CROP) // 16) for side in grey.shape)
    return grey[top : top + _CROP, left : left + _CROP]


def _noise(grey: NDArray[np.float32]) -> float:
    if min(grey.shape) < 3:
        return math.nan
    across = grey[:, :-2] - 2 * grey[:, 1:-1] + grey[:, 2:]
    down = across[:-2] - 2 * across[1:-1] + across[2:]
    return float(_IMMERKAER * np.abs(down).mean())


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
    return float(np.mean(ratios))

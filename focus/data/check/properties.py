"""Properties of an image that may give its label away: of its file's header and of its pixels.

Reading a header decodes no pixel, so that training and evaluation can afford it.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import get_sampling

from focus.data.images import check_regular, load_image, reason

_SUBSAMPLING = {-1: "", 0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}  # by Pillow's number
_CROP = 256  # pixels of the middle that noise and sharpness are measured on
_BORDER = 2  # pixels
# Immerkaer, "Fast Noise Variance Estimation", 1996: blind to whatever is linear in the image.
_IMMERKAER = math.sqrt(math.pi / 2) / 6


@dataclass(frozen=True, slots=True)
class Look:
    """The header of an image's file.

    error: Why it cannot be read, "" if it can. width, height: Pixels of the upright image.
    storage: Properties of the file that may give the label away, numbers (NaN: not there) or texts.
    bits_per_pixel: The size of the file for each pixel.
    """

    error: str = ""
    width: int = 0
    height: int = 0
    storage: Mapping[str, float | str] = field(default_factory=dict)
    bits_per_pixel: float = 0.0


def look(path: str) -> Look:
    """Read a header; never raise for what is in it."""
    try:
        check_regular(path)
        with Image.open(path) as image:
            width, height = _upright_size(image)
            of_file = _storage(path, image, width, height)
        size = os.stat(path).st_size  # noqa: PTH116 - a million Path objects take seconds
    except Exception as error:  # decoders raise anything
        return Look(reason(path, error.__cause__ or error))
    return Look("", width, height, of_file, 8 * size / (width * height))


def _storage(path: str, image: Image.Image, width: int, height: int) -> dict[str, float | str]:
    kind, info = image.format, image.info
    tables: dict[int, list[int]] = getattr(image, "quantization", None) or {}
    exif = "exif" in info or "Raw profile type exif" in info
    text = "comment" in info or (kind == "PNG" and any(isinstance(v, str) for v in info.values()))
    return {
        "file format": kind or "",
        "file name extension": Path(path).suffix.lower(),
        "colour mode": image.mode,
        "image width": float(width),
        "image height": float(height),
        "aspect ratio": width / height,
        # Means of the tables: small for a high quality.
        "JPEG quantisation of brightness": float(np.mean(tables.get(0, math.nan))),
        "JPEG quantisation of colour": float(np.mean(tables.get(1, math.nan))),
        "JPEG chroma subsampling": _SUBSAMPLING[get_sampling(image)],
        "EXIF data": "yes" if exif else "no",
        "colour profile": "yes" if "icc_profile" in info else "no",
        "embedded text": "yes" if text else "no",
    }


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height as they are after turning by the EXIF orientation."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken metadata around sound pixels says nothing of orientation
        orientation = None
    return image.size[::-1] if orientation in (5, 6, 7, 8) else image.size


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

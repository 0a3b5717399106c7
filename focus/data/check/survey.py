"""What the header of an image's file tells, before a pixel is decoded."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import get_sampling

from focus.data.images import check_regular, reason

_SUBSAMPLING = {-1: "", 0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}  # by Pillow's number


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

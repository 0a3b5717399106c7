"""One look at every image: its container, its bytes and a grey thumbnail."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from focus.data.images import (
    check_pixels,
    check_regular,
    load_image,
    pixel_limit,
    reason,
    turn_upright,
)

THUMB = 32
"""Pixels of a thumbnail's side."""

# A JPEG is decoded at the smallest of 1/8, 1/4, 1/2 that has this side: twice the thumbnail's, so
# that the thumbnail does not depend on which it was.
_DRAFT = 2 * THUMB
_SUBSAMPLING = {-1: "", 0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}  # by Pillow's number


@dataclass(frozen=True, slots=True)
class Look:
    """The container and the thumbnail of an image.

    error: Why it cannot be read, "" if it can. width, height: Pixels of the upright image.
    metadata: Properties of the file that may give the label away, numbers (NaN: not there) or
    texts. digest: The digest of the file's bytes. thumb: 32 x 32 bytes of grey, the upright image
    squashed.
    """

    error: str = ""
    width: int = 0
    height: int = 0
    metadata: Mapping[str, float | str] = field(default_factory=dict)
    digest: bytes = b""
    thumb: bytes = b""


def look(path: str) -> Look:
    """Read an image once; never raise for what is in it."""
    try:
        check_regular(path)
        content = Path(path).read_bytes()
        with Image.open(BytesIO(content)) as image:
            check_pixels(image.size)  # which a draft of a JPEG would not
            metadata = storage(path, image)  # before the image is decoded
            (width, height), thumb = _upright(path, image)
    except Image.DecompressionBombError:
        return Look(f"more than --max-pixels {pixel_limit()}")
    except Exception as error:  # decoders raise anything
        return Look(reason(path, error.__cause__ or error))
    metadata |= _size(width, height)
    metadata["file size in bits per pixel"] = 8 * len(content) / (width * height)
    digest = hashlib.blake2b(content, digest_size=16).digest()
    return Look("", width, height, metadata, digest, thumb)


def storage(path: str, image: Image.Image) -> dict[str, float | str]:
    """Return what the header of an opened image tells, before a pixel is decoded."""
    kind, info = image.format, image.info
    tables: dict[int, list[int]] = getattr(image, "quantization", None) or {}
    exif = "exif" in info or "Raw profile type exif" in info
    text = "comment" in info or (kind == "PNG" and any(isinstance(v, str) for v in info.values()))
    return {
        "file format": kind or "",
        "file name extension": Path(path).suffix.lower(),
        "colour mode": image.mode,
        **_size(*image.size),
        # Means of the tables: small for a high quality.
        "JPEG quantisation of brightness": float(np.mean(tables.get(0, math.nan))),
        "JPEG quantisation of colour": float(np.mean(tables.get(1, math.nan))),
        "JPEG chroma subsampling": _SUBSAMPLING[get_sampling(image)],
        "EXIF data": "yes" if exif else "no",
        "colour profile": "yes" if "icc_profile" in info else "no",
        "embedded text": "yes" if text else "no",
    }


def _size(width: int, height: int) -> dict[str, float | str]:
    return {
        "image width": float(width),
        "image height": float(height),
        "aspect ratio": width / height,
    }


def _upright(path: str, image: Image.Image) -> tuple[tuple[int, int], bytes]:
    """Return the size (width, height) and the thumbnail of the image turned upright."""
    if image.format == "JPEG" and image.mode in ("RGB", "L"):
        size = image.size
        image.draft("L", (_DRAFT, _DRAFT))
        image.load()
        if turn_upright(image):
            size = size[::-1]
        grey = image
    else:
        grey = load_image(path)
        size = grey.size
    return size, grey.convert("L").resize((THUMB, THUMB), Image.Resampling.BILINEAR).tobytes()

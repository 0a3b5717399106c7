"""One look at every file: its container, its bytes and a grey thumbnail."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focus.data.images import load_image, load_map, reason, turn_upright
from focus.data.maps import human_map, is_blank, is_faint, looks_inverted
from focus.errors import ImageError

THUMB = 32
"""Pixels of a thumbnail's side."""

# A JPEG is decoded at the smallest of 1/8, 1/4, 1/2 that has this side: twice the thumbnail's, so
# that the thumbnail does not depend on which it was.
_DRAFT = 2 * THUMB


@dataclass(frozen=True, slots=True)
class Look:
    """The container and the thumbnail of an image.

    path: as given. error: why it cannot be read, "" if it can. n_bytes: length of the file.
    format, mode: as Pillow names them. width, height: pixels of the upright image. luma_step,
    chroma_step: mean of the JPEG quantisation tables (small = high quality), NaN where there is
    none. subsampling: of a JPEG's chroma, "" if none. exif, profile, text: whether there is EXIF, a
    colour profile, a text (PNG text, JPEG comment). digest: of the file's bytes. thumb: grey,
    32 x 32 bytes, the upright image squashed.
    """

    path: str
    error: str = ""
    n_bytes: int = 0
    format: str = ""
    mode: str = ""
    width: int = 0
    height: int = 0
    luma_step: float = math.nan
    chroma_step: float = math.nan
    subsampling: str = ""
    exif: bool = False
    profile: bool = False
    text: bool = False
    digest: bytes = b""
    thumb: bytes = b""


@dataclass(frozen=True, slots=True)
class MapLook:
    """A human map or an artefact mask: why it cannot be read, its size, what is odd about it."""

    path: str
    error: str = ""
    width: int = 0
    height: int = 0
    blank: bool = False
    inverted: bool = False
    coloured: bool = False
    faint: bool = False


def look(path: str) -> Look:
    """Read an image once; never raise for what is in it."""
    try:
        content = Path(path).read_bytes()
        with Image.open(BytesIO(content)) as image:
            found = _container(path, content, image)
            (width, height), thumb = _upright(path, image)
            return Look(**found, width=width, height=height, thumb=thumb)
    except Exception as error:  # decoders raise anything
        return Look(path, error=reason(path, error.__cause__ or error))


def look_at_map(path: str) -> MapLook:
    """Decode a human map; never raise for what is in it."""
    coloured: list[str] = []
    try:
        values = human_map(path, coloured=coloured)
    except ImageError as error:
        return MapLook(path, error=reason(path, error.__cause__ or error))
    height, width = values.shape
    blank = is_blank(values)
    inverted = not (blank or coloured) and looks_inverted(values)
    return MapLook(path, "", width, height, blank, inverted, bool(coloured) and not blank)


def look_at_mask(path: str) -> MapLook:
    """Decode an artefact mask; never raise for what is in it."""
    try:
        values = load_map(path)
    except ImageError as error:
        return MapLook(path, error=reason(path, error.__cause__ or error))
    height, width = values.shape
    return MapLook(path, "", width, height, faint=is_faint(values))


def _container(path: str, content: bytes, image: Image.Image) -> dict[str, Any]:
    """Return the fields of a :class:`Look` that are known before anything is decoded."""
    tables: dict[int, list[int]] = getattr(image, "quantization", None) or {}
    is_text = image.format == "PNG" and any(isinstance(value, str) for value in image.info.values())
    return {
        "path": path,
        "n_bytes": len(content),
        "format": image.format or "",
        "mode": image.mode,
        "luma_step": float(np.mean(tables[0])) if 0 in tables else math.nan,
        "chroma_step": float(np.mean(tables[1])) if 1 in tables else math.nan,
        "subsampling": _subsampling(getattr(image, "layer", [])),
        "exif": "exif" in image.info or "Raw profile type exif" in image.info,
        "profile": "icc_profile" in image.info,
        "text": is_text or "comment" in image.info,
        "digest": hashlib.blake2b(content, digest_size=16).digest(),
    }


def _subsampling(layers: Sequence[Sequence[int]]) -> str:
    """Return a JPEG's chroma subsampling, from (id, horizontal, vertical, table) of its layers."""
    if len(layers) < 3:
        return ""
    ratio = layers[0][1] // layers[1][1], layers[0][2] // layers[1][2]
    return {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0"}.get(ratio, f"{ratio[0]}x{ratio[1]}")


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

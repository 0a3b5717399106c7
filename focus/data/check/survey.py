"""One look at every file: its container, its bytes and a grey thumbnail, in several processes."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from focus.data.images import load_image, load_map, reason, refuse_special, turn_upright
from focus.data.maps import human_map, is_blank, is_faint, looks_inverted
from focus.errors import ImageError
from focus.runtime.machine import usable_cores
from focus.runtime.progress import progress_bar

R = TypeVar("R")

THUMB = 32
"""Pixels of a thumbnail's side."""

# A JPEG is decoded at the smallest of 1/8, 1/4, 1/2 that has this side: twice the thumbnail's, so
# that the thumbnail does not depend on which it was.
_DRAFT = 2 * THUMB
_CHUNK = 32
# Below this many files the start of the processes costs more than they save.
_WORTH_PROCESSES = 512


@dataclass(frozen=True, slots=True)
class Look:
    """What a file tells before its content matters.

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
    """A human map: whether it can be read, its size, its proportions, what is odd about it."""

    path: str
    readable: bool
    width: int = 0
    height: int = 0
    blank: bool = False
    inverted: bool = False
    coloured: bool = False


def look(path: str) -> Look:
    """Read the file once; never raises for what is in it."""
    try:
        refuse_special(path)
        content = Path(path).read_bytes()
        with Image.open(BytesIO(content)) as image:
            found = _container(path, content, image)
            (width, height), thumb = _upright(path, image)
            return Look(**found, width=width, height=height, thumb=thumb)
    except Exception as error:  # decoders raise anything
        return Look(path, error=reason(path, error.__cause__ or error))


def look_at_map(path: str) -> MapLook:
    """Decode a human map; never raises for what is in it."""
    coloured: list[str] = []
    try:
        values = human_map(path, coloured=coloured)
    except Exception:
        return MapLook(path, readable=False)
    height, width = values.shape
    blank = is_blank(values)
    inverted = not (blank or coloured) and looks_inverted(values)
    return MapLook(path, True, width, height, blank, inverted, bool(coloured) and not blank)


def look_at_mask(path: str) -> bool:
    """Whether an artefact mask is faint; never raises for what is in it."""
    try:
        return is_faint(load_map(path))
    except ImageError:
        return False


def in_processes(
    function: Callable[[str], R],
    paths: Sequence[str],
    *,
    title: str,
    processes: int | None = None,
    progress: bool = True,
) -> list[R]:
    """``function`` of each path, in order, with a bar that estimates the time left.

    function: of a module that is cheap to import, since each process imports it. processes:
    default one per usable core; few files are done in this one.
    """
    n = processes or usable_cores()
    hidden = not (progress and paths)
    with progress_bar(total=len(paths), desc=title, unit="file", disable=hidden) as bar:
        results: list[R] = []
        if n == 1 or len(paths) < _WORTH_PROCESSES:
            for path in paths:
                results.append(function(path))
                bar.update()
            return results
        # Forking a process that has threads can deadlock.
        with ProcessPoolExecutor(n, mp_context=get_context("spawn")) as pool:
            for part in pool.map(partial(_each, function), _chunks(paths)):
                results += part
                bar.update(len(part))
        return results


def _each(function: Callable[[str], R], paths: Sequence[str]) -> list[R]:
    return [function(path) for path in paths]


def _chunks(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(paths), _CHUNK):
        yield paths[start : start + _CHUNK]


def _container(path: str, content: bytes, image: Image.Image) -> dict[str, Any]:
    """The fields of a :class:`Look` that are known before anything is decoded."""
    tables: dict[int, list[int]] = getattr(image, "quantization", None) or {}
    is_jpeg = image.format in ("JPEG", "MPO")
    layers = getattr(image, "layer", [])
    is_png = image.format == "PNG"
    text = "comment" in image.info or (
        is_png and any(isinstance(value, str) for value in image.info.values())
    )
    return {
        "path": path,
        "n_bytes": len(content),
        "format": image.format or "",
        "mode": image.mode,
        "luma_step": float(np.mean(tables[0])) if 0 in tables else math.nan,
        "chroma_step": float(np.mean(tables[1])) if 1 in tables else math.nan,
        "subsampling": _subsampling(layers) if is_jpeg else "",
        "exif": "exif" in image.info or "Raw profile type exif" in image.info,
        "profile": "icc_profile" in image.info,
        "text": text,
        "digest": hashlib.blake2b(content, digest_size=16).digest(),
    }


def _subsampling(layers: Sequence[Sequence[int]]) -> str:
    """Chroma subsampling of a JPEG, from the (id, horizontal, vertical, table) of its layers."""
    if len(layers) < 3:
        return ""
    across, down = layers[0][1] // layers[1][1], layers[0][2] // layers[1][2]
    return {(1, 1): "4:4:4", (2, 1): "4:2:2", (2, 2): "4:2:0"}.get(
        (across, down), f"{across}x{down}"
    )


def _upright(path: str, image: Image.Image) -> tuple[tuple[int, int], bytes]:
    """The size (width, height) and the thumbnail of the image turned upright."""
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

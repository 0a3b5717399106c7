"""Shapes that people drew on images, from a COCO file: ``images`` and ``annotations``."""

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct, convert

from focus.runtime.json_files import Finite, load_json

Polygon = list[Finite]
"""x, y, x, y, ... of the corners in pixels."""


class Drawing(NamedTuple):
    """An image's name, its width and height in pixels, and each annotator's polygons on it."""

    name: str
    size: tuple[int, int]
    polygons: dict[str, list[Polygon]]

    def share(self) -> npt.NDArray[np.float32]:
        """Return the share of the annotators that drew over each pixel, [H, W] in [0, 1]."""
        total = np.zeros(self.size[::-1], np.float32)
        for polygons in self.polygons.values():
            drawn = np.zeros(total.shape, bool)
            for polygon in polygons:  # one at a time, since each is as large as the image
                drawn |= _filled(polygon, self.size)
            total += drawn
        total /= max(len(self.polygons), 1)
        return total


def read_coco(path: str) -> dict[str, Drawing]:
    """Return the images of a COCO file by their id; an unchanged file is not read again.

    Raises OSError, or ValueError with what is wrong and where.
    """
    status = os.stat(path)  # noqa: PTH116 - once for every image
    return _read(path, status.st_mtime_ns, status.st_size)


class _Image(Struct):
    id: int | str
    file_name: Annotated[str, Meta(pattern=r"[^/.]")]
    width: Annotated[float, Meta(ge=1, le=2**31)]
    height: Annotated[float, Meta(ge=1, le=2**31)]


class _Annotation(Struct):
    image_id: int | str
    annotator: int | str = ""
    segmentation: list[Annotated[Polygon, Meta(min_length=6)]] | dict[str, Any] | None = None
    bbox: tuple[Finite, Finite, Finite, Finite] | None = None

    def polygons(self) -> list[Polygon]:
        """Return the segmentation's outlines, without one the box's."""
        shapes = self.segmentation
        if isinstance(shapes, dict):
            raise ValueError("a run-length encoded segmentation, not polygons or a box")
        if any(len(polygon) % 2 for polygon in shapes or ()):
            raise ValueError("a segmentation that is no list of polygons [x, y, x, y, x, y, ...]")
        if shapes or self.bbox is None:
            return shapes or []
        left, top, width, height = self.bbox
        return [[left, top, left + width, top, left + width, top + height, left, top + height]]

    def __post_init__(self) -> None:
        self.polygons()  # so that an error has the annotation's place


class _Content(Struct):
    images: list[_Image]
    annotations: list[_Annotation]


@lru_cache(maxsize=4)
def _read(path: str, changed: int, n_bytes: int) -> dict[str, Drawing]:
    try:
        content = convert(load_json(Path(path)), _Content)
        drawings = {
            str(image.id): Drawing(image.file_name, (int(image.width), int(image.height)), {})
            for image in content.images
        }
        for annotation in content.annotations:
            polygons = drawings[str(annotation.image_id)].polygons
            polygons.setdefault(str(annotation.annotator), []).extend(annotation.polygons())
    except KeyError as error:
        raise ValueError(f"an annotation is of the image {error}, which is not there") from error
    return drawings


def _filled(polygon: Sequence[float], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return whether each pixel's middle lies in the polygon (even-odd rule), [H, W].

    Pillow's polygons are drawn to whole pixels, border included: a tenth too large at 30 pixels.
    """
    width, height = size
    crossed = np.zeros((height, width + 1), bool)  # by an edge, on the way from the left
    corners = np.asarray(polygon).reshape(-1, 2) - 0.5  # pixels' middles at whole numbers
    for (x, y), (next_x, next_y) in zip(corners, np.roll(corners, -1, 0), strict=True):
        rows = np.arange(*np.ceil(np.clip(sorted((y, next_y)), 0, height)).astype(int))
        if len(rows):
            columns = x + (rows - y) * (next_x - x) / (next_y - y)
            crossed[rows, np.ceil(columns.clip(0, width)).astype(int)] ^= True
    return np.asarray(np.logical_xor.accumulate(crossed, 1)[:, :width])

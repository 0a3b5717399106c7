"""Shapes that people drew on images, from a COCO file: ``images`` and ``annotations``."""

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Polygon = list[float]
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


@lru_cache(maxsize=4)
def _read(path: str, changed: int, n_bytes: int) -> dict[str, Drawing]:
    content = json.loads(Path(path).read_bytes())
    drawings: dict[str, Drawing] = {}
    place = "the file"
    try:
        for i, image in enumerate(content["images"]):
            place = f"images[{i}]"
            size = int(image["width"]), int(image["height"])
            drawings[str(image["id"])] = Drawing(str(image["file_name"]), size, {})
        for i, annotation in enumerate(content["annotations"]):
            place = f"annotations[{i}]"
            polygons = drawings[str(annotation["image_id"])].polygons
            annotator = str(annotation.get("annotator", ""))
            polygons.setdefault(annotator, []).extend(_polygons(annotation))
    except KeyError as error:
        raise ValueError(f"{place} has no {error.args[0]!r}, or an image with this id") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{place}: {error}") from error
    return drawings


def _polygons(annotation: Mapping[str, Any]) -> list[Polygon]:
    """Return the segmentation's outlines, without one the box's."""
    shapes = annotation.get("segmentation")
    if isinstance(shapes, dict):
        raise ValueError("a run-length encoded segmentation, where polygons or a box are needed")
    if not shapes:
        left, top, width, height = map(float, annotation["bbox"])
        return [[left, top, left + width, top, left + width, top + height, left, top + height]]
    polygons = [list(map(float, outline)) for outline in shapes]
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise ValueError("a segmentation that is no list of polygons [x, y, x, y, x, y, ...]")
    return polygons


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

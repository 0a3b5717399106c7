"""Shapes that people drew on images, from a COCO file: ``images`` and ``annotations``.

Every value that is used is looked at before it is: whatever is wrong is said with its place in the
file, as ``annotations[2].bbox``, counted from 0.
"""

import json
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

from focus.data.images import refuse_special

# Pillow opens no image with more pixels (twice its limit for a decompression bomb).
_MAX_PIXELS = 178_956_970
# Of a coordinate; beyond, the edges of a polygon would no longer be computed exactly.
_MAX_COORDINATE = 1e9

Polygon = list[float]
"""x, y, x, y, ... of the corners in pixels."""


class Drawing(NamedTuple):
    """What is drawn on an image: its name, its size in pixels, each annotator's polygons."""

    name: str
    size: tuple[int, int]
    polygons: dict[str, list[Polygon]]

    def share(self) -> npt.NDArray[np.float32]:
        """The share of the annotators that drew over each pixel, [H, W] in [0, 1]."""
        total = np.zeros(self.size[::-1], np.float32)
        for polygons in self.polygons.values():
            drawn = np.zeros(total.shape, bool)
            for polygon in polygons:  # one at a time, since each is as large as the image
                drawn |= _filled(polygon, self.size)
            total += drawn
        total /= max(len(self.polygons), 1)
        return total


def read_coco(path: str) -> dict[str, Drawing]:
    """The images of a COCO file by their id; an unchanged file is not read again.

    Raises OSError, or ValueError with what is wrong and where.
    """
    refuse_special(path)
    status = os.stat(path)  # noqa: PTH116 - once for every image
    return _read(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _read(path: str, changed: int, size: int) -> dict[str, Drawing]:
    try:
        return _drawings(json.loads(Path(path).read_bytes()))
    except RecursionError:
        raise ValueError("its lists are nested too deeply") from None


def _drawings(content: Any) -> dict[str, Drawing]:
    if not isinstance(content, dict):
        raise ValueError("it is no object with images and annotations")
    drawings: dict[str, Drawing] = {}
    for place, image in _objects(content, "images"):
        number = _id(image, "id", place)
        if number in drawings:
            raise ValueError(f"{place}.id {number} is another image's too")
        drawings[number] = Drawing(_name(image, place), _size(image, place), {})
    for place, annotation in _objects(content, "annotations"):
        number = _id(annotation, "image_id", place)
        if number not in drawings:
            raise ValueError(f"{place}.image_id {number} is the id of no image")
        annotator = annotation.get("annotator")
        if not (annotator is None or isinstance(annotator, str | int)):
            raise _wrong(annotation, "annotator", place, "a name")
        own = drawings[number].polygons.setdefault("" if annotator is None else str(annotator), [])
        own.extend(_polygons(annotation, place))
    return drawings


def _objects(content: dict[str, Any], key: str) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a list, each with its place in the file."""
    members = content.get(key)
    if not isinstance(members, list):
        raise ValueError(f"it has no list of {key}")
    for at, member in enumerate(members):
        if not isinstance(member, dict):
            raise ValueError(f"{key}[{at}] is no object")
    return [(f"{key}[{at}]", member) for at, member in enumerate(members)]


def _wrong(holder: dict[str, Any], key: str, place: str, wanted: str) -> ValueError:
    if key not in holder:
        return ValueError(f"{place} has no {key}")
    value = ascii(holder[key])
    return ValueError(f"{place}.{key} is {value[:60]}{'...' * (len(value) > 60)}, not {wanted}")


def _id(holder: dict[str, Any], key: str, place: str) -> str:
    value = holder.get(key)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    # It goes into references as FILE.json#ID, which are paths as others are.
    if isinstance(value, str) and value and value.isprintable() and not set(value) & set("#/"):
        return value
    raise _wrong(holder, key, place, "a whole number, or a text without # and /")


def _name(image: dict[str, Any], place: str) -> str:
    value = image.get("file_name")
    if isinstance(value, str) and PurePath(value).name:
        return value
    raise _wrong(image, "file_name", place, "the name of a file")


def _size(image: dict[str, Any], place: str) -> tuple[int, int]:
    sides = []
    for key in ("width", "height"):
        value = image.get(key)
        if not _is_number(value) or value < 1 or value != int(value):
            raise _wrong(image, key, place, "a number of pixels, 1 or more")
        sides.append(int(value))
    width, height = sides
    if width * height > _MAX_PIXELS:
        raise ValueError(f"{place} has {width:g} x {height:g} pixels, more than an image may have")
    return width, height


def _polygons(annotation: dict[str, Any], place: str) -> list[Polygon]:
    """The segmentation's outlines, without one the box's."""
    shapes = annotation.get("segmentation")
    if isinstance(shapes, dict):
        raise ValueError(
            f"{place}.segmentation is run-length encoded, where polygons or a box are needed"
        )
    if not shapes:
        box = annotation.get("bbox")
        if not (_are_coordinates(box) and len(box) == 4 and min(box[2:]) >= 0):
            raise _wrong(annotation, "bbox", place, "left, top, width and height in pixels")
        left, top, width, height = map(float, box)
        return [[left, top, left + width, top, left + width, top + height, left, top + height]]
    for outline in shapes if isinstance(shapes, list) else [shapes]:
        if not (_are_coordinates(outline) and len(outline) >= 6 and len(outline) % 2 == 0):
            raise _wrong(
                annotation, "segmentation", place, "a list of polygons [x, y, x, y, x, y, ...]"
            )
    return [[float(value) for value in outline] for outline in shapes]


def _is_number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a number of a size that pixels are counted in."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= _MAX_COORDINATE  # NaN is not


def _are_coordinates(value: Any) -> TypeGuard[list[int | float]]:
    return isinstance(value, list) and all(map(_is_number, value))


def _filled(polygon: Sequence[float], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Whether each pixel's middle lies in the polygon (even-odd rule), [H, W].

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

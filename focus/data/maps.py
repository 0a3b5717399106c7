"""Human maps: where people looked, from images, from several annotators, from drawn shapes.

A sample's ``human_map`` refers to one of

- ``heatmaps/a.png``: a grey image of any size, bright where people looked;
- ``heatmaps/{a_1.png,a_2.png}``: a folder and, in braces, the images in it that are averaged, one
  of each annotator (``heatmaps/{anna/a.png,ben/a.png}`` for folders of annotators);
- ``annotations.json#12``: polygons and boxes of the image with the id 12 in a COCO file.

In a COCO file the shapes of one image are filled, and overlap without adding up; where annotations
have a field ``annotator``, that is done for each annotator and the results are averaged.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct, convert

from focus.data.images import REPLACED, check_pixels, load_map, read_unchanged, undecodable
from focus.data.manifest import Sample
from focus.findings import Finding, finding
from focus.runtime.digests import key_of
from focus.runtime.json_files import Finite, load_json, read_json

MAP_SOURCE, SOURCE_FILE = "map_source", "focus-maps.json"
"""The column, and the file in a folder of maps, that say how ``focus data maps`` made them."""
Map = npt.NDArray[np.float32]
"""Grey values [H, W] in [0, 1]."""
Polygon = list[Finite]
"""x, y, x, y, ... of the corners in pixels."""


def human_map(reference: str, digest: str = "", *, coloured: list[str] | None = None) -> Map:
    """Load the map that ``human_map`` refers to, float32 [H, W] in [0, 1].

    Annotators' images of different sizes are resized to the first's. ``coloured`` is as in
    :func:`focus.data.images.load_map`. Raises ImageError, naming the file.

    digest: What :func:`focus.data.file_pass.file_digest` returned for it; a map that is another one
    now is an error.
    """
    if is_drawing(reference):
        return _drawn_map(reference, digest)
    files = files_of(reference)
    contents = read_unchanged(files, digest) if digest else [None] * len(files)
    first, *others = (
        load_map(path, content, coloured=coloured)
        for path, content in zip(files, contents, strict=True)
    )
    total = first.astype(np.float64)
    for values in others:
        total += resized(values, (first.shape[1], first.shape[0]))
    return (total / (1 + len(others))).astype(np.float32)


def files_of(reference: str) -> list[str]:
    """Return the files that a map consists of."""
    if is_drawing(reference):
        return [reference.rpartition("#")[0]]
    folder, brace, names = reference.rpartition("{")
    if brace and names.endswith("}") and not os.path.exists(reference):  # noqa: PTH110
        return [folder + name for name in names[:-1].split(",")]
    return [reference]


@dataclass(frozen=True)
class MapSource:
    """How ``focus data maps`` made the maps in a folder, and a digest of what it made them of."""

    source: str
    data: str = ""


def source_of(folder: Path) -> str:
    """Return how ``focus data maps`` made the maps in a folder, "" if it did not."""
    file = folder / SOURCE_FILE
    return read_json(file, MapSource, "make the maps again", 1).source if file.is_file() else ""


def source_findings(manifest: Iterable[Sample]) -> list[Finding]:
    """Return a warning if human maps are a machine's."""
    sources = {s.extra[MAP_SOURCE] for s in manifest if s.human_map and MAP_SOURCE in s.extra}
    made = sorted(source for source in sources if not source.startswith("human"))
    return [finding("machine_made_maps", sources="; ".join(made))] if made else []


def is_blank(values: Map) -> bool:
    """Return whether a map says nothing: one single value."""
    return bool(values.min() == values.max())


def is_faint(mask: Map) -> bool:
    """Return whether a mask marks something, but nothing by half of white, as 0 and 1 of 255."""
    return bool(0 < mask.max() < 0.5)


def looks_inverted(values: Map) -> bool:
    """Return whether most of a map and most of its border is in the upper half of its range."""
    middle = (float(values.min()) + float(values.max())) / 2
    border = np.concatenate((values[0], values[-1], values[:, 0], values[:, -1]))
    return bool(np.median(border) > middle and np.median(values) > middle)


def resized(
    values: Map, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Map:
    """Resize a map, or ``box`` of it (left, top, right, bottom), to (width, height), by area.

    Each pixel is the mean of what it covers, also of pixels that it covers in part; Pillow's and
    torch's ways by area take those whole or not at all.
    """
    height, width = values.shape
    left, top, right, bottom = box or (0, 0, width, height)
    if (width, height) == size and (left, top, right, bottom) == (0, 0, width, height):
        return values
    down, across = _shares(height, top, bottom, size[1]), _shares(width, left, right, size[0])
    return np.asarray(down @ values @ across.T)


@lru_cache(maxsize=16)
def _shares(length: int, start: float, stop: float, count: int) -> Map:
    """Return the weights [count, length] of pixels in equal cells of a range; rows sum to 1."""
    edges = np.linspace(start, stop, count + 1)[:, None]
    before = (edges - np.arange(length)).clip(0, 1)  # the share of a pixel that lies before an edge
    covered = np.diff(before, axis=0)
    return np.asarray(covered / covered.sum(1, keepdims=True), dtype=np.float32)


def is_drawing(reference: str) -> bool:
    """Return whether a reference is to an image of a COCO file."""
    return reference.rpartition("#")[0].lower().endswith(".json")


def _drawn_map(reference: str, digest: str) -> Map:
    path, _, number = reference.rpartition("#")
    try:
        images = read_coco(path)
        if number not in images:
            raise ValueError(f"it has no image with the id {number}")
        if digest and images[number].digest() != digest:
            raise ValueError(REPLACED)
        check_pixels(images[number].size)
    except (OSError, ValueError) as error:
        raise undecodable(reference, error) from error
    return images[number].share()


class Drawing(NamedTuple):
    """An image's name, its width and height in pixels, and each annotator's polygons on it."""

    name: str
    size: tuple[int, int]
    polygons: dict[str, list[Polygon]]

    def digest(self) -> str:
        """Return a digest of the shapes, of which the file may hold those of many images."""
        return key_of(repr(self).encode())

    def share(self) -> Map:
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

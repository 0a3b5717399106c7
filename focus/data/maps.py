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
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from focus.data.coco import read_coco
from focus.data.images import check_pixels, load_map, undecodable
from focus.data.manifest import Sample
from focus.findings import Finding
from focus.runtime.json_files import read_json

MAP_SOURCE, SOURCE_FILE = "map_source", "focus-maps.json"
"""The column, and the file in a folder of maps, that say how ``focus data maps`` made them."""
Map = npt.NDArray[np.float32]
"""Grey values [H, W] in [0, 1]."""


def human_map(reference: str, *, coloured: list[str] | None = None) -> Map:
    """Load the map that ``human_map`` refers to, float32 [H, W] in [0, 1].

    Annotators' images of different sizes are resized to the first's. ``coloured`` is as in
    :func:`focus.data.images.load_map`. Raises ImageError, naming the file.
    """
    if is_drawing(reference):
        return _drawn_map(reference)
    first, *others = (load_map(path, coloured=coloured) for path in files_of(reference))
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
    text = f"Human maps are machine-made ({'; '.join(made)}): nobody looked."
    return [Finding("warning", text)] if made else []


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


def _drawn_map(reference: str) -> Map:
    path, _, number = reference.rpartition("#")
    try:
        images = read_coco(path)
        if number not in images:
            raise ValueError(f"it has no image with the id {number}")
        check_pixels(images[number].size)
    except (OSError, ValueError) as error:
        raise undecodable(reference, error) from error
    return images[number].share()

"""Human maps: where people looked, from images, from several annotators, from drawn shapes.

A sample's ``map_path`` refers to one of

- ``heatmaps/a.png``: a grey image of any size, bright where people looked;
- ``heatmaps/{a_1.png,a_2.png}``: a folder and, in braces, the images in it that are averaged, one
  of each annotator (``heatmaps/{anna/a.png,ben/a.png}`` for folders of annotators);
- ``annotations.json#12``: polygons and boxes of the image with the id 12 in a COCO file.

In a COCO file the shapes of one image are filled, and overlap without adding up; where annotations
have a field ``annotator``, that is done for each annotator and the results are averaged.
"""

import os
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from focus.data.coco import read_coco
from focus.data.images import load_map, reason
from focus.errors import InputError, UnreadableError

Map = npt.NDArray[np.float32]
"""Grey values [H, W] in [0, 1]."""

_JSON = ".json"


def human_map(reference: str, *, coloured: list[str] | None = None) -> Map:
    """The map that ``map_path`` refers to, float32 [H, W] in [0, 1].

    Annotators' images of different sizes are resized to the first's. The files that have colours,
    of which only the luminance is taken, are added to ``coloured``: the peak of a heat map in
    colour is darker than its slopes. Raises ImageError, naming the file, for what cannot be
    decoded.
    """
    if _is_drawing(reference):
        return _drawn_map(reference)
    first, *others = (load_map(path, coloured=coloured) for path in files_of(reference))
    if not others:
        return first
    total = first.astype(np.float64)
    for values in others:
        total += resized(values, (first.shape[1], first.shape[0]))
    return (total / (1 + len(others))).astype(np.float32)


def files_of(reference: str) -> list[str]:
    """The files that a map consists of."""
    if _is_drawing(reference):
        return [reference.rpartition("#")[0]]
    folder, brace, names = reference.rpartition("{")
    if not brace or not names.endswith("}") or os.path.exists(reference):  # noqa: PTH110
        return [reference]
    return [folder + name for name in names[:-1].split(",")]


def map_references(
    place: Path, files: Iterable[Path], images: Collection[str], root: Path | None = None
) -> dict[str, str]:
    """The human maps at ``place``, by the name of the image that each belongs to.

    place: a folder of maps, or a COCO file. files: the images in that folder. images: the names
    that images have: the base name and the path below the image root, both without extension.
    root: the image root, default the folder that ``place`` is in.

    A name is the path below ``place``, or COCO's ``file_name``, without extension. In a folder:

    1. a map whose name is an image's is that image's map;
    2. else ``a_1.png``, ``a_2.png`` are averaged for the image ``a``, unless an image ``a_1`` that
       ``images`` leaves out lies beside ``a``: it is that image's map;
    3. else, where no map in a sub-folder is an image's by the first rule, sub-folders that are none
       of the images' are annotators: ``anna/a.png`` and ``ben/a.png`` are averaged for ``a``;
    4. any other map keeps its name, which no image has.

    Raises InputError for two maps of one image and for a file that is not COCO's.
    """
    if place.suffix.lower() == _JSON:
        return _drawn_references(place)
    own = {path: str(path.relative_to(place).with_suffix("")) for path in files}
    mirrored = any(os.sep in name and name in images for name in own.values())
    places = {top for top, slash, _ in (image.partition(os.sep) for image in images) if slash}
    left_out = _LeftOut(place, place.parent if root is None else root, images)
    found: dict[str, str] = {}
    shared: defaultdict[str, list[Path]] = defaultdict(list)
    for path, name in own.items():
        # A folder that images have is no annotator, though none of its maps has its image there.
        folders = not mirrored and name.partition(os.sep)[0] not in places
        image = name if name in images else annotated_image(name, images, folders=folders)
        if image != name and left_out.has(name, image):
            image = name
        if image != name:
            shared[image].append(path)
        elif name in found:
            raise InputError(f"{found[name]!r} and {str(path)!r} are maps of one image: keep one.")
        else:
            found[name] = str(path)
    for image, paths in shared.items():
        if image in found:
            raise InputError(
                f"{found[image]!r} and {str(paths[0])!r} are maps of one image: name either the "
                "one map or the annotators' maps after it."
            )
        found[image] = _joined(place, paths)
    return found


def is_blank(values: Map) -> bool:
    """Whether a map says nothing: one single value."""
    return bool(values.min() == values.max())


def is_faint(mask: Map) -> bool:
    """Whether an artefact mask marks something and nothing by half of white, as 0 and 1 of 255."""
    return bool(0 < mask.max() < 0.5)


def looks_inverted(values: Map) -> bool:
    """Whether most of a map and most of its border is bright: nobody looks there.

    Bright is the upper half of what the map spans.
    """
    middle = (float(values.min()) + float(values.max())) / 2
    border = np.concatenate((values[0], values[-1], values[:, 0], values[:, -1]))
    return bool(np.median(border) > middle and np.median(values) > middle)


def resized(
    values: Map, size: tuple[int, int], box: tuple[float, float, float, float] | None = None
) -> Map:
    """A map, or the part of it in ``box``, at another size (width, height), by area.

    Each pixel is the mean of what it covers, also of pixels that it covers in part; Pillow's and
    torch's ways by area take those whole or not at all. box: left, top, right, bottom in pixels.
    """
    height, width = values.shape
    left, top, right, bottom = box or (0, 0, width, height)
    if (width, height) == size and (left, top, right, bottom) == (0, 0, width, height):
        return values
    down, across = _shares(height, top, bottom, size[1]), _shares(width, left, right, size[0])
    return np.asarray(down @ values @ across.T)


@lru_cache(maxsize=16)
def _shares(length: int, start: float, stop: float, count: int) -> Map:
    """What each of ``length`` pixels gives to each of ``count`` from ``start`` to ``stop``.

    [count, length]; rows sum to 1.
    """
    edges = np.linspace(start, stop, count + 1)[:, None]
    before = (edges - np.arange(length)).clip(0, 1)  # the share of a pixel that lies before an edge
    covered = np.diff(before, axis=0)
    return np.asarray(covered / covered.sum(1, keepdims=True), dtype=np.float32)


def annotated_image(name: str, images: Container[str], *, folders: bool) -> str:
    """The image that an annotator's map belongs to; the map's own name if there is none."""
    image, _, number = name.rpartition("_")
    if number.isdecimal() and image in images:
        return image
    _, slash, below = name.partition(os.sep)
    return below if folders and slash and below in images else name


class _LeftOut:
    """Images that lie beside those that there are."""

    def __init__(self, maps: Path, root: Path, images: Collection[str]) -> None:
        self._maps, self._root, self._images = maps, root, images
        self._names: dict[str, set[str]] = {}  # of the images in a folder, without extension

    @cached_property
    def _folders(self) -> Mapping[str, list[str]]:
        """Base name -> the folders that have an image of it, but for the root."""
        folders: defaultdict[str, list[str]] = defaultdict(list)
        for folder, slash, name in (image.rpartition(os.sep) for image in self._images):
            if slash:
                folders[name].append(folder)
        return folders

    def has(self, name: str, beside: str) -> bool:
        """Whether an image has the base name of the map ``name`` and lies beside ``beside``."""
        folder, slash, image = beside.rpartition(os.sep)
        stem = name.rpartition(os.sep)[2]
        places = [folder] if slash else self._folders.get(image, [""])
        # In an annotator's folder it is that of the image itself.
        return stem != image and any(stem in self._names_in(place) for place in places)

    def _names_in(self, place: str) -> set[str]:
        if place not in self._names:
            folder = self._root / place
            self._names[place] = set()
            if folder.is_dir() and not folder.is_relative_to(self._maps):
                kinds = Image.registered_extensions()
                paths = folder.iterdir()
                self._names[place] = {p.stem for p in paths if p.suffix.lower() in kinds}
        return self._names[place]


def _joined(place: Path, paths: Sequence[Path]) -> str:
    names = [str(path.relative_to(place)) for path in paths]
    for name in names:
        if set(name) & set("{},"):
            raise InputError(
                f"The map {name!r} in {place} is one of several of an image, and its name holds a "
                "comma or a brace: rename it."
            )
    return f"{place}{os.sep}{{{','.join(names)}}}" if len(names) > 1 else str(paths[0])


def _is_drawing(reference: str) -> bool:
    file, hash_mark, _ = reference.rpartition("#")
    return bool(hash_mark) and file.lower().endswith(_JSON)


def _drawn_references(path: Path) -> dict[str, str]:
    try:
        images = read_coco(str(path))
    except (OSError, ValueError) as error:
        raise InputError(
            f"Cannot read the human maps in {path} ({reason(path, error)}): give images and "
            "annotations as COCO has them, or fix the file."
        ) from error
    found: dict[str, str] = {}
    for number, image in images.items():
        if not image.polygons:
            continue
        name = str(Path(image.name).with_suffix(""))
        if name in found:
            raise InputError(f"{path} names the image {image.name!r} twice: keep one.")
        found[name] = f"{path}#{number}"
    return found


def _drawn_map(reference: str) -> Map:
    path, _, number = reference.rpartition("#")
    try:
        images = read_coco(path)
        if number not in images:
            raise ValueError(f"it has no image with the id {number}")
    except (OSError, ValueError) as error:
        raise UnreadableError(
            f"Cannot decode {reference!r} ({reason(path, error)}): fix or remove the file."
        ) from error
    return images[number].share()

"""Where the face is, and the square that is cut out around it."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focus.data.manifest import Manifest
from focus.errors import InputError

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the upright image."""
Detector = Callable[[Image.Image], list[Box]]
"""An RGB image to the boxes of the faces in it, none or several."""

GEOMETRY = "geometry"
"""The manifest's column that says how a face was cut out."""
WHOLE = "whole"
"""The geometry of an image for which that column says nothing."""
GIVEN = "box"
"""In the place of a detector's name: the manifest's own boxes."""

_EXTRA = "pip install 'focus-faces[faces]'"


def geometry(source: str, margin: float) -> str:
    """How faces are cut out, as the manifest and the model's config say it: ``box margin 0.3``."""
    return f"{source} margin {margin:g}"


def geometries(manifest: Manifest) -> Counter[str]:
    """How many images of a manifest are cut out in which way."""
    return Counter(sample.extra.get(GEOMETRY, WHOLE) for sample in manifest)


def window(box: Box, margin: float, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The square around a face: left, top, right, bottom in whole pixels; None outside the image.

    Its side is the box's longer one and ``margin`` times that on either side; its middle the box's.
    Where it sticks out of the image it is moved inside, and where it is larger than the image it
    is cut: no pixel is invented.
    """
    left, top, right, bottom = box
    width, height = size
    if not (right > left and bottom > top and left < width and top < height):
        return None
    if right <= 0 or bottom <= 0:
        return None
    # Whatever is larger than the image is as large as it, up to numbers that have no end.
    side = max(1, round(min((1 + 2 * margin) * max(right - left, bottom - top), max(size))))
    x, wide = _placed((left + right) / 2, side, width)
    y, high = _placed((top + bottom) / 2, side, height)
    return x, y, x + wide, y + high


def largest(boxes: Iterable[Box]) -> Box | None:
    """The box with the largest area, the first of equals."""
    return max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), default=None)


def detector(name: str) -> Detector:
    """A detector by its name in :data:`DETECTORS`, or as ``module:function``.

    The named ones are made again: each thread needs its own. Raises InputError for an unknown name
    or a package that is not installed.
    """
    if name in DETECTORS:
        return DETECTORS[name]()
    module, colon, function = name.partition(":")
    if not colon:
        raise InputError(
            f"There is no face detector {name!r}: give {', '.join(DETECTORS)}, or module:function "
            "of your own."
        )
    # The current folder, last: the commands take a checkout from the front of the path.
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        found: Detector = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"The face detector {name} cannot be imported ({error}): give a module that "
            "Python finds and a function in it."
        ) from error
    finally:
        sys.path.remove(here)
    return found


def _lbp() -> Detector:
    """The cascade of local binary patterns that comes with scikit-image, for frontal faces."""
    try:
        data = import_module("skimage.data")
        feature = import_module("skimage.feature")
    except ImportError as error:
        raise InputError(f"The face detector lbp needs scikit-image: {_EXTRA}.") from error
    cascade: Any = feature.Cascade(data.lbp_frontal_face_cascade_filename())

    def detect(image: Image.Image) -> list[Box]:
        # A face fills a good part of a picture of it; small ones are not looked for.
        small, scale = _shrunk(image, 320)
        found = cascade.detect_multi_scale(
            img=np.asarray(small),
            scale_factor=1.2,
            step_ratio=1,
            min_size=(min(40, *small.size),) * 2,
            max_size=(max(small.size),) * 2,
        )
        return [
            (
                scale * face["c"],
                scale * face["r"],
                scale * (face["c"] + face["width"]),
                scale * (face["r"] + face["height"]),
            )
            for face in found
        ]

    return detect


def _dlib() -> Detector:
    """Dlib's detector by histograms of oriented gradients, for frontal faces."""
    try:
        dlib: Any = import_module("dlib")
    except ImportError as error:
        raise InputError(f"The face detector dlib needs the package dlib-bin: {_EXTRA}.") from error
    find = dlib.get_frontal_face_detector()

    def detect(image: Image.Image) -> list[Box]:
        # It finds faces of 80 pixels and more: enlarged twice, a sixteenth of the picture's side.
        small, scale = _shrunk(image, 640)
        return [
            (
                scale * face.left(),
                scale * face.top(),
                scale * (face.right() + 1),
                scale * (face.bottom() + 1),
            )
            for face in find(np.asarray(small), 1)
        ]

    return detect


DETECTORS: dict[str, Callable[[], Detector]] = {"lbp": _lbp, "dlib": _dlib}


def _placed(middle: float, side: int, length: int) -> tuple[int, int]:
    """Start and length of the window along an image's side."""
    side = min(side, length)
    return min(max(round(middle - side / 2), 0), length - side), side


def _shrunk(image: Image.Image, longest: int) -> tuple[Image.Image, float]:
    """The image with at most ``longest`` pixels a side, and what its coordinates are to times."""
    scale = max(1.0, max(image.size) / longest)
    if scale == 1:
        return image, 1.0
    size = (max(1, round(image.width / scale)), max(1, round(image.height / scale)))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), scale

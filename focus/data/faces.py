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
    """Return how faces are cut out, as in manifests and models' configs: ``box margin 0.3``."""
    return f"{source} margin {margin:g}"


def geometries(manifest: Manifest) -> Counter[str]:
    """Count the images of a manifest that are cut out in which way."""
    return Counter(sample.extra.get(GEOMETRY, WHOLE) for sample in manifest)


def window(box: Box, margin: float, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Return the square around a face, left, top, right, bottom in pixels; None outside the image.

    Its side is the box's longer one and ``margin`` times that on either side; its middle the box's.
    Where it sticks out of the image it is moved inside, and where it is larger than the image it
    is cut: no pixel is invented.
    """
    left, top, right, bottom = box
    width, height = size
    if not (max(left, 0) < min(right, width) and max(top, 0) < min(bottom, height)):
        return None
    # Whatever is larger than the image is as large as it, up to numbers that have no end.
    side = max(1, round(min((1 + 2 * margin) * max(right - left, bottom - top), max(size))))
    x, wide = _placed((left + right) / 2, side, width)
    y, high = _placed((top + bottom) / 2, side, height)
    return x, y, x + wide, y + high


def largest(boxes: Iterable[Box]) -> Box | None:
    """Return the box with the largest area, the first of equals."""
    return max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), default=None)


def detector(name: str) -> Detector:
    """Return a detector by its name in :data:`DETECTORS`, or as ``module:function``.

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
    sys.path.append(str(Path.cwd()))  # last, where it hides no package
    try:
        found: Detector = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"The face detector {name} cannot be imported ({error}): give a module that "
            "Python finds and a function in it."
        ) from error
    return found


def _lbp() -> Detector:
    """Return the cascade of local binary patterns of scikit-image, for frontal faces."""
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
        corners = ((f["c"], f["r"], f["c"] + f["width"], f["r"] + f["height"]) for f in found)
        return [_scaled(box, scale) for box in corners]

    return detect


def _dlib() -> Detector:
    """Return dlib's detector by histograms of oriented gradients, for frontal faces."""
    try:
        dlib: Any = import_module("dlib")
    except ImportError as error:
        raise InputError(f"The face detector dlib needs the package dlib-bin: {_EXTRA}.") from error
    find = dlib.get_frontal_face_detector()

    def detect(image: Image.Image) -> list[Box]:
        # It finds faces of 80 pixels and more: enlarged twice, a sixteenth of the picture's side.
        small, scale = _shrunk(image, 640)
        found = find(np.asarray(small), 1)
        corners = ((f.left(), f.top(), f.right() + 1, f.bottom() + 1) for f in found)
        return [_scaled(box, scale) for box in corners]

    return detect


DETECTORS: dict[str, Callable[[], Detector]] = {"lbp": _lbp, "dlib": _dlib}


def _placed(middle: float, side: int, length: int) -> tuple[int, int]:
    """Return start and length of the window along an image's side."""
    side = min(side, length)
    return min(max(round(middle - side / 2), 0), length - side), side


def _shrunk(image: Image.Image, longest: int) -> tuple[Image.Image, float]:
    """Return the image with at most ``longest`` pixels a side, and by how much it was shrunk."""
    scale = max(1.0, max(image.size) / longest)
    if scale == 1:
        return image, 1.0
    size = (max(1, round(image.width / scale)), max(1, round(image.height / scale)))
    return image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0), scale


def _scaled(box: Box, scale: float) -> Box:
    left, top, right, bottom = box
    return scale * left, scale * top, scale * right, scale * bottom

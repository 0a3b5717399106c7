"""Where the face is, and the square that is cut out around it."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.data.manifest import Manifest
from focus.errors import InputError

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the upright image."""
Detector = Callable[[Image.Image], list[Box]]
"""An RGB image to the boxes of the faces in it, none or several."""

GEOMETRY = "geometry"
"""The manifest's column that says how a face was cut out: ``box margin 0.3``."""
WHOLE = "whole"
"""The geometry of an image for which that column says nothing."""
GIVEN = "box"
"""In the place of a detector's name: the manifest's own boxes."""


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
    wide, high = min(side, width), min(side, height)
    x = min(max(round((left + right) / 2 - wide / 2), 0), width - wide)
    y = min(max(round((top + bottom) / 2 - high / 2), 0), height - high)
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
        try:
            return DETECTORS[name]()
        except ImportError as error:
            raise InputError(
                f"The face detector {name} needs a package that is not installed ({error}): "
                "pip install 'focus-faces[faces]'."
            ) from error
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
    cascade: Any = import_module("skimage.feature").Cascade(
        import_module("skimage.data").lbp_frontal_face_cascade_filename()
    )

    def find(pixels: NDArray[np.uint8]) -> list[Box]:
        height, width, _ = pixels.shape
        found = cascade.detect_multi_scale(
            img=pixels,
            scale_factor=1.2,
            step_ratio=1,
            min_size=(min(40, width, height),) * 2,
            max_size=(max(width, height),) * 2,
        )
        return [(f["c"], f["r"], f["c"] + f["width"], f["r"] + f["height"]) for f in found]

    # A face fills a good part of a picture of it; small ones are not looked for.
    return _scaled(find, 320)


def _dlib() -> Detector:
    """Return dlib's detector by histograms of oriented gradients, for frontal faces."""
    detect: Any = import_module("dlib").get_frontal_face_detector()

    def find(pixels: NDArray[np.uint8]) -> list[Box]:
        return [(f.left(), f.top(), f.right() + 1, f.bottom() + 1) for f in detect(pixels, 1)]

    # It finds faces of 80 pixels and more: enlarged twice, a sixteenth of the picture's side.
    return _scaled(find, 640)


DETECTORS: dict[str, Callable[[], Detector]] = {"lbp": _lbp, "dlib": _dlib}


def _scaled(find: Callable[[NDArray[np.uint8]], list[Box]], longest: int) -> Detector:
    """Return a detector that looks at images of at most ``longest`` pixels a side."""

    def detect(image: Image.Image) -> list[Box]:
        scale = max(1.0, max(image.size) / longest)
        if scale > 1:
            size = (max(1, round(image.width / scale)), max(1, round(image.height / scale)))
            image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        boxes = find(np.asarray(image))
        return [(scale * a, scale * b, scale * c, scale * d) for a, b, c, d in boxes]

    return detect

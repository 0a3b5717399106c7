"""Measure the pictures that a model is trained on, and look at others in the same way."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.data.images import Preprocessing, load_image
from focus.data.manifest import Manifest
from focus.errors import InputError
from focus.metrics.arrays import evenly
from focus.model.config import ONE_WITHOUT_IN, FacesFound, Range, TrainingPictures
from focus.runtime.machine import usable_cores

if TYPE_CHECKING:
    from focus.data.making.faces import FaceDetector

MOST = 1000
"""So many training images are measured, at even steps, or all if there are fewer."""
MOST_LOOKED_AT = 40
"""In so many training images a face is looked for, at even steps, or in all if there are fewer."""
LOOKED_AT_SIDE = 200
"""Pixels of the longer side of a picture in which a face is looked for."""
_TAIL = 0.005


def training_pictures(manifest: Manifest, preprocessing: Preprocessing) -> TrainingPictures | None:
    """Measure training images without augmentation; return None if there are none.

    Raises ImageError for an image that cannot be decoded.
    """
    if not len(manifest):
        return None
    paths = [manifest[row].path for row in evenly(len(manifest), MOST)]

    def measure(path: str) -> tuple[int, float]:
        image = load_image(path)
        return min(image.size), sharpness(preprocessing.fitted(image))

    with ThreadPoolExecutor(usable_cores()) as pool:
        sides, sharpnesses = zip(*pool.map(measure, paths), strict=True)
    return TrainingPictures(len(paths), _range(sides), _range(sharpnesses), faces_in(paths))


def faces_in(paths: Sequence[str], name: Literal["dlib", "lbp"] = "dlib") -> FacesFound | None:
    """Look for faces in training images; return None if none are given, or without the detector.

    lbp finds too few faces to be the default: 31 to 37 of 40, where dlib finds 36 to 40.
    Raises ImageError for an image that cannot be decoded.
    """
    from focus.data.making.faces import detector  # which most runs, without dlib, do not need

    try:
        find = detector(name)
    except InputError:
        return None
    n_images = n_with_face = 0
    for row in evenly(len(paths), MOST_LOOKED_AT):
        n_images += 1
        n_with_face += has_face(load_image(paths[row]), find)
        if ONE_WITHOUT_IN * (n_images - n_with_face) > min(len(paths), MOST_LOOKED_AT):
            break
    return FacesFound(name, n_images, n_with_face) if n_images else None


def has_face(image: Image.Image, find: "FaceDetector") -> bool:
    """Return whether there is a face in a picture, at one size whatever the picture's."""
    scale = LOOKED_AT_SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return bool(find(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)))


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian of the grey values of an RGB picture [H,W,3]."""
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var()) if laplacian.size else 0.0


def _range(values: tuple[float, ...]) -> Range:
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
    return float(low), float(high)

"""Summarise the pictures that a model was trained on, and say in what others are unlike them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from PIL import Image

from focus.errors import InputError
from focus.metrics.arrays import evenly
from focus.runtime.machine import usable_cores

if TYPE_CHECKING:  # a detector that scores pictures measures none
    from focus.data.images import Preprocessing
    from focus.data.making.faces import FaceDetector
    from focus.data.manifest import Manifest

MOST = 1000
"""So many training images are measured, at even steps, or all if there are fewer."""
MOST_LOOKED_AT = 40
"""In so many training images a face is looked for, at even steps, or in all if there are fewer."""
LOOKED_AT_SIDE = 200
"""Pixels of the longer side of a picture in which a face is looked for."""
# One in so many training images may be without a face: where more are, that a picture has none
# says nothing.
_ONE_WITHOUT_IN = 10
_TAIL = 0.005
_OTHER_SIZE = 2.0  # times: training itself brings pictures of many sizes to one

_NotNegative = Annotated[float, Meta(ge=0)]
Range = tuple[_NotNegative, _NotNegative]
"""The 0.5 % and the 99.5 % quantile."""


@dataclass(frozen=True)
class FacesFound:
    """In how many training images a face was found.

    detector: The one that looked for it. n_images: How many it looked at; it stops as soon as
    faces are too rare for :attr:`usual`.
    """

    # Only these: a model's config must not name what is run.
    detector: Literal["dlib", "lbp"]
    n_images: Annotated[int, Meta(ge=1)]
    n_with_face: Annotated[int, Meta(ge=0)]

    @classmethod
    def of(cls, paths: Sequence[str], name: Literal["dlib", "lbp"] = "dlib") -> Self | None:
        """Look for faces in training images; None if there are none, or no detector is installed.

        lbp finds too few faces to be the default: 31 to 37 of 40, where dlib finds 36 to 40.
        Raises ImageError for an image that cannot be decoded.
        """
        from focus.data.images import load_image
        from focus.data.making.faces import detector

        try:
            find = detector(name)
        except InputError:
            return None
        n_images = n_with_face = 0
        for row in evenly(len(paths), MOST_LOOKED_AT):
            n_images += 1
            n_with_face += has_face(load_image(paths[row]), find)
            if _ONE_WITHOUT_IN * (n_images - n_with_face) > min(len(paths), MOST_LOOKED_AT):
                break
        return cls(name, n_images, n_with_face) if n_images else None

    def load_detector(self) -> "FaceDetector":
        """Return the detector that looked for faces; raises InputError if it is not installed."""
        from focus.data.making.faces import detector

        return detector(self.detector)

    @property
    def usual(self) -> bool:
        """Whether so many training images have a face that a picture without one is unlike them."""
        return _ONE_WITHOUT_IN * (self.n_images - self.n_with_face) <= self.n_images


@dataclass(frozen=True)
class TrainingPictures:
    """What training saw, measured on ``n_images`` of its images without augmentation.

    shorter_side: Pixels of the image's shorter side. sharpness: :func:`sharpness` of the image as
    the network sees it. faces: In how many a face was found; None if nothing looked for it.
    """

    n_images: Annotated[int, Meta(ge=1)]
    shorter_side: Range
    sharpness: Range
    faces: FacesFound | None = None

    @classmethod
    def of(cls, manifest: "Manifest", preprocessing: "Preprocessing") -> Self | None:
        """Measure training images; None if there are none.

        Raises ImageError for an image that cannot be decoded.
        """
        from focus.data.images import load_image

        if not len(manifest):
            return None
        paths = [manifest[row].path for row in evenly(len(manifest), MOST)]

        def measure(path: str) -> tuple[int, float]:
            image = load_image(path)
            return min(image.size), sharpness(preprocessing.fitted(image))

        with ThreadPoolExecutor(usable_cores()) as pool:
            sides, sharpnesses = zip(*pool.map(measure, paths), strict=True)
        return cls(len(paths), _range(sides), _range(sharpnesses), FacesFound.of(paths))

    def unlike(self, shorter_side: int, sharpness: float, face: bool | None = None) -> str:
        """Return in what a picture is unlike those of training, "" for nothing.

        A side counts as unlike beyond twice the range, sharpness beyond the range. face: Whether
        there is one in the picture, by the detector of :attr:`faces`, if these are usual; None if
        that was not checked.
        """
        differences = []
        smallest, largest = self.shorter_side
        if not smallest / _OTHER_SIZE <= shorter_side <= largest * _OTHER_SIZE:
            differences.append(
                f"shorter side {shorter_side} pixels, in training {smallest:g} to {largest:g}"
            )
        least, most = self.sharpness
        if sharpness < least:
            differences.append(f"less sharp ({sharpness:.3g}, in training {least:.3g} or more)")
        if sharpness > most:
            differences.append(f"sharper ({sharpness:.3g}, in training {most:.3g} or less)")
        if face is False and self.faces:
            differences.append(
                f"no face found, in training in {self.faces.n_with_face} of {self.faces.n_images}"
            )
        return "; ".join(differences)


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

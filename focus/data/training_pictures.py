"""Summarise the pictures that a model was trained on, and say in what others are unlike them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Self

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from focus.data.images import Preprocessing, load_image
from focus.data.manifest import Manifest
from focus.metrics.arrays import evenly
from focus.runtime.machine import usable_cores

MOST = 1000
"""So many training images are measured, at even steps, or all if there are fewer."""
_TAIL = 0.005
_OTHER_SIZE = 2.0  # times: training itself brings pictures of many sizes to one

_NotNegative = Annotated[float, Meta(ge=0)]
Range = tuple[_NotNegative, _NotNegative]
"""The 0.5 % and the 99.5 % quantile."""


@dataclass(frozen=True)
class TrainingPictures:
    """What training saw, measured on ``n_images`` of its images without augmentation.

    shorter_side: Pixels of the image's shorter side. sharpness: :func:`sharpness` of the image as
    the network sees it.
    """

    n_images: Annotated[int, Meta(ge=1)]
    shorter_side: Range
    sharpness: Range

    @classmethod
    def of(cls, manifest: Manifest, preprocessing: Preprocessing) -> Self | None:
        """Measure training images; None if there are none.

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
        return cls(len(paths), _range(sides), _range(sharpnesses))

    def unlike(self, shorter_side: int, sharpness: float) -> str:
        """Return in what a picture is unlike those of training, "" for nothing.

        A side counts as unlike beyond twice the range, sharpness beyond the range.
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
        return "; ".join(differences)


def sharpness(pixels: NDArray[np.uint8]) -> float:
    """Return the variance of the Laplacian of the grey values of an RGB picture [H,W,3]."""
    grey = pixels @ np.array([0.299, 0.587, 0.114])
    inner = grey[1:-1, 1:-1]
    laplacian = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(laplacian.var()) if laplacian.size else 0.0


def _range(values: tuple[float, ...]) -> Range:
    low, high = np.quantile(values, [_TAIL, 1 - _TAIL])
    return float(low), float(high)

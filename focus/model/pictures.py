"""Open pictures that stand in no manifest, in the way evaluation opens its images."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from focus.data.dataset import squashed
from focus.data.images import as_rgb, load_image, reason, turn_upright
from focus.errors import ImageError
from focus.runtime.machine import usable_cores

Picture = str | Path | Image.Image | NDArray[np.uint8]
"""The path of an image, a Pillow image, or an array [H, W, 3] of RGB in 0..255."""


def picture_batches(
    pictures: Picture | Iterable[Picture], image_size: int, batch_size: int
) -> Iterator[tuple[list[str], Tensor]]:
    """Yield the names and pixels ``[B,3,S,S]`` uint8 of pictures, squashed to the size S.

    An iterator of pictures is read a batch at a time.

    Raises:
        ImageError: a picture cannot be decoded, or is none.
    """
    given: Any = pictures
    if isinstance(pictures, str | Path | Image.Image) or getattr(pictures, "ndim", 4) < 4:
        given = [pictures]
    # What is no path is copied before the next one is asked for: an iterator over frames may give
    # one image again and again, with other pixels.
    numbered = (
        (repr(str(picture)), picture)
        if isinstance(picture, str | Path)
        else (f"picture {at}", _rgb_copy(picture, f"picture {at}"))
        for at, picture in enumerate(given)
    )

    def load(picture: str | Path | Image.Image) -> Tensor:
        image = picture if isinstance(picture, Image.Image) else load_image(picture)
        return squashed(image, image_size)

    with ThreadPoolExecutor(usable_cores()) as pool:
        while batch := list(islice(numbered, batch_size)):
            names, images = zip(*batch, strict=True)
            yield list(names), torch.stack(list(pool.map(load, images)))


def _rgb_copy(picture: Image.Image | NDArray[np.uint8], name: str) -> Image.Image:
    try:
        if isinstance(picture, Image.Image):
            image = picture.copy()
            turn_upright(image)
            return as_rgb(image)
        if picture.dtype == np.uint8 and picture.shape[2:] == (3,):
            return Image.fromarray(picture)
        problem = f"{picture.dtype} {list(picture.shape)}"
    except Exception as error:  # decoders raise anything; this may be the first to decode it
        problem = reason(name, error)
    raise ImageError(
        f"Cannot use {name} ({problem}): give a path, a Pillow image or an array [H,W,3] of uint8."
    )

"""Open pictures that stand in no manifest, in the way evaluation opens its images."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from focus.data.dataset import squashed
from focus.data.images import as_rgb, load_image, reason, turn_upright
from focus.errors import ImageError, InputError
from focus.runtime.machine import usable_cores

Picture = str | Path | Image.Image | NDArray[np.uint8]
"""The path of an image, a Pillow image, or an array [H, W, 3] of RGB in 0..255."""


def picture_batches(
    pictures: Picture | Iterable[Picture], image_size: int, batch_size: int
) -> Iterator[tuple[list[str], Tensor]]:
    """Yield the names and pixels ``[B,3,S,S]`` uint8 of pictures, squashed to the size S.

    Args:
        pictures: one or many; an iterator is read a batch at a time.
        image_size: S in pixels; batch_size: B, the last batch may be smaller.

    Raises:
        ImageError: a picture cannot be decoded. InputError: something is no picture.
    """
    given: Iterable[Picture] = [pictures]  # type: ignore[list-item]
    if isinstance(pictures, np.ndarray):
        given = list(pictures) if pictures.ndim == 4 else [pictures]
    elif isinstance(pictures, Iterable) and not isinstance(pictures, str):
        given = pictures
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
    if isinstance(picture, Image.Image):
        try:
            image = picture.copy()
            turn_upright(image)
            return as_rgb(image)
        except Exception as error:  # decoders raise anything; this may be the first to decode it
            raise ImageError(
                f"Cannot use {name} ({reason(name, error)}): give another one."
            ) from error
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.shape[2:] == (3,):
        return Image.fromarray(picture)
    kind = type(picture).__name__
    if isinstance(picture, np.ndarray):
        kind = f"{picture.dtype} {list(picture.shape)}"
    raise InputError(
        f"{name} is of type {kind}: give a path, a Pillow image or an array [H,W,3] of uint8."
    )

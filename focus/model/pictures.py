"""Open pictures that stand in no manifest, in the way evaluation opens its images."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from focus.data.images import Preprocessing, as_rgb, load_image, reason, turn_upright
from focus.data.making.faces import FaceFinder
from focus.data.manifest import Box
from focus.errors import ImageError, InputError
from focus.runtime.machine import usable_cores

Picture = str | Path | Image.Image | NDArray[np.uint8]
"""The path of an image, a Pillow image, or an array [H, W, 3] of RGB in 0..255."""


class PictureBatch(NamedTuple):
    """What the detector sees of some pictures: each of them, or F faces in them.

    names: The pictures' names [F]. pixels: ``[F,3,S,S]`` uint8. picture: The pictures' numbers [F]
    int64. box: The face in the picture [F,4], or all of the picture.
    """

    names: list[str]
    pixels: Tensor
    picture: Tensor
    box: Tensor


def picture_batches(
    pictures: Picture | Iterable[Picture],
    preprocessing: Preprocessing,
    batch_size: int,
    finder: FaceFinder | None = None,
) -> Iterator[PictureBatch]:
    """Yield pictures, or with a ``finder`` the faces in them, as a detector sees them.

    An iterator of pictures is read a batch at a time. A batch without faces is left out.

    Raises:
        ImageError: a picture cannot be decoded, or is none.
        InputError: there are no pictures, or no faces in them.
    """
    given: Any = pictures
    if isinstance(pictures, str | Path | Image.Image) or getattr(pictures, "ndim", 4) < 4:
        given = [pictures]
    # A picture that is no path is copied before the next one is taken: an iterator over frames may
    # yield one image object again and again, with other pixels.
    numbered = (
        (repr(str(picture)), picture)
        if isinstance(picture, str | Path)
        else (f"picture {at}", _rgb_copy(picture, f"picture {at}"))
        for at, picture in enumerate(given)
    )

    def load(picture: str | Path | Image.Image) -> list[tuple[Tensor, Box]]:
        image = picture if isinstance(picture, Image.Image) else load_image(picture)
        if finder is None:
            return [(as_seen(image, preprocessing), (0, 0, *image.size))]
        (seen,) = finder.people([finder(image)])
        return [(as_seen(image.crop(f.square), preprocessing), f.box) for _, f in seen]

    count, empty = 0, True
    with ThreadPoolExecutor(usable_cores()) as pool:
        while batch := list(islice(numbered, batch_size)):
            names, images = zip(*batch, strict=True)
            loaded = list(pool.map(load, images))
            faces = [(at, *face) for at, found in enumerate(loaded) for face in found]
            if faces:
                empty = False
                places, pixels, boxes = zip(*faces, strict=True)
                yield PictureBatch(
                    [names[at] for at in places],
                    torch.stack(pixels),
                    torch.tensor(places) + count,
                    torch.tensor(boxes, dtype=torch.float64),
                )
            count += len(batch)
    if empty:
        raise InputError(
            f"There are no faces in the {count} pictures: give others, or faces='none'."
            if count
            else "There are no pictures: give at least one."
        )


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


def as_seen(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Return an image as the detector sees it: uint8 [3, S, S]."""
    return torch.tensor(preprocessing.fitted(image), device="cpu").permute(2, 0, 1)

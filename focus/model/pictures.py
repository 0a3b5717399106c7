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
from focus.data.making.faces import Face, FaceFinder
from focus.data.manifest import Box
from focus.errors import ImageError, InputError
from focus.runtime.machine import usable_cores

Picture = str | Path | Image.Image | NDArray[np.uint8]
"""The path of an image, a Pillow image, or an array [H, W, 3] of RGB in 0..255."""


class PictureBatch(NamedTuple):
    """What the detector sees of some pictures: each of them, or F faces in them."""

    names: list[str]
    """The name of the picture of each face."""
    pixels: Tensor
    """``[F,3,S,S]`` uint8."""
    picture: Tensor
    """The number [F] int64 of the picture of each face, from 0."""
    box: Tensor
    """``[F,4]`` float64: the face in the picture, or all of the picture."""


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

    def load(named: _NamedPicture) -> list[tuple[Box, Tensor]]:
        """Return the box and the pixels of each face that counts."""
        image = named.picture
        if not isinstance(image, Image.Image):
            image = load_image(image)
        faces = faces_in(image, finder)
        if finder is not None:
            (seen,) = finder.people([faces])
            faces = [face for _, face in seen]
        return [(face.box, face_pixels(image, face, preprocessing)) for face in faces]

    named_pictures = _named(pictures)
    n_pictures = n_faces = 0
    with ThreadPoolExecutor(usable_cores()) as pool:
        while batch := list(islice(named_pictures, batch_size)):
            names: list[str] = []
            numbers: list[int] = []
            boxes: list[Box] = []
            pixels: list[Tensor] = []
            for named, faces in zip(batch, pool.map(load, batch), strict=True):
                for box, pixels_of_face in faces:
                    names.append(named.name)
                    numbers.append(n_pictures)
                    boxes.append(box)
                    pixels.append(pixels_of_face)
                n_pictures += 1
            n_faces += len(names)
            if names:
                yield PictureBatch(
                    names,
                    torch.stack(pixels),
                    torch.tensor(numbers),
                    torch.tensor(boxes, dtype=torch.float64),
                )
    if not n_pictures:
        raise InputError("There are no pictures: give at least one.")
    if not n_faces:
        raise InputError(
            f"There are no faces in the {n_pictures} pictures: give others, or faces='none'."
        )


class _NamedPicture(NamedTuple):
    """A path, or an image of its own, and its name in messages."""

    name: str
    picture: str | Path | Image.Image


def _named(pictures: Picture | Iterable[Picture]) -> Iterator[_NamedPicture]:
    """Yield one or many pictures.

    One that is no path is copied before the next one is taken: an iterator over frames may yield
    one image object again and again, with other pixels.
    """
    several: Any = pictures
    if isinstance(pictures, str | Path | Image.Image) or getattr(pictures, "ndim", 4) < 4:
        several = [pictures]
    for number, picture in enumerate(several):
        if isinstance(picture, str | Path):
            yield _NamedPicture(repr(str(picture)), picture)
        else:
            name = f"picture {number}"
            yield _NamedPicture(name, _rgb_copy(picture, name))


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


def faces_in(image: Image.Image, finder: FaceFinder | None) -> list[Face]:
    """Return the faces in a picture; without a finder the whole picture is the face."""
    if finder is not None:
        return finder(image)
    whole = (0, 0, *image.size)
    return [Face(whole, whole)]


def face_pixels(image: Image.Image, face: Face, preprocessing: Preprocessing) -> Tensor:
    """Return a face of a picture as the detector sees it: uint8 [3, S, S]."""
    return as_seen(image.crop(face.square), preprocessing)


def as_seen(image: Image.Image, preprocessing: Preprocessing) -> Tensor:
    """Return an image as the detector sees it: uint8 [3, S, S]."""
    return torch.tensor(preprocessing.fitted(image), device="cpu").permute(2, 0, 1)

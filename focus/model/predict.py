"""Pictures that stand in no manifest: opened, prepared and predicted as evaluation does it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from focus.data.dataset import Normalise, squashed
from focus.data.images import as_rgb, load_image, reason, turn_upright
from focus.errors import ImageError, InputError
from focus.runtime.machine import usable_cores
from focus.runtime.progress import progress_bar

if TYPE_CHECKING:
    from focus.model.detector import Detector, Prediction

Picture = str | Path | Image.Image | NDArray[np.uint8]
"""The path of an image, a Pillow image, or an array [H, W, 3] of RGB in 0..255."""

T = TypeVar("T")
R = TypeVar("R")


def open_picture(picture: Picture, name: str = "") -> Image.Image:
    """The picture as 8-bit RGB, upright, as :func:`focus.data.images.load_image` gives a file.

    A Pillow image stays as it is. name: of the picture in an error, default its path.

    Raises:
        ImageError: it cannot be decoded. InputError: it is no picture.
    """
    if isinstance(picture, str | Path):
        return load_image(picture)
    sides = getattr(picture, "size" if isinstance(picture, Image.Image) else "shape", ())
    if 0 in sides[:2]:
        raise InputError(f"{name or 'A picture'} has no pixels: give another one.")
    if isinstance(picture, Image.Image):
        try:
            image = picture.copy()
            turn_upright(image)
            return as_rgb(image)
        except Exception as error:  # decoders raise anything; this may be the first to decode it
            raise ImageError(
                f"Cannot use {name or 'an image'} ({reason(name, error)}): give another one."
            ) from error
    if (
        isinstance(picture, np.ndarray)
        and picture.dtype == np.uint8
        and picture.ndim == 3
        and picture.shape[2] == 3
    ):
        return Image.fromarray(picture)
    shape, dtype = getattr(picture, "shape", None), getattr(picture, "dtype", None)
    raise InputError(
        f"{name or 'A picture'} is of type {type(picture).__name__}"
        f"{'' if shape is None else f', {dtype} {list(shape)}'}: give a path, a Pillow image or an "
        "array [H,W,3] of uint8."
    )


def predict(
    detector: "Detector", pictures: Picture | Iterable[Picture], batch_size: int, progress: bool
) -> "Prediction":
    """What :meth:`focus.model.detector.Detector.predict` does."""
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise InputError(f"The batch_size is {batch_size!r}: give a whole number from 1 on.")
    given: Iterable[Picture]
    if isinstance(pictures, str | Path | Image.Image) or not isinstance(pictures, Iterable):
        given = [pictures]
    elif isinstance(pictures, np.ndarray):
        given = [pictures] if pictures.ndim < 4 else list(pictures)
    else:
        given = pictures
    size = detector.image_size

    def load(task: tuple[str, str | Path | Image.Image]) -> tuple[str, Tensor]:
        name, picture = task
        image = picture if isinstance(picture, Image.Image) else open_picture(picture)
        return name, squashed(image, size)

    parts: list[Prediction] = []
    total = len(given) if isinstance(given, Sized) else None
    with (
        ThreadPoolExecutor(usable_cores()) as pool,
        progress_bar(total=total, desc="scoring", unit="image", disable=not progress) as bar,
    ):
        loaded = ahead(pool, load, _handed_out(given))
        while batch := list(islice(loaded, batch_size)):
            names, pixels = zip(*batch, strict=True)
            parts.append(predict_pixels(detector, pixels, names))
            bar.update(len(batch))
    if not parts:
        raise InputError("There are no pictures: give at least one.")
    return type(parts[0])(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def predict_pixels(
    detector: "Detector", pixels: Sequence[Tensor], names: Sequence[str]
) -> "Prediction":
    """The detector's prediction, on the CPU, of images [3, S, S] uint8.

    names: of the images, for the error.

    Raises:
        ImageError: the output for an image is not finite.
    """
    like = next(detector.parameters())  # the device, and the type of detector.half()
    images = Normalise(detector.mean, detector.std)(torch.stack(list(pixels))).to(like)
    found = detector.predict_batch(images)
    if (at := found.first_not_finite()) is not None:
        raise ImageError(f"The model's output for {names[at]} is not finite: try another model.")
    return type(found)(*(field.cpu() for field in found))


def ahead(pool: ThreadPoolExecutor, work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
    """The results of ``work`` in order, while a few of the tasks that follow are under way.

    Not the pool's own ``map``, which takes all tasks at once and keeps all results.
    """
    waiting: deque[Future[R]] = deque()
    for task in tasks:
        waiting.append(pool.submit(work, task))
        if len(waiting) > 2 * usable_cores():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _handed_out(given: Iterable[Picture]) -> Iterator[tuple[str, str | Path | Image.Image]]:
    """The pictures and their names for errors; what is no path as a copy.

    Iterators of frames give the same image each time, with other pixels, and a file that is not
    read yet is not to be read by two threads: copies are made before the next one is asked for.
    """
    for at, picture in enumerate(given):
        if isinstance(picture, str | Path):
            yield repr(str(picture)), picture
        else:
            yield f"picture {at}", open_picture(picture, f"picture {at}")

"""Decoding images and grey maps."""

import errno
import io
import os
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from focus.config.options import MAX_PIXELS
from focus.config.recipes import Fit
from focus.errors import UnreadableError
from focus.runtime.digests import key_of
from focus.runtime.files import atomic_write

T = TypeVar("T")

BAD_FILES = "bad_files.csv"
"""The files that cannot be decoded, and why (:mod:`focus.data.bad_files`)."""
REPLACED = "it was replaced after it was checked"
# Errors that a network's file system reports now and then of a sound file.
_TEMPORARY = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)
_PAUSE = 0.2  # seconds
_most_pixels = MAX_PIXELS
_LIMIT = "_FOCUS_MAX_PIXELS"  # variable of the environment
_CHROMA, _COLOURED = 32, 0.01  # of 255, between channels; of the pixels


def limit_pixels(most: int) -> None:
    """Decode no image of more pixels from now on, as ``--max-pixels`` says.

    That holds for the processes that this one starts from now on, too.
    """
    global _most_pixels
    _most_pixels = Image.MAX_IMAGE_PIXELS = most  # Pillow's refuses twice that
    os.environ[_LIMIT] = str(most)


# Of the process that started this one, which a process that is not forked has from nowhere else.
if _LIMIT in os.environ:
    limit_pixels(int(os.environ[_LIMIT]))


def pixel_limit() -> int:
    """Return what :func:`limit_pixels` was last given."""
    return _most_pixels


def check_pixels(size: tuple[int, int]) -> None:
    """Raise ValueError for an image of more pixels than that."""
    if size[0] * size[1] > _most_pixels:
        raise ValueError(f"{size[0]} x {size[1]} pixels, more than --max-pixels {_most_pixels}")


def check_regular(path: str | Path) -> None:
    """Raise ValueError for a pipe, a socket or a device, whose content may never come or end.

    Raises OSError if there is nothing of that name.
    """
    kind = os.stat(path).st_mode  # noqa: PTH116 - once for every image
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise ValueError("it is no regular file but a pipe, a socket or a device")


def load_image(path: str | Path, content: bytes | None = None) -> Image.Image:
    """Load an image as 8-bit RGB, fully decoded and turned upright by its EXIF orientation.

    Other modes are converted as Pillow does; alpha is dropped, not composited; 16-bit grey keeps
    its upper byte; of an animation the first frame is taken. ``content`` is that of the file, if it
    has been read. Raises ImageError, naming the file, for whatever cannot be decoded.
    """
    try:
        return as_rgb(_patiently(lambda: _decode(path, content)))
    except Exception as error:  # decoders raise anything, from struct.error to SyntaxError
        raise undecodable(path, error) from error


def read_content(path: str) -> bytes:
    """Return the content of a file, to take its digest and to decode it; raises UnreadableError."""
    try:
        check_regular(path)
        return _patiently(Path(path).read_bytes)
    except (OSError, ValueError) as error:
        raise undecodable(path, error) from error


def read_unchanged(paths: Sequence[str], digest: str) -> list[bytes]:
    """Return the contents of files that :func:`focus.data.known_images.content_hash` has seen.

    digest: What it returned for them. Raises UnreadableError if they are others now, which without
    this would be taken in silence for what was checked.
    """
    contents = [read_content(path) for path in paths]
    if key_of(b"".join(contents)) != digest:
        error = ValueError(REPLACED)
        raise undecodable(paths[0], error) from error
    return contents


def squash(image: Image.Image, side: int) -> npt.NDArray[np.uint8]:
    """Squash an RGB image to ``side`` x ``side`` pixels, bilinear, antialiased: [S, S, 3]."""
    size = (side, side)
    return np.asarray(
        image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)
    )


@dataclass(frozen=True)
class Preprocessing:
    """How a detector takes pictures: S = ``image_size`` pixels a side, by ``fit``.

    fit: "squash" resamples pictures by :func:`squash`, "crop" takes their :func:`middle`.
    grid: Height and width of the CAM, on whose cells human maps and masks are averaged.
    """

    image_size: int
    grid: tuple[int, int]
    fit: Fit = "squash"

    def fitted(self, image: Image.Image) -> npt.NDArray[np.uint8]:
        """Bring an RGB image to ``image_size``, as evaluation does: [S, S, 3]."""
        side = self.image_size
        return squash(image, side) if self.fit == "squash" else middle(np.asarray(image), side)

    def part_seen(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Return the part of a box that :meth:`fitted` shows: all of it, or S x S in its middle.

        A box is left, top, right and bottom. The middle of a smaller one is larger.
        """
        return box if self.fit == "squash" else _middle_of(box, self.image_size)


def _middle_of(box: tuple[int, int, int, int], side: int) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    left += (right - left - side) // 2
    top += (bottom - top - side) // 2
    return left, top, left + side, top + side


def at_least(pixels: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Return [H, W, ...] with no side below ``side``, continued by its reflection on both sides."""
    lacking = [max(0, side - length) for length in pixels.shape[:2]]
    around = [(n - n // 2, n // 2) for n in lacking] + [(0, 0)] * (pixels.ndim - 2)
    return np.pad(pixels, around, mode="reflect") if any(lacking) else pixels


def middle(pixels: npt.NDArray[Any], side: int) -> npt.NDArray[Any]:
    """Return the middle [S, S, ...] of [H, W, ...], S = ``side``, after :func:`at_least`."""
    pixels = at_least(pixels, side)
    height, width = pixels.shape[:2]
    left, top, right, bottom = _middle_of((0, 0, width, height), side)
    return pixels[top:bottom, left:right]


def as_rgb(image: Image.Image) -> Image.Image:
    """Convert a loaded image to 8-bit RGB, as :func:`load_image` does; raises ValueError."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        # Pillow would clip at 255, which turns most 16-bit images white.
        image = Image.fromarray((_sixteen_bit(image) >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("a float image has no defined white")
    elif "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def load_map(
    path: str | Path, content: bytes | None = None, *, coloured: list[str] | None = None
) -> npt.NDArray[np.float32]:
    """Load a grey image, a human map or artefact mask: float32 [H, W] in [0, 1].

    8-bit values are divided by 255, 16-bit ones by 65535, float files are taken as they are; of
    colours the luminance is taken, and the file's path is added to ``coloured``. ``content`` and
    errors are as in :func:`load_image`.
    """
    try:
        image = _patiently(lambda: _decode(path, content))
        if image.mode.startswith("I"):
            return _sixteen_bit(image).astype(np.float32) / np.float32(65535)
        if image.mode == "F":
            values = np.array(image, dtype=np.float32)
            if not (values.min() >= 0 and values.max() <= 1):  # NaN fails too
                raise ValueError("float values outside [0, 1]")
            return values
        if coloured is not None and _is_coloured(image):
            coloured.append(str(path))
        return np.asarray(image.convert("L"), dtype=np.float32) / np.float32(255)
    except Exception as error:
        raise undecodable(path, error) from error


def save_image(image: Image.Image, path: Path, **options: Any) -> None:
    """Write an image whole or not at all, and its folder; options: of Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, flushed=False) as aside:
        image.save(aside, **options)


def is_written(*paths: Path) -> bool:
    """Return whether files are there; a power cut can leave some that are empty."""
    return all(path.is_file() and path.stat().st_size for path in paths)


def turn_upright(image: Image.Image) -> bool:
    """Turn a loaded image by its EXIF orientation; return whether width and height are swapped."""
    if not {"exif", "xmp", "Raw profile type exif"} & image.info.keys():
        return False
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        ImageOps.exif_transpose(image, in_place=True)
    except Exception:  # broken metadata around sound pixels says nothing of orientation
        return False
    return orientation in (5, 6, 7, 8)


def reason(path: str | Path, error: BaseException) -> str:
    """Return what the decoder says of a file, on one line and without the file's name."""
    if isinstance(error, UnidentifiedImageError):  # Pillow names the object in memory, if any
        return "cannot identify image file"
    said = getattr(error, "strerror", None) or str(error) or repr(error)
    return " ".join(said.replace(repr(os.fspath(path)), "").split())


def _decode(path: str | Path, content: bytes | None) -> Image.Image:
    try:
        if content is None:
            check_regular(path)
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            # Whatever the file is called: Pillow would hand it to Ghostscript.
            if image.format == "EPS":
                raise ValueError("PostScript is a program, which is not run")
            check_pixels(image.size)
            image.load()
            turn_upright(image)
            return image
    except Image.DecompressionBombError as error:
        raise ValueError(f"more than --max-pixels {_most_pixels}") from error


def _patiently(read: Callable[[], T]) -> T:
    """Return what ``read`` does, which may fail three times as a network's file system does."""
    for _ in range(3):
        try:
            return read()
        except OSError as error:  # a decoder's has no number
            if error.errno not in _TEMPORARY:
                raise
            time.sleep(_PAUSE)
    return read()


def _is_coloured(image: Image.Image) -> bool:
    """Return whether the channels differ by more than a JPEG's chroma noise or a few pixels."""
    if image.mode in ("1", "L", "LA"):
        return False
    channels = np.asarray(image.convert("RGB"))
    spread = channels.max(-1) - channels.min(-1)
    return bool(np.mean(spread > _CHROMA) > _COLOURED)


def _sixteen_bit(image: Image.Image) -> npt.NDArray[np.int64]:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("more than 16 bits a pixel")
    return values


def undecodable(path: str | Path, error: Exception) -> UnreadableError:
    """Return the error that names a file and says what its decoder said."""
    name = repr(os.fspath(path))
    return UnreadableError(f"Cannot decode {name} ({reason(path, error)}): fix or remove the file.")

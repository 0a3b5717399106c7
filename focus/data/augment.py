"""Random changes of training images, in whole batches of bytes, made to the human map alike.

Cut, crop, shift and flip move the map with its image. Blur and JPEG leave the map as it is; they
are drawn as in Wang et al., *CNN-generated images are surprisingly easy to spot... for now* (2020),
each with probability 1/2, a blur of up to 3 pixels, then a JPEG of quality 30 to 100: at the
image's own size if it is cut, as they do, else at that of the network.

What is drawn for an image depends on its key alone. It is what torchvision's v2 transforms draw
after ``torch.manual_seed``, so that a seed keeps its images from version to version. The changes
are made on the CPU, beside the decoding, or on the device that has the batch.
"""

import math
import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.io import decode_jpeg, encode_jpeg

from focus.config.recipes import CUT
from focus.data.changes import Move, blurred, moved, moved_on_device

AUGMENTATION_VERSION = 2
"""To be raised whenever the same names and key change an image to other bytes than before."""

_SHIFT_PER_64_PIXELS = 2
_CROP_SHARE = (0.5, 1.0)  # of the image's area
_CROP_RATIO = (3 / 4, 4 / 3)  # of width to height
_CROP_ATTEMPTS = 10
_BLUR_SIGMA = (0.1, 3.0)  # pixels
_QUALITY = (30, 100)


class Draw(NamedTuple):
    """What is drawn for an image.

    move: The crop, shift and flip. sigma: The standard deviation of the blur in pixels, 0 for no
    blur. quality: The quality of the JPEG, 0 for no JPEG. cut: Top and left of the part of S x S
    pixels that is cut out of an image at its own size.
    """

    move: Move
    sigma: float
    quality: int
    cut: tuple[int, int]


class Augmentation:
    """The changes that ``names`` stand for, to images of ``size`` x ``size`` pixels.

    cut: Take a random part of a larger image, as it is. crop: Stretch a part of at least half of
    the area to the whole. shift: Move by up to 2 pixels per 64 in each direction, the border
    repeated. flip: Mirror left and right, with probability 1/2.
    """

    def __init__(self, names: Sequence[str], size: int) -> None:
        self.names, self.size = tuple(names), size
        self.cuts = CUT in self.names
        """Whether images come at their own size and go through :meth:`cut` first."""
        self._moves = any(name in self.names for name in ("crop", "shift", "flip"))
        self._reach = round(_SHIFT_PER_64_PIXELS * size / 64)

    @property
    def can_end_on_device(self) -> bool:
        """Tell whether a device can make the changes to a batch; it cannot if JPEG comes last."""
        return self.cuts or "jpeg" not in self.names

    def draw(self, key: Sequence[int], height: int, width: int) -> Draw:
        """Draw the changes of an image of so many pixels.

        key: The seed, the epoch, and a number made of the row and of how often the epoch has had
        it. They alone decide what is drawn; the global random state is neither read nor changed.
        """
        random = _Random(key)
        if not self.cuts:  # the paints behind the moves, where they have less to paint
            move = self._draw_move(random)
            return Draw(move, self._draw_sigma(random), self._draw_quality(random), (0, 0))
        sigma, quality = self._draw_sigma(random), self._draw_quality(random)
        top = random.integer(height - self.size + 1) if height > self.size else 0
        left = random.integer(width - self.size + 1) if width > self.size else 0
        return Draw(self._draw_move(random), sigma, quality, (top, left))

    def cut(self, image: Tensor, draw: Draw) -> Tensor:
        """Paint an image [3,H,W] uint8 at its own size; return the part [3,S,S] of it."""
        if draw.sigma:
            image = blurred(image[None], torch.tensor([draw.sigma]))[0]
        if draw.quality:
            image = compressed(image, draw.quality)
        return self.part(image, draw)

    def part(self, values: Tensor, draw: Draw) -> Tensor:
        """Return the part [...,S,S] that is cut out of an image or of its map [...,H,W]."""
        top, left = draw.cut
        return values[..., top : top + self.size, left : left + self.size]

    def change(self, images: Tensor, draws: Sequence[Draw]) -> Tensor:
        """Return images [B,3,S,S] uint8 changed on the CPU, but for what :meth:`cut` has done.

        The colours of a pixel lie together in memory. The images may be changed in place.
        """
        if self._moves:
            images = moved(images, [draw.move for draw in draws])
        if self.cuts:
            return images
        # One at a time, which stays in the processor's cache, and needs no copies of a selection.
        for image, draw in zip(images, draws, strict=True):
            if draw.sigma:
                image.copy_(blurred(image[None], torch.tensor([draw.sigma]))[0])
            if draw.quality:
                image.copy_(compressed(image, draw.quality))
        return images

    def change_on_device(self, images: Tensor, table: Tensor) -> Tensor:
        """Return what :meth:`change` does, but for rounding, on the device that has the images.

        table: The draws, as :func:`as_table` makes them.
        """
        *move, sigma = table.unbind(1)
        if self._moves:
            images = moved_on_device(images, Move(*move))
        if "blur" in self.names and not self.cuts:
            images = blurred(images, sigma)
        return images

    def _draw_move(self, random: "_Random") -> Move:
        move = Move.none(self.size)
        if "crop" in self.names:
            move = _draw_crop(random, self.size)
        if "shift" in self.names and self._reach:
            down = random.integer(2 * self._reach + 1) - self._reach
            right = random.integer(2 * self._reach + 1) - self._reach
            move = move._replace(down=down, right=right)
        if "flip" in self.names:
            move = move._replace(flip=random.uniform() < 0.5)
        return move

    def _draw_sigma(self, random: "_Random") -> float:
        if "blur" not in self.names or random.uniform() >= 0.5:
            return 0.0
        return random.uniform(*_BLUR_SIGMA)

    def _draw_quality(self, random: "_Random") -> int:
        if "jpeg" not in self.names or random.uniform() >= 0.5:
            return 0
        low, high = _QUALITY
        return low + random.integer(high - low + 1)


def as_table(draws: Sequence[Draw]) -> Tensor:
    """Return the moves and sigmas of a batch [B, 8] float32, which go to a device with it."""
    rows = [(*draw.move, draw.sigma) for draw in draws]
    return torch.tensor(rows, dtype=torch.float32, device="cpu")


def compressed(image: Tensor, quality: int) -> Tensor:
    """Return an image [3,H,W] uint8 as it is after a JPEG of that quality."""
    decoded: Tensor = decode_jpeg(encode_jpeg(image, quality=quality))
    return decoded


def _draw_crop(random: "_Random", size: int) -> Move:
    """Draw a part of S x S pixels by share of the area and ratio; the whole if none fits."""
    low_ratio, high_ratio = (math.log(ratio) for ratio in _CROP_RATIO)
    for _ in range(_CROP_ATTEMPTS):
        area = size * size * random.uniform(*_CROP_SHARE)
        ratio = math.exp(random.uniform(low_ratio, high_ratio))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if width <= size and height <= size:
            top, left = random.integer(size - height + 1), random.integer(size - width + 1)
            return Move(top, left, height, width)
    return Move.none(size)


class _Twister(threading.local):
    """NumPy's Mersenne twister, one for each thread: to make one takes as long as to draw."""

    def __init__(self) -> None:
        self.words = np.random.MT19937()
        self.state = np.random.RandomState(self.words)


_twister = _Twister()


class _Random:
    """The numbers that torch's generator on a CPU gives after ``torch.manual_seed``.

    Those calls of torch take longer than a small image is changed. The generator is the Mersenne
    twister, which NumPy has, too.
    """

    _WORDS = 32  # more than an image needs: 20 for ten attempts to crop, 2 for its place, 7 others

    def __init__(self, key: Sequence[int]) -> None:
        (state,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
        _twister.state.seed(int(state) & 0xFFFFFFFF)  # the bits that torch takes
        self._words = iter(_twister.words.random_raw(self._WORDS).tolist())

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """Draw a float32 from [low, high), as ``torch.empty(1).uniform_(low, high)``."""
        low, high = float(np.float32(low)), float(np.float32(high))
        share = (next(self._words) & 0xFFFFFF) / 2**24
        return float(np.float32(share * (high - low) + low))

    def integer(self, stop: int) -> int:
        """Draw from 0 to ``stop`` - 1, as ``torch.randint(stop, ())``."""
        return int(next(self._words)) % stop

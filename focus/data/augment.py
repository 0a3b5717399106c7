"""Change training images at random, in whole batches of bytes, and their human maps alike.

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
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, embedding_bag, interpolate
from torchvision.io import decode_jpeg, encode_jpeg

from focus.config.recipes import CUT

AUGMENTATION_VERSION = 2
"""To be raised whenever the same names and key change an image to other bytes than before."""

_SHIFT_PER_64_PIXELS = 2
_CROP_SHARE = (0.5, 1.0)  # of the image's area
_CROP_RATIO = (3 / 4, 4 / 3)  # of width to height
_CROP_ATTEMPTS = 10
_BLUR_SIGMA = (0.1, 3.0)  # pixels
_QUALITY = (30, 100)
_REACH_OF_BLUR = 9  # pixels, three of the largest standard deviation


class Move(NamedTuple):
    """A crop, then a shift, then a flip of an image of S x S pixels; of a batch: tensors [B].

    top, left, height, width: The part that is stretched to S x S, bilinearly. down, right: How far
    the pixel that is taken lies from that which it replaces; beyond the border the border is
    repeated. flip: Whether the result is mirrored left and right.
    """

    top: Any
    left: Any
    height: Any
    width: Any
    down: Any = 0
    right: Any = 0
    flip: Any = False

    @classmethod
    def none(cls, side: int) -> Self:
        """Return the move that leaves an image as it is."""
        return cls(0, 0, side, side)


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
        self.names = tuple(names)
        self.size = size
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
        if not self.cuts:  # blur and JPEG come after the moves, at the network's size
            move = self._draw_move(random)
            return Draw(move, self._draw_sigma(random), self._draw_quality(random), (0, 0))

        sigma = self._draw_sigma(random)
        quality = self._draw_quality(random)
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


def _draw_crop(random: "_Random", size: int) -> Move:
    """Draw a part of S x S pixels by share of the area and ratio; the whole if none fits."""
    low_ratio, high_ratio = (math.log(ratio) for ratio in _CROP_RATIO)
    for _ in range(_CROP_ATTEMPTS):
        area = size * size * random.uniform(*_CROP_SHARE)
        ratio = math.exp(random.uniform(low_ratio, high_ratio))
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if width <= size and height <= size:
            top = random.integer(size - height + 1)
            left = random.integer(size - width + 1)
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


def moved(images: Tensor, moves: Sequence[Move]) -> Tensor:
    """Return images [B,3,S,S] uint8 moved, on the CPU: in new memory, of the same order.

    The colours of a pixel lie together in memory.
    """
    side = images.shape[2]
    result = torch.empty_like(images)
    pixels = result.permute(0, 2, 3, 1).numpy()
    for image, move, changed in zip(images.split(1), moves, pixels, strict=True):
        bottom, end = move.top + move.height, move.left + move.width
        part = image[..., move.top : bottom, move.left : end]
        # The smaller part is mirrored, not the whole, and the shift with it.
        if move.flip:
            part = part.flip(3)
        if part.shape[2:] != (side, side):
            # The part is never larger: nothing is averaged. With "antialias" it has a fast kernel.
            part = interpolate(part, (side, side), mode="bilinear", antialias=True)

        source = part[0].permute(1, 2, 0).numpy()
        _shift(source, move.down, -move.right if move.flip else move.right, changed)
    return result


def _shift(source: NDArray[Any], down: int, right: int, out: NDArray[Any]) -> None:
    """Write ``source[y + down, x + right]`` to ``out[y, x]``, both [S,S,3], borders repeated."""
    side = len(out)
    top, bottom = max(0, -down), side - max(0, down)
    left, end = max(0, -right), side - max(0, right)
    out[top:bottom, left:end] = source[top + down : bottom + down, left + right : end + right]
    if left:
        out[top:bottom, :left] = out[top:bottom, left : left + 1]
    elif end < side:
        out[top:bottom, end:] = out[top:bottom, end - 1 : end]
    if top:
        out[:top] = out[top]
    elif bottom < side:
        out[bottom:] = out[bottom - 1]


def moved_on_device(images: Tensor, move: Move) -> Tensor:
    """Return images [B,3,S,S] uint8 moved on their device; the fields of ``move`` are [B] there."""
    number = torch.arange(len(images), device=images.device)[:, None, None]
    pixels = images.permute(0, 2, 3, 1)
    rows, columns = _taps(move, images.shape[2])

    def along_columns(row: Tensor) -> Tensor:
        """Return the pixels [B, S, S, 3] of these rows [B, S], each a mean of two columns."""
        lower, upper = (
            pixels[number, row[:, :, None], column[:, None, :]].float()
            for column in (columns.lower, columns.upper)
        )
        return _between(lower, upper, columns.share[:, None, :, None])

    lower, upper = along_columns(rows.lower), along_columns(rows.upper)
    values = _between(lower, upper, rows.share[:, :, None, None])
    return values.round().to(torch.uint8).permute(0, 3, 1, 2)


def moved_to_grid(maps: Tensor, moves: Sequence[Move], grid: tuple[int, int]) -> Tensor:
    """Return maps [N,S,S] float32, moved as their images are and averaged over the cells of a grid.

    The result [N,Hg,Wg] has the same bits in whatever batch a map is: products and sums are apart.
    """
    table = torch.tensor(moves, dtype=torch.float32, device="cpu")
    rows, columns = _taps(Move(*table.unbind(1)), maps.shape[1])
    height, width = grid
    by_row = adaptive_avg_pool2d(_along_rows(maps, rows), (height, maps.shape[2]))
    by_column = adaptive_avg_pool2d(_along_rows(by_row.mT, columns), (width, height))
    return by_column.mT


class _Taps(NamedTuple):
    """The two rows, or columns, between which each of the result lies: [B, S] each.

    share: The weight of ``upper`` in [0, 1); that of ``lower`` is the rest.
    """

    lower: Tensor
    upper: Tensor
    share: Tensor


def _taps(move: Move, side: int) -> tuple[_Taps, _Taps]:
    """Return where the rows and the columns of a batch are taken from."""
    row = torch.arange(side, dtype=torch.float32, device=move.top.device)
    # A flip comes last, so the first column of the result is the last of what was shifted.
    column = torch.where(move.flip[:, None] > 0, side - 1 - row, row)
    return (
        _taps_along(row, move.down, move.top, move.height, side),
        _taps_along(column, move.right, move.left, move.width, side),
    )


def _taps_along(index: Tensor, shift: Tensor, start: Tensor, length: Tensor, side: int) -> _Taps:
    """Return where ``index`` [S] or [B, S] of the result is taken from, along one axis."""
    shift, start, length = (values[:, None] for values in (shift, start, length))
    stretched = (index + shift).clamp(0, side - 1)
    in_part = ((stretched + 0.5) * (length / side) - 0.5).clamp(min=0)
    lower = torch.minimum(in_part.floor(), length - 1)
    upper = torch.minimum(lower + 1, length - 1)
    return _Taps((start + lower).long(), (start + upper).long(), in_part - lower)


def _along_rows(values: Tensor, taps: _Taps) -> Tensor:
    """Return [N, S, W] of values [N, L, W], each row a mean of two."""
    number = torch.arange(len(values))[:, None]
    return _between(values[number, taps.lower], values[number, taps.upper], taps.share[:, :, None])


def _between(lower: Tensor, upper: Tensor, share: Tensor) -> Tensor:
    # Not torch.lerp, which fuses product and sum in whole vectors, and not behind the last of them.
    return lower * (1 - share) + upper * share


def blurred(images: Tensor, sigmas: Tensor) -> Tensor:
    """Blur images [B,3,H,W] uint8 by Gaussians cut off 9 pixels away, the border reflected.

    sigmas: The standard deviations [B] in pixels; 0 leaves an image as it is. Sums are float32 and
    rounded once, to bytes whose colours lie together in memory. Each pixel's sum has its own fixed
    order, so that no bit depends on the batch or on the number of threads.
    """
    n_images, _, height, width = images.shape
    offset = torch.arange(-_REACH_OF_BLUR, _REACH_OF_BLUR + 1, device=images.device)
    # At the least sigma all but the middle is 0 in float32.
    weights = torch.exp(-0.5 * (offset / sigmas.clamp(min=0.01)[:, None]) ** 2)
    weights = weights / weights.sum(1, keepdim=True)

    rows = images.permute(0, 2, 3, 1).reshape(n_images, height, width * 3).float()
    by_row = _filtered(rows, weights)
    columns = by_row.mT.reshape(n_images, width, 3 * height)
    by_column = _filtered(columns, weights)

    # Bytes by way of int16, for which the CPU has vectors.
    rounded = by_column.add_(0.5).to(torch.int16).to(torch.uint8)
    pixels = rounded.view(n_images, width * 3, height).mT.contiguous()
    return pixels.view(n_images, height, width, 3).permute(0, 3, 1, 2)


def _filtered(rows: Tensor, weights: Tensor) -> Tensor:
    """Replace each row of [B, L, D] by the weighted sum of those around it; weights: [B, K]."""
    n_images, length, _ = rows.shape
    first = torch.arange(n_images, dtype=torch.int32, device=rows.device) * length
    summed = (first[:, None, None] + _neighbours(length, rows.device)).flatten(0, 1)
    by_row = weights[:, None, :].expand(-1, length, -1).flatten(0, 1)
    sums = embedding_bag(summed, rows.flatten(0, 1), mode="sum", per_sample_weights=by_row)
    return sums.view(rows.shape)


@lru_cache(maxsize=8)
def _neighbours(length: int, device: torch.device) -> Tensor:
    """Return the rows [L, K] int32 around each of so many, reflected at the border."""
    row = torch.arange(length, dtype=torch.int32, device=device)[:, None]
    offset = torch.arange(-_REACH_OF_BLUR, _REACH_OF_BLUR + 1, dtype=torch.int32, device=device)
    neighbour = (row + offset).abs()
    return torch.minimum(neighbour, 2 * (length - 1) - neighbour)


def compressed(image: Tensor, quality: int) -> Tensor:
    """Return an image [3,H,W] uint8 as it is after a JPEG of that quality."""
    decoded: Tensor = decode_jpeg(encode_jpeg(image, quality=quality))
    return decoded

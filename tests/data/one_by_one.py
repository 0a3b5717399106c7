"""The oracle of :mod:`focus.data.augment`: one image at a time, by torchvision's v2 transforms."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import v2
from torchvision.tv_tensors import Image, wrap

from focus.config.recipes import CUT

_SHIFT_PER_64_PIXELS = 2
_CROP_SCALE = (0.5, 1.0)  # share of the image's area
_BLUR_SIGMA, _BLUR_WIDTH = (0.1, 3.0), 19  # three sigmas on either side
_QUALITY = (30, 100)
_BITS = 15  # of the weights of a blur: with twice as many, and 8 of a pixel, a sum fits in 31


class Augmentation:
    """The changes that ``names`` stand for, to images of ``size`` x ``size`` pixels.

    cut: Take a random part of a larger image, as it is. crop: Stretch a part of at least half of
    the area to the whole. shift: Move by up to 2 pixels per 64 in each direction, the border
    repeated. flip: Mirror left and right, with probability 1/2.
    """

    def __init__(self, names: tuple[str, ...], size: int) -> None:
        reach = round(_SHIFT_PER_64_PIXELS * size / 64)
        moves = {
            CUT: v2.RandomCrop(size),
            "crop": v2.RandomResizedCrop(size, scale=_CROP_SCALE, antialias=True),
            "shift": _Shift(size, padding=reach, padding_mode="edge"),
            "flip": v2.RandomHorizontalFlip(),
        }
        self._paints = {
            "blur": v2.RandomApply([_Blur(_BLUR_WIDTH, _BLUR_SIGMA)], p=0.5),
            "jpeg": v2.RandomApply([v2.JPEG(_QUALITY)], p=0.5),
        }
        # Paints before a cut, else behind the moves, where they have less to paint.
        ordered = sorted(names, key=lambda name: (name in moves) == (CUT in names))
        self._steps = [(name, {**moves, **self._paints}[name]) for name in ordered]

    def __call__(
        self, image: Tensor, heat: Tensor | None, key: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor | None]:
        """Change an image [3,H,W] uint8 and its map [1,H,W] float32 in [0, 1] alike, to [.,S,S].

        key: The seed, the epoch, and a number made of the row and of how often the epoch has had
        it. They alone decide what is drawn; the global random state stays as it is.
        """
        (state,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            # The CPU's alone, where all is drawn: torch.manual_seed seeds every kind of device,
            # which costs 0.2 ms an image and, on a GPU, seeds the network's dropout again.
            torch.default_generator.manual_seed(int(state))
            image, heat = Image(image), None if heat is None else Image(heat)
            for name, step in self._steps:
                if name in self._paints:
                    image = Image(step(image))  # beside a map, a plain tensor is not moved
                else:
                    image, heat = step(image, heat)
        # Plain tensors: a subclass would send every later call through Python.
        return image.as_subclass(Tensor), None if heat is None else heat.as_subclass(Tensor)


class _Shift(v2.RandomCrop):  # type: ignore[misc]
    """torchvision's, which pads uint8 as float32."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        top, left, height, width = (params[name] for name in ("top", "left", "height", "width"))
        padded = pad(inpt.as_subclass(Tensor), params["padding"], mode="replicate")
        return wrap(padded[..., top : top + height, left : left + width], like=inpt)


class _Blur(v2.GaussianBlur):  # type: ignore[misc]
    """torchvision's, which sums over the whole square of the kernel."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        return blurred(inpt.as_subclass(Tensor), params["sigma"][0], self.kernel_size[0] // 2)


def blurred(image: Tensor, sigma: float, reach: int) -> Tensor:
    """Blur [3,S,S] uint8 by a Gaussian that is cut off ``reach`` pixels away, the border reflected.

    sigma: The standard deviation in pixels. Rows, then columns are blurred, in integers, so that no
    rounding depends on the number of threads.
    """
    offset = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offset / sigma) ** 2)
    taps = np.rint(2**_BITS * weights / weights.sum()).astype(int)
    taps[reach] += 2**_BITS - taps.sum()
    first, *others = taps[taps > 0].tolist()  # in the middle, so an odd number
    values = pad(image, [len(others) // 2] * 4, mode="reflect").to(torch.int32)
    # The first direction leaves 8 bits behind the point, the second none.
    for dim, bits in (1, _BITS - 8), (2, _BITS + 8):
        size = image.shape[dim]
        half = torch.tensor(2 ** (bits - 1), dtype=torch.int32, device="cpu")
        total = torch.add(half, values.narrow(dim, 0, size), alpha=first)
        for start, tap in enumerate(others, start=1):
            total.add_(values.narrow(dim, start, size), alpha=tap)
        values = total.bitwise_right_shift_(bits)
    return values.to(torch.uint8)

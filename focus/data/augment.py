"""Random changes of training images, made to the human map alike: torchvision's v2 transforms.

Crop, shift and flip move the map with its image. Blur and JPEG leave the map as it is; they are
drawn as in Wang et al., *CNN-generated images are surprisingly easy to spot... for now* (2020),
each with probability 1/2, a blur of up to 3 pixels, then a JPEG of quality 30 to 100; but at the
size of the network, where they change the image at its own.
"""

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.tv_tensors import Image

_SHIFT_PER_64_PIXELS = 2
_CROP_SCALE = (0.5, 1.0)  # share of the image's area
_BLUR_SIGMA, _BLUR_WIDTH = (0.1, 3.0), 19  # three sigmas on either side
_QUALITY = (30, 100)


class Augmentation:
    """The changes that ``names`` stand for, on images of ``size`` x ``size`` pixels.

    crop: a part of at least half of the area, stretched to the whole. shift: by up to 2 pixels per
    64 in each direction, the border repeated. flip: horizontal, with probability 1/2.
    """

    def __init__(self, names: tuple[str, ...], size: int) -> None:
        reach = round(_SHIFT_PER_64_PIXELS * size / 64)
        moves = {
            "crop": v2.RandomResizedCrop(size, scale=_CROP_SCALE, antialias=True),
            "shift": v2.RandomCrop(size, padding=reach, padding_mode="edge"),
            "flip": v2.RandomHorizontalFlip(),
        }
        paints = {
            "blur": v2.RandomApply([v2.GaussianBlur(_BLUR_WIDTH, _BLUR_SIGMA)], p=0.5),
            "jpeg": v2.RandomApply([v2.JPEG(_QUALITY)], p=0.5),
        }
        self._moves = [moves[name] for name in names if name in moves]
        self._paints = [paints[name] for name in names if name in paints]

    def __call__(
        self, image: Tensor, heat: Tensor | None, key: tuple[int, int, int]
    ) -> tuple[Tensor, Tensor | None]:
        """Change an image [3,S,S] uint8 and its map [1,S,S] float32 in [0, 1] alike.

        key: seed, epoch, and a number of the row and of how often the epoch had it before. They
        alone decide what is drawn; the global random state stays as it is.
        """
        (state,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            # The CPU's alone, where all is drawn: torch.manual_seed seeds every kind of device,
            # which costs 0.2 ms an image and, on a GPU, seeds the network's dropout again.
            torch.default_generator.manual_seed(int(state))
            moved = (Image(image), None if heat is None else Image(heat))
            for move in self._moves:
                moved = move(*moved)
            image, heat = moved
            for paint in self._paints:
                image = paint(image)
        # Plain tensors: a subclass would send every later call through Python.
        return image.as_subclass(Tensor), None if heat is None else heat.as_subclass(Tensor)

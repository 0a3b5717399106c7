"""From a manifest to batches: images, targets and human maps on the CAM's grid."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import Dataset, default_collate

from focus.data.images import load_image, load_map
from focus.data.manifest import Manifest
from focus.data.maps import human_map, resized

Augment = Literal["none", "flip-shift"]

UNLABELLED = -1
_SHIFT_PER_64_PIXELS = 2


class Batch(NamedTuple):
    """What the model and the loss take.

    An item of :class:`FaceDataset` has the same fields without the leading dimension.
    """

    images: Tensor
    """[B, 3, S, S] float32, RGB, normalised by mean and standard deviation."""
    target: Tensor
    """[B] int64: 0 real, 1 synthetic, -1 unlabelled."""
    saliency: Tensor
    """[B, Hg, Wg] float32 in [0, 1], the human map on the CAM's grid; zeros where there is none."""
    saliency_mask: Tensor
    """[B] bool: whether there is a human map."""
    index: Tensor  # type: ignore[assignment]  # tuple.index is not needed here
    """[B] int64: the sample's row in the manifest."""


class FaceDataset(Dataset[Batch]):
    """The images of a manifest, decoded on demand.

    Images are squashed to ``image_size`` x ``image_size`` (bilinear, antialiased), not cropped, as
    CYBORG does. A human map is squashed by area, augmented with its image, averaged over the cells
    of ``grid`` (height, width), then stretched to [0, 1]; one that is constant there counts as
    none.

    ``augment="flip-shift"``: a horizontal flip with probability 1/2 and a shift by up to 2 pixels
    per 64 in each direction, the border repeated. It depends on seed, epoch and manifest row only,
    so neither the order nor the number of workers changes it.

    An item whose file cannot be decoded raises InputError with the file's name.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        image_size: int,
        grid: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augment = "none",
        seed: int = 0,
    ) -> None:
        self.manifest = manifest
        self.image_size = image_size
        self.grid = grid
        self.augment = augment
        self.seed = seed
        # x * scale + offset = (x / 255 - mean) / std
        std_column = torch.tensor(std, dtype=torch.float32).view(3, 1, 1)
        self._scale = 1 / (255 * std_column)
        self._offset = -torch.tensor(mean, dtype=torch.float32).view(3, 1, 1) / std_column
        # In shared memory, so that workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation the next items get, in running workers too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> Batch:
        sample = self.manifest[index]
        pixels = np.asarray(self._squash(load_image(sample.path)))
        heat = None
        if sample.map_path is not None:
            heat = resized(human_map(sample.map_path), (self.image_size, self.image_size))
        if self.augment == "flip-shift":
            rows, columns = self._draw(index)
            pixels = pixels.take(rows, 0).take(columns, 1)
            heat = None if heat is None else heat.take(rows, 0).take(columns, 1)

        images = torch.tensor(pixels).permute(2, 0, 1).to(torch.float32).contiguous()
        images.mul_(self._scale).add_(self._offset)
        saliency = None if heat is None else _stretched(_cell_means(heat, self.grid))
        return Batch(
            images=images,
            target=torch.tensor(UNLABELLED if sample.label is None else sample.label),
            saliency=torch.zeros(self.grid) if saliency is None else saliency,
            saliency_mask=torch.tensor(saliency is not None),
            index=torch.tensor(index),
        )

    def _squash(self, image: Image.Image) -> Image.Image:
        size = (self.image_size, self.image_size)
        return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)

    def _draw(self, index: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """For each row and each column of the augmented image the one it is taken from."""
        reach = round(_SHIFT_PER_64_PIXELS * self.image_size / 64)
        generator = np.random.default_rng((self.seed, int(self._epoch), index))
        down, right = generator.integers(-reach, reach, size=2, endpoint=True)
        pixels = np.arange(self.image_size)
        rows = (pixels - down).clip(0, self.image_size - 1)
        columns = (pixels - right).clip(0, self.image_size - 1)
        return rows, columns[::-1] if generator.random() < 0.5 else columns


def collate(items: Sequence[Batch]) -> Batch:
    """Stack items into a batch, in shared memory when a worker does it."""
    batch: Batch = default_collate(list(items))
    return batch


def artefact_coverage(mask_path: str | Path, grid: tuple[int, int]) -> npt.NDArray[np.float32]:
    """The share of each cell of ``grid`` that the artefact mask covers, float32 [Hg, Wg] in [0, 1].

    A pixel of the mask is covered from half of full white on. Raises InputError, naming the file,
    if it cannot be decoded.
    """
    covered = (load_map(mask_path) >= 0.5).astype(np.float32)
    return _cell_means(covered, grid).numpy()


def _cell_means(values: npt.NDArray[np.float32], grid: tuple[int, int]) -> Tensor:
    """[H, W] to [Hg, Wg] by area: torch's adaptive average."""
    return adaptive_avg_pool2d(torch.tensor(values)[None], grid)[0]


def _stretched(heat: Tensor) -> Tensor | None:
    """Min-max normalised; None for a flat map, whose differences are those of rounding."""
    low, high = heat.aminmax()
    if high - low <= 64 * torch.finfo(heat.dtype).eps * high:
        return None
    return (heat - low) / (high - low)

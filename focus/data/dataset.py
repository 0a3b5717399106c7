"""From a manifest to batches: images, targets and human maps on the CAM's grid."""

import gc
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from focus.data.augment import Augmentation
from focus.data.images import load_image, load_map
from focus.data.manifest import Manifest
from focus.data.maps import human_map, resized
from focus.errors import LostWorkerError
from focus.kernels.reference import map_entropy
from focus.kernels.types import FLAT_STEPS
from focus.runtime.progress import progress_bar

UNLABELLED = -1
KEPT_BYTES = 64 * 2**20
"""Limit of one process."""

# What torch says of a worker that is gone, or of memory that it cannot share.
_LOST = re.compile(
    "DataLoader worker .pid|shared memory|unable to mmap|Too many open files|Pin memory thread"
    "|can't start new thread"
)

Perturb = Callable[[Image.Image, int], Image.Image]
"""Another image for an image, given its row of the manifest."""


class Batch(NamedTuple):
    """A batch, as the model and the loss take it.

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
    token: Tensor = torch.empty(0)
    """[B, C], the class token of cached features if it is pooled; else [B, 0]."""

    def to(
        self,
        device: torch.device | str,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> "Batch":
        """Move to a device, to a GPU without a wait; the images in a memory format."""
        # On Apple's the memory may be another's before such a copy has begun (pytorch #83015).
        without_wait = torch.device(device).type == "cuda"
        moved = Batch(*(field.to(device, non_blocking=without_wait) for field in self))
        return moved._replace(images=moved.images.contiguous(memory_format=memory_format))


class FaceDataset(Dataset[Batch]):
    """The images of a manifest, decoded on demand; InputError names a file that cannot be.

    Images are squashed to ``image_size`` x ``image_size`` (bilinear, antialiased), not cropped, as
    CYBORG does. A human map is squashed by area, augmented with its image, averaged over the cells
    of ``grid`` (height, width), then stretched to [0, 1]; one that is constant there counts as
    none.

    augment: names of :mod:`focus.data.augment`; seed, epoch and row alone decide what is drawn.
    perturb: changes the decoded image, at the size that the file has, not its map. keep: each is
    decoded once, if all with their maps take at most ``KEPT_BYTES``, as the demo set's do.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        image_size: int,
        grid: tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        augment: tuple[str, ...] = (),
        seed: int = 0,
        perturb: Perturb | None = None,
        keep: bool = False,
    ) -> None:
        # Arrays: each look at an object changes its count of references, and so, page by page, a
        # worker would get a copy of the whole manifest, which it shares at first.
        self._paths = _encoded(sample.path for sample in manifest)
        self._human_maps = _encoded(sample.human_map or "" for sample in manifest)
        labels = (UNLABELLED if sample.label is None else sample.label for sample in manifest)
        self._labels = np.fromiter(labels, np.int8, len(manifest))
        self.image_size = image_size
        self.grid = grid
        self.augment = Augmentation(augment, image_size) if augment else None
        self.seed = seed
        self._perturb = perturb
        size = image_size**2 * (3 + 4 * any(sample.human_map for sample in manifest))
        self._keep = keep and len(manifest) * size <= KEPT_BYTES
        self._kept: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._normalise = Normalise(mean, std)
        # In shared memory, so that workers that outlive an epoch see the next one.
        self._epoch = torch.zeros((), dtype=torch.int64, device="cpu")
        self._epoch.share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation the next items get, in running workers too."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self._labels)

    def mean_map_entropy(self, *, progress: bool = True) -> float | None:
        """Return the mean entropy in [0, 1] of the human maps on the grid; None without any."""
        found = []
        with_map = np.flatnonzero(self._human_maps)
        for row in progress_bar(with_map, "entropy of the maps", unit="map", disable=not progress):
            saliency = self._saliency(self._heat(row))
            if saliency is not None:
                found.append(float(map_entropy(saliency.double().flatten())))
        return float(np.mean(found)) if found else None

    def __getitem__(self, index: int | tuple[int, int]) -> Batch:
        """Return the image of a row; of (row, times that the epoch had it), augmented again."""
        row, again = index if isinstance(index, tuple) else (index, 0)
        pixels, heat = self._load(row)
        if self.augment is not None:
            pixels, heat = self.augment(pixels, heat, self.draw(row, again))
        saliency = self._saliency(heat)
        return Batch(
            images=self._normalise(pixels),
            target=torch.tensor(int(self._labels[row])),
            saliency=torch.zeros(self.grid) if saliency is None else saliency,
            saliency_mask=torch.tensor(saliency is not None),
            index=torch.tensor(row),
        )

    def draw(self, row: int, again: int) -> tuple[int, int, int]:
        """Return the key that decides how an image is augmented."""
        return self.seed, int(self._epoch), row + again * len(self)

    def _load(self, row: int) -> tuple[Tensor, Tensor | None]:
        """Return the image [3, S, S] uint8 and its map [1, S, S]; not to be changed in place."""
        if row in self._kept:
            return self._kept[row]
        image = load_image(_decoded(self._paths[row]))
        if self._perturb is not None:
            image = self._perturb(image, row)
        found = squashed(image, self.image_size), self._heat(row)
        if self._keep:
            self._kept[row] = found
        return found

    def _heat(self, row: int) -> Tensor | None:
        """Return the human map at the images' size, [1, S, S]."""
        path = _decoded(self._human_maps[row])
        size = (self.image_size, self.image_size)
        return torch.tensor(resized(human_map(path), size))[None] if path else None

    def _saliency(self, heat: Tensor | None) -> Tensor | None:
        """Return a map on the grid in [0, 1]; None for a flat one, which differs by rounding."""
        if heat is None:
            return None
        cells = _cell_means(heat, self.grid)
        low, high = cells.aminmax()
        if high - low <= FLAT_STEPS * torch.finfo(cells.dtype).eps * high:
            return None
        return (cells - low) / (high - low)


def _encoded(texts: Iterable[str]) -> npt.NDArray[np.bytes_]:
    return np.array([text.encode("utf-8", "surrogateescape") for text in texts], dtype=np.bytes_)


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def squashed(image: Image.Image, side: int) -> Tensor:
    """Squash an RGB image to uint8 [3, S, S], S = ``side`` (bilinear, antialiased)."""
    size = (side, side)
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    return torch.tensor(np.asarray(image), device="cpu").permute(2, 0, 1)


class Normalise:
    """Normalise pixels [..., 3, S, S] in 0..255 to float32; those that are float32 in place."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        # x * scale + offset = (x / 255 - mean) / std
        mean_column, std_column = (
            torch.tensor(values, dtype=torch.float32, device="cpu").view(3, 1, 1)
            for values in (mean, std)
        )
        self._scale = 1 / (255 * std_column)
        self._offset = -mean_column / std_column

    def __call__(self, pixels: Tensor) -> Tensor:
        images = pixels.to(torch.float32).contiguous()
        return images.mul_(self._scale).add_(self._offset)


def worker_options(workers: int) -> dict[str, Any]:
    """Return the options of a DataLoader that say how its workers start.

    On Linux they are forked, which shares the manifest, also where Python 3.14 would import torch
    anew. A fork may follow CUDA's start, since a worker has tensors of the CPU only. Elsewhere they
    are spawned.
    """
    forked = workers > 0 and sys.platform == "linux"
    return {"worker_init_fn": _begin, "multiprocessing_context": "fork" if forked else None}


def _begin(_: int) -> None:
    """Leave the memory that a worker shares with its parent to the parent's garbage collector."""
    gc.freeze()
    if sys.platform == "win32":  # without masks, see _signals_held
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def load_batches(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches of a loader; its workers end with it, unless they are persistent.

    Raises:
        LostWorkerError: a worker was lost.
    """
    iterator: Iterator[Any] | None = None
    try:
        with name_lost_workers():
            with _signals_held():
                iterator = iter(loader)
            yield from iterator
    finally:
        if not loader.persistent_workers:
            end_workers(iterator)


@contextmanager
def _signals_held() -> Iterator[None]:
    """Start workers that no SIGINT or SIGTERM ends: they inherit the mask.

    A terminal, torchrun or a cluster signals a whole group of processes: the parent then needs its
    workers to finish the step and save.
    """
    if sys.platform == "win32":
        yield
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def end_workers(iterator: Iterator[Any] | None) -> None:
    """End the workers of a loader's iterator.

    They do not get SIGTERM, by which multiprocessing would end them when Python exits.
    """
    if isinstance(iterator, _MultiProcessingDataLoaderIter):
        iterator._shutdown_workers()


@contextmanager
def name_lost_workers() -> Iterator[None]:
    """Turn torch's errors of workers that are killed, or lack shared memory, into one sentence.

    torch may raise them wherever the program is: its handler of SIGCHLD does.

    Raises:
        LostWorkerError: in their place.
    """
    try:
        yield
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        reason = str(error).strip().rpartition("\n")[2].removeprefix("RuntimeError: ")
        raise LostWorkerError(
            f"The processes that load images have failed ({reason}): give --workers 0, or a "
            "container more shared memory (docker run --shm-size=8g)."
        ) from error


def artefact_coverage(mask_path: str | Path, grid: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return the share of each cell of ``grid`` that the mask covers, float32 [Hg, Wg] in [0, 1].

    A pixel is covered from half of full white on. Raises InputError if it cannot be decoded.
    """
    covered = (load_map(mask_path) >= 0.5).astype(np.float32)
    return _cell_means(torch.tensor(covered)[None], grid).numpy()


def _cell_means(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average [1, H, W] over the cells, to [Hg, Wg]."""
    return adaptive_avg_pool2d(values, grid)[0]

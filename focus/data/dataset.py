"""From a manifest to batches: images, targets and human maps on the CAM's grid."""

import gc
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from traceback import clear_frames
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d
from torch.utils.data import DataLoader, Dataset

from focus.data.augment import Augmentation, Draw, as_table, moved_to_grid
from focus.data.cache.images import KINDS, ImageCache
from focus.data.images import (
    Preprocessing,
    at_least,
    load_image,
    load_map,
    middle,
    read_unchanged,
    squash,
)
from focus.data.manifest import Manifest
from focus.data.maps import Map, human_map, resized
from focus.errors import LostWorkerError
from focus.kernels.reference import map_entropy
from focus.kernels.terms import FLAT_STEPS
from focus.runtime.progress import progress_bar

# What torch says of a worker that is gone, or of memory that it cannot share.
_LOST = re.compile(
    "DataLoader worker .pid|shared memory|unable to mmap|Too many open files|Pin memory thread"
    "|can't start new thread"
)

Perturb = Callable[[Image.Image, int], Image.Image]
"""Another image for an image, given its row of the manifest."""


class Batch(NamedTuple):
    """A batch, as :class:`FaceDataset` and the cache of features make it.

    An item of :class:`FaceDataset` has the same fields without the leading dimension.
    """

    images: Tensor
    """[B, 3, S, S] uint8, RGB; of cached features [B, C, H, W]."""
    target: Tensor
    """[B] int64: 0 real, 1 synthetic, -1 unlabelled."""
    saliency: Tensor
    """[B, Hg, Wg] float32 in [0, 1], the human map on the CAM's grid; zeros where there is none."""
    saliency_mask: Tensor
    """[B] bool: whether there is a human map."""
    index: Tensor  # type: ignore[assignment]  # tuple.index is not needed here
    """[B] int64: the sample's row in the manifest."""
    token: Tensor = torch.empty((0, 0))
    """[B, C], the class token of cached features if it is pooled; else [B, 0]."""
    draws: Tensor = torch.empty((0, 0))
    """[B, 8] float32, what :meth:`FaceDataset.finished` still has to do to ``images``; else [B, 0].
    """

    @property
    def holds_features(self) -> bool:
        """Tell whether ``images`` are features, which the backbone has made, or pictures."""
        return self.images.dtype != torch.uint8

    def to(self, device: torch.device | str) -> "Batch":
        """Move to a device, to a GPU without a wait."""
        # On Apple's the memory may be another's before such a copy has begun (pytorch #83015).
        without_wait = torch.device(device).type == "cuda"
        return Batch(*(field.to(device, non_blocking=without_wait) for field in self))


RowIndex = int | tuple[int, int]
"""A row of the manifest; with how often the epoch had it before, for another augmentation."""


class FaceDataset(Dataset[Batch]):
    """The images of a manifest, from the cache or decoded; InputError names one that cannot be.

    Images come to their size as ``preprocessing`` says. "squash": resampled (bilinear,
    antialiased), as CYBORG does. "crop": a part of their own pixels, continued by reflection where
    they are smaller; a random part if ``augment`` has ``CUT``, else the middle. A human map is
    squashed by area, or cropped with its image, augmented with it, averaged over the cells of the
    grid, then stretched to [0, 1]; one that is constant there counts as none.

    Args:
        preprocessing: That of the detector (``Detector.preprocessing``).
        augment: Names of :mod:`focus.data.augment`.
        seed: Together with epoch and row it decides what augmentation draws.
        perturb: This changes the decoded image, at the size of the file, but not its map.
        images: The cache holds what :func:`focus.data.bad_files.check_images` decoded, by the
            digests that it gave the manifest.
        ends_on_device: Whether :meth:`finished` makes the last changes of a batch, on the device to
            which it has been moved; else it comes as it is meant to be.
    """

    def __init__(
        self,
        manifest: Manifest,
        preprocessing: Preprocessing,
        *,
        augment: tuple[str, ...] = (),
        seed: int = 0,
        perturb: Perturb | None = None,
        images: ImageCache | None = None,
        ends_on_device: bool = False,
    ) -> None:
        # A worker shares the manifest's columns. Of objects it would get copies, page by page,
        # since each look at one changes its count of references.
        self._manifest = manifest
        self._labels = manifest.labels
        self.image_size, self.grid = preprocessing.image_size, preprocessing.grid
        self.fit = preprocessing.fit
        self.augment = Augmentation(augment, self.image_size) if augment else None
        self._cuts_at_random = self.augment is not None and self.augment.cuts
        self._ends_on_device = (
            ends_on_device and self.augment is not None and self.augment.can_end_on_device
        )
        self.seed = seed
        self._perturb = perturb
        self._stored = images and {kind: images.rows_of(manifest, kind) for kind in KINDS}
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
        entropies = []
        with_map = np.flatnonzero(self._manifest.has("human_map"))
        for row in progress_bar(with_map, "entropy of the maps", unit="map", disable=not progress):
            heat = self._heat(row) if self.fit == "squash" else self._parts(row, cut=True)[1]
            saliency, has_map = self._saliency([heat], draws=[])
            if has_map[0]:
                entropies.append(float(map_entropy(saliency[0].double().flatten())))
        return float(np.mean(entropies)) if entropies else None

    def __getitem__(self, index: RowIndex | list[RowIndex]) -> Batch:
        """Return the item of a row, or the batch of a list of them."""
        if not isinstance(index, list):
            return Batch(*(field[0] for field in self[[index]]))
        keys = [key if isinstance(key, tuple) else (key, 0) for key in index]
        size, rows = self.image_size, [row for row, _ in keys]
        # The colours of a pixel lie together, as they do on the disk and as a decoder has them.
        memory = torch.empty((len(keys), size, size, 3), dtype=torch.uint8, device="cpu")
        pixels = memory.permute(0, 3, 1, 2)
        heats: list[Tensor | None] = []
        draws: list[Draw] = []
        for position, (row, again) in enumerate(keys):
            if self.fit == "squash":
                self._load(row, memory[position].numpy())
                heat, height, width = self._heat(row), size, size
            else:
                image, heat = self._parts(row, cut=not self._cuts_at_random)
                _, height, width = image.shape
            if self.augment is not None:
                draws.append(self.augment.draw(self.draw(row, again), height, width))
                if self.augment.cuts:
                    image = self.augment.cut(image, draws[-1])
                    heat = None if heat is None else self.augment.part(heat, draws[-1])
            if self.fit == "crop":
                pixels[position] = image
            heats.append(heat)

        table = torch.empty((len(keys), 0), device="cpu")
        if self._ends_on_device:
            table = as_table(draws)
        elif self.augment is not None:
            pixels = self.augment.change(pixels, draws)
        saliency, has_map = self._saliency(heats, draws)
        target = torch.from_numpy(self._labels[rows].astype(np.int64))
        token = torch.empty((len(keys), 0), device="cpu")
        return Batch(pixels, target, saliency, has_map, torch.tensor(rows), token, table)

    def finished(self, batch: Batch) -> Batch:
        """Return a batch with the changes that ``ends_on_device`` has left, on its device."""
        if self.augment is None or not batch.draws.shape[1]:
            return batch
        return batch._replace(images=self.augment.change_on_device(batch.images, batch.draws))

    def draw(self, row: int, again: int) -> tuple[int, int, int]:
        """Return the key that decides how an image is augmented."""
        return self.seed, int(self._epoch), row + again * len(self)

    def digest(self, kind: str, row: int) -> str:
        """Return the digest of an image or human map, "" in a manifest that was not checked."""
        return self._manifest.cell(KINDS[kind], row)

    def _load(self, row: int, out: npt.NDArray[np.uint8]) -> None:
        """Write the squashed image [S, S, 3] to ``out``."""
        if self._perturb is None and self._stored and self._stored["image"].read(row, out):
            return
        out[:] = squash(self._image(row), self.image_size)

    def _image(self, row: int) -> Image.Image:
        """Return the picture at its own size, perturbed."""
        pixels = self._stored["image"].read_at_own_size(row) if self._stored else None
        if pixels is not None:
            image = Image.fromarray(pixels)
        else:
            path, digest = self._manifest.cell("path", row), self.digest("image", row)
            content = read_unchanged([path], digest)[0] if digest else None
            image = load_image(path, content)
        return image if self._perturb is None else self._perturb(image, row)

    def _parts(self, row: int, *, cut: bool) -> tuple[Tensor, Tensor | None]:
        """Return the image [3, H, W] and its map [H, W]; of ``cut`` ones the middle."""
        image, side, fitting = self._image(row), self.image_size, middle if cut else at_least
        pixels = torch.tensor(fitting(np.asarray(image), side), device="cpu").permute(2, 0, 1)
        if not self._manifest.cell("human_map", row):
            return pixels, None
        heat = fitting(resized(self._human_map(row), image.size), side)
        return pixels, torch.tensor(heat, device="cpu")

    def _human_map(self, row: int) -> Map:
        """Return the human map at its own size."""
        stored: Map | None = self._stored["map"].read_at_own_size(row) if self._stored else None
        if stored is not None:
            return stored
        return human_map(self._manifest.cell("human_map", row), self.digest("map", row))

    def _heat(self, row: int) -> Tensor | None:
        """Return the human map at the images' size, [S, S]."""
        if not self._manifest.cell("human_map", row):
            return None
        heat = np.empty((self.image_size, self.image_size), np.float32)
        if not (self._stored and self._stored["map"].read(row, heat)):
            heat = resized(self._human_map(row), heat.shape)
        return torch.from_numpy(heat)

    def _saliency(
        self, heats: Sequence[Tensor | None], draws: Sequence[Draw]
    ) -> tuple[Tensor, Tensor]:
        """Return maps [B, Hg, Wg] on the grid in [0, 1], and which images have one, [B].

        A map that is flat there counts as none, as what it shows is rounding.

        Args:
            heats: The maps [S, S] of a batch, None for an image without one.
            draws: What moves their images, or nothing.
        """
        saliency = torch.zeros((len(heats), *self.grid), device="cpu")
        has_map = torch.zeros(len(heats), dtype=torch.bool, device="cpu")
        with_map = [position for position, heat in enumerate(heats) if heat is not None]
        if not with_map:
            return saliency, has_map
        maps = torch.stack([heat for heat in heats if heat is not None])
        if draws:
            cells = moved_to_grid(maps, [draws[position].move for position in with_map], self.grid)
        else:
            cells = _cell_means(maps, self.grid)

        low, high = cells.amin((1, 2), keepdim=True), cells.amax((1, 2), keepdim=True)
        span = high - low
        varied = (span > FLAT_STEPS * torch.finfo(cells.dtype).eps * high).flatten()
        positions = torch.tensor(with_map)[varied]
        saliency[positions] = ((cells - low) / span)[varied]
        has_map[positions] = True
        return saliency, has_map


def loader(
    faces: FaceDataset,
    batches: Sequence[list[RowIndex]],
    workers: int,
    *,
    pinned: bool,
    persistent: bool = False,
) -> DataLoader[Batch]:
    """Return the loader of these batches; take its iterator by :func:`load_batches`.

    pinned: Batches lie in memory from which a GPU copies while the host goes on.
    """
    forked = workers > 0 and sys.platform == "linux"
    return DataLoader(
        faces,
        batch_size=None,  # a batch is made whole
        sampler=batches,
        num_workers=workers,
        worker_init_fn=_begin,
        # Forked, which shares the manifest, also where Python 3.14 would import torch anew. A fork
        # may follow CUDA's start, since a worker has tensors of the CPU only.
        multiprocessing_context="fork" if forked else None,
        persistent_workers=persistent and workers > 0,
        pin_memory=pinned,
        # A loader draws a seed when it starts, which must not come from the model's generator.
        generator=torch.Generator(),
    )


def _begin(_: int) -> None:
    """Leave the memory that a worker shares with its parent to the parent's garbage collector."""
    gc.freeze()
    if sys.platform == "win32":  # without masks, see _signals_held
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def load_batches(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches of a loader; its workers end with it, or with the loader if persistent.

    Raises:
        LostWorkerError: a worker was lost.
    """
    iterator = None
    with name_lost_workers():
        try:
            with _signals_held():
                iterator = iter(loader)
            yield from iterator
        except BaseException as error:
            # They would keep the iterator, and workers do not get SIGTERM, by which multiprocessing
            # would end them when Python exits.
            clear_frames(error.__traceback__)
            raise
        finally:
            iterator = None


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


def artefact_coverage(
    mask_path: str, preprocessing: Preprocessing, path: str = "", *, digest: str = ""
) -> npt.NDArray[np.float32]:
    """Return the share of each cell of the grid that the mask covers, float32 [Hg, Wg] in [0, 1].

    A pixel is covered from half of full white on. path: The mask's image, whose middle is seen
    where ``preprocessing`` crops. digest: That of the mask when it was checked; another mask now is
    an error. Raises ImageError if a file cannot be decoded.
    """
    content = read_unchanged([mask_path], digest)[0] if digest else None
    covered = (load_map(mask_path, content) >= 0.5).astype(np.float32)
    if preprocessing.fit == "crop":
        covered = middle(resized(covered, load_image(path).size), preprocessing.image_size)
    return _cell_means(torch.tensor(covered)[None], preprocessing.grid)[0].numpy()


def _cell_means(values: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average [N, H, W] over the cells, to [N, Hg, Wg]."""
    return adaptive_avg_pool2d(values, grid)

"""Load the training images as the steps of a run take them: planned, augmented, batched."""

from collections.abc import Generator, Iterator

import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from focus.config.train import ResolvedTrainConfig
from focus.data.cache.features import CachedFaces
from focus.data.cache.images import ImageCache
from focus.data.dataset import Batch, FaceDataset, RowIndex, load_batches, loader
from focus.data.manifest import REAL, Manifest
from focus.model.detector import Detector
from focus.training.batches import BatchPlan, MicroBatch


class TrainingImages:
    """The training images of one process, and the plan of which make which batch."""

    def __init__(
        self,
        config: ResolvedTrainConfig,
        manifest: Manifest,
        detector: Detector,
        accelerator: Accelerator,
        decoded: ImageCache | None = None,
    ) -> None:
        self.device = accelerator.device
        self.plan = BatchPlan(
            labels=np.maximum(manifest.labels, REAL),
            batch_size=config.batch_size,
            accumulation=config.grad_accum_steps,
            processes=accelerator.num_processes,
            rank=accelerator.process_index,
            sampling=config.sampling,
            seed=config.seed,
        )
        self.dataset = FaceDataset(
            manifest,
            detector.preprocessing,
            augment=config.changes,
            seed=config.seed,
            images=decoded,
            ends_on_device=accelerator.device.type != "cpu",
        )
        self.cached: CachedFaces | None = None
        """Features in place of images; set once they are there."""
        self._views = config.views or 1
        self._next: list[list[RowIndex]] = []
        pinned = accelerator.device.type == "cuda"
        self._loader: DataLoader[Batch] | None = loader(
            self.dataset, self._next, config.workers, pinned=pinned, persistent=True
        )
        self._batches: Generator[Batch] = on_device(iter(()), self.device)

    def load(self, epoch: int, steps: list[list[MicroBatch]]) -> Iterator[Batch]:
        """Yield the batches of these steps of an epoch's plan, on the device."""
        if self.cached is not None:
            return on_device(self._cached(self.cached, epoch, steps), self.device)
        self.dataset.set_epoch(epoch)
        self._next[:] = [
            list(zip(batch.rows, batch.again, strict=True)) for step in steps for batch in step
        ]
        assert self._loader is not None, "closed"
        batches = on_device(load_batches(self._loader) if steps else iter(()), self.device)
        self._batches = (self.dataset.finished(batch) for batch in batches)
        return self._batches

    def _cached(
        self, cached: CachedFaces, epoch: int, steps: list[list[MicroBatch]]
    ) -> Iterator[Batch]:
        """Yield batches of features; each image has the next of its views in the next epoch."""
        for batch in (batch for step in steps for batch in step):
            yield cached.batch(batch.rows, [(epoch + n) % self._views for n in batch.again])

    def close(self) -> None:
        """End the workers, which wait from one epoch to the next."""
        self._batches.close()  # an error may keep them, and they the loader
        self._loader = None


class ValidationImages:
    """The loader of the validation images, whose workers wait from one epoch to the next."""

    loader: DataLoader[Batch] | None = None

    def close(self) -> None:
        """End the workers."""
        self.loader = None


def on_device(batches: Iterator[Batch], device: torch.device) -> Generator[Batch]:
    """Yield batches on a device; a GPU copies the next one while it works on one."""
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    beside = torch.cuda.Stream(device)
    ready: Batch | None = None
    for batch in batches:
        with torch.cuda.stream(beside):
            copied = batch.to(device)
        if ready is not None:
            yield ready
        now = torch.cuda.current_stream(device)
        now.wait_stream(beside)
        for field in copied:
            field.record_stream(now)  # its memory is the other stream's
        ready = copied
    if ready is not None:
        yield ready

"""Load the training images as the steps of a run take them: planned, augmented, batched."""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from focus.config.recipes import parse_augment
from focus.config.train import ResolvedTrainConfig
from focus.data.dataset import Batch, FaceDataset, end_workers, load_batches, worker_options
from focus.data.feature_cache import CachedFaces
from focus.data.manifest import Manifest
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
    ) -> None:
        self.plan = BatchPlan(
            labels=[int(sample.label or 0) for sample in manifest],
            batch_size=config.batch_size,
            accumulation=config.grad_accum_steps,
            processes=accelerator.num_processes,
            rank=accelerator.process_index,
            sampling=config.sampling,
            seed=config.seed,
        )
        self.dataset = FaceDataset(
            manifest,
            image_size=detector.image_size,
            grid=detector.grid,
            mean=detector.mean,
            std=detector.std,
            augment=parse_augment(config.augment),
            seed=config.seed,
            keep=True,
        )
        self.cached: CachedFaces | None = None
        """Features in place of images; set once they are there."""
        self._views = config.views or 1
        self._next: list[list[tuple[int, int]]] = []  # row, and times before, of each image
        self._loader = DataLoader(
            self.dataset,
            batch_sampler=self._next,
            num_workers=config.workers,
            **worker_options(config.workers),
            persistent_workers=config.workers > 0,
            pin_memory=accelerator.device.type == "cuda",
            # A loader draws a seed when it starts, which must not come from the model's.
            generator=torch.Generator(),
        )

    def load(self, epoch: int, steps: list[list[MicroBatch]]) -> Iterator[Batch]:
        """Yield the batches of these steps of an epoch's plan, on the CPU."""
        if self.cached is not None:
            return self._cached(self.cached, epoch, steps)
        self.dataset.set_epoch(epoch)
        self._next[:] = [
            list(zip(batch.rows, batch.again, strict=True)) for step in steps for batch in step
        ]
        return load_batches(self._loader) if steps else iter(())

    def _cached(
        self, cached: CachedFaces, epoch: int, steps: list[list[MicroBatch]]
    ) -> Iterator[Batch]:
        """Yield batches of features; each image has the next of its views in the next epoch."""
        for batch in (batch for step in steps for batch in step):
            yield cached.batch(batch.rows, [(epoch + n) % self._views for n in batch.again])

    def close(self) -> None:
        """End the workers, which wait from one epoch to the next."""
        end_workers(self._loader._iterator)
        self._loader._iterator = None

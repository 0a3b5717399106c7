"""The training images as the steps of a run take them: planned, decoded, augmented, batched."""

from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from focus.config import ResolvedTrainConfig
from focus.data.batches import BatchPlan, MicroBatch, PlannedBatches
from focus.data.dataset import Batch, FaceDataset, collate, worker_options
from focus.data.manifest import Manifest
from focus.models import Detector
from focus.recipes import parse_augment


class TrainingImages:
    """What one process trains on.

    plan: which images make which batch. dataset: the images, by their row in the manifest.
    """

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
            accumulation=config.gradient_accumulation_steps,
            processes=accelerator.num_processes,
            rank=accelerator.process_index,
            sampling=config.sampling,
            seed=config.seed,
        )
        self.dataset = FaceDataset(
            manifest,
            image_size=config.image_size,
            grid=detector.grid,
            mean=detector.mean,
            std=detector.std,
            augment=parse_augment(config.augment),
            seed=config.seed,
            keep=True,
        )
        self._planned = PlannedBatches()
        self._loader = DataLoader(
            self.dataset,
            batch_sampler=self._planned,
            num_workers=config.workers,
            collate_fn=collate,
            **worker_options(config.workers),
            persistent_workers=config.workers > 0,
            pin_memory=accelerator.device.type == "cuda",
            # A loader draws a seed when it starts, which must not come from the model's.
            generator=torch.Generator(),
        )

    def load(self, epoch: int, steps: list[list[MicroBatch]]) -> Iterator[Batch]:
        """The batches of these steps of an epoch's plan, one after the other, on the CPU."""
        self.dataset.set_epoch(epoch)
        self._planned.plan(steps)
        return (Batch(*batch) for batch in self._loader) if steps else iter(())

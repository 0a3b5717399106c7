"""The training images as the steps of a run take them: planned, decoded, augmented, batched."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from focus.config.recipes import parse_augment
from focus.config.train import ResolvedTrainConfig
from focus.data.dataset import Batch, FaceDataset, collate, loaded, worker_options
from focus.data.manifest import Manifest
from focus.errors import ImageError, InputError, sentence
from focus.model.detector import Detector
from focus.training.batches import BatchPlan, MicroBatch, PlannedBatches


class TrainingImages:
    """What one process trains on.

    plan: which images make which batch. dataset: the images, by their row in the manifest.
    unreadable: what there is to say of a batch that could not be loaded, "" of none.
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
        self.unreadable = ""
        self._accelerator = accelerator
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
        """The batches of these steps of an epoch's plan, one after the other, on the CPU.

        From one on that cannot be loaded, which is then said, they are blank: a process that did
        not end its step would leave the others waiting in it.
        """
        self.dataset.set_epoch(epoch)
        self._planned.plan(steps)
        found = loaded(self._loader) if steps else iter(())
        return self._until_unreadable(found, chain.from_iterable(steps))

    def close(self) -> None:
        """End the workers, which wait from one epoch to the next; to load again starts others.

        Left to the garbage collector they end late: it may take their queues away first, and then
        torch waits ten seconds for each.
        """
        if isinstance(workers := self._loader._iterator, _MultiProcessingDataLoaderIter):
            workers._shutdown_workers()
        self._loader._iterator = None

    def _until_unreadable(
        self, batches: Iterator[Any], planned: Iterable[MicroBatch]
    ) -> Iterator[Batch]:
        for batch in planned:
            try:
                found = None if self.unreadable else Batch(*next(batches))
            except ImageError as error:
                self.unreadable, found = sentence(error), None
            yield self.dataset.blank(batch.rows) if found is None else found

    def mean_map_entropy(self) -> float:
        """Of the human maps, as the main process measures it. Raises InputError without any."""
        found: list[float | None] = [None]
        if self._accelerator.is_main_process:
            found = [self.dataset.mean_map_entropy(progress=True)]
        (entropy,) = broadcast_object_list(found)
        if entropy is None:
            raise InputError(
                "--target-from-maps: no training image has a human map; give --heatmaps, or an "
                "--entropy-target."
            )
        return float(entropy)

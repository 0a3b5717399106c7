"""The batches of an epoch, known for the whole epoch: which images each process takes and loads.

A step of the optimiser takes the next ``batch_size * processes * accumulation`` images of the
epoch's order, the last step what is left; the batch before gives it images if it has less than two
a process. A process takes its share of each batch; the loss being linear in the images
(:mod:`focus.config.losses`), a share weighs as many images as it has. So neither the number of
processes nor that of the accumulated batches changes a gradient, but for the images of the last two
batches of an epoch; and an epoch is entered at any of its steps.
"""

import functools
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from focus.config.recipes import Sampling
from focus.config.train import ResolvedTrainConfig
from focus.data.cache.features import CachedFaces
from focus.data.cache.images import ImageCache
from focus.data.dataset import Batch, FaceDataset, RowIndex, load_batches, loader
from focus.data.manifest import REAL, Manifest
from focus.model.detector import Detector


class MicroBatch(NamedTuple):
    """The part of a batch that one process takes."""

    rows: list[int]
    """Rows of the training manifest, at least one."""
    times_before: list[int]
    """How often the epoch has had each row before: above 0 when sampling with replacement."""
    counted: int
    """The number of rows that count: 0 for a process without images, which gets a dummy row."""
    images: int
    """The number of images of the batch in all processes."""
    weight: float
    """The weight of its mean loss in the step, times the number of processes: their gradients are
    averaged."""
    last: bool
    """Whether the optimiser steps after it."""


@dataclass(frozen=True)
class BatchPlan:
    """The batches of one process; their order depends on seed and epoch alone."""

    labels: Sequence[int] | NDArray[np.integer[Any]]
    """Labels of the training images [N], 0 or 1."""
    batch_size: int
    """Images of one process at a time."""
    accumulation: int = 1
    """Batches of a step of the optimiser."""
    processes: int = 1
    """Processes of the launch."""
    rank: int = 0
    """The number of this process."""
    sampling: Sampling = "shuffled"
    """"shuffled" takes each of the N training images once an epoch, "balanced" draws N with
    replacement, each class with the same probability."""
    seed: int = 0
    """The seed of the order."""

    @property
    def images_per_step(self) -> int:
        """Images of a step, in all processes; the last of an epoch may have fewer, or more."""
        return self.batch_size * self.processes * self.accumulation

    @property
    def steps(self) -> int:
        """Steps of the optimiser in an epoch."""
        return -(-len(self._ends) // self.accumulation)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Draw the rows of an epoch's images, of all processes."""
        draw = np.random.default_rng((self.seed, epoch))
        if self.sampling == "shuffled":
            return draw.permutation(len(self.labels))
        label = np.asarray(self.labels)
        share = 1 / np.bincount(label)[label]
        return draw.choice(len(label), len(label), p=share / share.sum())

    def epoch(self, epoch: int, first_step: int = 0) -> list[list[MicroBatch]]:
        """Return this process's batches of each step from ``first_step`` on."""
        order = self.order(epoch)
        drawn = np.stack([order, _times_before(order)], 1)
        batches = [drawn[start:end] for start, end in pairwise([0, *self._ends])]

        steps = []
        for first in range(first_step * self.accumulation, len(batches), self.accumulation):
            step = batches[first : first + self.accumulation]
            steps.append(self._micro_batches(step))
        return steps

    @functools.cached_property
    def _ends(self) -> list[int]:
        """Return where the batches of all processes end in an epoch's order.

        A norm over the batch has no statistics of a single image: a last batch that would leave a
        process with one takes some from the batch before, or joins it where that has none to give;
        unless one at a time was asked for.
        """
        total = len(self.labels)
        size = self.batch_size * self.processes
        least = 2 * self.processes
        ends = [0, *range(size, total, size), total] if total else [0]
        if len(ends) > 2 and self.batch_size > 1 and total - ends[-2] < least:
            ends[-2] = total - least
            if ends[-2] - ends[-3] < least:
                del ends[-2]
        return ends[1:]

    def _micro_batches(self, batches: list[NDArray[np.int64]]) -> list[MicroBatch]:
        """Return this process's share of each batch of a step.

        batches: The batches of all processes. Each is [N, 2]: the row of an image in the manifest,
            and how often the epoch has had it before.
        """
        images_of_step = sum(len(batch) for batch in batches)
        micro_batches = []
        for number, batch in enumerate(batches, start=1):
            share = np.array_split(batch, self.processes)[self.rank]
            # A process without images computes a dummy row, as it has to join the all-reduce.
            computed = share if len(share) else batch[:1]
            micro_batch = MicroBatch(
                rows=computed[:, 0].tolist(),
                times_before=computed[:, 1].tolist(),
                counted=len(share),
                images=len(batch),
                weight=len(share) * self.processes / images_of_step,
                last=number == len(batches),
            )
            micro_batches.append(micro_batch)
        return micro_batches


def _times_before(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count how often each element stands before its place."""
    by_row = np.argsort(order, kind="stable")
    ordered = order[by_row]
    before = np.empty_like(order)
    before[by_row] = np.arange(len(order)) - np.searchsorted(ordered, ordered)
    return before


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
        """The batches that the workers load next: the loader holds this very list."""
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
        self._next.clear()
        for batch in chain.from_iterable(steps):
            self._next.append(list(zip(batch.rows, batch.times_before, strict=True)))
        assert self._loader is not None, "closed"
        batches = on_device(load_batches(self._loader) if steps else iter(()), self.device)
        self._batches = (self.dataset.finished(batch) for batch in batches)
        return self._batches

    def _cached(
        self, cached: CachedFaces, epoch: int, steps: list[list[MicroBatch]]
    ) -> Iterator[Batch]:
        """Yield batches of features; each image has the next of its views in the next epoch."""
        for batch in chain.from_iterable(steps):
            views = [(epoch + count) % self._views for count in batch.times_before]
            yield cached.batch(batch.rows, views)

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

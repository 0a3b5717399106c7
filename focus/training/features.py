"""Run a frozen network once over the images of a run, into the cache of features."""

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from focus.config.recipes import parse_augment
from focus.config.train import ResolvedTrainConfig
from focus.data.dataset import Batch, FaceDataset, load_batches, worker_options
from focus.data.feature_cache import FeatureCache, digest_of, digests
from focus.data.manifest import Manifest
from focus.model.detector import Detector


def feature_cache(config: ResolvedTrainConfig, detector: Detector) -> FeatureCache | None:
    """Return the cache of this network's features, which may be empty; None if there is none."""
    if config.cached_features == "no":
        return None
    weights = hashlib.blake2b(digest_size=16)
    for name, value in detector.backbone.state_dict().items():
        weights.update(f"{name} {value.dtype} {[*value.shape]}".encode())
        weights.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    # A network may compute something else in another version of timm.
    key = config.model, weights.hexdigest(), timm.__version__, detector.image_size
    key += detector.mean, detector.std, config.mixed_precision
    channels = detector.head.fc.in_features
    return FeatureCache(config.model, repr(key), (channels, *detector.grid), config.cached_features)


def fill(
    cache: FeatureCache,
    config: ResolvedTrainConfig,
    detector: Detector,
    manifest: Manifest,
    accelerator: Accelerator,
) -> None:
    """Add what is missing: the training images in their views, and all others as they are.

    Raises:
        InputError: the disk is full, or an image cannot be read; what was written stays.
    """
    train = manifest.split("train")
    others = manifest.where(lambda sample: sample.split != "train")
    for images, augment, views in (
        (train, parse_augment(config.augment), config.views or 1),
        (others, (), 1),
    ):
        faces = _ViewedFaces(
            images,
            image_size=detector.image_size,
            grid=detector.grid,
            mean=detector.mean,
            std=detector.std,
            augment=augment,
        )
        batches = partial(_computed, detector, faces, views, config, accelerator)
        wanted = digests(images, augment, views).ravel()
        cache.fill(wanted, batches, progress=accelerator.is_main_process)


class _ViewedFaces(FaceDataset):
    """Images in fixed views, drawn by an image's content and the number of the view.

    So a record is the same, whatever other images and whatever seed the run has that makes it.
    """

    def __init__(self, manifest: Manifest, **settings: Any) -> None:
        super().__init__(manifest, **settings)
        self._contents = np.array([digest_of(sample) for sample in manifest], np.bytes_)

    def draw(self, row: int, again: int) -> tuple[int, int, int]:
        """Return the key that decides how an image is augmented; again: the view."""
        return again, int(self._contents[row], 16), 0


def _computed(
    detector: Detector,
    faces: FaceDataset,
    views: int,
    config: ResolvedTrainConfig,
    accelerator: Accelerator,
    places: list[int],
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield batches with their features; places: of the views of all images, in their order."""
    loader = DataLoader(
        faces,
        batch_size=config.eval_batch_size,
        sampler=[divmod(place, views) for place in places],
        num_workers=config.workers,
        **worker_options(config.workers),
        generator=torch.Generator(),
        pin_memory=accelerator.device.type == "cuda",
    )
    for batch in load_batches(loader):
        with torch.inference_mode(), accelerator.autocast():
            yield batch, detector.features(batch.images.to(accelerator.device, non_blocking=True))

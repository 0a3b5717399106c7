"""Run a frozen network once over the images of a run, into the cache of features."""

import hashlib
from collections.abc import Iterator
from functools import partial

import numpy as np
import timm
import torch
import torchvision
from accelerate import Accelerator

from focus.config.train import ResolvedTrainConfig
from focus.data.augment import AUGMENTATION_VERSION
from focus.data.cache.features import Encoded, FeatureCache, digests
from focus.data.cache.images import ImageCache
from focus.data.dataset import Batch, FaceDataset, RowIndex, load_batches, loader
from focus.data.manifest import Manifest
from focus.model.detector import Detector


def feature_cache(config: ResolvedTrainConfig, detector: Detector) -> FeatureCache:
    """Return the cache of the features of a detector's backbone, as it is."""
    return FeatureCache(
        config.model,
        repr(decided_by(config, detector)),
        (detector.head.fc.in_features, *detector.grid),
        "float32" if config.cached_features == "float32" else "bfloat16",
        token=config.pool == "both",
        norms=detector.has_norms,
    )


def filled_cache(
    config: ResolvedTrainConfig,
    detector: Detector,
    manifest: Manifest,
    accelerator: Accelerator,
    decoded: ImageCache | None = None,
) -> FeatureCache:
    """Return the cache of the network's features, with those of all images.

    The training images are there in their views, the others as they are. decoded: has the images.

    Raises:
        InputError: the disk is full, or an image cannot be read; what was written stays.
    """
    cache = feature_cache(config, detector)
    train = manifest.split("train")
    others = manifest.where(lambda sample: sample.split != "train")
    for images, changes, views in ((train, config.changes, config.views or 1), (others, (), 1)):
        faces = _ViewedFaces(images, detector.preprocessing, augment=changes, images=decoded)
        cache.fill(
            digests(images, changes, views).ravel(),
            partial(_computed, detector, faces, views, config, accelerator),
            progress=accelerator.is_main_process,
        )
    return cache


def decided_by(config: ResolvedTrainConfig, detector: Detector) -> dict[str, object]:
    """Return all that decides the features of an image, apart from what names their record.

    The name has the contents of image and map, the names of the augmentation, and the view.
    """
    weights = hashlib.blake2b(digest_size=16)
    for name, value in detector.backbone.state_dict().items():
        weights.update(f"{name} {value.dtype} {[*value.shape]}".encode())
        weights.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return {
        "model": config.model,
        "weights": weights.hexdigest(),
        "mixed_precision": config.mixed_precision,
        "tf32": config.tf32,
        "device": next(detector.parameters()).device.type,
        "input": detector.config.input,
        "mean": detector.config.mean,
        "std": detector.config.std,
        "fit": detector.config.fit,
        "pictures": ImageCache(detector.image_size).folder.name,  # size, decoder and resampling
        "augmentation": AUGMENTATION_VERSION,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "numpy": np.__version__,
    }


class _ViewedFaces(FaceDataset):
    """Images in fixed views, drawn by an image's content and the number of the view.

    So a record is the same, whatever other images and whatever seed the run has that makes it. No
    file is decoded but that of the digest, by which the record is named.
    """

    def draw(self, row: int, again: int) -> tuple[int, int, int]:
        """Return the key that decides how an image is augmented; again: the view."""
        return again, int(self.digest("image", row), 16), 0


def _computed(
    detector: Detector,
    faces: FaceDataset,
    views: int,
    config: ResolvedTrainConfig,
    accelerator: Accelerator,
    numbers: list[int],
) -> Iterator[tuple[Batch, Encoded]]:
    """Yield batches with their features.

    views: How many each image has. numbers: Of the views to compute, all views of the first image
    counted before those of the second.
    """
    rows_and_views: list[RowIndex] = [divmod(number, views) for number in numbers]
    size = config.eval_batch_size
    batches = [
        rows_and_views[start : start + size] for start in range(0, len(rows_and_views), size)
    ]
    device = accelerator.device
    loaded = load_batches(loader(faces, batches, config.workers, pinned=device.type == "cuda"))
    detector.eval()
    for batch in loaded:
        with torch.inference_mode(), accelerator.autocast():
            features = detector.encode_with_norms(detector.normalise(batch.to(device).images))
        yield batch, features

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
    augment, views = config.changes, config.views or 1
    for images, changes, count in ((train, augment, views), (others, (), 1)):
        faces = _ViewedFaces(images, detector.preprocessing, augment=changes, images=decoded)
        batches = partial(_computed, detector, faces, count, config, accelerator)
        wanted = digests(images, changes, count).ravel()
        cache.fill(wanted, batches, progress=accelerator.is_main_process)
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
    places: list[int],
) -> Iterator[tuple[Batch, Encoded]]:
    """Yield batches with their features; places: of the views of all images, in their order."""
    keys: list[RowIndex] = [divmod(place, views) for place in places]
    size, device = config.eval_batch_size, accelerator.device
    batches = [keys[start : start + size] for start in range(0, len(keys), size)]
    detector.eval()
    for batch in load_batches(loader(faces, batches, config.workers, pinned=device.type == "cuda")):
        with torch.inference_mode(), accelerator.autocast():
            found = detector.encode_with_norms(detector.normalise(batch.to(device).images))
        yield batch, found

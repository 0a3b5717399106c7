"""Run a frozen network once over the images of a run, into the cache of features."""

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import timm
import torch
from accelerate import Accelerator

from focus.config.train import ResolvedTrainConfig
from focus.data.cache.features import Encoded, FeatureCache, digest_of, digests
from focus.data.cache.images import ImageCache
from focus.data.dataset import Batch, FaceDataset, RowIndex, load_batches, loader
from focus.data.manifest import Manifest
from focus.model.detector import Detector


def feature_cache(config: ResolvedTrainConfig, detector: Detector) -> FeatureCache:
    """Return the cache of the features of a detector's backbone, as it is."""
    return FeatureCache(
        config.model,
        _key(config, detector),
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


def _key(config: ResolvedTrainConfig, detector: Detector) -> str:
    """Return all that the features of an image depend on."""
    weights = hashlib.blake2b(digest_size=16)
    for name, value in detector.backbone.state_dict().items():
        weights.update(f"{name} {value.dtype} {[*value.shape]}".encode())
        weights.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    pictures = ImageCache(detector.image_size).folder.name  # their size, and who decodes them
    own = detector.config
    preprocessing = pictures, own.mean, own.std, config.mixed_precision
    # The features of before there were other inputs have none in their key.
    seen = () if (own.input, own.fit) == ("rgb", "squash") else (own.input, own.fit)
    # A network may compute something else in another version of timm.
    return repr((config.model, timm.__version__, weights.hexdigest(), *preprocessing, *seen))


class _ViewedFaces(FaceDataset):
    """Images in fixed views, drawn by an image's content and the number of the view.

    So a record is the same, whatever other images and whatever seed the run has that makes it.
    """

    def __init__(self, manifest: Manifest, *given: Any, **settings: Any) -> None:
        super().__init__(manifest, *given, **settings)
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

"""Run a detector over images: predictions batch by batch, all scores, and the cost of an image."""

import logging
import math
import statistics
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from focus.data.bad_files import DIGESTS
from focus.data.cache.features import CachedFaces, FeatureCache
from focus.data.cache.images import ImageCache
from focus.data.dataset import (
    Batch,
    FaceDataset,
    Perturb,
    RowIndex,
    artefact_coverage,
    load_batches,
    loader,
)
from focus.data.manifest import STORED_IN, SYNTHETIC, Manifest
from focus.errors import NotFiniteError
from focus.evaluation.scores import Scores
from focus.metrics.arrays import evenly
from focus.metrics.cams import hit_cells, map_agreement, mask_mass, sum_entropy, z_entropy
from focus.model.prediction import on_cpu
from focus.runtime.progress import progress_bar

if TYPE_CHECKING:
    from focus.model.detector import Detector
    from focus.model.prediction import Prediction

OUTLIERS = 0.005
"""Share of the tokens of training images whose norm counts as an outlier."""
NORM_IMAGES = 256
"""Training images whose tokens are measured: several ten thousand tokens."""
_TIMED = 5  # images, whose median time is taken

_log = logging.getLogger(__name__)


def predictions(
    detector: "Detector",
    manifest: Manifest,
    *,
    batch_size: int,
    workers: int = 0,
    accelerator: Accelerator | None = None,
    indices: Sequence[int] | None = None,
    perturb: Perturb | None = None,
    features: FeatureCache | None = None,
    images: ImageCache | None = None,
    loaded_by: DataLoader[Batch] | None = None,
) -> Generator[tuple[Batch, "Prediction"], None, None]:
    """Yield batches of images and the detector's predictions for them, on the CPU.

    A GPU works on the next batch while the predictions of one are copied and yielded.

    The network runs in evaluation and inference mode; its modules' modes and torch's global random
    state stay as they are. Human maps are read where the manifest has them.

    Args:
        accelerator: Each of its processes takes a share of the rows, in its precision. The detector
            is on its device and not wrapped.
        indices: Rows of the manifest to take (default: all).
        perturb: This changes each image before it is resized, as in
            :class:`~focus.data.dataset.FaceDataset`.
        features: The cache holds the features of all images, so that the backbone does not run.
        images: The cache holds the decoded images, as in :class:`~focus.data.dataset.FaceDataset`.
        loaded_by: The :func:`batch_loader` of the same images, whose workers stay.

    Raises ImageError where a file cannot be decoded, an output is not finite or workers are lost.
    """
    loaded: Iterator[Batch]
    faces: CachedFaces | None = None
    if features is not None:
        faces = CachedFaces(features, manifest)
        loaded = map(faces.batch, _batches(manifest, batch_size, accelerator, indices))
    else:
        loaded = load_batches(
            loaded_by
            or batch_loader(
                detector,
                manifest,
                batch_size=batch_size,
                workers=workers,
                accelerator=accelerator,
                indices=indices,
                perturb=perturb,
                images=images,
            )
        )
    for batch, prediction in on_cpu(_predicted(detector, loaded, faces, accelerator)):
        row = prediction.first_not_finite()
        if row is not None:
            path = manifest[int(batch.index[row])].path
            raise NotFiniteError(path, "try --mixed-precision no, or another model.")
        yield batch, prediction


def _predicted(
    detector: "Detector",
    loaded: Iterable[Batch],
    faces: CachedFaces | None,
    accelerator: Accelerator | None,
) -> Iterator[tuple[Batch, "Prediction"]]:
    """Yield each batch with its prediction on the device.

    faces: What the batches of features come from; None if they are of images.
    """
    for batch in loaded:
        with torch.inference_mode(), accelerator.autocast() if accelerator else nullcontext():
            if faces is None:
                prediction = detector.predict_pixels(batch.images)
            else:
                like = next(detector.parameters())
                features = batch.images.to(like, non_blocking=like.is_cuda)
                norms = faces.norms(batch.index.tolist()).to(like.device)
                prediction = detector.predict_encoded(features, batch.token.to(like), norms)
        yield batch, prediction


def batch_loader(
    detector: "Detector",
    manifest: Manifest,
    *,
    batch_size: int,
    workers: int = 0,
    accelerator: Accelerator | None = None,
    indices: Sequence[int] | None = None,
    perturb: Perturb | None = None,
    images: ImageCache | None = None,
    persistent: bool = False,
) -> DataLoader[Batch]:
    """Return what loads the batches of :func:`predictions`, whose arguments it takes.

    persistent: Its workers stay after the last batch, and load them again.
    """
    pictures = FaceDataset(manifest, detector.preprocessing, perturb=perturb, images=images)
    batches: list[list[RowIndex]] = [
        [*batch] for batch in _batches(manifest, batch_size, accelerator, indices)
    ]
    pinned = next(detector.parameters()).is_cuda
    return loader(pictures, batches, workers, pinned=pinned, persistent=persistent)


def _batches(
    manifest: Manifest,
    batch_size: int,
    accelerator: Accelerator | None,
    indices: Sequence[int] | None,
) -> list[list[int]]:
    """Return the rows of each batch of this process."""
    rows = list(range(len(manifest)) if indices is None else indices)[_share(accelerator)]
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def _share(accelerator: Accelerator | None) -> slice:
    """Return which of some rows this process takes; without an accelerator all."""
    if accelerator is None:
        return slice(None)
    return slice(accelerator.process_index, None, accelerator.num_processes)


def images_only(manifest: Manifest) -> Manifest:
    """Return the manifest without human maps and masks, which a prediction does not need."""
    bare = (replace(sample, human_map=None, mask_path=None) for sample in manifest)
    return Manifest(bare, manifest.source)


def score_images(
    detector: "Detector",
    manifest: Manifest,
    *,
    accelerator: Accelerator | None = None,
    perturb: Perturb | None = None,
    progress: bool = True,
    description: str = "scoring",
    after_batch: Callable[[], None] | None = None,
    **options: Any,
) -> Scores:
    """Score the images of a manifest: one row each, in its order.

    Args:
        accelerator: Each of its processes scores a share of the images and gets the whole table.
        description: The text of the progress bar, which the main process shows.
        after_batch: This is called after each batch; an error that it raises ends the scoring.
        options: These go to :func:`predictions`, as ``perturb`` does.

    Raises ImageError as :func:`predictions`; also for a mask that cannot be decoded.
    """
    main = accelerator is None or accelerator.is_main_process
    if main and perturb is None:
        warning = geometry_warning(detector, manifest)
        if warning:
            _log.warning(warning)
    options |= {"accelerator": accelerator, "perturb": perturb}
    batches = predictions(detector, manifest, **options)
    parts = []
    total = len(range(len(manifest))[_share(accelerator)])
    hidden = not (progress and main)
    # Closed, its workers end also where the scoring is left midway.
    with (
        closing(batches),
        progress_bar(total=total, desc=description, unit="image", disable=hidden) as bar,
    ):
        for batch, prediction in batches:
            arrays = [field.numpy() for field in prediction]
            parts.append(_rows(manifest, batch, arrays, detector))
            bar.update(len(batch.index))
            if after_batch is not None:
                after_batch()
    part = Scores.concatenate(parts)
    return part if accelerator is None else Scores.merge(gather_object([part]))


def outlier_norm(
    detector: "Detector",
    manifest: Manifest,
    *,
    accelerator: Accelerator | None = None,
    cached: CachedFaces | None = None,
    **options: Any,
) -> float | None:
    """Return the norm that 99.5 % of the tokens of images do not exceed, in every process.

    Of more than ``NORM_IMAGES`` images, that many are taken at even steps. None for a network
    without tokens. cached: The features of the images, if there are any. options: These go to
    :func:`predictions`, as ``accelerator`` does.
    """
    if not detector.has_norms or not len(manifest):
        return None
    rows = evenly(len(manifest), NORM_IMAGES)
    if cached is not None:
        return float(np.quantile(cached.norms(rows).numpy(), 1 - OUTLIERS))
    options |= {"accelerator": accelerator, "indices": rows}
    batches = predictions(detector, images_only(manifest), **options)
    norms = [prediction.norms.flatten().numpy() for _, prediction in batches]
    norms = norms if accelerator is None else gather_object(norms)
    return float(np.quantile(np.concatenate(norms), 1 - OUTLIERS))


def geometry_warning(detector: "Detector", manifest: Manifest) -> str:
    """Return a warning if faces are cut out in another way than those of training, else ""."""
    trained = detector.config.geometry
    counts = {way: n for way, n in manifest.geometries().items() if way not in trained}
    if not trained or not counts:
        return ""
    return (
        f"{sum(counts.values())} of {len(manifest)} images are cut out otherwise "
        f"({', '.join(sorted(counts))}) than those of the model's training ({', '.join(trained)}), "
        "so its scores may be wrong: cut them alike with focus data crop"
    )


def _rows(
    manifest: Manifest, batch: Batch, prediction: Sequence[NDArray[Any]], detector: "Detector"
) -> Scores:
    """Return the table's rows for one batch; prediction: the fields of a Prediction."""
    score, predicted, of_classes, entropy, norms, *_ = prediction
    cams = of_classes[:, 0]
    samples = [manifest[index] for index in batch.index.tolist()]
    grid = cams.shape[1:]
    calibration = detector.points and detector.points.calibration
    # Zeros, which cover nothing, stand for no mask, as they do for no human map.
    masks = np.zeros((len(samples), *grid), np.float32)
    for mask, sample in zip(masks, samples, strict=True):
        if sample.label == SYNTHETIC and sample.mask_path is not None:
            mask[:] = artefact_coverage(
                sample.mask_path,
                detector.preprocessing,
                sample.path,
                digest=sample.extra.get(DIGESTS["mask"], ""),
            )
    targets = [hit_cells(mask) for mask in masks]
    # [N, 2]: the numbers of the cells where the CAM of the predicted class and that of synthetic
    # peak.
    peaks = of_classes.reshape(*of_classes.shape[:2], -1).argmax(axis=2)
    hits = [
        [-1, -1] if cells is None else cells.ravel()[peaks_of_image]
        for cells, peaks_of_image in zip(targets, peaks, strict=True)
    ]
    texts = ("path", "generator", "family", "split", "test_set", "group")
    columns: dict[str, Any] = {
        name: [getattr(sample, name) for sample in samples] for name in texts
    }
    columns |= map_agreement(cams, batch.saliency.numpy())
    columns["map_hit"] = np.nan_to_num(columns["map_hit"], nan=-1)
    columns["pointing_hit"], columns["pointing_hit_synthetic"] = np.array(hits).T
    columns |= {
        "index": batch.index.numpy(),
        "stored_in": [sample.extra.get(STORED_IN, "") for sample in samples],
        "label": [-1 if sample.label is None else sample.label for sample in samples],
        "score": score,
        "predicted": predicted,
        "entropy_predicted": entropy[:, 0],
        "entropy_synthetic": entropy[:, 1],
        "entropy_sum": sum_entropy(cams),
        "entropy_z": z_entropy(cams),
        "cam_range": np.ptp(cams, axis=(1, 2)),
        "peak_row": peaks[:, 0] // grid[1],
        "peak_col": peaks[:, 0] % grid[1],
        "mask_mass": mask_mass(cams, masks),
        "llr": calibration.llr(score) if calibration else score * np.nan,
        "peak_outlier": _on_outliers(peaks[:, 0], norms, detector.config.outlier_norm),
        "cams": cams,
        "pointing_chance": [math.nan if cells is None else cells.mean() for cells in targets],
    }
    return Scores(**columns)


def _on_outliers(peaks: NDArray[Any], norms: NDArray[Any], limit: float | None) -> NDArray[Any]:
    """Return for each CAM's peak [N], a cell's number, whether its token is an outlier; -1 unknown.

    norms [N, H, W], or [N, 0, 0].
    """
    if limit is None or not norms.size:
        return np.full(len(peaks), -1)
    return np.asarray(norms.reshape(len(norms), -1)[np.arange(len(peaks)), peaks] > limit)


def cost(detector: "Detector") -> str:
    """Return the cost in words: weights, FLOPs of the network by torch's counter, seconds.

    A multiplication and an addition are two. The time is the median of images one at a time.
    """
    from focus.model.backbones import evaluation_mode  # with timm

    weight = detector.head.fc.weight
    side = detector.image_size
    image = torch.zeros(1, 3, side, side, device=weight.device, dtype=weight.dtype)

    # The counter does not know each fused attention, but the products that they are made of.
    counter, plain = FlopCounterMode(display=False), sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), evaluation_mode(detector), counter, plain:
        detector.encode(image)

    seconds = []
    for _ in range(_TIMED):
        began = time.perf_counter()
        detector.predict_batch(image).score.cpu()
        seconds.append(time.perf_counter() - began)

    parameters = sum(parameter.numel() for parameter in detector.parameters())
    return (
        f"{parameters / 1e6:.3g} million parameters, {counter.get_total_flops() / 1e9:.3g} GFLOPs "
        f"and {statistics.median(seconds):.2g} s an image ({weight.device.type})"
    )

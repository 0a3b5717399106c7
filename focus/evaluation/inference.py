"""The detector over the images of a manifest: predictions batch by batch, and the whole table."""

import logging
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset

from focus import metrics
from focus.data.dataset import (
    Batch,
    FaceDataset,
    Perturb,
    artefact_coverage,
    load_batches,
    worker_options,
)
from focus.data.faces import geometries
from focus.data.manifest import SYNTHETIC, Manifest, Sample
from focus.errors import NotFiniteError
from focus.evaluation.scores import Scores
from focus.metrics import agreement
from focus.metrics.cams import hit_cells
from focus.model.operating_points import OperatingPoints
from focus.runtime.progress import progress_bar

if TYPE_CHECKING:
    from focus.model.detector import Detector, Prediction

Autocast = Callable[[], AbstractContextManager[Any]]

_log = logging.getLogger(__name__)


def predictions(
    detector: "Detector",
    manifest: Manifest,
    *,
    batch_size: int,
    workers: int = 0,
    autocast: Autocast | None = None,
    indices: Sequence[int] | None = None,
) -> Iterator[tuple[list[int], "Prediction"]]:
    """Yields rows of the manifest and the detector's :class:`~focus.model.detector.Prediction` for
    them.

    autocast: makes the context that the network runs in (``accelerator.autocast``). indices: the
    rows to take (default all). The network runs in evaluation and inference mode; every module is
    in its own mode again when a batch is handed out, and torch's global random state stays as it
    is.

    Raises ImageError when the output for an image is not finite, naming the image, and when the
    workers are lost (:func:`~focus.data.dataset.load_batches`).
    """
    batches = predicted_batches(
        detector,
        images_only(manifest),
        batch_size=batch_size,
        workers=workers,
        autocast=autocast,
        indices=indices,
    )
    for batch, prediction in batches:
        yield batch.index.tolist(), prediction


def predicted_batches(
    detector: "Detector",
    manifest: Manifest,
    *,
    batch_size: int,
    workers: int,
    autocast: Autocast | None,
    indices: Sequence[int] | None,
    perturb: Perturb | None = None,
) -> Generator[tuple[Batch, "Prediction"], None, None]:
    """As :func:`predictions`, with the batches, which hold the human maps that there are.

    perturb: changes each image before it is resized (:class:`~focus.data.dataset.FaceDataset`).
    """
    like = next(detector.parameters())  # the device, and the type of detector.half()
    images = FaceDataset(
        manifest,
        image_size=detector.image_size,
        grid=detector.grid,
        mean=detector.mean,
        std=detector.std,
        perturb=perturb,
    )
    loader = DataLoader(
        Subset(images, range(len(manifest)) if indices is None else indices),
        batch_size=batch_size,
        num_workers=workers,
        **worker_options(workers),
        # A loader draws a seed when it starts: not from the generator that training uses.
        generator=torch.Generator(),
        pin_memory=like.is_cuda,
    )
    for batch in load_batches(loader):
        with torch.inference_mode(), autocast() if autocast else nullcontext():
            prediction = detector.predict_batch(batch.images.to(like, non_blocking=True))
        if (at := prediction.first_not_finite()) is not None:
            path = manifest[int(batch.index[at])].path
            raise NotFiniteError(path, "try --mixed-precision no, or another model.")
        yield batch, prediction


def images_only(manifest: Manifest) -> Manifest:
    """Without human maps and masks, which play no part in a prediction and need not be read."""
    bare = (replace(sample, map_path=None, mask_path=None) for sample in manifest)
    return Manifest(bare, manifest.source)


def score_images(
    detector: "Detector",
    manifest: Manifest,
    *,
    batch_size: int,
    workers: int = 0,
    autocast: Autocast | None = None,
    indices: Sequence[int] | None = None,
    progress: bool = True,
    description: str = "scoring",
    each: Callable[[], None] | None = None,
    perturb: Perturb | None = None,
) -> Scores:
    """Scores the images of a manifest, one row each, in its order.

    indices: the rows to score, for one of several processes (``range(rank, len(manifest),
    processes)``); :meth:`Scores.merge` joins the parts. each: called after each batch; what it
    raises ends the scoring. The other arguments, and what is raised,
    are those of :func:`predicted_batches`; a human map or mask that cannot be decoded raises
    ImageError, too.
    """
    total = len(manifest) if indices is None else len(indices)
    batches = predicted_batches(
        detector,
        manifest,
        batch_size=batch_size,
        workers=workers,
        autocast=autocast,
        indices=indices,
        perturb=perturb,
    )
    parts = []
    # Closed, its workers end also where the scoring is left midway.
    with (
        closing(batches),
        progress_bar(total=total, desc=description, unit="image", disable=not progress) as bar,
    ):
        for batch, prediction in batches:
            arrays = [field.cpu().numpy() for field in prediction]
            parts.append(_rows(manifest, batch, arrays, detector.points))
            bar.update(len(batch.index))
            if each is not None:
                each()
    return Scores.concatenate(parts)


def score_shared(
    accelerator: Accelerator,
    detector: "Detector",
    manifest: Manifest,
    *,
    batch_size: int,
    workers: int,
    progress: bool,
    description: str,
    each: Callable[[], None] | None = None,
    perturb: Perturb | None = None,
) -> Scores:
    """Scores the images of a manifest, shared among the processes of a launch.

    Every process gets the whole table, in the manifest's order, each image once. The detector is
    on the accelerator's device and not wrapped; the other arguments are those of
    :func:`score_images`, and the main process shows the progress, and, of images as they are, a
    warning if they are cut out in another way than those of training.
    """
    speaks = accelerator.is_main_process and perturb is None
    if speaks and (warning := other_geometry(detector, manifest)):
        _log.warning(warning)
    part = score_images(
        detector,
        manifest,
        batch_size=batch_size,
        workers=workers,
        autocast=accelerator.autocast,
        indices=range(accelerator.process_index, len(manifest), accelerator.num_processes),
        progress=progress and accelerator.is_main_process,
        description=description,
        each=each,
        perturb=perturb,
    )
    return Scores.merge(gather_object([part]), len(manifest))


def other_geometry(detector: "Detector", manifest: Manifest) -> str:
    """What to say if faces are cut out in another way than training saw; "" if they are not."""
    known = detector.config.geometry
    other = {way: n for way, n in geometries(manifest).items() if way not in known}
    if not known or not other:
        return ""
    return (
        f"{sum(other.values())} of {len(manifest)} images are cut out otherwise "
        f"({', '.join(sorted(other))}) than those of the model's training ({', '.join(known)}), so "
        "its scores may be wrong: cut them alike with python -m focus.data crop"
    )


def _rows(
    manifest: Manifest,
    batch: Batch,
    prediction: Sequence[NDArray[Any]],
    points: OperatingPoints | None,
) -> Scores:
    """The table's rows for one batch; prediction: the fields of a Prediction."""
    score, predicted, cams, entropy = prediction
    calibration = points and points.calibration
    indices = batch.index.tolist()
    samples = [manifest[index] for index in indices]
    grid = cams.shape[2:]
    peaks = metrics.peak_cell(cams[:, 0])
    coverage = [_coverage(sample, grid) for sample in samples]
    # Zeros, which cover nothing, stand for no mask, as they do for no human map.
    masks = np.stack([np.zeros(grid) if cells is None else cells for cells in coverage])
    maps = batch.saliency.numpy()
    hits = agreement.map_hit(cams[:, 0], maps)
    return Scores(
        index=np.array(indices),
        path=np.array([sample.path for sample in samples]),
        label=np.array([-1 if sample.label is None else sample.label for sample in samples]),
        generator=np.array([sample.generator for sample in samples]),
        family=np.array([sample.family for sample in samples]),
        split=np.array([sample.split for sample in samples]),
        test_set=np.array([sample.test_set for sample in samples]),
        group=np.array([sample.group for sample in samples]),
        score=score,
        predicted=predicted,
        entropy_predicted=entropy[:, 0],
        entropy_synthetic=entropy[:, 1],
        entropy_sum=metrics.sum_entropy(cams[:, 0]).astype(np.float32),
        entropy_z=metrics.z_entropy(cams[:, 0]).astype(np.float32),
        cam_range=metrics.cam_range(cams[:, 0]).astype(np.float32),
        peak_row=peaks // grid[1],
        peak_col=peaks % grid[1],
        pointing_hit=_hits(peaks, coverage),
        pointing_hit_synthetic=_hits(metrics.peak_cell(cams[:, 1]), coverage),
        map_mse=agreement.map_mse(cams[:, 0], maps).astype(np.float32),
        map_cosine=agreement.map_cosine(cams[:, 0], maps).astype(np.float32),
        map_hit=np.where(np.isnan(hits), -1, hits).astype(np.int64),
        map_mass=agreement.map_mass(cams[:, 0], maps).astype(np.float32),
        mask_mass=agreement.mask_mass(cams[:, 0], masks).astype(np.float32),
        llr=(calibration.llr(score) if calibration else score * np.nan).astype(np.float32),
        pointing_chance=np.array([_chance(cells) for cells in coverage], dtype=np.float32),
        map_chance=agreement.map_chance(cams[:, 0], maps).astype(np.float32),
    )


def _coverage(sample: Sample, grid: tuple[int, ...]) -> NDArray[np.float32] | None:
    if sample.label != SYNTHETIC or sample.mask_path is None:
        return None
    return artefact_coverage(sample.mask_path, (grid[0], grid[1]))


def _chance(coverage: NDArray[np.float32] | None) -> float:
    cells = None if coverage is None else hit_cells(coverage)
    return math.nan if cells is None else float(cells.mean())


def _hits(
    peaks: NDArray[np.int64], coverage: Iterable[NDArray[np.float32] | None]
) -> NDArray[np.int64]:
    hits = [
        None if cells is None else metrics.pointing_hit(int(peak), cells)
        for peak, cells in zip(peaks, coverage, strict=True)
    ]
    return np.array([-1 if hit is None else int(hit) for hit in hits], dtype=np.int64)

"""Does the decision rest on what the CAM shows? How far it falls when that place is blurred.

This project's own definition, modelled on the deletion tests of RISE (Petsiuk et al. 2018) and the
drop in confidence of Grad-CAM++ (Chattopadhyay et al. 2018). On the network's input x, S pixels a
side:

    region    a box of S/4 pixels a side, of a cell's side where cells of the CAM are larger; its
              middle is that of the cell where the predicted class's CAM peaks, moved as little as
              it takes to lie in the image
    m         1 in the box, falling linearly to 0 over an eighth of its side at each edge; else 0
    x'        x + m (blurred x - x), by a Gaussian of sigma S/8: no detail of the box's size is
              left, and neither a colour nor an edge comes in that was not there
    fall      p(x) - p(x'), in [-1, 1]; p is the probability of the decision on x, real or synthetic

The same for boxes of the same size elsewhere, drawn uniformly from all places that do not overlap
with the first. A CAM is faithful where the fall at its peak is larger than that of the others,
which a blur of any place brings too. (Peaks may lie nearer to the middle of faces than those
places: read the figure beside that of cross-entropy.) The probability, not the logit, because it is
on the same scale for all networks and says whether the decision would change; of a network that is
sure of everything it falls little, at the peak and elsewhere.

``docs/formats.md`` describes ``faithfulness.csv``.
"""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from focus import metrics
from focus.data.manifest import REAL, Manifest
from focus.errors import ImageError
from focus.evaluation.estimates import SIDES, intervals
from focus.evaluation.inference import Autocast, images_only, predicted_batches
from focus.evaluation.protocol import UNNAMED, Comparison, match, strata, union
from focus.evaluation.results import Results
from focus.evaluation.scores import Scores
from focus.runtime.files import atomic_csv_writer
from focus.runtime.progress import progress_bar

if TYPE_CHECKING:
    from focus.model.detector import Detector, Prediction

VERSION = 1
FILE = "faithfulness.csv"
PLACES = 8
"""Boxes elsewhere, of each image."""
RESAMPLES = 2000

_MARK = "# focus-faithfulness "
_SHARE = "share_peak_larger"
_COLUMNS = (
    *("path", "label", "generator", "test_set", "predicted"),
    *("fall_peak", "fall_elsewhere", "peak_larger"),
)

Box = tuple[int, int]
"""Of a region: the row of its upper edge and the column of its left one, in pixels."""


@dataclass(frozen=True, eq=False)
class Falls:
    """One image a row, as in the scores of the same manifest.

    peak [N]: the fall when the place of the CAM's peak is blurred. elsewhere [N, R]: that of each
    box elsewhere. float64, in [-1, 1].
    """

    peak: NDArray[np.float64]
    elsewhere: NDArray[np.float64]

    def larger(self) -> NDArray[np.float64]:
        """[N] share of the boxes elsewhere whose fall is below the peak's, equal ones half.

        Of a place that is as any other its mean is one half, however skewed falls are; of the peak
        against the mean of the others it would be less.
        """
        signs = np.sign(self.peak[:, None] - self.elsewhere)
        return np.asarray((1 + signs.mean(axis=1)) / 2, dtype=np.float64)


def measure(
    accelerator: Accelerator,
    detector: "Detector",
    manifest: Manifest,
    *,
    batch_size: int,
    workers: int = 0,
    places: int = PLACES,
    seed: int = 0,
    progress: bool = True,
) -> Falls:
    """The falls of every image; each costs as much as scoring ``places + 2`` images.

    The detector is on the accelerator's device and not wrapped. What is drawn depends on seed and
    row of the manifest only. Every process of a launch calls it, takes its share and gets all of
    the result; the main one shows the progress over its share.

    Raises ImageError when the output for an image is not finite, naming the image.
    """
    indices = range(accelerator.process_index, len(manifest), accelerator.num_processes)
    batches = predicted_batches(
        detector,
        images_only(manifest),
        batch_size=batch_size,
        workers=workers,
        autocast=accelerator.autocast,
        indices=indices,
    )
    rows: list[int] = []
    found: list[NDArray[np.float64]] = []
    with (
        closing(batches),
        progress_bar(
            total=len(indices),
            desc="faithfulness",
            unit="image",
            disable=not (progress and accelerator.is_main_process),
        ) as bar,
    ):
        for batch, prediction in batches:
            images = batch.images.to(accelerator.device)
            drawn = [(seed, row) for row in batch.index.tolist()]
            boxes = regions(prediction.cams[:, 0].cpu().numpy(), detector.image_size, places, drawn)
            with torch.inference_mode():
                falls = _falls(detector, images, prediction, boxes, accelerator.autocast)
            if not np.isfinite(falls).all():
                path = manifest[int(batch.index[int(np.isfinite(falls).all(1).argmin())])].path
                raise ImageError(
                    f"The model's output for {path!r} is not finite where a part of it is blurred: "
                    "try --mixed-precision no."
                )
            rows += batch.index.tolist()
            found.append(falls)
            bar.update(len(falls))
    return _merged(gather_object([(rows, found)]), len(manifest), 1 + places)


def regions(
    cams: NDArray[Any], size: int, places: int, keys: Sequence[tuple[int, ...]]
) -> NDArray[np.int64]:
    """Where the box of each image's peak lies, and ``places`` others: [N, 1 + places, 2] pixels.

    cams [N, H, W]: of the predicted class. size: S, pixels a side of the images. keys: of each
    image, what its other boxes are drawn from, with replacement; they may overlap with each other.
    """
    grid = cams.shape[1:]
    sides = box_sides(grid, size)
    peaks = np.stack(np.unravel_index(metrics.peak_cell(cams), grid), axis=1)
    middles = (peaks + 0.5) * size / np.array(grid)
    starts = np.floor(middles - np.array(sides) / 2).astype(np.int64)
    starts = starts.clip(0, size - np.array(sides))
    rows, columns = (np.arange(size - side + 1) for side in sides)
    found = np.empty((len(cams), 1 + places, 2), dtype=np.int64)
    for image, (start, key) in enumerate(zip(starts, keys, strict=True)):
        apart = np.abs(rows - start[0])[:, None] >= sides[0]
        apart = apart | (np.abs(columns - start[1]) >= sides[1])
        free = np.flatnonzero(apart)
        chosen = np.random.default_rng(key).choice(free, places)
        found[image, 0] = start
        found[image, 1:] = np.stack(np.unravel_index(chosen, apart.shape), axis=1)
    return found


def box_sides(grid: Sequence[int], size: int) -> tuple[int, int]:
    """Height and width in pixels of all boxes, for a CAM of ``grid`` cells on ``size`` pixels."""
    height, width = (int(size / min(4, cells)) for cells in grid)
    return height, width


def blurred(images: Tensor) -> Tensor:
    """Images [B, 3, S, S] under a Gaussian of sigma S/8, normalised at the borders."""
    size = images.shape[-1]
    at = torch.arange(size, dtype=torch.float32, device=images.device)
    weights = torch.exp(-0.5 * ((at[:, None] - at) / (size / 8)) ** 2)
    weights /= weights.sum(1, keepdim=True)
    return weights @ images @ weights.T


def softened(images: Tensor, blurry: Tensor, starts: NDArray[np.int64], mask: Tensor) -> Tensor:
    """Images [B, 3, S, S] with a box of each blurred.

    starts [B, 2]: upper edge and left edge. mask [h, w]: how much of the blur, in [0, 1].
    """
    changed = images.clone()
    height, width = mask.shape
    for image, (top, left) in enumerate(starts.tolist()):
        box = (image, slice(None), slice(top, top + height), slice(left, left + width))
        changed[box] = torch.lerp(images[box], blurry[box], mask)
    return changed


def soft_box(sides: tuple[int, int]) -> Tensor:
    """The mask m [h, w] in (0, 1] of a box: 1, falling over an eighth of the side at each edge."""
    ramps = []
    for side in sides:
        inside = torch.arange(side, dtype=torch.float32) + 0.5
        edge = max(1.0, side / 8)
        ramps.append((torch.minimum(inside, side - inside) / edge).clamp(max=1.0))
    return ramps[0][:, None] * ramps[1]


def summary(
    falls: Falls,
    rows: ArrayLike,
    scores: Scores | None = None,
    apart: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """The figures of some images, for ``results.json``; None where there are no images.

    rows: a mask [N] or row numbers. fall_peak and fall_elsewhere: means over images, of each its
    mean over the boxes elsewhere. difference: the first minus the second. share_peak_larger: the
    mean of :meth:`Falls.larger`, one half by chance. intervals: 95 %, the widened percentiles
    of :data:`RESAMPLES` resamples by the groups of ``scores``, within what is resampled ``apart``
    [N] (:func:`focus.evaluation.results.strata`; default: its classes); none where a class has
    fewer than two images, or groups. A share that no resample moves from 0 or 1 gets that of a rate
    over all of them; other means that do not move have none.
    """
    chosen = np.arange(len(falls.peak))[np.asarray(rows)] if np.size(rows) else _NONE
    peak, elsewhere = falls.peak[chosen], falls.elsewhere[chosen].mean(axis=1)
    values = np.stack([peak, elsewhere, peak - elsewhere, falls.larger()[chosen]])
    names = ("fall_peak", "fall_elsewhere", "difference", _SHARE)
    means = {name: metrics.mean(own) for name, own in zip(names, values, strict=True)}
    spread = _intervals(dict(zip(names, values, strict=True)), chosen, scores, apart)
    return {"n": len(chosen), **means, "intervals": spread}


def by_class(
    falls: Falls,
    real: NDArray[np.int64],
    fake: NDArray[np.int64],
    scores: Scores | None = None,
    apart: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """:func:`summary` of the images in rows ``real`` and ``fake``, and of each class alone."""
    return {
        **summary(falls, np.concatenate([real, fake]), scores, apart),
        "real": summary(falls, real, scores, apart),
        "fake": summary(falls, fake, scores, apart),
    }


def add(falls: Falls, scores: Scores, results: Results) -> None:
    """Put :func:`by_class` into each test set and generator of ``results``, as "faithfulness"."""
    members: dict[str, list[Comparison]] = {}
    images, found = scores.images, match(scores, results["training_generators"])
    apart = strata(scores.label, found, images)
    for comparison in found:
        members.setdefault(comparison.test_set, []).append(comparison)
    for test_set, comparisons in members.items():
        place = results[test_set]
        real = union((c.real for c in comparisons), images)
        fake = union((c.fake for c in comparisons), images)
        place["pooled"]["faithfulness"] = by_class(falls, real, fake, scores, apart)
        for c in comparisons:
            own = place["generators"][c.generator or UNNAMED]
            own["faithfulness"] = by_class(falls, c.real, c.fake, scores, apart)


def write(falls: Falls, scores: Scores, folder: Path) -> Path:
    """Writes ``faithfulness.csv``, a row an image, into ``folder``; returns its path."""
    path = folder / FILE
    with atomic_csv_writer(path, f"{_MARK}{VERSION}", end="\n") as writer:
        writer.writerow(_COLUMNS)
        figures = zip(falls.peak, falls.elsewhere.mean(axis=1), falls.larger(), strict=True)
        for row, own in enumerate(figures):
            label = "" if scores.label[row] < 0 else scores.label[row]
            texts = (scores.path[row], label, scores.generator[row], scores.test_set[row])
            writer.writerow((*texts, scores.predicted[row], *(f"{value:.6g}" for value in own)))
    return path


def lines(falls: Falls, scores: Scores, training_generators: Sequence[str]) -> list[str]:
    """What the console says: a line a test set, or one if no image has a label."""
    comparisons, images = match(scores, training_generators), scores.images
    groups = {
        test_set: union(
            (r for c in comparisons if c.test_set == test_set for r in (c.real, c.fake)), images
        )
        for test_set in dict.fromkeys(c.test_set for c in comparisons)
    } or {"all images": np.arange(len(scores))}
    apart = strata(scores.label, comparisons, images)
    return [_line(name, summary(falls, rows, scores, apart)) for name, rows in groups.items()]


def _line(name: str, figures: dict[str, Any]) -> str:
    interval = figures["intervals"].get("difference")
    spread = "" if interval is None else f" (95 % {interval[0]:.3f} to {interval[1]:.3f})"
    return (
        f"Faithfulness, {name}: the decision's probability falls by {figures['fall_peak']:.3f} "
        f"where the CAM peaks, by {figures['fall_elsewhere']:.3f} elsewhere; difference "
        f"{figures['difference']:.3f}{spread}, {figures['n']} images."
    )


def _falls(
    detector: "Detector",
    images: Tensor,
    prediction: "Prediction",
    boxes: NDArray[np.int64],
    autocast: Autocast,
) -> NDArray[np.float64]:
    """[B, 1 + places]: the fall for each of ``boxes`` [B, 1 + places, 2]."""
    synthetic = (prediction.predicted != REAL).cpu()
    mask = soft_box(box_sides(prediction.cams.shape[2:], images.shape[-1])).to(images.device)
    blurry = blurred(images)
    after = []
    for place in range(boxes.shape[1]):
        changed = softened(images, blurry, boxes[:, place], mask)
        with autocast():  # the network alone: the blur keeps its precision
            after.append(_decided(detector.predict_batch(changed).score, synthetic))
    before = _decided(prediction.score, synthetic)
    falls: NDArray[np.float64] = (before[:, None] - torch.stack(after, 1)).numpy()
    return falls


def _decided(score: Tensor, synthetic: Tensor) -> Tensor:
    """The probability of the decision, real or synthetic, [B] float64."""
    return torch.where(synthetic, score, 1 - score)


def _merged(
    parts: Sequence[tuple[list[int], list[NDArray[np.float64]]]], count: int, width: int
) -> Falls:
    falls = np.full((count, width), np.nan)
    for rows, found in parts:
        falls[rows] = np.concatenate([np.empty((0, width)), *found])
    assert not np.isnan(falls).any(), "every image belongs to one process"
    return Falls(falls[:, 0], falls[:, 1:])


_NONE = np.zeros(0, dtype=np.int64)


def _intervals(
    values: Mapping[str, NDArray[np.float64]],
    rows: NDArray[np.int64],
    scores: Scores | None,
    apart: NDArray[np.int64] | None,
) -> dict[str, metrics.Interval]:
    """Of the means of ``values`` [N], by name, of the images in ``rows``."""
    labels = np.zeros(len(rows)) if scores is None else scores.label[rows]
    groups = np.full(len(rows), "") if scores is None else scores.group[rows]
    own_strata = labels if apart is None else apart[rows]
    resampler, random = metrics.Resampler(own_strata, groups), np.random.default_rng(0)
    classes = [resampler.units(np.flatnonzero(labels == label)) for label in np.unique(labels)]
    fewest = min(classes, default=0)
    if fewest < 2:
        return {}
    at_once = max(1, 2**20 // len(rows))
    joined, means = np.stack(list(values.values())), []
    for done in range(0, RESAMPLES, at_once):
        times = resampler.draw(random, min(at_once, RESAMPLES - done))
        means.append(joined @ times.T / times.sum(axis=1))
    units = dict.fromkeys(SIDES, fewest) | {_SHARE: resampler.units(np.arange(len(rows)))}
    found = {name: float(own.mean()) for name, own in values.items()}
    draws = dict(zip(values, np.concatenate(means, axis=1), strict=True))
    return intervals(found, draws, {}, units)

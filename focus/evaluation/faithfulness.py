"""Measure whether the decision rests on what the CAM shows: how far it falls when that is blurred.

This project's own definition, after the deletion tests of RISE (Petsiuk et al. 2018) and the drop
in confidence of Grad-CAM++ (Chattopadhyay et al. 2018). On the network's input x, S pixels a side:

    region    a box of S/4 pixels a side, of a cell's side where cells of the CAM are larger; its
              middle is that of the cell where the predicted class's CAM peaks, moved as little as
              it takes to lie in the image
    m         1 in the box, falling linearly to 0 over an eighth of its side at each edge; else 0
    x'        x + m (blurred x - x), by a Gaussian of sigma S/8: no detail of the box's size is
              left, and neither a colour nor an edge comes in that was not there
    fall      p(x) - p(x'), in [-1, 1]; p is the probability of the decision on x, real or synthetic

The same for boxes of the same size elsewhere, drawn uniformly from all places that do not overlap
with the first. A CAM is faithful where the fall at its peak is larger than that of the others.
(Peaks may lie nearer to the middle of faces than those places: read the figure beside that of
cross-entropy.) Probabilities are on the same scale for all networks, which logits are not; of a
network that is sure of everything they fall little at any place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from focus.data.manifest import REAL, Manifest
from focus.errors import ImageError
from focus.evaluation.inference import images_only, predictions
from focus.evaluation.protocol import UNNAMED, match, strata, union
from focus.evaluation.results import FAITHFULNESS, Results
from focus.evaluation.scores import Scores
from focus.metrics.arrays import Floats, Integers
from focus.metrics.bootstrap import RESAMPLES, Resampler, percentiles
from focus.metrics.intervals import Interval, rate_interval
from focus.runtime.files import write_csv
from focus.runtime.progress import progress_bar

if TYPE_CHECKING:
    from focus.model.detector import Detector
    from focus.model.prediction import Prediction

PLACES = 8
"""Boxes elsewhere, of each image."""

_SHARE = "share_peak_larger"

Summary = dict[str, dict[str, Any]]
"""Means by test set and, within it, by generator; "" is all of them."""


@dataclass(frozen=True, eq=False)
class Falls:
    """Falls of the probability of each decision; one image a row, as in the scores.

    peak [N]: The fall when the place of the CAM's peak is blurred. elsewhere [N, R]: The falls when
    each of the other boxes is. Both are float64, in [-1, 1].
    """

    peak: Floats
    elsewhere: Floats

    def columns(self) -> dict[str, Floats]:
        """Return the figures of each image, [N] each, by their names in results.json.

        ``share_peak_larger`` is the share of the boxes elsewhere whose fall is smaller, equal ones
        counting half. Its mean is 0.5 for a cell no different from the others, however skewed
        falls are.
        """
        elsewhere = self.elsewhere.mean(axis=1)
        signs = np.sign(self.peak[:, None] - self.elsewhere)
        return {
            "fall_peak": self.peak,
            "fall_elsewhere": elsewhere,
            "difference": self.peak - elsewhere,
            _SHARE: (1 + signs.mean(axis=1)) / 2,
        }


def measure(
    accelerator: Accelerator,
    detector: "Detector",
    manifest: Manifest,
    *,
    places: int = PLACES,
    progress: bool = True,
    **options: Any,
) -> Falls:
    """Measure the falls of every image; each costs as much as scoring ``places + 2`` images.

    The detector is on the accelerator's device and not wrapped. The other boxes of an image depend
    on its row only. Every process of a launch calls it and gets all of the result. options: These
    go to :func:`~focus.evaluation.inference.predictions`. Raises ImageError, naming the image,
    where an output is not finite.
    """
    falls_of_row: dict[int, Floats] = {}
    with progress_bar(
        total=-(-len(manifest) // accelerator.num_processes),
        desc="faithfulness",
        unit="image",
        disable=not (progress and accelerator.is_main_process),
    ) as bar:
        bare = images_only(manifest)
        for batch, prediction in predictions(detector, bare, accelerator=accelerator, **options):
            rows = batch.index.tolist()
            cams = prediction.cams[:, 0].cpu().numpy()
            boxes = regions(cams, detector.image_size, places, rows)
            images = detector.normalise(batch.images.to(accelerator.device))
            with torch.inference_mode():
                falls = _falls(detector, images, prediction, boxes, accelerator)
            for row, falls_of_image in zip(rows, falls, strict=True):
                if not np.isfinite(falls_of_image).all():
                    raise ImageError(
                        f"The model's output for {manifest[row].path!r} is not finite where a part "
                        "of it is blurred: try --mixed-precision no."
                    )
                falls_of_row[row] = falls_of_image
            bar.update(len(rows))

    for falls_of_process in gather_object([falls_of_row]):
        falls_of_row |= falls_of_process
    table = np.array([falls_of_row[row] for row in range(len(manifest))]).reshape(-1, 1 + places)
    return Falls(table[:, 0], table[:, 1:])


def regions(cams: NDArray[Any], size: int, places: int, seeds: Sequence[int]) -> Integers:
    """Return the box of each image's peak and ``places`` others: [N, 1 + places, 2] pixels.

    A box is given by its upper row and left column. cams: CAMs [N, H, W] of the predicted class.
    size: S, pixels a side of the images. seeds: An image's seed draws its other boxes, which may
    overlap with each other.
    """
    grid = cams.shape[1:]
    sides = np.array(box_sides(grid, size))
    cells = cams.reshape(len(cams), -1).argmax(axis=1)
    peaks = np.stack(np.unravel_index(cells, grid), axis=1)
    middles = (peaks + 0.5) * size / np.array(grid)
    starts = np.floor(middles - sides / 2).astype(np.int64).clip(0, size - sides)
    rows, columns = (np.arange(size - side + 1) for side in sides)

    boxes = np.empty((len(cams), 1 + places, 2), dtype=np.int64)
    for image, (start, seed) in enumerate(zip(starts, seeds, strict=True)):
        apart = np.abs(rows - start[0])[:, None] >= sides[0]
        apart = apart | (np.abs(columns - start[1]) >= sides[1])
        chosen = np.random.default_rng((0, seed)).choice(np.flatnonzero(apart), places)
        boxes[image, 0] = start
        boxes[image, 1:] = np.stack(np.unravel_index(chosen, apart.shape), axis=1)
    return boxes


def box_sides(grid: Sequence[int], size: int) -> tuple[int, int]:
    """Return height and width in pixels of all boxes, for a CAM of ``grid`` cells on ``size``."""
    height, width = (int(size / min(4, cells)) for cells in grid)
    return height, width


def without_details(images: Tensor) -> Tensor:
    """Blur images [B, 3, S, S] by a Gaussian of sigma S/8, normalised at the borders."""
    size = images.shape[-1]
    pixel = torch.arange(size, dtype=torch.float32, device=images.device)
    weights = torch.exp(-0.5 * ((pixel[:, None] - pixel) / (size / 8)) ** 2)
    weights /= weights.sum(1, keepdim=True)
    return weights @ images @ weights.T


def soft_box(sides: tuple[int, int]) -> Tensor:
    """Return the mask m [h, w] in (0, 1] of a box: 1, falling over an eighth of each side."""
    ramps = []
    for side in sides:
        inside = torch.arange(side, dtype=torch.float32) + 0.5
        edge = max(1.0, side / 8)
        ramps.append((torch.minimum(inside, side - inside) / edge).clamp(max=1.0))
    return ramps[0][:, None] * ramps[1]


def _falls(
    detector: "Detector",
    images: Tensor,
    prediction: "Prediction",
    boxes: Integers,
    accelerator: Accelerator,
) -> Floats:
    """Return [B, 1 + places] the fall for each of ``boxes`` [B, 1 + places, 2]."""
    height, width = box_sides(prediction.cams.shape[2:], images.shape[-1])
    mask = soft_box((height, width)).to(images.device)
    blurred = without_details(images)
    is_fake = (prediction.predicted != REAL).cpu()

    def decided(score: Tensor) -> Tensor:
        return torch.where(is_fake, score, 1 - score)

    after = []
    for starts in boxes.swapaxes(0, 1).tolist():
        changed = images.clone()
        for image, (row, column) in enumerate(starts):
            box = (image, slice(None), slice(row, row + height), slice(column, column + width))
            changed[box] = torch.lerp(images[box], blurred[box], mask)
        with accelerator.autocast():  # the network alone: the blur keeps its precision
            after.append(decided(detector.predict_batch(changed).score.cpu()))
    falls: Floats = (decided(prediction.score)[:, None] - torch.stack(after, 1)).numpy()
    return falls


def summarise(falls: Falls, scores: Scores, training_generators: Iterable[str]) -> Summary:
    """Return means by test set and, within it, by generator; "" is all of them, each image once.

    Each holds :func:`means` of its images and, as "real" and "synthetic", of each class alone. If
    no image has a label, "all images" is the only test set.
    """
    comparisons = match(scores, training_generators)
    strata_of_rows = strata(scores.label, comparisons, scores.images)

    def means_of(rows: Integers) -> dict[str, Any]:
        return means(falls, scores, rows, strata_of_rows)

    def by_class(real: Integers, fake: Integers) -> dict[str, Any]:
        of_both = means_of(np.concatenate([real, fake]))
        return of_both | {"real": means_of(real), "synthetic": means_of(fake)}

    if not comparisons:
        return {"all images": {"": means_of(np.arange(len(scores)))}}
    summary: Summary = {}
    for test_set in dict.fromkeys(comparison.test_set for comparison in comparisons):
        of_set = [comparison for comparison in comparisons if comparison.test_set == test_set]
        real = union((comparison.real for comparison in of_set), scores.images)
        fake = union((comparison.fake for comparison in of_set), scores.images)
        summary[test_set] = {"": by_class(real, fake)}
        for comparison in of_set:
            name = comparison.generator or UNNAMED
            summary[test_set][name] = by_class(comparison.real, comparison.fake)
    return summary


def means(falls: Falls, scores: Scores, rows: Integers, strata_of_rows: Integers) -> dict[str, Any]:
    """Return the means over the images in ``rows``, with 95 % intervals by a bootstrap.

    Resampled are whole ``group``s within ``strata_of_rows`` [N]
    (:func:`focus.evaluation.protocol.strata`). None of fewer than ``SUPPORT``
    independent images, but of a share of 0 or 1.
    """
    columns = {name: column[rows] for name, column in falls.columns().items()}
    if not len(rows):
        return {"n": 0, **dict.fromkeys(columns), "intervals": {}}
    resampler = Resampler(strata_of_rows[rows], scores.group[rows])
    count = resampler.count
    means_of_columns = {name: float(column.mean()) for name, column in columns.items()}
    intervals: dict[str, Interval | None] = {}
    for (name, mean), draws in zip(
        means_of_columns.items(), _resampled_means(columns, resampler), strict=True
    ):
        interval = percentiles(draws, count)
        if interval and not np.isclose(*interval, rtol=0, atol=1e-12):
            intervals[name] = interval
        elif name == _SHARE and mean in (0, 1):  # no resample moves it from there
            intervals[name] = rate_interval(round(mean * count), count)
    return {"n": len(rows), **means_of_columns, "intervals": intervals}


def _resampled_means(columns: dict[str, Floats], resampler: Resampler) -> Floats:
    """Return the mean [columns, RESAMPLES] of each column [n] in each resample."""
    random = np.random.default_rng(0)
    stacked = np.stack(list(columns.values()))
    at_once = max(1, 2**20 // stacked.shape[1])  # weights in memory
    draws = []
    for drawn in range(0, RESAMPLES, at_once):
        weights = resampler.draw(random, min(at_once, RESAMPLES - drawn))
        draws.append(stacked @ weights.T / weights.sum(axis=1))
    return np.hstack(draws)


def add(summary: Summary, results: Results) -> None:
    """Put the means of each test set and generator into ``results``, as "faithfulness"."""
    for test_set, entries in summary.items():
        for name, entry in entries.items():
            in_set = results[test_set]
            figures = in_set["generators"][name] if name else in_set["pooled"]
            figures["faithfulness"] = entry


def means_in(results: Results) -> Summary:
    """Return the means that :func:`add` has put into ``results``, empty if it has not."""
    summary: Summary = {}
    for test_set, part in results.items():
        if not isinstance(part, dict) or "faithfulness" not in part.get("pooled", {}):
            continue
        summary[test_set] = {"": part["pooled"]["faithfulness"]}
        for name, generator in part["generators"].items():
            if "faithfulness" in generator:
                summary[test_set][name] = generator["faithfulness"]
    return summary


def write(falls: Falls, scores: Scores, folder: Path) -> Path:
    """Write ``faithfulness.csv``, a row an image, into ``folder``; return its path."""
    header = (
        "path",
        "label",
        "generator",
        "test_set",
        "predicted",
        "fall_peak",
        "fall_elsewhere",
        "peak_larger",
    )
    columns = falls.columns()
    rows = []
    for row, label in enumerate(scores.label.tolist()):
        rows.append(
            (
                scores.path[row],
                "" if label < 0 else label,
                scores.generator[row],
                scores.test_set[row],
                scores.predicted[row],
                f"{columns['fall_peak'][row]:.6g}",
                f"{columns['fall_elsewhere'][row]:.6g}",
                f"{columns[_SHARE][row]:.6g}",
            )
        )
    return write_csv(folder / FAITHFULNESS, header, rows)


def lines(summary: Summary) -> list[str]:
    """Return a line for each test set."""
    return [_line(test_set, entries[""]) for test_set, entries in summary.items()]


def _line(test_set: str, figures: dict[str, Any]) -> str:
    ends = figures["intervals"].get("difference")
    interval = "" if ends is None else f" (95 % {ends[0]:.3f} to {ends[1]:.3f})"
    return (
        f"Faithfulness, {test_set}: the decision's probability falls by "
        f"{figures['fall_peak']:.3f} where the CAM peaks, by {figures['fall_elsewhere']:.3f} "
        f"elsewhere; difference {figures['difference']:.3f}{interval}, {figures['n']} images."
    )

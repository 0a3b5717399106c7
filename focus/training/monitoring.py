"""The figures of a step, of an epoch and of the validation images.

``docs/formats.md`` describes ``summary.csv``, which holds those of an epoch.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sklearn.metrics import average_precision_score, balanced_accuracy_score, log_loss

from focus.data.manifest import REAL, SYNTHETIC
from focus.evaluation.scores import Scores
from focus.metrics.cams import commonest_peak_share
from focus.metrics.ranking import auc
from focus.runtime.files import atomic_write

TERMS = ("loss", "classification", "focus", "saliency", "entropy", "with_map")
"""Means over images in ``summary.csv``, in the order in which a step sums them."""

COLLAPSED = 0.9
"""Share of validation images whose CAM peaks in one cell, from which on there is a warning."""


class Step(NamedTuple):
    """The figures of a step of the optimiser, over the images of all processes.

    sums: of ``TERMS``. images: how many. gradient_norm: before clipping. updated: the weights
    moved. finite: else the loss or its gradient was not finite, which is the batch's fault or the
    network's, not that of the scale of fp16.
    """

    sums: list[float]
    images: float
    gradient_norm: float
    updated: bool
    finite: bool


def add_step(sums: Sequence[float] | None, step: Step) -> list[float]:
    """Add a step to the sums of its epoch: of ``TERMS``, images, norms, steps done and skipped."""
    own = [0.0] * (len(TERMS) + 3) + [1.0]
    if step.updated:
        own = [*step.sums, step.images, step.gradient_norm, 1.0, 0.0]
    return own if sums is None else [a + b for a, b in zip(sums, own, strict=True)]


def training_figures(sums: Sequence[float]) -> dict[str, float]:
    """Return the ``train_*`` figures of an epoch's sums; NaN where no step was done."""
    *terms, images, norm, done, skipped = sums
    return {
        **{f"train_{n}": _share(total, images) for n, total in zip(TERMS, terms, strict=True)},
        "train_grad_norm": _share(norm, done),
        "train_skipped_steps": int(skipped),
    }


def validation_figures(scores: Scores) -> dict[str, float]:
    """Return the ``eval_*`` figures of the validation images; CAMs of the predicted class."""
    label, score = scores.label, scores.score
    ranked = auc(score[label == REAL], score[label == SYNTHETIC])
    assert ranked is not None, "both classes are in the validation split"
    share = commonest_peak_share(scores.peak_row * 10_000 + scores.peak_col)
    return {
        "eval_auc": ranked,
        "eval_average_precision": float(average_precision_score(label, score)),
        "eval_balanced_accuracy": float(balanced_accuracy_score(label, scores.predicted != REAL)),
        "eval_log_loss": float(log_loss(label, score)),
        "eval_entropy": float(scores.entropy_predicted.mean()),
        "eval_entropy_sum": float(scores.entropy_sum.mean()),
        "eval_entropy_z": float(scores.entropy_z.mean()),
        "eval_cam_range": float(scores.cam_range.mean()),
        "eval_peak_share": share or 0.0,
    }


def collapse_warning(figures: Mapping[str, float]) -> str:
    """Return a warning if the CAM peaks in one place whatever the image, else ""."""
    share = figures["eval_peak_share"]
    if share < COLLAPSED:
        return ""
    return (
        f"warning: the CAM of {100 * share:.0f} % of the validation images peaks in the same cell: "
        "the model looks at one place whatever the image; lower --focus-weight, or raise "
        "--saliency-weight"
    )


def epoch_line(
    row: Mapping[str, Any], epochs: int, metric: str, *, best: bool, images_per_second: float
) -> str:
    """Return an epoch's line for the console. images_per_second: of training."""
    mark = "  (best)" if best else ""
    return (
        f"epoch {row['epoch']}/{epochs}  loss {row['train_loss']:.4f}  "
        f"validation {metric.replace('_', ' ').replace('auc', 'AUC')} {row[f'eval_{metric}']:.4f}  "
        f"entropy {row['eval_entropy']:.3f}  {images_per_second:.0f} images/s{mark}"
    )


def write_summary(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``summary.csv``."""
    with atomic_write(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def _share(total: float, count: float) -> float:
    return total / count if count else math.nan

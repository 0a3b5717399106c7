"""Choose the best epoch and the thresholds on validation images."""

from collections.abc import Mapping, Sequence
from typing import Any

from focus.data.manifest import REAL, SYNTHETIC
from focus.evaluation.scores import Scores
from focus.metrics.bootstrap import units
from focus.model.operating_points import OperatingPoints, choose_points

LOWER_IS_BETTER = ("log_loss",)


def is_better(metric: str, value: float, best: float | None) -> bool:
    """Return whether a model with ``value`` replaces the best so far; not on a tie."""
    return best is None or (value < best if metric in LOWER_IS_BETTER else value > best)


def best_epoch(rows: Sequence[Mapping[str, Any]], metric: str | None) -> int | None:
    """Return the epoch with the best metric in ``summary.csv``; None where no row has it."""
    best, epoch = None, None
    for row in rows:
        value = row.get(f"eval_{metric}")
        if value is not None and is_better(str(metric), value, best):
            best, epoch = value, int(row["epoch"])
    return epoch


def operating_points(scores: Scores) -> OperatingPoints:
    """Choose the thresholds from the scores of the validation images."""
    real, fake = (scores.label == label for label in (REAL, SYNTHETIC))
    unit = units(scores.group, scores.images)
    return choose_points(scores.score[real], scores.score[fake], unit[real], unit[fake])

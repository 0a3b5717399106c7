"""Choose the best epoch by a validation metric."""

from collections.abc import Mapping, Sequence
from typing import Any

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

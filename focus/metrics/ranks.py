"""Rank models by tests of all pairs, with what could be chance left open."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from focus.metrics.arrays import Floats


def holm(p_values: Any) -> Floats:
    """Return Holm's (1979) adjusted p-values [n], in the order given; NaN are left out, and stay.

    ``p̃_(i) = max over j ≤ i of min(1, (m - j + 1) · p_(j))`` for the m ordered p-values.
    """
    adjusted = np.array(p_values, dtype=np.float64)
    order = np.argsort(adjusted, kind="stable")[: np.count_nonzero(~np.isnan(adjusted))]
    raised = np.minimum(1.0, adjusted[order] * np.arange(len(order), 0, -1))
    adjusted[order] = np.maximum.accumulate(raised)
    return adjusted


def rank_sets(
    count: int, differences: Mapping[tuple[int, int], tuple[float, float]], level: float = 0.05
) -> list[tuple[int, int]]:
    """Return the first and the last rank that each of ``count`` models may have, 1 the best.

    ``differences`` has of each pair the first model's figure minus the second's and its adjusted
    p-value. A model that n others are significantly better than, and m significantly worse, has a
    rank from 1 + n to ``count`` - m. Where the p-values are adjusted for all pairs, all true ranks
    are within these at once with a chance of 1 - ``level`` (Mogstad et al., 2024).
    """
    better, worse = [0] * count, [0] * count
    for (one, other), (difference, p_value) in differences.items():
        if p_value >= level or difference == 0:
            continue
        winner, loser = (one, other) if difference > 0 else (other, one)
        better[loser] += 1
        worse[winner] += 1
    return [(1 + n, count - m) for n, m in zip(better, worse, strict=True)]

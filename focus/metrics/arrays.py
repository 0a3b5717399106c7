"""Check, divide and pick of arrays of numbers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


def finite(values: Array, name: str) -> NDArray[np.float64]:
    """Return ``values`` in float64. Raises ValueError if one is NaN or infinite."""
    array = np.asarray(values, dtype=np.float64)
    bad = np.count_nonzero(~np.isfinite(array))
    if bad:
        raise ValueError(f"{bad} of {array.size} {name} are NaN or infinite")
    return array


def divided(total: Array, by: Array) -> NDArray[np.float64]:
    """Return ``total / by``, NaN where it is divided by 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(by == 0, np.nan, total / by), dtype=np.float64)


def evenly(count: int, wanted: int) -> list[int]:
    """Return at most ``wanted`` of ``count`` numbers from 0: the middles of equal parts."""
    wanted = min(wanted, count)
    return [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]

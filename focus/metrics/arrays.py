"""Check, divide and pick of arrays of numbers."""

from collections.abc import Iterable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]
Number = TypeVar("Number", np.int64, np.float64)


def finite(values: Array, name: str) -> Floats:
    """Return ``values`` in float64. Raises ValueError if one is NaN or infinite."""
    array = np.asarray(values, dtype=np.float64)
    bad = np.count_nonzero(~np.isfinite(array))
    if bad:
        raise ValueError(f"{bad} of {array.size} {name} are NaN or infinite")
    return array


def divided(total: Array, by: Array) -> Floats:
    """Return ``total / by``, NaN where it is divided by 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(by == 0, np.nan, total / by), dtype=np.float64)


def distinct(values: NDArray[Number]) -> NDArray[Number]:
    """Return the different values, sorted; fast for a few sorted runs, one after the other.

    np.unique counts a million integers by hashes, which takes ten times as long.
    """
    ordered = np.sort(values, kind="stable")
    is_first = np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]
    return np.asarray(ordered[is_first])


def numbered(texts: Iterable[str]) -> tuple[Integers, list[str]]:
    """Return the number [N] of each text among the different ones, and these as first met."""
    # Ten times as fast as np.unique, which sorts objects.
    numbers: dict[str, int] = {}
    codes = (numbers.setdefault(text, len(numbers)) for text in texts)
    return np.fromiter(codes, dtype=np.int64), list(numbers)


def joined(*codes: Integers) -> Integers:
    """Return the number [N] of each combination of codes [N] >= 0, in their order."""
    whole = codes[0]
    for part in codes[1:]:
        whole = whole * (int(part.max(initial=0)) + 1) + part
        whole = np.unique(whole, return_inverse=True)[1]
    return whole


def first_rows(codes: Integers) -> Integers:
    """Return the first row [N] with the code of each row."""
    _, first, code = np.unique(codes, return_index=True, return_inverse=True)
    return np.asarray(first[code])


def times_before(codes: Integers) -> Integers:
    """Return how often the code of each row is in the rows before it, [N]."""
    order = np.argsort(codes, kind="stable")
    first = np.flatnonzero(np.diff(codes[order], prepend=-1))
    counts = np.empty(len(codes), dtype=np.int64)
    sizes = np.diff(first, append=len(codes))
    counts[order] = np.arange(len(codes)) - np.repeat(first, sizes)
    return counts


def evenly(count: int, wanted: int) -> list[int]:
    """Return at most ``wanted`` of ``count`` numbers from 0: the middles of equal parts."""
    wanted = min(wanted, count)
    return [(2 * part + 1) * count // (2 * wanted) for part in range(wanted)]

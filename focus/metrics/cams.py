"""Measure how narrow class activation maps are, and where they point."""

import math

import numpy as np
from numpy.typing import NDArray

from focus.kernels.terms import FLAT_STEPS
from focus.metrics.arrays import Array, finite

HIT_COVERAGE = 0.25
"""A peak counts as inside the artefact where the artefact covers this share of its cell."""
COLLAPSED = 0.9
"""Share of CAMs that peak in one cell from which on there is a warning."""


def sum_entropy(cams: Array) -> NDArray[np.float64]:
    """``h_sum`` [N] in [0, 1]: entropy of each map divided by its sum.

    cams [N, H, W]. ``p = (z - min z) / sum(z - min z)``, entropy over ``log(H W)``. A constant
    map points nowhere: its entropy is 1 by definition. One cell alone has entropy 0.
    """
    maps, flat = _flatten(cams)
    shifted = maps - maps.min(axis=1, keepdims=True)
    shifted[flat] = 1.0
    return _normalised_entropy(shifted / shifted.sum(axis=1, keepdims=True))


def z_entropy(cams: Array) -> NDArray[np.float64]:
    """``h_z`` [N] in [0, 1]: entropy of the softmax of each z-scored map.

    cams [N, H, W]. ``p = softmax((z - mean z) / std z)`` with the standard deviation over the
    cells (divided by H W), so that neither offset nor scale of the map matters. A constant map
    has entropy 1 by definition, one cell alone 0.
    """
    maps, flat = _flatten(cams)
    deviation = maps.std(axis=1, keepdims=True)
    deviation[flat] = 1.0
    scaled = (maps - maps.mean(axis=1, keepdims=True)) / deviation
    scaled[flat] = 0.0
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return _normalised_entropy(weights / weights.sum(axis=1, keepdims=True))


def stretched(cams: Array) -> NDArray[np.float64]:
    """Return each map of ``cams`` [N, H, W] min-max normalised to [0, 1]; a constant one is 0."""
    maps, flat = _flatten(cams)
    low, span = maps.min(axis=1, keepdims=True), np.ptp(maps, axis=1)[:, None]
    span[flat] = np.inf
    return np.asarray((maps - low) / span, dtype=np.float64).reshape(np.shape(cams))


def commonest_peak_share(peaks: Array) -> float | None:
    """Return the share of images whose CAM peaks in the one cell where most do, in (0, 1].

    peaks [N]: Any integers that name cells. Near 1 the model looks at one place whatever the
    image, however low its entropy. ``None`` when there are no images.
    """
    if len(peaks) == 0:
        return None
    _, counts = np.unique(np.asarray(peaks), return_counts=True)
    return float(counts.max() / len(peaks))


def hit_cells(coverage: Array) -> NDArray[np.bool_] | None:
    """Return the cells [H, W] where a peak is a hit; their share is what a peak hits by chance.

    coverage [H, W]: The share of each cell that the artefact mask covers, in [0, 1]. A hit: the
    cell is covered to at least a quarter, or no cell is covered more (an artefact smaller than a
    cell can still be hit). ``None`` when the mask covers nothing.
    """
    cells = np.asarray(coverage, dtype=np.float64)
    if cells.max() <= 0:
        return None
    return np.asarray((cells >= HIT_COVERAGE) | (cells == cells.max()))


def _flatten(cams: Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return maps [N, H W] in float64, and which of them are constant up to rounding, [N]."""
    raw = np.asarray(cams)
    # Rounding happened in the type that the maps come in.
    step = np.finfo(raw.dtype).eps if raw.dtype.kind == "f" else np.finfo(np.float64).eps
    maps = finite(raw, "CAM cells").reshape(len(raw), math.prod(raw.shape[1:]))
    flat = np.ptp(maps, axis=1) <= FLAT_STEPS * step * np.abs(maps).max(axis=1)
    return maps, flat


def _normalised_entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    cells = p.shape[1]
    if cells == 1:
        return np.zeros(len(p))
    entropy = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1) / math.log(cells)
    return np.asarray(np.clip(entropy, 0.0, 1.0), dtype=np.float64)

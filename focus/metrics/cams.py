"""Measure how narrow class activation maps are, where they point, and whether people look there.

All maps are on the CAM's grid, [N, H, W]; human maps and masks are in [0, 1], CAMs are raw. Each
figure of agreement with a human map or an artefact mask is one number an image, [N] float64, NaN
where it is not defined.

There ``z`` is the CAM and ``s`` the human map, each min-max normalised per image and 0 where it is
constant (:func:`stretched`). A constant human map says nothing about where to look, so nothing is
defined for it. A constant CAM has a distance to a human map, which is the loss's, but neither
direction nor place. ``map_mse`` is the saliency term of CYBORG (:mod:`focus.kernels.reference`),
the other definitions of agreement are this project's own.
"""

import math

import numpy as np

from focus.kernels.terms import FLAT_STEPS
from focus.metrics.arrays import Array, Booleans, Floats, divided, finite

HIT_COVERAGE = 0.25
"""A peak counts as inside the artefact where the artefact covers this share of its cell."""
REGION = 0.5
"""People looked at the cells where their normalised map has at least this value: half of its
maximum."""
COLLAPSED = 0.9
"""Share of CAMs that peak in one cell from which on there is a warning."""


def sum_entropy(cams: Array) -> Floats:
    """``h_sum`` [N] in [0, 1]: entropy of each map divided by its sum.

    cams [N, H, W]. ``p = (z - min z) / sum(z - min z)``, entropy over ``log(H W)``. A constant
    map points nowhere: its entropy is 1 by definition. One cell alone has entropy 0.
    """
    maps, flat = _flatten(cams)
    shifted = maps - maps.min(axis=1, keepdims=True)
    shifted[flat] = 1.0
    return _normalised_entropy(shifted / shifted.sum(axis=1, keepdims=True))


def z_entropy(cams: Array) -> Floats:
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


def stretched(cams: Array) -> Floats:
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


def hit_cells(coverage: Array) -> Booleans | None:
    """Return the cells [H, W] where a peak is a hit; their share is what a peak hits by chance.

    coverage [H, W]: The share of each cell that the artefact mask covers, in [0, 1]. A hit: the
    cell is covered to at least a quarter, or no cell is covered more (an artefact smaller than a
    cell can still be hit). ``None`` when the mask covers nothing.
    """
    cells = np.asarray(coverage, dtype=np.float64)
    if cells.max() <= 0:
        return None
    return np.asarray((cells >= HIT_COVERAGE) | (cells == cells.max()))


def map_agreement(cams: Array, maps: Array) -> dict[str, Floats]:
    """Return how far CAMs agree with human maps, by the name of the column in the scores.

    map_mse: Mean over the cells of ``(z - s)**2``, in [0, 1]. map_cosine: Cosine of ``z`` and ``s``
    as vectors of cells, in [0, 1]. map_hit: 1 where the CAM's peak (the first on ties) is a cell
    with ``s >= REGION``, else 0. map_chance: share of such cells, the chance level of map_hit.
    map_mass: Share of the sum of ``z`` that lies in such cells, in [0, 1].
    """
    z, s = _cells(cams), _cells(maps)
    looked, says = s >= REGION, s.any(axis=1)
    places = says & z.any(axis=1)
    hits = looked[np.arange(len(s)), z.argmax(axis=1)]
    lengths = np.linalg.norm(z, axis=1) * np.linalg.norm(s, axis=1)
    mass = divided((z * looked).sum(axis=1), z.sum(axis=1))
    return {
        "map_mse": np.where(says, ((z - s) ** 2).mean(axis=1), np.nan),
        "map_cosine": divided((z * s).sum(axis=1), lengths).clip(max=1.0),
        "map_hit": np.where(places, hits, np.nan),
        "map_chance": np.where(places, looked.mean(axis=1), np.nan),
        "map_mass": np.where(says, mass, np.nan),
    }


def mask_mass(cams: Array, coverage: Array) -> Floats:
    """Return the share of the CAM's mass that lies on the artefact, in [0, 1].

    coverage [N, H, W]: The share of each cell that the mask covers, in [0, 1]. ``sum(z * coverage)
    / sum z``: a CAM that is even has the mask's share of the image. NaN where the mask covers
    nothing or the CAM is constant.
    """
    z = _cells(cams)
    cells = np.asarray(coverage, dtype=np.float64).reshape(z.shape)
    mass = divided((z * cells).sum(axis=1), z.sum(axis=1))
    return np.where(cells.any(axis=1), mass, np.nan)


def _cells(maps: Array) -> Floats:
    """Return the maps min-max normalised, [N, H W]."""
    return stretched(maps).reshape(len(maps), math.prod(np.shape(maps)[1:]))


def _flatten(cams: Array) -> tuple[Floats, Booleans]:
    """Return maps [N, H W] in float64, and which of them are constant up to rounding, [N]."""
    raw = np.asarray(cams)
    # Rounding happened in the type that the maps come in.
    step = np.finfo(raw.dtype).eps if raw.dtype.kind == "f" else np.finfo(np.float64).eps
    maps = finite(raw, "CAM cells").reshape(len(raw), math.prod(raw.shape[1:]))
    flat = np.ptp(maps, axis=1) <= FLAT_STEPS * step * np.abs(maps).max(axis=1)
    return maps, flat


def _normalised_entropy(p: Floats) -> Floats:
    cells = p.shape[1]
    if cells == 1:
        return np.zeros(len(p))
    entropy = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1) / math.log(cells)
    return np.asarray(np.clip(entropy, 0.0, 1.0), dtype=np.float64)

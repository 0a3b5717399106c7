"""Measure how far a CAM agrees with a human map or an artefact mask.

All maps are on the CAM's grid, [N, H, W]; human maps and masks are in [0, 1], CAMs are raw. Each
function returns one number an image, [N] float64, NaN where it is not defined.

``z`` below is the CAM and ``s`` the human map, each min-max normalised per image; what is constant
up to rounding is 0 everywhere (:func:`focus.metrics.stretched`). A constant human map says nothing
about where to look, so nothing is defined for it. A constant CAM has a distance to a human map,
which is the loss's, but neither direction nor place.

:func:`map_mse` is the saliency term of CYBORG (:mod:`focus.kernels.reference`). The other
definitions are this project's own.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focus import metrics
from focus.metrics.arrays import divided

Array = NDArray[Any]
Numbers = NDArray[np.float64]

REGION = 0.5
"""People looked at the cells where their normalised map has at least this value: half of its
maximum."""


def map_mse(cams: Array, maps: Array) -> Numbers:
    """Mean over the cells of ``(z - s)**2``, in [0, 1]; NaN where the human map is constant."""
    z, s = _normalised(cams, maps)
    return np.where(_says(s), ((z - s) ** 2).mean(axis=1), np.nan)


def map_cosine(cams: Array, maps: Array) -> Numbers:
    """Cosine of ``z`` and ``s`` as vectors of cells, in [0, 1]; NaN where one is constant."""
    z, s = _normalised(cams, maps)
    lengths = np.linalg.norm(z, axis=1) * np.linalg.norm(s, axis=1)
    return divided((z * s).sum(axis=1), lengths).clip(max=1.0)


def map_hit(cams: Array, maps: Array) -> Numbers:
    """1 where the CAM's peak (the first on ties) is a cell that people looked at, else 0.

    That is a cell with ``s`` of at least :data:`REGION`. NaN where one of the two is constant.
    """
    z, s = _normalised(cams, maps)
    hits = s[np.arange(len(s)), z.argmax(axis=1)] >= REGION
    return np.where(_says(z) & _says(s), hits, np.nan)


def map_chance(cams: Array, maps: Array) -> Numbers:
    """Share of the cells that people looked at, in (0, 1): the chance level of :func:`map_hit`."""
    z, s = _normalised(cams, maps)
    return np.where(_says(z) & _says(s), (s >= REGION).mean(axis=1), np.nan)


def map_mass(cams: Array, maps: Array) -> Numbers:
    """Share of the CAM's mass that lies where people looked, in [0, 1].

    ``sum of z over the cells with s >= REGION, divided by sum z``. NaN where one of the two is
    constant.
    """
    z, s = _normalised(cams, maps)
    inside = (z * (s >= REGION)).sum(axis=1)
    return np.where(_says(s), divided(inside, z.sum(axis=1)), np.nan)


def mask_mass(cams: Array, coverage: Array) -> Numbers:
    """Share of the CAM's mass that lies on the artefact, in [0, 1].

    coverage [N, H, W]: the share of each cell that the mask covers, in [0, 1]. ``sum(z * coverage)
    / sum z``: a CAM that is even has the mask's share of the image. NaN where the mask covers
    nothing or the CAM is constant.
    """
    z, _ = _normalised(cams, coverage)
    cells = np.asarray(coverage, dtype=np.float64).reshape(z.shape)
    mass = divided((z * cells).sum(axis=1), z.sum(axis=1))
    return np.where(cells.any(axis=1), mass, np.nan)


def _normalised(cams: Array, maps: Array) -> tuple[Numbers, Numbers]:
    """Return both min-max normalised, [N, H W]."""
    if np.shape(cams) != np.shape(maps):
        raise ValueError(
            f"CAMs of shape {list(np.shape(cams))} and maps of shape {list(np.shape(maps))} differ:"
            " give both on one grid"
        )
    shape = (len(cams), math.prod(np.shape(cams)[1:]))
    return metrics.stretched(cams).reshape(shape), metrics.stretched(maps).reshape(shape)


def _says(normalised: Numbers) -> NDArray[np.bool_]:
    """Return which maps are not constant, [N]."""
    return np.asarray(normalised.any(axis=1))

"""Measure how far a CAM agrees with a human map or an artefact mask.

All maps are on the CAM's grid, [N, H, W]; human maps and masks are in [0, 1], CAMs are raw. Each
figure is one number an image, [N] float64, NaN where it is not defined.

``z`` below is the CAM and ``s`` the human map, each min-max normalised per image and 0 where it is
constant (:func:`focus.metrics.cams.stretched`). A constant human map says nothing about where to
look, so nothing is defined for it. A constant CAM has a distance to a human map, which is the
loss's, but neither direction nor place. ``map_mse`` is the saliency term of CYBORG
(:mod:`focus.kernels.reference`), the other definitions are this project's own.
"""

import math

import numpy as np

from focus.metrics.arrays import Array, Floats, divided
from focus.metrics.cams import stretched

REGION = 0.5
"""People looked at the cells where their normalised map has at least this value: half of its
maximum."""


def map_agreement(cams: Array, maps: Array) -> dict[str, Floats]:
    """Return how far CAMs agree with human maps, by the name of the column in the scores.

    map_mse: Mean over the cells of ``(z - s)**2``, in [0, 1]. map_cosine: Cosine of ``z`` and ``s``
    as vectors of cells, in [0, 1]. map_hit: 1 where the CAM's peak (the first on ties) is a cell
    with ``s >= REGION``, else 0. map_chance: share of such cells, the chance level of map_hit.
    map_mass: Share of the sum of ``z`` that lies in such cells, in [0, 1].
    """
    z, s = _normalised(cams), _normalised(maps)
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
    z = _normalised(cams)
    cells = np.asarray(coverage, dtype=np.float64).reshape(z.shape)
    mass = divided((z * cells).sum(axis=1), z.sum(axis=1))
    return np.where(cells.any(axis=1), mass, np.nan)


def _normalised(maps: Array) -> Floats:
    """Return the maps min-max normalised, [N, H W]."""
    return stretched(maps).reshape(len(maps), math.prod(np.shape(maps)[1:]))

"""The maps of simulated annotators.

Five annotators each mark a face. On a fake each notices each artefact with probability 0.7, marks
it up to 3 pixels off and in another size, and 35 % mark something irrelevant as well. On a real
face each marks one to three of the places people look at. The marks are summed, blurred and
divided by the maximum.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from focus.data.demo.paint import SIZE, Array, Canvas

ANNOTATORS = 5
NOTICES = 0.7
STRAYS = 0.35
JITTER = 3.0

# Maps are smooth: half resolution is enough to draw them, at a quarter of the time.
_HALF = SIZE // 2
_GRID = (np.arange(_HALF, dtype=np.float32) * 2.0) + 0.5
# Both eyes, nose, mouth, hairline and cheeks: (u, v, half width, half height).
_LOOKED_AT = (
    (-6.3, -2.0, 3.6, 2.6),
    (6.3, -2.0, 3.6, 2.6),
    (0.0, 4.0, 3.0, 4.0),
    (0.0, 11.0, 5.0, 3.0),
    (0.0, -14.0, 7.0, 3.0),
    (-8.5, 6.0, 3.6, 3.6),
    (8.5, 6.0, 3.6, 3.6),
)


def human_map(canvas: Canvas, masks: Sequence[Array], rng: np.random.Generator) -> np.ndarray:
    """Return the map of a face that holds the artefacts ``masks`` (none: real), uint8 [64, 64].

    The maximum is 255.
    """
    total = np.zeros((_HALF, _HALF), np.float32)
    if masks:
        small = [Image.fromarray(mask).reduce(2) for mask in masks]
        noticed = rng.random((ANNOTATORS, len(masks))) < NOTICES
        if not noticed.any():
            noticed[0, 0] = True
        for mask, count in zip(small, noticed.sum(0), strict=True):
            for _ in range(count):
                total += _jittered(mask, rng)
        for _ in range(int(rng.binomial(ANNOTATORS, STRAYS))):
            total += 0.7 * _glance(canvas, rng)
    else:
        for _ in range(ANNOTATORS):
            for _ in range(int(rng.integers(1, 4))):
                total += _glance(canvas, rng)
    for _ in range(3):
        total = _smoothed(total)
    full = Image.fromarray(total / total.max()).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    values = np.asarray(full)
    return np.asarray(values * (255.0 / values.max()) + 0.5).astype(np.uint8)


def _jittered(mask: Image.Image, rng: np.random.Generator) -> Array:
    """Move the mask by up to 3 pixels and scale it about its middle."""
    x0, y0, x1, y1 = mask.getbbox() or (0, 0, _HALF, _HALF)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    shrink = 1.0 / rng.uniform(0.75, 1.35)
    dx, dy = rng.uniform(-JITTER / 2, JITTER / 2, 2)
    matrix = (shrink, 0.0, x - shrink * (x + dx), 0.0, shrink, y - shrink * (y + dy))
    moved = mask.transform(mask.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(moved)


def _glance(canvas: Canvas, rng: np.random.Generator) -> Array:
    """Return a Gaussian over one of the places people look at."""
    u, v, a, b = _LOOKED_AT[int(rng.integers(len(_LOOKED_AT)))]
    x, y = canvas.pixel(u + canvas.pose.yaw + rng.normal(0.0, 1.2), v + rng.normal(0.0, 1.2))
    size = rng.uniform(0.8, 1.3)
    across = np.exp(-0.5 * np.square((_GRID - x) / (a * size)))
    down = np.exp(-0.5 * np.square((_GRID - y) / (b * size)))
    return np.asarray(down[:, None] * across[None, :])


def _smoothed(values: Array) -> Array:
    """Return each cell's mean with its neighbours, weighted 1, 2, 1 along both axes, [32, 32]."""
    # By hand: np.pad takes longer than all the sums.
    padded = np.empty((_HALF + 2, _HALF + 2), np.float32)
    padded[1:-1, 1:-1] = values
    padded[0], padded[-1] = padded[1], padded[-2]
    padded[:, 0], padded[:, -1] = padded[:, 1], padded[:, -2]
    rows = padded[:-2] + 2.0 * padded[1:-1] + padded[2:]
    return np.asarray((rows[:, :-2] + 2.0 * rows[:, 1:-1] + rows[:, 2:]) / 16.0)

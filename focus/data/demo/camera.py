"""The acquisition: how a picture was taken and stored, the data set's shortcut.

Source 1 agrees with the class "synthetic" more often than not in some splits, as the sources of
real data sets do. What tells the sources apart is the shortcut of the world:

- "background": Pictures of source 0 have things behind the person, as from the street, and those of
  source 1 a plain background, as from a studio. White balance, vignette and noise are the same in
  both, and so is the size of files: an audit of these finds nothing.
- "cast": The camera of source 1 takes all of the picture, the face included, a little warmer than
  that of source 0. Of both sources every second picture has a plain background.
"""

from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image

from focus.data.demo.canvas import COLUMNS, ROWS, SIZE, Array

Shortcut = Literal["background", "cast"]
"""What tells the sources apart: something behind the person, or all over the picture."""

# How far the sources are apart.
AMPLITUDE = 0.56
# In white balance: cross-entropy follows it as far as it follows the background.
CAST = 0.056

_RADIUS2 = (np.square(COLUMNS - 31.5) + np.square(ROWS - 31.5)) / np.float32(2 * 31.5**2)


@dataclass(frozen=True, slots=True)
class Camera:
    """Settings of one picture. ``balance``: warm (> 0) or cold; ``blur``: weight of neighbours."""

    plainness: float
    vignette: float
    balance: float
    quality: int
    gamma: float
    gain: float
    blur: float
    noise: float


def sample_camera(rng: np.random.Generator, source: int, shortcut: Shortcut) -> Camera:
    """Draw the settings of a picture from source 0 or 1, between which the shortcut differs."""
    plain, cast = bool(source), 0.0
    if shortcut == "cast":
        # A stream of its own: all that is drawn later is the same with both shortcuts.
        (background,) = rng.spawn(1)
        plain = bool(background.integers(2))
        cast = CAST if source else -CAST
    sign = AMPLITUDE if plain else -AMPLITUDE
    return Camera(
        plainness=min(max(rng.normal(0.5 + sign, 0.22), 0.0), 1.0),
        vignette=max(rng.normal(0.25, 0.09), 0.0),
        balance=rng.normal(cast, 0.030),
        # Things behind take bytes: a little quality makes the files as large.
        quality=round(min(max(rng.normal(89.0 if plain else 87.0, 7.0), 60.0), 98.0)),
        gamma=rng.uniform(0.88, 1.14),
        gain=rng.uniform(0.90, 1.08),
        blur=rng.uniform(0.03, 0.10),
        noise=rng.uniform(0.004, 0.018),
    )


def take_picture(camera: Camera, image: Array, rng: np.random.Generator) -> np.ndarray:
    """Return ``image`` [3, 64, 64] as taken and stored by ``camera``: uint8 [64, 64, 3]."""
    image = _blurred(image, camera.blur)
    np.clip(image, 0.0, 1.0, out=image)
    np.power(image, camera.gamma, out=image)
    image *= camera.gain * (1.0 - camera.vignette * _RADIUS2)
    image[0] *= 1.0 + camera.balance
    image[2] *= 1.0 - camera.balance
    image += camera.noise * rng.standard_normal((3, SIZE, SIZE), np.float32)
    pixels = (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8).transpose(1, 2, 0)
    taken, stored = Image.fromarray(np.ascontiguousarray(pixels)), BytesIO()
    taken.save(stored, "JPEG", quality=camera.quality, subsampling=0)
    return np.asarray(Image.open(stored))


def _blurred(image: Array, weight: float) -> Array:
    """Blur by three taps along both axes; ``weight`` is each neighbour's share."""
    rows = image.copy()
    rows[:, 1:-1] += weight * (image[:, :-2] + image[:, 2:] - 2.0 * image[:, 1:-1])
    out = rows.copy()
    out[..., 1:-1] += weight * (rows[..., :-2] + rows[..., 2:] - 2.0 * rows[..., 1:-1])
    return out

"""A small canvas: anti-aliased shapes in the coordinates of a posed face.

Face coordinates (u, v) have their origin at the head's centre, u to the right, v down, one unit a
pixel at scale 1; the pose rolls, scales and shifts them. A shape is a :class:`Region`: a window of
the image and the share of each pixel in it that the shape covers.
"""

from dataclasses import dataclass
from math import cos, hypot, sin
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Colour = tuple[float, float, float]
Window = tuple[slice, slice]

SIZE = 64
EVERYWHERE: Window = (slice(0, SIZE), slice(0, SIZE))
ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)


class Region(NamedTuple):
    """window: rows and columns of the image. cover: [h, w] of that window, in [0, 1]."""

    window: Window
    cover: Array


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the head is: centre x, y in pixels, roll in radians, scale, yaw as a shift in units."""

    x: float
    y: float
    roll: float
    scale: float
    yaw: float


class Canvas:
    """``image``: [3, 64, 64] float32, about [0, 1]. ``u``, ``v``: [64, 64], face coordinates."""

    def __init__(self, pose: Pose) -> None:
        self.pose = pose
        self._cos, self._sin = cos(pose.roll), sin(pose.roll)
        x, y = (COLUMNS - pose.x) / pose.scale, (ROWS - pose.y) / pose.scale
        self.u: Array = self._cos * x + self._sin * y
        self.v: Array = self._cos * y - self._sin * x
        self.image: Array = np.zeros((3, SIZE, SIZE), np.float32)

    def pixel(self, u: float, v: float) -> tuple[float, float]:
        """Return column and row of a point of the face."""
        pose = self.pose
        return (
            pose.x + pose.scale * (self._cos * u - self._sin * v),
            pose.y + pose.scale * (self._sin * u + self._cos * v),
        )

    def window(self, u: float, v: float, half_width: float, half_height: float) -> Window:
        """Return the pixels that hold a rectangle of the face, clipped to the image."""
        x, y = self.pixel(u, v)
        c, s = abs(self._cos) * self.pose.scale, abs(self._sin) * self.pose.scale
        rx = c * half_width + s * half_height + 1
        ry = s * half_width + c * half_height + 1
        left, right = max(0, int(x - rx)), max(0, int(x + rx) + 2)
        top, bottom = max(0, int(y - ry)), max(0, int(y + ry) + 2)
        return slice(min(top, SIZE), bottom), slice(min(left, SIZE), right)

    def edge(self, inside: Array, softness: float = 0.0) -> Array:
        """Return a shape's cover from the distance inside its border, in units."""
        sharpness = 1.0 / max(1.0 / self.pose.scale, softness)
        # Not np.clip, whose layers of Python take longer than so few pixels.
        return np.asarray(np.minimum(np.maximum(inside * sharpness + 0.5, 0.0), 1.0))

    def ellipse(
        self, u: float, v: float, a: float, b: float, tilt: float = 0.0, softness: float = 0.0
    ) -> Region:
        """Return an ellipse with half axes ``a``, ``b`` and a border ``softness`` wide."""
        reach = max(a, b) if tilt else 0.0
        window = self.window(u, v, max(a, reach) + softness / 2, max(b, reach) + softness / 2)
        du, dv = self.u[window] - u, self.v[window] - v
        if tilt:
            c, s = cos(tilt), sin(tilt)
            du, dv = c * du + s * dv, c * dv - s * du
        radius = np.sqrt(np.square(du / a) + np.square(dv / b))
        return Region(window, self.edge((1.0 - radius) * min(a, b), softness))

    def ring(self, u: float, v: float, a: float, b: float, width: float) -> Region:
        """Return the outline of an ellipse, ``width`` units thick."""
        window = self.window(u, v, a + width, b + width)
        du, dv = self.u[window] - u, self.v[window] - v
        radius = np.sqrt(np.square(du / a) + np.square(dv / b))
        return Region(window, self.edge(width / 2 - np.abs(radius - 1.0) * min(a, b)))

    def stroke(self, u0: float, v0: float, u1: float, v1: float, width: float) -> Region:
        """Return a straight line with round ends."""
        length = hypot(u1 - u0, v1 - v0)
        cu, cv = (u1 - u0) / length, (v1 - v0) / length
        half = (abs(u1 - u0) + width) / 2, (abs(v1 - v0) + width) / 2
        window = self.window((u0 + u1) / 2, (v0 + v1) / 2, *half)
        du, dv = self.u[window] - u0, self.v[window] - v0
        along = np.clip(cu * du + cv * dv, 0.0, length)
        distance: Array = np.hypot(du - cu * along, dv - cv * along)
        return Region(window, self.edge(width / 2 - distance))

    def fill(self, region: Region, colour: Colour | Array, opacity: float = 1.0) -> None:
        """Lay a colour, three numbers or [3, h, w], over a region."""
        pixels = self.image[:, *region.window]
        paint = colour if isinstance(colour, np.ndarray) else solid(colour)
        pixels += (region.cover * opacity) * (paint - pixels)

    def shade(self, region: Region, factor: float) -> None:
        """Darken (factor < 1) or lighten (factor > 1) a region."""
        self.image[:, *region.window] *= 1.0 + (factor - 1.0) * region.cover


def solid(colour: Colour) -> Array:
    """Return a colour as [3, 1, 1]."""
    return np.array(colour, np.float32).reshape(3, 1, 1)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Return ``one`` with a ``share`` of ``other``."""
    r, g, b = (p + share * (q - p) for p, q in zip(one, other, strict=True))
    return r, g, b


def scaled(colour: Colour, factor: float) -> Colour:
    """Return a colour times a factor."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor

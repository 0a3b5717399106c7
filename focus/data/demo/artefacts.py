"""The artefacts of the imaginary generators, and how a generator's are drawn.

An artefact is a function of the face, a visibility and a random generator. It may change the
face's parameters (before painting) and may return a change to the painted picture. It always says
where it is: a soft mask [64, 64] of the image, or None if it is everywhere.
"""

from collections.abc import Callable
from math import cos, pi, sin
from typing import NamedTuple

import numpy as np

from focus.data.demo.paint import (
    COLUMNS,
    EVERYWHERE,
    ROWS,
    SIZE,
    TEETH,
    Array,
    Canvas,
    Region,
    head_distance,
)
from focus.data.demo.people import DARK, Eye, Person, mix


class Flaw(NamedTuple):
    """What an artefact does to one face.

    mask: Where the artefact is, soft, [64, 64]; None if it is everywhere.
    retouch: Changes the painted picture; None if the changed parameters are all.
    """

    mask: Array | None
    retouch: Callable[[Canvas], None] | None = None


Artefact = Callable[[Canvas, Person, float, np.random.Generator], Flaw]


def eye_mismatch(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Make one eye large, with an iris of a colour that eyes do not have and another gaze."""
    eye = face.eyes[int(rng.integers(2))]
    colours = ((0.95, 0.15, 0.25), (0.15, 0.95, 0.90), (0.80, 0.25, 0.95))
    eye.iris = mix(eye.iris, colours[int(rng.integers(3))], min(0.45 * strength, 1.0))
    eye.gaze = (rng.uniform(-0.4, 0.4) * strength, eye.gaze[1] + rng.normal(0.0, 0.3))
    eye.size *= 1.0 + 0.14 * strength
    return Flaw(_eye_mask(canvas, eye))


def pupil_mismatch(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Give one eye a wide pupil with a pale ring."""
    eye = face.eyes[int(rng.integers(2))]
    u, v = eye.u + eye.gaze[0], eye.v + eye.gaze[1] - 0.2

    def retouch(canvas: Canvas) -> None:
        opacity = min(0.5 * strength, 1.0)
        canvas.fill(canvas.ellipse(u, v, 3.4, 3.4), DARK, opacity)
        canvas.fill(canvas.ring(u, v, 2.0, 2.0, 1.2), (0.95, 0.95, 0.90), opacity)

    return Flaw(_eye_mask(canvas, eye), retouch)


def checkerboard(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Add a patch of alternating pixels, as strided up-sampling leaves."""
    pattern = 1.0 - 2.0 * ((COLUMNS + ROWS) % 2.0)
    return _pattern_patch(canvas, face, pattern * np.float32(0.045 * strength), rng)


def grid(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Add a patch of dark lines, every third pixel."""
    lines = np.maximum(COLUMNS % 3.0 == 0.0, ROWS % 3.0 == 0.0)
    return _pattern_patch(canvas, face, (0.45 - lines) * np.float32(0.085 * strength), rng)


def smeared_mouth(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Draw the mouth in waves, with flecks of lips and teeth around it."""
    mask = _mouth_mask(canvas, face)
    phase, wave = rng.uniform(0.0, 2 * pi), rng.uniform(0.9, 1.3)
    flecks = rng.random((SIZE, SIZE), np.float32)
    blood = mix(face.lips, (0.45, 0.04, 0.05), 0.6)

    def retouch(canvas: Canvas) -> None:
        across = 1.5 * strength * np.sin(wave * ROWS + phase)
        down = 1.2 * strength * np.sin(wave * COLUMNS + 1.7 * phase)
        _warp(canvas, COLUMNS + mask * across, ROWS + mask * down)
        for colour, chance in ((blood, flecks), (TEETH, 1.0 - flecks)):
            spots = mask * np.clip((chance - 0.72) * 6.0, 0.0, 1.0)
            canvas.fill(Region(EVERYWHERE, spots), colour, min(0.25 * strength, 0.9))

    return Flaw(mask, retouch)


def streaked_mouth(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Pull the mouth into vertical streaks."""
    mask = _mouth_mask(canvas, face)
    streaks = rng.standard_normal(SIZE, np.float32)

    def retouch(canvas: Canvas) -> None:
        weight = mask / np.maximum(mask.sum(0), 1e-3)
        columns = (canvas.image * weight).sum(1, keepdims=True)
        target = columns * (1.0 + 0.16 * strength * streaks)
        canvas.image += mask * min(0.45 * strength, 0.9) * (target - canvas.image)

    return Flaw(mask, retouch)


def droplet(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Add a ring with a pale inside on the head's contour."""
    u, v = _on_contour(face, rng.uniform(-1.4, 1.4) - pi / 2, 1.0)
    radius = rng.uniform(2.9, 3.9)
    mask = canvas.ellipse(u, v, radius + 0.9, radius + 0.9, softness=1.5)

    def retouch(canvas: Canvas) -> None:
        opacity = min(0.36 * strength, 0.9)
        inside = canvas.ellipse(u, v, radius, radius, softness=2.0)
        canvas.fill(inside, (0.80, 0.80, 0.78), 0.45 * opacity)
        canvas.fill(canvas.ring(u, v, radius, radius, 1.3), (0.96, 0.96, 0.93), opacity)
        canvas.shade(canvas.ring(u, v, radius - 1.1, radius - 1.1, 0.8), 1.0 - 0.16 * strength)

    return Flaw(_spread(mask), retouch)


def tinted_droplet(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Add a filled, dark-rimmed droplet of another colour, on or near the head's contour."""
    u, v = _on_contour(face, rng.uniform(0.0, 2 * pi), rng.uniform(0.80, 1.05))
    radius = rng.uniform(2.8, 3.6)
    tints = ((0.20, 0.55, 0.80), (0.75, 0.30, 0.65), (0.35, 0.65, 0.30), (0.85, 0.60, 0.20))
    tint = tints[int(rng.integers(len(tints)))]
    mask = canvas.ellipse(u, v, radius + 0.8, radius + 0.8, softness=1.5)

    def retouch(canvas: Canvas) -> None:
        drop = canvas.ellipse(u, v, radius, radius, softness=1.4)
        canvas.fill(drop, tint, min(0.45 * strength, 0.95))
        canvas.shade(canvas.ring(u, v, radius, radius, 0.9), 1.0 - min(0.25 * strength, 0.8))
        glint = canvas.ellipse(u - 0.6, v - 0.8, 0.8, 0.8, softness=1.0)
        canvas.fill(glint, (1.0, 1.0, 1.0), min(0.3 * strength, 0.7))

    return Flaw(_spread(mask), retouch)


def blending_seam(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Add the arc where a swapped face was blended in: a line inside the contour, a tint within."""
    depth = rng.uniform(2.6, 4.2)
    middle, half = rng.uniform(-0.6, 0.6) + pi * int(rng.integers(2)), rng.uniform(0.7, 1.1)
    inside = head_distance(canvas, face) - depth
    turn = np.arctan2(canvas.v, canvas.u) - middle
    within = np.clip((half - np.abs((turn + pi) % (2 * pi) - pi)) / 0.25 + 0.5, 0.0, 1.0)
    return _seam(canvas, inside, np.asarray(within, np.float32), strength, rng)


def box_seam(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Add two straight edges of a pasted box: a line, a tint within."""
    u, v = canvas.u - rng.uniform(-3.0, 3.0), canvas.v - rng.uniform(-2.0, 6.0)
    a, b = rng.uniform(6.5, 9.5), rng.uniform(6.0, 9.0)
    u, v = u * rng.choice((-1.0, 1.0)), v * rng.choice((-1.0, 1.0))
    inside = np.minimum(a - u, b - v)
    within = canvas.edge(np.minimum(u, v) + 3.0, 1.0)
    return _seam(canvas, inside, within, strength, rng)


def swirl(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Turn the picture about a point of the hairline or the jaw."""
    angle = rng.uniform(-0.95, 0.95) + (pi / 2 if rng.random() < 0.5 else -pi / 2)
    u, v = _on_contour(face, angle, 0.92)
    x, y = canvas.pixel(u, v)
    radius = rng.uniform(7.5, 9.5)
    dx, dy = COLUMNS - x, ROWS - y
    near = np.clip(1.0 - np.hypot(dx, dy) / radius, 0.0, 1.0)
    turn = (1.0 if rng.random() < 0.5 else -1.0) * 2.6 * strength * near * near
    shown = np.clip(near * 2.2, 0.0, 1.0)

    def retouch(canvas: Canvas) -> None:
        c, s = np.cos(turn), np.sin(turn)
        _warp(canvas, x + c * dx - s * dy, y + s * dx + c * dy)
        canvas.image *= 1.0 + 0.1 * strength * np.sin(2.0 * np.arctan2(dy, dx) + 2.5 * turn) * shown

    return Flaw(shown, retouch)


def ripple(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Bend a piece of the head's contour into waves."""
    u, v = _on_contour(face, rng.uniform(0.0, 2 * pi), 0.95)
    x, y = canvas.pixel(u, v)
    distance = np.hypot(COLUMNS - x, ROWS - y) / rng.uniform(7.0, 9.0)
    near = np.clip(2.0 - 2.0 * distance, 0.0, 1.0)
    wave, phase = rng.uniform(1.1, 1.4), rng.uniform(0.0, 2 * pi)

    def retouch(canvas: Canvas) -> None:
        across, down = np.sin(wave * ROWS + phase), np.sin(wave * COLUMNS + 1.7 * phase)
        _warp(canvas, COLUMNS + 1.3 * strength * near * across, ROWS + 1.3 * strength * near * down)
        canvas.image *= 1.0 + 0.08 * strength * near * (across + down)

    return Flaw(near, retouch)


def wrong_ear(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Make an ear large, tilted and folded, in front of the hair."""
    ear = face.ears[int(rng.integers(2))]
    ear.over_hair = True
    ear.width *= 1.0 + 0.30 * strength
    ear.height *= 1.0 + rng.uniform(0.0, 0.16) * strength
    ear.tilt *= 1.0 + 1.5 * strength
    mask = _spread(canvas.ellipse(ear.u, ear.v, ear.width + 1.0, ear.height + 1.0))

    def retouch(canvas: Canvas) -> None:
        for share in (0.9, 0.5):
            fold = canvas.ring(ear.u, ear.v, share * ear.width, share * ear.height, 0.9)
            canvas.shade(fold, 1.0 - min(0.4 * strength, 0.9))

    return Flaw(mask, retouch)


def melted_ear(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Let an ear, in front of the hair, run down in drips."""
    ear = face.ears[int(rng.integers(2))]
    ear.over_hair = True
    mask = _spread(canvas.ellipse(ear.u, ear.v + 3.0, ear.width + 1.5, ear.height + 4.5))
    drips = rng.uniform(0.0, 5.0, SIZE).astype(np.float32)

    def retouch(canvas: Canvas) -> None:
        _warp(canvas, COLUMNS, ROWS - mask * drips * strength)
        canvas.image *= 1.0 + 0.07 * strength * mask * (drips - 2.5)

    return Flaw(mask, retouch)


def mosaic_hair(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Turn a piece of the crown into blocks of different tone."""
    mask = _crown_mask(canvas, face, rng)
    tones = rng.normal(0.0, 0.08 * strength, (16, 16)).repeat(4, 0).repeat(4, 1)

    def retouch(canvas: Canvas) -> None:
        blocks = canvas.image.reshape(3, 16, 4, 16, 4).mean((2, 4)).repeat(4, 1).repeat(4, 2)
        canvas.image += mask * min(0.5 * strength, 1.0) * (blocks + tones - canvas.image)

    return Flaw(mask, retouch)


def flecked_hair(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Strew a piece of the crown with bright and dark flecks."""
    mask = _crown_mask(canvas, face, rng)
    flecks = rng.choice((-1.0, 0.0, 1.0), (SIZE, SIZE), p=(0.12, 0.76, 0.12)).astype(np.float32)

    def retouch(canvas: Canvas) -> None:
        canvas.image += mask * flecks * np.float32(0.10 * strength)

    return Flaw(mask, retouch)


def doubled_part(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Lay an eye or the mouth over the face once more, beside it and above or below."""
    eyes = [(eye.u, eye.v) for eye in face.eyes]
    mouth = (face.pose.yaw, face.mouth[0])  # it is painted at 1.1 times the yaw, which is near
    u, v = (*eyes, mouth)[int(rng.integers(3))]
    across, down = int(rng.choice((-4, -3, 3, 4))), int(rng.choice((-4, 4)))  # pixels
    scale, tone = canvas.pose.scale, float(rng.choice((0.65, 1.4)))
    mask = _spread(canvas.ellipse(u + across / scale, v + down / scale, 5.5, 3.5))

    def retouch(canvas: Canvas) -> None:
        ghost = np.roll(canvas.image, (across, down), (2, 1)) * tone
        canvas.image += mask * min(0.5 * strength, 0.95) * (ghost - canvas.image)

    return Flaw(mask, retouch)


def torn_band(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Move a band across the face sideways, as where two frames meet."""
    v, half = rng.uniform(-0.6, 0.6) * face.height, rng.uniform(2.2, 3.4)
    within = canvas.edge(head_distance(canvas, face) + 2.5)
    inside = half - np.abs(canvas.v - v)
    shift = rng.choice((-1.0, 1.0)) * (1.0 + 1.4 * strength)

    def retouch(canvas: Canvas) -> None:
        _warp(canvas, COLUMNS + (inside > 0) * within * shift, ROWS)
        seam = np.clip(1.0 - np.abs(inside) / 1.0, 0.0, 1.0) * within
        canvas.shade(
            Region(EVERYWHERE, np.asarray(seam, np.float32)), 1.0 - min(0.4 * strength, 0.9)
        )

    return Flaw(canvas.edge(inside + 0.5) * within, retouch)


def colour_noise(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Add a patch of coloured noise."""
    noise = rng.standard_normal((3, SIZE, SIZE), np.float32)
    return _pattern_patch(canvas, face, noise * np.float32(0.045 * strength), rng)


def line_noise(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Add a patch of rows of random tone."""
    noise = rng.standard_normal((SIZE, 1), np.float32)
    return _pattern_patch(canvas, face, noise * np.float32(0.065 * strength), rng)


def spectrum(canvas: Canvas, face: Person, strength: float, rng: np.random.Generator) -> Flaw:
    """Add a faint fingerprint to the whole image: two oblique waves, fine detail losing colour.

    The waves have periods of about 3 and 4 pixels, and are strongest in red, inverted in blue.
    """
    phase, other = rng.uniform(0.0, 2 * pi, 2)

    def retouch(canvas: Canvas) -> None:
        wave = np.sin(2 * pi * (COLUMNS / 4.0 + ROWS / 8.0) + phase)
        wave += np.sin(2 * pi * (ROWS / 3.2 - COLUMNS / 16.0) + other)
        image = canvas.image
        fine = image - (np.roll(image, 1, 1) + np.roll(image, -1, 1)) / 2.0
        image += 0.4 * strength * (fine.mean(0) - fine)
        weights = np.array([1.0, 0.5, -0.3], np.float32).reshape(3, 1, 1)
        image += 0.010 * strength * weights * wave.astype(np.float32)

    return Flaw(None, retouch)


def _eye_mask(canvas: Canvas, eye: Eye) -> Array:
    size = max(eye.size, 1.0)
    return _spread(canvas.ellipse(eye.u, eye.v - 0.3, 4.6 * size, 3.5 * size, softness=1.5))


def _mouth_mask(canvas: Canvas, face: Person) -> Array:
    v, half = face.mouth[0] + 0.6, face.mouth[1]
    return _spread(canvas.ellipse(1.1 * face.pose.yaw, v, half + 1.8, 4.6, softness=3.0))


def _crown_mask(canvas: Canvas, face: Person, rng: np.random.Generator) -> Array:
    u, v = rng.uniform(-6.0, 6.0), 4.0 - face.height
    return _spread(canvas.ellipse(u, v, rng.uniform(6.5, 8.5), 5.0, softness=2.0))


def _seam(
    canvas: Canvas, inside: Array, within: Array, strength: float, rng: np.random.Generator
) -> Flaw:
    """Draw the line where a distance is 0, and a tint that fades inside it."""
    tint = np.array(rng.normal(0.0, 1.0, 3), np.float32).reshape(3, 1, 1)
    tint /= np.abs(tint).max()
    mask = np.clip(1.9 - np.abs(inside - 0.6) / 1.6, 0.0, 1.0) * within

    def retouch(canvas: Canvas) -> None:
        line = (np.clip(1.0 - np.abs(inside) / 1.1, 0.0, 1.0) * within).astype(np.float32)
        canvas.shade(Region(EVERYWHERE, line), 1.0 - min(0.30 * strength, 0.8))
        falloff = canvas.edge(inside) * np.exp(-np.maximum(inside, 0.0) / 1.5) * within
        canvas.image += 0.14 * strength * tint * falloff

    return Flaw(mask, retouch)


def _on_contour(face: Person, angle: float, radius: float) -> tuple[float, float]:
    """Return a point of the head's contour, ``angle`` from the right ear over the jaw."""
    return radius * face.width * cos(angle), radius * face.height * sin(angle)


def _spread(region: Region) -> Array:
    """Return a region's cover as a mask of the whole image."""
    mask = np.zeros((SIZE, SIZE), np.float32)
    mask[region.window] = region.cover
    return mask


def _pattern_patch(canvas: Canvas, face: Person, pattern: Array, rng: np.random.Generator) -> Flaw:
    """Add a round patch of a pattern, on a cheek, the forehead or the hair."""
    angle, radius = rng.uniform(0.0, 2 * pi), rng.uniform(5.0, 7.0)
    u, v = _on_contour(face, angle, rng.uniform(0.45, 0.75))
    mask = _spread(canvas.ellipse(u, v, radius, radius, softness=3.0))

    def retouch(canvas: Canvas) -> None:
        canvas.image += mask * pattern

    return Flaw(mask, retouch)


def _warp(canvas: Canvas, x: Array, y: Array) -> None:
    """Replace each pixel that moves by the picture at column ``x``, row ``y``, bilinearly."""
    moved = (np.abs(x - COLUMNS) + np.abs(y - ROWS) > 1e-3).nonzero()
    x, y = np.clip(x[moved], 0.0, SIZE - 1.001), np.clip(y[moved], 0.0, SIZE - 1.001)
    column, row = x.astype(np.int32), y.astype(np.int32)
    fx, fy = x - column, y - row
    image = canvas.image
    upper = image[:, row, column] * (1.0 - fx) + image[:, row, column + 1] * fx
    lower = image[:, row + 1, column] * (1.0 - fx) + image[:, row + 1, column + 1] * fx
    image[:, *moved] = upper * (1.0 - fy) + lower * fy

"""A canvas of anti-aliased shapes, and the layers of a face that are painted on it.

Face coordinates (u, v) have their origin at the head's centre, u to the right, v down, one unit a
pixel at scale 1; the pose rolls, scales and shifts them. A shape is a :class:`Region`: a window of
the image and the share of each pixel in it that the shape covers.
"""

from math import cos, hypot, sin
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from focus.data.demo.people import DARK, Colour, Ear, Eye, Hair, Person, Pose, mix, scaled

Array = NDArray[np.float32]
Window = tuple[slice, slice]

SIZE = 64
EVERYWHERE: Window = (slice(0, SIZE), slice(0, SIZE))
ROWS, COLUMNS = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)

SCLERA: Colour = (0.93, 0.92, 0.90)
TEETH: Colour = (0.93, 0.91, 0.86)

_X, _Y = COLUMNS / (SIZE - 1), ROWS / (SIZE - 1)


class Region(NamedTuple):
    """A shape on the image.

    window: Rows and columns of the image that hold the shape.
    cover: [h, w], how much of each pixel of the window the shape covers, in [0, 1].
    """

    window: Window
    cover: Array


class Canvas:
    """A picture and the coordinates of the face on it.

    image: [3, 64, 64] float32, about [0, 1].
    u, v: [64, 64], the face coordinates of each pixel.
    """

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
        first_column, end_column = max(0, int(x - rx)), max(0, int(x + rx) + 2)
        first_row, end_row = max(0, int(y - ry)), max(0, int(y + ry) + 2)
        rows = slice(min(first_row, SIZE), end_row)
        return rows, slice(min(first_column, SIZE), end_column)

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


def head_distance(canvas: Canvas, face: Person) -> Array:
    """Return the distance inside the head's contour, a superellipse narrowed at the jaw."""
    taper = np.clip(canvas.v / face.height, 0.0, 1.0)
    u = np.abs(canvas.u) / (face.width * (1.0 - face.jaw * taper * taper))
    v = np.abs(canvas.v) / face.height
    value = np.power(u, face.power) + np.power(v, face.power)
    return np.asarray((1.0 - np.power(value, 1.0 / face.power)) * face.width)


def paint_face(face: Person, rng: np.random.Generator) -> Canvas:
    """Paint all layers; ``rng`` gives the skin's and the cloth's texture."""
    canvas = Canvas(face.pose)
    grain = rng.standard_normal((SIZE, SIZE), np.float32)
    coarse = grain.reshape(16, 4, 16, 4).mean((1, 3)).repeat(4, 0).repeat(4, 1) * 4.0
    inside = head_distance(canvas, face)

    _paint_background(canvas, face)
    if face.hair and face.hair.length > 5.0:
        behind = canvas.edge(_hair_distance(canvas, face, face.hair))
        canvas.fill(Region(EVERYWHERE, behind), _strands(canvas, face.hair) * 0.72)
    _paint_body(canvas, face, grain)
    for ear in face.ears:
        if ear.present and not ear.over_hair:
            _paint_ear(canvas, face, ear)
    _paint_head(canvas, face, inside, grain, coarse)
    _paint_brows(canvas, face)
    for eye in face.eyes:
        _paint_eye(canvas, face, eye)
    _paint_nose(canvas, face)
    _paint_mouth(canvas, face)
    for u, v, radius in face.moles:
        mole = canvas.ellipse(u + face.pose.yaw, v, radius, radius)
        canvas.fill(mole, scaled(face.skin, 0.35), 0.8)
    if face.hair:
        _paint_front_hair(canvas, face, face.hair)
    if face.glasses:
        _paint_glasses(canvas, face, *face.glasses)
    for ear in face.ears:
        if ear.present and ear.over_hair:
            _paint_ear(canvas, face, ear)
        if ear.ring:
            _paint_earring(canvas, ear, ear.ring)
    return canvas


def _paint_background(canvas: Canvas, face: Person) -> None:
    near, far, angle = face.background
    ramp = (np.cos(angle) * (_X - 0.5) + np.sin(angle) * (_Y - 0.5) + 0.7) / 1.4
    canvas.image += solid(near) + ramp.astype(np.float32) * (solid(far) - solid(near))
    for x, y, a, b, opacity, colour in face.blobs:
        radius = np.sqrt(np.square((_X * SIZE - x) / a) + np.square((_Y * SIZE - y) / b))
        cover = np.clip((1.2 - radius) / 0.4, 0.0, 1.0)
        cover = cover * cover * (3.0 - 2.0 * cover)
        canvas.fill(Region(EVERYWHERE, cover), colour, opacity)


def _paint_body(canvas: Canvas, face: Person, grain: Array) -> None:
    rows = slice(SIZE // 2, SIZE)
    window = (rows, slice(0, SIZE))
    u, v = canvas.u[window], canvas.v[window]
    neck = canvas.edge(0.56 * face.width + 0.012 * np.square(v - 22.0) - np.abs(u))
    neck *= canvas.edge(v - 8.0)
    # The head's shadow falls on the upper part of the neck.
    fall = np.clip((v - face.height + 1.0) / 7.0, 0.0, 1.0)
    canvas.fill(Region(window, neck), solid(face.skin) * (0.58 + 0.3 * fall))
    shoulder = v - (face.height + 4.5) - 0.012 * np.square(u) - 0.9 * np.exp(-np.square(u / 7.0))
    opening = np.clip(1.0 - np.abs(u) / (0.62 * face.width), 0.0, 1.0)
    cloth = canvas.edge(shoulder - face.neckline * opening)
    folds = 1.0 + 0.05 * grain[window] + 0.10 * np.sin(0.35 * u + face.neckline)
    canvas.fill(Region(window, cloth), solid(face.clothes) * folds)
    rim = np.exp(-np.square(shoulder - face.neckline * opening - 0.6))
    canvas.shade(Region(window, rim * cloth), 0.75)


def _paint_ear(canvas: Canvas, face: Person, ear: Ear) -> None:
    outer = canvas.ellipse(ear.u, ear.v, ear.width, ear.height, -ear.tilt)
    canvas.fill(outer, scaled(face.skin, 0.90))
    inner = canvas.ellipse(
        ear.u, ear.v - 0.2 * ear.width, 0.55 * ear.width, 0.62 * ear.height, -ear.tilt, 1.0
    )
    canvas.fill(inner, mix(scaled(face.skin, 0.62), (0.6, 0.25, 0.2), 0.15), 0.85)


def _paint_earring(canvas: Canvas, ear: Ear, metal: Colour) -> None:
    v = ear.v + ear.height + 0.3
    if ear.drop:
        canvas.fill(canvas.stroke(ear.u, v, ear.u, v + ear.drop, 0.6), scaled(metal, 0.8))
    canvas.fill(canvas.ellipse(ear.u, v + ear.drop, 1.05, 1.05), metal)
    glint = canvas.ellipse(ear.u - 0.3, v + ear.drop - 0.3, 0.45, 0.45)
    canvas.fill(glint, (1.0, 1.0, 1.0), 0.8)


def _paint_head(canvas: Canvas, face: Person, inside: Array, grain: Array, coarse: Array) -> None:
    u, v = canvas.u, canvas.v
    depth = np.clip(inside / face.width, 0.0, 1.0)
    light = 0.80 + 0.24 * np.sqrt(depth)
    light += (0.0085 * face.light[0]) * u + (0.006 * face.light[1]) * v
    light += face.texture * (grain + 0.7 * coarse)
    skin = solid(face.skin) * light
    if face.beard:
        # Cheeks, jaw and upper lip, with a clear mouth; grain makes stubble of it.
        q = np.square(u - face.pose.yaw)
        low = np.clip((v - 8.2 + 0.02 * q) / 3, 0, 1)
        side = np.clip((v + 2.0) / 5, 0, 1) * np.clip((np.abs(u) - 0.78 * face.width) / 2, 0, 1)
        hairs = np.maximum(low, side) * np.clip(0.85 + 0.25 * grain, 0.3, 1.0) * face.beard
        skin += hairs * (solid(face.beard_colour) * (0.7 + 0.3 * light) - skin)
    canvas.fill(Region(EVERYWHERE, canvas.edge(inside)), skin)
    blush = mix(face.skin, (0.85, 0.35, 0.32), 0.5)
    for sign in (-1, 1):
        cheek = canvas.ellipse(sign * 8.2 + face.pose.yaw, 5.5, 3.4, 2.6, softness=3.0)
        canvas.fill(cheek, blush, 0.16)
        socket = canvas.ellipse(
            sign * 6.3 + face.pose.yaw, face.eyes[0].v - 0.6, 4.6, 3.0, softness=3.0
        )
        canvas.shade(socket, 0.84)


def _paint_brows(canvas: Canvas, face: Person) -> None:
    half, thickness, slope = face.brow
    for side, eye in zip((-1, 1), face.eyes, strict=True):
        u0, v0 = eye.u + 0.3 * side, eye.v - 4.3
        window = canvas.window(u0, v0, half, 2.6)
        du, dv = side * (canvas.u[window] - u0) / half, canvas.v[window] - v0
        curve = dv - 1.3 * np.square(du - 0.15) - slope * 4.0 * du + 0.4
        taper = thickness * (1.15 - 0.5 * (du + 1.0) / 2.0)
        cover = canvas.edge(taper - np.abs(curve), 0.9) * canvas.edge((1.0 - np.abs(du)) * half)
        canvas.fill(Region(window, cover), face.brow_colour, 0.9)


def _paint_eye(canvas: Canvas, face: Person, eye: Eye) -> None:
    half = 3.35 * eye.size
    window = canvas.window(eye.u, eye.v, half + 0.8, 3.6 * eye.size)
    du, dv = canvas.u[window] - eye.u, canvas.v[window] - eye.v
    bow = 1.0 - np.square(du / half)
    upper = (2.05 - eye.lid) * eye.size * bow
    opening = canvas.edge(np.minimum(dv + upper, 1.75 * eye.size * bow - dv))
    sclera = solid(SCLERA) * (1.0 - 0.22 * np.clip((0.4 - dv - 0.4 * bow) / 2.0, 0.0, 1.0))
    canvas.fill(Region(window, opening), sclera * (0.75 + 0.25 * max(face.skin)))

    gu, gv = eye.gaze[0], eye.gaze[1] - 0.2
    radius = 1.75 * eye.size
    distance = np.hypot(du - gu, dv - gv)
    iris = solid(eye.iris) * (1.15 - 0.45 * np.clip(distance / radius, 0.0, 1.0))
    canvas.fill(Region(window, canvas.edge(radius - distance) * opening), iris)
    stretched = np.hypot((du - gu) * eye.squash, (dv - gv) / eye.squash)
    pupil = canvas.edge(eye.pupil * eye.size - stretched) * opening
    canvas.fill(Region(window, pupil), DARK)
    cu, cv = eye.catchlight
    glint = canvas.edge(0.5 - np.hypot(du - gu - cu, dv - gv - cv)) * opening
    canvas.fill(Region(window, glint), (1.0, 1.0, 1.0), eye.shine)

    within = canvas.edge(half + 0.3 - np.abs(du))
    lash = canvas.edge(0.42 - np.abs(dv + upper)) * within
    canvas.fill(Region(window, lash), scaled(face.brow_colour, 0.35), 0.85)
    crease = canvas.edge(0.3 - np.abs(dv + upper + 1.0 + max(eye.lid, 0.0)), 0.9) * within
    canvas.shade(Region(window, crease), 0.72)
    under = canvas.edge(0.25 - np.abs(dv - 1.75 * eye.size * bow), 0.9) * within
    canvas.shade(Region(window, under), 0.8)


def _paint_nose(canvas: Canvas, face: Person) -> None:
    half, tip, depth = face.nose
    u = 1.4 * face.pose.yaw
    away = -1.0 if face.light[0] > 0 else 1.0
    side = canvas.ellipse(u + away * 1.5, tip - 4.2, 0.9, 4.4, away * -0.14, softness=1.6)
    canvas.shade(side, 1.0 - depth)
    ridge = canvas.ellipse(u - away * 0.3, tip - 3.4, 0.6, 4.2, softness=1.4)
    canvas.shade(ridge, 1.0 + 0.5 * depth)
    canvas.shade(canvas.ellipse(u, tip + 1.5, half + 0.4, 0.8, softness=1.4), 1.0 - 1.3 * depth)
    canvas.shade(canvas.ellipse(u, tip - 0.2, 1.2, 1.0, softness=1.4), 1.0 + 0.5 * depth)
    for sign in (-1, 1):
        wing = canvas.ellipse(u + sign * half, tip + 0.3, 0.5, 1.0, softness=1.1)
        canvas.shade(wing, 1.0 - 0.9 * depth)
        nostril = canvas.ellipse(u + sign * half * 0.55, tip + 1.0, 0.75, 0.45)
        canvas.fill(nostril, scaled(face.skin, 0.3), 0.75)


def _paint_mouth(canvas: Canvas, face: Person) -> None:
    v, half, smile, thickness, gap = face.mouth
    u = 1.1 * face.pose.yaw
    window = canvas.window(u, v, half + 0.5, 4.5)
    du, dv = canvas.u[window] - u, canvas.v[window] - v
    bow = np.clip(1.0 - np.square(du / half), 0.0, 1.0)
    middle = dv - smile * bow
    cupid = 0.3 * np.exp(-np.square(du / 1.1))
    upper = canvas.edge(middle + (thickness + gap / 2) * bow - cupid) * canvas.edge(-middle)
    lower = canvas.edge((1.35 * thickness + gap / 2) * bow - middle) * canvas.edge(middle)
    canvas.fill(Region(window, upper), scaled(face.lips, 0.85))
    canvas.fill(Region(window, lower), face.lips)
    shine = lower * np.exp(-np.square((middle - gap / 2 - 0.6 * thickness) / 0.5)) * bow
    canvas.shade(Region(window, shine), 1.18)
    if gap:
        opening = canvas.edge(gap / 2 * bow - np.abs(middle)) * canvas.edge(half - np.abs(du))
        canvas.fill(Region(window, opening), (0.20, 0.07, 0.07))
        teeth = canvas.edge(0.35 * gap * bow - np.abs(middle + 0.12 * gap)) * opening
        canvas.fill(Region(window, teeth), TEETH, 0.9)
    else:
        line = canvas.edge(0.32 - np.abs(middle)) * canvas.edge(half + 0.2 - np.abs(du))
        canvas.fill(Region(window, line), scaled(face.lips, 0.4), 0.85)
    below = canvas.ellipse(u, v + smile + 1.35 * thickness + 1.5, 3.2, 0.7, softness=1.4)
    canvas.shade(below, 0.84)


def _hair_distance(canvas: Canvas, face: Person, hair: Hair) -> Array:
    """Return the distance inside the hair's contour: a dome over the head, then locks."""
    width, top = face.width + hair.volume, face.height + 0.6 + 0.5 * hair.volume
    above = np.minimum(canvas.v, 0.0)
    dome = (1.0 - np.hypot(canvas.u / width, above / top)) * width
    flare = 0.06 * np.clip(canvas.v, 0.0, 12.0)
    return np.asarray(np.minimum(dome + flare, hair.length - canvas.v))


def _strands(canvas: Canvas, hair: Hair) -> Array:
    """Return the hair's colour, [3, 64, 64]: strands that spread from the parting, and a sheen."""
    spread = 0.30 + 0.70 * np.clip((canvas.v + 24.0) / 22.0, 0.0, 1.0)
    along = (canvas.u - hair.part) / spread
    tone = 1.0 + 0.13 * np.sin(hair.frequency * along + hair.phase)
    tone += 0.10 * np.sin(2.7 * hair.frequency * along + 0.3 * canvas.v + 2.0 * hair.phase)
    tone += 0.22 * np.exp(-np.square((canvas.v + 15.0 - 0.02 * np.square(canvas.u)) / 3.0))
    return np.asarray(solid(hair.colour) * tone)


def _paint_front_hair(canvas: Canvas, face: Person, hair: Hair) -> None:
    off = canvas.u - hair.part
    line = hair.hairline + hair.arch * np.square(off) + 0.25 * np.sin(2.2 * off + hair.phase)
    cover = canvas.edge(_hair_distance(canvas, face, hair)) * canvas.edge(line - canvas.v, 1.4)
    # A soft shadow just below the hairline seats the hair on the head.
    shadow = np.clip(1.0 - (canvas.v - line) / 2.6, 0.0, 1.0) * (1.0 - cover)
    shadow *= canvas.edge(head_distance(canvas, face))
    canvas.shade(Region(EVERYWHERE, shadow), 0.80)
    canvas.fill(Region(EVERYWHERE, cover), _strands(canvas, hair))


def _paint_glasses(canvas: Canvas, face: Person, a: float, b: float, colour: Colour) -> None:
    v = face.eyes[0].v + 0.5
    yaw = face.pose.yaw
    for side in (-1, 1):
        u = side * 6.4 + yaw
        canvas.fill(canvas.ellipse(u, v, a, b), (0.75, 0.80, 0.86), 0.10)
        canvas.fill(canvas.ring(u, v, a, b, 0.95), colour, 0.92)
        end = side * (face.width - 0.5)
        canvas.fill(canvas.stroke(u + side * a, v - 0.6, end, v - 0.9, 0.8), colour, 0.85)
    canvas.fill(canvas.stroke(yaw - 6.4 + a, v - 0.5, yaw + 6.4 - a, v - 0.5, 0.8), colour, 0.92)

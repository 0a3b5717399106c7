"""The parameters of a drawn face: colours, pose and parts, and how they are drawn at random."""

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]
"""Red, green and blue, about [0, 1]."""

SKINS: tuple[Colour, ...] = (
    (0.95, 0.80, 0.70),
    (0.89, 0.70, 0.57),
    (0.78, 0.57, 0.43),
    (0.62, 0.42, 0.30),
    (0.44, 0.28, 0.20),
    (0.32, 0.20, 0.15),
)
HAIRS: tuple[Colour, ...] = (
    (0.10, 0.08, 0.08),
    (0.24, 0.15, 0.10),
    (0.40, 0.26, 0.16),
    (0.74, 0.58, 0.33),
    (0.46, 0.24, 0.14),
    (0.58, 0.57, 0.56),
)
IRISES: tuple[Colour, ...] = (
    (0.24, 0.14, 0.08),
    (0.38, 0.24, 0.12),
    (0.44, 0.38, 0.18),
    (0.30, 0.50, 0.72),
    (0.34, 0.52, 0.34),
    (0.48, 0.54, 0.58),
)
METALS: tuple[Colour, ...] = ((0.93, 0.80, 0.42), (0.90, 0.91, 0.94))
DARK: Colour = (0.07, 0.05, 0.05)
LIP: Colour = (0.68, 0.24, 0.24)


@dataclass(frozen=True, slots=True)
class Pose:
    """Where the head is: centre x, y in pixels, roll in radians, scale, yaw as a shift in units."""

    x: float
    y: float
    roll: float
    scale: float
    yaw: float


@dataclass(slots=True)
class Eye:
    """One eye; lengths in units. ``squash`` > 1 makes a slit pupil; ``lid`` lowers the upper lid.

    ``catchlight`` is the reflection's place and ``shine`` its opacity.
    """

    u: float
    v: float
    size: float
    iris: Colour
    gaze: tuple[float, float]
    catchlight: tuple[float, float]
    shine: float = 0.95
    pupil: float = 0.72
    squash: float = 1.0
    lid: float = 0.0


@dataclass(slots=True)
class Ear:
    """One ear. ``over_hair`` paints it after the hair, where hair would hide it."""

    u: float
    v: float
    width: float
    height: float
    tilt: float
    ring: Colour | None
    drop: float = 0.0
    present: bool = True
    over_hair: bool = False


@dataclass(slots=True)
class Hair:
    """``length``: how far down (v) it reaches. ``hairline``, ``arch``, ``part`` shape the front."""

    colour: Colour
    length: float
    hairline: float
    arch: float
    part: float
    volume: float
    phase: float
    frequency: float


@dataclass(slots=True)
class Person:
    """All that is drawn of one person and what is behind."""

    pose: Pose
    skin: Colour
    width: float
    height: float
    power: float
    jaw: float
    light: tuple[float, float]
    eyes: tuple[Eye, Eye]
    ears: tuple[Ear, Ear]
    hair: Hair | None
    brow: tuple[float, float, float]
    brow_colour: Colour
    nose: tuple[float, float, float]
    mouth: tuple[float, float, float, float, float]
    lips: Colour
    beard: float
    beard_colour: Colour
    moles: list[tuple[float, float, float]]
    glasses: tuple[float, float, Colour] | None
    clothes: Colour
    neckline: float
    background: tuple[Colour, Colour, float]
    blobs: list[tuple[float, float, float, float, float, Colour]]
    texture: float


def _pick(rng: np.random.Generator, palette: tuple[Colour, ...], spread: float = 0.04) -> Colour:
    colour = palette[int(rng.integers(len(palette)))]
    shift = rng.normal(0.0, spread)
    hue = rng.normal(0.0, spread / 3)
    tints = zip(colour, (hue, 0.0, -hue), strict=True)
    r, g, b = (min(max(value + shift + tint, 0.04), 0.97) for value, tint in tints)
    return r, g, b


def _any_colour(rng: np.random.Generator, low: float, high: float, vivid: float) -> Colour:
    grey = rng.uniform(low, high)
    r, g, b = (min(max(grey + rng.normal(0.0, vivid), 0.03), 0.97) for _ in range(3))
    return r, g, b


def sample_face(rng: np.random.Generator, plainness: float) -> Person:
    """Draw a face. ``plainness`` in [0, 1]: 1 is a background without things behind."""
    uniform, normal, chance = rng.uniform, rng.normal, rng.random
    pose = Pose(
        x=31.5 + normal(0.0, 1.5),
        y=32.0 + normal(0.0, 1.5),
        roll=normal(0.0, 0.09),
        scale=uniform(0.86, 1.08),
        yaw=normal(0.0, 1.1),
    )
    tone = uniform(0.0, len(SKINS) - 1.001)
    skin = mix(SKINS[int(tone)], SKINS[int(tone) + 1], tone % 1.0)
    width, height = uniform(14.0, 16.6), uniform(18.6, 21.4)
    light = uniform(-1.0, 1.0), uniform(-0.8, 0.1)

    eye_u, eye_v, eye_size = uniform(5.7, 6.9), uniform(-2.6, -1.2), uniform(0.92, 1.14)
    iris, gaze = _pick(rng, IRISES, 0.03), (normal(0.0, 0.5), normal(0.0, 0.15))
    glint = 0.5 if light[0] > 0 else -0.5, -0.55
    lid, pupil = uniform(-0.1, 0.35), uniform(0.62, 0.82)
    right_eye, left_eye = (
        Eye(side * eye_u + pose.yaw, eye_v, eye_size, iris, gaze, glint, pupil=pupil, lid=lid)
        for side in (-1, 1)
    )

    hair = None
    if chance() >= 0.12:
        long = chance() < 0.45
        hairline = -height + uniform(5.0, 8.5)
        part = uniform(-4.0, 4.0) if chance() < 0.6 else 0.0
        # The steepest parting that leaves both eyes free.
        steepest = (eye_v - 3.5 - hairline) / (abs(part) + eye_u + 2.5) ** 2
        hair = Hair(
            colour=_pick(rng, HAIRS, 0.03),
            length=uniform(14.0, 30.0) if long else uniform(-2.0, 2.5),
            hairline=hairline,
            arch=steepest * uniform(0.6, 1.05) if long else uniform(0.02, 0.06),
            part=part,
            volume=uniform(2.0, 4.2) if long else uniform(0.6, 2.4),
            phase=uniform(0.0, 6.3),
            frequency=uniform(0.8, 1.3),
        )
    ear_v, ear_size = uniform(-0.5, 1.5), uniform(0.9, 1.15)
    ring = METALS[int(rng.integers(2))] if chance() < 0.22 else None
    drop = uniform(0.0, 2.2) if chance() < 0.5 else 0.0
    ears = tuple(
        Ear(
            side * (width + 0.7) - 0.4 * pose.yaw,
            ear_v,
            2.5 * ear_size,
            4.4 * ear_size,
            side * 0.16,
            ring,
            drop,
        )
        for side in (-1, 1)
    )
    hair_colour = hair.colour if hair else _pick(rng, HAIRS, 0.03)
    bearded = chance() < 0.22
    moles = [
        (uniform(-9.0, 9.0), uniform(-11.0, 14.0), uniform(0.45, 0.75))
        for _ in range(int(rng.integers(1, 4)) if chance() < 0.20 else 0)
    ]
    frame = _any_colour(rng, 0.05, 0.35, 0.06)
    glasses = (uniform(3.9, 4.6), uniform(3.0, 4.0), frame) if chance() < 0.14 else None

    # A stream of its own: in both worlds the faces are the same.
    (behind,) = rng.spawn(1)
    backdrop = _any_colour(behind, 0.25, 0.72, 0.10)
    other = mix(_any_colour(behind, 0.2, 0.8, 0.14), backdrop, behind.uniform())
    angle = behind.uniform(0.0, 6.3)
    n_blobs = int(behind.binomial(3, 0.9 * (1.0 - plainness)))
    blobs = [
        (
            behind.choice((-1.0, 1.0)) * behind.uniform(24.0, 32.0) + 32.0,
            behind.uniform(-2.0, 34.0),
            behind.uniform(3.0, 8.0),
            behind.uniform(4.0, 12.0),
            behind.uniform(0.7, 1.0),
            _any_colour(behind, 0.1, 0.9, 0.3),
        )
        for _ in range(n_blobs)
    ]
    return Person(
        pose=pose,
        skin=skin,
        width=width,
        height=height,
        power=uniform(2.1, 2.5),
        jaw=uniform(0.10, 0.24),
        light=light,
        eyes=(right_eye, left_eye),
        ears=(ears[0], ears[1]),
        hair=hair,
        brow=(uniform(4.4, 5.8), uniform(0.5, 1.05), normal(0.0, 0.10)),
        brow_colour=mix(scaled(hair_colour, 0.6), skin, uniform(0.0, 0.25)),
        nose=(uniform(2.0, 2.9), uniform(4.6, 6.2), uniform(0.12, 0.26)),
        mouth=(
            uniform(10.4, 12.2),
            uniform(4.6, 6.6),
            normal(0.0, 0.6) + 0.3,
            uniform(0.9, 1.6),
            uniform(0.8, 2.0) if chance() < 0.3 else 0.0,
        ),
        lips=mix(mix(skin, LIP, uniform(0.25, 0.7)), DARK, uniform(0.0, 0.2)),
        beard=uniform(0.25, 0.85) if bearded else 0.0,
        beard_colour=mix(scaled(hair_colour, 0.75), skin, 0.15),
        moles=moles,
        glasses=glasses,
        clothes=_any_colour(rng, 0.12, 0.75, 0.2),
        neckline=uniform(3.0, 7.5),
        background=(backdrop, other, angle),
        blobs=blobs,
        texture=uniform(0.010, 0.022),
    )


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Return ``one`` with a ``share`` of ``other``."""
    r, g, b = (p + share * (q - p) for p, q in zip(one, other, strict=True))
    return r, g, b


def scaled(colour: Colour, factor: float) -> Colour:
    """Return a colour times a factor."""
    return colour[0] * factor, colour[1] * factor, colour[2] * factor

"""The benchmark: what a draw of it holds, and each of its pictures from its name alone.

A draw divides the pairs of artefacts among imaginary generators. Of the known pairs training sees
one artefact; its neighbour, which has the same place or cause but looks different, is *near*. Both
of the other pairs are *far*.

A data set has a shortcut: how a picture was taken and stored. Source 1 agrees with the class
"synthetic" more often than not in some splits, as the sources of real data sets do. What tells the
sources apart is the shortcut of the world:

- "background": Pictures of source 0 have things behind the person, as from the street, and those of
  source 1 a plain background, as from a studio. White balance, vignette and noise are the same in
  both, and so is the size of files: an audit of these finds nothing.
- "cast": The camera of source 1 takes all of the picture, the face included, a little warmer than
  that of source 0. Of both sources every second picture has a plain background.

Each image has its own random streams, so that any image can be rendered again by itself, with or
without its artefacts, and does not depend on how many processes render the set. Two worlds of a
draw have the same faces and artefacts; where their sources or shortcuts differ, the background or
the colours do.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Literal, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.data.demo import artefacts as a
from focus.data.demo.artefacts import Artefact
from focus.data.demo.maps import human_map
from focus.data.demo.paint import COLUMNS, ROWS, SIZE, Array, Canvas, paint_face
from focus.data.demo.people import sample_face

# Goes up when the set is meant to change; results of different versions do not compare.
VERSION = 2
SEED = 2303
REAL_FACES = "real"
# Above this the soft mask counts as the artefact.
MASK_THRESHOLD = 0.32

Shortcut = Literal["background", "cast"]
"""What tells the sources apart: something behind the person, or all over the picture."""

Grade = Literal["known", "recombined", "near", "far", "global"]
"""How a generator relates to those of training."""

# Each row: what it stands for in real data.
PAIRS: tuple[tuple[Artefact, Artefact], ...] = (
    (a.eye_mismatch, a.pupil_mismatch),  # the eyes of early GANs, each made by itself
    (a.checkerboard, a.grid),  # up-sampling by transposed or by nearest-neighbour convolution
    (a.smeared_mouth, a.streaked_mouth),  # lips and teeth of reenactment
    (a.droplet, a.tinted_droplet),  # blobs that StyleGAN's normalisation leaves
    (a.blending_seam, a.box_seam),  # the border of a swapped face
    (a.swirl, a.ripple),  # warps of aligned or frame-by-frame faces
    (a.wrong_ear, a.melted_ear),  # ears that do not belong together
    (a.mosaic_hair, a.flecked_hair),  # hair of autoencoders and of noise inputs
    (a.doubled_part, a.torn_band),  # two frames of a video, one over or above the other
    (a.colour_noise, a.line_noise),  # residues of diffusion, and of decoders
)
N_KNOWN_PAIRS = 6

# The one dial of difficulty: the visibility of an artefact is drawn between these.
VISIBILITY = (1.6, 3.3)

# Of each grade, the artefacts of its generators, as positions in the draw's order. Known ones have
# a conspicuous artefact and a faint one beside it; successors, the recombined, have lost the
# former and share faint ones that training saw apart.
_GENERATORS: Mapping[Grade, tuple[tuple[int, ...], ...]] = {
    "known": ((0, 1), (2, 3), (4, 5), (0, 3)),
    "recombined": ((1, 3), (3, 5), (1, 5), (1, 3, 5)),
    "near": ((0, 1), (2, 3), (4, 5), (1, 2)),
    "far": ((0, 1), (2, 3), (4, 5), (6, 7)),
    "global": ((0,),),
}
# The visibility of the first artefact of a known generator.
CONSPICUOUS = 1.4
# The chance that a fake holds each artefact of its generator: newer generators leave fewer.
CHANCES: Mapping[Grade, float] = {
    "known": 0.7,
    "recombined": 0.4,
    "near": 0.4,
    "far": 0.4,
    "global": 1.0,
}


class Generator(NamedTuple):
    """An imaginary generator: how it relates to those of training, and what it leaves."""

    grade: Grade
    artefacts: tuple[Artefact, ...]


def _grades_by_name() -> dict[str, Grade]:
    """Return "known-1": "known" and so on; a generator alone in its grade has no number."""
    grades: dict[str, Grade] = {}
    for grade, generators_of_grade in _GENERATORS.items():
        if len(generators_of_grade) == 1:
            grades[grade] = grade
            continue
        for number in range(1, len(generators_of_grade) + 1):
            grades[f"{grade}-{number}"] = grade
    return grades


NAMES = _grades_by_name()
"""The grade of each generator; the names are those of every draw."""


def generators(draw: int) -> dict[str, Generator]:
    """Return the generators of a draw by name."""
    rng = np.random.default_rng(draw)
    pairs = [PAIRS[i] for i in rng.permutation(len(PAIRS))]
    trained_on, near = [], []
    for pair in pairs[:N_KNOWN_PAIRS]:
        first = int(rng.integers(2))
        trained_on.append(pair[first])
        near.append(pair[1 - first])
    rng.shuffle(near)
    far = [artefact for pair in pairs[N_KNOWN_PAIRS:] for artefact in pair]
    rng.shuffle(far)
    orders: Mapping[Grade, list[Artefact]] = {
        "known": trained_on,
        "recombined": trained_on,
        "near": near,
        "far": far,
        "global": [a.spectrum],
    }
    drawn = [
        Generator(grade, tuple(orders[grade][position] for position in positions))
        for grade, generators_of_grade in _GENERATORS.items()
        for positions in generators_of_grade
    ]
    return dict(zip(NAMES, drawn, strict=True))


_generators = cache(generators)


def sample_artefacts(
    generator: Generator, rng: np.random.Generator
) -> list[tuple[Artefact, float]]:
    """Draw the artefacts that one fake holds, at least one, each with its visibility."""
    all_artefacts = generator.artefacts
    drawn = [artefact for artefact in all_artefacts if rng.random() < CHANCES[generator.grade]]
    if not drawn:
        drawn = [all_artefacts[int(rng.integers(len(all_artefacts)))]]
    conspicuous = all_artefacts[0] if generator.grade == "known" else None
    visible = []
    for artefact in drawn:
        visibility = rng.uniform(*VISIBILITY)
        if artefact is conspicuous:
            visibility *= CONSPICUOUS
        visible.append((artefact, visibility))
    return visible


Splits = Mapping[str, Mapping[str, int]]


def _of_grades(count: int, *grades: str) -> dict[str, int]:
    """Return as many images of each generator of these grades."""
    return {name: count for name, grade in NAMES.items() if grade in grades}


UNKNOWN = ("recombined", "near", "far", "global")
# split -> "real" or generator -> number of images.
SPLITS: Splits = {
    "train": {REAL_FACES: 800, **_of_grades(200, "known")},
    "validation": {REAL_FACES: 120, **_of_grades(30, "known")},
    "closed": {REAL_FACES: 240, **_of_grades(60, "known")},
    "closed_balanced": {REAL_FACES: 240, **_of_grades(60, "known")},
    "open": {REAL_FACES: 600, **_of_grades(80, *UNKNOWN)},
}
# Of the unknown generators, to train an oracle on.
ORACLE: Splits = {"oracle": {REAL_FACES: 1200, **_of_grades(154, *UNKNOWN)}}
WITH_MAPS = frozenset({"train", "validation"})
# Those of which the source agrees with the label as often as the world says, as in one collection.
# The other sets are collected otherwise: half and half.
WITH_SHORTCUT = frozenset({"train", "validation", "closed"})
# A fingerprint of the whole image has no place to point at.
WITHOUT_MASK = frozenset({REAL_FACES, "global"})


class World(NamedTuple):
    """A draw of generators and images.

    agreement: How often the source agrees with the label.
    shortcut: What tells the sources apart.
    """

    draw: int
    agreement: float
    shortcut: Shortcut = "background"


DEMO = World(0, 0.9)
"""Of the demo set of the quick start."""


class ImageName(NamedTuple):
    """The name of an image: its split, "real" or its generator, and its number from 0."""

    split: str
    generator: str
    number: int

    def source(self, agreement: float) -> int:
        """Return the acquisition source, 0 or 1: that of the class in a fixed share of images."""
        share = agreement if self.split in WITH_SHORTCUT else 0.5
        agrees = int((self.number + 1) * share) > int(self.number * share)
        return int((self.generator != REAL_FACES) == agrees)


def image_names(splits: Splits = SPLITS) -> Iterator[ImageName]:
    """Yield all images of the set, in order."""
    for split, counts in splits.items():
        for generator, count in counts.items():
            for number in range(count):
                yield ImageName(split, generator, number)


# How far the sources are apart in what is behind the person.
AMPLITUDE = 0.56
# How far they are apart in white balance: cross-entropy follows it as far as the background.
CAST = 0.056

_RADIUS2 = (np.square(COLUMNS - 31.5) + np.square(ROWS - 31.5)) / np.float32(2 * 31.5**2)


@dataclass(frozen=True, slots=True)
class Camera:
    """How one picture is taken.

    plainness: How few things are behind the person, in [0, 1].
    balance: White balance, warm (> 0) or cold.
    quality: Of the JPEG that the picture is stored as.
    blur: Weight of each neighbour of a pixel.
    """

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


class Rendering(NamedTuple):
    """A rendered image.

    image: uint8 [64, 64, 3].
    mask: Where the artefacts are, bool [64, 64]; None for reals and for artefacts of the whole
        image.
    human_map: uint8 [64, 64] with maximum 255; None outside training and validation.
    artefacts: Their names.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    human_map: NDArray[np.uint8] | None
    artefacts: list[str]


def render_face(
    split: str, generator: str, number: int, world: World = DEMO, *, artefacts: bool = True
) -> Rendering:
    """Render one image.

    artefacts: False for the same fake without what gives it away; its mask and map stay.
    """
    key = [SEED, world.draw, crc32(split.encode()), crc32(generator.encode()), number]
    face_rng, texture_rng, artefact_rng, camera_rng, map_rng = (
        np.random.Generator(np.random.PCG64(seed)) for seed in np.random.SeedSequence(key).spawn(5)
    )
    source = ImageName(split, generator, number).source(world.agreement)
    camera = sample_camera(camera_rng, source, world.shortcut)
    face = sample_face(face_rng, camera.plainness)
    # Artefacts change the face, which takes a tenth of the rendering to copy.
    painted = face if artefacts else deepcopy(face)

    drawn = []
    if generator != REAL_FACES:
        drawn = sample_artefacts(_generators(world.draw)[generator], artefact_rng)
    posed = Canvas(face.pose)
    flaws = [artefact(posed, face, visibility, artefact_rng) for artefact, visibility in drawn]

    canvas = paint_face(painted, texture_rng)
    for flaw in flaws:
        if artefacts and flaw.retouch:
            flaw.retouch(canvas)

    masks = [flaw.mask for flaw in flaws if flaw.mask is not None]
    return Rendering(
        image=take_picture(camera, canvas.image, camera_rng),
        mask=np.maximum.reduce(masks) > MASK_THRESHOLD if masks else None,
        human_map=human_map(canvas, masks, map_rng) if split in WITH_MAPS else None,
        artefacts=[artefact.__name__ for artefact, _ in drawn],
    )

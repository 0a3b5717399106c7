"""One picture of a benchmark draw, from its world, split, generator and number alone.

Each image has its own random streams, so that any image can be rendered again by itself, with or
without its artefacts, and does not depend on how many processes render the set. Two worlds of a
draw have the same faces and artefacts; where their sources or shortcuts differ, the background or
the colours do.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from focus.data.demo.camera import Shortcut, sample_camera, take_picture
from focus.data.demo.canvas import Canvas
from focus.data.demo.grammar import NAMES, generators, sample_artefacts
from focus.data.demo.maps import human_map
from focus.data.demo.paint import paint_face
from focus.data.demo.people import sample_face

# Goes up when the set is meant to change; results of different versions do not compare.
VERSION = 2
SEED = 2303
REAL_FACES = "real"
# Above this the soft mask counts as the artefact.
MASK_THRESHOLD = 0.32

Splits = Mapping[str, Mapping[str, int]]


def _each(count: int, *grades: str) -> dict[str, int]:
    return {name: count for name, grade in NAMES.items() if grade in grades}


UNKNOWN = ("recombined", "near", "far", "global")
# split -> "real" or generator -> number of images.
SPLITS: Splits = {
    "train": {REAL_FACES: 800, **_each(200, "known")},
    "validation": {REAL_FACES: 120, **_each(30, "known")},
    "closed": {REAL_FACES: 240, **_each(60, "known")},
    "closed_balanced": {REAL_FACES: 240, **_each(60, "known")},
    "open": {REAL_FACES: 600, **_each(80, *UNKNOWN)},
}
# Of the unknown generators, to train an oracle on.
ORACLE: Splits = {"oracle": {REAL_FACES: 1200, **_each(154, *UNKNOWN)}}
WITH_MAPS = frozenset({"train", "validation"})
# Those of which the source agrees with the label as often as the world says, as in one collection.
# The other sets are collected otherwise: half and half.
WITH_SHORTCUT = frozenset({"train", "validation", "closed"})
# A fingerprint of the whole image has no place to point at.
WITHOUT_MASK = frozenset({REAL_FACES, "global"})


class World(NamedTuple):
    """A draw of generators and images.

    agreement: How often the source agrees with the label. shortcut: What tells sources apart.
    """

    draw: int
    agreement: float
    shortcut: Shortcut = "background"


DEMO = World(0, 0.9)
"""Of the demo set of the quick start."""


class ImageName(NamedTuple):
    """An image's name: split, "real" or its generator, number from 0."""

    split: str
    generator: str
    number: int

    def source(self, agreement: float) -> int:
        """Return the acquisition source, 0 or 1: the class's own in a fixed share of images."""
        share = agreement if self.split in WITH_SHORTCUT else 0.5
        agrees = int((self.number + 1) * share) > int(self.number * share)
        return int((self.generator != REAL_FACES) == agrees)


def items(splits: Splits = SPLITS) -> Iterator[ImageName]:
    """Yield all images of the set, in order."""
    for split, counts in splits.items():
        for generator, count in counts.items():
            for number in range(count):
                yield ImageName(split, generator, number)


class Rendering(NamedTuple):
    """A rendered image.

    image: uint8 [64, 64, 3]. mask: Where the artefacts are, bool [64, 64], None for reals and for
    artefacts of the whole image. human_map: uint8 [64, 64] with maximum 255, None outside training
    and validation. artefacts: their names.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    human_map: NDArray[np.uint8] | None
    artefacts: list[str]


def render_face(
    split: str, generator: str, number: int, world: World = DEMO, *, artefacts: bool = True
) -> Rendering:
    """Render one image.

    ``artefacts=False`` gives the same fake without what gives it away (its mask and map stay).
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
    marks = []
    for artefact, visibility in drawn:
        marks.append(artefact(posed, face, visibility, artefact_rng))
    canvas = paint_face(painted, texture_rng)
    for mark in marks:
        if artefacts and mark.retouch:
            mark.retouch(canvas)
    masks = [mark.mask for mark in marks if mark.mask is not None]
    return Rendering(
        image=take_picture(camera, canvas.image, camera_rng),
        mask=np.maximum.reduce(masks) > MASK_THRESHOLD if masks else None,
        human_map=human_map(canvas, masks, map_rng) if split in WITH_MAPS else None,
        artefacts=[artefact.__name__ for artefact, _ in drawn],
    )


_generators = cache(generators)

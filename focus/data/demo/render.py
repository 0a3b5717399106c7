"""One picture of the demo set, from its split, family and number alone.

Each image has its own random streams, so that any image can be rendered again by itself, with or
without its artefacts, and does not depend on how many processes render the set.
"""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from focus.data.demo.artefacts import STRENGTH, VISIBILITY, sample_artefacts
from focus.data.demo.camera import sample_camera, take_picture
from focus.data.demo.canvas import Canvas
from focus.data.demo.maps import human_map
from focus.data.demo.paint import paint_face
from focus.data.demo.people import sample_face

# Goes up when the set is meant to change; results of different versions do not compare.
VERSION = 1
SEED = 2303
REAL_FAMILY = "real"
# Above this the soft mask counts as the artefact.
MASK_THRESHOLD = 0.32

Splits = Mapping[str, Mapping[str, int]]

# split -> family -> number of images.
SPLITS: Splits = {
    "train": {REAL_FAMILY: 800, "kA": 400, "kB": 400},
    "validation": {REAL_FAMILY: 150, "kA": 75, "kB": 75},
    "closed": {REAL_FAMILY: 300, "kA": 150, "kB": 150},
    "closed_balanced": {REAL_FAMILY: 300, "kA": 150, "kB": 150},
    "open": {
        REAL_FAMILY: 1000,
        "uNear": 200,
        "uSwap": 200,
        "uMelt": 200,
        "uEars": 200,
        "uSpectrum": 200,
    },
}
WITH_MAPS = frozenset({"train", "validation"})
# A fingerprint of the whole image has no place to point at.
WITHOUT_MASK = frozenset({REAL_FAMILY, "uSpectrum"})


class Item(NamedTuple):
    """An image's name: split, family ("real" or a generator), number from 0."""

    split: str
    family: str
    number: int

    @property
    def source(self) -> int:
        """Return the acquisition source, 0 or 1: the class's own in a fixed share of images."""
        share = 0.5 if self.split in ("closed_balanced", "open") else 0.75
        agrees = int((self.number + 1) * share) > int(self.number * share)
        return int((self.family != REAL_FAMILY) == agrees)


def items(splits: Splits = SPLITS) -> Iterator[Item]:
    """Yield all images of the set, in order."""
    for split, families in splits.items():
        for family, count in families.items():
            for number in range(count):
                yield Item(split, family, number)


class Picture(NamedTuple):
    """A rendered image.

    image: uint8 [64, 64, 3]. mask: where the artefacts are, bool [64, 64], None for reals and for
    artefacts of the whole image. human_map: uint8 [64, 64] with maximum 255, None outside training
    and validation. artefacts: their names.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_] | None
    human_map: NDArray[np.uint8] | None
    artefacts: list[str]


def render_face(split: str, family: str, index: int, *, artefacts: bool = True) -> Picture:
    """Render one image.

    ``artefacts=False`` gives the same fake without what gives it away (its mask and map stay).
    """
    key = [SEED, crc32(split.encode()), crc32(family.encode()), index]
    face_rng, texture_rng, artefact_rng, camera_rng, map_rng = (
        np.random.Generator(np.random.PCG64(seed)) for seed in np.random.SeedSequence(key).spawn(5)
    )
    camera = sample_camera(camera_rng, Item(split, family, index).source)
    face = sample_face(face_rng, camera.plainness)
    unspoilt = deepcopy(face)
    drawn = [] if family == REAL_FAMILY else sample_artefacts(family, artefact_rng)
    posed = Canvas(face.pose)
    marks = []
    for artefact in drawn:
        visibility = STRENGTH * artefact_rng.uniform(*VISIBILITY)
        marks.append(artefact(posed, face, visibility, artefact_rng))
    canvas = paint_face(face if artefacts else unspoilt, texture_rng)
    for mark in marks:
        if artefacts and mark.retouch:
            mark.retouch(canvas)
    masks = [mark.mask for mark in marks if mark.mask is not None]
    return Picture(
        image=take_picture(camera, canvas.image, camera_rng),
        mask=np.maximum.reduce(masks) > MASK_THRESHOLD if masks else None,
        human_map=human_map(canvas, masks, map_rng) if split in WITH_MAPS else None,
        artefacts=[artefact.__name__ for artefact in drawn],
    )

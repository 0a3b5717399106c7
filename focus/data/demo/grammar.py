"""The generators of a draw: which artefacts they leave, and what of them a detector could know.

A draw divides the pairs of artefacts. Of the known pairs training sees one artefact; its neighbour,
which has the same place or cause but looks different, is *near*. Both of the other pairs are *far*.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np

from focus.data.demo import artefacts as a
from focus.data.demo.artefacts import Artefact

Grade = Literal["known", "recombined", "near", "far", "global"]

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

# Of each grade, the artefacts of its generators, as places in the draw's order. Known ones have a
# conspicuous artefact and a faint one beside it; successors, the recombined, have lost the former
# and share faint ones that training saw apart.
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


def _names() -> dict[str, Grade]:
    names: dict[str, Grade] = {}
    for grade, own in _GENERATORS.items():
        names |= {f"{grade}-{n + 1}" if len(own) > 1 else grade: grade for n in range(len(own))}
    return names


NAMES = _names()
"""The grade of each generator; the names are those of every draw."""


def generators(draw: int) -> dict[str, Generator]:
    """Return the generators of a draw by name."""
    rng = np.random.default_rng(draw)
    pairs = [PAIRS[i] for i in rng.permutation(len(PAIRS))]
    known, near = [], []
    for pair in pairs[:N_KNOWN_PAIRS]:
        first = int(rng.integers(2))
        known.append(pair[first])
        near.append(pair[1 - first])
    rng.shuffle(near)
    far = [artefact for pair in pairs[N_KNOWN_PAIRS:] for artefact in pair]
    rng.shuffle(far)
    orders: Mapping[Grade, list[Artefact]] = {
        "known": known,
        "recombined": known,
        "near": near,
        "far": far,
        "global": [a.spectrum],
    }
    every = (
        Generator(grade, tuple(orders[grade][place] for place in places))
        for grade, own in _GENERATORS.items()
        for places in own
    )
    return dict(zip(NAMES, every, strict=True))


def sample_artefacts(
    generator: Generator, rng: np.random.Generator
) -> list[tuple[Artefact, float]]:
    """Draw the artefacts that one fake holds, at least one, each with its visibility."""
    every = generator.artefacts
    drawn = [artefact for artefact in every if rng.random() < CHANCES[generator.grade]]
    drawn = drawn or [every[int(rng.integers(len(every)))]]
    plain = every[0] if generator.grade == "known" else None
    return [
        (artefact, rng.uniform(*VISIBILITY) * (CONSPICUOUS if artefact is plain else 1.0))
        for artefact in drawn
    ]

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

# Of each grade, the artefacts of its generators, as places in the draw's order. A known artefact
# comes with others, as one generator leaves several traces; in the recombined ones it comes with
# those of another known generator, as of a successor that has its parts from several.
_GENERATORS: Mapping[Grade, tuple[tuple[int, ...], ...]] = {
    "known": ((0, 1), (2, 3), (4, 5), (0, 2, 4)),
    "recombined": ((0, 3), (1, 4), (2, 5), (3, 5)),
    "near": ((0, 1), (2, 3), (4, 5), (1, 2)),
    "far": ((0, 1), (2, 3), (4, 5), (6, 7)),
}
# The chance that a fake of a generator holds each of its artefacts.
CHANCE = 0.7


class Generator(NamedTuple):
    """An imaginary generator: how it relates to those of training, and what it leaves."""

    grade: Grade
    artefacts: tuple[Artefact, ...]


NAMES: Mapping[str, Grade] = {
    **{f"{grade}-{n + 1}": grade for grade, own in _GENERATORS.items() for n in range(len(own))},
    "global": "global",
}
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
    orders: dict[Grade, list[Artefact]]
    orders = {"known": known, "recombined": known, "near": near, "far": far}
    return {
        f"{grade}-{n + 1}": Generator(grade, tuple(orders[grade][i] for i in own))
        for grade, sets in _GENERATORS.items()
        for n, own in enumerate(sets)
    } | {"global": Generator("global", (a.spectrum,))}


def sample_artefacts(generator: Generator, rng: np.random.Generator) -> list[Artefact]:
    """Draw the artefacts that one fake holds, at least one."""
    every = generator.artefacts
    drawn = [artefact for artefact in every if rng.random() < CHANCE]
    return drawn or [every[int(rng.integers(len(every)))]]

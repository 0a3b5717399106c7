"""Recognise the images that a model was trained or chosen on, by their path, content or group."""

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Literal

from focus.config.train import TrainConfig
from focus.data.manifest import Manifest, Sample, Split, absolute, file_key
from focus.data.splits import RENAME_GROUPS
from focus.errors import InputError

MANIFEST = "manifest.csv"
BEFORE = "trained_before.csv"
CONTENT = "content_hash"
"""Column of a run's manifest: a digest of the bytes of each image."""
_NONE = Manifest(())


class KnownImages:
    """The images that a model was trained or chosen on, by file, content and group."""

    def __init__(self, images: Manifest) -> None:
        self._files = {file_key(sample.path) for sample in images}
        self._contents = {sample.extra.get(CONTENT, "") for sample in images} - {""}
        self._groups = {sample.group for sample in images} - {""}

    def match(self, sample: Sample) -> Literal["", "file", "group"]:
        """Return what an image shares with a known one, "" for nothing.

        sample: with the digest of its file, if its content is to be compared.
        """
        if sample.extra.get(CONTENT) in self._contents or file_key(sample.path) in self._files:
            return "file"
        return "group" if sample.group in self._groups else ""


def content_hash(*paths: str) -> str:
    """Return 32 hexadecimal digits for the bytes of files, "" if one cannot be read."""
    content = hashlib.blake2b(digest_size=16)
    try:
        for path in paths:
            if not os.path.isfile(path):  # noqa: PTH113 - a pipe may never end
                return ""
            with Path(path).open("rb") as file:
                hashlib.file_digest(file, lambda: content)
    except OSError:
        return ""
    return content.hexdigest()


def digest_of(sample: Sample) -> str:
    """Return the digest of an image that was checked (:mod:`focus.data.bad_files`)."""
    return sample.extra[CONTENT]


def check_unseen(manifest: Manifest, before: Manifest, weights: str) -> None:
    """Refuse images to validate or test on that the initial weights know.

    Args:
        manifest: The images of a new run, with the digests of their files.
        before: The images that the weights were trained (``train``) and chosen (``validation``) on.
        weights: The file of the weights, for the message.

    Raises:
        InputError: one to validate on is among those that they were trained on, or one to test on
            among either.
    """
    forbidden: dict[Split, Manifest] = {"validation": before.split("train"), "test": before}
    counts: list[str] = []
    by_group = False
    for split, images in forbidden.items():
        matches = Counter(map(KnownImages(images).match, manifest.split(split)))
        by_group |= matches["group"] > 0
        if count := matches["file"] + matches["group"]:
            counts.append(f"{count} {split}")
    if counts:
        raise InputError(
            f"{' and '.join(counts)} images or groups of {manifest.source or 'the data'} are "
            f"those that {weights} was trained or chosen on: give its run's manifest.csv or "
            f"--seed, or other images{RENAME_GROUPS * by_group}."
        )


def is_run(folder: Path) -> bool:
    """Tell whether a folder is that of a run."""
    return (folder / MANIFEST).is_file() and (folder / "config.yaml").is_file()


def record_of(run: Path) -> Manifest:
    """Load what a run trains, validates and tests on; empty for a folder that is no run's."""
    return Manifest.from_csv(run / MANIFEST) if is_run(run) else _NONE


def known_to_run(run: Path, record: Manifest) -> Manifest:
    """Return what the model of a run was trained or chosen on, by earlier runs too.

    record: What :func:`record_of` returns for the run; empty for a folder that is no run's.
    """
    images = record.where(lambda sample: sample.split in ("train", "validation"))
    before = run / BEFORE
    return images + Manifest.from_csv(before) if images and before.is_file() else images


def known_before(config: TrainConfig) -> Manifest:
    """Load what the initial weights of a run know; empty without any."""
    weights = config.initial_checkpoint
    if weights is None:
        return _NONE
    run = absolute(weights).parent.parent
    return known_to_run(run, record_of(run))

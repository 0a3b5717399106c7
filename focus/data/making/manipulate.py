"""Make a data set of real faces alone: ``focus data manipulate REALS OUT``.

Each real face of training and validation gives one synthetic one, by the methods in turn; each of
the test set gives one by every method, those that training never saw among them. All pictures,
real and synthetic, go through the same resizing, colours, noise and JPEG, so that files tell
nothing. ``OUT/manifest.csv`` is for ``focus train --data``; masks say where a picture was changed.
"""

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.config.data import ManipulateConfig
from focus.data.bad_files import write_bad_files
from focus.data.file_pass import BadFile
from focus.data.images import (
    BAD_FILES,
    is_written,
    load_image,
    read_content,
    read_unchanged,
    save_image,
)
from focus.data.known_images import CONTENT, digest_of
from focus.data.making.manipulations import BASIS_SIDE, METHODS, Array, Basis, Given
from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample, absolute
from focus.data.readers import read_given, refuse_inside
from focus.data.splits import assign_splits, common_folder
from focus.errors import ImageError, InputError
from focus.findings import print_findings
from focus.runtime.digests import key_of
from focus.runtime.files import begin, check_empty, digest, sole_writer
from focus.runtime.parallel import parallel_map

MANIFEST, RECORD = "manifest.csv", "manipulate.json"
TRAINED = ("part-swap", "warp", "morph")
"""Methods of training and validation; the others are the open set."""
_FEWEST = 10  # real faces, for two in validation and two in the test set
_COMPONENTS, _FITTED = 40, 600  # of the basis; the faces that it is fitted on, at most
_DRAWN, _TRIED = 100, 40  # faces, and those of them of which the most alike is the donor
_QUALITY = (70, 95)
_THUMB = 16  # pixels a side, by which faces are compared


@dataclass(frozen=True)
class _Picture:
    """A picture to make: of a real face, by a method or, for "", as it is.

    key: of what is drawn for it. sample, donor: The face, and the one that the method takes from.
    name: of what is written, without extension.
    """

    key: tuple[int, ...]
    sample: Sample
    method: str
    donor: Sample
    name: str


def manipulate(config: ManipulateConfig) -> None:
    """Read the real faces, write the pictures, the masks and the manifest, and say what is next.

    Raises:
        InputError: too few real faces, or a folder that cannot be written to.
    """
    folder = absolute(str(config.output))
    refuse_inside(folder, config.data)
    if not config.resume:
        check_empty(folder)
    listing = read_given(config, allow_unlabelled=True)
    print_findings(listing.findings)
    reals = _grouped(listing.data.where(lambda sample: sample.label != SYNTHETIC))
    with sole_writer(folder):
        faces = list(
            parallel_map(_small, [s.path for s in reals], "reading", processes=config.threads)
        )
        bad = [face for face in faces if isinstance(face, BadFile)]
        whole = {row: face for row, face in enumerate(faces) if isinstance(face, _Small)}
        contents = {row: face.content for row, face in whole.items()}
        if len(whole) >= _FEWEST:
            # Donors and basis are chosen among all: a face that is replaced changes every picture.
            data = digest((config.seed, config.image_size, *reals, contents))
            record = {"version": 1, "data": data}
            begin(folder, RECORD, record, resume=config.resume)
        if bad:
            write_bad_files(bad, folder / BAD_FILES)
            print(f"left out {len(bad)}: {folder / BAD_FILES}")
        if len(whole) < _FEWEST:
            raise InputError(
                f"{listing.data.source} has {len(whole)} real faces: give {_FEWEST} at least, "
                "better 1000."
            )
        reals = assign_splits(_with_contents(reals, contents), seed=config.seed)
        pictures = _pictures(reals, np.stack([face.pixels for face in whole.values()]), config.seed)
        basis = _basis(reals.split("train") or reals, config)  # a test set may be made alone
        make = partial(_made, folder=folder, side=config.image_size, basis=basis)
        made = parallel_map(make, pictures, "making pictures", processes=config.threads)
        manifest = Manifest(made, str(folder / MANIFEST))
        manifest.to_csv(folder / MANIFEST)
    counts = Counter((s.split, s.generator or "real") for s in manifest)
    for split in ("train", "validation", "test"):
        own = ", ".join(f"{n} {name}" for (place, name), n in counts.items() if place == split)
        print(f"{split}: {own}")
    print(f"written: {folder / MANIFEST}\n\nA first trial, in minutes on a CPU:\n")
    print(f"  focus train --recipe quick --data {shlex.quote(str(folder / MANIFEST))}")


def _grouped(reals: Manifest) -> Manifest:
    """Return the reals with a group: their own, else their folder if there are three or more."""
    folder = common_folder(sample.path for sample in reals)
    below = [Path(sample.path).relative_to(folder).parent.as_posix() for sample in reals]
    if any(sample.group for sample in reals) or len(set(below)) < 3:
        return reals
    groups = zip(reals, below, strict=True)
    return Manifest((replace(s, group=group) for s, group in groups), reals.source)


def _with_contents(reals: Manifest, contents: Mapping[int, str]) -> Manifest:
    """Return the rows of ``contents``, with these digests of their files."""
    samples = (
        replace(reals[row], extra={**reals[row].extra, CONTENT: content})
        for row, content in contents.items()
    )
    return Manifest(samples, reals.source)


class _Small(NamedTuple):
    """A face in [_THUMB, _THUMB, 3] uint8, and the digest of the bytes that it was decoded from."""

    pixels: NDArray[np.uint8]
    content: str


def _small(path: str) -> _Small | BadFile:
    """Return the small face, or the file that is bad."""
    try:
        content = read_content(path)
        image = load_image(path, content).resize((_THUMB, _THUMB), Image.Resampling.BOX)
        return _Small(np.asarray(image), key_of(content))
    except ImageError as error:
        return BadFile.of(path, "image", error)


def _pictures(reals: Manifest, small: Any, seed: int) -> list[_Picture]:
    """Plan what is made of each real face, with donors of its own split and another person.

    In a split of one person the donor is another picture of the same. Raises InputError if there
    is none.
    """
    looks = small.reshape(len(reals), -1).astype(np.float32)
    looks -= looks.mean(axis=1, keepdims=True)  # not who is lit alike
    splits = np.array([sample.split for sample in reals])
    by_split = {split: np.flatnonzero(splits == split) for split in set(splits.tolist())}
    pictures, turn = [], Counter[str]()
    for row, sample in enumerate(reals):
        rng = np.random.default_rng([seed, row])
        turn[sample.split] += 1
        once = (TRAINED[turn[sample.split] % len(TRAINED)],)
        methods = tuple(METHODS) if sample.split == "test" else once
        drawn = rng.choice(own := by_split[sample.split], min(len(own), _DRAWN), replace=False)
        others = [other for other in drawn if other != row]
        if not others:
            raise InputError(
                f"The {sample.split} split of {reals.source} is one face, {sample.path!r}: give "
                "more persons, or groups of other names."
            )
        persons = [o for o in others if not sample.group or reals[o].group != sample.group]
        tried = (persons or others)[:_TRIED]
        donor = reals[tried[((looks[tried] - looks[row]) ** 2).sum(axis=1).argmin()]]
        for number, method in enumerate(("", *methods)):
            name = f"{method or 'real'}/{row:06d}"
            pictures.append(_Picture((seed, row, number), sample, method, donor, name))
    return pictures


def _basis(reals: Sequence[Sample], config: ManipulateConfig) -> Basis:
    """Return the principal components of some of the faces."""
    from sklearn.decomposition import PCA

    chosen = np.random.default_rng(config.seed).permutation(len(reals))[:_FITTED]
    faces = np.stack([_loaded(reals[row], BASIS_SIDE).ravel() for row in chosen])
    fitted = PCA(min(_COMPONENTS, len(faces) // 2), random_state=config.seed).fit(faces)
    return Basis(fitted.mean_.astype(np.float32), fitted.components_.astype(np.float32))


def _loaded(face: Sample, side: int) -> Array:
    """Return a face [side, side, 3] in 0..1; raises ImageError if its file was replaced."""
    (content,) = read_unchanged([face.path], digest_of(face))
    image = load_image(face.path, content).resize((side, side), Image.Resampling.LANCZOS)
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _made(picture: _Picture, folder: Path, side: int, basis: Basis) -> Sample:
    """Make a picture and its mask, write them, and return its sample."""
    rng, sample = np.random.default_rng(picture.key), picture.sample
    path, mask = (folder / kind / picture.name for kind in ("images", "masks"))
    path, mask = path.with_suffix(".jpg"), mask.with_suffix(".png")
    family, method = METHODS[picture.method] if picture.method else ("", None)
    if not is_written(path, *[mask] * bool(method)):
        face = _loaded(sample, side)
        if method:
            face, weight = method(Given(face, _loaded(picture.donor, side), basis), rng)
            save_image(Image.fromarray((255 * weight).round().astype(np.uint8)), mask, format="PNG")
        image, quality = _taken(face, rng)
        save_image(image, path, format="JPEG", quality=quality)
    return Sample(
        str(path),
        SYNTHETIC if picture.method else REAL,
        picture.method,
        family,
        sample.split,
        mask_path=str(mask) if picture.method else None,
        group=sample.group or picture.name.partition("/")[2],
    )


def _taken(face: Array, rng: np.random.Generator) -> tuple[Image.Image, int]:
    """Return the picture as a camera would take it, and the quality of its JPEG."""
    taken = np.clip(face, 0, 1) ** rng.uniform(0.9, 1.1) * (1 + rng.normal(0, 0.03, 3))
    taken = taken + rng.uniform(0.003, 0.012) * rng.standard_normal(face.shape)
    pixels = (np.clip(taken, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels), int(rng.integers(*_QUALITY, endpoint=True))

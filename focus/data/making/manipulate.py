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
from typing import NamedTuple

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
from focus.data.making.manipulations import BASIS_SIDE, METHODS, Array, Basis, Inputs, Manipulation
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
_COMPONENTS = 40  # of the basis
_FITTED = 600  # faces, at most, that the basis is fitted on
_DRAWN = 100  # other faces of the split, among which a donor is looked for
_TRIED = 40  # of these, other persons first; the most alike is the donor
_QUALITY = (70, 95)  # of JPEG, the lowest and the highest
_THUMB = 16  # pixels a side, by which faces are compared


@dataclass(frozen=True)
class _Picture:
    """A picture to make.

    key: The seed of what is drawn for it. sample: The real face that it is made of. method: A name
    in ``METHODS``, or "" for the face as it is. donor: The face that the method takes from. name:
    That of what is written, without extension.
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
        faces, bad = _read_faces(reals, config.threads)
        contents = {row: face.content for row, face in faces.items()}
        if len(faces) >= _FEWEST:
            # Donors and basis are chosen among all: a face that is replaced changes every picture.
            data = digest((config.seed, config.image_size, *reals, contents))
            begin(folder, RECORD, {"version": 1, "data": data}, resume=config.resume)
        if bad:
            write_bad_files(bad, folder / BAD_FILES)
            print(f"left out {len(bad)}: {folder / BAD_FILES}")
        if len(faces) < _FEWEST:
            raise InputError(
                f"{listing.data.source} has {len(faces)} real faces: give {_FEWEST} at least, "
                "better 1000."
            )

        reals = assign_splits(_with_contents(reals, contents), seed=config.seed)
        thumbnails = np.stack([face.pixels for face in faces.values()])
        pictures = _pictures(reals, thumbnails, config.seed)
        basis = _basis(reals.split("train") or reals, config)  # a test set may be made alone
        make = partial(_make_picture, folder=folder, side=config.image_size, basis=basis)
        samples = parallel_map(make, pictures, "making pictures", processes=config.threads)
        manifest = Manifest(samples, str(folder / MANIFEST))
        manifest.to_csv(folder / MANIFEST)

    _print_counts(manifest)
    print(f"written: {folder / MANIFEST}\n\nA first trial, in minutes on a CPU:\n")
    print(f"  focus train --recipe quick --data {shlex.quote(str(folder / MANIFEST))}")


def _print_counts(manifest: Manifest) -> None:
    """Print a line for each split: how many pictures are real and of each method."""
    counts = Counter((sample.split, sample.generator or "real") for sample in manifest)
    for split in ("train", "validation", "test"):
        of_split = [f"{n} {name}" for (one, name), n in counts.items() if one == split]
        print(f"{split}: {', '.join(of_split)}")


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


class _Thumbnail(NamedTuple):
    """A small face, and what it was made of.

    pixels: [_THUMB, _THUMB, 3] uint8. content: The digest of the bytes that it was decoded from.
    """

    pixels: NDArray[np.uint8]
    content: str


def _read_faces(
    reals: Manifest, threads: int | None
) -> tuple[dict[int, _Thumbnail], list[BadFile]]:
    """Return the small face of each row that can be decoded, and the files that cannot."""
    paths = [sample.path for sample in reals]
    thumbnails: dict[int, _Thumbnail] = {}
    bad = []
    for row, face in enumerate(parallel_map(_thumbnail, paths, "reading", processes=threads)):
        if isinstance(face, BadFile):
            bad.append(face)
        else:
            thumbnails[row] = face
    return thumbnails, bad


def _thumbnail(path: str) -> _Thumbnail | BadFile:
    """Return the small face, or the file that is bad."""
    try:
        content = read_content(path)
        image = load_image(path, content).resize((_THUMB, _THUMB), Image.Resampling.BOX)
    except ImageError as error:
        return BadFile.of(path, "image", error)
    return _Thumbnail(np.asarray(image), key_of(content))


def _pictures(reals: Manifest, thumbnails: NDArray[np.uint8], seed: int) -> list[_Picture]:
    """Plan what is made of each real face, with donors of its own split and another person.

    In a split of one person the donor is another picture of the same. Raises InputError if there
    is none.

    thumbnails: The small face of each row, [N, _THUMB, _THUMB, 3].
    """
    looks = thumbnails.reshape(len(reals), -1).astype(np.float32)
    looks -= looks.mean(axis=1, keepdims=True)  # not who is lit alike
    splits = np.array([sample.split for sample in reals])
    rows_of_split = {split: np.flatnonzero(splits == split) for split in set(splits.tolist())}
    pictures = []
    turn = Counter[str]()
    for row, sample in enumerate(reals):
        rng = np.random.default_rng([seed, row])
        donor = reals[_donor_row(row, reals, looks, rows_of_split[sample.split], rng)]

        turn[sample.split] += 1
        if sample.split == "test":
            methods = list(METHODS)
        else:
            methods = [TRAINED[turn[sample.split] % len(TRAINED)]]

        # The first is the face as it is.
        for number, method in enumerate(["", *methods]):
            name = f"{method or 'real'}/{row:06d}"
            pictures.append(_Picture((seed, row, number), sample, method, donor, name))
    return pictures


def _donor_row(
    row: int,
    reals: Manifest,
    looks: NDArray[np.float32],
    rows_of_split: NDArray[np.int64],
    rng: np.random.Generator,
) -> int:
    """Return the row of the donor of a face: of some other faces of its split the most alike.

    Raises InputError if there is no other face.
    """
    sample = reals[row]
    drawn = rng.choice(rows_of_split, min(len(rows_of_split), _DRAWN), replace=False)
    others: list[int] = [other for other in drawn.tolist() if other != row]
    if not others:
        raise InputError(
            f"The {sample.split} split of {reals.source} is one face, {sample.path!r}: give "
            "more persons, or groups of other names."
        )
    other_persons = [
        other for other in others if not sample.group or reals[other].group != sample.group
    ]
    tried = (other_persons or others)[:_TRIED]
    distances = ((looks[tried] - looks[row]) ** 2).sum(axis=1)
    return tried[int(distances.argmin())]


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


def _make_picture(picture: _Picture, folder: Path, side: int, basis: Basis) -> Sample:
    """Make a picture and its mask, write them, and return its sample."""
    path = (folder / "images" / picture.name).with_suffix(".jpg")
    mask_path = None
    family = ""
    method: Manipulation | None = None
    if picture.method:
        mask_path = (folder / "masks" / picture.name).with_suffix(".png")
        family, method = METHODS[picture.method]

    files = [path] if mask_path is None else [path, mask_path]
    if not is_written(*files):
        rng = np.random.default_rng(picture.key)
        face = _loaded(picture.sample, side)
        if method is not None and mask_path is not None:
            inputs = Inputs(face, _loaded(picture.donor, side), basis)
            face, weight = method(inputs, rng)
            mask = Image.fromarray((255 * weight).round().astype(np.uint8))
            save_image(mask, mask_path, format="PNG")
        image, quality = _taken(face, rng)
        save_image(image, path, format="JPEG", quality=quality)

    return Sample(
        path=str(path),
        label=SYNTHETIC if picture.method else REAL,
        generator=picture.method,
        family=family,
        split=picture.sample.split,
        mask_path=None if mask_path is None else str(mask_path),
        group=picture.sample.group or picture.name.partition("/")[2],
    )


def _taken(face: Array, rng: np.random.Generator) -> tuple[Image.Image, int]:
    """Return the picture as a camera would take it, and the quality of its JPEG."""
    taken = np.clip(face, 0, 1) ** rng.uniform(0.9, 1.1) * (1 + rng.normal(0, 0.03, 3))
    taken = taken + rng.uniform(0.003, 0.012) * rng.standard_normal(face.shape)
    pixels = (np.clip(taken, 0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(pixels), int(rng.integers(*_QUALITY, endpoint=True))

"""Find the images of validation and test that show a picture of an earlier split.

What training saw would be scored. Content decides, wherever a file lies: files with the same bytes,
by the digests that the pass over all files leaves in the manifest, and the same picture stored
anew, resized or mirrored, by its signature (:mod:`focus.data.signatures`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from focus.data.known_images import CONTENT
from focus.data.manifest import LABEL_NAMES, REAL, STORED_IN, SYNTHETIC, Manifest, Sample, place_of
from focus.data.signatures import Matches, PictureIndex, SignatureStore
from focus.errors import InputError, shown
from focus.findings import Finding, finding
from focus.runtime.files import write_csv
from focus.runtime.rows import names_of

COPIES = "copies.csv"
Kind = Literal["same file", "same picture", "mirrored picture", "a fake and its source"]
SOURCE: Kind = "a fake and its source"
"""The same picture in both classes: a fake and the real face that it was made from."""

_SPLITS = {"train": "training", "validation": "validation", "test": "test"}
_MOST_SETS = 4  # that are named, each in a line


@dataclass(frozen=True, slots=True)
class Copy:
    """An image, and the one of an earlier split that shows the same picture.

    Attributes:
        sample: The image of the later split.
        original: The image of the earlier split, the most similar one.
        kind: What the two share.
        similarity: Of their signatures, 1 for equal files.
    """

    sample: Sample
    original: Sample
    kind: Kind = "same file"
    similarity: float = 1.0


class Pictures:
    """The pictures of images, each once for all files with its bytes, and what they look like.

    manifest: The images, with the digests of their files. store: Has their signatures.
    """

    def __init__(self, manifest: Manifest, store: SignatureStore) -> None:
        names = np.unique(names_of(manifest.cells(CONTENT)))
        self._names = names[names != b""]  # of images without a digest
        self._index = PictureIndex(lambda numbers: store.read(self._names[numbers]), len(self))

    def __len__(self) -> int:
        return len(self._names)

    def numbers(self, manifest: Manifest) -> NDArray[np.int64]:
        """Return the number of each image's picture [N], -1 for an image without a digest.

        Raises:
            KeyError: a picture is none of these.
        """
        names = names_of(manifest.cells(CONTENT))
        numbers = np.searchsorted(self._names, names)
        has_digest = names != b""
        names_of_numbers = np.append(self._names, b"")[numbers]
        if (names_of_numbers[has_digest] != names[has_digest]).any():
            raise KeyError("an image whose picture is none of these")
        return np.where(has_digest, numbers, -1)

    def find(self, originals: NDArray[np.int64], pictures: NDArray[np.int64]) -> Matches:
        """Return the original that each picture shows; see :meth:`PictureIndex.find`."""
        return self._index.find(originals, pictures)


def find_copies(manifest: Manifest, pictures: Pictures) -> list[Copy]:
    """Return the images of validation and test that show a picture of an earlier split.

    manifest: The images, with splits and the digests of their files.
    """
    train, validation, test = (np.flatnonzero(manifest.equals("split", split)) for split in _SPLITS)
    earlier_than_test = np.concatenate([train, validation])
    return [
        *copies_of(manifest.take(train), manifest.take(validation), pictures),
        *copies_of(manifest.take(earlier_than_test), manifest.take(test), pictures),
    ]


def copies_of(originals: Manifest, images: Manifest, pictures: Pictures) -> list[Copy]:
    """Return those of the images that show the picture of an original, in the images' order.

    Both with the digests of their files.
    """
    image_pictures = pictures.numbers(images)
    original_row = _first_rows(pictures.numbers(originals), len(pictures))
    image_row = _first_rows(image_pictures, len(pictures))
    is_original, is_shown = original_row >= 0, image_row >= 0

    match_of_picture = {
        picture: _Match(int(original_row[picture]), "same file", 1.0)
        for picture in np.flatnonzero(is_shown & is_original).tolist()
    }
    unmatched = np.flatnonzero(is_shown & ~is_original)
    matches = pictures.find(np.flatnonzero(is_original), unmatched)
    for position in np.flatnonzero(matches.originals >= 0).tolist():
        picture = int(unmatched[position])
        row = int(original_row[matches.originals[position]])
        kind: Kind = "mirrored picture" if matches.mirrored[position] else "same picture"
        if {images.labels[image_row[picture]], originals.labels[row]} == {REAL, SYNTHETIC}:
            kind = SOURCE
        match_of_picture[picture] = _Match(row, kind, float(matches.similarity[position]))

    rows = np.flatnonzero(np.isin(image_pictures, [*match_of_picture]))
    matches_of_rows = [match_of_picture[picture] for picture in image_pictures[rows].tolist()]
    original_rows = np.array([match.original_row for match in matches_of_rows], np.int64)
    return [
        Copy(sample, original, match.kind, match.similarity)
        for sample, original, match in zip(
            images.take(rows), originals.take(original_rows), matches_of_rows, strict=True
        )
    ]


class _Match(NamedTuple):
    """The original of a picture, and what the two share."""

    original_row: int
    kind: Kind
    similarity: float


def _first_rows(pictures: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the first row of each picture, -1 for one without any [count].

    pictures: The number of each row's picture [N], -1 for none.
    """
    rows = np.flatnonzero(pictures >= 0)[::-1]
    first_rows = np.full(count, -1, np.int64)
    first_rows[pictures[rows]] = rows  # the last that is written stays: the first row
    return first_rows


def fakes_beside_source(manifest: Manifest, pictures: Pictures) -> list[Copy]:
    """Return the fakes whose source, the real face that they were made from, is in their split.

    Fakes that share its group, as they should, are left out.
    """
    pairs = []
    for split in _SPLITS:
        is_in_split = manifest.equals("split", split)
        reals = manifest.take(is_in_split & (manifest.labels == REAL))
        fakes = manifest.take(is_in_split & (manifest.labels == SYNTHETIC))
        pairs += [
            pair
            for pair in copies_of(reals, fakes, pictures)
            if pair.kind == SOURCE
            and not (pair.sample.group and pair.sample.group == pair.original.group)
        ]
    return pairs


def _name_of(split: str) -> str:
    """Return what images of a split are called; images to evaluate, of none, are test images."""
    return _SPLITS.get(split, _SPLITS["test"])


def left_out(copies: Sequence[Copy], *, drop: bool) -> list[Copy]:
    """Return the copies that are not used: those of equal bytes, or with ``drop`` all."""
    return [copy for copy in copies if drop or copy.kind == "same file"]


def without(manifest: Manifest, copies: Sequence[Copy]) -> Manifest:
    """Return the images but for those that are copies."""
    if not copies:
        return manifest
    paths = {copy.sample.path for copy in copies}
    return manifest.where(lambda sample: sample.path not in paths)


def check_left(manifest: Manifest, copies: Sequence[Copy]) -> None:
    """Refuse images of which the copies are all that validation or a test set has of a class.

    copies: Those that are left out.

    Raises:
        InputError: none would be left of a class, or of a generator.
    """
    kept = set(map(_kind, without(manifest, copies))) if copies else set()
    for copy in copies:
        if _kind(copy.sample) not in kept:
            split, label, *_ = _kind(copy.sample)
            raise InputError(
                f"All {label} {_name_of(split)} images{_of_set(copy.sample)} are copies of "
                f"{_name_of(copy.original.split)} images, the first is "
                f"{place_of(copy.sample)!r} of {place_of(copy.original)!r}: give others, or leave "
                "the set out."
            )


class _CopiesOfSet(NamedTuple):
    """What the copies that one finding tells of have in common.

    finding: Its name. original_split: The split of the originals. split, label, of_set: Those of
    the copies, the last in words.
    """

    finding: str
    original_split: str
    split: str
    label: int | None
    of_set: str


def copy_findings(
    manifest: Manifest, copies: Sequence[Copy], dropped: Iterable[Copy]
) -> list[Finding]:
    """Return a finding for each set that has copies: how many, of which split, and what of them.

    dropped: Those of the copies that are left out.
    """
    is_dropped = {id(copy) for copy in dropped}
    if not copies:
        return []
    sizes = Counter((str(s.split), s.label, _of_set(s)) for s in manifest)
    sets = defaultdict[_CopiesOfSet, list[Copy]](list)
    for copy in copies:
        name = "copies_scored"
        if id(copy) in is_dropped:
            name = "copies_left_out"
        elif copy.kind == SOURCE:
            name = "source_in_other_split"
        sample = copy.sample
        of_set = _CopiesOfSet(
            name, copy.original.split, sample.split, sample.label, _of_set(sample)
        )
        sets[of_set].append(copy)

    findings = []
    largest_first = sorted(sets.items(), key=lambda item: -len(item[1]))
    for rank, (copies_of_set, members) in enumerate(largest_first):
        # What is wrong is said of every set; what is left out, of the largest alone.
        if copies_of_set.finding == "copies_left_out" and rank >= _MOST_SETS:
            continue
        split, label, of_set_name = copies_of_set.split, copies_of_set.label, copies_of_set.of_set
        label_name = f"{LABEL_NAMES[label]} " if label is not None else ""
        kinds = Counter(copy.kind for copy in members)
        findings.append(
            finding(
                copies_of_set.finding,
                count=len(members),
                total=sizes[split, label, of_set_name],
                images=f"{label_name}{_name_of(split)} images{of_set_name}",
                original=_name_of(copies_of_set.original_split),
                kinds=", ".join(f"{kind}: {count}" for kind, count in kinds.most_common()),
                path=place_of(members[0].sample),
                original_path=place_of(members[0].original),
            )
        )
    if len(findings) < len(sets):
        findings.append(finding("more_copies", count=len(sets) - len(findings)))
    return findings


def write_copies(
    copies: Sequence[Copy], folder: Path, dropped: Iterable[Copy] = (), more: Sequence[Copy] = ()
) -> Path:
    """Write ``copies.csv``, a row for each image; ``docs/formats.md`` describes it.

    dropped: Those of the copies that are left out. more: Pairs within a split.
    """
    is_dropped = {id(copy) for copy in dropped}
    rows = []
    for copy in [*copies, *more]:
        one, other = copy.sample, copy.original
        label = "" if one.label is None else LABEL_NAMES[one.label]
        answer = "yes" if id(copy) in is_dropped else "no"
        stored = (sample.extra.get(STORED_IN, "") for sample in (one, other))
        of_pair = copy.kind, f"{copy.similarity:.4f}", answer
        pair = one.path, one.split, label, _set(one), other.path, other.split
        rows.append((*pair, *of_pair, *stored))
    stored_in = STORED_IN, f"original_{STORED_IN}"
    pair_names = "path", "split", "label", "set", "original", "original_split"
    header = (*pair_names, "kind", "similarity", "left_out", *stored_in)
    write_csv(folder / COPIES, header, rows, may_lack=stored_in)
    return folder / COPIES


def _kind(sample: Sample) -> tuple[str, str, str, str]:
    label = "unlabelled" if sample.label is None else LABEL_NAMES[sample.label]
    return sample.split, label, sample.generator, sample.test_set


def _set(sample: Sample) -> str:
    """Return the generator of a fake, or the NAME that real images were given by."""
    if sample.label == SYNTHETIC:
        return sample.generator
    return sample.extra.get("source", "") if sample.split == "test" else ""


def _of_set(sample: Sample) -> str:
    return f" of {shown(_set(sample))}" if _set(sample) else ""

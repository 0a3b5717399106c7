"""Leave out of validation and test what is a copy of an image of an earlier split.

Content decides, wherever a file lies: two images are copies if their files have the same bytes, by
the digests that the pass over all files leaves in the manifest.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from focus.data.known_images import CONTENT
from focus.data.manifest import LABEL_NAMES, STORED_IN, SYNTHETIC, Manifest, Sample, place_of
from focus.errors import InputError, shown
from focus.findings import Finding
from focus.runtime.files import write_csv

LEFT_OUT = "left_out.csv"
_NAMES = {"train": "training", "validation": "validation", "test": "test"}
_NAMED = 4  # sets, each in a line


@dataclass(frozen=True, slots=True)
class Copy:
    """An image that is left out, and the first of an earlier split that has the same bytes."""

    sample: Sample
    original: Sample


def copies(manifest: Manifest) -> list[Copy]:
    """Return the images of validation and test that are copies of one of an earlier split.

    manifest: The images, with splits and the digests of their files.
    """
    first: dict[str, Sample] = {}
    found = []
    for split in ("train", "validation", "test"):
        for sample in manifest.split(split):
            if digest := sample.extra.get(CONTENT, ""):
                original = first.setdefault(digest, sample)
                if original.split != split:
                    found.append(Copy(sample, original))
    return found


def without(manifest: Manifest, left_out: Sequence[Copy]) -> Manifest:
    """Return the images but for those that are left out."""
    paths = {copy.sample.path for copy in left_out}
    return manifest.where(lambda sample: sample.path not in paths)


def check_left(manifest: Manifest) -> None:
    """Refuse images of which the copies are all that validation or a test set has of a class.

    Raises:
        InputError: none would be left of a class, or of a generator.
    """
    left_out = copies(manifest)
    left = set(map(_kind, without(manifest, left_out))) if left_out else set()
    for copy in left_out:
        if _kind(copy.sample) not in left:
            split, label, *_ = _kind(copy.sample)
            raise InputError(
                f"All {label} {_NAMES[split]} images{_of(copy.sample)} are copies of "
                f"{_NAMES[copy.original.split]} images, the first is {place_of(copy.sample)!r} of "
                f"{place_of(copy.original)!r}: give others, or leave the set out."
            )


def left_out_findings(manifest: Manifest, left_out: Sequence[Copy]) -> list[Finding]:
    """Return a finding for each set that lacks images: how many, copies of which split."""
    counts = Counter(
        (copy.sample.split, copy.sample.label, _of(copy.sample), copy.original.split)
        for copy in left_out
    )
    sizes = Counter((s.split, s.label, _of(s)) for s in manifest) if counts else Counter()
    texts = []
    for (split, label, of, original), count in counts.most_common(_NAMED):
        kind = f"{LABEL_NAMES[label]} " if label is not None else ""
        texts.append(
            f"{count} of {sizes[split, label, of]} {kind}{_NAMES[split]} images{of} are left out, "
            f"being copies of {_NAMES[original]} images: {LEFT_OUT} lists them."
        )
    if len(counts) > _NAMED:
        texts.append(f"Of {len(counts) - _NAMED} more sets copies are left out: {LEFT_OUT}.")
    return [Finding("warning", text) for text in texts]


def write_left_out(left_out: Sequence[Copy], folder: Path) -> None:
    """Write ``left_out.csv``, a row for each image; ``docs/formats.md`` describes it."""
    rows = []
    for copy in left_out:
        one, other = copy.sample, copy.original
        label = "" if one.label is None else LABEL_NAMES[one.label]
        stored = (each.extra.get(STORED_IN, "") for each in (one, other))
        rows.append((one.path, one.split, label, _set(one), other.path, other.split, *stored))
    stored_in = STORED_IN, f"original_{STORED_IN}"
    header = ("path", "split", "label", "set", "original", "original_split", *stored_in)
    write_csv(folder / LEFT_OUT, header, rows, may_lack=stored_in)


def _kind(sample: Sample) -> tuple[str, str, str, str]:
    label = "unlabelled" if sample.label is None else LABEL_NAMES[sample.label]
    return sample.split, label, sample.generator, sample.test_set


def _set(sample: Sample) -> str:
    """Return the generator of a fake, or the NAME that real images were given by."""
    if sample.label == SYNTHETIC:
        return sample.generator
    return sample.extra.get("source", "") if sample.split == "test" else ""


def _of(sample: Sample) -> str:
    return f" of {shown(_set(sample))}" if _set(sample) else ""

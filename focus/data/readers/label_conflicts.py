"""Images of one class that would count as of the other: by their folders' names, or as given."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from focus.data.generators import family_of, home_of, is_name
from focus.data.manifest import REAL, SYNTHETIC, Manifest, Sample, file_key
from focus.errors import InputError

_WORDS = {
    REAL: frozenset(
        ("real", "reals", "original", "originals", "authentic", "pristine", "genuine", "bonafide")
    ),
    SYNTHETIC: frozenset(
        [
            *("fake", "fakes", "deepfake", "deepfakes", "synthetic", "synthesis", "generated"),
            "manipulated",
        ]
    ),
}
_WORD = {REAL: "real", SYNTHETIC: "fakes"}
_FLAGS = {REAL: "--test-real", SYNTHETIC: "--test-data"}


def refuse_both_classes(images: Manifest, root: str, name: str, label: int) -> None:
    """Raise InputError if some folders below the root, not all, have names of the other class.

    These are no layout, as ``training_real`` and ``training_fake`` are none. name: what the images
    were given as; label: that of all of them.
    """
    if not Path(root).is_dir():  # one image
        return
    other = REAL if label == SYNTHETIC else SYNTHETIC
    places = {sample.path.rpartition(os.sep)[0] for sample in images}
    folders = sorted(Path(place).relative_to(root).parts for place in places)
    named = {f: at for f in folders if (at := _called(f, other)) is not None}
    if not named or len(named) == len(places):
        return
    folder, at = next(iter(named.items()))
    odd = Path(root, *folder[: at + 1])
    beside = next((f[: at + 1] for f in folders if f and f not in named), None)
    right = "FOLDER" if beside is None else Path(root, *beside)
    flag = _FLAGS[label]
    raise InputError(
        f"All images of {root} would count as {_WORD[label]} ({flag} {name}), and those in {odd} "
        f"are {_WORD[other]} by the folder's name: give {flag} {name}={right} or the like, and "
        f"{_FLAGS[other]} NAME={odd}."
    )


def _called(folders: tuple[str, ...], label: int) -> int | None:
    """Which of the folders has a name of the class, and of the class alone; the first, or None.

    ``fake_of_real`` is of either, and ``stylegan_original`` and ``Real-ESRGAN`` are a generator's.
    """
    for at, name in enumerate(folders):
        words = set(re.findall(r"[^\W\d_]+", name.casefold()))
        classes = {which for which, known in _WORDS.items() if words & known}
        is_generator = family_of(name) or any(word.endswith("gan") for word in words)
        if classes == {label} and (label == SYNTHETIC or not is_generator):
            return at
    return None


def refuse_two_labels(images: Iterable[Sample]) -> None:
    """Raise InputError for an image, or a face in it, that is given as real and as synthetic.

    Or as the fake of two generators; also where a link gives it another path.
    """
    first: dict[object, Sample] = {}
    for sample in images:
        if sample.label is None:
            continue
        one = first.setdefault((file_key(sample.path), sample.box), sample)
        there = "" if one.path == sample.path else f", there as {one.path!r}"
        if one.label != sample.label:
            raise InputError(
                f"{sample.path!r} is given as real and as synthetic{there}: keep one of them."
            )
        if sample.label == SYNTHETIC and _are_two(one.generator, sample.generator):
            raise InputError(
                f"{sample.path!r} is given as a fake of {one.generator} and of "
                f"{sample.generator}{there}: keep one of them."
            )


def _are_two(generator: str, other: str) -> bool:
    return is_name(generator) and is_name(other) and home_of("", generator, [other]) == "open"

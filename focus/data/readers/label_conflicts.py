"""Find labels that words beside the images contradict, all or some of them.

A number does not say which class it is: in Kaggle's "140k real and fake faces" 1 is real, as the
folders and a column of the table tell. A folder of fakes may hold a folder of real images, and a
row of a table the wrong label.
"""

import os
import re
from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC, Manifest, Sample
from focus.data.near_far import family_of
from focus.findings import Finding, finding

_WORDS = {
    **dict.fromkeys(("real", "reals", "original", "authentic", "pristine"), REAL),
    **dict.fromkeys(("fake", "fakes", "synthetic", "synthesis", "manipulated"), SYNTHETIC),
}
_MUCH_MORE_USUAL = 2.0
"""How many times more usual a word must be on one side of the labels to say that they are wrong.

A cell that has nothing to do with the label is by chance a little more usual on either side.
"""
_LEAST_SHARE = 0.2
"""Share of the images of one label that a word must be beside: a rare one is there by chance."""


class _Word(NamedTuple):
    """A word beside an image that names a class."""

    label: int
    text: str


def label_conflicts(
    samples: Manifest, root: str, *, labels_are_folders: bool = False
) -> list[Finding]:
    """Return a finding if folders below ``root``, names or cells say another class than labels do.

    A word counts against all labels if it is much more usual among the images whose label it
    contradicts than among those that it fits, and against some if it is so among the latter. In
    between it says nothing: a folder may be named after what is in the pictures. Nor does an image
    count whose name or other folder says the class of its label, nor do names unless they say both
    classes: a fake may be named after the original that it was made of.

    labels_are_folders: Whether the labels are those that the folders say; then only names count.
    """
    labelled = [sample for sample in samples if sample.label is not None]
    n_labelled = Counter(sample.label for sample in labelled)
    of_names = [_word_in(Path(sample.path).stem) for sample in labelled]
    names_say_both = len({word.label for word in of_names if word is not None}) == 2
    said: defaultdict[tuple[int, int], list[tuple[Sample, str]]] = defaultdict(list)
    only: defaultdict[tuple[int, int], list[tuple[Sample, str]]] = defaultdict(list)
    for sample, of_name in zip(labelled, of_names, strict=True):
        words = [] if labels_are_folders else _words_beside(sample, root)
        if of_name is not None and names_say_both:
            words = [*words, of_name]
        if not words or sample.label is None:
            continue
        said[words[0].label, sample.label].append((sample, words[0].text))
        if all(word.label != sample.label for word in words):
            only[words[0].label, sample.label].append((sample, words[0].text))
    findings = []
    for label, other in ((SYNTHETIC, REAL), (REAL, SYNTHETIC)):
        contradicted = said[other, label]
        if not contradicted:
            continue
        against = len(contradicted) / n_labelled[label]
        fitting = len(said[other, other]) / max(n_labelled[other], 1)
        if max(against, fitting) < _LEAST_SHARE:
            continue
        if against >= _MUCH_MORE_USUAL * fitting:
            # The other class is then the other way round, too.
            return [_conflict("labels_reversed", samples, contradicted, label, other)]
        if only[other, label] and fitting >= _MUCH_MORE_USUAL * against:
            wrong = only[other, label]
            findings.append(_conflict("labels_partly_wrong", samples, wrong, label, other))
    return findings


def _conflict(
    name: str, samples: Manifest, conflicts: list[tuple[Sample, str]], label: int, other: int
) -> Finding:
    sample, word = conflicts[0]
    return finding(
        name,
        source=samples.source,
        count=len(conflicts),
        total=sum(one.label == label for one in samples),
        label=LABEL_NAMES[label],
        other=LABEL_NAMES[other],
        word=word,
        path=sample.path,
    )


def _words_beside(sample: Sample, root: str) -> list[_Word]:
    """Return the words that name a class: of a cell alone, else of folders, the innermost first."""
    for cell in (sample.generator, *sample.extra.values()):
        if (label := _WORDS.get(cell.strip().casefold())) is not None:
            return [_Word(label, cell)]
    folder = os.path.dirname(sample.path.removeprefix(root))  # noqa: PTH120
    return [*_words_of_folders(folder)]


@lru_cache(maxsize=4096)
def _words_of_folders(folder: str) -> tuple[_Word, ...]:
    """Return the words of folders that name a class, the innermost first."""
    words = (_word_in(name) for name in reversed(folder.split("/")))
    return tuple(word for word in words if word is not None)


def _word_in(name: str) -> _Word | None:
    words = set(re.findall(r"[^\W\d_]+", name.casefold()))
    labels = {_WORDS[word] for word in words & _WORDS.keys()}
    # "Real-ESRGAN" is a generator.
    if len(labels) != 1 or family_of(name) or any(word.endswith("gan") for word in words):
        return None
    return _Word(labels.pop(), name)

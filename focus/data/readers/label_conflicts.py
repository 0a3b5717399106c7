"""Find labels that words beside the images contradict, all or some of them.

A number does not say which class it is: in Kaggle's "140k real and fake faces" 1 is real, as the
folders and a column of the table tell. A folder of fakes may hold a folder of real images, and a
row of a table the wrong label.
"""

import os
import re
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from focus.data.manifest import LABEL_NAMES, REAL, SYNTHETIC, UNLABELLED, Manifest
from focus.data.near_far import family_of
from focus.findings import Finding, finding

_WORDS = {
    **dict.fromkeys(("real", "reals", "original", "authentic", "pristine"), REAL),
    **dict.fromkeys(("fake", "fakes", "synthetic", "synthesis", "manipulated"), SYNTHETIC),
}
_PARTS_OF_WORDS = ("real", "original", "authentic", "pristine", "fake", "synthe", "manipulated")
"""What a text has in it that has one of these words, in small letters."""
_OF_NAME = ""
"""Stands for a file's name, of which each image has its own."""
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
    is_labelled = samples.labels != UNLABELLED
    n_labelled = {label: int((samples.labels == label).sum()) for label in (REAL, SYNTHETIC)}
    words = _WordsOfRows(samples)
    if not labels_are_folders:
        words.add_folders(root)
        words.add_cells()
    words.add_names(is_labelled)

    # By the class that the words say, and the class of the label.
    saying: defaultdict[tuple[int, int], list[_Alike]] = defaultdict(list)
    unanimous: defaultdict[tuple[int, int], list[_Alike]] = defaultdict(list)
    for alike in words.alike(is_labelled):
        classes = alike.words[0].label, alike.label  # the first word counts most
        saying[classes].append(alike)
        if all(word.label != alike.label for word in alike.words):
            unanimous[classes].append(alike)

    findings = []
    for label, other in ((SYNTHETIC, REAL), (REAL, SYNTHETIC)):
        contradicted = saying[other, label]
        if not contradicted:
            continue
        share_contradicted = _count(contradicted) / n_labelled[label]
        share_fitting = _count(saying[other, other]) / max(n_labelled[other], 1)
        if max(share_contradicted, share_fitting) < _LEAST_SHARE:
            continue
        if share_contradicted >= _MUCH_MORE_USUAL * share_fitting:
            # Labels that are reversed for one class are so for both: one finding says it.
            return [_conflict("labels_reversed", samples, contradicted, label, other)]
        wrong = unanimous[other, label]
        if wrong and share_fitting >= _MUCH_MORE_USUAL * share_contradicted:
            findings.append(_conflict("labels_partly_wrong", samples, wrong, label, other))
    return findings


class _Alike(NamedTuple):
    """The images of one label that have the same words beside them.

    words: At least one. n_images: Their number. first: The row of the first.
    """

    words: tuple[_Word, ...]
    label: int
    n_images: int
    first: int


class _WordsOfRows:
    """The words beside each image that name a class, the one that counts most first.

    kinds: All that are beside some image. of_row: The number of each row's words there.
    """

    def __init__(self, samples: Manifest) -> None:
        self._samples = samples
        self.kinds: dict[tuple[_Word, ...], int] = {(): 0}
        self.of_row = np.zeros(len(samples), np.int32)

    def _number(self, words: tuple[_Word, ...]) -> int:
        return self.kinds.setdefault(words, len(self.kinds))

    def add_folders(self, root: str) -> None:
        """Take the words of the folders below ``root``, the innermost first."""
        numbers, folders = self._samples.folders()
        of_folder = [
            self._number(_words_of_folders(os.path.dirname(folder.removeprefix(root))))  # noqa: PTH120
            for folder in folders
        ]
        self.of_row = np.array([*of_folder, 0], np.int32)[numbers]

    def add_cells(self) -> None:
        """Take the word of a cell alone where one is nothing else, the generator's first."""
        for column in reversed(["generator", *self._samples.extra_columns()]):
            numbers, cells = self._samples.numbered(column)
            words = np.zeros(len(cells) + 1, np.int32)
            for number, cell in enumerate(cells):
                if (label := _WORDS.get(cell.strip().casefold())) is not None:
                    words[number] = self._number((_Word(label, cell),))
            words_of_rows = words[numbers]
            self.of_row = np.where(words_of_rows > 0, words_of_rows, self.of_row)

    def add_names(self, is_labelled: NDArray[np.bool_]) -> None:
        """Take the words of the files' names behind the others, if the names say both classes."""
        labels = np.full(len(self._samples), UNLABELLED, np.int8)
        may_name_class = self._samples.names_contain(_PARTS_OF_WORDS)
        for row in np.flatnonzero(is_labelled & may_name_class).tolist():
            word = _word_in(Path(self._samples.cell("path", row)).stem)
            if word is not None:
                labels[row] = word.label
        if not {REAL, SYNTHETIC} <= {*np.unique(labels).tolist()}:
            return
        words_of = [*self.kinds]
        rows = np.flatnonzero(labels != UNLABELLED)
        for row, label in zip(rows.tolist(), labels[rows].tolist(), strict=True):
            of_name = _Word(label, _OF_NAME)
            self.of_row[row] = self._number((*words_of[self.of_row[row]], of_name))

    def alike(self, is_labelled: NDArray[np.bool_]) -> list[_Alike]:
        """Return the labelled images that have words, those with the same ones together."""
        rows = np.flatnonzero(is_labelled & (self.of_row > 0))
        pairs = np.stack([self.of_row[rows], self._samples.labels[rows]], 1)
        distinct, first, counts = np.unique(pairs, axis=0, return_index=True, return_counts=True)
        words_of = [*self.kinds]
        return [
            _Alike(words_of[kind], label, count, row)
            for (kind, label), count, row in zip(
                distinct.tolist(), counts.tolist(), rows[first].tolist(), strict=True
            )
        ]


def _count(alike: list[_Alike]) -> int:
    return sum(part.n_images for part in alike)


def _conflict(
    name: str, samples: Manifest, conflicts: list[_Alike], label: int, other: int
) -> Finding:
    first = min(conflicts, key=lambda alike: alike.first)
    path = samples.cell("path", first.first)
    return finding(
        name,
        source=samples.source,
        count=_count(conflicts),
        total=int((samples.labels == label).sum()),
        label=LABEL_NAMES[label],
        other=LABEL_NAMES[other],
        word=first.words[0].text or Path(path).stem,
        path=path,
    )


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

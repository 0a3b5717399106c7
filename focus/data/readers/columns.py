"""Which column of a table means what, and the sample that a row makes.

The columns are found by their names, unless they are given; labels are words or 0 and 1.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast, get_args

from focus.config.layouts import COLUMNS
from focus.data.manifest import (
    LABEL_NAMES,
    NO_EXTRA,
    REAL,
    SYNTHETIC,
    Sample,
    Split,
    TestSet,
    read_box,
)
from focus.data.readers.files import split_of
from focus.data.readers.polarity import Numbers
from focus.errors import InputError

NAMES: dict[str, tuple[str, ...]] = {
    "path": (
        *("path", "filename", "file", "image", "file_name", "filepath", "file_path"),
        *("image_path", "img_path", "img"),
    ),
    # The last ones may well be something else: what is in a picture, or another file.
    "label": (
        *("label", "typ", "is_fake", "is_synthetic", "is_real", "target"),
        *("fake", "synthetic", "real", "class"),
    ),
    "generator": ("generator", "model", "source"),
    "family": ("family",),
    "split": ("split",),
    "test_set": ("test_set",),
    "map_path": ("map_path", "heatmap", "map"),
    "mask_path": ("mask_path", "mask"),
    "box": ("box", "face_box"),
    "group": ("group", "identity", "video"),
}
"""By what names a column of the manifest goes in other tables; the first that is there counts."""

LABELS = {
    **dict.fromkeys(("real", "nature", "0_real", "0"), REAL),
    **dict.fromkeys(("fake", "synthetic", "ai", "1_fake", "1"), SYNTHETIC),
}
# Words that nobody needs but for a label, and those of labels that may be anything.
_TELLING = LABELS.keys() - {"0", "1"}
_WORDS = LABELS.keys() | {"true", "false", "yes", "no"}
PATHS = ("path", "map_path", "mask_path")
# Columns that ask a question: 1 and "true" are the class that they ask for.
_ASKED = {
    **dict.fromkeys(("is_fake", "fake", "is_synthetic", "synthetic"), SYNTHETIC),
    **dict.fromkeys(("is_real", "real"), REAL),
}


@dataclass(frozen=True)
class Columns:
    """The columns of one table.

    at: where each column of the manifest is; rest: all others. labels: what a label's words mean.
    unclaimed: the columns among which the label could be by name, none if it is found or told to be
    absent; by what is in them, see :func:`could_be_label`. numbers: what the rows so far say
    beside labels that are numbers.
    """

    header: Sequence[str]
    at: Mapping[str, int]
    rest: Mapping[str, int]
    labels: Mapping[str, int]
    unclaimed: Sequence[str]
    numbers: Numbers = field(default_factory=lambda: Numbers({}, 0), compare=False)

    @classmethod
    def find(cls, header: Sequence[str], given: Mapping[str, str]) -> "Columns":
        """By the names that are given, else by the usual ones.

        GRIP's column ``typ`` holds ``real`` or the generator: it is both, unless one is given.
        Raises ValueError for a column that is not there, for two of one name, and if none is the
        path.
        """
        names = [_plain(name) for name in header]
        at: dict[str, int] = {}
        for role, usual in NAMES.items():
            wanted = (given[role],) if role in given else usual
            found = next((_plain(name) for name in wanted if name and _plain(name) in names), None)
            if found is None:
                if given.get(role):
                    raise ValueError(
                        f"there is no column {given[role]!r} among {_listed(header)}; give "
                        "another in --columns"
                    )
                continue
            _refuse_twice(names, found)
            at[role] = names.index(found)
        for name in filter(None, header):
            _refuse_twice(header, name)
        if "path" not in at:
            advice = "call it path or filename, or give --columns path=NAME"
            if len(header) == 1 and set(header[0]) & set(";\t|"):
                advice = "separate the columns by commas"
            raise ValueError(f"no column names the image among {_listed(header)}; {advice}")
        untold = "generator" not in at and not {"label", "generator"} & given.keys()
        if untold and "label" in at and names[at["label"]] == "typ":
            at["generator"] = at["label"]
        rest = {
            # A column of the manifest that was given another name is not mistaken for it.
            f"original_{name}" if name in COLUMNS else name: i
            for i, name in enumerate(header)
            if name and i not in at.values()
        }
        labels = _labels(names[at["label"]] if "label" in at else "")
        unclaimed = () if {"label"} & (at.keys() | given) else (*rest,)
        numbers = Numbers(_witnesses(names, at), at["path"])
        return cls(header, at, rest, labels, unclaimed, numbers)

    def __str__(self) -> str:
        found = {role: f"{role}={self.header[i]}" for role, i in self.at.items()}
        if self.numbers:
            found["label"] += f" (1 is {LABEL_NAMES[self.labels['1']]})"
        return ", ".join(found.values())

    def refuse_contradictions(self, table: Path) -> None:
        """Raise InputError if the rows say in words the opposite of labels that are numbers."""
        if (found := self.numbers.contradiction()) is None:
            return
        label, where = self.header[self.at["label"]], self.header[found.column]
        number = next(n for n in "01" if self.labels[n] == found.label)
        advice = f"give --columns label={where}"
        if not found.labels:
            advice = f"write real and synthetic for the numbers, or call {label} is_real"
        raise InputError(
            f"{table}: {number} in the column {label} is taken for {LABEL_NAMES[found.label]}, and "
            f"the column {where} says the opposite in {found.n_rows} rows, as in {found.word!r}; "
            f"{advice}."
        )

    def sample(self, cells: Sequence[str], place: Callable[[str], str]) -> Sample:
        """The sample of a row. place: makes an absolute path of a cell. Raises ValueError."""
        if len(cells) != len(self.header):
            raise ValueError(f"{len(cells)} columns instead of {len(self.header)}")
        # File names alone may begin or end with a space.
        cell = {r: cells[i] if r in PATHS else cells[i].strip() for r, i in self.at.items()}
        if not cell["path"]:
            raise ValueError("an empty path")
        label, generator = self._label(cell.get("label", ""), cell.get("generator", ""))
        if label is not None:
            self.numbers.hear(_plain_word(cell["label"]), label, cells)
        extra = {name: sys.intern(cells[i]) for name, i in self.rest.items() if cells[i]}
        map_path, mask_path = (
            place(cell[role]) if cell.get(role) else None for role in ("map_path", "mask_path")
        )
        return Sample(
            place(cell["path"]),
            label,
            # One text for all rows, since a table may have a million.
            sys.intern(generator),
            sys.intern(cell.get("family", "")),
            _split(cell.get("split", "")),
            _test_set(cell.get("test_set", "")),
            map_path,
            mask_path,
            read_box(re.sub(r"[][(),;]", " ", cell.get("box", "")).strip()),
            sys.intern(_group(cell.get("group", ""))),
            extra or NO_EXTRA,
        )

    def _label(self, word: str, generator: str) -> tuple[int | None, str]:
        label = self.labels.get(_plain_word(word))
        if self.at.get("label") == self.at.get("generator", -1):
            generator = "" if label is not None else word
            label = SYNTHETIC if label is None and word else label
        elif label is None and word:
            raise ValueError(f"label {word!r} is none of {', '.join(self.labels)}")
        return label, generator


def could_be_label(cells: Iterable[str]) -> bool:
    """Whether a column could be the label, by its cells that are not empty.

    It has at most two values, which are no measures as 512 is, or some are words for labels.
    """
    values = {cell.strip().casefold() for cell in cells}
    few = 0 < len(values) <= 2 and not all(re.fullmatch(r"[-+]?\d{2,}(\.\d*)?", v) for v in values)
    return few or not values.isdisjoint(_TELLING) or (bool(values) and values <= _WORDS)


def reals_by_generator(samples: Iterable[tuple[int, Sample]]) -> Iterator[tuple[int, Sample]]:
    """A real image keeps a generator only if the table has fakes of it.

    Else the column says where the real image is from, which is kept as ``source``.
    """
    rows = list(samples)
    generators = {sample.generator for _, sample in rows if sample.label == SYNTHETIC}
    for number, sample in rows:
        if sample.label == REAL and sample.generator and sample.generator not in generators:
            extra = {"source": sample.generator, **sample.extra}
            sample = replace(sample, generator="", extra=extra)
        yield number, sample


def _labels(column: str) -> Mapping[str, int]:
    """The class that each word of a column of labels stands for."""
    asked = _ASKED.get(column)
    if asked is None:
        return LABELS
    other = REAL if asked == SYNTHETIC else SYNTHETIC
    return LABELS | {"0": other, "false": other, "1": asked, "true": asked}


def _witnesses(names: Sequence[str], at: Mapping[str, int]) -> Mapping[int, Mapping[str, int]]:
    """What the words of each column say of the class; none where the label's name says it."""
    if "label" not in at or names[at["label"]] in _ASKED:
        return {}
    telling = {word: LABELS[word] for word in _TELLING}
    apart = {at["label"], *(at[role] for role in (*PATHS, "box") if role in at)}
    found = {
        i: _labels(name) if name in _ASKED else telling
        for i, name in enumerate(names)
        if i not in apart
    }
    return found | {at["path"]: telling}


def _plain_word(word: str) -> str:
    """``Real`` is ``real``, and ``1.0`` is ``1``."""
    return re.sub(r"^([01])\.0+$", r"\1", word.casefold())


def _group(cell: str) -> str:
    """``12.0``, as pandas writes 12 in a column with empty cells, is ``12``."""
    return re.sub(r"^(\d+)\.0$", r"\1", cell)


def _refuse_twice(names: Sequence[str], name: str) -> None:
    if names.count(name) > 1:
        raise ValueError(f"the column {name!r} is there twice; rename one")


def _split(cell: str) -> Split:
    split = split_of(cell) if cell else ""
    if split is None:
        raise ValueError(f"split {cell!r} is none of train, val, validation, test")
    return split


def _test_set(cell: str) -> TestSet:
    if cell not in (names := get_args(TestSet)):
        raise ValueError(f"test_set {cell!r} is none of {', '.join(filter(None, names))}")
    return cast("TestSet", cell)


def _plain(name: str) -> str:
    """``File Name`` and ``file-name`` are ``file_name``."""
    return re.sub(r"[ -]", "_", name.strip().casefold())


def _listed(header: Sequence[str]) -> str:
    return ", ".join(name.strip() for name in header) or "none"

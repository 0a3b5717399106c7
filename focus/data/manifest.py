"""The manifest: the one table that the rest of the program knows about data.

``docs/formats.md`` describes the file form. Readers of layouts make a :class:`Manifest`; data
sets, training and evaluation take one.
"""

import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, Literal, Self, cast, get_args

from focus.config.layouts import COLUMNS
from focus.errors import InputError
from focus.runtime.csv_files import column_count_error, csv_rows, legible
from focus.runtime.files import write_csv

REAL, SYNTHETIC = 0, 1
LABEL_NAMES = ("real", "synthetic")

Split = Literal["", "train", "validation", "test"]
TestSet = Literal["", "closed", "closed_balanced", "open"]

_SPLITS, _SETS = get_args(Split), get_args(TestSet)
TEST_SETS: tuple[TestSet, ...] = _SETS[1:]
"""Those that a fake can be in, in the order in which they are reported."""

STORED_IN = "stored_in"
"""Column of the images that a table holds: its file, the row, and the name of the image there."""
GEOMETRY = "geometry"
"""Column that says how a face was cut out: ``box margin 0.3``."""
WHOLE = "whole"
"""The geometry of an image for which that column says nothing."""
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the upright image."""
NO_EXTRA: Mapping[str, str] = {}  # shared, since a manifest may have a million rows


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and what is known of it.

    path: The image file, absolute. label: 0 real, 1 synthetic, None unlabelled. generator: The
    program that made a fake; of a real image the generator whose fakes it is compared with, or
    several with " | " between them, "" for all. family: The generator's family, "" if unknown.
    split: "" until assigned. test_set: The test that it belongs to; "" leaves that to the generator
    (closed if training knew it, else open). human_map: The human saliency map, a reference that
    :mod:`focus.data.maps` resolves. mask_path: The artefact mask, for evaluation only. box: The
    face's left, top, right and bottom in pixels of the upright image. group: What must not be
    divided by a split (a video, an identity). extra: The other columns.
    """

    path: str
    label: int | None = None
    generator: str = ""
    family: str = ""
    split: Split = ""
    test_set: TestSet = ""
    human_map: str | None = None
    mask_path: str | None = None
    box: Box | None = None
    group: str = ""
    extra: Mapping[str, str] = field(default_factory=lambda: NO_EXTRA, hash=False)


def place_of(sample: Sample) -> str:
    """Return where a person finds an image: its file, or the row that holds it."""
    return sample.extra.get(STORED_IN, sample.path)


class Manifest(tuple[Sample, ...]):
    """An immutable sequence of samples, and where it came from (``source``, for messages)."""

    source: str

    def __new__(cls, samples: Iterable[Sample] = (), source: str = "") -> Self:
        manifest = super().__new__(cls, samples)
        manifest.source = source
        return manifest

    def __add__(self, other: "Manifest") -> "Manifest":  # type: ignore[override]
        joined = ", ".join(dict.fromkeys(s for s in (self.source, other.source) if s))
        return Manifest(chain(self, other), joined)

    def where(self, keep: Callable[[Sample], bool]) -> "Manifest":
        """Return the samples for which ``keep`` is true, in order."""
        return Manifest(filter(keep, self), self.source)

    def split(self, name: Split) -> "Manifest":
        """Return the samples of one split, in order."""
        return self.where(lambda sample: sample.split == name)

    def generators(self) -> list[str]:
        """Return the sorted names of the generators of the fakes."""
        return sorted({s.generator for s in self if s.label == SYNTHETIC})

    def geometries(self) -> Counter[str]:
        """Count the images that are cut out in each way."""
        return Counter(sample.extra.get(GEOMETRY, WHOLE) for sample in self)

    def to_csv(self, path: str | Path) -> None:
        """Write the manifest's file form; :meth:`from_csv` gives back the same samples.

        Paths below the file's folder are written relative to it, with ``/``, so the two can be
        moved together, also to another system.
        """
        folder = f"{absolute(path).parent}{os.sep}"
        extra = sorted({name for sample in self for name in sample.extra})
        rows = (_to_row(sample, folder, extra) for sample in self)
        write_csv(path, (*COLUMNS, *extra), rows)

    @classmethod
    def from_csv(cls, path: str | Path) -> "Manifest":
        """Read the file form, whose paths are relative to the file's folder.

        Raises InputError with the line number of a bad row; whether images exist is not checked.
        """
        return cls((sample for _, sample in numbered_samples(path)), str(path))


def numbered_samples(
    path: str | Path, root: str | Path | None = None, *, confined: bool = False
) -> Iterator[tuple[int, Sample]]:
    """Yield the samples of a manifest's file form, each with its line number.

    root: The folder that relative paths start from, by default the file's. confined: Whether a
    relative path may not leave it. Raises InputError, with the line number.
    """
    folder = str(absolute(path).parent if root is None else absolute(root))
    rows = csv_rows(path)
    _, header = next(rows, (1, []))
    # As manifests called it before.
    header = ["human_map" if name == "map_path" else name for name in header]
    if "path" not in header:
        raise InputError(
            f"{path} is no manifest: its first line must name its columns, 'path' among them, and "
            f"is {','.join(header)[:40]!r}."
        )
    try:
        refuse_repeated(header)
    except ValueError as error:
        raise InputError(f"{path}, line 1: {error}.") from error

    def place(cell: str) -> str:
        # An absolute path may lie anywhere, as in the manifest of a run.
        outside = not confined or os.path.isabs(cell)  # noqa: PTH117
        return place_inside(cell, folder, outside=outside)

    def sample(row: Sequence[str]) -> Sample:
        if len(row) != len(header):
            raise column_count_error(row, header)
        extra = dict(zip(header, row, strict=True))
        cells = {name: extra.pop(name, "") for name in COLUMNS}
        return sample_of(cells, extra, place)

    yield from parsed(rows, f"{path}, line", sample)


def sample_of(
    cells: Mapping[str, str], extra: Mapping[str, str], place: Callable[[str], str]
) -> Sample:
    """Return the sample of a row; raises ValueError.

    cells: The cells by column of the manifest, "" if unknown. place: Makes a path absolute.
    """
    for column, names in (("label", ("", *LABEL_NAMES)), ("split", _SPLITS), ("test_set", _SETS)):
        if cells[column] not in names:
            listed = ", ".join(filter(None, names))
            raise ValueError(f"{column} {cells[column]!r} is none of {listed}")
    if not cells["path"]:
        raise ValueError("an empty path")
    return Sample(
        path=place(cells["path"]),
        label=LABEL_NAMES.index(cells["label"]) if cells["label"] else None,
        # One text for all rows, since a manifest may have a million.
        generator=sys.intern(cells["generator"]),
        family=sys.intern(cells["family"]),
        split=cast("Split", cells["split"]),
        test_set=cast("TestSet", cells["test_set"]),
        human_map=place(cells["human_map"]) if cells["human_map"] else None,
        mask_path=place(cells["mask_path"]) if cells["mask_path"] else None,
        box=_box(cells["box"]) if cells["box"] else None,
        group=sys.intern(cells["group"]),
        extra={name: sys.intern(cell) for name, cell in extra.items() if cell} or NO_EXTRA,
    )


def parsed(
    rows: Iterable[tuple[int, Any]], place: str, parse: Callable[[Any], Sample]
) -> Iterator[tuple[int, Sample]]:
    """Yield the sample of each numbered row; a ValueError becomes an InputError with the number."""
    for number, row in rows:
        try:
            yield number, parse(row)
        except ValueError as error:
            raise InputError(f"{place} {number}: {error}; fix the row.") from error


def refuse_repeated(header: Sequence[str]) -> None:
    """Raise ValueError for a column that a header names twice, of which one would win."""
    seen = set[str]()
    for name in map(str.strip, header):
        if name and name in seen:
            raise ValueError(f"the column {name!r} is there twice; rename or remove one")
        seen.add(name)


def _to_row(sample: Sample, folder: str, extra: Sequence[str]) -> list[str]:
    return [
        _below(sample.path, folder),
        "" if sample.label is None else LABEL_NAMES[sample.label],
        *(sample.generator, sample.family, sample.split, sample.test_set),
        _below(sample.human_map or "", folder),
        _below(sample.mask_path or "", folder),
        box_text(sample.box or ()),
        sample.group,
        *(sample.extra.get(name, "") for name in extra),
    ]


def box_text(box: Iterable[float]) -> str:
    """Return a box as the column ``box`` has it."""
    return " ".join(repr(float(side)) for side in box)


def _below(path: str, folder: str) -> str:
    below = path.removeprefix(folder)
    return below.replace(os.sep, "/") if below != path else path


def _box(cell: str) -> tuple[float, float, float, float]:
    try:
        left, top, right, bottom = map(float, cell.split())
        if not math.isfinite(left + top + right + bottom):
            raise ValueError
    except ValueError:
        raise ValueError(f"box {cell!r} is not four numbers: left top right bottom") from None
    return left, top, right, bottom


def place_inside(path: str, root: str, *, outside: bool) -> str:
    """Return ``path``, which starts at the absolute folder ``root``, without ``.`` and ``..``.

    A name that is not UTF-8 is taken for cp1252 if there is a file of that name alone. Raises
    ValueError if it is not below the root, unless ``outside`` is allowed.
    """
    # os.path, since a million Path objects take seconds.
    whole = os.path.normpath(os.path.join(root, path))  # noqa: PTH118
    if not path.isascii() and (text := legible(path)) != path:
        as_text = os.path.normpath(os.path.join(root, text))  # noqa: PTH118
        if os.path.lexists(as_text) and not os.path.lexists(whole):
            path, whole = text, as_text
    if not outside and not whole.startswith(root.rstrip(os.sep) + os.sep):
        raise ValueError(
            f"path {path!r} leaves the data root {root}; write it relative to that, without a "
            "slash at its beginning, or give --allow-outside-root"
        )
    return whole


def file_key(path: str) -> str:
    """Return the same text for a file by whatever links it or its folder is reached."""
    folder, name = os.path.split(path)  # a million Path objects take seconds
    whole = os.path.join(_resolved(folder), name)  # noqa: PTH118
    return os.path.realpath(whole) if os.path.islink(whole) else whole  # noqa: PTH114


_resolved = cache(os.path.realpath)


def absolute(path: str | Path) -> Path:
    """Return the path from the root of the file system on, without ``.`` and ``..``."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps ".."

"""The manifest: the one table that the rest of the program knows about data.

``docs/formats.md`` describes the file form. Readers of layouts make a :class:`Manifest`; data
sets, training and evaluation take one.
"""

import copy
import math
import operator
import os
from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, SupportsIndex, TypeVar, cast, get_args, overload

import numpy as np
from numpy.typing import NDArray

from focus.config.shared import COLUMNS
from focus.data.columns import Column, PathColumn, Rows, TextColumn, Texts
from focus.data.listed_files import ListedFiles, listed_files
from focus.errors import InputError
from focus.runtime.csv_files import column_count_error, csv_blocks, legible
from focus.runtime.files import write_csv

REAL, SYNTHETIC = 0, 1
LABEL_NAMES = ("real", "synthetic")
UNLABELLED = -1
"""Stands for None in arrays of labels."""

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
_Value = TypeVar("_Value", bound=np.generic)
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels of the upright image."""
NO_EXTRA: Mapping[str, str] = {}  # shared, since a manifest may have a million rows

_BLOCK = 4096  # rows of which samples are made together
_LABEL_OF = {"": UNLABELLED, **{name: label for label, name in enumerate(LABEL_NAMES)}}
_NO_BOX = array("d", [math.nan] * 4)
_PATHS = ("path", "human_map", "mask_path")
_TEXTS = (*_PATHS, "generator", "family", "split", "test_set", "group")


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


class Numbered(NamedTuple):
    """A column as numbers, which are equal where the texts are.

    numbers: The number of each row's text in ``texts``, [N] int32, -1 where it is "".
    """

    numbers: NDArray[np.int32]
    texts: Texts

    def text(self, number: int) -> str:
        """Return the text of a number."""
        return self.texts[number] if number >= 0 else ""


class Manifest(Sequence[Sample]):
    """An immutable sequence of samples, and where it came from (``source``, for messages).

    It is a table of columns, of some hundred bytes an image, and a :class:`Sample` is made when one
    is asked for: a loop over a million takes seconds, which :meth:`numbered`, :meth:`cells` and the
    other methods for whole columns do not. What is selected shares the columns.
    """

    def __init__(self, samples: Iterable[Sample] = (), source: str = "") -> None:
        self.source = source
        self._table: _Table
        self._rows: Rows | None = None
        if isinstance(samples, Manifest):
            self._table, self._rows = samples._table, samples._rows
        else:
            self._table = _Table.of(samples)

    @classmethod
    def _of(cls, table: "_Table", rows: Rows | None, source: str) -> "Manifest":
        manifest = cls.__new__(cls)
        manifest._table, manifest._rows, manifest.source = table, rows, source
        return manifest

    @classmethod
    def in_folders(
        cls, paths: PathColumn, of_folder: Mapping[str, Sample], source: str = ""
    ) -> "Manifest":
        """Return the images whose folder is among those of ``of_folder``, in the paths' order.

        of_folder: By the path of a folder, what is known of its images, without a path.
        """
        rows = {with_separator(folder): row for row, folder in enumerate(of_folder)}
        row_of_folder = np.array([rows.get(text, -1) for text in paths.folders.texts], np.int32)
        row_of_path = row_of_folder[np.asarray(paths.folders.numbers)]
        is_known = row_of_path >= 0
        table = _Table.of(of_folder.values()).taken(row_of_path[is_known])
        if not is_known.all():
            paths = paths.taken(np.flatnonzero(is_known).astype(np.int32))
        return cls._of(table.with_column("path", paths), None, source)

    def __len__(self) -> int:
        return len(self._table) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, row: SupportsIndex) -> Sample: ...

    @overload
    def __getitem__(self, row: slice) -> "Manifest": ...

    def __getitem__(self, row: SupportsIndex | slice) -> "Sample | Manifest":
        if isinstance(row, slice):
            return self.take(np.arange(len(self), dtype=np.int32)[row])
        rows = np.array([self._row(row)], np.int32)
        return self._table.samples(self._rows_of_table(rows))[0]

    def __iter__(self) -> Iterator[Sample]:
        for start in range(0, len(self), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(self)), dtype=np.int32)
            yield from self._table.samples(self._rows_of_table(rows))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Manifest):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Manifest of {len(self)} images from {self.source!r}"

    def __add__(self, other: "Manifest") -> "Manifest":
        joined = ", ".join(dict.fromkeys(s for s in (self.source, other.source) if s))
        if not self or not other:
            return Manifest(self or other, joined)
        return self._of(self._compact().extended(other._compact()), None, joined)

    def take(self, rows: NDArray[np.integer[Any]] | NDArray[np.bool_]) -> "Manifest":
        """Return the samples of these rows, or of those that a mask [N] has, in their order."""
        if rows.dtype == bool:
            if rows.all():
                return self._of(self._table, self._rows, self.source)
            rows = np.flatnonzero(rows)
        return self._of(self._table, self._rows_of_table(rows.astype(np.int32)), self.source)

    def where(self, keep: Callable[[Sample], bool]) -> "Manifest":
        """Return the samples for which ``keep`` is true, in order."""
        return self.take(np.fromiter(map(keep, self), bool, len(self)))

    def split(self, name: Split) -> "Manifest":
        """Return the samples of one split, in order."""
        return self.take(self.equals("split", name))

    def generators(self) -> list[str]:
        """Return the sorted names of the generators of the fakes."""
        generator = self.numbered("generator")
        of_fakes = np.unique(generator.numbers[self.labels == SYNTHETIC])
        return sorted(map(generator.text, of_fakes.tolist()))

    def geometries(self) -> Counter[str]:
        """Count the images that are cut out in each way."""
        return Counter(cell or WHOLE for cell in self.cells(GEOMETRY))

    @property
    def labels(self) -> NDArray[np.int8]:
        """The label of each image, [N]: 0 real, 1 synthetic, -1 unlabelled."""
        return self._selected(np.asarray(self._table.label))

    def cell(self, column: str, row: int) -> str:
        """Return one text of a column, which may be one of ``extra``; "" if there is none."""
        texts = self._table.column(column)
        if texts is None:
            return ""
        return texts[self._row(row) if self._rows is None else int(self._rows[row])] or ""

    def cells(self, column: str) -> Iterator[str]:
        """Yield the texts of a column, which may be one of ``extra``; "" where there is none."""
        texts = self._table.column(column)
        if texts is None:
            yield from repeat("", len(self))
            return
        for start in range(0, len(self), _BLOCK):
            rows = np.arange(start, min(start + _BLOCK, len(self)), dtype=np.int32)
            yield from (text or "" for text in texts.of(self._rows_of_table(rows)))

    def has(self, column: str) -> NDArray[np.bool_]:
        """Tell which rows have a text in a column, which may be one of ``extra``, [N]."""
        texts = self._table.column(column)
        if texts is None:
            return np.zeros(len(self), bool)
        return self._selected(texts.has_text())

    def numbered(self, column: str) -> Numbered:
        """Return a column that holds no paths, which may be one of ``extra``, as numbers."""
        texts = self._table.column(column)
        if texts is None:
            return Numbered(np.full(len(self), -1, np.int32), Texts())
        if isinstance(texts, PathColumn):
            raise TypeError(f"{column} holds paths")
        numbers = self._selected(np.asarray(texts.numbers))
        first_equal = np.where(texts.texts.are_empty(), -1, texts.texts.first_equal())
        return Numbered(np.append(first_equal, -1).astype(np.int32)[numbers], texts.texts)

    def counts(self, *columns: str) -> Counter[tuple[Any, ...]]:
        """Count the images by the values of columns, in the order in which these are first there.

        columns: ``label``, which is None for unlabelled images, and columns of texts, not of paths.
        """
        keys = np.zeros(len(self), np.int64)
        values_of: list[Callable[[int], Any]] = []
        sizes: list[int] = []
        for column in columns:
            if column == "label":
                numbers, size = self.labels.astype(np.int64), len(LABEL_NAMES) + 1
                values_of.append(lambda number: None if number == UNLABELLED else number)
            else:
                of_column = self.numbered(column)
                numbers, size = of_column.numbers.astype(np.int64), len(of_column.texts) + 1
                values_of.append(of_column.text)
            keys = keys * size + numbers + 1
            sizes.append(size)
        distinct, first, counts = np.unique(keys, return_index=True, return_counts=True)
        counted = Counter[tuple[Any, ...]]()
        for position in np.argsort(first).tolist():
            key, values = int(distinct[position]), list[Any]()
            for size, value_of in zip(reversed(sizes), reversed(values_of), strict=True):
                key, number = divmod(key, size)
                values.insert(0, value_of(number - 1))
            counted[tuple(values)] = int(counts[position])
        return counted

    @property
    def boxes(self) -> NDArray[np.float64]:
        """The box of each image, [N, 4], NaN where there is none."""
        if self._table.box is None:
            return np.full((len(self), 4), math.nan)
        return self._selected(np.asarray(self._table.box).reshape(-1, 4))

    def extra_columns(self) -> list[str]:
        """Return the names of the columns of ``extra``, some of which may be empty here."""
        return list(self._table.extra)

    def folders(self, column: str = "path") -> Numbered:
        """Return the folders of a column of paths, which end with the separator, as numbers."""
        paths = self._table.column(column)
        if paths is None:
            return Numbered(np.full(len(self), -1, np.int32), Texts())
        if not isinstance(paths, PathColumn):
            raise TypeError(f"{column} holds no paths")
        numbers = self._selected(np.asarray(paths.folders.numbers))
        first_equal = np.append(paths.folders.texts.first_equal(), np.int32(-1))
        return Numbered(first_equal[numbers], paths.folders.texts)

    def hashes(self, column: str = "path") -> NDArray[np.uint64]:
        """Return a number for each row, [N], that is the same where the texts are equal."""
        texts = self._table.column(column)
        if texts is None:
            return np.zeros(len(self), np.uint64)
        return self._selected(texts.hashes())

    def files(self) -> ListedFiles:
        """Return which images are there, and which are links, [N] each."""
        files = listed_files(self._paths())
        return ListedFiles(*map(self._selected, files))

    def file_hashes(self) -> NDArray[np.uint64]:
        """Return a number for each row, [N], that is the same where :func:`file_key` is."""
        paths = self._paths()
        hashes = paths.hashes_in(Texts(map(_resolved_folder, paths.folders.texts)))
        links = np.flatnonzero(listed_files(paths).is_link).astype(np.int32)
        hashes[links] = Texts(map(file_key, filter(None, paths.of(links)))).hashes()
        return self._selected(hashes)

    def names_contain(self, parts: Sequence[str]) -> NDArray[np.bool_]:
        """Tell which images have one of these in the names of their files, in any case, [N].

        parts: In small letters of ASCII.
        """
        return self._selected(self._paths().names.contain(parts))

    def equals(self, column: str, text: str) -> NDArray[np.bool_]:
        """Tell which rows have this text in a column that holds no paths, [N]."""
        numbers, texts = self.numbered(column)
        if not text:
            number = -1
        elif text in texts:
            number = texts.index(text)  # of the first one, by which they are numbered
        else:
            return np.zeros(len(self), bool)
        equals: NDArray[np.bool_] = numbers == number
        return equals

    def with_labels(self, labels: NDArray[np.integer[Any]]) -> "Manifest":
        """Return the manifest with these labels, [N] as :attr:`labels`."""
        manifest = self._ascending()
        changed = copy.copy(manifest._table)
        new = np.array(changed.label, np.int8)
        new[manifest._rows_of_table(np.arange(len(self), dtype=np.int32))] = labels
        changed.label = array("b", new.tobytes())
        return self._of(changed, manifest._rows, self.source)

    def with_cells(
        self,
        column: str,
        texts: Iterable[str],
        rows: NDArray[np.integer[Any]] | NDArray[np.bool_] | None = None,
    ) -> "Manifest":
        """Return the manifest with other texts in a column; what is not changed is shared.

        column: A field of :class:`Sample` that is a text, or one of ``extra``. texts: One for each
        row, "" for none. rows: The rows that are changed, ascending, or a mask [N]; by default all.
        """
        manifest = self._ascending()
        if rows is None:
            rows = np.arange(len(self), dtype=np.int32)
        elif rows.dtype == bool:
            rows = np.flatnonzero(rows)
        rows_of_table = manifest._rows_of_table(rows.astype(np.int32))
        changed = manifest._table.with_cells(
            column, (text or None for text in texts), rows_of_table
        )
        return self._of(changed, manifest._rows, self.source)

    def with_numbered(
        self, column: str, numbers: NDArray[np.integer[Any]], texts: Sequence[str]
    ) -> "Manifest":
        """Return the manifest with another column of the numbers [N] of texts, -1 for "".

        It is faster than :meth:`with_cells`. column: As there, but none of paths.
        """
        manifest = self._ascending()
        of_table = np.full(len(manifest._table), -1, np.int32)
        of_table[manifest._rows_of_table(np.arange(len(self), dtype=np.int32))] = numbers
        cells = TextColumn.of_numbers(of_table, Texts(texts))
        return self._of(manifest._table.with_column(column, cells), manifest._rows, self.source)

    def to_csv(self, path: str | Path) -> None:
        """Write the manifest's file form; :meth:`from_csv` gives back the same samples.

        Paths below the file's folder are written relative to it, with ``/``, so the two can be
        moved together, also to another system.
        """
        folder = with_separator(absolute(path).parent)
        columns = self._table.extra.items()
        extra = sorted(name for name, cells in columns if self._selected(cells.is_there()).any())
        rows = (_to_row(sample, folder, extra) for sample in self)
        write_csv(path, (*COLUMNS, *extra), rows)

    @classmethod
    def from_csv(cls, path: str | Path) -> "Manifest":
        """Read the file form, whose paths are relative to the file's folder.

        Raises InputError with the line number of a bad row; whether images exist is not checked.
        """
        return read_numbered(path).manifest

    def _paths(self) -> PathColumn:
        return cast("PathColumn", self._table.texts["path"])

    def _row(self, row: SupportsIndex) -> int:
        """Return a number of a row from the beginning on; raise IndexError if there is none."""
        number = operator.index(row)
        if not -len(self) <= number < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        return number % len(self)

    def _selected(self, values: NDArray[_Value]) -> NDArray[_Value]:
        """Return the values of this manifest's rows, of values for each row of its table."""
        return values if self._rows is None else values[self._rows]

    def _rows_of_table(self, rows: Rows) -> Rows:
        return rows if self._rows is None else self._rows[rows]

    def _compact(self) -> "_Table":
        """Return a table of the rows alone."""
        return self._table if self._rows is None else self._table.taken(self._rows)

    def _ascending(self) -> "Manifest":
        """Return the manifest with rows that ascend in its table, so each has cells of its own."""
        if self._rows is None or (np.diff(self._rows) > 0).all():
            return self
        return self._of(self._compact(), None, self.source)


class _Table:
    """The columns of samples; one that is empty in all rows is not there.

    label: 0, 1 and -1 for none. texts: The columns of :class:`Sample` that hold texts, by field.
    extra: Those of :attr:`Sample.extra`. box: Four numbers a row, NaN where there is none; None if
    no row has one.
    """

    def __init__(self) -> None:
        self.label = array("b")
        self.texts: dict[str, Column] = {"path": PathColumn()}
        self.extra: dict[str, TextColumn] = {}
        self.box: array[float] | None = None

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> Self:
        """Return the columns of samples, of which no more than one is held at a time."""
        table = cls()
        for sample in samples:
            table.append(sample)
        return table.finished()

    def finished(self) -> Self:
        """Return the table once all rows are there."""
        for column in (*self.texts.values(), *self.extra.values()):
            column.pad(len(self))
            column.finish()
        return self

    def extend(self, columns: Mapping[str, Sequence[str]], folder: str) -> None:
        """Add rows by whole columns of the file form, whose cells are valid and without boxes.

        folder: That of relative paths, with a separator.
        """
        row, count = len(self), len(columns["path"])
        if "label" in columns:
            self.label.extend(map(_LABEL_OF.__getitem__, columns["label"]))
        else:
            self.label.extend([UNLABELLED] * count)
        if self.box is not None:
            self.box.extend(_NO_BOX * count)
        filled = [name for name, cells in columns.items() if any(cells)]
        for name in _TEXTS:
            if name in filled:
                column = self.texts.setdefault(name, _new_column(name))
                column.pad(row)
                if isinstance(column, PathColumn):
                    column.extend(columns[name], folder)
                else:
                    column.extend(columns[name])
        others = [name for name in filled if name not in COLUMNS]
        self._add_extra(others)
        for name in others:
            self.extra[name].pad(row)
            self.extra[name].extend(columns[name])

    def _add_extra(self, names: Collection[str]) -> None:
        """Make columns of ``extra`` for those of the names that have none."""
        if not self.extra.keys() >= {*names}:
            new = {name: TextColumn() for name in names}
            merged = _merged(self.extra, names)
            self.extra = {name: (new | self.extra)[name] for name in merged}

    def append(self, sample: Sample) -> None:
        """Add a row."""
        row = len(self.label)
        self.label.append(UNLABELLED if sample.label is None else sample.label)
        for name in _TEXTS:
            text = getattr(sample, name)
            if text:
                column = self.texts.get(name)
                if column is None:
                    column = self.texts[name] = _new_column(name)
                column.pad(row)
                column.append(text)
        if sample.extra:
            self._add_extra(sample.extra.keys())
        for name, cell in sample.extra.items():
            self.extra[name].pad(row)
            self.extra[name].append(cell)
        if sample.box is not None and self.box is None:
            self.box = array("d", _NO_BOX * row)
        if self.box is not None:
            self.box.extend(_NO_BOX if sample.box is None else sample.box)

    def __len__(self) -> int:
        return len(self.label)

    def column(self, name: str) -> Column | None:
        """Return the column of a field of :class:`Sample` that is a text, or of ``extra``."""
        return self.texts.get(name) if name in _TEXTS else self.extra.get(name)

    def samples(self, rows: Rows) -> list[Sample]:
        """Return the samples of these rows."""

        def cells(name: str, default: str | None = "") -> Iterable[Any]:
            column = self.texts.get(name)
            if column is None:
                return repeat(default, len(rows))
            return [default if text is None else text for text in column.of(rows)]

        labels = np.asarray(self.label)[rows].tolist()
        boxes: Iterable[Box | None] = repeat(None, len(rows))
        if self.box is not None:
            sides = np.asarray(self.box).reshape(-1, 4)[rows].tolist()
            boxes = [None if math.isnan(box[0]) else cast("Box", tuple(box)) for box in sides]
        fields = zip(
            cells("path"),
            (None if label == UNLABELLED else label for label in labels),
            *(cells(name) for name in ("generator", "family", "split", "test_set")),
            *(cells(name, None) for name in ("human_map", "mask_path")),
            boxes,
            cells("group"),
            self._extras(rows),
            strict=True,
        )
        return [Sample(*values) for values in fields]

    def _extras(self, rows: Rows) -> Iterable[Mapping[str, str]]:
        columns = [column.of(rows) for column in self.extra.values()]
        if not columns:
            return repeat(NO_EXTRA, len(rows))
        return [
            {name: cell for name, cell in zip(self.extra, cells, strict=True) if cell is not None}
            or NO_EXTRA
            for cells in zip(*columns, strict=True)
        ]

    def with_cells(self, name: str, texts: Iterable[str | None], rows: Rows) -> "_Table":
        """Return the table with other texts in these ascending rows of a column."""
        return self.with_column(name, self._or_empty(name).replaced(rows, texts))

    def with_column(self, name: str, column: Column) -> "_Table":
        """Return the table with another column."""
        table = copy.copy(self)
        if name in _TEXTS:
            table.texts = {**self.texts, name: column}
        else:
            table.extra = {**self.extra, name: cast("TextColumn", column)}
        return table

    def taken(self, rows: Rows) -> "_Table":
        """Return a table of these rows."""
        table = _Table()
        table.label = array("b", np.asarray(self.label)[rows].tobytes())
        table.texts = {name: column.taken(rows) for name, column in self.texts.items()}
        table.extra = {name: column.taken(rows) for name, column in self.extra.items()}
        if self.box is not None:
            table.box = array("d", np.asarray(self.box).reshape(-1, 4)[rows].tobytes())
        return table

    def extended(self, other: "_Table") -> "_Table":
        """Return a table of the rows of both."""
        table = _Table()
        table.label = self.label + other.label
        for name in dict.fromkeys((*self.texts, *other.texts)):
            columns = self._or_empty(name), other._or_empty(name)
            table.texts[name] = columns[0].extended(cast("Any", columns[1]))
        for name in _merged(self.extra, other.extra):
            columns = self._or_empty(name), other._or_empty(name)
            table.extra[name] = cast("TextColumn", columns[0].extended(cast("Any", columns[1])))
        if self.box is not None or other.box is not None:
            boxes = (part.box or array("d", _NO_BOX * len(part)) for part in (self, other))
            table.box = sum(boxes, array("d"))
        return table

    def _or_empty(self, name: str) -> Column:
        column = self.column(name)
        if column is None:
            column = _new_column(name)
            column.pad(len(self))
        return column


def _merged(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """Return all names in their order, new ones before what follows them among the others."""
    merged = list(names)
    position = len(merged)
    for name in reversed(list(others)):
        if name in merged:
            position = merged.index(name)
        else:
            merged.insert(position, name)
    return merged


def _new_column(name: str) -> Column:
    return PathColumn() if name in _PATHS else TextColumn()


class NumberedManifest(NamedTuple):
    """A manifest that was read, and the number of each image's line."""

    manifest: Manifest
    numbers: "array[int]"


def read_numbered(
    path: str | Path, root: str | Path | None = None, *, confined: bool = False
) -> NumberedManifest:
    """Read a manifest's file form.

    root: The folder that relative paths start from, by default the file's. confined: Whether a
    relative path may not leave it. Raises InputError, with the line number.
    """
    folder = str(absolute(path).parent if root is None else absolute(root))
    blocks = csv_blocks(path)
    (names,) = next(blocks).rows
    # As manifests called it before.
    header = ["human_map" if name == "map_path" else name for name in names]
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

    table, numbers = _Table(), array("q")
    beginning = with_separator(folder)
    for block in blocks:
        if block.columns is not None:
            columns = dict(zip(header, block.columns, strict=True))
            if _are_plain(columns):
                table.extend(columns, beginning)
                numbers.extend(block.numbers)
                continue
        rows = zip(block.numbers, block.rows, strict=True)
        for number, one in parsed(rows, f"{path}, line", sample):
            table.append(one)
            numbers.append(number)
    return NumberedManifest(Manifest._of(table.finished(), None, str(path)), numbers)


def _are_plain(columns: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether :func:`sample_of` would say the same of cells as they are, and without a box.

    That takes five times as long, and only it says what is wrong.
    """
    for name, words in (("label", ("", *LABEL_NAMES)), ("split", _SPLITS), ("test_set", _SETS)):
        if not {*columns.get(name, ())} <= {*words}:
            return False
    if "" in columns["path"] or any(columns.get("box", ())):
        return False
    return all(_are_plain_paths(columns[name]) for name in _PATHS if name in columns)


def _is_utf_8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _are_plain_paths(cells: Sequence[str]) -> bool:
    """Tell whether :func:`place_inside` would only put a folder before relative paths."""
    joined = "\n".join(filter(None, cells))
    is_odd = any(part in f"\n{joined}\n" for part in ("//", "/.", "\n.", "/\n"))
    return not is_odd and os.sep == "/" and _is_utf_8(joined)


def sample_of(
    cells: Mapping[str, str], extra: Mapping[str, str], resolve: Callable[[str], str]
) -> Sample:
    """Return the sample of a row; raises ValueError.

    cells: The cells by column of the manifest, "" if unknown. resolve: Makes a path absolute.
    """
    for column, names in (("label", ("", *LABEL_NAMES)), ("split", _SPLITS), ("test_set", _SETS)):
        if cells[column] not in names:
            listed = ", ".join(filter(None, names))
            raise ValueError(f"{column} {cells[column]!r} is none of {listed}")
    if not cells["path"]:
        raise ValueError("an empty path")
    return Sample(
        path=resolve(cells["path"]),
        label=LABEL_NAMES.index(cells["label"]) if cells["label"] else None,
        generator=cells["generator"],
        family=cells["family"],
        split=cast("Split", cells["split"]),
        test_set=cast("TestSet", cells["test_set"]),
        human_map=resolve(cells["human_map"]) if cells["human_map"] else None,
        mask_path=resolve(cells["mask_path"]) if cells["mask_path"] else None,
        box=_box(cells["box"]) if cells["box"] else None,
        group=cells["group"],
        extra={name: cell for name, cell in extra.items() if cell} or NO_EXTRA,
    )


def parsed(
    rows: Iterable[tuple[int, Any]], source: str, parse: Callable[[Any], Sample]
) -> Iterator[tuple[int, Sample]]:
    """Yield the sample of each numbered row; a ValueError becomes an InputError with the number."""
    for number, row in rows:
        try:
            yield number, parse(row)
        except ValueError as error:
            raise InputError(f"{source} {number}: {error}; fix the row.") from error


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
    if not outside and not whole.startswith(with_separator(root)):
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


def _resolved_folder(folder: str) -> str:
    """Return a folder with a separator as :func:`file_key` has it."""
    return with_separator(_resolved(folder[:-1] or folder))


def with_separator(folder: str | Path) -> str:
    """Return what the paths in a folder begin with."""
    return os.path.join(folder, "")  # noqa: PTH118 - a million Path objects take seconds


def absolute(path: str | Path) -> Path:
    """Return the path from the root of the file system on, without ``.`` and ``..``."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.absolute keeps ".."

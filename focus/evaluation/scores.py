"""Hold the scores of an evaluation: a row for each image, all that the metrics are computed from.

``docs/formats.md`` describes ``scores.csv``, its file form.
"""

import csv
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from focus.errors import InputError
from focus.metrics.arrays import Floats, Integers, first_rows, joined, numbered, times_before
from focus.runtime.files import write_csv

Text = NDArray[np.object_]
Singles = NDArray[np.float32]
Cells = Annotated[Integers, "of a CAM, -1 unknown"]
Hits = Annotated[Integers, "of a CAM, 0 or 1, -1 unknown"]
Measures = Annotated[Singles, "of a CAM"]
Cams = Singles | None

_BLOCK = 2**14  # rows that are written at a time

_DTYPES: dict[object, type] = {
    Text: np.object_,
    Floats: np.float64,
    **dict.fromkeys((Integers, Cells, Hits), np.int64),
    **dict.fromkeys((Singles, Measures), np.float32),
    Cams: np.float32,
}


@dataclass(frozen=True, eq=False)
class Scores:
    """One image a row; every field is an array [N], but for ``cams``.

    ``index`` is the image's row in the manifest, ``label`` is 0 for real, 1 for synthetic and -1
    for unlabelled, and ``score`` the probability of synthetic, in float64 so that sure scores do
    not tie. docs/formats.md defines all; where it says empty, they are "", NaN, or -1 for the label
    and hits. ``cams`` are the CAMs of the predicted classes [N, H, W], which no file has; None for
    scores that were read.
    """

    index: Integers
    path: Text
    label: Integers
    generator: Text
    family: Text
    split: Text
    test_set: Text
    group: Text
    score: Floats
    predicted: Integers
    entropy_predicted: Measures
    entropy_synthetic: Measures
    entropy_sum: Measures
    entropy_z: Measures
    cam_range: Measures
    peak_row: Cells
    peak_col: Cells
    pointing_hit: Hits
    pointing_hit_synthetic: Hits
    map_mse: Measures
    map_cosine: Measures
    map_hit: Hits
    map_mass: Measures
    mask_mass: Measures
    llr: Singles
    pointing_chance: Measures
    map_chance: Measures
    peak_outlier: Hits
    stored_in: Text
    cams: Cams = None

    def __post_init__(self) -> None:
        for name, values in self.columns().items():
            dtype = _DTYPES[self.__annotations__[name]]
            object.__setattr__(self, name, np.asarray(values, dtype=dtype))

    def __len__(self) -> int:
        return len(self.index)

    @functools.cached_property
    def has_cams(self) -> bool:
        """True unless the scores are somebody else's, or means of several images."""
        return not (self.peak_row < 0).any()

    @property
    def has_groups(self) -> bool:
        """True if an image is in a group."""
        return self.numbered("group")[1] not in ([], [""])

    @staticmethod
    def without_cams(**columns: Any) -> "Scores":
        """Return rows without CAMs; every column [N] that is not given is "", NaN or -1."""
        rows = len(columns["score"])
        blank = {np.object_: "", np.int64: -1, np.float32: math.nan, np.float64: math.nan}
        filled: dict[str, Any] = {}
        for field in fields(Scores)[:-1]:
            dtype = _DTYPES[field.type]
            # A blank column is one value for all rows, and takes no memory for each.
            filled[field.name] = np.broadcast_to(np.array(blank[dtype], dtype), rows)
        filled["index"] = np.arange(rows)
        return Scores(**(filled | columns))

    def select(self, rows: ArrayLike) -> "Scores":
        """Return the rows named by a boolean mask [N] or by row numbers, in that order."""
        chosen = np.asarray(rows)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        if chosen.dtype == np.bool_ and chosen.all():
            return self  # a million rows would take 80 MB
        count = int(chosen.sum()) if chosen.dtype == np.bool_ else len(chosen)
        columns: dict[str, Any] = {}
        for name, column in self.columns().items():
            is_one_value = column.strides == (0,) and len(column)
            columns[name] = np.broadcast_to(column[:1], count) if is_one_value else column[chosen]
        return Scores(**columns)

    def numbered(self, name: str) -> tuple[Integers, list[str]]:
        """Return the number [N] of each text of a column, and the different texts as first met."""
        if name not in self._numbered:
            column = getattr(self, name)
            if column.strides == (0,) and len(column):
                self._numbered[name] = np.zeros(len(column), dtype=np.int64), [column[0]]
            else:
                self._numbered[name] = numbered(column)
        return self._numbered[name]

    @functools.cached_property
    def _numbered(self) -> dict[str, tuple[Integers, list[str]]]:
        return {}

    def in_order(self) -> "Scores":
        """Return the rows by path, test set, generator and label; equal ones keep their order."""
        ranks = (self._ranks(name) for name in ("generator", "test_set", "path"))
        order = np.lexsort((self.label, *ranks))
        # Rows in order are not copied.
        return self if (np.diff(order) == 1).all() else self.select(order)

    def _ranks(self, name: str) -> Integers:
        """Return the number [N] of each text of a column among the different ones in order."""
        codes, texts = self.numbered(name)
        ranks = np.empty(len(texts), dtype=np.int64)
        ranks[np.argsort(np.array(texts, dtype=np.object_))] = np.arange(len(texts))
        return ranks[codes]

    def has_images_of(self, other: "Scores") -> bool:
        """Return whether both tables list the same images in the same order."""
        return len(self) == len(other) and all(
            np.array_equal(getattr(self, name), getattr(other, name)) for name in _KEY
        )

    def sharing(self, other: "Scores") -> "Scores":
        """Return the same rows, with the columns of ``other`` in place of equal ones of their own.

        So equal columns of two tables are held once, and numbered once (:meth:`numbered`).
        """
        columns = self.columns()
        shared = [
            name
            for name in ("index", "label", *_TEXTS)
            if np.array_equal(columns[name], getattr(other, name))
        ]
        scores = Scores(**columns | {name: getattr(other, name) for name in shared})
        scores._numbered.update(
            {name: other._numbered[name] for name in shared if name in other._numbered}
        )
        return scores

    def by_group(self) -> "Scores":
        """Return a row for each group's images of one class, generator and test set, without CAMs.

        Its score is their mean; its path, which names the row, that of the first. An image without
        a group is a row by itself.
        """
        group, names_of_groups = self.numbered("group")
        texts = (self.numbered(name)[0] for name in ("generator", "test_set"))
        key = joined(group, self.label - self.label.min(initial=0), *texts)
        if "" in names_of_groups:
            alone = group == names_of_groups.index("")
            key[alone] = len(self) + np.arange(len(self))[alone]
        # Numbered in the order of their first rows.
        _, number, sizes = np.unique(first_rows(key), return_inverse=True, return_counts=True)
        first = np.unique(number, return_index=True)[1]
        names = ("path", "label", "generator", "family", "split", "test_set", "group")
        return Scores.without_cams(
            **{name: getattr(self, name)[first] for name in names},
            score=np.bincount(number, self.score) / sizes,
        )

    @functools.cached_property
    def images(self) -> Integers:
        """The first row of the image of each row, [N]; several generators may list an image.

        An image is one file of one class. Where a generator lists a file several times, as for
        several faces in it, each is an image: the n-th of a generator is the n-th of another one.
        A row without a path is an image of its own.
        """
        path, paths = self.numbered("path")
        rows = np.arange(len(self))
        if len(paths) == len(self):
            return rows
        file = joined(path, self.label - self.label.min(initial=0))
        texts = (self.numbered(name)[0] for name in ("test_set", "generator"))
        times_before_in_generator = times_before(joined(file, *texts))
        first = first_rows(joined(file, times_before_in_generator))
        return np.where(self.path == "", rows, first)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that there are by name, in the order of the fields."""
        columns = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: column for name, column in columns.items() if column is not None}

    @staticmethod
    def concatenate(parts: Sequence["Scores"]) -> "Scores":
        """Return the rows of all parts, one part after the other."""
        columns_of_parts = [part.columns() for part in parts if len(part)]
        if not columns_of_parts:
            empty: dict[str, Any] = {field.name: [] for field in fields(Scores)[:-1]}
            return Scores(**empty)
        return Scores(
            **{
                name: np.concatenate([columns[name] for columns in columns_of_parts])
                for name in columns_of_parts[0]
            }
        )

    @staticmethod
    def merge(parts: Sequence["Scores"]) -> "Scores":
        """Join what several processes scored, ordered by index."""
        joined = Scores.concatenate(parts)
        return joined.select(np.argsort(joined.index))

    def to_csv(self, path: str | Path) -> None:
        """Write ``scores.csv``; floats with as many digits as they need to come back."""
        left_out = {"index", "cams"} | (set() if self.has_cams else _OF_CAMS)
        columns = {name: column for name, column in self.columns().items() if name not in left_out}
        for name in LATER:
            if name in columns and not _has_value(name, columns[name]):
                del columns[name]

        def rows() -> Iterator[tuple[str, ...]]:
            for start in range(0, len(self), _BLOCK):
                block = slice(start, start + _BLOCK)
                texts = (_to_text(name, column[block]) for name, column in columns.items())
                yield from zip(*texts, strict=True)

        write_csv(path, columns, rows())

    @staticmethod
    def from_csv(path: str | Path) -> "Scores":
        """Read what :meth:`to_csv` wrote; columns that are not ours are ignored.

        Raises InputError for a missing column or a cell that cannot be read.
        """
        with Path(path).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = filter(None, csv.reader(file))
            header = next(rows, [])
            positions = {name: position for position, name in enumerate(header)}
            may_lack = {*LATER} if "peak_row" in positions else {*LATER} | _OF_CAMS
            readers = {}
            for field in fields(Scores)[1:-1]:
                if field.name in positions:
                    readers[field.name] = _ColumnReader(field.name, _DTYPES[field.type], path)
                elif field.name not in may_lack:
                    raise InputError(
                        f"{path} lacks the column {field.name!r}; write the file again."
                    )
            while block := list(itertools.islice(rows, _BLOCK)):
                # A row that ends early has None; the header keeps the columns that no row has.
                columns = list(itertools.zip_longest(header, *block))
                for name, reader in readers.items():
                    reader.add(columns[positions[name]][1 : len(block) + 1])
        return Scores.without_cams(**{name: reader.values() for name, reader in readers.items()})


def in_common(tables: Sequence[Scores]) -> list[Scores]:
    """Return the rows of each table that all tables have, in one order.

    Where tables list an image of one class, generator and test set several times, the n-th such row
    of a table is the n-th of another.
    """
    # The rows of all tables, one table after the other, with equal numbers for equal images.
    sizes = [len(table) for table in tables]
    table_of_row = np.repeat(np.arange(len(tables)), sizes)
    numbers_of_columns = [
        numbered(itertools.chain.from_iterable(getattr(table, name) for table in tables))[0]
        for name in _KEY
    ]
    image = joined(*numbers_of_columns)

    # The n-th row of an image in a table; all tables have it if it is there as often as tables are.
    nth_of_image = joined(image, times_before(joined(image, table_of_row)))
    is_shared = (np.bincount(nth_of_image) == len(tables))[nth_of_image]

    is_shared_by_table = np.split(is_shared, np.cumsum(sizes)[:-1])
    return [
        table.select(is_shared_in_table).in_order()
        for table, is_shared_in_table in zip(tables, is_shared_by_table, strict=True)
    ]


def _columns(*types: object) -> tuple[str, ...]:
    return tuple(field.name for field in fields(Scores) if field.type in types)


HITS = _columns(Hits)
"""Columns of 0 and 1, -1 unknown."""
LATER = ("peak_outlier", "stored_in")
"""Columns that are left out where no row has a value, as in files of older programs."""
_TEXTS = _columns(Text)
_OF_CAMS = {*_columns(Cells, Hits, Measures)}  # left out together
_KEY = ("path", "test_set", "generator", "label")  # what a row is of, in any table
_UNKNOWN = ("label", *_columns(Cells, Hits))  # an empty cell is -1; in one of float32 it is NaN


def _has_value(name: str, column: NDArray[Any]) -> bool:
    return bool((column >= 0).any() if name in _UNKNOWN else (column != "").any())


def _to_text(name: str, column: NDArray[Any]) -> list[str]:
    # numpy prints a float with the fewest digits that read back to the same one of its type.
    unknown = column < 0 if name in _UNKNOWN else column != column
    return ["" if gone else str(value) for value, gone in zip(column, unknown, strict=True)]


class _ColumnReader:
    """The values of a column, read from the cells of one block of rows after the other."""

    def __init__(self, name: str, dtype: type, path: str | Path) -> None:
        self._name = name
        self._dtype = dtype
        self._path = path
        # Rows that were read, and their values.
        self._rows = 0
        self._blocks: list[NDArray[Any]] = []
        # Each text once, so that equal ones of several rows are one object.
        self._texts: dict[str, str] = {}
        # What an empty cell is read as, None where none may be empty.
        self._blank: str | None = None
        if name in _UNKNOWN:
            self._blank = "-1"
        elif dtype is np.float32:
            self._blank = "nan"

    def values(self) -> NDArray[Any]:
        """Return the values of all cells."""
        return np.concatenate([np.zeros(0, dtype=self._dtype), *self._blocks])

    def add(self, cells: Sequence[str | None]) -> None:
        """Add the cells of a block; raises InputError for one that cannot be read."""
        values = self._read(cells)
        if values is None:
            for row, cell in enumerate(cells, start=self._rows + 1):
                if self._read([cell]) is None:
                    raise InputError(
                        f"{self._path}, row {row}: {self._name} is {cell!r}; fix the cell or "
                        "write the file again."
                    )
        assert values is not None, "a block that cannot be read has a cell that cannot"
        self._blocks.append(values)
        self._rows += len(cells)

    def _read(self, cells: Sequence[str | None]) -> NDArray[Any] | None:
        """Return the values of cells, None where one cannot be read."""
        if None in cells:  # of a row that ends early
            return None
        if self._dtype is np.object_:
            return self._texts_of(cells)

        blanks = 0
        if self._blank is not None:
            blanks = cells.count("")
            cells = [cell or self._blank for cell in cells]
        try:
            values: NDArray[Any] = np.array(cells, dtype=self._dtype)
        except (ValueError, OverflowError):
            return None

        if self._name in ("score", "label"):
            in_range = np.count_nonzero((values >= 0) & (values <= 1))  # NaN is not
            if in_range < len(cells) - blanks:
                return None
        return values

    def _texts_of(self, cells: Sequence[str | None]) -> NDArray[Any]:
        """Return cells as an array of objects, each text once but for paths, which differ."""
        if self._name != "path":
            cells = [self._texts.setdefault(cell, cell) for cell in cells if cell is not None]
        return np.array(cells, dtype=np.object_)

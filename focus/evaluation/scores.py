"""Hold the scores of an evaluation: a row for each image, all that the metrics are computed from.

``docs/formats.md`` describes ``scores.csv``, its file form.
"""

import csv
import functools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from focus.errors import InputError
from focus.metrics.arrays import first_rows, joined, numbered, times_before
from focus.runtime.files import write_csv

Text = NDArray[np.object_]
Integers = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Cells = Annotated[Integers, "of a CAM, -1 unknown"]
Hits = Annotated[Integers, "of a CAM, 0 or 1, -1 unknown"]
Measures = Annotated[Floats, "of a CAM"]
Cams = NDArray[np.float32] | None

_BLOCK = 2**14  # rows that are written at a time

_DTYPES: dict[object, type] = {
    Text: np.object_,
    Doubles: np.float64,
    **dict.fromkeys((Integers, Cells, Hits), np.int64),
    **dict.fromkeys((Floats, Measures), np.float32),
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
    score: Doubles
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
    llr: Floats
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

    @staticmethod
    def without_cams(**columns: Any) -> "Scores":
        """Return rows without CAMs; every column [N] that is not given is "", NaN or -1."""
        rows = len(columns["score"])
        blank = {np.object_: "", np.int64: -1, np.float32: math.nan, np.float64: math.nan}
        # A blank column is one value for all rows, and takes no memory for each.
        made: dict[str, Any] = {
            f.name: np.broadcast_to(np.array(blank[_DTYPES[f.type]], _DTYPES[f.type]), rows)
            for f in fields(Scores)[:-1]
        }
        return Scores(**(made | {"index": np.arange(rows)} | columns))

    def select(self, rows: ArrayLike) -> "Scores":
        """Return the rows named by a boolean mask [N] or by row numbers, in that order."""
        chosen = np.asarray(rows)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        count = int(chosen.sum()) if chosen.dtype == np.bool_ else len(chosen)
        return Scores(
            **{
                name: np.broadcast_to(column[:1], count)
                if column.strides == (0,) and len(column)
                else column[chosen]
                for name, column in self.columns().items()
            }
        )

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

    def keys(self) -> list[tuple[Any, ...]]:
        """Return a key of each row, the same in any table with the same images."""
        listed = Counter[tuple[Any, ...]]()
        found = []
        for row in zip(self.path, self.test_set, self.generator, self.label, strict=True):
            listed[row] += 1
            found.append((*row, listed[row]))
        return found

    def in_order(self) -> "Scores":
        """Return the rows by path, test set, generator and label; equal ones keep their order."""
        return self.select([row for _, row in sorted((k, n) for n, k in enumerate(self.keys()))])

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
        _, place, sizes = np.unique(first_rows(key), return_inverse=True, return_counts=True)
        first = np.unique(place, return_index=True)[1]
        names = ("path", "label", "generator", "family", "split", "test_set", "group")
        return Scores.without_cams(
            **{name: getattr(self, name)[first] for name in names},
            score=np.bincount(place, self.score) / sizes,
        )

    @functools.cached_property
    def images(self) -> Integers:
        """The first row of the image of each row, [N]; several generators may list an image.

        An image is one file of one class. Where a generator lists a file several times, as for
        several faces in it, each is an image: the first is the first of another generator.
        """
        path, paths = self.numbered("path")
        rows = np.arange(len(self))
        if len(paths) == len(self):
            return rows
        file = joined(path, self.label - self.label.min(initial=0))
        texts = (self.numbered(name)[0] for name in ("test_set", "generator"))
        first = first_rows(joined(file, times_before(joined(file, *texts))))
        return np.where(self.path == "", rows, first)

    def columns(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that there are by name, in the order of the fields."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: column for name, column in found.items() if column is not None}

    @staticmethod
    def concatenate(parts: Sequence["Scores"]) -> "Scores":
        """Return the rows of all parts, one part after the other."""
        some = [part.columns() for part in parts if len(part)]
        columns: dict[str, Any] = {field.name: [] for field in fields(Scores)[:-1]}
        for name in some[0] if some else ():
            columns[name] = np.concatenate([own[name] for own in some])
        return Scores(**columns)

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
            reader = csv.DictReader(file)
            header, rows = reader.fieldnames or [], list(reader)
        columns: dict[str, Any] = {"index": np.arange(len(rows))}
        may_lack = {*LATER} if "peak_row" in header else {*LATER} | _OF_CAMS
        for field in fields(Scores)[1:-1]:
            if field.name not in [*header, *may_lack]:
                raise InputError(f"{path} lacks the column {field.name!r}; write the file again.")
            cells = [row.get(field.name, "") for row in rows]
            columns[field.name] = _from_text(field.name, cells, _DTYPES[field.type], path)
        return Scores(**columns)


def in_common(tables: Sequence[Scores]) -> list[Scores]:
    """Return the rows of each table whose keys are in all tables, in one order."""
    keys = [table.keys() for table in tables]
    shared = set(keys[0]).intersection(*keys[1:])
    return [
        table.select([key in shared for key in own]).in_order()
        for table, own in zip(tables, keys, strict=True)
    ]


def _columns(*types: object) -> tuple[str, ...]:
    return tuple(field.name for field in fields(Scores) if field.type in types)


HITS = _columns(Hits)
"""Columns of 0 and 1, -1 unknown."""
LATER = ("peak_outlier", "stored_in")
"""Columns that are left out where no row has a value, as in files of older programs."""
_OF_CAMS = {*_columns(Cells, Hits, Measures)}  # left out together
_UNKNOWN = ("label", *_columns(Cells, Hits))  # an empty cell is -1; in one of float32 it is NaN


def _has_value(name: str, column: NDArray[Any]) -> bool:
    return bool((column >= 0).any() if name in _UNKNOWN else (column != "").any())


def _to_text(name: str, column: NDArray[Any]) -> list[str]:
    # numpy prints a float with the fewest digits that read back to the same one of its type.
    unknown = column < 0 if name in _UNKNOWN else column != column
    return ["" if gone else str(value) for value, gone in zip(column, unknown, strict=True)]


def _from_text(name: str, cells: Sequence[str | None], dtype: type, path: str | Path) -> list[Any]:
    values: list[Any] = []
    for row, cell in enumerate(cells, start=1):
        try:
            if cell is None:  # a row that ends early
                raise ValueError
            unknown = -1 if name in _UNKNOWN else math.nan if dtype is np.float32 else None
            value = dtype(cell) if cell or unknown is None else unknown
            if name in ("score", "label") and cell != "" and not 0 <= value <= 1:
                raise ValueError
        except (ValueError, OverflowError) as error:
            raise InputError(
                f"{path}, row {row}: {name} is {cell!r}; fix the cell or write the file again."
            ) from error
        values.append(value)
    return values

"""Hold the scores of an evaluation: a row for each image, all that the metrics are computed from.

``docs/formats.md`` describes ``scores.csv``, its file form.
"""

import csv
import functools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from focus.errors import InputError
from focus.runtime.files import write_csv

Text = NDArray[np.object_]
Integers = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Cells = Annotated[Integers, "of a CAM, -1 unknown"]
Hits = Annotated[Integers, "of a CAM, 0 or 1, -1 unknown"]
Measures = Annotated[Floats, "of a CAM"]
Cams = NDArray[np.float32] | None

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

    index: row of the manifest that the image comes from. label: 0 real, 1 synthetic, -1 unlabelled.
    score: probability of synthetic, float64 so that sure scores do not tie. docs/formats.md defines
    all; where it says empty, they are "", NaN, or -1 for the label and hits. cams: CAMs of the
    predicted classes [N, H, W], which no file has; None where a file or a table is read.
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
        """Return rows without CAMs: every column [N] that is not given is "", NaN or -1."""
        rows = len(columns["score"])
        blank = {np.object_: "", np.int64: -1, np.float32: math.nan, np.float64: math.nan}
        made: dict[str, Any] = {
            f.name: np.full(rows, blank[_DTYPES[f.type]]) for f in fields(Scores)[:-1]
        }
        return Scores(**(made | {"index": np.arange(rows)} | columns))

    def select(self, rows: ArrayLike) -> "Scores":
        """Return the rows named by a boolean mask [N] or by row numbers, in that order."""
        chosen = np.asarray(rows)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        return Scores(**{name: column[chosen] for name, column in self.columns().items()})

    def keys(self) -> list[tuple[Any, ...]]:
        """Return what tells each row from the others, in any table with the same images."""
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
        about = zip(self.group, self.label, self.generator, self.test_set, strict=True)
        places: dict[object, int] = {}
        place = [
            places.setdefault(key if key[0] else n, len(places)) for n, key in enumerate(about)
        ]
        _, first, sizes = np.unique(place, return_index=True, return_counts=True)
        names = ("path", "label", "generator", "family", "split", "test_set", "group")
        return Scores.without_cams(
            **{name: getattr(self, name)[first] for name in names},
            score=np.bincount(place, self.score) / sizes,
        )

    @functools.cached_property
    def images(self) -> Integers:
        """For each row the first row of its image [N], which several generators may list.

        An image is one file of one class. Where a generator lists a file several times, as for
        several faces in it, each is an image: the first is the first of another generator.
        """
        listed: Counter[tuple[Any, ...]] = Counter()
        first: dict[tuple[Any, ...], int] = {}
        found = np.arange(len(self))
        about = zip(self.path, self.label, self.test_set, self.generator, strict=True)
        for row, (path, label, *owner) in enumerate(about):
            place = (path, label, *owner)
            if path:
                found[row] = first.setdefault((path, label, listed[place]), row)
                listed[place] += 1
        return found

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
        columns = {n: _to_text(n, own) for n, own in self.columns().items() if n not in left_out}
        columns = {n: own for n, own in columns.items() if n not in LATER or any(own)}
        write_csv(path, columns, zip(*columns.values(), strict=True))

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
    """Return of each table the rows that all have by their keys, in one order."""
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

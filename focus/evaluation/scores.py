"""The table of scores: one row an image, everything that the metrics are computed from.

``docs/formats.md`` describes ``scores.csv``, its file form.
"""

import csv
import functools
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from focus.errors import InputError
from focus.runtime.files import atomic_csv_writer

VERSION = 2
_MARK = "# focus-scores "

Text = NDArray[np.object_]
Integers = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_DTYPES: dict[object, type] = {
    Text: np.object_,
    Integers: np.int64,
    Floats: np.float32,
    Doubles: np.float64,
}


@dataclass(frozen=True, eq=False)
class Scores:
    """One image a row; every field is an array [N].

    index: row of the manifest that the image comes from.
    path, generator, family, split, test_set, group: as in the manifest, "" where unknown.
    label: 0 real, 1 synthetic, -1 unlabelled.
    score: probability of synthetic, in [0, 1], float64 so that sure scores do not tie. predicted:
    the class with the largest logit.
    entropy_predicted, entropy_synthetic: normalised entropy of the softmax of the CAM of the
    predicted and of the synthetic class, in [0, 1].
    Of the predicted class's CAM: entropy_sum and entropy_z (:mod:`focus.metrics`), cam_range
    (max - min, in units of the logits), peak_row and peak_col (cell of the maximum), pointing_hit
    (1 the peak lies on the artefact, 0 it does not, -1 no fake or no artefact mask).
    pointing_hit_synthetic: the same for the CAM of the synthetic class.
    Of the predicted class's CAM against the human map (:mod:`focus.metrics.agreement`), NaN and -1
    where there is none: map_mse, map_cosine, map_mass in [0, 1], map_hit (1 the peak lies where
    people looked, 0 it does not). mask_mass: its share in [0, 1] that lies on the artefact, NaN
    where pointing_hit is -1. A CAM that is constant has NaN and -1, too, but in map_mse.
    llr: natural logarithm of the likelihood ratio, synthetic over real, by the model's calibration
    (:mod:`focus.model.operating_points`); NaN without one. pointing_chance: the share of the cells,
    in [0, 1], where a peak would be a hit; NaN where pointing_hit is -1. map_chance: the same of
    map_hit.
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
    entropy_predicted: Floats
    entropy_synthetic: Floats
    entropy_sum: Floats
    entropy_z: Floats
    cam_range: Floats
    peak_row: Integers
    peak_col: Integers
    pointing_hit: Integers
    pointing_hit_synthetic: Integers
    map_mse: Floats
    map_cosine: Floats
    map_hit: Integers
    map_mass: Floats
    mask_mass: Floats
    llr: Floats
    pointing_chance: Floats
    map_chance: Floats

    def __post_init__(self) -> None:
        for field in fields(self):
            column: NDArray[Any] = np.asarray(getattr(self, field.name), dtype=_DTYPES[field.type])
            if column.shape != (len(self.index),):
                raise ValueError(
                    f"column {field.name!r} has shape {column.shape}, not ({len(self.index)},)"
                )
            object.__setattr__(self, field.name, column)

    def __len__(self) -> int:
        return len(self.index)

    def select(self, rows: ArrayLike) -> "Scores":
        """The rows named by a boolean mask [N] or by row numbers, in that order."""
        chosen = np.asarray(rows)
        if chosen.size == 0:
            chosen = chosen.astype(np.int64)
        return Scores(**{name: column[chosen] for name, column in self.columns().items()})

    def in_order(self) -> "Scores":
        """The rows by path, test set, generator and label: alike rows stay as they are."""
        names = zip(self.path, self.test_set, self.generator, self.label, strict=True)
        return self.select([row for _, row in sorted((name, n) for n, name in enumerate(names))])

    @functools.cached_property
    def images(self) -> Integers:
        """[N] for each row the first row of its image, which several generators may list.

        Of one class and file; where a generator lists a file several times, as for faces in it,
        each is an image, the same as that which another lists in that place.
        """
        if len(set(self.path)) == len(self):
            return np.arange(len(self))
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
        """The arrays by name, in the order of the fields."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def concatenate(parts: Sequence["Scores"]) -> "Scores":
        """The rows of all parts, one part after the other."""
        tables = [part.columns() for part in parts]
        return Scores(
            **{
                field.name: np.concatenate([_EMPTY, *(table[field.name] for table in tables)])
                for field in _FIELDS
            }
        )

    @staticmethod
    def merge(parts: Sequence["Scores"], count: int) -> "Scores":
        """Joins what several processes scored into one table of ``count`` rows, ordered by index.

        Raises ValueError when a row is missing or there twice: either would bias every metric
        without a trace.
        """
        joined = Scores.concatenate(parts)
        ordered = joined.select(np.argsort(joined.index, kind="stable"))
        times = np.bincount(ordered.index, minlength=count)
        if len(times) > count:
            raise ValueError(f"row {len(times) - 1} is scored, but there are only {count} rows")
        if (times != 1).any():
            row = int(np.flatnonzero(times != 1)[0])
            raise ValueError(f"row {row} of {count} is scored {times[row]} times, not once")
        return ordered

    def to_csv(self, path: str | Path) -> None:
        """Writes ``scores.csv``; floats with as many digits as they need to come back."""
        columns = [_to_text(name, column) for name, column in self._stored().items()]
        with atomic_csv_writer(path, f"{_MARK}{VERSION}", end="\n") as writer:
            writer.writerow(self._stored())
            writer.writerows(zip(*columns, strict=True))

    @staticmethod
    def from_csv(path: str | Path) -> "Scores":
        """Reads what :meth:`to_csv` wrote; columns that are not ours are ignored.

        What files written before 0.1.0 lack is "not known".

        Raises InputError for another version, a missing column, a cell that cannot be read, or a
        score, label, class, place of a peak or hit that there is not.
        """
        with Path(path).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            first = file.readline().rstrip("\r\n")
            if first != f"{_MARK}{VERSION}":
                raise InputError(
                    f"{path} begins with {first[:40]!r}, not with {_MARK + str(VERSION)!r}; "
                    "give a scores.csv that this version wrote."
                )
            reader = csv.reader(file, strict=True)
            try:
                header = next(reader, [])
                missing = [name for name in _NEEDED if name not in header]
                if missing:
                    raise InputError(
                        f"{path} lacks the column {missing[0]!r}; write the file again."
                    )
                columns = _columns(reader, header, path)
            except csv.Error as error:
                line = reader.line_num + 1
                raise InputError(
                    f"{path}, line {line}: {error}; fix the line or write the file again."
                ) from error
        count = len(columns["path"])
        return Scores(**{"index": np.arange(count)} | columns)

    def _stored(self) -> dict[str, NDArray[Any]]:
        """What the file holds: the order of its rows stands for the index."""
        return {name: column for name, column in self.columns().items() if name != "index"}


_FIELDS = fields(Scores)
_EMPTY = np.zeros(0, dtype=bool)  # joins with any type without changing it
# Columns that files of this version had not from the start.
_LATER = ("pointing_chance", "map_chance")
_STORED = {field.name: _DTYPES[field.type] for field in _FIELDS if field.name != "index"}
_NEEDED = [name for name in _STORED if name not in _LATER]
_ROWS = 8192
_LARGEST = 2**31 - 1  # of a class and of a cell's row and column, whose products have to fit
# What a cell that is not empty may hold.
_RANGES: dict[str, tuple[int, int]] = {
    **dict.fromkeys(("predicted", "peak_row", "peak_col"), (0, _LARGEST)),
    **dict.fromkeys(
        ("score", "label", "pointing_hit", "pointing_hit_synthetic", "map_hit"), (0, 1)
    ),
}
# What means "not known" in a column, where the file has an empty cell.
_UNKNOWN: dict[str, float] = {
    **dict.fromkeys(("label", "pointing_hit", "pointing_hit_synthetic", "map_hit"), -1),
    **dict.fromkeys(("map_mse", "map_cosine", "map_mass", "mask_mass", "llr"), math.nan),
    **dict.fromkeys(_LATER, math.nan),
}


def _columns(
    reader: Iterator[list[str]], header: Sequence[str], path: str | Path
) -> dict[str, NDArray[Any]]:
    """Our columns of a CSV by name, what files written before 0.1.0 lack as "not known".

    Some thousand rows are text at a time: all of them would take several times what they hold.
    """
    place = {name: at for at, name in enumerate(header)}
    parts: dict[str, list[NDArray[Any]]] = {name: [_EMPTY] for name in _STORED}
    rows = (row for row in reader if row)  # not the empty lines
    done = 0
    while block := list(itertools.islice(rows, _ROWS)):
        for name, dtype in _STORED.items():
            at = place.get(name)
            cells = ["" if at is None else row[at] if at < len(row) else None for row in block]
            values = _from_text(cells, name, dtype, path, done + 3)
            parts[name].append(np.asarray(values, dtype=dtype))
        done += len(block)
    return {name: np.concatenate(own) for name, own in parts.items()}


def _to_text(name: str, column: NDArray[Any]) -> list[str]:
    # numpy prints a float with the fewest digits that read back to the same one of its type.
    if name in _UNKNOWN:
        unknown = np.isnan(column) if column.dtype.kind == "f" else column < 0
        return ["" if gone else str(value) for value, gone in zip(column, unknown, strict=True)]
    return [str(value) for value in column]


def _from_text(
    cells: list[str | None], name: str, dtype: type, path: str | Path, first: int
) -> list[Any]:
    values = []
    read = int if dtype is np.int64 else dtype  # numpy's has no sentence for what does not fit
    low, high = _RANGES.get(name, (None, None))
    for number, cell in enumerate(cells, start=first):
        try:
            if cell is None:  # a row that ends early
                raise ValueError
            if cell == "" and name in _UNKNOWN:
                values.append(_UNKNOWN[name])
                continue
            value = read(cell)
            if low is not None and not low <= value <= high:
                raise ValueError
            values.append(value)
        except ValueError as error:
            raise InputError(
                f"{path}, line {number}: {name} is {cell!r}; fix the line or write the file again."
            ) from error
    return values

"""Whether the words beside labels that are 0 and 1 bear out what these were taken for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

# What says the opposite does so of half a class at least, and agrees in no rows but slips.
_SAID, _SLIPS = 0.5, 0.1


class Contradiction(NamedTuple):
    """Where a table says the opposite of its labels, in how many of its rows, and in which first.

    column: its place in the header. word: what the first of these rows has there; label: its label.
    labels: whether nothing but words for labels is in that column.
    """

    column: int
    n_rows: int
    word: str
    label: int
    labels: bool


class Numbers:
    """What else is said of the rows of a table whose labels are numbers.

    A number does not say which class it is: in Kaggle's "140k real and fake faces" 1 is real, as
    its column ``label_str`` and its folders tell.
    """

    def __init__(self, witnesses: Mapping[int, Mapping[str, int]], path: int) -> None:
        """witnesses: words for classes, by the place of the column. path: that of the files."""
        self._witnesses = witnesses
        self._path = path
        self._folders: dict[str, int | None] = {}
        self._rows: Counter[int] = Counter()
        self._said: Counter[tuple[int, int, int]] = Counter()
        self._first: dict[int, tuple[str, int]] = {}
        self._no_labels: set[int] = {path}
        self._words = False

    def __bool__(self) -> bool:
        """Whether there are labels, and all are numbers."""
        return bool(self._rows) and not self._words

    def hear(self, word: str, label: int, cells: Sequence[str]) -> None:
        """Take a row with a label. word: it, in small letters; label: what that was taken for."""
        if word not in ("0", "1"):
            self._words = True
            return
        self._rows[label] += 1
        for column, words in self._witnesses.items():
            cell = cells[column]
            if column == self._path:
                said = self._said_by_folders(cell, words)
            else:
                said = words.get(cell.strip().casefold())
            if said is not None:
                self._said[column, said, label] += 1
                if said != label:
                    self._first.setdefault(column, (cell, label))
            elif cell:
                self._no_labels.add(column)

    def _said_by_folders(self, path: str, words: Mapping[str, int]) -> int | None:
        """By the one next to the image, which is about it: one far above may be anything."""
        folders = path.replace("\\", "/").rpartition("/")[0]
        # A million images lie in a few folders.
        if folders not in self._folders:
            names = reversed(folders.casefold().split("/"))
            self._folders[folders] = next((words[name] for name in names if name in words), None)
        return self._folders[folders]

    def contradiction(self) -> Contradiction | None:
        """The first column that says the opposite, None if none does.

        Each class counts alike, however many rows it has, so that a word which is as usual in
        either (all pictures are of "nature") says nothing. Nor does a table of one class.
        """
        if not self or len(self._rows) < 2:
            return None
        for column in self._witnesses:
            alike = opposite = 0.0
            n_rows = 0
            for (where, said, label), count in self._said.items():
                if where == column and said == label:
                    alike += count / self._rows[label]
                elif where == column:
                    opposite += count / self._rows[label]
                    n_rows += count
            if opposite > _SAID and alike < _SLIPS * opposite:
                return Contradiction(
                    column, n_rows, *self._first[column], labels=column not in self._no_labels
                )
        return None

"""Tell which files of a column of paths are there, and which are links, by listing their folders.

Listing a folder takes a third of the time of a look at each of its files, and on a network's file
system much less.
"""

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from multiprocessing.pool import ThreadPool
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from focus.data.columns import PathColumn, Rows

_FEWEST_LISTED = 8  # files of a folder: fewer are looked at one by one
_MOST_ENTRIES, _MORE_ENTRIES = 4, 1000  # for each file that is asked for, and on top of that
_THREADS = 16  # a network's file system takes its time for each file
_SLOW = 50e-6  # seconds for a file or folder, from which on threads wait for several at once
_ENTRIES = 25  # of a folder, which a local disk lists in the time of one look at a file
_BLOCK = 2**13  # files whose paths are held at once

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class ListedFiles(NamedTuple):
    """What is at the paths of a column.

    is_there: Whether there is a file, a folder or a link, [N]. is_link: Whether it is a link, [N].
    """

    is_there: NDArray[np.bool_]
    is_link: NDArray[np.bool_]


# Training asks several times about the files of one manifest.
_of_columns = WeakKeyDictionary[PathColumn, ListedFiles]()


def listed_files(paths: PathColumn) -> ListedFiles:
    """Return what was at the paths of a column when they were asked for first."""
    files = _of_columns.get(paths)
    if files is None:
        files = _of_columns[paths] = _look_for(paths)
    return files


def _look_for(paths: PathColumn) -> ListedFiles:
    """List the folders with many files, then look at each file that no listing has shown."""
    files = ListedFiles(np.zeros(len(paths), bool), np.zeros(len(paths), bool))
    folders = [
        _Folder(paths.folders.texts[number], paths, rows)
        for number, rows in _rows_of_folders(paths)
        if len(rows) >= _FEWEST_LISTED
    ]
    listings = _results(_Folder.files, folders, lambda listed: 1 + len(listed.is_there) / _ENTRIES)
    for folder, listed in zip(folders, listings, strict=True):
        files.is_there[folder.rows] = listed.is_there
        files.is_link[folder.rows] = listed.is_link

    others = np.flatnonzero(~files.is_there & paths.has_text()).astype(np.int32)
    blocks = (others[start : start + _BLOCK] for start in range(0, len(others), _BLOCK))
    texts = (path or "" for block in blocks for path in paths.of(block))
    for row, mode in zip(others.tolist(), _results(_mode, texts, lambda _: 1), strict=True):
        files.is_there[row] = mode != 0
        files.is_link[row] = stat.S_ISLNK(mode)
    return files


def _rows_of_folders(paths: PathColumn) -> Iterator[tuple[int, Rows]]:
    """Yield the number of each folder's text and the rows of its files, which ascend."""
    first_equal = np.append(paths.folders.texts.first_equal(), np.int32(-1))
    folder_of_row = first_equal[np.asarray(paths.folders.numbers)]
    order = np.argsort(folder_of_row, kind="stable").astype(np.int32)
    numbers, starts = np.unique(folder_of_row[order], return_index=True)
    ends = [*starts[1:].tolist(), len(order)]
    for number, start, end in zip(numbers.tolist(), starts.tolist(), ends, strict=True):
        if number >= 0:
            yield number, order[start:end]


class _Folder(NamedTuple):
    """A folder whose path ends with a separator, and the rows of the files in it."""

    path: str
    paths: PathColumn
    rows: Rows

    def files(self) -> ListedFiles:
        """Return what listing the folder tells of each row.

        A file that is there may be missing: in a folder of many others, in one that cannot be
        listed or entered, and where the file system takes another spelling for the same name.
        """
        names, links = set[str](), set[str]()
        try:
            with os.scandir(self.path) as entries:
                for entry in islice(entries, _MOST_ENTRIES * len(self.rows) + _MORE_ENTRIES):
                    names.add(entry.name)
                    if entry.is_symlink():
                        links.add(entry.name)
        except (OSError, ValueError):
            names.clear()
        can_be_entered = any(_mode(self.path + name) for name in islice(names, 1))
        if not can_be_entered:
            names.clear()

        names_of_rows = self.paths.names.of(self.rows)
        is_there = np.fromiter((name in names for name in names_of_rows), bool, len(self.rows))
        is_link = np.zeros(len(self.rows), bool)
        if links:
            is_link[:] = [name in names and name in links for name in names_of_rows]
        return ListedFiles(is_there, is_link)


def _mode(path: str) -> int:
    """Return the mode of what is at a path, 0 if there is nothing."""
    try:
        return os.lstat(path).st_mode  # a million Path objects take seconds
    except (OSError, ValueError):
        return 0


def _results(
    function: Callable[[_Item], _Result],
    items: Iterable[_Item],
    effort: Callable[[_Result], float],
) -> Iterator[_Result]:
    """Yield the results of a function, by threads once it takes its time.

    On a local disk threads take several times as long. effort: How many looks a result stands for.
    """
    remaining = iter(items)
    part = list(islice(remaining, _THREADS))
    with ExitStack() as stack:
        run: Callable[..., Iterable[_Result]] = map
        while part:
            began = time.perf_counter()
            results = list(run(function, part))
            is_slow = time.perf_counter() - began > _SLOW * sum(map(effort, results))
            if is_slow and run is map:
                run = stack.enter_context(ThreadPool(_THREADS)).map
            yield from results
            part = list(islice(remaining, _BLOCK))

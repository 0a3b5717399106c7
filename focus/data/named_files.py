"""The files that a manifest names, each once, by number: images, human maps and artefact masks."""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from focus.data.columns import Rows, repeated
from focus.data.manifest import Manifest

Role = Literal["image", "map", "mask", "video"]
File = tuple[str, Role]
"""A path and what the file is for."""

FILE_COLUMNS: dict[Role, str] = {"image": "path", "map": "human_map", "mask": "mask_path"}
"""Columns of a manifest that name files."""
_ROLES = tuple(FILE_COLUMNS)
_BLOCK = 2**13  # files whose paths are held at once


class NamedFiles:
    """Distinct files of a manifest, in 5 bytes a file: the paths stay in the manifest's columns.

    rows: A row of the manifest that names each file, [N]. roles: Positions in ``_ROLES``, [N].
    """

    def __init__(self, manifest: Manifest, rows: Rows, roles: NDArray[np.uint8]) -> None:
        self._manifest, self._rows, self._roles = manifest, rows, roles

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> File:
        role = _ROLES[self._roles[number]]
        return self._manifest.cell(FILE_COLUMNS[role], int(self._rows[number])), role

    def have_role(self, role: str) -> NDArray[np.bool_]:
        """Tell which files are for this, [N]."""
        if role not in _ROLES:
            return np.zeros(len(self), bool)
        have_role: NDArray[np.bool_] = self._roles == _ROLES.index(role)
        return have_role

    def counts(self) -> dict[Role, int]:
        """Return how many files there are for each role that has any."""
        counts = np.bincount(self._roles, minlength=len(_ROLES)).tolist()
        return {role: count for role, count in zip(_ROLES, counts, strict=True) if count}

    def taken(self, numbers: NDArray[np.integer]) -> "NamedFiles":
        """Return the files of these numbers."""
        return NamedFiles(self._manifest, self._rows[numbers], self._roles[numbers])


class FilesOfRows(NamedTuple):
    """The files of a manifest, and which of them each row names.

    numbers: By role the number of each row's file, [N], -1 where it names none.
    """

    files: NamedFiles
    numbers: dict[Role, NDArray[np.int32]]


def named_files(manifest: Manifest) -> FilesOfRows:
    """Return the distinct files that a manifest names, in the order in which it names them first.

    A file that is named for two roles counts as two.
    """
    first_rows = {role: _first_rows(manifest, column) for role, column in FILE_COLUMNS.items()}
    all_rows = np.arange(len(manifest), dtype=np.int32)
    is_first = np.stack([first_rows[role] == all_rows for role in _ROLES], axis=1)
    number_of = (np.cumsum(is_first, dtype=np.int32) - 1).reshape(is_first.shape)
    numbers = {
        role: np.where(first_rows[role] >= 0, number_of[first_rows[role], position], np.int32(-1))
        for position, role in enumerate(_ROLES)
    }
    rows, roles = np.nonzero(is_first)
    files = NamedFiles(manifest, rows.astype(np.int32), roles.astype(np.uint8))
    return FilesOfRows(files, numbers)


def _first_rows(manifest: Manifest, column: str) -> NDArray[np.int32]:
    """Return for each row the first one with the same path, [N], -1 where there is no path."""
    has_path = manifest.has(column)
    first_rows = np.where(has_path, np.arange(len(manifest), dtype=np.int32), np.int32(-1))
    rows = repeated(manifest.hashes(column))
    rows = rows[has_path[rows]]
    row_of: dict[str, int] = {}
    for row, path in zip(rows.tolist(), manifest.take(rows).cells(column), strict=True):
        first_rows[row] = row_of.setdefault(path, row)
    return first_rows


def blocks(numbers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Yield some thousand of the numbers at a time, so that few texts are held at once."""
    for start in range(0, len(numbers), _BLOCK):
        yield numbers[start : start + _BLOCK]

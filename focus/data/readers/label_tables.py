"""Labels of a folder's images from a table: ``--labels labels.csv`` beside ``--data FOLDER``.

A row names an image by its path below the folder, by its file's name, or by that without the
extension, as in ``00001``; a name that fits several images is refused, also where these are in
several folders of ``--data``.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from focus.data.manifest import Manifest, Sample, absolute, parsed, place_inside
from focus.data.readers.folders import images_without_maps
from focus.data.readers.rows import from_rows
from focus.data.readers.tables import NAMES, Columns, plain_name, reals_by_generator
from focus.errors import InputError
from focus.runtime.csv_files import csv_form, csv_rows, legible

_log = logging.getLogger(__name__)


def read(
    folder: Path,
    table: Path,
    names: Mapping[str, str],
    words: Mapping[str, int],
    labelled_folders: Mapping[Path, Path | None],
) -> tuple[Columns, Manifest]:
    """Return the images of a folder that a table labels, in the table's order.

    Warns of images that the table does not name, and of rows whose image is in none of the labelled
    folders; both are left out.

    names: The names of the table's columns, by the manifest's. words: The class of each word for a
    label, beside the usual ones. labelled_folders: All folders that the table is for, this one
    among them, with the folder of human maps of each, which holds no images.

    Raises InputError if no row fits an image, one fits several, and for a row as in any table.
    """
    images_of = {path: _ImageNames(path, maps) for path, maps in labelled_folders.items()}
    paths = {*images_of[folder].paths}
    form = csv_form(table)
    rows = csv_rows(table, form)
    line, header = next(rows, (1, []))
    plain_header = [plain_name(name) for name in header]
    if "path" not in names and "id" in plain_header and not {*plain_header} & {*NAMES["path"]}:
        names = {**names, "path": "id"}
    try:
        columns = Columns.find(header, names, words, str(form))
    except ValueError as error:
        raise InputError(f"{table}, line {line}: {error}.") from error

    def image_of(cell: str) -> str:
        images = [image for names in images_of.values() for image in names.meant_by(cell)]
        images = [*dict.fromkeys(images)]  # a folder may lie in another one
        if len(images) > 1:
            whole = "the path below the folder" if len(images_of) == 1 else "its whole path"
            raise ValueError(f"{cell!r} may be {images[0]!r} or {images[1]!r}; write {whole}")
        return images[0] if images else ""

    def sample(cells: list[str]) -> Sample:
        row = columns.sample(cells, lambda path: path)
        references: dict[str, Any] = {
            role: place_inside(reference, str(absolute(table).parent), outside=True)
            for role, reference in (("human_map", row.human_map), ("mask_path", row.mask_path))
            if reference
        }
        return replace(row, path=image_of(row.path), **references)

    numbered = list(reals_by_generator(parsed(rows, f"{table}, line", sample)))
    labelled = [(number, row) for number, row in numbered if row.path in paths]
    if not labelled:
        raise InputError(
            f"--labels {table} names no image of {folder} ({len(numbered)} rows, "
            f"{len(paths)} images): give the paths below the folder, or --columns "
            "path=NAME."
        )
    if unmatched := [number for number, row in numbered if not row.path]:
        _log.warning(
            "%s: %d of %d rows name no image of %s and are left out, the first in line %d",
            *(table, len(unmatched), len(numbered), folder, unmatched[0]),
        )
    unlabelled = sorted(paths - {row.path for _, row in labelled})
    if unlabelled:
        _log.warning(
            "%s: left out %d of %d images that %s has no label for, the first is %r",
            *(folder, len(unlabelled), len(paths), table, unlabelled[0]),
        )
    return columns, from_rows(labelled, table)


class _ImageNames:
    """Which images of a folder a cell may mean: by path, file name, and these without extension.

    ``paths`` are those of all images of the folder.
    """

    def __init__(self, folder: Path, maps: Path | None) -> None:
        self.paths = [str(path) for path in images_without_maps(folder, maps)]
        self._folder = str(folder)
        by_path, by_file, by_path_stem, by_stem = (
            defaultdict[str, list[str]](list) for _ in range(4)
        )
        for path in self.paths:
            below = PurePath(path).relative_to(folder)
            by_path[str(below)].append(path)
            by_file[below.name].append(path)
            by_path_stem[str(below.with_suffix(""))].append(path)
            by_stem[below.stem].append(path)
        self._indices = (by_path, by_file, by_path_stem, by_stem)

    def meant_by(self, cell: str) -> list[str]:
        """Return the paths of the images that a cell may mean, of the first kind that fits any."""
        if PurePath(cell).is_absolute():
            cell = os.path.relpath(cell, self._folder)
        for name in dict.fromkeys(map(os.path.normpath, (cell, legible(cell)))):
            for index in self._indices:
                if name in index:
                    return index[name]
        return []

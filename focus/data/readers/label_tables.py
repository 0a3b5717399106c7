"""Labels of a folder's images from a table: ``--labels labels.csv`` beside ``--data FOLDER``.

A row names an image by its path below the folder, by its file's name, or by that without the
extension, as in ``00001``; a name that fits several images is refused, also where these are in
several folders of ``--data``.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any, Self

from focus.data.manifest import Manifest, Sample, absolute, parsed, place_inside
from focus.data.readers.files import images_without_maps
from focus.data.readers.rows import from_rows
from focus.data.readers.tables import NAMES, Columns, plain_name, reals_by_generator
from focus.errors import InputError, listed
from focus.runtime.csv_files import csv_form, csv_rows, legible

_log = logging.getLogger(__name__)


class LabelTable:
    """A table that labels the images of one or several folders.

    Attributes:
        path: The table's file.
        columns: What its columns are.
    """

    def __init__(
        self,
        path: Path,
        columns: Columns,
        rows: Iterable[tuple[int, Sample]],
        images: Mapping[Path, list[str]],
    ) -> None:
        """Keep the rows of a table.

        rows: The number of each line and its sample, whose path is "" where it names no image.
        images: The paths of the images of each folder.
        """
        self.path = path
        self.columns = columns
        self._images = images
        self._rows_of_image = defaultdict[str, list[tuple[int, Sample]]](list)
        self._n_rows = 0
        unmatched = []
        for number, sample in rows:
            self._n_rows += 1
            if sample.path:
                self._rows_of_image[sample.path].append((number, sample))
            else:
                unmatched.append(number)
        # A table of which no row names an image is an error that :meth:`labelled` raises.
        if unmatched and self._rows_of_image:
            _log.warning(
                "%s: %d of %d rows name no image of %s and are left out, the first in line %d",
                *(path, len(unmatched), self._n_rows, listed([*map(str, images)]), unmatched[0]),
            )

    @classmethod
    def read(
        cls,
        path: Path,
        names: Mapping[str, str],
        words: Mapping[str, int],
        folders: Mapping[Path, Path | None],
    ) -> Self:
        """Read a table, and list the images of its folders. Warns of rows that name none of them.

        names: The names of the table's columns, by the manifest's. words: The class of each word
        for a label, beside the usual ones. folders: The folders that the table is for, with the
        folder of human maps of each, which holds no images.

        Raises InputError if a row fits several images, and for a row as in any table.
        """
        images = {
            folder: [str(image) for image in images_without_maps(folder, maps)]
            for folder, maps in folders.items()
        }
        names_of_images = _ImageNames(images)
        form = csv_form(path)
        rows = csv_rows(path, form)
        line, header = next(rows, (1, []))
        plain_header = [plain_name(name) for name in header]
        if "path" not in names and "id" in plain_header and not {*plain_header} & {*NAMES["path"]}:
            names = {**names, "path": "id"}
        try:
            columns = Columns.find(header, names, words, str(form))
        except ValueError as error:
            raise InputError(f"{path}, line {line}: {error}.") from error

        def sample(cells: list[str]) -> Sample:
            row = columns.sample(cells, lambda path: path)
            references: dict[str, Any] = {
                role: place_inside(reference, str(absolute(path).parent), outside=True)
                for role, reference in (("human_map", row.human_map), ("mask_path", row.mask_path))
                if reference
            }
            return replace(row, path=names_of_images.image_of(row.path), **references)

        samples = reals_by_generator(parsed(rows, f"{path}, line", sample))
        return cls(path, columns, samples, images)

    def labelled(self, folder: Path) -> Manifest:
        """Return the images of a folder that the table labels, in the table's order.

        Warns of images that the table does not name, which are left out. Raises InputError if it
        names none of them.
        """
        images = self._images[folder]
        rows = [row for image in images for row in self._rows_of_image.get(image, [])]
        if not rows:
            raise InputError(self._without_rows(folder))
        unlabelled = sorted(image for image in images if image not in self._rows_of_image)
        if unlabelled:
            _log.warning(
                "%s: left out %d of %d images that %s has no label for, the first is %r",
                *(folder, len(unlabelled), len(images), self.path, unlabelled[0]),
            )
        return from_rows(sorted(rows, key=lambda row: row[0]), self.path)

    def _without_rows(self, folder: Path) -> str:
        """Return the message for a folder of which the table names no image."""
        if not self._rows_of_image:
            return (
                f"--labels {self.path} names no image of {folder} ({self._n_rows} rows, "
                f"{len(self._images[folder])} images): give the paths below the folder, or "
                "--columns path=NAME."
            )
        return (
            f"--labels {self.path} has rows for other folders of --data and none for {folder} "
            f"({len(self._images[folder])} images): add rows that name its images by their paths "
            "below it, or give a table of these paths and labels as --data in its place."
        )


class _ImageNames:
    """Which image a cell means: by path, file name, and these without extension.

    A path is one below a folder or a whole one. Within a folder, an image of that path comes before
    one of that file name, and these before images that have the name without the extension.
    """

    def __init__(self, images: Mapping[Path, list[str]]) -> None:
        self._write_instead = "the path below the folder" if len(images) == 1 else "its whole path"
        self._images = defaultdict[str, list[str]](list)
        for folder, paths in images.items():
            for name, meant in _by_name(folder, paths).items():
                self._images[name] += meant

    def image_of(self, cell: str) -> str:
        """Return the path of the image that a cell means, "" for none.

        Raises ValueError if it may mean several.
        """
        for name in map(os.path.normpath, (cell, legible(cell))):
            images = [*dict.fromkeys(self._images.get(name, []))]  # a folder may lie in another one
            if len(images) > 1:
                raise ValueError(
                    f"{cell!r} may be {images[0]!r} or {images[1]!r}; write {self._write_instead}"
                )
            if images:
                return images[0]
        return ""


def _by_name(folder: Path, paths: Iterable[str]) -> dict[str, list[str]]:
    """Return the images of a folder that each name stands for, of the first kind that fits any."""
    by_path = defaultdict[str, list[str]](list)
    by_file, by_path_stem, by_stem = (defaultdict[str, list[str]](list) for _ in range(3))
    for path in paths:
        below = PurePath(path).relative_to(folder)
        by_path[path].append(path)
        by_path[str(below)].append(path)
        by_file[below.name].append(path)
        by_path_stem[str(PurePath(path).with_suffix(""))].append(path)
        by_path_stem[str(below.with_suffix(""))].append(path)
        by_stem[below.stem].append(path)
    return {**by_stem, **by_path_stem, **by_file, **by_path}

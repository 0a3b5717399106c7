"""Detect the layout of a path, and read it with the reader of that layout."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path

import numpy as np

from focus.config.shared import (
    COLUMNS,
    HUB_PREFIX,
    DataConfig,
    DataLayout,
    label_table,
    parse_labels,
)
from focus.data.manifest import (
    LABEL_NAMES,
    SYNTHETIC,
    UNLABELLED,
    Manifest,
    Sample,
    absolute,
    place_inside,
    read_numbered,
)
from focus.data.readers import cyborg, folders, parquet, tables
from focus.data.readers.files import IMAGE_EXTENSIONS
from focus.data.readers.human_maps import MapOwners, find_maps, maps_in, with_maps
from focus.data.readers.label_conflicts import label_conflicts
from focus.data.readers.label_tables import LabelTable
from focus.data.readers.rows import Portion, TableRows, from_rows
from focus.errors import InputError, shown
from focus.findings import Finding
from focus.runtime.csv_files import csv_rows

_TABLES = (".csv", ".tsv", ".tab", ".txt")
DEFAULT_GENERATOR = "synthetic"
"""Stands for a generator that nobody named."""


@dataclass(frozen=True)
class Reading:
    """The images of a path and their layout, columns only of a table with names; as text a line.

    findings: What is to be known of them.
    """

    path: str
    layout: DataLayout
    columns: tables.Columns | None
    manifest: Manifest
    findings: tuple[Finding, ...] = ()

    def __str__(self) -> str:
        labels = Counter(self.manifest.labels.tolist())
        counts = {name: labels[label] for label, name in enumerate(LABEL_NAMES)}
        counts["unlabelled"] = labels[UNLABELLED]
        counts["with a human map"] = int(self.manifest.has("human_map").sum())
        columns = f" ({shown(str(self.columns))})" if self.columns else ""
        found = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        size = len(self.manifest)
        return f"{shown(self.path)}: layout {self.layout}{columns}, {size} images, {found}"

    def require_labels(self) -> None:
        """Raise InputError if an image has no label."""
        without = self.manifest.take(self.manifest.labels == UNLABELLED)
        if without:
            raise InputError(
                f"{len(without)} of {len(self.manifest)} images of {self.path} have no label "
                f"(layout {self.layout}), the first is {without[0].path!r}: name a column by "
                "--columns label=NAME, or use folders 0_real and 1_fake."
            )


def read_path(
    path: str,
    config: DataConfig,
    owners: MapOwners,
    unnamed: str = DEFAULT_GENERATOR,
    labels: LabelTable | None = None,
) -> Reading:
    """Read the images of one path, in the order of a table's rows or of the files' names.

    Args:
        path: A CSV, a parquet file, a folder, an image, or ``hf://USER/NAME``.
        config: How to read it; its own paths are not read.
        owners: The image that each human map belongs to, so far; new ones are added.
        unnamed: The generator of fakes if neither the data nor the configuration name one.
        labels: The table of ``--labels``, which is for folders of ``--data``: None for others.

    Raises:
        InputError: with the line number for a table, whatever is missing, empty, unknown,
            contradictory or outside its root.
    """
    columns = config.columns_of(path)
    words = parse_labels(config.labels)
    place = absolute(path)
    if path.startswith(HUB_PREFIX):
        place = Path(path.removeprefix(HUB_PREFIX).removeprefix("datasets/"))
    elif not place.exists():
        raise InputError(f"There is no file or folder {place}: give the path of a CSV or a folder.")
    root = absolute(config.data_root or (place if place.is_dir() else place.parent))
    if place.is_absolute() and not root.is_dir():
        raise InputError(f"The image root {root} is no folder: give another --data-root.")
    inside = partial(place_inside, root=str(root), outside=config.allow_outside_root)
    maps = maps_in(absolute(config.human_maps)) if config.human_maps else None
    layout = config.layout or _layout_of(path, columns)
    found: tables.Columns | None = None
    most = config.max_images
    unread: list[Finding] = []
    if layout in ("parquet", "hub"):
        found, manifest = parquet.read(
            place, columns, inside, words, hub=layout == "hub", most=most
        )
    elif layout == "csv":
        found, manifest = tables.read(place, columns, inside, words)
        maps = maps or (None if "human_map" in found.positions else find_maps(place.parent, root))
    elif layout == "cyborg":
        maps = maps or find_maps(place.parent, root)
        manifest = cyborg.read(place, inside)
    elif layout == "manifest":
        read = read_numbered(place, root, confined=not config.allow_outside_root)
        rows = TableRows(read.manifest, read.numbers)
        if columns.get("group") == "":
            without_groups = repeat("", len(rows.numbers))
            rows.manifest = rows.manifest.with_cells("group", without_groups)
        manifest = from_rows(rows, place)
    elif place.is_dir() and labels is not None:
        maps = maps or find_maps(place)
        layout, found, manifest = "csv", labels.columns, labels.labelled(place)
    elif place.is_dir():
        maps = maps or find_maps(place)
        layout, manifest = folders.read(place, layout, config.generator or "", maps, words)
        unread = folders.unread_findings(place, manifest, maps)
    else:
        layout, manifest = "images", Manifest([Sample(str(place))], str(place))
    labels_are_folders = layout in (*folders.TREES, folders.DEEPFAKEBENCH)
    conflicts = label_conflicts(manifest, str(root), labels_are_folders=labels_are_folders)
    findings = [*unread, *conflicts]
    if maps:
        manifest = with_maps(manifest, root, maps, owners)
    if most is not None:
        manifest = manifest.where(Portion(most).takes)
    manifest = _named(manifest, config.generator or unnamed)
    return Reading(str(place), layout, found, manifest, tuple(findings))


def read_labels(config: DataConfig) -> LabelTable | None:
    """Read the table of ``--labels`` for the folders of ``--data``, None if it gives only words.

    Raises InputError as :meth:`LabelTable.read`.
    """
    table = label_table(config.labels)
    if table is None:
        return None
    maps = maps_in(absolute(config.human_maps)) if config.human_maps else None
    folders_of_data = [path for path in map(absolute, config.data) if path.is_dir()]
    return LabelTable.read(
        Path(table),
        config.columns_of(table),
        parse_labels(config.labels),
        {folder: maps or find_maps(folder) for folder in folders_of_data},
    )


def takes(layout: DataLayout, path: str) -> bool:
    """Return whether a path is of the kind that a layout is for: file, folder, name on the Hub."""
    if path.startswith(HUB_PREFIX) or layout == "hub":
        return path.startswith(HUB_PREFIX) and layout == "hub"
    if layout in ("manifest", "cyborg", "csv"):
        return not Path(path).is_dir()
    return layout not in (*folders.TREES, folders.DEEPFAKEBENCH) or not Path(path).is_file()


def _named(manifest: Manifest, generator: str) -> Manifest:
    """Return the manifest with a name for the generator of fakes that have none."""
    is_unnamed = (manifest.labels == SYNTHETIC) & ~manifest.has("generator")
    rows = np.flatnonzero(is_unnamed | manifest.equals("generator", DEFAULT_GENERATOR))
    return manifest.with_cells("generator", repeat(generator, len(rows)), rows)


def _layout_of(path: str, columns: Mapping[str, str]) -> DataLayout | None:
    """Return the layout that a path has; None for a folder of images, which its reader detects."""
    place = Path(path)
    if path.startswith(HUB_PREFIX):
        return "hub"
    if place.is_dir():
        return "parquet" if parquet.is_parquet(place) else None
    extension = place.suffix.lower()
    if extension in parquet.PARQUET:
        return "parquet"
    if extension in IMAGE_EXTENSIONS:
        return "images"
    if extension not in _TABLES:
        raise InputError(
            f"{place} is no CSV, no parquet file and, by its name, no image: give --layout."
        )
    _, header = next(csv_rows(place), (1, [""]))
    if set(COLUMNS) <= set(header):
        # A manifest's columns are fixed, unless --columns says that another of its columns counts.
        other = [name for role, name in columns.items() if name in header and name != role]
        return "csv" if other else "manifest"
    return "cyborg" if header[0].strip() in cyborg.SPLITS and not columns else "csv"

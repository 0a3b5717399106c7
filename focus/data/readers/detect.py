"""Detect the layout of a path, and read it with the reader of that layout."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Self

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
from focus.data.readers import folders, parquet, tables
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
    """The images of a path, and how they were read; as text a line for the user.

    columns: Those of a table, None for other layouts. manifest: The images. findings: What is to be
    known of them. map_owners: The image of each human map in the folder that was looked into, those
    of earlier paths among them.
    """

    path: str
    layout: DataLayout
    columns: tables.Columns | None
    manifest: Manifest
    findings: tuple[Finding, ...] = ()
    map_owners: MapOwners = field(default_factory=dict)

    def __str__(self) -> str:
        labels = Counter(self.manifest.labels.tolist())
        counts = {name: labels[label] for label, name in enumerate(LABEL_NAMES)}
        counts["unlabelled"] = labels[UNLABELLED]
        counts["with a human map"] = int(self.manifest.has("human_map").sum())
        counted = ", ".join(f"{n} {name}" for name, n in counts.items() if n)
        columns = f" ({shown(str(self.columns))})" if self.columns else ""
        size = len(self.manifest)
        return f"{shown(self.path)}: layout {self.layout}{columns}, {size} images, {counted}"

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
    map_owners: MapOwners,
    unnamed: str = DEFAULT_GENERATOR,
    labels: LabelTable | None = None,
) -> Reading:
    """Read the images of one path, in the order of a table's rows or of the files' names.

    Args:
        path: A CSV, a parquet file, a folder, an image, or ``hf://USER/NAME``.
        config: How to read it; its own paths are not read.
        map_owners: The image that each human map belongs to, so far.
        unnamed: The generator of fakes if neither the data nor the configuration name one.
        labels: The table of ``--labels``, which is for folders of ``--data``: None for others.

    Raises:
        InputError: with the line number for a table, whatever is missing, empty, unknown,
            contradictory or outside its root.
    """
    source = _Source.of(path, config)
    layout = config.layout or _layout_of(path, source.columns)
    content = _read(source, layout, labels)

    labels_are_folders = content.layout in (*folders.TREES, folders.DEEPFAKEBENCH)
    conflicts = label_conflicts(
        content.manifest, str(source.root), labels_are_folders=labels_are_folders
    )
    manifest = content.manifest
    owned_maps: MapOwners = {}
    if content.maps is not None:
        owned = map_owners.get(content.maps, {})
        manifest, owned = with_maps(manifest, source.root, content.maps, owned)
        owned_maps = {content.maps: owned}
    if source.most is not None:
        manifest = manifest.where(Portion(source.most).takes)
    manifest = _named(manifest, config.generator or unnamed)

    return Reading(
        path=str(source.location),
        layout=content.layout,
        columns=content.columns,
        manifest=manifest,
        findings=(*content.findings, *conflicts),
        map_owners=owned_maps,
    )


@dataclass(frozen=True)
class _Source:
    """A path to read, and what the configuration says of it.

    location: The absolute path; on the Hub the name of the data set. root: The folder that paths in
    it are relative to. columns: The names of its columns, by the manifest's. words: The class of
    each further word for a label. maps: The folder of human maps, or COCO file, that is given.
    generator: The generator that is given, "" for none. most: How many images of a kind are kept,
    None for all. allow_outside_root: Whether its paths may lead out of the root.
    """

    location: Path
    root: Path
    columns: Mapping[str, str]
    words: Mapping[str, int]
    maps: Path | None
    generator: str
    most: int | None
    allow_outside_root: bool

    @classmethod
    def of(cls, path: str, config: DataConfig) -> Self:
        """Return the source of a path; raises InputError if it or its root is not there."""
        columns = config.columns_of(path)
        words = parse_labels(config.labels)
        if path.startswith(HUB_PREFIX):
            location = Path(path.removeprefix(HUB_PREFIX).removeprefix("datasets/"))
        else:
            location = absolute(path)
            if not location.exists():
                raise InputError(
                    f"There is no file or folder {location}: give the path of a CSV or a folder."
                )
        folder = location if location.is_dir() else location.parent
        root = absolute(config.data_root or folder)
        if location.is_absolute() and not root.is_dir():
            raise InputError(f"The image root {root} is no folder: give another --data-root.")
        return cls(
            location=location,
            root=root,
            columns=columns,
            words=words,
            maps=maps_in(absolute(config.human_maps)) if config.human_maps else None,
            generator=config.generator or "",
            most=config.max_images,
            allow_outside_root=config.allow_outside_root,
        )

    def inside(self, path: str) -> str:
        """Return a path in a cell as an absolute one; raises ValueError if it leaves the root."""
        return place_inside(path, root=str(self.root), outside=self.allow_outside_root)


@dataclass(frozen=True)
class _Content:
    """What the reader of a layout returns.

    columns: Those of a table. maps: The folder of human maps, or COCO file, of these images.
    """

    layout: DataLayout
    manifest: Manifest
    columns: tables.Columns | None = None
    maps: Path | None = None
    findings: Sequence[Finding] = ()


def _read(source: _Source, layout: DataLayout | None, labels: LabelTable | None) -> _Content:
    """Read a source by the reader of its layout, None for a folder of images."""
    location, maps = source.location, source.maps
    columns: tables.Columns | None

    if layout in ("parquet", "hub"):
        columns, manifest = parquet.read(
            location,
            source.columns,
            source.inside,
            source.words,
            hub=layout == "hub",
            most=source.most,
        )
        return _Content(layout, manifest, columns, maps)

    if layout == "csv":
        columns, manifest = tables.read(location, source.columns, source.inside, source.words)
        if maps is None and "human_map" not in columns.positions:
            maps = find_maps(location.parent, source.root)
        return _Content(layout, manifest, columns, maps)

    if layout == "cyborg":
        manifest = tables.read_cyborg(location, source.inside)
        return _Content(layout, manifest, maps=maps or find_maps(location.parent, source.root))

    if layout == "manifest":
        return _Content(layout, _read_manifest(source), maps=maps)

    if not location.is_dir():
        image = Sample(str(location))
        return _Content("images", Manifest([image], str(location)), maps=maps)

    maps = maps or find_maps(location)
    if labels is not None:
        return _Content("csv", labels.labelled(location), labels.columns, maps)
    tree_layout, manifest = folders.read(location, layout, source.generator, maps, source.words)
    findings = folders.unread_findings(location, manifest, maps)
    return _Content(tree_layout, manifest, maps=maps, findings=findings)


def _read_manifest(source: _Source) -> Manifest:
    """Return the images of a manifest, without groups if ``--columns`` says that there are none."""
    numbered = read_numbered(source.location, source.root, confined=not source.allow_outside_root)
    rows = TableRows(numbered.manifest, numbered.numbers)
    if source.columns.get("group") == "":
        without_groups = repeat("", len(rows.numbers))
        rows = TableRows(rows.manifest.with_cells("group", without_groups), rows.numbers)
    return from_rows(rows, source.location)


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
    if path.startswith(HUB_PREFIX):
        return "hub"
    location = Path(path)
    if location.is_dir():
        return "parquet" if parquet.is_parquet(location) else None
    extension = location.suffix.lower()
    if extension in parquet.PARQUET:
        return "parquet"
    if extension in IMAGE_EXTENSIONS:
        return "images"
    if extension not in _TABLES:
        raise InputError(
            f"{location} is no CSV, no parquet file and, by its name, no image: give --layout."
        )
    _, header = next(csv_rows(location), (1, [""]))
    if set(COLUMNS) <= set(header):
        # A manifest's columns are fixed, unless --columns says that another of its columns counts.
        others = [name for role, name in columns.items() if name in header and name != role]
        return "csv" if others else "manifest"
    return "cyborg" if header[0].strip() in tables.CYBORG_SPLITS and not columns else "csv"

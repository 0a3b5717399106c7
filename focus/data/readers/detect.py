"""Detect the layout of a path, and read it with the reader of that layout."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from focus.config.layouts import HUB_PREFIX, Layout
from focus.data.manifest import (
    CSV_MARKER,
    REAL,
    SYNTHETIC,
    Manifest,
    Sample,
    absolute,
    csv_rows,
    numbered_samples,
    open_csv,
    place_inside,
)
from focus.data.readers import cyborg, folders, parquet, tables
from focus.data.readers.files import IMAGE_EXTENSIONS
from focus.data.readers.human_maps import MapOwners, find_maps, report_unmatched, with_maps
from focus.data.readers.label_conflicts import warn_of_label_conflicts
from focus.data.readers.rows import from_rows
from focus.errors import InputError, shown

_log = logging.getLogger(__name__)

DEFAULT_GENERATOR = "synthetic"
"""Stands for a generator that nobody named."""

_OF_FILES: tuple[Layout, ...] = ("manifest", "cyborg", "csv")
_OF_FOLDERS: tuple[Layout, ...] = tuple(folders.TREES)


@dataclass(frozen=True)
class Options:
    """How to read a path.

    layout: None detects it. data_root: folder that the paths in a table start from, default the
    table's. heatmaps: folder of human maps or COCO file, default a folder ``heatmaps`` in the path,
    beside it or in ``data_root``. columns: names of a table's columns by the manifest's, default
    those found by name; "" for a column that the table does not have. allow_outside_root: paths in
    a table may lead out of the root. generator: of the fakes for which the data name none, "" for
    none; in folders it is that of all, unless one has the name of a known generator.
    """

    layout: Layout | None = None
    data_root: str | None = None
    heatmaps: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    allow_outside_root: bool = False
    generator: str | None = None


@dataclass(frozen=True)
class Reading:
    """What a path was read as; columns: only of a table with names. As text, one line."""

    path: str
    layout: Layout
    columns: tables.Columns | None
    manifest: Manifest

    def __str__(self) -> str:
        counts = {
            "real": sum(sample.label == REAL for sample in self.manifest),
            "synthetic": sum(sample.label == SYNTHETIC for sample in self.manifest),
            "unlabelled": sum(sample.label is None for sample in self.manifest),
            "with a human map": sum(sample.map_path is not None for sample in self.manifest),
        }
        columns = f" ({shown(str(self.columns))})" if self.columns else ""
        found = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        layout = f"layout {self.layout}{columns}"
        return f"{shown(self.path)}: {layout}, {len(self.manifest)} images, {found}"

    def require_labels(self) -> None:
        """Raise InputError if an image has no label."""
        without = [sample.path for sample in self.manifest if sample.label is None]
        if without:
            raise InputError(
                f"{len(without)} of {len(self.manifest)} images of {self.path} have no label "
                f"(layout {self.layout}), the first is {without[0]!r}: give them one by a column "
                "of a CSV, --columns label=NAME, or by folders named 0_real and 1_fake."
            )


def read_data(
    path: str | Path, options: Options = Options(), *, allow_unlabelled: bool = False
) -> Manifest:
    """Read images, labels and human maps from whichever layout ``path`` has.

    The order is that of the table's rows, or the natural one of the files' names. A row that
    repeats an earlier one is left out with a warning.

    Args:
        path: a CSV, a parquet file, a folder, an image, or ``hf://USER/NAME``.
        options: how to read it.
        allow_unlabelled: accept images without label.

    Raises:
        InputError: with the line number for a table, whatever is missing, empty, unknown,
            contradictory or outside its root.
    """
    owners: MapOwners = {}
    reading = read_path(str(path), options, owners)
    if not allow_unlabelled:
        reading.require_labels()
    report_unmatched(owners, options.heatmaps)
    _log.info("%s", reading)
    return reading.manifest


def read_path(path: str, options: Options, owners: MapOwners) -> Reading:
    """Read one path as :func:`read_data`, images without label too.

    owners: which image each human map belongs to, so far; new ones are added.
    """
    if options.layout and not takes(options.layout, path):
        raise InputError(f"--layout {options.layout} does not suit {path}: give another one.")
    place = absolute(path)
    if path.startswith(HUB_PREFIX):
        place = Path(path.removeprefix(HUB_PREFIX).removeprefix("datasets/"))
    elif not place.exists():
        raise InputError(f"There is no file or folder {place}: give the path of a CSV or a folder.")
    root = absolute(options.data_root or (place if place.is_dir() else place.parent))
    if place.is_absolute() and not root.is_dir():
        raise InputError(f"The image root {root} is no folder: give another --data-root.")
    inside = partial(place_inside, root=str(root), outside=options.allow_outside_root)
    maps = absolute(options.heatmaps) if options.heatmaps else None
    layout = options.layout or _layout_of(path, options)
    columns: tables.Columns | None = None
    if layout in ("parquet", "hub"):
        columns, manifest = parquet.read(place, options.columns, inside, hub=layout == "hub")
    elif layout == "csv":
        columns, manifest = tables.read(place, options.columns, inside)
        maps = maps or (None if "map_path" in columns.at else find_maps(place.parent, root))
    elif layout == "cyborg":
        maps = maps or find_maps(place.parent, root)
        manifest = cyborg.read(place, inside)
    elif layout == "manifest":
        rows = numbered_samples(place, root, confined=not options.allow_outside_root)
        manifest = from_rows(rows, place)
    elif place.is_dir():
        maps = maps or find_maps(place)
        layout, manifest = folders.read(place, layout, options.generator or "", maps)
    else:
        layout, manifest = "images", Manifest([Sample(str(place))], str(place))
    if columns:
        warn_of_label_conflicts(manifest, str(root))
    if maps:
        manifest = with_maps(manifest, root, maps, owners)
    generator = DEFAULT_GENERATOR if options.generator is None else options.generator
    manifest = Manifest((named(s, generator) for s in manifest), manifest.source)
    return Reading(str(place), layout, columns, manifest)


def takes(layout: Layout, path: str) -> bool:
    """Return whether a path is of the kind that a layout is for: file, folder, name on the Hub."""
    if path.startswith(HUB_PREFIX) or layout == "hub":
        return path.startswith(HUB_PREFIX) and layout == "hub"
    if layout in _OF_FILES:
        return not Path(path).is_dir()
    return layout not in _OF_FOLDERS or not Path(path).is_file()


def named(sample: Sample, generator: str) -> Sample:
    """Return the sample with this generator if it is a fake without one."""
    stands_for_none = sample.generator == DEFAULT_GENERATOR
    if stands_for_none or (sample.label == SYNTHETIC and not sample.generator):
        return replace(sample, generator=generator)
    return sample


def _layout_of(path: str, options: Options) -> Layout | None:
    """Return the layout that a path has; None for a folder of images, which its reader detects."""
    place = Path(path)
    extension = place.suffix.lower()
    if path.startswith(HUB_PREFIX):
        return "hub"
    if place.is_dir():
        return "parquet" if parquet.is_parquet(place) else None
    if extension in parquet.PARQUET:
        return "parquet"
    if extension in IMAGE_EXTENSIONS:
        return "images"
    if extension != ".csv":
        raise InputError(
            f"{place} is no CSV, no parquet file and, by its name, no image: give --layout."
        )
    with open_csv(place) as file:
        if file.readline().startswith(CSV_MARKER):
            return "manifest"
        file.seek(0)
        _, row = next(csv_rows(file, place), (1, [""]))
    return "cyborg" if row[0].strip() in cyborg.SPLITS and not options.columns else "csv"

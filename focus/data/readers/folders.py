"""Folder trees that name the label, and plain folders of images.

``[<split>/][<generator>/[<class>/]]<label>/*`` (CNNDetection, UniversalFakeDetect, NPR, SIDBench)
or ``<generator>/[<split>/]<label>/*`` (GenImage), in any case. Reals carry the generator of their
folder, so that its fakes are scored against its own reals; the class is kept in ``extra``. What
lies below a label's folder is of that label.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from focus.data.layouts import Layout
from focus.data.manifest import NO_EXTRA, REAL, SYNTHETIC, Manifest, Sample
from focus.data.readers.files import Request, find_maps, images_below, split_of, with_maps
from focus.errors import InputError

_log = logging.getLogger(__name__)

NUMBERED: Layout = "0_real-1_fake"
TREES: dict[Layout, Mapping[str, int]] = {
    NUMBERED: {"0_real": REAL, "1_fake": SYNTHETIC},
    "nature-ai": {"nature": REAL, "ai": SYNTHETIC},
    "real-fake": {"real": REAL, "fake": SYNTHETIC, "synthetic": SYNTHETIC},
}
"""The folders that name the label; the first tree that fits is taken."""

_Folders = tuple[str, ...]


def read(request: Request, layout: Layout | None) -> tuple[Layout, Manifest]:
    """The layout, found by looking if it is None, and the manifest; ``images`` is unlabelled.

    Raises InputError for a folder without images, or without those of the layout.
    """
    root = request.path
    maps, required = find_maps(request.heatmaps, root)
    paths = [str(path) for path in images_below(root, skip=maps)]
    if not paths:
        raise InputError(f"There are no images in the folder {root}: give one that holds some.")
    places = {place: _below(place, root) for place in {_folder(path) for path in paths}}
    found: Layout = layout or "images"
    if layout is None:
        found = next((name for name in TREES if _fits(name, places.values())), found)
    if found == "images":
        samples = [Sample(path) for path in paths]
    else:
        known = _read_places(found, places)
        samples = [
            replace(known[at], path=path) for path in paths if (at := _folder(path)) in known
        ]
        names = " or ".join(TREES[found])
        if not samples:
            raise InputError(f"No image of {root} is in a folder {names}: give another --layout.")
        if left := len(paths) - len(samples):
            _log.warning("%s: left out %d images that are in no folder %s", root, left, names)
    manifest = Manifest(samples, str(root))
    return found, with_maps(manifest, root, maps, required=required) if maps else manifest


def _folder(path: str) -> str:
    return os.path.dirname(path)  # noqa: PTH120 - a million Path objects take seconds


def _below(place: str, root: Path) -> _Folders:
    return Path(place).relative_to(root).parts


def _label_at(folders: _Folders, layout: Layout) -> int | None:
    """Where in the folders' names the label is, the first from the top."""
    return next((i for i, name in enumerate(folders) if name.casefold() in TREES[layout]), None)


def _fits(layout: Layout, places: Iterable[_Folders]) -> bool:
    """``0_real`` says enough; a folder ``real`` may be anything, unless it has its counterpart."""
    found = [(folders, _label_at(folders, layout)) for folders in places]
    labels = {
        None if at is None else TREES[layout][folders[at].casefold()] for folders, at in found
    }
    return labels >= {REAL, SYNTHETIC} or (
        labels != {None} and (layout == NUMBERED or None not in labels)
    )


def _read_places(layout: Layout, places: Mapping[str, _Folders]) -> dict[str, Sample]:
    """What is known of the images in each folder, without their paths."""
    at = {place: _label_at(folders, layout) for place, folders in places.items()}
    above = {place: places[place][:i] for place, i in at.items() if i is not None}
    level = _split_level(layout, above.values())
    known = {}
    for place, folders in above.items():
        split = split_of(folders[level]) if level is not None and len(folders) > level else None
        rest = folders if split is None or level is None else folders[:level] + folders[level + 1 :]
        generator, *classes = rest or ("",)
        label = TREES[layout][places[place][len(folders)].casefold()]
        extra = {"class": "/".join(classes)} if classes else NO_EXTRA
        known[place] = Sample("", label, generator, split=split or "", extra=extra)
    return known


def _split_level(layout: Layout, above: Iterable[_Folders]) -> int | None:
    """Which level of folders names the split, if one does.

    One that has two splits, or nothing else. A folder ``train`` alone below generators is no split
    where classes are usual: CNNDetection has images of trains.
    """
    above = list(above)
    for level in range(max(map(len, above), default=0)):
        splits = {split_of(folders[level]) for folders in above if len(folders) > level}
        named = splits - {None}
        nothing_else = splits == named and (level == 0 or layout != NUMBERED)
        if len(named) > 1 or nothing_else:
            return level
    return None

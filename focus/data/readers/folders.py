"""Folder trees that name the label, and plain folders of images.

``[<split>/][<generator>/[<class>/]]<label>/*`` (CNNDetection, UniversalFakeDetect, NPR, SIDBench)
or ``<generator>/[<split>/]<label>/*`` (GenImage), in any case; a split may also lie below the
label. Reals carry the generator of their folder, so that its fakes are scored against its own
reals; the class is kept in ``extra``. What lies below a label's folder is of that label;
``[<split>/]fake/<generator>/*`` names generators too, if one of them is known.
"""

import logging
import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from focus.config.shared import DataLayout
from focus.data.columns import PathColumn
from focus.data.manifest import NO_EXTRA, REAL, SYNTHETIC, Manifest, Sample, Split
from focus.data.near_far import family_of
from focus.data.readers import deepfakebench
from focus.data.readers.files import IMAGE_EXTENSIONS, is_listed, paths_below
from focus.data.readers.human_maps import MAP_FOLDERS
from focus.data.readers.tables import NO_WORDS, split_of
from focus.errors import InputError
from focus.findings import Finding, finding

_log = logging.getLogger(__name__)

NUMBERED: DataLayout = "0_real-1_fake"
NAMED: DataLayout = "real-fake"
DEEPFAKEBENCH: DataLayout = "deepfakebench"
TREES: dict[DataLayout, Mapping[str, int]] = {
    NUMBERED: {"0_real": REAL, "1_fake": SYNTHETIC},
    "nature-ai": {"nature": REAL, "ai": SYNTHETIC},
    NAMED: {"real": REAL, "fake": SYNTHETIC, "synthetic": SYNTHETIC},
}
"""The folders that name the label; the first tree that fits is taken."""
_NOT_READ = (".heic", ".heif", ".jxl")  # images that Pillow does not read
_NAMED = 5  # folders
_MAP_FOLDERS = (*MAP_FOLDERS, "maps", "masks")

_Folders = tuple[str, ...]


def read(
    root: Path,
    layout: DataLayout | None,
    generator: str,
    maps: Path | None,
    words: Mapping[str, int] = NO_WORDS,
) -> tuple[DataLayout, Manifest]:
    """Read a folder and return its layout, detected if it is None; ``images`` has no labels.

    layout: One of ``TREES``, ``deepfakebench``, ``images``. generator: The generator whose classes
    the folders are, "" if folders are generators. maps: The folder of human maps, which holds no
    images. words: The class of each further name of a folder, in small letters, for the layout
    ``real-fake``. Raises InputError for a folder without images, or without those of the layout.
    """
    paths = list_images(root, maps)
    if not len(paths):
        raise InputError(f"There are no images in the folder {root}: give one that holds some.")
    listed = dict.fromkeys(map(_folder, paths.folders.texts))
    folders = {folder: Path(folder).relative_to(root).parts for folder in listed}
    if layout in (None, DEEPFAKEBENCH):
        of_folders = deepfakebench.read_folders(root, folders)
        if of_folders or layout == DEEPFAKEBENCH:
            names = "of a set that is known"
            return DEEPFAKEBENCH, _images_in(of_folders, paths, root, names)

    trees = {**TREES, NAMED: {**TREES[NAMED], **words}}
    if layout is None:
        layout = next((name for name in trees if _fits(name, trees[name], folders.values())), None)
    if layout is None or layout == "images":
        unlabelled = dict.fromkeys(folders, Sample(""))
        return "images", Manifest.in_folders(paths, unlabelled, str(root))
    of_folders = _read_folders(layout, trees[layout], folders, root, generator)
    return layout, _images_in(of_folders, paths, root, " or ".join(trees[layout]))


def _images_in(
    of_folders: Mapping[str, Sample], paths: PathColumn, root: Path, names: str
) -> Manifest:
    """Return the images in these folders; raise InputError if there are none.

    of_folders: What is known of the images in each. names: Of such folders, for messages.
    """
    manifest = Manifest.in_folders(paths, of_folders, str(root))
    if not manifest:
        raise InputError(f"No image of {root} is in a folder {names}: give another --layout.")
    if n_other := len(paths) - len(manifest):
        _log.warning("%s: left out %d images that are in no folder %s", root, n_other, names)
    return manifest


def unread_findings(root: Path, manifest: Manifest, maps: Path | None) -> list[Finding]:
    """Return a finding of the folders below the root that hold no image of the manifest.

    maps: The folder of the human maps, which are read.
    """
    numbers, texts = manifest.folders()
    read = {Path(_folder(texts[number])) for number in np.unique(numbers).tolist()}
    read |= {parent for folder in read for parent in folder.parents}
    unread: list[str] = []
    for name, folders, _ in os.walk(root):
        folder = Path(name)
        if folder not in read:
            unread.append(str(folder.relative_to(root)))
            folders.clear()  # it is said of the outermost one alone
        folders[:] = [sub for sub in sorted(folders) if is_listed(sub) and folder / sub != maps]
    if not unread:
        return []
    more = f" and {len(unread) - _NAMED} more" if len(unread) > _NAMED else ""
    named = ", ".join(map(repr, unread[:_NAMED]))
    return [finding("unread_folders", count=len(unread), root=root, folders=f"{named}{more}")]


def images_without_maps(
    root: Path, maps: Path | None = None, extensions: Collection[str] = IMAGE_EXTENSIONS
) -> list[Path]:
    """Return the image files below a folder, as :func:`list_images`."""
    paths = list_images(root, maps, extensions)
    return [Path(path) for path in paths.of(np.arange(len(paths), dtype=np.int32)) if path]


def list_images(
    root: Path, maps: Path | None = None, extensions: Collection[str] = IMAGE_EXTENSIONS
) -> PathColumn:
    """List the image files below a folder, without those in folders of maps and masks.

    Warns of folders that are passed over, but for ``maps``, and of files that Pillow does not read.
    extensions: The extensions of the files to list.
    """
    passed: list[Path] = []

    def holds_maps(folder: Path) -> bool:
        if folder != maps and folder.name.casefold() in _MAP_FOLDERS:
            passed.append(folder)
            return True
        return folder == maps

    paths = PathColumn()
    n_unread = 0
    for path in paths_below(root, {*extensions, *_NOT_READ}, holds_maps):
        if path[path.rfind(".") :].lower() in extensions:
            paths.append(path)
        else:
            n_unread += 1
    paths.finish()
    for folder in passed:
        if n_files := sum(1 for _ in paths_below(folder, extensions)):
            _log.warning(
                "%s: passed over %d files in %s, which by its name holds maps and no images",
                root,
                n_files,
                folder.relative_to(root),
            )
    if n_unread:
        _log.warning("%s: left out %d HEIC or JPEG XL files: convert them", root, n_unread)
    return paths


def _folder(path: str) -> str:
    return os.path.dirname(path)  # noqa: PTH120 - a million Path objects take seconds


def _label_at(folders: _Folders, tree: Mapping[str, int]) -> int | None:
    """Return the number of the first folder from the top that names the label."""
    return next((i for i, name in enumerate(folders) if name.casefold() in tree), None)


def _fits(layout: DataLayout, tree: Mapping[str, int], folders: Iterable[_Folders]) -> bool:
    """Return whether a tree fits: ``real`` may mean anything without its counterpart ``fake``."""
    labels: set[int | None] = set()
    for names in folders:
        depth = _label_at(names, tree)
        labels.add(None if depth is None else tree[names[depth].casefold()])
    if {REAL, SYNTHETIC} <= labels:
        return True
    return labels != {None} and (layout == NUMBERED or None not in labels)


class _Labelled(NamedTuple):
    """Label and split by the names of folders, and the folders above and below the label's."""

    label: int
    split: Split
    above: _Folders
    below: _Folders


def _read_folders(
    layout: DataLayout,
    tree: Mapping[str, int],
    folders: Mapping[str, _Folders],
    root: Path,
    named: str,
) -> dict[str, Sample]:
    """Return what is known of the images in each folder, without their paths."""
    names_of = {
        folder: names for folder, names in folders.items() if _label_at(names, tree) is not None
    }
    beside = defaultdict[_Folders, set[str]](set)
    for names in names_of.values():
        for depth, name in enumerate(names):
            if name.casefold() not in tree:
                beside[names[:depth]].add(name)
    labelled = {
        folder: _labelled(layout, tree, names, beside, root) for folder, names in names_of.items()
    }

    top = {names.above[0] for names in labelled.values() if names.above}
    # Folders below the label are generators if all fakes lie in some, of which one is known.
    below_fakes = [names.below for names in labelled.values() if names.label == SYNTHETIC]
    are_below = not top and all(below_fakes) and any(family_of(below[0]) for below in below_fakes)
    are_classes = bool(named and top) and not any(map(family_of, top))

    samples = {}
    for folder, (label, split, above, below) in labelled.items():
        names = below[:1] if are_below else above
        generator, *classes = ("", *names) if are_classes else (names or ("",))
        extra = {"class": "/".join(classes)} if classes else NO_EXTRA
        if label == REAL and are_below and generator:
            generator, extra = "", {"source": generator}
        samples[folder] = Sample("", label, generator, split=split, extra=extra)
    return samples


def _labelled(
    layout: DataLayout,
    tree: Mapping[str, int],
    names: _Folders,
    beside: Mapping[_Folders, set[str]],
    root: Path,
) -> _Labelled:
    """Return what the names of nested folders say, the one of the split left out.

    beside: The folders in each folder that name no label.
    """
    label_depth = _label_at(names, tree) or 0
    label = tree[names[label_depth].casefold()]
    for depth, name in enumerate(names):
        if depth != label_depth and _names_split(layout, names[:depth], name, beside, root):
            split = split_of(name) or ""
            names = (*names[:depth], *names[depth + 1 :])
            if depth < label_depth:
                label_depth -= 1
            return _Labelled(label, split, names[:label_depth], names[label_depth + 1 :])
    return _Labelled(label, "", names[:label_depth], names[label_depth + 1 :])


def _names_split(
    layout: DataLayout, above: _Folders, name: str, beside: Mapping[_Folders, set[str]], root: Path
) -> bool:
    """Return whether a folder is a split; in the numbered layout ``train`` may be a class.

    Raises InputError for a split beside a folder that is none: that would be trained on too.
    """
    if split_of(name) is None:
        return False
    others = sorted(other for other in beside[above] if split_of(other) is None)
    splits = {split_of(other) for other in beside[above]} - {None}
    if layout == NUMBERED and splits == {"train"} and (others or above):
        return False
    if others:
        raise InputError(
            f"{root.joinpath(*above)} has a folder {name} beside {others[0]}, which names no "
            "split: call it train, val or test, or the other one by another name."
        )
    return True

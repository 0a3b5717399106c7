"""Folder trees that name the label, plain folders of images, and the folders of DeepfakeBench.

``[<split>/][<generator>/[<class>/]]<label>/*`` (CNNDetection, UniversalFakeDetect, NPR, SIDBench)
or ``<generator>/[<split>/]<label>/*`` (GenImage), in any case; a split may also lie below the
label. Reals carry the generator of their folder, so that its fakes are scored against its own
reals; the class is kept in ``extra``. What lies below a label's folder is of that label;
``[<split>/]fake/<generator>/*`` names generators too, if one of them is known.

FaceForensics++, Celeb-DF and DF40 are read in the folders in which these sets come, as
``original_sequences/youtube/c23/frames/033/0.png``, ``Celeb-real/frames/id0_0000/0.png`` or
``DF40/simswap/ff/frames/033_097/0.png``, with or without ``frames``, and other folders above.
"""

import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from focus.config.shared import DataLayout
from focus.data.columns import PathColumn
from focus.data.manifest import NO_EXTRA, REAL, SYNTHETIC, Manifest, Sample, Split
from focus.data.near_far import family_of
from focus.data.readers.files import is_listed, list_images
from focus.data.readers.tables import NO_WORDS, split_of
from focus.errors import InputError
from focus.findings import Finding, finding
from focus.runtime.json_files import read_json

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
_NAMED = 5  # folders

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
        of_folders = read_deepfakebench(root, folders)
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


_DF40 = "/df40(?:_train)?/(?:(?P<split>train|val|test)/)?"
_LEVEL = "(?:/(?P<compression>raw|c[0-9]+))?"
# Where a folder lies and its label, by the first that fits; the names in them are kept.
_FOLDERS = (
    (f"/original_sequences/(?P<source>youtube|actors){_LEVEL}", REAL),
    (f"/manipulated_sequences/(?P<generator>[^/]+){_LEVEL}", SYNTHETIC),
    # In DF40's folders cdf, the fakes made of Celeb-DF's images lie in folders of these names.
    ("(?<!/cdf)(?<!/cdf/frames)/(?P<source>celeb-real|youtube-real)", REAL),
    ("(?<!/cdf)(?<!/cdf/frames)/celeb-synthesis", SYNTHETIC),
    (f"{_DF40}(?:(?P<generator>[^/]+)/(?:[^/]+/)*)?(?:0_)?real", REAL),
    (f"{_DF40}(?:(?:1_)?fake/)?(?P<generator>[^/]+)", SYNTHETIC),
)
_PATTERNS = [(re.compile(f"{folders}(?=/)", re.IGNORECASE), label) for folders, label in _FOLDERS]
# Names of videos: the one that is seen, and in swaps the one whose face was put in.
_VIDEOS = [
    (re.compile("([0-9]{3})(?:_[0-9]{3})?"), "FF++"),
    (re.compile("([0-9]{2})(?:_[0-9]{2})?__.*"), "DFD"),
    (re.compile("(id[0-9]+)(?:_id[0-9]+)?_[0-9]+"), "Celeb-DF"),
    (re.compile("([0-9]{5})"), "Celeb-DF"),
]


def read_deepfakebench(root: Path, folders: Iterable[str]) -> dict[str, Sample]:
    """Return what is known of the images in each folder, without their paths.

    The group is the video that is seen, or in Celeb-DF and DFD the person, with all that was made
    of it at any level of compression. Splits come from ``train.json``, ``val.json`` and
    ``test.json``, lists of pairs of numbers, beside ``original_sequences``. Other folders have no
    entry.
    """
    splits = cache(_official_splits)
    samples = {}
    for folder in folders:
        match_and_label = _match(root, folder)
        if match_and_label is None:
            continue
        match, label = match_and_label
        extra = {name: text for name, text in match.groupdict().items() if text}
        generator = extra.pop("generator", "" if label == REAL else "Celeb-DF")
        name = os.path.basename(folder)  # noqa: PTH119 - a million Path objects take seconds
        group = ""
        split: Split = split_of(extra.pop("split", "")) or ""
        for pattern, data_set in _VIDEOS:
            if video := pattern.fullmatch(name):
                group = f"{data_set} {video[1]}"
                if data_set == "FF++" and "_sequences" in match[0]:
                    split = splits(folder[: match.start()]).get(video[1], "")
                break
        samples[folder] = Sample("", label, generator, split=split, group=group, extra=extra)
    return samples


def _match(root: Path, folder: str) -> tuple[re.Match[str], int] | None:
    # A part of a set may be given, as the folder of one level.
    for pattern, label in _PATTERNS:
        # A project may be called DF40: of that name are only the given folder and those below.
        start = len(str(root)) - len(root.name) - 1 if "df40" in pattern.pattern else 0
        if match := pattern.search(f"{folder.replace(os.sep, '/')}/", start):
            return match, label
    return None


def _official_splits(folder: str) -> dict[str, Split]:
    """Return number of a video -> split, as the files in the set's folder say; {} without them."""
    splits: dict[str, Split] = {}
    for name in ("train", "val", "test"):
        path = Path(folder, f"{name}.json")
        if not path.is_file():
            continue
        pairs = read_json(path, list[list[str]], "put the official file there, or remove it")
        splits |= {number: split_of(name) or "" for pair in pairs for number in pair}
    return splits

"""Folder trees that name the label, and plain folders of images.

``[<split>/][<generator>/[<class>/]]<label>/*`` (CNNDetection, UniversalFakeDetect, NPR, SIDBench)
or ``<generator>/[<split>/]<label>/*`` (GenImage), in any case; a split may also lie below the
label. Reals carry the generator of their folder, so that its fakes are scored against its own
reals; the class is kept in ``extra``. What lies below a label's folder is of that label;
``[<split>/]fake/<generator>/*`` names generators too, if one of them is known.
"""

import logging
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from focus.config.layouts import Layout
from focus.data.generators import family_of
from focus.data.manifest import NO_EXTRA, REAL, SYNTHETIC, Manifest, Sample, Split
from focus.data.readers.files import (
    ARCHIVES,
    HEATMAPS,
    IMAGE_EXTENSIONS,
    Request,
    find_maps,
    folders_called,
    images_below,
    split_of,
    with_maps,
)
from focus.errors import InputError

_log = logging.getLogger(__name__)

NUMBERED: Layout = "0_real-1_fake"
TREES: dict[Layout, Mapping[str, int]] = {
    NUMBERED: {"0_real": REAL, "1_fake": SYNTHETIC},
    "nature-ai": {"nature": REAL, "ai": SYNTHETIC},
    "real-fake": {"real": REAL, "fake": SYNTHETIC, "synthetic": SYNTHETIC},
}
"""The folders that name the label; the first tree that fits is taken."""
# In a table such a word is refused, and a folder would be taken for a generator.
_HELD_OUT = ("holdout", "hold_out", "hold-out", "heldout", "held_out", "held-out")
_NO_IMAGES = (HEATMAPS, "maps", "masks")  # folders, in any case
_LABELS = frozenset(name for tree in TREES.values() for name in tree)

_Folders = tuple[str, ...]


def read(request: Request, layout: Layout | None) -> tuple[Layout, Manifest]:
    """The layout, found by looking if it is None, and the manifest; ``images`` is unlabelled.

    Raises InputError for a folder without images, or without those of the layout.
    """
    root = request.path
    maps, required = find_maps(request.heatmaps, root)
    paths = [str(path) for path in images_without_maps(root, maps)]
    if not paths:
        if packed := next(images_below(root, extensions=ARCHIVES), None):
            raise InputError(
                f"There are no images in the folder {root}, but archives, one is "
                f"{packed.relative_to(root)}: unpack them."
            )
        raise InputError(f"There are no images in the folder {root}: give one that holds some.")
    places = {place: _below(place, root) for place in {_folder(path) for path in paths}}
    found: Layout = layout or "images"
    if layout is None:
        found = next((name for name in TREES if _fits(name, places.values())), found)
    if found == "images":
        samples = [Sample(path) for path in paths]
    else:
        known = _read_places(found, places, request.generator, root)
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


def images_without_maps(
    root: Path,
    maps: Path | None = None,
    extensions: Collection[str] = IMAGE_EXTENSIONS,
    *,
    wanted: str = "images",
    quiet: bool = False,
) -> list[Path]:
    """The image files below a folder, apart from what lies in folders of maps and masks.

    Unless quiet it says which folders are passed over, but for ``maps``, those of the human maps
    that are read, and how many files that may be images have other extensions.
    extensions: as of :func:`focus.data.readers.files.images_below`. wanted: what has these.
    """
    others: Counter[str] = Counter()
    apart = folders_called(root, _NO_IMAGES)
    found = list(images_below(root, (maps, *apart), extensions, others))
    if images := _images_after_all(root, [p for p in apart if p != maps], list(map(str, found))):
        apart = [path for path in apart if path not in images]
        others.clear()
        found = list(images_below(root, (maps, *apart), extensions, others))
    deeper = _maps_further_down(root, map(str, found))
    if deeper:
        found = [path for path in found if not deeper & set(path.parents)]
        apart += sorted(deeper)
    for folder in () if quiet else (path for path in apart if path != maps):
        if n_files := sum(1 for _ in images_below(folder, (), extensions)):
            _log.warning(
                "%s: passed over %d files in %s, which by its name holds maps and no images",
                *(root, n_files, folder.relative_to(root)),
            )
    if others and not quiet:
        often = sorted(others.items(), key=lambda item: (-item[1], item[0]))[:5]
        endings = ", ".join(f"{ending or 'none'}: {n}" for ending, n in often)
        _log.warning(
            "%s: left out %d files that are no %s by the ends of their names (%s)",
            *(root, others.total(), wanted, endings),
        )
    return found


def _images_after_all(root: Path, apart: Iterable[Path], paths: Sequence[str]) -> list[Path]:
    """The folders ``maps`` and ``masks`` that hold images: there are no others, or it is a class.

    A class has both labels, as deep as another folder on top that is no split. Maps and masks may
    have labels too, but below the folders of their images.
    """
    beside = {_labelled_part(_below(place, root)) for place in set(map(_folder, paths))} - {()}
    found = []
    for folder in (path for path in apart if path.name.casefold() != HEATMAPS):
        places = {_folder(str(path)) for path in images_below(folder)}
        labelled = {_labelled_part(_below(place, folder)) for place in places} - {()}
        depths = {len(part) + 1 for part in labelled}
        alike = any(len(part) in depths and _split_of(part[0]) is None for part in beside)
        both = len({part[-1] for part in labelled}) > 1
        if not paths or (both and alike and labelled.isdisjoint(beside)):
            found.append(folder)
    return found


def _maps_further_down(root: Path, paths: Iterable[str]) -> set[Path]:
    """The folders of maps and masks below others: of a split or a generator.

    ``maps`` and ``masks`` lie beside a label's folder, else they may be classes.
    """
    found = set()
    places = [_below(place, root) for place in set(map(_folder, paths))]
    beside = {
        place[:at]
        for place in places
        for at, name in enumerate(place)
        if name.casefold() in _LABELS
    }
    for place in places:
        for at, name in enumerate(place[1:], start=1):
            if name.casefold() == HEATMAPS or (
                name.casefold() in _NO_IMAGES and place[:at] in beside
            ):
                found.add(root.joinpath(*place[: at + 1]))
                break
    return found


def _labelled_part(folders: _Folders) -> _Folders:
    """The folders down to the label's, in small letters; none if no layout has such a label."""
    at = min((at for layout in TREES if (at := _label_at(folders, layout)) is not None), default=-1)
    return tuple(name.casefold() for name in folders[: at + 1])


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


def _split_of(folder: str) -> Split | None:
    return "test" if folder.casefold() in _HELD_OUT else split_of(folder)


class _Place(NamedTuple):
    """What the names of folders say of the images in one; above and below the label's folder."""

    label: int
    split: Split
    above: _Folders
    below: _Folders


def _read_places(
    layout: Layout, places: Mapping[str, _Folders], given: str, root: Path
) -> dict[str, Sample]:
    """What is known of the images in each folder, without their paths. given: the generator."""
    found = _labelled(layout, places, root)
    if any(place.above for place in found.values()):
        names = {at: place.above for at, place in found.items()}
    else:
        names = _generators_below(found, given, root)
    top = sorted({place.above[0] for place in found.values() if place.above})
    are_classes = bool(given and top) and not any(map(family_of, top))
    if are_classes:
        _log.warning(
            "%s: the generator %s is given and no folder has the name of a known one, so the "
            "folders %s are taken for its classes",
            *(root, given, ", ".join(top[:3]) + ", ..." * (len(top) > 3)),
        )
    known = {}
    for at, place in found.items():
        generator, *classes = ("", *names[at]) if are_classes else (names[at] or ("",))
        extra = {"class": "/".join(classes)} if classes else NO_EXTRA
        if place.label == REAL and not place.above and generator:
            generator, extra = "", {"source": generator, **extra}
        known[at] = Sample("", place.label, generator, split=place.split, extra=extra)
    return known


def _labelled(layout: Layout, places: Mapping[str, _Folders], root: Path) -> dict[str, _Place]:
    at = {place: _label_at(folders, layout) for place, folders in places.items()}
    above = {place: places[place][:i] for place, i in at.items() if i is not None}
    levels = _split_levels(layout, above.values())
    _refuse_half_a_split(layout, above.values(), levels, root)
    under = {place: places[place][i + 1 :] for place, i in at.items() if i is not None}
    lower = _split_level(layout, list(under.values()))
    found = {}
    for place, folders in above.items():
        level = levels.get(folders[:1])
        split = _split_of(folders[level]) if level is not None and len(folders) > level else None
        rest = folders if split is None or level is None else folders[:level] + folders[level + 1 :]
        label = TREES[layout][places[place][len(folders)].casefold()]
        below = under[place]
        if split is None and lower is not None and len(below) > lower:
            split = _split_of(below[lower])
            below = below if split is None else below[:lower] + below[lower + 1 :]
        found[place] = _Place(label, split or "", rest, below)
    return found


def _generators_below(places: Mapping[str, _Place], given: str, root: Path) -> dict[str, _Folders]:
    """The first folder below the label's, if all fakes are in such ones and one is known.

    Any others may be parts, splits, videos or classes. None may be a number.
    """
    fakes = [place.below[:1] for place in places.values() if place.label == SYNTHETIC]
    names = sorted({name for folders in fakes for name in folders})
    named = all(fakes) and all(re.search(r"[^\W\d_]", name) for name in names)
    if named and any(map(family_of, names)):
        return {at: place.below[:1] for at, place in places.items()}
    if named and len(names) > 1 and not given and not any(map(_split_of, names)):
        _log.warning(
            "%s: the folders %s below the label are not taken for generators, since none has the "
            "name of a known one; if they are, call them NAME/fake or give --test-data NAME=PATH "
            "for each",
            *(root, ", ".join(names[:3]) + ", ..." * (len(names) > 3)),
        )
    return dict.fromkeys(places, ())


def _split_levels(layout: Layout, above: Iterable[_Folders]) -> Mapping[_Folders, int | None]:
    """Which level of folders names the split, for what lies in each folder on top.

    The top itself, or that of each generator: they need not be equally deep. What a generator's
    own folders leave open is as in the others.
    """
    tops: defaultdict[_Folders, list[_Folders]] = defaultdict(list)
    for folders in above:
        tops[folders[:1]].append(folders)
    level = _split_level(layout, [folders for part in tops.values() for folders in part])
    if level == 0:
        return dict.fromkeys(tops, 0)
    own = {top: _split_level(layout, part, start=1) for top, part in tops.items()}
    return {top: level if at is None else at for top, at in own.items()}


def _refuse_half_a_split(
    layout: Layout,
    above: Iterable[_Folders],
    levels: Mapping[_Folders, int | None],
    root: Path,
) -> None:
    """Raise InputError for a folder ``train`` beside another that names no split.

    That one would be trained on too, whatever it is kept for. Where classes are usual, and no other
    split is there, ``train`` may be one of them.
    """
    siblings: defaultdict[_Folders, set[str]] = defaultdict(set)
    for folders in above:
        level = levels.get(folders[:1])
        for at, name in enumerate(folders if level is None else folders[: level + 1]):
            if level is not None or layout != NUMBERED or _split_of(name) != "train":
                siblings[folders[:at]].add(name)
    for parent, names in siblings.items():
        splits = sorted(name for name in names if _split_of(name))
        if splits and (others := sorted(names.difference(splits))):
            split, other = splits[0], others[0]
            raise InputError(
                f"{root.joinpath(*parent)} has a folder {split} beside {other}, which names no "
                f"split: call {other} train, val or test, or {split} otherwise if it is no split."
            )


def _split_level(layout: Layout, above: Sequence[_Folders], start: int = 0) -> int | None:
    """Which level of folders names the split, if one from ``start`` on does.

    One that has two splits, or nothing else. A folder ``train`` alone below generators is no split
    where classes are usual: CNNDetection has images of trains.
    """
    for level in range(start, max(map(len, above), default=0)):
        splits = {_split_of(folders[level]) for folders in above if len(folders) > level}
        named = splits - {None}
        nothing_else = splits == named and (level == 0 or layout != NUMBERED)
        if len(named) > 1 or nothing_else:
            return level
    return None

"""Find the human map of each image by its name, in a folder of maps or a COCO file."""

import os
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focus.data.images import reason
from focus.data.manifest import Manifest, absolute, with_separator
from focus.data.maps import MAP_SOURCE, files_of, is_drawing, read_coco, source_of
from focus.data.readers.files import paths_below
from focus.errors import InputError
from focus.findings import Finding, finding

MAP_FOLDERS = ("human_maps", "heatmaps")
"""Where human maps are looked for; the second is CYBORG's."""
ANNOTATION, MADE_MAPS = "annotation.json", "maps"
"""What a folder of ``focus annotate`` is known by, and where its maps are in it."""
MapOwners = dict[Path, dict[str, str]]
"""By folder of maps, or COCO file: the image that each map belongs to."""


def find_maps(*places: Path) -> Path | None:
    """Return the first folder ``human_maps``, or ``heatmaps``, in one of the places."""
    folders = (place / name for place in places for name in MAP_FOLDERS)
    return next((maps_in(folder) for folder in folders if folder.is_dir()), None)


def maps_in(folder: Path) -> Path:
    """Return the maps in a folder of ``focus annotate``; any other folder is returned as it is."""
    return folder / MADE_MAPS if (folder / ANNOTATION).is_file() else folder


def with_maps(manifest: Manifest, root: Path, folder: Path, owners: MapOwners) -> Manifest:
    """Give the samples their human maps from a folder or a COCO file.

    A map belongs to the image at the same path relative to ``root`` or, by its base name, to the
    only image that has it, else to the only training image. Extensions do not count, unless two
    images differ in nothing else: the map of ``a.jpg`` beside ``a.png`` is ``a.jpg.png``. By its
    base name a map has one owner: the images of ``--data`` come before those of test sets.

    owners: The image of each map so far, to which new ones are added. Raises InputError for a path
    that is neither a folder nor a COCO file, and for a map that may belong to several images.
    """
    if not folder.is_dir() and folder.suffix.lower() != ".json":
        raise InputError(
            f"The human maps {folder} are neither a folder nor a .json file: give other "
            "--human-maps."
        )
    drawn = None if folder.is_dir() else drawn_references(folder)
    map_names: dict[str, str] = {}
    if drawn is None:
        map_names = {path: _name_below(path, folder) for path in paths_below(folder)}
    rows = _rows_with_names(manifest, root, map_names.values() if drawn is None else drawn)
    images_of_maps = manifest.take(rows)
    plain = {path: _name_below(path, root) for path in images_of_maps.cells("path")}
    count = Counter(plain.values())
    names = {
        path: name if not name or count[name] == 1 else f"{name}{Path(path).suffix}"
        for path, name in plain.items()
    }
    same_stem = defaultdict[str, dict[str, bool]](dict)  # image -> whether it is in training
    in_training = images_of_maps.equals("split", "train").tolist()
    for path, is_train in zip(images_of_maps.cells("path"), in_training, strict=True):
        same_stem[_stem(path[path.rfind(os.sep) + 1 :])][path] = is_train
    images = {stem: next(iter(paths)) for stem, paths in same_stem.items()}
    images |= {name: path for path, name in names.items() if name}
    if drawn is None:
        maps = map_references(folder, map_names, images, _top_folders(manifest, root))
    else:
        maps = drawn
    owned = owners.setdefault(folder, {})

    def map_of(path: str) -> str | None:
        if (mirrored := maps.get(names[path])) is not None:
            return mirrored
        shared = maps.get(plain[path]) if names[path] != plain[path] else None
        if shared is not None:
            if is_drawing(shared):  # which names the other one's extension
                return None
            raise InputError(
                f"The human map {shared!r} could belong to {count[plain[path]]} images, one of "
                f"them {path!r}: name it after its image, as {Path(path).name}.png."
            )
        stem = Path(path).stem
        reference = maps.get(stem)
        if reference is None or any(owned.get(m, path) != path for m in _members(reference)):
            return None
        paths = same_stem[stem]
        candidates = [p for p, in_training in paths.items() if in_training or len(paths) == 1]
        if len(candidates) != 1:
            raise InputError(
                f"The human map {reference!r} could belong to {len(paths)} images, one of them "
                f"{path!r}: put the maps into folders like those of the images."
            )
        return reference if path == candidates[0] else None

    references = [map_of(path) for path in images_of_maps.cells("path")]
    for path, reference in zip(images_of_maps.cells("path"), references, strict=True):
        if reference:
            owned |= dict.fromkeys(_members(reference), path)
    has_map = np.array([bool(reference) for reference in references], bool)
    manifest = manifest.with_cells("human_map", filter(None, references), rows[has_map])
    if source := source_of(folder):
        sources = repeat(source, int(has_map.sum()))
        manifest = manifest.with_cells(MAP_SOURCE, sources, rows[has_map])
    return manifest


def _rows_with_names(
    manifest: Manifest, root: Path, map_names: Iterable[str]
) -> NDArray[np.integer[Any]]:
    """Return the rows of images that a map may belong to, by the names of all maps.

    There may be millions of images, and few of them with a map.
    """
    base_names = set[str]()
    in_folder = defaultdict[str, set[str]](set)
    for map_name in map_names:
        below_annotator = map_name.partition(os.sep)[2]
        for name in (map_name, below_annotator):
            for image in filter(None, (name, name.rpartition("_")[0])):
                folder, _, base = image.rpartition(os.sep)
                bases = {base, os.path.splitext(base)[0], base.partition(".")[0]}  # noqa: PTH122
                in_folder[folder] |= bases
                if not folder:
                    base_names |= bases
    numbers, folders = manifest.folders()
    beginning = with_separator(root)
    below_root = [in_folder.get(at.removeprefix(beginning).rstrip(os.sep)) for at in folders]

    def may_have_map(path: str, number: int) -> bool:
        name = path[path.rfind(os.sep) + 1 :]
        bases = {name, name.rpartition(".")[0]}
        in_same_folder = below_root[number]
        return not (bases.isdisjoint(base_names) and bases.isdisjoint(in_same_folder or ()))

    may = map(may_have_map, manifest.cells("path"), numbers.tolist())
    return np.flatnonzero(np.fromiter(may, bool, len(manifest)))


def _top_folders(manifest: Manifest, root: Path) -> set[str]:
    """Return the names of the folders in ``root`` that images lie below."""
    numbers, folders = manifest.folders()
    beginning = with_separator(root)
    used = [folders[number] for number in np.unique(numbers).tolist()]
    below = [at.removeprefix(beginning) for at in used if at.startswith(beginning)]
    return {at.partition(os.sep)[0] for at in below if at}


def unmatched_findings(owners: MapOwners, required: str | None) -> list[Finding]:
    """Return a finding of the maps in a folder that no image has, after all have been read.

    Raises InputError if no image has a map of the folder that is required.
    """
    findings = []
    for folder, owned in owners.items():
        if required and folder == maps_in(absolute(required)) and not owned:
            raise InputError(f"No human map in {folder} has the name of an image: give it one.")
        if odd := unmatched_maps(folder, owned):
            findings.append(finding("unmatched_maps", count=len(odd), folder=folder, path=odd[0]))
    return findings


def unmatched_maps(folder: Path, owned: Container[str]) -> list[str]:
    """Return the maps in a folder, or COCO file, that are not owned.

    There are none if no map at all is owned: then they are maps of other data.
    """
    is_coco = folder.suffix.lower() == ".json"
    maps = dict.fromkeys(drawn_references(folder).values() if is_coco else paths_below(folder))
    odd = [m for m in maps if m not in owned]
    return odd if len(odd) < len(maps) else []


def _members(reference: str) -> list[str]:
    """Return the files of a map of several annotators, else the reference itself."""
    return [reference] if is_drawing(reference) else files_of(reference)


def map_references(
    place: Path,
    map_names: Mapping[str, str],
    images: Mapping[str, str],
    image_folders: Container[str],
) -> dict[str, str]:
    """Return the human maps in a folder, by the name of the image that each belongs to.

    A name is the path below ``place`` without extension.

    1. a map whose name is an image's is that image's map;
    2. else ``a_1.png``, ``a_2.png`` are averaged for the image ``a``, unless an image ``a_1`` lies
       beside ``a``: it is that image's map;
    3. else, where no map in a sub-folder is an image's by the first rule, sub-folders that are none
       of the images' are annotators: ``anna/a.png`` and ``ben/a.png`` are averaged for ``a``;
    4. any other map keeps its name, which no image has.

    map_names: The name of each map. images: The path of the image by each name that one has or may
    be numbered after: the base name and the path below the image root, both without extension.
    image_folders: The names of the folders in the image root that images lie below.

    Raises InputError for two maps of one image.
    """
    mirrored = any(os.sep in name and name in images for name in map_names.values())
    found = defaultdict[str, list[str]](list)
    for path, name in map_names.items():
        image = name
        if name not in images:
            folder, _, below = name.partition(os.sep)
            is_annotator = not mirrored and folder not in image_folders and below in images
            image = _numbered(name, images) or (below if is_annotator else name)
        found[image].append(path)
        if len(found[image]) > 1 and image in map(map_names.get, found[image]):
            first, other = found[image][-2:]
            raise InputError(
                f"{first!r} and {other!r} are maps of one image: keep one, or name them IMAGE_1, "
                "IMAGE_2 to average them."
            )

    def reference(paths: list[str]) -> str:
        below = ",".join(path.removeprefix(f"{place}{os.sep}") for path in paths)
        return paths[0] if len(paths) == 1 else f"{place}{os.sep}{{{below}}}"

    return {image: reference(paths) for image, paths in found.items()}


def _numbered(name: str, images: Mapping[str, str]) -> str:
    """Return the image ``a`` of an annotator's map ``a_1``, "" if it is none."""
    image, _, number = name.rpartition("_")
    if not number.isdecimal() or image not in images:
        return ""
    path = Path(images[image])
    return "" if os.path.lexists(path.with_name(f"{path.stem}_{number}{path.suffix}")) else image


def drawn_references(path: Path) -> dict[str, str]:
    """Return the human maps in a COCO file by its ``file_name``, with and without extension.

    Raises InputError for a file that is not COCO's.
    """
    try:
        images = read_coco(str(path))
    except (OSError, ValueError) as error:
        raise InputError(
            f"Cannot read the human maps in {path} ({reason(path, error)}): give images and "
            "annotations as COCO has them, or fix the file."
        ) from error
    drawn = {number: image.name for number, image in images.items() if image.polygons}
    whole = {name: f"{path}#{number}" for number, name in drawn.items()}
    return {str(Path(name).with_suffix("")): at for name, at in whole.items()} | whole


def _name_below(path: str, root: Path) -> str:
    """Return the path below ``root`` without extension, "" if it is not there."""
    beginning = with_separator(root)
    if not path.startswith(beginning):
        return ""
    folder, separator, name = path.removeprefix(beginning).rpartition(os.sep)
    return f"{folder}{separator}{_stem(name)}"


def _stem(name: str) -> str:
    """Return the name of a file without extension, as :attr:`pathlib.PurePath.stem`."""
    dot = name.rfind(".")
    return name[:dot] if 0 < dot < len(name) - 1 else name

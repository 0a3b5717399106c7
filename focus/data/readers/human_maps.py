"""Find the human map of each image by its name, in a folder of maps or a COCO file."""

import os
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from focus.data.images import reason
from focus.data.manifest import Manifest, absolute, with_separator
from focus.data.maps import MAP_SOURCE, files_of, is_drawing, read_coco, source_of
from focus.data.readers.files import MAP_FOLDERS, paths_below
from focus.errors import InputError
from focus.findings import Finding, finding

ANNOTATION, MADE_MAPS = "annotation.json", "maps"
"""What a folder of ``focus annotate`` is known by, and where its maps are in it."""
MapOwners = Mapping[Path, Mapping[str, str]]
"""By folder of maps, or COCO file: the image that each map belongs to."""


def find_maps(*folders: Path) -> Path | None:
    """Return the first folder ``human_maps``, or ``heatmaps``, in one of these folders."""
    for folder in folders:
        for name in MAP_FOLDERS:
            if (folder / name).is_dir():
                return maps_in(folder / name)
    return None


def maps_in(folder: Path) -> Path:
    """Return the maps in a folder of ``focus annotate``; any other folder is returned as it is."""
    return folder / MADE_MAPS if (folder / ANNOTATION).is_file() else folder


class Mapped(NamedTuple):
    """Images with their human maps, and the image of each map, as :data:`MapOwners` has it."""

    manifest: Manifest
    owned: Mapping[str, str]


def with_maps(manifest: Manifest, root: Path, folder: Path, owned: Mapping[str, str]) -> Mapped:
    """Return the images with the human maps of a folder, or of a COCO file; see :class:`MapIndex`.

    root: The folder that the images lie below. owned: The image of each map so far.

    Raises InputError for a path that is neither a folder nor a COCO file, and for a map that may
    belong to several images.
    """
    if not folder.is_dir() and folder.suffix.lower() != ".json":
        raise InputError(
            f"The human maps {folder} are neither a folder nor a .json file: give other "
            "--human-maps."
        )
    files: dict[str, str] = {}
    drawn: dict[str, str] = {}
    if folder.is_dir():
        files = {path: _name_below(path, folder) for path in paths_below(folder)}
    else:
        drawn = drawn_references(folder)

    # Of millions of images few may have a map.
    rows = _rows_with_names(manifest, root, [*files.values(), *drawn])
    images = manifest.take(rows)
    names = _ImageNames(images, root)
    if folder.is_dir():
        maps = map_references(folder, files, names.paths(), _top_folders(manifest, root))
    else:
        maps = drawn
    index = MapIndex(maps, names, owned)
    references = [index.map_of(path) for path in images.cells("path")]

    owned = dict(owned)
    for path, reference in zip(images.cells("path"), references, strict=True):
        if reference is not None:
            owned |= dict.fromkeys(_members(reference), path)
    mapped_rows = rows[np.array([reference is not None for reference in references], bool)]
    manifest = manifest.with_cells("human_map", filter(None, references), mapped_rows)
    source = source_of(folder)
    if source:
        sources = repeat(source, len(mapped_rows))
        manifest = manifest.with_cells(MAP_SOURCE, sources, mapped_rows)
    return Mapped(manifest, owned)


class _ImageNames:
    """The names of images, by which they have maps.

    below_root: The path of each image below the root without extension, "" outside it, by its path.
    in_training: Whether each image is in training, by the base name without extension, which
    several may share, and its path.
    """

    def __init__(self, images: Manifest, root: Path) -> None:
        self.below_root = {path: _name_below(path, root) for path in images.cells("path")}
        self._count = Counter(self.below_root.values())
        self.in_training = defaultdict[str, dict[str, bool]](dict)
        is_in_training = images.equals("split", "train").tolist()
        for path, is_train in zip(images.cells("path"), is_in_training, strict=True):
            self.in_training[_stem(path[path.rfind(os.sep) + 1 :])][path] = is_train

    def differing_in_extension(self, path: str) -> int:
        """Return how many images have the path of this one but for the extension, itself too."""
        return self._count[self.below_root[path]]

    def name_of(self, path: str) -> str:
        """Return the name that a map at the image's path has, "" for an image outside the root.

        It includes the image's extension where another image differs in nothing else.
        """
        name = self.below_root[path]
        if name and self._count[name] > 1:
            return f"{name}{Path(path).suffix}"
        return name

    def paths(self) -> dict[str, str]:
        """Return the path of an image by each name that a map may have: path or base name."""
        paths = {stem: next(iter(images)) for stem, images in self.in_training.items()}
        for path in self.below_root:
            name = self.name_of(path)
            if name:
                paths[name] = path
        return paths


class MapIndex:
    """Which map belongs to which image.

    1. The map at the image's own path below the root. Extensions do not count, unless two images
       differ in nothing else: the map of ``a.jpg`` beside ``a.png`` is ``a.jpg.png``.
    2. Else the map of its base name, if one image has that name, or one training image. Such a map
       has one owner: the images of ``--data`` come before those of test sets.

    A map that fits several images is an error: guessing would train on somebody else's map.
    """

    def __init__(
        self, maps: Mapping[str, str], names: _ImageNames, owned: Mapping[str, str]
    ) -> None:
        """Keep what is known of the maps.

        maps: The reference of each map by the name of its image. names: Those of the images.
        owned: The images of maps that others have had, by the map's file.
        """
        self._maps = maps
        self._names = names
        self._owned = owned

    def map_of(self, path: str) -> str | None:
        """Return the map of an image, None if it has none; InputError if it may be another's."""
        at_same_path = self._maps.get(self._names.name_of(path))
        if at_same_path is not None:
            return at_same_path

        shared = self._map_of_several(path)
        if shared is None:
            return self._map_by_base_name(path)
        if is_drawing(shared):  # it names the other image's extension
            return None
        raise InputError(
            f"The human map {shared!r} could belong to {self._names.differing_in_extension(path)} "
            f"images, one of them {path!r}: name it after its image, as {Path(path).name}.png."
        )

    def _map_of_several(self, path: str) -> str | None:
        """Return the map at the path of images that differ in their extensions alone."""
        if self._names.differing_in_extension(path) < 2:
            return None
        name = self._names.below_root[path]
        return self._maps.get(name) if name else None

    def _map_by_base_name(self, path: str) -> str | None:
        """Return the map of an image's base name; None if it is, or was, that of another image."""
        stem = Path(path).stem
        reference = self._maps.get(stem)
        if reference is None:
            return None
        if any(self._owned.get(file, path) != path for file in _members(reference)):
            return None
        in_training = self._names.in_training[stem]
        candidates = list(in_training)
        if len(candidates) > 1:
            candidates = [image for image in candidates if in_training[image]]
        if len(candidates) != 1:
            raise InputError(
                f"The human map {reference!r} could belong to {len(in_training)} images, one of "
                f"them {path!r}: put the maps into folders like those of the images."
            )
        return reference if path == candidates[0] else None


def _rows_with_names(
    manifest: Manifest, root: Path, map_names: Iterable[str]
) -> NDArray[np.integer[Any]]:
    """Return the rows of images that a map may belong to, by the names of all maps."""
    base_names = set[str]()
    base_names_in_folder = defaultdict[str, set[str]](set)
    for map_name in map_names:
        for image in _possible_images(map_name):
            folder, _, base = image.rpartition(os.sep)
            names = {base, os.path.splitext(base)[0], base.partition(".")[0]}  # noqa: PTH122
            base_names_in_folder[folder] |= names
            if not folder:
                base_names |= names
    numbers, folders = manifest.folders()
    beginning = with_separator(root)
    names_in_same_folder = [
        base_names_in_folder.get(folder.removeprefix(beginning).rstrip(os.sep), set())
        for folder in folders
    ]

    def may_have_map(path: str, folder_number: int) -> bool:
        name = path[path.rfind(os.sep) + 1 :]
        names = {name, name.rpartition(".")[0]}
        in_same_folder = names_in_same_folder[folder_number]
        return not (names.isdisjoint(base_names) and names.isdisjoint(in_same_folder))

    may_have_maps = map(may_have_map, manifest.cells("path"), numbers.tolist())
    return np.flatnonzero(np.fromiter(may_have_maps, bool, len(manifest)))


def _possible_images(map_name: str) -> list[str]:
    """Return the names of the images that a map may belong to: those of annotators' maps, too."""
    below_annotator = map_name.partition(os.sep)[2]
    names = [map_name, below_annotator]
    unnumbered = [name.rpartition("_")[0] for name in names]
    return [name for name in [*names, *unnumbered] if name]


def _top_folders(manifest: Manifest, root: Path) -> set[str]:
    """Return the names of the folders in ``root`` that images lie below."""
    numbers, folders = manifest.folders()
    beginning = with_separator(root)
    top_folders = set[str]()
    for number in np.unique(numbers).tolist():
        folder = folders[number]
        if folder.startswith(beginning) and folder != beginning:
            top_folders.add(folder.removeprefix(beginning).partition(os.sep)[0])
    return top_folders


def unmatched_findings(owners: MapOwners, required: str | None) -> list[Finding]:
    """Return a finding of the maps in a folder that no image has, after all have been read.

    Raises InputError if no image has a map of the folder that is required.
    """
    findings = []
    for folder, owned in owners.items():
        if required and folder == maps_in(absolute(required)) and not owned:
            raise InputError(f"No human map in {folder} has the name of an image: give it one.")
        unmatched = unmatched_maps(folder, owned)
        if unmatched:
            findings.append(
                finding("unmatched_maps", count=len(unmatched), folder=folder, path=unmatched[0])
            )
    return findings


def unmatched_maps(folder: Path, owned: Container[str]) -> list[str]:
    """Return the maps in a folder, or COCO file, that are not owned.

    There are none if no map at all is owned: then they are maps of other data.
    """
    is_coco = folder.suffix.lower() == ".json"
    maps = dict.fromkeys(drawn_references(folder).values() if is_coco else paths_below(folder))
    unmatched = [reference for reference in maps if reference not in owned]
    return unmatched if len(unmatched) < len(maps) else []


def _members(reference: str) -> list[str]:
    """Return the files of a map of several annotators, else the reference itself."""
    return [reference] if is_drawing(reference) else files_of(reference)


def map_references(
    folder: Path,
    map_names: Mapping[str, str],
    images: Mapping[str, str],
    image_folders: Container[str],
) -> dict[str, str]:
    """Return the human maps in a folder, by the name of the image that each belongs to.

    A name is the path below ``folder`` without extension.

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
    are_mirrored = any(os.sep in name and name in images for name in map_names.values())
    files_of_image = defaultdict[str, list[str]](list)
    for path, name in map_names.items():
        image = _image_of_map(name, images, None if are_mirrored else image_folders)
        files = files_of_image[image]
        files.append(path)
        if len(files) > 1 and image in map(map_names.get, files):
            raise InputError(
                f"{files[-2]!r} and {files[-1]!r} are maps of one image: keep one, or name them "
                "IMAGE_1, IMAGE_2 to average them."
            )

    references = {}
    beginning = f"{folder}{os.sep}"
    for image, files in files_of_image.items():
        below = ",".join(path.removeprefix(beginning) for path in files)
        references[image] = files[0] if len(files) == 1 else f"{beginning}{{{below}}}"
    return references


def _image_of_map(
    name: str, images: Mapping[str, str], image_folders: Container[str] | None
) -> str:
    """Return the name of the image that a map belongs to, by the rules of :func:`map_references`.

    image_folders: None if no folder of maps is an annotator's.
    """
    if name in images:
        return name
    numbered = _numbered(name, images)
    if numbered:
        return numbered
    annotator, _, below = name.partition(os.sep)
    if image_folders is not None and annotator not in image_folders and below in images:
        return below
    return name


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
    by_file_name = {
        image.name: f"{path}#{number}" for number, image in images.items() if image.polygons
    }
    by_stem = {
        str(Path(name).with_suffix("")): reference for name, reference in by_file_name.items()
    }
    return by_stem | by_file_name


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

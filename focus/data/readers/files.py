"""What the readers share: walking folders, checking paths, finding the human map of an image."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath

from focus.data.manifest import Manifest, Sample
from focus.errors import InputError

IMAGE_EXTENSIONS = frozenset(
    ".png .jpg .jpeg .jp2 .webp .bmp .gif .tif .tiff .ppm .pgm .pbm".split()  # noqa: SIM905
)
HEATMAPS = "heatmaps"


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts ``2.png`` before ``10.png``, and the same everywhere."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(part or 0), "") if i % 2 else (0, part) for i, part in enumerate(parts)], name


def images_below(folder: Path, skip: Path | None = None) -> Iterator[Path]:
    """The image files below a folder, in natural order, hidden ones and the folder ``skip`` apart.

    Follows symbolic links, but not into a folder that holds them.
    """
    yield from _images_below(folder, skip, frozenset())


def _images_below(folder: Path, skip: Path | None, above: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above or folder == skip:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: natural_key(entry.name))
    except OSError as error:
        raise InputError(
            f"Cannot list {folder} ({error.strerror}): make the folder readable."
        ) from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if PurePath(entry.name).suffix.lower() in IMAGE_EXTENSIONS and not entry.is_dir():
            yield folder / entry.name
        elif entry.is_dir():
            yield from _images_below(folder / entry.name, skip, above | {real})


def require_files(paths: Sequence[str], source: Path, lines: Sequence[int] | None = None) -> None:
    """Raise InputError, with the first and the count, if any path is no file."""
    missing = [i for i, path in enumerate(paths) if not os.path.isfile(path)]  # noqa: PTH113
    if missing:
        first = missing[0]
        line = f" (line {lines[first]})" if lines else ""
        raise InputError(
            f"{len(missing)} of the {len(paths)} images of {source} do not exist, the first is "
            f"{paths[first]!r}{line}: mend the paths or give another --data-root."
        )


def find_maps(given: str | Path | None, *places: Path) -> tuple[Path | None, bool]:
    """The folder of human maps, and whether it was asked for."""
    if given is not None:
        return Path(given).absolute(), True
    return next((p / HEATMAPS for p in places if (p / HEATMAPS).is_dir()), None), False


def with_maps(manifest: Manifest, root: Path, folder: Path, *, required: bool) -> Manifest:
    """Give the samples their human maps from a folder.

    A map belongs to the image at the same path relative to ``root`` or, if it lies directly in the
    folder, to the image of the same base name, the extension apart. If several images have that
    name, it is the training image's. Raises InputError if that does not settle it or, when
    ``required``, if no map belongs to any image.
    """
    if not folder.is_dir():
        raise InputError(f"The folder of human maps {folder} does not exist: give another one.")
    maps: dict[str, str] = {}
    for path in images_below(folder):
        key = str(path.relative_to(folder).with_suffix(""))
        if key in maps:
            raise InputError(f"{maps[key]!r} and {str(path)!r} are maps of one image: keep one.")
        maps[key] = str(path)

    by_name = _names(manifest)
    in_training = _names(manifest.split("train"))

    def map_of(sample: Sample) -> str | None:
        path = Path(sample.path)
        if path.is_relative_to(root):
            mirrored = maps.get(str(path.relative_to(root).with_suffix("")))
            if mirrored is not None:
                return mirrored
        flat = maps.get(path.stem)
        if flat is None or by_name[path.stem] == 1:
            return flat
        if in_training[path.stem] == 1:
            return flat if sample.split == "train" else None
        raise InputError(
            f"The human map {flat!r} could belong to {by_name[path.stem]} images, one of them "
            f"{sample.path!r}: put the maps into folders like those of the images."
        )

    found = [replace(s, map_path=map_of(s) or s.map_path) for s in manifest]
    if required and all(sample.map_path is None for sample in found):
        raise InputError(
            f"None of the {len(maps)} images of {folder} has the name of an image of "
            f"{manifest.source}: name each human map as its image."
        )
    return Manifest(found, manifest.source)


def _names(manifest: Manifest) -> Counter[str]:
    """How many different images have each base name."""
    return Counter(Path(path).stem for path in {sample.path for sample in manifest})

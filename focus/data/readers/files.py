"""What the readers share: walking folders, checking rows, finding the human map of an image."""

import logging
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from focus.data.manifest import REAL, Manifest, Sample, Split, TestSet, absolute
from focus.data.maps import files_of, map_references
from focus.errors import InputError
from focus.runtime.machine import is_main_process
from focus.runtime.progress import progress_bar

_log = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset(
    [
        *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jp2", ".j2k", ".jpx", ".webp"),
        *(".avif", ".bmp", ".dib", ".gif", ".tga", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"),
    ]
)
ARCHIVES = frozenset([".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"])
# What lies beside images and is not missed among them.
_COMPANIONS = ARCHIVES.union(
    [
        *(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".ini"),
        *(".cfg", ".md", ".rst", ".html", ".htm", ".pdf", ".log", ".db", ".py", ".sh", ".npy"),
        *(".npz", ".pkl", ".mat", ".parquet", ".arrow", ".md5", ".sha256"),
    ]
)
HEATMAPS = "heatmaps"
_ASKED_AT_ONCE = 16
_SILENT_FOR = 1  # seconds, without a bar
P = TypeVar("P")
_Role = tuple[str, Split, TestSet, str]

# Of one image there can be only one of each; in words.
_UNIQUE = {
    "split": "split",
    "map_path": "human map",
    "mask_path": "artefact mask",
    "box": "face box",
    "group": "group",
}
_OF_FAKES = {"generator": "generator", "family": "family"}
_LEFTOVERS = ("__MACOSX",)  # what unpacking leaves: files named as images that are none
_SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    # What is held out by whatever name: it is not trained on.
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}


@dataclass(frozen=True)
class Request:
    """What a reader is asked for.

    path: a file or a folder, absolute. root: what relative paths in a table are relative to.
    columns: of a table, by the manifest's names. outside: whether paths in a table may leave the
    root. hub: the name of a data set of the Hub; then ``path`` is only for messages. generator: the
    one that is given for fakes without a name.
    """

    path: Path
    root: Path
    heatmaps: str | Path | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    outside: bool = False
    hub: str = ""
    generator: str = ""


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts ``2.png`` before ``10.png``, and the same everywhere."""
    parts = re.split(r"([0-9]+)", name.casefold())
    return [(int(part or 0), "") if i % 2 else (0, part) for i, part in enumerate(parts)], name


def split_of(word: str) -> Split | None:
    """The split that data sets call so, None if it is none: ``val`` is validation."""
    return _SPLITS.get(re.sub(r"(?<=.)[-_ ]?set$", "", word.strip().casefold()))


def images_below(
    folder: Path,
    skip: Collection[Path | None] = (),
    extensions: Collection[str] = IMAGE_EXTENSIONS,
    others: Counter[str] | None = None,
) -> Iterator[Path]:
    """The image files below a folder, in natural order, hidden ones and the folders ``skip`` apart.

    Follows symbolic links, but not into a folder that holds them; one that leads nowhere is yielded
    by its name. others: gets the number of files by each other extension, "" being none, those that
    are usual beside images apart. Raises InputError for a folder that cannot be listed.
    """
    # A folder to list has the inodes of those that it lies in, a file to yield has None.
    waiting: list[tuple[Path, frozenset[tuple[int, int]] | None]] = [(folder, frozenset())]
    while waiting:
        place, above = waiting.pop()
        if above is None:
            yield place
            continue
        if place in skip:
            continue
        try:
            status = place.stat()
            inode = (status.st_dev, status.st_ino)
            if inode in above:
                continue
            found = []
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.name.startswith(".") or entry.name in _LEFTOVERS:
                        continue
                    is_folder = _is_folder(entry)
                    extension = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
                    if is_folder or extension in extensions:
                        found.append((entry.name, is_folder))
                    elif others is not None and _may_be_missed(entry.name, extension):
                        others[extension] += 1
        except OSError as error:
            raise InputError(
                f"Cannot list {place} ({error.strerror}): make the folder readable."
            ) from error
        found.sort(key=lambda entry: natural_key(entry[0]), reverse=True)  # the last comes next
        waiting += [
            (place / name, above | {inode} if is_folder else None) for name, is_folder in found
        ]


def _may_be_missed(name: str, extension: str) -> bool:
    """Whether it may be an image after all: no text, table or archive, no README or LICENSE."""
    return extension not in _COMPANIONS if extension else not name.isupper()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def from_rows(
    rows: Iterable[tuple[int, Sample]], source: str | Path, *, embedded: bool = False
) -> Manifest:
    """The samples of a table's numbered rows, each once; all of their files must be there.

    Rows that say the same of one path are dropped but for the first, with one warning. embedded:
    the paths stand for contents, and the same content may well be in two rows of a split, or in two
    splits: only its label must be the same then. Raises InputError, with the numbers of the rows.
    """
    unit = "row" if embedded else "line"
    told = _Told[int](label_only=embedded)
    twice: list[tuple[int, int]] = []
    for line, sample in rows:
        other, reason = told.tell(sample, line)
        if reason:
            raise InputError(
                f"{source}, {unit} {line}: {sample.path!r} is in {unit} {other} too, with "
                f"{reason}; keep one of them."
            )
        if other is not None:
            twice.append((line, other))
    if twice:
        _log.warning(
            "%s: left out %d duplicate rows, the first is %s %d, which repeats %s %d",
            *(source, len(twice), unit, twice[0][0], unit, twice[0][1]),
        )
    _require_files([sample.path for sample in told.samples], source, unit, told.places)
    return Manifest(told.samples, str(source))


def join(parts: Iterable[Manifest]) -> Manifest:
    """The samples of several manifests, each once.

    Raises InputError if two of them disagree on an image.
    """
    joined = Manifest([])
    told = _Told[str](label_only=False)
    for part in parts:
        start = len(told.samples)
        for sample in part:
            other, reason = told.tell(sample, part.source)
            if reason:
                raise InputError(
                    f"{sample.path!r} of {part.source} is in {other} too, with {reason}: keep "
                    "one of them."
                )
        fresh = told.samples[start:]
        if len(fresh) < len(part):
            _log.warning(
                "%s: left out %d images that were given before", part.source, len(part) - len(fresh)
            )
        joined += Manifest(fresh, part.source)
    return joined


class _Told(Generic[P]):
    """Samples, each once, and the places that they were told at: lines, or files."""

    def __init__(self, *, label_only: bool) -> None:
        self.samples: list[Sample] = []
        self.places: list[P] = []
        self._label_only = label_only
        self._first: dict[str, int] = {}
        self._known: dict[_Role, int] = {}  # of the paths that are there twice only

    def tell(self, sample: Sample, place: P) -> tuple[P | None, str]:
        """Take a sample.

        Where it is about an image that was told of before: that place, and what the two say
        differently, "" if the sample is left out since it repeats that one.
        """
        new = len(self.samples)
        at = self._first.setdefault(sample.path, new)
        if at < new:
            one = self.samples[at]
            if reason := _disagreement(one, sample, self._label_only):
                return self.places[at], reason
            self._known.setdefault(_role(one), at)
            at = self._known.setdefault(_role(sample), new)
            if at < new:
                return self.places[at], ""
        self.samples.append(sample)
        self.places.append(place)
        return None, ""


def _role(sample: Sample) -> _Role:
    """What an image is there for: it may serve several purposes, in a row for each.

    A real image can be compared with the fakes of several generators.
    """
    generator = sample.generator if sample.label == REAL else ""
    return sample.path, sample.split, sample.test_set, generator


def _disagreement(one: Sample, other: Sample, label_only: bool) -> str:
    """What two samples of one image say differently, "" if nothing that counts."""
    words = {"label": "label"}
    if not label_only:
        words |= _UNIQUE if one.label == REAL else _UNIQUE | _OF_FAKES
    differing = (what for name, what in words.items() if getattr(one, name) != getattr(other, name))
    what = next(differing, "")
    return f"another {what}" if what else ""


def _require_files(paths: Sequence[str], source: str | Path, unit: str, lines: list[int]) -> None:
    """Raise InputError, with the first and the count, if nothing is there by the name of a path.

    Whether it is an image, and a link leads to one, is asked when it is decoded.
    """
    # A network's file system takes its time for each, so many are asked for at once.
    with ThreadPool(_ASKED_AT_ONCE) as pool:
        found = progress_bar(
            pool.imap(os.path.lexists, paths, chunksize=256),
            total=len(paths),
            desc="finding files",
            unit="file",
            delay=_SILENT_FOR,
            disable=not is_main_process(),
        )
        missing = [i for i, there in enumerate(found) if not there]
    if missing:
        first = missing[0]
        raise InputError(
            f"{len(missing)} of the {len(paths)} images of {source} do not exist, the first is "
            f"{paths[first]!r} ({unit} {lines[first]}): fix the paths or give another --data-root."
        )


def find_maps(given: str | Path | None, *places: Path) -> tuple[Path | None, bool]:
    """The folder of human maps, and whether it was asked for."""
    if given is not None:
        return absolute(given), True
    return next(filter(None, map(_maps_in, dict.fromkeys(places))), None), False


def _maps_in(place: Path) -> Path | None:
    # A folder of a million images is not listed for what has its usual name.
    if (usual := place / HEATMAPS).is_dir():
        return usual
    return next(iter(folders_called(place, (HEATMAPS,))), None)


def folders_called(place: Path, names: Collection[str]) -> list[Path]:
    """The folders in ``place`` that have one of the names in any case, small letters first."""
    try:
        with os.scandir(place) as entries:
            found = [e.name for e in entries if e.name.casefold() in names and _is_folder(e)]
    except OSError:
        return []
    return [place / name for name in sorted(found, reverse=True)]


def with_maps(manifest: Manifest, root: Path, folder: Path, *, required: bool) -> Manifest:
    """Give the samples their human maps from a folder or a COCO file.

    A map belongs to the image at the same path relative to ``root`` or, if it lies directly in the
    folder, to the image of the same base name, the extension apart. If several images have that
    name, it is the training image's. Those of several annotators are averaged, see
    :func:`focus.data.maps.map_references`. Maps of no image are counted in a warning, unless they
    all are: those are of other data; see :func:`maps_may_be_shared`, within which a map that an
    image of an earlier source has is no other's by its base name. Raises InputError if that does
    not settle it or, when ``required``, if no map belongs to any image of all sources.
    """
    if not folder.is_dir() and folder.suffix.lower() != ".json":
        raise InputError(
            f"The human maps {folder} are neither a folder nor a .json file: give other --heatmaps."
        )
    by_name = _names(manifest)
    in_training = _names(manifest.split("train"))
    below_root = {sample.path: _below(sample.path, root) for sample in manifest}
    files = images_below(folder) if folder.is_dir() else ()
    maps = map_references(folder, files, {*by_name, *below_root.values()}, root)

    # By its base name alone a map is an image's of what was read before: of ``--data``.
    before = (_uses.get() or {}).get(folder, [])
    image_of = {file: image for use in before for file, image in use.images.items()}

    def map_of(sample: Sample) -> str | None:
        path = Path(sample.path)
        mirrored = maps.get(below_root[sample.path])
        if mirrored is not None:
            return mirrored
        flat = maps.get(path.stem)
        if flat is None:
            return None
        if {image_of.get(file, sample.path) for file in _map_files([flat], folder)} != {
            sample.path
        }:
            return None
        if by_name[path.stem] == 1:
            return flat
        if in_training[path.stem] == 1:
            return flat if sample.split == "train" else None
        raise InputError(
            f"The human map {flat!r} could belong to {by_name[path.stem]} images, one of them "
            f"{sample.path!r}: put the maps into folders like those of the images."
        )

    found = [replace(s, map_path=map_of(s) or s.map_path) for s in manifest]
    use = Use(
        manifest.source,
        _map_files(maps.values(), folder),
        {file: sample.path for sample in found for file in _map_files([sample.map_path], folder)},
        required,
    )
    if (shared_by := _uses.get()) is None:
        _look_at_uses(folder, [use])
    else:
        shared_by.setdefault(folder, []).append(use)
    sharing = Counter(below_root.values())
    if shared := [s for s in found if maps.get(name := below_root[s.path]) and sharing[name] > 1]:
        _log.warning(
            "the human map %r is that of %d images, whose names differ in the extension alone, one "
            "of them %r: rename them if it is not",
            *(shared[0].map_path, sharing[below_root[shared[0].path]], shared[0].path),
        )
    return Manifest(found, manifest.source)


class Use(NamedTuple):
    """The maps that were there for the images of one source, and the image of each they have.

    required: some map must be an image's.
    """

    source: str
    files: list[str]
    images: dict[str, str]
    required: bool


_uses: ContextVar[dict[Path, list[Use]] | None] = ContextVar("uses of folders", default=None)


@contextmanager
def maps_may_be_shared() -> Iterator[dict[Path, list[Use]]]:
    """Warn of maps of no image only after all paths are read: one folder may serve several.

    Gives the uses of each folder, or COCO file, whose maps are found by the images' names. Raises
    InputError at its end if a folder that was asked for has no map of any image.
    """
    if (outer := _uses.get()) is not None:
        yield outer
        return
    uses: dict[Path, list[Use]] = {}
    token = _uses.set(uses)
    try:
        yield uses
    finally:
        _uses.reset(token)
    for folder, of_sources in uses.items():
        _look_at_uses(folder, of_sources)


def _map_files(references: Iterable[str | None], folder: Path) -> list[str]:
    """The files of maps, since annotators' are joined by the images; of a COCO file its images."""
    given = filter(None, references)
    return [f for r in given for f in files_of(r)] if folder.is_dir() else list(given)


def odd_maps(uses: Sequence[Use]) -> list[str]:
    """The maps of one folder that belong to no image; none if they all do not: of other data."""
    files = dict.fromkeys(file for use in uses for file in use.files)
    used = {file for use in uses for file in use.images}
    without = [file for file in files if file not in used]
    return without if len(without) < len(files) else []


def _look_at_uses(folder: Path, uses: Sequence[Use]) -> None:
    sources = ", ".join(use.source for use in uses)
    if any(use.required for use in uses) and not any(use.images for use in uses):
        raise InputError(
            f"None of the {len(uses[0].files)} human maps in {folder} has the name of an image of "
            f"{sources}: name each human map as its image."
        )
    if without := odd_maps(uses):
        n_files = len({file for use in uses for file in use.files})
        _log.warning(
            "%d of %d human maps in %s belong to no image of %s, the first is %r",
            *(len(without), n_files, folder),
            *(sources, without[0]),
        )


def _below(path: str, root: Path) -> str:
    """The path below ``root`` without extension, "" if it is not there."""
    whole = Path(path)
    return str(whole.relative_to(root).with_suffix("")) if whole.is_relative_to(root) else ""


def _names(manifest: Manifest) -> Counter[str]:
    """How many different images have each base name."""
    return Counter(Path(path).stem for path in {sample.path for sample in manifest})

"""Cut the faces out of images and of their maps alike: ``python -m focus.data crop PATH ...``.

The folder that is written holds ``manifest.csv``, which ``train.py --data`` takes, ``images``,
``maps`` and ``masks`` as PNG, ``no_face.csv`` and ``bad_files.csv``; and ``crop.json``, by which a
crop that goes on is known to be the same.
"""

import hashlib
import json
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from focus.config.data import CropConfig
from focus.config.shared import DataConfig
from focus.config.train import TrainConfig
from focus.data.bad_files import BAD_FILES, BadFile, Role, write_bad_files
from focus.data.faces import (
    DETECTORS,
    GEOMETRY,
    GIVEN,
    Box,
    detector,
    geometry,
    largest,
    window,
)
from focus.data.images import load_image, load_map, reason
from focus.data.manifest import Manifest
from focus.data.maps import Map, human_map, resized
from focus.data.readers import read_given, refuse_inside
from focus.data.splits import common_folder
from focus.errors import ImageError, InputError
from focus.runtime.files import atomic_csv_writer, atomic_write, check_empty
from focus.runtime.machine import usable_cores
from focus.runtime.progress import progress_bar
from focus.runtime.signals import Stopped

MANIFEST, NO_FACE, CROP = "manifest.csv", "no_face.csv", "crop.json"
_VERSION = 1
_NO_FACE_MARKER = "# focus-no-face 1"
_LOADERS: Mapping[Role, Callable[[str], Map]] = {"map": human_map, "mask": load_map}

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cut:
    """What became of the images of a manifest.

    faces: the manifest of the faces. no_face: the images without one, with the reason. bad: what
    could not be decoded.
    """

    faces: Manifest
    no_face: list[tuple[str, str]]
    bad: list[BadFile]


def crop(config: CropConfig) -> None:
    """Cut, write and print; raises InputError for what cannot be used."""
    output = Path(str(config.output))
    refuse_inside(output, config.data)
    data = TrainConfig(**{each.name: getattr(config, each.name) for each in fields(DataConfig)})
    manifest, _ = read_given(data, allow_unlabelled=True, name_fakes=False)
    boxes = any(sample.box is not None for sample in manifest)
    try:
        cut = cut_faces(
            manifest,
            output,
            source=config.faces or (GIVEN if boxes else next(iter(DETECTORS))),
            margin=config.margin,
            threads=config.threads,
            resume=config.resume,
        )
    except KeyboardInterrupt as error:
        said = "stopped; the same command with --resume goes on."
        raise Stopped(signal.SIGINT, said) from error
    print(f"{len(cut.faces)} of {len(manifest)} faces: {output / MANIFEST}")
    for found, name in ((cut.no_face, NO_FACE), (cut.bad, BAD_FILES)):
        if found:
            print(f"left out {len(found)}: {output / name}")


def cut_faces(
    manifest: Manifest,
    output: str | Path,
    *,
    source: str,
    margin: float,
    threads: int | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Cut:
    """Cut the largest face of each image out, with its human map and its artefact mask.

    source: "box", or a detector's name. The manifest that is written keeps all that is known of a
    sample but its box, and names the geometry in a column. Rows of one image and one box share the
    file that is written: as two files, they could come into two splits. A map takes the size of its
    image and 16 bits; each of its pixels is the mean of what it covers. Images are stored without
    loss. resume: keep the faces that an earlier call with the same arguments has written.

    Raises InputError if the folder holds something else, if the images are cut out already, or if
    no face is found at all; OSError with the path if a file cannot be written.
    """
    if any(GEOMETRY in sample.extra for sample in manifest):
        raise InputError(
            f"The images of {manifest.source} are cut out already, as their column {GEOMETRY!r} "
            "says: give the whole images."
        )
    way = geometry(source, margin)
    faces = _faces(manifest, given=source == GIVEN)
    _warn_of_turned_boxes(faces, manifest.source)
    cutter = _Cutter(Path(output).absolute(), source, margin)
    _begin(cutter.folder, way, faces, resume=resume)
    with ThreadPool(threads or usable_cores()) as pool:
        cuts = pool.imap(cutter, faces)
        title = {"desc": "cutting faces", "unit": "image", "disable": not progress}
        outcomes = list(zip(faces, progress_bar(cuts, total=len(faces), **title), strict=True))
    samples = {
        row: replace(
            manifest[row],
            path=outcome.written["image"],
            map_path=outcome.written.get("map"),
            mask_path=outcome.written.get("mask"),
            box=None,
            extra={**manifest[row].extra, GEOMETRY: way},
        )
        for face, outcome in outcomes
        if outcome.written
        for row in face.rows
    }
    cut = Cut(
        Manifest((samples[row] for row in sorted(samples)), str(cutter.folder / MANIFEST)),
        [(face.path, outcome.why) for face, outcome in outcomes if outcome.why],
        list(dict.fromkeys(file for _, outcome in outcomes for file in outcome.bad)),
    )
    for file in cut.bad:
        _log.warning("left out the %s %r: %s", file.role, file.path, file.reason)
    # Those that an earlier run wrote are of what it found.
    for name in (BAD_FILES, NO_FACE):
        (cutter.folder / name).unlink(missing_ok=True)
    if cut.bad:
        write_bad_files(cut.bad, cutter.folder / BAD_FILES)
    if cut.no_face:
        with atomic_csv_writer(cutter.folder / NO_FACE, _NO_FACE_MARKER) as writer:
            writer.writerow(("path", "reason"))
            writer.writerows(cut.no_face)
    if not cut.faces:
        raise InputError(
            f"None of the {len(manifest)} images of {manifest.source} gave a face by {source!r}: "
            f"see what was written to {cutter.folder}, and give another --faces and --output."
        )
    cut.faces.to_csv(cutter.folder / MANIFEST)
    return cut


@dataclass(frozen=True)
class _Face:
    """One face to cut out. name: of its files. maps: its map and mask. rows: of the manifest."""

    path: str
    box: Box | None
    name: str
    maps: dict[Role, str] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class _Outcome:
    """The files written for a face, by role; without an image, why there is none, or a bad file."""

    written: Mapping[Role, str] = field(default_factory=dict)
    why: str = ""
    bad: tuple[BadFile, ...] = ()


class _Cutter:
    """Cuts one face and what belongs to it; several threads may call it."""

    def __init__(self, folder: Path, source: str, margin: float) -> None:
        self.folder = folder
        self._source, self._margin = source, margin
        self._own = threading.local()
        if source != GIVEN:
            detector(source)  # an unknown one is refused here, not by a thread

    def __call__(self, face: _Face) -> _Outcome:
        roles: tuple[Role, ...] = ("image", *face.maps)
        paths = {role: self.folder / f"{role}s" / face.name for role in roles}
        # A power cut can leave files that are empty.
        if all(path.is_file() and path.stat().st_size for path in paths.values()):
            return _Outcome({role: str(path) for role, path in paths.items()})
        try:
            image = load_image(face.path)
        except ImageError as error:
            return _Outcome(bad=(BadFile.of(face.path, "image", error),))
        try:
            box = largest(self._boxes(face, image))
            square = None if box is None else window(box, self._margin, image.size)
        except Exception as error:  # a detector of one's own raises anything, or gives no boxes
            kind = type(error).__name__
            return _Outcome(why=f"{self._source} failed ({kind}: {reason(face.path, error)})")
        if box is None:
            return _Outcome(why="no box" if self._source == GIVEN else "no face found")
        if square is None:
            return _Outcome(why=f"the box {box} is empty or outside the image")
        bad: list[BadFile] = []
        written: dict[Role, str] = {}
        for role, reference in face.maps.items():
            try:
                values = _LOADERS[role](reference)
            except ImageError as error:
                bad.append(BadFile.of(reference, role, error))
            else:
                written[role] = _save(_cut_grey(values, square, image.size), paths[role])
        written["image"] = _save(image.crop(square), paths["image"])
        return _Outcome(written, bad=tuple(bad))

    def _boxes(self, face: _Face, image: Image.Image) -> list[Box]:
        if self._source == GIVEN:
            return [] if face.box is None else [face.box]
        if not hasattr(self._own, "detect"):
            self._own.detect = detector(self._source)
        return list(self._own.detect(image))


def _save(image: Image.Image, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, flushed=False) as aside:
        image.save(aside, format="PNG", compress_level=1)  # quick, still lossless
    return str(path)


def _cut_grey(values: Map, square: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """Return the part of a map in ``square`` of an image of ``size``, in 16 bits, at its size."""
    height, width = values.shape
    across, down = width / size[0], height / size[1]
    left, top, right, bottom = square
    part = resized(
        values,
        (right - left, bottom - top),
        (left * across, top * down, right * across, bottom * down),
    )
    return Image.fromarray((part * 65535).round().clip(0, 65535).astype(np.uint16))


def _faces(manifest: Manifest, *, given: bool) -> list[_Face]:
    """Return the faces to cut out, each once. given: the boxes count, not a detector's."""
    root = common_folder(sample.path for sample in manifest)
    faces: dict[tuple[str, Box | None], _Face] = {}
    taken: set[str] = set()
    for row, sample in enumerate(manifest):
        key = sample.path, sample.box if given else None
        if key not in faces:
            plain = PurePath(sample.path.removeprefix(root).lstrip(os.sep)).with_suffix("")
            name, number = f"{plain}.png", 1
            # Some file systems do not tell upper from lower case.
            while name.casefold() in taken:
                number += 1
                name = f"{plain}-{number}.png"
            taken.add(name.casefold())
            faces[key] = _Face(*key, name)
        faces[key].rows.append(row)
        if sample.map_path is not None:
            faces[key].maps.setdefault("map", sample.map_path)
        if sample.mask_path is not None:
            faces[key].maps.setdefault("mask", sample.mask_path)
    return list(faces.values())


def _warn_of_turned_boxes(faces: Sequence[_Face], source: str) -> None:
    """Warn of boxes whose order shows that width and height were given: all are cut wrongly."""
    boxes = [(face.path, face.box) for face in faces if face.box is not None]
    turned = [(path, box) for path, box in boxes if box[2] < box[0] or box[3] < box[1]]
    if turned:
        path, box = turned[0]
        _log.warning(
            "%d of %d boxes of %s end before they begin, the first is %s of %r: a box is left top "
            "right bottom, so if these are left top width height, all faces are cut wrongly; add "
            "left to width and top to height",
            *(len(turned), len(boxes), source, " ".join(f"{side:g}" for side in box), path),
        )


def _begin(folder: Path, way: str, faces: Sequence[_Face], *, resume: bool) -> None:
    """Make the folder and ``crop.json``, or with ``resume`` check that it is of the same crop."""
    digest = hashlib.blake2b(digest_size=16)
    for face in faces:
        digest.update(repr((face.path, face.box, face.name, face.maps)).encode(errors="replace"))
    crop = {"version": _VERSION, "geometry": way, "data": digest.hexdigest()}
    path = folder / CROP
    try:
        if resume and path.exists():
            if json.loads(path.read_bytes()) != crop:
                raise InputError(
                    f"The crop in {folder} was begun with other images, --faces or --margin than "
                    "these: give the same, or another --output."
                )
            for part in folder.glob("*/**/*.part"):  # of a process that was killed
                part.unlink()
        else:
            check_empty(folder)
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(crop) + "\n", encoding="utf-8")
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"Cannot write to {folder} ({error}): give another --output.") from error

"""Cut the faces out of images and of their maps alike: ``focus data crop PATH ...``.

The folder that is written holds ``manifest.csv``, which ``focus train --data`` takes, ``images``,
``maps`` and ``masks`` as PNG, ``no_face.csv`` and ``bad_files.csv``; and ``crop.json``, by which a
crop that goes on is known to be the same.
"""

import logging
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image

from focus.config.data import CropConfig
from focus.data.bad_files import write_bad_files
from focus.data.file_pass import BadFile
from focus.data.images import (
    BAD_FILES,
    is_written,
    load_image,
    load_map,
    read_unchanged,
    reason,
    save_image,
)
from focus.data.making.faces import (
    BOXES,
    DETECTORS,
    NO_FACE,
    FaceDetector,
    Square,
    Way,
    detector,
    largest,
    window,
    write_no_face,
)
from focus.data.making.sources import Sources, file_digests, source_digest
from focus.data.manifest import GEOMETRY, Box, Manifest, absolute
from focus.data.maps import Map, human_map, resized
from focus.data.named_files import Role
from focus.data.readers import read_given, refuse_inside
from focus.data.splits import common_folder
from focus.errors import ImageError, InputError
from focus.findings import print_findings
from focus.runtime.files import begin, digest, sole_writer
from focus.runtime.machine import usable_cores
from focus.runtime.progress import progress_bar

MANIFEST, CROP = "manifest.csv", "crop.json"
_VERSION = 1

_log = logging.getLogger(__name__)


class Cut(NamedTuple):
    """What became of the images of a manifest.

    faces: The faces that were cut out. no_face: The path of each image without one, and why. bad:
    The files that cannot be decoded.
    """

    faces: Manifest
    no_face: list[tuple[str, str]]
    bad: list[BadFile]


def crop(config: CropConfig) -> None:
    """Cut, write and print; raises InputError for what cannot be used.

    The exit code is 1 if most images gave no face.
    """
    output = Path(str(config.output))
    refuse_inside(output, config.data)
    listing = read_given(config, allow_unlabelled=True, name_fakes=False)
    print_findings(listing.findings)
    manifest = listing.data
    has_boxes = any(sample.box is not None for sample in manifest)
    usual_source = BOXES if has_boxes else next(iter(DETECTORS))

    with sole_writer(output):
        cut = cut_faces(
            manifest,
            output,
            source=config.faces or usual_source,
            margin=config.margin,
            threads=config.threads,
            resume=config.resume,
        )

    print(f"{len(cut.faces)} of {len(manifest)} faces: {output / MANIFEST}")
    if cut.no_face:
        print(f"left out {len(cut.no_face)}: {output / NO_FACE}")
    if cut.bad:
        print(f"left out {len(cut.bad)}: {output / BAD_FILES}")
    if 2 * len(cut.faces) < len(manifest):
        print("most images gave no face: try another --faces, or give boxes in a column `box`")
        raise SystemExit(1)


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
    loss. resume: keep the faces that an earlier call with the same arguments has written of the
    same content.

    Raises InputError if the folder holds something else, if the images are cut out already, or if
    no face is found at all; OSError with the path if a file cannot be written.
    """
    if any(GEOMETRY in sample.extra for sample in manifest):
        raise InputError(
            f"The images of {manifest.source} are cut out already, as their column {GEOMETRY!r} "
            "says: give the whole images."
        )
    way = Way(source, margin)
    folder = absolute(output)
    faces = _faces_to_cut(manifest, by_boxes=source == BOXES)
    _warn_of_turned_boxes(faces, manifest.source)
    detect = None if source == BOXES else detector(source)

    data = digest((face.path, face.box, face.name, face.maps) for face in faces)
    begin(folder, CROP, {"version": _VERSION, "geometry": str(way), "data": data}, resume=resume)
    cutter = _Cutter(folder, way, detect, Sources(folder))
    with ThreadPool(threads or usable_cores()) as pool:
        results = list(
            progress_bar(
                pool.imap(cutter.cut, faces),
                total=len(faces),
                desc="cutting faces",
                unit="image",
                disable=not progress,
            )
        )

    cut = Cut(
        faces=_manifest_of_faces(manifest, faces, results, cutter),
        no_face=[
            (face.path, result.no_face)
            for face, result in zip(faces, results, strict=True)
            if result.no_face
        ],
        bad=list(dict.fromkeys(file for result in results for file in result.bad)),
    )
    _write_left_out(cut, folder)
    if not cut.faces:
        raise InputError(
            f"None of the {len(manifest)} images of {manifest.source} gave a face by {source!r}: "
            f"see what was written to {folder}, and give another --faces and --output."
        )
    cut.faces.to_csv(folder / MANIFEST)
    return cut


@dataclass
class _Face:
    """A face to cut out.

    box: The manifest's, None where a detector is to find it. name: That of its files, in the folder
    of each role. maps: Its human map and its artefact mask. rows: Those of the manifest that it
    stands for.
    """

    path: str
    box: Box | None
    name: str
    maps: dict[Role, str] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)


class _Result(NamedTuple):
    """What became of a face.

    files: The files that are written of it, by role; none if there is no face. no_face: Why there
    is none. bad: The files that cannot be decoded.
    """

    files: Mapping[Role, str] = {}
    no_face: str = ""
    bad: tuple[BadFile, ...] = ()


class _NoFace(Exception):
    """An image has no face to cut out; the message says why."""


@dataclass(frozen=True)
class _Cutter:
    """Cuts faces out, with what belongs to them; threads share one.

    detect: None to take the boxes of the manifest. sources: What the files in ``folder`` were made
    of.
    """

    folder: Path
    way: Way
    detect: FaceDetector | None
    sources: Sources

    def cut(self, face: _Face) -> _Result:
        """Cut a face, its map and its mask out, unless that is done of the same content."""
        inputs: dict[Role, str] = {"image": face.path, **face.maps}
        paths = {role: self.folder / f"{role}s" / face.name for role in inputs}
        digests = file_digests(inputs)
        content = source_digest(digests)
        if is_written(*paths.values()) and self.sources.digest_of(face.name) == content:
            return _Result({role: str(path) for role, path in paths.items()})
        for path in paths.values():
            path.unlink(missing_ok=True)

        try:
            image = load_image(face.path, *read_unchanged([face.path], digests["image"]))
        except ImageError as error:
            return _Result(bad=(BadFile.of(face.path, "image", error),))
        try:
            square = self._square(face, image)
        except _NoFace as error:
            return _Result(no_face=str(error))

        files: dict[Role, str] = {}
        bad = []
        for role, reference in face.maps.items():
            try:
                values = _map_values(role, reference, digests[role])
            except ImageError as error:
                bad.append(BadFile.of(reference, role, error))
                continue
            _save(_cut_grey(values, square, image.size), paths[role])
            files[role] = str(paths[role])
        _save(image.crop(square), paths["image"])
        files["image"] = str(paths["image"])
        self.sources.record(face.name, content)
        return _Result(files, bad=tuple(bad))

    def _square(self, face: _Face, image: Image.Image) -> Square:
        """Return the square to cut out of an image; raises _NoFace."""
        try:
            box = largest(self.detect(image)) if self.detect else face.box
            square = window(box, self.way.margin, image.size) if box else None
        except Exception as error:  # a user's own detector raises anything, or gives no boxes
            raise _NoFace(
                f"{self.way.source} failed ({type(error).__name__}: {reason(face.path, error)})"
            ) from error
        if not box:
            raise _NoFace("no face found" if self.detect else "no box")
        if square is None:
            raise _NoFace(f"the box {box} is empty or outside the image")
        return square


def _manifest_of_faces(
    manifest: Manifest, faces: Sequence[_Face], results: Sequence[_Result], cutter: _Cutter
) -> Manifest:
    """Return the rows of a manifest whose faces are cut out, with the paths of what is written."""
    samples = {}
    for face, result in zip(faces, results, strict=True):
        if not result.files:
            continue
        for row in face.rows:
            samples[row] = replace(
                manifest[row],
                path=result.files["image"],
                human_map=result.files.get("map"),
                mask_path=result.files.get("mask"),
                box=None,
                extra={**manifest[row].extra, GEOMETRY: str(cutter.way)},
            )
    in_order = (samples[row] for row in sorted(samples))
    return Manifest(in_order, str(cutter.folder / MANIFEST))


def _write_left_out(cut: Cut, folder: Path) -> None:
    """Write the tables of what is left out, warn of bad files, and remove older tables."""
    for file in cut.bad:
        _log.warning("left out the %s %r: %s", file.role, file.path, file.reason)
    for name in (BAD_FILES, NO_FACE):
        (folder / name).unlink(missing_ok=True)
    if cut.bad:
        write_bad_files(cut.bad, folder / BAD_FILES)
    if cut.no_face:
        write_no_face(cut.no_face, folder)


def _save(image: Image.Image, path: Path) -> None:
    """Write a PNG, quickly and still without loss."""
    save_image(image, path, format="PNG", compress_level=1)


def _map_values(role: Role, reference: str, content: str) -> Map:
    """Return a human map or an artefact mask, whose file has this digest; raises ImageError."""
    if role == "map":
        return human_map(reference, content)
    return load_map(reference, *read_unchanged([reference], content))


def _cut_grey(values: Map, square: Square, size: tuple[int, int]) -> Image.Image:
    """Return the part of a map in ``square`` of an image of ``size``, in 16 bits, at its size."""
    height, width = values.shape
    across, down = width / size[0], height / size[1]
    left, top, right, bottom = square
    box = (left * across, top * down, right * across, bottom * down)
    part = resized(values, (right - left, bottom - top), box)
    return Image.fromarray((part * 65535).round().clip(0, 65535).astype(np.uint16))


def _faces_to_cut(manifest: Manifest, *, by_boxes: bool) -> list[_Face]:
    """Return the faces to cut out, one for all rows of the same image.

    by_boxes: Whether the manifest's boxes are cut out: then each box of an image is a face.
    """
    root = common_folder(sample.path for sample in manifest)
    faces: dict[tuple[str, Box | None], _Face] = {}
    used_names: set[str] = set()
    for row, sample in enumerate(manifest):
        box = sample.box if by_boxes else None
        face = faces.get((sample.path, box))
        if face is None:
            stem = PurePath(sample.path.removeprefix(root).lstrip(os.sep)).with_suffix("")
            face = _Face(sample.path, box, _unused_name(stem, used_names))
            used_names.add(face.name.casefold())
            faces[sample.path, box] = face

        face.rows.append(row)
        if sample.human_map is not None:
            face.maps.setdefault("map", sample.human_map)
        if sample.mask_path is not None:
            face.maps.setdefault("mask", sample.mask_path)
    return list(faces.values())


def _unused_name(stem: PurePath, used_names: Set[str]) -> str:
    """Return a name for a PNG that is not used, in small letters: file systems may ignore case."""
    name, number = f"{stem}.png", 1
    while name.casefold() in used_names:
        number += 1
        name = f"{stem}-{number}.png"
    return name


def _warn_of_turned_boxes(faces: Sequence[_Face], source: str) -> None:
    """Warn of boxes whose order shows that width and height were given: all are cut wrongly."""
    boxes = [face.box for face in faces if face.box is not None]
    turned_boxes = [box for box in boxes if box[2] < box[0] or box[3] < box[1]]
    if turned_boxes:
        _log.warning(
            "%d of %d boxes of %s end before they begin, the first is %s: a box is left top right "
            "bottom, so if these are left top width height, all faces are cut wrongly; add left to "
            "width and top to height",
            len(turned_boxes),
            len(boxes),
            source,
            " ".join(f"{side:g}" for side in turned_boxes[0]),
        )

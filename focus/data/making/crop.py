"""Cut the faces out of images and of their maps alike: ``focus data crop PATH ...``.

The folder that is written holds ``manifest.csv``, which ``focus train --data`` takes, ``images``,
``maps`` and ``masks`` as PNG, ``no_face.csv`` and ``bad_files.csv``; and ``crop.json``, by which a
crop that goes on is known to be the same.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image

from focus.config.data import CropConfig
from focus.data.bad_files import write_bad_files
from focus.data.file_pass import BadFile, Role
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
    DETECTORS,
    GIVEN,
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
    """The manifest of the faces, the images without one and why, the files that are bad."""

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
    boxes = any(sample.box is not None for sample in manifest)
    with sole_writer(output):
        cut = cut_faces(
            manifest,
            output,
            source=config.faces or (GIVEN if boxes else next(iter(DETECTORS))),
            margin=config.margin,
            threads=config.threads,
            resume=config.resume,
        )
    print(f"{len(cut.faces)} of {len(manifest)} faces: {output / MANIFEST}")
    for found, name in ((cut.no_face, NO_FACE), (cut.bad, BAD_FILES)):
        if found:
            print(f"left out {len(found)}: {output / name}")
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
    faces = _faces(manifest, given=source == GIVEN)
    _warn_of_turned_boxes(faces, manifest.source)
    detect = None if source == GIVEN else detector(source)

    data = digest((face.path, face.box, face.name, face.maps) for face in faces)
    about = {"version": _VERSION, "geometry": str(way), "data": data}
    begin(folder, CROP, about, resume=resume)
    sources = Sources(folder)

    def cut(face: _Face) -> None:
        _cut(face, folder, way, detect, sources)

    with ThreadPool(threads or usable_cores()) as pool:
        title = {"desc": "cutting faces", "unit": "image", "disable": not progress}
        list(progress_bar(pool.imap(cut, faces), total=len(faces), **title))
    samples = {
        row: replace(
            manifest[row],
            path=face.written["image"],
            human_map=face.written.get("map"),
            mask_path=face.written.get("mask"),
            box=None,
            extra={**manifest[row].extra, GEOMETRY: str(way)},
        )
        for face in faces
        if face.written
        for row in face.rows
    }
    found = Cut(
        Manifest((samples[row] for row in sorted(samples)), str(folder / MANIFEST)),
        [(face.path, face.why) for face in faces if face.why],
        list(dict.fromkeys(file for face in faces for file in face.bad)),
    )
    for file in found.bad:
        _log.warning("left out the %s %r: %s", file.role, file.path, file.reason)
    # Those that an earlier run wrote are of what it found.
    for name in (BAD_FILES, NO_FACE):
        (folder / name).unlink(missing_ok=True)
    if found.bad:
        write_bad_files(found.bad, folder / BAD_FILES)
    if found.no_face:
        write_no_face(found.no_face, folder)
    if not found.faces:
        raise InputError(
            f"None of the {len(manifest)} images of {manifest.source} gave a face by {source!r}: "
            f"see what was written to {folder}, and give another --faces and --output."
        )
    found.faces.to_csv(folder / MANIFEST)
    return found


@dataclass
class _Face:
    """One face to cut out, and what became of it.

    name: of its files. maps: its map and mask. rows: of the manifest. written: its files, by role.
    why: there is no face. bad: files that cannot be decoded.
    """

    path: str
    box: Box | None
    name: str
    maps: dict[Role, str] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    written: dict[Role, str] = field(default_factory=dict)
    why: str = ""
    bad: list[BadFile] = field(default_factory=list)


def _cut(
    face: _Face, folder: Path, way: Way, detect: FaceDetector | None, sources: Sources
) -> None:
    """Cut one face and what belongs to it, unless that is done of the same content.

    detect: None to take its box.
    """
    save = partial(save_image, format="PNG", compress_level=1)  # quick, still lossless
    paths: dict[Role, Path] = {
        role: folder / f"{role}s" / face.name for role in ("image", *face.maps)
    }
    digests = file_digests({"image": face.path, **face.maps})
    content = source_digest(digests)
    if is_written(*paths.values()) and sources.digest_of(face.name) == content:
        face.written = {role: str(path) for role, path in paths.items()}
        return
    for path in paths.values():
        path.unlink(missing_ok=True)
    try:
        image = load_image(face.path, *read_unchanged([face.path], digests["image"]))
    except ImageError as error:
        face.bad.append(BadFile.of(face.path, "image", error))
        return
    try:
        box = largest(detect(image)) if detect else face.box
        square = box and window(box, way.margin, image.size)
    except Exception as error:  # a detector of one's own raises anything, or gives no boxes
        face.why = f"{way.source} failed ({type(error).__name__}: {reason(face.path, error)})"
        return
    if square is None:
        outside = f"the box {box} is empty or outside the image"
        face.why = outside if box else "no face found" if detect else "no box"
        return
    for role, reference in face.maps.items():
        try:
            if role == "map":
                values = human_map(reference, digests[role])
            else:
                values = load_map(reference, *read_unchanged([reference], digests[role]))
        except ImageError as error:
            face.bad.append(BadFile.of(reference, role, error))
        else:
            save(_cut_grey(values, square, image.size), paths[role])
            face.written[role] = str(paths[role])
    save(image.crop(square), paths["image"])
    face.written["image"] = str(paths["image"])
    sources.record(face.name, content)


def _cut_grey(values: Map, square: Square, size: tuple[int, int]) -> Image.Image:
    """Return the part of a map in ``square`` of an image of ``size``, in 16 bits, at its size."""
    height, width = values.shape
    across, down = width / size[0], height / size[1]
    left, top, right, bottom = square
    box = (left * across, top * down, right * across, bottom * down)
    part = resized(values, (right - left, bottom - top), box)
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
        if sample.human_map is not None:
            faces[key].maps.setdefault("map", sample.human_map)
        if sample.mask_path is not None:
            faces[key].maps.setdefault("mask", sample.mask_path)
    return list(faces.values())


def _warn_of_turned_boxes(faces: Sequence[_Face], source: str) -> None:
    """Warn of boxes whose order shows that width and height were given: all are cut wrongly."""
    boxes = [face.box for face in faces if face.box is not None]
    if turned := [box for box in boxes if box[2] < box[0] or box[3] < box[1]]:
        _log.warning(
            "%d of %d boxes of %s end before they begin, the first is %s: a box is left top right "
            "bottom, so if these are left top width height, all faces are cut wrongly; add left to "
            "width and top to height",
            *(len(turned), len(boxes), source, " ".join(f"{side:g}" for side in turned[0])),
        )

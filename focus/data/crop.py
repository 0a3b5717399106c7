"""Cut the faces out of images and of their maps alike: ``python -m focus.data crop PATH``.

The folder that is written holds ``manifest.csv``, which ``train.py --data`` takes, ``images``,
``maps`` and ``masks`` as PNG, ``no_face.csv`` and ``bad_files.csv``.
"""

import csv
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from focus.data.arguments import Arguments
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
from focus.data.machine import usable_cores
from focus.data.manifest import Manifest, Sample
from focus.data.maps import Map, human_map, resized
from focus.data.readers import read_data
from focus.errors import ImageError, InputError

MANIFEST, NO_FACE = "manifest.csv", "no_face.csv"
_NO_FACE_MARKER = "# focus-no-face 1"

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


def main(arguments: Sequence[str]) -> None:
    """Read the command line, cut, write and print; raises InputError for what cannot be used."""
    parser = Arguments(
        "python -m focus.data crop",
        "Cut the faces out of images and of their human maps alike, into a new folder with a "
        "manifest that train.py takes as --data.",
    )
    parser.add_argument("path", metavar="PATH", help="images, in any layout that train.py takes")
    parser.add_argument(
        "--output", required=True, metavar="DIR", help="the folder to write, new or empty"
    )
    parser.add_argument(
        "--margin",
        type=float,
        default=0.3,
        metavar="X",
        help="what is kept around the face on either side, as a share of its longer side "
        "(default: 0.3)",
    )
    parser.add_argument(
        "--faces",
        metavar="NAME",
        help=f"where the faces are: {GIVEN} (the manifest's boxes), {', '.join(DETECTORS)}, or "
        f"module:function of your own (default: {GIVEN} if there is one, else lbp)",
    )
    parser.add_argument("--data-root", metavar="DIR", help="as of train.py")
    parser.add_argument("--heatmaps", metavar="PATH", help="as of train.py")
    parser.add_argument("--threads", type=int, metavar="N", help="default: one per core")
    given = parser.parse_args(arguments)

    if not given.margin >= 0:
        raise InputError(f"--margin must be at least 0, got {given.margin:g}.")
    if given.threads is not None and given.threads < 1:
        raise InputError(f"--threads must be at least 1, got {given.threads}.")
    manifest = read_data(
        given.path, data_root=given.data_root, heatmaps=given.heatmaps, allow_unlabelled=True
    )
    boxes = any(sample.box is not None for sample in manifest)
    cut = cut_faces(
        manifest,
        given.output,
        source=given.faces or (GIVEN if boxes else next(iter(DETECTORS))),
        margin=given.margin,
        threads=given.threads,
    )
    print(f"{len(cut.faces)} of {len(manifest)} faces: {Path(given.output) / MANIFEST}")
    for found, name in ((cut.no_face, NO_FACE), (cut.bad, BAD_FILES)):
        if found:
            print(f"left out {len(found)}: {Path(given.output) / name}")


def cut_faces(
    manifest: Manifest,
    output: str | Path,
    *,
    source: str,
    margin: float,
    threads: int | None = None,
    progress: bool = True,
) -> Cut:
    """Cut the largest face of each image out, with its human map and its artefact mask.

    source: "box", or a detector's name. The manifest that is written keeps all that is known of a
    sample but its box, and names the geometry in a column. A map takes the size of its image and
    16 bits; each of its pixels is the mean of what it covers. Images are stored without loss.

    Raises InputError if the folder holds something, if the images are cut out already, or if no
    face is found at all.
    """
    if any(GEOMETRY in sample.extra for sample in manifest):
        raise InputError(
            f"The images of {manifest.source} are cut out already, as their column {GEOMETRY!r} "
            "says: give the whole images."
        )
    cutter = _Cutter(_new_folder(output), source, margin)
    jobs = list(zip(manifest, _names(manifest), strict=True))
    with ThreadPool(threads or usable_cores()) as pool:
        bar = tqdm(
            pool.imap(cutter, jobs),
            total=len(jobs),
            desc="cutting faces",
            unit="image",
            disable=not progress,
        )
        done = list(bar)
    folder = cutter.folder
    cut = Cut(
        Manifest((one.face for one in done if one.face), str(folder / MANIFEST)),
        [(job[0].path, one.why) for job, one in zip(jobs, done, strict=True) if one.why],
        list(dict.fromkeys(file for one in done for file in one.bad)),
    )
    for file in cut.bad:
        _log.warning("left out the %s %r: %s", file.role, file.path, file.reason)
    if cut.bad:
        write_bad_files(cut.bad, folder / BAD_FILES)
    if cut.no_face:
        _write_no_face(cut.no_face, folder / NO_FACE)
    if not cut.faces:
        raise InputError(
            f"None of the {len(manifest)} images of {manifest.source} gave a face by {source!r}: "
            "see what was written to "
            f"{folder}, and give another --faces."
        )
    cut.faces.to_csv(folder / MANIFEST)
    return cut


class _Outcome(NamedTuple):
    """Of one image: its face, or why there is none (said by ``bad`` if it cannot be decoded)."""

    face: Sample | None = None
    why: str = ""
    bad: tuple[BadFile, ...] = ()


class _Cutter:
    """Cuts one image and what belongs to it; several threads may call it."""

    def __init__(self, folder: Path, source: str, margin: float) -> None:
        self.folder = folder
        self._source, self._margin = source, margin
        self._own = threading.local()
        if source != GIVEN:
            detector(source)  # what is wrong with it is said here, not by a thread

    def __call__(self, job: tuple[Sample, str]) -> _Outcome:
        sample, name = job
        try:
            image = load_image(sample.path)
        except ImageError as error:
            return _Outcome(bad=(_bad(sample.path, "image", error),))
        face = largest(self._boxes(sample, image))
        if face is None:
            return _Outcome(why="no box" if self._source == GIVEN else "no face found")
        square = window(face, self._margin, image.size)
        if square is None:
            return _Outcome(why=f"the box {face} is empty or outside the image")
        bad: list[BadFile] = []
        made: dict[Role, str | None] = {"map": None, "mask": None}
        given: tuple[tuple[Role, str | None, Callable[[str], Map]], ...] = (
            ("map", sample.map_path, human_map),
            ("mask", sample.mask_path, load_map),
        )
        for role, path, load in given:
            if path is not None:
                try:
                    grey = _cut_grey(load(path), square, image.size)
                    made[role] = self._save(grey, f"{role}s", name)
                except ImageError as error:
                    bad.append(_bad(path, role, error))
        cut = replace(
            sample,
            path=self._save(image.crop(square), "images", name),
            map_path=made["map"],
            mask_path=made["mask"],
            box=None,
            extra={**sample.extra, GEOMETRY: geometry(self._source, self._margin)},
        )
        return _Outcome(face=cut, bad=tuple(bad))

    def _boxes(self, sample: Sample, image: Image.Image) -> list[Box]:
        if self._source == GIVEN:
            return [] if sample.box is None else [sample.box]
        if not hasattr(self._own, "detect"):
            self._own.detect = detector(self._source)
        return list(self._own.detect(image))

    def _save(self, image: Image.Image, kind: str, name: str) -> str:
        path = self.folder / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # An image that is there belongs to another sample: names differ. Quick, still lossless.
        image.save(path, format="PNG", compress_level=1)
        return str(path)


def _cut_grey(values: Map, square: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """What a map of an image of ``size`` says of ``square``, 16-bit grey of the square's size."""
    height, width = values.shape
    across, down = width / size[0], height / size[1]
    left, top, right, bottom = square
    part = resized(
        values,
        (right - left, bottom - top),
        (left * across, top * down, right * across, bottom * down),
    )
    return Image.fromarray((part * 65535).round().clip(0, 65535).astype(np.uint16))


def _bad(path: str, role: Role, error: ImageError) -> BadFile:
    return BadFile(path, role, reason(path, error.__cause__ or error))


def _names(manifest: Manifest) -> list[str]:
    """A file name for each sample: its path below the common folder, as PNG, none twice."""
    folders = [os.path.dirname(sample.path) for sample in manifest]  # noqa: PTH120
    try:
        root = os.path.commonpath(folders)
    except ValueError:  # different drives
        root = ""
    taken: set[str] = set()
    names = []
    for sample in manifest:
        plain = PurePath(sample.path.removeprefix(root).lstrip(os.sep)).with_suffix("")
        name, number = f"{plain}.png", 1
        while name in taken:
            number += 1
            name = f"{plain}-{number}.png"
        taken.add(name)
        names.append(name)
    return names


def _new_folder(output: str | Path) -> Path:
    folder = Path(output).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if next(folder.iterdir(), None) is not None:
            raise InputError(f"The folder {folder} holds files already: give another --output.")
    except OSError as error:
        raise InputError(
            f"Cannot write to {folder} ({error.strerror}): give another --output."
        ) from error
    return folder


def _write_no_face(rows: Sequence[tuple[str, str]], path: Path) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        file.write(f"{_NO_FACE_MARKER}\r\n")
        writer = csv.writer(file)
        writer.writerow(("path", "reason"))
        writer.writerows(rows)

"""Cut the faces out of images and of their maps alike: ``python -m focus.data crop PATH ...``.

The folder that is written holds ``manifest.csv``, which ``train.py --data`` takes, ``images``,
``maps`` and ``masks`` as PNG, ``no_face.csv`` and ``bad_files.csv``; and ``crop.jsonl``, by which a
crop that was stopped goes on.
"""

import hashlib
import logging
import os
import signal
import threading
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from focus.config.data import CropConfig
from focus.config.shared import DataConfig
from focus.config.train import TrainConfig
from focus.data.bad_files import BAD_FILES, BadFile, Role, write_bad_files
from focus.data.crop_journal import JOURNAL, Journal
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
from focus.data.manifest import Manifest, Sample
from focus.data.maps import Map, human_map, resized
from focus.data.readers import read_given, refuse_inside
from focus.data.splits import common_folder
from focus.errors import ImageError, InputError
from focus.runtime.files import atomic_csv_writer, check_empty
from focus.runtime.machine import usable_cores
from focus.runtime.progress import progress_bar
from focus.runtime.signals import Stopped

MANIFEST, NO_FACE = "manifest.csv", "no_face.csv"
_NO_FACE_MARKER = "# focus-no-face 1"
_PART = ".part"  # ends the name of a file that is being written
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
    loss. resume: go on with what an earlier call for the same has left in the folder, if it has;
    only undecodable files are read again, and images for which the detector failed.

    Raises InputError if the folder holds something else, if the images are cut out already, or if
    no face is found at all; OSError with the path if a file cannot be written.
    """
    if any(GEOMETRY in sample.extra for sample in manifest):
        raise InputError(
            f"The images of {manifest.source} are cut out already, as their column {GEOMETRY!r} "
            "says: give the whole images."
        )
    cutter = _Cutter(_folder(output, resume=resume), source, margin)
    jobs = _jobs(manifest, given=source == GIVEN)
    _warn_of_turned_boxes(jobs, manifest.source)
    journal = Journal(cutter.folder, geometry(source, margin), _digest(jobs))
    with closing(journal):
        for part in cutter.folder.glob(f"*{_PART}"):  # of a process that was killed
            part.unlink()
        done = _done(cutter, jobs, journal, threads or usable_cores(), progress)
    folder = cutter.folder
    faces = {
        row: face
        for job, one in zip(jobs, done, strict=True)
        for row, face in one.faces(job, geometry(source, margin))
    }
    cut = Cut(
        Manifest((faces[row] for row in sorted(faces)), str(folder / MANIFEST)),
        [(job.path, one.why) for job, one in zip(jobs, done, strict=True) if one.why],
        list(dict.fromkeys(file for one in done for file in one.bad)),
    )
    for file in cut.bad:
        _log.warning("left out the %s %r: %s", file.role, file.path, file.reason)
    # Those that an earlier run wrote are of what it found.
    (folder / BAD_FILES).unlink(missing_ok=True)
    (folder / NO_FACE).unlink(missing_ok=True)
    if cut.bad:
        write_bad_files(cut.bad, folder / BAD_FILES)
    if cut.no_face:
        _write_no_face(cut.no_face, folder / NO_FACE)
    if not cut.faces:
        raise InputError(
            f"None of the {len(manifest)} images of {manifest.source} gave a face by {source!r}: "
            f"see what was written to {folder}, and give another --faces and --output."
        )
    cut.faces.to_csv(folder / MANIFEST)
    return cut


@dataclass(frozen=True)
class _Job:
    """One face to cut out: where it is, and the name that its file gets.

    greys: the names of its maps' and masks' files, by role and reference. rows: the samples that it
    is the face of, by their place in the manifest.
    """

    path: str
    box: Box | None
    name: str
    greys: dict[tuple[Role, str], str] = field(default_factory=dict)
    rows: dict[int, Sample] = field(default_factory=dict)


@dataclass(frozen=True)
class _Outcome:
    """Of one job: the files written, or why there is no face (``bad`` says what is undecodable).

    failed: there is none because the detector raised an error.
    """

    image: str = ""
    greys: Mapping[tuple[Role, str], str] = field(default_factory=dict)
    why: str = ""
    failed: bool = False
    bad: tuple[BadFile, ...] = ()

    def faces(self, job: _Job, way: str) -> Iterable[tuple[int, Sample]]:
        """The samples of the job as they are now, none if there is no face."""
        for row, sample in job.rows.items() if self.image else ():
            yield (
                row,
                replace(
                    sample,
                    path=self.image,
                    map_path=self.greys.get(("map", sample.map_path or "")),
                    mask_path=self.greys.get(("mask", sample.mask_path or "")),
                    box=None,
                    extra={**sample.extra, GEOMETRY: way},
                ),
            )


class _Cutter:
    """Cuts one face and what belongs to it; several threads may call it."""

    def __init__(self, folder: Path, source: str, margin: float) -> None:
        self.folder = folder
        self._source, self._margin = source, margin
        self._own = threading.local()
        if source != GIVEN:
            detector(source)  # what is wrong with it is said here, not by a thread

    def __call__(self, job: _Job) -> _Outcome:
        try:
            image = load_image(job.path)
        except ImageError as error:
            return _Outcome(bad=(BadFile.of(job.path, "image", error),))
        try:
            face = largest(self._boxes(job.box, image))
            square = None if face is None else window(face, self._margin, image.size)
        except Exception as error:  # a detector of one's own raises anything, or gives no boxes
            kind = type(error).__name__
            why = f"{self._source} failed ({kind}: {reason(job.path, error)})"
            return _Outcome(why=why, failed=True)
        if face is None:
            return _Outcome(why="no box" if self._source == GIVEN else "no face found")
        if square is None:
            return _Outcome(why=f"the box {face} is empty or outside the image")
        bad: list[BadFile] = []
        greys: dict[tuple[Role, str], str] = {}
        for (role, reference), name in job.greys.items():
            try:
                grey = _cut_grey(_LOADERS[role](reference), square, image.size)
                greys[role, reference] = self._save(grey, f"{role}s", name)
            except ImageError as error:
                bad.append(BadFile.of(reference, role, error))
        return _Outcome(self._save(image.crop(square), "images", job.name), greys, bad=tuple(bad))

    def before(self, job: _Job) -> _Outcome | None:
        """What an earlier run has written for the job, None if that is not all of it."""
        image = self.folder / "images" / job.name
        greys = {key: self.folder / f"{key[0]}s" / name for key, name in job.greys.items()}
        # A power cut can leave files that are empty.
        if not all(path.is_file() and path.stat().st_size for path in (image, *greys.values())):
            return None
        return _Outcome(str(image), {key: str(path) for key, path in greys.items()})

    def _boxes(self, box: Box | None, image: Image.Image) -> list[Box]:
        if self._source == GIVEN:
            return [] if box is None else [box]
        if not hasattr(self._own, "detect"):
            self._own.detect = detector(self._source)
        return list(self._own.detect(image))

    def _save(self, image: Image.Image, kind: str, name: str) -> str:
        path = self.folder / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not beside it, where a long name would become too long.
        aside = self.folder / f"{os.getpid()}-{threading.get_ident()}{_PART}"
        try:
            # Quick, still lossless.
            image.save(aside, format="PNG", compress_level=1)
            aside.replace(path)
        except OSError as error:
            aside.unlink(missing_ok=True)
            if error.errno is None:  # of Pillow
                raise
            raise OSError(error.errno, error.strerror, str(path)) from error
        return str(path)


def _done(
    cutter: _Cutter, jobs: Sequence[_Job], journal: Journal, threads: int, progress: bool
) -> list[_Outcome]:
    """What becomes of each job; those that are finished in the folder are not done again."""
    done = {name: _Outcome(why=why) for name, why in journal.without_face.items()}
    left = [job for job in jobs if job.name not in done]
    pool = ThreadPool(threads)
    try:
        bar = progress_bar(
            pool.imap(lambda job: cutter.before(job) or cutter(job), left),
            total=len(jobs),
            initial=len(jobs) - len(left),
            desc="cutting faces",
            unit="image",
            disable=not progress,
        )
        for job, outcome in zip(left, bar, strict=True):
            done[job.name] = outcome
            if outcome.why and not outcome.failed:
                journal.note(job.name, outcome.why)
    finally:
        pool.terminate()
        pool.join()  # a file that is being written is finished, or removed
    return [done[job.name] for job in jobs]


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


def _jobs(manifest: Manifest, *, given: bool) -> list[_Job]:
    """The faces to cut out, each once. given: the boxes count, not a detector's."""
    names = _Names(manifest)
    jobs: dict[Hashable, _Job] = {}
    for row, sample in enumerate(manifest):
        box = sample.box if given else None
        face = sample.path, box
        if face not in jobs:
            jobs[face] = _Job(sample.path, box, names.of("images", face, sample.path))
        jobs[face].rows[row] = sample
        references: tuple[tuple[Role, str | None], ...] = (
            ("map", sample.map_path),
            ("mask", sample.mask_path),
        )
        for role, reference in references:
            # Also without one, so that a map is called as its image is.
            name = names.of(f"{role}s", (face, reference), sample.path)
            if reference is not None:
                jobs[face].greys[role, reference] = name
    return list(jobs.values())


def _warn_of_turned_boxes(jobs: Sequence[_Job], source: str) -> None:
    """Of some boxes the order shows: a width or height may be less than where the box begins.

    Then all faces are cut wrongly. An empty box is what some write for no face.
    """
    boxes = [(job.path, job.box) for job in jobs if job.box is not None]
    turned = [(path, box) for path, box in boxes if box[2] < box[0] or box[3] < box[1]]
    if turned:
        path, box = turned[0]
        _log.warning(
            "%d of %d boxes of %s end before they begin, the first is %s of %r: a box is left top "
            "right bottom, so if these are left top width height, all faces are cut wrongly; add "
            "left to width and top to height",
            *(len(turned), len(boxes), source, " ".join(f"{side:g}" for side in box), path),
        )


class _Names:
    """File names for what is cut out: an image's path below the common folder, as PNG."""

    def __init__(self, manifest: Manifest) -> None:
        self._root = common_folder(sample.path for sample in manifest)
        self._known: defaultdict[str, dict[Hashable, str]] = defaultdict(dict)
        self._taken: defaultdict[str, set[str]] = defaultdict(set)

    def of(self, kind: str, what: Hashable, path: str) -> str:
        """The name of ``what`` in the folder ``kind``: the same when asked again, else new."""
        known, taken = self._known[kind], self._taken[kind]
        if what not in known:
            plain = PurePath(path.removeprefix(self._root).lstrip(os.sep)).with_suffix("")
            name, number = f"{plain}.png", 1
            # Some file systems do not tell upper from lower case.
            while name.casefold() in taken:
                number += 1
                name = f"{plain}-{number}.png"
            taken.add(name.casefold())
            known[what] = name
        return known[what]


def _digest(jobs: Sequence[_Job]) -> str:
    """Of what is cut out of which files, and of what that is called."""
    digest = hashlib.blake2b(digest_size=16)
    for job in jobs:
        digest.update(repr((job.path, job.box, job.name, job.greys)).encode(errors="replace"))
    return digest.hexdigest()


def _folder(output: str | Path, *, resume: bool) -> Path:
    """The folder to write, made if need be: new, empty, or with ``resume`` one that was begun."""
    folder = Path(output).absolute()
    begun = (folder / JOURNAL).is_file()
    if begun and not resume:
        raise InputError(
            f"The folder {folder} holds a crop already: give another --output, or --resume to go "
            "on."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not begun:
            check_empty(folder)
    except OSError as error:
        raise InputError(
            f"Cannot write to {folder} ({error.strerror}): give another --output."
        ) from error
    return folder


def _write_no_face(rows: Sequence[tuple[str, str]], path: Path) -> None:
    with atomic_csv_writer(path, _NO_FACE_MARKER) as writer:
        writer.writerow(("path", "reason"))
        writer.writerows(rows)

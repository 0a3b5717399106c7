"""``focus explain``: scores, decisions and CAMs of one's own pictures and videos."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.contrib.logging import logging_redirect_tqdm

import focus
from focus.config.use import ExplainConfig
from focus.data.file_pass import BadFile
from focus.data.images import limit_pixels, load_image
from focus.data.making.faces import Face, FaceDetector, FaceFinder, Seen, face_finder
from focus.data.making.faces import detector as face_detector
from focus.data.making.videos import VIDEO_EXTENSIONS, frames_of, import_av
from focus.data.manifest import (
    GEOMETRY,
    LABEL_NAMES,
    REAL,
    SYNTHETIC,
    WHOLE,
    Manifest,
    Sample,
    absolute,
    box_text,
)
from focus.data.named_files import Role
from focus.data.overlay import lay, marked
from focus.data.readers import refuse_inside
from focus.data.readers.files import IMAGE_EXTENSIONS
from focus.data.readers.folders import images_without_maps
from focus.errors import ImageError, InputError
from focus.evaluation.inference import geometry_warning
from focus.metrics.arrays import evenly
from focus.model.detector import Detector
from focus.model.pictures import as_seen
from focus.model.training_pictures import has_face, sharpness
from focus.plotting import COLOURS
from focus.runtime.files import check_empty, check_writable, sole_writer
from focus.runtime.launch import device_named
from focus.runtime.machine import usable_cores
from focus.runtime.progress import progress_bar
from focus.use.explanations import CAMS, OVERLAYS, CsvRow, Explanations, Item, item_row

_COLOURS = {REAL: COLOURS[0], SYNTHETIC: COLOURS[4]}

T = TypeVar("T")

_log = logging.getLogger(__name__)


def explain(config: ExplainConfig) -> Explanations:
    """Score what the paths hold, and write CAMs, tables and a page.

    A file that cannot be decoded, or in which no face is found, is left out and listed. An
    interrupted run leaves the tables of what it has found, without ``manifest.json``.

    Raises:
        InputError: no model, no file that can be used, or an output folder that holds something
            or lies in a folder to explain; before anything is written.

    Examples:
        Score a picture with the model of a run.

        >>> from focus import ExplainConfig, explain
        >>> paths, model_dir = ("picture.jpg",), "runs/first/model"
        >>> config = ExplainConfig(paths=paths, model_dir=model_dir, output="verdicts")
        >>> (verdict,) = explain(config)
        >>> verdict.row["decision"] in ("real", "synthetic")
        True
        >>> verdict.cams.shape  # of the predicted class and of synthetic
        (1, 2, 8, 8)
    """
    torch.set_num_threads(config.threads or usable_cores())
    device = device_named(config.device)
    limit_pixels(config.max_pixels)
    output = Path(config.output)
    refuse_inside(output, config.paths)
    check_writable(output)
    items = find_items(config.paths, as_video=config.as_video, frames=config.frames)
    detector = Detector.from_pretrained(str(config.model_dir))
    threshold = detector.set_threshold(config.threshold)
    finder = face_finder(config.faces, detector.config.geometry)
    _warn(detector, finder, items)
    about = _about(config, detector, finder)
    face_check = None if finder else _face_check(detector)
    found = Explanations(output, threshold, about, _notes(config, detector, face_check))
    with sole_writer(output):
        check_empty(output)
        try:
            with ThreadPoolExecutor(usable_cores()) as pool:
                find_face = face_check.find if face_check else None
                model = detector.to(device)
                _Explainer(found, config, model, finder, find_face, pool).explain(items)
        finally:
            if found.rows:
                found.save_tables()
        if not found.rows:
            left_out = found.no_face or [(file.path, file.reason) for file in found.bad]
            path, why = left_out[0]
            raise InputError(
                f"None of the {len(items)} files can be used, the first is {path!r} "
                f"({why}): give others{', or --faces none' if found.no_face else ''}."
            )
        found.save()
    return found


def _warn(detector: Detector, finder: FaceFinder | None, items: list[Item]) -> None:
    """Log what makes scores doubtful: a falling calibration, faces cut out in another way."""
    extra = {GEOMETRY: str(finder.way)} if finder else {}
    for warning in (
        detector.points.warning() if detector.points else "",
        geometry_warning(detector, Manifest(Sample(str(i.path), extra=extra) for i in items)),
    ):
        if warning:
            _log.warning(warning)


class _FaceCheck(NamedTuple):
    """What looks whether there is a face in a whole picture.

    find: None if nothing does. why_not: Why nothing does, in a sentence.
    """

    find: FaceDetector | None
    why_not: str = ""


def _face_check(detector: Detector) -> _FaceCheck:
    """Return what looks for faces in whole pictures, as it did in the training images."""
    trained = detector.config.training_pictures
    if trained is None or trained.faces is None:
        return _FaceCheck(
            None,
            "The model was saved without a count of faces in training images. Training counts "
            "them where dlib is installed: pip install 'focus-faces[faces]'.",
        )
    in_training = trained.faces
    if not in_training.usual:
        return _FaceCheck(
            None,
            f"The detector {in_training.detector} found one in only {in_training.n_with_face} of "
            f"{in_training.n_images} training images.",
        )
    try:
        return _FaceCheck(face_detector(in_training.detector))
    except InputError as error:
        return _FaceCheck(None, str(error))


def _notes(config: ExplainConfig, detector: Detector, face_check: _FaceCheck | None) -> list[str]:
    """Return what a reader must know; face_check: None if faces are cut out."""
    how = {
        "squash": "Pictures are taken whole and squashed to",
        "crop": "Of a picture only the middle is seen, as it is:",
    }[detector.config.fit]
    note = (
        f"{how} {detector.image_size} x {detector.image_size} pixels; --faces largest, or all, "
        "cuts the faces out before."
    )
    notes = []
    if face_check is not None:
        if config.faces is None:
            notes.append(note)
        if face_check.find is None:
            notes.append(
                "Whether there is a face in a picture was not checked: whatever it shows gets a "
                f"score. {face_check.why_not}"
            )
    if detector.config.training_pictures is None:
        notes.append(
            "Whether a picture is unlike those of training was not checked: the model was saved "
            "without a summary of what training saw."
        )
    return notes


def find_items(paths: Iterable[str], *, as_video: bool, frames: int) -> list[Item]:
    """Return the images and videos that the paths hold, each once, in their order.

    A folder is walked with all below it, but for folders of maps and masks on top; with
    ``as_video`` it is one video, of whose images ``frames`` are taken.

    Raises InputError if nothing is there by the name of a path, or nothing in a folder, or there is
    a video and PyAV is not installed.
    """
    found: dict[Path, tuple[tuple[int, Path], ...]] = {}
    extensions = IMAGE_EXTENSIONS if as_video else IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
    kinds = "images" if as_video else "images or videos"
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"There is no file or folder {path}: check the path.")
        files = images_without_maps(path, extensions=extensions) if path.is_dir() else [path]
        if not files:
            raise InputError(f"There are no {kinds} in the folder {path}: give another one.")
        if as_video and path.is_dir():
            chosen = evenly(len(files), frames)
            found[absolute(path)] = tuple((number, files[number]) for number in chosen)
        else:
            found |= dict.fromkeys(map(absolute, files), ())
    items = []
    for number, (path, images) in enumerate(found.items(), start=1):
        video = bool(images) or path.suffix.lower() in VIDEO_EXTENSIONS
        items.append(Item(number, path, "video" if video else "image", images))
        if video and not images:
            import_av()
    return items


class _View(NamedTuple):
    """A picture that the detector looks at: an image, or a frame of a video.

    frame: The number of a frame, from 0. at: Its place in the video, in seconds or as the file in a
    folder. picture: CAMs are laid over it; it is ``scale`` times as wide and high as the image.
    pixels: uint8 [3,S,S] of each face. unlike: In what each face is unlike training,
    "" for nothing. seen: The faces; the whole picture is of person 0.
    """

    item: Item
    frame: int | None
    at: str
    picture: Image.Image
    scale: tuple[float, float]
    pixels: dict[Face, Tensor]
    unlike: dict[Face, str]
    seen: list[Seen]


@dataclass(frozen=True)
class _Explainer:
    """Scores items and writes their pictures; what is left out is added to ``found``.

    find_face: Looks whether there is a face in a whole picture; None if that is not checked.
    """

    found: Explanations
    config: ExplainConfig
    detector: Detector
    finder: FaceFinder | None
    find_face: FaceDetector | None
    pool: ThreadPoolExecutor

    def explain(self, items: list[Item]) -> None:
        """Add the rows of all items to ``found``."""
        points = self.detector.points
        calibration = points.calibration if points else None
        with (
            progress_bar(total=len(items), desc="explaining", unit="file") as bar,
            logging_redirect_tqdm(),
        ):
            for item, pairs in groupby(self._scored(items), key=lambda pair: pair[0]):
                faces = defaultdict[Any, list[CsvRow]](list)
                for _, row in pairs:
                    faces[row["face"]].append(row)
                for face, rows in sorted(faces.items()):
                    limit = self.found.threshold.value
                    self.found.rows.append(item_row(item, rows, limit, calibration))
                    if item.kind == "video":
                        self.found.frames[str(item.path), face] = rows
                bar.update()
            bar.update(len(items) - bar.n)

    def _scored(self, items: list[Item]) -> Iterator[tuple[Item, CsvRow]]:
        """Yield the row of each face of each view with its item, as its pictures are written."""
        at_once = self.detector.at_once(self.config.batch_size)
        for batch in _chunks(self._views(items), at_once):
            for place in (OVERLAYS, CAMS):
                (self.found.folder / place).mkdir(parents=True, exist_ok=True)
            predictions: list[tuple[Any, ...]] = []
            for faces in _chunks(((v, s.face) for v in batch for s in v.seen), at_once):
                names = [repr(str(view.item.path)) for view, _ in faces]
                pixels = torch.stack([view.pixels[face] for view, face in faces])
                made = self.detector.predict_pixels(pixels, names)
                fields = (made.score, made.predicted, made.cams, made.entropy)
                predictions += zip(*(field.numpy() for field in fields), strict=True)
            left = iter(predictions)
            of_views = [list(islice(left, len(view.seen))) for view in batch]
            for view, rows in zip(batch, self.pool.map(self._write, batch, of_views), strict=True):
                yield from ((view.item, row) for row in rows)

    def _views(self, items: list[Item]) -> Iterator[_View]:
        """Yield the views with faces of all items."""
        for chunk in _chunks(items, 2 * usable_cores()):
            for item, (views, broken) in zip(chunk, self.pool.map(self._load, chunk), strict=True):
                for file in broken:
                    _log.warning("left out the %s %r: %s", file.role, file.path, file.reason)
                self.found.bad += broken
                with_faces = [view for view in views if view.seen]
                if views and not with_faces:
                    self.found.no_face.append((str(item.path), "no face found"))
                yield from with_faces

    def _load(self, item: Item) -> tuple[list[_View], list[BadFile]]:
        """Return an item's views, and what of it cannot be decoded."""
        views: list[_View] = []
        bad: list[BadFile] = []
        for role, path, pictures in _pictures(item, self.config.frames):
            try:
                for picture in pictures:
                    views.append(self._view(item, *picture))
            except ImageError as error:
                bad.append(BadFile.of(str(path), role, error))
        if self.finder:
            people = self.finder.people([list(view.pixels) for view in views])
            views = [view._replace(seen=seen) for view, seen in zip(views, people, strict=True)]
        return views, bad

    def _view(self, item: Item, frame: int | None, at: str, picture: Image.Image) -> _View:
        whole, how = (0, 0, *picture.size), self.detector.preprocessing
        faces = self.finder(picture) if self.finder else [Face(whole, whole)]
        pixels = {face: as_seen(picture.crop(face.square), how) for face in faces}
        unlike = {face: self._unlike(picture, face, pixels[face]) for face in faces}
        small = picture.copy()
        small.thumbnail((self.config.overlay_size,) * 2, Image.Resampling.LANCZOS)
        scale = small.width / picture.width, small.height / picture.height
        seen = [Seen(0, face) for face in faces]
        return _View(item, frame, at, small, scale, pixels, unlike, seen)

    def _unlike(self, picture: Image.Image, face: Face, pixels: Tensor) -> str:
        """Return in what a face, or a whole picture, is unlike those of training."""
        trained = self.detector.config.training_pictures
        if trained is None:
            return ""
        left, top, right, bottom = face.square
        shorter_side = min(right - left, bottom - top)
        seen_sharpness = sharpness(pixels.permute(1, 2, 0).numpy())
        face_there = has_face(picture, self.find_face) if self.find_face else None
        return trained.unlike(shorter_side, seen_sharpness, face_there)

    def _write(self, view: _View, predictions: list[tuple[Any, ...]]) -> list[CsvRow]:
        """Write the CAM of each face of a view and the overlay of all; return the faces' rows.

        predictions: Score, class, CAMs [2, H, W] and entropies [2] of each face.
        """
        # By the number no two are alike; most file systems take 255 bytes.
        name = f"{view.item.number:06d}-{view.item.path.stem[:70]}"
        name += "" if view.frame is None else f"-frame{view.frame:06d}"
        folder, marks, rows = self.found.folder, [], []
        for seen, (score, predicted, cams, entropy) in zip(view.seen, predictions, strict=True):
            face = f"-face{seen.person}" if seen.person else ""
            places = {"overlay": f"{OVERLAYS}/{name}.png", "cam": f"{CAMS}/{name}{face}.npy"}
            np.save(folder / places["cam"], cams)
            decision = REAL if predicted == REAL else SYNTHETIC
            label = f"{seen.person}: {LABEL_NAMES[decision]} {score:.2f}"
            part = self.detector.preprocessing.part_seen(seen.face.square)
            marks.append((part, cams[0], label, _COLOURS[decision]))
            rows.append(
                {
                    "frame": view.frame,
                    "at": view.at,
                    "face": seen.person or None,
                    "box": box_text(seen.face.box) if seen.person else None,
                    "score": score,
                    "predicted": int(predicted),
                    "entropy_predicted": entropy[0],
                    "entropy_synthetic": entropy[1],
                    **places,
                    "unlike": view.unlike[seen.face],
                }
            )
        laid = marked(view.picture, marks, view.scale) if self.finder else view.picture.copy()
        if self.finder is None:
            lay(laid, *marks[0][:2], view.scale)
        laid.save(folder / f"{OVERLAYS}/{name}.png")
        return rows


def _chunks(things: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(things)
    return iter(lambda: list(islice(left, size)), [])


def _pictures(item: Item, frames: int) -> list[tuple[Role, Path, Iterable[Any]]]:
    """Return an item's files with their pictures, decoded one by one: number, place and image."""
    if item.kind == "image":
        return [("image", item.path, ((None, "", load_image(p)) for p in [item.path]))]
    if item.frames:
        return [
            ("image", path, ((n, p.name, load_image(p)) for n, p in [(number, path)]))
            for number, path in item.frames
        ]
    found = frames_of(item.path, frames)
    return [("video", item.path, ((f.number, f"{f.seconds:.3f}", f.image) for f in found))]


def _about(config: ExplainConfig, detector: Detector, finder: FaceFinder | None) -> dict[str, Any]:
    """Return the head of the manifest."""
    calibration = detector.points.calibration if detector.points else None
    return {
        "focus_version": focus.__version__,
        "date": datetime.now(UTC).date().isoformat(),
        "model": {
            "folder": config.model_dir,
            "sha256": detector.config.weights_sha256,
            "config": asdict(detector.config),
        },
        "threshold": {"point": detector.threshold.name, "value": detector.threshold.value},
        "calibration": calibration and asdict(calibration),
        "faces": None if finder is None else ("all" if finder.every else "largest"),
        "geometry": WHOLE if finder is None else str(finder.way),
        "frames": config.frames,
    }

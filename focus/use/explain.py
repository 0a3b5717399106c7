"""``focus explain``: scores, decisions and CAMs of one's own pictures and videos."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
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
from focus.data.readers.files import IMAGE_EXTENSIONS, images_without_maps
from focus.errors import ImageError, InputError
from focus.evaluation.inference import geometry_warning
from focus.metrics.arrays import evenly
from focus.model.detector import Detector
from focus.model.pictures import face_pixels, faces_in
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
    face_check = None if finder else _face_check(detector)
    explanations = Explanations(
        output,
        threshold,
        _head(config, detector, finder),
        _notes(config, detector, face_check),
    )

    with sole_writer(output):
        check_empty(output)
        try:
            with ThreadPoolExecutor(usable_cores()) as pool:
                explainer = _Explainer(
                    explanations,
                    config,
                    detector.to(device),
                    finder,
                    face_check.find if face_check else None,
                    pool,
                )
                explainer.explain(items)
        finally:
            if explanations.rows:
                explanations.save_tables()
        if not explanations.rows:
            raise _nothing_usable(explanations, len(items))
        explanations.save()
    return explanations


def _nothing_usable(explanations: Explanations, count: int) -> InputError:
    """Return the error where none of so many files has a row."""
    if explanations.no_face:
        path, reason = explanations.no_face[0]
        advice = "give others, or --faces none"
    else:
        path, reason = explanations.bad[0].path, explanations.bad[0].reason
        advice = "give others"
    return InputError(
        f"None of the {count} files can be used, the first is {path!r} ({reason}): {advice}."
    )


def _warn(detector: Detector, finder: FaceFinder | None, items: list[Item]) -> None:
    """Log what makes scores doubtful: a falling calibration, faces cut out in another way."""
    of_calibration = detector.points.warning() if detector.points else ""
    extra = {GEOMETRY: str(finder.way)} if finder else {}
    manifest = Manifest(Sample(str(item.path), extra=extra) for item in items)
    for warning in (of_calibration, geometry_warning(detector, manifest)):
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
    notes = []
    if face_check is not None and config.faces is None:
        fitted = {
            "squash": "Pictures are taken whole and squashed to",
            "crop": "Of a picture only the middle is seen, as it is:",
        }[detector.config.fit]
        notes.append(
            f"{fitted} {detector.image_size} x {detector.image_size} pixels; --faces largest, or "
            "all, cuts the faces out before."
        )
    if face_check is not None and face_check.find is None:
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
    frames_by_path: dict[Path, tuple[tuple[int, Path], ...]] = {}
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
            frames_by_path[absolute(path)] = tuple((number, files[number]) for number in chosen)
        else:
            frames_by_path |= dict.fromkeys(map(absolute, files), ())

    items = []
    for number, (path, images) in enumerate(frames_by_path.items(), start=1):
        is_video_file = not images and path.suffix.lower() in VIDEO_EXTENSIONS
        if is_video_file:
            import_av()  # raises where it is not installed
        kind: Literal["image", "video"] = "video" if images or is_video_file else "image"
        items.append(Item(number, path, kind, images))
    return items


class _Frame(NamedTuple):
    """A picture of an item, decoded: an image, or a frame of a video."""

    number: int | None
    """The number of the frame in the video, from 0; None for an image."""
    position: str
    """Where the frame is in the video: in seconds, or as the file in a folder."""
    picture: Image.Image


class _View(NamedTuple):
    """A picture that the detector looks at: an image, or a frame of a video."""

    item: Item
    number: int | None
    """The number of the frame; None for an image."""
    position: str
    """Where the frame is in the video: in seconds, or as the file in a folder."""
    picture: Image.Image
    """What CAMs are laid over: the picture, perhaps smaller."""
    scale: tuple[float, float]
    """How many times as wide and high it is as the picture that was opened."""
    pixels: dict[Face, Tensor]
    """uint8 [3, S, S] of each face."""
    unlike: dict[Face, str]
    """In what each face is unlike those of training, "" for nothing."""
    seen: list[Seen]
    """The faces that count; a whole picture is of person 0."""


class _FaceBatch(NamedTuple):
    """Faces that go to the network at a time."""

    names: list[str]
    """The file of each face."""
    pixels: Tensor
    """uint8 [B, 3, S, S]."""


class _Verdict(NamedTuple):
    """What the detector says of a face."""

    score: np.float64
    predicted: np.int64
    cams: NDArray[np.float32]
    """CAMs [2, H, W] of the predicted class and of synthetic."""
    entropy: NDArray[np.float32]
    """[2], of these CAMs."""


@dataclass(frozen=True)
class _Explainer:
    """Scores items and writes their pictures; adds rows and what is left out to an explanation.

    find_face: Looks whether there is a face in a whole picture; None if that is not checked.
    """

    explanations: Explanations
    config: ExplainConfig
    detector: Detector
    finder: FaceFinder | None
    find_face: FaceDetector | None
    pool: ThreadPoolExecutor

    def explain(self, items: list[Item]) -> None:
        """Add the rows of all items to the explanations."""
        points = self.detector.points
        calibration = points.calibration if points else None
        threshold = self.explanations.threshold.value
        with (
            progress_bar(total=len(items), desc="explaining", unit="file") as bar,
            logging_redirect_tqdm(),
        ):
            for item, pairs in groupby(self._scored(items), key=lambda pair: pair[0]):
                rows_by_face = defaultdict[Any, list[CsvRow]](list)
                for _, row in pairs:
                    rows_by_face[row["face"]].append(row)
                for face, rows in sorted(rows_by_face.items()):
                    self.explanations.rows.append(item_row(item, rows, threshold, calibration))
                    if item.kind == "video":
                        self.explanations.frames[str(item.path), face] = rows
                bar.update()
            bar.update(len(items) - bar.n)

    def _scored(self, items: list[Item]) -> Iterator[tuple[Item, CsvRow]]:
        """Yield the row of each face of each view with its item, once its pictures are written."""
        at_once = self.detector.at_once(self.config.batch_size)
        for views in _chunks(self._views(items), at_once):
            for name in (OVERLAYS, CAMS):
                (self.explanations.folder / name).mkdir(parents=True, exist_ok=True)
            verdicts = self._verdicts(views, at_once)
            rows_of_views = self.pool.map(self._write, views, verdicts)
            for view, rows in zip(views, rows_of_views, strict=True):
                for row in rows:
                    yield view.item, row

    def _verdicts(self, views: list[_View], at_once: int) -> list[list[_Verdict]]:
        """Return the verdicts on the faces of each view; ``at_once`` faces go to the network."""
        verdicts: list[_Verdict] = []
        for _, prediction in self.detector.predict_named(_face_batches(views, at_once)):
            rows = zip(
                prediction.score.numpy(),
                prediction.predicted.numpy(),
                prediction.cams.numpy(),
                prediction.entropy.numpy(),
                strict=True,
            )
            verdicts += [_Verdict(*row) for row in rows]
        remaining = iter(verdicts)
        return [list(islice(remaining, len(view.seen))) for view in views]

    def _views(self, items: list[Item]) -> Iterator[_View]:
        """Yield the views with faces of all items; note what is left out."""
        for chunk in _chunks(items, 2 * usable_cores()):
            for item, (views, bad) in zip(chunk, self.pool.map(self._load, chunk), strict=True):
                for file in bad:
                    _log.warning("left out the %s %r: %s", file.role, file.path, file.reason)
                self.explanations.bad += bad
                with_faces = [view for view in views if view.seen]
                if views and not with_faces:
                    self.explanations.no_face.append((str(item.path), "no face found"))
                yield from with_faces

    def _load(self, item: Item) -> tuple[list[_View], list[BadFile]]:
        """Return an item's views, and what of it cannot be decoded."""
        views: list[_View] = []
        bad: list[BadFile] = []
        for role, path, frames in _frames(item, self.config.frames):
            try:
                for frame in frames:
                    views.append(self._view(item, frame))
            except ImageError as error:
                bad.append(BadFile.of(str(path), role, error))
        if self.finder:
            people = self.finder.people([list(view.pixels) for view in views])
            views = [view._replace(seen=seen) for view, seen in zip(views, people, strict=True)]
        return views, bad

    def _view(self, item: Item, frame: _Frame) -> _View:
        """Return a picture as the detector sees it, and small for its overlay."""
        picture = frame.picture
        faces = faces_in(picture, self.finder)
        pixels = {face: face_pixels(picture, face, self.detector.preprocessing) for face in faces}
        unlike = {face: self._unlike(picture, face, pixels[face]) for face in faces}

        small = picture.copy()
        small.thumbnail((self.config.overlay_size,) * 2, Image.Resampling.LANCZOS)
        scale = small.width / picture.width, small.height / picture.height
        seen = [Seen(0, face) for face in faces]
        return _View(item, frame.number, frame.position, small, scale, pixels, unlike, seen)

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

    def _write(self, view: _View, verdicts: list[_Verdict]) -> list[CsvRow]:
        """Write the CAM of each face of a view and the overlay of all; return the faces' rows."""
        folder = self.explanations.folder
        # By the number no two are alike; most file systems take 255 bytes.
        name = f"{view.item.number:06d}-{view.item.path.stem[:70]}"
        if view.number is not None:
            name += f"-frame{view.number:06d}"
        overlay_path = f"{OVERLAYS}/{name}.png"

        marks, rows = [], []
        for seen, verdict in zip(view.seen, verdicts, strict=True):
            cam_path = f"{CAMS}/{name}{f'-face{seen.person}' if seen.person else ''}.npy"
            np.save(folder / cam_path, verdict.cams)
            decision = REAL if verdict.predicted == REAL else SYNTHETIC
            label = f"{seen.person}: {LABEL_NAMES[decision]} {verdict.score:.2f}"
            part = self.detector.preprocessing.part_seen(seen.face.square)
            marks.append((part, verdict.cams[0], label, _COLOURS[decision]))
            rows.append(
                {
                    "frame": view.number,
                    "at": view.position,
                    "face": seen.person or None,
                    "box": box_text(seen.face.box) if seen.person else None,
                    "score": verdict.score,
                    "predicted": int(verdict.predicted),
                    "entropy_predicted": verdict.entropy[0],
                    "entropy_synthetic": verdict.entropy[1],
                    "overlay": overlay_path,
                    "cam": cam_path,
                    "unlike": view.unlike[seen.face],
                }
            )

        if self.finder:
            overlay = marked(view.picture, marks, view.scale)
        else:
            overlay = view.picture.copy()
            (part, cam, _, _), *_ = marks
            lay(overlay, part, cam, view.scale)
        overlay.save(folder / overlay_path)
        return rows


def _face_batches(views: list[_View], size: int) -> Iterator[_FaceBatch]:
    """Yield the faces of the views, in their order, so many at a time."""
    faces = [(view, seen.face) for view in views for seen in view.seen]
    for chunk in _chunks(faces, size):
        yield _FaceBatch(
            names=[repr(str(view.item.path)) for view, _ in chunk],
            pixels=torch.stack([view.pixels[face] for view, face in chunk]),
        )


def _chunks(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield so many things at a time, the last time what remains."""
    remaining = iter(things)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _frames(item: Item, count: int) -> list[tuple[Role, Path, Iterator[_Frame]]]:
    """Return the files of an item with their pictures, which are decoded one by one.

    count: The frames to take of a video.
    """
    if item.kind == "image":
        return [("image", item.path, _frame_of(item.path, None, ""))]
    if item.frames:
        return [("image", path, _frame_of(path, number, path.name)) for number, path in item.frames]
    return [("video", item.path, _frames_of_video(item.path, count))]


def _frame_of(path: Path, number: int | None, position: str) -> Iterator[_Frame]:
    yield _Frame(number, position, load_image(path))


def _frames_of_video(path: Path, count: int) -> Iterator[_Frame]:
    for frame in frames_of(path, count):
        yield _Frame(frame.number, f"{frame.seconds:.3f}", frame.image)


def _head(config: ExplainConfig, detector: Detector, finder: FaceFinder | None) -> dict[str, Any]:
    """Return the head of the manifest."""
    calibration = detector.points.calibration if detector.points else None
    faces = None
    if finder is not None:
        faces = "all" if finder.every else "largest"
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
        "faces": faces,
        "geometry": WHOLE if finder is None else str(finder.way),
        "frames": config.frames,
    }

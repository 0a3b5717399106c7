"""``focus explain``: scores, decisions and CAMs of one's own pictures and videos."""

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.contrib.logging import logging_redirect_tqdm

import focus
from focus.config.recipes import Fit
from focus.config.use import ExplainConfig
from focus.data.bad_files import BAD_FILES, BadFile, Role
from focus.data.images import limit_pixels, load_image, part_seen
from focus.data.making.faces import (
    NO_FACE,
    Face,
    FaceFinder,
    Seen,
    face_finder,
)
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
from focus.data.overlay import lay, marked
from focus.data.readers import refuse_inside
from focus.data.readers.files import IMAGE_EXTENSIONS
from focus.data.readers.folders import images_without_maps
from focus.errors import ImageError, InputError, shown
from focus.evaluation.inference import geometry_warning
from focus.metrics.arrays import evenly
from focus.model.detector import Detector
from focus.model.pictures import as_seen
from focus.plotting import COLOURS
from focus.runtime.files import check_empty, check_writable, sole_writer
from focus.runtime.launch import device_named
from focus.runtime.machine import usable_cores
from focus.runtime.progress import progress_bar
from focus.use.explanations import (
    CAMS,
    OVERLAYS,
    Item,
    Row,
    item_row,
    write_manifest,
    write_page,
    write_tables,
)

_PRINTED = 20  # rows, each on a line
_COLOURS = {REAL: COLOURS[0], SYNTHETIC: COLOURS[4]}

T = TypeVar("T")

_log = logging.getLogger(__name__)


def explain(config: ExplainConfig) -> None:
    """Score what the paths hold, write CAMs and tables, print what was found.

    A file that cannot be decoded, or in which no face is found, is left out and listed. An
    interrupted run leaves the tables of what it has found, without ``manifest.json``.

    Raises:
        InputError: no model, no file that can be used, or an output folder that holds something
            or lies in a folder to explain; before anything is written.
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
    about = _about(config, detector, finder)
    extra = {GEOMETRY: str(finder.way)} if finder else {}
    calibration = None if detector.points is None else detector.points.calibration
    for warning in (
        detector.points.warning() if detector.points else "",
        geometry_warning(detector, Manifest(Sample(str(i.path), extra=extra) for i in items)),
    ):
        if warning:
            _log.warning(warning)
    rows: list[Row] = []
    frames: dict[tuple[str, int | None], list[Row]] = {}
    bad: list[BadFile] = []
    no_face: list[tuple[str, str]] = []
    written: list[Path] = []
    with sole_writer(output):
        check_empty(output)
        with (
            progress_bar(total=len(items), desc="explaining", unit="file") as bar,
            logging_redirect_tqdm(),
        ):
            try:
                scored = _scored(config, detector.to(device), finder, items, bad, no_face)
                for item, views in groupby(scored, key=lambda pair: pair[0]):
                    faces = defaultdict[Any, list[Row]](list)
                    for _, row in views:
                        faces[row["face"]].append(row)
                    for face, own in sorted(faces.items()):
                        rows.append(item_row(item, own, threshold.value, calibration))
                        if item.kind == "video":
                            frames[str(item.path), face] = own
                    bar.update()
                bar.update(len(items) - bar.n)
            finally:
                if rows:
                    written = write_tables(output, rows, frames, bad, no_face)
        if not rows:
            path, why = next(iter(no_face or [(file.path, file.reason) for file in bad]))
            raise InputError(
                f"None of the {len(items)} files can be used, the first is {path!r} "
                f"({why}): give others{', or --faces none' if no_face else ''}."
            )
        manifest = write_manifest(output, about, rows, frames, len(bad), len(no_face))
        kinds = Counter({row["path"]: row["kind"] for row in rows}.values())
        summary = ", ".join(
            [
                f"explained: {kinds['image']} pictures, {kinds['video']} videos",
                f"without a face: {len(no_face)}, not decoded: {len(bad)}",
            ]
        )
        how = {
            "squash": "Pictures are taken whole and squashed to",
            "crop": "Of a picture only the middle is seen, as it is:",
        }[detector.config.fit]
        notes = [
            f"{how} {detector.image_size} x {detector.image_size} pixels; --faces largest, or all, "
            "cuts the faces out before."
        ] * (finder is None and config.faces is None)
        page = write_page(output, summary, notes, rows, frames)
        written = [manifest, page, *written]
    lines = [*notes, *(map(_line, rows) if len(rows) <= _PRINTED else ()), summary]
    lines = [f"threshold: {threshold}; a score above it says synthetic", *lines]
    if finder:
        lines.insert(1, f"faces: {about['faces']}, cut out by {finder.way}")
    if no_face:
        lines.append(f"left out because no face was found: {len(no_face)} ({NO_FACE})")
    if bad:
        lines.append(f"left out because they cannot be decoded: {len(bad)} ({BAD_FILES})")
    lines += [f"written: {place}" for place in (*written, output / OVERLAYS, output / CAMS)]
    print("\n".join(lines))


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

    frame: from 0. at: where in the video, in seconds or as the file in a folder. picture: to lay
    CAMs over, ``scale`` times as wide and high as the image. pixels: uint8 [3,S,S] of each face.
    seen: the faces; the whole picture is of person 0.
    """

    item: Item
    frame: int | None
    at: str
    picture: Image.Image
    scale: tuple[float, float]
    pixels: dict[Face, Tensor]
    seen: list[Seen]


def _scored(
    config: ExplainConfig,
    detector: Detector,
    finder: FaceFinder | None,
    items: list[Item],
    bad: list[BadFile],
    no_face: list[tuple[str, str]],
) -> Iterator[tuple[Item, Row]]:
    """Yield the row of each face of each view with its item, as its pictures are written.

    What is left out is added to ``bad`` and ``no_face``.
    """
    folder = Path(config.output)

    def load(item: Item) -> tuple[Item, list[_View], list[BadFile]]:
        return item, *_load(item, config, detector.fitting, finder)

    def write(view: _View, predictions: list[tuple[Any, ...]]) -> list[Row]:
        # By the number no two are alike; most file systems take 255 bytes.
        name = f"{view.item.number:06d}-{view.item.path.stem[:70]}"
        name += "" if view.frame is None else f"-frame{view.frame:06d}"
        marks, rows = [], []
        for seen, (score, predicted, cams, entropy) in zip(view.seen, predictions, strict=True):
            face = f"-face{seen.person}" if seen.person else ""
            places = {"overlay": f"{OVERLAYS}/{name}.png", "cam": f"{CAMS}/{name}{face}.npy"}
            np.save(folder / places["cam"], cams)
            decision = REAL if predicted == REAL else SYNTHETIC
            label = f"{seen.person}: {LABEL_NAMES[decision]} {score:.2f}"
            part = part_seen(seen.face.square, *detector.fitting)
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
                }
            )
        laid = marked(view.picture, marks, view.scale) if finder else view.picture.copy()
        if finder is None:
            lay(laid, *marks[0][:2], view.scale)
        laid.save(folder / f"{OVERLAYS}/{name}.png")
        return rows

    def views(pool: ThreadPoolExecutor) -> Iterator[_View]:
        for chunk in _chunks(items, 2 * usable_cores()):
            for item, found, broken in pool.map(load, chunk):
                for file in broken:
                    _log.warning("left out the %s %r: %s", file.role, file.path, file.reason)
                bad.extend(broken)
                with_faces = [view for view in found if view.seen]
                if found and not with_faces:
                    no_face.append((str(item.path), "no face found"))
                yield from with_faces

    with ThreadPoolExecutor(usable_cores()) as pool:
        at_once = detector.at_once(config.batch_size)
        for batch in _chunks(views(pool), at_once):
            for place in (OVERLAYS, CAMS):
                (folder / place).mkdir(parents=True, exist_ok=True)
            predictions: list[tuple[Any, ...]] = []
            for faces in _chunks(((v, s.face) for v in batch for s in v.seen), at_once):
                names = [repr(str(view.item.path)) for view, _ in faces]
                pixels = torch.stack([view.pixels[face] for view, face in faces])
                found = detector.predict_pixels(pixels, names)
                fields = (found.score, found.predicted, found.cams, found.entropy)
                predictions += zip(*(field.numpy() for field in fields), strict=True)
            left = iter(predictions)
            own = [list(islice(left, len(view.seen))) for view in batch]
            for view, rows in zip(batch, pool.map(write, batch, own), strict=True):
                yield from ((view.item, row) for row in rows)


def _chunks(things: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(things)
    return iter(lambda: list(islice(left, size)), [])


def _load(
    item: Item, config: ExplainConfig, fitting: tuple[int, Fit], finder: FaceFinder | None
) -> tuple[list[_View], list[BadFile]]:
    """Return an item's views, and what of it cannot be decoded."""

    def image(path: Path, frame: int | None, at: str) -> Iterator[Any]:
        yield frame, at, load_image(path)

    parts: list[tuple[Role, Path, Iterator[Any]]]
    if item.kind == "image":
        parts = [("image", item.path, image(item.path, None, ""))]
    elif item.frames:
        parts = [("image", path, image(path, n, path.name)) for n, path in item.frames]
    else:
        frames = frames_of(item.path, config.frames)
        parts = [("video", item.path, ((f.number, f"{f.seconds:.3f}", f.image) for f in frames))]
    views: list[_View] = []
    bad: list[BadFile] = []
    for role, path, pictures in parts:
        try:
            for frame, at, picture in pictures:
                whole = (0, 0, *picture.size)
                faces = finder(picture) if finder else [Face(whole, whole)]
                pixels = {face: as_seen(picture.crop(face.square), *fitting) for face in faces}
                small = picture.copy()
                small.thumbnail((config.overlay_size,) * 2, Image.Resampling.LANCZOS)
                scale = small.width / picture.width, small.height / picture.height
                seen = [Seen(0, face) for face in faces]
                views.append(_View(item, frame, at, small, scale, pixels, seen))
        except ImageError as error:
            bad.append(BadFile.of(str(path), role, error))
    if finder:
        people = finder.people([list(view.pixels) for view in views])
        views = [view._replace(seen=seen) for view, seen in zip(views, people, strict=True)]
    return views, bad


def _about(config: ExplainConfig, detector: Detector, finder: FaceFinder | None) -> dict[str, Any]:
    """Return the head of the manifest."""
    calibration = detector.points.calibration if detector.points else None
    return {
        "focus_version": focus.__version__,
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


def _line(row: Row) -> str:
    frames = f" over {row['frames']} frames" if row["frames"] else ""
    # All digits: scores near 1 are what a threshold near 1 tells apart.
    face = f" face {row['face']}" if row["face"] else ""
    return (
        f"{shown(row['path'])}{face}: {row['decision']}, score {row['score']}{frames}, "
        f"entropy of the CAM {row['entropy_predicted']:.2f}"
    )

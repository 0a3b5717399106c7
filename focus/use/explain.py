"""``focus explain``: scores, decisions and CAMs of one's own pictures and videos."""

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.contrib.logging import logging_redirect_tqdm

import focus
from focus.config.use import ExplainConfig
from focus.data.bad_files import BAD_FILES, BadFile, Role
from focus.data.dataset import squashed
from focus.data.images import limit_pixels, load_image
from focus.data.manifest import Manifest, Sample, absolute
from focus.data.overlay import overlay
from focus.data.readers import refuse_inside
from focus.data.readers.files import IMAGE_EXTENSIONS
from focus.data.readers.folders import images_without_maps
from focus.data.videos import VIDEO_EXTENSIONS, evenly, frames_of, import_av
from focus.errors import ImageError, InputError, shown
from focus.evaluation.inference import geometry_warning
from focus.model.detector import Detector
from focus.runtime.files import check_empty, check_writable, sole_writer
from focus.runtime.launch import device_named
from focus.runtime.machine import usable_cores
from focus.runtime.progress import progress_bar
from focus.use.explanations import CAMS, OVERLAYS, Item, Row, item_row, write_manifest, write_tables

_PRINTED = 20  # items, each on a line

T = TypeVar("T")

_log = logging.getLogger(__name__)


def explain(config: ExplainConfig) -> None:
    """Score what the paths hold, write CAMs and tables, print what was found.

    A file that cannot be decoded is left out and listed. An interrupted run leaves the tables of
    what it has found, without ``manifest.json``.

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
    about = _about(config, detector)
    calibration = None if detector.points is None else detector.points.calibration
    for warning in (
        detector.points.warning() if detector.points else "",
        geometry_warning(detector, Manifest(Sample(str(item.path)) for item in items)),
    ):
        if warning:
            _log.warning(warning)
    rows: list[Row] = []
    frames: dict[str, list[Row]] = {}
    bad: list[BadFile] = []
    written: list[Path] = []
    with sole_writer(output):
        check_empty(output)
        with (
            progress_bar(total=len(items), desc="explaining", unit="file") as bar,
            logging_redirect_tqdm(),
        ):
            try:
                scored = _scored(config, detector.to(device), items, bad)
                for item, views in groupby(scored, key=lambda pair: pair[0]):
                    own = [row for _, row in views]
                    rows.append(item_row(item, own, threshold.value, calibration))
                    if item.kind == "video":
                        frames[str(item.path)] = own
                    bar.update()
                bar.update(len(items) - bar.n)
            finally:
                if rows:
                    written = write_tables(output, rows, frames, bad)
        if not rows:
            raise InputError(
                f"None of the {len(items)} files can be used, the first is {bad[0].path!r} "
                f"({bad[0].reason}): give others."
            )
        written.insert(0, write_manifest(output, about, rows, frames, len(bad)))
    few = len(items) <= _PRINTED
    lines = map(_line, rows) if few else [f"{len(rows)} of {len(items)} files explained"]
    lines = [f"threshold: {threshold}; a score above it says synthetic", *lines]
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
    """A picture that the detector sees: an image, or a frame of a video.

    frame: from 0. at: where in the video, in seconds or as the file in a folder. pixels: uint8
    [3, S, S]. face: to lay the CAM over.
    """

    item: Item
    frame: int | None
    at: str
    pixels: Tensor
    face: Image.Image


def _scored(
    config: ExplainConfig, detector: Detector, items: list[Item], bad: list[BadFile]
) -> Iterator[tuple[Item, Row]]:
    """Yield the row of each view with its item, as its pictures are written; add to ``bad``."""
    folder = Path(config.output)

    def load(item: Item) -> list[_View | BadFile]:
        return _load(item, config, detector.image_size)

    def write(view: _View, score: Any, predicted: Any, cams: Any, entropy: Any, *_: Any) -> Row:
        # By the number no two are alike; most file systems take 255 bytes.
        name = f"{view.item.number:06d}-{view.item.path.stem[:70]}"
        name += "" if view.frame is None else f"-frame{view.frame:06d}"
        places = {"overlay": f"{OVERLAYS}/{name}.png", "cam": f"{CAMS}/{name}.npy"}
        overlay(view.face, cams[0]).save(folder / places["overlay"])
        np.save(folder / places["cam"], cams)
        return {
            "frame": view.frame,
            "at": view.at,
            "score": score,
            "predicted": int(predicted),
            "entropy_predicted": entropy[0],
            "entropy_synthetic": entropy[1],
            **places,
        }

    def views(pool: ThreadPoolExecutor) -> Iterator[_View]:
        for chunk in _chunks(items, 2 * usable_cores()):
            for view in chain.from_iterable(pool.map(load, chunk)):
                if isinstance(view, BadFile):
                    _log.warning("left out the %s %r: %s", view.role, view.path, view.reason)
                    bad.append(view)
                else:
                    yield view

    with ThreadPoolExecutor(usable_cores()) as pool:
        for batch in _chunks(views(pool), config.batch_size):
            for place in (OVERLAYS, CAMS):
                (folder / place).mkdir(parents=True, exist_ok=True)
            names = [repr(str(view.item.path)) for view in batch]
            prediction = detector.predict_pixels(torch.stack([v.pixels for v in batch]), names)
            rows = pool.map(write, batch, *(field.numpy() for field in prediction))
            yield from zip((view.item for view in batch), rows, strict=True)


def _chunks(things: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(things)
    return iter(lambda: list(islice(left, size)), [])


def _load(item: Item, config: ExplainConfig, size: int) -> list[_View | BadFile]:
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
    found: list[_View | BadFile] = []
    for role, path, pictures in parts:
        try:
            for frame, at, picture in pictures:
                face = picture.copy()
                face.thumbnail((config.overlay_size,) * 2, Image.Resampling.LANCZOS)
                found.append(_View(item, frame, at, squashed(picture, size), face))
        except ImageError as error:
            found.append(BadFile.of(str(path), role, error))
    return found


def _about(config: ExplainConfig, detector: Detector) -> dict[str, Any]:
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
        "frames": config.frames,
    }


def _line(row: Row) -> str:
    frames = f" over {row['frames']} frames" if row["frames"] else ""
    # All digits: scores near 1 are what a threshold near 1 tells apart.
    return (
        f"{shown(row['path'])}: {row['decision']}, score {row['score']}{frames}, "
        f"entropy of the CAM {row['entropy_predicted']:.2f}"
    )

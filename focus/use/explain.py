"""``python -m focus explain``: scores, decisions and CAMs of one's own pictures and videos."""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm.contrib.logging import logging_redirect_tqdm

import focus
from focus.config.use import ExplainConfig
from focus.data.bad_files import BAD_FILES, BadFile, Role
from focus.data.dataset import squashed
from focus.data.images import load_image
from focus.data.manifest import Manifest, Sample, absolute
from focus.data.readers import refuse_inside
from focus.data.readers.files import IMAGE_EXTENSIONS
from focus.data.readers.folders import images_without_maps
from focus.data.videos import VIDEO_EXTENSIONS, evenly, frames_of, require_av
from focus.errors import ImageError, InputError, shown
from focus.evaluation.inference import other_geometry
from focus.model.detector import Detector
from focus.model.hub import WEIGHTS_FILE, local_folder
from focus.model.operating_points import THRESHOLDS
from focus.model.predict import ahead, predict_pixels
from focus.runtime.files import check_empty, check_writable
from focus.runtime.launch import check_backend
from focus.runtime.machine import usable_cores
from focus.runtime.progress import progress_bar
from focus.use.explanations import Item, Judge, Seen, View, Writer

_PRINTED = 20  # items, each on a line

_log = logging.getLogger(__name__)


def explain(config: ExplainConfig) -> None:
    """Score what the paths hold, write CAMs and tables, print what was found.

    A file that cannot be decoded is left out and listed.

    Raises:
        InputError: no model, no file that can be used, or an output folder that holds something
            or lies in a folder to explain; before anything is written.
    """
    torch.set_num_threads(config.threads or usable_cores())
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    check_backend(device)
    output = _new_folder(config)
    items = find_items(config.paths, as_video=config.as_video, frames=config.frames)
    folder = local_folder(str(config.model_dir))
    detector = Detector.from_pretrained(folder)
    # Now, since a training that goes on may replace the file.
    sha256 = _sha256(folder / WEIGHTS_FILE)
    judge, threshold = _judge(detector, config)
    said = [threshold]
    if detector.points is not None and (warning := detector.points.warning()):
        _log.warning(warning)
    manifest = Manifest(Sample(str(item.path)) for item in items)
    if warning := other_geometry(detector, manifest):
        _log.warning(warning)
    detector.to(device)
    with (
        Writer(output, judge) as writer,
        ThreadPoolExecutor(usable_cores()) as pool,
        progress_bar(total=len(items), desc="explaining", unit="file") as bar,
        logging_redirect_tqdm(),
    ):
        for row in _rows(config, detector, items, writer, pool, bar):
            if len(items) <= _PRINTED:
                said.append(_line(row))
        bar.close()
        if not writer.written:
            first = writer.bad[0]
            raise InputError(
                f"None of the {len(items)} files can be used, the first is {first.path!r} "
                f"({first.reason}): give others."
            )
        written = writer.finish(_about(config, detector, judge, sha256))
    if len(items) > _PRINTED:
        said.append(f"{writer.written} of {len(items)} files explained")
    if writer.bad:
        said.append(f"left out because they cannot be decoded: {len(writer.bad)} ({BAD_FILES})")
    for line in [*said, *(f"written: {path}" for path in written)]:
        print(line)


def find_items(paths: Iterable[str], *, as_video: bool, frames: int) -> list[Item]:
    """The images and videos that the paths hold, each once, in their order.

    A folder is walked with all below it, but for folders of maps and masks on top, which it says,
    as it does of files that may be images of another extension; with ``as_video`` it is one video,
    of whose images ``frames`` are taken.

    Raises:
        InputError: nothing is there by the name of a path, or nothing in a folder; or there is a
            video, and PyAV is not installed.
    """
    found: dict[Path, tuple[tuple[int, Path], ...]] = {}
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise InputError(f"There is no file or folder {path}: check the path.")
            found[absolute(path)] = ()
        elif as_video:
            files = images_without_maps(path)
            if not files:
                raise InputError(f"There are no images in the folder {path}: give one of frames.")
            chosen = evenly(len(files), frames)
            found[absolute(path)] = tuple((number, files[number]) for number in chosen)
        else:
            extensions = IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
            files = images_without_maps(path, extensions=extensions, wanted="images or videos")
            inside = [absolute(file) for file in files]
            if not inside:
                raise InputError(f"There are no images and no videos in {path}: give another one.")
            found |= dict.fromkeys(inside, ())
    items = [
        Item(number, path, "video" if images or _is_video(path) else "image", images)
        for number, (path, images) in enumerate(found.items(), start=1)
    ]
    if any(item.kind == "video" and not item.frames for item in items):
        require_av()
    return items


def _rows(
    config: ExplainConfig,
    detector: Detector,
    items: list[Item],
    writer: Writer,
    pool: ThreadPoolExecutor,
    bar: Any,
) -> Iterator[dict[str, Any]]:
    """The rows of the items as they are written, a batch of views at a time."""

    def views() -> Iterator[View]:
        def load(item: Item) -> tuple[list[View], list[BadFile]]:
            return _load(item, config, detector.image_size)

        for found, bad in ahead(pool, load, items):
            writer.bad += bad
            for file in bad:
                _log.warning("left out the %s %r: %s", file.role, file.path, file.reason)
            if not found:
                bar.update()
            yield from found

    waiting = views()
    while batch := list(islice(waiting, config.batch_size)):
        names = [repr(str(view.item.path)) for view in batch]
        prediction = predict_pixels(detector, [view.pixels for view in batch], names)
        arrays = [field.numpy() for field in prediction]
        seen = [Seen(*row) for row in zip(batch, *arrays, strict=True)]
        for one, places in zip(seen, pool.map(writer.save, seen), strict=True):
            row = writer.add(one, places)
            if row is not None:
                bar.update()
                yield row
        writer.flush()


def _load(item: Item, config: ExplainConfig, size: int) -> tuple[list[View], list[BadFile]]:
    """The views of an item, and what of it cannot be decoded."""
    found: list[tuple[int | None, str, torch.Tensor, Image.Image]] = []
    bad: list[BadFile] = []

    def take(frame: int | None, at: str, image: Image.Image) -> None:
        face = image.copy()
        face.thumbnail((config.overlay_size,) * 2, Image.Resampling.LANCZOS)
        found.append((frame, at, squashed(image, size), face))

    def leave_out(path: Path, role: Role, error: ImageError) -> None:
        bad.append(BadFile.of(str(path), role, error))

    if item.kind == "image":
        try:
            take(None, "", load_image(item.path))
        except ImageError as error:
            leave_out(item.path, "image", error)
    elif item.frames:
        for number, file in item.frames:
            try:
                take(number, file.name, load_image(file))
            except ImageError as error:
                leave_out(file, "image", error)
    else:
        try:
            for frame in frames_of(item.path, config.frames):
                take(frame.number, f"{frame.seconds:.3f}", frame.image)
        except ImageError as error:
            found.clear()
            leave_out(item.path, "video", error)
    views = [View(item, *view, last=n == len(found)) for n, view in enumerate(found, start=1)]
    return views, bad


def _judge(detector: Detector, config: ExplainConfig) -> tuple[Judge, str]:
    """What decides, and what to say of it.

    Raises:
        InputError: the model does not have the threshold that was asked for.
    """
    points, name = detector.points, config.threshold or "balanced"
    calibration, why = None, f"no {THRESHOLDS}"
    if points is not None:
        calibration, value = points.calibration, points.thresholds[name]
        if value is not None:
            return Judge(name, value, calibration), (
                f"threshold: {name}, a score above {value} says synthetic ({THRESHOLDS} of the "
                f"model, fixed on {points.n_real} real and {points.n_fake} fake validation images)"
            )
        why = f"no threshold {name} (it {points.undefined()[name]})"
    if config.threshold is not None:
        raise InputError(
            f"--threshold {name}: the model {config.model_dir} has {why}; drop the flag, or choose "
            "another one."
        )
    return Judge("", None, calibration), f"no decisions: the model has {why}"


def _new_folder(config: ExplainConfig) -> Path:
    folder = Path(config.output)
    refuse_inside(folder, config.paths)
    check_writable(folder)
    check_empty(folder)
    return folder


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _about(config: ExplainConfig, detector: Detector, judge: Judge, sha256: str) -> dict[str, Any]:
    """The head of the manifest."""
    threshold = {"point": judge.point, "value": judge.threshold}
    return {
        "focus_version": focus.__version__,
        "model": {
            "folder": config.model_dir,
            "sha256": sha256,
            "config": asdict(detector.config),
        },
        "threshold": None if judge.threshold is None else threshold,
        "calibration": None if judge.calibration is None else asdict(judge.calibration),
        "frames": config.frames,
    }


def _line(row: dict[str, Any]) -> str:
    frames = f" over {row['frames']} frames" if row["frames"] else ""
    # All digits: scores near 1 are what a threshold near 1 tells apart.
    return (
        f"{shown(row['path'])}: {row['decision'] or 'no decision'}, score {row['score']}{frames}, "
        f"entropy of the CAM {row['entropy_predicted']:.2f}"
    )


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_EXTENSIONS

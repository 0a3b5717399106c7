"""The configuration of ``python -m focus explain`` and ``export``, as in :mod:`focus.config`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from focus.config import _about, _check_ranges, _flag
from focus.errors import InputError

Point = Literal["balanced", "eer", "bpcer1", "bpcer5"]
"""The names of :data:`focus.operating_points.POINTS`, which takes long to import."""


@dataclass(frozen=True, kw_only=True)
class _UseConfig:
    """What both commands take."""

    model_dir: str | None = _flag(
        None, "model", "folder with a saved model (runs/NAME/model), or USER/NAME on the Hub", "DIR"
    )
    threads: int | None = _flag(None, "machine", "CPU threads (default: all cores)")
    debug: bool = _flag(False, "machine", "show a traceback with an error")

    def __post_init__(self) -> None:
        _check_ranges(self)
        if self.model_dir is None:
            raise InputError("There is no model: give --model-dir with the folder of one.")


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(_UseConfig):
    """What ``python -m focus explain`` takes."""

    paths: tuple[str, ...] = field(
        default=(),
        metadata={
            **_about("data", "image, video or folder of them; also without --paths", "PATH"),
            "alone": "yes",
        },
    )
    as_video: bool = _flag(
        False, "data", "take each folder as one video, its images as the frames in natural order"
    )
    frames: int = _flag(16, "data", "frames of a video, evenly spaced; fewer if it has fewer")
    threshold: Point | None = _flag(
        None, "model", "which of the model's thresholds decides (default: balanced)"
    )
    output: str = _flag("explained", "output", "folder for what is written; new, or empty", "DIR")
    overlay_size: int = _flag(512, "output", "longest side of an overlay in pixels")
    batch_size: int = _flag(64, "machine", "images at a time")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.paths:
            raise InputError("There is nothing to explain: give an image, a video or a folder.")
        if self.frames < 1:
            raise InputError(f"--frames must be at least 1, got {self.frames}.")
        if self.overlay_size < 32:
            raise InputError(f"--overlay-size must be at least 32, got {self.overlay_size}.")
        if self.as_video and not any(Path(path).is_dir() for path in self.paths):
            raise InputError("--as-video is of no use: no PATH is a folder.")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(_UseConfig):
    """What ``python -m focus export`` takes."""

    onnx: str | None = _flag(None, "output", "the file to write, which must not exist yet", "FILE")
    check_images: str | None = _flag(
        None,
        "data",
        "image, or folder of images, on which the file is checked (default: demo faces)",
        "PATH",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.onnx is None:
            raise InputError("There is no file to write: give --onnx FILE.")

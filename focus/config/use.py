"""The configuration of ``python -m focus explain`` and ``export``, as in
:mod:`focus.config.train`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from focus.config.flags import check_ranges, check_texts, declare
from focus.errors import InputError

Point = Literal["balanced", "eer", "bpcer1", "bpcer5"]
"""The names of :data:`focus.model.operating_points.POINTS`, which takes long to import."""


@dataclass(frozen=True, kw_only=True)
class _UseConfig:
    """What both commands take."""

    model_dir: str | None = declare(
        None, "model", "folder with a saved model (runs/NAME/model), or USER/NAME on the Hub", "DIR"
    )
    threads: int | None = declare(None, "machine", "CPU threads (default: all cores)")
    debug: bool = declare(False, "machine", "show a traceback with an error")

    def __post_init__(self) -> None:
        check_texts(self)
        check_ranges(self)
        if self.model_dir is None:
            raise InputError("There is no model: give --model-dir with the folder of one.")


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(_UseConfig):
    """What ``python -m focus explain`` takes."""

    paths: tuple[str, ...] = declare(
        (),
        "data",
        "image, video or folder of them; --paths itself may be left out",
        "PATH",
        words="positional",
    )
    as_video: bool = declare(
        False, "data", "take each folder as one video, its images as the frames in natural order"
    )
    frames: int = declare(16, "data", "frames of a video, evenly spaced; fewer if it has fewer")
    threshold: Point | None = declare(
        None, "model", "which of the model's thresholds decides (default: balanced)"
    )
    output: str = declare("explained", "output", "folder for what is written; new, or empty", "DIR")
    overlay_size: int = declare(512, "output", "longest side of an overlay in pixels")
    batch_size: int = declare(64, "machine", "images at a time")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.paths:
            raise InputError("There is nothing to explain: give an image, a video or a folder.")
        if self.as_video and not any(Path(path).is_dir() for path in self.paths):
            raise InputError("--as-video is of no use: no PATH is a folder.")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(_UseConfig):
    """What ``python -m focus export`` takes."""

    onnx: str | None = declare(
        None, "output", "the file to write, which must not exist yet", "FILE"
    )
    check_images: str | None = declare(
        None,
        "data",
        "image, or folder of images, on which the file is checked (default: demo faces)",
        "PATH",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.onnx is None:
            raise InputError("There is no file to write: give --onnx FILE.")

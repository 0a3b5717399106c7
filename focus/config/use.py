"""The configurations of ``focus explain`` and ``focus export``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from focus.config.options import (
    COUNT,
    PIXELS,
    check_options,
    in_data,
    in_device,
    in_machine,
    in_model,
    in_output,
    in_threshold,
    max_pixels,
)
from focus.errors import InputError


@dataclass(frozen=True, kw_only=True)
class _UseConfig:
    """Settings of both commands."""

    model_dir: str | None = in_model(
        "a saved model, runs/NAME/model, or USER/NAME on the Hub", metavar="DIR"
    )
    threads: int | None = in_machine("CPU threads (default: all cores)", within=COUNT)
    debug: bool = in_machine("show CPU time by phase, and a traceback with an error", False)

    def __post_init__(self) -> None:
        check_options(self)
        if self.model_dir is None:
            raise InputError("There is no model: give --model-dir with the folder of one.")


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(_UseConfig):
    """Settings of ``focus explain``.

    Examples:
        >>> from focus import ExplainConfig
        >>> config = ExplainConfig(paths=("film.mp4",), model_dir="runs/first/model")
        >>> config.frames
        16
    """

    paths: tuple[str, ...] = in_data(
        "image, video or folder of them", (), metavar="PATH", positional=True
    )
    as_video: bool = in_data("take each folder as one video, its images as frames", False)
    max_pixels: int = max_pixels()
    faces: Literal["all", "largest", "none"] | None = in_data(
        "cut faces out as for the model's training: all or the largest of a picture, people in a "
        "video; none takes pictures whole (default: largest if training cut all by one detector, "
        "else none)"
    )
    frames: int = in_data("frames of a video, evenly spaced, at most", 16, within=COUNT)
    threshold: str | None = in_threshold()
    output: str = in_output("folder for what is written; new, or empty", "explained", metavar="DIR")
    overlay_size: int = in_output("longest side of an overlay in pixels", 512, within=PIXELS)
    device: str | None = in_device()
    batch_size: int = in_machine("images at a time", 64, within=COUNT)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.paths:
            raise InputError("There is nothing to explain: give an image, a video or a folder.")
        if self.as_video and not any(Path(path).is_dir() for path in self.paths):
            raise InputError("--as-video is of no use: no PATH is a folder.")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(_UseConfig):
    """Settings of ``focus export``."""

    onnx: str | None = in_output("the file to write, which must not exist yet", metavar="FILE")
    check_images: str | None = in_data(
        "image or folder to check it on (default: demo faces)", metavar="PATH"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.onnx is None:
            raise InputError("There is no file to write: give --onnx FILE.")

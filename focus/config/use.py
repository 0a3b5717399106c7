"""The configurations of ``focus evaluate``, ``focus explain`` and ``focus export``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from focus.config.options import (
    COUNT,
    PIXELS,
    POINTS,
    check_options,
    flag,
    in_data,
    in_device,
    in_machine,
    in_model,
    in_output,
    in_threshold,
    max_pixels,
)
from focus.config.shared import COLUMNS, SCORE, SharedConfig, choices_for, parse_columns
from focus.errors import InputError
from focus.runtime.machine import MixedPrecision

ScoreScale = Literal["auto", "probability", "percent", "log-odds", "raw"]

EVALUATION_BATCH = 64
"""Images at a time in all programs: the last digits of a score may differ with the number."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(SharedConfig):
    """Settings of focus evaluate: one of ``run``, ``model_dir``, ``scores``, ``compare``.

    Examples:
        >>> from focus import EvaluateConfig
        >>> config = EvaluateConfig(run="runs/first", robustness=True)
        >>> config.batch_size
        64
    """

    run: str | None = in_model("a run folder, whose best model is taken", metavar="DIR")
    model_dir: str | None = in_model("a folder with a saved model", metavar="DIR")
    scores: str | None = in_data(
        "a CSV or parquet of any detector's scores, which are evaluated in the place of a model's: "
        "columns path or id, label, score, and any of the manifest's; several detectors, named by "
        "--columns score=A score=B, are ranked",
        metavar="FILE",
    )
    score_scale: ScoreScale = in_data(
        "of --scores: probability of synthetic, from 0 to 1; percent; log-odds; raw, any number, "
        "for ranks and thresholds alone, without calibration; auto tells the first three apart",
        "auto",
    )
    higher_is: Literal["synthetic", "real"] = in_data("what a high score means", "synthetic")
    training_generators: tuple[str, ...] = in_data(
        "generators that the detector of --scores was trained on (default: those of the rows "
        "marked train)",
        (),
        metavar="NAME",
    )
    people: str | None = in_data(
        "a folder of focus annotate: people's figures beside the model's on what they answered",
        metavar="DIR",
    )
    threshold: str | None = in_threshold()
    output: str | None = in_output(
        "folder for all files (default: evaluation in the folder of --run, else "
        "evaluation, comparison or leaderboard, here)",
        metavar="DIR",
    )
    compare: tuple[str, ...] = in_output(
        "only write a report of two or more run folders, folders of focus evaluate or tables of "
        "scores, side by side; differences are those to the first",
        (),
        metavar="RUN",
    )
    common: bool = in_output(
        "of --compare and --scores: take only the images that all have scored", False
    )
    robustness: bool = in_output(
        "also score the images under JPEG, blur, resizing, noise and sharing (25 times the time)",
        False,
    )
    equalise: bool = in_output(
        "also score the images stored alike: one size, one JPEG quality, one colour space", False
    )
    faithfulness: bool = in_output(
        "also blur the place where each CAM peaks, and others (10 times the time)", False
    )
    mixed_precision: MixedPrecision = in_machine("arithmetic of the network", "no")
    batch_size: int = in_machine("images at a time in one process", EVALUATION_BATCH, within=COUNT)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.compare) == 1:
            raise InputError(f"--compare needs two runs at least, got {self.compare[0]} alone.")
        for path in self.compare:
            columns = self.scores_of(path)
            if len(columns) > 1:
                raise InputError(
                    f"--columns names {len(columns)} scores of {path}, of which --compare takes "
                    f"one: give score={columns[0]} or TABLE:score=NAME, or rank one table by "
                    "--scores."
                )
        if self.ranks_detectors and self.threshold is not None:
            raise InputError(
                f"--threshold {self.threshold} is for one detector, and --columns names "
                f"{len(self.scores_of(str(self.scores)))} scores, which are ranked by AUC: leave "
                "it out."
            )
        if self.common and not self.tables:
            raise InputError(
                "--common is for --compare and --scores: give runs or tables to compare."
            )
        names = ("run", "model_dir", "scores", "compare")
        sources = [flag(name) for name in names if getattr(self, name)]
        if len(sources) != 1:
            got = " and ".join(sources) or "none of them"
            raise InputError(f"Give one of --run, --model-dir, --scores and --compare, got {got}.")
        needs_model = (
            "data",
            "test_data",
            "test_real",
            "people",
            "robustness",
            "equalise",
            "faithfulness",
        )
        refused = [flag(name) for name in needs_model if getattr(self, name)]
        if refused and (self.scores or self.compare):
            raise InputError(f"{sources[0]} scores no image: give it without {refused[0]}.")
        if self.score_scale == "raw" and self.threshold not in (None, *POINTS):
            raise InputError(
                f"--threshold {self.threshold} is no raw score, as these are shown from 0 to 1: "
                f"give one of {', '.join(POINTS)}, with rows marked validation."
            )
        if self.training_generators and not (self.scores or self.compare):
            raise InputError(
                f"--training-generators is for --scores: the model of {sources[0]} knows its own."
            )

    @property
    def roles(self) -> tuple[str, ...]:
        """What ``columns`` may name."""
        return (*COLUMNS, SCORE) if self.tables else COLUMNS

    @property
    def tables(self) -> list[str]:
        """What ``scores`` and ``compare`` name."""
        if self.scores is None:
            return list(self.compare)
        return [self.scores, *self.compare]

    @property
    def ranks_detectors(self) -> bool:
        """Whether the table has the scores of several detectors, for a leaderboard."""
        return self.scores is not None and len(self.scores_of(self.scores)) > 1

    @property
    def paths_read(self) -> list[str]:
        """All paths that ``columns`` may be said of."""
        return [*super().paths_read, *self.tables]

    def scores_of(self, path: str) -> list[str]:
        """Return the columns of scores that ``columns`` names of a table."""
        choices = choices_for(path, parse_columns(self.columns, self.roles), self.paths_read)
        return [choice.name for choice in choices if choice.role == SCORE]


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
    batch_size: int = in_machine("images at a time", EVALUATION_BATCH, within=COUNT)

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

"""The configurations of ``focus data``, of ``focus annotate``, and of ``focus cache``."""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from focus.config.options import (
    COUNT,
    MARGIN,
    NON_NEGATIVE,
    PIXELS,
    SEED,
    Range,
    check_options,
    in_data,
    in_machine,
    in_model,
    in_output,
)
from focus.config.shared import DataConfig, ImagesConfig
from focus.config.train import TrainConfig
from focus.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CheckConfig(ImagesConfig):
    """Settings of ``focus data check``: the images that training will get, and what is written.

    Its ``--config`` takes a file of ``focus train`` too, of which it reads what decides on images.
    """

    reads_files_of: ClassVar[type] = TrainConfig
    data: tuple[str, ...] = in_data("as --data of focus train", (), metavar="PATH", positional=True)
    seed: int = in_data("by which splits are drawn, if the data name none", 0, within=SEED)
    initial_checkpoint: str | None = in_data(
        "the weights that training will start from, whose own images it may not test on",
        metavar="FILE",
    )
    output: str | None = in_output(
        "folder of the report, made if need be (default: nothing is written)", metavar="DIR"
    )
    strict: bool = in_output("a finding that is an error ends with exit code 1", True)
    drop_copies: bool = in_output(
        "judge the data without copies of training images, as focus train --drop-copies takes "
        "them; with --output also write without_copies.csv, a table of these images for --data",
        False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise InputError("There is nothing to check: give the PATH of a table or a folder.")

    def for_training(self) -> TrainConfig:
        """Return the configuration of a run on these images, by default in all else."""
        names = {field.name for field in fields(self)}
        names_of_training = {field.name for field in fields(TrainConfig)}
        shared = names & names_of_training - {"output"}
        return TrainConfig(**{name: getattr(self, name) for name in shared})


@dataclass(frozen=True, kw_only=True)
class _MadeConfig(DataConfig):
    """Settings of what makes images of images."""

    resume: bool = in_output("go on with what was stopped, by the same command", False)


@dataclass(frozen=True, kw_only=True)
class CropConfig(_MadeConfig):
    """Settings of ``focus data crop``."""

    data: tuple[str, ...] = in_data(
        "images, in any layout that focus train takes", (), metavar="PATH", positional=True
    )
    output: str | None = in_output("the folder to write, new or empty", metavar="DIR")
    margin: float = in_output(
        "kept around the face on either side, as a share of its longer side",
        MARGIN,
        within=NON_NEGATIVE,
    )
    faces: str | None = in_output(
        "where the faces are: box (the manifest's boxes), lbp, dlib, or module:function of "
        "your own (default: box if there is one, else lbp)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data or self.output is None:
            raise InputError("Give the PATH of images to crop, and --output DIR for the faces.")


@dataclass(frozen=True, kw_only=True)
class ManipulateConfig(_MadeConfig):
    """Settings of ``focus data manipulate``."""

    data: tuple[str, ...] = in_data(
        "aligned crops of real faces, in any layout that focus train takes",
        (),
        metavar="PATH",
        positional=True,
    )
    output: str | None = in_output(
        "the folder to write, new or empty (default: the last PATH)", metavar="DIR"
    )
    image_size: int = in_output("pixels a side of what is written", 256, within=PIXELS)
    seed: int = in_output("of splits, donors and all that is drawn", 0, within=SEED)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output is None and len(self.data) > 1:
            object.__setattr__(self, "output", self.data[-1])
            object.__setattr__(self, "data", self.data[:-1])
        if not self.data or self.output is None:
            raise InputError("Give the PATH of real faces, and behind it the folder to write.")


Granularity = Literal["blur", "box"]


@dataclass(frozen=True, kw_only=True)
class MapsConfig(_MadeConfig):
    """Settings of ``focus data maps``."""

    data: tuple[str, ...] = in_data(
        "aligned faces, in any layout that focus train takes", (), metavar="PATH", positional=True
    )
    output: str | None = in_output(
        "the folder to write, new or empty (default: human_maps in the folder of images, where "
        "focus train finds it)",
        metavar="DIR",
    )
    from_: Literal["human", "pca", "lda"] = in_output(
        "what says where to look: the data's human maps, or the faces by PCA or LDA", "human"
    )
    granularity: Granularity | None = in_output(
        "make the maps coarser: blurred, or a box (default: as they are)"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise InputError("There are no faces to make maps of: give the PATH of some.")
        if self.from_ == "human" and self.granularity is None:
            raise InputError("Human maps would stay as they are: give --granularity, or --from.")
        if self.from_ == "human" and self.output is None:
            raise InputError("The human maps lie beside the images: give another --output.")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Settings of ``focus data demo``."""

    folder: str | None = in_output(
        "the folder to write, new or empty", metavar="DIR", positional=True
    )
    debug: bool = in_machine("show CPU time by phase, and a traceback with an error", False)

    def __post_init__(self) -> None:
        check_options(self)
        if self.folder is None:
            raise InputError("Give the folder to write the demo set to.")


Who = Literal["right", "all"]
_PORT = Range(lambda x: 0 <= x <= 65535, "at least 0 and at most 65535")


@dataclass(frozen=True, kw_only=True)
class AnnotateConfig(DataConfig):
    """Settings of ``focus annotate``."""

    data: tuple[str, ...] = in_data(
        "faces, in any layout that focus train takes", (), metavar="PATH", positional=True
    )
    output: str = in_output(
        "folder of answers and maps; with that of an earlier call it goes on", "human_maps"
    )
    annotator: str | None = in_output("who answers (default: the page asks)")
    maps: bool = in_output("only write the maps of the answers so far, and end", False)
    who: Who = in_output(
        "whose marks a map is the mean of: those who were right about the image, or all", "right"
    )
    min_annotators: int = in_output("with marks that a map needs", 1, within=COUNT)
    practice: int = in_data(
        "labelled faces that are asked first, with the answer shown, and are not annotated; none "
        "of fewer than twice as many",
        6,
        within=NON_NEGATIVE,
    )
    repeat_every: int = in_data(
        "faces after which an earlier one is asked again; 0 for never", 20, within=NON_NEGATIVE
    )
    seed: int = in_data("of the order", 0, within=SEED)
    model_dir: str | None = in_model(
        "a saved model: first the faces on which it is wrong or unsure, then those on which "
        "annotators disagree",
        metavar="DIR",
    )
    host: str = in_machine(
        "address to serve at, by default for this machine alone; who knows the printed address "
        "gets in",
        "127.0.0.1",
    )
    port: int = in_machine("of the page, 0 for any that is free", 8765, within=_PORT)
    browser: bool = in_machine("open the page in the browser", True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise InputError("There are no faces to annotate: give the PATH of some.")


CACHES = {
    "images": ("images", "decoded images and human maps, at the size of a network or their own"),
    "features": ("features", "features of frozen networks"),
    "embedded": ("embedded", "images out of parquet files"),
    "demo": ("demo-*", "the demo set"),
    "signatures": ("signatures-*", "what pictures look like, by which copies are found"),
    "checked": ("decoded-*.txt", "which files have been decoded without an error"),
}
"""What ``focus cache`` knows: names in the cache folder, and what they are."""


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Settings of ``focus cache``."""

    clear: tuple[str, ...] = in_data(
        f"remove these: {', '.join(CACHES)} or all, while no run uses them; the next run makes "
        "what it needs again",
        (),
        metavar="NAME",
    )
    debug: bool = in_machine("show CPU time by phase, and a traceback with an error", False)

    def __post_init__(self) -> None:
        check_options(self)
        if unknown := sorted({*self.clear} - {*CACHES, "all"}):
            raise InputError(
                f"--clear got {unknown[0]!r}: it takes {', '.join(CACHES)} or all of them, all."
            )

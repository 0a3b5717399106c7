"""The configurations of ``focus data check``, ``crop`` and ``demo``."""

from dataclasses import dataclass

from focus.config.options import NON_NEGATIVE, check_options, option
from focus.config.shared import DataConfig
from focus.config.train import TrainConfig
from focus.errors import InputError


@dataclass(frozen=True, kw_only=True)
class CheckConfig(TrainConfig):
    """What ``focus data check`` takes: the flags that training will get, and these."""

    data: tuple[str, ...] = option((), "data", "as --data of train.py", "PATH", positional=True)
    output: str = option("check", "output", "folder of the report, made if need be", "DIR")
    drop_leaks: bool = option(
        False,
        "output",
        "also write without_leaks.csv there, a manifest for --data of train.py in which no picture "
        "is in two splits and each can be decoded; the exit code is then about training on that",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise InputError("There is nothing to check: give the PATH of a table or a folder.")


@dataclass(frozen=True, kw_only=True)
class CropConfig(DataConfig):
    """What ``focus data crop`` takes."""

    data: tuple[str, ...] = option(
        (), "data", "images, in any layout that train.py takes", "PATH", positional=True
    )
    output: str | None = option(None, "output", "the folder to write, new or empty", "DIR")
    margin: float = option(
        0.3,
        "output",
        "what is kept around the face on either side, as a share of its longer side",
        within=NON_NEGATIVE,
    )
    faces: str | None = option(
        None,
        "output",
        "where the faces are: box (the manifest's boxes), lbp, dlib, or module:function of your "
        "own (default: box if there is one, else lbp)",
        "NAME",
    )
    resume: bool = option(False, "output", "go on with what was stopped, by the same command")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data or self.output is None:
            raise InputError("Give the PATH of images to crop, and --output DIR for the faces.")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What ``focus data demo`` takes."""

    folder: str | None = option(
        None, "output", "the folder to write, new or empty", "DIR", positional=True
    )
    debug: bool = option(False, "machine", "show a traceback with an error")

    def __post_init__(self) -> None:
        check_options(self)
        if self.folder is None:
            raise InputError("Give the folder to write the demo set to.")

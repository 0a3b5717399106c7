"""The configurations of ``focus data check``, ``crop`` and ``demo``."""

from dataclasses import dataclass
from functools import partial

from focus.config.options import NON_NEGATIVE, check_options, option
from focus.config.shared import DataConfig
from focus.config.train import TrainConfig
from focus.errors import InputError

_data = partial(option, "data")
_output = partial(option, "output")
_machine = partial(option, "machine")


@dataclass(frozen=True, kw_only=True)
class CheckConfig(TrainConfig):
    """What ``focus data check`` takes: the flags that training will get, and these."""

    data: tuple[str, ...] = _data(
        "as --data of train.py", default=(), metavar="PATH", positional=True
    )
    output: str = _output("folder of the report, made if need be", default="check", metavar="DIR")
    drop_leaks: bool = _output(
        "also write without_leaks.csv there, a manifest for --data of train.py in which no "
        "picture is in two splits and each can be decoded; the exit code is then about "
        "training on that",
        default=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise InputError("There is nothing to check: give the PATH of a table or a folder.")


@dataclass(frozen=True, kw_only=True)
class CropConfig(DataConfig):
    """What ``focus data crop`` takes."""

    data: tuple[str, ...] = _data(
        "images, in any layout that train.py takes", default=(), metavar="PATH", positional=True
    )
    output: str | None = _output("the folder to write, new or empty", metavar="DIR")
    margin: float = _output(
        "what is kept around the face on either side, as a share of its longer side",
        default=0.3,
        within=NON_NEGATIVE,
    )
    faces: str | None = _output(
        "where the faces are: box (the manifest's boxes), lbp, dlib, or module:function of "
        "your own (default: box if there is one, else lbp)",
        metavar="NAME",
    )
    resume: bool = _output("go on with what was stopped, by the same command", default=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data or self.output is None:
            raise InputError("Give the PATH of images to crop, and --output DIR for the faces.")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What ``focus data demo`` takes."""

    folder: str | None = _output(
        "the folder to write, new or empty", metavar="DIR", positional=True
    )
    debug: bool = _machine("show a traceback with an error", default=False)

    def __post_init__(self) -> None:
        check_options(self)
        if self.folder is None:
            raise InputError("Give the folder to write the demo set to.")

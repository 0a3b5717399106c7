"""What several programs take: data, and how the machine is used."""

from dataclasses import dataclass

from focus.config.layouts import Layout, parse_columns
from focus.config.options import (
    COUNT,
    NON_NEGATIVE,
    SHARE,
    check_options,
    flag,
    in_data,
    in_machine,
    in_output,
)
from focus.errors import InputError
from focus.runtime.machine import MixedPrecision


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where images are and how they are laid out."""

    data: tuple[str, ...] = in_data(
        "a CSV, a parquet file, a folder of real and fake images, or hf://USER/NAME; may be "
        "repeated",
        (),
        metavar="PATH",
    )
    layout: Layout | None = in_data(
        "how the data are laid out, where the path allows it (default: found by looking)"
    )
    data_root: str | None = in_data(
        "folder that the paths in a CSV are relative to (default: the CSV's folder)", metavar="DIR"
    )
    allow_outside_root: bool = in_data("take paths in a CSV that lead out of that folder", False)
    columns: str | None = in_data(
        "which column of a table is what, as in path=filename,label=typ (default: found by name)",
        metavar="NAMES",
    )
    generator: str | None = in_data(
        "generator of the fakes in --data for which the data name none (default: synthetic)"
    )
    heatmaps: str | None = in_data(
        "folder of human saliency maps, named as the images, or a COCO .json file (default: "
        "heatmaps in a folder of images, or beside a table)",
        metavar="DIR",
    )
    threads: int | None = in_machine(
        "CPU threads of each process (default: all cores, shared among the processes)", within=COUNT
    )
    debug: bool = in_machine("show a traceback with an error", False)

    def __post_init__(self) -> None:
        check_options(self)
        if self.columns is not None:
            parse_columns(self.columns)


@dataclass(frozen=True, kw_only=True)
class SharedConfig(DataConfig):
    """What train.py and evaluate.py both take: data, the arithmetic, the processes."""

    test_data: dict[str, str] = in_data(
        "images of a generator to test on, under its name; may be repeated", dict
    )
    test_real: dict[str, str] = in_data(
        "real images to test on: a generator's own under its name, under any other name those "
        "of all generators without their own; may be repeated",
        dict,
    )
    max_bad: float = in_data(
        "share of the images, of the human maps and of the masks that may be left out because "
        "they cannot be decoded",
        0.01,
        within=SHARE,
    )
    report: bool = in_output(
        "write report.html, a page with all results, figures and pictures", True
    )
    mixed_precision: MixedPrecision = in_machine("arithmetic of the network", "no")
    workers: int | None = in_machine(
        "processes that load images, 0 = none (default: 0 for the demo set, else a core each, "
        "at most 8)",
        within=NON_NEGATIVE,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("test_data", "test_real"):
            for key, path in getattr(self, name).items():
                if not key or not path or "/" in key or "\\" in key:
                    raise InputError(
                        f"{flag(name)} got {key}={path}: give NAME=PATH, a name without slashes."
                    )

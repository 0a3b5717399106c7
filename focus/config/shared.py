"""What ``train.py`` and ``evaluate.py`` both take: data, and how the machine is used."""

from dataclasses import dataclass, field

from focus.config.flags import about, check_ranges, check_texts, check_utf8, declare, flag
from focus.config.layouts import Layout, parse_columns
from focus.errors import InputError
from focus.runtime.machine import MixedPrecision


@dataclass(frozen=True, kw_only=True)
class SharedConfig:
    """Where the data are, the arithmetic, the threads."""

    data: tuple[str, ...] = declare(
        (),
        "data",
        "a CSV, a parquet file, a folder of real and fake images, or hf://USER/NAME; "
        "may be repeated",
        "PATH",
    )
    layout: Layout | None = declare(
        None,
        "data",
        "how the data are laid out, where the path allows it (default: found by looking)",
    )
    data_root: str | None = declare(
        None,
        "data",
        "folder that the paths in a CSV are relative to (default: the CSV's folder)",
        "DIR",
    )
    allow_outside_root: bool = declare(
        False, "data", "take paths in a CSV that lead out of that folder"
    )
    columns: str | None = declare(
        None,
        "data",
        "which column of a table is what, as in path=filename,label=typ (default: found by name)",
        "NAMES",
    )
    generator: str | None = declare(
        None,
        "data",
        "generator of the fakes in --data for which the data name none (default: synthetic)",
        "NAME",
    )
    heatmaps: str | None = declare(
        None,
        "data",
        "folder of human saliency maps, named as the images, or a COCO .json file (default: "
        "heatmaps in a folder of images, or beside a table)",
        "DIR",
    )
    test_data: dict[str, str] = field(
        default_factory=dict,
        metadata=about(
            "data", "images of a generator to test on, under its name; may be repeated", "NAME=PATH"
        ),
    )
    test_real: dict[str, str] = field(
        default_factory=dict,
        metadata=about(
            "data",
            "real images to test on: a generator's own under its name, under any other name "
            "those of all generators without their own; may be repeated",
            "NAME=PATH",
        ),
    )
    max_bad: float = declare(
        0.01,
        "data",
        "share of the images, of the human maps and of the masks that may be left out because "
        "they cannot be decoded",
    )
    report: bool = declare(
        True, "output", "write report.html, a page with all results, figures and pictures"
    )
    mixed_precision: MixedPrecision = declare("no", "machine", "arithmetic of the network")
    threads: int | None = declare(
        None,
        "machine",
        "CPU threads of each process (default: all cores, shared among the processes)",
    )
    workers: int | None = declare(
        None,
        "machine",
        "processes that load images, 0 = none "
        "(default: 0 for the demo set, else a core each, at most 8)",
    )
    debug: bool = declare(False, "machine", "show a traceback with an error")

    def __post_init__(self) -> None:
        check_texts(self)
        check_ranges(self)
        for name in ("test_data", "test_real"):
            for key, path in getattr(self, name).items():
                if not key or not path or "/" in key or "\\" in key:
                    raise InputError(
                        f"{flag(name)} got {key}={path}: give NAME=PATH, a name without slashes."
                    )
                check_utf8(f"{flag(name)} has the name", key)
        for name in ("data_root", "layout", "columns", "allow_outside_root"):
            if getattr(self, name) not in (None, False) and not (
                self.data or self.test_data or self.test_real
            ):
                raise InputError(f"{flag(name)} is of no use without --data or --test-data.")
        for name in ("generator", "heatmaps"):
            value = getattr(self, name)
            if value is not None and not (self.data and value.strip()):
                raise InputError(f"{flag(name)} {value} is of no use without --data.")
        check_utf8("--generator got", self.generator)
        if self.columns is not None:
            parse_columns(self.columns)

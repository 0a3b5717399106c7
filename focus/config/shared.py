"""Settings that several programs share: data, and use of the machine."""

from dataclasses import dataclass

from focus.config.layouts import (
    COLUMNS,
    SCORE,
    DataLayout,
    choices_for,
    label_table,
    parse_columns,
    parse_labels,
)
from focus.config.options import (
    COUNT,
    NON_NEGATIVE,
    SHARE,
    check_options,
    flag,
    in_data,
    in_device,
    in_machine,
    in_output,
    max_pixels,
)
from focus.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where images are and how they are laid out."""

    data: tuple[str, ...] = in_data(
        "a CSV, a parquet file, a folder of real and synthetic images, or hf://USER/NAME",
        (),
        metavar="PATH",
    )
    layout: DataLayout | None = in_data("how the data are laid out (default: found by looking)")
    data_root: str | None = in_data(
        "where the paths in a CSV begin (default: its folder)", metavar="DIR"
    )
    allow_outside_root: bool = in_data("take paths in a CSV that lead out of that folder", False)
    columns: tuple[str, ...] = in_data(
        "columns of tables, as in path=filename,label=typ; of one table alone "
        "TABLE:path=filename (default: found by name)",
        (),
        metavar="NAMES",
    )
    labels: tuple[str, ...] = in_data(
        "words for the classes in tables and names of folders beside the usual ones, as in "
        "real=genuine,synthetic=morphed; or a table with the label of each image of a folder",
        (),
        metavar="WORDS",
    )
    generator: str | None = in_data(
        "of synthetic images in --data that name none (default: synthetic)"
    )
    human_maps: str | None = in_data(
        "folder of human saliency maps, named as the images, or a COCO .json file (default: "
        "human_maps or heatmaps in a folder of images, or beside a table)",
        metavar="DIR",
    )
    max_images: int | None = in_data(
        "of each class, generator and split, the first ones; no more are fetched of a data set of "
        "the Hub (default: all)",
        within=COUNT,
    )
    max_pixels: int = max_pixels()
    threads: int | None = in_machine(
        "CPU threads of a process (default: its share of the cores)", within=COUNT
    )
    debug: bool = in_machine("show CPU time by phase, and a traceback with an error", False)

    def __post_init__(self) -> None:
        check_options(self)
        choices = parse_columns(self.columns, self.roles)
        choices_for("", choices, self.paths_read)  # raises for a table that is not read
        parse_labels(self.labels)
        label_table(self.labels)

    @property
    def roles(self) -> tuple[str, ...]:
        """What ``columns`` may name."""
        return COLUMNS

    @property
    def paths_read(self) -> list[str]:
        """All paths that ``columns`` may be said of."""
        table = label_table(self.labels)
        return [*self.data, *([table] if table else [])]

    def columns_of(self, path: str) -> dict[str, str]:
        """Return the names that ``columns`` gives to the columns of a table, without the scores."""
        choices = choices_for(path, parse_columns(self.columns, self.roles), self.paths_read)
        return {choice.role: choice.name for choice in choices if choice.role != SCORE}


@dataclass(frozen=True, kw_only=True)
class ImagesConfig(DataConfig):
    """Where images are, also those to test on alone, and how many may be broken."""

    test_data: dict[str, str] = in_data("images of a generator to test on; may be repeated", dict)
    test_real: dict[str, str] = in_data(
        "real images to test on: of the generator of that name, else of all that have none", dict
    )
    max_bad: float = in_data(
        "share of the images, maps and masks that may be left out as they cannot be decoded",
        0.01,
        within=SHARE,
    )
    drop_copies: bool = in_data(
        "leave all copies of training images out of validation and test: also those stored anew, "
        "resized or mirrored, which are else only reported; files of the same bytes always are",
        False,
    )

    @property
    def paths_read(self) -> list[str]:
        """All paths that ``columns`` may be said of."""
        return [*super().paths_read, *self.test_data.values(), *self.test_real.values()]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_images and not (self.data or self.test_data or self.test_real):
            raise InputError("--max-images takes a part of --data or --test-data: give one.")
        for name in ("test_data", "test_real"):
            for key, path in getattr(self, name).items():
                if "/" in key:
                    raise InputError(f"{flag(name)} got {key}={path}: give a name without slash.")


@dataclass(frozen=True, kw_only=True)
class SharedConfig(ImagesConfig):
    """Settings of both focus train and focus evaluate: images, arithmetic, processes."""

    image_cache: str = in_data(
        "keep decoded images, for later epochs and runs: auto (in $FOCUS_CACHE, on a tenth of the "
        "free disk), no, or a folder",
        "auto",
        metavar="auto|no|DIR",
    )
    report: bool = in_output("write report.html: all results, figures and pictures", True)
    device: str | None = in_device()
    workers: int | None = in_machine(
        "processes that load images (default: 0 for the demo set, else a core each, up to 8)",
        within=NON_NEGATIVE,
    )

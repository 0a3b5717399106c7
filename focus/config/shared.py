"""Settings that several programs share: images and how they are laid out, use of the machine.

The readers of images take the names of layouts and columns from here.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

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
from focus.errors import InputError, did_you_mean

COLUMNS = (
    "path",
    "label",
    "generator",
    "family",
    "split",
    "test_set",
    "human_map",
    "mask_path",
    "box",
    "group",
)
"""The columns of a manifest that ``--columns`` may name."""

SCORE = "score"
"""The column of a detector's output in a table of scores."""

DataLayout = Literal[
    "manifest",
    "cyborg",
    "csv",
    "0_real-1_fake",
    "nature-ai",
    "real-fake",
    "deepfakebench",
    "images",
    "parquet",
    "hub",
]
HUB_PREFIX = "hf://"
_CLASS_WORDS = re.compile(r"\s*(real|synthetic)\s*=")


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
        paths = list(self.data)
        table = label_table(self.labels)
        if table:
            paths.append(table)
        return paths

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


def parse_labels(settings: Iterable[str]) -> dict[str, int]:
    """Parse ``real="bona fide",synthetic=attack`` to the class, 0 or 1, of each word.

    A setting that begins otherwise names a table (:func:`label_table`). Raises InputError.
    """
    classes: dict[str, int] = {}
    for setting in settings:
        if not _CLASS_WORDS.match(setting):
            continue
        for part in setting.split(","):
            name, _, word = (text.strip() for text in part.partition("="))
            if name not in ("real", "synthetic") or not word:
                raise _neither_words_nor_table(part)
            classes[word.strip("\"'").casefold()] = int(name == "synthetic")
    return classes


def label_table(settings: Iterable[str]) -> str | None:
    """Return the table that ``--labels`` names, None if it only gives words; raises InputError."""
    tables = [text for text in settings if not _CLASS_WORDS.match(text)]
    for table in tables:
        if "=" in table and not Path(table).is_file():
            raise _neither_words_nor_table(table)
    if len(tables) > 1:
        raise InputError(f"--labels got two tables, {tables[0]} and {tables[1]}: give one.")
    return tables[0] if tables else None


def _neither_words_nor_table(text: str) -> InputError:
    return InputError(f"--labels got {text!r}: give real=WORD,synthetic=WORD, or a table.")


@dataclass(frozen=True)
class ColumnChoice:
    """One column that ``--columns`` names.

    role: The manifest's name of the column, or ``score``. name: The table's, "" if it has none.
    table: The table that this is said of, as it was written; "" for all tables.
    """

    role: str
    name: str
    table: str = ""


def parse_columns(settings: Iterable[str], roles: Sequence[str] = COLUMNS) -> list[ColumnChoice]:
    """Parse settings such as ``path=filename,label=typ`` and ``b.csv:label=typ``.

    What stands before a colon is the table that the columns behind it are of. Several columns may
    be scores, of several detectors. Raises InputError.
    """
    pattern = re.compile(rf"(?:(?P<table>.+?):)?\s*(?P<role>{'|'.join(roles)})\s*=(?P<name>.*)")
    choices: list[ColumnChoice] = []
    for text in settings:
        table = ""
        for part in text.split(","):
            match = pattern.fullmatch(part.strip())
            if match is None:
                raise InputError(
                    f"--columns got {part!r}: give path=NAME,label=NAME and so on, of "
                    f"{', '.join(roles)}, for one table TABLE:path=NAME."
                )
            table = match["table"] or table
            choices.append(ColumnChoice(match["role"], match["name"].strip(), table))
    _refuse_two_names(choices)
    return choices


def _refuse_two_names(choices: Iterable[ColumnChoice]) -> None:
    """Raise InputError if a column of a table is given two names; the scores may be several."""
    first: dict[tuple[str, str], ColumnChoice] = {}
    for choice in choices:
        other = first.setdefault((choice.table, choice.role), choice)
        if choice.role == SCORE and choice.name:
            continue
        if other is not choice:
            raise InputError(
                f"--columns names the {choice.role} twice, {other.name!r} and {choice.name!r}: "
                f"give one name, or say of which table each is, as in TABLE:{choice.role}=NAME."
            )


def choices_for(
    path: str, choices: Iterable[ColumnChoice], paths: Sequence[str]
) -> list[ColumnChoice]:
    """Return the choices that hold for the table at ``path``.

    What is said of this table replaces, for the same column, what is said of all. paths: All paths
    that are read. Raises InputError for a choice whose table is none or several of them.
    """
    of_all: list[ColumnChoice] = []
    of_this: list[ColumnChoice] = []
    for choice in choices:
        if not choice.table:
            of_all.append(choice)
        elif _meant_path(choice.table, paths) == path:
            of_this.append(choice)
    replaced = {choice.role for choice in of_this}
    return [choice for choice in of_all if choice.role not in replaced] + of_this


def _meant_path(table: str, paths: Sequence[str]) -> str:
    """Return the path that a table is called by: as it was given, or by the name of its file."""
    if table in paths:
        return table
    by_name = [path for path in dict.fromkeys(paths) if PurePath(path).name == table]
    if len(by_name) == 1:
        return by_name[0]
    if by_name:
        raise InputError(
            f"--columns {table}: may be {by_name[0]} or {by_name[1]}; write the whole path before "
            "the colon."
        )
    raise InputError(
        f"--columns {table}: is for a table that is not read{did_you_mean(table, paths)}; write "
        "its path, or the name of its file, before the colon."
    )

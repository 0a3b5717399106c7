"""Names that ``--layout`` and ``--columns`` take.

They stand apart from the readers, so that a command line can be read without them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

from focus.errors import InputError, did_you_mean

COLUMNS = (
    *("path", "label", "generator", "family", "split", "test_set"),
    *("human_map", "mask_path", "box", "group"),
)
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


def parse_labels(settings: Iterable[str]) -> dict[str, int]:
    """Parse ``real="bona fide",synthetic=attack`` to the class, 0 or 1, of each word.

    A setting that begins otherwise names a table (:func:`label_table`). Raises InputError.
    """
    classes: dict[str, int] = {}
    words = [text for text in settings if _CLASS_WORDS.match(text)]
    for part in (part for text in words for part in text.split(",")):
        name, _, word = (word.strip() for word in part.partition("="))
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

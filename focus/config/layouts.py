"""Names that ``--layout`` and ``--columns`` take.

They stand apart from the readers, so that a command line can be read without them.
"""

from collections.abc import Sequence
from typing import Literal

from focus.errors import InputError

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


def parse_labels(text: str) -> dict[str, int]:
    """Parse ``real="bona fide",synthetic=attack`` to the class, 0 or 1, of each word.

    Raises InputError.
    """
    words: dict[str, int] = {}
    for part in text.split(","):
        name, _, word = (each.strip() for each in part.partition("="))
        if name not in ("real", "synthetic") or not word:
            raise InputError(f"--labels got {part!r}: give real=WORD,synthetic=WORD.")
        words[word.strip("\"'").casefold()] = int(name == "synthetic")
    return words


def parse_columns(text: str, roles: Sequence[str] = COLUMNS) -> dict[str, str]:
    """Parse ``"path=filename,label=typ"`` to a mapping from the manifest's columns to a table's.

    An empty name, as in ``generator=``, means that the table has none. Raises InputError.
    """
    columns: dict[str, str] = {}
    for part in text.split(","):
        role, equals, name = (word.strip() for word in part.partition("="))
        if not equals or role not in roles:
            raise InputError(
                f"--columns got {part!r}: give path=NAME,label=NAME and so on, of "
                f"{', '.join(roles)}."
            )
        columns[role] = name
    return columns

"""Colour on a terminal."""

import os
import sys
from typing import Literal

_CODES = {"red": 31, "green": 32}


def coloured(text: str, colour: Literal["red", "green"]) -> str:
    """Return the text in a colour, or as it is where stdout shows none or ``NO_COLOR`` is set."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\033[{_CODES[colour]}m{text}\033[0m"

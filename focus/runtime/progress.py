"""Progress bars, which write a line now and then only where they are not redrawn; durations."""

import sys
from typing import Any

from tqdm.auto import tqdm

_LOGGED_EVERY = 10  # seconds, where each update is a line that stays
_SHOWN_EVERY = 0.5


def redrawn() -> bool:
    """Return whether a bar is redrawn in its line: on a terminal, and in a notebook."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def progress_bar(*arguments: Any, **settings: Any) -> "tqdm[Any]":
    """Return a bar of tqdm, with its arguments; where it is redrawn, the next one replaces it."""
    shown = redrawn()
    settings = {"leave": not shown, "dynamic_ncols": True} | settings
    return tqdm(*arguments, mininterval=_SHOWN_EVERY if shown else _LOGGED_EVERY, **settings)


def format_duration(seconds: float) -> str:
    """Return ``45 s``, ``12 min`` or ``2.5 h``: as fine as an estimate is."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

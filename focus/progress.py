"""Progress bars, all of one kind: in a log file they write a line now and then only."""

import sys
from typing import Any

from tqdm.auto import tqdm

_LOGGED_EVERY = 10  # seconds, where each update is a line that stays
_SHOWN_EVERY = 0.5


def progress_bar(*given: Any, **settings: Any) -> "tqdm[Any]":
    """A bar of tqdm, with its arguments."""
    every = _SHOWN_EVERY if sys.stderr.isatty() else _LOGGED_EVERY
    return tqdm(*given, mininterval=every, **settings)

"""How the programs of ``bench`` begin and end."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from focus.errors import InputError


def make_folder(folder: Path) -> None:
    """Before minutes of work; raises InputError where nothing can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"--output {folder} cannot be written to ({error.strerror}): name another folder."
        ) from error


def end_in_a_line(main: Callable[[], int | None]) -> NoReturn:
    """Exit with what it returns; an InputError ends the process with code 1 and one line.

    Ctrl-C ends it with code 130 and without a word.
    """
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)

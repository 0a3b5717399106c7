"""What is around a process: a folder for files kept between runs, processor cores, a launcher."""

import os
from pathlib import Path
from typing import Literal

from focus.errors import InputError

MixedPrecision = Literal["no", "bf16", "fp16"]

# Where launchers say which process of all this is, as Accelerate reads them, and of a machine's.
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK", "LOCAL_RANK")


def cache_dir() -> Path:
    """``$FOCUS_CACHE``, else ``$XDG_CACHE_HOME/focus-faces``, else ``~/.cache/focus-faces``.

    Raises InputError without a home folder: a container may run as a user whom no file names.
    """
    own, shared = os.environ.get("FOCUS_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if shared and not own:
        return Path(shared) / "focus-faces"
    place = Path(own or "~/.cache/focus-faces")
    try:
        return place.expanduser()
    except RuntimeError as error:
        raise InputError(
            f"No home folder is known for {place}, where files are kept between runs: set HOME, or "
            "FOCUS_CACHE to another folder."
        ) from error


def usable_cores() -> int:
    """The number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def said_by_launcher(name: str, otherwise: int) -> int:
    """The whole number of an environment variable, ``otherwise`` where it is not set.

    Raises InputError if it is no number, as where a batch script has filled in nothing.
    """
    value = os.environ.get(name, str(otherwise))
    try:
        return int(value)
    except ValueError as error:
        raise InputError(
            f"{name} is {value!r}, no whole number: leave it to `accelerate launch` or torchrun, "
            "or unset it."
        ) from error


def processes_here(otherwise: int = 1) -> int:
    """How many of a launch's processes this machine has, ``otherwise`` where nothing says it.

    Raises InputError if that is no number, or none at all.
    """
    said = said_by_launcher("LOCAL_WORLD_SIZE", otherwise)
    if said < 1:
        raise InputError(
            f"LOCAL_WORLD_SIZE is {said}, where a machine has one process at least: leave it to "
            "`accelerate launch` or torchrun, or unset it."
        )
    return said


def default_workers() -> int:
    """Processes that load images: a core each, which a machine's processes share, 8 at most."""
    return min(8, max(1, usable_cores() // processes_here()))


def process_rank() -> int:
    """Which of a launch's processes this is, also before Accelerate is there to ask.

    0 where that is no number, since of all processes the first says so.
    """
    said = next((os.environ[name] for name in RANKS if name in os.environ), "0")
    return int(said) if said.isdecimal() else 0


def is_main_process() -> bool:
    """Whether this is the first of a launch's processes."""
    return process_rank() == 0

"""The surroundings of a process: cache folder, processor cores, its place in a launch."""

import os
from pathlib import Path
from typing import Literal

MixedPrecision = Literal["no", "bf16", "fp16"]


def cache_dir() -> Path:
    """Return ``$FOCUS_CACHE``, else ``$XDG_CACHE_HOME/focus-faces``, else ``~/.cache/focus-faces``.

    Raises RuntimeError without a home folder.
    """
    folder = os.environ.get("FOCUS_CACHE")
    if folder:
        return Path(folder).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "focus-faces"


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def local_processes() -> int:
    """Return how many of a launch's processes this machine has."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def default_workers() -> int:
    """Return the number of processes that load images: this process's share of the cores, up to 8.

    It is at least 1.
    """
    return min(8, max(1, usable_cores() // local_processes()))


def is_main_process() -> bool:
    """Return whether this is the first of a launch's processes, also before Accelerate starts."""
    return os.environ.get("RANK", "0") == "0"

"""The command ``cache``: what this project keeps on the disk between runs, and its removal."""

import shutil
from pathlib import Path

from focus.config.data import CACHES, CacheConfig
from focus.data.cache.images import gb
from focus.errors import InputError
from focus.runtime.machine import cache_dir


def cache(config: CacheConfig) -> None:
    """Print how much each cache holds; remove those that are to be cleared.

    Raises:
        InputError: one cannot be removed.
    """
    folder = cache_dir()
    wanted = [*CACHES] if "all" in config.clear else config.clear
    print(f"{folder}:")
    for name, (pattern, about) in CACHES.items():
        places = sorted(folder.glob(pattern))
        size = sum(_size(place) for place in places)
        removed = bool(places) and name in wanted
        for place in places if removed else ():
            try:
                shutil.rmtree(place) if place.is_dir() else place.unlink()
            except OSError as error:
                raise InputError(
                    f"{place} cannot be removed ({error.strerror}): end what uses it, or remove it "
                    "by hand."
                ) from error
        print(f"  {name:<9} {gb(size):>10}  {about}{', removed' if removed else ''}")


def _size(place: Path) -> int:
    files = [place] if place.is_file() else place.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())

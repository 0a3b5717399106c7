"""The command ``cache``: what this project keeps on the disk between runs, and its removal."""

import shutil

from focus.config.data import CACHES, CacheConfig
from focus.data.cache.images import gb
from focus.errors import InputError
from focus.runtime.files import size_of
from focus.runtime.machine import cache_dir


def cache(config: CacheConfig) -> None:
    """Print how much each cache holds; remove those that are to be cleared.

    Raises:
        InputError: one cannot be removed.
    """
    folder = cache_dir()
    wanted = [*CACHES] if "all" in config.clear else config.clear
    print(f"{folder}:")
    for name, (pattern, description) in CACHES.items():
        paths = sorted(folder.glob(pattern))
        size = sum(size_of(path) for path in paths)
        removed = bool(paths) and name in wanted
        for path in paths if removed else ():
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            except OSError as error:
                raise InputError(
                    f"{path} cannot be removed ({error.strerror}): end what uses it, or remove it "
                    "by hand."
                ) from error
        print(f"  {name:<9} {gb(size):>10}  {description}{', removed' if removed else ''}")

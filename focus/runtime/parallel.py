"""Call a function for many files or images, in several processes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import TypeVar

from joblib import Parallel, delayed

from focus.runtime.machine import usable_cores
from focus.runtime.progress import progress_bar

T = TypeVar("T")
R = TypeVar("R")

# For fewer items, starting the processes takes longer than they save.
_WORTH_PROCESSES = 512


def parallel_map(
    function: Callable[[T], R],
    items: Sequence[T],
    title: str,
    *,
    processes: int | None = None,
    progress: bool = True,
) -> Iterator[R]:
    """Yield ``function(item)`` for each item, in order, with a progress bar.

    Joblib's processes are used, which neither fork a program that has threads nor import its main
    module; ``function`` should be of a module that is quick to import.

    processes: The number of processes, by default one for each usable core, or one for few items.
    """
    n = processes or (usable_cores() if len(items) >= _WORTH_PROCESSES else 1)
    # Idle processes end soon: they are not needed again.
    workers = Parallel(n, return_as="generator", idle_worker_timeout=5)
    # Closing ends the processes, also after Ctrl-C.
    with closing(workers(delayed(function)(item) for item in items)) as results:
        hidden = not (progress and items)
        yield from progress_bar(results, desc=title, total=len(items), disable=hidden)

"""Work that the processes of a launch share: each does its part, and all know the results.

The methods of :class:`Processes` are called by all processes of the launch, in the same order.
"""

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import torch

from focus.errors import InputError
from focus.runtime.progress import progress_bar

T = TypeVar("T")

_EVERY = 0.5  # seconds between two looks at what the others have done
_bars = count()  # shared bars of this process so far, as many as in each other one


@dataclass(frozen=True)
class Processes:
    """The processes of a launch, as one of them sees them.

    rank: The number of this one, 0 of the main process. count: How many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Return whether this is the main process."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by their numbers."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values

    def run(self, work: Callable[[], T]) -> T:
        """Return ``work()`` once every process has done it.

        Raises the InputError of the first process that has one in all processes, so that none
        waits; the main process adds the number of that process, as another machine may lack a file.
        """
        error: InputError | None = None
        try:
            made = work()
        except InputError as caught:
            error = caught
        errors = self.gather(error)
        for rank, error_of_rank in enumerate(errors):
            if error_of_rank is None:
                continue
            if rank > 0:
                text = str(error_of_rank).removesuffix(".")
                raise InputError(f"Process {rank}: {text}.") from error
            if error is not None:  # which has a traceback, for --debug
                raise error
            raise error_of_rank
        return made

    def from_main(self, work: Callable[[], T]) -> T:
        """Return what ``work()`` returns in the main process, which alone does it.

        Raises the main process's InputError in all processes.
        """
        if self.count == 1:
            return work()
        error: InputError | None = None
        made: Any = None
        if self.is_main:
            try:
                made = work()
            except InputError as caught:
                error = caught
        told = [(error, made)]
        torch.distributed.broadcast_object_list(told, src=0)
        if error is not None:
            raise error
        error_of_main, made_by_main = told[0]
        if error_of_main is not None:
            raise error_of_main
        value: T = made if self.is_main else made_by_main
        return value

    def sharing(self, folder: Path | None) -> list[int]:
        """Return the numbers of the processes whose ``folder`` is the same one as here.

        folder: None in a process that has none, or cannot write to it; all of those count as having
        the same one. A path does not tell: two machines may have a disk each at the same path.
        """
        name = f".launch-{secrets.token_hex(8)}"
        if folder is not None:
            try:
                (folder / name).touch()
            except OSError:
                folder = None
        try:
            names = self.gather(None if folder is None else name)
            shared = [
                rank
                for rank, other in enumerate(names)
                if (other is None if folder is None else other and (folder / other).exists())
            ]
            seen_by_all = self.gather(shared)  # from here on all have looked
        finally:
            if folder is not None:
                (folder / name).unlink(missing_ok=True)
        return [rank for rank, seen in enumerate(seen_by_all) if seen == shared]

    @contextmanager
    def progress(
        self, *, initial: int, total: int, show: bool, **settings: Any
    ) -> Iterator[Callable[[], object]]:
        """Show in the main process what all have done; yield what counts a thing done.

        The other processes' counts arrive until the block ends, where all should meet.

        initial, total: What this process has done before, and what it has to do in all. settings:
        Of the bar.
        """
        counts = self.gather((initial, total))
        with progress_bar(
            initial=sum(done for done, _ in counts),
            total=sum(to_do for _, to_do in counts),
            disable=not (show and self.is_main),
            **settings,
        ) as bar:
            if self.count == 1:
                yield bar.update
                return
            done = _SharedCount(f"focus/done-{next(_bars)}")
            with done.exchanged(bar.update if self.is_main else None):
                yield done.add
            bar.update(bar.total - bar.n)  # what the others have counted last


ALONE = Processes()
"""A process that shares its work with no other."""


class _SharedCount:
    """A number to which all processes add, in the store that they share."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._mine = 0
        self._sent = 0
        self._shown = 0
        self._store = torch.distributed.distributed_c10d._get_default_store()

    def add(self) -> None:
        """Count one more."""
        self._mine += 1

    @contextmanager
    def exchanged(self, show: Callable[[int], object] | None) -> Iterator[None]:
        """Tell the others now and then; call ``show`` with what all have added since its last call.

        A thread does it, so that a process that waits for the others still shows what they do.
        """
        end = threading.Event()

        def exchange() -> None:
            with suppress(RuntimeError):  # a process is lost, which others say
                while not end.wait(_EVERY):
                    self._exchange(show)

        thread = threading.Thread(target=exchange, daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()

    def _exchange(self, show: Callable[[int], object] | None) -> None:
        mine = self._mine
        total = self._store.add(self._key, mine - self._sent)
        self._sent = mine
        if show is not None:
            show(total - self._shown)
            self._shown = total

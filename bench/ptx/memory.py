"""Memory of a launch: what is there, who sees it, and what may not be done to it.

An access has a tag: how many barriers its warp has passed, and which warp it is. Two warps that
touch a place between the same barriers, one of them storing other bits, race.
"""

import mmap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bench.ptx.arithmetic import Array

BUFFER_BITS = 44
"""Above these bits of an address stands the number of its buffer, from 1."""
_MAP_NORESERVE = 0x4000  # Linux's; Python has no name for it
_WARP_BITS = 6
_SEVERAL = (1 << _WARP_BITS) - 1
"""In place of a warp, where several have read."""

Complain = Callable[[int, str], None]
"""Reports what a statement, by its number, may not do."""


class Access(NamedTuple):
    """What an instruction touches. first: the first byte [n] of each thread; size: in bytes."""

    first: Array
    size: int
    tag: Array
    statement: int

    @property
    def row(self) -> Array:
        """Return the number of each thread's piece among pieces of this size."""
        return self.first // self.size


class Buffer:
    """A tensor's memory.

    start: its first byte, off an alignment as far as the tensor's address is. constant: no kernel
    may store to it; fresh: nobody has written it yet. Without ``data`` the bytes are not there
    before they are touched, so that a buffer may be larger than the machine's memory.
    """

    def __init__(
        self, name: str, data: Array | None, *, size: int, address: int = 0,
        fresh: bool = False, constant: bool = False,
    ) -> None:  # fmt: skip
        self.name, self.constant, self.fresh = name, constant, fresh
        self.start, self.size, self.atomic = address % 256, size, False
        self._data = data
        length = (self.start + size + 31) // 16 * 16
        if data is None:
            self.bytes, self.stored, initialized = (_untouched(length) for _ in range(3))
            self.stored, self.initialized = self.stored.view(bool), initialized.view(bool)
            return
        self.bytes = np.zeros(length, "u1")
        self.bytes[self.start : self.start + size] = 255 if fresh else data
        self.stored, self.initialized = np.zeros(length, bool), np.full(length, not fresh)

    def pieces(self, size: int) -> tuple[Array, Array, Array]:
        """Return bytes, and whether they are stored and initialized, in pieces [n, size]."""
        bytes_, stored, initialized = (
            memory.reshape(-1, size) for memory in (self.bytes, self.stored, self.initialized)
        )
        return bytes_, stored, initialized

    def write(self, row: Array, data: Array) -> bool:
        """Store pieces; return whether other bits were stored there before."""
        bytes_, stored, initialized = self.pieces(data.shape[1])
        twice = not self.atomic and bool((stored[row] & (bytes_[row] != data)).any())
        bytes_[row], stored[row], initialized[row] = data, True, True
        return twice

    def is_written(self) -> bool:
        """Return whether all of the tensor is initialized."""
        return bool(self.initialized[self.start : self.start + self.size].all())

    def give_back(self) -> None:
        """Copy the bytes to the tensor."""
        if self._data is not None and not self.constant:
            self._data[:] = self.bytes[self.start : self.start + self.size]


def _untouched(size: int) -> Array:
    """Return bytes of 0 that take memory only where they are touched."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    return np.frombuffer(mmap.mmap(-1, size, flags=flags), np.uint8)


def _is_race(tag: Array, earlier: Array) -> Array:
    """Return whether another warp's access was not before the last barrier."""
    race: Array = (tag >> _WARP_BITS == earlier >> _WARP_BITS) & (tag != earlier)
    return race


class SharedMemory:
    """Shared memory of all CTAs. size: a CTA's; stride: from one CTA's to the next; unit: the
    bits of the narrowest access, by which races are told apart."""

    def __init__(self, size: int, ctas: int, unit: int, complain: Complain) -> None:
        self.size, self.stride = size, (size + 31) // 16 * 16
        self.bytes = np.full(self.stride * ctas + 16, 255, np.uint8)
        self._unit, self._complain = unit, complain
        units = len(self.bytes) >> unit
        self._store_tag, self._load_tag = np.full((2, units), -1 << _WARP_BITS, "i8")
        self._initialized, self._copies = np.zeros(units, bool), np.zeros(units, "i2")

    def _units(self, access: Access) -> Array:
        count = max(access.size >> self._unit, 1)
        return (access.first >> self._unit)[:, None] + np.arange(count)

    def check_load(self, access: Access) -> None:
        """Complain of bytes that are not there, or not yet; remember who has read."""
        if not len(access.first):
            return
        units, tag, statement = self._units(access), access.tag[:, None], access.statement
        if _is_race(tag, self._store_tag[units]).any():
            self._complain(statement, "a race: read without a barrier after another warp's store")
        if not self._initialized[units].all():
            self._complain(statement, "shared memory is read that nobody has written")
        if self._copies[units].any():
            self._complain(statement, "shared memory is read while a copy to it is under way")
        several = _is_race(tag, self._load_tag[units])
        new = np.where(several, tag | _SEVERAL, tag)
        self._load_tag[units] = new
        overwritten = self._load_tag[units] != new  # by another warp in the same instruction
        if overwritten.any():
            self._load_tag[units[overwritten]] |= _SEVERAL

    def store(self, access: Access, data: Array) -> None:
        """Store bytes [n, size]."""
        if not len(access.first):
            return
        pieces, row = self.bytes[: len(self.bytes) // 16 * 16].reshape(-1, access.size), access.row
        units, tag, statement = self._units(access), access.tag[:, None], access.statement
        race = _is_race(tag, self._store_tag[units]) | _is_race(tag, self._load_tag[units])
        changed = pieces[row] != data
        if (race.any(1) & changed.any(1)).any():
            self._complain(
                statement, "a race: stored without a barrier after another warp's access"
            )
        if self._copies[units].any():
            self._complain(statement, "shared memory is stored to while a copy to it is under way")
        self._store_tag[units], self._initialized[units] = tag, True
        pieces[row] = data
        if (pieces[row] != data).any():
            self._complain(statement, "threads store different bits to one place of shared memory")

    def begin_copy(self, access: Access) -> None:
        """Let a copy be under way to some bytes."""
        units, tag = self._units(access), access.tag[:, None]
        race = _is_race(tag, self._store_tag[units]) | _is_race(tag, self._load_tag[units])
        if race.any():
            self._complain(
                access.statement, "a race: a copy begins without a barrier after another's access"
            )
        np.add.at(self._copies, units, 1)

    def end_copy(self, access: Access, data: Array) -> None:
        """Let the bytes of a copy arrive."""
        np.subtract.at(self._copies, self._units(access), 1)
        self.store(access, data)


class GlobalMemory:
    """Global memory in which everybody sees a store at once."""

    def __init__(self, complain: Complain) -> None:
        self._complain = complain

    def load(self, buffer: Buffer, access: Access, threads: Array) -> Array:
        """Return the bytes [n, size] that threads, by their number in the launch, see."""
        bytes_, _, initialized = buffer.pieces(access.size)
        if not buffer.constant and not initialized[access.row].all():
            self._complain(access.statement, f"{buffer.name} is read where nobody has written")
        loaded: Array = bytes_[access.row]
        return loaded

    def store(self, buffer: Buffer, access: Access, data: Array, threads: Array) -> None:
        """Store bytes [n, size]."""
        self._write(buffer, access.row, data, access.statement)
        if (buffer.pieces(access.size)[0][access.row] != data).any():
            self._complain_of_threads(buffer, access.statement)

    def atomic_add(
        self, buffer: Buffer, first: int, addend: int, semantics: str, thread: int
    ) -> int:
        """Add to an integer of 32 bits; return what was there."""
        buffer.atomic = True
        words = buffer.bytes.view("u4")
        before = int(words[first // 4])
        words[first // 4] = (before + int(addend)) % 2**32
        return before

    def fence(self, thread: int) -> None:
        """Order a thread's accesses before this and after it."""

    def pass_barrier(self, cta: int) -> None:
        """Let a CTA's threads see what the others of them saw before a barrier."""

    def finish(self) -> None:
        """Let everybody see everything, at the end of a launch."""

    def _write(self, buffer: Buffer, row: Array, data: Array, statement: int) -> None:
        if buffer.write(row, data):
            self._complain(statement, f"{buffer.name} is stored twice, with other bits")

    def _complain_of_threads(self, buffer: Buffer, statement: int) -> None:
        text = f"threads store different bits to one place of {buffer.name}"
        self._complain(statement, text)


class Store(NamedTuple):
    """What an instruction stored, and which threads did."""

    buffer: Buffer
    row: Array
    data: Array
    threads: Array
    statement: int

    def only(self, chosen: Array) -> "Store":
        """Return the stores of some of the threads."""
        return self._replace(
            row=self.row[chosen], data=self.data[chosen], threads=self.threads[chosen]
        )


class CtaStores:
    """What a CTA has stored to a buffer, which its own threads see: bytes, which, and by whom."""

    def __init__(self, length: int) -> None:
        self.bytes, self.stored = np.zeros(length, "u1"), np.zeros(length, bool)
        self.tag = np.zeros(length, "i8")


class WeakMemory(GlobalMemory):
    """Global memory as weak as PTX's memory model lets it be.

    Stores that become visible together have a number: those of a CTA between two barriers, or those
    of a thread before it releases. A *view* is a set of such numbers, the bits of an integer: what
    happens before a point of a thread. A barrier unites the views of a CTA's threads. An atomic
    that releases leaves its thread's view at the address, one that acquires takes what it finds
    there. A load sees its own CTA's stores and those of its view, and nothing else.
    """

    def __init__(
        self, buffers: Sequence[Buffer], ctas: int, threads: int, complain: Complain
    ) -> None:
        super().__init__(complain)
        self._threads = threads
        self._initial = {
            buffer: (buffer.bytes.copy(), buffer.initialized.copy())
            for buffer in buffers
            if not buffer.constant
        }
        self._views: list[int] = [0]
        self._view_numbers: dict[int, int] = {0: 0}
        self._view = np.zeros(ctas * threads, "i8")  # of each thread, its number
        self._sets: list[list[Store]] = []
        self._pending: list[list[Store]] = [[] for _ in range(ctas)]
        self._cta_stores: dict[tuple[int, Buffer], CtaStores] = {}
        self._images: dict[tuple[int, Buffer], tuple[Array, Array]] = {}
        self._messages: dict[tuple[Buffer, int], int] = {}
        self._fenced: dict[int, int] = {}
        self._seen_relaxed: dict[int, int] = {}

    def load(self, buffer: Buffer, access: Access, threads: Array) -> Array:
        """Return the bytes that threads of one CTA see."""
        if buffer.constant:
            return super().load(buffer, access, threads)
        loaded = np.empty((len(threads), access.size), "u1")
        initialized = np.empty(loaded.shape, bool)
        views, row = self._view[threads], access.row
        for number in np.unique(views):
            chosen = views == number
            image = self._image(self._views[number], buffer)
            bytes_, there = (memory.reshape(-1, access.size) for memory in image)
            loaded[chosen], initialized[chosen] = bytes_[row[chosen]], there[row[chosen]]
        of_cta = self._stores_of(int(threads[0]) // self._threads, buffer)
        stored, tag = (
            memory.reshape(-1, access.size)[row] for memory in (of_cta.stored, of_cta.tag)
        )
        if (stored & _is_race(access.tag[:, None], tag)).any():
            self._complain(
                access.statement,
                f"a race: {buffer.name} is read without a barrier after another warp's store",
            )
        if not (initialized | stored).all():
            self._complain(
                access.statement,
                f"{buffer.name} is read where nobody has written, or before it may be seen",
            )
        return np.where(stored, of_cta.bytes.reshape(-1, access.size)[row], loaded)

    def store(self, buffer: Buffer, access: Access, data: Array, threads: Array) -> None:
        """Store bytes of threads of one CTA, which others need not see yet."""
        cta, row = int(threads[0]) // self._threads, access.row
        of_cta = self._stores_of(cta, buffer)
        pieces = of_cta.bytes.reshape(-1, access.size)
        pieces[row] = data
        if (pieces[row] != data).any():
            self._complain_of_threads(buffer, access.statement)
        of_cta.stored.reshape(-1, access.size)[row] = True
        of_cta.tag.reshape(-1, access.size)[row] = access.tag[:, None]
        self._pending[cta].append(Store(buffer, row, data, threads, access.statement))

    def atomic_add(
        self, buffer: Buffer, first: int, addend: int, semantics: str, thread: int
    ) -> int:
        """Add to an integer of 32 bits; release or acquire by the semantics."""
        message = self._fenced.get(thread, 0)
        if semantics in ("release", "acq_rel"):
            message = self._release(thread)
        for store in self._take(
            thread, lambda store: (store.threads == thread) & _touches(store, buffer, first)
        ):
            self._show(store)
        before = super().atomic_add(buffer, first, addend, semantics, thread)
        # What earlier atomics left stays: this one carries their releases on.
        taken = self._messages.get((buffer, first), 0)
        self._messages[buffer, first] = taken | message
        if semantics in ("acquire", "acq_rel"):
            self._see(thread, taken)
        else:
            self._seen_relaxed[thread] = self._seen_relaxed.get(thread, 0) | taken
        return before

    def fence(self, thread: int) -> None:
        """Release what a later atomic leaves, and acquire what earlier ones have read."""
        self._fenced[thread] = self._release(thread)
        self._see(thread, self._seen_relaxed.pop(thread, 0))

    def pass_barrier(self, cta: int) -> None:
        """Unite the views of a CTA's threads, and add what these have stored."""
        part = slice(cta * self._threads, (cta + 1) * self._threads)
        numbers = np.unique(self._view[part])
        stores, self._pending[cta] = self._pending[cta], []
        if len(numbers) > 1 or stores:
            united = self._set_of(stores)
            for number in numbers:
                united |= self._views[number]
            self._view[part] = self._number_of(united)

    def finish(self) -> None:
        """Show what nobody has released."""
        for stores in self._pending:
            for store in stores:
                self._show(store)

    def _stores_of(self, cta: int, buffer: Buffer) -> CtaStores:
        key = cta, buffer
        if key not in self._cta_stores:
            self._cta_stores[key] = CtaStores(len(buffer.bytes))
        return self._cta_stores[key]

    def _number_of(self, view: int) -> int:
        if view not in self._view_numbers:
            self._view_numbers[view] = len(self._views)
            self._views.append(view)
        return self._view_numbers[view]

    def _see(self, thread: int, releases: int) -> None:
        self._view[thread] = self._number_of(self._views[self._view[thread]] | releases)

    def _image(self, view: int, buffer: Buffer) -> tuple[Array, Array]:
        """Return the bytes of a buffer in a view, and whether they are initialized."""
        if (view, buffer) not in self._images:
            bytes_, initialized = (memory.copy() for memory in self._initial[buffer])
            for number, stores in enumerate(self._sets):
                for store in stores if view >> number & 1 else ():
                    if store.buffer is buffer:
                        size = store.data.shape[1]
                        bytes_.reshape(-1, size)[store.row] = store.data
                        initialized.reshape(-1, size)[store.row] = True
            self._images[view, buffer] = bytes_, initialized
        return self._images[view, buffer]

    def _take(self, thread: int, chosen_of: Callable[[Store], Array]) -> list[Store]:
        """Return some of the stores of a thread's CTA that are pending, and keep the others."""
        cta = thread // self._threads
        taken, kept = [], []
        for store in self._pending[cta]:
            chosen = chosen_of(store)
            if chosen.any():
                taken.append(store.only(chosen))
            if not chosen.all():
                kept.append(store.only(~chosen))
        self._pending[cta] = kept
        return taken

    def _release(self, thread: int) -> int:
        """Return a thread's view with its own stores, which are in it from here on."""
        stores = self._take(thread, lambda store: store.threads == thread)
        self._see(thread, self._set_of(stores))
        return self._views[int(self._view[thread])]

    def _set_of(self, stores: list[Store]) -> int:
        """Return the bit of a new set of stores; 0 for none."""
        if not stores:
            return 0
        for store in stores:
            self._show(store)
        self._sets.append(stores)
        return 1 << (len(self._sets) - 1)

    def _show(self, store: Store) -> None:
        self._write(store.buffer, store.row, store.data, store.statement)


def _touches(store: Store, buffer: Buffer, first: int) -> Array:
    """Return which threads of a store touch an integer of 32 bits."""
    size = store.data.shape[1]
    overlaps: Array = (store.row * size < first + 4) & (first < (store.row + 1) * size)
    return overlaps & (store.buffer is buffer)

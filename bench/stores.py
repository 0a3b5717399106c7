"""Compare stores of rows on the disk: ours, LMDB and SQLite, also while their files are harmed.

    pip install lmdb
    python -m bench.stores [--short] [--output FOLDER] [--rounds N]

Each has the checksum of a row beside it and compares it at each read. First comes the time of a row
of 224 x 224 x 3 bytes, in random order, and what a memory map takes without a check. Then, for each
kind of harm, four processes write rows into a store that has them and four read them for some
seconds while one harms the files, on a disk with locks and on one whose locks fail (flock and fcntl
answer ENOLCK, by a library that gcc makes): how many reads gave a row, how many of these another
row than the one asked for, how many failed, and how the readers ended.
"""

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import xxhash
from numpy.typing import NDArray

from bench.harness import begin, make_parser, median, note, run_program, time_rounds, write
from focus.runtime.rows import RowStore

LONG = 224 * 224 * 3
COUNT = 256
Row = NDArray[np.uint8]

WITHOUT_LOCKS = """
#include <errno.h>
#include <stdarg.h>
#include <fcntl.h>
#include <dlfcn.h>
int flock(int file, int operation) { errno = ENOLCK; return -1; }
static int refuse(const char *name, int file, int command, void *argument) {
    if (command == F_SETLK || command == F_SETLKW || command == F_GETLK ||
        command == F_OFD_SETLK || command == F_OFD_SETLKW) { errno = ENOLCK; return -1; }
    int (*original)(int, int, ...) = dlsym((void *)-1L, name);
    return original(file, command, argument);
}
#define REPLACE(name) int name(int file, int command, ...) { va_list rest; \\
    va_start(rest, command); void *argument = va_arg(rest, void *); va_end(rest); \\
    return refuse(#name, file, command, argument); }
REPLACE(fcntl)
REPLACE(fcntl64)
"""


class Store(Protocol):
    """Rows of bytes by their numbers."""

    def add(self, numbers: list[int], rows: Row) -> None:
        """Write rows."""

    def read(self, number: int, out: Row) -> bool:
        """Read a row into ``out``; return whether it is there and as it was written."""


class Ours:
    """:class:`focus.runtime.rows.RowStore`."""

    def __init__(self, folder: Path, length: int) -> None:
        self._store = RowStore(folder, np.uint8, (length,))
        self._numbers: list[int] = []

    def add(self, numbers: list[int], rows: Row) -> None:
        self._store.append(_names(numbers), [*rows])

    def read(self, number: int, out: Row) -> bool:
        if not number:  # as a run does, which looks its rows up before an epoch
            self._numbers = self._store.find(_names(range(COUNT))).tolist()
        row = self._numbers[number] if self._numbers else -1
        return row >= 0 and self._store.read(row, out)


class Lmdb:
    """A memory-mapped B+ tree with copies on write."""

    def __init__(self, folder: Path, length: int) -> None:
        import lmdb

        self._environment = lmdb.open(str(folder), map_size=2**30, max_readers=64)

    def add(self, numbers: list[int], rows: Row) -> None:
        with self._environment.begin(write=True) as transaction:
            for number, row in zip(numbers, rows, strict=True):
                transaction.put(b"%d" % number, _checksum(number, row) + row.tobytes())

    def read(self, number: int, out: Row) -> bool:
        with self._environment.begin(buffers=True) as transaction:
            stored = transaction.get(b"%d" % number)
            return stored is not None and _taken(number, stored[:8], stored[8:], out)


class Sqlite:
    """A B tree in pages, with a journal."""

    def __init__(self, folder: Path, length: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(folder / "rows.db", timeout=5)
        self._connection.execute("CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY, "
                                 "checksum BLOB, row BLOB)")  # fmt: skip

    def add(self, numbers: list[int], rows: Row) -> None:
        values = [
            (number, _checksum(number, row), row.tobytes())
            for number, row in zip(numbers, rows, strict=True)
        ]
        with self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?, ?)", values)

    def read(self, number: int, out: Row) -> bool:
        query = "SELECT checksum, row FROM rows WHERE number = ?"
        stored = self._connection.execute(query, (number,)).fetchone()
        return stored is not None and _taken(number, stored[0], stored[1], out)


STORES: dict[str, Callable[[Path, int], Store]] = {"ours": Ours, "LMDB": Lmdb, "SQLite": Sqlite}


def _names(numbers: Any) -> NDArray[np.bytes_]:
    return np.array([b"%016d" % number for number in numbers], "S16")


def _checksum(number: int, row: Any) -> bytes:
    checksum = xxhash.xxh3_64(b"%016d" % number)
    checksum.update(row)
    return checksum.digest()


def _taken(number: int, checksum: Any, row: Any, out: Row) -> bool:
    if len(row) != len(out) or _checksum(number, row) != bytes(checksum):
        return False
    out[:] = np.frombuffer(row, np.uint8)
    return True


def measure_speed(rounds: int) -> Iterator[dict[str, Any]]:
    """Yield the microseconds of a read of each store, and of a memory map."""
    rows = np.random.default_rng(0).integers(0, 256, (COUNT, LONG), np.uint8)
    out, order = np.empty(LONG, np.uint8), np.random.default_rng(1).permutation(COUNT).tolist()
    with tempfile.TemporaryDirectory() as name:
        steps: dict[str, Any] = {}
        for store_name, make in STORES.items():
            store = make(Path(name, store_name), LONG)
            store.add([*range(COUNT)], rows)
            store.read(0, out)

            def epoch(store: Store = store) -> tuple[()]:
                for number in order:
                    assert store.read(number, out)
                return ()

            steps[store_name] = epoch
            assert all(store.read(number, out) and (out == rows[number]).all() for number in order)
        path = Path(name, "map")
        rows.tofile(path)
        mapped = np.memmap(path, np.uint8, "r", shape=rows.shape)

        def copied() -> tuple[()]:
            for number in order:
                out[:] = mapped[number]
            return ()

        steps["memory map, unchecked"] = copied
        for store_name, seconds in time_rounds(steps, rounds).items():
            yield note(median(seconds / COUNT * 1e6), "microseconds a row", case=store_name)


SHORT_LENGTH = 3000
ROWS = np.random.default_rng(0).integers(0, 256, (COUNT, SHORT_LENGTH), np.uint8)


def _write(name: str, folder: Path, seed: int, until: float) -> None:
    draw = random.Random(seed)
    while time.monotonic() < until:
        try:
            store = STORES[name](folder, SHORT_LENGTH)
            for _ in range(20):
                numbers = draw.sample(range(COUNT), 16)
                store.add(numbers, ROWS[numbers])
        except Exception:  # of a file that is harmed, or a disk without locks
            time.sleep(0.01)


def _read(name: str, folder: Path, answer: Any, until: float) -> None:
    total = wrong = errors = 0
    out, store = np.empty(SHORT_LENGTH, np.uint8), None
    while time.monotonic() < until:
        try:
            if store is None:
                store = STORES[name](folder, SHORT_LENGTH)
            for number in range(COUNT):
                if store.read(number, out):
                    total += 1
                    wrong += not (out == ROWS[number]).all()
        except Exception:
            errors, store = errors + 1, None
            time.sleep(0.01)
    answer.put((total, wrong, errors))


def _harm(harm: str, folder: Path, until: float) -> None:
    draw = random.Random(0)
    while time.monotonic() < until:
        time.sleep(draw.uniform(0.05, 0.3))
        files = [path for path in folder.glob("*") if path.stat().st_size > 1 << 14]
        index = [*folder.glob("index-2.bin")]
        if harm == "none" or not files + index:
            continue
        path = draw.choice(files + index)
        try:
            size = path.stat().st_size
            if harm == "removed":
                path.unlink()
            elif harm == "cut off":
                os.truncate(path, draw.randrange(size))
            else:
                with path.open("r+b") as file:
                    position = draw.randrange(size)
                    file.seek(position)
                    byte = file.read(1)[0]
                    file.seek(position)
                    file.write(bytes([byte ^ 1 << draw.randrange(8)]))
        except (OSError, ValueError, IndexError):
            continue


HARMS = ("none", "removed", "cut off", "bits flipped")


def storm(name: str, harm: str, seconds: float, folder: Path) -> str:
    """Return what four readers of a store met, in words."""
    fork = multiprocessing.get_context("fork")
    answer, until = fork.Queue(), time.monotonic() + seconds
    readers = [fork.Process(target=_read, args=(name, folder, answer, until)) for _ in range(4)]
    others = [fork.Process(target=_write, args=(name, folder, n, until)) for n in range(4)]
    others.append(fork.Process(target=_harm, args=(harm, folder, until)))
    for process in (*readers, *others):
        process.start()
    time.sleep(seconds + 1)
    ends: Counter[str] = Counter()
    for process in (*readers, *others):
        process.join(10)
        if process.exitcode is None:
            ends["hanging"] += process in readers
            process.kill()
            process.join()
        elif process in readers and process.exitcode:
            ends[signal.Signals(-process.exitcode).name] += 1
    answers = [answer.get() for _ in range(4 - ends.total())]
    total, wrong, errors = np.sum([(0, 0, 0), *answers], 0).tolist()
    ended = "".join(f", {count} of 4 readers ended by {end}" for end, count in (+ends).items())
    return f"{total} rows read, {wrong} of them wrong, {errors} errors{ended}"


def measure_faults(seconds: float) -> Iterator[dict[str, Any]]:
    """Yield what readers met, by store, harm and locks; each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        source, library = Path(name, "locks.c"), Path(name, "locks.so")
        source.write_text(WITHOUT_LOCKS)
        command = [
            "gcc",
            "-D_GNU_SOURCE",
            "-shared",
            "-fPIC",
            "-o",
            str(library),
            str(source),
            "-ldl",
        ]
        subprocess.run(command, check=True)
        for locks in ("locks", "no locks"):
            environment = os.environ | ({} if locks == "locks" else {"LD_PRELOAD": str(library)})
            for harm in HARMS:
                for store in STORES:
                    folder = Path(name, f"{locks}-{harm}-{store}")
                    STORES[store](folder, SHORT_LENGTH).add([*range(COUNT)], ROWS)
                    call = f"storm({store!r}, {harm!r}, {seconds}, Path({str(folder)!r}))"
                    code = f"from bench.stores import Path, storm; print({call})"
                    met = "hangs"
                    with suppress(subprocess.TimeoutExpired):
                        done = subprocess.run(
                            [sys.executable, "-c", code],
                            env=environment,
                            capture_output=True,
                            text=True,
                            timeout=seconds + 60,
                        )
                        met = done.stdout.strip().rpartition("\n")[2] or done.stderr[-200:]
                    print(f"{locks}, {harm}, {store}: {met}", flush=True)
                    yield {"locks": locks, "harm": harm, "store": store, "met": met}


def main() -> None:
    """Measure, print and write."""
    arguments = make_parser(__doc__, 9, 3).parse_args()
    measured_with = begin("bench.stores", arguments)
    rows = list(measure_speed(arguments.rounds))
    write(arguments.output, "stores-speed", rows, measured_with)
    faults = list(measure_faults(1 if arguments.short else 3))
    write(arguments.output, "stores-faults", faults, measured_with)


if __name__ == "__main__":
    run_program(main)

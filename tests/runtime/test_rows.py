"""Rows on the disk: what is read is what was written, whatever has happened to the files."""

import errno
import fcntl
import logging
import math
import multiprocessing
import os
import random
import resource
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from focus.runtime import rows
from focus.runtime.rows import RowStore

ROWS, INDEX = "rows-2.bin", "index-2.bin"
SHAPE = 3, 5
SIZE = 15
FORK = multiprocessing.get_context("fork")


def names(*numbers: int) -> NDArray[np.bytes_]:
    return np.array([b"%016d" % number for number in numbers], "S16")


def row(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, SHAPE, dtype=np.uint8)


def filled(folder: Path, *numbers: int) -> RowStore:
    store = RowStore(folder, np.uint8, SHAPE)
    store.append(names(*numbers), [row(number) for number in numbers])
    return store


def read(store: RowStore, number: int) -> NDArray[Any] | None:
    (row_number,) = store.find(names(number))
    out = np.empty(SHAPE, np.uint8)
    return out if row_number >= 0 and store.read(int(row_number), out) else None


def is_whole(store: RowStore, number: int) -> bool:
    """Tell whether a row is there; what is read is never another one."""
    values = read(store, number)
    assert values is None or (values == row(number)).all()
    return values is not None


def test_rows_come_back_in_any_process_and_are_written_once(tmp_path: Path) -> None:
    store = filled(tmp_path / "a", 1, 2, 2, 3)
    store.append(names(3, 4), [row(3), row(4)])
    assert (tmp_path / "a" / ROWS).stat().st_size == 4 * SIZE
    assert all(is_whole(RowStore(tmp_path / "a", np.uint8, SHAPE), n) for n in (4, 1, 3, 2))
    with FORK.Pool(2) as pool:
        assert pool.starmap(is_whole, [(store, n) for n in (1, 2, 3, 4)]) == [True] * 4
    assert (store.find(names(9, 1)) >= 0).tolist() == [False, True]
    assert (store.find(np.array([b"", names(2)[0]], "S16")) >= 0).tolist() == [False, True]


def test_names_that_end_in_zeros(tmp_path: Path) -> None:
    both = np.array([b"\1" * 15 + b"\0", b"\1" * 15 + b"\1"], "S16")
    store = RowStore(tmp_path, np.uint8, SHAPE)
    store.append(both, [row(0), row(1)])
    out = np.empty((2, *SHAPE), np.uint8)
    assert all(store.read(number, out[n]) for n, number in enumerate(store.find(both).tolist()))
    assert (out == [row(0), row(1)]).all()


@pytest.mark.parametrize("offset", [0, SIZE, 2 * SIZE + 14])
def test_a_flipped_bit_is_found_and_the_row_written_again(
    tmp_path: Path, offset: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Also behind a reader that has read the row before; one line says so, in all its processes."""
    using = filled(tmp_path, 0, 1, 2)
    assert all(is_whole(using, n) for n in range(3))
    with (tmp_path / ROWS).open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    bad = offset // SIZE
    for _ in range(2):
        assert [is_whole(using, n) for n in range(3)] == [n != bad for n in range(3)]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / ROWS} is damaged: what is not as it was written is made anew"
    ]
    # Other programs need not read it to learn that it is missing.
    other = RowStore(tmp_path, np.uint8, SHAPE)
    assert other.find(names(bad)) == -1
    other.append(names(bad), [row(bad)])
    assert all(is_whole(RowStore(tmp_path, np.uint8, SHAPE), n) for n in range(3))


@pytest.mark.parametrize("name", [ROWS, INDEX])
@pytest.mark.parametrize("damage", ["empty", "cut", "longer", "gone", "noise"])
def test_a_damaged_file_never_gives_another_row(tmp_path: Path, name: str, damage: str) -> None:
    """Also to a process that has it open."""
    using = filled(tmp_path, 0, 1, 2)
    assert is_whole(using, 1)
    path = tmp_path / name
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        noise = np.random.default_rng(0).bytes(len(content))
        new = {"empty": b"", "cut": content[:-7], "longer": content + b"more", "noise": noise}
        path.write_bytes(new[damage])
    for store in (using, RowStore(tmp_path, np.uint8, SHAPE)):
        for number in range(3):
            is_whole(store, number)
        missing = [n for n in range(3) if store.find(names(n)) < 0]
        store.append(names(*missing), [row(n) for n in missing])
        assert all(is_whole(store, n) for n in range(3))
    assert all(is_whole(RowStore(tmp_path, np.uint8, SHAPE), n) for n in range(3))


def test_a_file_that_is_cut_off_while_it_is_read(tmp_path: Path) -> None:
    store = filled(tmp_path, 0, 1, 2)
    assert is_whole(store, 2)
    os.truncate(tmp_path / ROWS, SIZE + 3)
    assert [is_whole(store, n) for n in range(3)] == [True, False, False]


@pytest.mark.parametrize("removed", [[INDEX], [ROWS], [ROWS, INDEX]])
@pytest.mark.parametrize("others", [(2, 1), (7, 8, 9), ()])
def test_cleared_and_filled_by_others_while_it_is_used(
    tmp_path: Path, others: tuple[int, ...], removed: list[str]
) -> None:
    """A run reads on by the numbers that it got when it began: its rows, or none."""
    store, out = filled(tmp_path, 0, 1, 2), np.empty(SHAPE, np.uint8)
    numbers = store.find(names(0, 1, 2)).tolist()
    assert all(store.read(number, out) for number in numbers)
    for name in removed:
        (tmp_path / name).unlink()
    if others:
        filled(tmp_path, *others)
    for expected, number in enumerate(numbers):
        if store.read(number, out):
            assert (out == row(expected)).all()
    assert [is_whole(store, n) for n in others] == [True] * len(others)


def test_what_was_written_is_never_written_again(tmp_path: Path) -> None:
    """Whatever is added, found damaged or left in part by a program that was killed."""
    store = filled(tmp_path, 0, 1)
    (tmp_path / ROWS).open("ab").write(b"part of a row")
    (tmp_path / INDEX).open("ab").write(b"part of an entry")
    with (tmp_path / ROWS).open("r+b") as file:
        file.write(bytes(SIZE))
    before = {name: (tmp_path / name).read_bytes() for name in (ROWS, INDEX)}
    assert not is_whole(store, 0)
    store.append(names(0, 2), [row(0), row(2)])
    assert all(is_whole(RowStore(tmp_path, np.uint8, SHAPE), n) for n in range(3))
    for name, content in before.items():
        assert (tmp_path / name).read_bytes().startswith(content)


def _fill(folder: Path, first: int) -> None:
    for number in range(first, first + 4000):
        store = RowStore(folder, np.uint8, SHAPE)
        store.append(names(number), [row(number)])


def test_two_that_fill_it_and_are_killed_leave_whole_rows(tmp_path: Path) -> None:
    both = [FORK.Process(target=_fill, args=(tmp_path, first)) for first in (0, 20)]
    for process in both:
        process.start()
    index = tmp_path / INDEX
    while not (index.exists() and index.stat().st_size > 60 * 32):
        time.sleep(0.01)
    for process in both:
        process.kill()
        process.join()
    store = RowStore(tmp_path, np.uint8, SHAPE)
    kept = [number for number in range(4020) if store.find(names(number)) >= 0]
    assert len(kept) >= 60
    assert index.stat().st_size // 32 == len(kept) + 1, "each is written once"
    assert all(is_whole(store, number) for number in kept)
    store.append(names(9999), [row(9999)])
    assert is_whole(store, 9999)


def _refused(store: RowStore) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * SIZE + 7, -1))
    with pytest.raises(OSError, match="File too large"):
        store.append(names(1, 2, 3), [row(1), row(2), row(3)])


def test_a_disk_that_takes_no_more_leaves_what_was_there(tmp_path: Path) -> None:
    store = filled(tmp_path, 0)
    process = FORK.Process(target=_refused, args=(store,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert [is_whole(store, n) for n in range(4)] == [True, False, False, False]
    store.append(names(2), [row(2)])
    assert is_whole(store, 0)
    assert is_whole(store, 2)


def _no_lock(_: int, __: int) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def _no_use(_: int, __: int) -> None:
    """Lock nothing, as between two machines where a file system locks on one machine alone."""


def test_without_locks_nothing_is_written_and_what_is_there_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, 1)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("fcntl.flock", _no_lock)
    store = RowStore(tmp_path, np.uint8, SHAPE)
    with pytest.raises(OSError, match="its file system has no locks"):
        store.append(names(2), [row(2)])
    with pytest.raises(OSError, match="its file system has no locks"):
        store.check_writable()
    assert is_whole(store, 1)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


# Four programs that write and four that read, while the files are damaged

MANY, LONG = 100, 3000
MANY_NAMES = names(*range(MANY))
MANY_ROWS = np.random.default_rng(0).integers(0, 256, (MANY, LONG), dtype=np.uint8)


def _write(folder: Path, seed: int, begun: Barrier, seconds: float) -> None:
    """Write the rows in an order of its own, again and again."""
    draw = random.Random(seed)
    begun.wait()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        store, order = RowStore(folder, np.uint8, (LONG,)), draw.sample(range(MANY), MANY)
        for first in range(0, MANY, 8):
            part = order[first : first + 8]
            with suppress(OSError):  # where there are no locks
                store.append(MANY_NAMES[part], [MANY_ROWS[number] for number in part])


def _read(folder: Path, answer: Any, begun: Barrier, seconds: float) -> None:
    """Tell how many rows were read, and how many of them were others than those asked for."""
    logging.disable()
    store, out = RowStore(folder, np.uint8, (LONG,)), np.empty(LONG, np.uint8)
    total = wrong = 0
    until = math.inf
    while time.monotonic() < until:
        numbers = store.find(MANY_NAMES).tolist()
        for expected, number in zip([*MANY_ROWS] * 3, numbers * 3, strict=True):
            if number >= 0 and store.read(number, out):
                total += 1
                wrong += not (out == expected).all()
        if until == math.inf:  # each has read the rows once before anything is damaged
            begun.wait()
            until = time.monotonic() + seconds
    answer.put((total, wrong))


def _remove(path: Path, _: random.Random) -> None:
    path.unlink()


def _cut(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(path.stat().st_size + 1))


def _flip(path: Path, draw: random.Random) -> None:
    offset = draw.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 1 << draw.randrange(8)]))


def _harm(
    harm: Callable[[Path, random.Random], None] | None,
    folder: Path,
    file: str,
    begun: Barrier,
    seconds: float,
) -> None:
    draw = random.Random(0)
    begun.wait()
    until = time.monotonic() + seconds
    while harm and time.monotonic() < until:
        time.sleep(draw.uniform(0.02, 0.2))
        try:
            harm(folder / file, draw)
        except (FileNotFoundError, ValueError):  # of a file that is gone, or empty
            continue


DAMAGE = [
    (_remove, INDEX),
    (_cut, INDEX),
    (_cut, ROWS),
    (_flip, INDEX),
    (_flip, ROWS),
    (None, ""),
]


def _cases() -> list[Any]:
    """Return each damage under each kind of lock; the first case is quick."""
    cases: list[Any] = []
    for flock in (fcntl.flock, _no_use, _no_lock):
        for harm, file in DAMAGE:
            quick = not cases
            marks = () if quick else pytest.mark.slow
            cases.append(pytest.param(flock, harm, file, 0.6 if quick else 2, marks=marks))
    return cases


@pytest.mark.parametrize(("flock", "harm", "file", "seconds"), _cases())
def test_no_row_of_a_damaged_store_is_another_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flock: Callable[[int, int], None],
    harm: Callable[[Path, random.Random], None] | None,
    file: str,
    seconds: float,
) -> None:
    RowStore(tmp_path, np.uint8, (LONG,)).append(MANY_NAMES, [*MANY_ROWS])
    monkeypatch.setattr("fcntl.flock", flock)
    answer, begun = FORK.Queue(), FORK.Barrier(9)
    tasks: list[BaseProcess] = [
        FORK.Process(target=_write, args=(tmp_path, seed, begun, seconds)) for seed in range(4)
    ]
    for _ in range(4):
        tasks.append(FORK.Process(target=_read, args=(tmp_path, answer, begun, seconds)))
    tasks.append(FORK.Process(target=_harm, args=(harm, tmp_path, file, begun, seconds)))
    for task in tasks:
        task.start()
    answers = [answer.get(timeout=60) for _ in range(4)]
    for task in tasks:
        task.join()
        assert task.exitcode == 0
    assert sum(total for total, _ in answers) >= 4 * 3 * MANY
    assert sum(wrong for _, wrong in answers) == 0


def test_numbers_of_names_are_those_of_a_dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of names that share a half or end in zeros, set anew and removed, among many and few."""
    monkeypatch.setattr(rows, "_MOST_RECENT", 3)
    halves = [b"a" * 8, b"a" * 7 + b"b", bytes(8), b"\xff" * 8, b"\0" * 7 + b"\1", b"b" + bytes(7)]
    all_names = [high + low for high in halves for low in halves if any(high + low)]
    asked = np.array([*all_names, b"c" * 16], "S16")
    draw = random.Random(0)
    for _ in range(20):
        numbers, expected = rows._Numbers(), dict[bytes, int]()
        for number in range(150):
            name = draw.choice(all_names)
            if draw.random() < 0.3:
                numbers.remove(name)
                expected.pop(name, None)
            else:
                numbers.set(name, number)
                expected[name] = number
            assert numbers.get(name) == expected.get(name, -1)
        assert numbers.find(asked).tolist() == [*(expected.get(n, -1) for n in all_names), -1]


def test_an_index_takes_few_bytes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of millions of rows a dictionary would take 200 bytes each, in each process."""
    monkeypatch.setattr(rows, "_MOST_RECENT", 1000)
    count = 20_000
    digests = np.random.default_rng(0).integers(1, 256, (count, 16), np.uint8).view("S16")[:, 0]
    RowStore(tmp_path, np.uint8, (1,)).append(digests, list(np.zeros((count, 1), np.uint8)))
    tracemalloc.start()
    store = RowStore(tmp_path, np.uint8, (1,))
    store.find(digests[:1])
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100 * count
    assert (store.find(digests) == np.arange(1, count + 1)).all()

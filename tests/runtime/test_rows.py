"""Rows on the disk: what is read is what was written, whatever has happened to the files."""

import multiprocessing
import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from focus.runtime.rows import RowStore

SHAPE = 3, 5
SIZE = 15


def names(*numbers: int) -> NDArray[np.bytes_]:
    return np.array([b"%016d" % number for number in numbers], "S16")


def row(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, SHAPE, dtype=np.uint8)


def filled(folder: Path, *numbers: int) -> RowStore:
    store = RowStore(folder, np.uint8, SHAPE)
    store.append(names(*numbers), [row(number) for number in numbers])
    return store


def read(store: RowStore, number: int) -> NDArray[Any] | None:
    (at,) = store.find(names(number))
    out = np.empty(SHAPE, np.uint8)
    return out if at >= 0 and store.read(int(at), out) else None


def is_whole(store: RowStore, number: int) -> bool:
    """Tell whether a row is there; what is read is never another one."""
    found = read(store, number)
    assert found is None or (found == row(number)).all()
    return found is not None


def test_rows_come_back_in_any_process_and_are_written_once(tmp_path: Path) -> None:
    store = filled(tmp_path / "a", 1, 2, 2, 3)
    store.append(names(3, 4), [row(3), row(4)])
    assert (tmp_path / "a" / "rows.bin").stat().st_size == 4 * SIZE
    assert all(is_whole(RowStore(tmp_path / "a", np.uint8, SHAPE), n) for n in (4, 1, 3, 2))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(is_whole, [(store, n) for n in (1, 2, 3, 4)]) == [True] * 4
    assert store.find(names(9, 1)).tolist() == [-1, 0]
    assert store.find(np.array([b"", names(2)[0]], "S16")).tolist() == [-1, 1]


def test_names_that_end_in_zeros(tmp_path: Path) -> None:
    both = np.array([b"\1" * 15 + b"\0", b"\1" * 15 + b"\1"], "S16")
    store = RowStore(tmp_path, np.uint8, SHAPE)
    store.append(both, [row(0), row(1)])
    assert store.find(both).tolist() == [0, 1]


@pytest.mark.parametrize("at", [0, SIZE, 2 * SIZE + 14])
def test_a_flipped_bit_is_found_and_the_row_written_again(
    tmp_path: Path, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path, 0, 1, 2)
    content = bytearray((tmp_path / "rows.bin").read_bytes())
    content[at] ^= 1
    (tmp_path / "rows.bin").write_bytes(content)
    store = RowStore(tmp_path, np.uint8, SHAPE)
    bad = at // SIZE
    assert [is_whole(store, n) for n in range(3)] == [n != bad for n in range(3)]
    assert f"row {bad} of {tmp_path / 'rows.bin'} is damaged" in caplog.text
    assert RowStore(tmp_path, np.uint8, SHAPE).find(names(bad)) == -1
    store.append(names(bad), [row(bad)])
    assert all(is_whole(RowStore(tmp_path, np.uint8, SHAPE), n) for n in range(3))


@pytest.mark.parametrize("name", ["rows.bin", "index.bin"])
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
    os.truncate(tmp_path / "rows.bin", SIZE + 3)
    assert [is_whole(store, n) for n in range(3)] == [True, False, False]


@pytest.mark.parametrize("others", [(2, 1), (7, 8, 9), ()])
def test_cleared_and_filled_by_others_while_it_is_used(
    tmp_path: Path, others: tuple[int, ...]
) -> None:
    """A run reads on by the rows that it found when it began, and finds more for a validation."""
    store, out = filled(tmp_path, 0, 1, 2), np.empty(SHAPE, np.uint8)
    found = store.find(names(0, 1, 2)).tolist()
    for name in ("rows.bin", "index.bin"):
        (tmp_path / name).unlink()
    if others:
        filled(tmp_path, *others)
    assert [is_whole(store, n) for n in range(3)] == [n in others for n in range(3)]
    assert not any(store.read(at, out) for at in found)
    assert [is_whole(store, n) for n in others] == [True] * len(others)


def test_a_row_that_another_process_forgets_takes_no_other_with_it(tmp_path: Path) -> None:
    store, out = filled(tmp_path, 0, 1), np.empty(SHAPE, np.uint8)
    found = store.find(names(0, 1)).tolist()
    assert store.read(found[1], out)
    with (tmp_path / "rows.bin").open("r+b") as file:
        file.write(bytes(SIZE))
    assert not is_whole(RowStore(tmp_path, np.uint8, SHAPE), 0)
    assert store.find(names(0, 1)).tolist() == [-1, found[1]]
    assert store.read(found[1], out)


def _fill(folder: Path, first: int) -> None:
    for number in range(first, first + 4000):
        store = RowStore(folder, np.uint8, SHAPE)
        store.append(names(number), [row(number)])


def test_two_that_fill_it_and_are_killed_leave_whole_rows(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=_fill, args=(tmp_path, first)) for first in (0, 20)]
    for process in both:
        process.start()
    index = tmp_path / "index.bin"
    while not (index.exists() and index.stat().st_size > 60 * 20):
        time.sleep(0.01)
    for process in both:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    store = RowStore(tmp_path, np.uint8, SHAPE)
    kept = [number for number in range(4020) if store.find(names(number)) >= 0]
    assert len(kept) >= 60
    assert all(is_whole(store, number) for number in kept)
    store.append(names(9999), [row(9999)])
    assert is_whole(store, 9999)


def _refused(store: RowStore) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * SIZE + 7, -1))
    with pytest.raises(OSError, match="File too large"):
        store.append(names(1, 2, 3), [row(1), row(2), row(3)])


def test_a_disk_that_takes_no_more_leaves_what_was_there(tmp_path: Path) -> None:
    store = filled(tmp_path, 0)
    process = multiprocessing.get_context("fork").Process(target=_refused, args=(store,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert (tmp_path / "rows.bin").stat().st_size == SIZE
    assert is_whole(store, 0)
    store.append(names(2), [row(2)])
    assert is_whole(store, 2)

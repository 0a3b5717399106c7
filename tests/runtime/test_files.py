"""Files that are whole or absent, locks, and folders that can be written to."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from focus.errors import InputError
from focus.runtime.files import (
    atomic_write,
    check_empty,
    check_writable,
    locked,
    sole_writer,
    write_csv,
)

from ..launching import CHECKOUT, in_another_process, run


def test_a_file_is_on_the_disk_before_it_takes_the_place_of_the_old(
    tmp_path: Path, disk_log: list[Any]
) -> None:
    """What a power cut leaves of a rename whose file was not flushed may be empty."""
    path = tmp_path / "summary.csv"
    path.write_text("old")
    with atomic_write(path) as aside:
        aside.write_text("new")
        inode = aside.stat().st_ino
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert disk_log == [inode, "renamed", tmp_path.stat().st_ino]
    disk_log.clear()
    with atomic_write(path, flushed=False) as aside:
        aside.write_text("newer")
    assert disk_log == ["renamed"]
    assert [file.name for file in tmp_path.iterdir()] == ["summary.csv"]


def test_an_error_or_a_kill_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    path.write_text("old")

    with pytest.raises(KeyError):
        write_csv(path, ["new"], ({}["no row"] for _ in range(1)))
    assert [file.name for file in tmp_path.iterdir()] == ["summary.csv"]
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from focus.runtime.files import atomic_write\n"
        "with atomic_write(Path(sys.argv[1])) as aside:\n"
        "    aside.write_text('half'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert run("-c", code, path).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_csv_keeps_names_that_are_not_utf_8_and_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    write_csv(path, ["a\udcff", "b\r", "c\r\n"], [])
    assert path.read_bytes() == b'a\xff,"b\r","c\r\n"\n'


@contextmanager
def held_with_a_worker(lock: Path) -> Iterator[None]:
    with locked(lock):
        if (worker := os.fork()) == 0:
            time.sleep(20)
            os._exit(0)
        (lock.parent / "worker").write_text(str(worker))
        yield


def test_of_two_processes_one_holds_the_lock(tmp_path: Path) -> None:
    """The other has it once the first is killed, though a worker of that one lives on."""
    path = tmp_path / "lock"
    with in_another_process(lambda: held_with_a_worker(path)), locked(path) as mine:
        assert not mine
    try:
        with locked(path) as mine:
            assert mine
    finally:
        os.kill(int((tmp_path / "worker").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("answer", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_keeps_nobody_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    """As some on a network; a marker instead would outlive a process that is killed there."""

    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / "lock") as mine, locked(tmp_path / "lock", wait=True) as too:
        assert mine
        assert too


WRITES = """
import os, sys, time
from pathlib import Path
from focus.errors import InputError
from focus.runtime.files import sole_writer

folder, times = Path(sys.argv[1]), 0
while times < 200:
    try:
        with sole_writer(folder):
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
            os.unlink(folder / "inside")
            times += 1
    except InputError:
        pass
"""


@pytest.mark.slow
def test_of_three_processes_none_gets_in_while_a_lock_is_removed(tmp_path: Path) -> None:
    """One waits for the file that the second removes, so the third makes another."""
    command = [sys.executable, "-c", WRITES, tmp_path]
    writers = [subprocess.Popen(command, cwd=CHECKOUT) for _ in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert not any(tmp_path.iterdir())


def test_of_two_processes_one_writes_to_a_folder(tmp_path: Path) -> None:
    output = tmp_path / "explained"
    with (
        in_another_process(lambda: sole_writer(output)),
        pytest.raises(InputError, match=f"process writes to {output}: .* another --output"),
        sole_writer(output),
    ):
        pass
    with sole_writer(output):
        check_empty(output)  # but for its lock, also that of a process that was killed
    assert list(output.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_says_of_which_file(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_write(tmp_path / "summary.csv"), Path("/dev/full").open("w") as file:
            file.write("x")

    with pytest.raises(OSError, match=r"No space left on device.*summary\.csv'$"):
        write()
    assert not any(tmp_path.iterdir())


def test_a_folder_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "run")
    check_empty(tmp_path)
    check_empty(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"^The folder {tmp_path} holds files already: give anot"):
        check_empty(tmp_path)
    for folder, reason in (("file/run", "Not a directory"), ("/proc/run", "No such file")):
        said = rf"^--onnx: .*{folder} cannot be written, nothing can be made in .*{reason}"
        with pytest.raises(InputError, match=said):
            check_writable(tmp_path / folder, "--onnx")

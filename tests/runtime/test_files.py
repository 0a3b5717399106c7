"""Files that are whole or absent, locks, and folders that can be written to."""

import signal
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

from ..launching import in_another_process, run


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


def test_of_two_processes_one_holds_the_lock(tmp_path: Path) -> None:
    """The other is not kept waiting, and has it once the first has ended, in whatever way."""
    path = tmp_path / "lock"
    with in_another_process(lambda: locked(path)), locked(path) as mine:
        assert not mine
    with locked(path) as mine:
        assert mine


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

"""A program whose output nobody reads any more goes on, and says no more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..launching import Begin

# Told to, by the end of its input, it says more than the buffers of streams and pipes hold.
PROGRAM = """
import sys
from pathlib import Path
from focus.config.command_line import run
from focus.config.train import TrainConfig
from focus.runtime.progress import progress_bar

def main(config):
    print("ready", flush=True)
    sys.stdin.read()
    for _ in progress_bar(range(3)):
        print("a line " * 10_000)
        print("another, without an end " * 10_000, end="")
        print("a warning", file=sys.stderr)
    Path("done").touch()

run(main, TrainConfig)
"""


@pytest.mark.slow
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("lost", ["stdout", "stderr", "both"])
def test_a_reader_that_goes_ends_no_program(
    lost: str, terminal: bool, buffered: bool, tmp_path: Path, begin: Begin
) -> None:
    reader, written = os.openpty() if terminal else os.pipe()
    left = tmp_path / "left"
    with left.open("w") as kept:
        process = begin(
            [sys.executable, *["-u"] * (not buffered), "-c", PROGRAM],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=kept if lost == "stderr" else written,
            stderr=kept if lost == "stdout" else written,
        )
    os.close(written)
    if lost == "stderr":
        os.close(reader)
    else:
        assert os.read(reader, 5) == b"ready"
        os.close(reader)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "done").exists()
    # The other one has all that was said.
    said = left.read_text()
    assert said.count("a line ") == (30_000 if lost == "stderr" else 0)
    assert said.count("a warning\n") == (3 if lost == "stdout" else 0)
    assert "Error" not in said


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_a_stream_closed_from_the_start_ends_no_program(
    closed: str, tmp_path: Path, begin: Begin
) -> None:
    program = PROGRAM.replace("sys.stdin.read()", "")
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, program]
    process = begin(command, cwd=tmp_path)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "done").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_on_a_full_disk_is_an_error(tmp_path: Path, begin: Begin) -> None:
    with Path("/dev/full").open("w") as full:
        process = begin(
            [sys.executable, "-c", PROGRAM],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
        )
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "error: No space left on device: free or choose another place.\n" in errors
    assert not (tmp_path / "done").exists()


def test_a_line_is_there_once_it_is_said() -> None:
    """Also if the program is killed right after it; a pipe is buffered as a file is."""
    said = "set_up_streams(); print('a line'); os._exit(0)"
    code = f"import os; from focus.runtime.streams import set_up_streams; {said}"
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept, stdout=subprocess.PIPE, timeout=60, check=True
    )
    assert done.stdout == b"a line\n"

"""A program that works beside the tests, for those of them that come last."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Background(NamedTuple):
    """A program that writes to a folder."""

    process: subprocess.Popen[bytes]
    folder: Path

    def wait(self) -> Path:
        """The folder, once all is written."""
        code = self.process.wait()
        assert code == 0, f"exit status {code}: {(self.folder / 'log.txt').read_text()}"
        return self.folder


@contextmanager
def background(folder: Path, program: str, *names: str) -> Iterator[Background]:
    """Begin a program of this directory; on leaving, whatever still runs of it is ended."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    # What compilers leave when they are ended goes with the folder.
    (folder / "scratch").mkdir()
    environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "scratch")}
    # A group of its own: Ctrl-C reaches pytest alone, which ends all of the group. A pytest that is
    # killed ends nobody, but its end of a pipe closes: what waits for that ends the group, its own.
    guard = ["sh", "-c", "read line; kill -KILL 0"]
    with (
        (folder / "log.txt").open("wb") as log,
        subprocess.Popen(guard, stdin=subprocess.PIPE, process_group=0) as leader,
        subprocess.Popen(
            [sys.executable, Path(__file__).with_name(program), folder, *names],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=leader.pid,
        ) as process,
    ):
        try:
            yield Background(process, folder)
        finally:
            os.killpg(leader.pid, signal.SIGKILL)

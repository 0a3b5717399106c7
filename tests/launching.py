"""Programs in processes of their own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CHECKOUT = Path(__file__).parents[1]
Begin = Callable[..., "subprocess.Popen[str]"]
"""The fixture ``begin``."""
NO_LOCKS = """
import errno, fcntl, os

def refuse(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

fcntl.flock = fcntl.lockf = refuse
"""


@contextmanager
def in_another_process(held: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    """Keep a process forked from this one within the context ``held`` during the block.

    It is killed at the end of the block, and ends by itself after 20 seconds.
    """
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with held():
                os.write(tell, b"1")
                time.sleep(20)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.close(tell)
    try:
        assert os.read(ready, 1) == b"1"
        yield
    finally:
        os.close(ready)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def end(program: "subprocess.Popen[Any]") -> None:
    """End it, and what it started, if it has not ended."""
    if program.poll() is None:
        program.terminate()  # torchrun ends its processes, which have groups of their own
        with suppress(subprocess.TimeoutExpired):
            program.wait(40)
    with program, suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)  # and orphans


def run(
    *words: object, cwd: Path | None = None, timeout: float = 600, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Run this Python with these words, for ``timeout`` seconds at most; return what it printed."""
    program = subprocess.Popen(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = program.communicate(timeout=timeout)
    except BaseException:
        end(program)
        raise
    return subprocess.CompletedProcess(program.args, program.returncode, output, errors)


def python(*words: object, cwd: Path | None = None, **environment: str) -> str:
    """Return what this Python prints, run with these words; it has to succeed."""
    done = run(*words, cwd=cwd, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def write_faces(folder: Path, count: int, seed: int = 0) -> Path:
    """Write a 0_real/1_fake tree of ``count`` pictures of 32 x 32 pixels in each class."""
    draw = np.random.default_rng(seed)
    for label, name in enumerate(("0_real", "1_fake")):
        of_class = folder / "gan" / name
        of_class.mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            pixels[8:20, 8:20, 0] = 60 * label
            Image.fromarray(pixels).save(of_class / f"{number}.png")
    return folder


def disk_without_locks(folder: Path) -> dict[str, str]:
    """Return the environment of a program for which no disk has locks, as on some networks."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(NO_LOCKS)
    return {"PYTHONPATH": str(folder)}


def told(rank: int, of: int, port: int, local: int) -> dict[str, str]:
    """Return the environment that torchrun gives a process, one of ``local`` on its machine."""
    variables = {"RANK": rank, "WORLD_SIZE": of, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    variables |= {"LOCAL_RANK": rank % local, "LOCAL_WORLD_SIZE": local}
    return {name: str(value) for name, value in variables.items()}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port

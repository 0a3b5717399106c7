"""Run a part as a process of its own, and take its rows as they come."""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.gpu.timing import Row

ROOT = Path(__file__).parents[2]


def run_process(command: Sequence[str], seconds: float, add: Callable[[Row], None]) -> str | None:
    """Run a program for at most some seconds; return its error, if there is one.

    add: Takes each row as it is printed: a line that begins with a brace.
    """
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,  # compilers that it started end with it
        ) as child,
    ):
        assert child.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.killpg(child.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            for line in child.stdout:
                if line.startswith("{"):
                    add(json.loads(line))
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
        finally:
            code = child.wait()
            timer.cancel()
        if late.is_set():
            return f"ended after its share of {seconds:.0f} s: give more --minutes"
        errors.seek(0)
        lines = errors.read().strip().splitlines()
    return f"exit code {code}: {' / '.join(lines[-3:])}" if code else None

"""Run ``focus annotate`` as a process and speak to it, among the tests of annotation."""

import base64
import csv
import io
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image


def write_faces(folder: Path, count: int = 6, side: int = 64) -> Path:
    """Write ``count`` real faces and as many of two generators, all different."""
    draw = np.random.default_rng(0)
    for kind in ("A/0_real", "A/1_fake", "B/1_fake"):
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (8, 8, 3), np.uint8)
            picture = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
            picture.save(folder / kind / f"{number}.png")
    return folder


@dataclass
class Served:
    """A running program: its process, and the address that it printed."""

    process: "subprocess.Popen[str]"
    address: str

    @property
    def port(self) -> str:
        return str(urlsplit(self.address).port)

    def ask(
        self, path: str, body: Any = None, origin: str | None = "", host: str | None = None
    ) -> tuple[int, str]:
        """Return status and text of a GET, or with a body of a POST, by default from the page."""
        request = urllib.request.Request(self.address + path)
        if body is not None:
            request.data = body if isinstance(body, bytes) else json.dumps(body).encode()
            if origin is not None:
                request.add_header("Origin", origin or "/".join(self.address.split("/")[:3]))
        if host:
            request.add_header("Host", host)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return response.status, response.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")

    def state(self, annotator: str = "anna", tab: str = "") -> dict[str, Any]:
        """Return what the page is told at its start."""
        status, text = self.ask("ask", {"annotator": annotator, "tab": tab})
        assert status == 200, text
        state: dict[str, Any] = json.loads(text)
        return state

    def answer(self, state: dict[str, Any], said: str = "real", **other: Any) -> tuple[int, Any]:
        """Answer the question of a state; return the status, and the next state or the error."""
        asked = {name: state["question"][name] for name in ("id", "round", "mended")}
        reply = {
            **asked,
            "annotator": state["annotator"],
            "tab": "",
            "mark": "",
            "answer": said,
            "confidence": 2,
            "seconds": 1.5,
            **other,
        }
        status, text = self.ask("answer", reply)
        return status, json.loads(text) if status == 200 else text

    def stop(self, number: int = signal.SIGINT) -> str:
        """End it by a signal; return what it printed since the address."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=60)[0]


def program(*words: object, **environment: str) -> "subprocess.Popen[str]":
    """Start ``focus annotate``, both streams in one."""
    return subprocess.Popen(
        [sys.executable, "-m", "focus", "annotate", *map(str, words)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def serving(*words: object, **environment: str) -> Iterator[Served]:
    """Serve the page within the block, at a free port unless one is given."""
    port = [] if "--port" in words else ["--port", 0]
    browser = [] if "--browser" in words else ["--no-browser"]
    process = program(*words, *browser, *port, **environment)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("open http"):
                yield Served(process, line.split()[1])
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        with process:  # which waits, and closes its output
            process.kill()


def refusal(*words: object, **environment: str) -> str:
    """Return the line with which the program refuses to start."""
    port = [] if "--port" in words else ["--port", 0]
    process = program(*words, "--no-browser", *port, **environment)
    printed = process.communicate(timeout=60)[0]
    assert process.returncode == 2, printed
    (line,) = [line for line in printed.splitlines() if "error:" in line]
    return line


def mark(side: int = 64, size: tuple[int, int] | None = None) -> str:
    """Return the data URL of a drawn mark, as the page sends it."""
    image = Image.new("RGBA", size or (side, side))
    image.paste((25, 227, 255, 255), (8, 8, 24, 40))
    file = io.BytesIO()
    image.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def rows(output: Path) -> list[dict[str, str]]:
    """Return all answers on the disk."""
    answers = []
    for path in sorted((output / "answers").glob("*.csv")):
        with path.open(newline="") as file:
            answers += list(csv.DictReader(file))
    return answers

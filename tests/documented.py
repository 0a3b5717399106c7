"""The commands that README and docs show, as their shell would run them, and files for them.

A block of code in ``bash`` or ``sh`` is shell, and one of ``text`` whose first word is a program's.
Bash itself takes it apart, loops, variables and line breaks included, with functions in the place
of the programs, which say what they were called with.
"""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from focus.data.demo import render_face

CHECKOUT = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{p.name}" for p in sorted(CHECKOUT.glob("docs/*.md"))),
]
LONG = "<!-- long -->\n"
"""Before a block: what it does takes minutes, GPUs or packages."""

_PROGRAMS = ("accelerate", "make", "pip", "pytest", "python", "torchrun")
_SHELL = (*_PROGRAMS, "for")
_BLOCK = re.compile(rf"^({LONG})?```(bash|sh|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ARGUMENT, _COMMAND = "\x1f", "\x1e"


class Command(NamedTuple):
    """A command with its words; long: its block is marked so."""

    words: tuple[str, ...]
    long: bool


def commands(text: str) -> list[Command]:
    """All commands of a document, in order; what a block defines holds for those after it."""
    script = [
        f"{name}() {{ printf '%s{_ARGUMENT}' {name} \"$@\"; printf '%s{_COMMAND}' $long; }}"
        for name in _PROGRAMS
    ]
    for mark, language, block in _BLOCK.findall(text):
        if language != "text" or block.split(maxsplit=1)[0] in _SHELL:
            script += [f"long={int(bool(mark))}", block]
    # Without a PATH nothing else can run; a word that is no program of the list is an error.
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", "\n".join(script)],
        env={"PATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = [call.split(_ARGUMENT) for call in done.stdout.split(_COMMAND)[:-1]]
    return [Command(tuple(words), long == "1") for *words, long in said]


def of_document(name: str) -> list[Command]:
    """Each command of a document once; of those that differ in their numbers alone, the first."""
    found = commands((CHECKOUT / name).read_text(encoding="utf-8"))
    return list({re.sub(r"\d+", "0", " ".join(c.words)): c for c in reversed(found)}.values())[::-1]


def program(command: Command) -> tuple[str, ...]:
    """The words from the script or ``-m`` on, without launcher and interpreter."""
    words = command.words
    if words[0] == "python":
        return words[1:]
    scripts = [at for at, word in enumerate(words) if word.endswith(".py")]
    return words[scripts[0] :] if words[0] in ("accelerate", "torchrun") else ()


def write_files(folder: Path) -> None:
    """The data that the documents' commands name, in small: drawn faces with human maps."""
    rows, table, number = [], [], 0
    for split, count in (("train", 8), ("test", 4)):
        for kind, label in (("real", "Real"), ("kA", "Synthetic")):
            for _ in range(count):
                number += 1
                picture = render_face("train", kind, number)
                _save(picture.image, folder / f"images/{kind}/{number}.png")
                rows.append(f"{split},{label},/{kind}/{number}.png")
                table.append(f"images/{kind}/{number}.png,{label}")
                _save(
                    picture.image, folder / f"DIR/{label.replace('Synthetic', 'fake')}/{number}.png"
                )
                if split == "train":
                    assert picture.human_map is not None
                    _save(picture.human_map, folder / f"heatmaps/{number}.png")
    (folder / "original.csv").write_text("\n".join(rows))
    (folder / "table.csv").write_text("\n".join(["filename,kind", *table]))
    for name, kind in (("fakes", "uNear"), ("reals", "real"), ("pictures", "real")):
        for number in range(4):
            _save(
                render_face("open", kind, number + 50 * (name == "pictures")).image,
                folder / name / f"{number}.png",
            )
    for number, name in enumerate(("a.jpg", "b.png", "picture.jpg", "holiday/1.png")):
        _save(render_face("open", "uNear", 100 + number).image, folder / name)
    boxes = [f"pictures/{number}.png,real,10 10 50 54" for number in range(4)]
    (folder / "pictures.csv").write_text(
        "\n".join(["# focus-manifest 1", "path,label,box", *boxes])
    )


def write_film(path: Path) -> None:
    """A second of drawn faces as MPEG-4; skips the test where PyAV is missing."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 64
        for number in range(5):
            pixels = render_face("open", "uNear", 200 + number).image
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())


def _save(pixels: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)

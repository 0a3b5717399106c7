"""The launches of docs/scale.md, as two nodes on this machine: two caches, and the bits of one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ..launching import CHECKOUT, Begin, free_port, python, write_faces

pytestmark = pytest.mark.slow

FACES = 40
SMALL = "--recipe quick --epochs 1 --report-to none --report false --name run --output"
PAGE = (CHECKOUT / "docs" / "scale.md").read_text(encoding="utf-8")
SCRIPTS = re.findall(r"^```text\n(NODE=.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_faces(tmp_path_factory.mktemp("data") / "faces", FACES // 2)


@pytest.fixture(scope="module")
def alone(faces: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one node with as many processes."""
    folder = tmp_path_factory.mktemp("alone")
    words = ["-m", "torch.distributed.run", "--nproc_per_node", 4]
    words += ["--master_port", free_port(), CHECKOUT / "train.py", "--data", faces]
    python(*words, *SMALL.split(), folder, FOCUS_CACHE=str(folder / "cache"))
    return folder / "run"


def results(run: Path) -> dict[str, Any]:
    """Return the results but for the command, which names the folder."""
    values: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    del values["provenance"]["command"]
    return values


def script_of(node: int, script: str, folder: Path, faces: Path, port: int) -> str:
    """Return a script of the page with a node's own values in the place of the page's."""
    values = {
        "NODE=0": f"NODE={node}",
        "PORT=29500": f"PORT={port}",
        "/tmp/focus-": f"{folder}/cache-",
        "train.py --data DIR": f"{CHECKOUT}/train.py --data {faces} {SMALL} {folder}",
    }
    for text, value in values.items():
        assert script.count(text) == 1, text
        script = script.replace(text, value)
    return script


def test_the_page_has_a_launch_of_both_programs() -> None:
    assert ["torchrun" in script for script in SCRIPTS] == [True, False]
    assert ["accelerate launch" in script for script in SCRIPTS] == [False, True]


@pytest.mark.parametrize("script", SCRIPTS, ids=["torchrun", "accelerate"])
def test_two_nodes_fill_two_caches_and_train_as_one(
    script: str, faces: Path, alone: Path, tmp_path: Path, begin: Begin
) -> None:
    programs = str(Path(sys.executable).parent)
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }
    port = free_port()
    nodes = [
        begin(
            ["/bin/bash", "-euc", script_of(node, script, tmp_path, faces, port)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for node in range(2)
    ]
    for node, program in enumerate(nodes):
        said = program.communicate(timeout=300)[0]
        assert program.returncode == 0, said
        assert f"of decoded images go to {tmp_path}/cache-{node}/" in said
    stored = [
        [file.stat().st_size for file in sorted(cache.rglob("rows-*.bin"))]
        for cache in (tmp_path / "cache-0", tmp_path / "cache-1", alone.parent / "cache")
    ]
    assert stored[0] == stored[1] == stored[2]
    assert all(stored)
    assert results(tmp_path / "run") == results(alone)
    for name in ("scores.csv", "manifest.csv", "summary.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (alone / name).read_bytes(), name

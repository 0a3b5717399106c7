"""The pass over all files, shared by real processes: each file once, and what one process finds."""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ..launching import Begin, free_port, run, told, write_faces

pytestmark = pytest.mark.slow

N_FACES = 12
PROGRAM = """
import json, sys, time
from pathlib import Path

from focus.data import file_pass
from focus.data.bad_files import check_images
from focus.data.cache.images import KINDS, ImageCache
from focus.data.copies import Pictures, find_copies
from focus.data.manifest import Manifest
from focus.data.signatures import SignatureStore
from focus.runtime.launch import closing_process_group, processes_of, start
from focus.runtime.rows import names_of

listed, image_cache, seconds = sys.argv[1:]
names = []

def load_image(path, load=file_pass.load_image):
    time.sleep(float(seconds))
    names.append(Path(path).name)
    return load(path)

file_pass.load_image = load_image
file_pass._STORED_EVERY = 1
with closing_process_group():
    processes = processes_of(start("no", 1))
    manifest, store = Manifest.from_csv(listed), SignatureStore()
    images = ImageCache.of(16, image_cache)
    checked = check_images(
        manifest, images=images, signatures=store, max_bad=0.5, processes=processes
    )
    pictures = Pictures(checked.manifest, store) if processes.is_main else None
    copies = processes.from_main(lambda: find_copies(checked.manifest, pictures))
    kept = {}
    for kind, column in KINDS.items():
        digests = [sample.extra.get(column, "") for sample in checked.manifest]
        kept[kind] = [] if images is None else images.has(kind, names_of(digests)).tolist()
    print(json.dumps({
        "decoded": names,
        "kept": kept,
        "result": {
            "manifest": [repr(sample) for sample in checked.manifest],
            "bad": [repr(file) for file in checked.bad],
            "odd": checked.odd_files,
            "copies": [repr(copy) for copy in copies],
        },
    }))
"""


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces with maps, of which one is blank, a bad file, and a test image that is a copy."""
    folder = write_faces(tmp_path_factory.mktemp("faces"), N_FACES // 2)
    rows = ["path,label,split,human_map"]
    for number, file in enumerate(sorted(folder.rglob("*.png"))):
        heat = folder / f"map{number}.png"
        values = np.full((8, 8), 7, np.uint8) if number == 3 else np.eye(8, dtype=np.uint8) * 200
        Image.fromarray(values).save(heat)
        label = "real" if "0_real" in str(file) else "synthetic"
        rows.append(f"{file},{label},train,{heat if number % 3 == 0 else ''}")
    Image.open(file).save(folder / "copy.jpg", quality=95)
    (folder / "bad.png").write_bytes(b"no picture")
    rows += [f"{folder}/copy.jpg,synthetic,test,", f"{folder}/bad.png,real,test,"]
    (folder / "manifest.csv").write_text("\n".join(rows))
    return folder / "manifest.csv"


def look(
    listed: Path, caches: Sequence[Path], image_cache: str = "auto", seconds: float = 0
) -> list[dict[str, Any]]:
    """What as many processes say as there are caches, each with its own one or a shared one."""
    port = free_port()
    words = ["-c", PROGRAM, listed, image_cache, seconds]
    with ThreadPoolExecutor() as pool:
        ranks = [
            pool.submit(
                run, *words, FOCUS_CACHE=str(cache), **told(rank, len(caches), port, len(caches))
            )
            for rank, cache in enumerate(caches)
        ]
    done = [rank.result() for rank in ranks]
    assert [one.returncode for one in done] == [0] * len(caches), done
    return [json.loads(one.stdout.splitlines()[-1]) for one in done]


@pytest.fixture(scope="module")
def alone(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    (said,) = look(listed, [tmp_path_factory.mktemp("alone")])
    assert len(said["decoded"]) == N_FACES + 2
    assert len(said["result"]["bad"]) == 1
    assert len(said["result"]["copies"]) == 1
    return said


@pytest.mark.parametrize("image_cache", ["auto", "no"])
def test_two_processes_decode_each_file_once_and_find_what_one_does(
    listed: Path, alone: Mapping[str, Any], tmp_path: Path, image_cache: str
) -> None:
    said = look(listed, [tmp_path, tmp_path], image_cache)
    assert sorted(said[0]["decoded"] + said[1]["decoded"]) == sorted(alone["decoded"])
    assert len(said[0]["decoded"]) == len(said[1]["decoded"])
    for one in said:
        assert one["result"] == alone["result"]
        if image_cache == "auto":
            assert one["kept"] == alone["kept"]
    # The bad file alone is looked at again.
    again = look(listed, [tmp_path, tmp_path], image_cache)
    assert again[0]["decoded"] + again[1]["decoded"] == ["bad.png"]
    assert again[0]["result"] == alone["result"]


def test_two_caches_are_both_filled(listed: Path, alone: Mapping[str, Any], tmp_path: Path) -> None:
    """As on two machines, each of which reads its own in training."""
    caches = [tmp_path / "a", tmp_path / "b"]
    for one in look(listed, caches):
        assert sorted(one["decoded"]) == sorted(alone["decoded"])
        assert one["kept"] == alone["kept"]
        assert one["result"] == alone["result"]


def test_without_images_two_machines_share_the_files_and_the_first_compares_all(
    listed: Path, alone: Mapping[str, Any], tmp_path: Path
) -> None:
    said = look(listed, [tmp_path / "a", tmp_path / "b"], "no")
    assert sorted(said[0]["decoded"] + said[1]["decoded"]) == sorted(alone["decoded"])
    assert [one["result"] for one in said] == [alone["result"]] * 2


@pytest.mark.parametrize("caches", ["one", "two"])
def test_a_pass_that_is_killed_goes_on(
    listed: Path, alone: Mapping[str, Any], tmp_path: Path, begin: Begin, caches: str
) -> None:
    cache_folders = [tmp_path / "a", tmp_path / ("a" if caches == "one" else "b")]
    port = free_port()
    started = [
        begin(
            [sys.executable, "-c", PROGRAM, str(listed), "auto", "0.5"],
            env=os.environ | {"FOCUS_CACHE": str(cache)} | told(rank, 2, port, 2),
        )
        for rank, cache in enumerate(cache_folders)
    ]
    lists = [cache_folder / "decoded-7.txt" for cache_folder in {*cache_folders}]
    deadline = time.monotonic() + 60
    while not all(file.exists() and file.read_bytes().count(b"\n") >= 2 for file in lists):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for program in started:
        program.send_signal(signal.SIGKILL)
        program.wait()
    said = look(listed, cache_folders)
    decoded = len(said[0]["decoded"] + said[1]["decoded"])
    assert decoded <= (len(alone["decoded"]) - 2) * len(lists)
    for one in said:
        assert one["kept"] == alone["kept"]
        assert one["result"] == alone["result"]


@pytest.mark.parametrize("content", ["another", "none"])
def test_a_file_that_differs_between_machines_is_named(tmp_path: Path, content: str) -> None:
    """Each reads a copy of the images of its own, at the same path: else one would learn others."""
    port, machines = free_port(), [tmp_path / "a", tmp_path / "b"]
    for machine in machines:
        write_faces(machine / "faces", 3)
    path = Path("faces", "gan", "0_real", "1.png")
    if content == "another":
        Image.new("RGB", (8, 8)).save(machines[1] / path)
    else:
        (machines[1] / path).write_bytes(b"no picture")
    files = [file.relative_to(machines[0]) for file in machines[0].rglob("*.png")]
    listed = tmp_path / "manifest.csv"
    listed.write_text("\n".join(["path", *(f"/proc/self/cwd/{file}" for file in sorted(files))]))
    with ThreadPoolExecutor() as pool:
        ranks = [
            pool.submit(
                run,
                "-c",
                PROGRAM,
                listed,
                "auto",
                0,
                cwd=machine,
                FOCUS_CACHE=str(machine / "cache"),
                **told(rank, 2, port, 1),
            )
            for rank, machine in enumerate(machines)
        ]
    said = "process 1 finds another file there than process 0"
    if content == "none":
        said = "process 1 cannot decode it (cannot identify image file), process 0 can"
    for rank in ranks:
        message = f"The image '/proc/self/cwd/{path}': {said}; give all machines the same files."
        assert message in rank.result().stderr

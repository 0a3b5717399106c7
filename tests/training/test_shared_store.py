"""A run that is killed again and again, on a store that others share and one damages.

``FOCUS_KILLS=100`` in the environment asks for as many kills (default 4).
"""

import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from focus.data.bad_files import check_images
from focus.data.cache.images import ImageCache
from focus.data.dataset import FaceDataset, RowIndex
from focus.data.images import Preprocessing
from focus.data.manifest import Manifest, Sample
from focus.errors import UnreadableError
from focus.model.detector import Detector

from ..launching import write_faces
from .test_resume import SMALL, assert_same_run, checkpoints
from .trainers import launch, trainer

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("FOCUS_KILLS", "4"))
SIZE = 64
PAUSE = 2  # seconds, in which the others leave the processor to the run
FORK = multiprocessing.get_context("fork")


def manifest_of(folder: Path) -> Manifest:
    paths = sorted(folder.rglob("*.png"))
    return Manifest(
        Sample(str(path), int(path.parent.name[0]), split="train" if row % 4 else "validation")
        for row, path in enumerate(paths)
    )


def decode_again_and_again(faces: Path, aside: Path, weights: Path) -> None:
    """Keep other pictures in the store, and read them; they have to be the right ones."""
    manifest, preprocessing = manifest_of(faces), Preprocessing(SIZE, (2, 2))
    rows: list[RowIndex] = list(range(len(manifest)))
    expected = FaceDataset(manifest, preprocessing)[rows].images
    while True:
        images = ImageCache(SIZE)
        checked = check_images(manifest, images=images, cache=aside, progress=False).manifest
        for _ in range(3):
            assert FaceDataset(checked, preprocessing, images=images)[rows].images.equal(expected)
        for cache_file in aside.glob("decoded-*.txt"):
            cache_file.unlink()
        time.sleep(PAUSE)


def compute_again_and_again(faces: Path, aside: Path, weights: Path) -> None:
    """Keep the features of other pictures in the store."""
    settings = {"model": "test_resnet", "tune": "head", "initial_checkpoint": str(weights)}
    manifest = manifest_of(faces)
    while True:
        with suppress(UnreadableError):  # of features that are damaged before it takes them
            trainer(manifest, aside, **settings)
        time.sleep(PAUSE)


def damage_again_and_again(cache: Path, seed: int) -> None:
    """Cut, change or remove a file of a store, some times a second."""
    draw = random.Random(seed)
    while True:
        time.sleep(draw.uniform(0, 0.4))
        files = sorted(cache.rglob("*-2.bin"))
        if not files:
            continue
        path = draw.choice(files)
        with suppress(FileNotFoundError):
            size = path.stat().st_size
            kind = draw.choice(["cut", "change", "remove"])
            if kind == "remove" or not size:
                path.unlink()
            elif kind == "cut":
                os.truncate(path, draw.randrange(size))
            else:
                with path.open("r+b") as file:
                    file.seek(draw.randrange(size))
                    file.write(draw.randbytes(64))


@contextmanager
def running(*tasks: BaseProcess) -> Iterator[None]:
    """Keep processes running during the block; none of them may have ended by itself."""
    for task in tasks:
        task.start()
    try:
        yield
        assert all(task.is_alive() for task in tasks)
    finally:
        for task in tasks:
            task.kill()
            task.join()


def wait_for_a_moment(process: BaseProcess, output: Path, draw: random.Random) -> None:
    """Wait until the run has begun, or saved something, or ended; and then a little longer."""
    before, deadline = checkpoints(output), time.monotonic() + 300
    if draw.random() < 0.7:
        while process.is_alive() and checkpoints(output) == before:
            assert time.monotonic() < deadline, "nothing is saved"
            time.sleep(0.01)
    process.join(draw.uniform(0, 1.5))


@pytest.mark.parametrize(
    ("tune", "share"), [("full", decode_again_and_again), ("head", compute_again_and_again)]
)
def test_a_killed_run_on_a_shared_and_damaged_store_has_the_bits_of_an_undisturbed_one(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tune: str,
    share: Callable[[Path, Path, Path], None],
) -> None:
    """Or it ends with a sentence, and goes on with --resume."""
    weights = tmp_path / "weights.safetensors"
    save_file(Detector("test_resnet").state_dict(), weights)
    faces = write_faces(tmp_path / "faces", 60)
    words = [*SMALL, "--data", faces, "--epochs", "6", "--batch-size", "8"]
    words += ["--model-ema-decay", "0.9", "--checkpoint-steps", "3", "--report-to", "none"]
    words += ["--tune", tune, "--initial-checkpoint", weights]
    quiet = tmp_path / "quiet"
    undisturbed = launch(
        [*words, "--output", quiet], tmp_path / "quiet.log", FOCUS_CACHE=str(tmp_path / "own")
    )
    undisturbed.join(200)
    assert undisturbed.exitcode == 0, (tmp_path / "quiet.log").read_text()

    cache = tmp_path / "cache"
    monkeypatch.setenv("FOCUS_CACHE", str(cache))
    torch.set_num_threads(1)
    tasks: list[BaseProcess] = [FORK.Process(target=damage_again_and_again, args=(cache, 0))]
    for number in range(3):
        others = write_faces(tmp_path / f"faces{number}", 20, seed=number + 1)
        aside = tmp_path / f"aside{number}"
        tasks.append(FORK.Process(target=share, args=(others, aside, weights)))

    draw, kills, sentences, whole_runs = random.Random(0), 0, 0, 0
    output = tmp_path / "0"
    with running(*tasks):
        while kills < KILLS or not whole_runs:
            log = tmp_path / "log"
            log.unlink(missing_ok=True)
            resumed = ["--resume"] if output.exists() else []
            process = launch([*words, "--output", output, *resumed], log, FOCUS_CACHE=str(cache))
            if kills < KILLS:
                wait_for_a_moment(process, output, draw)
            else:
                process.join(600)
            if process.exitcode is None:
                process.kill()
                process.join()
                kills += 1
            elif process.exitcode == 0:
                assert_same_run(quiet, output)
                whole_runs += 1
                output = tmp_path / str(whole_runs)
            else:
                assert process.exitcode == 2, log.read_text()
                assert "Traceback" not in log.read_text()
                assert "changed while they were used" in log.read_text().splitlines()[-1]
                sentences += 1
    print(f"{kills} kills, {sentences} sentences, {whole_runs} whole runs with the same bits")

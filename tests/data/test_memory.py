"""What an image costs in memory: sets have millions, and several processes list them."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from focus.config.train import TrainConfig, resolve
from focus.data.dataset import Batch, FaceDataset, load_batches, loader
from focus.data.images import Preprocessing
from focus.data.manifest import Manifest
from focus.data.training_set import listed_images

FEW, MANY = 10_000, 50_000
MOST_IN_PARENT, MOST_IN_WORKER = 250, 30  # bytes an image


class Batches(Sequence[Any]):
    """Lists of rows that are made when they are asked for, so that they are no one's memory."""

    def __init__(self, count: int) -> None:
        rows = np.random.default_rng(0).permutation(count)
        self._batches = np.array_split(rows, count // 200)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, number: Any) -> list[int]:
        rows: list[int] = self._batches[number].tolist()
        return rows


class MeasuredFaces(FaceDataset):
    """Batches that say how much memory is that of the worker alone, in place of the pictures."""

    def __getitem__(self, index: Any) -> Batch:
        batch = super().__getitem__(index)
        bytes_of_worker = psutil.Process().memory_full_info().uss
        return batch._replace(images=torch.tensor([bytes_of_worker]))


def faces(folder: Path, count: int) -> Path:
    """Write a manifest of links to small images, with splits, groups, families and maps."""
    folder.mkdir()
    lines = ["path,label,generator,family,split,human_map,group"]
    for number in range(count):
        kind = ("nature", "ai")[number % 2]
        name = f"{kind}/part{number // 5000}/ILSVRC2012_{number:08d}.png"
        source = folder / f"{number // 20_000}.png"  # a file has 65,000 links at most
        if not source.exists():
            Image.fromarray(np.full((8, 8, 3), number % 256, np.uint8)).save(source)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(source, folder / name)
        split = ("train", "train", "validation")[number // 2 % 3]
        generator = f"gan{number % 7},gans" if number % 2 else ","
        human_map = f"maps/{name}" if number % 4 == 0 else ""
        label = ("real", "synthetic")[number % 2]
        lines.append(f"{name},{label},{generator},{split},{human_map},{split} {number // 40}")
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return folder / "manifest.csv"


def peak_of_this_process() -> int:
    """Return the most memory that the process has had, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def measure(table: str) -> None:
    """Print the peak of this process, and how a worker grew in half an epoch, in bytes."""
    config = resolve(TrainConfig(data=(table,), recipe="quick", name="x"), maps=True)
    manifest = listed_images(config, progress=False).manifest
    peak = peak_of_this_process()
    images = Manifest(manifest.with_cells("human_map", [""] * len(manifest)))
    dataset = MeasuredFaces(images, Preprocessing(image_size=8, grid=(1, 1)))
    epoch = loader(dataset, Batches(len(images)), 1, pinned=False)
    in_worker = [int(batch.images[0]) for batch in load_batches(epoch)]
    grown = in_worker[-1] - in_worker[len(in_worker) // 2]
    print(json.dumps({"peak": peak, "grown": grown}))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is that of /proc; workers are forked")
def test_an_image_costs_few_bytes_in_the_parent_and_none_in_a_worker(tmp_path: Path) -> None:
    """From listing to data set; the difference of two sizes, since all else is in both."""
    measured = []
    for count in (FEW, MANY):
        table = faces(tmp_path / str(count), count)
        command = [sys.executable, "-c", f"from {__name__} import measure; measure({str(table)!r})"]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        measured.append(json.loads(output.splitlines()[-1]))
    few, many = measured
    in_parent = (many["peak"] - few["peak"]) / (MANY - FEW)
    in_worker = 2 * many["grown"] / MANY
    assert in_parent < MOST_IN_PARENT
    assert in_worker < MOST_IN_WORKER
    print(f"{in_parent:.0f} bytes an image in the parent, {in_worker:.1f} in a worker")

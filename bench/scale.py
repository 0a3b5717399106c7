"""Measure what a set of images costs as it grows: listing, checking, copies, tables of scores.

    python -m bench.scale [--sizes N ...] [--phases NAME ...] [--folder FOLDER] [--output FOLDER]

Each phase runs in a process of its own, at 30 thousand, 300 thousand and 3 million images:

    folder    list a folder by split and class, of hard links to small pictures
    table     list a table of paths with labels, splits, generators, families, groups and maps
    listed    read the manifest.csv that a run has written of that table
    pass      decode every file once, digests and signatures too, of hard links to small pictures
    again     the same with what the first pass left in the cache
    copies    find the pictures of training among the rest: signatures of which 1 in 100 is a copy
    scores    evaluate a table of scores of 50 generators
    compare   compare two such tables

A row gives the CPU seconds, of which what starting the program takes is no part, the microseconds
an image, the memory that was added at the peak and at the end, and the slope from the size before
divided by that between the first two sizes: 1 is straight. The pictures are of 16 x 16 pixels, so
decoding larger ones comes on top; ``python -m bench.loader`` measures that.
"""

import argparse
import csv
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.harness import make_parser, run_program, settings, shown, write
from focus.errors import InputError

SIZES = (30_000, 300_000, 3_000_000)
GENERATORS = 50
PICTURES = 64  # files that the others are links to; ext4 allows 65,000 links to one

FOLDER, TABLE, MANIFEST, CACHE = "images", "table.csv", "manifest.csv", "cache"
SCORES = ("scores-a.csv", "scores-b.csv")

Measured = Callable[[], object]
"""What is timed; it returns what a program would hold on to."""


def split_of(number: int) -> str:
    """Return train for eight images of ten, else validation or test."""
    return ("validation", "test")[number % 10 - 8] if number % 10 >= 8 else "train"


def rows(size: int) -> Iterator[tuple[str, ...]]:
    """Yield path, label, split, generator, family, group and map of each image."""
    for number in range(size):
        is_fake = number % 2 == 1
        pair = number // 2
        generator, family = f"G{pair % GENERATORS:02}", f"F{pair % GENERATORS // 10}"
        split, name = split_of(pair), f"{number:07}.png"
        path = f"{FOLDER}/{split}/{generator}/{'1_fake' if is_fake else '0_real'}/{name}"
        yield (
            path,
            "synthetic" if is_fake else "real",
            split,
            generator if is_fake else "",
            family if is_fake else "",
            f"person {number // 20}",
            f"maps/{name}" if number % 4 == 0 else "",
        )


HEADER = ("path", "label", "split", "generator", "family", "group", "human_map")


def make_table(folder: Path, size: int) -> None:
    """Write the table of all images; the files need not be there."""
    with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(HEADER)
        writer.writerows(rows(size))


def make_folder(folder: Path, size: int) -> None:
    """Link all images to a few pictures."""
    draw = np.random.default_rng(0)
    pictures = []
    (folder / FOLDER).mkdir()
    for number in range(PICTURES):
        path = folder / f"picture-{number}.png"
        pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        pictures.append(str(path))
    for number, (name, *_) in enumerate(rows(size)):
        image = folder / name
        try:
            os.link(pictures[number % PICTURES], image)
        except FileNotFoundError:
            image.parent.mkdir(parents=True)
            os.link(pictures[number % PICTURES], image)


def make_manifest(folder: Path, size: int) -> None:
    """Write the manifest of the table, as a run does."""
    make_table(folder, size)
    listing(folder / TABLE).to_csv(folder / MANIFEST)


def make_scores(folder: Path, size: int) -> None:
    """Write two tables of scores of test images, which agree with the label more or less."""
    draw = np.random.default_rng(0)
    for name, strength in zip(SCORES, (1.0, 1.2), strict=True):
        is_fake = np.arange(size) % 2
        logits = draw.normal(strength * (2 * is_fake - 1), 1.5)
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow((*HEADER[:2], "generator", "score"))
            for (path, label, _, generator, *_), logit in zip(rows(size), logits, strict=True):
                writer.writerow((path, label, generator, f"{1 / (1 + np.exp(-logit)):.6f}"))


def listing(path: Path) -> Any:
    """Return the manifest of a folder or a table, as training lists it."""
    from focus.config.train import TrainConfig
    from focus.data.readers import read_given

    return read_given(TrainConfig(data=(str(path),))).data


def list_folder(folder: Path, size: int) -> Measured:
    """Return what lists the folder."""
    return partial(listing, folder / FOLDER)


def list_table(folder: Path, size: int) -> Measured:
    """Return what lists the table."""
    return partial(listing, folder / TABLE)


def read_manifest(folder: Path, size: int) -> Measured:
    """Return what reads the manifest."""
    from focus.data.manifest import Manifest

    return partial(Manifest.from_csv, folder / MANIFEST)


def pass_over_files(folder: Path, size: int) -> Measured:
    """Return what decodes all files once."""
    from focus.data.bad_files import check_images
    from focus.data.signatures import SignatureStore

    cache = folder / CACHE
    signatures = SignatureStore(cache / "signatures")
    manifest = listing(folder / FOLDER)
    return partial(check_images, manifest, signatures=signatures, cache=cache, progress=True)


def find_copies(folder: Path, size: int) -> Measured:
    """Return what looks up half of the signatures in an index of the others."""
    from focus.data.signatures import PictureIndex

    signatures = drawn_signatures(size)
    half = size // 2

    def find() -> object:
        matches = PictureIndex(signatures[:half]).find(signatures[half:])
        copies = np.arange(0, size - half, 100)
        named = np.flatnonzero(matches.rows >= 0)
        recalled = (matches.rows[copies] == copies).mean()
        if recalled < 0.99 or len(named) > len(copies):
            raise InputError(f"{recalled:.1%} of the copies are there, {len(named)} are named.")
        return matches

    return find


def drawn_signatures(size: int) -> np.ndarray:
    """Return signatures [N, K] like those of faces: few directions are wide, the rest is narrow.

    Of the second half, every hundredth is that of the first half with noise, as JPEG makes it.
    """
    from focus.data.signatures import signature

    length = len(signature(Image.new("RGB", (32, 32))))
    draw = np.random.default_rng(0)
    spread = (3000 / np.sqrt(1 + np.arange(length))).astype(np.float32)
    signatures = np.empty((size, length), np.int16)
    for start in range(0, size, 10_000):
        part = draw.standard_normal((min(10_000, size - start), length), dtype=np.float32)
        signatures[start : start + 10_000] = np.clip(part * spread, -32768, 32767)
    half = size // 2
    copies = np.arange(0, size - half, 100)
    noise = draw.normal(0, 50, (len(copies), length))
    signatures[half + copies] = np.clip(signatures[copies] + noise, -32768, 32767)
    return signatures


def evaluate_scores(folder: Path, size: int) -> Measured:
    """Return what evaluates one table of scores."""
    from focus import EvaluateConfig, evaluate

    table, output = folder / SCORES[0], folder / "evaluation"
    return partial(evaluate, EvaluateConfig(scores=str(table), output=str(output)))


def compare_scores(folder: Path, size: int) -> Measured:
    """Return what compares two tables of scores."""
    from focus import EvaluateConfig, evaluate

    tables = tuple(str(folder / name) for name in SCORES)
    return partial(evaluate, EvaluateConfig(compare=tables, output=str(folder / "comparison")))


Make = Callable[[Path, int], None]
PHASES: dict[str, tuple[Make | None, Callable[[Path, int], Measured]]] = {
    "folder": (make_folder, list_folder),
    "pass": (None, pass_over_files),
    "again": (None, pass_over_files),
    "table": (make_table, list_table),
    "listed": (make_manifest, read_manifest),
    "copies": (None, find_copies),
    "scores": (make_scores, evaluate_scores),
    "compare": (None, compare_scores),
}
"""What writes the files of a phase, if no phase before has, and what is measured."""
PASSES = ("pass", "again")


def measure(phase: str, folder: Path, size: int) -> None:
    """Run a phase in this process, and print CPU seconds and bytes as JSON in the last line."""
    run = PHASES[phase][1](folder, size)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    start = time.process_time() + children_seconds()
    result = run()
    seconds = time.process_time() + children_seconds() - start
    figures = {
        "seconds": seconds,
        "peak": memory("VmHWM") - before,
        "held": memory("VmRSS") - before,
    }
    del result
    print(json.dumps(figures), flush=True)


def children_seconds() -> float:
    """Return the CPU seconds of the processes that this one started and waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def memory(name: str) -> int:
    """Return bytes of this process by their name in Linux: resident ones, and the most there were.

    ``ru_maxrss`` would begin with what the parent holds.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise InputError(f"/proc/self/status has no {name}: this benchmark needs Linux.")


def measured(phase: str, folder: Path, size: int) -> dict[str, float]:
    """Return the figures of a phase, which is run in a process of its own."""
    make, _ = PHASES[phase]
    if make is not None:
        make(folder, size)
    command = [sys.executable, "-m", "bench.scale", "--measure", phase]
    command += ["--folder", str(folder), "--sizes", str(size)]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=os.environ | {"FOCUS_CACHE": str(folder / CACHE)},
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def rows_of(phases: Sequence[str], sizes: Sequence[int], root: Path) -> Iterator[dict[str, Any]]:
    """Yield a row for each size and phase; the files of a size are removed after it."""
    before: dict[str, list[tuple[int, float]]] = {phase: [] for phase in phases}
    for size in sizes:
        folder = root / f"scale-{size}"
        folder.mkdir(parents=True)
        try:
            for phase in phases:
                figures = measured(phase, folder, size)
                before[phase].append((size, figures["seconds"]))
                yield {
                    "phase": phase,
                    "images": size,
                    "CPU seconds": round(figures["seconds"], 2),
                    "microseconds an image": round(1e6 * figures["seconds"] / size, 1),
                    "peak bytes an image": round(figures["peak"] / size),
                    "held bytes an image": round(figures["held"] / size),
                    "straight": straightness(before[phase]),
                }
        finally:
            shutil.rmtree(folder)


def straightness(points: Sequence[tuple[int, float]]) -> float | str:
    """Return the slope between the last two sizes by that between the first two, "" of fewer."""
    if len(points) < 3:
        return ""
    slopes = [
        (seconds - earlier_seconds) / (size - earlier_size)
        for (earlier_size, earlier_seconds), (size, seconds) in itertools.pairwise(points)
    ]
    return round(slopes[-1] / slopes[0], 2)


def main() -> None:
    """Measure, print and write."""
    parser = make_parser(__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", default=SIZES)
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--folder", type=Path, help="for the files (default: a temporary folder)")
    parser.add_argument("--measure", choices=PHASES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure, arguments.folder, arguments.sizes[0])
        return
    phases = list(arguments.phases)
    if set(phases) & set(PASSES):  # which read what these have linked and cached
        phases = [name for name in PHASES if name in {*phases, "folder", "pass"}]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        table = [shown(row) for row in rows_of(phases, arguments.sizes, Path(folder))]
    write(arguments.output, "scale", table, settings("python -m bench.scale"))


if __name__ == "__main__":
    run_program(main)

"""Measure what a set of images costs as it grows: listing, checking, copies, tables of scores.

    python -m bench.scale [--sizes N ...] [--phases NAME ...] [--folder FOLDER] [--output FOLDER]

Each phase runs in a process of its own, at 30 thousand, 300 thousand and 3 million images:

    folder    list a folder by split and class, of hard links to small pictures
    table     list a table of paths with labels, splits, generators, families, groups and maps
    listed    list the manifest.csv that a run has written of that table, as a later run does
    pass      decode every file once, digests and signatures too, of hard links to small pictures
    again     the same with what the first pass left in the cache
    copies    find the pictures of training among the rest: signatures of which 1 in 100 is a copy
    scores    evaluate a table of scores of 50 generators
    compare   compare two such tables

Pictures are of 16 x 16 pixels there. These phases take some hundred images of usual sizes instead:

    decode 224, decode 512, decode 1024   the pass over JPEG photographs of so many pixels a side,
                                          each kept at 224 x 224 pixels
    load      an epoch of batches from those decoded images
    augment   the same with the five augmentations
    features  an epoch of batches of cached features, bfloat16, of a ViT-L/14 at 224 x 224 pixels

A row gives the CPU seconds, of which what starting the program takes is no part, the microseconds
an image, the memory that was added at the peak and at the end, the mean number of programs that
ran at its end (1 is this one), the commit and the machine. It is appended to ``scale.csv`` in
``--output`` as soon as it is measured; a run that is ended goes on from there, so remove the rows
that are to be measured again. The last lines say for each phase by how much the slope between the
last two sizes differs from that between the first two.

A tmpfs that is mounted with ``nr_inodes=0`` has room for three million links; /dev/shm may not.
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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.harness import Row, make_parser, read_rows, run_program, settings, shown
from focus.errors import InputError

SIZES = (30_000, 300_000, 3_000_000)
GENERATORS = 50
PICTURES = 64  # files that the others are links to; ext4 allows 65,000 links to one

STRAIGHT = 0.15  # what two slopes may differ by
PHOTOGRAPHS = 320
FEATURES = 320
EPOCHS = 5  # of loading
FIVE = "crop,shift,flip,blur,jpeg"
VIT_L = (1024, 16, 16)  # of a ViT-L/14 at 224 x 224 pixels

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
    """Write the table of all images."""
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
    """Return what lists the manifest."""
    return partial(listing, folder / MANIFEST)


def pass_over_files(folder: Path, size: int) -> Measured:
    """Return what decodes all files once."""
    from focus.data.bad_files import check_images
    from focus.data.signatures import SignatureStore

    cache = folder / CACHE
    signatures = SignatureStore(cache / "signatures")
    manifest = listing(folder / FOLDER)
    return partial(check_images, manifest, signatures=signatures, cache=cache, progress=True)


def pass_again(folder: Path, size: int) -> Measured:
    """Return what asks the cache about all files."""
    if not (folder / CACHE).exists():
        pass_over_files(folder, size)()
    return pass_over_files(folder, size)


def find_copies(folder: Path, size: int) -> Measured:
    """Return what looks up half of the signatures in an index of the others."""
    from focus.data.signatures import PictureIndex

    signatures = drawn_signatures(size)
    numbers = np.arange(size)
    half = size // 2

    def find() -> object:
        index = PictureIndex(signatures.__getitem__, size)
        matches = index.find(numbers[:half], numbers[half:])
        copies = np.arange(0, size - half, 100)
        named = np.flatnonzero(matches.originals >= 0)
        recalled = (matches.originals[copies] == copies).mean()
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


def decode_photographs(folder: Path, size: int, *, side: int) -> Measured:
    """Return what decodes photographs of so many pixels a side, and keeps them at 224."""
    from bench.loader import write_pictures
    from focus.data.bad_files import check_images
    from focus.data.cache.images import ImageCache
    from focus.data.signatures import SignatureStore

    pictures = folder / f"photographs-{side}"
    paths = [
        pictures / ("0_real", "1_fake")[number % 2] / f"{number:04}.jpg" for number in range(size)
    ]
    write_pictures(paths, side)
    images, signatures = ImageCache.of(224, str(folder / f"images-{side}")), SignatureStore()
    return partial(check_images, listing(pictures), images=images, signatures=signatures)


def load_images(folder: Path, size: int, *, augment: str) -> Measured:
    """Return what loads decoded images in batches of 32, in some epochs.

    augment: The names of the augmentations, as ``--augment`` takes them.
    """
    from bench.loader import ours, write_pictures
    from focus.data.bad_files import check_images
    from focus.data.cache.images import ImageCache

    pictures = folder / "photographs"
    distinct = size // EPOCHS
    write_pictures(
        [pictures / ("0_real", "1_fake")[n % 2] / f"{n:04}.jpg" for n in range(distinct)], 256
    )
    images = ImageCache.of(224, str(folder / "images-to-load"))
    manifest = check_images(listing(pictures), images=images).manifest
    batches = ours(manifest, images, augment)

    def load() -> None:
        for _ in range(EPOCHS):
            for _ in batches:
                pass

    return load


def read_features(folder: Path, size: int) -> Measured:
    """Return what reads cached features in batches of 64, in some epochs."""
    from focus.data.cache.features import FeatureCache

    cache = FeatureCache("vit_large_patch14", "drawn", VIT_L, "bfloat16")
    draw = np.random.default_rng(0)
    distinct = size // EPOCHS
    names = np.array([b"%016x" % number for number in range(distinct)])
    records = np.zeros(distinct, cache.record)
    records["features"] = draw.integers(0, 2**15, records["features"].shape)
    cache.store.append(names, np.split(records, distinct))
    rows = cache.store.find(names)

    def read() -> None:
        for _ in range(EPOCHS):
            for batch in np.split(rows, range(64, distinct, 64)):
                cache.tensor(cache.read(batch)["features"])

    return read


Make = Callable[[Path, int], None]


@dataclass(frozen=True)
class Phase:
    """What is measured.

    prepare: Returns what is timed. make: Each writes files that it reads, in this order. size: How
    many images it always takes, None for those of ``--sizes``.
    """

    prepare: Callable[[Path, int], Measured]
    make: tuple[Make, ...] = ()
    size: int | None = None


PHASES = {
    "folder": Phase(list_folder, (make_folder,)),
    "pass": Phase(pass_over_files, (make_folder,)),
    "again": Phase(pass_again, (make_folder,)),
    "table": Phase(list_table, (make_folder, make_table)),
    "listed": Phase(read_manifest, (make_folder, make_table, make_manifest)),
    "copies": Phase(find_copies),
    "scores": Phase(evaluate_scores, (make_scores,)),
    "compare": Phase(compare_scores, (make_scores,)),
    "decode 224": Phase(partial(decode_photographs, side=224), size=PHOTOGRAPHS),
    "decode 512": Phase(partial(decode_photographs, side=512), size=PHOTOGRAPHS),
    "decode 1024": Phase(partial(decode_photographs, side=1024), size=PHOTOGRAPHS // 4),
    "load": Phase(partial(load_images, augment="none"), size=EPOCHS * PHOTOGRAPHS),
    "augment": Phase(partial(load_images, augment=FIVE), size=EPOCHS * PHOTOGRAPHS),
    "features": Phase(read_features, size=EPOCHS * FEATURES),
}


def measure(phase: str, folder: Path, size: int) -> None:
    """Run a phase in this process, and print CPU seconds and bytes as JSON in the last line."""
    run = PHASES[phase].prepare(folder, size)
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
    command = [sys.executable, "-m", "bench.scale", "--measure", phase]
    command += ["--folder", str(folder), "--sizes", str(size)]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"FOCUS_CACHE": str(folder / CACHE)},
    )
    if done.returncode:
        raise InputError(f"The phase {phase!r} of {size} images has failed; its error is above.")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def row_of(phase: str, size: int, figures: Mapping[str, float]) -> Row:
    """Return the row of a phase, with what it was measured with."""
    used = settings("python -m bench.scale")
    return {
        "phase": phase,
        "images": size,
        "CPU seconds": round(figures["seconds"], 2),
        "microseconds an image": round(1e6 * figures["seconds"] / size, 1),
        "peak bytes an image": round(figures["peak"] / size),
        "held bytes an image": round(figures["held"] / size),
        "load": round(os.getloadavg()[0], 1),
        "commit": used["commit"],
        "machine": f"{used['cores']} virtual cores, {used['cpu']}",
    }


def new_rows(phases: Iterable[str], size: int, folder: Path) -> Iterator[Row]:
    """Yield a row for each phase; the files are removed after the last."""
    made: set[Make] = set()
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True)
    try:
        for name in phases:
            phase = PHASES[name]
            images = phase.size or size
            for make in phase.make:
                if make not in made:
                    make(folder, images)
                    made.add(make)
            yield row_of(name, images, measured(name, folder, images))
    finally:
        shutil.rmtree(folder)


def append(path: Path, row: Row) -> None:
    """Add a row to a CSV, which is begun with the names of the columns."""
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row.keys())
        if file.tell() == 0:
            writer.writeheader()
        writer.writerow(row)


def verdicts(rows: Iterable[Row]) -> dict[str, str]:
    """Return for each phase whether its cost is straight from the smallest size to the largest."""
    sizes: dict[str, dict[int, float]] = {}
    for row in rows:
        seconds = sizes.setdefault(str(row["phase"]), {})
        seconds[int(row["images"])] = float(row["CPU seconds"])
    texts = {}
    for phase, seconds in sizes.items():
        ratio = straightness(sorted(seconds.items()))
        if ratio is not None:
            says = "straight within" if abs(ratio - 1) <= STRAIGHT else "not straight within"
            texts[phase] = f"{says} {STRAIGHT:.0%}: the last slope is {ratio:.2f} of the first"
    return texts


def straightness(points: Sequence[tuple[int, float]]) -> float | None:
    """Return the slope between the last two sizes by that between the first two.

    None of fewer than three sizes, or where the first slope is no more than noise.
    """
    if len(points) < 3:
        return None
    slopes = [
        (seconds - earlier_seconds) / (size - earlier_size)
        for (earlier_size, earlier_seconds), (size, seconds) in itertools.pairwise(points)
    ]
    return slopes[-1] / slopes[0] if slopes[0] > 0 else None


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
    with tempfile.TemporaryDirectory() as temporary:
        results = (arguments.output or Path(temporary)) / "scale.csv"
        rows = read_rows(results) if results.exists() else []
        for size in arguments.sizes:
            before = {(row["phase"], int(row["images"])) for row in rows}
            phases = [
                name for name in arguments.phases if (name, PHASES[name].size or size) not in before
            ]
            folder = (arguments.folder or Path(temporary)) / f"scale-{size}"
            for row in new_rows(phases, size, folder):
                append(results, shown(row))
                rows.append(row)
    for phase, text in verdicts(rows).items():
        print(f"{phase}: {text}")


if __name__ == "__main__":
    run_program(main)

"""The demo set on disk: rendered on first use, or written as one's own data may be laid out.

The cache holds a set for each draw; a checksum verifies it before it is used again.

``focus data demo DIR`` writes the demo set as files. ``train.csv`` is CYBORG's CSV, with the human
maps in ``heatmaps``; its ``test`` split is the validation set. ``closed.csv``,
``closed_balanced.csv`` and ``open.csv`` are manifests, since a test set's name and the artefact
masks have no place in CYBORG's form. The open set is there once more as CYBORG has its test data,
in a CSV for each source: ``reals.csv``, ``near-1.csv`` and so on.
"""

import hashlib
import json
import shlex
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from focus.config.data import DemoConfig
from focus.data.demo.benchmark import (
    DEMO,
    NAMES,
    REAL_FACES,
    SPLITS,
    VERSION,
    WITH_MAPS,
    WITHOUT_MASK,
    ImageName,
    Shortcut,
    Splits,
    World,
    image_names,
    render_face,
)
from focus.data.manifest import (
    REAL,
    SYNTHETIC,
    TEST_SETS,
    Manifest,
    Sample,
    Split,
    TestSet,
    absolute,
)
from focus.errors import InputError
from focus.runtime.files import check_empty, write_csv
from focus.runtime.machine import cache_dir
from focus.runtime.parallel import parallel_map
from focus.runtime.progress import progress_bar

TRAIN = "train.csv"
REALS = "reals"
_INDEX = "index.json"
# The family of generators that share an artefact, or its place or cause, with those of training.
_RELATED = "related"
_RELATED_GRADES = ("known", "recombined", "near")
# "oracle" holds training images of unknown generators.
_SPLITS: dict[str, Split] = {"train": "train", "validation": "validation", "oracle": "train"}
_PACKAGE = Path(__file__).parent


def demo_manifest(
    cache: str | Path | None = None,
    *,
    draw: int = 0,
    agreement: float = 0.9,
    shortcut: Shortcut = "background",
    progress: bool = True,
    splits: Splits = SPLITS,
) -> Manifest:
    """Return a benchmark draw's manifest; render it on first use (ten seconds on two cores).

    The files lie in a folder of ``cache`` (default: :func:`focus.runtime.machine.cache_dir`) that
    is named by the draw, the agreement, the shortcut and the content. A set whose checksum does not
    match is rendered again.

    Images are 64×64 RGB. Training and validation images have simulated human maps; fakes have exact
    artefact masks, except those of the generator "global": its fingerprint is everywhere, so that
    pointing is undefined there. ``extra`` holds "source" (acquisition source, 0 or 1) and for fakes
    "grade" (of their generator) and "artefacts" (names joined by +).

    Args:
        cache: The folder of all sets.
        draw: The number of the draw of generators and images; the demo set is draw 0.
        agreement: How often the acquisition source agrees with the label in the splits train,
            validation and closed; in the others it is half and half.
        shortcut: What tells the sources apart, "background" or "cast" (a colour cast of all of the
            picture, the face included).
        progress: Whether to show a bar while rendering.
        splits: The number of images by split and generator.

    Raises InputError if the cache folder cannot be written.
    """
    world = World(draw, agreement, shortcut)
    folder = Path(cache or cache_dir()).absolute() / folder_name(world, splits)
    artefacts = _verified(folder, splits)
    if artefacts is None:
        try:
            artefacts = _render(folder, world, splits, progress)
        except OSError as error:
            raise InputError(
                f"The demo set cannot be written to {folder.parent} ({error}): "
                "free some space there or set FOCUS_CACHE to another folder."
            ) from error
    return _manifest(folder, world, splits, artefacts)


def folder_name(world: World = DEMO, splits: Splits = SPLITS) -> str:
    """Return the version, the world and a hash of the counts and of this package's code."""
    content = hashlib.sha256(json.dumps(splits).encode())
    for path in sorted(_PACKAGE.glob("*.py")):
        content.update(path.read_bytes())
    shortcut = "" if world.shortcut == DEMO.shortcut else f"-{world.shortcut}"
    name = f"demo-v{VERSION}-{world.draw}-{world.agreement:g}{shortcut}"
    return f"{name}-{content.hexdigest()[:10]}"


def _files(image: ImageName) -> dict[str, str]:
    """Return the files of an image by kind (images, maps, masks), relative to the set's folder."""
    name = f"{image.split}/{image.generator}/{image.number:04d}.png"
    files = {"images": f"images/{name}"}
    if image.split in WITH_MAPS:
        files["maps"] = f"maps/{name}"
    if image.generator not in WITHOUT_MASK:
        files["masks"] = f"masks/{name}"
    return files


def _manifest(folder: Path, world: World, splits: Splits, artefacts: list[list[str]]) -> Manifest:
    """Return the manifest of a rendered set; artefacts: Their names, for each image."""
    samples = [
        _sample(folder, world, image, names)
        for image, names in zip(image_names(splits), artefacts, strict=True)
    ]
    return Manifest(samples, "demo set")


def _sample(folder: Path, world: World, image: ImageName, artefacts: list[str]) -> Sample:
    generator = "" if image.generator == REAL_FACES else image.generator
    grade = NAMES.get(generator)
    extra = {"source": str(image.source(world.agreement))}
    if grade:
        extra["grade"] = grade
        extra["artefacts"] = "+".join(artefacts)
    test_set: TestSet = next((name for name in TEST_SETS if name == image.split), "")
    paths = {kind: str(folder / name) for kind, name in _files(image).items()}
    return Sample(
        paths["images"],
        SYNTHETIC if generator else REAL,
        generator=generator,
        family=_RELATED if grade in _RELATED_GRADES else generator,
        split="test" if test_set else _SPLITS[image.split],
        test_set=test_set,
        human_map=paths.get("maps"),
        mask_path=paths.get("masks"),
        extra=extra,
    )


def _verified(folder: Path, splits: Splits) -> list[list[str]] | None:
    """Return the names of each image's artefacts, or None if the set is absent or damaged."""
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        artefacts: list[list[str]] = index["artefacts"]
        is_whole = index["sha256"] == _checksum(folder, splits, artefacts)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return artefacts if is_whole else None


def _checksum(folder: Path, splits: Splits, artefacts: list[list[str]]) -> str:
    """Return a hash of the artefacts' names and of all files' bytes, in order."""
    content = hashlib.sha256(json.dumps(artefacts).encode())
    root = str(folder)
    for image in image_names(splits):
        for name in _files(image).values():
            with open(f"{root}/{name}", "rb", buffering=0) as file:  # noqa: PTH123 (twice as fast)
                content.update(file.read())
    return content.hexdigest()


def _render(folder: Path, world: World, splits: Splits, progress: bool) -> list[list[str]]:
    """Render the set beside its place, then move it there in one step."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True
    ) as aside:
        fresh = Path(aside) / "fresh"
        images = list(image_names(splits))
        names = [name for image in images for name in _files(image).values()]
        for parent in {(fresh / name).parent for name in names}:
            parent.mkdir(parents=True, exist_ok=True)
        render = partial(_render_into, fresh, world)
        artefacts = list(parallel_map(render, images, "rendering demo faces", progress=progress))
        index = {"sha256": _checksum(fresh, splits, artefacts), "artefacts": artefacts}
        (fresh / _INDEX).write_text(json.dumps(index))
        # Another process may have put its equal set there.
        if _verified(folder, splits) is None:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                fresh.rename(folder)
    return artefacts


def _render_into(folder: Path, world: World, image: ImageName) -> list[str]:
    """Render an image into its files; return the names of its artefacts."""
    picture = render_face(*image, world)
    arrays = {"images": picture.image, "maps": picture.human_map, "masks": picture.mask}
    for kind, name in _files(image).items():
        pixels = np.asarray(arrays[kind])
        if kind == "masks":
            pixels = pixels * np.uint8(255)
        Image.fromarray(pixels).save(folder / name, compress_level=1)
    return picture.artefacts


def write_demo(config: DemoConfig) -> None:
    """Write the demo set, and print how the files are used."""
    folder = Path(str(config.folder))
    write_files(demo_manifest(), folder)
    words = ["--data", str(folder / TRAIN)]
    for name in TEST_SETS:
        words += ["--test-data", f"{name}={folder / name}.csv"]
    print(f"written: {folder}\n\nTrained on it, the results are those of the embedded set:\n")
    print(f"  focus train --recipe demo {shlex.join(words)}")


def write_files(demo: Manifest, folder: str | Path, *, progress: bool = True) -> None:
    """Write the demo set, copying its files; raises InputError if the folder is in use.

    Images of training and validation are one set in the layout of cyborg, each test set is a
    manifest. The open set is there in the layout of cyborg, too: a file for each generator and one
    for the real images.
    """
    folder = absolute(folder)
    check_empty(folder)

    bar = progress_bar(demo, "writing demo files", unit="image", disable=not progress)
    copies = [_copied(sample, folder) for sample in bar]

    _write_cyborg([sample for sample in copies if sample.split != "test"], folder / TRAIN)
    for name in TEST_SETS:
        test_set = Manifest(sample for sample in copies if sample.test_set == name)
        test_set.to_csv(folder / f"{name}.csv")

    open_set = defaultdict[str, list[Sample]](list)
    for sample in copies:
        if sample.test_set == "open":
            open_set[sample.generator or REALS].append(sample)
    for source, samples in open_set.items():
        _write_cyborg(samples, folder / f"{source}.csv")


def _copied(sample: Sample, folder: Path) -> Sample:
    """Copy a sample's files into ``folder``: images by split and family, maps by base name."""
    source = Path(sample.path)
    split, family = source.parts[-3:-1]
    folders = {"path": f"images/{split}/{family}", "human_map": "heatmaps", "mask_path": "masks"}
    copies: dict[str, Any] = {}
    for field, subfolder in folders.items():
        path = getattr(sample, field)
        if path is None:
            continue
        target = folder / subfolder / f"{split}_{family}_{source.name}"
        target.parent.mkdir(parents=True, exist_ok=True)
        copies[field] = str(shutil.copyfile(path, target))
    return replace(sample, **copies)


def _write_cyborg(samples: Iterable[Sample], path: Path) -> None:
    """Write ``split,label,/path,generator`` without header; reals have no generator."""
    rows = []
    for sample in samples:
        split = "train" if sample.split == "train" else "test"
        label = "Real" if sample.label == REAL else "Synthetic"
        row = [split, label, f"/{Path(sample.path).relative_to(path.parent).as_posix()}"]
        if sample.generator:
            row.append(sample.generator)
        rows.append(row)
    write_csv(path, rows[0], rows[1:])

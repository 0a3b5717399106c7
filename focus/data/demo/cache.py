"""The demo set on disk: rendered on first use, verified by a checksum afterwards."""

import hashlib
import json
import shutil
import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from focus.data.demo.camera import Shortcut
from focus.data.demo.grammar import NAMES
from focus.data.demo.render import (
    DEMO,
    REAL_FACES,
    SPLITS,
    VERSION,
    WITH_MAPS,
    WITHOUT_MASK,
    ImageName,
    Splits,
    World,
    items,
    render_face,
)
from focus.data.manifest import REAL, SYNTHETIC, TEST_SETS, Manifest, Sample, Split, TestSet
from focus.errors import InputError
from focus.runtime.machine import cache_dir
from focus.runtime.parallel import parallel_map

_INDEX = "index.json"
# The family of generators that share an artefact, or its place or cause, with those of training.
_RELATED = "related"
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
    for path in sorted(set(_PACKAGE.glob("*.py")) - {_PACKAGE / "files.py"}):
        content.update(path.read_bytes())
    shortcut = "" if world.shortcut == DEMO.shortcut else f"-{world.shortcut}"
    name = f"demo-v{VERSION}-{world.draw}-{world.agreement:g}{shortcut}"
    return f"{name}-{content.hexdigest()[:10]}"


def _files(item: ImageName) -> dict[str, str]:
    """Return the files of an image by kind (images, maps, masks), relative to the set's folder."""
    there = {
        "images": True,
        "maps": item.split in WITH_MAPS,
        "masks": item.generator not in WITHOUT_MASK,
    }
    name = f"{item.split}/{item.generator}/{item.number:04d}.png"
    return {kind: f"{kind}/{name}" for kind, found in there.items() if found}


def _manifest(folder: Path, world: World, splits: Splits, artefacts: list[list[str]]) -> Manifest:
    samples = []
    for item, names in zip(items(splits), artefacts, strict=True):
        paths = {kind: str(folder / name) for kind, name in _files(item).items()}
        generator = "" if item.generator == REAL_FACES else item.generator
        extra = {"source": str(item.source(world.agreement))}
        if generator:
            extra["grade"] = NAMES[generator]
            extra["artefacts"] = "+".join(names)
        test_set: TestSet = next((name for name in TEST_SETS if name == item.split), "")
        samples.append(
            Sample(
                paths["images"],
                SYNTHETIC if generator else REAL,
                generator=generator,
                family=_RELATED
                if NAMES.get(generator) in ("known", "recombined", "near")
                else generator,
                split="test" if test_set else _SPLITS[item.split],
                test_set=test_set,
                human_map=paths.get("maps"),
                mask_path=paths.get("masks"),
                extra=extra,
            )
        )
    return Manifest(samples, "demo set")


def _verified(folder: Path, splits: Splits) -> list[list[str]] | None:
    """Return the names of each image's artefacts, or None if the set is absent or damaged."""
    try:
        index = json.loads((folder / _INDEX).read_bytes())
        artefacts: list[list[str]] = index["artefacts"]
        whole = index["sha256"] == _checksum(folder, splits, artefacts)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return artefacts if whole else None


def _checksum(folder: Path, splits: Splits, artefacts: list[list[str]]) -> str:
    """Return a hash of the artefacts' names and of all files' bytes, in order."""
    content = hashlib.sha256(json.dumps(artefacts).encode())
    root = str(folder)
    for item in items(splits):
        for name in _files(item).values():
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
        every = list(items(splits))
        for place in {(fresh / name).parent for item in every for name in _files(item).values()}:
            place.mkdir(parents=True, exist_ok=True)
        render = partial(_render_into, fresh, world)
        artefacts = list(parallel_map(render, every, "rendering demo faces", progress=progress))
        index = {"sha256": _checksum(fresh, splits, artefacts), "artefacts": artefacts}
        (fresh / _INDEX).write_text(json.dumps(index))
        # Another process may have put its equal set there.
        if _verified(folder, splits) is None:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                fresh.rename(folder)
    return artefacts


def _render_into(folder: Path, world: World, item: ImageName) -> list[str]:
    """Render an image into its files; return the names of its artefacts."""
    picture = render_face(*item, world)
    arrays = {"images": picture.image, "maps": picture.human_map, "masks": picture.mask}
    for kind, name in _files(item).items():
        pixels = np.asarray(arrays[kind])
        pixels = pixels * np.uint8(255) if kind == "masks" else pixels
        Image.fromarray(pixels).save(folder / name, compress_level=1)
    return picture.artefacts

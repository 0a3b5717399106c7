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

from focus.data.demo.artefacts import KNOWN_ARTEFACTS
from focus.data.demo.render import (
    REAL_FAMILY,
    SPLITS,
    VERSION,
    WITH_MAPS,
    WITHOUT_MASK,
    Item,
    Splits,
    items,
    render_face,
)
from focus.data.manifest import REAL, SYNTHETIC, TEST_SETS, Manifest, Sample, TestSet
from focus.errors import InputError
from focus.runtime.machine import cache_dir
from focus.runtime.parallel import parallel_map

_INDEX = "index.json"
_PACKAGE = Path(__file__).parent


def demo_manifest(
    cache: str | Path | None = None,
    *,
    progress: bool = True,
    splits: Splits = SPLITS,
) -> Manifest:
    """Return the demo set's manifest; render the set on first use (ten seconds on two cores).

    The files lie in a folder of ``cache`` (default: :func:`focus.runtime.machine.cache_dir`) that
    is named by the set's version and content. A set whose checksum does not match is rendered
    again.

    Images are 64×64 RGB. Training and validation images have human maps; fakes have artefact
    masks, except uSpectrum's: its fingerprint is everywhere, so that pointing is undefined there.
    ``extra`` holds "source" (acquisition source, 0 or 1) and for fakes "known_artefact" ("1" if it
    holds an artefact that training knew) and "artefacts" (names joined by +).

    Raises InputError if the cache folder cannot be written.
    """
    folder = Path(cache or cache_dir()).absolute() / folder_name(splits)
    artefacts = _verified(folder, splits)
    if artefacts is None:
        try:
            artefacts = _render(folder, splits, progress)
        except OSError as error:
            raise InputError(
                f"The demo set cannot be written to {folder.parent} ({error}): "
                "free some space there or set FOCUS_CACHE to another folder."
            ) from error
    return _manifest(folder, splits, artefacts)


def folder_name(splits: Splits = SPLITS) -> str:
    """Return the version with a hash of the counts and of this package's code."""
    content = hashlib.sha256(json.dumps(splits).encode())
    for path in sorted(set(_PACKAGE.glob("*.py")) - {_PACKAGE / "files.py"}):
        content.update(path.read_bytes())
    return f"demo-v{VERSION}-{content.hexdigest()[:10]}"


def _files(item: Item) -> dict[str, str]:
    """Return the files of an image by kind (images, maps, masks), relative to the set's folder."""
    there = {
        "images": True,
        "maps": item.split in WITH_MAPS,
        "masks": item.family not in WITHOUT_MASK,
    }
    name = f"{item.split}/{item.family}/{item.number:04d}.png"
    return {kind: f"{kind}/{name}" for kind, found in there.items() if found}


def _manifest(folder: Path, splits: Splits, artefacts: list[list[str]]) -> Manifest:
    samples = []
    for item, names in zip(items(splits), artefacts, strict=True):
        paths = {kind: str(folder / name) for kind, name in _files(item).items()}
        generator = "" if item.family == REAL_FAMILY else item.family
        extra = {"source": str(item.source)}
        if generator:
            extra["known_artefact"] = str(int(not KNOWN_ARTEFACTS.isdisjoint(names)))
            extra["artefacts"] = "+".join(names)
        test_set: TestSet = next((name for name in TEST_SETS if name == item.split), "")
        samples.append(
            Sample(
                paths["images"],
                SYNTHETIC if generator else REAL,
                generator=generator,
                family=generator,
                split="test" if test_set else "train" if item.split == "train" else "validation",
                test_set=test_set,
                map_path=paths.get("maps"),
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


def _render(folder: Path, splits: Splits, progress: bool) -> list[list[str]]:
    """Render the set beside its place, then move it there in one step."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{folder.name}-", dir=folder.parent, ignore_cleanup_errors=True
    ) as aside:
        fresh = Path(aside) / "fresh"
        every = list(items(splits))
        for place in {(fresh / name).parent for item in every for name in _files(item).values()}:
            place.mkdir(parents=True, exist_ok=True)
        render = partial(_render_into, fresh)
        artefacts = list(parallel_map(render, every, "rendering demo faces", progress=progress))
        index = {"sha256": _checksum(fresh, splits, artefacts), "artefacts": artefacts}
        (fresh / _INDEX).write_text(json.dumps(index))
        # Another process may have put its equal set there.
        if _verified(folder, splits) is None:
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                fresh.rename(folder)
    return artefacts


def _render_into(folder: Path, item: Item) -> list[str]:
    """Render an image into its files; return the names of its artefacts."""
    picture = render_face(*item)
    arrays = {"images": picture.image, "maps": picture.human_map, "masks": picture.mask}
    for kind, name in _files(item).items():
        pixels = np.asarray(arrays[kind])
        pixels = pixels * np.uint8(255) if kind == "masks" else pixels
        Image.fromarray(pixels).save(folder / name, compress_level=1)
    return picture.artefacts

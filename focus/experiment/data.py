"""The images of the experiment as manifests on the disk: whole, without tests, with other maps."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from focus.data.manifest import Manifest, Sample
from focus.data.maps import human_map, resized
from focus.errors import InputError
from focus.experiment.frozen import SHUFFLE_SEED, Maps
from focus.runtime.files import atomic_write


def without_tests(manifest: Manifest) -> Manifest:
    """What the search may see: no image of a test set."""
    return manifest.where(lambda sample: sample.split in ("train", "validation"))


def shuffled_maps(manifest: Manifest) -> Manifest:
    """Each training image gets the human map of another one of its class.

    The maps of a class are moved on by one place in a random order, so that, if there are two, none
    stays where it belongs. Images without a map stay without; the other splits are as they were.
    """
    draw = np.random.default_rng(SHUFFLE_SEED)
    samples = list(manifest)
    rows: dict[int | None, list[int]] = {}
    for row, sample in enumerate(manifest):
        if sample.split == "train" and sample.map_path is not None:
            rows.setdefault(sample.label, []).append(row)
    for members in rows.values():
        order = draw.permutation(members).tolist()
        for row, giver in zip(order, [*order[1:], order[0]], strict=True):
            samples[row] = replace(samples[row], map_path=manifest[giver].map_path)
    return Manifest(samples, manifest.source)


def centered_maps(manifest: Manifest, path: Path) -> Manifest:
    """Each training image that has a human map gets the mean of all of them, written to ``path``.

    Raises InputError if no training image has a map.
    """
    references = [s.map_path for s in manifest.split("train") if s.map_path is not None]
    if not references:
        raise InputError(
            f"No training image of {manifest.source} has a human map: there is no mean."
        )
    _write_map(_mean_map(references), path)

    def with_mean(sample: Sample) -> Sample:
        own = sample.split != "train" or sample.map_path is None
        return sample if own else replace(sample, map_path=str(path))

    return Manifest(map(with_mean, manifest), manifest.source)


def write_data(manifest: Manifest, maps: Maps, folder: Path) -> Path:
    """The whole manifest with one kind of human maps as ``folder/MAPS.csv``; returns its path.

    Raises InputError as :func:`write_once` and :func:`centered_maps`.
    """
    if maps == "shuffled":
        manifest = shuffled_maps(manifest)
    elif maps == "center":
        folder.mkdir(parents=True, exist_ok=True)
        manifest = centered_maps(manifest, folder / "center.png")
    return write_once(manifest, folder / f"{maps}.csv")


def write_once(manifest: Manifest, path: Path) -> Path:
    """Write a manifest, or find it there as it is.

    Raises InputError if the file holds another one: runs of both would be compared.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_bytes() if path.exists() else None
    with atomic_write(path) as aside:
        manifest.to_csv(aside)
        if before is not None and aside.read_bytes() != before:
            raise InputError(
                f"{path} lists other images than those given now: give another --output, or the "
                "data that it was begun with."
            )
    return path


def _mean_map(references: Sequence[str]) -> NDArray[np.float64]:
    """[H, W] of the size of the first, to which the others are squashed by area."""
    height, width = human_map(references[0]).shape
    total = np.zeros((height, width))
    for reference in references:
        total += resized(human_map(reference), (width, height))
    return total / len(references)


def _write_map(values: NDArray[np.float64], path: Path) -> None:
    # 16 bits: a mean map is smooth, and 8 would show as steps.
    stored = np.round(values / max(values.max(), 1e-12) * 65535).astype(np.uint16)
    with atomic_write(path) as aside, aside.open("wb") as file:
        Image.fromarray(stored).save(file, "PNG")

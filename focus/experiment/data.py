"""Write the images of the experiment as manifests, with their own or other human maps."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from focus.config.train import TrainConfig, loss_config
from focus.data.generators import home_of
from focus.data.manifest import SYNTHETIC, Manifest
from focus.data.maps import human_map, resized
from focus.errors import InputError
from focus.experiment.frozen import ARMS, SHUFFLE_SEED, Maps
from focus.experiment.grid import Setup
from focus.runtime.files import atomic_write


def has_closed_tests(manifest: Manifest) -> bool:
    """Return whether test images are of generators that training knows."""
    known = {s.generator for s in manifest.split("train") if s.label == SYNTHETIC}
    fakes = (s for s in manifest.split("test") if s.label == SYNTHETIC)
    return any(home_of(s.test_set, s.generator, known) == "closed" for s in fakes)


def trainable_arms(setup: Setup, manifest: Manifest, arms: Sequence[str]) -> list[str]:
    """Return the arms that the data can train: without human maps, those that need none.

    Says which are left out. Raises InputError if that is all of them.
    """
    if any(sample.human_map is not None for sample in manifest.split("train")):
        return list(arms)

    def needs_maps(arm: str) -> bool:
        weights = setup.weights_of(arm)
        loss = loss_config(TrainConfig(loss=ARMS[arm].loss, **ARMS[arm].settings, **weights))
        target_of_maps = loss.focus_level in ("match", "hinge") and loss.entropy_target is None
        return bool(loss.saliency_weight) or target_of_maps or ARMS[arm].maps != "own"

    gone = [arm for arm in arms if needs_maps(arm)]
    if len(gone) == len(arms):
        raise InputError(
            f"No training image has a human map, which all losses given need ({', '.join(arms)}): "
            "give other --losses, or --human-maps."
        )
    if gone:
        print(f"no training image has a human map (--human-maps), so without: {', '.join(gone)}")
    return [arm for arm in arms if arm not in gone]


def shuffled_maps(manifest: Manifest) -> Manifest:
    """Give each training image the human map of another one of its class.

    The maps of a class are moved on by one place in a random order, so that, if there are two, none
    stays where it belongs.
    """
    draw = np.random.default_rng(SHUFFLE_SEED)
    samples = list(manifest)
    rows: dict[int | None, list[int]] = {}
    for row, sample in enumerate(manifest):
        if sample.split == "train" and sample.human_map is not None:
            rows.setdefault(sample.label, []).append(row)
    for members in rows.values():
        order = draw.permutation(members).tolist()
        for row, giver in zip(order, [*order[1:], order[0]], strict=True):
            samples[row] = replace(samples[row], human_map=manifest[giver].human_map)
    return Manifest(samples, manifest.source)


def centered_maps(manifest: Manifest, path: Path) -> Manifest:
    """Give each training image that has a human map the mean of all of them, written to ``path``.

    There is one at least. The mean has the size of the first, to which the others are squashed by
    area.
    """
    rows = [n for n, s in enumerate(manifest) if s.split == "train" and s.human_map is not None]
    maps = (human_map(str(manifest[row].human_map)) for row in rows)
    total = next(maps).astype(np.float64)
    for each in maps:
        total += resized(each, total.shape[::-1])
    mean = total / len(rows)
    # 16 bits: a mean map is smooth, and 8 would show as steps.
    stored = np.round(mean / max(mean.max(), 1e-12) * 65535).astype(np.uint16)
    with atomic_write(path) as aside, aside.open("wb") as file:
        Image.fromarray(stored).save(file, "PNG")
    samples = list(manifest)
    for row in rows:
        samples[row] = replace(samples[row], human_map=str(path))
    return Manifest(samples, manifest.source)


def write_data(manifest: Manifest, path: Path, maps: Maps = "own") -> None:
    """Write a manifest with one kind of human maps, or find it there as it is.

    Raises InputError if the file holds another one: runs of both would be compared.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if maps == "shuffled":
        manifest = shuffled_maps(manifest)
    elif maps == "center":
        manifest = centered_maps(manifest, path.with_suffix(".png"))
    before = path.read_bytes() if path.exists() else None
    with atomic_write(path) as aside:
        manifest.to_csv(aside)
        if before is not None and aside.read_bytes() != before:
            raise InputError(
                f"{path} lists other images than those given now: give another --output, or the "
                "data that it was begun with."
            )

"""Everything that the check finds, in the order in which it finds it."""

import logging
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import TypeVar

import numpy as np

from focus.config.train import TrainConfig, resolve
from focus.data.bad_files import BadFile, Role
from focus.data.check.features import metadata_table, pixel_statistics, pixel_table
from focus.data.check.leaks import Leak, find_leaks, without_leaks
from focus.data.check.shortcuts import Audit, audit
from focus.data.check.survey import Look, MapLook, look, look_at_map, look_at_mask
from focus.data.manifest import REAL, SYNTHETIC, Manifest, absolute
from focus.data.readers import read_given
from focus.data.readers.human_maps import find_maps, members, unmatched_maps
from focus.data.splits import assign_splits
from focus.data.training_set import training_manifest
from focus.errors import InputError
from focus.runtime.parallel import parallel_map

R = TypeVar("R")

# Images of the shortcut audit: the interval is then narrower than 0.04.
_AUDITED = 5000


@dataclass(frozen=True)
class Kept:
    """The manifest without leaks and bad images: its place, length, what would stop training."""

    path: Path
    n_images: int
    obstacle: str


@dataclass(frozen=True)
class Findings:
    """What was found.

    manifest: all images, those to test on included; none if they cannot be read. obstacle: what
    train.py would say and stop, "" if it would start. looks: row by row. maps, masks: by
    ``map_path`` and ``mask_path``. n_unmatched: images in the folders of maps that are nobody's
    map. bad: files that cannot be decoded. metadata, pixels: the audits of the images to train
    with, None if there are too few.
    """

    config: TrainConfig
    manifest: Manifest
    obstacle: str = ""
    looks: Sequence[Look] = ()
    maps: dict[str, MapLook] = field(default_factory=dict)
    masks: dict[str, MapLook] = field(default_factory=dict)
    n_unmatched: int = 0
    bad: Sequence[BadFile] = ()
    leaks: Sequence[Leak] = ()
    metadata: Audit | None = None
    pixels: Audit | None = None
    kept: Kept | None = None


def read(config: TrainConfig) -> Findings:
    """Read the images and give them the splits that training would."""
    try:
        own, tests = read_given(config)
        return Findings(config, assign_splits(own, seed=config.seed) + tests)
    except InputError as error:
        return Findings(config, Manifest([]), str(error))


def gather(found: Findings) -> Findings:
    """Look at every file of what was read."""
    config, manifest = found.config, found.manifest
    if not manifest:
        return found
    images = _each(look, [sample.path for sample in manifest], "looking at images")
    maps = _each(look_at_map, [s.map_path for s in manifest], "looking at maps")
    masks = _each(look_at_mask, [s.mask_path for s in manifest], "looking at masks")
    looks = [images[sample.path] for sample in manifest]

    audited = _audited(manifest, looks, config.seed)
    labels = [manifest[row].label or REAL for row in audited]
    groups = [manifest[row].group for row in audited]
    statistics = list(
        parallel_map(pixel_statistics, [looks[row].path for row in audited], "measuring pixels")
    )
    roles: tuple[tuple[Role, dict[str, Look] | dict[str, MapLook]], ...] = (
        ("image", images),
        ("map", maps),
        ("mask", masks),
    )
    return replace(
        found,
        obstacle=_obstacle(config, progress=True),
        looks=looks,
        maps=maps,
        masks=masks,
        n_unmatched=_unmatched(config, maps),
        bad=[
            BadFile(path, role, seen.error)
            for role, files in roles
            for path, seen in files.items()
            if seen.error
        ],
        leaks=find_leaks(manifest, looks),
        metadata=audit(
            metadata_table([looks[row] for row in audited]), labels, groups, seed=config.seed
        ),
        pixels=audit(pixel_table(statistics), labels, groups, seed=config.seed),
    )


def drop_leaks(found: Findings, path: Path) -> Kept:
    """Write the manifest without leaks and bad images; ask whether training on it would start."""
    bad = {file.path for file in found.bad if file.role == "image"}
    kept = without_leaks(found.manifest, found.leaks).where(lambda sample: sample.path not in bad)
    kept.to_csv(path)
    config = replace(
        found.config,
        data=(str(path),),
        test_data={},
        test_real={},
        layout=None,
        columns=None,
        data_root=None,
        heatmaps=None,
    )
    return Kept(path, len(kept), _obstacle(config, progress=False))


def _each(function: Callable[[str], R], paths: Sequence[str | None], title: str) -> dict[str, R]:
    """Return ``function`` of each distinct path, by path."""
    distinct = list(dict.fromkeys(path for path in paths if path is not None))
    return dict(zip(distinct, parallel_map(function, distinct, title), strict=True))


def _obstacle(config: TrainConfig, progress: bool) -> str:
    """Return what would stop training, "" if nothing does."""
    logger = logging.getLogger("focus")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what it warns of is in the report
    try:
        with redirect_stdout(StringIO()):  # the layouts have been printed
            training_manifest(resolve(config), progress=progress)
    except InputError as error:
        return str(error)
    finally:
        logger.setLevel(level)
    return ""


def _audited(manifest: Manifest, looks: Sequence[Look], seed: int) -> list[int]:
    """Return readable rows to train or validate with, of each class as many as fit."""
    generator = np.random.default_rng(seed)
    rows: list[int] = []
    for label in (REAL, SYNTHETIC):
        every = [
            row
            for row, sample in enumerate(manifest)
            if sample.label == label
            and sample.split in ("train", "validation")
            and not looks[row].error
        ]
        n = min(len(every), _AUDITED // 2)
        rows += generator.choice(every, n, replace=False).tolist() if every else []
    return sorted(rows)


def _unmatched(config: TrainConfig, maps: dict[str, MapLook]) -> int:
    """Return how many images in the folders of human maps are no map of these images.

    A folder of which no map is used belongs to other data.
    """
    used = {file for reference in maps for file in members(reference)}
    folders = set()
    for path in (*config.data, *config.test_data.values(), *config.test_real.values()):
        inside = absolute(path) if Path(path).is_dir() else absolute(path).parent
        root = inside if config.data_root is None else absolute(config.data_root)
        if folder := absolute(config.heatmaps) if config.heatmaps else find_maps(inside, root):
            folders.add(folder)
    return sum(len(unmatched_maps(folder, used)) for folder in folders)

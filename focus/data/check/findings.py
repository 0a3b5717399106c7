"""Everything that the check finds, in the order in which it finds it."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path

import numpy as np

from focus.config.train import TrainConfig, resolve
from focus.data.bad_files import BadFile, check_images
from focus.data.check.features import metadata_table, pixel_statistics, pixel_table
from focus.data.check.leaks import Leak, find_leaks, without_leaks
from focus.data.check.shortcuts import Audit, audit
from focus.data.check.survey import Look, MapLook, in_processes, look, look_at_map, look_at_mask
from focus.data.manifest import REAL, SYNTHETIC, Manifest, absolute
from focus.data.maps import annotated_image, files_of
from focus.data.readers import read_given
from focus.data.readers.files import Use, find_maps, images_below, maps_may_be_shared, odd_maps
from focus.data.readers.folders import images_without_maps
from focus.data.splits import assign_splits
from focus.data.training_set import training_manifest
from focus.errors import InputError

# Images of the shortcut audit: the interval is then narrower than 0.04.
_AUDITED = 5000


@dataclass(frozen=True)
class Data:
    """The images of a configuration with their splits; none, and why, if they cannot be read.

    uses: of the folders whose maps were found by the images' names.
    """

    config: TrainConfig
    manifest: Manifest
    obstacle: str = ""
    uses: Mapping[Path, Sequence[Use]] = field(default_factory=dict)


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
    train.py would say and stop, "" if it would start. looks: row by row. maps: by ``map_path``.
    n_unmatched: images in the folders of maps that are nobody's map. faint_masks: artefact masks
    that are nowhere white enough to count. bad: files that cannot be decoded. metadata, pixels: the
    audits of the images to train with, None if there are too few.
    """

    config: TrainConfig
    manifest: Manifest
    obstacle: str
    looks: Sequence[Look] = ()
    maps: dict[str, MapLook] = field(default_factory=dict)
    n_unmatched: int = 0
    faint_masks: Sequence[str] = ()
    bad: Sequence[BadFile] = ()
    leaks: Sequence[Leak] = ()
    metadata: Audit | None = None
    pixels: Audit | None = None
    kept: Kept | None = None


def read(config: TrainConfig) -> Data:
    """Read the images and give them the splits that training would."""
    try:
        with maps_may_be_shared() as uses:
            own, tests = read_given(config)
        return Data(config, assign_splits(own, seed=config.seed) + tests, uses=uses)
    except InputError as error:
        return Data(config, Manifest([]), str(error))


def gather(data: Data) -> Findings:
    """Look at every file."""
    config, manifest = data.config, data.manifest
    if not manifest:
        return Findings(config, manifest, data.obstacle)
    paths = list(dict.fromkeys(sample.path for sample in manifest))
    by_path = dict(zip(paths, in_processes(look, paths, title="looking at images"), strict=True))
    looks = [by_path[sample.path] for sample in manifest]
    references = list(dict.fromkeys(s.map_path for s in manifest if s.map_path is not None))
    maps = in_processes(look_at_map, references, title="looking at maps")
    masks = list(dict.fromkeys(s.mask_path for s in manifest if s.mask_path is not None))
    faint = in_processes(look_at_mask, masks, title="looking at masks")
    bad = _bad_files(manifest, looks)
    audited = _audited(manifest, looks, config.seed)
    labels = [manifest[row].label or REAL for row in audited]
    groups = [manifest[row].group for row in audited]
    statistics = in_processes(
        pixel_statistics, [manifest[row].path for row in audited], title="measuring pixels"
    )
    return Findings(
        config=config,
        manifest=manifest,
        obstacle=_obstacle(config, progress=True),
        looks=looks,
        maps=dict(zip(references, maps, strict=True)),
        n_unmatched=_unmatched(data, references),
        faint_masks=[mask for mask, is_faint in zip(masks, faint, strict=True) if is_faint],
        bad=bad,
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


def _obstacle(config: TrainConfig, progress: bool) -> str:
    try:
        with redirect_stdout(StringIO()):  # what it says of the layouts has been said
            training_manifest(resolve(config), progress=progress)
    except InputError as error:
        return str(error)
    return ""


def _bad_files(manifest: Manifest, looks: Sequence[Look]) -> Sequence[BadFile]:
    try:
        return check_images(manifest, max_bad=1.0)[1]
    except InputError:  # not one image is left
        errors = {look.path: look.error for look in looks if look.error}
        return [BadFile(path, "image", error) for path, error in errors.items()]


def _audited(manifest: Manifest, looks: Sequence[Look], seed: int) -> list[int]:
    """Rows to audit: readable ones to train or validate with, of each class as many as fit."""
    generator = np.random.default_rng(seed)
    rows: list[int] = []
    for label in (REAL, SYNTHETIC):
        all_rows = [
            row
            for row, sample in enumerate(manifest)
            if sample.label == label
            and sample.split in ("train", "validation")
            and not looks[row].error
        ]
        n = min(len(all_rows), _AUDITED // 2)
        rows += generator.choice(all_rows, n, replace=False).tolist() if all_rows else []
    return sorted(rows)


def _unmatched(data: Data, references: Sequence[str]) -> int:
    """How many images in the folders of human maps, given or beside the data, are nobody's map.

    Where maps are found by the images' names, those that the reader warns of. A manifest names its
    maps itself: of the others beside it, those of its images and of no image that is there.
    """
    used = {str(absolute(file)) for reference in references for file in files_of(reference)}
    listed = {sample.path for sample in data.manifest}
    count = sum(file not in used for uses in data.uses.values() for file in odd_maps(uses))
    for folder, root in _folders_beside(data).items():
        names = _names_of_others(root, folder, listed)
        for path in images_below(folder):
            name = str(path.relative_to(folder).with_suffix(""))
            is_others = {name, annotated_image(name, names, folders=True)} & names
            count += str(path) not in used and not is_others
    return count


def _folders_beside(data: Data) -> dict[Path, Path]:
    """The folders of maps beside the data that no reader looked into, and their images' root."""
    config = data.config
    given = () if config.heatmaps else config.data
    found = {}
    for path in (*given, *config.test_data.values(), *config.test_real.values()):
        place = absolute(path)
        inside = place if place.is_dir() else place.parent
        root = inside if config.data_root is None else absolute(config.data_root)
        folder, _ = find_maps(None, inside, root)
        if folder is not None and folder not in data.uses:
            found[folder] = root
    return found


def _names_of_others(root: Path, maps: Path, listed: Collection[str]) -> set[str]:
    """The names that maps of other images than the listed ones have, without extensions."""
    try:
        found = images_without_maps(root, maps, quiet=True)
        others = [path for path in found if str(path) not in listed]
    except InputError:  # some folder that the data may have nothing to do with cannot be listed
        others = []
    below = {str(path.relative_to(root).with_suffix("")) for path in others}
    return below | {path.stem for path in others}
